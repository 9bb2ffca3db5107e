"""Training of small image classifiers by a standard recipe, so that a study can start from nothing."""

from .loop import TrainingError, TrainingResult, train
from .recipe import SCHEDULES, Recipe

__all__ = ["SCHEDULES", "Recipe", "TrainingError", "TrainingResult", "train"]
