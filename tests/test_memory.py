"""What outlives a restart, and what waits until it is on disk: in virtual time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from model import KEY, SELDOM, WALL, Disk, Model, environment, ids, running
from test_intake import DAY, E, finished, knock_of, missing, registration, shown

from exporter.config import Config, ListedOperation, Polling
from exporter.keys import Secret
from exporter.operation import OperationKey, Status
from exporter.tracking.cycle import COMMIT_SECONDS, CYCLE_SECONDS
from exporter.tracking.messages import Reconfigure, Registration, ReleaseResult, Stop, Taken
from exporter.tracking.tombstones import KEPT_SECONDS

if TYPE_CHECKING:
    from exporter.errors import KnockError
    from exporter.operation import Operation

A, B, C, D, F = ids(5, seed=11)
TOTAL = "knock_bulk_operations_rows_processed_total"


def model_of(records: dict[str, Operation | KnockError] | None = None, **settings: object) -> Model:
    config = Config((environment("production", **settings),))  # type: ignore[arg-type] # the tests name fields that exist
    return Model(config, knock_of(records if records is not None else {}), disk=Disk())


def started(model: Model) -> Model:
    """Let the first commit be done."""
    model.run(1)
    return model


def followed(model: Model) -> set[str]:
    return {each.tracked.key.id for each in model.views[-1].snapshot.order}


def total(model: Model) -> float | None:
    return model.value(TOTAL, **E)


# Answers and views wait for the commit.


def test_a_registration_is_answered_after_its_commit() -> None:
    model = started(model_of())
    assert model.disk is not None
    model.disk.slow = True
    answers = model.register(A)
    model.run(0.2)
    assert answers == []
    assert [list(each.operations) for each in model.disk.changes] == [[OperationKey("production", A)]]
    model.disk.slow = False
    model.run(0.01)
    assert (answers[0].taken, answers[0].durable, answers[0].saved) == ((Taken(A, "pending"),), True, True)


def test_a_registration_does_not_wait_for_the_next_group() -> None:
    model = started(model_of())
    model.register(A)
    before = model.mono
    answers = model.register(B)
    model.run(0.001)
    assert answers[0].saved
    assert model.mono - before < CYCLE_SECONDS


def test_what_could_not_be_committed_is_said_so_and_tried_again() -> None:
    model = started(model_of())
    assert model.disk is not None
    model.disk.broken = True
    answers, released = model.register(A), model.release(A)
    model.run(1)
    assert not answers[0].saved
    assert released == [ReleaseResult(known=True, durable=True, saved=False)]
    assert (model.value("knock_exporter_state_write_failures_total") or 0) >= 1
    model.register(B)
    model.run(10)
    assert shown(model) == {B}  # polled and shown all the same
    model.disk.broken = False
    model.run(5)
    assert {key.id for key in model.disk.memory.operations} == {B}
    assert model.value("knock_exporter_state_last_write_timestamp_seconds") == pytest.approx(model.now.wall, abs=5)


def test_without_a_store_nothing_waits_and_nothing_is_durable() -> None:
    model = Model(Config((environment(),)), knock_of({}))
    answer = model.register(A)[0]
    assert (answer.durable, answer.saved) == (False, True)
    model.run(1)
    assert model.value("knock_exporter_state_last_write_timestamp_seconds") is None


def test_growth_is_shown_only_once_its_mark_is_on_disk() -> None:
    records: dict[str, Operation | KnockError] = {A: running(A, rows_processed=10, inserted_at=WALL + 1)}
    model = started(model_of(records))
    assert model.disk is not None
    model.register(registration(A))
    model.run(30)
    assert total(model) == 10
    records[A] = running(A, rows_processed=25)
    model.disk.slow = True
    model.run(4)
    assert total(model) == 10
    model.disk.slow = False
    model.run(0.1)
    assert total(model) == 25
    marks = model.disk.memory.operations[OperationKey("production", A)].tracked.marks
    assert marks.processed == 25


def test_a_disk_that_hangs_does_not_hold_views_for_ever() -> None:
    model = started(model_of(operations=[A]))
    assert model.disk is not None
    model.run(5)
    model.disk.slow = True
    model.register(B)
    model.run(COMMIT_SECONDS + 2)
    assert shown(model) == {A, B}
    views = len(model.views)
    model.disk.slow = False
    model.run(0.05)
    assert shown(model) == {A, B}
    assert len(model.views) - views <= 2


def test_the_last_view_is_shown_too_though_nothing_changes_while_its_commit_hangs() -> None:
    records: dict[str, Operation | KnockError] = {A: running(A, rows_processed=10)}
    model = started(model_of(records, operations=[A], polling=Polling(processing=60.0)))
    assert model.disk is not None
    model.run(5)
    model.disk.slow = True
    records[A] = running(A, rows_processed=25)
    while not model.disk.changes:
        model.run(1)
    model.run(COMMIT_SECONDS)
    model.run(1)
    assert model.value("knock_bulk_operation_rows_processed") == 25


@pytest.mark.parametrize("kept", [False, True])
def test_cycles_are_a_quarter_of_a_second_apart(*, kept: bool) -> None:
    listed = environment(operations=ids(200, seed=3), rate_limit=100.0, max_in_flight=64)
    model = Model(Config((listed,)), knock_of({}), disk=Disk() if kept else None)
    shown_at = []
    for _ in range(3000):
        before = len(model.views)
        model.run(0.01)
        shown_at += [model.mono] * (len(model.views) - before)
    gaps = [later - earlier for earlier, later in pairwise(shown_at[1:])]
    assert min(gaps) >= CYCLE_SECONDS - 0.011
    assert sorted(gaps)[len(gaps) // 2] <= CYCLE_SECONDS + 0.05


def test_what_changes_while_a_commit_is_under_way_is_of_the_next_cycle() -> None:
    model = started(model_of())
    assert model.disk is not None
    model.disk.slow = True
    answers = [model.register(each) for each in (A, B, C)]
    model.run(3)
    assert [[key.id for key in each.operations] for each in model.disk.changes] == [[A]]
    model.disk.slow = False
    model.run(0.001)
    assert [{B, C} & {key.id for key in each.operations} for each in model.disk.written[-2:]] == [set(), {B, C}]
    assert all(each[0].saved for each in answers)
    assert followed(model) == {A, B, C}


@pytest.mark.parametrize("kept", [False, True])
def test_there_is_a_cycle_at_once_for_those_who_wait(*, kept: bool) -> None:
    model = started(Model(Config((environment(),)), knock_of({}), disk=Disk() if kept else None))
    for each in (A, B, C):
        answers = model.register(each)
        model.run(0.001)
        assert len(answers) == 1
        assert each in followed(model)
    released = model.release(A)
    model.run(0.001)
    assert len(released) == 1
    assert followed(model) == {B, C}
    replies: list[set[str]] = []
    config = Config((environment(operations=[D]),))
    model.tell(Reconfigure(config, {"production": KEY}, lambda: None, lambda: replies.append(followed(model))))
    model.run(0.001)
    assert replies == [{B, C, D}]


def test_a_disk_that_hangs_for_ten_seconds_loses_nothing() -> None:
    model = started(model_of(operations=[A], polling=Polling(processing=1.0)))
    assert model.disk is not None
    model.disk.slow, began, replies = True, model.mono, []
    answers = model.register(B)
    config = Config((environment("production", [A, C]),))
    model.tell(Reconfigure(config, {"production": KEY}, lambda: None, lambda: replies.append(model.mono - began)))
    model.run(COMMIT_SECONDS - 0.1)
    assert (shown(model), answers, replies) == ({A}, [], [])
    model.run(0.2)
    assert (shown(model), [each.saved for each in answers]) == ({A, B, C}, [False])
    assert replies == [5.0]
    late = model.register(D)
    model.run(5)
    assert (shown(model), [each.saved for each in late]) == ({A, B, C, D}, [False])
    model.disk.slow = False
    model.run(1)
    assert {key.id for key in model.disk.memory.operations} == {A, B, C, D}
    again = model.register(D)
    model.run(0.001)
    assert [each.saved for each in again] == [True]


def test_a_checkpoint_is_written_where_nothing_happens() -> None:
    model = model_of()
    model.run(600)
    assert model.disk is not None
    assert 9 <= len([each for each in model.disk.written if not each.operations]) <= 13


def test_the_end_flushes_and_answers() -> None:
    model = started(model_of())
    assert model.disk is not None
    model.disk.slow = True
    answers = model.register(A)
    model.tell(Stop())
    model.run(0.5)
    assert not bool(model.tracker.ended)
    model.disk.slow = False
    model.run(0.5)
    assert model.tracker.ended
    assert answers[0].saved
    assert OperationKey("production", A) in model.disk.memory.operations


def test_an_idle_tracker_ends_at_once() -> None:
    model = Model(Config((environment(),)), knock_of({}))
    model.run(5)
    model.tell(Stop())
    model.tracker.advance(model.now)
    assert model.tracker.ended


# The next process.


def test_final_operations_are_not_asked_again() -> None:
    records: dict[str, Operation | KnockError] = {A: finished(A), B: finished(B, Status.FAILED, errors=4)}
    model = model_of(records)
    model.register(A, B)
    model.run(10)
    text = [line for line in model.metrics().splitlines() if line.startswith("knock_bulk_operation_")]
    later = model.restarted()
    later.run(DAY / 2)
    assert later.times(A) == later.times(B) == []
    assert [line for line in later.metrics().splitlines() if line.startswith("knock_bulk_operation_")] == text
    assert later.value("knock_bulk_operations_last_failed_seen_timestamp_seconds") == model.value(
        "knock_bulk_operations_last_failed_seen_timestamp_seconds"
    )
    later.run(DAY / 2)
    assert shown(later) == {B}
    again = later.restarted()
    again.run(6 * DAY)
    assert shown(again) == set()


def test_no_counter_counts_twice() -> None:
    first = running(A, rows_processed=10, started_at=WALL - 50, inserted_at=WALL + 1)
    records: dict[str, Operation | KnockError] = {A: first}
    model = model_of(records)
    model.register(registration(A))
    model.run(30)
    assert total(model) == 10
    records[A] = running(A, rows_processed=30, started_at=WALL - 50)
    second = model.restarted()
    second.run(60)
    assert total(second) == 20
    assert second.value("knock_bulk_operations_queue_duration_seconds_count", **E) == 0
    records[A] = finished(A)
    third = second.restarted()
    third.run(60)
    assert total(third) == 70
    assert third.value("knock_bulk_operations_finished_total", **E) == 1
    fourth = third.restarted()
    fourth.run(60)
    assert (total(fourth), fourth.value("knock_bulk_operations_finished_total", **E)) == (0, 0)


def test_an_environment_without_operations_remembers_since_when_it_is_watched() -> None:
    records: dict[str, Operation | KnockError] = {}
    model = model_of(records)
    model.run(30)
    records[A] = running(A, rows_processed=10, inserted_at=WALL + 100)
    second = model.restarted()
    second.mono += 200
    second.register(registration(A))
    second.run(60)
    assert total(second) == 10


def test_the_end_of_the_last_operation_is_in_the_histogram_of_its_group() -> None:
    records: dict[str, Operation | KnockError] = {A: running(A, started_at=WALL - 50, inserted_at=WALL + 1)}
    model = model_of(records)
    model.register(registration(A))
    model.run(30)
    records[A] = finished(A)
    model.run(60)
    name = "knock_bulk_operations_run_duration_seconds_count"
    assert model.value(name, status="completed", **E) == 1


def test_what_was_planned_is_not_asked_sooner() -> None:
    model = model_of({A: running(A)})
    model.register(A)
    model.run(200)
    later = model.restarted(mono=model.mono)
    later.run(300)
    before, after = model.times(A)[-1], later.times(A)[0]
    assert after - before >= 5


def test_a_failure_of_the_time_between_is_dated_as_newly_seen() -> None:
    records: dict[str, Operation | KnockError] = {A: running(A)}
    model = model_of(records)
    model.register(A)
    model.run(60)
    records[A] = finished(A, Status.FAILED, failed_at=WALL + 100)
    later = model.restarted(mono=model.mono + 2 * DAY)
    later.run(60)
    seen = later.value("knock_bulk_operations_last_failed_seen_timestamp_seconds")
    assert seen == pytest.approx(WALL + 2 * DAY + 60, abs=60)
    assert later.value("knock_bulk_operations_last_failed_timestamp_seconds") == WALL + 100
    assert later.value("knock_bulk_operations_finished_total", status="failed", **E) == 1
    later.run(DAY - 200)
    assert shown(later) == {A}


def test_groups_and_names_that_were_let_in_stay_in() -> None:
    records = {each: running(each, name=f"name-{number}") for number, each in enumerate(ids(60, seed=5))}
    model = model_of(dict(records))
    model.register(*(Registration(ListedOperation(each, f"group-{number}")) for number, each in enumerate(records)))
    model.run(30)
    assert model.value("knock_exporter_label_values_folded_total", label="name", **E) == 10
    later = model.restarted()
    later.run(30)
    assert later.value("knock_exporter_label_values_folded_total", **E) == 0
    assert later.metrics().count('name="other"') == model.metrics().count('name="other"')


def test_tombstones_and_sources_are_remembered() -> None:
    model = model_of({A: finished(A)}, retention=60.0)
    model.register(A)
    model.list_file("/ids", B)
    model.run(100)
    later = model.restarted()
    answers = later.register(A)
    later.run(1)
    assert answers[0].taken == (Taken(A, "retired"),)
    later.list_file("/ids", C)
    later.run(2)
    assert shown(later) == {B, C}  # the one that was dropped meanwhile is followed to its end


def test_a_list_does_not_bring_back_what_was_released_at_its_end_in_the_next_process_either() -> None:
    model = model_of({A: finished(A, Status.FAILED)})
    model.list_file("/ids", A, B)
    model.run(5)
    released = model.release(A)
    model.run(1)
    assert released == [ReleaseResult(known=True, durable=True)]
    later = model.restarted()
    later.list_file("/ids", A, B)
    later.run(5)
    assert shown(later) == {B}


def test_what_the_configuration_drops_between_two_runs_goes() -> None:
    model = model_of(operations=[A, B])
    model.run(5)
    later = model.restarted(config=Config((environment("production", [B]),)))
    later.run(2)
    assert shown(later) == {B}
    assert later.disk is not None
    assert [key.id for key in later.disk.memory.operations] == [B]


def test_what_is_registered_too_stays_when_the_configuration_drops_it_between_two_runs() -> None:
    model = started(model_of(operations=[A, B]))
    answers = model.register(A)
    model.run(1)
    assert [each.durable and each.saved for each in answers] == [True]
    later = model.restarted(config=Config((environment("production"),)))
    later.run(5)
    assert shown(later) == {A}


def test_an_address_that_changes_while_it_runs_is_kept_with_its_epoch() -> None:
    model = model_of()
    model.run(100)
    reconfigured(model, environment("production", base_url="https://elsewhere.example"))
    model.run(5)
    assert model.disk is not None
    kept = model.disk.memory.environments["production"]
    assert (kept.base_url, kept.epoch) == ("https://elsewhere.example", WALL + 100)


def test_an_environment_at_another_address_begins_a_new_epoch() -> None:
    records: dict[str, Operation | KnockError] = {A: running(A, rows_processed=7, inserted_at=WALL + 500)}
    model = model_of({A: missing()})
    model.register(A)
    model.run(1000)
    elsewhere = environment("production", base_url="https://elsewhere.example")
    later = model.restarted(config=Config((elsewhere,)), knock=knock_of(records), mono=model.mono)
    later.run(5000)
    assert total(later) == 0


# Environments that go and come back.


def reconfigured(model: Model, *environments: object, key: Secret = KEY) -> None:
    config = Config(tuple(environments))  # type: ignore[arg-type] # the tests name fields that exist
    keys = {each.name: key for each in config.environments}
    model.tell(Reconfigure(config, keys, lambda: None, lambda: None))


def test_an_environment_that_is_configured_no_more_sleeps_with_its_operations() -> None:
    model = model_of({A: finished(A, Status.FAILED)})
    model.register(A, B)
    model.run(5)
    reconfigured(model, environment("other"))
    model.run(60)
    assert 'knock_environment="production"' not in model.metrics()
    asked = len(model.sent)
    later = model.restarted(config=Config((environment("other"),)))
    later.run(60)
    assert [each for each in later.sent if not each.checks_key] == []
    reconfigured(later, environment("production"))
    later.run(60)
    assert shown(later) == {A, B}
    assert later.times(A) == []
    assert asked
    assert later.value("knock_bulk_operations_last_failed_seen_timestamp_seconds") == pytest.approx(WALL, abs=2)


def test_what_happened_just_before_an_environment_sleeps_is_kept() -> None:
    records: dict[str, Operation | KnockError] = {A: running(A)}
    model = model_of(records)
    model.register(A)
    model.run(5)
    assert model.disk is not None
    model.disk.slow = True
    model.register(B)  # so that a commit is under way while the rest happens
    records[A] = finished(A, Status.FAILED)
    model.run(1)
    model.put_run("nightly", "1")
    reconfigured(model, environment("other"))
    model.disk.slow = False
    model.run(5)
    memory = model.disk.memory
    assert {key.id for key in memory.operations} == {A, B}
    assert ("production", "nightly") in memory.groups
    assert [each.last_failed_seen for each in memory.aggregates.values()] == [pytest.approx(WALL + 5, abs=2)]


def test_what_sleeps_for_a_month_is_forgotten() -> None:
    model = model_of({A: finished(A)})
    model.register(A)
    model.put_run("nightly", "1")
    model.run(5)
    reconfigured(model, environment("other"))
    model.run(5)
    assert model.disk is not None
    memory = model.disk.memory
    assert [len(each) for each in (memory.operations, memory.aggregates, memory.groups)] == [1, 1, 2]
    model.mono += KEPT_SECONDS
    model.run(5)
    memory = model.disk.memory
    assert (memory.operations, memory.aggregates, memory.groups) == ({}, {}, {})
    assert list(memory.environments) == ["other"]
    reconfigured(model, environment("production"))
    model.run(5)
    assert shown(model) == set()


def test_an_answer_for_an_environment_that_is_gone_is_dropped() -> None:
    model = Model(Config((environment(operations=[A]),)), knock_of({}), latency=lambda _request: 3.0)
    model.run(1)
    reconfigured(model, environment("other"))
    reconfigured(model, environment("production", [A]))
    model.run(2.5)
    assert model.value("knock_exporter_api_requests_in_flight", **E) == 1  # the new one's own
    assert len(model.times(A)) == 2
    model.run(30)
    assert shown(model) == {A}
    while model.value("knock_exporter_api_requests_in_flight", **E) == 0:
        model.run(0.5)
    reconfigured(model, environment("other"))
    model.run(5)
    assert A not in model.metrics()


def test_all_of_a_configuration_is_active_at_once() -> None:
    model = Model(Config((environment("production", ids(20, seed=9), per_operation_limit=5),)), knock_of({}))
    model.run(5)
    assert len(shown(model)) == 5
    reconfigured(
        model,
        replace(environment("production", ids(20, seed=9)), per_operation_limit=15),
        environment("other", [A]),
    )
    model.run(5)
    assert len(shown(model)) == 16
    reconfigured(model, replace(environment("production", ids(20, seed=9)), per_operation="none"))
    model.run(5)
    assert shown(model) == set()
    assert model.value("knock_exporter_operations_not_exposed", **E) == 20


def test_another_pace_holds_at_once_and_pushes_nothing_back() -> None:
    model = Model(Config((environment(operations=[A]),)), knock_of({}))
    model.run(1000)  # unchanged for long: asked every 50 s
    polling = replace(environment().polling, processing=1.0, slowest=2.0)
    reconfigured(model, environment("production", [A], polling=polling))
    asked = len(model.sent)
    model.run(10)
    assert len(model.sent) - asked >= 5
    reconfigured(model, environment("production", [A]))
    asked = len(model.sent)
    model.run(2.1)
    assert len(model.sent) - asked >= 1


def test_a_key_of_the_configuration_is_used_and_lost_ones_are_asked_again() -> None:
    other = Secret("sk_test_another")
    records: dict[str, Operation | KnockError] = {A: missing()}
    model = Model(Config((environment(operations=[A, B], polling=SELDOM),)), knock_of(records))
    model.run(DAY + 7200)
    assert model.value("knock_bulk_operations", status="lost", **E) == 1
    records.clear()
    reconfigured(model, environment("production", [A, B], polling=SELDOM), key=other)
    model.run(5)
    assert model.value("knock_bulk_operations", status="lost", **E) == 0
    assert model.value("knock_bulk_operations", status="processing", **E) == 2


def test_what_is_let_go_just_before_its_environment_leaves_no_series() -> None:
    model = Model(Config((environment("production", [A, B]), environment("other"))), knock_of({}))
    model.run(10)
    reconfigured(model, environment("production", [B]), environment("other"))
    reconfigured(model, environment("other"))
    model.run(10)
    assert A not in model.metrics()


def test_a_lower_limit_holds_with_another_branch_too() -> None:
    model = Model(Config((environment(operations=ids(200, seed=41), rate_limit=100.0),)), knock_of({}))
    model.run(5)
    reconfigured(model, environment("production", ids(200, seed=41), rate_limit=5.0, branch="feature"))
    model.run(1)
    assert model.value("knock_exporter_api_rate_limit_requests_per_second", **E) == 5
    assert model.sent[-1].window.limit == 5


# A file that is damaged.


@pytest.mark.parametrize("broken", [False, True])
def test_what_is_lost_on_disk_is_written_whole(*, broken: bool) -> None:
    settings = environment("production", retention=60.0), environment("other")
    records = knock_of({A: finished(A, Status.FAILED), C: finished(C)})
    model = Model(Config(settings), records, disk=Disk())
    model.register(A, B, C)
    model.register(A, environment="other")
    model.run(5)
    reconfigured(model, settings[0])
    model.run(100)
    assert model.disk is not None
    before = model.disk.read()
    assert (
        {key.environment for key in before.operations}
        == {place[0] for place in before.aggregates}
        == {*before.environments}
    )
    assert before.tombstones
    model.disk.damaged = True
    answers = model.register(D)
    model.run(0.5)
    assert [each.saved for each in answers] == [False]
    if broken:  # a new file cannot be written either
        model.disk.broken = True
        model.run(5)
        model.disk.broken = False
        model.run(CYCLE_SECONDS)  # nobody waits for a disk that fails: the next cycle tells
    later = model.register(F)
    model.run(2)
    assert [each.saved for each in later] == [True]
    memory = model.disk.memory
    assert memory.operations.keys() == {
        *before.operations,
        OperationKey("production", D),
        OperationKey("production", F),
    }
    assert before.aggregates.items() <= memory.aggregates.items()
    assert (memory.tombstones, memory.environments) == (before.tombstones, before.environments)
    model.run(5)
    wholes = [each.whole for each in model.disk.written]
    assert sum(wholes) == 1
    assert not wholes[-1]


def test_a_damage_that_is_met_at_the_end_is_mended_before_it() -> None:
    model = model_of()
    model.register(A)
    model.run(5)
    assert model.disk is not None
    model.disk.damaged = True
    model.tell(Stop())
    model.run(2)
    assert model.tracker.ended
    model.disk.write()
    assert not model.disk.damaged
    assert [key.id for key in model.disk.memory.operations] == [A]
