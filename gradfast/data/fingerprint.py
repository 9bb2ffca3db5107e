"""Digests that tell data sets apart, as far as that is cheap."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from .imageset import ImageSet
from .samples import Array, leaves

__all__ = ["of_arrays", "of_dataset"]

_HASHED_BYTES = 2**28  # of one array; larger ones are sampled


def of_arrays(arrays: Any) -> str:
    """Hex digest of dtypes, shapes and bytes; of an array above 256 MiB, of rows at even distances."""
    digest = hashlib.sha256()
    _update(digest, arrays)
    return digest.hexdigest()


def of_dataset(dataset: Any) -> str:
    """Hex digest of a map-style data set: of the files where it knows them, else of its type, length and three samples."""
    if isinstance(dataset, ImageSet):
        return dataset.fingerprint()
    digest = hashlib.sha256()
    if isinstance(dataset, Subset):
        digest.update(np.asarray(dataset.indices, dtype=np.int64).tobytes())
        digest.update(of_dataset(dataset.dataset).encode())
        return digest.hexdigest()
    n = len(dataset)
    digest.update(f"{type(dataset).__qualname__} {n}".encode())
    for i in sorted({0, n // 2, n - 1}):
        item = dataset[i]
        _update(digest, item)
        digest.update(repr(list(_scalars(item))).encode())
    return digest.hexdigest()


def _update(digest: Any, x: Any) -> None:
    for name, leaf in leaves(x):
        digest.update(f"{name} {str(leaf.dtype).removeprefix('torch.')} {list(leaf.shape)}".encode())
        digest.update(_bytes(leaf))


def _bytes(leaf: Array) -> Any:
    step = -(-leaf.nbytes // _HASHED_BYTES)
    rows = leaf[::step] if step > 1 and leaf.ndim else leaf
    if isinstance(rows, Tensor):  # by way of bytes, for NumPy has no bfloat16
        rows = rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(rows)


def _scalars(item: Any) -> Iterator[int | float | str]:
    values = (
        item.values() if isinstance(item, Mapping) else item if isinstance(item, (tuple, list)) else (item,)
    )
    return (value for value in values if isinstance(value, (int, float, str)))
