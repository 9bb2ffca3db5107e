"""Image files as data URIs. A browser runs no script of an SVG that it shows as an image, and loads nothing for it."""

from __future__ import annotations

import base64

from gradfast.errors import InputError
from gradfast.report.directory.section import Picture
from gradfast.report.directory.walk import Found

__all__ = ["PICTURES", "picture"]

_LARGEST = 8 * 2**20
_BEGINS = {
    ".png": ("image/png", b"\x89PNG\r\n\x1a\n"),
    ".jpg": ("image/jpeg", b"\xff\xd8\xff"),
    ".jpeg": ("image/jpeg", b"\xff\xd8\xff"),
    ".gif": ("image/gif", b"GIF8"),
    ".webp": ("image/webp", b"RIFF"),
}
PICTURES = (*_BEGINS, ".svg")


def picture(found: Found) -> Picture:
    """The image as it is.

    Raises:
        InputError: more than 8 MiB, or not what its name says.
    """
    if found.size > _LARGEST:
        raise InputError(f"{found.size / 2**20:.0f} MiB; an image of at most {_LARGEST >> 20} MiB is shown")
    data = found.path.read_bytes()
    if found.suffix == ".svg":
        kind = "image/svg+xml"
        right = b"<svg" in data[:4096]
    else:
        kind, begin = _BEGINS[found.suffix]
        right = data.startswith(begin)
    if not right:
        raise InputError(f"not an image, whatever its name ends in ({found.suffix})")
    return Picture(found.name, f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}")
