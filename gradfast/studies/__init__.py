"""The papers' tables as declared studies: models x sets x methods, run, kept, and written down beside the papers' figures."""

from gradfast.studies.builtin import BUILTIN
from gradfast.studies.catalogue import SETS, MissingSetError, SetEntry
from gradfast.studies.declaration import ModelEntry, Profile, Study
from gradfast.studies.methods import METHODS, MethodEntry
from gradfast.studies.reading import read_declaration
from gradfast.studies.results import Blank, Result, StudyResult
from gradfast.studies.run import narrowed, run_study
from gradfast.studies.workbench import Settings

__all__ = [
    "BUILTIN",
    "METHODS",
    "SETS",
    "Blank",
    "MethodEntry",
    "MissingSetError",
    "ModelEntry",
    "Profile",
    "Result",
    "SetEntry",
    "Settings",
    "Study",
    "StudyResult",
    "narrowed",
    "read_declaration",
    "run_study",
]
