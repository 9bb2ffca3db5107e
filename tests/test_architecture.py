"""Dependencies point one way: docs/architecture.md."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "gradfast"


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def layer_of(module: str) -> str:
    """The part that a module belongs to: "engine" of gradfast.engine.run, "" of gradfast itself."""
    return module.partition(".")[2].partition(".")[0]


def imports(path: Path, modules: set[str]) -> set[str]:
    """The modules of gradfast that one imports, at its top or in a function; those for type checkers do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing or not isinstance(node, ast.ImportFrom):
            continue
        above = package.split(".")
        base = ".".join(above[: len(above) - node.level + 1]) if node.level else ""
        module = ".".join(part for part in (base, node.module) if part)
        for name in node.names:
            inner = f"{module}.{name.name}"
            found |= {inner if inner in modules else module} & modules
    return found - {name_of(path), "gradfast"}


def test_no_circle_of_imports() -> None:
    paths = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    arrows = {name: imports(path, set(paths)) for name, path in paths.items()}
    assert sum(map(len, arrows.values())) > 500  # it sees them
    TopologicalSorter(arrows).prepare()  # CycleError names the circle


def test_layers_go_one_way() -> None:
    layers = [
        ["ops", "ops_backward", "ops_checks"],
        ["contrast", "losses"],
        ["record"],
        ["rules"],
        ["engine"],
        ["explanation", "norms"],
        ["extractor", "features", "store", "data", "models", "corruptions", "attacks", "training"],
        ["detectors", "distributed"],
        ["gradcon", "integrations"],
        ["report"],
        ["studies", "demo"],
        ["cli"],
    ]
    level = {part: i for i, parts in enumerate(layers) for part in parts}
    paths = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    for name, path in paths.items():
        mine = level.get(layer_of(name))
        for other in imports(path, set(paths)):
            theirs = level.get(layer_of(other))
            assert mine is None or theirs is None or theirs <= mine, f"{name} imports {other}"


def test_the_reference_shares_nothing_with_the_engine() -> None:
    paths = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    seen, wanted = set(), {"gradfast.reference"}
    while wanted:
        name = wanted.pop()
        seen.add(name)
        wanted |= imports(paths[name], set(paths)) - seen
    assert not {name for name in seen if layer_of(name) in {"engine", "rules", "ops", "record"}}
