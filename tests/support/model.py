"""The tracker in virtual time: hours of polling in milliseconds, without threads, sockets or sleeps."""

from __future__ import annotations

import heapq
import itertools
import random
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from prometheus_client.parser import text_string_to_metric_families

from exporter.config import Config, EnvironmentSettings, ListedOperation, Polling
from exporter.keys import KeySource, Secret
from exporter.metrics.exposition import Format, View, knock_part, stale_part
from exporter.metrics.own import Activity
from exporter.operation import NIL_ID, Operation, Status
from exporter.store.writer import merged
from exporter.tracking.memberships import SourceKey, SourceKind
from exporter.tracking.memory import Changes, Memory
from exporter.tracking.messages import (
    KeyRead,
    Listed,
    Message,
    Outside,
    PollRequest,
    PollResponse,
    PutRun,
    Register,
    Registration,
    RegistrationResult,
    Release,
    ReleaseResult,
    RunResult,
    Saved,
)
from exporter.tracking.tombstones import Tombstones
from exporter.tracking.tracker import Tracker
from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, MutableMapping

    from exporter.errors import KnockError
    from exporter.tracking.runs import RunChanges

WALL = 1_800_000_000.0  # when a model starts, Unix seconds
KEY = Secret("sk_test_model")
SELDOM = Polling(slowest=3600.0)  # a day without change, in few polls
LATE = 30.0  # seconds that what is over may stay


def ids(count: int, seed: int = 0) -> list[str]:
    """Return operation ids, the same for the same seed."""
    chance = random.Random(seed)
    return [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(count)]


def environment(name: str = "production", operations: Iterable[str] = (), **settings: object) -> EnvironmentSettings:
    """Build an environment that lists these ids."""
    listed = tuple(ListedOperation(each) for each in operations)
    made = EnvironmentSettings(name=name, api_key=KeySource(inline=KEY), operations=listed)
    return replace(made, **settings)  # type: ignore[arg-type] # the tests name fields that exist


def running(operation_id: str, **fields: object) -> Operation:
    """Build a record that is being processed."""
    made = Operation(operation_id, Status.PROCESSING, "users.identify", 0, 100, 0, 0, inserted_at=WALL - 500)
    return replace(made, **fields)  # type: ignore[arg-type] # the same


@dataclass
class Disk:
    """A store in memory: what was saved is there for the next model. Not while `broken`, not yet while `slow`.

    `damaged`: what it had is lost, and it takes nothing but everything.
    """

    memory: Memory = field(default_factory=Memory)
    changes: list[Changes] = field(default_factory=list)
    written: list[Changes] = field(default_factory=list)
    broken: bool = False
    slow: bool = False
    damaged: bool = False
    unwritten: Changes | None = None

    def __post_init__(self) -> None:
        self.memory = _copied(self.memory)  # another disk may have it too

    def read(self) -> Memory:
        """Return what is kept, for a tracker to own."""
        return _copied(self.memory)

    def write(self) -> Saved | None:
        """Write what waits, and say so."""
        if not self.changes or self.slow:
            return None
        changes, before = self.changes.pop(0), self.unwritten
        changes, self.unwritten = merged(before, changes) if before is not None else changes, None
        if self.broken:
            self.unwritten = None if changes.whole else changes
            return Saved(changes.number, ok=False, lost=changes.whole)
        if self.damaged and not changes.whole:
            return Saved(changes.number, ok=False, lost=True)
        if changes.whole:
            self.memory, self.damaged = Memory(), False
        for kept, changed in zip(_parts(self.memory), _parts(changes), strict=True):
            _change(cast("MutableMapping[Any, Any]", kept), changed)
        self.written.append(changes)
        return Saved(changes.number, ok=True)


def _copied(memory: Memory) -> Memory:
    operations, tombstones, aggregates, environments, groups = _parts(memory)
    return Memory(dict(operations), Tombstones(tombstones), dict(aggregates), dict(environments), dict(groups))


def _parts(of: Memory | Changes) -> tuple[Mapping[Any, Any], ...]:
    return of.operations, of.tombstones, of.aggregates, of.environments, of.groups


def _change(kept: MutableMapping[Any, Any], changes: Mapping[Any, Any]) -> None:
    for key, value in changes.items():
        kept.pop(key, None)
        if value is not None:
            kept[key] = value


@dataclass
class Model:
    """A tracker, a Knock that is a function, and a clock that only this moves."""

    config: Config
    knock: Callable[[PollRequest, Moment], Operation | KnockError]
    latency: Callable[[PollRequest], float] = lambda _request: 0.05
    waits_for_room: Callable[[PollRequest], float] = lambda _request: 0.0
    chance: Callable[[], float] = lambda: 1.0
    keys: dict[str, Secret] = field(default_factory=dict)
    mono: float = 1000.0
    wall_offset: float = WALL - 1000.0
    disk: Disk | None = None

    def __post_init__(self) -> None:
        self.sent: list[PollRequest] = []
        self.reread: list[tuple[float, str]] = []
        self.used_keys: list[tuple[str, Secret]] = []
        self.views: list[View] = []
        self.activity = Activity(process=False)
        self._answers: list[tuple[float, int, PollResponse]] = []
        self._numbers = itertools.count()
        keys = {each.name: self.keys.get(each.name, KEY) for each in self.config.environments}
        outside = Outside(
            self._fetch,
            lambda name: self.reread.append((self.mono, name)),
            lambda name, key: self.used_keys.append((name, key)),
            self.views.append,
            self.chance,
            self.disk.changes.append if self.disk else None,
        )
        memory = self.disk.read() if self.disk else Memory()
        self.tracker = Tracker(self.config, keys, outside, self.activity, self.now, memory=memory)

    @property
    def now(self) -> Moment:
        return Moment(self.mono, self.mono + self.wall_offset)

    def _fetch(self, request: PollRequest) -> float:
        if wait := self.waits_for_room(request):
            return wait
        seconds = self.latency(request)
        answer = PollResponse(request, self.knock(request, self.now), seconds)
        heapq.heappush(self._answers, (self.mono + seconds, next(self._numbers), answer))
        self.sent.append(request)
        return 0.0

    def run(self, seconds: float) -> None:
        """Let this much time pass."""
        end = self.mono + seconds
        while True:
            wake = self.tracker.advance(self.now)
            if self.tracker.ended:
                return
            if self.disk is not None and (saved := self.disk.write()) is not None:
                self.tracker.handle(saved, self.now)
                continue
            answer_at = self._answers[0][0] if self._answers else float("inf")
            following = min(wake, answer_at)
            if following > end:
                self.mono = end
                self.tracker.advance(self.now)
                return
            self.mono = max(self.mono, following)
            while self._answers and self._answers[0][0] <= self.mono:
                self.tracker.handle(heapq.heappop(self._answers)[2], self.now)

    def tell(self, message: Message) -> None:
        """Put a message into the inbox."""
        self.tracker.handle(message, self.now)

    def register(
        self, *operations: Registration | str, environment: str = "production", again: bool = False
    ) -> list[RegistrationResult]:
        """Register operations; the answer comes into the list that is returned, once there is one."""
        answers: list[RegistrationResult] = []
        registration = tuple(
            Registration(ListedOperation(each)) if isinstance(each, str) else each for each in operations
        )
        self.tell(Register(environment, registration, again, answers.append))
        self.tracker.advance(self.now)
        return answers

    def release(self, operation_id: str, environment: str = "production") -> list[ReleaseResult]:
        """Drop an operation; the answer comes into the list."""
        answers: list[ReleaseResult] = []
        self.tell(Release(environment, operation_id, answers.append))
        self.tracker.advance(self.now)
        return answers

    def put_run(self, group: str, run: str, environment: str = "production", **changes: Any) -> list[RunResult]:
        """Open a run, or say more of it; the answer comes into the list."""
        answers: list[RunResult] = []
        self.tell(PutRun(environment, group, run, cast("RunChanges", changes), answers.append))
        self.tracker.advance(self.now)
        return answers

    def list_file(self, path: str, *operations: ListedOperation | str, environment: str = "production") -> None:
        """Have a file list these operations, and no others."""
        listed = tuple(ListedOperation(each) if isinstance(each, str) else each for each in operations)
        self.tell(Listed(environment, SourceKey(SourceKind.FILES, path), listed))

    def key_was_read(self, name: str = "production") -> None:
        """Tell that the key source was read, and holds the same."""
        self.tell(KeyRead(name, None))

    def restarted(self, **changes: object) -> Model:
        """Return what the next process is, on the same disk; by its clocks no time has passed."""
        return replace(self, **changes)  # type: ignore[arg-type] # the same

    def metrics(self, form: Format = Format.TEXT) -> str:
        """Write /metrics as a scrape would now."""
        view = self.views[-1]
        fresh = stale_part(view, form, self.mono) + form.encode(self.activity.registry)
        return b"".join([*knock_part(view, form), fresh]).decode()

    def value(self, name: str, /, **labels: str) -> float | None:
        """Return the sum of the samples of a name that have these labels, None where there is none."""
        found = self.samples(name, **labels)
        return sum(found) if found else None

    def samples(self, name: str, /, **labels: str) -> list[float]:
        """Return the samples of a name that have these labels."""
        lines = [line for line in self.metrics().split("\n") if line.startswith((f"{name}{{", f"{name} "))]
        return [
            sample.value
            for family in text_string_to_metric_families("\n".join([*lines, ""]))
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def times(self, operation_id: str) -> list[float]:
        """Return when an operation was asked for, in seconds since the model began."""
        return [round(each.sent_at - 1000.0, 3) for each in self.sent if each.id == operation_id]

    def checks(self) -> list[float]:
        """Return when the key alone was checked."""
        return self.times(NIL_ID)
