"""The record of one forward pass: autograd's graph as plain nodes, and which positions of a tensor belong to which sample."""

from gradfast.record.graph import Graph, Node, trace
from gradfast.record.layout import Layout

__all__ = ["Graph", "Layout", "Node", "trace"]
