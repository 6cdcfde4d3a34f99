"""Only what runs alone may promise seconds; a busy machine makes every other such test fail one day."""

from __future__ import annotations

import ast
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from timing import BUSY_SECONDS, PAIRS, InTime, check_cost

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent
CLOCKS = ("monotonic()", "perf_counter()")


def hasty(text: str) -> Iterator[int]:
    """Yield the lines of assertions about a clock in tests that do not run alone."""
    if not any(clock in text for clock in CLOCKS):
        return
    tree = ast.parse(text)
    marks = next((ast.unparse(each) for each in tree.body if ast.unparse(each).startswith("pytestmark")), "")
    for body in tree.body if "mark.alone" not in marks else ():
        decorators = getattr(body, "decorator_list", [])
        if not any("mark.alone" in ast.unparse(each) for each in decorators):
            for node in ast.walk(body):
                if isinstance(node, ast.Assert) and any(clock in ast.unparse(node) for clock in CLOCKS):
                    yield node.lineno


def test_what_does_not_run_alone_promises_no_seconds() -> None:
    found = {path: [*hasty(path.read_text(encoding="utf-8"))] for path in TESTS.rglob("test_*.py")}
    assert {path: lines for path, lines in found.items() if lines} == {}, "use in_time, or until, or run it alone"


def test_cpu_is_measured_by_one_function() -> None:
    measured = {path for path in TESTS.rglob("*.py") if "process_time" in path.read_text(encoding="utf-8")}
    allowed = {"timing.py", "test_timing.py", "fuzz.py"}  # the last one finds what hangs
    assert {path.name for path in measured} == allowed, "use check_cost, or cpu_seconds"


def test_such_an_assertion_is_found() -> None:
    promise = "def test():\n    assert time.monotonic() - began < 5\n"
    assert list(hasty(promise)) == [2]
    assert list(hasty("@pytest.mark.alone\n" + promise)) == []
    assert list(hasty("pytestmark = [pytest.mark.e2e, pytest.mark.alone]\n" + promise)) == []


def test_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def taking(seconds: float, *, alone: bool, at_least: float = 0.0) -> None:
        with InTime(alone=alone)(5.0, at_least=at_least):
            now[0] += seconds

    taking(4.9, alone=True)
    taking(4.9 + BUSY_SECONDS, alone=False)
    for seconds, alone, at_least in ((5.1, True, 0.0), (5.1 + BUSY_SECONDS, False, 0.0), (4.0, True, 4.5)):
        with pytest.raises(AssertionError, match="took"):
            taking(seconds, alone=alone, at_least=at_least)


@pytest.mark.parametrize(("costs", "pairs"), [([2.0], 1), ([9.0, 2.1, 1.9], 3), ([2.1] * PAIRS, PAIRS)])
def test_one_pair_that_costs_little_enough_is_enough(
    monkeypatch: pytest.MonkeyPatch, costs: list[float], pairs: int
) -> None:
    now, measured = [0.0], iter(costs)
    monkeypatch.setattr(time, "process_time", lambda: now[0])

    def taking(seconds: float) -> None:
        now[0] += seconds

    def check() -> None:
        check_cost(lambda: taking(next(measured)), 2.0, lambda: taking(1.0))

    if pairs < PAIRS:
        check()
    else:
        with pytest.raises(AssertionError, match=r"^took 2\.10, "):
            check()
    assert next(measured, None) is None
