"""Out-of-distribution detectors on gradient norms, the baselines to compare with, and their metrics."""

from gradfast.detectors.base import Detector
from gradfast.detectors.baselines import MaximumSoftmax
from gradfast.detectors.classifier import NormClassifier
from gradfast.detectors.metrics import DetectionMetrics, evaluate
from gradfast.detectors.persistence import DetectorFileError
from gradfast.detectors.purview import Purview
from gradfast.detectors.sources import SOURCES, Source, SourceColumns, make_source, run_sources

__all__ = [
    "SOURCES",
    "DetectionMetrics",
    "Detector",
    "DetectorFileError",
    "MaximumSoftmax",
    "NormClassifier",
    "Purview",
    "Source",
    "SourceColumns",
    "evaluate",
    "make_source",
    "run_sources",
]
