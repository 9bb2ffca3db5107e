"""The model, borrowed: its parameters want gradients while a forward pass is recorded, and everything is put back after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gradfast.errors import ModelError, describe
from gradfast.inputs import Inputs, call, map_tensors, slice_batch
from gradfast.record import Graph, trace


class Session:
    """Records forward passes of ``model`` in which the parameters ``names`` want gradients.

    ``autocast`` is the dtype of the operands of matrix products and convolutions, None for the model's own.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...], autocast: torch.dtype | None) -> None:
        self.model, self.names, self.autocast = model, names, autocast
        self.parameters: Mapping[str, Tensor] = dict(model.named_parameters())
        self.device = next(iter(self.parameters.values())).device
        self._stand_ins: dict[str, Tensor] | None = None

    @contextmanager
    def borrow(self) -> Iterator[None]:
        """Inside, autograd records whatever the caller's mode; mode, flags, ``.grad`` and random state are as before after it."""
        flags = {p: p.requires_grad for p in self.model.parameters()}
        devices = [self.device] if self.device.type == "cuda" else []
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.random.fork_rng(devices))
            if any(p.is_inference() for p in flags):
                # Tensors made in inference mode can never want gradients: copies stand in for them during the call.
                wanted = set(self.names)
                self._stand_ins = {
                    n: p.clone().requires_grad_(n in wanted) for n, p in self.parameters.items()
                }
                yield
                self._stand_ins = None
                return
            try:
                for name, p in self.parameters.items():
                    p.requires_grad_(name in self.names)
                yield
            finally:
                for p, flag in flags.items():
                    p.requires_grad_(flag)

    def record(self, x: Inputs, chunk: slice) -> tuple[Graph | None, Tensor]:
        """The graph behind the logits of some samples, and the logits [B, K], detached.

        No graph where the logits do not depend on any of the wanted parameters.

        Raises:
            ModelError: the output is not a floating tensor [B, K].
        """
        leaves: list[Tensor] = []

        def leaf(t: Tensor) -> Tensor:
            t = t.clone() if t.is_inference() else t.detach()
            if not t.is_floating_point():
                return t
            if t.dim() == 4 and t.device.type == "cpu":
                t = t.contiguous(memory_format=torch.channels_last)
            leaves.append(t.requires_grad_())
            return t

        given = map_tensors(leaf, slice_batch(x, chunk))
        rng = torch.get_rng_state()
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            out = self._call(given)
        logits = self._check(out, chunk.stop - chunk.start)
        exact = logits.detach()
        if self.autocast is not None:
            with torch.no_grad():
                torch.set_rng_state(rng)
                exact = self._check(self._call(slice_batch(x, chunk)), chunk.stop - chunk.start).detach()
        if logits.grad_fn is None:
            return None, exact
        graph = trace(logits, self._stand_ins or self.parameters, leaves, self.names)
        return (graph if graph.root.wanted else None), exact

    def _call(self, x: Inputs) -> object:
        if self._stand_ins is None:
            return call(self.model, x)
        if isinstance(x, Tensor):
            return functional_call(self.model, self._stand_ins, (x,))
        if isinstance(x, dict):
            return functional_call(self.model, self._stand_ins, (), x)
        return functional_call(self.model, self._stand_ins, tuple(x))

    def _check(self, out: object, batch: int) -> Tensor:
        if not isinstance(out, Tensor) or out.dim() != 2 or out.shape[0] != batch:
            raise ModelError(
                f"model: its output for {batch} samples is {describe(out)}; wanted logits of shape [B, K]"
            )
        return out
