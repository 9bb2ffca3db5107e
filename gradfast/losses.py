"""Cotangents of the logits, ``v = d loss / d z``, in closed form and to full relative accuracy.

Every loss is a sum over the K logits of one sample; nothing is averaged, neither over the logits nor over the
batch. The difficulty is the confident prediction: in ``softmax(z) - onehot`` the entry of the predicted class m
is ``p_m - 1``, which in float32 has lost all its digits once ``1 - p_m`` is below 1e-7. Here ``1 - p_m`` is the
sum of the other probabilities, and a difference ``p - t`` is ``(1 - t) p - t (1 - p)``, so that no formula
subtracts two nearly equal numbers when the targets are zeros and ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from gradfast.errors import InputError, describe

__all__ = ["LOSSES", "CallableLoss", "Loss", "LossFunction"]

LossFunction = Callable[[Tensor, Tensor], Tensor]


class Loss(ABC):
    """A per-sample loss bound to logits z [B, K]; knows ``d loss / d z`` for any targets."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @abstractmethod
    def dense(self, targets: Tensor) -> Tensor:
        """Cotangents [C, B, K] for targets that broadcast to [C, B, K], in the dtype of the logits."""

    @abstractmethod
    def one_hot(self, classes: Tensor) -> Tensor:
        """Cotangents [C, B, K] for the one-hot targets of ``classes``, int64 [C, B]."""


def spread(off: Tensor, on: Tensor, classes: Tensor) -> Tensor:
    """[C, B, K] that holds ``off`` [B, K], but at ``classes`` [C, B] holds ``on`` [B, K]."""
    rows = off.expand(classes.shape[0], *off.shape).clone(memory_format=torch.contiguous_format)
    return rows.scatter_(2, classes.unsqueeze(2), on.gather(1, classes.t()).t().unsqueeze(2))


class _Softmax:
    """p = softmax(z) and 1 - p, both to full relative accuracy, and the predicted class m as a mask."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.p = logits.softmax(1)
        self.top = torch.zeros_like(logits, dtype=torch.bool).scatter_(
            1, logits.argmax(1, keepdim=True), True
        )
        others = self.p.masked_fill(self.top, 0).sum(1, keepdim=True)
        self.complement = torch.where(self.top, others, 1 - self.p)


class CrossEntropy(Loss):
    """``-sum_k t_k log softmax(z)_k``, so ``v = sum(t) softmax(z) - t``; t need not sum to one."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits)
        self.softmax = _Softmax(logits)

    def dense(self, targets: Tensor) -> Tensor:
        s = self.softmax
        total = targets.sum(-1, keepdim=True)
        # at m: sum(t) p_m - t_m = (sum(t) - t_m) - sum(t) (1 - p_m)
        return torch.where(s.top, (total - targets) - total * s.complement, total * s.p - targets)

    def one_hot(self, classes: Tensor) -> Tensor:
        return spread(self.softmax.p, -self.softmax.complement, classes)


class BinaryCrossEntropy(Loss):
    """Sum over the logits of binary cross entropy with logits: ``v = sigmoid(z) - t``."""

    def dense(self, targets: Tensor) -> Tensor:
        z = self.logits
        return (1 - targets) * z.sigmoid() - targets * (-z).sigmoid()

    def one_hot(self, classes: Tensor) -> Tensor:
        return spread(self.logits.sigmoid(), -(-self.logits).sigmoid(), classes)


class SoftmaxBinaryCrossEntropy(Loss):
    """Sum over classes of binary cross entropy on ``p = softmax(z)``, as in pytorch-ood's ``GradUncertainty``.

    That is ``F.binary_cross_entropy(z.softmax(1), t, reduction="sum")`` of one sample. For all-ones targets
    ``v = K p - 1``. Torch bounds each logarithm at -100 and, in the backward pass, ``p (1 - p)`` at 1e-12 from
    below; this is the gradient without these bounds, and equal to torch's wherever they do not bite.
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits)
        self.softmax = _Softmax(logits)
        # p_j / (1 - p_m) is the softmax over the classes other than m: at most one, however sure m is
        top = self.softmax.top
        self.share = logits.masked_fill(top, -torch.inf).softmax(1).masked_fill(top, 0)

    def dense(self, targets: Tensor) -> Tensor:
        return self._through_softmax((1 - targets) * self.softmax.p - targets * self.softmax.complement)

    def one_hot(self, classes: Tensor) -> Tensor:
        return self._through_softmax(spread(self.softmax.p, -self.softmax.complement, classes))

    def _through_softmax(self, d: Tensor) -> Tensor:
        # With d = p - t and w = d / (1 - p): v_j = d_j - p_j sum_{k != j} w_k. w_m may be huge: kept apart.
        s = self.softmax
        if d.shape[-1] == 1:  # the softmax of one logit is constant
            return torch.zeros_like(d)
        at_top = d.masked_fill(~s.top, 0).sum(-1, keepdim=True)
        w = (d / s.complement).masked_fill(s.top, 0)
        return d - at_top * self.share - s.p * (w.sum(-1, keepdim=True) - w)


class SquaredError(Loss):
    """Sum over the logits of ``(z - t)^2``, so ``v = 2 (z - t)``."""

    def dense(self, targets: Tensor) -> Tensor:
        return 2 * (self.logits - targets)

    def one_hot(self, classes: Tensor) -> Tensor:
        return spread(2 * self.logits, 2 * (self.logits - 1), classes)


class CallableLoss(Loss):
    """A function ``(logits [N, K], targets [N, K]) -> [N]``, differentiated on the logits alone.

    Rows are folded into the batch, N = C B, so the loss of one sample must not depend on the other samples.
    """

    def __init__(self, logits: Tensor, function: LossFunction) -> None:
        super().__init__(logits)
        self.function = function

    def dense(self, targets: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            t = targets.expand(-1, *self.logits.shape)
            shape = t.shape
            t = t.reshape(-1, shape[2]).clone()
            z = self.logits.expand(shape).reshape(-1, shape[2]).clone().requires_grad_()
            value = self.function(z, t)
            if not isinstance(value, Tensor) or value.shape != z.shape[:1]:
                raise InputError(
                    f"loss: the callable returned {describe(value)} for logits of shape {list(z.shape)}; "
                    f"wanted one value per sample, a tensor of shape [{z.shape[0]}]"
                )
            if not value.requires_grad:
                raise InputError(
                    f"loss: the callable returned {describe(value)} that autograd cannot follow to the logits; "
                    "wanted a differentiable function of the logits (no .detach(), .item(), argmax or NumPy)"
                )
            (v,) = torch.autograd.grad(value.sum(), z, allow_unused=True)
        if v is None:
            raise InputError(
                "loss: the value that the callable returned does not depend on the logits; wanted one that does"
            )
        return v.view(shape)

    def one_hot(self, classes: Tensor) -> Tensor:
        zeros = torch.zeros_like(self.logits)
        return self.dense(spread(zeros, zeros + 1, classes))


LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "bce": BinaryCrossEntropy,
    "bce_softmax": SoftmaxBinaryCrossEntropy,
    "mse": SquaredError,
}
