"""What the methods read of a batch of inputs, in a stream: scores, layer-wise scores, features."""

from gradfast.detectors.sources.base import Source
from gradfast.detectors.sources.columns import SourceColumns, fit_sources, run_sources
from gradfast.detectors.sources.make import SOURCES, make_source
from gradfast.detectors.sources.taps import Activations, Tap

__all__ = [
    "SOURCES",
    "Activations",
    "Source",
    "SourceColumns",
    "Tap",
    "fit_sources",
    "make_source",
    "run_sources",
]
