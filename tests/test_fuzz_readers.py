"""The readers of files on damaged files: they read, or say what is wrong. `tests.fuzz` looks for new ones with Atheris."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import readers

KEPT = sorted((Path(__file__).parent / "fuzz" / "kept").iterdir())
MUTATIONS = 150
SPLICES = (b"\x00" * 4, b"\xff" * 4, b"\xff" * 8, b"-1", b"null", b"[]", b"{}", b'""', b"1e400", b"../x")


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """A few bits, pieces or lengths changed."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not data:
            break
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at : at + rng.choice((1, 4, len(data)))]
        elif kind == 3:
            splice = rng.choice(SPLICES)
            data[at : at + rng.choice((0, len(splice)))] = splice
        else:
            start = rng.randrange(len(data))
            data[at:at] = data[start : start + rng.randrange(64)]
    return bytes(data)


@pytest.mark.parametrize("target", readers.TARGETS)
def test_the_seeds_are_read(target: str, tmp_path: Path) -> None:
    for i, seed in enumerate(readers.TARGETS[target].seeds()):
        folder = tmp_path / str(i)
        folder.mkdir()
        assert readers.check(target, seed, folder)


@pytest.mark.parametrize("target", readers.TARGETS)
def test_damaged_files_are_read_or_refused(target: str, tmp_path: Path) -> None:
    rng = random.Random(target)
    refused = 0
    seeds = readers.TARGETS[target].seeds()
    for i in range(MUTATIONS):
        folder = tmp_path / str(i)
        folder.mkdir()
        refused += not readers.check(target, mutated(seeds[i % len(seeds)], rng), folder)
    assert refused > MUTATIONS / 10


@pytest.mark.parametrize("path", KEPT, ids=lambda p: p.name)
def test_what_once_broke_a_reader(path: Path, tmp_path: Path) -> None:
    target = max((t for t in readers.TARGETS if path.name.startswith(f"{t}-")), key=len)
    readers.check(target, path.read_bytes(), tmp_path)
