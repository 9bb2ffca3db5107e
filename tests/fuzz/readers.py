"""What is fuzzed: each reader of files on arbitrary bytes. It reads them, or raises one of gradfast's own errors.

A target also has its seeds, small files that are right, for mutations to start from.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gradfast.data import open_images
from gradfast.data.images import decode
from gradfast.errors import GradfastError
from gradfast.features import Features
from gradfast.store import run
from gradfast.store.shard import Checksums, ShardRecord


@dataclass(frozen=True)
class Target:
    """``read`` takes bytes and an empty folder; ``seeds`` makes files that it reads."""

    read: Callable[[bytes, Path], object]
    seeds: Callable[[], list[bytes]]


def check(name: str, data: bytes, folder: Path) -> bool:
    """Whether the bytes were read; False if they were refused as they should be. Anything else that is raised is a bug."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            TARGETS[name].read(data, folder)
        except GradfastError:
            return False
    return True


def _images(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        images = open_images(path)
        images.fingerprint()
        return [images.pixels(i) for i in range(min(3, len(images)))]

    return read


def _idx() -> bytes:
    return bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4)) + bytes(range(24))


def _picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(file, kind)
    return file.getvalue()


def _npz(compressed: bool) -> bytes:
    file = io.BytesIO()
    pixels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    (np.savez_compressed if compressed else np.savez)(file, images=pixels, labels=np.array([0, 1]))
    return file.getvalue()


def _parquet(struct: bool) -> bytes:
    pictures = [_picture("PNG"), _picture("JPEG")]
    column = pa.array([{"bytes": p} for p in pictures] if struct else pictures)
    table = pa.table({"image": column, "label": pa.array([0, 1])})
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"classes": json.dumps(["a", "b"])}), file)
    return file.getvalue()


def _save_features(folder: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    features = Features.from_arrays(
        values, layers=["a", "b"], labels=[0, 1, 2], logits=np.eye(3), classes=[4, 5]
    )
    features.save(folder)


@cache
def _directory() -> dict[str, bytes]:
    """The files of a small directory of features."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "features"
        _save_features(folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _load(folder: Path) -> object:
    features = Features.load(folder)
    features.verify()
    return features.values, features.labels, features.logits, features.classes, features.flagged


def _manifest(data: bytes, folder: Path) -> object:
    """As the file stands: nearly always refused for its seal."""
    for name, content in _directory().items():
        (folder / name).write_bytes(data if name == run.MANIFEST else content)
    return _load(folder)


def _sealed_manifest(data: bytes, folder: Path) -> object:
    """JSON that somebody sealed: whatever it says."""
    for name, content in _directory().items():
        (folder / name).write_bytes(_sealed(data) if name == run.MANIFEST else content)
    return _load(folder)


def _sealed_record(data: bytes, folder: Path) -> object:
    path = folder / "part-00000.json"
    path.write_bytes(_sealed(data))
    return run.read_record(path)


def _sealed(data: bytes) -> bytes:
    """With the checksum that it should have, where it is a JSON object."""
    try:
        content = json.loads(data)
        content.pop("sha256", None)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return data
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), **content}).encode()


def _shard(data: bytes, folder: Path) -> object:
    """A Parquet file whose checksums, in a sealed manifest, are right."""
    files = _directory()
    stored = json.loads(files[run.MANIFEST])
    (name,) = (n for n in files if n != run.MANIFEST)
    try:
        checksums = Checksums.of(memoryview(data))
    except Exception:  # arrow does not read it: then as a file that was altered
        checksums = Checksums((0,) * 8, 0)
    record = stored["shards"][0]
    stored["shards"] = [ShardRecord(name, record["rows"], record["flagged"], len(data), checksums).to_json()]
    (folder / name).write_bytes(data)
    (folder / run.MANIFEST).write_bytes(_sealed(json.dumps(stored).encode()))
    return _load(folder)


TARGETS = {
    "idx": Target(_images("images-idx3-ubyte"), lambda: [_idx()]),
    "idx-gz": Target(_images("images-idx3-ubyte.gz"), lambda: [gzip.compress(_idx())]),
    "npz": Target(_images("images.npz"), lambda: [_npz(False), _npz(True)]),
    "parquet": Target(_images("images.parquet"), lambda: [_parquet(False), _parquet(True)]),
    "image": Target(
        lambda data, folder: decode(data, "here"),
        lambda: [_picture(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF")],
    ),
    "manifest": Target(_manifest, lambda: [_directory()[run.MANIFEST]]),
    "sealed-manifest": Target(_sealed_manifest, lambda: [_directory()[run.MANIFEST]]),
    "sealed-record": Target(
        _sealed_record, lambda: [json.dumps(json.loads(_directory()[run.MANIFEST])["shards"][0]).encode()]
    ),
    "shard": Target(_shard, lambda: [v for k, v in _directory().items() if k != run.MANIFEST]),
}
