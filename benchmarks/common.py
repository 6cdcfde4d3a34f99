"""What the benchmarks share: a fleet of operations, clocks of the process, and one table of ratios."""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
import uuid
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from exporter.config import Config, EnvironmentSettings, ListedOperation, Polling
from exporter.garbage_collection import collect_rarely
from exporter.keys import KeySource, Secret
from exporter.metrics.own import Activity
from exporter.operation import Operation, Status
from exporter.tracking.messages import Outside, PollRequest, PollResponse, Reconfigure
from exporter.tracking.tracker import Tracker
from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.metrics.exposition import View

KEY = Secret("sk_benchmark")
WALL = 1_800_000_000.0
RATE = 200.0  # answers a second
FILL_RATE = 2000.0  # … while a fleet is made: fewer views are published then


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: a figure, and where it has one, the bound that it is held to (`<=` or `>=`)."""

    what: str
    value: float
    unit: str
    bound: str = ""
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether the figure keeps its bound."""
        if not self.bound:
            return True
        sign, limit = self.bound.split()
        return self.value <= float(limit) if sign == "<=" else self.value >= float(limit)


def median_seconds(action: Callable[[], object], runs: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the median time of an action, after one run that does not count; of a single run its time."""
    if runs > 1:
        action()
    times = []
    for _ in range(runs):
        start = clock()
        action()
        times.append(clock() - start)
    return statistics.median(times)


def ids(count: int) -> list[str]:
    """Return operation ids, always the same."""
    chance = random.Random(count)
    return [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(count)]


def running(operation_id: str, rows: int) -> Operation:
    """Build a record under way with all that Knock tells."""
    return Operation(
        operation_id,
        Status.PROCESSING,
        "users.identify",
        rows_processed=rows,
        rows_estimated=1000,
        successes=rows - rows // 50,
        errors=rows // 50,
        error_items=rows // 50,
        inserted_at=WALL - 600.25,
        updated_at=WALL - 3.5,
        started_at=WALL - 590.125,
    )


def finished(operation_id: str, rows: int) -> Operation:
    """Build a record of an operation that has ended."""
    return replace(running(operation_id, rows), status=Status.COMPLETED, completed_at=WALL - 3.5)


class Fleet:
    """A tracker with `count` operations, under way by default, all answered once; in driven time.

    `series` of them have series of their own, all by default.

    Intervals are so long that RATE polls a second are always due, and none twice before all were asked; or those of
    `polling`.
    """

    def __init__(
        self,
        count: int,
        record: Callable[[str, int], Operation] = running,
        series: int | None = None,
        polling: Polling | None = None,
    ) -> None:
        self._record = record
        self.views: list[View] = []
        self.activity = Activity()
        self.mono = 1000.0
        self.answers = 0
        self._sent: list[PollRequest] = []
        cycle = count / RATE
        listed = tuple(ListedOperation(each) for each in ids(count))
        environment = EnvironmentSettings(
            "production",
            api_key=KeySource(inline=KEY),
            operations=listed,
            rate_limit=FILL_RATE,
            max_in_flight=64,
            polling=polling or Polling(processing=cycle, queued=cycle, slowest=cycle),
            per_operation_limit=count if series is None else series,
        )
        outside = Outside(self._send, lambda _n: None, lambda _n, _k: None, self._show, random.Random(1).random)
        keys = {"production": KEY}
        self.tracker = Tracker(Config((environment,)), keys, outside, self.activity, self._now)
        filling = 1.1 * count / FILL_RATE
        self.run(filling)
        slower = Config((replace(environment, rate_limit=RATE),))
        self.tracker.handle(Reconfigure(slower, keys, lambda: None, lambda: None), self._now)
        self.run(0.85 * cycle - filling)  # by then more than RATE a second are due again

    def _send(self, request: PollRequest) -> float:
        self._sent.append(request)
        return 0.0

    def _show(self, view: View) -> None:
        self.views[:] = [view]

    @property
    def view(self) -> View:
        """The newest view."""
        return self.views[0]

    @property
    def _now(self) -> Moment:
        return Moment(self.mono, WALL + self.mono - 1000.0)

    def run(self, seconds: float) -> None:
        """Let so much time pass; each request is answered before the next is sent."""
        end = self.mono + seconds
        while self.mono < end:
            self.mono = max(self.mono, min(self.tracker.advance(self._now), end))
            for request in self._sent:
                self.answers += 1
                rows = int(self.mono) % 1000
                self.tracker.handle(PollResponse(request, self._record(request.id, rows), 0.05), self._now)
            self._sent.clear()


@cache
def fleet(count: int) -> Fleet:
    """Return the one fleet of this size: to answer for all of them takes longer than what is measured with it."""
    collect_rarely()  # as the exporter does
    return Fleet(count)


def make_fleet(count: int) -> None:
    """Have the fleet of this size made here: another process cannot get it as a value."""
    fleet(count)


def show(results: list[Result], *, as_json: bool) -> None:
    """Write the table."""
    if as_json:
        json.dump([{**asdict(each), "good": each.good} for each in results], sys.stdout, indent=2)
        print()  # noqa: T201 - this is a script for a terminal
        return
    width = max(len(each.what) for each in results)
    for each in results:
        verdict = ("ok" if each.good else "NOT KEPT") if each.bound else ""
        line = f"{each.what:<{width}}  {each.value:>9.2f} {each.unit:<12} {each.bound:<9} {verdict:<9} {each.detail}"
        print(line.rstrip())  # noqa: T201 - the same
