"""What one batch holds: the model's input and the labels, told apart in the shapes that loaders and data sets give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradfast.errors import InputError, describe
from gradfast.inputs import Inputs, batch_size

__all__ = ["Array", "Batch", "leaves", "map_leaves", "parse_labels", "split_labels"]

Array = Tensor | npt.NDArray[Any]

LABEL_KEYS = ("label", "labels", "target", "targets", "y")


@dataclass(frozen=True)
class Batch:
    """Some consecutive samples.

    Attributes:
        inputs: the model's input: a tensor [B, ...], or a tuple or dict of them.
        labels: int64 [B] on the CPU, -1 where unknown.
    """

    inputs: Inputs
    labels: Tensor

    @classmethod
    def of(cls, raw: Any) -> Batch:
        """Takes what a loader gives: x, (x,), (x, y), or a dict; arrays become tensors.

        Raises:
            InputError: anything else, labels that are not integers [B], or tensors of different leading dimensions.
        """
        x, labels = split_labels(raw)
        x = map_leaves(torch.as_tensor, x)
        return cls(x, parse_labels(labels, batch_size(x)))

    def __len__(self) -> int:
        return self.labels.shape[0]


def split_labels(raw: Any) -> tuple[Any, Any]:
    """The model's input and the labels, None if there are none, of x, (x,), (x, y), or a dict with a key for labels.

    A dict with one value besides the labels stands for that value, for the model's own name of it may differ; one
    with several stands for keyword arguments.
    """
    if isinstance(raw, (Tensor, np.ndarray)):
        return raw, None
    if isinstance(raw, Mapping):
        labels = next((raw[key] for key in LABEL_KEYS if key in raw), None)
        x = {key: value for key, value in raw.items() if key not in LABEL_KEYS}
        return next(iter(x.values())) if len(x) == 1 else x, labels
    if isinstance(raw, (tuple, list)) and len(raw) in (1, 2):
        x = raw[0]
        if isinstance(x, Mapping):
            x, _ = split_labels(x)
        return tuple(x) if isinstance(x, list) else x, raw[1] if len(raw) == 2 else None
    raise InputError(
        f"source: a batch is {describe(raw)}; wanted x, (x, y), or a dict of arguments with a key 'label'"
    )


def parse_labels(labels: Any, n: int) -> Tensor:
    """Labels of n samples as int64 [n] on the CPU; -1 for None.

    Raises:
        InputError: not integers [n] or [n, 1].
    """
    if labels is None:
        return torch.full((n,), -1)
    try:
        y = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"source: labels are {describe(labels)}; wanted integers [{n}], -1 where unknown"
        ) from error
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (n,) or y.is_floating_point() or y.is_complex():
        raise InputError(f"source: labels are {describe(y)}; wanted integers [{n}], -1 where unknown")
    return y.to("cpu", torch.int64)


def leaves(x: Any, name: str = "x") -> Iterator[tuple[str, Array]]:
    """The arrays and tensors in nested tuples, lists and dicts, each with how it is reached."""
    if isinstance(x, Mapping):
        for key, value in x.items():
            yield from leaves(value, f"{name}[{key!r}]")
    elif isinstance(x, (tuple, list)):
        for i, value in enumerate(x):
            yield from leaves(value, f"{name}[{i}]")
    elif isinstance(x, (Tensor, np.ndarray)):
        yield name, x


def map_leaves(function: Callable[[Any], Any], x: Any) -> Any:
    """The same nesting with the function applied to each array or tensor."""
    if isinstance(x, Mapping):
        return {key: map_leaves(function, value) for key, value in x.items()}
    if isinstance(x, (tuple, list)):
        return tuple(map_leaves(function, value) for value in x)
    return function(x) if isinstance(x, (Tensor, np.ndarray)) else x
