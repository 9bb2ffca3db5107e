"""Which model it is, for features that are kept."""

from __future__ import annotations

import hashlib
import re
from operator import itemgetter

import torch
from torch import nn

__all__ = ["fingerprint"]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in the representation of functions that a module holds


def fingerprint(model: nn.Module) -> str:
    """Hex SHA-256 of the architecture as the module prints it, and of every parameter and buffer: name, dtype, shape, bytes."""
    digest = hashlib.sha256(_ADDRESS.sub("", repr(model)).encode())
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=itemgetter(0)):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
