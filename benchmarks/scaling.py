"""What docs/scaling.md calculates with: how fresh values are, what Prometheus takes in, what is left of the retired."""

from __future__ import annotations

import gzip
import tempfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from common import RATE, WALL, Fleet, Result, finished, ids, running

from exporter.config import ListedOperation, Polling
from exporter.metrics.exposition import Format, knock_part
from exporter.operation import OperationKey
from exporter.store.opening import open_store
from exporter.tracking.memory import Changes, EnvironmentMemory
from exporter.tracking.messages import Register, Registration
from exporter.tracking.tombstones import Tombstone
from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.operation import Operation
    from exporter.tracking.messages import PollRequest

LIVE, NEW, NAMED = 4000, 10_000, 1000  # operations; ids in a registration
EXPOSED = 1000
STONES, NOW = 50_000, Moment(1000.0, WALL)
USED = 0.985  # of the limit, which docs/scaling.md names


class _Asked(Fleet):
    """A fleet that notes when each of its operations was polled; what is new has ended when it is polled first."""

    def __init__(self, count: int) -> None:
        self.asked: dict[str, list[float]] = defaultdict(list)
        self._live = set(ids(count))
        super().__init__(count, self._answer, polling=Polling())

    def _answer(self, operation_id: str, rows: int) -> Operation:
        return (running if operation_id in self._live else finished)(operation_id, rows)

    def _send(self, request: PollRequest) -> float:
        self.asked[request.id].append(self.mono)
        return super()._send(request)

    def register(self, listed: list[str], group: str = "default") -> None:
        for first in range(0, len(listed), NAMED):
            named = tuple(Registration(ListedOperation(each, group)) for each in listed[first : first + NAMED])
            message = Register("production", named, again=False, reply=lambda _answer: None)
            self.tracker.handle(message, self._now)

    def between(self, seconds: float) -> float:
        """Return the mean seconds between two polls of what runs, over so many seconds."""
        self.asked.clear()
        self.run(seconds)
        times = [each for operation_id, each in self.asked.items() if operation_id in self._live]
        return fmean(later - earlier for each in times for earlier, later in pairwise(each))


def freshness() -> list[Result]:
    """Measure the seconds between two polls of an operation against operations / rate; then while many are new."""
    fleet = _Asked(LIVE)
    calculated = LIVE / (USED * RATE)
    alone = fleet.between(4 * calculated)
    fleet.register(ids(NEW))
    shared = fleet.between(0.9 * NEW / (USED * RATE * 5 / 9))
    return [
        Result(f"between two polls, {LIVE:,} live", alone, "s", "", f"calculated: {calculated:.1f} s"),
        Result(f"the same while {NEW:,} are new", shared, "s", "", f"calculated: {calculated * 9 / 4:.1f} s"),
    ]


def exposed() -> list[Result]:
    """Measure what Prometheus takes in of an operation: its series, and the bytes of an answer, plain and gzip."""
    results = [_exposed(what, record) for what, record in (("live", running), ("finished", finished))]
    fleet = _Asked(1)
    before = _series(fleet)
    fleet.register(ids(NAMED), "another")
    fleet.run(NAMED / (USED * RATE) + 1.0)
    more = sum(b'group="another"' in each and b"operation_id" not in each for each in _series(fleet) - before)
    return [*results, Result("series of a further group of one name", more, "series")]


def _series(fleet: Fleet) -> set[bytes]:
    body = b"".join(knock_part(fleet.view, Format.OPENMETRICS))
    return {each.rpartition(b" ")[0] for each in body.splitlines() if not each.startswith(b"#")}


def _exposed(what: str, record: Callable[[str, int], Operation]) -> Result:
    empty, full = (Fleet(EXPOSED, record, series=count) for count in (0, EXPOSED))
    bodies = [b"".join(knock_part(each.view, Format.OPENMETRICS)) for each in (empty, full)]
    series = [len(_series(each)) for each in (empty, full)]
    sizes = [[len(each), len(gzip.compress(each, 1))] for each in bodies]
    plain, zipped = ((many - few) / EXPOSED for few, many in zip(*sizes, strict=True))
    detail = f"{plain:.0f} bytes plain, {zipped:.0f} gzip"
    return Result(f"series of a {what} operation", (series[1] - series[0]) / EXPOSED, "series", "", detail)


def tombstone() -> list[Result]:
    """Measure the bytes on disk of an operation that has retired."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.db")
        store, _ = open_store(path, lambda: NOW)
        sizes = []
        for number, count in enumerate((1, STONES), 1):
            stones = {OperationKey("production", each): Tombstone(NOW.mono, retired=True) for each in ids(count)}
            environments = {"production": EnvironmentMemory("https://api.knock.app", None, WALL)}
            store.commit(Changes(number, NOW, tombstones=stones, environments=environments), lambda _tried: False)
            store.close()
            sizes.append(path.stat().st_size)
            store, _ = open_store(path, lambda: NOW)
        store.close()
    return [Result("state of a retired operation", (sizes[1] - sizes[0]) / STONES, "bytes")]
