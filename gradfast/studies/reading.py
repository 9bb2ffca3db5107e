"""Studies of the user's own, from TOML files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from gradfast.errors import InputError, describe
from gradfast.studies.builtin import BUILTIN
from gradfast.studies.catalogue import SETS, SetEntry
from gradfast.studies.declaration import KINDS, ModelEntry, Profile, Study

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["read_declaration"]

T = TypeVar("T")


def read_declaration(path: Path) -> Study:
    """A study from a TOML file; see docs/studies.md for one.

    Raises:
        InputError: not TOML, a missing or unknown key, or a value of another type.
    """
    try:
        text = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"declaration: {path} cannot be read as TOML: {error}") from error
    kind = text.get("kind", "ood")
    if kind not in KINDS:
        raise InputError(f"{path}: kind: got {describe(kind)}; wanted one of {', '.join(KINDS)}")
    base = BUILTIN[kind]
    known = {"kind", "title", "models", "sets", "outside", "methods", "attacks", "corruptions", "levels"}
    unknown = sorted(set(text) - known)
    if unknown:
        raise InputError(f"{path}: unknown key {unknown[0]!r}; wanted some of {', '.join(sorted(known))}")
    models = tuple(_made(ModelEntry, table, f"{path}: models") for table in _tables(text, "models", path))
    own = [_made(SetEntry, table, f"{path}: sets") for table in _tables(text, "sets", path)]
    outside = tuple(text.get("outside", ()))
    return Study(
        kind=kind,
        name=path.stem,
        title=str(text.get("title", base.title)),
        models=models,
        methods=tuple(text.get("methods", base.methods)),
        outside={model.inside: outside or base.outside.get(model.inside, ()) for model in models},
        attacks=tuple(text.get("attacks", base.attacks)),
        corruptions=tuple(text.get("corruptions", base.corruptions)),
        levels=tuple(text.get("levels", base.levels)),
        sets={**SETS, **{entry.name: entry for entry in own}},
        profiles={name: _without_models(profile) for name, profile in base.profiles.items()},
        folder=path.parent,
    )


def _tables(text: Mapping[str, Any], key: str, path: Path) -> list[Mapping[str, Any]]:
    tables = text.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{path}: {key}: got {describe(tables)}; wanted tables, [[{key}]]")
    return tables


def _made(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - known)
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; wanted some of {', '.join(sorted(known))}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


def _without_models(profile: Profile) -> Profile:
    return Profile(profile.images, profile.fit_images, profile.splits)
