"""Load for an exporter that may be gone at any moment, and what may be relied on of each operation.

Operations run and end, programs register and drop them, files that list them change.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import requests
from programs import TOKEN

from exporter.simulator import World

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Key = tuple[str, str]  # environment, operation
State = Literal["open", "tracked", "dropped", "retired", "unlisted"]

PROGRAMS = 4
PRODUCTION, NIGHTLY, JOB = "production", "nightly", "job"  # two environments; the group of a job that has runs
DEFAULT = "default"  # the group of lists of bare ids
GROUPS = 8  # of an environment, so that one group's loss hides no other's excess
BATCH = (1, 8)
FULL = 250  # listed at a time, at most
LIST_SECONDS = (6.0, 12.0)  # between two writes of a list; it counts after 5
FINAL = ("completed", "failed")
REFUSALS = (429, 503)  # that are to be repeated


class Pace(NamedTuple):
    """How fast operations come and go; seconds are drawn between two numbers."""

    pause_seconds: tuple[float, float] = (0.0, 2.0)  # of a program between two requests
    run_seconds: tuple[float, float] = (0.5, 10.0)  # of an operation
    lasting: int = 100  # operations that outlast the round


class Told(NamedTuple):
    """What Knock said of an operation at one moment."""

    status: str = "pending"
    rows: int | None = None
    successes: int | None = None
    errors: int | None = None

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.rows or 0, self.successes or 0, self.errors or 0

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def started(self) -> bool:
        return self.status not in ("pending", "queued")


def told_by(document: dict[str, Any]) -> Told:
    return Told(document["status"], document["processed_rows"], document["success_count"], document.get("error_count"))


class Witness(World):
    """Operations, and all that was told of each."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, most=10_000_000)  # it forgets none
        self._told: dict[str, dict[Told, None]] = defaultdict(dict)  # in their order
        self._ended: dict[str, tuple[float, bool]] = {}  # when, and whether clean: asked a thousand times each

    def read(self, operation_id: str) -> Any | None:
        document = super().read(operation_id)
        if document is not None:
            self._told[operation_id][told_by(document)] = None
        return document

    def told(self, operation_id: str) -> list[Told]:
        return list(self._told.get(operation_id, ()))

    def peek(self, operation_id: str) -> dict[str, Any]:
        """Return a record as it stands, without telling anybody."""
        document: dict[str, Any] | None = super().read(operation_id)
        assert document is not None
        return document

    def made_at(self, operation_id: str) -> float:
        """Return when it was made (Unix seconds)."""
        return datetime.fromisoformat(self.peek(operation_id)["inserted_at"]).timestamp()

    def ended_at(self, operation_id: str) -> float | None:
        """Return when it ended (Unix seconds), None while it has not."""
        if operation_id not in self._ended:
            record = self.peek(operation_id)
            if (ended := record["failed_at"] or record["completed_at"]) is None:
                return None
            clean = record["failed_at"] is None and not record.get("error_count")
            self._ended[operation_id] = datetime.fromisoformat(ended).timestamp(), clean
        return self._ended[operation_id][0]

    def is_clean(self, operation_id: str) -> bool:
        """Whether it has ended, did not fail, and has no errors."""
        return self.ended_at(operation_id) is not None and self._ended[operation_id][1]


class Promise(NamedTuple):
    """What may be relied on of an operation, since when (monotonic).

    `open`: nothing is certain, since a request has no answer yet, or it was only listed. `retired`: its time was over.
    `unlisted`: no list names it any more.
    """

    state: State
    since: float


class Named(NamedTuple):
    """All operations that were named so far, as of one moment."""

    groups: dict[Key, str]
    records: set[Key]  # handed over with their create answers
    again: dict[Key, float]  # when what was dropped was begun to be registered again, once at most


class Promises:
    """The promises of all operations, at any moment, for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._named = Named({}, set(), {})
        self._promises: dict[Key, Promise] = {}

    def name(self, key: Key, group: str, *, with_record: bool = False) -> None:
        with self._lock:
            self._named.groups[key] = group
            self._named.records.update([key] if with_record else [])

    def begin_again(self, key: Key) -> None:
        with self._lock:
            self._named.again[key] = time.monotonic()

    @property
    def named(self) -> Named:
        with self._lock:
            groups, records, again = self._named
            return Named(groups.copy(), records.copy(), again.copy())

    def note(self, keys: Iterable[Key], state: State) -> None:
        with self._lock:
            self._promises |= dict.fromkeys(keys, Promise(state, time.monotonic()))

    def now(self) -> dict[Key, Promise]:
        with self._lock:
            return self._promises.copy()

    def held_since(self, before: dict[Key, Promise]) -> dict[Key, Promise]:
        """Return those that have not changed meanwhile."""
        return dict(before.items() & self.now().items())


class KnownRun(NamedTuple):
    """A run, as its job knows it: all that it handed over, answered or not, and what was answered."""

    id: str
    members: tuple[Key, ...] = ()
    declared: int | None = None
    opened: bool = False
    closed: bool = False
    finished_at: str | None = None


class Load:
    """Threads that go on, whatever becomes of the exporter, until they are told to finish what they have begun."""

    def __init__(self, knock: Witness, url: str, lists: Path, seed: int, pace: Pace) -> None:
        self.promises = Promises()
        self.problems: list[str] = []
        self.listed: dict[str, list[str]] = {"a.txt": [], "b.json": []}
        self._knock = knock
        self._url = url
        self._lists = lists
        self._seed = seed
        self._pace = pace
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._program, args=(each,)) for each in range(PROGRAMS)]
        self._threads += [threading.Thread(target=each) for each in (self._write_lists, self._run_job)]
        self._runs: list[KnownRun] = []

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
    def listed_now(self) -> set[Key]:
        return {(NIGHTLY, each) for ids in list(self.listed.values()) for each in ids}

    def rely_on(self, keys: Iterable[Key]) -> None:
        """Note that these are tracked: what lists name stays, once it is on disk."""
        with self._lock:
            promises, listed = self.promises.now(), self.listed_now
            self.promises.note([key for key in keys if key in listed and promises[key].state == "open"], "tracked")

    def make(
        self, chance: random.Random, environment: str, group: str = "", *, lasts: bool = False, record: bool = False
    ) -> Key:
        """Begin an operation."""
        rows = chance.randint(50, 500)
        made = self._knock.create(
            rows=10**6 if lasts else rows,
            errors=chance.choice((0, 0, 0, rows // 10)),
            fails=not lasts and chance.random() < 0.1,
            queue_seconds=chance.uniform(0.0, 3.0),
            rows_per_second=100.0 if lasts else rows / chance.uniform(*self._pace.run_seconds),
        )
        self.promises.name((environment, made), group or f"g{chance.randrange(GROUPS)}", with_record=record)
        return environment, made

    @property
    def runs(self) -> list[KnownRun]:
        """The runs of the job so far."""
        return self._runs.copy()

    # Programs.

    def _program(self, number: int) -> None:
        chance, mine = random.Random(f"{self._seed}/program {number}"), Mine()
        with _session() as session:
            if number == 0:
                self._register(
                    session, mine, [self.make(chance, PRODUCTION, lasts=True) for _ in range(self._pace.lasting)]
                )
            while not self._over.wait(chance.uniform(*self._pace.pause_seconds)):
                self._act(session, mine, chance)

    def _act(self, session: requests.Session, mine: Mine, chance: random.Random) -> None:
        act = chance.random()
        if act < 0.2 and mine.tracked:
            self._drop(session, mine, chance.choice(mine.tracked))
        elif act < 0.3 and mine.tracked:
            self._register(session, mine, [chance.choice(mine.tracked)])  # which changes nothing
        elif act < 0.4 and mine.dropped:
            key = mine.dropped.pop(chance.randrange(len(mine.dropped)))
            self.promises.begin_again(key)
            self._register(session, mine, [key])
        else:
            environment, record = chance.choice((PRODUCTION, NIGHTLY)), chance.random() < 0.5
            made = [self.make(chance, environment, record=record) for _ in range(chance.randint(*BATCH))]
            self._register(session, mine, made)

    def _register(self, session: requests.Session, mine: Mine, keys: list[Key], run: str = "") -> None:
        new = [each for each in keys if each not in mine.tracked]
        self.promises.note(new, "open")
        named = self.promises.named
        items = [self._item(each, named) | ({"run": run} if run else {}) for each in keys]
        answer = self._send(session, "POST", f"operations/{keys[0][0]}", items)
        if answer is None:
            return
        document = answer.json()
        states = {each["id"]: each["state"] for each in document.get("accepted", ())}
        if answer.status_code != 200 or document["durable"] is not True or states.keys() != {key[1] for key in keys}:
            self.problems.append(f"POST of {keys}: {answer.status_code} {answer.text}")
            return
        retired = [each for each in keys if states[each[1]] == "retired"]
        mine.tracked = [each for each in mine.tracked if each not in retired]
        self.promises.note(retired, "retired")
        self.promises.note([each for each in new if each not in retired], "tracked")
        mine.tracked += [each for each in new if each not in retired]

    def _item(self, key: Key, named: Named) -> dict[str, Any]:
        item: dict[str, Any] = {"id": key[1], "group": named.groups[key]}
        if key in named.records:
            item |= {"__typename": "BulkOperation", "name": "users.identify", "status": "queued"}
            item["inserted_at"] = self._knock.peek(key[1])["inserted_at"]
        return item

    def _drop(self, session: requests.Session, mine: Mine, key: Key) -> None:
        mine.tracked.remove(key)
        self.promises.note([key], "open")
        answer = self._send(session, "DELETE", f"operations/{key[0]}/{key[1]}", None)
        if answer is None:
            return
        if answer.status_code not in (200, 404):  # 404: an earlier try dropped it, or it has retired
            self.problems.append(f"DELETE of {key}: {answer.status_code} {answer.text}")
        self.promises.note([key], "dropped")
        if key not in self.promises.named.again:
            mine.dropped.append(key)

    def _send(self, session: requests.Session, method: str, path: str, body: Any) -> requests.Response | None:
        """Send a request until it is answered; None where that was never."""
        address = f"{self._url}/api/v1/{path}"
        while True:
            with contextlib.suppress(requests.RequestException):
                answer = session.request(method, address, json=body, timeout=30)
                if answer.status_code not in REFUSALS:
                    return answer
            if self._over.wait(0.1):
                return None

    # A job with runs.

    def _run_job(self) -> None:
        chance, mine = random.Random(f"{self._seed}/job"), Mine()
        with _session() as session:
            while not self._over.wait(chance.uniform(*self._pace.pause_seconds)):
                self._run(session, mine, chance)

    def _run(self, session: requests.Session, mine: Mine, chance: random.Random) -> None:
        count = chance.randint(1, 15)
        self._runs.append(KnownRun(f"run-{len(self._runs)}"))
        declared = count if chance.random() < 0.6 else None
        if not self._put(session, self._runs[-1].id, {} if declared is None else {"operations": declared}):
            return
        self._note_run(opened=True, declared=declared)
        for first in range(0, count, 5):
            made = [self.make(chance, NIGHTLY, JOB) for _ in range(min(5, count - first))]
            self._note_run(members=self._runs[-1].members + tuple(made))
            self._register(session, mine, made, self._runs[-1].id)
        if not self._put(session, self._runs[-1].id, {"closed": True}):
            return
        self._note_run(closed=True)
        while self._runs[-1].finished_at is None and not self._over.wait(0.3):
            answer = self._send(session, "GET", f"groups/{NIGHTLY}/{JOB}", None)
            if answer is not None and (run := answer.json()["run"])["id"] == self._runs[-1].id:
                self._note_run(finished_at=run["finished_at"])
        if len(self._runs) > 1:
            answer = self._send(session, "PUT", f"groups/{NIGHTLY}/{JOB}/runs/{self._runs[-2].id}", {"operations": 1})
            if answer is not None and answer.status_code != 409:
                self.problems.append(f"PUT of a past run: {answer.status_code} {answer.text}")

    def _note_run(self, **known: Any) -> None:
        self._runs[-1] = self._runs[-1]._replace(**known)

    def _put(self, session: requests.Session, run: str, body: Any) -> bool:
        answer = self._send(session, "PUT", f"groups/{NIGHTLY}/{JOB}/runs/{run}", body)
        if answer is not None and (answer.status_code != 200 or answer.json()["durable"] is not True):
            self.problems.append(f"PUT of {run}: {answer.status_code} {answer.text}")
        return answer is not None and answer.status_code == 200

    # Lists.

    def _write_lists(self) -> None:
        chance = random.Random(f"{self._seed}/lists")
        while True:
            for name in self.listed:
                self._write_list(chance, name)
                if self._over.wait(chance.uniform(*LIST_SECONDS) / len(self.listed)):
                    return

    def _write_list(self, chance: random.Random, name: str) -> None:
        before = self.listed[name]
        group = DEFAULT if name.endswith(".txt") else ""
        fresh = [self.make(chance, NIGHTLY, group) for _ in range(chance.randint(5, 25))]
        stay = [each for each in before if chance.random() < 0.8][-FULL:]
        with self._lock:
            self.promises.note([(NIGHTLY, each) for each in before if each not in stay], "unlisted")
            self.promises.note(fresh, "open")
            self.listed[name] = stay + [each for _, each in fresh]
        (self._lists / f".{name}").write_text(self._text(name))
        (self._lists / f".{name}").rename(self._lists / name)

    def _text(self, name: str) -> str:
        if name.endswith(".txt"):
            return "\n".join(["# of a test", *self.listed[name]])
        groups, named = defaultdict(list), self.promises.named.groups
        for each in self.listed[name]:
            groups[named[NIGHTLY, each]].append(each)
        return json.dumps([{"targets": ids, "labels": {"group": group}} for group, ids in groups.items()])


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = f"Bearer {TOKEN}"
    return session


class Mine:
    """The operations of one program."""

    def __init__(self) -> None:
        self.tracked: list[Key] = []
        self.dropped: list[Key] = []
