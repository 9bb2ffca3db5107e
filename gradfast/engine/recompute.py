"""Blocks whose activations are made again when the sweep comes to them, where a memory budget does not hold them all.

Autograd keeps what each operation's backward formula needs. Of a block, only what enters it is kept here; the block runs once more
when something of its inside is first asked for (Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174).
The graph and its values are the same ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map_only

from gradfast.errors import ModelError

# A tensor, and its version when it was kept.
_Kept = tuple[Tensor, int]

# A fused step of the sweep may look across the border of two blocks: neither must be made again for each value.
_ALIVE = 2


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """By name, the elements of the model's lists and sequences that are made of several layers; of nested ones the innermost."""
    names = {module: name for name, module in model.named_modules()}
    found = {
        child: names[child]
        for container in model.modules()
        if isinstance(container, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
        for child in container.children()
        if _has_layers(child)
    }
    return {
        name: m
        for m, name in found.items()
        if not any(inner in found for inner in m.modules() if inner is not m)
    }


def _has_layers(module: nn.Module) -> bool:
    layers = sum(any(True for _ in m.parameters(recurse=False)) for m in module.modules())
    return layers > 1 and not isinstance(module, torch.jit.ScriptModule)


class Recomputation:
    """One forward pass that keeps only what enters its blocks.

    Args:
        model: whose blocks (`blocks_of`) are made again, but for those in ``leave``.
        given: the samples: they are the caller's own, and do not count.
        leave: names of blocks that cannot be run twice.

    Attributes:
        refused: names of blocks that this pass found to be so: they draw random numbers, write buffers, or what entered them is changed,
            by them or later. Where there is one, the pass cannot be used.
    """

    def __init__(self, model: nn.Module, given: Iterable[Tensor] = (), leave: Iterable[str] = ()) -> None:
        self.refused: set[str] = set()
        self.frames = 0
        self._blocks = {name: m for name, m in blocks_of(model).items() if name not in set(leave)}
        self._outside = _storages((*model.parameters(), *model.buffers(), *given))
        self._kept: dict[int, int] = {}  # bytes by storage, of what lives as long as the graph
        self._inside = self._largest = 0
        self._entered: list[tuple[str, Tensor, int]] = []
        self._alive: deque[ref[_Frame]] = deque()

    @property
    def bytes(self) -> int:
        """Activations at the fullest moment of a sweep."""
        return sum(self._kept.values()) + min(_ALIVE * self._largest, self._inside)

    @property
    def bytes_if_kept(self) -> int:
        """Activations of the same pass if nothing were made again."""
        return sum(self._kept.values()) + self._inside

    @contextmanager
    def recording(self) -> Iterator[None]:
        """The model's forward pass is to run inside."""
        with ExitStack() as stack:
            stack.enter_context(saved_tensors_hooks(self._keep, _unchanged))
            for name, block in self._blocks.items():
                own = vars(block).get("forward")
                block.forward = self._framed(name, block)
                stack.callback(_put_back, block, own)
            yield
        self.refused |= {name for name, t, version in self._entered if t._version != version}
        self._entered = []

    def _keep(self, t: Tensor) -> _Kept:
        self._count(t)
        return _apart(t)

    def _count(self, t: Tensor) -> None:
        storage = t.untyped_storage()
        if storage.data_ptr() not in self._outside:
            self._kept[storage.data_ptr()] = storage.nbytes()

    def _framed(self, name: str, block: nn.Module) -> Callable[..., Any]:
        forward = block.forward

        def framed(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            frame = _Frame(self, name, forward, args, kwargs, self._outside)
            written = [(t, t._version) for t in (*frame.entering, *block.buffers())]
            drawn = _random_states(frame.entering)
            with saved_tensors_hooks(frame.pack, frame.unpack):
                out = forward(*args, **kwargs)
            if any(t._version != v for t, v in written) or not all(
                torch.equal(a, b) for a, b in zip(drawn, _random_states(frame.entering), strict=True)
            ):
                self.refused.add(name)
            for t in _tensors((args, kwargs)):
                self._count(t)
            self._entered += [(name, t, t._version) for t in frame.entering]
            inside = frame.close()
            self._inside += inside
            self._largest = max(self._largest, inside)
            self.frames += 1
            return out

        return framed

    def make_room(self, frame: _Frame) -> None:
        """Lets go of what was made again longest ago; ``frame`` is to be made next."""
        while len(self._alive) >= _ALIVE:
            oldest = self._alive.popleft()()
            if oldest is not None:
                oldest.forget()
        self._alive.append(ref(frame))


class _Frame:
    """One call of a block: what entered it, and where each of the tensors stands that its operations wanted to keep."""

    def __init__(
        self,
        tape: Recomputation,
        name: str,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outside: frozenset[int],
    ) -> None:
        self._tape, self._name, self._forward = tape, name, forward
        self._args, self._kwargs = tree_map_only(Tensor, _leaf, (args, kwargs))
        self.entering = _tensors((self._args, self._kwargs))
        self._outside = outside | _storages(self.entering)
        self._autocast = _autocast(self.entering)
        self._kinds: list[tuple[torch.Size, torch.dtype]] = []
        self._held: list[Tensor] = []  # while the block runs, so that no two of its tensors share memory
        self._again: list[Tensor] | None = None

    def pack(self, t: Tensor) -> _Kept | int:
        if t.untyped_storage().data_ptr() in self._outside:
            return _apart(t)
        self._kinds.append((t.shape, t.dtype))
        self._held.append(t)
        return len(self._kinds) - 1

    def unpack(self, packed: _Kept | int) -> Tensor:
        if not isinstance(packed, int):
            return _unchanged(packed)
        if self._again is None:
            self._tape.make_room(self)
            self._again = self._run_again()
        return self._again[packed]

    def close(self) -> int:
        """To be called when the block has run: the bytes that are not kept."""
        storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in self._held)}
        self._held = []
        return sum(storages.values())

    def forget(self) -> None:
        self._again = None

    def _run_again(self) -> list[Tensor]:
        found: list[Tensor] = []

        def collect(t: Tensor) -> Any:
            if t.untyped_storage().data_ptr() not in self._outside:
                found.append(t.detach())

        device, enabled, dtype = self._autocast
        with (
            torch.enable_grad(),
            torch.autocast(device, dtype, enabled=enabled),
            saved_tensors_hooks(collect, lambda t: t),
        ):
            self._forward(*self._args, **self._kwargs)
        if [(t.shape, t.dtype) for t in found] != self._kinds:
            raise ModelError(
                f"model: {self._name} does not do the same when it runs again, by which a memory budget was to be held; "
                "wanted a block that depends on its inputs alone, or a larger memory_budget"
            )
        return found


def _apart(t: Tensor) -> _Kept:
    """The same values for an operation to keep: its own output would keep the operation in turn, for ever."""
    return (t if t.is_leaf else t.detach()), t._version


def _unchanged(kept: _Kept) -> Tensor:
    """What was kept; autograd does not look itself, where something else keeps for it."""
    t, version = kept
    if t._version != version:
        raise ModelError(
            f"model: a tensor of shape {list(t.shape)} that a backward formula needs was changed in place after it was used; wanted "
            "a model that autograd can differentiate"
        )
    return t


def _leaf(t: Tensor) -> Tensor:
    return t.detach().requires_grad_(t.requires_grad)


def _tensors(nested: Any) -> list[Tensor]:
    return [t for t in tree_leaves(nested) if isinstance(t, Tensor)]


def _storages(tensors: Iterable[Tensor]) -> frozenset[int]:
    return frozenset(t.untyped_storage().data_ptr() for t in tensors)


def _autocast(tensors: list[Tensor]) -> tuple[str, bool, torch.dtype]:
    device = tensors[0].device.type if tensors else "cpu"
    return device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _random_states(tensors: list[Tensor]) -> list[Tensor]:
    devices = {t.device for t in tensors if t.device.type == "cuda"}
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in devices)]


def _put_back(block: nn.Module, own: Callable[..., Any] | None) -> None:
    if own is None:
        del block.forward
    else:
        block.forward = own
