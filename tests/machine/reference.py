"""What the exporter is to know and show, computed as a reader of docs/behaviour.md and docs/metrics.md would.

Simple and slow: dicts of frozen values. It is told what passes the seams (`Watcher`) and what the machine does.
Times are ages, as the state file has them: they run with the machine's monotonic clock while a process runs, and with
its wall clock in between.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from virtual_knock import Trouble

if TYPE_CHECKING:
    from virtual_knock import Asked, Time

Key = tuple[str, str]  # environment, operation
Says = tuple[str, tuple[tuple[str, str], ...]]  # a source of an operation: its group, its labels
Cell = tuple[str, str, str]  # environment, group, name
SourceName = tuple[str, str]  # kind, name
KINDS = ("config", "files", "http", "api")
CONFIG, API = ("config", ""), ("api", "")
DOCUMENTED = ("queued", "processing", "completed", "failed")
COUNTED = ("processed_rows", "success_count", "error_count")
LATE = 31.0  # seconds that what is over may stay
NEVER = float("inf")


@dataclass(frozen=True)
class WantedEnvironment:
    """Settings of an environment, as the machine wants them; times are seconds."""

    name: str
    operations: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = ()
    base_url: str = "https://knock.example"
    branch: str | None = None
    http: bool = True
    rate_limit: int = 3
    processing: int = 20
    queued: int = 30
    slowest: int = 60
    not_found_after: int = 600
    max_age: int = 7 * 86_400
    retention: int = 86_400
    per_operation: str = "all"
    per_operation_limit: int = 1000


@dataclass(frozen=True)
class Wanted:
    """A configuration, as the machine wants it."""

    environments: tuple[WantedEnvironment, ...]
    labels: tuple[str, ...]
    limit: int


class At(NamedTuple):
    """A moment: its age, and what the wall clock showed."""

    age: float
    wall: float


class Due(NamedTuple):
    """When an operation is to be asked for (ages): not before, and where nothing is in the way not after."""

    earliest: float
    latest: float


@dataclass(frozen=True)
class Followed:
    """An operation as it is to be known."""

    group: str
    labels: tuple[tuple[str, str], ...]
    registration: At
    interval: float  # planned for its state
    due: Due
    said: dict[str, Any] | None = None  # by Knock, or by its create answer
    status: str = "pending"
    name: str = "unknown"
    up: bool | None = None
    live: bool = False  # its last attempt was good
    success: At | None = None
    change: At | None = None
    failures: int = 0
    missing: int = 0
    missing_since: float | None = None
    lost: bool = False
    odd: int = 0
    ended: int = 0
    birth: bool | None = None
    seen_unfinished: bool = False
    seen_started: bool = False
    marks: tuple[int | None, ...] = (None, None, None)
    final: At | None = None
    exact: bool = True  # when it was handed over is known to the second

    @property
    def state(self) -> str:
        return "lost" if self.lost else self.status

    @property
    def active(self) -> bool:
        return self.final is None and not self.lost

    @property
    def has_errors(self) -> bool:
        return self.said is not None and bool(self.said.get("error_count") or self.said.get("error_items"))

    @property
    def clean(self) -> bool:
        return self.final is not None and self.status == "completed" and not self.has_errors

    @property
    def stale_at(self) -> float:
        return (self.success or self.registration).age + 3 * self.interval + 30

    def time(self, name: str) -> float | None:
        text = self.said.get(name) if self.said else None
        return None if text is None else read_time(text)

    @property
    def finished(self) -> float | None:
        if self.final is None:
            return None
        first, second = ("failed_at", "completed_at") if self.status == "failed" else ("completed_at", "failed_at")
        ends = [self.time(each) for each in (first, second, "updated_at")]
        return next((each for each in ends if each is not None), None)

    @property
    def ran_for(self) -> float | None:
        began, ended = self.time("started_at"), self.finished
        return ended - began if began is not None and ended is not None and ended >= began else None


class Seen(NamedTuple):
    """When ends were last seen, by group and name: what alerts rest on."""

    completed: float | None = None
    failed: float | None = None
    failed_seen: float | None = None
    with_errors_seen: float | None = None


@dataclass(frozen=True)
class Remembered:
    """What is remembered of an environment, also while it is not configured."""

    base_url: str
    branch: str | None
    epoch: float


@dataclass
class Memory:
    """What outlives a process."""

    checkpoint: At
    environments: dict[str, Remembered] = field(default_factory=dict)
    operations: dict[Key, Followed] = field(default_factory=dict)
    says: dict[Key, dict[SourceName, Says]] = field(default_factory=dict)
    tombstones: dict[Key, bool] = field(default_factory=dict)  # whether it retired: else it was let go
    seen: dict[Cell, Seen] = field(default_factory=dict)
    counters: Counter[tuple[str, str]] = field(default_factory=Counter)  # of this process: environment, family

    def copy(self, at: At) -> Memory:
        """Return what is kept of it as of a moment."""
        says = {key: dict(self.says.get(key, {})) for key in self.operations}
        kept = dict(self.environments), dict(self.operations), says, dict(self.tombstones), dict(self.seen)
        return Memory(at, *kept)


@dataclass
class Environment:
    """An environment that is configured now."""

    wanted: WantedEnvironment
    key: str
    life: int
    keys: int = 0  # how many it has had
    moved: int = 0  # as of which of them it is where it is now
    trusted: bool = False
    flights: Counter[str] = field(default_factory=Counter)
    lost_once: set[str] = field(default_factory=set)
    polls: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    counters: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)  # family, group, name, label


class Reference:
    """A process after the other, and what they leave behind."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.shift = time.now.wall - time.now.mono
        self.durable = Memory(self.now)
        self.memory = Memory(self.now)
        self.environments: dict[str, Environment] = {}
        self.waiting: dict[Key, None] = {}
        self.ended: dict[Key, Followed] = {}  # final, and listed no more
        self.unsure: set[Key] = set()  # those of them that may be forgotten: they count within the limit
        self.doubtful: dict[Key, Followed] = {}  # back again: new, or else as these were
        self.limit = 0
        self.ceiling = 0  # how many may be followed: the limit, or more that were followed before
        self.blurred = False  # whether it is not known why something was retired
        self.accepted: set[Key] = set()  # registrations that were answered as durable
        self.began = self.configured = 0.0  # ages
        self._lives = 0
        self._flights: dict[Asked, tuple[int, int]] = {}
        self._saving: dict[int, Memory] = {}
        self._quiet_until: dict[tuple[str, str], float] = {}  # true time
        self._limits: list[tuple[float, dict[str, int]]] = []  # true time, rate limits by base URL and key

    # Time.

    @property
    def now(self) -> At:
        return At(self.time.mono + self.shift, self.time.now.wall)

    # Processes.

    def start(self, wanted: Wanted, keys: dict[str, str], *, keeps: bool) -> None:
        """Begin a process with what is on disk."""
        if keeps:
            passed = max(0.0, self.time.now.wall - self.durable.checkpoint.wall)
            self.shift = self.durable.checkpoint.age + passed - self.time.mono
        else:
            self.durable = Memory(self.now)
        self.began = self.now.age
        self.durable.counters = Counter()
        self.memory = self.durable.copy(self.durable.checkpoint)
        self.environments, self.waiting, self.ended = {}, {}, {}
        self.unsure, self.blurred = set(), False
        self._flights, self._saving, self._quiet_until = {}, {}, {}
        self.configure(wanted, keys)

    def saving(self, number: int) -> None:
        self._saving[number] = saved = self.memory.copy(self.now)
        for name, environment in self.environments.items():
            for (family, *_), value in environment.counters.items():
                saved.counters[name, family] += value

    def committed(self, number: int) -> None:
        self.durable = self._saving[number]
        self._saving = {each: memory for each, memory in self._saving.items() if each > number}

    # Configuration.

    def configure(self, wanted: Wanted, keys: dict[str, str]) -> None:
        self.configured = self.now.age
        self.limit = wanted.limit
        self.ceiling = max(self.limit, len(self.awake))
        self._quiet_until = {}
        names = {each.name: each for each in wanted.environments}
        for name in [each for each in self.environments if each not in names]:
            self._put_to_sleep(name)
        for name, settings in names.items():
            if name in self.environments:
                self._change(self.environments[name], settings, keys[name])
            else:
                self._begin(settings, keys[name])
                self.ceiling = max(self.ceiling, len(self.awake))
            self.list_all(name, CONFIG, settings.operations)
            if not settings.http:
                for source in {each for key, says in self.memory.says.items() if key[0] == name for each in says}:
                    if source[0] == "http":
                        self.list_all(name, source, ())
        self._doubt_ended()
        self._note_limits()

    def _note_limits(self) -> None:
        lowest: dict[Any, int] = {}
        for each in self.environments.values():
            upstream = each.wanted.base_url, each.key
            lowest[upstream] = min(lowest.get(upstream, 1000), each.wanted.rate_limit)
        self._limits = [*self._limits[-20:], (self.time.true, lowest)]

    def _put_to_sleep(self, name: str) -> None:
        del self.environments[name]
        memory = self.memory
        memory.says = {key: says for key, says in memory.says.items() if key[0] != name or key in memory.operations}
        self.waiting = {key: None for key in self.waiting if key[0] != name}
        self.ended = {key: each for key, each in self.ended.items() if key[0] != name}

    def _begin(self, wanted: WantedEnvironment, key: str) -> None:
        self._lives += 1
        self.environments[wanted.name] = environment = Environment(wanted, key, self._lives)
        new = Remembered(wanted.base_url, wanted.branch, self.now.wall)
        known = self.memory.environments.setdefault(wanted.name, new)
        if (known.base_url, known.branch) != (wanted.base_url, wanted.branch):
            self._move(environment)

    def _change(self, environment: Environment, wanted: WantedEnvironment, key: str) -> None:
        before, environment.wanted = environment.wanted, wanted
        moved = (before.base_url, before.branch) != (wanted.base_url, wanted.branch)
        if moved or key != environment.key:
            self._use_key(environment, key)
        if moved:
            self._move(environment)
        if _polling(before) != _polling(wanted):
            for key_, each in self._of(wanted.name):
                if each.active and each.live and each.said is not None:
                    self._repace(key_, each, wanted)

    def _repace(self, key: Key, each: Followed, wanted: WantedEnvironment) -> None:
        last = each.success or each.registration
        interval = self._interval(each, each.status, (each.change or last).age, wanted)
        at = last.age + interval
        due = Due(min(each.due.earliest, at), min(each.due.latest, at))
        self.memory.operations[key] = replace(each, interval=interval, due=due)

    def _move(self, environment: Environment) -> None:
        wanted = environment.wanted
        environment.moved = environment.keys
        self.memory.environments[wanted.name] = Remembered(wanted.base_url, wanted.branch, self.now.wall)
        self._retry_missing(wanted.name)

    def _use_key(self, environment: Environment, key: str) -> None:
        environment.key = key
        environment.keys += 1
        environment.trusted = False
        self._retry_missing(environment.wanted.name)

    def key_read(self, environment: str, key: str) -> None:
        self._use_key(self.environments[environment], key)
        self._quiet_until = {}  # what was learnt of an upstream goes with it
        self._note_limits()

    def _retry_missing(self, name: str) -> None:
        for key, each in self._of(name):
            if each.missing_since is not None:
                self._retry(key)

    def _retry(self, key: Key) -> None:
        each = self.memory.operations[key]
        self.memory.operations[key] = replace(
            each, lost=False, missing=0, missing_since=None, live=True, due=_due(self.now.age, 0)
        )

    # Operations.

    def _of(self, name: str) -> list[tuple[Key, Followed]]:
        return [(key, each) for key, each in self.memory.operations.items() if key[0] == name]

    @property
    def awake(self) -> dict[Key, Followed]:
        """What is followed in the environments that are configured."""
        return {key: each for key, each in self.memory.operations.items() if key[0] in self.environments}

    def says(self, key: Key) -> list[tuple[SourceName, Says]]:
        """Return who names an operation, in the order of precedence."""
        return sorted(self.memory.says.get(key, {}).items(), key=lambda each: (KINDS.index(each[0][0]), each[0][1]))

    def listed_by(self, key: Key) -> list[SourceName]:
        return [source for source, _ in self.says(key) if source != API]

    def _group_and_labels(self, key: Key) -> Says:
        says = [each for _, each in self.says(key)]
        group = next((group for group, _ in says if group != "default"), "default")
        labels: dict[str, str] = {}
        for _, pairs in reversed(says):
            labels |= dict(pairs)
        return group, tuple(sorted(labels.items()))

    def list_all(self, name: str, source: SourceName, operations: Any) -> None:
        """Take a source's whole list."""
        listed = {operation_id: (group, labels) for operation_id, group, labels in operations}
        all_says = self.memory.says
        for key in [key for key, says in all_says.items() if key[0] == name and source in says]:
            if key[1] not in listed:
                del all_says[key][source]
                self._unlisted(key, source)
        for operation_id, says in listed.items():
            key = name, operation_id
            if all_says.setdefault(key, {}).get(source) != says:
                all_says[key][source] = says
                self.enter(key, again=source == CONFIG)

    def _unlisted(self, key: Key, source: SourceName) -> None:
        if not self.listed_by(key):
            self.waiting.pop(key, None)
        each = self.memory.operations.get(key)
        if each is None:
            return
        if self.says(key):
            self._rename(key)
        elif source == CONFIG or each.clean or each.lost:
            self._drop(key, retired=False)
            if each.final is not None:
                self.ended[key] = each
                self._doubt_ended()

    def _doubt_ended(self) -> None:
        if len(self.awake) + len(self.ended) > self.limit:
            self.unsure |= self.ended.keys()

    def is_back(self, key: Key) -> None:
        """Note that what ended is shown as it was."""
        known, each = self.doubtful[key], self.memory.operations[key]
        self.memory.operations[key] = replace(known, group=each.group, labels=each.labels)

    def register(self, key: Key, says: Says, created: tuple[str, float] | None, *, again: bool) -> str | None:
        """Register an operation; return the state that is answered, None where there is no room."""
        all_says = self.memory.says.setdefault(key, {})
        if API not in all_says or says != ("default", ()):
            all_says[API] = says
        state = self.enter(key, again=again)
        if state is None or state == "retired":
            del self.memory.says[key][API]
            return state
        each = self.memory.operations[key]
        if created is not None and each.said is None and each.birth is None and each.up is None:
            name, inserted_at = created
            said, due = {"inserted_at": inserted_at}, _due(each.registration.age, each.interval)
            self.memory.operations[key] = replace(each, said=said, status="queued", name=name, live=True, due=due)
        return self.memory.operations[key].state

    def enter(self, key: Key, *, again: bool, exact: bool = True) -> str | None:
        each = self.memory.operations.get(key)
        if each is not None:
            self._rename(key)
            if each.lost and again:
                self._retry(key)
            return self.memory.operations[key].state
        if self.memory.tombstones.get(key) and not again:
            self.waiting.pop(key, None)
            return "retired"
        if not self.makes_room(waited=not exact):
            if key not in self.waiting:
                self.environments[key[0]].refused += 1
            if self.listed_by(key):
                self.waiting[key] = None
            return None
        self.waiting.pop(key, None)
        birth = False if self.memory.tombstones.pop(key, None) is not None else None
        queued = self.environments[key[0]].wanted.queued
        group, labels = self._group_and_labels(key)
        ended = self.ended.pop(key, None)
        if ended is not None and key in self.unsure:
            self.doubtful[key], ended = ended, None
            self.unsure.discard(key)
        due = _due(self.now.age, 0)
        new = Followed(group, labels, self.now, interval=queued, birth=birth, exact=exact, due=due)
        self.memory.operations[key] = new if ended is None else replace(ended, group=group, labels=labels)
        self._doubt_ended()
        return self.memory.operations[key].state

    def has_room(self) -> bool:
        return len(self.awake) < self.limit or len(self._retirable()) > len(self.awake) - self.limit

    def _retirable(self, *, waited: bool = False) -> list[Key]:
        """Return what may retire early: the clean ones, then what went wrong and is old enough, by their ends.

        Where an id waited for room: by since when they may.
        """
        ended = []
        for key, each in self.awake.items():
            age = 0 if each.clean else self.environments[key[0]].wanted.retention
            if each.final is not None and self._leaves_at(key) < NEVER and each.final.age + age <= self.now.age:
                ended.append((False, each.final.age + age, key) if waited else (not each.clean, each.final.age, key))
        return [key for *_, key in sorted(ended)]

    def makes_room(self, *, waited: bool) -> bool:
        """Whether one more can be followed, if need be in place of the first that may retire early."""
        if not self.has_room():
            return False
        for key in self._retirable(waited=waited)[: max(0, len(self.awake) - self.limit + 1)]:
            self.retire(key, "limit")
        return True

    def _rename(self, key: Key) -> None:
        group, labels = self._group_and_labels(key)
        self.memory.operations[key] = replace(self.memory.operations[key], group=group, labels=labels)

    def release(self, key: Key) -> int:
        """Drop an operation on demand; return the HTTP status of the answer."""
        each = self.memory.operations.get(key)
        ended = bool(self.memory.tombstones.get(key)) if each is None else each.final is not None
        if CONFIG in self.listed_by(key) or (self.listed_by(key) and not ended):
            return 409
        if each is None:
            return 200 if ended else 404
        if ended:
            self.retire(key, "retention")
        else:
            self._drop(key, retired=False)
        return 200

    def _drop(self, key: Key, *, retired: bool) -> None:
        self.memory.says.get(key, {}).pop(API, None)
        self.memory.operations.pop(key, None)
        self.environments[key[0]].lost_once.discard(key[1])
        self.memory.tombstones[key] = retired
        self.accepted.discard(key)

    def retire(self, key: Key, reason: str) -> None:
        each = self.memory.operations[key]
        self.environments[key[0]].counters["retired", each.group, each.name, reason] += 1
        self._drop(key, retired=True)

    def _leaves_at(self, key: Key) -> float:
        each, retention = self.memory.operations[key], self.environments[key[0]].wanted.retention
        if CONFIG in self.memory.says.get(key, {}):
            return NEVER
        if each.lost:
            return (each.missing_since or 0.0) + 30 * 86_400
        if each.final is None:
            return NEVER
        ahead = (each.finished or 0.0) - each.final.wall
        times = 1 if each.clean else 7
        until = each.final.age + times * retention + min(max(ahead, 0.0), retention)
        return until if self.says(key) or not each.clean else min(until, each.final.age + 900)

    def overdue(self, key: Key) -> float:
        """Return for how many seconds an operation that is followed has been due to leave; below 0: it stays."""
        return self.now.age - max(self._leaves_at(key), self.began, self.configured)

    # Knock.

    def asked(self, asked: Asked, in_second: int) -> None:
        environment = self.environments[asked.environment]
        assert asked.key == environment.key, "asked with a key that was replaced"
        assert (asked.base_url, asked.branch) == (environment.wanted.base_url, environment.wanted.branch)
        upstream = asked.base_url, asked.key
        most = max(limits.get(upstream, 0) for at, limits in self._recent_limits())
        assert in_second <= most, f"{in_second} requests in a second, {most} are allowed"
        assert self.time.true >= self._quiet_until.get(upstream, 0.0) - 0.001, "asked before Knock's Retry-After"
        self._flights[asked] = environment.life, environment.keys
        if asked.checks_key:
            return
        key = asked.environment, asked.id
        if key in self.waiting and key not in self.memory.operations:
            self.enter_waiting(key)
        each = self.memory.operations.get(key)
        assert each is not None, f"asked for {key}, which is not followed"
        assert each.active, f"asked for {key}, which is {each.state}"
        assert not environment.flights[asked.id], f"asked twice at a time for {key}"
        assert self.now.age >= each.due.earliest - 0.001, (
            f"asked {each.due.earliest - self.now.age:.3f} s too early for {key}"
        )
        environment.flights[asked.id] += 1
        self.doubtful.pop(key, None)

    def _recent_limits(self) -> list[tuple[float, dict[Any, int]]]:
        last = [each for each in self._limits if each[0] > self.time.true - 1.0]
        return self._limits[-len(last) - 1 :]

    def enter_waiting(self, key: Key) -> None:
        """Let in what waited for room, as the exporter did a moment ago."""
        for each in [each for each in self.awake if self.overdue(each) >= 0]:
            self.blurred = True
            self.retire(each, "retention")
        assert self.has_room(), f"{key} was let in without room"
        self.enter(key, again=CONFIG in self.memory.says.get(key, {}), exact=False)

    def answered(self, asked: Asked, outcome: dict[str, Any] | Trouble) -> None:
        life, keys = self._flights.pop(asked)
        environment = self.environments.get(asked.environment)
        if environment is None or environment.life != life:
            return
        environment.flights[asked.id] = 0
        environment.requests[outcome.code if isinstance(outcome, Trouble) else "200"] += 1
        key, operations = (asked.environment, asked.id), self.memory.operations
        each = operations.get(key)
        name, reason = (outcome.name, outcome.reason) if isinstance(outcome, Trouble) else ("", "")
        if name == "connection lost" and asked.id not in environment.lost_once:
            if each is not None:
                environment.lost_once.add(asked.id)
                operations[key] = replace(each, due=_due(self.now.age, 0))
            return
        environment.lost_once.discard(asked.id)
        if name == "no memory":
            if each is not None and each.active:
                operations[key] = replace(each, due=_due(self.now.age + 1, 0))
            return
        same_key = keys == environment.keys
        self._judge(environment, asked, outcome, same_key=same_key)
        if asked.checks_key or each is None or each.final is not None:
            return
        stays_due = reason in {"rate_limited", "unauthorized"} or (reason == "not_found" and not same_key)
        if keys < environment.moved or stays_due:
            operations[key] = replace(each, due=_due(self.now.age, 0))
        elif isinstance(outcome, Trouble):
            operations[key] = self._failed(environment, each, outcome)
        else:
            operations[key] = self._recorded(environment, key, each, outcome)

    def _judge(
        self, environment: Environment, asked: Asked, outcome: dict[str, Any] | Trouble, *, same_key: bool
    ) -> None:
        """Take in what an answer tells of the environment and its upstream."""
        if not asked.checks_key:
            environment.polls += 1
            if isinstance(outcome, Trouble):
                environment.failures[outcome.reason] += 1
        if isinstance(outcome, Trouble) and outcome.reason == "rate_limited" and same_key:
            wait = 0.8 if outcome.retry_after is None else outcome.retry_after
            upstream = asked.base_url, asked.key
            self._quiet_until[upstream] = max(self._quiet_until.get(upstream, 0.0), self.time.true + wait)
        environment.trusted |= same_key and not isinstance(outcome, Trouble)

    def _failed(self, environment: Environment, each: Followed, trouble: Trouble) -> Followed:
        now, wanted = self.now.age, environment.wanted
        each = replace(each, up=False, live=False)
        if trouble.reason != "not_found":
            interval = _doubling(10, each.failures + 1, 300)
            if trouble.reason == "too_large":
                interval = max(interval, 60 / 0.8)
            return replace(each, failures=each.failures + 1, due=_due(now, interval))
        since = now if each.missing_since is None else each.missing_since
        each = replace(each, missing_since=since)
        if environment.trusted and now - since >= wanted.not_found_after:
            return replace(each, lost=True)
        proves = each.success is not None or now - each.registration.age >= 300
        missing = each.missing + 1 if proves else 0
        interval = _doubling(60, missing, 3600) if missing else wanted.queued
        return replace(each, missing=missing, due=_due(now, interval))

    def _interval(self, each: Followed, status: str, changed: float, wanted: WantedEnvironment) -> float:
        base = wanted.processing if status == "processing" else wanted.queued
        if self.now.age - each.registration.age >= wanted.max_age:
            return max(3600, base)
        return min(max(0.05 * (self.now.age - changed), base), wanted.slowest)

    def _recorded(self, environment: Environment, key: Key, before: Followed, said: dict[str, Any]) -> Followed:
        now, status = self.now, said["status"]
        odd = before.odd + 1 if status not in DOCUMENTED else 0
        ended = before.ended + 1 if odd and (said["completed_at"] or said["failed_at"]) else 0
        if odd:
            over = "failed" if said["failed_at"] else "completed"
            status = over if ended >= 2 else "unknown"
        final = status in ("completed", "failed")
        changed = before.change is None or _progress(before.said, before.status) != _progress(said, status)
        change = now if changed or before.change is None else before.change
        interval = _doubling(10, odd, 3600) if odd else self._interval(before, status, change.age, environment.wanted)
        name = said["name"] or "unknown"
        if before.success is not None and before.name != "unknown":
            name = before.name
        birth = before.birth
        if birth is None:
            slack = 0 if before.said is not None else 60
            inserted = said["inserted_at"]
            birth = inserted is not None and read_time(inserted) > self.memory.environments[key[0]].epoch + slack
        marks, growth = _grown(before.marks, said, birth=birth)
        after = replace(
            before,
            said=said,
            status=status,
            name=name,
            up=True,
            live=not odd,
            success=now,
            change=change,
            interval=interval,
            due=_due(now.age, interval),
            failures=0,
            missing=0,
            missing_since=None,
            lost=False,
            odd=odd,
            ended=ended,
            birth=birth,
            seen_unfinished=before.seen_unfinished or not final,
            seen_started=before.seen_started or said["started_at"] is not None,
            marks=marks,
            final=now if final else None,
        )
        began, inserted = after.time("started_at"), after.time("inserted_at")
        starts = after.seen_started and not before.seen_started and (before.success is not None or birth)
        if starts and began is not None and inserted is not None and began >= inserted:
            environment.counters["queue", after.group, "", ""] += 1
        self._count(environment, key, after, growth, seen=final and (birth or before.seen_unfinished))
        return after

    def _count(
        self, environment: Environment, key: Key, after: Followed, growth: tuple[int, ...], *, seen: bool
    ) -> None:
        counters = environment.counters
        for counted, value in zip(COUNTED, growth, strict=True):
            counters[counted, after.group, after.name, ""] += value
        if after.final is None:
            return
        if seen:
            counters["finished", after.group, after.name, after.status] += 1
            counters["finished_with_errors", after.group, after.name, ""] += after.has_errors
            counters["run", after.group, "", after.status] += after.ran_for is not None
        cell = key[0], after.group, after.name
        known, wall = self.memory.seen.get(cell, Seen()), after.final.wall
        if after.status == "failed":
            known = known._replace(
                failed=_later(known.failed, after.time("failed_at")), failed_seen=_later(known.failed_seen, wall)
            )
        else:
            known = known._replace(completed=_later(known.completed, after.time("completed_at")))
            if after.has_errors:
                known = known._replace(with_errors_seen=_later(known.with_errors_seen, wall))
        self.memory.seen[cell] = known


def read_time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _polling(wanted: WantedEnvironment) -> tuple[int, ...]:
    return wanted.processing, wanted.queued, wanted.slowest, wanted.not_found_after, wanted.max_age


def _due(since: float, interval: float) -> Due:
    return Due(since + 0.8 * interval, since + interval)


def _doubling(first: float, attempt: int, most: float) -> float:
    return float(min(first * 2 ** min(attempt - 1, 30), most))


def _progress(said: dict[str, Any] | None, status: str) -> tuple[Any, ...]:
    said = said or {}
    counts = (said.get(each) for each in (*COUNTED, "estimated_total_rows"))
    items = said.get("error_items")
    return (status, *counts, None if items is None else len(items))


def _grown(
    marks: tuple[int | None, ...], said: dict[str, Any], *, birth: bool
) -> tuple[tuple[int | None, ...], tuple[int, ...]]:
    raised, growth = [], []
    for mark, name in zip(marks, COUNTED, strict=True):
        value = said.get(name)
        least = mark if mark is not None else 0 if birth else value
        growth.append(0 if value is None else max(0, value - (least or 0)))
        raised.append(mark if value is None else max(mark or 0, value))
    return tuple(raised), tuple(growth)


def _later(one: float | None, other: float | None) -> float | None:
    return max((each for each in (one, other) if each is not None), default=None)
