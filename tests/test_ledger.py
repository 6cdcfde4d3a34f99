"""Counters that never count twice, and sums that are kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model import WALL, Model, environment, ids, running
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as TheirHistogram

from exporter.config import Config, ListedOperation, Polling
from exporter.errors import KnockError, NotFound, Reason, Unreachable
from exporter.metrics.exposition import Format, encode_labels, knock_part, render, stale_part
from exporter.metrics.families import PER_NAME, aggregate_labels, histogram_samples
from exporter.operation import UNKNOWN_NAME, Operation, OperationKey, Status
from exporter.tracking import transitions
from exporter.tracking.ledger import (
    QUEUE_BUCKETS,
    RUN_BUCKETS,
    Aggregate,
    GroupAggregate,
    Growth,
    Histogram,
    Ordered,
    contribution_of,
    ended_now,
    grow,
)
from exporter.tracking.transitions import NO_MARKS, STATES, Circumstances, Marks, Moment, Tracked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.metrics.exposition import View
    from exporter.tracking.messages import PollRequest

(A,) = ids(1)
KEY = OperationKey("production", A)
POLLING = Polling()
COUNTS = st.one_of(st.none(), st.integers(0, 50))


def at(seconds: float) -> Circumstances:
    return Circumstances(Moment(1000.0 + seconds, WALL + seconds), 1.0, POLLING, WALL, trusted=True)


NEW = transitions.newly_tracked(KEY, "default", (), at(0).now, POLLING)


# Growth.


@given(answers=st.lists(st.tuples(COUNTS, COUNTS, COUNTS), max_size=30), from_birth=st.booleans())
def test_what_is_counted_is_the_growth_of_the_highest_value(
    answers: list[tuple[int | None, int | None, int | None]], *, from_birth: bool
) -> None:
    marks, totals = NO_MARKS, [0, 0, 0]
    for processed, successes, errors in answers:
        operation = running(A, rows_processed=processed, successes=successes, errors=errors)
        marks, growth = grow(marks, operation, from_birth=from_birth)
        assert min(growth) >= 0
        totals = [total + more for total, more in zip(totals, growth, strict=True)]
    for column, (total, mark) in enumerate(zip(totals, marks, strict=True)):
        known = [value for answer in answers if (value := answer[column]) is not None]
        assert mark == max(known, default=None)
        least = 0 if from_birth or not known else known[0]
        assert total == max(known, default=0) - least


def test_a_first_value_counts_only_from_birth() -> None:
    operation = running(A, rows_processed=7, successes=None, errors=2)
    assert grow(NO_MARKS, operation, from_birth=True) == (Marks(7, None, 2), Growth(7, 0, 2))
    assert grow(NO_MARKS, operation, from_birth=False) == (Marks(7, None, 2), Growth(0, 0, 0))


def test_a_value_that_falls_and_rises_again_is_not_counted_twice() -> None:
    marks = Marks(10, 10, 0)
    marks, fallen = grow(marks, running(A, rows_processed=4, successes=4), from_birth=True)
    marks, risen = grow(marks, running(A, rows_processed=12, successes=9), from_birth=True)
    assert (fallen, risen, marks) == (Growth(), Growth(2, 0, 0), Marks(12, 10, 0))


# Ends.


def after(before: Tracked, seconds: float = 1, **fields: object) -> Tracked:
    return transitions.succeeded(before, running(A, **fields), at(seconds))


def test_an_end_counts_if_it_was_seen_or_is_ours_from_birth() -> None:
    live = after(NEW)
    done = after(live, 9, status=Status.COMPLETED)
    found = after(NEW, status=Status.FAILED)
    ours = after(NEW, 100, status=Status.FAILED, inserted_at=WALL + 90)
    assert ended_now(live, done)
    assert not ended_now(NEW, found), "its end may have been counted by another process"
    assert ended_now(NEW, ours)
    assert not ended_now(done, done), "once"
    assert not ended_now(NEW, live)


# Ordered.


@given(st.lists(st.tuples(st.booleans(), st.floats(-1e9, 1e9)), max_size=60))
def test_an_ordered_multiset_is_a_sorted_list(steps: list[tuple[bool, float]]) -> None:
    ordered, naive = Ordered(), list[float]()
    for removes, value in steps:
        if removes and naive:
            ordered.remove(naive.pop(len(naive) // 2))
        else:
            ordered.add(value)
            naive.append(value)
        assert list(ordered.frozen()) == sorted(naive)
        assert (ordered.least, ordered.most) == (min(naive, default=None), max(naive, default=None))


def test_a_number_never_added_is_not_taken_out() -> None:
    ordered = Ordered()
    ordered.add(1.0)
    with pytest.raises(ValueError, match=r"^2\.0 was never added"):
        ordered.remove(2.0)


def test_a_frozen_copy_stays() -> None:
    ordered = Ordered()
    ordered.add(1.0)
    frozen = ordered.frozen()
    ordered.add(2.0)
    assert list(frozen) == [1.0]


# Histograms.


@given(st.lists(st.one_of(st.floats(0, 1e6), st.sampled_from(QUEUE_BUCKETS)), max_size=30))
def test_a_histogram_is_what_prometheus_client_makes_of_it(durations: list[float]) -> None:
    ours, registry = Histogram(QUEUE_BUCKETS), CollectorRegistry()
    theirs = TheirHistogram("h", "", buckets=QUEUE_BUCKETS, registry=registry)
    for each in durations:
        ours.observe(each)
        theirs.observe(each)
    (family,) = registry.collect()
    expected = [
        (sample.name, "".join(f',{name}="{value}"' for name, value in sample.labels.items()), sample.value)
        for sample in family.samples
        if sample.name != "h_created"
    ]
    assert [(f"h{suffix}", labels, value) for suffix, labels, value in histogram_samples(ours)] == expected


@pytest.mark.parametrize("bounds", [QUEUE_BUCKETS, RUN_BUCKETS])
def test_bounds_ascend(bounds: tuple[int, ...]) -> None:
    assert all(a < b for a, b in pairwise(bounds))


def observed(group: GroupAggregate) -> tuple[int, int, int]:
    return tuple(each.cumulative()[-1] for each in (group.queue, *group.run.values()))  # type: ignore[return-value] # three


def test_queueing_is_observed_once_when_the_start_is_seen() -> None:
    group = GroupAggregate("production", "default")
    queued = after(NEW, status=Status.QUEUED)
    started = after(queued, 2, started_at=WALL - 400)
    assert not group.observe(NEW, queued)
    assert group.observe(queued, started)
    assert not group.observe(started, after(started, 3, started_at=WALL - 400))
    assert (observed(group), group.queue.total) == ((1, 0, 0), 100)


def test_a_start_time_that_comes_and_goes_is_observed_once() -> None:
    group = GroupAggregate("production", "default")
    steps = [NEW]
    for seconds, started_at in enumerate((None, WALL - 400, None, WALL - 400, None, WALL - 300)):
        steps.append(after(steps[-1], seconds, started_at=started_at))
    for before, later in pairwise(steps):
        group.observe(before, later)
    assert observed(group) == (1, 0, 0)


def test_what_was_started_when_found_is_observed_only_from_birth() -> None:
    group = GroupAggregate("production", "default")
    assert not group.observe(NEW, after(NEW, started_at=WALL - 400))
    assert group.observe(NEW, after(NEW, 200, inserted_at=WALL + 100, started_at=WALL + 101))
    assert (observed(group), group.queue.total) == ((1, 0, 0), 1)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_the_run_is_observed_once_with_its_end(status: Status) -> None:
    group = GroupAggregate("production", "default")
    live = after(NEW, started_at=WALL)
    end = {"completed_at" if status is Status.COMPLETED else "failed_at": WALL + 60}
    done = after(live, 70, status=status, started_at=WALL, **end)
    assert group.observe(live, done)
    assert not group.observe(done, done)
    assert group.run[str(status)].total == 60
    assert sum(observed(group)) == 1


def test_the_histograms_of_a_group_begin_at_0_with_its_first_operation() -> None:
    model = Model(
        Config((environment(operations=[A]),)), lambda request, _now: running(request.id), latency=lambda _request: 9.0
    )
    model.run(1)
    names = ("queue_duration_seconds_count", "run_duration_seconds_count")
    assert [model.value(f"knock_bulk_operations_{name}", group="default") for name in names] == [0, 0]


def test_an_end_before_the_start_is_not_observed() -> None:
    group = GroupAggregate("production", "default")
    live = after(NEW, started_at=WALL)
    assert not group.observe(live, after(live, 2, status=Status.FAILED, started_at=WALL, failed_at=WALL - 1))
    assert observed(group) == (0, 0, 0)


# Shares and aggregates.


def test_an_operation_never_answered_adds_its_hand_over_only() -> None:
    got = contribution_of(NEW)
    assert got == ("pending", False, True, 0, 0, 0, None, WALL, None, 1075)


def test_a_lost_operation_adds_nothing_but_itself_and_that_it_has_errors() -> None:
    lost = after(NEW, rows_processed=5, errors=2)._replace(lost=True, due=None)
    assert contribution_of(lost) == ("lost", True, False, 0, 0, 0, None, None, None, None)


def test_a_finished_operation_adds_to_the_tracked_sums_only() -> None:
    done = after(after(NEW), 5, status=Status.COMPLETED, rows_processed=8, rows_estimated=9, errors=1)
    assert contribution_of(done) == ("completed", True, False, 8, 9, 1, None, None, None, None)
    aggregate = Aggregate("production", "default", "users.identify")
    aggregate.exchange(None, contribution_of(done))
    assert (aggregate.active_processed, aggregate.active_estimated) == (0, 0)
    assert (aggregate.all_processed, aggregate.all_estimated, aggregate.all_errors) == (8, 9, 1)


def test_an_unfinished_operation_adds_to_both_sums() -> None:
    aggregate = Aggregate("production", "default", "users.identify")
    aggregate.exchange(None, contribution_of(after(NEW, rows_processed=8, rows_estimated=9)))
    assert (aggregate.active_processed, aggregate.active_estimated) == (8, 9)
    assert (aggregate.all_processed, aggregate.all_estimated) == (8, 9)


FIELDS = st.fixed_dictionaries(
    {
        "status": st.sampled_from([*Status, Status.PROCESSING, Status.QUEUED]),
        "name": st.sampled_from([UNKNOWN_NAME, "users.identify", "users.delete"]),
        "rows_processed": COUNTS,
        "rows_estimated": COUNTS,
        "errors": COUNTS,
        "error_items": COUNTS,
        "inserted_at": st.sampled_from([None, WALL - 500, WALL + 500]),
        "started_at": st.sampled_from([None, WALL - 400]),
        "completed_at": st.sampled_from([None, WALL - 300]),
        "failed_at": st.sampled_from([None, WALL - 200]),
    }
)
ERRORS: list[KnockError] = [NotFound("404", code=404), Unreachable(Reason.TIMEOUT, "slow")]
STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(FIELDS, st.sampled_from(ERRORS)), st.sampled_from([0.0, 20.0, 700.0])),
    max_size=12,
)


def gauges(aggregate: Aggregate) -> tuple[object, ...]:
    kept = (aggregate.inserted, aggregate.last_success, aggregate.processing_change, aggregate.stale_at)
    return (
        dict(aggregate.tracked),
        aggregate.completed_with_errors,
        (aggregate.active_processed, aggregate.active_estimated),
        (aggregate.all_processed, aggregate.all_estimated, aggregate.all_errors),
        [list(each.frozen()) for each in kept],
    )


@settings(max_examples=40)
@given(STEPS)
def test_kept_sums_are_what_adding_up_anew_would_give(
    steps: list[tuple[int, dict[str, object] | KnockError, float]],
) -> None:
    operations, told = ids(4), dict[str, dict[str, object] | KnockError]()

    def knock(request: PollRequest, _now: Moment) -> Operation | KnockError:
        what = told.get(request.id, {})
        return running(request.id, **what) if isinstance(what, dict) else what

    listed = tuple(ListedOperation(each, f"group {number % 2}") for number, each in enumerate(operations))
    watched = environment(polling=Polling(processing=30.0, queued=30.0, slowest=300.0, not_found_after=600.0))
    model = Model(Config((replace(watched, operations=listed),)), knock)
    model.run(1)
    for number, what, seconds in steps:
        told[operations[number]] = what
        model.run(seconds)
    model.run(1)
    assert_sums(model.views[-1])


def assert_sums(view: View) -> None:
    followed = [each.tracked for each in view.snapshot.order]
    rebuilt: dict[tuple[str, str], Aggregate] = {}
    for each in followed:
        place = (each.group, each.operation.name if each.operation else UNKNOWN_NAME)
        rebuilt.setdefault(place, Aggregate("production", *place)).exchange(None, contribution_of(each))
    shown = b"".join(knock_part(view, Format.TEXT)).decode()
    sums = range(9)  # the levels and minima; the families after them remember what was
    for aggregate in rebuilt.values():
        lines = render(PER_NAME, encode_labels(aggregate_labels(aggregate)), aggregate)
        assert all(lines[index].decode() in shown for index in sums)
    total = sum(
        float(line.rpartition(" ")[2]) for line in shown.splitlines() if line.startswith("knock_bulk_operations{")
    )
    assert total == len(followed) == 4
    stale = [line for line in stale_part(view, Format.TEXT, 1e12).decode().splitlines() if "{" in line]
    assert sum(float(line.rpartition(" ")[2]) for line in stale) == sum(each.active for each in followed)


@given(st.lists(FIELDS, max_size=12), st.integers(0, 11))
def test_what_is_taken_away_leaves_no_trace(records: list[dict[str, object]], kept: int) -> None:
    shares = [contribution_of(after(NEW, number, **fields)) for number, fields in enumerate(records)]
    aggregate, alone = Aggregate("e", "g", "n"), Aggregate("e", "g", "n")
    for each in shares:
        aggregate.exchange(None, each)
    for number, each in enumerate(shares):
        if number == kept:
            alone.exchange(None, each)
        else:
            aggregate.exchange(each, None)
    assert gauges(aggregate) == gauges(alone)


# What an aggregate counts.


def test_an_end_is_counted_by_how_it_ended() -> None:
    aggregate = Aggregate("e", "g", "n")
    aggregate.count_end(after(NEW, status=Status.FAILED, errors=1))
    aggregate.count_end(after(NEW, status=Status.COMPLETED))
    aggregate.count_end(after(NEW, status=Status.COMPLETED, error_items=3))
    assert aggregate.finished == {"completed": 2, "failed": 1}
    assert aggregate.finished_with_errors == 2


def test_ends_are_dated_by_knock_and_by_when_they_were_seen() -> None:
    aggregate = Aggregate("e", "g", "n")
    aggregate.note_final(after(NEW, 10, status=Status.FAILED, failed_at=WALL - 50))
    aggregate.note_final(after(NEW, 20, status=Status.FAILED, failed_at=WALL - 99))
    aggregate.note_final(after(NEW, 30, status=Status.COMPLETED, completed_at=WALL - 7))
    assert (aggregate.last_failed, aggregate.last_failed_seen) == (WALL - 50, WALL + 20)
    assert (aggregate.last_completed, aggregate.last_completed_with_errors_seen) == (WALL - 7, None)
    aggregate.note_final(after(NEW, 40, status=Status.COMPLETED, completed_at=WALL - 9, errors=1))
    assert (aggregate.last_completed, aggregate.last_completed_with_errors_seen) == (WALL - 7, WALL + 40)


def test_an_end_without_a_date_is_seen_all_the_same() -> None:
    aggregate = Aggregate("e", "g", "n")
    aggregate.note_final(transitions.succeeded(NEW, Operation(A, Status.FAILED), at(10)))
    assert (aggregate.last_failed, aggregate.last_failed_seen) == (None, WALL + 10)


def test_every_state_has_its_place() -> None:
    assert STATES == ("pending", "queued", "processing", "completed", "failed", "unknown", "lost")


# Names.


def answered(answers: Iterator[dict[str, object]]) -> Model:
    """Return a model of an operation that was answered so, and then as in the last of them."""
    last: dict[str, object] = {}

    def knock(request: PollRequest, _now: Moment) -> Operation:
        last.update(next(answers, {}))
        return running(request.id, **last)

    model = Model(Config((environment(operations=[A]),)), knock)
    model.run(60)
    return model


def test_a_known_name_stays() -> None:
    model = answered({"name": each} for each in (UNKNOWN_NAME, "users.identify", UNKNOWN_NAME, "users.delete"))
    assert model.value("knock_bulk_operation_info", name="users.identify") == 1
    assert model.value("knock_bulk_operation_info") == 1


def test_growth_belongs_to_the_current_name() -> None:
    told = ((UNKNOWN_NAME, 5), (UNKNOWN_NAME, 7), ("users.identify", 10))
    model = answered({"name": name, "rows_processed": rows} for name, rows in told)
    assert model.value("knock_bulk_operations_rows_processed_total", name=UNKNOWN_NAME) == 2
    assert model.value("knock_bulk_operations_rows_processed_total", name="users.identify") == 3
