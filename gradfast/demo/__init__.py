"""The demonstration: needs no data and no network, and takes well under two minutes."""

from gradfast.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
