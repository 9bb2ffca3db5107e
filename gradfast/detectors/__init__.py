"""Out-of-distribution detectors on gradient norms, the baselines to compare with, and their metrics."""

from gradfast.detectors.base import Detector
from gradfast.detectors.baselines import MaximumSoftmax, SourceScore, SummedNorms
from gradfast.detectors.classifier import NormClassifier
from gradfast.detectors.errors import NotFittedError
from gradfast.detectors.evaluation import Method, Outcome, run_protocols
from gradfast.detectors.explaining import ScoreExplanation
from gradfast.detectors.inputs import PreparationWarning
from gradfast.detectors.metrics import DetectionMetrics, evaluate
from gradfast.detectors.one_class import OneClassNorms
from gradfast.detectors.persistence import DetectorFileError
from gradfast.detectors.purview import Purview
from gradfast.detectors.registry import METHODS, MethodInfo
from gradfast.detectors.sources import SOURCES, Source, SourceColumns, make_source, run_sources
from gradfast.detectors.stream import StreamScorer
from gradfast.detectors.synthetic import synthetic_outliers
from gradfast.detectors.weighted import SourceClassifier

__all__ = [
    "METHODS",
    "SOURCES",
    "DetectionMetrics",
    "Detector",
    "DetectorFileError",
    "MaximumSoftmax",
    "Method",
    "MethodInfo",
    "NormClassifier",
    "NotFittedError",
    "OneClassNorms",
    "Outcome",
    "PreparationWarning",
    "Purview",
    "ScoreExplanation",
    "Source",
    "SourceClassifier",
    "SourceColumns",
    "SourceScore",
    "StreamScorer",
    "SummedNorms",
    "evaluate",
    "make_source",
    "run_protocols",
    "run_sources",
    "synthetic_outliers",
]
