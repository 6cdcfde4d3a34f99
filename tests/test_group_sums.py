"""What a run adds up to, whatever is said and happens, in any order: as a simple reference counts it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from model import WALL, Disk, Model, environment, ids, running

from exporter.config import Config, Polling
from exporter.config.settings import ListedOperation
from exporter.errors import NotFound
from exporter.operation import Operation, Status
from exporter.tracking.group_facts import GroupFacts, group_facts
from exporter.tracking.messages import Registration
from exporter.tracking.transitions import STATES

if TYPE_CHECKING:
    from exporter.errors import KnockError
    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Moment, Tracked

HOUR, DAY = 3600.0, 86400.0
G, FILE = "nightly", "/ids"
IDS = ids(2, seed=3)
OLD = IDS[0]  # Knock made it a day before
(NONE,) = ids(1, seed=4)
COUNTED = ""  # the run of what a run has counted before
ENDED = ("completed", "failed", "lost")

ID, RUN = st.sampled_from(IDS), st.sampled_from(("1", "2"))
ACTIONS = st.one_of(
    st.tuples(st.just("put"), RUN, st.none() | st.integers(0, 4), st.booleans()),
    st.tuples(st.just("register"), ID, st.none() | RUN, st.booleans()),
    st.tuples(st.just("register"), ID, st.none() | RUN, st.just(value=True)),
    st.tuples(st.just("list"), ID, st.none() | RUN),
    st.tuples(st.just("list"), ID, st.none() | RUN),
    st.tuples(st.just("unlist"), ID),
    st.tuples(st.just("end"), ID, st.sampled_from((Status.COMPLETED, Status.FAILED)), st.sampled_from((0, 0, 3))),
    st.tuples(st.just("end"), ID, st.just(Status.COMPLETED), st.just(0)),
    st.tuples(st.just("vanish"), ID),
    st.tuples(st.just("delete"), ID),
    st.tuples(st.just("clock"), st.sampled_from((-HOUR, HOUR))),
    st.tuples(st.just("restart")),
)
WAITS = st.sampled_from((5.0, 150.0, 800.0))

# What chance draws seldom: an old end that is listed again, and a lost operation that is named with a past run.
ENDED_BEFORE = (
    ("end", OLD, Status.COMPLETED, 0),
    ("list", OLD, None),
    ("unlist", OLD),
    ("put", "1", 1, False),
    ("list", OLD, None),
)
LOST_AND_NAMED = (
    ("put", "1", None, False),
    ("vanish", OLD),
    ("register", OLD, "2", False),
    ("register", IDS[1], "2", False),
    ("register", OLD, "1", False),
)


def share(tracked: Tracked) -> Counter[str]:
    """Return what an operation adds to a run."""
    record = tracked.operation
    counts = Counter({tracked.state: 1})
    if record is not None:
        counts.update(rows=record.rows_processed or 0, of=record.rows_estimated or 0, errors=record.errors or 0)
        counts.update(with_errors=int(bool(record.errors)))
    return counts


@dataclass
class World:
    """An exporter, its Knock, and a reference that knows by the rules alone which run each operation counts in."""

    records: dict[str, dict[str, Any]] = field(default_factory=lambda: {OLD: {"inserted_at": WALL - DAY}})
    vanished: set[str] = field(default_factory=set)
    current: str | None = None
    past: set[str] = field(default_factory=set)
    gone: Counter[str] = field(default_factory=Counter)
    counted: set[str] = field(default_factory=set)
    runs: dict[str, str | None] = field(default_factory=dict)  # of what is followed
    listed: dict[str, str | None] = field(default_factory=dict)  # in the file: with which run
    registered: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        polling = Polling(slowest=60.0, key_check_interval=DAY, not_found_after=300.0)
        self.model = Model(Config((environment(retention=60.0, polling=polling),)), self.answer, disk=Disk())
        self.settle(1)

    # Knock.

    def answer(self, request: PollRequest, now: Moment) -> Operation | KnockError:
        if request.id in self.vanished:
            return NotFound("no such operation")
        record = self.records.setdefault(request.id, {})
        record.setdefault("inserted_at", now.wall)
        return running(request.id, **record)

    # The exporter.

    def settle(self, seconds: float) -> None:
        """Let time pass, and have all that changed shown."""
        self.model.run(seconds)
        shown = self.model.release(NONE)
        while not shown:
            self.model.run(0)

    @property
    def followed(self) -> dict[str, Tracked]:
        return {key.id: entry.tracked for key, entry in self.model.views[-1].snapshot.operations.items()}

    def facts(self, model: Model | None = None) -> GroupFacts | None:
        model = model or self.model
        return next(iter(group_facts(model.views[-1].snapshot, model.now, "production", G)), None)

    def again_after_a_restart(self) -> GroupFacts | None:
        assert self.model.disk is not None
        fresh = self.model.restarted(disk=Disk(self.model.disk.memory))
        fresh.run(0)
        return self.facts(fresh)

    # What happens.

    def do(self, action: str, *told: Any) -> None:
        before = self.followed
        getattr(self, action)(*told)
        self.settle(0 if action == "wait" else 1)
        followed = self.followed
        for each in before.keys() - followed.keys():
            self.left(each, before[each], deleted=action in ("delete", "unlist"))
        if action in ("register", "list", "unlist"):
            self.named(told[0], before.get(told[0]))

    def put(self, run: str, operations: int | None, closed: bool) -> None:  # noqa: FBT001 - as it is drawn
        said: dict[str, Any] = {} if operations is None else {"operations": operations}
        self.model.put_run(G, run, **said | ({"closed": True} if closed else {}))
        self.open(run)

    def register(self, operation_id: str, run: str | None, again: bool) -> None:  # noqa: FBT001 - the same
        again &= operation_id not in self.vanished  # what is lost is not asked for again
        answers = self.model.register(Registration(ListedOperation(operation_id, G, run=run)), again=again)
        self.model.run(0)
        if answers[0].taken[0].state != "retired":
            self.registered[operation_id] = run

    def list(self, operation_id: str, run: str | None) -> None:
        self.listed[operation_id] = run
        self.send_list()

    def unlist(self, operation_id: str) -> None:
        self.listed.pop(operation_id, None)
        self.send_list()

    def send_list(self) -> None:
        self.model.list_file(FILE, *(ListedOperation(each, G, run=run) for each, run in self.listed.items()))

    def end(self, operation_id: str, status: Status, errors: int) -> None:
        record = self.records.setdefault(operation_id, {})
        if "status" not in record:
            record.update(status=status, rows_processed=100, errors=errors, completed_at=WALL)

    def vanish(self, operation_id: str) -> None:
        self.vanished.add(operation_id)

    def delete(self, operation_id: str) -> None:
        self.model.release(operation_id)

    def wait(self, seconds: float) -> None:
        self.model.run(seconds)

    def clock(self, seconds: float) -> None:
        self.model.wall_offset += seconds

    def restart(self) -> None:
        self.model = self.model.restarted()

    # The reference.

    def open(self, run: str) -> str:
        if run != self.current and run not in self.past:
            self.past |= {self.current} if self.current is not None else set()
            self.current, self.gone = run, Counter()
        return run

    def left(self, operation_id: str, before: Tracked, *, deleted: bool) -> None:
        """Keep what has ended in the sums; only what is unfinished and dropped is subtracted."""
        run = self.runs.pop(operation_id)
        self.registered.pop(operation_id, None)
        if before.state not in ENDED and not deleted:  # it ended and retired meanwhile
            before = before._replace(operation=running(operation_id, **self.records[operation_id]))
        if before.state in ENDED and run == self.current is not None:
            self.gone += share(before)
            self.counted.add(operation_id)

    def named(self, operation_id: str, before: Tracked | None) -> None:
        """Decide about the run of what was named, or is named no more."""
        if operation_id not in self.followed:
            return
        said = (self.listed.get(operation_id), self.registered.get(operation_id))
        run = next((each for each in said if each is not None), None)
        if before is None:
            if operation_id in self.counted:
                self.runs[operation_id] = COUNTED
            else:
                self.runs[operation_id] = self.current_unless_older(operation_id) if run is None else self.open(run)
            return
        was = self.runs[operation_id]
        if run is None or was == COUNTED or (was is not None and before.operation is not None):
            return
        opened = self.open(run)
        if not (before.lost and was == self.current):
            self.runs[operation_id] = opened

    def current_unless_older(self, operation_id: str) -> str | None:
        inserted, facts = self.records.get(operation_id, {}).get("inserted_at"), self.facts()
        if operation_id in self.vanished and self.followed[operation_id].operation is None:
            inserted = None
        if inserted is None or facts is None or facts.run is None or inserted >= facts.run.opened - 60:
            return self.current
        return None

    def sums(self) -> Counter[str]:
        members = [each for id_, each in self.followed.items() if self.runs[id_] == self.current]
        return sum(map(share, members), Counter(self.gone)) if self.current is not None else Counter()


def check(world: World, before: GroupFacts | None, action: tuple[Any, ...]) -> None:
    facts = world.facts()
    if facts is None or facts.run is None:
        assert world.current is None
        return
    run, sums = facts.run, facts.run_sums
    shown = Counter(sums.by_state) + Counter(rows=sums.rows_processed, of=sums.rows_estimated, errors=sums.errors)
    assert run.id == world.current
    assert +(shown + Counter(with_errors=sums.with_errors)) == +world.sums()
    assert min(*sums.states, *sums[1:]) >= 0
    assert sums.ended == sum(shown[state] for state in ENDED)
    assert sums.unfinished == sum(shown[state] for state in STATES if state not in ENDED)
    done = run.closed is not None if run.operations is None else sums.ended >= run.operations
    assert run.finished is not None or sums.unfinished or not done
    if before is not None and before.run is not None and before.run.id == run.id:
        assert sums.ended >= before.run_sums.ended
        raised = action[0] == "put" and action[2] is not None and action[2] > before.run_sums.ended
        assert raised or before.run.finished in (None, run.finished)
        assert (before.run.finished is not None and not raised) or run.finished is None or done
    if action[0] != "wait":
        return
    again = world.again_after_a_restart()
    assert again is not None
    assert (again.run, again.run_sums) == (run, sums)


@settings(max_examples=40)
@example(steps=[(each, 5.0) for each in ENDED_BEFORE])
@example(steps=[(each, 800.0) for each in LOST_AND_NAMED])
@given(steps=st.lists(st.tuples(ACTIONS, WAITS), min_size=10, max_size=16))
def test_the_sums_of_a_run_are_those_of_its_operations(steps: list[tuple[tuple[Any, ...], float]]) -> None:
    world = World()
    for action in (each for said, wait in steps for each in (said, ("wait", wait))):
        before = world.facts()
        world.do(*action)
        check(world, before, action)
