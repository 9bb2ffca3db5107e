"""GradCON: autoencoders whose gradients are constrained in training, and the anomaly and severity scores that this allows.

Kwon, Prabhushankar, Temel, AlRegib, "Backpropagated Gradient Representations for Anomaly Detection", ECCV 2020.
"""

from gradfast.gradcon.autoencoders import ConvAutoencoder, ConvVAE, brightness
from gradfast.gradcon.checkpoint import load_scorer
from gradfast.gradcon.constraint import GradConLoss, GradConTerms, GradientReference
from gradfast.gradcon.grading import (
    SeverityLabels,
    rank_correlation,
    severity,
    supervised_contrastive_loss,
)
from gradfast.gradcon.scores import GradConScorer, Scores, UndefinedCosineWarning, fit_weight
from gradfast.gradcon.stream import Frames, StreamScorer
from gradfast.gradcon.study.data import OneClass, digits
from gradfast.gradcon.training import CollapsedWarning, Epoch, GradConTrainer, TrainingSettings, one_class

__all__ = [
    "CollapsedWarning",
    "ConvAutoencoder",
    "ConvVAE",
    "Epoch",
    "Frames",
    "GradConLoss",
    "GradConScorer",
    "GradConTerms",
    "GradConTrainer",
    "GradientReference",
    "OneClass",
    "Scores",
    "SeverityLabels",
    "StreamScorer",
    "TrainingSettings",
    "UndefinedCosineWarning",
    "brightness",
    "digits",
    "fit_weight",
    "load_scorer",
    "one_class",
    "rank_correlation",
    "severity",
    "supervised_contrastive_loss",
]
