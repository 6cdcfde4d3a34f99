"""When operations that have ended leave, and which of them may leave early."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from exporter.tracking.exposure import CLEAN_SECONDS
from exporter.tracking.memberships import CONFIG
from exporter.tracking.tombstones import KEPT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from exporter.operation import OperationKey
    from exporter.tracking.memberships import Memberships
    from exporter.tracking.transitions import Tracked

NEVER = float("inf")
PRUNE_LEAST = 1000


def leaves_at(tracked: Tracked, memberships: Memberships, retention: float) -> float:
    """Return when the time of an operation is over (monotonic): NEVER while it is followed, or the configuration's.

    `retention` seconds run from its end, or from when it was first seen at its end if that is later. One that ended
    cleanly and that nobody names any more leaves sooner.
    """
    if any(each.source == CONFIG for each in memberships):
        return NEVER
    if tracked.lost:
        return (tracked.missing_since or 0.0) + KEPT_SECONDS
    if tracked.final_at is None or tracked.operation is None:
        return NEVER
    # An end that lies ahead by Knock's clock counts from there, but no clock keeps an operation for ever.
    ahead = (tracked.operation.finished_at or 0.0) - (tracked.final_seen or 0.0)
    until = tracked.final_at + retention + min(max(ahead, 0.0), retention)
    return until if memberships or not tracked.clean else min(until, tracked.final_at + CLEAN_SECONDS)


class ExpiryQueue:
    """Who leaves next. Times are looked at again when they come, so an entry may be too early, never too late."""

    def __init__(self) -> None:
        self._leaving: list[tuple[float, OperationKey]] = []
        self._clean: list[tuple[float, OperationKey]] = []
        self._noted: dict[OperationKey, float] = {}  # the earliest entry of each in `_leaving`
        self._noted_clean: dict[OperationKey, float] = {}

    def note(self, ended: Tracked, at: float) -> None:
        """Plan when an operation that ended or was lost leaves."""
        if at == NEVER:
            return
        if at < self._noted.get(ended.key, NEVER):
            self._noted[ended.key] = at
            heappush(self._leaving, (at, ended.key))
        if ended.clean and ended.final_at is not None and self._noted_clean.get(ended.key) != ended.final_at:
            self._noted_clean[ended.key] = ended.final_at
            heappush(self._clean, (ended.final_at, ended.key))

    def restart(self, ended: Iterable[tuple[Tracked, float]]) -> None:
        """Plan again when all of them leave: the settings have changed."""
        self._leaving, self._clean = [], []
        self._noted, self._noted_clean = {}, {}
        for tracked, at in ended:
            self.note(tracked, at)

    @property
    def next(self) -> float:
        """When the next one may leave (monotonic)."""
        return self._leaving[0][0] if self._leaving else NEVER

    def due(self, now: float) -> Iterator[OperationKey]:
        """Take out, one by one, those whose time may have come."""
        while self._leaving and self._leaving[0][0] <= now:
            at, key = heappop(self._leaving)
            if self._noted.get(key) == at:
                del self._noted[key]
                yield key

    def take_cleanest(self, count: int, may_leave: Callable[[OperationKey], bool]) -> list[OperationKey]:
        """Take out the `count` operations that ended cleanly longest ago; none at all if there are not so many."""
        if count > len(self._clean):
            return []
        taken: dict[OperationKey, float] = {}
        while self._clean and len(taken) < count:
            at, key = heappop(self._clean)
            if self._noted_clean.get(key) != at:
                continue  # an earlier end: it was dropped since, and followed again
            del self._noted_clean[key]
            if may_leave(key):
                taken[key] = at
        if len(taken) < count:
            for key, at in taken.items():
                self._noted_clean[key] = at
                heappush(self._clean, (at, key))
            return []
        return list(taken)

    def prune(self, tracked: int, may_leave: Callable[[OperationKey], bool]) -> None:
        """Forget entries of operations that are gone, once they are most of them."""
        if len(self._clean) > 2 * tracked + PRUNE_LEAST:
            self._clean = sorted({each for each in self._clean if may_leave(each[1])})
            self._noted_clean = {key: at for at, key in self._clean}
