"""What the parts of the detector are worth: the rows of an OOD study for its variants, and learning curves."""

from __future__ import annotations

from gradfast.studies.ood import fill_ood
from gradfast.studies.workbench import Subject

__all__ = ["fill_ablation"]


def fill_ablation(subject: Subject) -> None:
    """All rows of one model."""
    fill_ood(subject)
