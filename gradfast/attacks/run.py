"""Attacks on the images that a model gets right, batch by batch, with an account of what succeeded and what was spent."""

from __future__ import annotations

import io
import warnings
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradfast.errors import InputError, describe
from gradfast.progress import SampleProgress

from .budgets import budget_of
from .carlini_wagner import carlini_wagner
from .pixel_model import frozen
from .semantic import shift_hue_saturation

__all__ = ["AttackResult", "AttackWarning", "attack"]


class AttackWarning(UserWarning):
    """An attack that fooled no image, or had none to fool; the message says with which budget."""


@dataclass(frozen=True)
class AttackResult:
    """What an attack did to n images.

    Attributes:
        name: of the attack.
        images: float32 [n, C, H, W] in [0, 1]; an image that was wrong before is as it was given.
        labels: int64 [n].
        success: bool [n]: right before and wrong after.
        predictions_before: int64 [n].
        predictions_after: int64 [n], of ``images``.
        linf: float32 [n], largest change of a pixel, on the scale [0, 1].
        l2: float32 [n], Euclidean norm of the change.
        budget: the attack's settings, and its seed.
    """

    name: str
    images: Tensor
    labels: Tensor
    success: Tensor
    predictions_before: Tensor
    predictions_after: Tensor
    linf: Tensor
    l2: Tensor
    budget: dict[str, float | int]

    @property
    def right_before(self) -> Tensor:
        """bool [n]."""
        return self.predictions_before == self.labels

    @property
    def rate(self) -> float:
        """Share of the images that were right before and are wrong now; NaN if none was right."""
        n = int(self.right_before.sum())
        return int(self.success.sum()) / n if n else float("nan")

    def adversarial(self) -> Tensor:
        """The images of the successes, float32 [m, C, H, W].

        Raises:
            InputError: there is none.
        """
        if not bool(self.success.any()):
            raise InputError(_none_fooled(self))
        return self.images[self.success]


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str,
    *,
    eps: float | None = None,
    seed: int = 0,
    index: Tensor | None = None,
    batch_size: int = 64,
    progress: bool = False,
    **budget: float | int | None,
) -> AttackResult:
    """Attacks a classifier that takes pixels.

    Names, with the settings that ``budget`` may change (eps and alpha on the scale [0, 1]):

    - ``fgsm``: eps. Goodfellow et al., ICLR 2015.
    - ``bim``: eps, alpha, steps. Kurakin et al., ICLR Workshops 2017.
    - ``iterll``: eps, alpha, steps; towards the class that is least likely at first. Kurakin et al., the same paper.
    - ``pgd``: eps, alpha, steps; from a random start. Madry et al., ICLR 2018.
    - ``cw``: c (the first), kappa, searches, steps, lr. L2, with the search for c; Carlini and Wagner, S&P 2017.
    - ``semantic``: trials. Hue and saturation; Hosseini and Poovendran, CVPR Workshops 2018.

    The first four are torchattacks'. Only images that are right are attacked, in eval mode; the model is left as it was
    found, and so is the random state. ``pgd``'s random start depends on ``seed`` and on how the images fall into batches,
    ``semantic``'s shifts on ``seed`` and ``index``; the others depend on none of these but by rounding.

    Args:
        model: images float32 [B, C, H, W] in [0, 1] to logits [B, K]; see `on_pixels`.
        images: float [n, C, H, W] in [0, 1].
        labels: integers [n].
        name: one of `ATTACKS`.
        eps: largest change of a pixel; None: the attack's own. ``cw`` and ``semantic`` have none.
        seed: at least 0.
        index: int64 [n], each image's number in its set, which its random shifts are drawn by; None: 0 to n - 1.
        batch_size: images at a time.
        progress: show a bar.
        **budget: the attack's other settings.

    Raises:
        InputError: any argument out of its range, no logits [B, K], or a library that is missing.

    Warns:
        AttackWarning: nothing was fooled; `AttackResult.adversarial` then raises.
    """
    spent = budget_of(name, {"eps": eps, **budget})
    index = _check(model, images, labels, name, seed, index, batch_size)
    device = next((p.device for p in model.parameters()), images.device)
    x, y = images.detach().float(), labels.to("cpu", torch.int64)
    cuda = [device] if device.type == "cuda" else []
    with frozen(model), torch.random.fork_rng(devices=cuda):
        before = _predict(model, x, batch_size, device, y)
        out, chosen = x.clone(), (before == y).nonzero()[:, 0]
        with SampleProgress(len(chosen), progress, doing=name) if progress else nullcontext() as bar:
            for rows in chosen.split(batch_size) if len(chosen) else ():
                torch.manual_seed(seed + int(rows[0]))
                there = x[rows].to(device), y[rows].to(device)
                out[rows] = _run(name, model, *there, spent, seed, index[rows]).detach().cpu()
                if bar is not None:
                    bar.advance(len(rows))
        after = _predict(model, out, batch_size, device, y)
    change = (out - x).flatten(1)
    result = AttackResult(
        name,
        out,
        y,
        (before == y) & (after != y),
        before,
        after,
        change.abs().amax(1),
        change.norm(dim=1),
        {**spent, "seed": seed},
    )
    if not bool(result.success.any()):
        warnings.warn(_none_fooled(result), AttackWarning, stacklevel=2)
    return result


def _run(
    name: str, model: nn.Module, x: Tensor, y: Tensor, budget: dict[str, Any], seed: int, index: Tensor
) -> Tensor:
    if name == "semantic":
        return shift_hue_saturation(model, x, y, int(budget["trials"]), seed, index)
    if name == "cw":
        return carlini_wagner(model, x, y, **budget)
    try:
        import torchattacks
    except ImportError as error:
        raise InputError(
            f"{name}: needs torchattacks, which cannot be imported ({error}): pip install torchattacks~=3.3.0 scipy tqdm"
        ) from error
    kinds = {"fgsm": "FGSM", "bim": "BIM", "iterll": "BIM", "pgd": "PGD"}
    with redirect_stdout(io.StringIO()):  # it prints what it is set to
        attacker = getattr(torchattacks, kinds[name])(model, **budget)
        if name == "iterll":
            attacker.set_mode_targeted_least_likely()
    adversarial: Tensor = attacker(x, y)
    return adversarial


@torch.no_grad()
def _predict(model: nn.Module, x: Tensor, batch_size: int, device: torch.device, labels: Tensor) -> Tensor:
    found = []
    for part in x.split(batch_size):
        logits = model(part.to(device))
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(part):
            raise InputError(f"model: returned {describe(logits)}; wanted logits [{len(part)}, K]")
        if int(labels.max()) >= logits.shape[1]:
            raise InputError(
                f"labels: got {int(labels.max())}; wanted 0 to {logits.shape[1] - 1}, the model's classes"
            )
        found.append(logits.argmax(1).cpu())
    return torch.cat(found)


def _check(
    model: object, images: Tensor, labels: Tensor, name: str, seed: int, index: Tensor | None, batch_size: int
) -> Tensor:
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model: got {describe(model)}; wanted a torch.nn.Module that takes pixels in [0, 1]"
        )
    channels = "3" if name == "semantic" else "C"
    wanted = f"a float tensor [n, {channels}, H, W] in [0, 1]"
    if (
        not isinstance(images, Tensor)
        or not images.is_floating_point()
        or images.dim() != 4
        or images.numel() == 0
        or (name == "semantic" and images.shape[1] != 3)
    ):
        raise InputError(f"images: got {describe(images)}; wanted {wanted}")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # NaN too
        raise InputError(f"images: got values from {low:.3g} to {high:.3g}; wanted {wanted}; see on_pixels")
    n = len(images)
    if (
        not isinstance(labels, Tensor)
        or labels.shape != (n,)
        or labels.is_floating_point()
        or labels.dtype == torch.bool
        or int(labels.min()) < 0
    ):
        least = (
            f" with values from {int(labels.min())}" if isinstance(labels, Tensor) and labels.numel() else ""
        )
        raise InputError(f"labels: got {describe(labels)}{least}; wanted integers [{n}], at least 0")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed: got {describe(seed)}; wanted an integer from 0 to 2**63 - 1")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size: got {describe(batch_size)}; wanted an integer, at least 1")
    if index is None:
        return torch.arange(n)
    if (
        not isinstance(index, Tensor)
        or index.dtype != torch.int64
        or index.shape != (n,)
        or int(index.min()) < 0
    ):
        raise InputError(f"index: got {describe(index)}; wanted int64 [{n}], at least 0")
    return index.cpu()


def _none_fooled(result: AttackResult) -> str:
    n = int(result.right_before.sum())
    if not n:
        return f"attack: {result.name} had no image to fool: the model gets all {len(result.labels)} wrong as they are"
    spent = ", ".join(f"{key} {value:.4g}" for key, value in result.budget.items())
    return f"attack: {result.name} ({spent}) fooled none of the {n} images that were right; wanted a larger budget"
