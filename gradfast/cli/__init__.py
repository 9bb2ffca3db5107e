"""The command line `gradfast`."""

from gradfast.cli.app import app, main

__all__ = ["app", "main"]
