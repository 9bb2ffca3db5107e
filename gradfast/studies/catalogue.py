"""The sets of the tutorial's tables: what they are called on disk, and where to get them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradfast.data.known import where_to_get
from gradfast.errors import InputError

__all__ = ["SETS", "Located", "MissingSetError", "SetEntry", "locate", "locate_file"]


class MissingSetError(InputError):
    """A set or a file of weights that is not on disk; the message says where to get it."""


@dataclass(frozen=True)
class SetEntry:
    """A set of images.

    Attributes:
        name: what tables and options call it.
        data: what it is called under a data root, tried in this order: paths, "torchvision:NAME:FOLDER" or
            "curetsr:FOLDER:none".
        where: how to get it; "": as `gradfast.data.known` has it.
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


# What torchvision's sets look for under their root.
_MARKERS = {
    "CIFAR10": "cifar-10-batches-py", "SVHN": "test_32x32.mat", "MNIST": "MNIST/raw", "DTD": "dtd",
    "FashionMNIST": "FashionMNIST/raw", "Omniglot": "omniglot-py",
}  # fmt: skip
_CIFAR10 = ("torchvision:CIFAR10:cifar10", "torchvision:CIFAR10:.")
_SVHN = ("torchvision:SVHN:svhn", "torchvision:SVHN:.")
_MNIST = ("torchvision:MNIST:mnist", "torchvision:MNIST:.")

_ALL = (
    SetEntry("cifar10", ("cifar10-test.parquet", *_CIFAR10), paper="CIFAR-10"),
    SetEntry("cifar10-train", _CIFAR10, split="train"),
    SetEntry("cifar10-grey", ("cifar10-test.parquet", *_CIFAR10), grey=True),
    SetEntry("tiny-imagenet", ("tiny-imagenet-32-val.parquet", "tiny-imagenet-200/val", "Imagenet_resize"),
             paper="TinyImageNet"),
    SetEntry("svhn", _SVHN, paper="SVHN"),
    SetEntry("svhn-train", _SVHN, split="train"),
    SetEntry("lsun", ("LSUN_resize", "LSUN"), paper="LSUN"),
    SetEntry("mnist", ("mnist-10k.parquet", *_MNIST)),
    SetEntry("mnist-train", _MNIST, split="train"),
    SetEntry("omniglot", ("omniglot-small1.parquet", "torchvision:Omniglot:omniglot", "torchvision:Omniglot:.")),
    SetEntry("fashion-mnist", ("torchvision:FashionMNIST:fashion-mnist", "torchvision:FashionMNIST:.")),
    SetEntry("textures", ("torchvision:DTD:dtd", "torchvision:DTD:.")),
    SetEntry("gaussian-noise", noise="gaussian"),
    SetEntry("uniform-noise", noise="uniform"),
    SetEntry("cifar10-c", ("CIFAR-10-C",), paper="CIFAR-10-C"),
    SetEntry("cure-tsr", ("curetsr:CURE-TSR/Real_Test:none", "curetsr:Real_Test:none"), paper="CURE-TSR"),
    SetEntry("cure-tsr-train", ("curetsr:CURE-TSR/Real_Train:none", "curetsr:Real_Train:none")),
)  # fmt: skip
SETS: Mapping[str, SetEntry] = {entry.name: entry for entry in _ALL}


def locate(entry: SetEntry, places: Sequence[Path], given: Mapping[str, str]) -> Located:
    """Finds a set as it was given by name, or under the places (data roots, a declaration's folder), in their order.

    Raises:
        MissingSetError: it is not there.
    """
    if entry.noise is not None:
        return Located(entry, None)
    if entry.name in given:
        return Located(entry, given[entry.name])
    for root in places:
        for candidate in entry.candidates():
            found = _under(root, candidate)
            if found is not None:
                return Located(entry, found)
    where = entry.where or where_to_get(re.sub("-(train|grey)$", "", entry.name))
    how = f"; {where}" if where else ""
    raise MissingSetError(
        f"the images of {entry.name} are not on disk: no {' or '.join(entry.candidates())} in {_listed(places)}; give --data "
        f"{entry.name}=PATH, or --root with the folder that they are in{how}"
    )


def locate_file(name: str, places: Sequence[Path], where: str) -> Path:
    """A file of weights, by its path or its name under one of the places; raises `MissingSetError`."""
    for path in (Path(name), *(place / name for place in places)):
        if path.is_file():
            return path
    how = f"; get it: {where}" if where else ""
    raise MissingSetError(
        f"the weights {name} are not on disk: looked in {_listed([Path(), *places])}; give --weights MODEL=FILE{how}"
    )


def _listed(places: Sequence[Path]) -> str:
    return (
        ", ".join("the working directory" if place == Path() else str(place) for place in places)
        or "no place"
    )


def _under(root: Path, candidate: str) -> str | None:
    scheme, *parts = candidate.split(":")
    if scheme == "curetsr":
        place = root / parts[0]
        return f"curetsr:{place}:{parts[1]}" if place.is_dir() else None
    if scheme != "torchvision":
        path = root / candidate
        return os.fspath(path) if path.exists() else None
    name, folder = parts
    place = root / folder
    return f"torchvision:{name}:{place}" if (place / _MARKERS.get(name, ".")).exists() else None
