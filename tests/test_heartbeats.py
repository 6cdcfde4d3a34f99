"""Threads that hang are found; a process that was stopped and goes on is healthy."""

from __future__ import annotations

import pytest

from exporter.heartbeats import Heartbeats


class Process:
    """Two threads and the main one, second by second."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.steps = {"tracker": self.now, "writer": self.now}
        steps = {"tracker": lambda: self.steps["tracker"], "writer": lambda: self.steps["writer"]}
        self.heartbeats = Heartbeats(steps, self.now)

    def run(self, seconds: int, *hanging: str) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.heartbeats.tick(self.now)
            self.steps |= {name: self.now for name in self.steps if name not in hanging}

    def stop(self, seconds: float) -> None:
        self.now += seconds


def test_a_thread_that_hangs_is_found_after_a_minute() -> None:
    process = Process()
    process.run(60, "writer")
    assert process.heartbeats.problem() is None
    process.run(1, "writer")
    assert process.heartbeats.problem() == "no step for 60 s: writer"
    process.run(1)
    assert process.heartbeats.problem() is None


@pytest.mark.parametrize("seconds", [11.0, 61.0, 86400.0])
def test_a_stop_of_the_process_makes_no_thread_late(seconds: float) -> None:
    process = Process()
    process.run(50, "writer")  # some seconds are left
    process.stop(seconds)
    assert process.heartbeats.problem() is None, "the first look comes before any thread runs"
    process.heartbeats.tick(process.now)
    assert process.heartbeats.problem() is None
    process.run(60, "writer")
    assert process.heartbeats.problem() is None
    process.run(1, "writer")
    assert process.heartbeats.problem() == "no step for 60 s: writer", "it hangs, stop or not"


def test_a_busy_machine_hides_no_thread_that_hangs() -> None:
    process = Process()
    for _ in range(9):
        process.stop(8.0)
        process.heartbeats.tick(process.now)
        process.steps["tracker"] = process.now
    assert process.heartbeats.problem() == "no step for 60 s: writer"
