"""Changes the code that decides in places drawn by a seed, and counts which changes a unit test notices.

Each changed module is compiled in a process of its own, which runs the tests that reach the changed line, the quickest
first, and ends at the first failure. What a test starts by its command is not changed.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import coverage
import pytest
from mutations import changes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import CodeType, ModuleType

ROOT = Path(__file__).parent.parent
DECIDES = ("tracking", "knock", "metrics", "config")
GOAL = 0.85
UNCHANGED = -1
SURVIVED = "survived"
PRELOADED = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # of what `preload` imported
CONTROLS = 20  # of the drawn ones are run unchanged first: what fails then tells nothing of a change
SECONDS = 30.0  # of tests for one mutant, as they took when coverage was measured
IMPORTS = "import sys, exporter.cli, exporter.daemon, exporter.simulator, httpx, hypothesis; print(*sys.modules)"
SLACK = 60.0, 10.0  # seconds and times that the changed code may take besides; what takes longer never ends


@dataclass(frozen=True, slots=True)
class Mutant:
    """The change with a number of all that a file allows; UNCHANGED is none of them."""

    path: Path
    number: int
    lines: frozenset[int]

    @property
    def module(self) -> str:
        """Its dotted name."""
        return ".".join(self.path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

    def made(self) -> tuple[ast.Module, str]:
        """Return the changed tree, and what was changed."""
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        if self.number == UNCHANGED:
            return tree, f"{self.path.relative_to(ROOT)}: unchanged"
        change = next(islice(changes(tree), self.number, None))
        before = ast.unparse(change.node)
        change.make()
        after = "pass" if change.kind == "statement" else ast.unparse(change.node)
        place = f"{self.path.relative_to(ROOT)}:{change.node.lineno}"
        return ast.fix_missing_locations(tree), f"{place}: {change.kind}: {_short(before)} -> {_short(after)}"


def _short(code: str) -> str:
    line = " ".join(code.split())
    return line if len(line) <= 120 else f"{line[:117]}..."  # noqa: PLR2004 - a line of a terminal


def all_mutants() -> list[Mutant]:
    """Return every change of the packages that decide."""
    return [
        Mutant(path, number, frozenset({change.node.lineno, change.statement}))
        for package in DECIDES
        for path in sorted((ROOT / "exporter" / package).rglob("*.py"))
        for number, change in enumerate(changes(ast.parse(path.read_text(encoding="utf-8"))))
    ]


class Reached:
    """Which tests reach which line, and what each costs: as `make coverage` found it."""

    def __init__(self, data: Path, report: Path) -> None:
        self._data = coverage.CoverageData(str(data))
        self._data.read()
        files = {path.stem: path for path in (ROOT / "tests").rglob("test_*.py")}
        self._nodes: dict[str, str] = {}
        self._seconds: dict[str, float] = defaultdict(float)
        for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it
            module, name = case.get("classname", "").rpartition(".")[2], case.get("name", "").partition("[")[0]
            self._nodes[f"{module}.{name}"] = f"{files[module].relative_to(ROOT)}::{name}"
            self._seconds[f"{module}.{name}"] += float(case.get("time", 0))
        self._breadth = Counter(
            context
            for file in self._data.measured_files()
            for contexts in self._data.contexts_by_lineno(file).values()
            for context in contexts
        )

    def tests(self, mutant: Mutant) -> tuple[list[str], float]:
        """Return the tests of a mutant, the quickest first, and the seconds that they take.

        Lines that run when the module is imported are reached by no test. Then those that reach most of the module
        come first.
        """
        lines = self._data.contexts_by_lineno(str(mutant.path))
        on_line = {each for line in mutant.lines for each in lines.get(line, ())} & self._nodes.keys()
        of_module = Counter() if on_line else Counter(each for contexts in lines.values() for each in contexts)
        tests = on_line or of_module.keys() & self._nodes.keys()
        chosen, seconds = [], 0.0
        for each in sorted(tests, key=lambda each: (-of_module[each], self._seconds[each], self._breadth[each], each)):
            if seconds + self._seconds[each] <= SECONDS:
                seconds += self._seconds[each]
                chosen.append(self._nodes[each])
        return chosen, seconds


class MutantLoader(SourceFileLoader):
    """Gives one module as it was changed, and finds no other."""

    def __init__(self, mutant: Mutant, tree: ast.Module) -> None:
        super().__init__(mutant.module, str(mutant.path))
        self._tree = tree

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return where the module is."""
        del path, target
        folder = [str(Path(self.path).parent)] if Path(self.path).name == "__init__.py" else None
        return (
            spec_from_file_location(name, self.path, loader=self, submodule_search_locations=folder)
            if name == self.name
            else None
        )

    def get_code(self, fullname: str) -> CodeType:
        """Compile the changed tree."""
        del fullname
        return compile(self._tree, self.path, "exec")


def survivors(output: str, known: list[Mutant]) -> list[Mutant]:
    """Return the mutants that survived, by what `main` printed."""
    mark = f"{SURVIVED}: "
    told = {line.strip().removeprefix(mark) for line in output.splitlines() if line.startswith(mark)}
    places = {(ROOT / path, int(line)) for path, line, *_ in (each.split(":") for each in told)}
    near = (each for each in known if any((each.path, line) in places for line in each.lines))  # `made` is slow
    return [each for each in near if each.made()[1] in told]


def preload() -> None:
    """Import what is not of the exporter, so that no process has to."""
    found = subprocess.run([sys.executable, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own
    for name in found.stdout.split():
        if name.partition(".")[0] != "exporter":
            with suppress(ImportError):  # made by another module, and in no file
                importlib.import_module(name)


def begin(mutant: Mutant, tests: list[str]) -> int:
    """Run tests on changed code in a process of its own, and return its number."""
    if process := os.fork():
        return process
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(ROOT)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    sys.meta_path.insert(0, MutantLoader(mutant, mutant.made()[0]))
    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *PRELOADED, *tests])))


def outcomes(jobs: list[tuple[Mutant, list[str], float]], workers: int) -> Iterator[tuple[Mutant, str]]:
    """Run the tests of each mutant, some side by side, and tell what became of it as soon as that is known."""
    running: dict[int, tuple[Mutant, float]] = {}
    try:
        while jobs or running:
            while jobs and len(running) < workers:
                mutant, tests, seconds = jobs.pop()
                if tests:
                    running[begin(mutant, tests)] = mutant, time.monotonic() + SLACK[0] + SLACK[1] * seconds
                else:
                    yield mutant, "not reached"
            time.sleep(0.02)
            for process, (mutant, deadline) in list(running.items()):
                late = time.monotonic() > deadline
                if late:
                    os.killpg(process, signal.SIGKILL)
                ended, status = os.waitpid(process, 0 if late else os.WNOHANG)
                if ended:
                    del running[process]
                    yield mutant, "too long" if late else _outcome(os.waitstatus_to_exitcode(status))
    finally:
        for process in running:  # it was interrupted
            os.killpg(process, signal.SIGKILL)


def _outcome(code: int) -> str:
    return {pytest.ExitCode.OK: SURVIVED, pytest.ExitCode.NO_TESTS_COLLECTED: "no tests"}.get(code, "killed")  # type: ignore[call-overload,no-any-return]


def tell(line: str) -> None:
    """Write a line at once: a run takes long."""
    print(line, flush=True)  # noqa: T201 - for a terminal


def main() -> None:
    """Draw, run, and tell of those that no test noticed; exit code 1 where they are too many."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=1000, help="how many are drawn (default 1000)")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="draws the same ones again"
    )
    parser.add_argument("--again", type=Path, help="try only those that survived, by the output of an earlier run")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="side by side (default: one a processor)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what runs is ended too
    known, reached = all_mutants(), Reached(ROOT / ".coverage", ROOT / ".coverage-tests.xml")
    if args.again:
        drawn = survivors(args.again.read_text(encoding="utf-8"), known)
    else:
        drawn = random.Random(args.seed).sample(known, min(args.sample, len(known)))  # noqa: S311 - repeatable
    if not drawn:
        sys.exit("no survivor of that run is found: have their lines changed?")
    tell(f"{len(drawn)} of {len(known)} mutants{'' if args.again else f', --seed {args.seed}'}")
    preload()
    jobs = [(each, *reached.tests(each)) for each in drawn]
    controls = [(replace(each, number=UNCHANGED), tests, seconds) for each, tests, seconds in jobs if tests][:CONTROLS]
    failing = [each.module for each, outcome in outcomes(controls, args.workers) if outcome != SURVIVED]
    if failing:
        sys.exit(f"tests fail without any change: those of {', '.join(sorted(set(failing)))}")
    found: Counter[str] = Counter()
    for mutant, outcome in outcomes(jobs, args.workers):
        found[outcome] += 1
        if outcome not in ("killed", "too long"):
            tell(f"{outcome}: {mutant.made()[1]}")
    killed = found["killed"] + found["too long"]
    tell(f"{killed} of {len(drawn)} killed, {killed / len(drawn):.1%} ({dict(found)}); the goal is {GOAL:.0%}")
    sys.exit(killed < GOAL * len(drawn))


if __name__ == "__main__":
    main()
