"""When operations that have ended leave, and which of them may leave early."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from heapq import merge
from itertools import chain, islice
from operator import itemgetter
from typing import TYPE_CHECKING

from exporter.tracking.environment import NEVER
from exporter.tracking.exposure import CLEAN_SECONDS
from exporter.tracking.memberships import CONFIG
from exporter.tracking.tombstones import KEPT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.operation import OperationKey
    from exporter.tracking.environment import FollowedOperation, WatchedEnvironment

    _End = tuple[float, OperationKey]  # when it was seen at its end (monotonic)

PARTS = 14  # of a round, each a second: what comes too late for one is found by the next, within 30 s
PART_LEAST = 1000  # operations: some 50 µs
FAILED_RETENTIONS = 7  # how many times `retention` what failed or had errors stays: Friday night's is there on Monday


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
    """The operations that may retire early, at the limit, the one that ended longest ago first.

    Clean ones come before those that failed or had errors, and these only once they are older than `retention`.
    """

    def __init__(self, environments: Mapping[str, WatchedEnvironment]) -> None:
        self._environments = environments
        # By environment, which has its own `retention`, and by whether they are clean.
        self._ended: defaultdict[tuple[str, bool], list[_End]] = defaultdict(list)

    def note(self, operation: FollowedOperation, *, may_leave: bool) -> None:
        """Note whether an operation may retire early, as it is now."""
        tracked = operation.tracked
        if tracked.final_at is None:
            return
        ended, entry = self._ended[tracked.key.environment, tracked.clean], (tracked.final_at, tracked.key)
        place = bisect_left(ended, entry)
        noted = place < len(ended) and ended[place] == entry
        if may_leave and not noted:
            ended.insert(place, entry)
        elif noted and not may_leave:
            del ended[place]

    def first(self, count: int, now: float) -> list[OperationKey]:
        """Return the first `count` that may leave; none at all if there are not so many."""
        clean: list[list[_End]] = []
        others: list[list[_End]] = []
        for (name, is_clean), ended in self._ended.items():
            age = 0.0 if is_clean else self._environments[name].settings.retention
            old_enough = bisect_right(ended, now - age, key=itemgetter(0))
            (clean if is_clean else others).append(ended[: min(count, old_enough)])
        if sum(map(len, clean + others)) < count:
            return []
        return [key for _, key in islice(chain(merge(*clean), merge(*others)), count)]

    def remove_environment(self, name: str) -> None:
        """Forget the operations of an environment."""
        for clean in (True, False):
            self._ended.pop((name, clean), None)
