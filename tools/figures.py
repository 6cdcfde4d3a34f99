"""How plain the code is, next to what it is to become: a table, and what its figures count.

`make figures FIGURES_FLAGS=--words` shows also where the project's own words and phrases still are.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from source import FUNCTIONS, Package, by_folder, circles, longest_chain, used_twice
from words import own_words, phrases

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parent.parent
PLACES_SHOWN = 5


class Figure(NamedTuple):
    """A line of the table."""

    what: str
    today: int
    goal: int | str = ""


class Live(TypedDict):
    """What live.py writes: modules, and attributes with their class."""

    way: list[str]
    entered_again: list[str]
    timeout: list[str]
    running: list[str]
    ended: list[str]
    by_environment: list[str]


def size_figures(package: Package) -> list[Figure]:
    """Measure how much there is of a package."""
    modules = package.modules.values()
    functions = [isinstance(node, FUNCTIONS) for module in modules for node in module.definitions()]
    longest = max(modules, key=lambda module: module.lines)
    return [
        Figure(f"lines of {package.folder.name}/", sum(module.lines for module in modules), "14000, then new features"),
        Figure("modules", len(modules)),
        Figure("functions and methods", sum(functions)),
        Figure("classes", len(functions) - sum(functions)),
        Figure(f"lines of the longest module, {longest.name}", longest.lines, 400),
    ]


def import_figures(package: Package) -> list[Figure]:
    """Measure how modules depend on each other."""
    graph = package.graph()
    return [
        Figure("longest chain of imports, at run time", len(longest_chain(package.graph(type_checking=False))), 9),
        Figure("longest chain of imports, with those for types", len(longest_chain(graph)), 14),
        Figure("circles of modules, with imports for types", len(circles(graph)), 0),
        Figure("circles of folders, with imports for types", len(circles(by_folder(graph))), 0),
        Figure("class names used twice", len(used_twice(package)), 0),
    ]


def word_figures(words: Mapping[str, list[str]], found: Mapping[str, Mapping[str, int]]) -> list[Figure]:
    """Count words of our own and phrases."""
    names = {place for places in words.values() for place in places}
    return [
        Figure(f"words of our own where the field has one, in {len(names)} names", len(words), 0),
        *(Figure(f'"{phrase}", in {len(files)} files', sum(files.values()), 0) for phrase, files in found.items()),
    ]


def live_figures(memory: Live, store: Live) -> list[Figure]:
    """Count what was found in an exporter without a store, and in one with it."""
    running, ended = store["running"], store["ended"]
    classes = {each.partition(".")[0] for each in store["by_environment"]}
    return [
        Figure("modules that an answer passes", len(memory["way"]), "fewer"),
        Figure("of these entered more than once", len(memory["entered_again"]), 0),
        Figure("modules that an answer passes, with a store", len(store["way"]), "fewer"),
        Figure("of these entered more than once", len(store["entered_again"]), 0),
        Figure(
            f"containers that hold one operation, {len(running)} while it runs, {len(ended)} afterwards",
            (Counter(running) | Counter(ended)).total(),
            8,
        ),
        Figure(f"dicts by environment, in {len(classes)} classes", len(store["by_environment"]), 1),
        Figure("modules that see the value of the key `timeout`", len(store["timeout"]), 6),
    ]


def suite_figures(folder: Path) -> list[Figure]:
    """Measure the tests; a helper is a function of a module that is neither a test nor a fixture."""
    modules = Package(folder).modules.values()
    functions = [node for module in modules for node in module.tree.body if isinstance(node, FUNCTIONS)]
    helpers = [node for node in functions if not node.name.startswith("test_") and not _is_fixture(node)]
    return [
        Figure("lines of tests", sum(module.lines for module in modules), 19_000),
        Figure("files in tests/testdata", sum(each.is_file() for each in (folder / "testdata").rglob("*")), "few"),
        Figure("helpers of tests", len(helpers), "in one folder"),
    ]


def _is_fixture(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("fixture" in ast.unparse(each) for each in node.decorator_list)


def observe() -> list[Live]:
    """Run an exporter without a store and one with it, both on one simulated Knock; return what each found."""
    from exporter.simulator import Simulator, World  # noqa: PLC0415 - needed for no other figure

    with Simulator(world=World(seed=1), rate_limits=False) as knock, ThreadPoolExecutor() as pool:
        running = knock.world.create(rows=10**9, queue_seconds=0, rows_per_second=1e5)
        waiting, ended = knock.world.create(queue_seconds=1e9), knock.world.create(rows=1, queue_seconds=0)
        command = [sys.executable, str(ROOT / "tools" / "live.py"), knock.url, running, waiting, ended]
        return list(pool.map(_run, (command, [*command, "state.db"])))


def _run(command: list[str]) -> Live:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(  # noqa: S603 - our own
            command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
    if not done.stdout:
        sys.exit(f"the exporter could not be observed:\n{done.stderr}")
    live: Live = json.loads(done.stdout)
    return live


def main() -> None:
    """Write the table, and what its figures count."""
    parser = argparse.ArgumentParser(prog="make figures", description=__doc__)
    parser.add_argument("--words", action="store_true", help="show where words and phrases are")
    with_words = parser.parse_args().words
    package = Package(ROOT / "exporter")
    words, found = own_words(package), phrases(ROOT)
    memory, store = observe()
    figures = [
        *size_figures(package),
        *import_figures(package),
        *live_figures(memory, store),
        *word_figures(words, found),
        *suite_figures(ROOT / "tests"),
    ]
    rows = [("figure", "today", "goal"), *((each.what, f"{each.today:,}", str(each.goal)) for each in figures)]
    width = max(len(what) for what, _, _ in rows)
    lines = [f"{what:<{width}}  {today:>7}  {goal}".rstrip() for what, today, goal in rows]
    lines += [f"{title}: {', '.join(names)}" for title, names in _behind(package, memory, store)]
    if with_words:
        lines += [f"{word}: {', '.join(places)}" for word, places in words.items()]
        lines += [f'"{phrase}": {", ".join(_most(files))}' for phrase, files in found.items()]
    print("\n".join(lines))  # noqa: T201 - this is a script for a terminal


def _behind(package: Package, memory: Live, store: Live) -> Iterator[tuple[str, list[str]]]:
    """Return what the figures count, by name."""
    graph = package.graph()
    yield "\nLongest chain at run time", longest_chain(package.graph(type_checking=False))
    yield "Longest chain, with imports for types", longest_chain(graph)
    for circle in (*circles(graph), *circles(by_folder(graph))):
        yield "Circle", circle
    yield "Class names used twice", [f"{name} ({', '.join(places)})" for name, places in used_twice(package).items()]
    yield "An answer passes", memory["way"]
    yield "More than once", memory["entered_again"]
    yield "With a store also", sorted({*store["way"]} - {*memory["way"]})
    yield "Containers while it runs", store["running"]
    yield "Containers once it ended", store["ended"]
    yield "Dicts by environment", store["by_environment"]
    yield "Modules that see `timeout`", store["timeout"]


def _most(files: Mapping[str, int]) -> list[str]:
    return sorted(files, key=lambda file: (-files[file], file))[:PLACES_SHOWN]


if __name__ == "__main__":
    main()
