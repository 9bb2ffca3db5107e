"""The training loop of GradCON: seeded, resumable bit for bit, with a checkpoint at every best epoch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from gradfast.errors import InputError, describe
from gradfast.gradcon.autoencoders import as_float, check_images, initial_weights
from gradfast.gradcon.checkpoint import PathType, read_checkpoint, restore, write_checkpoint
from gradfast.gradcon.constraint import GradConLoss, GradConTerms

__all__ = [
    "CollapsedWarning",
    "Epoch",
    "GradConTrainer",
    "TrainingSettings",
    "as_float",
    "image_sum",
    "one_class",
    "split_rows",
]


# By then Adam at the paper's rate has learned the mean image, if it learns anything; shorter trainings have not had the time.
_STEPS_TO_LEARN = 200
_CHUNK = 1024


class CollapsedWarning(UserWarning):
    """A training reconstructs no better than the mean of its images would: the model gives nearly the same output for all of them."""


@dataclass(frozen=True)
class TrainingSettings:
    """The paper's settings: Adam, learning rate 1e-3, batches of 64, constraint weight 0.03.

    ``weight`` zero is plain training that keeps a reference. ``momentum``, ``reference`` and ``per_image`` as for `GradConLoss`. ``validation`` is the share of the images that is held out, to choose
    the best epoch by its loss. ``seed`` draws the held-out images, the initial weights (if the trainer makes the model) and the
    order of the batches.
    """

    learning_rate: float = 1e-3
    batch_size: int = 64
    weight: float = 0.03
    momentum: float | None = None
    reference: str = "total"
    per_image: bool = False
    validation: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """Means over one epoch's training batches; ``validation`` is the total loss on the held-out images.

    ``cosines`` are by tensor, ``seconds`` the time that the epoch took.
    """

    number: int
    total: float
    reconstruction: float
    divergence: float
    constraint: float
    cosines: tuple[float, ...]
    validation: float
    seconds: float


def split_rows(count: int, settings: TrainingSettings) -> tuple[Tensor, Tensor]:
    """Which of ``count`` images, at least 1, are held out and which are trained on; int64, drawn by the settings' seed."""
    order = torch.randperm(count, generator=Generator().manual_seed(settings.seed))
    held = min(round(count * settings.validation), count - 1)
    return order[:held], order[held:]


@dataclass
class GradConTrainer:
    """Trains an encoder-decoder on normal images.

    ::

        trainer = GradConTrainer(ConvAutoencoder(1), images)
        trainer.fit(epochs=20)
        scores = GradConScorer(trainer.model, trainer.loss)(other_images)

    Args:
        model: as for `GradConLoss`.
        images: [n, C, H, W], uint8 (0 to 255) or floating, all normal.
        settings: of the training.
        decoder: which parameters are the decoder's, as for `GradConLoss`.
        directory: where ``last.safetensors`` (each epoch) and ``best.safetensors`` (each best epoch) go; None writes nothing. A
            training that is found there is taken up.

    Raises:
        InputError: images that cannot be used, settings out of range, or a checkpoint of another training.
    """

    model: nn.Module
    images: Tensor
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    decoder: str = "decoder"
    directory: PathType | None = None

    def __post_init__(self) -> None:
        s = self.settings
        if not 0 <= s.validation < 1 or s.batch_size < 1 or s.learning_rate <= 0:
            raise InputError(f"settings: got {s}; wanted a validation share in [0, 1), batches of at least 1")
        self.device = next(self.model.parameters()).device
        check_images(self.model, as_float(self.images[:1]) if len(self.images) else self.images.float())
        self.held_out, self.rows = split_rows(len(self.images), s)
        self.loss = GradConLoss(
            self.model,
            self.decoder,
            weight=s.weight,
            momentum=s.momentum,
            reference=s.reference,
            per_image=s.per_image,
        ).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=s.learning_rate)
        self.history: list[Epoch] = []
        # The order of the batches and a VAE's draws have a stream of their own, which a checkpoint keeps.
        self._random = Generator().manual_seed(s.seed + 1)
        if self.directory is not None and (Path(self.directory) / "last.safetensors").exists():
            self._resume(Path(self.directory) / "last.safetensors")

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.images.shape))
        return f"GradConTrainer({type(self.model).__name__}, {shape} images, {len(self.history)} epochs, {self.settings})"

    @property
    def best(self) -> Epoch | None:
        """The epoch with the lowest validation loss (training loss where nothing is held out)."""
        return min(self.history, key=lambda e: e.validation, default=None)

    def fit(self, epochs: int, tell: Callable[[Epoch], None] = lambda epoch: None) -> list[Epoch]:
        """Trains until there are ``epochs`` in all; ``tell`` hears of each.

        Warns:
            CollapsedWarning: after 200 steps or more the last epoch's reconstruction error is that of the mean image, or above.
        """
        before = len(self.history)
        while len(self.history) < epochs:
            epoch = self._epoch()
            self.history.append(epoch)
            if self.directory is not None:
                # The best goes first: a training that is killed in between runs this epoch again, and writes both.
                if self.best is epoch:
                    self._write(Path(self.directory) / "best.safetensors")
                self._write(Path(self.directory) / "last.safetensors")
            tell(epoch)
        if len(self.history) > before:
            self._warn_if_collapsed()
        return self.history

    def _warn_if_collapsed(self) -> None:
        steps = len(self.history) * -(-len(self.rows) // self.settings.batch_size)
        if steps < _STEPS_TO_LEARN:
            return
        error, of_mean = self.history[-1].reconstruction, _variance(self.images, self.rows)
        if error >= of_mean:
            warnings.warn(
                f"after {steps} steps the reconstruction error is {error:.4f}, and that of the images' mean would be {of_mean:.4f}: the training has "
                "collapsed, and its scores mean little; wanted a model that begins at the images' brightness (mean=brightness(images))",
                CollapsedWarning,
                stacklevel=3,
            )

    def _epoch(self) -> Epoch:
        started = time.perf_counter()
        self.model.train()
        self.loss.train()
        order = self.rows[torch.randperm(len(self.rows), generator=self._random)]
        sums, count = _Sums(), 0
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(torch.randint(2**62, (), generator=self._random)))
            for rows in order.split(self.settings.batch_size):
                self.optimizer.zero_grad()
                terms = self.loss(self._batch(rows))
                terms.total.backward()
                self.optimizer.step()
                sums.add(terms, len(rows))
                count += len(rows)
        means = sums.means(count)
        validation = self._validate() if len(self.held_out) else means["total"]
        seconds = time.perf_counter() - started
        cosines = tuple(means.pop("cosines"))
        return Epoch(len(self.history) + 1, **means, cosines=cosines, validation=validation, seconds=seconds)

    @torch.no_grad()
    def _validate(self) -> float:
        self.model.eval()
        self.loss.eval()
        sums = _Sums()
        for rows in self.held_out.split(self.settings.batch_size):
            sums.add(self.loss(self._batch(rows)), len(rows))
        return float(sums.means(len(self.held_out))["total"])

    def _batch(self, rows: Tensor) -> Tensor:
        return as_float(self.images[rows]).to(self.device)

    def _identity(self) -> dict[str, Any]:
        return {
            "settings": asdict(self.settings),
            "images": [list(self.images.shape), image_sum(self.images)],
            "decoder": self.decoder,
            "init": initial_weights(self.model),
        }

    def _write(self, path: Path) -> None:
        facts = {**self._identity(), "history": [asdict(e) for e in self.history]}
        write_checkpoint(
            path, self.model, self.loss, self.optimizer, {"batches": self._random.get_state()}, facts
        )

    def _resume(self, path: Path) -> None:
        checkpoint = read_checkpoint(path)
        for name, own in self._identity().items():
            if name not in checkpoint.facts and name == "init":  # written by a version that did not say
                continue
            given = checkpoint.facts.get(name)
            if name == "settings" and isinstance(given, dict):  # as above
                given = {**asdict(TrainingSettings()), **given}
            if given != own:
                raise InputError(
                    f"directory: {path} holds a training with {name} {given}; this one has {own}; "
                    "wanted the same, or another directory"
                )
        restore(checkpoint, self.model, self.loss, self.optimizer)
        self._random.set_state(checkpoint.part("random")["batches"])
        self.history = [Epoch(**{**e, "cosines": tuple(e["cosines"])}) for e in checkpoint.facts["history"]]


class _Sums:
    """Sums over batches, weighted by their sizes."""

    def __init__(self) -> None:
        self._sums: list[Tensor] | None = None

    def add(self, terms: GradConTerms, count: int) -> None:
        values = [t.detach().double() * count for t in terms[:5]]
        self._sums = (
            values if self._sums is None else [a + b for a, b in zip(self._sums, values, strict=True)]
        )

    def means(self, count: int) -> dict[str, Any]:
        assert self._sums is not None
        return {name: (t / count).tolist() for name, t in zip(GradConTerms._fields, self._sums, strict=False)}


def one_class(images: Tensor, labels: Tensor, label: int) -> Tensor:
    """The images of one class.

    Raises:
        InputError: there is none.
    """
    rows = labels == label
    if not bool(rows.any()):
        known = ", ".join(map(str, labels.unique().tolist()[:12])) or "none"
        raise InputError(f"label: got {describe(label)}, a class with no images; wanted one of {known}")
    return images[rows]


def _variance(images: Tensor, rows: Tensor) -> float:
    """Mean squared distance of some of the images to their mean, over all pixels."""
    sums = squares = torch.zeros(images.shape[1:], dtype=torch.float64)
    for part in rows.split(_CHUNK):
        x = as_float(images[part]).double().cpu()
        sums, squares = sums + x.sum(0), squares + x.square().sum(0)
    return float((squares / len(rows) - (sums / len(rows)).square()).mean())


def image_sum(images: Tensor) -> float:
    """Tells one set of images from another."""
    return float(images.double().sum())
