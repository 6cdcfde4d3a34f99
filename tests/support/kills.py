"""A real exporter under load that is killed again and again, and what has to hold of what each kill leaves.

Read is what everybody can read: `/metrics`, the API, the state file, the log, and what the simulator was asked.
A new promise is a new check in `Round.checks`: a function of a `Life`, or an object where lives before it count.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import socket
import sqlite3
import threading
import time
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import requests
import yaml
from click.testing import CliRunner
from load import JOB, NIGHTLY, PRODUCTION, KnownRun, Load, Named, Pace, Promise, Told, Witness
from programs import Exporter, Starter, until

from exporter.cli import main
from exporter.simulator import RequestLog, Simulator
from exporter.simulator.faults import Drop, Latency, RateLimit, StatusFault
from exporter.tracking.expiry import FAILED_RETENTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from load import Key

    from exporter.simulator import LoggedRequest
    from exporter.simulator.faults import AnyFault

    Check = Callable[["Life"], Iterable[str]]

QUICK = {"processing": "2s", "queued": "1s", "slowest": "2s"}
END_SECONDS = 1.0
LOGGED = 10_000_000  # requests of a life, at most
BIRTH_SECONDS = 120.0  # from the first start: what is made later counts from birth, however long starts take
PROBLEMS_TOLD = 20
MARKS = ("rows_processed", "successes", "errors")
COUNTERS = (*MARKS, "finished", "finished_with_errors", "retired", "queue", "run")

Place = tuple[str, str, str]  # counter, environment, group


@dataclass(frozen=True)
class Conditions:
    """What processes meet, and for how long."""

    pace: Pace = field(default_factory=Pace)
    retention: Mapping[str, float] = field(default_factory=lambda: {PRODUCTION: 86_400.0, NIGHTLY: 3.0})
    settings: Mapping[str, Any] = field(default_factory=lambda: {"rate_limit": 120, "polling": QUICK})
    faults: tuple[AnyFault, ...] = (
        Latency(seconds=0.08, share=0.3),
        StatusFault(status=502, body="html", share=0.02),
        Drop(share=0.01),
        RateLimit(retry_after=0.5, share=0.001),
    )
    up_seconds: tuple[float, float] = (0.0, 1.5)  # of a life from ready on
    long_seconds: tuple[float, float] = (5.0, 9.0)  # the same, seldom: lists take longer
    watch_seconds: float = 0.25  # between two looks
    settled_seconds: float = 60.0


class Kept(NamedTuple):
    """An operation in the state file."""

    told: Told
    marks: tuple[int, int, int]
    from_birth: bool | None
    run: str | None


@dataclass(frozen=True)
class Stored:
    """A state file, and what `state check` says of it."""

    operations: dict[Key, Kept] = field(default_factory=dict)
    tombstones: dict[Key, bool] = field(default_factory=dict)  # whether it retired
    job: dict[str, Any] | None = None  # the document of the group that has runs
    unsound: str = ""

    @property
    def final(self) -> set[Key]:
        return {key for key, kept in self.operations.items() if kept.told.is_final} | self.tombstones.keys()


@dataclass(frozen=True)
class Seen:
    """What a process showed: the API first, then `/metrics`."""

    at: float
    operations: dict[Key, Told]
    series: list[tuple[str, Key, float]]  # what it is of Knock's, of which operation, its value
    counted: Counter[Place]
    failures_seen: dict[tuple[str, str], float]  # when, by environment and group
    run: dict[str, Any] | None  # of the job
    promises: dict[Key, Promise]  # that held from before it was asked until it had answered


@dataclass
class Life:
    """One process, from its start to its end, with the load on it."""

    knock: Witness
    retention: Mapping[str, float]
    before: Stored
    began: float
    scraped: Callable[[str], None] = lambda _text: None
    seen: list[Seen] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ending: bool = False
    settled: bool = False  # all that could end had been shown when it was looked at last
    # Once it is over:
    after: Stored = field(default_factory=Stored)
    promises: dict[Key, Promise] = field(default_factory=dict)
    named: Named = field(default_factory=lambda: Named({}, set(), {}))
    runs: list[KnownRun] = field(default_factory=list)
    requests: tuple[LoggedRequest, ...] = ()
    ended: float = 0.0
    output: str = ""

    def is_over(self, key: Key) -> bool:
        """Whether its retention may be over."""
        ended = self.knock.ended_at(key[1])
        times = 1 if self.knock.is_clean(key[1]) else FAILED_RETENTIONS
        return ended is not None and ended + times * self.retention[key[0]] <= time.time()

    def may_retire(self, key: Key) -> bool:
        """Whether its retention may be over, or have been ended by a DELETE."""
        ended = self.knock.ended_at(key[1]) is not None
        return self.is_over(key) or (ended and (key in self.named.again or self.promises[key].state != "tracked"))

    @property
    def left(self) -> set[Key]:
        """What left in this life, perhaps to be registered again."""
        gone = self.after.tombstones.keys() - self.before.tombstones.keys()
        return gone | {key for key in self.named.again if self.is_new_again(key)}

    def is_new_again(self, key: Key) -> bool:
        """Whether it was dropped, and registered again in this life."""
        begun, promise = self.named.again.get(key), self.promises[key]
        return begun is not None and begun < self.ended and (promise.state == "open" or promise.since > self.began)


# What has to hold.


def what_was_accepted_is_tracked(life: Life) -> Iterator[str]:
    retired = {key for key, has_retired in life.after.tombstones.items() if has_retired}
    for where, promises, tracked, may_go in (
        ("on disk", life.promises, life.after.operations.keys(), retired),
        *(("shown", each.promises, each.operations.keys(), each.promises.keys()) for each in life.seen),
    ):
        for key, (state, _) in promises.items():
            if state == "tracked" and key not in tracked and not (key in may_go and life.is_over(key)):
                yield f"{key} was accepted, and is not {where}"
            if state in ("dropped", "retired") and key in tracked:
                yield f"{key} was {state}, and is {where}"
            if state == "retired" and not life.may_retire(key):
                yield f"{key} retired too early"
    named = life.named.groups.keys()
    yield from (f"{key} was named by nobody" for key in life.after.operations.keys() - named)


def what_was_shown_is_on_disk(life: Life) -> Iterator[str]:
    for seen in life.seen[-1:]:
        for key, told in seen.operations.items():
            kept = life.after.operations.get(key)
            promise = seen.promises.get(key)
            if promise is None or promise.state == "open" or promise != life.promises[key]:
                continue
            if kept is None and key not in life.after.tombstones:
                yield f"{key} was shown, and is not on disk"
            if kept is not None and is_behind(kept.told, told):
                yield f"{key} was shown as {told}, and is on disk as {kept.told}"


def nothing_on_disk_goes_back(life: Life) -> Iterator[str]:
    for key, kept in life.before.operations.items():
        now = life.after.operations.get(key)
        if life.is_new_again(key):
            continue
        if now is None and key not in life.after.tombstones:
            yield f"{key} left without a tombstone"
        if now is not None and (is_behind(now.told, kept.told) or is_less(now.marks, kept.marks)):
            yield f"{key} was on disk as {kept}, and is now {now}"
    for key, has_retired in life.before.tombstones.items():
        if not life.is_new_again(key) and life.after.tombstones.get(key) is not has_retired:
            yield f"the tombstone of {key} has changed"


def is_behind(told: Told, other: Told) -> bool:
    return told != other if other.is_final else is_less(told.counts, other.counts)


def is_less(counts: tuple[int, int, int], others: tuple[int, int, int]) -> bool:
    return any(one < two for one, two in zip(counts, others, strict=True))


def values_are_those_of_knock(life: Life) -> Iterator[str]:
    shown: dict[Key, set[Told]] = defaultdict(set)
    for key, told in (each for seen in life.seen for each in seen.operations.items()):
        shown[key].add(told)
    for key, kept in life.after.operations.items():
        shown[key].add(kept.told)
    for key, all_told in shown.items():
        born = Told("queued") if key in life.named.records else Told()
        for told in all_told - {Told(), born} - {*life.knock.told(key[1])}:
            yield f"{key} is {told}, which Knock never said"
    for name, key, value in {each for seen in life.seen for each in seen.series}:
        if value not in (getattr(told, name) for told in life.knock.told(key[1])):
            yield f"{name} of {key} is {value}, which Knock never said"


class Ended:
    """What was shown or stored as ended is asked no more; but what was dropped since then, and registered again."""

    def __init__(self) -> None:
        self._known: dict[tuple[Key, bool], float] = {}

    def __call__(self, life: Life) -> Iterator[str]:
        for seen in life.seen:
            self._note(life, (key for key, told in seen.operations.items() if told.is_final), seen.promises, seen.at)
        self._note(life, life.after.final, life.promises, life.ended)
        environments = {operation_id: name for name, operation_id in life.named.groups}
        for request in life.requests:
            operation_id = request.operation_id
            if operation_id in environments:
                key = environments[operation_id], operation_id
                since = self._known.get((key, is_again(life, key, request.at)))
                if since is not None and since < request.at:
                    yield f"{key} had ended, and was asked {request.at - since:.3f} s after that was known"

    def _note(self, life: Life, keys: Iterable[Key], promises: Mapping[Key, Promise], at: float) -> None:
        for key in keys:
            if key in promises and promises[key].state != "open":
                self._known.setdefault((key, is_again(life, key, at)), at)


def is_again(life: Life, key: Key, at: float) -> bool:
    return life.named.again.get(key, at) < at


class Counters:
    """Nothing is counted twice: a process counts no more than became known on disk while it ran.

    So all processes together count no more than what Knock did. What is counted, and what grew on disk, add up in
    `counted` and `grown`. Nor is anything lost: one that has shown all to its end counted all that ended meanwhile.
    """

    def __init__(self) -> None:
        self.counted: Counter[Place] = Counter()
        self.grown: Counter[Place] = Counter()
        self._marks: dict[tuple[Key, str], int] = {}
        self._from_birth = time.time() + BIRTH_SECONDS

    def __call__(self, life: Life) -> Iterator[str]:
        grown, ended = self._growth(life)
        for place, value in (life.seen[-1].counted if life.seen else Counter()).items():
            if value > grown[place]:
                yield f"{place} counts {value} in one life; it can be {grown[place]} at most"
            self.counted[place] += value
        self.grown += grown
        if life.settled:
            for place, value in ended.items():
                if (counted := life.seen[-1].counted[place]) < value:
                    yield f"{place} counts {counted} in the last life; it has to be {value} at least"

    def _growth(self, life: Life) -> tuple[Counter[Place], Counter[Place]]:
        """Return by how much the marks of all operations rose, by what they are of; then of what ended for certain."""
        growth: Counter[Place] = Counter()
        ended: Counter[Place] = Counter()
        left = life.left
        for key, group in life.named.groups.items():
            kept, told, least = life.after.operations.get(key), life.knock.told(key[1]), Told()
            known = None if kept is None or kept.told.rows is None else progress([kept.told], kept.marks)
            if key in left:  # it may have got on before it left, also by what was told to nobody at the end
                growth["retired", key[0], group] += life.may_retire(key) * (1 + life.is_new_again(key))
                most = progress(
                    told, tuple(max((each.counts[index] for each in told), default=0) for index in range(3))
                )
            elif kept is not None and known is not None:
                least, most = least if kept.from_birth else told[0], known
            else:  # nothing of it is on disk, or it has no answer yet
                continue
            certain = self._has_ended(life, key)
            for name, value in most.items():
                before = self._marks.get((key, name), dict(zip(MARKS, least.counts, strict=True)).get(name, 0))
                growth[name, key[0], group] += max(0, value - before)
                ended[name, key[0], group] += certain * max(0, value - before)
                self._marks[key, name] = max(before, value if known is None else known[name])
        return growth, ended

    def _has_ended(self, life: Life, key: Key) -> bool:
        """Whether it was followed from birth to its end, and no DELETE or list may have ended that sooner."""
        kept, promise = life.after.operations.get(key), life.promises[key]
        followed = promise.state in ("tracked", "retired") and key not in life.named.again
        if kept is not None:
            return followed and bool(kept.from_birth) and kept.told.is_final
        return followed and self._from_birth < life.knock.made_at(key[1])


def progress(told: Iterable[Told], marks: tuple[int, ...]) -> dict[str, int]:
    """Return how far an operation has come: its marks, and how often what happens once has happened."""
    told = list(told)
    final = [each for each in told if each.is_final]
    return {
        **dict(zip(MARKS, marks, strict=True)),
        "finished": bool(final),
        "finished_with_errors": any(each.errors for each in final),
        "run": bool(final),
        "queue": any(each.started for each in told),
    }


class Failures:
    """A restart raises no old alert: each failure moves the time when failures were last seen once, and onwards."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str], list[float]] = defaultdict(list)

    def __call__(self, life: Life) -> Iterator[str]:
        for seen in life.seen:
            for place, at in seen.failures_seen.items():
                times = self._times[place]
                if times and at < times[-1]:
                    yield f"failures of {place} were last seen at {times[-1]}, and then at {at}"
                if not times or at > times[-1]:
                    times.append(at)
        for place, times in self._times.items():
            failed = sum(  # what was dropped and registered again is seen to fail again
                any(told.status == "failed" for told in life.knock.told(key[1])) * (1 + (key in life.named.again))
                for key, group in life.named.groups.items()
                if (key[0], group) == place
            )
            if len(times) > failed:
                yield f"{failed} failed in {place}, and {len(times)} times are told when that was last seen"


class Runs:
    """A run that was opened is kept, with all its operations: those that have retired too; its end stays."""

    def __init__(self) -> None:
        self._finished: dict[str, Any] = {}
        self._ended: Counter[str] = Counter()

    def __call__(self, life: Life) -> Iterator[str]:
        opened = [each.id for each in life.runs if each.opened]
        kept = (life.after.job or {}).get("run")
        if opened and kept is None:
            yield f"{opened[-1]} was opened, and is not on disk"
        if kept is None:
            return
        [run] = [each for each in life.runs if each.id == kept["id"]]
        if opened and life.runs.index(run) < len(opened) - 1:
            yield f"{opened[-1]} was opened, and on disk is {run.id}"
        past = life.after.job["past"] if life.after.job and "past" in life.after.job else {}
        yield from (f"{each} is neither current nor past" for each in opened if each != run.id and each not in past)
        for what, value, expected in self._kept(life, run, kept):
            if value != expected:
                yield f"{what} of {run.id} is {value} on disk, not {expected}"
        followed = [each.told for key, each in life.after.operations.items() if each.run == run.id]
        if kept.get("finished") and any(not each.is_final for each in followed):
            yield f"{run.id} has finished, and {followed} is on disk"
        yield from self._shown(life, kept, followed)

    def _kept(self, life: Life, run: KnownRun, kept: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
        gone = kept.get("gone", {})
        left = [each for each in run.members if each in life.after.tombstones]
        final = [next(told for told in life.knock.told(key[1]) if told.is_final) for key in left]
        yield "what was expected", kept.get("operations"), run.declared if run.opened else kept.get("operations")
        yield "that it is closed", "closed" in kept, run.closed or "closed" in kept
        yield "how many left by status", Counter(gone.get("operations", {})), Counter(each.status for each in final)
        yield "rows of what left", gone.get("rows_processed", 0), sum(each.rows or 0 for each in final)
        yield "errors of what left", gone.get("errors", 0), sum(each.errors or 0 for each in final)
        yield "what left with errors", gone.get("with_errors", 0), sum(bool(each.errors) for each in final)
        members = {key for key, each in life.after.operations.items() if each.run == run.id}
        known = set(run.members) & life.after.operations.keys()
        yield "what is followed", members, known
        yield (
            "its end",
            kept.get("finished"),
            self._finished.setdefault(run.id, kept.get("finished")) or kept.get("finished"),
        )
        if kept.get("finished"):
            self._finished[run.id] = kept["finished"]

    def _shown(self, life: Life, kept: dict[str, Any], followed: list[Told]) -> Iterator[str]:
        for shown in (each.run for each in life.seen if each.run is not None):
            ended = shown["operations"]["completed"] + shown["operations"]["failed"]
            if ended < self._ended[shown["id"]]:
                yield f"{shown['id']} had {self._ended[shown['id']]} ended operations, and has {ended}"
            self._ended[shown["id"]] = ended
            if shown["id"] == kept["id"]:
                on_disk = sum(each.is_final for each in followed) + sum(
                    kept.get("gone", {}).get("operations", {}).values()
                )
                rows = sum(each.rows or 0 for each in followed) + kept.get("gone", {}).get("rows_processed", 0)
                if (
                    ended > on_disk
                    or shown["rows_processed"] > rows
                    or (shown["finished_at"] and "finished" not in kept)
                ):
                    yield f"{shown} was shown, and on disk is {kept} with {followed}"


_EMPTY = "state file is empty: starting without state"  # killed before its first commit
_OF_KNOCK = re.compile("no good response from Knock|rate limited by Knock")  # by the faults here
_BAD = re.compile(r"(?m)^.*(?:level=(?:warning|error|critical)|Traceback).*$")


def the_log_tells_of_no_trouble(life: Life) -> Iterator[str]:
    for line in _BAD.findall(life.output):
        if not _OF_KNOCK.search(line) and (_EMPTY not in line or life.before.operations):
            yield f"the log says: {line}"


def the_file_is_sound(life: Life) -> Iterator[str]:
    # A process that was killed before its first commit has left nothing yet.
    if life.after.unsound and any(promise.state == "tracked" for promise in life.promises.values()):
        yield life.after.unsound


# What a process shows.

_LABEL = re.compile(r'(\w+)="([^"]*)"')
_SERIES = re.compile(r"(?m)^knock_bulk_operation_(rows_processed|successes|errors)\{(.*)\} (\S+)$")
_COUNTERS = re.compile(
    rf"(?m)^knock_bulk_operations_({'|'.join(COUNTERS)})(?:_total|_duration_seconds_count)\{{(.*)\}} (\S+)$"
)
_FAILURES = re.compile(r"(?m)^knock_bulk_operations_last_failed_seen_timestamp_seconds\{(.*)\} (\S+)$")


class Watcher:
    """A thread that looks at what is shown, again and again, while `life` is there."""

    def __init__(self, url: str, load: Load, seconds: float) -> None:
        self._url = url
        self._load = load
        self._seconds = seconds
        self._over = threading.Event()
        self._looking = threading.Lock()
        self._life: Life | None = None
        self._session = requests.Session()
        self._session.trust_env = False
        self._thread = threading.Thread(target=self._run)

    def watch(self, life: Life | None) -> None:
        """Look at this life from now on; what was begun is ended first."""
        with self._looking:
            self._life = life

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            with self._looking, contextlib.suppress(requests.RequestException):
                if self._life is not None:
                    self._look(self._life)

    def _look(self, life: Life) -> None:
        promises = self._load.promises.now()
        try:
            operations = {
                (each["environment"], each["id"]): Told(
                    each["status"], each["processed_rows"], each["success_count"], each["error_count"]
                )
                for name in (PRODUCTION, NIGHTLY)
                for each in self._list(name)
            }
            text = self._get("/metrics").text
            life.scraped(text)
            groups = self._get(f"/api/v1/groups/{NIGHTLY}").json()["groups"]
        except UnexpectedAnswer as error:
            if not life.ending:
                life.problems.append(str(error))
            return
        at, held = time.monotonic(), self._load.promises.held_since(promises)
        counted: Counter[Place] = Counter()
        for counter, labels, value in _COUNTERS.findall(text):
            counted[counter, *_place(labels)] += int(float(value))
        failures: dict[tuple[str, str], float] = {}
        for labels, value in _FAILURES.findall(text):
            failures[_place(labels)] = max(float(value), failures.get(_place(labels), 0.0))
        series = [
            (name.replace("rows_processed", "rows"), _key(labels), float(value))
            for name, labels, value in _SERIES.findall(text)
        ]
        run = next((each["run"] for each in groups if each["group"] == JOB), None)
        life.seen.append(Seen(at, operations, series, counted, failures, run, held))

    def _list(self, environment: str) -> Iterator[dict[str, Any]]:
        path, cursor = f"/api/v1/operations/{environment}?limit=1000", ""
        while True:
            answer = self._get(f"{path}&cursor={cursor}" if cursor else path).json()
            yield from answer["operations"]
            if (cursor := answer["next"]) is None:
                return

    def _get(self, path: str) -> requests.Response:
        answer = self._session.get(self._url + path, timeout=30)
        if answer.status_code != 200:
            raise UnexpectedAnswer(f"GET {path}: {answer.status_code} {answer.text}")
        return answer


class UnexpectedAnswer(Exception):
    """An answer other than 200."""


def _place(labels: str) -> tuple[str, str]:
    found = dict(_LABEL.findall(labels))
    return found["knock_environment"], found["group"]


def _key(labels: str) -> Key:
    found = dict(_LABEL.findall(labels))
    return found["knock_environment"], found["operation_id"]


# Processes, one after the other.


class Round:
    """One state file, and one process after the other on it."""

    def __init__(self, folder: Path, seed: int, conditions: Conditions = Conditions()) -> None:
        self.kills = self.shown = self.polls = 0
        self.problems: list[str] = []
        self.counters = Counters()
        self.checks: tuple[Check, ...] = (
            what_was_accepted_is_tracked,
            what_was_shown_is_on_disk,
            nothing_on_disk_goes_back,
            values_are_those_of_knock,
            Ended(),
            self.counters,
            Failures(),
            Runs(),
            the_log_tells_of_no_trouble,
            the_file_is_sound,
        )
        self.conditions = conditions
        self._folder = folder
        self._chance = random.Random(f"{seed}/kills")
        self._knock = Witness(seed)
        self._simulator = Simulator(world=self._knock, rate_limits=False)
        self._simulator.log = RequestLog(LOGGED)
        self._simulator.faults.set(*conditions.faults)
        port = _port(self._chance)
        self._url = f"http://127.0.0.1:{port}"
        self._flags = [f"--config.file={folder / 'config.yaml'}", f"--web.listen-address=127.0.0.1:{port}"]
        self._starter = Starter(folder)
        self._lists = folder / "lists"
        self._lists.mkdir()
        self._load = Load(self._knock, self._url, self._lists, seed, conditions.pace)
        self._watcher = Watcher(self._url, self._load, conditions.watch_seconds)
        self._stored = Stored()
        self._start_seconds = 1.0
        self._over = threading.Event()  # never set: what is waited for is a moment

    def run(self, kills: int) -> None:
        """Kill so many processes, let the last one see all to its end, and note what was found."""
        self._run(lambda: self.kills < kills)

    def _run(self, goes_on: Callable[[], bool]) -> None:
        try:
            with self._simulator, self._watcher.running():
                self._configure()
                with self._load.running():
                    while goes_on() and not self.problems:
                        self._live_and_die()
                    if not self.problems:
                        life, exporter = self._begin()
                        self._outlive(exporter)
                if not self.problems:
                    self._settle(life, exporter)
        except (AssertionError, pytest.fail.Exception) as error:  # what was waited for has not come
            self.problems.append(f"after {self.kills} kills: {error}")
        finally:
            self._starter.end()

    def _outlive(self, exporter: Exporter) -> None:
        """Let the last process live under load, so that it has something to lose."""
        exporter.urls()
        self._wait(exporter, min(self.conditions.long_seconds))

    def _wait(self, _exporter: Exporter, seconds: float) -> None:
        self._over.wait(seconds)

    def _configure(self, **settings: Any) -> None:
        self._starter.use_token()
        self._starter.keep_state()
        environments: list[dict[str, Any]] = [
            {
                "name": name,
                "api_key_file": self._starter.key_file.name if name == PRODUCTION else f"{name}.key",
                "base_url": self._simulator.url,
                "retention": f"{seconds:.0f}s",
                "per_operation": "active",
                "per_operation_limit": 100,
                "operations_files": ["lists/*"] if name == NIGHTLY else [],
                **self.conditions.settings,
                **settings,
            }
            for name, seconds in self.conditions.retention.items()
        ]
        key = self._folder / f"{NIGHTLY}.key"
        key.touch(0o600)
        key.write_text(f"sk_test_{NIGHTLY}")
        fresh = self._folder / "config.new"  # it is read again at any moment
        fresh.write_text(yaml.safe_dump({"environments": environments} | self._starter.whole))
        fresh.replace(self._folder / "config.yaml")

    def _begin(self) -> tuple[Life, Exporter]:
        life = Life(self._knock, self.conditions.retention, self._stored, time.monotonic())
        exporter = self._starter.run(*self._flags)
        self._watcher.watch(life)  # from its first answer on
        return life, exporter

    def _live_and_die(self) -> None:
        """Begin a life, and kill it: in its start, at any moment after it or after it was looked at, or as it ends."""
        life, exporter = self._begin()
        how = self._chance.random()
        if how < 0.3:
            self._over.wait(self._chance.uniform(0.0, 1.2 * self._start_seconds))
        else:
            exporter.urls()
            self._start_seconds = time.monotonic() - life.began
            if how > 0.6:
                until(lambda: life.seen or life.problems, "looked at")
            long = how > 0.95
            up_seconds = self.conditions.long_seconds if long else self.conditions.up_seconds
            self._wait(exporter, self._chance.uniform(*up_seconds))
            if how < 0.35:
                life.ending = True
                exporter.signal()
                self._over.wait(self._chance.uniform(0.0, END_SECONDS))
        if exporter.process.poll() is not None and not life.ending:
            life.problems.append(f"the process ended by itself: {exporter.process.poll()}")
        exporter.kill()
        self.kills += 1
        self._judge(life, exporter)

    def _judge(self, life: Life, exporter: Exporter) -> None:
        life.ended = time.monotonic()
        self._watcher.watch(None)
        life.promises, life.named = self._load.promises.now(), self._load.promises.named
        life.after = self._stored = self._read()
        life.runs = self._load.runs
        self.polls += len(self._simulator.log)
        life.requests, life.output = self._simulator.log.entries(), exporter.output
        self._simulator.log.clear()
        self.shown += bool(life.seen)
        self._load.rely_on(self._stored.operations)
        found = [*life.problems, *self._load.problems, *(each for check in self.checks for each in check(life))]
        self.problems += [f"after {self.kills} kills: {each}" for each in found[:PROBLEMS_TOLD]]

    def _read(self) -> Stored:
        """Read a copy of the file: the next process is to find it as the kill left it."""
        copy = self._folder / "copy"
        copy.mkdir()
        for name in ("state.db", "state.db-wal"):
            if (self._folder / name).exists():
                shutil.copy(self._folder / name, copy)
        stored = (
            stored_in(copy / "state.db", self._check(copy / "state.db")) if (copy / "state.db").exists() else Stored()
        )
        shutil.rmtree(copy)
        return stored

    @staticmethod
    def _check(path: Path) -> str:
        checked = CliRunner().invoke(main, ["state", "check", f"--storage.path={path}"])
        return "" if checked.exit_code == 0 else checked.output

    def _settle(self, life: Life, exporter: Exporter) -> None:
        """Have everything seen to its end, and end in order."""
        promises, known = self._load.promises, self._load.listed_now

        def all_is_seen() -> bool:
            shown = life.seen[-1].operations if life.seen else {}
            tracked = {key for key, (state, _) in promises.now().items() if state == "tracked"} | known
            return all(
                life.is_over(key) if key not in shown else shown[key].is_final or not self._knock.ended_at(key[1])
                for key in tracked
            )

        until(all_is_seen, "all is asked to its end", self.conditions.settled_seconds)
        life.settled = life.ending = True
        exporter.signal()
        if (code := exporter.wait()) != 0:
            life.problems.append(f"exit code {code}")
        self._judge(life, exporter)

    def figures(self) -> dict[str, float]:
        """Return what was done, so that a reader can judge what it proves."""
        counted, grown = self.counters.counted, self.counters.grown
        shares = {
            f"{name} counted, of what grew on disk": round(
                sum(value for place, value in counted.items() if place[0] == name)
                / max(1, sum(value for place, value in grown.items() if place[0] == name)),
                3,
            )
            for name in ("rows_processed", "finished")
        }
        promises = Counter(promise.state for promise in self._load.promises.now().values())
        return {
            "kills": self.kills,
            "processes looked at": self.shown,
            "operations": promises.total(),
            **{f"of them {state}": count for state, count in sorted(promises.items())},
            "runs": len(self._load.runs),
            "of them finished": sum(each.finished_at is not None for each in self._load.runs),
            **shares,
        }


def _port(chance: random.Random) -> int:
    """Return a port that nobody has, nor is given for a connection while no process has it."""
    while True:
        port = chance.randrange(20_000, 30_000)  # below those that Linux gives to connections
        with contextlib.suppress(OSError), contextlib.closing(socket.create_server(("127.0.0.1", port))):
            return port


def stored_in(path: Path, unsound: str) -> Stored:
    """Read a state file, as docs/state.md describes it."""
    with contextlib.closing(sqlite3.connect(path)) as file:
        if not file.execute("SELECT count(*) FROM sqlite_master WHERE name = 'tombstones'").fetchone()[0]:
            return Stored(unsound=unsound)
        rows = file.execute(
            "SELECT environment, id, status, rows_processed, successes, errors, mark_processed, mark_successes,"
            " mark_errors, from_birth, run FROM operations"
        ).fetchall()
        groups = file.execute(
            "SELECT document FROM documents WHERE kind = 'group' AND environment = ? AND key = ?", (NIGHTLY, JOB)
        ).fetchall()
        stones = file.execute("SELECT environment, lower(hex(id)), retired FROM tombstones").fetchall()
    operations = {
        (environment, operation_id): Kept(
            Told(status or "pending", *rest[:3]),
            (rest[3] or 0, rest[4] or 0, rest[5] or 0),
            None if rest[6] is None else bool(rest[6]),
            rest[7],
        )
        for environment, operation_id, status, *rest in rows
    }
    tombstones = {(name, str(uuid.UUID(each))): bool(retired) for name, each, retired in stones}
    return Stored(operations, tombstones, json.loads(groups[0][0]) if groups else None, unsound)
