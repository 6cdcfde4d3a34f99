"""When operations that have ended leave, and which of them may leave early."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from exporter.tracking.environment import NEVER
from exporter.tracking.exposure import CLEAN_SECONDS
from exporter.tracking.memberships import CONFIG
from exporter.tracking.tombstones import KEPT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.operation import OperationKey
    from exporter.tracking.environment import FollowedOperation

PARTS = 14  # of a round, each a second: what comes too late for one is found by the next, within 30 s
PART_LEAST = 1000  # operations: some 50 µs
FAILED_RETENTIONS = 7  # how many times `retention` what failed or had errors stays: Friday night's is there on Monday
PRUNE_LEAST = 1000


def leaves_at(operation: FollowedOperation) -> float:
    """Return when the time of an operation is over (monotonic): NEVER before its end, or while the configuration's.

    `retention` runs from its end, or from when it was first seen at its end if that is later: once for one that
    ended cleanly, FAILED_RETENTIONS times for others. A clean one that nobody names any more leaves sooner.
    """
    tracked, memberships = operation.tracked, operation.memberships
    if any(each.source == CONFIG for each in memberships):
        return NEVER
    if tracked.lost:
        return (tracked.missing_since or 0.0) + KEPT_SECONDS
    if tracked.final_at is None or tracked.operation is None:
        return NEVER
    # An end that lies ahead by Knock's clock counts from there, but no clock keeps an operation for ever.
    ahead = (tracked.operation.finished_at or 0.0) - (tracked.final_seen or 0.0)
    retention = operation.environment.settings.retention
    since = tracked.final_at + min(max(ahead, 0.0), retention)
    if not tracked.clean:
        return since + FAILED_RETENTIONS * retention
    return since + retention if memberships else min(since + retention, tracked.final_at + CLEAN_SECONDS)


class Sweep:
    """Finds the operations that are to be hidden or to leave: each at most 30 s late.

    Once one may be, all are looked at, a part each second; until then nothing is done.
    """

    def __init__(self, part_least: int = PART_LEAST) -> None:
        self._part_least = part_least
        self._left: list[FollowedOperation] = []  # to be looked at in this round
        self._part = 0
        self._earliest = NEVER  # when one may be due that this round does not find

    def plan(self, operation: FollowedOperation, at: float) -> None:
        """Look at an operation from then on (monotonic): not later than when it is due."""
        operation.sweep_at = at
        self._earliest = min(self._earliest, at)

    def next_step(self, next_second: float) -> float:
        """Return when there is something to do (monotonic; NEVER: nothing is planned)."""
        return next_second if self._left else max(self._earliest, next_second)

    def step(self, now: float, all_operations: Callable[[], list[FollowedOperation]]) -> list[FollowedOperation]:
        """Look at the next part; return those in it whose time has come, and who may be dropped meanwhile."""
        if not self._left and self._earliest <= now:
            self._left = all_operations()
            self._part = max(self._part_least, len(self._left) // PARTS + 1)
            self._earliest = NEVER
        part = self._left[-self._part :]
        del self._left[-self._part :]
        self._earliest = min([self._earliest, *(each.sweep_at for each in part if each.sweep_at > now)])
        return [each for each in part if each.sweep_at <= now]


class RetirementOrder:
    """The operations that may retire early, at the limit: they ended cleanly, the one that did so longest ago first."""

    def __init__(self, find: Callable[[OperationKey], FollowedOperation | None]) -> None:
        self._find = find
        self._entries: list[tuple[float, OperationKey]] = []

    def add(self, operation: FollowedOperation) -> None:
        """Take in an operation, if it is not there yet."""
        if operation.retirement is None and operation.tracked.final_at is not None:
            operation.retirement = (operation.tracked.final_at, operation.key)
            heappush(self._entries, operation.retirement)

    def take(self, count: int) -> list[FollowedOperation]:
        """Take out the first `count` that may leave; none at all if there are not so many."""
        taken: list[FollowedOperation] = []
        while len(taken) < count <= len(taken) + len(self._entries):
            operation = self._followed(heappop(self._entries))
            if operation is not None:
                operation.retirement = None
                if leaves_at(operation) < NEVER:
                    taken.append(operation)
        if len(taken) == count:
            return taken
        for each in taken:
            self.add(each)
        return []

    def _followed(self, entry: tuple[float, OperationKey]) -> FollowedOperation | None:
        """Return the operation of an entry, unless it was dropped since."""
        operation = self._find(entry[1])
        return operation if operation is not None and operation.retirement is entry else None

    def prune(self, followed: int) -> None:
        """Forget the entries of operations that were dropped, once they are most of them."""
        if len(self._entries) > 2 * followed + PRUNE_LEAST:
            self._entries = [each for each in self._entries if self._followed(each) is not None]
            heapify(self._entries)
