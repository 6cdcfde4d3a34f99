"""Groups and runs: what opens one, which operations are of it, what it counts, and when it has finished."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from model import KEY, WALL, Disk, Model, environment, ids, running

from exporter.config import Config, Polling
from exporter.config.settings import GroupSettings, ListedOperation
from exporter.errors import NotFound
from exporter.operation import Operation, Status
from exporter.tracking.group_facts import GroupFacts, GroupState, group_facts
from exporter.tracking.messages import Created, Reconfigure, Registration, RunResult
from exporter.tracking.runs import PAST_MOST, Run, RunDeadline, StoredGroup, opened

if TYPE_CHECKING:
    from exporter.errors import KnockError
    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Moment

HOUR, DAY = 3600.0, 86400.0
RETENTION = 60.0
G = "nightly"


@dataclass
class Knock:
    """Knock as the tests have it: what each operation is now; one that is not named is processed."""

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def answer(self, request: PollRequest, now: Moment) -> Operation | KnockError:
        if request.id in self.gone:
            return NotFound("no such operation")
        fields: dict[str, Any] = {"inserted_at": now.wall, **self.records.get(request.id, {})}
        self.records.setdefault(request.id, {})["inserted_at"] = fields["inserted_at"]
        return running(request.id, **fields)

    def end(self, *operation_ids: str, status: Status = Status.COMPLETED, errors: int = 0) -> None:
        for each in operation_ids:
            self.records.setdefault(each, {}).update(
                status=status, rows_processed=100, rows_estimated=100, errors=errors, completed_at=WALL + 1
            )


def start(knock: Knock, disk: Disk | None = None, **settings: Any) -> Model:
    watched = environment(retention=RETENTION, polling=Polling(slowest=HOUR, key_check_interval=DAY), **settings)
    return Model(Config((watched,)), knock.answer, disk=disk if disk is not None else Disk())


def of_run(run: str | None = None, *operation_ids: str, group: str = G) -> list[Registration]:
    return [Registration(ListedOperation(each, group, run=run)) for each in operation_ids]


def facts(model: Model, group: str = G) -> GroupFacts:
    (found,) = group_facts(model.views[-1].snapshot, model.now, "production", group)
    return found


def counts(model: Model, group: str = G) -> dict[str, int]:
    """Return how many operations the run counts by state, without those at 0."""
    return {state: count for state, count in facts(model, group).run_sums.by_state.items() if count}


def has_finished(model: Model) -> bool:
    run = facts(model).run
    assert run is not None
    return run.finished is not None


def settled(answers: list[RunResult]) -> RunResult:
    (answer,) = answers
    return answer


# What opens a run.


def test_a_put_opens_a_run_and_is_answered_once_it_is_on_disk() -> None:
    disk = Disk()
    model = start(Knock(), disk)
    disk.slow = True
    answers = model.put_run(G, "1", operations=2, deadline=RunDeadline(seconds=HOUR))
    model.run(1)
    assert answers == []
    disk.slow = False
    model.run(1)
    assert settled(answers) == RunResult(durable=True)
    run = disk.memory.groups["production", G].run
    assert run is not None
    assert (run.id, run.operations, run.deadline) == ("1", 2, run.opened + HOUR)
    assert facts(model).state is GroupState.RUNNING


@pytest.mark.parametrize("source", ["registration", "file", "configuration"])
def test_an_operation_opens_the_run_that_it_names(source: str) -> None:
    (a,) = ids(1)
    listed = ListedOperation(a, G, run="1")
    if source == "configuration":
        model = start(Knock(), operations=())
        watched = replace(model.config.environments[0], operations=(listed,))
        model = replace(model, config=Config((watched,)), disk=Disk())
    else:
        model = start(Knock())
    if source == "registration":
        model.register(Registration(listed))
    if source == "file":
        model.list_file("/ids.json", listed)
    model.run(5)
    run = facts(model).run
    assert run is not None
    assert (run.id, counts(model)) == ("1", {"processing": 1})


def test_a_put_that_is_repeated_changes_nothing_that_it_does_not_say() -> None:
    model = start(Knock())
    model.put_run(G, "1", operations=2, deadline=RunDeadline(seconds=HOUR))
    model.run(600)
    first = facts(model).run
    model.put_run(G, "1", operations=2, deadline=RunDeadline(seconds=HOUR))
    model.put_run(G, "1")
    model.run(5)
    again = facts(model).run
    assert first is not None
    assert again is not None
    assert again._replace(newest=0) == first._replace(newest=0)
    model.put_run(G, "1", operations=None, deadline=None)
    model.run(5)
    cleared = facts(model).run
    assert cleared is not None
    assert (cleared.operations, cleared.deadline, cleared.opened) == (None, None, first.opened)


def test_a_past_run_is_refused_and_what_names_it_is_followed_and_counted_nowhere() -> None:
    a, b = ids(2)
    model = start(Knock())
    model.put_run(G, "1")
    model.put_run(G, "2")
    model.run(1)
    answers = model.put_run(G, "1")
    model.register(*of_run("1", a), *of_run("2", b))
    model.run(5)
    assert settled(answers).current == "2"
    assert counts(model) == {"processing": 1}
    assert facts(model).tracked.by_state["processing"] == 2


def test_a_group_that_would_be_folded_has_no_run() -> None:
    model = start(Knock())
    model.register(*(Registration(ListedOperation(each, f"g{number}")) for number, each in enumerate(ids(100))))
    model.run(30)
    (late,) = ids(1, seed=7)
    answers = [model.put_run(group, "1") for group in ("late", "other", "g5")]
    model.register(*of_run("1", late, group="late"))
    model.run(5)
    assert [settled(each).admitted for each in answers] == [False, False, True]
    assert [each.group for each in model.views[-1].snapshot.groups if each.run is not None] == ["g5"]
    assert facts(model, "other").tracked.by_state["processing"] == 1


def test_a_declared_group_is_always_admitted() -> None:
    model = start(Knock())
    model.register(*(Registration(ListedOperation(each, f"g{number}")) for number, each in enumerate(ids(100))))
    model.run(30)
    watched = replace(model.config.environments[0], groups=(GroupSettings("late", every=DAY),))
    model.tell(Reconfigure(Config((watched,)), {"production": KEY}, lambda: None, lambda: None))
    answers = model.put_run("late", "1")
    model.run(5)
    assert settled(answers).admitted
    assert facts(model, "late").run is not None


# Which operations are of a run.


def test_what_is_handed_over_without_a_run_is_of_the_current_one_if_it_is_new() -> None:
    old, new, undated, slightly_older = ids(4)
    knock = Knock()
    knock.records[old] = {"inserted_at": WALL - DAY}
    knock.records[slightly_older] = {"inserted_at": WALL - 50}
    knock.records[undated] = {"inserted_at": None}
    model = start(knock)
    model.put_run(G, "1")
    model.run(1)
    model.latency = lambda _request: 1.0
    model.register(*of_run(None, old, new, undated, slightly_older))
    model.put_run(G, "1", closed=True)
    model.run(0.5)
    assert counts(model) == {"pending": 4}
    assert not has_finished(model)  # nothing says yet that they are older than the run
    model.run(10)
    assert counts(model) == {"processing": 3}
    assert not has_finished(model)


def test_old_ids_never_finish_a_run() -> None:
    a, b = ids(2)
    knock = Knock()
    knock.end(a, b)
    for each in (a, b):
        knock.records[each]["inserted_at"] = WALL - DAY
    model = start(knock)
    model.put_run(G, "1", operations=2)
    model.register(*of_run(None, a, b))
    model.run(30)
    assert counts(model) == {}
    assert not has_finished(model)


def test_a_create_answer_decides_at_once() -> None:
    old, new = ids(2)
    model = start(Knock(records={old: {"inserted_at": WALL - DAY}}))
    model.put_run(G, "1")
    model.run(1)
    model.register(
        Registration(ListedOperation(old, G), Created("users.identify", WALL - DAY)),
        Registration(ListedOperation(new, G), Created("users.identify", model.now.wall)),
    )
    model.run(1)
    assert counts(model) == {"queued": 1}


def test_an_operation_stays_in_its_run() -> None:
    (a,) = ids(1)
    model = start(Knock())
    model.register(*of_run("1", a))
    model.run(5)
    model.register(*of_run("2", a))
    model.run(5)
    run = facts(model).run
    assert run is not None
    assert (run.id, counts(model)) == ("1", {"processing": 1})


def test_what_was_followed_before_joins_the_run_that_it_is_named_with() -> None:
    (a,) = ids(1)
    model = start(Knock(records={a: {"inserted_at": WALL - DAY}}))
    model.register(*of_run(None, a))
    model.run(5)
    model.put_run(G, "1")
    model.run(5)
    assert counts(model) == {}
    model.register(*of_run("1", a))
    model.run(5)
    assert counts(model) == {"processing": 1}


def test_an_operation_that_moves_to_another_group_leaves_its_end_behind() -> None:
    done, runs_on = ids(2)
    knock = Knock()
    knock.end(done)
    model = start(knock)
    model.register(*of_run("1", done, runs_on))
    model.run(5)
    model.register(*of_run("9", done, runs_on, group="weekly"))
    model.run(5)
    assert counts(model) == {"completed": 1}
    assert counts(model, "weekly") == {"processing": 1}


def test_what_ended_before_a_run_and_is_listed_again_is_not_of_it() -> None:
    (a,) = ids(1)
    knock = Knock(records={a: {"inserted_at": WALL - DAY}})
    knock.end(a)
    model = start(knock)
    listed = ListedOperation(a, G)
    model.list_file("/ids", listed)
    model.run(5)
    model.list_file("/ids")
    model.put_run(G, "1", operations=1)
    model.run(5)
    model.list_file("/ids", listed)
    model.run(5)
    assert facts(model).tracked.by_state["completed"] == 1
    assert counts(model) == {}
    assert not has_finished(model)


def test_what_is_lost_is_not_taken_out_of_its_run_by_the_name_of_a_past_one() -> None:
    a, b = ids(2)
    model = start(Knock(gone={a}))
    model.put_run(G, "1")
    model.register(*of_run("2", a, b))
    model.run(2 * DAY)
    assert counts(model) == {"processing": 1, "lost": 1}
    model.register(*of_run("1", a))
    model.run(5)
    assert counts(model) == {"processing": 1, "lost": 1}


def test_a_run_is_opened_by_what_finds_no_room_and_not_when_there_is_room_later() -> None:
    a, b = ids(2)
    model = start(Knock())
    model = replace(model, config=replace(model.config, max_operations=1), disk=Disk())
    model.register(*of_run("1", a))
    model.run(5)
    model.list_file("/ids", ListedOperation(b, G, run="2"))
    model.run(5)
    opened = facts(model).run
    assert opened is not None
    assert opened.id == "2"
    model.put_run(G, "3")
    model.release(a)
    model.run(5)
    run = facts(model).run
    assert run is not None
    assert (run.id, facts(model).tracked.by_state["processing"], counts(model)) == ("3", 1, {})


# Leaving.


def test_what_retires_stays_in_the_sums_and_is_counted_once() -> None:
    a, b = ids(2)
    knock = Knock()
    knock.end(a, errors=3)
    model = start(knock)
    model.put_run(G, "1", operations=2)
    model.register(*of_run("1", a, b))
    model.run(5)
    before = facts(model).run_sums
    model.run(8 * RETENTION + 60)
    after = facts(model)
    assert after.tracked.by_state["completed"] == 0
    assert (after.run_sums.by_state["completed"], after.run_sums.errors) == (1, 3)
    assert after.run_sums.rows_processed >= before.rows_processed
    model.register(*of_run("1", a), again=True)
    model.run(5)
    assert counts(model) == {"completed": 1, "processing": 1}


def test_what_was_counted_joins_no_run_however_long_a_list_names_it() -> None:
    (a,) = ids(1)
    knock = Knock()
    knock.end(a)
    model = start(knock)
    model.list_file("/ids", ListedOperation(a, G, run="1"))
    model.run(2 * RETENTION)
    model.mono += 31 * DAY  # what is left of it would be forgotten, but for the list
    model.run(5)
    model.put_run(G, "1")
    model.register(*of_run("1", a), again=True)
    model.run(5)
    assert facts(model).tracked.by_state["completed"] == 1
    assert counts(model) == {"completed": 1}


def test_what_is_dropped_unfinished_is_subtracted() -> None:
    a, b = ids(2)
    model = start(Knock())
    model.register(*of_run("1", a, b))
    model.run(5)
    model.release(a)
    model.run(5)
    assert counts(model) == {"processing": 1}


def test_what_is_lost_counts_with_its_last_values() -> None:
    (a,) = ids(1)
    knock = Knock()
    model = start(knock)
    model.put_run(G, "1", operations=1)
    model.register(*of_run("1", a))
    knock.records[a] = {"rows_processed": 40, "rows_estimated": 100}
    model.run(60)
    knock.gone.add(a)
    model.run(2 * DAY)
    assert (counts(model), facts(model).run_sums.rows_processed) == ({"lost": 1}, 40)
    assert has_finished(model)


# Finished, late, incomplete, and what is said of it.


def test_a_run_has_finished_when_all_that_was_declared_has_ended() -> None:
    a, b = ids(2)
    knock = Knock()
    model = start(knock)
    model.put_run(G, "1", operations=2)
    model.register(*of_run("1", a))
    knock.end(a)
    model.run(30)
    assert not has_finished(model)  # between two waves, all that is known has ended
    model.register(*of_run("1", b))
    knock.end(b, status=Status.FAILED)
    model.run(30)
    assert has_finished(model)
    assert facts(model).state is GroupState.DONE_WITH_FAILURES


def test_without_a_number_a_run_has_finished_when_it_is_closed_and_all_has_ended() -> None:
    a, b = ids(2)
    knock = Knock()
    model = start(knock)
    model.register(*of_run("1", a))
    knock.end(a)
    model.run(30)
    assert not has_finished(model)
    model.register(*of_run("1", b))
    model.put_run(G, "1", closed=True)
    model.run(30)
    assert not has_finished(model)
    knock.end(b)
    model.run(60)
    assert has_finished(model)
    assert facts(model).state is GroupState.DONE


def test_finished_stays_unless_more_is_declared_than_has_ended() -> None:
    a, b = ids(2)
    knock = Knock()
    knock.end(a)
    model = start(knock)
    model.put_run(G, "1", operations=1)
    model.register(*of_run("1", a))
    model.run(30)
    assert has_finished(model)
    model.register(*of_run("1", b))  # a retry by hand
    model.run(30)
    assert has_finished(model)
    model.put_run(G, "1", operations=2)
    model.run(5)
    assert not has_finished(model)


def test_nothing_to_do_tonight() -> None:
    model = start(Knock())
    model.put_run(G, "1", operations=0, closed=True)
    model.run(5)
    assert has_finished(model)
    assert facts(model).state is GroupState.DONE
    assert facts(model).progress is None


def test_closed_with_too_few_is_incomplete_after_ten_minutes() -> None:
    (a,) = ids(1)
    knock = Knock()
    knock.end(a)
    model = start(knock)
    model.put_run(G, "1", operations=2, closed=True)
    model.register(*of_run("1", a))
    model.run(590)
    assert facts(model).state is GroupState.RUNNING
    model.run(30)
    assert facts(model).state is GroupState.INCOMPLETE
    model.put_run(G, "1", operations=1)  # given up
    model.run(5)
    assert facts(model).state is GroupState.DONE


def test_a_deadline_is_the_runs_or_else_the_groups() -> None:
    model = start(Knock(), groups=(GroupSettings(G, deadline=HOUR),))
    model.put_run(G, "1", operations=1)
    model.run(5)
    found = facts(model)
    assert found.run is not None
    assert found.deadline == found.run.opened + HOUR
    model.put_run(G, "1", deadline=RunDeadline(at=WALL + 7 * HOUR))
    model.run(2 * HOUR)
    assert facts(model).deadline == WALL + 7 * HOUR
    assert facts(model).state is GroupState.RUNNING
    model.put_run(G, "1", deadline=None)
    model.run(5)
    assert facts(model).state is GroupState.LATE


def test_a_group_did_not_run_once_its_time_has_passed() -> None:
    (a,), knock = ids(1), Knock()
    model = start(knock, groups=(GroupSettings(G, every=26 * HOUR),))
    model.run(5)
    assert facts(model).last_run == WALL
    assert facts(model).state is GroupState.IDLE
    model.run(25 * HOUR)
    knock.end(a)
    model.register(*of_run(None, a))
    model.run(30)
    inserted = facts(model).last_run
    assert inserted is not None
    assert inserted > WALL + 25 * HOUR
    model.put_run(G, "1", operations=0)
    model.run(27 * HOUR)
    assert facts(model).state is GroupState.DID_NOT_RUN


def test_a_group_ran_when_what_moves_into_it_was_made() -> None:
    (a,) = ids(1)
    model = start(Knock(), groups=(GroupSettings(G, every=26 * HOUR),))
    model.run(HOUR)
    model.register(a)
    model.run(5)
    model.register(*of_run(None, a))
    model.run(5)
    last_run = facts(model).last_run
    assert last_run is not None
    assert last_run >= WALL + HOUR


def test_an_operation_made_in_the_future_counts_as_made_now() -> None:
    (a,) = ids(1)
    model = start(Knock(records={a: {"inserted_at": WALL + DAY}}), groups=(GroupSettings(G, every=HOUR),))
    model.register(*of_run(None, a))
    model.run(600)
    last_run = facts(model).last_run
    assert last_run is not None
    assert WALL <= last_run <= WALL + 30


def test_progress_is_of_operations_where_they_are_declared_and_of_rows_where_not() -> None:
    a, b = ids(2)
    knock = Knock()
    knock.end(a)
    knock.records[b] = {"rows_processed": 20, "rows_estimated": 100}
    model = start(knock)
    model.register(*of_run("1", a, b))
    model.run(100)
    assert (facts(model).progress, facts(model).progress_of) == (0.6, "rows")
    assert facts(model).time_left is None
    model.put_run(G, "1", operations=4)
    model.run(5)
    found = facts(model)
    assert (found.progress, found.progress_of) == (0.25, "operations")
    assert found.run is not None
    elapsed = model.now.wall - found.run.opened
    assert found.time_left == pytest.approx(3 * elapsed)


# Restarts.


def test_a_restart_anywhere_leaves_the_same_sums() -> None:
    """After each step all is read again from the disk; what the run counts never falls."""
    waves = [ids(5, seed) for seed in range(4)]
    knock, disk = Knock(), Disk()
    model = start(knock, disk)
    model.put_run(G, "1", operations=20)
    model.run(1)
    ended = 0
    for wave in waves:
        model.register(*of_run("1", *wave))
        model.run(1)
        model = model.restarted()
        model.run(7)
        knock.end(*wave)
        model.run(20)
        model = model.restarted()
        model.run(2 * RETENTION)
        now_ended = facts(model).run_sums.ended
        assert now_ended >= ended
        ended = now_ended
    assert counts(model) == {"completed": 20}
    assert has_finished(model)
    finished = facts(model).run
    model = model.restarted()
    model.run(5)
    assert facts(model).run == finished


def test_a_restart_decides_no_sooner_than_the_answer() -> None:
    old, done = ids(2)
    knock = Knock(records={old: {"inserted_at": WALL - DAY}})
    knock.end(done)
    model = start(knock)
    model.register(*of_run("1", done))
    model.put_run(G, "1", closed=True)
    model.latency = lambda _request: 1.0
    model.register(*of_run(None, old))
    model.run(0.5)
    model = replace(model.restarted(), latency=lambda _request: 0.05)
    model.run(30)
    assert counts(model) == {"completed": 1}
    assert has_finished(model)


def test_a_run_whose_group_could_not_be_read_is_opened_again_with_what_is_followed() -> None:
    a, b, c = ids(3)
    disk = Disk()
    model = start(Knock(), disk)
    model.register(*of_run("1", a, b))
    model.run(5)
    disk.memory = replace(disk.memory, groups={})
    model = model.restarted()
    model.run(5)
    assert facts(model).run is None
    model.register(*of_run("1", c))
    model.run(5)
    assert counts(model) == {"processing": 3}


def test_runs_of_an_environment_that_is_taken_out_sleep_with_it() -> None:
    (a,) = ids(1)
    model = start(Knock())
    model.register(*of_run("1", a))
    model.put_run(G, "1", operations=3)
    model.run(5)
    kept = model.config
    other = Config((environment("staging"),))
    keys = {"production": KEY, "staging": KEY}
    model.tell(Reconfigure(other, keys, lambda: None, lambda: None))
    model.run(5)
    assert group_facts(model.views[-1].snapshot, model.now) == []
    assert 'knock_environment="production"' not in model.metrics()
    model.tell(Reconfigure(kept, keys, lambda: None, lambda: None))
    model.run(5)
    assert counts(model) == {"processing": 1}


def test_a_run_leaves_thirty_days_after_its_last_event_and_ran_stays() -> None:
    (a,) = ids(1)
    knock = Knock()
    knock.end(a)
    model = start(knock, groups=(GroupSettings(G, every=100 * DAY),))
    model.put_run(G, "1", operations=1)
    model.register(*of_run("1", a))
    model.run(2 * RETENTION)
    opened = facts(model).last_run
    model.wall_offset += 29 * DAY
    model.run(5)
    assert facts(model).run is not None
    model.wall_offset += 2 * DAY
    model.run(5)
    assert (facts(model).run, facts(model).last_run) == (None, opened)
    assert model.samples("knock_group_run_opened_timestamp_seconds") == []
    assert model.samples("knock_group_last_run_timestamp_seconds") == [opened]


@pytest.mark.parametrize("event", ["a put", "a hand-over", "an end", "a release"])
def test_a_run_is_shown_for_thirty_days_after_each_event(event: str) -> None:
    a, b, c = ids(3)
    knock = Knock()
    model = start(knock)
    model.register(*of_run("1", a, b))
    model.run(5)
    model.wall_offset += 20 * DAY
    if event == "a put":
        model.put_run(G, "1")
    if event == "a hand-over":
        model.register(*of_run(None, c))
    if event == "an end":
        knock.end(a, status=Status.FAILED)
    if event == "a release":
        model.release(a)
    model.run(60)
    model.wall_offset += 20 * DAY
    model.run(5)
    assert facts(model).run is not None
    model.wall_offset += 11 * DAY
    model.run(5)
    assert facts(model).run is None


def test_past_runs_are_known_for_thirty_days_and_the_newest_thousand_of_them() -> None:
    past = {str(number): WALL for number in range(PAST_MOST)}
    group = StoredGroup(run=Run("last", WALL), past=past)
    assert [*opened(group, "new", WALL + 30 * DAY - 1).past] == [*past, "last"][-1000:]
    assert [*opened(group, "new", WALL + 30 * DAY).past] == ["last"]


def test_of_a_group_of_which_nothing_is_known_any_more_nothing_is_kept() -> None:
    disk = Disk()
    model = start(Knock(), disk, groups=(GroupSettings(G, every=DAY),))
    model.run(5)
    assert list(disk.memory.groups) == [("production", G)]
    watched = replace(model.config.environments[0], groups=())
    model.tell(Reconfigure(Config((watched,)), {"production": KEY}, lambda: None, lambda: None))
    model.run(5)
    assert disk.memory.groups == {}


# Metrics.


def test_the_metrics_of_a_run() -> None:
    a, b = ids(2)
    knock = Knock()
    knock.end(a, errors=2)
    model = start(knock, groups=(GroupSettings(G, every=26 * HOUR, deadline=HOUR),))
    model.put_run(G, "1", operations=3)
    model.register(*of_run("1", a, b))
    model.run(60)
    run = facts(model).run
    assert run is not None

    def value(name: str, **labels: str) -> float | None:
        return model.value(f"knock_group_{name}", knock_environment="production", group=G, **labels)

    assert value("expected_interval_seconds") == 26 * HOUR
    assert value("last_run_timestamp_seconds") == run.opened
    assert value("run_opened_timestamp_seconds") == run.opened
    assert value("run_deadline_timestamp_seconds") == run.opened + HOUR
    assert value("run_expected_operations") == 3
    assert value("run_operations", status="completed") == 1
    assert value("run_operations", status="processing") == 1
    assert value("run_operations", status="failed") == 0
    assert (value("run_rows_processed"), value("run_rows_estimated"), value("run_errors")) == (100, 200, 2)
    assert value("run_closed_timestamp_seconds") is None
    assert value("run_finished_timestamp_seconds") is None


def test_a_clock_that_goes_back_closes_and_finishes_no_run_before_its_opening() -> None:
    model = start(Knock())
    model.put_run(G, "1", operations=2)
    model.run(5)
    model.wall_offset -= HOUR
    model.put_run(G, "1", closed=True)
    model.run(5)
    run = facts(model).run
    assert run is not None
    assert run.closed == run.opened
    model.put_run(G, "1", operations=0)
    model.run(5)
    run = facts(model).run
    assert run is not None
    assert run.finished == run.opened


def test_a_clock_that_was_ahead_for_a_while_hides_a_run_only_so_long() -> None:
    model = start(Knock())
    model.put_run(G, "1")
    model.run(5)
    model.wall_offset += 31 * DAY
    model.run(5)
    assert group_facts(model.views[-1].snapshot, model.now) == []
    model.wall_offset -= 31 * DAY
    model.run(5)
    assert facts(model).run is not None
