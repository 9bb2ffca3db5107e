"""Every Python block of the documentation and the README runs as pasted, those of a page one after the other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    p
    for p in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "```python" in p.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mktestdocs = pytest.importorskip("mktestdocs", reason="mktestdocs is not installed")
    monkeypatch.chdir(tmp_path)
    mktestdocs.check_md_file(fpath=os.fspath(page), memory=True)
