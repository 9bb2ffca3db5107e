"""One palette for tables, figures and pages, in a light and a dark form.

Figures are drawn in placeholder colours, which `gradfast.report.svg` turns into CSS variables: one drawing
serves both.
"""

from __future__ import annotations

__all__ = ["INSIDE", "METHODS", "OUTSIDE", "css_variables", "ink", "placeholder"]

# Role: (on a light page, on a dark page). Data colours keep 3:1 against their page and stay apart for colour-
# blind eyes.
_ROLES = {
    "page": ("#f6f7f9", "#0f1216"),
    "surface": ("#ffffff", "#181c22"),
    "ink": ("#1c2128", "#e6e9ee"),
    "muted": ("#59636f", "#9aa5b2"),
    "grid": ("#e1e5ea", "#2b323b"),
    "accent": ("#1f6fd0", "#6aaefb"),
    "inside": ("#1f6fd0", "#5b9ff2"),
    "outside-0": ("#e0770c", "#d65300"),
    "outside-1": ("#00a799", "#107551"),
    "outside-2": ("#6b0079", "#ae00ff"),
    "outside-3": ("#aa8153", "#ecd300"),
    "outside-4": ("#781c42", "#ff89ae"),
    "outside-5": ("#363f00", "#a8db78"),
    "method-0": ("#1c2128", "#e6e9ee"),
    "method-1": ("#1f6fd0", "#6aaefb"),
    "method-2": ("#7d8894", "#8b96a3"),
}

INSIDE = "inside"
OUTSIDE = tuple(role for role in _ROLES if role.startswith("outside-"))
METHODS = tuple(role for role in _ROLES if role.startswith("method-"))


def placeholder(role: str) -> str:
    """The colour that stands for a role in a drawing: one that no drawing would use by itself."""
    return f"#fe{list(_ROLES).index(role):02x}dc"


def ink(role: str) -> str:
    """The CSS value of a role."""
    return f"var(--{role})"


def roles() -> tuple[str, ...]:
    """All roles."""
    return tuple(_ROLES)


def css_variables() -> str:
    """A style sheet that sets every role for light pages, and for readers who prefer dark ones."""
    light = "".join(f"--{role}:{value[0]};" for role, value in _ROLES.items())
    dark = "".join(f"--{role}:{value[1]};" for role, value in _ROLES.items())
    return f":root{{color-scheme:light dark;{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
