"""Slots for answers that cost memory: so many at a time, and slow readers keep none that others wait for."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.web.connections import HELD_SECONDS, nothing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from exporter.web.connections import Connection

PATIENCE_SECONDS = 5.0  # half of what Prometheus waits for a scrape
LOOK_SECONDS = 0.1


@dataclass(slots=True, eq=False)
class _Slot:
    connection: Connection
    since: float
    decided: asyncio.Future[bool]

    def settle(self, *, given: bool) -> None:
        if not self.decided.done():
            self.decided.set_result(given)


class Slots:
    """Gives out slots in one event loop: to the trusted first, and never taking one from a trusted connection."""

    def __init__(self, count: int, held: float = HELD_SECONDS, patience: float = PATIENCE_SECONDS) -> None:
        self._count, self._held, self._patience = count, held, patience
        self._granted = 0
        self._taken: set[_Slot] = set()
        self._line: list[_Slot] = []
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def slot(self, connection: Connection) -> AsyncIterator[bool]:
        """Wait for a slot and hold it; False: there was none in time, or the connection was lost."""
        loop = asyncio.get_running_loop()
        wanted = _Slot(connection, loop.time(), loop.create_future())
        self._line.append(wanted)
        connection.on_lost = lambda: wanted.settle(given=False)
        try:
            self._assign()
            yield await wanted.decided
        finally:
            self._leave(wanted)

    def _leave(self, slot: _Slot) -> None:
        slot.connection.on_lost = nothing
        if slot in self._line:
            self._line.remove(slot)
        if slot in self._taken:
            self._taken.remove(slot)
            slot.connection.proven |= slot.connection.held(asyncio.get_running_loop().time()) < self._held
        self._assign()

    def _assign(self) -> None:
        now = asyncio.get_running_loop().time()
        for each in self._line:
            if now - each.since >= self._patience:
                each.settle(given=False)
        self._line = [each for each in self._line if not each.decided.done()]
        while self._line and (len(self._taken) < self._count or self._make_room(now)):
            self._grant(self._next())
        self._assign_later()

    def _grant(self, slot: _Slot) -> None:
        self._line.remove(slot)
        self._taken.add(slot)
        slot.settle(given=True)

    def _next(self) -> _Slot:
        """Choose who comes next: a trusted one, of the address that has fewest slots, the newest.

        The newest, because who asks again and again, on many connections at once, has always one that waits longer.
        Every other time the newest that has proven to read: many that have not must not keep it out.
        """
        line = [each for each in self._line if each.connection.trusted] or self._line
        taken = Counter(each.connection.address for each in self._taken)
        fewest = min(taken[each.connection.address] for each in line)
        line = [each for each in line if taken[each.connection.address] == fewest]
        self._granted += 1
        proven = [each for each in line if each.connection.proven]
        return (proven if proven and self._granted % 2 else line)[-1]

    def _make_room(self, now: float) -> bool:
        """Drop the answer that is held up most by its reader, if that is much."""
        slow = [each for each in self._taken if not each.connection.trusted]
        slowest = max(slow, key=lambda each: each.connection.held(now), default=None)
        if slowest is None or slowest.connection.held(now) < self._held:
            return False
        slowest.connection.drop()
        self._taken.discard(slowest)
        return True

    def _assign_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Readers that stall tell nothing.
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._assign) if self._line else None
