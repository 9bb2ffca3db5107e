"""Where the sets of the field are to be had, for messages: gradfast itself fetches nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["KNOWN_SETS", "KnownSet", "where_to_get"]


@dataclass(frozen=True)
class KnownSet:
    """A set of images that others publish.

    Attributes:
        title: its name, and who made it.
        page: its home page.
        spec: how `open_images` takes it once it is on disk.
    """

    title: str
    page: str
    spec: str


KNOWN_SETS: dict[str, KnownSet] = {
    "cifar10": KnownSet("CIFAR-10 (Krizhevsky 2009)", "cs.toronto.edu/~kriz/cifar.html", "torchvision:CIFAR10:ROOT"),
    "cifar100": KnownSet(
        "CIFAR-100 (Krizhevsky 2009)", "cs.toronto.edu/~kriz/cifar.html", "torchvision:CIFAR100:ROOT"
    ),
    "svhn": KnownSet(
        "Street View House Numbers (Netzer et al. 2011)", "ufldl.stanford.edu/housenumbers", "torchvision:SVHN:ROOT"
    ),
    "lsun": KnownSet("LSUN (Yu et al. 2015)", "yf.io/p/lsun", "a folder of its images"),
    "dtd": KnownSet(
        "Describable Textures (Cimpoi et al. 2014)", "robots.ox.ac.uk/~vgg/data/dtd", "torchvision:DTD:ROOT"
    ),
    "tinyimagenet": KnownSet("Tiny ImageNet (Stanford CS231n)", "cs231n.stanford.edu", "a folder of its images"),
    "mnist": KnownSet("MNIST (LeCun et al. 1998)", "yann.lecun.com/exdb/mnist", "the folder of its *-ubyte files"),
    "fashionmnist": KnownSet(
        "Fashion-MNIST (Xiao et al. 2017)",
        "github.com/zalandoresearch/fashion-mnist, or Debian's package dataset-fashion-mnist",
        "the folder of its *-ubyte files",
    ),
    "omniglot": KnownSet(
        "Omniglot (Lake et al. 2015)", "github.com/brendenlake/omniglot", "torchvision:Omniglot:ROOT"
    ),
    "places365": KnownSet("Places365 (Zhou et al. 2017)", "places2.csail.mit.edu", "torchvision:Places365:ROOT"),
    "cifar10c": KnownSet(
        "CIFAR-10-C (Hendrycks and Dietterich 2019)", "zenodo.org/records/2535967", "cifar10c:ROOT:CORRUPTION:LEVEL"
    ),
    "curetsr": KnownSet(
        "CURE-TSR (Temel et al. 2017), on request", "github.com/olivesgatech/CURE-TSR", "curetsr:ROOT:CHALLENGE:LEVEL"
    ),
}  # fmt: skip

_ALIASES = {
    "textures": "dtd",
    "texture": "dtd",
    "streetviewhousenumbers": "svhn",
    "tinyimagenet200": "tinyimagenet",
}


def where_to_get(name: str) -> str | None:
    """One sentence on where a set is to be had and how it is opened then; None for a name that is not known.

    Args:
        name: such as "SVHN", "Tiny ImageNet", "tiny-imagenet-200" or "torchvision:SVHN:/data".
    """
    scheme, _, rest = name.partition(":")
    word = re.sub(r"[^a-z0-9]", "", (rest.partition(":")[0] if scheme == "torchvision" else name).lower())
    known = KNOWN_SETS.get(_ALIASES.get(word, word))
    if known is None:
        return None
    return f"{known.title} is to be had from {known.page}; open it as {known.spec}"
