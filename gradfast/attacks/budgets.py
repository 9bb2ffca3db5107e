"""The attacks by name, and what each may do to an image."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from gradfast.errors import InputError, describe

__all__ = ["ATTACKS", "budget_of"]

# eps and alpha on the scale [0, 1]. BIM and iterative least-likely: steps of 1/255 and as many as Kurakin et al. (2017),
# section 2.2, take for 8/255; PGD: Madry et al. (2018) for CIFAR-10; C&W: fewer and smaller steps than the authors'
# 10,000 of 0.01, see docs/attacks.md.
_BUDGETS: dict[str, dict[str, float | int]] = {
    "fgsm": {"eps": 8 / 255},
    "bim": {"eps": 8 / 255, "alpha": 1 / 255, "steps": 10},
    "cw": {"c": 1.0, "kappa": 0.0, "searches": 5, "steps": 100, "lr": 0.005},
    "pgd": {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10},
    "iterll": {"eps": 8 / 255, "alpha": 1 / 255, "steps": 10},
    "semantic": {"trials": 100},
}
ATTACKS: tuple[str, ...] = tuple(_BUDGETS)


def budget_of(name: str, given: Mapping[str, Any] | None = None) -> dict[str, float | int]:
    """The attack's settings, with those given in place of its defaults; None stands for the default.

    Raises:
        InputError: an unknown attack or setting, or a value that is not a number in its range.
    """
    if name not in _BUDGETS:
        raise InputError(f"name: got {describe(name)}; wanted one of {', '.join(ATTACKS)}")
    budget = dict(_BUDGETS[name])
    for key, value in (given or {}).items():
        if value is None:
            continue
        if key not in budget:
            near = difflib.get_close_matches(key, budget, n=1)
            hint = f"; nearest: {near[0]}" if near else ""
            raise InputError(f"{key}: {name} has no such setting, it has {', '.join(budget)}{hint}")
        budget[key] = _checked(key, value)
    return budget


def _checked(key: str, value: Any) -> float | int:
    if key in ("steps", "trials", "searches"):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{key}: got {describe(value)}; wanted an integer, at least 1")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{key}: got {describe(value)}; wanted a finite number")
    low_open = key != "kappa"
    high = 1.0 if key in ("eps", "alpha") else math.inf
    if value < 0 or (low_open and value == 0) or value > high:
        bounds = "above 0" if low_open else "at least 0"
        raise InputError(f"{key}: got {value}; wanted {bounds}" + (", at most 1" if high == 1 else ""))
    return float(value)
