"""Which operations have series of their own, and which label values are let in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model import LATE, WALL, Model, environment, ids, running

from exporter.config import Config, ListedOperation, Polling
from exporter.config.settings import GROUPS_MOST
from exporter.errors import NotFound
from exporter.operation import Operation, OperationKey, Status
from exporter.tracking import exposure, transitions
from exporter.tracking.exposure import CardinalityLimit, Rank, TopN, hidden_at, is_label_value, rank
from exporter.tracking.transitions import Circumstances, Moment, Tracked

if TYPE_CHECKING:
    from exporter.config import PerOperation
    from exporter.errors import KnockError
    from exporter.tracking.messages import PollRequest

A, B, C, D = ids(4)
NOW = Moment(1000.0, WALL)
POLLING = Polling()
E = {"knock_environment": "production"}
NEVER = float("inf")


def tracked(operation_id: str = A, **fields: object) -> Tracked:
    new = transitions.newly_tracked(OperationKey("production", operation_id), "default", (), NOW, POLLING)
    at = Circumstances(NOW, 1.0, POLLING, WALL, trusted=True)
    return transitions.succeeded(new, running(operation_id, **fields), at) if fields else new


# Rank.


def test_unfinished_come_first_then_failed_then_the_newest() -> None:
    by_rank = [
        tracked(status=Status.PROCESSING, inserted_at=WALL - 10),
        tracked(status=Status.UNKNOWN, inserted_at=WALL - 20),
        tracked(status=Status.QUEUED, inserted_at=WALL - 30),
        tracked(status=Status.FAILED, inserted_at=WALL - 900),
        tracked(status=Status.COMPLETED, inserted_at=WALL - 40),
        tracked(status=Status.COMPLETED, inserted_at=WALL - 50, errors=9),
    ]
    assert sorted(by_rank[3:] + by_rank[:3], key=rank) == by_rank


def test_what_was_never_answered_ranks_by_its_hand_over() -> None:
    older = tracked(status=Status.PROCESSING, inserted_at=WALL - 1)
    newer = tracked(status=Status.PROCESSING, inserted_at=WALL + 1)
    assert sorted([older, tracked(), newer], key=rank) == [newer, tracked(), older]


# The top N.

RANKS = st.one_of(st.none(), st.tuples(st.integers(0, 2), st.integers(0, 3)))
MOVES = st.lists(st.tuples(st.sampled_from("abcdefgh"), RANKS), max_size=60)


@given(st.integers(0, 5), MOVES)
def test_the_top_n_shows_the_first_by_rank_and_tells_each_change(
    limit: int, moves: list[tuple[str, tuple[int, int] | None]]
) -> None:
    top_n, placed, shown = TopN(limit), dict[str, Rank](), set[str]()
    for name, where in moves:
        before, place = placed.pop(name, None), Rank(*where, name, "production") if where is not None else None
        if place is not None:
            placed[name] = place
        moved = top_n.move(before, place)
        now_shown = {each.id for each in sorted(placed.values())[:limit]}
        assert {each for each in "abcdefgh" if top_n.shows(placed.get(each))} == now_shown
        assert top_n.shown == len(now_shown)
        assert shown ^ now_shown <= {name, *moved}
        shown = now_shown


# Modes.

CLEAN = tracked(status=Status.COMPLETED)
BROKEN = tracked(status=Status.COMPLETED, error_items=1)
FAILED = tracked(status=Status.FAILED)
LOST = tracked(status=Status.PROCESSING)._replace(lost=True)


@pytest.mark.parametrize(
    ("mode", "operation", "when"),
    [
        ("all", tracked(), NEVER),
        ("all", CLEAN, NEVER),
        ("all", LOST, -NEVER),
        ("active", tracked(), NEVER),
        ("active", CLEAN, 1900),
        ("active", BROKEN, NEVER),
        ("active", FAILED, NEVER),
        ("active", LOST, -NEVER),
        ("none", tracked(), -NEVER),
        ("none", FAILED, -NEVER),
    ],
)
def test_modes_hide(mode: str, operation: Tracked, when: float) -> None:
    assert hidden_at(operation, mode) == when


ENDS: dict[str, dict[str, object]] = {
    A: {"status": Status.COMPLETED},
    B: {"status": Status.COMPLETED, "errors": 2},
    C: {"status": Status.FAILED},
    D: {"status": Status.PROCESSING},
}


def ended(request: PollRequest, _now: Moment) -> Operation:
    return running(request.id, **ENDS.get(request.id, {}))


def shown(model: Model) -> set[str]:
    text = model.metrics()
    return {each for each in (A, B, C, D) if f'operation_id="{each}"' in text}


@pytest.mark.parametrize(
    ("mode", "early", "late"),
    [("all", {A, B, C, D}, {A, B, C, D}), ("active", {A, B, C, D}, {B, C, D}), ("none", set(), set())],
)
def test_active_hides_clean_ones_after_a_quarter_of_an_hour(
    mode: PerOperation, early: set[str], late: set[str]
) -> None:
    model = Model(Config((environment(operations=[A, B, C, D], per_operation=mode),)), ended)
    model.run(895)
    assert shown(model) == early
    assert model.value("knock_exporter_operations_not_exposed", **E) == 4 - len(early)
    model.run(5 + LATE)
    assert shown(model) == late
    assert model.value("knock_exporter_operations_not_exposed", **E) == 4 - len(late)
    assert model.value("knock_bulk_operations", status="completed") == 2, "sums know no modes"


def test_active_shows_failed_ones_and_those_with_errors_for_their_whole_retention() -> None:
    model = Model(Config((environment(per_operation="active", retention=1000.0),)), ended)
    model.register(A, B, C)
    model.run(7 * 1000)
    assert shown(model) == {B, C}
    model.run(5 + LATE)
    assert shown(model) == set()


def test_the_limit_shows_unfinished_then_failed_ones_and_counts_the_rest() -> None:
    model = Model(Config((environment(operations=[A, B, C, D], per_operation_limit=2),)), ended)
    model.run(5)
    assert shown(model) == {C, D}
    assert model.value("knock_exporter_operations_not_exposed", **E) == 2


def test_a_free_slot_is_taken_by_the_next() -> None:
    def knock(request: PollRequest, now: Moment) -> Operation | KnockError:
        if request.id != D:
            return ended(request, now)
        return running(D) if now.mono < 1003 else running(D, status=Status.COMPLETED, inserted_at=WALL - 9999)

    model = Model(Config((environment(operations=[A, C, D], per_operation_limit=2),)), knock)
    model.run(2)
    assert shown(model) == {C, D}
    model.run(10)
    assert shown(model) == {C, A}


def test_a_lost_operation_is_neither_shown_nor_counted_as_hidden() -> None:
    missing = NotFound("404", code=404, accepted_key=True)
    model = Model(
        Config((environment(operations=[A, B]),)),
        lambda request, now: missing if request.id == B else ended(request, now),
    )
    model.run(26 * 3600)
    assert shown(model) == {A}
    assert model.samples("knock_bulk_operation_up", operation_id=B) == []
    assert model.value("knock_exporter_operations", **E) == 2
    assert model.value("knock_exporter_operations_not_exposed", **E) == 0


STATUSES = st.lists(
    st.tuples(st.sampled_from([A, B, C, D]), st.sampled_from(list(Status)), st.sampled_from([0, 9])), max_size=12
)


@settings(max_examples=40)
@given(st.sampled_from(["all", "active", "none"]), st.integers(1, 4), STATUSES)
def test_what_metrics_shows_is_what_a_sort_would_show(
    mode: PerOperation, limit: int, steps: list[tuple[str, Status, int]]
) -> None:
    told = dict.fromkeys((A, B, C, D), (Status.PROCESSING, 0))
    model = Model(
        Config((environment(operations=[A, B, C, D], per_operation=mode, per_operation_limit=limit),)),
        lambda request, _now: running(request.id, status=told[request.id][0], errors=told[request.id][1]),
    )
    for name, status, errors in steps:
        told[name] = (status, errors)
        model.run(15)
        kept = [each.tracked for each in model.views[-1].snapshot.order if hidden_at(each.tracked, mode) > model.mono]
        assert shown(model) == {each.key.id for each in sorted(kept, key=rank)[:limit]}


# Which label values are let in.


def test_the_first_stay_admitted_and_the_rest_is_other() -> None:
    names = CardinalityLimit(2)
    assert [names.admit(each) for each in ("a", "b", "c", "a", "b", "c", "other")] == [
        "a", "b", "other", "a", "b", "other", "other",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("users.identify", True),
        ("käse 🧀", True),
        ('quotes " and \\ too', True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("ä" * 64, True),
        ("ä" * 65, False),
        ("two\nlines", False),
        ("bell\x07", False),
        ("\x00", False),
        ("\x85", False),
        ("\u202eright to left", False),
        ("\ud800", False),
        ("\udfffx", False),
    ],
)
def test_label_values_are_short_and_printable(text: str, fits: object) -> None:
    assert is_label_value(text) is fits
    assert CardinalityLimit(1).admit(text) == (text if fits else "other")


@given(st.text())
def test_whatever_is_admitted_can_be_written(text: str) -> None:
    admitted = CardinalityLimit(1).admit(text)
    assert len(admitted.encode()) <= 128
    assert admitted in (text, "other")


def test_groups_and_names_are_bounded_and_what_is_folded_is_counted() -> None:
    operations = ids(120, seed=5)
    listed = tuple(ListedOperation(each, f"group {number}") for number, each in enumerate(operations))
    model = Model(
        Config((replace(environment(rate_limit=200.0), operations=listed),)),
        lambda request, _now: running(request.id, name=f"name {operations.index(request.id)}"),
    )
    model.run(12)
    assert min(len(model.times(each)) for each in operations) > 1
    text = model.metrics()
    aggregates = {line for line in text.splitlines() if line.startswith("knock_bulk_operations_stale{")}
    groups = {line.split('group="')[1].split('"')[0] for line in aggregates}
    names = {line.split('name="')[1].split('"')[0] for line in aggregates}
    assert groups == {f"group {number}" for number in range(GROUPS_MOST)} | {"other"}
    assert len(names) == exposure.NAMES_MOST + len({"other", "unknown"})
    assert model.value("knock_exporter_label_values_folded_total", label="group", **E) == 20
    assert model.value("knock_exporter_label_values_folded_total", label="name", **E) == 70, "once an operation"
