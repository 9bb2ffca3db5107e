"""torchvision's data sets."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import numpy.typing as npt
from PIL import Image

from gradfast.errors import InputError, describe

from .images import ImageError, Preprocess
from .imageset import ImageSet, PathType
from .known import where_to_get

__all__ = ["TorchvisionImages"]


class TorchvisionImages(ImageSet):
    """A torchvision classification data set that is already on disk; nothing is downloaded.

    Args:
        name: the class in `torchvision.datasets`, e.g. ``"CIFAR10"``.
        root: its folder, as torchvision wants it.
        preprocess: as for all image sets.
        limit: as for all image sets.
        split: what the data set calls it; "train" and "test" are passed as ``train=True`` and ``False`` where it
            wants that.

    Raises:
        InputError: no torchvision, no such data set in it, or not on disk under ``root``.
    """

    def __init__(
        self, name: str, root: PathType, preprocess: Preprocess, limit: int | None = None, split: str = "test"
    ) -> None:
        super().__init__(preprocess, limit)
        try:
            from torchvision import datasets
        except ImportError as error:
            raise InputError(
                f"source: torchvision:{name} needs torchvision ({error}): pip install torchvision"
            ) from error
        build: Any = getattr(datasets, name, None)
        known = inspect.isclass(build) and issubclass(build, datasets.VisionDataset)
        if not known:
            raise InputError(
                f"source: torchvision.datasets has no {name!r}; it has {', '.join(datasets.__all__)}"
            )
        takes = inspect.signature(build).parameters
        options: dict[str, Any] = {"train": split == "train"} if "train" in takes else {}
        if "split" in takes:
            options["split"] = split
        if "train" in takes and split not in ("train", "test"):
            raise InputError(f"split: got {describe(split)}; torchvision's {name} has 'train' and 'test'")
        if "download" in takes:
            options["download"] = False
        try:
            self._dataset: Any = build(root, **options)
        except Exception as error:  # each data set reports a missing or damaged folder in its own way
            page = where_to_get(name)
            hint = f"; {page}" if page else ""
            raise InputError(
                f"source: torchvision's {name} cannot be opened in {root}: {error}{hint}"
            ) from error
        self._name, self._split = name, split
        names = getattr(self._dataset, "classes", None)
        self.classes = tuple(map(str, names)) if names else None

    def _count(self) -> int:
        return len(self._dataset)

    def _read(self, i: int) -> tuple[Image.Image | npt.NDArray[Any], int]:
        try:
            image, label = self._dataset[i]
        except (OSError, SyntaxError, ValueError) as error:
            raise ImageError(f"{self.where(i)}: cannot be read: {error}") from error
        return image, label if isinstance(label, int) else -1

    def where(self, i: int) -> str:
        """The data set's name, the split and the index."""
        return f"torchvision's {self._name} ({self._split}), image {i}"

    def _identity(self) -> dict[str, Any]:
        probes = [0, len(self) // 2, len(self) - 1]
        return {
            "name": self._name,
            "split": self._split,
            "probes": [_digest(self._read(i)[0]) for i in probes],
        }


def _digest(image: Image.Image | npt.NDArray[Any]) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()
