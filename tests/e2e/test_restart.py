"""What outlives the process: kills while ids come in, locked and damaged state, days of being down."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pages
import pytest
import requests
import yaml
from chaos import http, serving
from programs import COMMAND, KEY, TOKEN, WEB, Exporter, Starter, do_without, free_port, until
from timing import check_cost, cpu_seconds_of_children

from exporter.simulator import Simulator, replies

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from chaos import Handler, Server
    from timing import InTime

pytestmark = pytest.mark.e2e

QUICK = {"processing": "100ms", "queued": "100ms", "slowest": "200ms"}
DAY = 86400.0
OTHER_KEY = "sk_test_fedcba9876543210"
ROTATION_SECONDS = 12.0
END_SECONDS = 5.0


def endless(knock: Simulator) -> str:
    return knock.world.create(rows=10**9, queue_seconds=0.0, rows_per_second=100.0)


def tracked(exporter: Exporter) -> float | None:
    return exporter.value("knock_exporter_operations")


@pytest.fixture
def kept(start: Starter) -> Path:
    """Keep state, and let programs register; return where the state is."""
    start.use_token()
    return start.keep_state()


def ids_in(state: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(state)) as database:
        found = [each for (each,) in database.execute("SELECT id FROM operations")]
    assert len(found) == len(set(found))
    return set(found)


def let_pass(state: Path, seconds: float) -> None:
    """Have so much time pass, for who reads the state: its ages go on from the wall time of its checkpoint."""
    with contextlib.closing(sqlite3.connect(state)) as database, database:
        changed = database.execute("UPDATE checkpoint SET wall = wall - ?", (seconds,)).rowcount
    assert changed == 1


# Twenty kills while fifteen hundred operations are registered.

KILLS = 20
SEED = 20
RECORDS = {"alpha": 250, "beta": 250}  # by environment: handed over as their create calls answered
BARE = {"gamma": 1000}
ENVIRONMENTS = {**RECORDS, **BARE}
GROUPS = 15  # of the records of an environment, so that one group's loss hides no other's excess
THREADS = 8
BATCH = (1, 20)
PAUSE_SECONDS = 3.0  # of each program between two batches, at most: they have to outlast the kills
UP_SECONDS = 1.0  # of a life after its start, at most
SCRAPE_SECONDS = 0.25
COUNTERS = ("rows_processed", "finished", "finished_with_errors")

Place = tuple[str, str, str]  # counter, environment, group
Item = str | dict[str, Any]


class Programs:
    """Several programs that start operations and hand them over, again and again until they are accepted."""

    def __init__(self, knock: Simulator, url: str) -> None:
        self.made: dict[str, tuple[str, str]] = {}
        self.accepted: set[str] = set()
        self.life = 0
        self.accepted_in: Counter[int] = Counter()
        self.retries = 0
        self.problems: list[str] = []
        self._knock = knock
        self._url = url
        self._over = threading.Event()
        self._lock = threading.Lock()
        chance = random.Random(f"{SEED}/order")
        self._left = [environment for environment, count in ENVIRONMENTS.items() for _ in range(count)]
        chance.shuffle(self._left)
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for each in self._threads:
            each.start()
        try:
            yield
        finally:
            self._over.set()
            for each in self._threads:
                each.join()

    @property
    def done(self) -> bool:
        return not any(each.is_alive() for each in self._threads)

    def _run(self, number: int) -> None:
        chance = random.Random(f"{SEED}/{number}")
        with requests.Session() as session:
            session.trust_env = False
            session.headers["Authorization"] = f"Bearer {TOKEN}"
            while (batch := self._batch(chance)) and not self._over.wait(chance.uniform(0.0, PAUSE_SECONDS)):
                self._hand_over(session, *batch)

    def _batch(self, chance: random.Random) -> tuple[str, list[Item]] | None:
        with self._lock:
            count = chance.randint(*BATCH)
            if not self._left:
                return None
            environment = self._left[-1]
            taken = [place for place in range(len(self._left) - 1, -1, -1) if self._left[place] == environment][:count]
            for place in taken:
                del self._left[place]
            return environment, [self._start_one(environment, chance) for _ in taken]

    def _start_one(self, environment: str, chance: random.Random) -> Item:
        rows = chance.randint(50, 500)
        errors = chance.choice((0, 0, 0, rows // 10))
        fails = chance.random() < 0.1
        pace = rows / chance.uniform(2.0, 12.0)
        queued = chance.uniform(0.0, 3.0)
        made = self._knock.world.create(
            rows=rows, errors=errors, fails=fails, queue_seconds=queued, rows_per_second=pace
        )
        group = f"g{chance.randrange(GROUPS)}" if environment in RECORDS else "default"
        self.made[made] = (environment, group)
        return {**self.record(made), "group": group} if environment in RECORDS else made

    def made_by_environment(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {name: [] for name in ENVIRONMENTS}
        for operation_id, (environment, _) in self.made.items():
            found[environment].append(operation_id)
        return found

    def record(self, operation_id: str) -> dict[str, Any]:
        found: dict[str, Any] | None = self._knock.world.read(operation_id)
        assert found is not None
        return found

    def _hand_over(self, session: requests.Session, environment: str, items: list[Item]) -> None:
        ids = {each if isinstance(each, str) else each["id"] for each in items}
        while not self._over.wait(0.2):
            life = self.life
            try:
                answer = session.post(f"{self._url}/api/v1/operations/{environment}", json=items, timeout=30)
            except requests.RequestException:
                self.retries += 1
                continue
            if answer.status_code == 200:
                self._take(answer.json(), ids, life)
                return
            self.retries += 1
            if answer.status_code not in (429, 503):
                self.problems.append(answer.text)

    def _take(self, answer: dict[str, Any], ids: set[str], life: int) -> None:
        accepted = {each["id"] for each in answer["accepted"]}
        if accepted != ids or answer["rejected"] or answer["durable"] is not True:
            self.problems.append(json.dumps(answer))
        self.accepted |= accepted
        self.accepted_in[life] += len(accepted)


def register_all(exporter: Exporter, ids_by_environment: dict[str, list[str]]) -> Counter[str]:
    """Hand all over once more; return how many are in which state."""
    states: Counter[str] = Counter()
    for environment, ids in ids_by_environment.items():
        for first in range(0, len(ids), 1000):
            batch = partial(exporter.register, ids[first : first + 1000], environment)
            accepted = until(lambda batch=batch: accepted_of(batch()), "registered")  # type: ignore[misc] # mypy
            states.update(each["state"] for each in accepted)
    return states


def accepted_of(answer: requests.Response) -> list[dict[str, Any]] | None:
    """Return what was accepted; None where it has to be asked again, which does no harm: a disk may take its time."""
    assert answer.status_code in (200, 503), answer.text
    found: list[dict[str, Any]] | None = answer.json()["accepted"] if answer.status_code == 200 else None
    return found


class Lives:
    """One exporter after the other on the same state; the counters that each showed last."""

    def __init__(self, start: Starter, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.shown: list[dict[Place, float]] = []
        self.logs = ""
        self._scraped_at, self._last = 0.0, ""
        self._start = start
        self._flags = [f"--config.file={start.folder / 'config.yaml'}", f"--web.listen-address=127.0.0.1:{port}"]

    def begin(self) -> Exporter:
        self.shown.append({})
        return self._start.run(*self._flags)

    def kill(self, exporter: Exporter) -> None:
        exporter.kill()
        self.logs += exporter.output

    def scrape(self) -> str:
        """Scrape, and keep the counters as this life's last."""
        text = WEB.get(f"{self.url}/metrics", timeout=30).text
        found: dict[Place, float] = defaultdict(float)
        for counter, labels, value in _SAMPLE.findall(text):
            place = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            found[counter, place["knock_environment"], place["group"]] += float(value)
        self.shown[-1] = dict(found)
        return text

    def scrape_at_times(self) -> str:
        """Scrape, if the last time was a while ago: who scrapes all the time leaves nothing for the others."""
        if time.monotonic() - self._scraped_at >= SCRAPE_SECONDS:
            self._last = self.scrape()
            self._scraped_at = time.monotonic()
        return self._last

    def counted(self) -> dict[Place, float]:
        """Add up the growth in all lives: each begins at 0."""
        whole: dict[Place, float] = defaultdict(float)
        for life in self.shown:
            for place, value in life.items():
                whole[place] += value
        return whole


_SAMPLE = re.compile(rf"(?m)^knock_bulk_operations_({'|'.join(COUNTERS)})_total\{{(.*)\}} (\S+)$")
_TRACKED = re.compile(r"(?m)^knock_exporter_operations\{.*\} (\S+)$")


def tracked_in(text: str) -> float:
    return sum(map(float, _TRACKED.findall(text)))


def really_done(programs: Programs) -> dict[Place, float]:
    """Return what the operations did up to now, by Knock itself."""
    whole: dict[Place, float] = defaultdict(float)
    for operation_id, place in programs.made.items():
        record = programs.record(operation_id)
        final = record["status"] in ("completed", "failed")
        whole["rows_processed", *place] += record["processed_rows"]
        whole["finished", *place] += final
        whole["finished_with_errors", *place] += final and record["error_count"] > 0
    return whole


def live(lives: Lives, programs: Programs, chance: random.Random) -> None:
    """Begin a life and kill it: in its start, at any moment, or as soon as it was scraped."""
    exporter = lives.begin()
    how = chance.choice(("in its start", "at any moment", "scraped", "scraped"))
    if how == "in its start":
        moment = time.monotonic() + chance.uniform(0.0, 0.4)
        until(lambda: time.monotonic() >= moment, "its moment")
        return lives.kill(exporter)
    before = len(programs.accepted)
    exporter.urls()
    programs.life += 1
    assert tracked_in(lives.scrape()) >= before  # nothing accepted was lost
    moment = time.monotonic() + chance.uniform(0.1, UP_SECONDS)
    until(lambda: bool(lives.scrape_at_times()) and time.monotonic() >= moment, "its moment")
    lives.scrape()
    if how == "at any moment":
        later = time.monotonic() + chance.uniform(0.0, 0.3)
        until(lambda: time.monotonic() >= later, "its moment")
    return lives.kill(exporter)


def excess(counted: dict[Place, float], real: dict[Place, float]) -> dict[Place, tuple[float, float]]:
    return {place: (value, real[place]) for place, value in counted.items() if value > real[place]}


def storm_configuration(start: Starter, url: str) -> None:
    environments = []
    for name in ENVIRONMENTS:
        (start.folder / f"{name}.key").write_text(f"sk_test_{name}")
        quick = {"polling": {"processing": "2s", "queued": "2s", "slowest": "2s"}, "per_operation": "none"}
        environments.append({"name": name, "api_key_file": f"{name}.key", "base_url": url, "rate_limit": 200} | quick)
    (start.folder / "config.yaml").write_text(yaml.safe_dump({"environments": environments} | start.whole))


def test_twenty_kills_lose_no_registration_and_count_nothing_twice(
    knock: Simulator, start: Starter, kept: Path, record_property: Callable[[str, object], None]
) -> None:
    storm_configuration(start, knock.url)
    lives = Lives(start, free_port())
    programs = Programs(knock, lives.url)
    chance, began = random.Random(SEED), time.monotonic()
    with programs.running():
        for _ in range(KILLS):
            live(lives, programs, chance)
        figures = {"registered at the last kill": len(programs.accepted), "seconds to it": time.monotonic() - began}
        exporter = lives.begin()
        exporter.urls()
        until(lambda: programs.done, "all are registered", 30.0)
    assert programs.problems == []
    assert programs.accepted == programs.made.keys()
    assert ids_in(kept) >= programs.accepted  # what was answered is on disk already
    all_known(lives, programs)
    until(lambda: all_seen(lives), "all of alpha and beta were asked to their end", 40.0)
    states = register_all(exporter, programs.made_by_environment())
    assert states.keys() <= {"pending", "queued", "processing", "completed", "failed"}
    all_known(lives, programs)  # so none of them was new
    exporter.signal()
    assert exporter.wait() == 0
    assert ids_in(kept) == programs.accepted
    assert "Traceback" not in lives.logs + exporter.output
    counted, real = lives.counted(), really_done(programs)
    assert excess(counted, real) == {}
    shares = {counter: share(counter, counted, real) for counter in COUNTERS}
    assert min(shares.values()) > 0.8, shares  # else it would prove little
    figures |= {"lives with registrations": len(programs.accepted_in), "retries": programs.retries}
    measured = figures | shares | {"seconds": time.monotonic() - began}
    for name, each in measured.items():
        record_property(f"kills, {name}", round(each, 3))


def all_known(lives: Lives, programs: Programs) -> None:
    """Wait for the next view: answers come with the commit, views a little later."""
    count = len(programs.accepted)
    until(lambda: tracked_in(lives.scrape()) == count, lambda: f"{count}, not {tracked_in(lives.scrape())}", 2.0)


def share(counter: str, counted: dict[Place, float], real: dict[Place, float]) -> float:
    """Return which share of what the records' operations did was counted."""
    places = [place for place in real if place[0] == counter and place[1] in RECORDS]
    return round(sum(counted.get(place, 0.0) for place in places) / sum(real[place] for place in places), 3)


def all_seen(lives: Lives) -> bool:
    text = lives.scrape_at_times()
    pattern = rf'(?m)^knock_bulk_operations\{{.*"({"|".join(RECORDS)})".*status="(completed|failed)".*\}} (\S+)$'
    return sum(float(value) for *_, value in re.findall(pattern, text)) == sum(RECORDS.values())


# Ten thousand that have ended.

FULL = {f"e{number}": 2000 for number in range(5)}
MOST = 4.0  # times the CPU of an empty start


def full_configuration(start: Starter, url: str) -> None:
    environments = []
    for name in FULL:
        (start.folder / f"{name}.key").write_text(f"sk_test_{name}")
        settings = {"rate_limit": 200, "per_operation_limit": 10_000, "polling": QUICK}
        environments.append({"name": name, "api_key_file": f"{name}.key", "base_url": url} | settings)
    (start.folder / "config.yaml").write_text(yaml.safe_dump({"environments": environments} | start.whole))


def start_to_metrics(start: Starter, operations: int) -> None:
    """Start, wait until /metrics has so many operations, and end it."""
    port = free_port()
    exporter = start.run(f"--config.file={start.folder / 'config.yaml'}", f"--web.listen-address=127.0.0.1:{port}")

    def full() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            text = WEB.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
            views = text.count("\nknock_up") + text.count("\nknock_exporter_operations{")
            return views > 0 and text.count("\nknock_bulk_operation_info{") == operations
        return False

    until(full, "the full /metrics", 30.0)
    exporter.kill()


def live_once_with_ended(knock: Simulator, start: Starter) -> set[str]:
    """Let an exporter know operations that have ended, and end it; return their ids."""
    now, known = time.time(), iter(pages.ids(sum(FULL.values())))
    shown = {
        name: [pages.Shown(each, pages.document(each, "completed", now)) for each in islice(known, count)]
        for name, count in FULL.items()
    }
    for name in FULL:
        (start.folder / f"{name}.key").write_text(f"sk_test_{name}")
    places = {
        name: pages.Place(knock, operations, {"api_key_file": f"{name}.key", "polling": QUICK})
        for name, operations in shown.items()
    }
    exporter = pages.serve(start, places)
    exporter.signal()
    assert exporter.wait() == 0
    return {each.id for operations in shown.values() for each in operations}


@pytest.mark.command
def test_ten_thousand_that_have_ended_are_shown_at_once_and_never_asked_again(
    knock: Simulator, start: Starter, kept: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    ids = live_once_with_ended(knock, start)
    assert ids_in(kept) == ids

    (tmp_path / "empty").mkdir()
    empty = Starter(tmp_path / "empty", COMMAND)
    empty.use_token()
    full_configuration(empty, knock.url)
    knock.log.clear()
    ratios = check_cost(
        lambda: start_to_metrics(start, len(ids)), MOST, lambda: start_to_metrics(empty, 0), cpu_seconds_of_children
    )
    record_property("CPU of a start with 10,000 operations, times an empty one's", [round(each, 2) for each in ratios])

    last, canary = Lives(start, free_port()).begin(), endless(knock)
    last.urls()
    assert last.register([canary], "e0").status_code == 200
    until(lambda: sum(each.operation_id == canary for each in knock.log) >= 10, "polls go on")
    assert not {each.operation_id for each in knock.log} & ids


# Days of being down.


def test_what_failed_while_it_was_down_for_two_days_is_shown_as_newly_seen_and_kept(
    knock: Simulator, start: Starter, kept: Path
) -> None:
    settings: dict[str, Any] = {"polling": QUICK, "retention": "1h"}
    exporter = start(knock.url, **settings)
    operation, other = endless(knock), endless(knock)
    assert exporter.register([operation, other]).json()["durable"] is True
    until(lambda: exporter.value("knock_bulk_operations", status="processing") == 2, "both are known")
    exporter.kill()
    let_pass(kept, 2 * DAY)
    record: Any = knock.world.read(operation)
    failed_at = time.time() - DAY
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(failed_at))
    knock.world.put(record | {"status": "failed", "failed_at": moment})

    began = time.time()
    exporter = start(knock.url, **settings)
    until(lambda: exporter.value("knock_bulk_operations", status="failed") == 1, "its failure is seen")
    seen = exporter.value("knock_bulk_operations_last_failed_seen_timestamp_seconds")
    assert seen is not None
    assert began <= seen <= time.time()
    finished = exporter.value("knock_bulk_operation_finished_timestamp_seconds", operation_id=operation)
    assert finished == pytest.approx(failed_at, abs=1.0)
    assert exporter.value("knock_bulk_operations_last_failed_timestamp_seconds") == finished
    assert exporter.value("knock_bulk_operations_finished_total", status="failed") == 1
    until(lambda: is_written_after(exporter, seen), "written")
    exporter.kill()

    for passes, stays in ((3000.0, True), (700.0, False)):  # 50 minutes, and then more than an hour in all
        let_pass(kept, passes)
        exporter = start(knock.url, **settings)
        until(partial(is_asked, exporter, other), "asked")
        until(partial(are_tracked, exporter, 1 + stays), f"it stays: {stays}")
        assert (operation in exporter.values("knock_bulk_operation_info")) is stays
        assert exporter.value("knock_bulk_operations_last_failed_seen_timestamp_seconds") == seen
        assert exporter.value("knock_bulk_operations_finished_total", status="failed") == 0
        until(partial(is_written_after, exporter, time.time()), "written")
        exporter.kill()

    exporter = start(knock.url, **settings)
    states = {each["id"]: each["state"] for each in exporter.register([operation, other]).json()["accepted"]}
    assert states == {operation: "retired", other: "processing"}
    assert tracked(exporter) == 1


def is_asked(exporter: Exporter, operation_id: str) -> bool:
    return exporter.value("knock_bulk_operation_up", operation_id=operation_id) == 1


def are_tracked(exporter: Exporter, count: int) -> bool:
    return tracked(exporter) == count


def is_written_after(exporter: Exporter, wall: float) -> bool:
    return (exporter.value("knock_exporter_state_last_write_timestamp_seconds") or 0.0) > wall


# A key of another environment.


def of_one_key(server: Server) -> Handler:
    """Be Knock, where only KEY's environment has operations: all of them run."""

    def handle(connection: socket.socket) -> None:
        while head := server.request(connection).decode():
            operation_id = head.split(" ", 2)[1].rpartition("/")[2]
            body = json.dumps({"id": operation_id, "status": "processing", "name": "users.identify"})
            found = KEY in head
            connection.sendall(http(body) if found else http(replies.error(404).body, 404))

    return handle


def test_a_key_of_another_environment_loses_no_id(start: Starter, kept: Path) -> None:
    ids = [f"123e4567-e89b-12d3-a456-42661417{number:04}" for number in range(50)]
    settings: dict[str, Any] = {"polling": {**QUICK, "not_found_after": "1m"}, "rate_limit": 200}
    with serving(of_one_key) as server:
        exporter = start(server.url, **settings)
        assert exporter.register(ids).status_code == 200
        until(lambda: exporter.value("knock_bulk_operations", status="processing") == len(ids), "all run")
        start.use_key(OTHER_KEY)
        until(lambda: missing(exporter) >= len(ids), "all are missing", ROTATION_SECONDS)
        exporter.kill()
        let_pass(kept, DAY)
        exporter = start(server.url, **settings)
        until(lambda: missing(exporter) >= len(ids), "all are missing still")
        assert exporter.value("knock_bulk_operations", status="processing") == len(ids)
        assert exporter.value("knock_bulk_operations", status="lost") == 0
        exporter.said("key of another environment, or wrong branch")
        start.use_key(KEY)
        exporter.said('event="using the changed API key"')
        exporter.kill()
        let_pass(kept, 3600.0)  # what was missing is asked again after a minute at first, and after an hour at most
        exporter = start(server.url, **settings)
        until(lambda: all_up(exporter, ids), "all are back")
        assert exporter.value("knock_bulk_operations", status="lost") == 0
        assert tracked(exporter) == len(ids)


def missing(exporter: Exporter) -> float:
    return exporter.value("knock_exporter_poll_failures_total", reason="not_found") or 0.0


def all_up(exporter: Exporter, ids: list[str]) -> bool:
    return exporter.values("knock_bulk_operation_up") == dict.fromkeys(ids, 1.0)


# State that others hold, or that is damaged.

HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(state: Path) -> Iterator[None]:
    """Have another process hold the database."""
    command = [sys.executable, "-c", HOLDER, str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            yield
        finally:
            holder.stdin.close()


def write_failures(exporter: Exporter) -> float:
    return exporter.value("knock_exporter_state_write_failures_total") or 0.0


@pytest.mark.alone
def test_a_hundred_registrations_one_after_the_other_wait_for_one_commit_each(
    knock: Simulator, start: Starter, kept: Path, record_property: Callable[[str, object], None]
) -> None:
    tokens = [f"{number:032x}" for number in range(5)]  # each is good for 20 a second
    for number, token in enumerate(tokens):
        start.use_token(token, f"program-{number}")
    exporter = start(knock.url, polling=QUICK)
    assert exporter.register([endless(knock)]).status_code == 200
    took = []
    for each in range(100):
        operation, began = endless(knock), time.perf_counter()
        assert exporter.register([operation], token=tokens[each % 5]).status_code == 200
        took.append(time.perf_counter() - began)
    assert tracked(exporter) == 101  # each was shown before it was answered
    record_property("registrations one after the other, median ms", round(1000 * median(took), 1))
    assert median(took) <= 0.02
    assert len(ids_in(kept)) == 101


@pytest.mark.alone(waits=True)
def test_a_locked_database_holds_up_registrations_only_and_is_written_later(
    knock: Simulator, start: Starter, kept: Path, in_time: InTime
) -> None:
    first, second = endless(knock), endless(knock)
    exporter = start(knock.url, polling=QUICK)
    assert exporter.register([first]).status_code == 200
    assert write_failures(exporter) == 0
    with locked(kept):
        with in_time(END_SECONDS + 1.0):
            refusal = exporter.register([second])
        assert (refusal.status_code, refusal.headers["Retry-After"]) == (503, "1")
        until(lambda: write_failures(exporter) >= 2, "failures are counted")
        rows = exporter.value("knock_bulk_operation_rows_processed", operation_id=first) or 0.0
        until(
            lambda: (exporter.value("knock_bulk_operation_rows_processed", operation_id=first) or 0.0) > rows,
            "polls go on and are shown",
        )
        assert exporter.get("/-/healthy").status_code == exporter.get("/-/ready").status_code == 200
        written = exporter.value("knock_exporter_state_last_write_timestamp_seconds")
    until(lambda: exporter.register([second]).status_code == 200, "it is written again")
    assert (exporter.value("knock_exporter_state_last_write_timestamp_seconds") or 0.0) > (written or 0.0)
    assert len(exporter.said('event="state cannot be written')) == 1
    exporter.said('event="state is written again"')
    failures = write_failures(exporter)
    exporter.kill()
    assert failures >= 2
    assert ids_in(kept) == {first, second}


@pytest.mark.alone(waits=True)
def test_it_ends_in_time_while_the_database_is_locked(
    knock: Simulator, start: Starter, kept: Path, in_time: InTime
) -> None:
    exporter = start(knock.url, polling=QUICK)
    accepted, late = endless(knock), endless(knock)
    assert exporter.register([accepted]).status_code == 200
    with locked(kept):
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(exporter.register([late]).status_code))
        asking.start()
        until(lambda: write_failures(exporter) >= 1, "it cannot be written")
        with in_time(END_SECONDS):
            exporter.signal()
            assert exporter.wait() == 0
        asking.join()
        assert answers == [503]
    assert "Traceback" not in exporter.output
    assert accepted in ids_in(kept)
    exporter = start(knock.url, polling=QUICK)
    assert exporter.register([accepted, late]).status_code == 200


def second_on(state: Path, knock: Simulator, start: Starter) -> Exporter:
    folder = start.folder / "second"
    folder.mkdir()
    other = Starter(folder)
    other.use_token()
    other.whole["storage"] = {"path": str(state)}
    second = other.run(f"--config.file={other.configure(knock.url)}", "--web.listen-address=127.0.0.1:0")
    start.started.append(second)
    return second


def test_a_second_exporter_on_the_same_state_gives_up_after_ten_seconds(
    knock: Simulator, start: Starter, kept: Path, in_time: InTime
) -> None:
    operation = endless(knock)
    first = start(knock.url, polling=QUICK)
    assert first.register([operation]).status_code == 200
    with in_time(10.0, at_least=10.0):
        second = second_on(kept, knock, start)
        assert second.wait() == 1
    assert second.output == (
        f"state {kept} is held by another process, for 10 s now: end it, or give each its own storage.path\n"
    )
    first.kill()
    third = start(knock.url, polling=QUICK)
    until(lambda: third.values("knock_bulk_operation_up") == {operation: 1.0}, "nothing was lost by that")


def test_a_lock_that_was_removed_is_taken_again(knock: Simulator, start: Starter, kept: Path) -> None:
    exporter = start(knock.url, [endless(knock)], polling=QUICK)
    lock = kept.with_name("state.db.lock")
    lock.unlink()
    exporter.said('level=warning event="the lock of the state was removed: taken again"')
    assert exporter.register([endless(knock)]).json()["durable"] is True
    assert second_on(kept, knock, start).wait(20) == 1


def stopped_between_commits(exporter: Exporter, state: Path) -> bool:
    """Stop a process; False where that was in a commit, which would hold up every other: then it goes on."""
    exporter.signal(signal.SIGSTOP)
    status = Path(f"/proc/{exporter.process.pid}/stat")
    until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", "stopped")
    with contextlib.closing(sqlite3.connect(state, timeout=0, isolation_level=None)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            exporter.signal(signal.SIGCONT)
            return False
        database.execute("ROLLBACK")
    return True


def test_a_process_whose_lock_another_one_took_ends(knock: Simulator, start: Starter, kept: Path) -> None:
    first = start(knock.url, [endless(knock)], polling=QUICK)
    until(lambda: stopped_between_commits(first, kept), "stopped")
    kept.with_name("state.db.lock").unlink()
    second = second_on(kept, knock, start)
    second.urls()
    first.signal(signal.SIGCONT)
    assert first.wait(20) == 1
    (said,) = first.said("level=error.*")
    assert f'error="state {kept} is held by another process: the file of the lock was removed"' in said
    assert "Traceback" not in first.output
    assert second.register([endless(knock)]).json()["durable"] is True


FULL_DISK = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


@pytest.mark.parametrize("size", ["8k", "32k", "64k"])
def test_a_full_disk_at_the_start_is_told(knock: Simulator, start: Starter, tmp_path: Path, size: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    start.whole["storage"] = {"path": str(disk / "state.db")}
    alone = ("unshare", "--map-root-user", "--mount", "sh", "-c", FULL_DISK, "sh", size, str(disk))
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode != 0:
        do_without("a disk of its own cannot be mounted here")
    command = (*alone, sys.executable, "-m", "exporter", f"--config.file={start.configure(knock.url)}")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 1
    assert re.fullmatch(rf"state {disk}/state.db cannot be used: .*disk is full\)?\n", done.stderr)


def in_the_middle(content: bytes) -> bytes:
    return content[:4096] + b"\xde\xad\xbe\xef" * 1024 + content[8192:]


def no_database(content: bytes) -> bytes:
    return b"This is not a database.\n" * (len(content) // 24)


def cut_off(content: bytes) -> bytes:
    return content[: len(content) // 2 + 100]


@pytest.mark.parametrize(("damage", "least"), [(in_the_middle, 400), (no_database, 0), (cut_off, 100)])
def test_damaged_state_is_put_aside_and_what_can_be_read_is_saved(
    knock: Simulator, start: Starter, kept: Path, damage: Any, least: int
) -> None:
    operations = [endless(knock) for _ in range(400)]
    exporter = start(knock.url, polling=QUICK)
    assert exporter.register(operations).status_code == 200
    exporter.signal()
    assert exporter.wait() == 0
    damaged = damage(kept.read_bytes())
    kept.write_bytes(damaged)

    exporter = start(knock.url, polling=QUICK)
    said = exporter.said('level=error event="state is damaged: put aside, .*')[0]
    aside = next(each for each in start.folder.iterdir() if re.search(r"\.corrupt-[0-9TZ]+$", each.name))
    assert aside.read_bytes() == damaged
    assert str(aside) in said
    assert exporter.get("/-/ready").status_code == 200
    saved = tracked(exporter) or 0.0
    assert least <= saved <= (400 if least else 0)
    assert (f"{saved:.0f} operations" if saved else "saved=nothing") in said
    assert exporter.register([endless(knock)]).json()["durable"] is True
    exporter.kill()
    exporter = start(knock.url, polling=QUICK)
    assert tracked(exporter) == saved + 1
    assert "damaged" not in exporter.output
    exporter.signal()
    assert exporter.wait() == 0


def overwrite_middle(state: Path) -> None:
    size = state.stat().st_size
    with state.open("r+b") as file:
        file.seek(size // 4)
        file.write(b"\xde\xad\xbe\xef" * (size // 8))


def truncate(state: Path) -> None:
    os.truncate(state, state.stat().st_size // 2)


def delete(state: Path) -> None:
    state.unlink()


def replace_by_empty(state: Path) -> None:
    other = state.with_name("other")
    other.touch()
    other.rename(state)


@pytest.mark.parametrize("damage", [overwrite_middle, truncate, delete, replace_by_empty])
def test_a_file_that_is_damaged_while_running_is_begun_again_with_all_that_is_known(
    knock: Simulator, start: Starter, kept: Path, damage: Any
) -> None:
    operations = [endless(knock) for _ in range(400)]
    exporter = start(knock.url, polling=QUICK)
    assert exporter.register(operations).json()["durable"] is True
    with contextlib.closing(sqlite3.connect(kept)) as shell:
        until(lambda: shell.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, "all is in the file itself")
    damage(kept)
    late = endless(knock)
    until(lambda: exporter.register([late]).status_code == 200, "it is written again")
    exporter.kill()
    exporter.said('level=error event="state is damaged: a new file is to be begun".*')
    (aside,) = exporter.said('level=warning event="state was put aside, and a new file begun with what is in memory".*')
    assert f"kept_as={kept}.corrupt-" in aside
    assert ids_in(kept) == {*operations, late}
    exporter = start(knock.url, polling=QUICK)
    assert tracked(exporter) == 401
    assert "damaged" not in exporter.output
