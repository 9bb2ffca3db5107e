"""One call for every set of images on disk."""

from __future__ import annotations

import warnings
from pathlib import Path

from gradfast.errors import InputError, describe
from gradfast.places import as_path

from .corrupted import CifarCorruptions, CureTsrImages, is_cifar_c, is_cure_tsr
from .folder import ImageFolder
from .idx import IdxImages, has_idx
from .images import Preprocess
from .imageset import ImageSet, PathType
from .known import where_to_get
from .noise import NoiseImages
from .parquet import ImageParquet
from .pixels import NpzImages
from .vision import TorchvisionImages

__all__ = ["ConversionWarning", "open_images"]

_WANTED = (
    "wanted an image folder, Parquet, .npz, a folder of *-ubyte files, torchvision:NAME:ROOT, "
    "cifar10c:ROOT:CORRUPTION:LEVEL, curetsr:ROOT:CHALLENGE:LEVEL or noise:KIND:COUNT"
)


class ConversionWarning(UserWarning):
    """The images of a set are grey, coloured or of a size other than what was asked for, and are converted."""


def open_images(
    spec: PathType,
    preprocess: Preprocess | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    on_error: str = "raise",
) -> ImageSet:
    """Opens a set of images that is on disk. Nothing is downloaded.

    Args:
        spec: one of

            - an image folder; a ``.parquet`` file or a folder of them, also by URL (``s3://...``); a ``.npz`` file;
            - a folder of ``*-ubyte`` or ``*-ubyte.gz`` files (MNIST's layout), or one file of images;
            - ``"torchvision:NAME:ROOT"``, e.g. ``"torchvision:CIFAR10:/data"``;
            - ``"cifar10c:ROOT:CORRUPTION:LEVEL"``, the level optional: CIFAR-10-C's or CIFAR-100-C's folder;
            - ``"curetsr:ROOT:CHALLENGE:LEVEL"``, both optional; or just a folder of CURE-TSR;
            - ``"noise:uniform:COUNT:SEED"`` or ``"noise:gaussian:COUNT:SEED"``, the seed optional.
        preprocess: default: RGB, as large as stored, pixels in [0, 1].
        split: of ``.npz`` and idx files that hold several, of a folder of Parquet whose files are named by split
            (``train-00000-of-00002.parquet``), and of torchvision's data sets.
        limit: keep the first so many images; None keeps all.
        on_error: of an image that cannot be read: "raise", when it is asked for; or "flag": it is one of NaN with the label -1, which
            `FeatureExtractor` flags.

    Raises:
        InputError: nothing there that can be read in one of these ways; for a set that is known by its name, the
            message says where it is to be had. Or another ``on_error``.

    Warns:
        ConversionWarning: once, if ``preprocess`` changes the channels or the size of the first image.
    """
    if on_error not in ("raise", "flag"):
        raise InputError(f"on_error: got {describe(on_error)}; wanted 'raise' or 'flag'")
    images = _open(str(spec), preprocess or Preprocess(), split, limit)
    images.on_error = on_error
    changed = images.conversions()
    if changed:
        warnings.warn(f"{spec}: images are converted, {changed}", ConversionWarning, stacklevel=2)
    return images


def _open(text: str, preprocess: Preprocess, split: str, limit: int | None) -> ImageSet:
    scheme, colon, rest = text.partition(":")
    if colon and scheme in ("torchvision", "cifar10c", "curetsr", "noise") and not Path(text).exists():
        return _by_scheme(scheme, rest, text, preprocess, split, limit)
    path = as_path(text)
    if path.is_dir():
        return _folder(path, preprocess, split, limit)
    if not path.exists():
        known = where_to_get(path.name)
        raise InputError(f"source: there is no {path}; {known or _WANTED}")
    if path.suffix == ".npz":
        return NpzImages(path, preprocess, limit, split)
    if path.suffix in (".parquet", ".pq"):
        return ImageParquet(path, preprocess, limit)
    if path.name.removesuffix(".gz").endswith("-ubyte"):
        return IdxImages(path, preprocess, limit)
    raise InputError(f"source: {path} is a file of unknown kind; {_WANTED}")


def _folder(path: Path, preprocess: Preprocess, split: str, limit: int | None) -> ImageSet:
    if next(path.glob("*.parquet"), None) is not None:
        return ImageParquet(path, preprocess, limit, split)
    if has_idx(path):
        return IdxImages(path, preprocess, limit, split)
    if is_cifar_c(path):
        names = sorted(file.stem for file in path.glob("*.npy") if file.name != "labels.npy")
        raise InputError(
            f"source: {path} holds corruptions; wanted cifar10c:{path}:CORRUPTION:LEVEL with one of {', '.join(names)}"
        )
    if is_cure_tsr(path):
        return CureTsrImages(path, None, None, preprocess, limit)
    return ImageFolder(path, preprocess, limit)


def _by_scheme(
    scheme: str, rest: str, text: str, preprocess: Preprocess, split: str, limit: int | None
) -> ImageSet:
    if scheme == "torchvision":
        name, _, root = rest.partition(":")
        if not name or not root:
            raise InputError(
                f'source: got {text!r}; wanted "torchvision:NAME:ROOT", e.g. "torchvision:CIFAR10:/data"'
            )
        return TorchvisionImages(name, root, preprocess, limit, split)
    parts = rest.split(":")
    if scheme == "noise":
        if len(parts) not in (2, 3):
            raise InputError(f'source: got {text!r}; wanted "noise:KIND:COUNT" or "noise:KIND:COUNT:SEED"')
        numbers = [_integer(text, part) for part in parts[1:]]
        return NoiseImages(parts[0], numbers[0], preprocess, limit, *numbers[1:])
    root, *options = parts
    if not root or len(options) > 2 or (scheme == "cifar10c" and not options):
        raise InputError(
            f'source: got {text!r}; wanted "cifar10c:ROOT:CORRUPTION:LEVEL" or "curetsr:ROOT:CHALLENGE:LEVEL"'
        )
    if not Path(root).is_dir():
        raise InputError(f"source: there is no folder {root}; {where_to_get(scheme)}")
    kind = options[0] if options else None
    level = _integer(text, options[1]) if len(options) == 2 else None
    if scheme == "cifar10c":
        return CifarCorruptions(root, kind or "", level, preprocess, limit)
    return CureTsrImages(root, kind, level, preprocess, limit)


def _integer(text: str, part: str) -> int:
    try:
        return int(part)
    except ValueError:
        raise InputError(f"source: got {describe(part)} in {text!r}; wanted an integer") from None
