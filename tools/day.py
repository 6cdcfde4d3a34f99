"""Draws docs/pictures/day.svg, the day of a very large customer: `make day` takes twenty minutes.

A real exporter follows three environments of a simulated Knock. An hour lasts 40 seconds, so that only a 90th of the
day's operations is begun: as many a second as on the whole day. What the exporter keeps of the day and the month before
is in its state when it starts, in full. So every figure but the length of an hour is that of the whole day.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from day_figures import (
    CUSTOMERS,
    DAY,
    ERRORS,
    FAILS,
    JOB,
    LONGER,
    OPERATIONS,
    RETIRED,
    STREAM,
    Begin,
    Figures,
    Passed,
    Read,
    begins,
    figures,
    picture,
    table,
)
from programs import COMMAND, WEB, Exporter, Starter

from exporter.operation import Operation, OperationKey, Status
from exporter.simulator import Shares, Simulator, World
from exporter.store.opening import open_store
from exporter.tracking.memberships import API, Membership
from exporter.tracking.memory import Changes, EnvironmentMemory, StoredOperation
from exporter.tracking.tombstones import Tombstone
from exporter.tracking.transitions import Moment, Tracked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "day.svg"
SEED, SHORTER, SCRAPE_SECONDS = 1, 90.0, 15.0
NAME, ROWS = "users.identify", 1000  # the most that a bulk call takes
SHARES = Shares(errors=ERRORS, fails=FAILS)
OPERATIONS_MOST, SCRAPES_BEFORE, START_SECONDS, TRIES = 150_000, 4, 300.0, 60


class Knock(World):
    """Operations, and when each was read."""

    def __init__(self) -> None:
        super().__init__(SEED, shares=SHARES)
        self.reads: dict[str, list[Read]] = defaultdict(list)

    def read(self, operation_id: str) -> Any | None:
        """Return the record as it stands now, and note that it was read."""
        document: dict[str, Any] | None = super().read(operation_id)
        if document is not None:
            ended = document["completed_at"] or document["failed_at"]
            late = time.time() - datetime.fromisoformat(ended).timestamp() if ended else None
            self.reads[operation_id].append(Read(time.monotonic(), late))
        return document


# What the exporter keeps from before.


class Ended(NamedTuple):
    """Operations that are kept: which share of all, how many days, and how they ended."""

    share: float
    days: int
    status: Status = Status.COMPLETED
    errors: int = 0


ENDED = (
    Ended(1 - ERRORS - FAILS, 1),
    Ended(ERRORS, LONGER, errors=ROWS // 50),
    Ended(FAILS, LONGER, Status.FAILED),
)


def kept(chance: random.Random, now: Moment) -> Iterator[StoredOperation]:
    """Make the operations that ended within their retention, one after another."""
    for name, customer in CUSTOMERS.items():
        for how in ENDED:
            for _ in range(round(customer.total * how.share * how.days)):
                group = JOB if chance.random() < customer.job / customer.total else STREAM
                age = chance.uniform(0, how.days * DAY)
                end = Moment(now.mono - age, now.wall - age)
                yield StoredOperation(_ended(OperationKey(name, _id(chance)), group, how, end), (Membership(API),))


def _ended(key: OperationKey, group: str, how: Ended, end: Moment) -> Tracked:
    record = Operation(
        key.id,
        how.status,
        NAME,
        rows_processed=ROWS,
        rows_estimated=ROWS,
        successes=ROWS - how.errors,
        errors=how.errors,
        error_items=how.errors,
        inserted_at=end.wall - 40.125,
        updated_at=end.wall,
        started_at=end.wall - 30.25,
        completed_at=None if how.status is Status.FAILED else end.wall,
        failed_at=end.wall if how.status is Status.FAILED else None,
    )
    return Tracked(
        key,
        group,
        (),
        end,
        None,
        15.0,
        15.0,
        operation=record,
        up=True,
        last_success=end,
        last_change=end,
        from_birth=True,
        seen_unfinished=True,
        seen_started=True,
        final_seen=end.wall,
        final_at=end.mono,
    )


def retired(chance: random.Random, now: Moment) -> dict[OperationKey, Tombstone]:
    """Make what is left of those that retired before: the newest that an exporter keeps."""
    names = chance.choices(list(CUSTOMERS), [each.total for each in CUSTOMERS.values()], k=RETIRED)
    seconds = RETIRED / OPERATIONS * DAY
    return {
        OperationKey(name, _id(chance)): Tombstone(now.mono - chance.uniform(0, seconds), retired=True)
        for name in names
    }


def _id(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def fill(path: Path, url: str, chance: random.Random) -> int:
    """Write the state of an exporter that has run for a month; return how many operations it follows."""
    now = Moment(time.monotonic(), time.time())
    environment = EnvironmentMemory(url, None, now.wall - 30 * DAY, (JOB, STREAM), (NAME,))
    operations = {each.tracked.key: each for each in kept(chance, now)}
    stones = retired(chance, now)
    store, _ = open_store(path, lambda: now)
    try:
        changes = Changes(1, now, operations, stones, environments=dict.fromkeys(CUSTOMERS, environment))
        store.commit(changes, lambda _tried: False)
    finally:
        store.close()
    return len(operations)


# The day.


class Scrape(NamedTuple):
    """An answer, compressed as it came: to read it would keep Knock, which runs here too, from answering."""

    at: float
    wall: float
    body: bytes


def scrape(exporter: Exporter) -> Scrape:
    """Do what Prometheus does."""
    headers = {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}
    with WEB.get(f"{exporter.url}/metrics", headers=headers, stream=True, timeout=60) as answer:
        answer.raise_for_status()
        return Scrape(time.monotonic(), time.time(), answer.raw.read(decode_content=False))


def hand_over(exporter: Exporter, environment: str, items: Sequence[dict[str, str]]) -> None:
    """Register operations, again if the exporter is too busy, as programs do."""
    for _ in range(TRIES):
        answer = exporter.register(items, environment)
        if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
            break
        say(f"registered again: {answer.text.strip()}")
        time.sleep(1.0)
    answer.raise_for_status()


def run(
    exporter: Exporter, knock: Knock, plan: Sequence[Begin], seconds: float
) -> tuple[dict[str, Begin], list[Scrape]]:
    """Begin what is planned, hand it over each second, and scrape; return what was begun, and the answers."""
    made: dict[str, Begin] = {}
    scrapes = [scrape(exporter)]
    start, waiting = scrapes[0].at, list(reversed(plan))
    while len(scrapes) <= seconds / SCRAPE_SECONDS:
        passed = time.monotonic() - start
        new = defaultdict(list)
        while waiting and waiting[-1].at <= passed:
            begin = waiting.pop()
            operation_id = knock.create(NAME, ROWS)
            made[operation_id] = begin
            new[begin.environment].append({"id": operation_id, "group": begin.group})
        for name, items in new.items():
            hand_over(exporter, name, items)
        if passed >= len(scrapes) * SCRAPE_SECONDS:
            scrapes.append(scrape(exporter))
        time.sleep(1.0 - (time.monotonic() - start) % 1.0)
    return made, scrapes


def configure(starter: Starter, url: str) -> Path:
    """Write a configuration that keeps the defaults, but for how many operations are kept."""
    environments = [{"name": name, "api_key": f"sk_test_{name}", "base_url": url} for name in CUSTOMERS]
    file = starter.folder / "config.yaml"
    file.write_text(yaml.safe_dump({"environments": environments, "max_operations": OPERATIONS_MOST} | starter.whole))
    return file


def let_pass(shorter: float) -> Passed:
    """Let the day pass."""
    knock, chance = Knock(), random.Random(SEED)  # noqa: S311 - the same day each time
    with tempfile.TemporaryDirectory(prefix="day-") as folder, Simulator(world=knock) as simulator:
        starter = Starter(Path(folder), COMMAND)
        starter.use_token()
        state = starter.keep_state()
        say(f"{fill(state, simulator.url, chance):,} operations are in the state")
        exporter = starter.run(f"--config.file={configure(starter, simulator.url)}", "--web.listen-address=127.0.0.1:0")
        try:
            exporter.said("event=listening", seconds=START_SECONDS)
            exporter.urls()
            for _ in range(SCRAPES_BEFORE):  # until it knows how often it is scraped
                scrape(exporter)
                time.sleep(SCRAPE_SECONDS)
            say("the day begins")
            made, scrapes = run(exporter, knock, begins(shorter, chance), DAY / shorter)
            size = sum(each.stat().st_size for each in state.parent.glob("state.db*"))  # the log of SQLite, too
        finally:
            starter.end()
    scraped: list[Figures] = [figures(*each) for each in scrapes]
    return Passed(shorter, made, knock.reads, scraped, size)


def say(text: str) -> None:
    """Write a line for who waits."""
    print(text, flush=True)  # noqa: T201 - a script for a terminal


def main() -> None:
    """Let the day pass, draw it, and write what the formulas say next to what was measured."""
    parser = argparse.ArgumentParser(prog="make day", description=__doc__)
    parser.add_argument("--shorter", type=float, default=SHORTER, help="by which factor the day is shortened")
    parser.add_argument("--output", type=Path, default=PICTURE, help="where the picture is written")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the exporter would go on
    day = let_pass(chosen.shorter)
    chosen.output.write_text(picture(day))
    for line in table(day):
        say(line)


if __name__ == "__main__":
    main()
