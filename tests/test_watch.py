"""What `watch` makes of what it hears: Knock in virtual time, the API's documents, and what people see of it."""

from __future__ import annotations

import io
import math
import re
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from fake_exporter import FakeExporter, group, operation, run
from model import WALL, ids
from programs import Hands
from rich.console import Console
from timing import most_in

from exporter.errors import KeyRefused, KnockError, NotFound, RateLimited, Reason, Refused, Unreachable
from exporter.operation import Operation, parse_operation
from exporter.simulator import World
from exporter.terminal.exit_codes import ExitCode
from exporter.terminal.exporter_api import Attempt, ExporterApi
from exporter.terminal.watch.core import WatchOutcome
from exporter.terminal.watch.follow import ApiWatching, Fetched, KnockWatching, RunWatching, WatchClock, follow
from exporter.terminal.watch.operations import WatchedOperations, begin
from exporter.terminal.watch.run import WatchedRun
from exporter.terminal.watch.screen import PlainLines, drawing, line_of, shown
from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.terminal.watch.core import Frame

LATENCY = 0.1
NOT_FOUND = NotFound("HTTP 404 resource_missing", code=404, accepted_key=True)
DOWN = Unreachable(Reason.CONNECT, "connection refused")
NOWHERE = "123e4567-e89b-12d3-a456-426614174000"


@dataclass
class Knock:
    """The simulator's operations in virtual time, asked as threads would; `trouble` may answer instead."""

    hands: Hands = field(default_factory=Hands)
    trouble: Callable[[str, float], KnockError | None] = lambda _id, _now: None
    sent: list[float] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World(seed=1, clock=self.hands.clock)
        self._under_way: list[Fetched] = []

    @property
    def now(self) -> float:
        return self.hands.passed

    def start(self, operation_id: str) -> None:
        self.sent.append(self.now)
        self.asked.append(operation_id)
        outcome: Operation | KnockError | None = self.trouble(operation_id, self.now)
        if outcome is None:
            record = self.world.read(operation_id)
            outcome = NOT_FOUND if record is None else parse_operation(record, operation_id)
        self._under_way.append(Fetched(operation_id, self.now, LATENCY, outcome))

    def wait(self, seconds: float) -> Fetched | None:
        if self._under_way and self._under_way[0].sent_at + LATENCY <= self.now + seconds:
            first = self._under_way.pop(0)
            self.hands.passed = max(self.now, first.sent_at + LATENCY)
            return first
        self.hands.passed += seconds
        return None

    def watch(
        self, *operation_ids: str, until: float = float("inf"), limit: float = 20.0, allow_errors: bool = False
    ) -> WatchOutcome:
        clock = WatchClock(self.hands.clock.monotonic, self.hands.clock.wall, lambda: 0.5)
        state = begin("production", "production", operation_ids, clock.now)
        watching = KnockWatching(state, self, clock, limit=limit, together=8, explain=lambda error: f"Knock: {error}")
        plain = PlainLines(self.lines.append, self.now)

        def show(frame: Frame, at: Moment) -> None:
            self.frames.append(frame)
            plain(frame, at)

        return follow(watching, show, clock, until, allow_errors=allow_errors)


# Knock itself.


def test_it_waits_until_all_have_ended() -> None:
    knock = Knock()
    made = [knock.world.create(rows=rows, rows_per_second=10) for rows in (100, 600)]
    assert knock.watch(*made) == WatchOutcome(ExitCode.CLEAN, "2 completed")
    assert 60 < knock.now < 90
    progress = [each.progress for each in knock.frames if each.progress is not None]
    assert progress == sorted(progress)
    assert progress[-1] == 1


@pytest.mark.parametrize(
    ("overrides", "allowed", "expected"),
    [
        ({"fails": True}, True, WatchOutcome(ExitCode.FAILED, "1 failed")),
        ({"errors": 3}, False, WatchOutcome(ExitCode.FAILED, "1 with errors")),
        ({"errors": 3}, True, WatchOutcome(ExitCode.CLEAN, "2 completed, 1 of them with errors")),
    ],
)
def test_what_went_wrong_is_the_exit_code(overrides: dict[str, Any], expected: WatchOutcome, *, allowed: bool) -> None:
    knock = Knock()
    made = [knock.world.create(rows=50), knock.world.create(rows=50, **overrides)]
    assert knock.watch(*made, allow_errors=allowed) == expected


def test_what_knock_does_not_know_for_five_minutes_is_lost() -> None:
    knock = Knock()
    assert knock.watch(NOWHERE) == WatchOutcome(ExitCode.FAILED, "1 lost (404)")
    assert 300 <= knock.now < 302


def test_what_knock_does_not_know_at_first_may_come() -> None:
    knock = Knock(trouble=lambda _id, now: NOT_FOUND if now < 240 else None)
    assert knock.watch(knock.world.create(rows=10)).code is ExitCode.CLEAN


def test_what_knock_forgets_is_lost_after_five_minutes() -> None:
    knock = Knock(trouble=lambda _id, now: NOT_FOUND if now > 60 else None)
    assert knock.watch(knock.world.create(rows=1000, rows_per_second=1)).code is ExitCode.FAILED
    assert 360 <= knock.now < 380


@pytest.mark.parametrize("trouble", [DOWN, Refused("HTTP 502", code=502)])
def test_out_of_reach_for_a_minute_it_cannot_be_known(trouble: KnockError) -> None:
    knock = Knock(trouble=lambda _id, now: trouble if now > 10 else None)
    assert knock.watch(knock.world.create(rows=1000, rows_per_second=1)) == WatchOutcome(
        ExitCode.UNKNOWN, f"Knock: {trouble} (for a minute)"
    )
    assert 70 <= knock.now < 90


def test_a_short_outage_passes() -> None:
    knock = Knock(trouble=lambda _id, now: DOWN if 10 < now < 60 else None)
    assert knock.watch(knock.world.create(rows=100, rows_per_second=1)).code is ExitCode.CLEAN
    assert knock.lines.count("Knock: connection refused") == 1


def test_one_that_cannot_be_read_does_not_end_it_while_others_can() -> None:
    knock = Knock()
    good, bad = knock.world.create(rows=600, rows_per_second=1), knock.world.create(rows=600)
    knock.trouble = lambda operation_id, _now: Refused("HTTP 500", code=500) if operation_id == bad else None
    assert knock.watch(good, bad).code is ExitCode.UNKNOWN
    assert knock.now > 600
    assert knock.frames[-1].counts["completed"] == 1


def test_a_refused_key_ends_it_at_once() -> None:
    knock = Knock(trouble=lambda _id, _now: KeyRefused("HTTP 401"))
    assert knock.watch(NOWHERE) == WatchOutcome(ExitCode.UNKNOWN, "Knock: HTTP 401")
    assert knock.now < 1


def test_a_429_is_waited_out() -> None:
    limited = RateLimited("HTTP 429", retry_after=40.0)
    knock = Knock(trouble=lambda _id, now: limited if 20 <= now < 20 + LATENCY else None)
    made = [knock.world.create(rows=100, rows_per_second=1) for _ in range(40)]
    knock.trouble = lambda _id, now: limited if 20 <= now < 21 else None
    assert knock.watch(*made).code is ExitCode.CLEAN
    assert max(later - earlier for earlier, later in pairwise(knock.sent)) >= 39
    assert "Knock: HTTP 429" in [each.problem for each in knock.frames]


def test_the_timeout_ends_it() -> None:
    knock = Knock()
    outcome = knock.watch(knock.world.create(rows=1000, rows_per_second=1), until=30)
    assert outcome.code is ExitCode.TIMEOUT
    assert 30 <= knock.now < 31


@pytest.mark.parametrize("limit", [2.0, 20.0])
def test_the_limit_is_kept_and_all_have_their_turn(limit: float) -> None:
    knock = Knock()
    made = [knock.world.create(rows=100, rows_per_second=1, queue_seconds=number % 20) for number in range(100)]
    assert knock.watch(*made, limit=limit).code is ExitCode.CLEAN
    assert most_in(1.0, knock.sent) <= limit
    assert set(knock.asked) == set(made)


def test_intervals_are_those_of_the_exporter() -> None:
    knock = Knock()
    knock.watch(knock.world.create(rows=300, rows_per_second=1, queue_seconds=0))
    assert min(later - earlier for earlier, later in pairwise(knock.sent[1:-1])) >= 4
    assert len(knock.sent) < 80


# A run.


def seen(*documents: tuple[float, dict[str, Any] | None], **settings: Any) -> WatchedRun:
    it = WatchedRun("production", "nightly", "17", **settings)
    for now, document in documents:
        it = it.reported(document, (), now)
    return it


def ended(*documents: tuple[float, dict[str, Any] | None], allow_errors: bool = False) -> WatchOutcome | None:
    return seen(*documents).outcome(allow_errors=allow_errors)


DONE = {"finished_at": "2027-01-15T09:00:00Z"}


def test_all_that_is_known_may_be_final_between_two_waves() -> None:
    waves = run(operations={"completed": 30}, expected_operations=1000)
    assert ended((0, group(waves))) is None
    assert "more may come" in seen((0, group(waves))).frame().note
    assert seen((0, group(run(operations={"processing": 1})))).frame().note == ""


@pytest.mark.parametrize(
    ("fields", "allowed", "expected"),
    [
        ({"operations": {"completed": 5}}, False, WatchOutcome(ExitCode.CLEAN, "5 completed")),
        ({"operations": {"completed": 5, "failed": 2, "lost": 1}, "with_errors": 1}, False,
         WatchOutcome(ExitCode.FAILED, "2 failed, 1 lost (404), 1 with errors")),
        ({"operations": {"completed": 5}, "with_errors": 1}, False, WatchOutcome(ExitCode.FAILED, "1 with errors")),
        ({"operations": {"completed": 5}, "with_errors": 1}, True,
         WatchOutcome(ExitCode.CLEAN, "5 completed, 1 of them with errors")),
    ],
)  # fmt: skip
def test_a_finished_run_is_judged(fields: dict[str, Any], expected: WatchOutcome, *, allowed: bool) -> None:
    assert ended((0, group(run(**fields, **DONE), "done")), allow_errors=allowed) == expected


def test_another_run_supersedes_it() -> None:
    assert ended((0, group(run("16")))) is None
    assert ended((0, None), (1, group(None)), (2, group(run()))) is None
    superseded = WatchOutcome(ExitCode.FAILED, "superseded: run 18 of nightly is open")
    assert ended((0, group(run())), (1, group(run("18")))) == superseded
    assert seen((0, group(run("18"))), past=True).outcome(allow_errors=False) == superseded


def test_a_run_that_does_not_exist_yet_is_waited_for() -> None:
    assert seen((0, None)).frame().word == "waiting for run 17"
    assert seen((0, group(run("16"), "done"))).frame().word == "waiting for run 17 (16 is open)"
    assert seen((0, group(run()))).frame().word == "running"


CLOSED: dict[str, Any] = {"closed_at": "2027-01-15T08:30:00Z", "expected_operations": 10}


def test_what_will_not_come_makes_it_incomplete() -> None:
    nine = run(operations={"completed": 9}, **CLOSED)
    incomplete = WatchOutcome(ExitCode.FAILED, "incomplete: 1 operation never came")
    assert ended((0, group(nine)), (599, group(nine))) is None
    assert ended((0, group(nine)), (600, group(nine))) == incomplete
    assert ended((0, group(nine, "incomplete"))) == incomplete
    assert ended((0, group(nine, "late"))) is None
    # As long as some run, their end is waited for.
    running = run(operations={"completed": 8, "processing": 1}, **CLOSED)
    assert ended((0, group(running, "incomplete"))) is None
    assert ended((0, group(run(operations={"completed": 10}, **CLOSED), "incomplete"))) is None


def test_a_run_that_the_exporter_forgot_cannot_be_known() -> None:
    began = (0.0, group(run()))
    assert ended(began, (1, group(None)), (60, group(None))) is None
    outcome = ended(began, (1, group(None)), (61, None))
    assert outcome is not None
    assert outcome.code is ExitCode.UNKNOWN
    assert ended(began, (1, group(None)), (50, group(run())), (61, group(None))) is None


def test_an_exporter_out_of_reach_for_a_minute_ends_it() -> None:
    it = seen((0, group(run())))
    for now in (10, 40, 69):
        it = it.unreachable("http://here: connection refused", now, refused=False)
        assert it.outcome(allow_errors=False) is None
    assert it.frame().counts == seen((0, group(run()))).frame().counts
    assert it.unreachable("http://here: connection refused", 70, refused=False).outcome(
        allow_errors=False
    ) == WatchOutcome(ExitCode.UNKNOWN, "http://here: connection refused (for a minute)")
    refused = it.unreachable("http://here: HTTP 401", 50, refused=True).outcome(allow_errors=False)
    assert refused == WatchOutcome(ExitCode.UNKNOWN, "http://here: HTTP 401")


def test_its_numbers_are_the_exporters() -> None:
    frame = seen((0, group(run(expected_operations=1000, operations={"completed": 240, "failed": 10})))).frame()
    assert (frame.progress, frame.progress_of, frame.time_left, frame.rate) == (0.25, "operations", 600.0, 33.0)
    assert (frame.finished, frame.total) == (250, 1000)


@pytest.mark.parametrize(
    "broken", [{}, {"run": 5}, {"run": {}}, {"run": {"id": "17", "operations": [], "errors": "x"}}]
)
def test_documents_may_be_anything(broken: dict[str, Any]) -> None:
    it = seen((0, broken))
    it.frame()
    assert it.outcome(allow_errors=False) is None


# An exporter, in virtual time.


@dataclass
class Exporter:
    """A fake exporter's answers without a socket; `trouble` may answer instead, by the seconds that have passed."""

    fake: FakeExporter
    trouble: Callable[[float], Attempt | None] = lambda _now: None
    now: float = 0.0
    frames: list[Frame] = field(default_factory=list)

    def send(self, address: str) -> Attempt:
        self.now += LATENCY
        status, document = self.fake.respond(address.removeprefix("http://here"))
        return self.trouble(self.now) or Attempt(status, document, f"HTTP {status}", passing=False)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def watch(self, state: WatchedOperations | WatchedRun) -> WatchOutcome:
        clock = WatchClock(lambda: self.now, lambda: WALL + self.now, lambda: 0.5, self.sleep)
        api = ExporterApi("http://here", self.send)
        watching = RunWatching(state, api, clock) if isinstance(state, WatchedRun) else ApiWatching(state, api, clock)
        return follow(watching, lambda frame, _at: self.frames.append(frame), clock, math.inf, allow_errors=False)


REFUSED = Attempt(None, {}, "connection refused", passing=True)
START = Moment(0.0, WALL)


@pytest.fixture
def virtual(fake: FakeExporter) -> Exporter:
    fake.put(operation(NOWHERE))
    fake.groups["nightly"] = group(run(operations={"processing": 1}))
    return Exporter(fake)


def watched_things() -> list[WatchedOperations | WatchedRun]:
    return [begin("production", "production", [NOWHERE], START), WatchedRun("production", "nightly", "17")]


@pytest.mark.parametrize("state", watched_things())
def test_an_exporter_that_is_away_for_a_minute(virtual: Exporter, state: WatchedOperations | WatchedRun) -> None:
    virtual.trouble = lambda now: REFUSED if now > 20 else None
    unknown = WatchOutcome(ExitCode.UNKNOWN, "http://here: connection refused (for a minute)")
    assert virtual.watch(state) == unknown
    assert 80 <= virtual.now < 90


@pytest.mark.parametrize("state", watched_things())
def test_an_exporter_that_restarts(virtual: Exporter, state: WatchedOperations | WatchedRun) -> None:
    def trouble(now: float) -> Attempt | None:
        if now > 100:
            virtual.fake.put(operation(NOWHERE, "completed"))
            virtual.fake.groups["nightly"] = group(run(operations={"completed": 1}, **DONE), "done")
        return REFUSED if 20 < now < 75 else None

    virtual.trouble = trouble
    assert virtual.watch(state) == WatchOutcome(ExitCode.CLEAN, "1 completed")
    assert {each.problem for each in virtual.frames} == {"", "http://here: connection refused"}


def test_what_an_exporter_does_not_follow_for_five_minutes_is_lost(virtual: Exporter) -> None:
    virtual.fake.operations.clear()
    assert virtual.watch(watched_things()[0]) == WatchOutcome(ExitCode.FAILED, "1 lost (404)")
    assert 300 <= virtual.now < 305
    assert virtual.frames[1].note == f"Knock does not know {NOWHERE} (HTTP 404): asking again for up to 5m"
    assert virtual.frames[-1].note == ""


def test_an_operation_that_is_not_known_hides_no_server_that_is_away(virtual: Exporter) -> None:
    virtual.fake.operations.clear()
    virtual.trouble = lambda now: REFUSED if 20 < now < 60 else None
    virtual.watch(watched_things()[0])
    lines: list[str] = []
    plain = PlainLines(lines.append, 0.0)
    for number, frame in enumerate(virtual.frames):
        plain(frame, Moment(float(number), 0.0))
    assert lines.count("http://here: connection refused") == 1
    assert sum(line.startswith("Knock does not know") for line in lines) == 1


# What people see.


def test_a_line_for_each_change_of_few() -> None:
    knock = Knock()
    made = [knock.world.create(rows=100, rows_per_second=10, queue_seconds=20, errors=number) for number in (0, 2)]
    knock.watch(*made)
    assert knock.lines[0] == "production: running · 0 of 2 finished · 0% of operations · 0s elapsed"
    states = [line.split()[1].rstrip(",") for line in knock.lines if line.startswith(made[1])]
    assert states == ["queued", "processing", "completed"]
    assert knock.lines[-1].endswith(("100 of 100 rows", "100 of 100 rows, 2 errors"))


def test_about_a_line_a_minute_of_many() -> None:
    knock = Knock()
    made = [knock.world.create(rows=1200, rows_per_second=1, fails=number % 10 == 0) for number in range(30)]
    knock.watch(*made, limit=2.0)
    assert 20 < knock.now / 60 < 40
    assert knock.now / 60 - 2 < len(knock.lines) < knock.now / 60 + 8
    assert max(map(len, knock.lines)) < 160


def test_trouble_is_said_once() -> None:
    knock = Knock(trouble=lambda _id, now: DOWN if 10 < now < 60 else None)
    knock.watch(*(knock.world.create(rows=100, rows_per_second=1) for _ in range(5)))
    assert knock.lines.count("Knock: connection refused") == 1


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("count", [1, 10, 500])
def test_bars_fit_and_ids_are_whole(count: int, width: int) -> None:
    at = Moment(0.0, 1_800_000_000.0)
    state = begin("production", "production", ids(count), at)
    for number, each in enumerate(state.watched):
        status = ("processing", "failed", "completed", "queued")[number % 4]
        wrong = {"error_count": 20_000_000, "processed_rows": 123_456_789, "rate_rows_per_second": 123_456.0}
        wrong |= {"time_left_seconds": 360_000.0, "estimated_total_rows": 987_654_321}
        state = state.reported(operation(each, status, **wrong), at)
    console = Console(file=io.StringIO(), width=width, height=24, force_terminal=True)
    with console.capture() as captured:
        console.print(drawing(state.frame(), 4000.0, width, 24))
    lines = re.sub("\x1b\\[[0-9;]*m", "", captured.get()).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= width
    shown = [each for each in state.watched if any(line.startswith(each) for line in lines)]
    assert len(shown) >= min(count, 9)
    assert len(re.findall(r"[0-9a-f]{8}-", captured.get())) == len(shown)
    assert ("more" in captured.get()) == (count > len(shown))


class TerminalText(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_rich_a_terminal_gets_lines_and_hears_what_draws_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setitem(sys.modules, "rich", None)  # Python's own way to say that there is none
    written = TerminalText()
    with shown(written, lambda: 0.0) as (show, _say):
        show(shown_of(operation(ids(1)[0])), Moment(0.0, 1_800_000_000.0))
    hint, line = written.getvalue().splitlines()
    assert "pip install 'knock-exporter[cli]'" in hint
    assert "production" in line
    assert "\x1b" not in line


def shown_of(*documents: dict[str, Any]) -> Frame:
    at = Moment(0.0, 1_800_000_000.0)
    state = begin("production", "production", [each["id"] for each in documents], at)
    for each in documents:
        state = state.reported(each, at)
    return state.frame()


def test_what_has_ended_is_done_whatever_its_estimate() -> None:
    failed, runs = ids(2)
    frame = shown_of(operation(failed, "failed", rate_rows_per_second=None), operation(runs))
    assert (frame.progress, frame.progress_of, frame.time_left) == (200 / 1100, "rows", 900 / 12.5)
    assert [line_of(each) for each in frame.watched] == [
        f"{failed} failed, 100 of 1,000 rows",
        f"{runs} processing, 100 of 1,000 rows",
    ]


def test_without_all_estimates_operations_are_counted() -> None:
    done, runs = ids(2)
    frame = shown_of(operation(done, "completed"), operation(runs, estimated_total_rows=None))
    assert (frame.progress, frame.progress_of, frame.time_left) == (0.5, "operations", None)
    assert [each.progress for each in frame.watched] == [1.0, None]
