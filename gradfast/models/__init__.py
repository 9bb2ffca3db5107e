"""Models: the bundled CIFAR ResNets, and a user's own model by name or Python entry with weights from a local file."""

from .loading import load_model
from .weights import load_state_dict

__all__ = ["load_model", "load_state_dict"]
