"""The model, borrowed: its parameters want gradients while a forward pass is recorded, and everything is put back after."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradfast.engine.host import Watch
from gradfast.engine.recompute import Recomputation, blocks_of
from gradfast.errors import ModelError, describe
from gradfast.inputs import Inputs, call, map_tensors, slice_batch
from gradfast.record import Graph, trace

# Models may share parameters, so one call borrows at a time.
_BORROWED = RLock()


def _renew_lock() -> None:
    """In a forked child: the thread that held the lock is not there."""
    global _BORROWED
    _BORROWED = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Session:
    """Records forward passes of ``model`` in which the parameters ``names`` want gradients.

    ``autocast`` is the dtype of the operands of matrix products and convolutions, None for the model's own. ``watch`` looks at the
    memory after each block of the model: what lies between the activations that are kept does not serve the next block's.
    """

    def __init__(
        self,
        model: nn.Module,
        names: tuple[str, ...],
        autocast: torch.dtype | None,
        watch: Watch | None = None,
    ) -> None:
        self.names, self.autocast, self.watch = names, autocast, watch
        self.channels_last = True
        self._own_inputs = False  # the model writes to what it is given
        self._model = model
        self._once: set[str] = set()  # blocks that cannot be run twice
        self.parameters: Mapping[str, Tensor] = dict(model.named_parameters())
        self.device = next(iter(self.parameters.values())).device

    @contextmanager
    def borrow(self) -> Iterator[None]:
        """Inside, autograd records whatever the caller's mode; flags, values, ``.grad`` and random state are as before after it."""
        with ExitStack() as stack:
            stack.enter_context(_BORROWED)
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.random.fork_rng([self.device] if self.device.type == "cuda" else []))
            if any(t.is_inference() for t in (*self.parameters.values(), *self._model.buffers())):
                # Tensors made in inference mode can neither want gradients nor be saved for them: a copy of the model can.
                self._model = copy.deepcopy(self._model)
                self.parameters = dict(self._model.named_parameters())
            stack.enter_context(_flags_restored(self.parameters.values()))
            stack.enter_context(_values_restored(self._model))
            for name, p in self.parameters.items():
                p.requires_grad_(name in self.names)
            yield

    def record(
        self, x: Inputs, chunk: slice, *, recompute: bool = False
    ) -> tuple[Graph | None, Tensor, Recomputation | None]:
        """The graph behind the logits of some samples; the logits [B, K], detached; and with ``recompute`` what is made again.

        No graph where the logits do not depend on any of the wanted parameters.

        Raises:
            ModelError: the output is not a floating tensor [B, K].
        """
        rng = torch.get_rng_state()
        while True:
            given, leaves = self._enter(x, chunk)
            tape = Recomputation(self._model, leaves, self._once) if recompute else None
            try:
                out = self._forward(given, tape)
            except Exception as error:  # whatever a model makes of it
                if not self._adapts(str(error)):
                    raise
            else:
                if tape is None or not tape.refused:
                    break
                self._once |= tape.refused
            torch.set_rng_state(rng)
        logits = self._check(out, chunk.stop - chunk.start)
        exact = logits.detach()
        if self.autocast is not None:
            with torch.no_grad(), _no_fast_path():
                torch.set_rng_state(rng)
                own = map_tensors(torch.clone, slice_batch(x, chunk))
                exact = self._check(call(self._model, own), chunk.stop - chunk.start).detach()
        if logits.grad_fn is None:
            return None, exact, tape
        graph = trace(logits, self.parameters, leaves, self.names)
        if self.channels_last and any(node.name == "AsStridedBackward0" for node in graph.nodes):
            self.channels_last = False  # it reads memory as it lies
            torch.set_rng_state(rng)
            return self.record(x, chunk, recompute=recompute)
        return (graph if graph.root.wanted else None), exact, tape

    def _enter(self, x: Inputs, chunk: slice) -> tuple[Inputs, list[Tensor]]:
        """Some samples as the model is given them, and the leaves among them."""
        leaves: list[Tensor] = []

        def leaf(t: Tensor) -> Tensor:
            # A model that writes to what it is given must not write to the caller's.
            if not (t.is_floating_point() or t.is_complex()):
                return t.clone()
            images = t.dim() == 4 and self.channels_last
            t = t.detach().clone(memory_format=torch.channels_last if images else torch.preserve_format)
            leaves.append(t.requires_grad_())
            return t.clone() if self._own_inputs else t

        given = map_tensors(leaf, slice_batch(x, chunk))
        if len(leaves) < _tensors(given):
            # Integers cannot want gradients, so only the tables that they index show where samples enter: all are recorded.
            for p in self.parameters.values():
                p.requires_grad_(p.is_floating_point() or p.is_complex())
        return given, leaves

    def _adapts(self, error: str) -> bool:
        """Whether the model fails by how it was given its inputs, and will be given them otherwise from now on."""
        if self.channels_last and "view size is not compatible" in error:  # x.view(len(x), -1)
            self.channels_last = False
        elif (
            not self._own_inputs and "leaf Variable that requires grad" in error
        ):  # nn.ReLU(inplace=True) comes first
            self._own_inputs = True
        else:
            return False
        return True

    def _forward(self, given: Inputs, tape: Recomputation | None) -> object:
        with ExitStack() as stack:
            if self.autocast is not None:
                stack.enter_context(torch.autocast(self.device.type, self.autocast))
            if self.device.type == "cuda":
                # The fused kernels' backward takes one cotangent per query; products and softmax have rules for all rows.
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if tape is not None:
                stack.enter_context(tape.recording())
            if (watch := self.watch) is not None:
                for block in blocks_of(self._model).values():
                    stack.callback(block.register_forward_hook(lambda *_: watch.check()).remove)
            return call(self._model, given)

    def _check(self, out: object, batch: int) -> Tensor:
        if not isinstance(out, Tensor) or out.dim() != 2 or out.shape[0] != batch:
            raise ModelError(
                f"model: its output for {batch} samples is {describe(out)}; wanted logits of shape [B, K]"
            )
        return out


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Without autograd torch's transformer layers take another path, which differs at padded positions."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _tensors(x: Inputs) -> int:
    """How many tensors with a batch dimension there are in ``x``."""
    values = (x,) if isinstance(x, Tensor) else x.values() if isinstance(x, dict) else x
    return sum(isinstance(value, Tensor) and value.dim() > 0 for value in values)


@contextmanager
def _flags_restored(parameters: Iterable[Tensor]) -> Iterator[None]:
    flags = {p: p.requires_grad for p in parameters}
    try:
        yield
    finally:
        for p, flag in flags.items():
            p.requires_grad_(flag)


@contextmanager
def _values_restored(model: nn.Module) -> Iterator[None]:
    """Put back what a forward pass itself writes: buffers (running statistics), embeddings that renormalize their rows, and tensors
    that modules remember, which would keep the recorded graph.
    """
    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    remembered = [(m, dict(vars(m)), dict(m._buffers)) for m in modules]
    tables = [m for m in modules if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    written = [*model.buffers(), *(m.weight for m in tables if m.max_norm is not None)]
    before = [(t, t._version, t.detach().clone()) for t in written]
    try:
        yield
    finally:
        for m, attributes, buffers in remembered:
            _put_back(vars(m), attributes)
            _put_back(m._buffers, buffers)
        with torch.no_grad():
            for t, version, value in before:
                if t._version != version or _differs(t, value):
                    t.copy_(value)


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Of a module's attributes, those that are tensors or were: a cache that was filled, a count that was replaced."""
    for name in [*now]:
        there, was = now[name], before.get(name)
        if there is not was and (isinstance(there, Tensor) or isinstance(was, Tensor)):
            if name in before:
                now[name] = was
            else:
                del now[name]


def _differs(t: Tensor, value: Tensor) -> bool:
    """Whether a buffer's values differ, for writing through .data leaves no version; of plain tensors alone."""
    plain = t.layout is torch.strided and t.device.type != "meta" and not t.is_nested
    return plain and not torch.equal(t, value)
