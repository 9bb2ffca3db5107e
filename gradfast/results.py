"""What the norm functions return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gradfast.contrast import ClassesLike, Contrast, ContrastLike, LossLike
from gradfast.selection import find_layer, select_layers

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["GradCosines", "GradDots", "GradGram", "GradNorms"]


@dataclass(frozen=True, repr=False)
class _PerRow:
    values: Tensor
    layers: tuple[str, ...]
    logits: Tensor
    classes: Tensor | None = None
    fallback: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> Tensor:
        """Of one layer, [B, C], a view.

        Raises:
            InputError: no such layer.
        """
        return self.values[..., find_layer(self.layers, layer)]

    def select(self, layers: str | Sequence[str]) -> Self:
        """The same for fewer layers: names, prefixes or glob patterns. See `gradfast.selection.select_layers`."""
        kept = select_layers(self.layers, layers)
        values = self.values[..., [self.layers.index(name) for name in kept]]
        fallback, unused = (tuple(n for n in names if n in kept) for names in (self.fallback, self.unused))
        return replace(self, values=values, layers=kept, fallback=fallback, unused=unused)

    def __repr__(self) -> str:
        b, c, n = self.values.shape
        dtype = str(self.values.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({b} samples x {c} rows x {n} layers, {dtype}, {self.values.device})"


@dataclass(frozen=True, repr=False)
class GradNorms(_PerRow):
    """Squared norms of per-sample gradients.

    Attributes:
        values: [B, C, L], ``|| d loss(z_b, target_c) / d theta_l ||^2``; float32, or float64 for a float64 model.
        layers: the L parameter names, as in `named_parameters()`.
        logits: [B, K], detached, in the model's dtype.
        classes: int64 [C], the class of each one-hot row; [B, C] for the top k of each sample; else None.
        fallback: layers that took the exact per-sample path.
        unused: layers on which the logits do not depend; their gradient is zero.
        settings: ``contrast``, ``loss`` and ``classes``, as `Features` keep them; without ``contrast`` for targets.
    """


@dataclass(frozen=True, repr=False)
class GradDots(_PerRow):
    """Inner products of per-sample gradients with reference gradients.

    Attributes:
        values: [B, C, L], ``< d loss(z_b, target_c) / d theta_l, reference_l >``; the dtype as in `GradNorms`.
        layers: the L parameter names, in the model's order.
        logits: [B, K], detached, in the model's dtype.
        classes: int64 [C], the class of each one-hot row; [B, C] for the top k of each sample; else None.
        fallback: layers that took the exact per-sample path.
        unused: layers on which the logits do not depend; their gradient is zero.
        settings: ``contrast``, ``loss`` and ``classes``, as `Features` keep them; without ``contrast`` for targets.
    """


@dataclass(frozen=True, repr=False)
class GradCosines(_PerRow):
    """Cosines of per-sample gradients with reference gradients.

    Attributes:
        values: [B, C, L] in [-1, 1]; NaN where the gradient or the reference is zero; the dtype as in `GradNorms`.
        layers: the L parameter names, in the model's order.
        logits: [B, K], detached, in the model's dtype.
        classes: int64 [C], the class of each one-hot row; [B, C] for the top k of each sample; else None.
        fallback: layers that took the exact per-sample path.
        unused: layers on which the logits do not depend; their cosine is NaN.
        settings: ``contrast``, ``loss`` and ``classes``, as `Features` keep them; without ``contrast`` for targets.
    """


@dataclass(frozen=True, repr=False)
class GradGram:
    """Per-sample Gram matrices of the logits' gradients: one sample's empirical neural tangent kernel, per layer.

    Attributes:
        values: [B, L, K, K], ``< d z_j / d theta_l, d z_k / d theta_l >``; float32, or float64 for a float64 model.
        layers: the L parameter names, as in `named_parameters()`.
        logits: [B, K], detached, in the model's dtype.
        fallback: layers that took the exact per-sample path.
        unused: layers on which the logits do not depend; their matrix is zero.
    """

    values: Tensor
    layers: tuple[str, ...]
    logits: Tensor
    fallback: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __getitem__(self, layer: str) -> Tensor:
        """Of one layer, [B, K, K], a view.

        Raises:
            InputError: no such layer.
        """
        return self.values[:, find_layer(self.layers, layer)]

    def select(self, layers: str | Sequence[str]) -> GradGram:
        """The same for fewer layers: names, prefixes or glob patterns."""
        kept = select_layers(self.layers, layers)
        values = self.values[:, [self.layers.index(name) for name in kept]]
        fallback, unused = (tuple(n for n in names if n in kept) for names in (self.fallback, self.unused))
        return replace(self, values=values, layers=kept, fallback=fallback, unused=unused)

    def norms(
        self, contrast: ContrastLike = "one-hot", loss: LossLike = None, classes: ClassesLike = None
    ) -> GradNorms:
        """Squared gradient norms for any contrast and loss, ``v' G v``, with no further pass through the model.

        Raises:
            InputError: as `gradfast.contrast.Contrast.parse` and `Contrast.rows`.
        """
        held = Contrast.parse(contrast, loss, classes)
        rows = held.rows(self.logits)
        v = rows.cotangents().to(self.values.dtype).transpose(0, 1)  # [B, C, K]
        gv = v.unsqueeze(1) @ self.values  # [B, L, C, K]
        values = (gv * v.unsqueeze(1)).sum(-1).clamp_min(0).transpose(1, 2)
        return GradNorms(
            values.contiguous(),
            self.layers,
            self.logits,
            rows.classes,
            self.fallback,
            self.unused,
            held.settings,
        )

    def __repr__(self) -> str:
        b, n, k, _ = self.values.shape
        dtype = str(self.values.dtype).removeprefix("torch.")
        return f"GradGram({b} samples x {n} layers x {k} x {k} logits, {dtype}, {self.values.device})"
