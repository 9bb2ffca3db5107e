"""Sets of images for one-class studies: every image in memory, uint8, at 28 x 28 as in the paper."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from gradfast.data import Preprocess, open_images
from gradfast.errors import InputError
from gradfast.gradcon.training import one_class

__all__ = ["SIZE", "ClassImages", "OneClass", "digits", "fashion_mnist", "from_spec", "halves", "split_off"]

SIZE = 28
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
    """From whatever `gradfast.data.open_images` opens; without ``test``, a fifth of the training images is split off.

    ``cache``: a folder for the decoded images.
    """
    first = _decoded(train, "train", channels, cache)
    about = f"{name}: {len(first):,} images of {train.rsplit('/', 1)[-1]}"
    if test is None:
        first, last = split_off(first)
        about += f", a fifth of each class ({len(last):,}) kept for the test"
    else:
        last = _decoded(test, "test", channels, cache)
        about += f", {len(last):,} of {test.rsplit('/', 1)[-1]} for the test"
    found = tuple(map(str, range(int(first.labels.max()) + 1)))
    if classes is None and name.lower().startswith("cifar-10"):
        classes = _CIFAR10
    return OneClass(name, first, last, classes or found, f"{about}; resized to {SIZE} x {SIZE}.")


def fashion_mnist(folder: Path, limit: int | None = None) -> OneClass:
    """Fashion-MNIST from the four .gz files that Debian's ``dataset-fashion-mnist`` and its authors give.

    ``limit``: training images kept, the first ones.

    Raises:
        InputError: a file is missing; the message says where to get it.
    """
    parts = {}
    for part in ("train", "t10k"):
        images, labels = (_idx(folder / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
        parts[part] = ClassImages(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())
    train = parts["train"]
    if limit is not None:
        train = ClassImages(train.images[:limit], train.labels[:limit])
    names = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
    about = (
        f"Fashion-MNIST (Debian's dataset-fashion-mnist): {len(train):,} training and "
        f"{len(parts['t10k']):,} test images, 28 x 28. The paper splits it otherwise (five folds)."
    )
    return OneClass("Fashion-MNIST", train, parts["t10k"], names, about)


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


def halves(images: Tensor) -> tuple[Tensor, Tensor]:
    """Every other image, and the rest."""
    return images[::2], images[1::2]


def _decoded(spec: str, split: str, channels: int, cache: Path | None) -> ClassImages:
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


def _idx(path: Path) -> NDArray[np.uint8]:
    """An array in the format of MNIST's files: two zeros, type 8 (bytes), the number of dimensions, the sizes, the bytes."""
    if not path.is_file():
        raise InputError(
            f"source: there is no {path}; Debian's package dataset-fashion-mnist has it, and "
            "https://github.com/zalandoresearch/fashion-mnist"
        )
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise InputError(f"source: {path} is not an IDX file of bytes")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    array: NDArray[np.uint8] = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()
    return array
