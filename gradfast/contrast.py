"""What each sample is held against: contrast rows, and their cotangents ``v = d loss / d z`` of the logits.

========================================  =======  ==============================  ======================
contrast                                  rows C   targets                         loss when None is given
========================================  =======  ==============================  ======================
``"one-hot"``, ``classes=None``           K        every class                     ``"cross_entropy"``
``"one-hot"``, ``classes=[3, 5]``         2        these classes                   ``"cross_entropy"``
``"one-hot"``, ``classes=5`` (an int)     5        each sample's 5 top classes     ``"cross_entropy"``
``"all-ones"`` (Purview's confounding     1        ones                            ``"bce"``
label)
tensor [C, K] or [B, C, K]                C        as given                        ``"cross_entropy"``
========================================  =======  ==============================  ======================

Losses, each a sum over the logits of one sample: ``"cross_entropy"``, ``"bce"`` (on the logits),
``"bce_softmax"`` (on softmax outputs), ``"mse"``, or a callable ``(logits [N, K], targets [N, K]) -> [N]``.
`gradfast.losses` has the formulas. A model with one logit wants ``"bce"``: its softmax is constant.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from gradfast.errors import InputError, ModelError, describe
from gradfast.losses import LOSSES, CallableLoss, Loss, LossFunction

__all__ = ["Contrast", "Rows", "name_of", "resolve"]

ContrastLike = str | Tensor
LossLike = str | LossFunction | None
ClassesLike = int | Iterable[int] | None


_OF_SOFTMAX = ("cross_entropy", "bce_softmax")


@dataclass(frozen=True)
class Contrast:
    """A contrast, its loss and its classes, checked as far as they can be without logits.

    Attributes:
        loss: name of the loss, or the callable.
        classes: for one-hot rows: None (all), an int (the top k of each sample) or class indices. Else None.
        targets: floating [C, K] or [B, C, K]; None for one-hot rows and for the row of ones.
        ones: whether it is the one row of ones.
    """

    loss: str | LossFunction
    classes: int | tuple[int, ...] | None = None
    targets: Tensor | None = None
    ones: bool = False

    @classmethod
    def parse(
        cls, contrast: ContrastLike = "one-hot", loss: LossLike = None, classes: ClassesLike = None
    ) -> Contrast:
        """Checks the three arguments of `grad_norms` of the same names.

        Raises:
            InputError: unknown names; classes that are empty, negative, given twice or not integers, or
                given for another contrast than one-hot; targets that are not a floating, integer or boolean
                tensor [C, K] or [B, C, K] with C > 0, or that are not finite.
        """
        if isinstance(contrast, str) and contrast == "one-hot":
            return cls(_parse_loss(loss, "cross_entropy"), classes=_parse_classes(classes))
        if classes is not None:
            raise InputError(
                f'classes: got {describe(classes)}; it selects rows of contrast="one-hot" only, wanted None'
            )
        if isinstance(contrast, str) and contrast == "all-ones":
            return cls(_parse_loss(loss, "bce"), ones=True)
        return cls(_parse_loss(loss, "cross_entropy"), targets=_parse_targets(contrast))

    @property
    def count(self) -> int | None:
        """How many rows a sample has; None: one for each class."""
        if self.targets is not None:
            return self.targets.shape[-2]
        if self.ones:
            return 1
        return len(self.classes) if isinstance(self.classes, tuple) else self.classes

    @property
    def per_sample(self) -> bool:
        """Whether each sample has targets of its own, [B, C, K]."""
        return self.targets is not None and self.targets.dim() == 3

    @property
    def settings(self) -> dict[str, Any]:
        """``contrast``, ``loss`` and ``classes`` as features keep them, JSON-able; targets, a tensor, are left out."""
        rows = {} if self.targets is not None else {"contrast": "all-ones" if self.ones else "one-hot"}
        classes = list(self.classes) if isinstance(self.classes, tuple) else self.classes
        return {**rows, "loss": name_of(self.loss), "classes": classes}

    def check_batch(self, b: int) -> None:
        """Raises InputError if there are per-sample targets for another number of samples than ``b``."""
        if self.targets is not None and self.per_sample and self.targets.shape[0] != b:
            raise InputError(
                f"contrast: got targets of shape {list(self.targets.shape)}, for {self.targets.shape[0]} samples; "
                f"wanted [{b}, C, K], for x has {b}"
            )

    def samples(self, chunk: slice) -> Contrast:
        """The contrast for a chunk of the batch."""
        if self.targets is None or not self.per_sample:
            return self
        return replace(self, targets=self.targets[chunk])

    def rows(self, logits: Tensor) -> Rows:
        """Binds the contrast to logits [B, K].

        Raises:
            InputError: classes out of range for K, targets whose K or B is not that of the logits, or a loss of the
                softmax for K = 1, where it is constant.
            ModelError: the logits are not a floating tensor [B, K] with K > 0.
        """
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] == 0:
            raise ModelError(
                f"model: its output is {describe(logits)}; wanted logits, a floating tensor of shape [B, K]"
            )
        if not logits.is_floating_point():
            raise ModelError(
                f"model: its output is {describe(logits)}; wanted floating logits, not class indices"
            )
        b, k = logits.shape
        if k == 1 and self.loss in _OF_SOFTMAX:
            raise InputError(
                f"loss: the model has one logit, whose softmax is 1 whatever it is, so {self.loss} has no gradient; "
                'wanted loss="bce" or "mse" (or contrast="all-ones", whose loss is "bce")'
            )
        z = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        bound = LOSSES[self.loss](z) if isinstance(self.loss, str) else CallableLoss(z, self.loss)
        if self.ones:
            return Rows(bound, None, z.new_ones(1, k))
        if self.targets is None:
            return Rows(bound, self._class_indices(z), None)
        self.check_batch(b)
        t = self.targets.to(device=z.device, dtype=z.dtype)
        if t.shape[-1] != k:
            raise InputError(
                f"contrast: got targets of shape {list(t.shape)}; wanted [C, {k}] or [{b}, C, {k}], "
                f"for the model has {k} logits"
            )
        return Rows(bound, None, t)

    def _class_indices(self, z: Tensor) -> Tensor:
        k = z.shape[1]
        if self.classes is None:
            return torch.arange(k, device=z.device)
        if isinstance(self.classes, int):
            if self.classes > k:
                raise InputError(
                    f"classes: got top {self.classes}; wanted at most {k}, for the model has {k} logits"
                )
            return z.topk(self.classes, dim=1).indices
        outside = [c for c in self.classes if c >= k]
        if outside:
            raise InputError(
                f"classes: got {outside}; wanted integers from 0 to {k - 1}, for the model has {k} logits"
            )
        return torch.tensor(self.classes, device=z.device)


@dataclass(frozen=True)
class Rows:
    """Contrast rows bound to the logits of a batch.

    Attributes:
        loss: the loss, bound to the logits.
        classes: the class of each row, int64 [C], or [B, C] for the top k of each sample; else None.
    """

    loss: Loss
    classes: Tensor | None
    _dense: Tensor | None  # targets [C, K] or [B, C, K] of rows that are not one-hot

    @property
    def num_rows(self) -> int:
        """C."""
        if self.classes is not None:
            return self.classes.shape[-1]
        return self.targets.shape[-2]

    @property
    def targets(self) -> Tensor:
        """The targets, [C, K], or [B, C, K] if each sample has its own; one-hot rows are built on demand."""
        if self._dense is not None:
            return self._dense
        assert self.classes is not None
        z = self.loss.logits
        return torch.nn.functional.one_hot(self.classes, z.shape[1]).to(z.dtype)

    def chunk(self, rows: slice) -> Rows:
        """The rows of a slice of range(C)."""
        if self.classes is not None:
            return replace(self, classes=self.classes[..., rows])
        return replace(self, _dense=self.targets[..., rows, :])

    def cotangents(self) -> Tensor:
        """``V = d loss / d z``, [C, B, K], contiguous, in the dtype of the logits but float32 at least.

        Raises:
            InputError: a callable loss that does not return one differentiable value per sample.
        """
        if self.classes is not None:
            of_rows = self.classes.t() if self.classes.dim() == 2 else self.classes.unsqueeze(1)
            return self.loss.one_hot(of_rows.expand(-1, self.loss.logits.shape[0]))
        t = self.targets.transpose(0, 1) if self.targets.dim() == 3 else self.targets.unsqueeze(1)
        return self.loss.dense(t).contiguous()


def resolve(contrast: ContrastLike, loss: LossLike, classes: ClassesLike, logits: Tensor) -> Rows:
    """`Contrast.parse`, then `Contrast.rows`: the contrast rows for these logits [B, K]."""
    return Contrast.parse(contrast, loss, classes).rows(logits)


def name_of(loss: object) -> str:
    """A loss as JSON takes it: a name as it is, a callable by its module and name."""
    if isinstance(loss, str):
        return loss
    kind = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{kind.__module__}.{kind.__qualname__}"


def _parse_loss(loss: LossLike, default: str) -> str | LossFunction:
    if loss is None:
        return default
    if isinstance(loss, str) and loss in LOSSES:
        return loss
    if not isinstance(loss, str) and callable(loss):
        return loss
    names = ", ".join(f'"{name}"' for name in LOSSES)
    raise InputError(
        f"loss: got {describe(loss)}; wanted {names}, a callable (logits, targets) -> [B], or None"
    )


def _parse_classes(classes: ClassesLike) -> int | tuple[int, ...] | None:
    if classes is None:
        return None
    wanted = "wanted None, a number k of top classes, or class indices"
    try:
        if isinstance(classes, (bool, str, bytes)) or (
            isinstance(classes, Tensor) and classes.dtype == torch.bool
        ):
            raise TypeError
        if isinstance(classes, SupportsIndex) and getattr(classes, "ndim", 0) == 0:
            k = operator.index(classes)
            if k < 1:
                raise InputError(f"classes: got top {k}; wanted at least 1")
            return k
        assert not isinstance(classes, int)
        indices = tuple(operator.index(c) for c in classes)
    except TypeError as error:
        raise InputError(f"classes: got {describe(classes)}; {wanted}") from error
    if not indices:
        raise InputError(f"classes: got {describe(classes)}, which is empty; {wanted}")
    if min(indices) < 0:
        raise InputError(f"classes: got {[c for c in indices if c < 0]}; wanted integers from 0")
    if len(set(indices)) < len(indices):
        twice = sorted({c for c in indices if indices.count(c) > 1})
        raise InputError(
            f"classes: got {twice} more than once; wanted distinct classes, each a row for all samples "
            "(for one label per sample give contrast=one_hot(labels, K).unsqueeze(1), targets of shape [B, 1, K])"
        )
    return indices


def _parse_targets(contrast: ContrastLike) -> Tensor:
    if not isinstance(contrast, Tensor):
        raise InputError(
            f'contrast: got {describe(contrast)}; wanted "one-hot", "all-ones", or targets, a tensor of shape [C, K] or [B, C, K]'
        )
    if contrast.dim() not in (2, 3) or 0 in contrast.shape:
        raise InputError(
            f"contrast: got {describe(contrast)}; wanted targets of shape [C, K] or [B, C, K], none of them zero"
        )
    if contrast.is_complex():
        raise InputError(
            f"contrast: got {describe(contrast)}; wanted targets of a floating, integer or boolean dtype"
        )
    targets = contrast.detach()
    if not targets.is_floating_point():
        targets = targets.to(torch.get_default_dtype())
    # A sum is finite only of finite values, and takes one pass; that of finite ones may overflow.
    broken = 0 if bool(targets.sum().isfinite()) else int((~targets.isfinite()).sum())
    if broken:
        raise InputError(
            f"contrast: got {describe(contrast)} with {broken} values that are NaN or infinite; wanted finite targets"
        )
    return targets
