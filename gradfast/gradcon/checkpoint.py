"""A training's state in one safetensors file: model, reference, optimizer, random state and history."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from gradfast.errors import InputError
from gradfast.gradcon.autoencoders import ConvAutoencoder, ConvVAE
from gradfast.gradcon.constraint import GradConLoss
from gradfast.gradcon.scores import GradConScorer
from gradfast.models.fingerprint import fingerprint

__all__ = ["Checkpoint", "load_scorer", "read_checkpoint", "write_checkpoint"]

_FORMAT = "gradfast-gradcon-1"
PathType = str | PathLike[str]


@dataclass
class Checkpoint:
    """Everything that a training needs to go on, and a scorer to score.

    Attributes:
        tensors: by name, under ``model.``, ``loss.``, ``optimizer.`` and ``random.``.
        facts: plain data: settings, architecture, history of epochs.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it."""
        return {
            name.removeprefix(prefix + "."): t
            for name, t in self.tensors.items()
            if name.startswith(prefix + ".")
        }


def write_checkpoint(
    path: PathType,
    model: nn.Module,
    loss: GradConLoss,
    optimizer: Optimizer | None = None,
    random: dict[str, Tensor] | None = None,
    facts: dict[str, Any] | None = None,
) -> Path:
    """Writes a checkpoint, whole or not at all.

    ``random`` are generator states, uint8. ``facts`` is anything that JSON holds.
    """
    tensors = {f"model.{n}": t for n, t in model.state_dict().items()}
    tensors |= {f"loss.{n}": t for n, t in loss.state_dict().items()}
    groups: list[dict[str, Any]] = []
    if optimizer is not None:
        state = optimizer.state_dict()
        groups = state["param_groups"]
        tensors |= {
            f"optimizer.{i}.{n}": t
            for i, slots in state["state"].items()
            for n, t in slots.items()
            if isinstance(t, Tensor)
        }
    tensors |= {f"random.{n}": t for n, t in (random or {}).items()}
    known = {
        "format": _FORMAT,
        "model": fingerprint(model),
        "tensors": list(loss.reference.names),
        "groups": groups,
        "architecture": _architecture(model),
        **(facts or {}),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    save_file({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, scratch, metadata={"gradcon": json.dumps(known)})  # fmt: skip
    scratch.replace(path)
    return path


def read_checkpoint(path: PathType) -> Checkpoint:
    """Reads what `write_checkpoint` wrote, on the CPU.

    Raises:
        InputError: no such file, or not one of this kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint: {path} is not a file; wanted one that GradCON training wrote")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"checkpoint: {path} cannot be read as safetensors: {error}") from error
    facts = json.loads(metadata.get("gradcon", "{}"))
    if facts.get("format") != _FORMAT:
        raise InputError(f"checkpoint: {path} is of format {facts.get('format')}; wanted {_FORMAT}")
    return Checkpoint(tensors, facts)


def restore(
    checkpoint: Checkpoint, model: nn.Module, loss: GradConLoss, optimizer: Optimizer | None = None
) -> None:
    """Puts a checkpoint's state into a model, its loss and its optimizer.

    Raises:
        InputError: the checkpoint of another model.
    """
    own = {n: t.shape for n, t in model.state_dict().items()}
    given = {n: t.shape for n, t in checkpoint.part("model").items()}
    if own != given:
        differing = sorted(n for n in own.keys() | given.keys() if own.get(n) != given.get(n))
        raise InputError(
            f"checkpoint: it is of another model than {type(model).__name__}: {', '.join(differing[:4])} differ"
        )
    model.load_state_dict(checkpoint.part("model"))
    loss.load_state_dict(checkpoint.part("loss"))
    if optimizer is not None:
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in checkpoint.part("optimizer").items():
            index, slot = name.split(".", 1)
            slots.setdefault(int(index), {})[slot] = tensor
        optimizer.load_state_dict({"state": slots, "param_groups": checkpoint.facts["groups"]})


def load_scorer(
    path: PathType, model: nn.Module | None = None, *, weight: float = 0.12, batch_size: int = 64
) -> GradConScorer:
    """A scorer from a checkpoint.

    Args:
        path: of the checkpoint.
        model: where it is not one of gradfast's autoencoders: a module of the trained architecture, which takes its weights.
        weight: as for `GradConScorer`.
        batch_size: as for `GradConScorer`.

    Raises:
        InputError: a checkpoint that cannot be read, or of another architecture.
    """
    checkpoint = read_checkpoint(path)
    if model is None:
        model = build(checkpoint.facts.get("architecture"), path)
    own = {n: t.shape for n, t in model.state_dict().items()}
    if own != {n: t.shape for n, t in checkpoint.part("model").items()}:
        raise InputError(f"checkpoint: {path} is of another model than {type(model).__name__}")
    model.load_state_dict(checkpoint.part("model"))
    reference = {
        n.removeprefix("reference.").replace("/", "."): t
        for n, t in checkpoint.part("loss").items()
        if n != "reference.count"
    }
    return GradConScorer(model.eval(), reference, weight=weight, batch_size=batch_size)


def build(architecture: dict[str, Any] | None, path: PathType = "") -> nn.Module:
    """One of gradfast's autoencoders from its description in a checkpoint."""
    if architecture is None:
        raise InputError(f"model: {path} holds a model of the user's own; wanted that module")
    size = (int(architecture["size"][0]), int(architecture["size"][1]))
    if architecture["kind"] == "cae":
        return ConvAutoencoder(architecture["channels"], size)
    return ConvVAE(architecture["channels"], size, architecture["latent"])


def _architecture(model: nn.Module) -> dict[str, Any] | None:
    if isinstance(model, (ConvAutoencoder, ConvVAE)):
        about: dict[str, Any] = {"kind": "cae", "channels": model.channels, "size": list(model.size)}
        if isinstance(model, ConvVAE):
            about |= {"kind": "vae", "latent": model.mean.out_features}
        return about
    return None
