"""The ways in which a parameter is used, each with the kernels for norms, dot products and Gram matrices.

A use holds what one recorded operation gives for R cotangent rows and B samples; the per-sample gradient that it stands for
is never formed for a batch. ``grad`` forms it for one sample, for the cases that have no closed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradfast import ops


class Use(ABC):
    """One use of a parameter tensor (or of a tensor made from parameters alone)."""

    @property
    def is_complex(self) -> bool:
        """Whether it is made of complex numbers: then `grad` alone is right, and the kernels are not."""
        return any(isinstance(t, Tensor) and t.is_complex() for t in vars(self).values())

    @abstractmethod
    def sqnorm(self) -> Tensor:
        """Squared norms of the gradients [B, R]."""

    @abstractmethod
    def dot(self, ref: Tensor) -> Tensor:
        """Dot products of the gradients with ``ref``, of the used tensor's shape: [B, R]. It is rounded to the operands' dtype."""

    def sqnorm_dot(self, ref: Tensor) -> tuple[Tensor, Tensor]:
        """Both, in one pass over the gradient's tiles where there is a kernel for it."""
        return self.sqnorm(), self.dot(ref)

    @abstractmethod
    def gram(self) -> Tensor:
        """Inner products of the gradients of all pairs of rows [B, R, R]."""

    @abstractmethod
    def grad(self, sample: int, rows: slice) -> Tensor:
        """The gradient itself for one sample and some rows: [rows, *shape of the used tensor]."""

    def join(self, others: Sequence[Use]) -> Use | None:
        """One use that stands for the sum of this and ``others``, all of the same tensor; None where there is none."""
        return None


@dataclass(frozen=True)
class LinearUse(Use):
    """y = x W': x [B, T, D], g [R, B, T, O]; the used tensor is W [O, D], or its transpose."""

    x: Tensor
    g: Tensor
    transposed: bool = False

    def sqnorm(self) -> Tensor:
        return ops.linear_sqnorm(self.x, self.g)

    def dot(self, ref: Tensor) -> Tensor:
        return ops.linear_dot(self.x, self.g, self._like_weight(ref))

    def sqnorm_dot(self, ref: Tensor) -> tuple[Tensor, Tensor]:
        return ops.linear_sqnorm_dot(self.x, self.g, self._like_weight(ref))

    def _like_weight(self, ref: Tensor) -> Tensor:
        return (ref.t() if self.transposed else ref).to(self.g.dtype)

    def gram(self) -> Tensor:
        return ops.linear_gram(self.x, self.g)

    def grad(self, sample: int, rows: slice) -> Tensor:
        grad = self.g[rows, sample].transpose(1, 2) @ self.x[sample]
        return grad.transpose(1, 2) if self.transposed else grad

    def join(self, others: Sequence[Use]) -> Use | None:
        uses = [self, *others]
        if any(isinstance(u, EmbeddingUse) for u in others):
            return _tied(uses)
        if not all(isinstance(u, LinearUse) and u.transposed == self.transposed for u in uses):
            return None
        xs, gs = zip(*((u.x, u.g) for u in uses if isinstance(u, LinearUse)), strict=True)
        return replace(self, x=torch.cat(xs, 1), g=torch.cat(gs, 2))


@dataclass(frozen=True)
class ConvUse(Use):
    """A convolution's weight: x [B*F, Cin, *in], g [R, B*F, Cout, *out]; F images of each sample follow one another."""

    x: Tensor
    g: Tensor
    weight_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool
    frames: int
    known_sqnorm: Tensor | None = None  # [B, R], where it came with the input gradient

    def _args(self) -> tuple[Any, ...]:
        kernel = self.weight_shape[2:]
        return kernel, self.stride, self.padding, self.dilation, self.groups, self.transposed, self.frames

    def sqnorm(self) -> Tensor:
        if self.known_sqnorm is not None:
            return self.known_sqnorm
        return ops.conv_sqnorm(self.x, self.g, *self._args())

    def dot(self, ref: Tensor) -> Tensor:
        return ops.conv_dot(self.x, self.g, ref.to(self.g.dtype), *self._args())

    def sqnorm_dot(self, ref: Tensor) -> tuple[Tensor, Tensor]:
        if self.known_sqnorm is not None:
            return self.known_sqnorm, self.dot(ref)
        return ops.conv_sqnorm_dot(self.x, self.g, ref.to(self.g.dtype), *self._args())

    def gram(self) -> Tensor:
        return ops.conv_gram(self.x, self.g, *self._args())

    def grad(self, sample: int, rows: slice) -> Tensor:
        images = slice(sample * self.frames, (sample + 1) * self.frames)
        x = self.x[images]
        weight = x.new_empty(self.weight_shape)
        zeros = [0] * len(self.stride)
        grads = [
            torch.ops.aten.convolution_backward(
                g, x, weight, None, self.stride, self.padding, self.dilation, self.transposed,
                self._output_padding(x, g) if self.transposed else zeros, self.groups, (False, True, False),
            )[1]
            for g in self.g[rows, images]
        ]  # fmt: skip
        return torch.stack(grads) if grads else x.new_empty((0, *self.weight_shape))

    def _output_padding(self, x: Tensor, g: Tensor) -> list[int]:
        """The output padding that the sizes imply: out = (in - 1) stride - 2 padding + dilation (kernel - 1) + 1 + it."""
        kernel = self.weight_shape[2:]
        spans = zip(x.shape[2:], g.shape[2:], kernel, self.stride, self.padding, self.dilation, strict=True)
        return [o - ((i - 1) * s - 2 * p + d * (k - 1) + 1) for i, o, k, s, p, d in spans]

    def join(self, others: Sequence[Use]) -> Use | None:
        uses = [self, *others]
        batch = self.x.shape[0] // self.frames
        xs, gs, frames = [], [], 0
        for use in uses:
            if not isinstance(use, ConvUse) or use._args()[1:6] != self._args()[1:6]:
                return None
            if use.x.shape[1:] != self.x.shape[1:] or use.g.shape[2:] != self.g.shape[2:]:
                return None
            xs.append(use.x.unflatten(0, (batch, use.frames)))
            gs.append(use.g.unflatten(1, (batch, use.frames)))
            frames += use.frames
        return replace(
            self,
            x=torch.cat(xs, 1).flatten(0, 1),
            g=torch.cat(gs, 2).flatten(1, 2),
            frames=frames,
            known_sqnorm=None,
        )


@dataclass(frozen=True)
class BiasUse(Use):
    """y = x + b: g [R, B, O, *]; the used tensor has O elements, of any shape."""

    g: Tensor
    shape: tuple[int, ...]

    def sqnorm(self) -> Tensor:
        return ops.bias_sqnorm(self.g)

    def dot(self, ref: Tensor) -> Tensor:
        return ops.bias_dot(self.g, ref.reshape(-1).to(self.g.dtype))

    def gram(self) -> Tensor:
        return ops.bias_gram(self.g)

    def grad(self, sample: int, rows: slice) -> Tensor:
        return (
            self.g[rows, sample].flatten(2).sum(2).reshape(-1, *self.shape)
            if self.g.dim() > 3
            else self._point(sample, rows)
        )

    def _point(self, sample: int, rows: slice) -> Tensor:
        return self.g[rows, sample].reshape(-1, *self.shape)

    def join(self, others: Sequence[Use]) -> Use | None:
        gs = []
        for use in (self, *others):
            if not isinstance(use, BiasUse) or use.shape != self.shape:
                return None
            gs.append(use.g.flatten(3) if use.g.dim() > 3 else use.g.unsqueeze(3))
        return replace(self, g=torch.cat(gs, 3))


@dataclass(frozen=True)
class AffineUse(Use):
    """y = w * xhat, channel by channel: xhat [B, O, *], g [R, B, O, *]; the used tensor has O elements, of any shape."""

    xhat: Tensor
    g: Tensor
    shape: tuple[int, ...]

    def sqnorm(self) -> Tensor:
        return ops.affine_sqnorm(self.xhat, self.g)

    def dot(self, ref: Tensor) -> Tensor:
        return ops.affine_dot(self.xhat, self.g, ref.reshape(-1).to(self.g.dtype))

    def gram(self) -> Tensor:
        return ops.affine_gram(self.xhat, self.g)

    def grad(self, sample: int, rows: slice) -> Tensor:
        grad = self.g[rows, sample] * self.xhat[sample]
        return (grad.flatten(2).sum(2) if grad.dim() > 2 else grad).reshape(-1, *self.shape)

    def join(self, others: Sequence[Use]) -> Use | None:
        xs, gs = [], []
        for use in (self, *others):
            if not isinstance(use, AffineUse) or use.shape != self.shape:
                return None
            xs.append(use.xhat.flatten(2) if use.xhat.dim() > 2 else use.xhat.unsqueeze(2))
            gs.append(use.g.flatten(3) if use.g.dim() > 3 else use.g.unsqueeze(3))
        return replace(self, xhat=torch.cat(xs, 2), g=torch.cat(gs, 3))


@dataclass(frozen=True)
class EmbeddingUse(Use):
    """y = W[indices]: indices [B, T], g [R, B, T, D]; the used tensor is W [V, D]. Positions that hold ``padding_idx`` are left out."""

    indices: Tensor
    g: Tensor
    shape: tuple[int, ...]
    padding_idx: int

    def sqnorm(self) -> Tensor:
        return ops.embedding_sqnorm(self.indices, self.g, self.padding_idx)

    def dot(self, ref: Tensor) -> Tensor:
        return ops.embedding_dot(self.indices, self.g, ref.to(self.g.dtype), self.padding_idx)

    def gram(self) -> Tensor:
        return ops.embedding_gram(self.indices, self.g, self.padding_idx)

    def grad(self, sample: int, rows: slice) -> Tensor:
        indices = self.indices[sample]
        used = indices != self.padding_idx
        g = self.g[rows, sample][:, used]
        return g.new_zeros((g.shape[0], *self.shape)).index_add_(1, indices[used], g)

    def join(self, others: Sequence[Use]) -> Use | None:
        if any(isinstance(u, LinearUse) for u in others):
            return _tied([self, *others])
        uses = [
            u for u in (self, *others) if isinstance(u, EmbeddingUse) and u.padding_idx == self.padding_idx
        ]
        if len(uses) != 1 + len(others):
            return None
        return replace(
            self, indices=torch.cat([u.indices for u in uses], 1), g=torch.cat([u.g for u in uses], 2)
        )


@dataclass(frozen=True)
class TiedUse(Use):
    """A table [V, D] in which tokens are looked up, and that is a linear layer's weight, too.

    With e_t the cotangent at a position that holds token v_t, and l_s that of the layer's output for the input x_s, the two gradients'
    inner product is the sum over all s and t of <e_t, x_s> l_s[v_t]: neither gradient is formed.
    """

    table: EmbeddingUse
    linear: LinearUse

    def sqnorm(self) -> Tensor:
        across = torch.stack([(a * b).sum((1, 2)) for a, b in self._factors()])
        return (self.table.sqnorm() + self.linear.sqnorm() + 2 * across).clamp_min(0)

    def dot(self, ref: Tensor) -> Tensor:
        return self.table.dot(ref) + self.linear.dot(ref)

    def gram(self) -> Tensor:
        across = torch.stack([a.flatten(1) @ b.flatten(1).t() for a, b in self._factors()])
        return self.table.gram() + self.linear.gram() + across + across.transpose(1, 2)

    def grad(self, sample: int, rows: slice) -> Tensor:
        return self.table.grad(sample, rows) + self.linear.grad(sample, rows)

    def _factors(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each sample <e_t, x_s> and l_s[v_t], both [R, T, S]."""
        for b, tokens in enumerate(self.table.indices):
            e = _accumulate(self.table.g[:, b])
            e = e.masked_fill((tokens == self.table.padding_idx)[:, None], 0)
            picked = self.linear.g[:, b].index_select(2, tokens)  # [R, S, T]
            yield e @ _accumulate(self.linear.x[b]).t(), _accumulate(picked).transpose(1, 2)


def _tied(uses: Sequence[Use]) -> Use | None:
    """The uses of a table as such, and those as a weight, joined."""
    tables = [u for u in uses if isinstance(u, EmbeddingUse)]
    linears = [u for u in uses if isinstance(u, LinearUse) and not u.transposed]
    if not tables or not linears or len(tables) + len(linears) < len(uses):
        return None
    table: Use | None = tables[0].join(tables[1:]) if len(tables) > 1 else tables[0]
    linear: Use | None = linears[0].join(linears[1:]) if len(linears) > 1 else linears[0]
    if not isinstance(table, EmbeddingUse) or not isinstance(linear, LinearUse):
        return None
    return TiedUse(table, linear)


@dataclass(frozen=True)
class ExpertsUse(Use):
    """y[n] = x[n] W[n]' for n stacked matrices: x [n, B, T, D], g [R, n, B, T, O]; the used tensor is W [n, O, D] or [n, D, O]."""

    x: Tensor
    g: Tensor
    transposed: bool = False

    def _parts(self) -> list[LinearUse]:
        return [LinearUse(x, self.g[:, n], self.transposed) for n, x in enumerate(self.x)]

    def sqnorm(self) -> Tensor:
        return torch.stack([u.sqnorm() for u in self._parts()]).sum(0)

    def dot(self, ref: Tensor) -> Tensor:
        return torch.stack([u.dot(r) for u, r in zip(self._parts(), ref, strict=True)]).sum(0)

    def gram(self) -> Tensor:
        return torch.stack([u.gram() for u in self._parts()]).sum(0)

    def grad(self, sample: int, rows: slice) -> Tensor:
        return torch.stack([u.grad(sample, rows) for u in self._parts()], 1)


@dataclass(frozen=True)
class DenseUse(Use):
    """Gradients that an operation without a closed form gave for a single sample: grads [R, *shape], B = 1."""

    grads: Tensor

    def sqnorm(self) -> Tensor:
        return _accumulate(rows_of(self.grads)).square().sum(1).unsqueeze(0)

    def dot(self, ref: Tensor) -> Tensor:
        return (_accumulate(rows_of(self.grads)) @ _accumulate(ref).flatten()).unsqueeze(0)

    def gram(self) -> Tensor:
        flat = _accumulate(rows_of(self.grads))
        return (flat @ flat.t()).unsqueeze(0)

    def grad(self, sample: int, rows: slice) -> Tensor:
        return self.grads[rows]

    def join(self, others: Sequence[Use]) -> Use | None:
        total = self.grads
        for use in others:
            if not isinstance(use, DenseUse):
                return None
            total = total + use.grads
        return DenseUse(total)


@dataclass(frozen=True)
class ReshapedUse(Use):
    """A use of a tensor of ``inner`` shape that is, element for element, the used tensor of another shape."""

    use: Use
    inner: tuple[int, ...]
    shape: tuple[int, ...]

    def sqnorm(self) -> Tensor:
        return self.use.sqnorm()

    def dot(self, ref: Tensor) -> Tensor:
        return self.use.dot(ref.reshape(self.inner))

    def sqnorm_dot(self, ref: Tensor) -> tuple[Tensor, Tensor]:
        return self.use.sqnorm_dot(ref.reshape(self.inner))

    def gram(self) -> Tensor:
        return self.use.gram()

    def grad(self, sample: int, rows: slice) -> Tensor:
        return self.use.grad(sample, rows).reshape(-1, *self.shape)


def rows_of(grads: Tensor) -> Tensor:
    """Gradients [R, *shape] as real rows [R, elements]; the parts of complex numbers are elements of their own."""
    real = torch.view_as_real(grads.resolve_conj()) if grads.is_complex() else grads
    return real.reshape(len(grads), -1)


def _accumulate(t: Tensor) -> Tensor:
    """Sums are taken in fp32 at least."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t
