"""Published sets of corrupted images: CIFAR-10-C's arrays, and CURE-TSR's files, which say in their names what they are."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfast.errors import InputError, describe

from .folder import ImageFiles
from .images import Preprocess
from .imageset import ImageSet, PathType

__all__ = ["CHALLENGES", "SIGNS", "CifarCorruptions", "CureTsrImages", "is_cifar_c", "is_cure_tsr"]

_LEVELS = 5
_LABELS = "labels.npy"


class CifarCorruptions(ImageSet):
    """One corruption of CIFAR-10-C or CIFAR-100-C (Hendrycks and Dietterich, ICLR 2019).

    The folder holds ``labels.npy`` and, per corruption, ``NAME.npy``: uint8 [5 n, 32, 32, 3], the n test images at
    level 1, then at level 2, and so on. Files are mapped, not read whole.

    Args:
        root: the folder.
        corruption: the name of one of its files, such as "gaussian_noise".
        level: 1 to 5; None: all five, one after the other.
        preprocess: as for all image sets.
        limit: as for all image sets.

    Raises:
        InputError: no such folder, corruption or level, or arrays of another shape.
    """

    def __init__(
        self,
        root: PathType,
        corruption: str,
        level: int | None,
        preprocess: Preprocess,
        limit: int | None = None,
    ) -> None:
        super().__init__(preprocess, limit)
        root = Path(root)
        if not is_cifar_c(root):
            raise InputError(
                f"source: {root} holds no {_LABELS}; wanted the folder of CIFAR-10-C's .npy files"
            )
        names = sorted(path.stem for path in root.glob("*.npy") if path.name != _LABELS)
        if corruption not in names:
            raise InputError(
                f"corruption: got {describe(corruption)}; {root} has {', '.join(names) or 'none'}"
            )
        if level is not None and level not in range(1, _LEVELS + 1):
            raise InputError(f"level: got {describe(level)}; wanted 1 to {_LEVELS}, or None for all")
        self._path = root / f"{corruption}.npy"
        pixels, labels = _mapped(self._path), _mapped(root / _LABELS)
        if (
            pixels.dtype != np.uint8
            or pixels.ndim != 4
            or pixels.shape[3] != 3
            or not len(pixels)
            or len(pixels) % _LEVELS
            or labels.shape != (len(pixels),)
            or labels.dtype.kind not in "iu"
        ):
            raise InputError(
                f"source: {self._path} is {pixels.dtype} {list(pixels.shape)}, {_LABELS} {labels.dtype} "
                f"{list(labels.shape)}; wanted uint8 [{_LEVELS} n, H, W, 3] and integers [{_LEVELS} n]"
            )
        each = len(pixels) // _LEVELS
        self._rows = range(len(pixels)) if level is None else range((level - 1) * each, level * each)
        self._pixels, self._labels = pixels, labels

    def _count(self) -> int:
        return len(self._rows)

    def _read(self, i: int) -> tuple[npt.NDArray[Any], int]:
        row = self._rows[i]
        return self._pixels[row], int(self._labels[row])

    def where(self, i: int) -> str:
        """The file and the row in it."""
        return f"{self._path}, row {self._rows[i]}"

    def _identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for row in (self._rows[0], self._rows[len(self) // 2], self._rows[len(self) - 1]):
            digest.update(self._pixels[row].tobytes())
        return {
            "corruption": self._path.stem,
            "rows": [self._rows[0], len(self)],
            "probes": digest.hexdigest(),
        }


def is_cifar_c(folder: Path) -> bool:
    """Whether a folder has CIFAR-10-C's layout."""
    return (folder / _LABELS).is_file()


def _mapped(path: Path) -> npt.NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"source: {path} cannot be read as .npy: {error}") from error


SIGNS = (
    *("speed_limit", "goods_vehicles", "no_overtaking", "no_stopping", "no_parking", "stop", "bicycle"),
    *("hump", "no_left", "no_right", "priority_to", "no_entry", "yield", "parking"),
)
CHALLENGES = (
    *("none", "decolorization", "lens_blur", "codec_error", "darkening", "dirty_lens", "exposure"),
    *("gaussian_blur", "noise", "rain", "shadow", "snow", "haze"),
)
_NAME = re.compile(r"(\d{2})_(\d{2})_(\d{2})_(\d{2})_(\d+)\.bmp", re.IGNORECASE)


class CureTsrImages(ImageFiles):
    """Traffic signs of CURE-TSR (Temel et al., 2017), by the names of their files, at any depth below a folder.

    ``sequenceType_signType_challengeType_challengeLevel_index.bmp``, e.g. ``01_04_02_05_0021.bmp`` in
    ``Real_Test/LensBlur-5``: a real no-stopping sign behind a lens blur of level 5. The label is the sign's type,
    0 to 13, in the order of `SIGNS`.

    Args:
        root: the whole set, or a folder in it, such as ``Real_Train`` or ``Real_Test/ChallengeFree``.
        challenge: one of `CHALLENGES`, "none" for clean images; None: all.
        level: 1 to 5; None: all.
        preprocess: as for all image sets; the files differ in size, so give it one.
        limit: as for all image sets.

    Raises:
        InputError: an unknown challenge or level, or no such files.
    """

    classes = SIGNS

    def __init__(
        self,
        root: PathType,
        challenge: str | None,
        level: int | None,
        preprocess: Preprocess,
        limit: int | None = None,
    ) -> None:
        super().__init__(root, preprocess, limit)
        if challenge is not None and challenge not in CHALLENGES:
            raise InputError(f"challenge: got {describe(challenge)}; wanted one of {', '.join(CHALLENGES)}")
        if level is not None and level not in range(1, _LEVELS + 1):
            raise InputError(f"level: got {describe(level)}; wanted 1 to {_LEVELS}, or None for all")
        number = None if challenge is None else CHALLENGES.index(challenge)
        for folder, folders, names in os.walk(self.root):
            folders.sort()
            for name in sorted(names):
                parts = _NAME.fullmatch(name)
                if parts is None:
                    continue
                _, sign, kind, severity, _ = map(int, parts.groups())
                if number not in (None, kind) or level not in (None, severity):
                    continue
                if not 1 <= sign <= len(SIGNS):
                    raise InputError(
                        f"source: {Path(folder, name)} is of sign type {sign}; CURE-TSR has 1 to {len(SIGNS)}"
                    )
                self._files.append(str(Path(folder, name).relative_to(self.root)))
                self._labels.append(sign - 1)
        if not self._files:
            raise InputError(
                f"source: {self.root} holds no files of CURE-TSR for challenge {challenge or 'any'}, level "
                f"{level or 'any'}; wanted names such as 01_04_02_05_0021.bmp"
            )


def is_cure_tsr(folder: Path) -> bool:
    """Whether the first image below a folder has one of CURE-TSR's names."""
    for _, folders, names in os.walk(folder):
        folders.sort()
        images = [name for name in sorted(names) if name.lower().endswith(".bmp")]
        if images:
            return _NAME.fullmatch(images[0]) is not None
    return False
