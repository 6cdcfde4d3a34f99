"""What `state check` tells of a file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from exporter.store import database, tables
from exporter.store.ages import Ages
from exporter.store.database import Damaged
from exporter.tracking.memberships import API
from exporter.wording import counted

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

    from exporter.tracking.memory import Memory

ROWS_NAMED = 20


@dataclass(slots=True)
class Report:
    """What is there, and what is wrong."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    skipped: int = 0

    def skip(self, environment: str, row: str, problem: str) -> None:
        """Note a row that cannot be read; the first ones by name."""
        self.skipped += 1
        if self.skipped <= ROWS_NAMED:
            self.problems.append(f"environment {environment}: {row}: cannot be read: {problem}")


def inspect(path: Path) -> Report:
    """Look through a file, also one that an exporter has open. Raises StartError where it cannot be read at all."""
    report = Report()
    with database.reading(path) as (connection, form):
        report.lines.append(f"{path}: version {form} of the format, {path.stat().st_size:,} bytes")
        _check_soundness(connection, report)
        at = tables.read_checkpoint(connection)
        if at is None:
            report.problems.append("there is no checkpoint: nothing tells when the state was true")
        else:
            report.lines.append(f"last checkpoint: {_time(at.wall)}")
        memory = tables.read_memory(connection, Ages(0.0), report.skip)
    if report.skipped > ROWS_NAMED:
        report.problems.append(f"and {report.skipped - ROWS_NAMED} more rows that cannot be read")
    report.lines += _environments(memory)
    return report


def _check_soundness(connection: sqlite3.Connection, report: Report) -> None:
    try:
        database.check_soundness(connection, "PRAGMA integrity_check(1)")
    except Damaged as error:
        report.problems.append(f"damaged: {error}")
    else:
        report.lines.append("integrity: ok")


def _environments(memory: Memory) -> Iterable[str]:
    states: dict[str, Counter[str]] = {name: Counter() for name in memory.environments}
    registrations: Counter[str] = Counter()
    for key, kept in memory.operations.items():
        states.setdefault(key.environment, Counter())[kept.tracked.state] += 1
        registrations[key.environment] += any(membership.source == API for membership in kept.memberships)
    stones = Counter(key.environment for key in memory.tombstones)
    for name in sorted({*states, *stones}):
        by_state = states.get(name, Counter())
        listed = ", ".join(f"{count} {state}" for state, count in sorted(by_state.items()))
        yield (
            f"environment {name}: {counted(by_state.total(), 'operation')}{f' ({listed})' if listed else ''},"
            f" {counted(registrations[name], 'registration')}, {counted(stones[name], 'tombstone')}"
            f"{_epoch(memory, name)}"
        )


def _epoch(memory: Memory, name: str) -> str:
    environment = memory.environments.get(name)
    if environment is None:
        return ""
    asleep = "; not configured" if environment.asleep_since is not None else ""
    return f", watched since {_time(environment.epoch)}{asleep}"


def _time(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s (Unix)"
