"""The cells of a GradCON study, a small JSON file each: shown together."""

from __future__ import annotations

import csv
import io
from typing import Any

from gradfast.report.directory.columns import gradcon_section
from gradfast.report.directory.section import Section

__all__ = ["Cells"]

_CELL = {"data", "class", "model", "seed", "epochs", "last", "train_images"}
_CONDITIONS = {"data", "class", "model", "seed", "images", "auroc", "spearman"}


class Cells:
    """Collects what `gradfast.gradcon.study.cells.run_cell` keeps; of a cell with several results, that of the most epochs."""

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], dict[str, Any]] = {}

    def takes(self, stored: Any) -> bool:
        """Whether this is a cell, or a cell's conditions, which the study's own text sums up."""
        if not isinstance(stored, dict):
            return False
        if stored.keys() >= _CELL:
            key = (stored["data"], stored["model"], stored["class"], stored["seed"])
            if key not in self._found or stored["epochs"] > self._found[key]["epochs"]:
                self._found[key] = stored
            return True
        return stored.keys() >= _CONDITIONS

    def sections(self) -> list[Section]:
        """One section for each data set."""
        from gradfast.gradcon.study.tables import as_csv

        by_data: dict[str, list[dict[str, Any]]] = {}
        for cell in self._found.values():
            by_data.setdefault(str(cell["data"]), []).append(cell)
        return [
            gradcon_section(
                f"{len(found)} cells",
                list(csv.DictReader(io.StringIO(as_csv(found)))),
                f"c{i}",
            )
            for i, found in enumerate(by_data.values())
        ]
