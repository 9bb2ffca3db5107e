"""Folders of image files."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from gradfast.errors import InputError

from .images import ImageError, Preprocess, decode
from .imageset import ImageSet, PathType

__all__ = ["SUFFIXES", "ImageFiles", "ImageFolder"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFiles(ImageSet):
    """Files below a folder, each an image; who derives from it says which ones, and their labels."""

    def __init__(self, root: PathType, preprocess: Preprocess, limit: int | None = None) -> None:
        super().__init__(preprocess, limit)
        self.root = Path(root)
        self._files: list[str] = []  # paths below the root
        self._labels: list[int] = []

    def _count(self) -> int:
        return len(self._files)

    def _read(self, i: int) -> tuple[Image.Image, int]:
        where = self.where(i)
        try:
            encoded = Path(where).read_bytes()
        except OSError as error:
            raise ImageError(f"{where}: cannot be read: {error.strerror}") from error
        return decode(encoded, where), self._labels[i]

    def where(self, i: int) -> str:
        """The file's path."""
        return str(self.root / self._files[i])

    def _identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name in self._files[: len(self)]:
            digest.update(f"{name}\0{(self.root / name).stat().st_size}\0".encode())
        # Sets of uncompressed images of one size may agree in all names and sizes.
        for i in (0, len(self) // 2, len(self) - 1):
            with suppress(OSError):  # told, with the place, when the image is asked for
                digest.update(Path(self.where(i)).read_bytes())
        return {"files": digest.hexdigest()}


class ImageFolder(ImageFiles):
    """A folder of images: one subfolder per class, labelled in the order of their names, or flat and unlabelled.

    Files are found at any depth, but not in hidden folders, and ordered by path. A subfolder without images is a class too, so that the
    others keep the numbers that a model learned them by.

    Raises:
        InputError: not a folder, or one without images.
    """

    def __init__(self, root: PathType, preprocess: Preprocess, limit: int | None = None) -> None:
        super().__init__(root, preprocess, limit)
        if not self.root.is_dir():
            raise InputError(f"source: {self.root} is not a folder")
        classes: list[str] = []
        for folder, folders, names in os.walk(self.root):
            # Notebooks and file managers keep copies in folders of such names, which are no classes.
            folders[:] = [name for name in folders if not name.startswith(".")]
            classes = classes or sorted(folders)  # of the root, which comes first
            self._files += [
                str(Path(folder, name).relative_to(self.root))
                for name in names
                if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
            ]
        self._files.sort()
        if not self._files:
            raise InputError(
                f"source: {self.root} holds no images; wanted files ending in {', '.join(sorted(SUFFIXES))}"
            )
        tops = [Path(name).parts[0] if os.sep in name else "" for name in self._files]
        self.classes = tuple(classes) if "" not in tops else None
        number = {name: i for i, name in enumerate(self.classes or ())}
        self._labels = [number.get(top, -1) for top in tops]
