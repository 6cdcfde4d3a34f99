"""What is known of what is watched, and what follows from it: frozen values, time as an argument.

Seconds are monotonic. What both ways to watch share is here; `operations.py` has a set of ids, `run.py` a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from exporter.operation import FINAL, Status
from exporter.terminal.exit_codes import ExitCode
from exporter.tracking.history import NO_HISTORY, History
from exporter.tracking.transitions import LOST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.tracking.transitions import Tracked

UNREACHABLE_SECONDS = 60.0


class WatchOutcome(NamedTuple):
    """How it ended, and why."""

    code: ExitCode
    text: str


class Reach(NamedTuple):
    """Whether the server that is asked still answers; `refused`: it does not take the key, token or password."""

    failing_since: float | None = None
    failed_at: float = 0.0
    problem: str = ""
    refused: bool = False

    def failed(self, problem: str, now: float, *, refused: bool = False) -> Reach:
        """Note a request without an answer that says anything."""
        since = now if self.failing_since is None else self.failing_since
        return Reach(since, now, problem, refused)

    def outcome(self) -> WatchOutcome | None:
        """Return the end where nothing can be known any more."""
        if self.refused:
            return WatchOutcome(ExitCode.UNKNOWN, self.problem)
        if self.failing_since is not None and self.failed_at - self.failing_since >= UNREACHABLE_SECONDS:
            return WatchOutcome(ExitCode.UNKNOWN, f"{self.problem} (for a minute)")
        return None


REACHED = Reach()


class Watched(NamedTuple):
    """One operation: `rate` in rows a second, `flawed` where it is known to have errors whatever its counts say."""

    tracked: Tracked
    rate: float | None = None
    time_left: float | None = None
    flawed: bool = False
    history: History = NO_HISTORY

    @property
    def id(self) -> str:
        """Its id."""
        return self.tracked.key.id

    @property
    def has_errors(self) -> bool:
        """Whether Knock counted or listed a failed item."""
        return self.flawed or self.tracked.has_errors

    @property
    def processed(self) -> int | None:
        """Rows that are processed."""
        return self.tracked.operation.rows_processed if self.tracked.operation else None

    @property
    def estimated(self) -> int | None:
        """Rows that are expected."""
        return self.tracked.operation.rows_estimated if self.tracked.operation else None

    @property
    def errors(self) -> int | None:
        """Rows with an error."""
        return self.tracked.operation.errors if self.tracked.operation else None

    @property
    def progress(self) -> float | None:
        """The share (0 to 1) of its rows that are processed."""
        if self.tracked.final:
            return 1.0
        if self.processed is None or not self.estimated:
            return None
        return min(self.processed / self.estimated, 1.0)


class Frame(NamedTuple):
    """All that is shown at one moment. `watched` are the operations to draw, the sums are of all of them.

    `expected` is how many operations there will be (None: not known), `progress` a share from 0 to 1. `problem` says
    why the server gives no answer, `note` what else its answers lack.
    """

    title: str
    word: str
    watched: Sequence[Watched]
    counts: Mapping[str, int]
    expected: int | None
    with_errors: int
    processed: int | None
    estimated: int | None
    errors: int | None
    progress: float | None
    progress_of: str | None
    rate: float | None
    time_left: float | None
    problem: str = ""
    note: str = ""

    @property
    def finished(self) -> int:
        """How many are at their end, lost ones too."""
        return sum(count for state, count in self.counts.items() if state in FINAL or state == LOST)

    @property
    def total(self) -> int:
        """How many there are, those that are expected too."""
        return max(sum(self.counts.values()), self.expected or 0)


def judged(counts: Mapping[str, int], with_errors: int, *, allow_errors: bool) -> WatchOutcome:
    """Return the end of operations that are all finished."""
    found = [
        (counts.get(Status.FAILED, 0), "failed"),
        (counts.get(LOST, 0), "lost (404)"),
        (0 if allow_errors else with_errors, "with errors"),
    ]
    wrong = [f"{count:,} {what}" for count, what in found if count]
    if wrong:
        return WatchOutcome(ExitCode.FAILED, ", ".join(wrong))
    flawed = f", {with_errors:,} of them with errors" if with_errors else ""
    return WatchOutcome(ExitCode.CLEAN, f"{counts.get(Status.COMPLETED, 0):,} completed{flawed}")


def sum_of(values: Sequence[float | None]) -> float | None:
    """Add what is known; None where nothing is."""
    known = [each for each in values if each is not None]
    return sum(known) if known else None
