"""Models: the bundled CIFAR ResNets and DenseNets, and a user's own model by name or Python entry with weights from a local file."""

from .fingerprint import fingerprint
from .loading import load_model
from .weights import load_preprocess, load_state_dict

__all__ = ["fingerprint", "load_model", "load_preprocess", "load_state_dict"]
