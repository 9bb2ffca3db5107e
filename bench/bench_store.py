"""The feature store against the disk: a million synthetic rows of 62 layers x 10 classes, written and read.

Run as a program, not by pytest, for it writes 5 GB (and removes them)::

    python -m bench.bench_store --rows 1000000

Three runs over the same number of bytes: the store, with its checksums and fsync per file; plain files of the same sizes with
fsync, the disk's own rate; and NumPy's ``.npy``, what one would write by hand. Files are dropped from the page cache before
they are read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gradfast.features import Features
from gradfast.store import Block, Layout, Run
from gradfast.store.layout import fitting_rows

LAYERS, CLASSES = 62, 10
PIECE = 2**22


def blocks(rows: int, size: int) -> Iterator[Block]:
    """Random norms; made anew for each block, outside the time that is measured."""
    generator = np.random.default_rng(0)
    for first in range(0, rows, size):
        n = min(size, rows - first)
        index = np.arange(first, first + n)
        logits = generator.standard_normal((n, CLASSES), dtype=np.float32)
        norms = generator.standard_exponential((n, CLASSES, LAYERS), dtype=np.float32)
        yield Block(index, index % CLASSES, logits.argmax(1), np.zeros(n, np.bool_), norms, logits)


def timed(work: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def forget(folder: Path) -> None:
    """Drops the folder's files from the page cache."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def size_of(folder: Path) -> int:
    """Bytes of the folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def store(folder: Path, rows: int) -> dict[str, float]:
    """The feature store."""
    layout = Layout(tuple(f"layer{i}" for i in range(LAYERS)), CLASSES, CLASSES, tuple(range(CLASSES)), {})
    size = fitting_rows(layout)
    seconds = 0.0
    with Run(folder, {}) as run:
        run.begin(layout, size)
        for shard, block in enumerate(blocks(rows, size)):
            seconds += timed(lambda shard=shard, block=block: run.commit(shard, block))
        seconds += timed(run.finish)
    total = size_of(folder)
    forget(folder)

    def everything() -> None:
        f = Features.load(folder)
        for first in range(0, rows, size):
            assert f[first : first + size].values.shape[1:] == (CLASSES, LAYERS)

    whole = timed(everything)
    forget(folder)
    one = timed(lambda: Features.load(folder).select("layer7").values)
    return {
        "bytes": total,
        "files": -(-rows // size),
        "write_mb_s": total / seconds / 1e6,
        "read_mb_s": total / whole / 1e6,
        "one_layer_of_62_seconds": one,
        "one_layer_of_62_mb_s": rows * CLASSES * 4 / one / 1e6,
    }


def plain(folder: Path, total: int, files: int) -> dict[str, float]:
    """The disk's own rate: bytes in files of the same sizes."""
    folder.mkdir()
    content = np.random.default_rng(1).bytes(total // files)

    def write() -> None:
        for i in range(files):
            with (folder / str(i)).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

    def read() -> None:
        for path in folder.iterdir():
            with path.open("rb") as file:
                while file.read(PIECE):
                    pass

    write_seconds = timed(write)
    forget(folder)
    return {"write_mb_s": total / write_seconds / 1e6, "read_mb_s": total / timed(read) / 1e6}


def npy(folder: Path, rows: int, size: int) -> dict[str, float]:
    """One ``.npy`` per block, without checksums, with fsync."""
    folder.mkdir()
    seconds = 0.0

    def save(i: int, values: Any) -> None:
        with (folder / f"{i}.npy").open("wb") as file:
            np.save(file, values)
            file.flush()
            os.fsync(file.fileno())

    for i, block in enumerate(blocks(rows, size)):
        seconds += timed(lambda i=i, block=block: save(i, block.values))
    total = size_of(folder)
    forget(folder)
    read = timed(lambda: [np.load(path).shape for path in folder.iterdir()])
    return {"write_mb_s": total / seconds / 1e6, "read_mb_s": total / read / 1e6}


def main() -> None:
    """Runs once and prints JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        found: dict[str, Any] = {"rows": arguments.rows, "load_average": os.getloadavg()}
        found["store"] = store(scratch / "store", arguments.rows)
        shutil.rmtree(scratch / "store")
        found["disk"] = plain(scratch / "plain", int(found["store"]["bytes"]), int(found["store"]["files"]))
        shutil.rmtree(scratch / "plain")
        found["npy"] = npy(
            scratch / "npy", arguments.rows, -(-arguments.rows // int(found["store"]["files"]))
        )
        for way in ("write_mb_s", "read_mb_s"):
            found[f"share_of_disk_{way.split('_')[0]}"] = round(found["store"][way] / found["disk"][way], 3)
    finally:
        shutil.rmtree(scratch)
    print(json.dumps(found, indent=1, default=float))


if __name__ == "__main__":
    main()
