"""Models and inputs for the tests: every layer with every option, every way to use a parameter, whole models."""

from zoo.base import Case, classifier
from zoo.layers import LAYERS
from zoo.routes import USES

__all__ = ["LAYERS", "USES", "Case", "classifier"]
