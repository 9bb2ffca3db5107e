"""GradCON: autoencoders whose gradients are constrained in training, and the anomaly and severity scores that this allows."""

from gradfast.gradcon.autoencoders import ConvAutoencoder, ConvVAE
from gradfast.gradcon.constraint import GradConLoss, GradConTerms, GradientReference
from gradfast.gradcon.scores import GradConScorer, Scores, UndefinedCosineWarning, fit_weight

__all__ = [
    "ConvAutoencoder",
    "ConvVAE",
    "GradConLoss",
    "GradConScorer",
    "GradConTerms",
    "GradientReference",
    "Scores",
    "UndefinedCosineWarning",
    "fit_weight",
]
