"""Sets of images for one-class studies: every image in memory, uint8, at 28 x 28 as in the paper."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from gradfast.data import Preprocess, open_images
from gradfast.data.opening import ConversionWarning
from gradfast.errors import InputError
from gradfast.gradcon.training import one_class

__all__ = ["SIZE", "ClassImages", "OneClass", "digits", "from_spec", "split_off"]

SIZE = 28
_FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
_CIFAR10 = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class ClassImages:
    """Labelled images: uint8 [n, C, 28, 28], int64 [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class OneClass:
    """A data set for one-class studies: any of its classes is the normal one, the others are anomalies.

    Attributes:
        name: for tables.
        train: of which only the normal class is seen.
        test: held out.
        classes: names by label.
        about: where it comes from and how it was split, for the notes below a table.
    """

    name: str
    train: ClassImages
    test: ClassImages
    classes: tuple[str, ...]
    about: str

    def normal(self, label: int, limit: int | None = None, seed: int = 0) -> Tensor:
        """The training images of a class; ``limit`` of them, drawn by ``seed``."""
        images = one_class(self.train.images, self.train.labels, label)
        if limit is not None and limit < len(images):
            images = images[torch.randperm(len(images), generator=Generator().manual_seed(seed))[:limit]]
        return images

    def tested(self, label: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """All test images of the class, and as many others drawn from the other classes, as the published code does."""
        inside = one_class(self.test.images, self.test.labels, label)
        others = torch.nonzero(self.test.labels != label)[:, 0]
        if not len(others):
            raise InputError(f"label: {self.name} has no test images of other classes than {label}")
        drawn = torch.randperm(len(others), generator=Generator().manual_seed(seed))[: len(inside)]
        return inside, self.test.images[others[drawn]]


def from_spec(
    name: str,
    train: str,
    test: str | None,
    *,
    channels: int,
    cache: Path | None = None,
    classes: tuple[str, ...] | None = None,
) -> OneClass:
    """From whatever `gradfast.data.open_images` opens; without ``test``, a fifth of the images is split off for it.

    One ``train`` and ``test`` alike is a set that holds both (Fashion-MNIST's folder of ``*-ubyte.gz`` files).

    ``cache``: a folder for the decoded images.
    """
    first = _decoded(train, "train", channels, cache)
    about = f"{name}: {len(first):,} images of {_name(train)}"
    if test is None:
        first, last = split_off(first)
        about += f", a fifth of each class ({len(last):,}) kept for the test"
    else:
        last = _decoded(test, "test", channels, cache)
        about += f", {len(last):,} of {_name(test)} for the test"
    found = tuple(map(str, range(int(first.labels.max()) + 1)))
    if classes is None:
        classes = {"CIFAR-10": _CIFAR10, "Fashion-MNIST": _FASHION}.get(name, found)
    return OneClass(name, first, last, classes, f"{about}; resized to {SIZE} x {SIZE}.")


def digits() -> OneClass:
    """scikit-learn's 1,797 digits, 8 x 8, put in the middle of 28 x 28 at twice the size."""
    from sklearn.datasets import load_digits

    stored = load_digits()
    small = torch.from_numpy(stored.images.astype(np.float32) / 16 * 255).round().byte()
    large = small.repeat_interleave(3, 1).repeat_interleave(3, 2)
    images = torch.nn.functional.pad(large, (2, 2, 2, 2))[:, None]
    train, test = split_off(ClassImages(images, torch.from_numpy(stored.target).long()))
    about = "scikit-learn's 1,797 digits (8 x 8, each pixel thrice, bordered), a fifth of each class kept for the test."
    return OneClass("digits", train, test, tuple(map(str, range(10))), about)


def split_off(data: ClassImages, share: float = 0.2, seed: int = 0) -> tuple[ClassImages, ClassImages]:
    """Two sets, the second with a share of every class."""
    order = torch.randperm(len(data), generator=Generator().manual_seed(seed))
    kept, held = [], []
    for label in data.labels.unique().tolist():
        rows = order[data.labels[order] == label]
        cut = round(len(rows) * share)
        held.append(rows[:cut])
        kept.append(rows[cut:])
    first, last = (torch.cat(rows).sort().values for rows in (kept, held))
    return ClassImages(data.images[first], data.labels[first]), ClassImages(
        data.images[last], data.labels[last]
    )


def _decoded(spec: str, split: str, channels: int, cache: Path | None) -> ClassImages:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)  # the study says so itself
        stored = open_images(spec, Preprocess(size=SIZE, channels=channels), split=split)
    kept = cache / f"{stored.fingerprint()[:16]}-{channels}.safetensors" if cache is not None else None
    if kept is not None and kept.exists():
        found = load_file(kept)
        return ClassImages(found["images"], found["labels"])
    images = torch.empty(len(stored), channels, SIZE, SIZE, dtype=torch.uint8)
    labels = torch.empty(len(stored), dtype=torch.int64)
    for i in range(len(stored)):
        x, labels[i] = stored[i]
        images[i] = (x * 255).round().byte()
    if int(labels.min()) < 0:
        raise InputError(f"{split}: {spec} has images without a label; wanted a labelled set")
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch = kept.with_suffix(".part")
        save_file({"images": images, "labels": labels}, scratch)
        scratch.replace(kept)
    return ClassImages(images, labels)


def _name(spec: str) -> str:
    """The end of a path, which says enough and tells nothing of where it is."""
    return spec.rstrip("/").rsplit("/", 1)[-1]
