"""Which parameters of a model: names, prefixes and glob patterns."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from gradfast.errors import InputError, describe

__all__ = ["find_layer", "nearest", "parameter_aliases", "select_layers"]


def parameter_aliases(model: nn.Module) -> dict[str, str]:
    """Names under which a tied parameter is reached once more, each mapped to its name in `named_parameters()`."""
    first = {id(p): name for name, p in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[id(p)] for name, p in every if first[id(p)] != name}


def select_layers(
    names: Sequence[str], patterns: str | Sequence[str] | None, aliases: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The names that any of the patterns selects, in the order of ``names``, each once.

    Args:
        names: parameter names, as in `named_parameters()`.
        patterns: None for all of them, or one or more of: a name (``"fc.weight"``), a prefix up to a dot
            (``"layer1"`` selects ``layer1.0.conv1.weight`` but not ``layer10.weight``), a glob (``"*.bias"``).
        aliases: further names of tied parameters, which select the parameter's first name.

    Raises:
        InputError: a pattern that selects nothing, with the nearest name; or no pattern at all.
    """
    if patterns is None:
        return tuple(names)
    given = [patterns] if isinstance(patterns, str) else patterns
    wanted = "wanted None, or names, prefixes or glob patterns of parameters"
    if not isinstance(given, Sequence) or not all(isinstance(p, str) for p in given) or not given:
        raise InputError(f"layers: got {describe(patterns)}; {wanted}")
    known = {name: name for name in names}
    known.update({alias: name for alias, name in (aliases or {}).items() if name in known})
    chosen: set[str] = set()
    for pattern in given:
        found = {known[name] for name in known if _matches(name, pattern)}
        if not found:
            raise InputError(f"layers: no parameter is called {pattern!r}; {nearest(pattern, list(known))}")
        chosen |= found
    return tuple(name for name in names if name in chosen)


def find_layer(names: Sequence[str], layer: str) -> int:
    """Where a name stands among ``names``; raises `InputError`, with the nearest ones, if it does not."""
    if layer in names:
        return names.index(layer)
    if not isinstance(layer, str):
        raise InputError(f"layer: got {describe(layer)}; wanted the name of a parameter")
    raise InputError(f"layer: no parameter is called {layer!r}; {nearest(layer, names)}")


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(pattern + ".") or fnmatchcase(name, pattern)


def nearest(pattern: str, names: Sequence[str]) -> str:
    """What of ``names`` (or their prefixes) was perhaps meant, as the end of an error message."""
    prefixes = {name[:i] for name in names for i, letter in enumerate(name) if letter == "."}
    near = difflib.get_close_matches(pattern, [*names, *sorted(prefixes)], n=3, cutoff=0.5)
    if near:
        return "nearest: " + ", ".join(repr(name) for name in near)
    shown = ", ".join(repr(name) for name in names[:5])
    return f"wanted one of {shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
