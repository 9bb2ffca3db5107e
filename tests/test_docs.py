"""Every Python block of the documentation and the README runs as pasted, those of a page one after the other."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    p
    for p in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "```python" in p.read_text(encoding="utf-8")
)


MODULES = [
    "attacks",
    "corruptions",
    "data",
    "detectors",
    "distributed",
    "gradcon",
    "models",
    "ops",
    "reference",
    "store",
    "studies",
    "training",
]


@pytest.mark.parametrize("module", ["", *MODULES])
def test_every_public_name_is_in_the_reference(module: str) -> None:
    text = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "reference").glob("*.md"))
    found = {name.rstrip(".") for name in re.findall(r"gradfast(?:\.\w+)+", text)}
    full = f"gradfast.{module}".rstrip(".")
    if full in found and module == "ops":  # a page of the whole module
        return
    public = {f"{full}.{name}" for name in importlib.import_module(full).__all__}
    assert public - found == set()


@pytest.mark.parametrize("module", [*MODULES, "integrations"])
def test_public_modules_are_attributes(module: str) -> None:
    code = f"import gradfast; assert gradfast.{module}.__name__ == 'gradfast.{module}'; assert {module!r} in dir(gradfast)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=100)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mktestdocs = pytest.importorskip("mktestdocs", reason="mktestdocs is not installed")
    monkeypatch.chdir(tmp_path)
    mktestdocs.check_md_file(fpath=os.fspath(page), memory=True)
