"""Imports run downwards only, and edges never import each other: the table of the house, held by its imports."""

from pathlib import Path

import pytest
from source import Package

PACKAGE = Package(Path(__file__).parent.parent / "exporter")

# From the ground up; a module may import what stands below it, and its own line unless that line holds edges.
LAYERS = (
    ("errors", "files", "startup"),
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
ROOTS = {"__init__", "__main__", "tracking", "metrics", "knock", "net", "web", "terminal"}
EDGES = next(rooms for rooms in LAYERS if "web" in rooms)


def _place(module: str) -> tuple[int, str]:
    """Return the floor and the room of a module."""
    for floor, rooms in enumerate(LAYERS):
        for room in rooms:
            if module == room or module.startswith(f"{room}."):
                return floor, room
    raise LookupError(f"exporter.{module} has no place in the table of layers")


@pytest.mark.parametrize("module", [name for name in PACKAGE.modules if name not in ROOTS])
def test_imports_run_downwards(module: str) -> None:
    floor, room = _place(module)
    for imported in PACKAGE.imports(module):
        below, other_room = _place(imported)
        assert below < floor or (below == floor and (room == other_room or floor != LAYERS.index(EDGES))), (
            f"exporter.{module} imports exporter.{imported}, which does not stand below it"
        )


def test_the_table_names_only_what_exists() -> None:
    for rooms in LAYERS:
        for room in rooms:
            assert room in PACKAGE.modules, room
