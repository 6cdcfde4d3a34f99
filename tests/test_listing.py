"""Which operations are shown and in which order, what follows from one of them, and the thread that looks for them."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from model import WALL, ids, running
from snapshots import entry_of, snapshot_of

from exporter.config import Polling
from exporter.operation import Operation, OperationKey, Status
from exporter.tracking import facts, transitions
from exporter.tracking.history import History, plotted
from exporter.tracking.memberships import SourceKey, SourceKind
from exporter.tracking.selection import (
    CHOICES_MOST,
    STATUSES,
    WORDS,
    Filter,
    FilterOption,
    by_part,
    choices,
    select,
)
from exporter.tracking.snapshot import NOTHING_SHOWN, Entry, EnvironmentStatus, Snapshot
from exporter.tracking.transitions import Moment
from exporter.web.filters import SEARCH_LONGEST, read_filter
from exporter.web.replies import Refusal
from exporter.web.worker import WAITING_MOST, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.tracking.transitions import Tracked

NOW = Moment(5000.0, WALL)
A, B, C, D, E, F = ids(6)


def tracked(operation_id: str = A, known: Operation | None = None, **changes: Any) -> Tracked:
    key = OperationKey(changes.pop("environment", "production"), operation_id)
    began = Moment(NOW.mono - 100, NOW.wall - 100)
    made = transitions.newly_tracked(key, changes.pop("group", "default"), (), began, Polling())
    return made._replace(**{"operation": known, "last_success": NOW} | changes)


def snapshot(*shown: Tracked, environments: Iterable[str] = ("production",)) -> Snapshot:
    """Build a picture as the tracker would."""
    statuses = tuple(
        EnvironmentStatus(
            each, "https://api.knock.app", None, None, suspended=False, limit=20, pace=20, used=0, in_flight=0
        )
        for each in environments
    )
    return snapshot_of(shown, statuses)


def found(shown: Snapshot, **wanted: str) -> list[tuple[str, str]]:
    return [each.tracked.key for each in select(shown, Filter(**wanted), NOW).entries]


def ended(operation_id: str, status: Status, at: float = 0.0, **fields: Any) -> Tracked:
    return tracked(operation_id, running(operation_id, status=status, inserted_at=WALL - 500 + at, **fields), due=None)


# The order.


def test_unfinished_come_first_then_failed_then_the_rest_each_newest_first() -> None:
    shown = [
        ended(A, Status.PROCESSING, 1),
        tracked(B),  # handed over 100 s ago, so it is newer than what was inserted 500 s ago
        ended(C, Status.FAILED, 1),
        ended(D, Status.FAILED, 2),
        ended(E, Status.COMPLETED, 4),
        ended(F, Status.COMPLETED, 3),
    ]
    order = [B, A, D, C, E, F]
    assert [each.id for each in (OperationKey(*key) for key in found(snapshot(*shown)))] == order
    assert found(snapshot(*reversed(shown))) == [("production", each) for each in order]


def test_a_page_begins_with_what_needs_attention() -> None:
    long_ago = Moment(NOW.mono - 1000, NOW.wall - 1000)
    failed, flawed, stalled, stale, lost, runs, clean, both = ids(8)
    shown = snapshot(
        ended(clean, Status.COMPLETED),
        tracked(runs, running(runs), last_change=NOW),
        tracked(lost, lost=True),
        tracked(stale, running(stale), last_success=long_ago, last_change=NOW),
        tracked(stalled, running(stalled), last_change=long_ago),
        tracked(both, running(both, inserted_at=WALL - 900), last_success=long_ago, last_change=long_ago),
        ended(flawed, Status.COMPLETED, errors=1),
        ended(failed, Status.FAILED, errors=1),
    )
    attention = [failed, flawed, stalled, both, stale, lost]

    def listed(**wanted: str) -> list[str]:
        page = by_part(shown, Filter(**wanted), NOW)
        found = [each.tracked.key.id for _, each in page.entries]
        assert page.total == len(found) == select(shown, Filter(**wanted), NOW).total
        return found

    assert [part for part, _ in by_part(shown, Filter(), NOW).entries] == ["attention"] * 6 + ["running", "ended"]
    assert listed() == listed(id="-") == [*attention, runs, clean]
    assert listed(status="needs_attention") == listed(status="needs_attention", id="-") == attention
    assert listed(status="stalled") == [stalled, both]
    assert listed(status="with_errors") == [failed, flawed]
    assert listed(status="processing") == [stalled, both, stale, runs]
    assert listed(status="completed") == [flawed, clean]


def test_the_environment_breaks_ties() -> None:
    names = ("production", "staging", "another")
    shown = snapshot(*(tracked(A, environment=name) for name in names), environments=names)
    assert found(shown) == [(name, A) for name in sorted(names)]


def test_no_two_operations_have_the_same_place() -> None:
    shown = snapshot(*(tracked(each, environment=name) for each in ids(20) for name in ("production", "staging")))
    assert len({each.rank for each in shown.order}) == 40


# Filters.


@pytest.fixture(scope="module")
def mixed() -> Snapshot:
    return snapshot(
        tracked(A, running(A, name="users.identify"), group="nightly"),
        tracked(B, environment="staging"),
        tracked(C, running(C, name="objects.set", status=Status.COMPLETED, errors=2)),
        tracked(D, running(D, name="objects.set", status=Status.FAILED)),
        tracked(E, lost=True),
        tracked(F, running(F), last_success=Moment(-1e6, WALL - 1e6)),
        environments=("production", "staging", "empty"),
    )


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, {A, B, C, D, E, F}),
        ({"environment": "staging"}, {B}),
        ({"environment": "stag"}, set()),
        ({"group": "nightly"}, {A}),
        ({"name": "objects.set"}, {C, D}),
        ({"name": "unknown"}, {B, E}),
        ({"status": "pending"}, {B}),
        ({"status": "processing"}, {A, F}),
        ({"status": "failed"}, {D}),
        ({"status": "lost"}, {E}),
        ({"status": "unfinished"}, {A, B, F}),
        ({"status": "with_errors"}, {C}),
        ({"status": "stale"}, {F}),
        ({"id": A}, {A}),
        ({"id": A[3:20]}, {A}),
        ({"id": "%"}, set()),
        ({"name": "objects.set", "status": "with_errors", "environment": "production"}, {C}),
        ({"name": "objects.set", "status": "unfinished"}, set()),
    ],
)
def test_a_filter_leaves_what_is_asked_for(mixed: Snapshot, wanted: dict[str, str], expected: set[str]) -> None:
    assert {operation_id for _, operation_id in found(mixed, **wanted)} == expected
    assert select(mixed, Filter(**wanted), NOW).total == len(expected)


def test_every_status_can_be_asked_for(mixed: Snapshot) -> None:
    states = [each for each in STATUSES if each not in WORDS]
    assert sum(len(found(mixed, status=each)) for each in states) == len(mixed.order)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, Filter()),
        ({"group": "", "status": "", "id": "  "}, Filter()),
        ({"group": " a ", "page": "7"}, Filter(group=" a ")),
        ({"id": f" {A.upper()} "}, Filter(id=A)),
        ({"environment": "e", "name": "<b>", "status": "stale"}, Filter("e", name="<b>", status="stale")),
    ],
)
def test_a_query_is_read(parameters: dict[str, str], expected: Filter) -> None:
    assert read_filter(parameters) == expected
    assert bool(expected) == (expected != Filter())


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        ({"status": "Failed"}, f"status: expected one of {', '.join(STATUSES)}"),
        ({"id": "a" * (SEARCH_LONGEST + 1)}, "id: expected an id or a part of one (36 characters at most)"),
    ],
)
def test_what_cannot_be_asked_for_is_told(parameters: dict[str, str], detail: str) -> None:
    with pytest.raises(Refusal) as refusal:
        read_filter(parameters)
    assert (refusal.value.status, str(refusal.value)) == (400, detail)


@pytest.mark.parametrize("wanted", [{}, {"environment": "production"}, {"name": "objects.set"}, {"group": "nightly"}])
def test_what_the_sums_count_is_what_a_walk_would(mixed: Snapshot, wanted: dict[str, str]) -> None:
    summed, walked = (select(mixed, Filter(**wanted, id=part), NOW).of_any_status for part in (None, "-"))
    assert +summed == +walked
    assert {status: len(found(mixed, **wanted, status=status)) for status in STATUSES} == {
        status: walked[status] for status in STATUSES
    }


@pytest.mark.parametrize("status", [None, "failed", "completed", "unfinished"])
def test_a_list_goes_on_after_a_rank(mixed: Snapshot, status: str | None) -> None:
    whole = list(select(mixed, Filter(status=status), NOW).entries)
    for number, each in enumerate(whole):
        assert list(select(mixed, Filter(status=status), NOW, each.rank).entries) == whole[number + 1 :]


# What there is to choose from.


def test_choices_are_counted(mixed: Snapshot) -> None:
    there = choices(mixed)
    assert there.environments == (("empty", 0), ("production", 5), ("staging", 1))
    assert there.groups == (("default", 5), ("nightly", 1))
    assert there.names == (("objects.set", 2), ("unknown", 2), ("users.identify", 2))
    assert there.states == (("pending", 1), ("processing", 2), ("completed", 1), ("failed", 1), ("lost", 1))


def test_choices_are_bounded_and_the_most_frequent_stay() -> None:
    often, rare = ids(2 * CHOICES_MOST), ids(CHOICES_MOST, seed=1)
    shown = snapshot(
        *(tracked(each, group=f"often-{number % CHOICES_MOST}") for number, each in enumerate(often)),
        *(tracked(each, group=f"rare-{number}") for number, each in enumerate(rare)),
    )
    groups = choices(shown).groups
    assert len(groups) == CHOICES_MOST
    assert {each.operations for each in groups} == {2}
    assert list(groups) == sorted(groups)
    assert choices(NOTHING_SHOWN).groups == ()
    assert FilterOption("a", 1) == ("a", 1)


def calls(count: int) -> int:
    """Count the calls, also of built-in functions, that looking through so many operations takes."""
    shown = snapshot(*(tracked(each, running(each)) for each in ids(count)))
    counted = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        list(select(shown, Filter(status="unfinished", name="users.identify", id="-"), NOW).entries)
        choices(shown)
    finally:
        sys.setprofile(None)
    return counted


def test_the_work_grows_with_the_operations_and_no_faster() -> None:
    assert calls(4000) < 10.5 * calls(400)
    assert calls(4000) < 30 * 4000


# What follows from one operation.


def entry(history: History = History(), **changes: Any) -> Entry:  # noqa: B008 - it is frozen
    known = running(A, **{"rows_processed": 40, "rows_estimated": 100} | changes.pop("known", {}))
    return entry_of(tracked(A, known, **{"up": True} | changes), history)


def moving(rows: int = 10) -> History:
    history = plotted(History(), WALL - 20, running(A, rows_processed=20))
    return plotted(history, WALL - 10, running(A, rows_processed=20 + rows))


@pytest.mark.parametrize(
    ("shown", "share", "speed", "left"),
    [
        (entry(moving()), 0.4, 1.0, 60.0),
        (entry(moving(0)), 0.4, 0.0, None),
        (entry(), 0.4, None, None),
        (entry(moving(), up=False), 0.4, 1.0, None),
        (entry(moving(), known={"status": Status.COMPLETED}), 0.4, None, None),
        (entry(moving(), known={"status": Status.QUEUED}), 0.4, None, None),
        (entry(moving(), known={"rows_estimated": 0}), None, 1.0, None),
        (entry(moving(), known={"rows_estimated": None}), None, 1.0, None),
        (entry(moving(), known={"rows_estimated": 39}), None, 1.0, None),
        (entry(moving(), known={"rows_processed": None}), None, 1.0, None),
        (entry(moving(), known={"rows_processed": 100}), 1.0, 1.0, 0.0),
        (entry_of(tracked(A), moving()), None, None, None),
    ],
)
def test_what_cannot_be_known_is_not_told(
    shown: Entry, share: float | None, speed: float | None, left: float | None
) -> None:
    assert (facts.progress(shown), facts.rate(shown, NOW), facts.time_left(shown, NOW)) == (share, speed, left)
    late = NOW._replace(mono=NOW.mono + 1e6)
    assert (facts.rate(shown, late), facts.time_left(shown, late)) == (None, None), "old news"


def test_the_next_poll_is_told_on_the_wall_clock() -> None:
    assert facts.next_poll(entry(due=NOW.mono + 5), NOW) == WALL + 5
    assert facts.next_poll(entry(due=NOW.mono - 5), NOW) == WALL - 5
    assert facts.next_poll(entry(due=None), NOW) is None


def test_the_age_counts_from_knocks_time_or_ours_and_is_never_negative() -> None:
    assert facts.age(entry(), NOW) == 500
    assert facts.age(entry_of(tracked(A)), NOW) == 100
    assert facts.age(entry(known={"inserted_at": WALL + 9}), NOW) == 0


def test_what_ended_is_not_stale() -> None:
    late = Moment(NOW.mono + 1e6, NOW.wall)
    assert [facts.stale(entry(), at) for at in (NOW, late)] == [False, True]
    assert not facts.stale(entry(known={"status": Status.COMPLETED}), late)
    assert not facts.stale(entry(lost=True), late)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (SourceKey(SourceKind.CONFIG), ""),
        (SourceKey(SourceKind.FILES, "/etc/ids@home?.txt"), "/etc/ids@home?.txt"),
        (
            SourceKey(SourceKind.HTTP, "https://me:secret@app.example:8443/ids?key=secret#x"),
            "https://app.example:8443/ids",
        ),
        (SourceKey(SourceKind.HTTP, "http://[::1]:80/"), "http://[::1]:80/"),
    ],
)
def test_a_source_is_named_without_its_secrets(source: SourceKey, name: str) -> None:
    assert facts.source_name(source) == name


# The thread.


def test_the_work_is_done_in_another_thread_and_what_it_raises_comes_back() -> None:
    async def both() -> int:
        worker = Worker("pages", "busy")
        with pytest.raises(ZeroDivisionError):
            await worker.run_bounded(lambda: 1 // 0)
        return await worker.run_bounded(threading.get_ident)

    assert asyncio.run(both()) != threading.get_ident()


def test_no_more_than_a_few_wait_and_who_leaves_counts_until_it_is_done() -> None:
    gate = threading.Event()

    async def crowd() -> tuple[Refusal, int]:
        worker = Worker("pages", "too many wait")
        tasks = [asyncio.create_task(worker.run_bounded(lambda: gate.wait(10))) for _ in range(WAITING_MOST + 1)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        with pytest.raises(Refusal) as refused:
            await worker.run_bounded(int)
        gate.set()
        await asyncio.gather(*tasks[1:])
        return refused.value, await worker.run_bounded(lambda: 5)

    refusal, after = asyncio.run(crowd())
    assert (refusal.status, refusal.headers, refusal.reason) == (503, {"Retry-After": "1"}, "busy")
    assert (str(refusal), after) == ("too many wait", 5)
