"""Coverage-guided fuzzing of one reader with Atheris (``pip install atheris``), from the top of the checkout::

    python -m tests.fuzz idx build/fuzz/idx -max_total_time=60 -rss_limit_mb=3000

The second argument is the folder of the corpus, which the target's seeds start; what follows is libFuzzer's. An input that breaks a
reader is left beside it as TARGET-crash-*: mend the reader, and keep the input in tests/fuzz/kept.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gradfast.data", "gradfast.store", "gradfast.features"]):
    from . import readers


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in readers.TARGETS:
        sys.exit(
            f"usage: python -m tests.fuzz TARGET CORPUS [libFuzzer's options]; TARGET: {', '.join(readers.TARGETS)}"
        )
    target, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(readers.TARGETS[target].seeds()):
        (corpus / f"seed-{i}").write_bytes(seed)

    folder = Path(tempfile.mkdtemp())

    def one(data: bytes) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        readers.check(target, data, folder)

    atheris.Setup(
        [sys.argv[0], str(corpus), f"-artifact_prefix={corpus.parent}/{target}-", *sys.argv[3:]], one
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
