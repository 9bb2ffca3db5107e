"""What one forward pass of any classifier shows: logits, penultimate features, and the outputs of its stages.

The penultimate features are the input of the last `nn.Linear` that runs; the stages are the outputs of the
top-level blocks. Both can be named where that does not fit a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from gradfast.errors import InputError, ModelError, describe
from gradfast.inputs import logits_of
from gradfast.selection import nearest

__all__ = ["Activations", "Tap", "default_stages"]

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)
_ENOUGH = 3  # stages: with fewer, blocks are opened


@dataclass
class Activations:
    """One batch, as the model saw it.

    Attributes:
        x: the input, [B, ...]; requires grad if the pass was recorded.
        logits: [B, K].
        penultimate: the input of the head, [B, F].
        stages: [B, D_i] each, averaged over positions.
    """

    x: Tensor
    logits: Tensor
    penultimate: Tensor
    stages: tuple[Tensor, ...]
    _predictions: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def predictions(self) -> Tensor:
        """The most likely class, int64 [B]."""
        if self._predictions is None:
            self._predictions = self.logits.detach().argmax(1)
        return self._predictions

    def input_gradient(self, of: Tensor) -> Tensor:
        """d (sum of `of` [B]) / d x, shaped as x: each sample's own gradient, as samples do not mix."""
        (gradient,) = torch.autograd.grad(of.sum(), self.x, retain_graph=True)
        return gradient

    def detached(self) -> Activations:
        """The same without the recorded graph."""
        return Activations(
            self.x.detach(), self.logits.detach(), self.penultimate.detach(),
            tuple(stage.detach() for stage in self.stages), self._predictions,
        )  # fmt: skip

    def rows(self, rows: Tensor) -> Activations:
        """Those of some samples, by a mask [B]; without the recorded graph."""
        return Activations(
            self.x[rows], self.logits[rows], self.penultimate[rows], tuple(stage[rows] for stage in self.stages),
            None if self._predictions is None else self._predictions[rows],
        )  # fmt: skip


class Tap:
    """Runs a model and reads its penultimate features and stages by hooks, which are gone afterwards.

    Args:
        model: maps a tensor [B, ...] to logits [B, K]; in eval mode.
        head: name of the last linear layer; None: the last `nn.Linear` that runs.
        stages: names of modules; None: `default_stages`.

    Attributes:
        asked: head and stages as they were given: taps of one model that agree in them can stand for each other.

    Raises:
        InputError: a name that the model does not have.
    """

    def __init__(
        self, model: nn.Module, *, head: str | None = None, stages: Sequence[str] | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"model: got {describe(model)}; wanted a torch.nn.Module")
        self.model = model
        self._modules = dict(model.named_modules())
        if head is not None and not isinstance(self._modules.get(head), nn.Linear):
            linear = [name for name, module in self._modules.items() if isinstance(module, nn.Linear)]
            raise InputError(f"head: the model has no nn.Linear called {head!r}; {nearest(head, linear)}")
        for name in stages or ():
            if name not in self._modules:
                raise InputError(
                    f"stages: the model has no module {name!r}; {nearest(name, list(self._modules))}"
                )
        self.asked = (head, None if stages is None else tuple(stages))
        self._head = head
        self._stages = None if stages is None else tuple(stages)

    @property
    def head(self) -> nn.Linear:
        """The last linear layer. Unless it was named, it is known once the model has run."""
        if self._head is None:
            raise ModelError(
                "model: has not run yet, so its last linear layer is not known; run it or name it"
            )
        module = self._modules[self._head]
        assert isinstance(module, nn.Linear)
        return module

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages."""
        if self._stages is None:
            self._stages = default_stages(self.model, self._head)
        return self._stages

    def __call__(self, x: Tensor, *, record: bool = False) -> Activations:
        """One forward pass, moved to where the model is; with `record`, gradients of the input can be taken.

        Raises:
            InputError: an x that is no tensor.
            ModelError: a model in train mode, or without the head or the stages asked for.
        """
        x = self._placed(x)
        if self._head is None:
            self._head = self._find_head(x)
        found: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module, tensor: object) -> None:
            if not isinstance(tensor, Tensor):
                raise ModelError(
                    f"model: {name} gives {type(tensor).__name__}; wanted stages that give tensors"
                )
            if name in found and name not in unrolled:
                unrolled.append(name)
            found[name] = tensor

        unrolled: list[str] = []
        handles = [
            self._modules[name].register_forward_hook(
                lambda module, _, output, name=name: keep(name, module, output)
            )
            for name in self.stages
        ]
        handles.append(self.head.register_forward_pre_hook(lambda m, given: keep("", m, given[0])))
        try:
            with torch.inference_mode(False), torch.set_grad_enabled(record):
                x = x.detach().clone() if torch.is_inference(x) else x.detach()
                if record and not x.is_floating_point():
                    raise InputError(f"x: got {describe(x)}; wanted floats, for their gradient moves them")
                x.requires_grad_(record)
                logits = logits_of(self.model(x))
        finally:
            for handle in handles:
                handle.remove()
        missing = [name for name in (*self.stages, "") if name not in found]
        if missing:
            raise ModelError(
                f"model: {missing[0] or self._head} did not run; wanted stages that every input passes"
            )
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise ModelError(f"model: its output is {describe(logits)}; wanted logits [B, K]")
        with torch.inference_mode(False), torch.set_grad_enabled(record):
            stages = tuple(pooled(found[name], self._modules[name]) for name in self.stages)
            return Activations(x, logits, found[""].flatten(1), stages)

    def _placed(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise InputError(f"x: got {describe(x)}; wanted a tensor of inputs [B, ...]")
        training = next((name for name, m in self.model.named_modules() if m.training), None)
        if training is not None:
            raise ModelError(f"model: {training or 'it'} is in train mode; wanted model.eval()")
        parameter = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        if parameter is None:
            return x
        return x.to(parameter.device, parameter.dtype if x.is_floating_point() else None)

    def _find_head(self, x: Tensor) -> str:
        """The last `nn.Linear` to run on one sample, if its output has the shape of the logits."""
        ran: list[tuple[str, tuple[int, ...]]] = []
        handles = [
            module.register_forward_hook(
                lambda _, __, output, name=name: ran.append((name, tuple(output.shape)))
            )
            for name, module in self._modules.items()
            if isinstance(module, nn.Linear)
        ]
        try:
            with torch.no_grad():
                logits = self.model(x[:1])
        finally:
            for handle in handles:
                handle.remove()
        if not ran or not isinstance(logits, Tensor) or ran[-1][1] != tuple(logits.shape):
            raise ModelError(
                f"model: {type(self.model).__name__} does not end in an nn.Linear that gives the logits; "
                'name the one whose input are the features: head="NAME"'
            )
        return ran[-1][0]


def pooled(output: Tensor, module: nn.Module) -> Tensor:
    """Features [B, D] of a module's output: averaged over positions, as in Lee et al. (NeurIPS 2018)."""
    if output.dim() <= 2:
        return output.flatten(1)
    inner = list(module.modules())
    last = {m.normalized_shape[-1] for m in inner if isinstance(m, nn.LayerNorm)}
    last |= {m.out_features for m in inner if isinstance(m, nn.Linear)}
    convolutions = {m.out_channels for m in inner if isinstance(m, _ConvNd)}
    channels_last = output.shape[-1] in last and output.shape[1] not in convolutions
    if output.dim() == 3 and not any(isinstance(m, nn.Conv1d) for m in inner):
        channels_last = True  # [B, tokens, D]
    return output.flatten(1, -2).mean(1) if channels_last else output.flatten(2).mean(2)


def default_stages(model: nn.Module, head: str | None = None) -> tuple[str, ...]:
    """Names of the top-level modules with parameters, without normalisations and the head.

    Where there are fewer than three of them, those that consist of others are opened: torchvision's DenseNet
    gives its blocks and transitions, VGG its convolutions.

    Raises:
        ModelError: there is none.
    """

    def usable(name: str) -> bool:
        module = modules[name]
        inside = head is not None and (head == name or head.startswith(name + "."))
        return not inside and not isinstance(module, _NORMS) and any(True for _ in module.parameters())

    def children(name: str) -> Iterator[str]:
        prefix = f"{name}." if name else ""
        return filter(usable, (prefix + child for child, _ in modules[name].named_children()))

    modules = dict(model.named_modules())
    stages = [""]
    while len(stages) < _ENOUGH:
        opened = [inner for name in stages for inner in (list(children(name)) or [name])]
        if opened == stages:
            break
        stages = opened
    if stages == [""]:
        raise ModelError(f"model: {type(model).__name__} has no modules before its head; name the stages")
    return tuple(stages)
