"""Long work in slices, so that asking, publishing and messages go on in between: no list holds the tracker.

A job is a generator: each `now = yield` ends a slice. What it relies on may have changed when it goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING

from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import Hashable

Job = Generator[None, Moment, None]

SLICE = 20  # operations: some milliseconds
SLICES_A_STEP = 6


def is_due(number: int) -> bool:
    """Whether a job is to end its slice before the operation of this number, counted from 0."""
    return number % SLICE == 0 and number > 0


class Slices:
    """The jobs that wait: those somebody waits for, then the others, each in their order. Of the tracker's thread."""

    def __init__(self) -> None:
        self._urgent: deque[Job] = deque()
        self._others: dict[Hashable, Job] = {}
        self._left = SLICES_A_STEP

    def waiting(self, *, urgent_only: bool) -> bool:
        """Whether there is more to do."""
        return bool(self._urgent or (self._others and not urgent_only))

    def put_urgent(self, job: Job, now: Moment) -> None:
        """Do what somebody waits for."""
        next(job)
        self._urgent.append(job)
        self._go_on(now)

    def put(self, what: Hashable, job: Job, now: Moment) -> None:
        """Do this, in the place of a job of the same name that is not done yet."""
        next(job)
        self._others[what] = job
        self._go_on(now)

    def step(self, now: Moment, *, urgent_only: bool = False) -> None:
        """Do some of it."""
        self._left = SLICES_A_STEP
        self._go_on(now, urgent_only=urgent_only)

    def finish_urgent(self, now: Moment) -> None:
        """Do all that somebody waits for: this is the end."""
        while self._urgent:
            self.step(now, urgent_only=True)

    def _go_on(self, now: Moment, *, urgent_only: bool = False) -> None:
        while self._left > 0 and self.waiting(urgent_only=urgent_only):
            self._left -= 1
            what = None if self._urgent else next(iter(self._others))
            try:
                (self._urgent[0] if self._urgent else self._others[what]).send(now)
            except StopIteration:
                if self._urgent:
                    self._urgent.popleft()
                else:
                    del self._others[what]
