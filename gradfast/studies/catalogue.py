"""The sets of the tutorial's tables: what they are called on disk, and where to get them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gradfast.errors import InputError

__all__ = ["SETS", "Located", "MissingSetError", "SetEntry", "locate", "locate_file"]


class MissingSetError(InputError):
    """A set or a file of weights that is not on disk; the message says where to get it."""


@dataclass(frozen=True)
class SetEntry:
    """A set of images.

    Attributes:
        name: what tables and options call it.
        data: what it is called under a data root, tried in this order: paths, or "torchvision:NAME:FOLDER"; a source
            that `gradfast.data.open_images` takes.
        where: how to get it.
        split: of torchvision's sets and of ``.npz`` files that have several.
        grey: turned to grey before it is given the model's channels.
        noise: "gaussian" or "uniform": made up, not read.
        compress: passed through JPEG as the in-distribution images were, if it was not.
        paper: what the tutorial calls it.
    """

    name: str
    data: tuple[str, ...] | str = ()
    where: str = ""
    split: str = "test"
    grey: bool = False
    noise: str | None = None
    compress: bool = True
    paper: str = ""

    def candidates(self) -> tuple[str, ...]:
        """Sources to try, the set's own name last."""
        listed = (self.data,) if isinstance(self.data, str) else self.data
        return (*listed, f"{self.name}.parquet", f"{self.name}.npz", self.name)


@dataclass(frozen=True)
class Located:
    """A set that is there: `source` is None for one that is made up."""

    entry: SetEntry
    source: str | None


def _known() -> Iterable[SetEntry]:
    torch = "torchvision.datasets.{}(ROOT, download=True)"
    cifar10 = torch.format("CIFAR10")
    yield SetEntry("cifar10", ("cifar10-test.parquet", "torchvision:CIFAR10:cifar10", "torchvision:CIFAR10:."),
                   cifar10, paper="CIFAR-10")  # fmt: skip
    yield SetEntry(
        "cifar10-train", ("torchvision:CIFAR10:cifar10", "torchvision:CIFAR10:."), cifar10, split="train"
    )
    yield SetEntry("cifar10-grey", ("cifar10-test.parquet", "torchvision:CIFAR10:cifar10", "torchvision:CIFAR10:."),
                   cifar10, grey=True)  # fmt: skip
    yield SetEntry("tiny-imagenet", ("tiny-imagenet-32-val.parquet", "tiny-imagenet-200/val", "Imagenet_resize"),
                   "http://cs231n.stanford.edu/tiny-imagenet-200.zip", paper="TinyImageNet")  # fmt: skip
    yield SetEntry(
        "svhn", ("torchvision:SVHN:svhn", "torchvision:SVHN:."), torch.format("SVHN"), paper="SVHN"
    )
    yield SetEntry(
        "svhn-train", ("torchvision:SVHN:svhn", "torchvision:SVHN:."), torch.format("SVHN"), split="train"
    )
    yield SetEntry("lsun", ("LSUN_resize", "LSUN"), "https://github.com/facebookresearch/odin (LSUN, resized)",
                   paper="LSUN")  # fmt: skip
    mnist = ("mnist-10k.parquet", "torchvision:MNIST:mnist", "torchvision:MNIST:.")
    yield SetEntry("mnist", mnist, torch.format("MNIST"))
    yield SetEntry(
        "mnist-train",
        ("torchvision:MNIST:mnist", "torchvision:MNIST:."),
        torch.format("MNIST"),
        split="train",
    )
    yield SetEntry("omniglot", ("omniglot-small1.parquet", "torchvision:Omniglot:omniglot", "torchvision:Omniglot:."),
                   torch.format("Omniglot"))  # fmt: skip
    yield SetEntry("fashion-mnist", ("torchvision:FashionMNIST:fashion-mnist", "torchvision:FashionMNIST:."),
                   torch.format("FashionMNIST"))  # fmt: skip
    yield SetEntry("textures", ("torchvision:DTD:dtd", "torchvision:DTD:."), torch.format("DTD"))
    yield SetEntry("gaussian-noise", noise="gaussian")
    yield SetEntry("uniform-noise", noise="uniform")
    yield SetEntry("cifar10-c", ("CIFAR-10-C",), "https://zenodo.org/records/2535967", paper="CIFAR-10-C")
    yield SetEntry(
        "cure-tsr", ("CURE-TSR", "Real_Test"), "https://github.com/olivesgatech/CURE-TSR", paper="CURE-TSR"
    )
    yield SetEntry(
        "cure-tsr-train", ("CURE-TSR/Real_Train", "Real_Train"), "https://github.com/olivesgatech/CURE-TSR"
    )


SETS: Mapping[str, SetEntry] = {entry.name: entry for entry in _known()}


def locate(entry: SetEntry, roots: Iterable[Path], given: Mapping[str, str]) -> Located:
    """Finds a set under the data roots, or as it was given by name.

    Raises:
        MissingSetError: it is not there.
    """
    if entry.noise is not None:
        return Located(entry, None)
    if entry.name in given:
        return Located(entry, given[entry.name])
    for root in roots:
        for candidate in entry.candidates():
            found = _under(root, candidate)
            if found is not None:
                return Located(entry, found)
    how = f"; get it: {entry.where}" if entry.where else ""
    raise MissingSetError(
        f"the images of {entry.name} are not on disk{how}; then --data {entry.name}=PATH, or put it under a data root"
    )


def locate_file(name: str, roots: Iterable[Path], where: str) -> Path:
    """A file of weights, by its path or its name under a data root; raises `MissingSetError`."""
    for path in (Path(name), *(root / name for root in roots)):
        if path.is_file():
            return path
    how = f"; get it: {where}" if where else ""
    raise MissingSetError(f"the weights {name} are not on disk{how}")


def _under(root: Path, candidate: str) -> str | None:
    if not candidate.startswith("torchvision:"):
        path = root / candidate
        return os.fspath(path) if path.exists() else None
    _, name, folder = candidate.split(":", 2)
    # Each torchvision set has its own layout: only it can say whether the folder holds it.
    markers = {
        "CIFAR10": "cifar-10-batches-py", "SVHN": "test_32x32.mat", "MNIST": "MNIST/raw", "DTD": "dtd",
        "FashionMNIST": "FashionMNIST/raw", "Omniglot": "omniglot-py",
    }  # fmt: skip
    place = root / folder
    return f"torchvision:{name}:{place}" if (place / markers.get(name, ".")).exists() else None
