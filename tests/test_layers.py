"""Imports run downwards only, and edges never import each other: the table of the house, held by its imports."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "exporter"

# From the ground up; a module may import what stands below it, and its own line unless that line holds edges.
LAYERS = (
    ("errors", "files"),
    ("operation", "keys", "wording"),
    ("net",),
    ("config",),
    ("tracking.pacing", "tracking.roster", "tokens"),
    ("tracking.record",),
    ("tracking.memory", "tracking.slices", "tracking.tombstones"),
    ("tracking.history",),
    ("tracking.picture",),
    ("tracking.standing",),
    ("tracking.ledger", "tracking.exposure"),
    ("tracking.retention",),
    ("metrics",),
    ("tracking.messages",),
    ("tracking.journal", "tracking.lane", "tracking.aggregates", "registrations"),
    ("tracking.book",),
    ("tracking.intake",),
    ("tracking.environments",),
    ("tracking.judge", "tracking.reception"),
    ("tracking.tracker",),
    ("knock", "web", "sources", "store", "housekeeping", "heartbeats", "logs", "terminal"),
    ("lookup", "port", "reloading"),
    ("daemon",),
    ("demo",),
    ("cli",),
)
EDGES = next(rooms for rooms in LAYERS if "web" in rooms)


def _modules() -> list[str]:
    files = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(file.parts) for file in files)


def _place(module: str) -> tuple[int, str]:
    """Return the floor and the room of a module."""
    for floor, rooms in enumerate(LAYERS):
        for room in rooms:
            if module == room or module.startswith(f"{room}."):
                return floor, room
    raise LookupError(f"exporter.{module} has no place in the table of layers")


def _imports(module: str) -> set[str]:
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{module}: relative import"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("exporter."):
            inner = node.module.removeprefix("exporter.")
            found |= {_submodule(inner, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "exporter":
            found |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("exporter.") for a in node.names if a.name.startswith("exporter.")}
    return found


def _submodule(package: str, name: str) -> str:
    folder = PACKAGE / package.replace(".", "/")
    return f"{package}.{name}" if (folder / f"{name}.py").exists() or (folder / name).is_dir() else package


ROOTS = {
    "__init__",
    "__main__",
    "tracking.__init__",
    "metrics.__init__",
    "knock.__init__",
    "net.__init__",
    "web.__init__",
    "terminal.__init__",
}


@pytest.mark.parametrize("module", [module for module in _modules() if module not in ROOTS])
def test_imports_run_downwards(module: str) -> None:
    floor, room = _place(module)
    for imported in _imports(module):
        below, other_room = _place(imported)
        assert below < floor or (below == floor and (room == other_room or floor != LAYERS.index(EDGES))), (
            f"exporter.{module} imports exporter.{imported}, which does not stand below it"
        )


def test_the_table_names_only_what_exists() -> None:
    for rooms in LAYERS:
        for room in rooms:
            path = PACKAGE / room.replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py").exists(), room
