"""The tracker under random orders of messages, in virtual time: what must hold after each of them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from model import KEY, WALL, Disk, Model, environment, ids
from prometheus_client.parser import text_string_to_metric_families

from exporter.config import Config, ListedOperation
from exporter.config.settings import HttpSource
from exporter.errors import BadAnswer, KeyRefused, KnockError, NotFound, RateLimited
from exporter.keys import Secret
from exporter.operation import Operation, OperationKey, Status
from exporter.tracking.ledger import share
from exporter.tracking.messages import Created, Handed, KeyRead, Listed, Reconfigure, Registered, Request, Unread
from exporter.tracking.roster import Source, SourceKind

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

    from exporter.tracking.record import Moment, Tracked

IDS = ids(8, seed=41)
URL = "http://127.0.0.1/ids"
LIMIT = 6  # fewer than there are ids, so that room runs out
RETENTION = 600.0
PROCESSED = "knock_bulk_operations_rows_processed_total"
FINISHED = "knock_bulk_operations_finished_total"
HTTP = Source(SourceKind.HTTP, URL)
FILES = tuple(Source(SourceKind.FILES, path) for path in ("/a", "/b"))

some_ids = st.lists(st.sampled_from(IDS), max_size=4, unique=True)
groups = st.sampled_from(["default", "nightly", "daily"])
durations = st.sampled_from([0.05, 1.0, 6.0, 40.0, 400.0, 1000.0, 7300.0])


class World:
    """A Knock whose operations only ever go on, and some troubles of the way to it."""

    def __init__(self) -> None:
        self.records = {each: Operation(each, Status.QUEUED, "users.identify", inserted_at=WALL + 90) for each in IDS}
        self.gone: set[str] = set()
        self.trouble: KnockError | None = None

    def answer(self, request: Request, _now: Moment) -> Operation | KnockError:
        if self.trouble is not None:
            return self.trouble
        if request.checks_key or request.id in self.gone:
            return NotFound("HTTP 404", code=404, accepted_key=True)
        return self.records[request.id]


class Exporter(RuleBasedStateMachine):
    """Messages in any order, restarts and kills between them."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.disk = Disk()
        self.listed: tuple[str, ...] = ()
        self.branch: str | None = None
        self.key = KEY
        self.configured = True
        self.with_http = True
        self.counted = {PROCESSED: 0.0, FINISHED: 0.0}  # by the processes before this one
        self.taken: set[str] = set()  # registrations that were accepted, and not dropped since
        self.waiting: list[tuple[set[str], list[Registered]]] = []
        self.chance = random.Random(5)
        self.model = Model(
            self.config(),
            self.world.answer,
            latency=lambda _request: self.chance.choice((0.05, 0.5, 3.0)),
            chance=self.chance.random,
            disk=self.disk,
        )
        self.model.run(1.0)

    def config(self) -> Config:
        watched = environment(
            "production",
            self.listed,
            retention=RETENTION,
            branch=self.branch,
            operations_http=(HttpSource(URL),) if self.with_http else (),
            per_operation="active",
            per_operation_limit=4,
        )
        other = environment("other", [])
        return Config((watched, other) if self.configured else (other,), max_operations=LIMIT)

    def reconfigure(self) -> None:
        config = self.config()
        keys = {each.name: self.key for each in config.environments}
        applied: list[bool] = []
        self.count()  # an environment that goes takes its counters along
        before = self.totals()
        self.model.tell(Reconfigure(config, keys, lambda: None, lambda: applied.append(True)))
        self.model.run(0.01)
        assert applied == [True] or self.disk.slow
        self.model.run(1.0)
        if not self.configured:
            for name, value in before.items():
                self.counted[name] += value

    # What is shown, and what was counted.

    def totals(self) -> dict[str, float]:
        """Return what the counters show."""
        totals = dict.fromkeys(self.counted, 0.0)
        for sample in self.samples():
            if sample.name in totals:
                totals[sample.name] += sample.value
        return totals

    def samples(self) -> list[Sample]:
        """Return the aggregates that are shown; the rest of the text would take most of the time to read."""
        lines = [line for line in self.model.metrics().splitlines() if line.startswith("knock_bulk_operations")]
        return [each for family in text_string_to_metric_families("\n".join([*lines, ""])) for each in family.samples]

    def count(self) -> None:
        """Check that no counter ever showed more than there was, over all processes together."""
        shown = self.totals()
        truth = {
            PROCESSED: sum(each.rows_processed or 0 for each in self.world.records.values()),
            FINISHED: sum(each.status.final for each in self.world.records.values()),
        }
        for name, most in truth.items():
            assert self.counted[name] + shown[name] <= most, name

    def tracked(self) -> list[Tracked]:
        return list(self.model.tracker._book.of("production"))

    # Knock goes on.

    @rule(operation_id=st.sampled_from(IDS), rows=st.integers(1, 50), errors=st.integers(0, 1))
    def rows_are_processed(self, operation_id: str, rows: int, errors: int) -> None:
        record = self.world.records[operation_id]
        if not record.status.final:
            self.world.records[operation_id] = replace(
                record,
                status=Status.PROCESSING,
                rows_processed=(record.rows_processed or 0) + rows,
                errors=(record.errors or 0) + errors,
                started_at=record.started_at or self.model.now.wall,
            )

    @rule(operation_id=st.sampled_from(IDS), status=st.sampled_from([Status.COMPLETED, Status.FAILED]))
    def operation_ends(self, operation_id: str, status: Status) -> None:
        record = self.world.records[operation_id]
        if not record.status.final:
            now = self.model.now.wall
            ended = replace(record, status=status, started_at=record.started_at or now)
            failed = status is Status.FAILED
            self.world.records[operation_id] = (
                replace(ended, failed_at=now) if failed else replace(ended, completed_at=now)
            )

    @rule(operation_id=st.sampled_from(IDS))
    def knock_forgets_or_remembers(self, operation_id: str) -> None:
        self.world.gone ^= {operation_id}

    @rule(
        trouble=st.sampled_from(
            [
                None,
                None,
                RateLimited("HTTP 429", retry_after=2.0),
                KeyRefused("HTTP 401", code=401),
                BadAnswer("status", "missing"),
            ]
        )
    )
    def the_way_changes(self, trouble: KnockError | None) -> None:
        self.world.trouble = trouble

    @rule(seconds=durations)
    def time_passes(self, seconds: float) -> None:
        self.model.run(seconds)

    # Who names what.

    @rule(source=st.sampled_from([*FILES, HTTP]), named=some_ids, group=groups)
    def source_lists(self, source: Source, named: list[str], group: str) -> None:
        self.model.tell(Listed("production", source, tuple(ListedOperation(each, group) for each in named)))

    @rule()
    def source_breaks(self) -> None:
        self.model.tell(Unread("production", Source(SourceKind.FILES, "list.txt"), "broken"))

    @rule(named=some_ids.filter(bool), group=groups, again=st.booleans(), created=st.booleans(), quick=st.booleans())
    def program_registers(self, named: list[str], group: str, *, again: bool, created: bool, quick: bool) -> None:
        # A create answer is that of an operation that has only begun.
        fresh = {each for each in named if created and self.world.records[each].status is Status.QUEUED}
        handed = [
            Handed(ListedOperation(each, group), Created("users.identify", WALL + 90) if each in fresh else None)
            for each in named
        ]
        answers = self.model.register(*handed, again=again)
        self.waiting.append((set(named), answers))
        if not quick:
            self.model.run(0.5)
            assert len(answers) == 1

    @rule(operation_id=st.sampled_from(IDS))
    def program_releases(self, operation_id: str) -> None:
        answers = self.model.release(operation_id)
        self.model.run(0.5)
        assert len(answers) == 1
        if answers[0].known and not answers[0].listed_by:
            assert self.model.tracker._book.get(OperationKey("production", operation_id)) is None

    # The configuration.

    @rule(named=some_ids)
    def configuration_lists(self, named: list[str]) -> None:
        self.listed = tuple(named)
        self.reconfigure()

    @rule(branch=st.sampled_from([None, "feature"]), http=st.booleans())
    def configuration_moves(self, branch: str | None, *, http: bool) -> None:
        self.branch, self.with_http = branch, http
        self.reconfigure()

    @rule()
    def environment_goes_or_comes(self) -> None:
        self.configured = not self.configured
        self.reconfigure()

    @rule(changes=st.booleans())
    def key_is_read(self, *, changes: bool) -> None:
        if changes:
            self.key = Secret(f"sk_test_{self.chance.random()}")
        self.model.tell(KeyRead("production", self.key if changes else None))

    # The disk, and the end of a process.

    @rule()
    def disk_hangs(self) -> None:
        self.disk.slow = True
        self.model.run(2.0)  # shorter than what makes it count as broken

    @rule()
    def disk_goes_on(self) -> None:
        self.disk.slow = False

    @precondition(lambda self: not self.disk.slow)
    @rule(seconds=st.sampled_from([0.0, 0.05, 30.0, 7200.0]))
    def process_is_killed(self, seconds: float) -> None:
        self.count()
        for name, value in self.totals().items():
            self.counted[name] += value
        self.disk.changes.clear()
        self.waiting.clear()
        self.model = self.model.restarted(
            config=self.config(),
            keys={"production": self.key, "other": self.key},
            mono=self.model.mono + seconds,
        )
        self.model.run(1.0)

    def settle(self) -> None:
        """Let what changed be committed and shown."""
        for _ in range(100):
            self.model.run(0.02)
            if not self.model.tracker._book.changed and not self.disk.changes:
                return
        raise AssertionError("what changed is never shown")

    # What holds at any time.

    @invariant()
    def counters_never_exceed_the_truth(self) -> None:
        self.disk.slow = False  # a disk that hangs on would be taken for a broken one
        self.settle()
        self.count()

    @invariant()
    def sums_are_those_of_the_operations(self) -> None:
        sums: dict[tuple[str, str, str, str], float] = {}  # family, group, name, status
        for each in self.tracked():
            name = each.operation.name if each.operation is not None else "unknown"
            part = share(each)
            for family, status, value in (
                ("knock_bulk_operations", part.state, 1),
                ("knock_bulk_operations_tracked_rows_processed", "", part.processed),
                ("knock_bulk_operations_tracked_errors", "", part.errors),
                ("knock_bulk_operations_active_rows_processed", "", part.processed if part.active else 0),
                ("knock_bulk_operations_stale", "", (part.stale_at or self.model.mono) < self.model.mono),
            ):
                place = family, each.group, name, status
                sums[place] = sums.get(place, 0) + value
        families = {place[0] for place in sums}
        shown = {
            (sample.name, sample.labels["group"], sample.labels["name"], sample.labels.get("status", "")): sample.value
            for sample in self.samples()
            if sample.name in families and sample.labels["knock_environment"] == "production"
        }
        assert {place: value for place, value in shown.items() if value} == {
            place: value for place, value in sums.items() if value
        }

    @invariant()
    def what_is_kept_is_what_is_known(self) -> None:
        self.model.run(1.0)  # all that changed is on disk by now
        dirty = self.model.tracker._journal.dirty
        assert not self.disk.changes
        kept = {key: each for key, each in self.disk.memory.operations.items() if key not in dirty.operations}
        intake = self.model.tracker._intake
        for each in self.tracked():
            if each.key not in dirty.operations:
                assert kept[each.key] == intake.kept(each.key)
        if self.configured:
            assert kept.keys() <= {each.key for each in self.tracked()}
        stones = {key: stone for key, stone in self.disk.memory.tombstones.items() if key not in dirty.tombstones}
        assert stones == {key: intake.tombstones.get(key) for key in stones}
        for answers in (answers for _, answers in self.waiting):
            assert [each.saved for each in answers] == [True]
        self.waiting.clear()

    @invariant()
    def each_operation_has_its_reason_and_its_request(self) -> None:
        if not self.configured:
            return
        roster = self.model.tracker._intake._rosters["production"]
        assert len(self.tracked()) <= LIMIT + len(self.listed)
        for each in self.tracked():
            assert (each.due is None) == (each.final or each.lost)
            assert not each.final or each.final_at is not None
        tracked = {each.key.id for each in self.tracked()}
        assert not {each for each in self.listed if each not in tracked and len(tracked) < LIMIT}
        api = roster._lists.get(Source(SourceKind.API), set())
        assert api <= tracked  # what is dropped or refused is nobody's registration any more

    @invariant()
    def a_lane_never_waits_for_what_cannot_come(self) -> None:
        for lane in self.model.tracker._environments.lanes:
            if lane.gate.is_open or not lane.gate.suspended:
                continue
            awaited = any(asker.in_flight for asker in lane.askers)
            assert awaited or lane.gate.probe_at < float("inf")


TestExporter = Exporter.TestCase
TestExporter.settings = settings(
    max_examples=12,
    stateful_step_count=20,
    derandomize=True,
    phases=(Phase.generate,),  # shrinking replays hours of virtual time a thousand times
    suppress_health_check=list(HealthCheck),
)
