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
Says = tuple[str, tuple[tuple[str, str], ...], str | None]  # a source of an operation: its group, labels and run
GroupKey = tuple[str, str]  # environment, group
Cell = tuple[str, str, str]  # environment, group, name
SourceName = tuple[str, str]  # kind, name
KINDS = ("config", "files", "http", "api")
CONFIG, API = ("config", ""), ("api", "")
DOCUMENTED = ("queued", "processing", "completed", "failed")
COUNTED = ("processed_rows", "success_count", "error_count")
LATE = 31.0  # seconds that what is over may stay
NEVER = float("inf")
KEPT = 30 * 86_400.0  # seconds for which runs are shown, and what was dropped is remembered
NO_RUN = ""  # of an operation that a run has counted: it joins no other
STATES = ("pending", "queued", "processing", "completed", "failed", "unknown", "lost")
ENDED = ("completed", "failed", "lost")


@dataclass(frozen=True)
class WantedEnvironment:
    """Settings of an environment, as the machine wants them; times are seconds."""

    name: str
    operations: tuple[tuple[str, str, tuple[tuple[str, str], ...], str | None], ...] = ()
    groups: tuple[tuple[str, int | None, int | None], ...] = ()  # name, how often it runs, its deadline
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


class Sums(NamedTuple):
    """What operations of a run add up to."""

    states: Counter[str]
    with_errors: int = 0
    processed: int = 0
    estimated: int = 0
    errors: int = 0

    def plus(self, other: Sums) -> Sums:
        return Sums(self.states + other.states, *(one + more for one, more in zip(self[1:], other[1:], strict=True)))

    @property
    def ended(self) -> int:
        """How many are final or lost."""
        return sum(self.states[each] for each in ENDED)

    @property
    def unfinished(self) -> int:
        return self.states.total() - self.ended


NOTHING = Sums(Counter())
Told = tuple[int | None, float | None, float | None]


@dataclass(frozen=True)
class Run:
    """A run; times are what the wall clock showed. Its last event was between two moments."""

    id: str
    opened: float
    newest: tuple[At, At]
    operations: int | None = None
    deadline: float | None = None
    closed: float | None = None
    finished: float | None = None
    gone: Sums = NOTHING

    @property
    def told(self) -> Told:
        """What the job has said of it."""
        return self.operations, self.deadline, self.closed

    def hidden(self, wall: float) -> bool | None:
        """Return whether its last event was 30 days ago; None: perhaps."""
        late = {wall >= each.wall + KEPT for each in self.newest}
        return late.pop() if len(late) == 1 else None


@dataclass(frozen=True)
class Group:
    """What is known of a group; `past` are the runs before, and when each ended with the next."""

    last_inserted: float | None = None
    every_since: float | None = None
    run: Run | None = None
    past: tuple[tuple[str, float], ...] = ()

    def knows(self, run_id: str) -> bool:
        return run_id in self.past_ids or (self.run is not None and self.run.id == run_id)

    @property
    def past_ids(self) -> list[str]:
        return [each for each, _ in self.past]


class Stone(NamedTuple):
    """What is left of an operation: whether it retired (else it was let go), and whether a run has counted it."""

    retired: bool
    counted: bool = False


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
    run: str | None = None
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
    def sums(self) -> Sums:
        said = self.said or {}
        counts = (said.get(each) or 0 for each in ("processed_rows", "estimated_total_rows", "error_count"))
        return Sums(Counter([self.state]), int(self.has_errors), *counts)

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
    tombstones: dict[Key, Stone] = field(default_factory=dict)
    groups: dict[GroupKey, Group] = field(default_factory=dict)
    seen: dict[Cell, Seen] = field(default_factory=dict)
    counters: Counter[tuple[str, str]] = field(default_factory=Counter)  # of this process: environment, family

    def copy(self, at: At) -> Memory:
        """Return what is kept of it as of a moment."""
        says = {key: dict(self.says.get(key, {})) for key in self.operations}
        kept = dict(self.environments), dict(self.operations), says, dict(self.tombstones), dict(self.groups)
        return Memory(at, *kept, dict(self.seen))

    # Groups.

    def is_member(self, key: Key, each: Followed) -> bool:
        """Whether an operation belongs to the run that its group has now."""
        run = self.groups.get((key[0], each.group), Group()).run
        return run is not None and each.run == run.id

    def is_counted(self, key: Key, each: Followed) -> bool:
        """Whether its run counts an operation also after it has left: it joins no other."""
        return each.run == NO_RUN or (not each.active and self.is_member(key, each))

    def sums(self, key: GroupKey) -> Sums:
        """Add up the run of a group: what has left it, and what is followed."""
        run = self.groups.get(key, Group()).run
        sums = NOTHING if run is None else run.gone
        for (environment, _), each in self.operations.items():
            if run is not None and (environment, each.group) == key and each.run == run.id:
                sums = sums.plus(each.sums)
        return sums

    def change_run(self, key: GroupKey, since: At, now: At, **changes: Any) -> None:
        """Note an event of the current run, that was at one moment or between two."""
        group = self.groups[key]
        assert group.run is not None
        first, last = (
            max(one, other, key=lambda at: at.age) for one, other in zip(group.run.newest, (since, now), strict=True)
        )
        self.groups[key] = replace(group, run=replace(group.run, newest=(first, last), **changes))

    def leave(self, key: Key, each: Followed, since: At, now: At) -> None:
        """Take an operation out of its run, which keeps counting it once it has ended."""
        if not self.is_member(key, each):
            return
        place = key[0], each.group
        run = self.groups[place].run
        assert run is not None
        self.change_run(place, since, now, gone=run.gone if each.active else run.gone.plus(each.sums))

    def join(self, key: GroupKey, named: str | None, since: At, now: At) -> str | None:
        """Return the run of an operation that is handed over: the named one, else the one that is open."""
        if key[1] == "other":
            return None
        group = self.groups.get(key, Group())
        if named is None:
            if group.run is None or group.run.hidden(now.wall):
                return None
            named = group.run.id
        elif named not in group.past_ids:
            self.open_run(key, named, now)
        run = self.groups.get(key, Group()).run
        if run is not None and run.id == named:
            self.change_run(key, since, now)
        return named

    def open_run(self, key: GroupKey, named: str, now: At) -> None:
        group = self.groups.get(key, Group())
        if group.run is None or group.run.id != named:
            past = group.past if group.run is None else (*group.past, (group.run.id, now.wall))
            past = tuple((id_, at) for id_, at in past if at + KEPT > now.wall)
            self.groups[key] = replace(group, run=Run(named, now.wall, (now, now)), past=past)

    def is_older(self, key: GroupKey, run_id: str | None, inserted: float | None) -> bool:
        """Whether an operation was made over a minute before the run began that it would join."""
        run = self.groups.get(key, Group()).run
        return run is not None and run.id == run_id and inserted is not None and inserted < run.opened - 60

    def note_inserted(self, key: GroupKey, inserted: float | None, now: At) -> None:
        group = self.groups.get(key, Group())
        if inserted is not None:
            self.groups[key] = replace(group, last_inserted=_later(group.last_inserted, min(inserted, now.wall)))


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
        self.opened: dict[tuple[GroupKey, str], Told | None] = {}  # runs likewise; None: changed since, nobody knows
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

    def rendered(self) -> None:
        """Date the runs that have finished: what is to be shown is put together now."""
        memory, wall = self.memory, self.now.wall
        for key, group in memory.groups.items():
            run, sums = group.run, memory.sums(key)
            if key[0] in self.environments and run is not None and run.finished is None and not sums.unfinished:
                done = run.closed is not None if run.operations is None else sums.ended >= run.operations
                if done:
                    memory.change_run(key, self.now, self.now, finished=max(wall, run.opened))

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
                self._use(self.environments[name], settings, keys[name])
            else:
                self._begin(settings, keys[name])
                self.ceiling = max(self.ceiling, len(self.awake))
            self._expect_groups(settings)
            self.list_all(name, CONFIG, settings.operations)
            if not settings.http:
                for source in {each for key, says in self.memory.says.items() if key[0] == name for each in says}:
                    if source[0] == "http":
                        self.list_all(name, source, ())
        self._doubt_ended()
        self._note_limits()

    def _expect_groups(self, settings: WantedEnvironment) -> None:
        groups = self.memory.groups
        often = {(settings.name, group) for group, every, _ in settings.groups if every is not None}
        for key in often | {key for key in groups if key[0] == settings.name}:
            known = groups.get(key, Group())
            since = (known.every_since or self.now.wall) if key in often else None
            if since != known.every_since:
                groups[key] = replace(known, every_since=since)

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

    def _use(self, environment: Environment, wanted: WantedEnvironment, key: str) -> None:
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

    def _said(self, key: Key) -> Says:
        """Return group, labels and run of an operation: each from the first source that names one."""
        says = [each for _, each in self.says(key)]
        group = next((group for group, _, _ in says if group != "default"), "default")
        run = next((run for _, _, run in says if run is not None), None)
        labels: dict[str, str] = {}
        for _, pairs, _ in reversed(says):
            labels |= dict(pairs)
        return group, tuple(sorted(labels.items())), run

    def _join(self, key: GroupKey, named: str | None, inserted: float | None, since: At) -> str | None:
        run = self.memory.join(key, named, since, self.now)
        return None if named is None and self.memory.is_older(key, run, inserted) else run

    def list_all(self, name: str, source: SourceName, operations: Any) -> None:
        """Take a source's whole list."""
        listed: dict[str, Says] = {
            operation_id: (group, labels, run) for operation_id, group, labels, run in operations
        }
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
        is_older = self.memory.is_older((key[0], each.group), each.run, known.time("inserted_at"))
        run = None if is_older and self._said(key)[2] is None else each.run
        self.memory.operations[key] = replace(known, group=each.group, labels=each.labels, run=run)

    def register(self, key: Key, says: Says, created: tuple[str, float] | None, *, again: bool) -> str | None:
        """Register an operation; return the state that is answered, None where there is no room."""
        all_says = self.memory.says.setdefault(key, {})
        if API not in all_says or says != ("default", (), None):
            all_says[API] = says
        state = self.enter(key, again=again)
        if state is None or state == "retired":
            del self.memory.says[key][API]
            return state
        each = self.memory.operations[key]
        if created is not None and each.said is None and each.birth is None and each.up is None:
            name, inserted_at = created
            said, due = {"inserted_at": inserted_at}, _due(each.registration.age, each.interval)
            born = replace(each, said=said, status="queued", name=name, live=True, due=due)
            self._change(key, each, self._first_heard(key, born))
        return self.memory.operations[key].state

    def _first_heard(self, key: Key, each: Followed) -> Followed:
        """Let an operation of which it is known now when it was made stay in its run, or not; it never moves again."""
        place, inserted = (key[0], each.group), each.time("inserted_at")
        if each.run and self._said(key)[2] is None and self.memory.is_older(place, each.run, inserted):
            each = replace(each, run=None)
        return each

    def enter(self, key: Key, *, again: bool, exact: bool = True) -> str | None:
        each = self.memory.operations.get(key)
        if each is not None:
            self._rename(key)
            if each.lost and again:
                self._retry(key)
            return self.memory.operations[key].state
        stone = self.memory.tombstones.get(key)
        if stone is not None and stone.retired and not again:
            self.waiting.pop(key, None)
            return "retired"
        group, labels, named = self._said(key)
        if not self.makes_room(waited=not exact):
            if key not in self.waiting:
                self.environments[key[0]].refused += 1
            if self.listed_by(key):
                self.waiting[key] = None
                if named is not None:  # it begins, though there is no room
                    self.memory.join((key[0], group), named, self.now, self.now)
            return None
        self.waiting.pop(key, None)
        self.memory.tombstones.pop(key, None)
        birth = False if stone is not None else None
        queued = self.environments[key[0]].wanted.queued
        ended = self.ended.pop(key, None)
        if ended is not None and key in self.unsure:
            self.doubtful[key], ended = ended, None
            self.unsure.discard(key)
        due = _due(self.now.age, 0)
        new = Followed(group, labels, self.now, interval=queued, birth=birth, exact=exact, due=due)
        new = new if ended is None else replace(ended, group=group, labels=labels)
        if stone is not None and stone.counted:
            run: str | None = NO_RUN
        else:
            since = self.now if exact else self.earliest
            run = self._join((key[0], group), named, new.time("inserted_at"), since)
        self.memory.operations[key] = replace(new, run=run)
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
            self.retire(key, "limit", late=waited)
        return True

    @property
    def earliest(self) -> At:
        """Before all that happened."""
        return At(0.0, 0.0)

    def _rename(self, key: Key) -> None:
        memory, each, (group, labels, named) = self.memory, self.memory.operations[key], self._said(key)
        moves = group != each.group
        stays = each.run is not None and (each.run == NO_RUN or each.said is not None)
        run = each.run
        if moves or (named is not None and not stays):
            run = self._join((key[0], group), named, each.time("inserted_at"), self.now)
            if memory.is_counted(key, each):
                run = NO_RUN if moves else each.run
        if moves:
            memory.note_inserted((key[0], group), each.time("inserted_at"), self.now)
            memory.leave(key, each, self.now, self.now)
        memory.operations[key] = replace(each, group=group, labels=labels, run=run)

    def put_run(self, key: GroupKey, run_id: str, changes: dict[str, Any]) -> str | None:
        """Open a run, or change it; return the id of the current one where it is a past one, "other" for none."""
        memory, group = self.memory, self.memory.groups.get(key, Group())
        if key[1] == "other":
            return "other"
        if group.run is not None and run_id in group.past_ids:
            return group.run.id
        memory.open_run(key, run_id, self.now)
        run = memory.groups[key].run
        assert run is not None
        if "operations" in changes:
            more = changes["operations"] is not None and changes["operations"] > memory.sums(key).ended
            run = replace(run, operations=changes["operations"], finished=None if more else run.finished)
        if "deadline" in changes:
            given = changes["deadline"]
            run = replace(run, deadline=run.opened + given if isinstance(given, int) else given and read_time(given))
        if "closed" in changes:
            closed = max(self.now.wall, run.opened) if run.closed is None else run.closed
            run = replace(run, closed=closed if changes["closed"] else None)
        memory.groups[key] = replace(memory.groups[key], run=replace(run, newest=(self.now, self.now)))
        return None

    def release(self, key: Key) -> int:
        """Drop an operation on demand; return the HTTP status of the answer."""
        each = self.memory.operations.get(key)
        stone = self.memory.tombstones.get(key)
        ended = (stone is not None and stone.retired) if each is None else each.final is not None
        if CONFIG in self.listed_by(key) or (self.listed_by(key) and not ended):
            return 409
        if each is None:
            return 200 if ended else 404
        if ended:
            self.retire(key, "retention")
        else:
            self._drop(key, retired=False)
        return 200

    def _drop(self, key: Key, *, retired: bool, late: bool = False) -> None:
        self.memory.says.get(key, {}).pop(API, None)
        each = self.memory.operations.pop(key)
        self.environments[key[0]].lost_once.discard(key[1])
        self.memory.tombstones[key] = Stone(retired, self.memory.is_counted(key, each))
        self.memory.leave(key, each, self.earliest if late else self.now, self.now)
        self.accepted.discard(key)

    def retire(self, key: Key, reason: str, *, late: bool = False) -> None:
        """Retire an operation; `late`: it has left before, nobody knows when."""
        each = self.memory.operations[key]
        self.environments[key[0]].counters["retired", each.group, each.name, reason] += 1
        self._drop(key, retired=True, late=late)

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

    # What is shown of groups.

    def expectation(self, key: GroupKey) -> tuple[int | None, int | None]:
        """Return how often a group is to run, and within how many seconds."""
        groups = self.environments[key[0]].wanted.groups
        return next(((every, span) for name, every, span in groups if name == key[1]), (None, None))

    def run_of(self, key: GroupKey) -> Run | None:
        """Return the run of a group that is shown."""
        run = self.memory.groups.get(key, Group()).run
        return None if run is None or run.hidden(self.now.wall) else run

    def tracked(self, key: GroupKey) -> Sums:
        """Add up what is followed now: of lost ones neither rows nor errors."""
        sums = NOTHING
        for (name, _), each in self.awake.items():
            if (name, each.group) == key:
                sums = sums.plus(Sums(*each.sums[:2]) if each.lost else each.sums)
        return sums

    def last_run(self, key: GroupKey) -> float | None:
        group = self.memory.groups.get(key, Group())
        if group.run is not None:
            return group.run.opened
        if self.expectation(key)[0] is None:
            return None
        return group.every_since if group.last_inserted is None else group.last_inserted

    def deadline(self, key: GroupKey) -> float | None:
        run, (_, span) = self.run_of(key), self.expectation(key)
        if run is None:
            return None
        by_group = None if span is None else run.opened + span
        return by_group if run.deadline is None else run.deadline

    def state(self, key: GroupKey) -> str:
        """Return the word for a group: the first that holds."""
        now, run, (every, _) = self.now.wall, self.run_of(key), self.expectation(key)
        sums = self.tracked(key) if run is None else self.memory.sums(key)
        last, deadline, goes_on = self.last_run(key), self.deadline(key), run is not None and run.finished is None
        processing = [
            each.change.wall
            for (name, _), each in self.awake.items()
            if (name, each.group) == key and each.active and each.status == "processing" and each.change
        ]
        known, closed = sums.states.total(), None if run is None else run.closed
        words = {
            "did_not_run": every is not None and last is not None and now - last > every,
            "late": goes_on and deadline is not None and now > deadline,
            "incomplete": closed is not None and now - closed > 600 and known < ((run and run.operations) or 0),
            "stalled": bool(processing) and now - min(processing) > 900,
            "running": goes_on or sums.unfinished > 0,
            "done_with_failures": bool(sums.states["failed"] or sums.states["lost"] or sums.with_errors),
            "done": run is not None or sums.ended > 0,
        }
        return next((word for word, holds in words.items() if holds), "idle")

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
            self.retire(each, "retention", late=True)
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
            self._change(key, each, self._failed(environment, each, outcome))
        else:
            self._change(key, each, self._recorded(environment, key, each, outcome))

    def _change(self, key: Key, before: Followed, after: Followed) -> None:
        """Take in an answer, also for the run that an operation belongs to."""
        place, inserted = (key[0], after.group), after.time("inserted_at")
        if inserted != before.time("inserted_at"):
            self.memory.note_inserted(place, inserted, self.now)
        if before.success is None and after.success is not None and before.time("inserted_at") is None:
            after = self._first_heard(key, after)
        self.memory.operations[key] = after
        if before.active and not after.active and self.memory.is_member(key, after):
            self.memory.change_run(place, self.now, self.now)

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
