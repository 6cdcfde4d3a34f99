"""What one more answer changes about an operation."""

from __future__ import annotations

import pytest
from model import WALL, ids, running

from exporter.config import Polling
from exporter.errors import BadResponse, NotFound, Reason, TooLarge, Unreachable
from exporter.operation import Operation, OperationKey, Status
from exporter.tracking import transitions
from exporter.tracking.pacing import PollClass
from exporter.tracking.transitions import Circumstances, Moment, Tracked

(A,) = ids(1)
KEY = OperationKey("production", A)
POLLING = Polling()
EPOCH = WALL
TIMEOUT = Unreachable(Reason.TIMEOUT, "no answer within 10 s")
MISSING = NotFound("404", code=404, accepted_key=True)
DAY = 86400.0


def moment(seconds: float) -> Moment:
    return Moment(1000.0 + seconds, WALL + seconds)


def at(seconds: float, chance: float = 1.0, *, trusted: bool = True) -> Circumstances:
    return Circumstances(moment(seconds), chance, POLLING, EPOCH, trusted)


NEW = transitions.newly_tracked(KEY, "default", (), moment(0), POLLING)
PROCESSING = transitions.succeeded(NEW, running(A), at(1))


def missed(seconds: float, before: Tracked = NEW, *, trusted: bool = True) -> Tracked:
    return transitions.failed(before, MISSING, at(seconds, trusted=trusted))


# Handed over.


def test_a_new_id_is_due_at_once_and_nothing_is_known() -> None:
    assert (NEW.state, NEW.due, NEW.poll_class) == ("pending", 1000, PollClass.NEW)
    assert (NEW.up, NEW.operation, NEW.last_success, NEW.last_change) == (None, None, None, None)
    assert NEW.active
    assert not NEW.final
    assert not NEW.has_errors


# Answers.


def test_a_record_is_taken_in() -> None:
    assert (PROCESSING.state, PROCESSING.up) == ("processing", True)
    assert PROCESSING.last_success == PROCESSING.last_change == moment(1)
    assert (PROCESSING.due, PROCESSING.poll_class) == (1006, PollClass.LIVE)
    assert PROCESSING.interval == PROCESSING.healthy_interval == 5
    assert PROCESSING.seen_unfinished
    assert PROCESSING.final_seen is None


def test_chance_spreads_the_next_poll() -> None:
    assert transitions.succeeded(NEW, running(A), at(1, chance=0.0)).due == 1005


def test_the_same_record_again_is_not_a_change() -> None:
    again = transitions.succeeded(PROCESSING, running(A, updated_at=WALL + 9), at(201))
    assert (again.last_success, again.last_change) == (moment(201), moment(1))
    assert again.interval == 10, "a twentieth of 200 s"


@pytest.mark.parametrize(
    "fields",
    [
        {"status": Status.QUEUED},
        {"rows_processed": 1},
        {"rows_estimated": 99},
        {"successes": 1},
        {"errors": 1},
        {"error_items": 1},
        {"rows_processed": None},
    ],
)
def test_status_and_counts_are_changes(fields: dict[str, object]) -> None:
    assert transitions.succeeded(PROCESSING, running(A, **fields), at(201)).last_change == moment(201)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_a_final_record_is_never_asked_again(status: Status) -> None:
    after = transitions.succeeded(PROCESSING, running(A, status=status), at(9))
    assert (after.due, after.final, after.active, after.up) == (None, True, False, True)
    assert after.final_seen == WALL + 9
    assert after.seen_unfinished


def test_a_record_found_final_was_not_seen_unfinished() -> None:
    assert not transitions.succeeded(NEW, running(A, status=Status.COMPLETED), at(1)).seen_unfinished


@pytest.mark.parametrize(("fields", "errors"), [({"errors": 1}, True), ({"error_items": 1}, True), ({}, False)])
def test_counted_or_listed_items_are_errors(fields: dict[str, object], errors: object) -> None:
    assert transitions.succeeded(NEW, running(A, **fields), at(1)).has_errors is errors


def test_a_start_time_once_seen_is_remembered() -> None:
    started = transitions.succeeded(PROCESSING, running(A, started_at=WALL), at(2))
    assert (PROCESSING.seen_started, started.seen_started) == (False, True)
    assert transitions.succeeded(started, running(A), at(3)).seen_started


@pytest.mark.parametrize(
    ("inserted", "born"),
    [(EPOCH + 60.5, True), (EPOCH + 60, False), (EPOCH, False), (EPOCH - DAY, False), (None, False)],
)
def test_from_birth_is_what_was_made_a_minute_after_the_epoch(inserted: float | None, born: object) -> None:
    assert transitions.succeeded(NEW, running(A, inserted_at=inserted), at(100)).from_birth is born


def test_birth_is_judged_by_the_first_record_only() -> None:
    after = transitions.succeeded(PROCESSING, running(A, inserted_at=EPOCH + 99), at(100))
    assert not after.from_birth


# An undocumented status.


def odd(seconds: float, before: Tracked, **fields: object) -> Tracked:
    return transitions.succeeded(before, running(A, status=Status.UNKNOWN, **fields), at(seconds))


def test_an_undocumented_status_is_unfinished_and_asked_like_a_retry() -> None:
    first = odd(1, NEW)
    second = odd(20, first)
    assert (first.state, first.active, first.poll_class) == ("unknown", True, PollClass.RETRY)
    assert (first.interval, second.interval) == (10, 20)
    assert transitions.succeeded(second, running(A), at(50)).interval == 5


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ({"completed_at": WALL}, "completed"),
        ({"failed_at": WALL}, "failed"),
        ({"completed_at": WALL, "failed_at": WALL}, "failed"),
        ({"completed_at": 0.0}, "completed"),
    ],
)
def test_with_an_end_in_two_polls_running_it_is_final(ends: dict[str, object], state: str) -> None:
    first = odd(1, NEW, **ends)
    second = odd(12, first, **ends)
    assert (first.state, second.state) == ("unknown", state)
    assert (second.due, second.final_seen) == (None, WALL + 12)
    assert second.seen_unfinished


def test_an_end_that_goes_away_does_not_count() -> None:
    after = odd(30, odd(20, odd(10, NEW, completed_at=WALL)), completed_at=WALL)
    assert after.state == "unknown"


def test_a_documented_status_between_does_not_count_either() -> None:
    between = transitions.succeeded(odd(10, NEW, completed_at=WALL), running(A), at(20))
    assert odd(30, between, completed_at=WALL).state == "unknown"


# Failures.


def test_a_failure_keeps_the_last_values_and_takes_up_away() -> None:
    after = transitions.failed(PROCESSING, TIMEOUT, at(9))
    assert after.up is False
    assert (after.operation, after.last_success) == (PROCESSING.operation, moment(1))
    assert (after.poll_class, after.interval, after.due) == (PollClass.RETRY, 10, 1019)
    assert after.healthy_interval == 5, "staleness is judged by the state, not by the retry"


def test_failures_in_a_row_double_and_an_answer_ends_the_row() -> None:
    after = PROCESSING
    intervals = []
    for number in range(8):
        after = transitions.failed(after, BadResponse("status", "?"), at(10.0 * number))
        intervals.append(after.interval)
    assert intervals == [10, 20, 40, 80, 160, 300, 300, 300]
    healed = transitions.succeeded(after, running(A), at(100))
    assert (healed.failures, healed.up) == (0, True)
    assert transitions.failed(healed, TIMEOUT, at(110)).interval == 10


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_too_large_a_body_waits_a_minute_at_least(chance: float) -> None:
    after = transitions.failed(NEW, TooLarge("body over 16 MiB"), at(0, chance))
    assert after.due is not None
    assert after.due - 1000 >= 60


def test_never_answered_and_failed_is_still_pending() -> None:
    after = transitions.failed(NEW, TIMEOUT, at(1))
    assert (after.state, after.up, after.active) == ("pending", False, True)


# 404.


def test_404s_of_the_first_minutes_prove_nothing() -> None:
    young = missed(299)
    grown = missed(300, young)
    assert (young.missing, young.interval, young.missing_since) == (0, 15, 1299)
    assert (grown.missing, grown.interval, grown.missing_since) == (1, 60, 1299)


def test_404s_about_a_known_operation_count_at_once() -> None:
    assert missed(2, PROCESSING).interval == 60


def test_a_day_of_404s_is_the_end_of_it() -> None:
    first = missed(10, PROCESSING)
    almost = missed(10 + DAY - 1, first)
    lost = missed(10 + DAY, first)
    assert not almost.lost
    assert (lost.lost, lost.state, lost.due, lost.active) == (True, "lost", None, False)
    assert lost.operation == PROCESSING.operation, "its last values stay"


def test_without_trust_nothing_is_given_up() -> None:
    after = missed(9 * DAY, missed(10), trusted=False)
    assert not after.lost
    assert after.due is not None
    assert missed(10 * DAY, after).lost


def test_a_record_ends_the_404s() -> None:
    found = transitions.succeeded(missed(10), running(A), at(20))
    assert (found.missing, found.missing_since) == (0, None)
    assert not missed(20 + DAY - 1, missed(30, found)).lost


def test_a_lost_operation_asked_again_starts_again() -> None:
    lost = missed(2 * DAY, missed(10, PROCESSING))
    again = transitions.retried(lost, moment(3 * DAY), POLLING)
    assert (again.lost, again.state, again.due) == (False, "processing", 1000 + 3 * DAY)
    assert again.poll_class is PollClass.LIVE
    assert not missed(3 * DAY + 60, again).lost
    never = transitions.retried(missed(2 * DAY, missed(10)), moment(3 * DAY), POLLING)
    assert (never.state, never.poll_class) == ("pending", PollClass.NEW)


# Another pace.


def test_another_pace_counts_from_the_last_change_and_the_hand_over() -> None:
    faster = Polling(processing=1.0, max_age=600.0)
    repaced = transitions.repaced(PROCESSING, moment(41), faster)
    assert (repaced.interval, repaced.healthy_interval, repaced.due) == (2.0, 2.0, 1003.0)
    slower = Polling(processing=50.0)
    assert transitions.repaced(PROCESSING, moment(2), slower).due == PROCESSING.due, "never later than planned"
    assert transitions.repaced(PROCESSING, moment(601), faster).interval == 3600
    large = transitions.succeeded(NEW, running(A, size=16 * 2**20), at(1))
    assert transitions.repaced(large, moment(41), faster).interval == 75


# Staleness.


def test_stale_is_three_intervals_and_half_a_minute_after_the_last_success() -> None:
    assert NEW.stale_at == 1000 + 3 * 15 + 30
    assert PROCESSING.stale_at == 1001 + 3 * 5 + 30
    assert transitions.failed(PROCESSING, TIMEOUT, at(9)).stale_at == PROCESSING.stale_at
    slow = PROCESSING._replace(healthy_interval=3600.0)
    assert slow.stale_at == 1001 + 3 * 3600 + 30


def test_a_step_leaves_the_value_before_as_it_was() -> None:
    before = PROCESSING._replace()
    transitions.succeeded(PROCESSING, Operation(A, Status.FAILED), at(5))
    missed(5, PROCESSING)
    assert before == PROCESSING
