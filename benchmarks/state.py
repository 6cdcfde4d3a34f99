"""What state costs: a commit, a start with what an earlier process knew, and how fast ids are taken in."""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from common import KEY, WALL, Result, ids, median_seconds, running

from exporter.config import Config, EnvironmentSettings, ListedOperation
from exporter.keys import KeySource
from exporter.metrics.own import Activity
from exporter.operation import OperationKey, Status
from exporter.store.opening import open_store
from exporter.tracking.memberships import API, Membership
from exporter.tracking.memory import Changes, EnvironmentMemory, Memory, StoredOperation
from exporter.tracking.messages import Outside, Register, Registration, Saved
from exporter.tracking.tracker import Tracker
from exporter.tracking.transitions import Moment, Tracked

NOW = Moment(1000.0, WALL)
GROUP = 50
NAMED = 1000
RUNS = 5


def _kept(operation_id: str) -> StoredOperation:
    record = replace(running(operation_id, 1000), status=Status.COMPLETED, completed_at=WALL - 60.125)
    key = OperationKey("production", operation_id)
    tracked = Tracked(
        key, "default", (), NOW, None, 5.0, 5.0, operation=record, up=True, last_success=NOW, last_change=NOW
    )
    return StoredOperation(tracked._replace(from_birth=True, final_seen=WALL, final_at=NOW.mono), (Membership(API),))


def _changes(number: int, count: int) -> Changes:
    operations = {OperationKey("production", each): _kept(each) for each in ids(count)}
    environments = {"production": EnvironmentMemory("https://api.knock.app", None, WALL)}
    return Changes(number, NOW, operations, environments=environments)


def _tracker(count: int, memory: Memory, *, durable: bool) -> tuple[Tracker, list[Changes]]:
    saved: list[Changes] = []
    environment = EnvironmentSettings("production", api_key=KeySource(inline=KEY), per_operation_limit=count)
    outside = Outside(
        lambda _r: 0.0,
        lambda _n: None,
        lambda _n, _k: None,
        lambda _v: None,
        random.Random(1).random,
        saved.append if durable else None,
    )
    return Tracker(Config((environment,)), {"production": KEY}, outside, Activity(), NOW, memory=memory), saved


def commit() -> list[Result]:
    """Measure the commit of a group of 50 operations, on disk when it is done."""
    with tempfile.TemporaryDirectory() as folder:
        store, _ = open_store(Path(folder, "state.db"), lambda: NOW)
        changes = _changes(1, GROUP)
        seconds = median_seconds(lambda: store.commit(changes, lambda _tried: False), 50)
        store.close()
    return [Result(f"commit of {GROUP} operations", seconds * 1000, "ms", "", "on the disk of the temporary folder")]


def restart(count: int) -> list[Result]:
    """Measure what a start with so many final operations, all exposed, takes next to an empty one: in CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.db")
        store, _ = open_store(path, lambda: NOW)
        store.commit(_changes(1, count), lambda _tried: False)
        store.close()
        size = path.stat().st_size / count

        def start() -> None:
            again, memory = open_store(path, lambda: NOW)
            _tracker(count, memory, durable=True)[0].advance(NOW)
            again.close()

        promised = count == 10_000  # noqa: PLR2004 - so many
        full = median_seconds(start, 3 if promised else 1, time.process_time)
    empty = median_seconds(lambda: _tracker(count, Memory(), durable=True)[0].advance(NOW), RUNS, time.process_time)
    bound = "<= 2" if promised else ""
    detail = f"{size:.0f} bytes of state for each"
    return [Result(f"start with {count:,} final operations, more than an empty one", full - empty, "s", bound, detail)]


def intake() -> list[Result]:
    """Measure how long registering 1,000 new ids takes until it is answered, with a store and without: side by side."""
    bare, durable = _registering(durable=False), _registering(durable=True)
    rate = NAMED / durable
    return [
        Result("registering 1,000 ids, with a store against without", durable / bare, "times", "", f"{rate:,.0f} ids/s")
    ]


def _registering(*, durable: bool) -> float:
    with tempfile.TemporaryDirectory() as folder:
        store, _ = open_store(Path(folder, "state.db"), lambda: NOW)
        tracker, saved = _tracker(1000, Memory(), durable=durable)
        batches = [ids(NAMED * (number + 1))[-NAMED:] for number in range(RUNS + 1)]

        def once() -> None:
            registration = tuple(Registration(ListedOperation(each)) for each in batches.pop())
            answers: list[object] = []
            tracker.handle(Register("production", registration, again=False, reply=answers.append), NOW)
            tracker.advance(NOW)
            for changes in saved:
                store.commit(changes, lambda _tried: False)
                tracker.handle(Saved(changes.number, ok=True), NOW)
            saved.clear()

        seconds = median_seconds(once, RUNS)
        store.close()
    return seconds
