"""Imports run downwards only, and edges never import each other: a table, held by what is imported."""

from pathlib import Path

from source import Package

PACKAGE = Package(Path(__file__).parent.parent / "exporter")

# From the ground up; a module may import what stands below it, and its own line unless that line holds edges.
LAYERS = (
    ("errors", "files", "garbage_collection", "send_window", "startup"),
    ("operation", "keys", "wording"),
    ("values",),
    ("knock.deadline", "knock.failures", "knock.memory_budget", "knock.response", "knock.transport", "knock.trust"),
    ("config",),
    ("tracking.pacing", "tracking.memberships", "tokens"),
    ("tracking.transitions",),
    ("tracking.memory", "tracking.runs", "tracking.slices", "tracking.tombstones", "tracking.exposure"),
    ("tracking.history",),
    ("tracking.snapshot", "chart"),
    ("tracking.status",),
    ("tracking.ledger", "tracking.facts"),
    ("tracking.selection", "tracking.group_facts"),
    ("metrics",),
    ("tracking.messages",),
    ("tracking.cycle", "tracking.environment", "tracking.aggregates", "registrations", "run_changes"),
    ("tracking.groups",),
    ("tracking.book", "tracking.expiry"),
    ("tracking.intake",),
    ("tracking.registry",),
    ("tracking.accounting", "tracking.handlers"),
    ("tracking.tracker",),
    ("knock", "simulator", "web", "sources", "store", "housekeeping", "heartbeats", "logs", "terminal"),
    ("lookup", "servers", "reloading"),
    ("daemon",),
    ("demo",),
    ("cli",),
)
ROOTS = {"__init__", "__main__", "tracking", "metrics", "knock", "web", "terminal"}
EDGES = next(modules for modules in LAYERS if "web" in modules)


def _place(module: str) -> tuple[int, str]:
    """Return the layer of a module, by its number, and the entry there that it belongs to."""
    for number, entries in enumerate(LAYERS):
        for entry in entries:
            if module == entry or module.startswith(f"{entry}."):
                return number, entry
    raise LookupError(f"exporter.{module} is missing in the table of layers")


def test_imports_run_downwards() -> None:
    for module in PACKAGE.modules.keys() - ROOTS:
        layer, entry = _place(module)
        for imported in PACKAGE.imports(module):
            below, other = _place(imported)
            assert below < layer or (below == layer and (entry == other or layer != LAYERS.index(EDGES))), (
                f"exporter.{module} imports exporter.{imported}, which is in no layer below it"
            )


def test_the_table_names_only_what_exists() -> None:
    for entries in LAYERS:
        for entry in entries:
            assert entry in PACKAGE.modules, entry
