"""Scenarios of asking, in virtual time."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, cast

import pytest
from model import KEY, SELDOM, WALL, Model, environment, ids, running
from structlog.testing import capture_logs

from exporter.config import Config, ListedOperation, Polling
from exporter.errors import (
    REFUSED_HINT,
    BadResponse,
    ConnectionLost,
    KeyRefused,
    KnockError,
    NotFound,
    Postponed,
    RateLimited,
    Reason,
    TooLarge,
    Unreachable,
)
from exporter.keys import KeySource, Secret
from exporter.operation import NIL_ID, Operation, Status
from exporter.tracking.environment import Health
from exporter.tracking.memberships import SourceKey, SourceKind
from exporter.tracking.messages import (
    Close,
    Exchange,
    KeyRead,
    Listed,
    PollRequest,
    Reconfigure,
    Register,
    Registration,
    Scraped,
)
from exporter.tracking.tracker import MESSAGES_A_STEP, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.tracking.messages import Message, RegistrationResult
    from exporter.tracking.transitions import Moment

A, B = ids(2)
E = {"knock_environment": "production"}
LIST = SourceKey(SourceKind.FILES, "/ids.txt")
OTHER_KEY = Secret("sk_test_other")


def one(**settings: object) -> Config:
    return Config((environment("production", [A], **settings),))


def always(outcome: Operation | KnockError) -> Model:
    return Model(one(), lambda _request, _now: outcome)


def most_in_a_second(sent: list[PollRequest]) -> int:
    times = [each.sent_at for each in sent]
    assert times == sorted(times)
    return max(bisect_left(times, start + 1.0) - i for i, start in enumerate(times))


# Pace.


def test_the_limit_is_used_and_never_passed() -> None:
    model = Model(
        Config((environment(operations=ids(400), rate_limit=50.0, max_in_flight=64),)),
        lambda request, now: running(request.id, rows_processed=int(now.mono)),
    )
    model.run(40)
    assert len(model.sent) >= 0.97 * 50 * 40
    assert most_in_a_second(model.sent) <= 50
    gaps = [b - a for each in ids(400) for a, b in pairwise(model.times(each))]
    assert max(gaps) <= 28


def test_no_more_requests_are_under_way_than_may_be() -> None:
    config = Config((environment(operations=ids(10), max_in_flight=3),))
    model = Model(config, always_running, latency=lambda _request: 9.0)
    model.run(5)
    assert len(model.sent) == 3


def test_late_starts_are_hardly_caught_up() -> None:
    model = Model(Config((environment(operations=ids(1000), rate_limit=200.0, max_in_flight=64),)), always_running)
    for _ in range(10):
        model.run(0.5)
        model.mono += 0.1  # the thread did not come to run for so long
    assert most_in_a_second(model.sent) <= 200


def always_running(request: PollRequest, _now: Moment) -> Operation:
    return running(request.id)


def test_new_ones_and_live_ones_both_make_progress() -> None:
    live, new = ids(500, seed=1), ids(500, seed=2)
    model = Model(
        Config((environment(operations=live, rate_limit=50.0, max_in_flight=64),)),
        lambda request, now: running(request.id, rows_processed=int(now.mono)),
    )
    model.run(15)
    model.sent.clear()
    model.tell(Listed("production", LIST, tuple(ListedOperation(each) for each in new)))
    model.run(15)
    asked = Counter(each.id for each in model.sent)
    firsts = sum(each in asked for each in new)
    assert firsts == pytest.approx(5 / 9 * asked.total(), rel=0.02)
    assert asked.total() >= 0.97 * 50 * 15
    model.run(15)
    assert {each.id for each in model.sent} == {*live, *new}


def test_each_request_is_counted_with_its_time() -> None:
    model = Model(one(), always_running)
    model.run(30)
    name = "knock_exporter_api_request_duration_seconds"
    assert model.value(f"{name}_count", **E) == len(model.sent)
    assert model.value(f"{name}_sum", **E) == pytest.approx(0.05 * len(model.sent))


def test_three_failures_over_half_a_minute_are_an_outage() -> None:
    def up_after(*misses: float, known: bool = False) -> bool | None:
        health = Health()
        if known:
            health.accepted()
        for at in misses:
            health.missed(at, at)
        return health.up

    assert [up_after(0.0, 10.0, 20.0, last) for last in (29.9, 30.0)] == [None, False]
    assert [up_after(0.0, 40.0, known=True), up_after(0.0, 40.0, 40.0, known=True)] == [True, False]


def test_an_operation_handed_over_twice_is_one() -> None:
    model = Model(one(), always_running)
    model.run(2)
    model.tell(Listed("production", LIST, (ListedOperation(A, group="again"), ListedOperation(B, group="again"))))
    model.run(2)
    assert model.value("knock_exporter_operations", **E) == 2
    assert model.value("knock_bulk_operation_up", operation_id=A, group="again") == 1
    assert model.value("knock_bulk_operation_up", operation_id=B, group="again") == 1


def test_final_ones_are_asked_once() -> None:
    model = Model(one(), lambda request, _now: running(request.id, status=Status.COMPLETED))
    model.run(86400)
    assert len(model.times(A)) == 1
    assert len(model.checks()) > 140, "with nothing to ask, the key is checked every ten minutes"


def test_what_stands_still_is_asked_less_often() -> None:
    model = Model(one(), always_running)
    model.run(3600)
    times = model.times(A)
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps[0] == pytest.approx(5.05, abs=0.1)
    assert gaps[-1] == pytest.approx(60.05, abs=0.1)
    assert all(b >= a - 0.1 for a, b in pairwise(gaps))


def test_an_operation_unfinished_for_max_age_is_asked_hourly() -> None:
    old = Polling(max_age=600.0)
    assert Polling().max_age == 7 * 86400
    model = Model(one(polling=old), lambda request, now: running(request.id, rows_processed=int(now.mono)))
    model.run(3 * 3600)
    times = model.times(A)
    assert times[-1] - times[-2] == pytest.approx(3600.05, abs=0.1)


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_wall_clock_that_jumps_changes_nothing_about_the_asking(jump: float) -> None:
    steady, jumping = (Model(one(), always_running) for _ in range(2))
    steady.run(600)
    jumping.run(300)
    jumping.wall_offset += jump
    jumping.run(300)
    assert jumping.times(A) == steady.times(A)


def test_an_environment_that_only_times_out_takes_nothing_from_another() -> None:
    def knock(request: PollRequest, now: Moment) -> Operation | KnockError:
        if request.environment == "slow":
            return Unreachable(Reason.TIMEOUT, "no answer within 10 s")
        return running(request.id, rows_processed=int(now.mono))

    slow = environment("slow", ids(500, seed=3), rate_limit=20.0)
    fine = environment("fine", ids(500, seed=4), rate_limit=20.0)
    keys = {"slow": OTHER_KEY}
    model = Model(Config((slow, fine)), knock, lambda each: 10.0 if each.environment == "slow" else 0.05, keys=keys)
    model.run(40)
    assert sum(each.environment == "fine" for each in model.sent) >= 0.97 * 20 * 40


def test_environments_that_share_a_key_share_the_lowest_limit() -> None:
    first = environment("first", ids(500, seed=3), rate_limit=50.0)
    second = environment("second", ids(500, seed=4), rate_limit=10.0)
    model = Model(Config((first, second)), lambda request, now: running(request.id, rows_processed=int(now.mono)))
    model.run(60)
    assert 0.97 * 10 * 60 <= len(model.sent) <= 10 * 60
    assert Counter(each.environment for each in model.sent)["second"] > 200


# Failures.


def test_a_failing_operation_is_asked_ten_seconds_later_then_up_to_five_minutes() -> None:
    model = always(Unreachable(Reason.CONNECT, "connection refused"))
    model.run(1200)
    times = model.times(A)
    gaps = [round(b - a) for a, b in pairwise(times)]
    assert gaps == [10, 20, 40, 80, 160, 300, 300]
    assert model.value("knock_bulk_operation_up", operation_id=A) == 0
    assert model.value("knock_exporter_poll_failures_total", reason="connect", **E) == 8


def test_a_failed_poll_keeps_the_last_values() -> None:
    outcomes: list[Operation | KnockError] = [running(A, rows_processed=7), Unreachable(Reason.TIMEOUT, "slow")]
    model = Model(one(), lambda _request, _now: outcomes[0] if len(model.sent) == 0 else outcomes[1])
    model.run(20)
    assert model.value("knock_bulk_operation_rows_processed", operation_id=A) == 7
    assert model.value("knock_bulk_operation_up", operation_id=A) == 0
    assert model.value("knock_bulk_operation_last_success_timestamp_seconds", operation_id=A) == WALL + 0.05


def test_too_large_an_answer_is_asked_for_once_a_minute_at_most() -> None:
    model = Model(one(), lambda _request, _now: TooLarge("body over 16 MiB", code=200), chance=lambda: 0.0)
    model.run(1800)
    times = model.times(A)
    assert min(b - a for a, b in pairwise(times)) >= 60


def test_what_memory_does_not_do_for_leaves_the_operation_due_and_is_logged_once() -> None:
    with capture_logs() as lines:
        model = always(Postponed("no memory left for an answer", code=200))
        model.run(60)
    assert [line["event"] for line in lines] == ["not enough memory for an answer, polling again later"]
    gaps = [b - a for a, b in pairwise(model.times(A))]
    assert all(1 <= gap < 1.2 for gap in gaps)
    assert len(gaps) > 40
    assert model.value("knock_bulk_operation_up", operation_id=A) is None
    assert model.value("knock_up", **E) is None
    assert model.value("knock_exporter_poll_failures_total", **E) == 0
    assert model.value("knock_exporter_api_requests_total", code="200", **E) == len(model.sent)


def test_what_waits_for_room_uses_neither_a_slot_nor_its_turn() -> None:
    room = False
    others = ids(100, seed=5)
    model = Model(
        Config((environment("production", [A, *others], rate_limit=10.0),)),
        lambda request, now: running(request.id, rows_processed=int(now.mono)),
        waits_for_room=lambda request: 0.05 if request.id == A and not room else 0.0,
    )
    model.run(60)
    assert model.times(A) == []
    assert len(model.sent) >= 0.97 * 10 * 60
    room = True
    model.run(2)
    assert len(model.times(A)) == 1


def test_a_large_answer_is_asked_for_less_often() -> None:
    model = Model(
        one(),
        lambda request, now: running(request.id, rows_processed=int(now.mono), size=16 * 2**20),
        chance=lambda: 0.0,
    )
    model.run(1800)
    gaps = [b - a for a, b in pairwise(model.times(A))]
    assert all(60 <= gap < 61 for gap in gaps)
    assert len(gaps) > 20


def test_an_undocumented_status_is_asked_ever_more_rarely() -> None:
    model = always(running(A, status=Status.UNKNOWN))
    model.run(20000)
    times = model.times(A)
    gaps = [round(b - a) for a, b in pairwise(times)]
    assert gaps[:4] == [10, 20, 40, 80]
    assert gaps[-1] == 3600
    assert model.value("knock_bulk_operation_status", operation_id=A, status="unknown") == 1


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_an_undocumented_status_with_an_end_twice_running_is_final(end: str) -> None:
    model = always(running(A, status=Status.UNKNOWN, **{f"{end}_at": WALL}))
    model.run(86400)
    assert len(model.times(A)) == 2
    assert model.value("knock_bulk_operation_status", operation_id=A, status=end) == 1
    assert model.value("knock_bulk_operations_finished_total", status=end) == 1, "it was seen unfinished"


def test_five_bad_answers_of_one_kind_are_logged_once() -> None:
    model = always(BadResponse("status", "expected a string, got nothing", accepted_key=True, code=200))
    with capture_logs() as lines:
        model.run(140)
        assert len(model.times(A)) == 4
        assert not any("keeps sending answers" in line["event"] for line in lines)
        model.run(3600)
    bad = [line for line in lines if "keeps sending answers" in line["event"]]
    assert len(bad) == 1
    assert bad[0]["error"].startswith("status: ")


def test_bad_answers_with_a_good_one_in_between_are_not_logged() -> None:
    numbers = count(1)
    bad = BadResponse("status", "expected a string, got nothing", accepted_key=True, code=200)
    with capture_logs() as lines:
        Model(one(), lambda request, _now: bad if next(numbers) % 5 else running(request.id)).run(3600)
    assert next(numbers) > 20
    assert not [line for line in lines if "keeps sending answers" in line["event"]]


# 429.


def limited(seconds: float | None = None) -> RateLimited:
    return RateLimited("429", retry_after=seconds)


def test_a_429_makes_the_upstream_wait_and_halve_and_recover() -> None:
    model = Model(
        Config((environment(operations=ids(200), rate_limit=20.0, max_in_flight=64),)),
        lambda request, now: limited(7.0) if now.mono < 1000.5 else running(request.id, rows_processed=int(now.mono)),
        lambda _request: 0.1,
    )
    model.run(0.1)
    before = len(model.sent)
    assert before > 1, "all that were under way get a 429, and halve the rate once"
    model.run(6.9)
    assert len(model.sent) == before
    model.run(0.3)
    assert len(model.sent) > before
    assert model.value("knock_exporter_api_rate_limit_requests_per_second", **E) == pytest.approx(10, abs=0.5)
    model.run(60)
    assert model.value("knock_exporter_api_rate_limit_requests_per_second", **E) == 20


def test_the_limit_halves_once_an_episode() -> None:
    model = Model(
        Config((environment(operations=ids(100), rate_limit=100.0, max_in_flight=64),)),
        lambda request, now: limited(1.0) if now.mono < 1000.2 else running(request.id),
        lambda _request: 0.3,
    )
    model.run(0.9)
    assert len(model.sent) > 10
    assert model.value("knock_exporter_api_rate_limit_requests_per_second", **E) == 50


def test_a_429_is_the_upstreams_trouble_not_the_operations() -> None:
    model = Model(one(), lambda request, now: limited() if now.mono == 1000.0 else running(request.id))
    model.run(0.5)
    assert model.value("knock_bulk_operation_up", operation_id=A) is None
    assert model.value("knock_up", **E) == 1
    model.run(2)
    assert model.times(A) == [0.0, pytest.approx(1.25, abs=0.1)]
    assert model.value("knock_exporter_poll_failures_total", reason="rate_limited", **E) == 1


def test_without_a_named_time_the_waits_double_to_a_minute() -> None:
    model = Model(one(), lambda _request, _now: limited(), chance=lambda: 0.5)
    model.run(300)
    assert [round(b - a) for a, b in pairwise(model.times(A))] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_rate_never_falls_below_one_in_five_seconds() -> None:
    model = Model(one(rate_limit=0.5), lambda _request, _now: limited(), chance=lambda: 0.5)
    model.run(900)
    assert model.value("knock_exporter_api_rate_limit_requests_per_second", **E) == pytest.approx(0.2, abs=0.02)


def test_an_answer_in_between_ends_the_doubling() -> None:
    told = [None, limited(), running(A), limited(), limited(), limited()]
    model = Model(one(), lambda _request, _now: (told.pop() if told else None) or running(A), chance=lambda: 0.5)
    model.run(60)
    gaps = [round(b - a) for a, b in pairwise(model.times(A))]
    assert (gaps[:3], gaps[4]) == ([1, 2, 4], 1)


# Kept connections.


LOST = ConnectionLost(Reason.CONNECT, "closed without an answer")


def losing(*lost: int) -> Callable[[PollRequest, Moment], Operation | KnockError]:
    """Make a Knock that loses these requests with their connections, counted from 1."""
    numbers = count(1)
    return lambda request, _now: LOST if next(numbers) in lost else running(request.id)


def test_a_request_that_is_lost_with_its_connection_is_repeated_at_once_in_a_slot_of_its_own() -> None:
    model = Model(Config((environment(operations=[A, B], rate_limit=1.0),)), losing(1, 2))
    with capture_logs() as lines:
        model.run(4.5)
    assert (model.times(A), model.times(B)) == ([0.0, 2.025], [1.01, 3.041])
    assert model.value("knock_exporter_polls_total", **E) == 2
    assert not model.value("knock_exporter_poll_failures_total", **E)
    assert model.value("knock_exporter_api_requests_total", code="none", **E) == 2
    assert model.value("knock_bulk_operation_up", operation_id=A) == 1
    assert [line["event"] for line in lines] == ["Knock answers and accepts the key"]


def test_a_repeat_that_is_lost_too_is_a_failure_as_any_other() -> None:
    model = Model(one(), losing(1, 2, 4))
    model.run(16)
    assert model.times(A) == [0.0, 0.05, 10.1, 15.15, 15.2]
    assert model.value("knock_exporter_poll_failures_total", reason="connect", **E) == 1


def test_a_check_of_the_key_is_repeated_too() -> None:
    model = Model(Config((environment(),)), lambda _request, _now: LOST)
    model.run(700)
    assert model.checks() == [0, 0.05, 600.05, 600.1]


def test_a_probe_that_is_lost_is_repeated_and_has_not_failed() -> None:
    outcomes: list[KnockError] = [LOST, KeyRefused("401", code=401), KeyRefused("401", code=401)]
    model = Model(one(), lambda request, _now: outcomes.pop() if outcomes else running(request.id))
    model.run(1)
    model.tell(KeyRead("production", None))
    model.run(35)
    assert model.value("knock_up", **E) == 1
    gaps = [round(b - a) for a, b in pairwise(model.times(A))]
    assert gaps[1:3] == [30, 1]


def test_an_operation_that_is_dropped_while_its_request_is_lost_is_not_asked_again() -> None:
    model = Model(Config((environment(),)), losing(2))
    model.list_file("/ids.txt", A)
    model.run(0.01)
    model.tell(Listed("production", LIST, ()))
    model.release(A)
    model.run(30)
    assert len(model.times(A)) == 1


# The key.


def test_a_refused_key_is_read_anew_repeated_once_then_probed_ever_more_rarely() -> None:
    model = Model(
        Config((environment(operations=ids(100)),)), lambda _request, _now: KeyRefused("401 api_key_expired", code=401)
    )
    model.run(1)
    sent_at_once = len(model.sent)
    assert [name for _, name in model.reread] == ["production"]
    assert sent_at_once <= 3, "what was under way when the first refusal came"
    model.tell(KeyRead("production", None))
    model.run(5)
    assert len(model.sent) == sent_at_once + 1
    assert model.value("knock_exporter_api_suspended", **E) == 1
    model.run(2000)
    probes = [each.sent_at for each in model.sent[sent_at_once:]]
    gaps = [round(b - a) for a, b in pairwise(probes)]
    assert gaps[:6] == [30, 60, 120, 240, 480, 600]
    assert model.value("knock_up", **E) == 0
    assert model.value("knock_bulk_operation_up", operation_id=model.sent[0].id) is None


def test_environments_of_one_refused_key_are_probed_in_turn() -> None:
    settings = environment("first", [A]), environment("second", [B])
    model = Model(Config(settings), lambda *_: KeyRefused("HTTP 403", code=403))
    model.run(1)
    at_once = len(model.sent)
    model.tell(KeyRead("first", None))
    model.run(3600)
    probed = [each.environment for each in model.sent[at_once:]]
    assert len(probed) > 8
    assert all(one != other for one, other in pairwise(probed))


def test_a_probe_that_left_with_its_environment_is_not_waited_for() -> None:
    settings = {name: environment(name, [A]) for name in ("first", "second")}
    model = Model(
        Config(tuple(settings.values())),
        lambda request, _now: running(request.id) if len(model.sent) > 3 else KeyRefused("HTTP 401", code=401),
        latency=lambda _request: 2.0,
    )
    model.run(2.5)
    model.tell(KeyRead("first", None))
    model.run(0.1)
    assert model.sent[-1].probe
    del settings[model.sent[-1].environment]
    (left,) = settings.values()
    model.tell(Reconfigure(Config((left,)), {left.name: KEY}, lambda: None, lambda: None))
    model.run(60)
    assert model.value("knock_up", knock_environment=left.name) == 1


def test_a_changed_key_goes_on_at_the_pace_of_the_former_one() -> None:
    model = Model(one(), lambda *_: limited(60.0))
    model.run(1)
    model.tell(KeyRead("production", OTHER_KEY))
    model.run(58)
    assert model.times(A) == [0.0]


def refused_while(refused: list[bool]) -> Model:
    """Follow many operations for a second, while Knock refuses the key as this says."""

    def knock(request: PollRequest, _now: Moment) -> Operation | KnockError:
        return KeyRefused("401", code=401) if refused[0] else running(request.id)

    model = Model(Config((environment(operations=ids(100)),)), knock)
    model.run(1)
    return model


def test_a_changed_key_resumes_at_once() -> None:
    refused = [True]
    model = refused_while(refused)
    model.tell(KeyRead("production", None))
    model.run(50)
    assert model.value("knock_exporter_api_suspended", **E) == 1
    refused[0], before = False, len(model.sent)
    model.tell(KeyRead("production", OTHER_KEY))
    model.run(1)
    assert len(model.sent) - before >= 15
    assert model.used_keys == [("production", OTHER_KEY)]
    assert model.value("knock_up", **E) == 1
    assert model.value("knock_exporter_api_suspended", **E) == 0


def test_what_sends_the_requests_is_exchanged_by_the_tracker() -> None:
    switched: list[float] = []
    model = Model(one(), always_running)
    model.run(1)
    model.tell(Exchange(lambda: switched.append(model.mono)))
    assert switched == [model.mono]


def test_a_key_can_be_rotated_back() -> None:
    model = Model(Config((environment(operations=[A]),)), lambda request, _now: running(request.id))
    for key in (OTHER_KEY, OTHER_KEY, KEY):
        model.run(1)
        model.tell(KeyRead("production", key))
    assert model.used_keys == [("production", OTHER_KEY), ("production", KEY)]


def test_a_key_that_was_refused_and_comes_back_begins_anew() -> None:
    refused = [True]
    model = refused_while(refused)
    model.tell(KeyRead("production", OTHER_KEY))
    model.run(0.1)
    refused[0], before = False, len(model.sent)
    model.tell(KeyRead("production", KEY))
    model.run(0.5)
    assert len(model.sent) - before >= 8


def test_a_late_refusal_of_the_old_key_is_not_held_against_the_new_one() -> None:
    model = Model(
        Config((environment(operations=[A, B]),)),
        lambda request, _now: running(request.id) if request.key_epoch else KeyRefused("401", code=401),
        lambda request: 0.2 if request.key_epoch else 5.0,
    )
    model.run(1)
    model.tell(KeyRead("production", OTHER_KEY))
    model.run(10)
    assert model.value("knock_exporter_api_suspended", **E) == 0
    assert model.value("knock_bulk_operation_up", operation_id=A) == 1
    assert model.reread == []


def test_when_one_environment_leaves_a_suspended_upstream_the_others_still_probe() -> None:
    first, second = environment("first", [A]), environment("second", [B])
    model = Model(Config((first, second)), lambda _request, _now: KeyRefused("401", code=401))
    model.run(1)
    for name in {name for _, name in model.reread}:
        model.tell(KeyRead(name, OTHER_KEY))
    model.run(60)
    assert {each.environment for each in model.sent if each.sent_at >= 1001} == {"first", "second"}


def test_a_probe_that_times_out_says_nothing_about_the_key() -> None:
    outcomes: list[KnockError] = [KeyRefused("401", code=401), KeyRefused("401", code=401)]

    def knock(request: PollRequest, _now: Moment) -> Operation | KnockError:
        return outcomes.pop() if outcomes else Unreachable(Reason.TIMEOUT, "slow")

    model = Model(one(), knock)
    model.run(1)
    model.tell(KeyRead("production", None))
    model.run(200)
    assert model.value("knock_exporter_api_suspended", **E) == 1
    assert len(model.sent) == 4


def test_a_probe_that_memory_does_not_do_for_is_sent_again_soon() -> None:
    outcomes: list[KnockError] = [KeyRefused("401", code=401), Postponed("no memory left for an answer", code=200)]

    def knock(request: PollRequest, _now: Moment) -> Operation | KnockError:
        return outcomes.pop(0) if outcomes else running(request.id)

    model = Model(one(), knock)
    model.run(1)
    model.tell(KeyRead("production", None))
    model.run(3)
    assert model.value("knock_up", **E) == 1
    assert model.value("knock_exporter_api_suspended", **E) == 0


def test_one_refusal_and_then_an_outage_is_not_hammered() -> None:
    outcomes: list[KnockError] = [KeyRefused("401", code=401)]

    def knock(request: PollRequest, _now: Moment) -> Operation | KnockError:
        return outcomes.pop() if outcomes else Unreachable(Reason.TIMEOUT, "slow")

    model = Model(one(), knock)
    model.run(1)
    model.tell(KeyRead("production", None))
    model.run(600)
    assert len(model.sent) <= 7, "the first, its repetition, and probes after 30, 60, 120 … seconds"


def test_the_environments_of_a_suspended_upstream_probe_in_turn() -> None:
    first, second = environment("first", [A]), environment("second", [B])
    model = Model(
        Config((first, second)),
        lambda request, _now: KeyRefused("401", code=401) if request.environment == "first" else running(request.id),
        lambda request: 0.01 if request.environment == "first" else 1.0,
    )
    model.run(0.5)
    model.tell(KeyRead("first", None))
    model.run(120)
    assert model.value("knock_up", knock_environment="second") == 1
    assert model.value("knock_bulk_operation_up", operation_id=B) == 1


def test_a_key_that_comes_back_as_a_name_is_not_shown() -> None:
    model = always(running(A, name="sk_test_echoed_by_a_proxy"))
    model.run(2)
    assert "sk_test_echoed" not in model.metrics()
    assert model.value("knock_bulk_operation_info", operation_id=A, name="other") == 1
    assert model.value("knock_exporter_label_values_folded_total", label="name", **E) == 1


def test_with_nothing_to_ask_the_key_is_checked() -> None:
    model = Model(Config((environment(),)), lambda _request, _now: NotFound("404", code=404, accepted_key=True))
    model.run(1201)
    assert model.checks() == [0, 600, 1200]
    assert model.value("knock_up", **E) == 1
    assert model.value("knock_exporter_polls_total", **E) == 0
    assert model.value("knock_exporter_api_requests_total", code="404", **E) == 3


def test_the_first_attempt_without_an_answer_is_told_at_once() -> None:
    with capture_logs() as lines:
        always(Unreachable(Reason.CONNECT, "connection refused")).run(60)
    events = [line["event"] for line in lines]
    assert events == ["no good response from Knock, retrying", "Knock gives no usable answers"]


def test_knock_counts_as_down_after_three_attempts_over_half_a_minute() -> None:
    model = always(Unreachable(Reason.CONNECT, "connection refused"))
    model.run(25)
    assert model.value("knock_up", **E) is None
    model.run(10)
    assert model.value("knock_up", **E) == 0
    assert model.value("knock_last_answer_timestamp_seconds", **E) is None
    down = Unreachable(Reason.TIMEOUT, "no answer in time")
    many = Model(Config((environment(operations=ids(100)),)), lambda _request, _now: down)
    many.run(29)
    slow = Model(one(), lambda _request, _now: down, lambda _request: 20.0)
    slow.run(85)
    assert len(many.sent) > len(slow.sent) == 3, "of which two have failed"
    for each in (many, slow):
        assert each.value("knock_up", **E) is None
        each.run(10)
        assert each.value("knock_up", **E) == 0


# Scrapes.


@pytest.mark.parametrize("phase", [0.0, 4.0, 9.0, 14.0])
@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_what_runs_for_half_a_minute_is_polled_at_most_four_times_and_seen_at_the_second_scrape(
    phase: float, chance: float
) -> None:
    began: dict[str, float] = {}

    def knock(request: PollRequest, now: Moment) -> Operation | KnockError:
        age = now.mono - began.setdefault(request.id, now.mono)
        rows = min(100, int(age * 100 / 30))
        status = Status.PROCESSING if age < 30 else Status.COMPLETED
        return running(request.id, status=status, rows_processed=rows, completed_at=now.wall if age >= 30 else None)

    model = Model(one(), knock, chance=lambda: chance)
    for _ in range(20):
        model.run(15.0)
        model.tell(Scraped(model.mono))
    model.run(phase)
    model.list_file("/ids.txt", ListedOperation(B))
    asked_at = model.mono
    seen: list[float] = []
    for _ in range(5):
        model.run(15.0 - phase if not seen else 15.0)
        model.tell(Scraped(model.mono))
        seen.append(model.mono - asked_at)
        if model.value("knock_bulk_operation_status", operation_id=B, status="completed") == 1:
            break
    assert len(model.times(B)) <= 4
    ended_at = began[B] + 30 - asked_at
    assert sum(at > ended_at for at in seen) <= 2


# 404.

MISSING = NotFound("404 resource_missing", code=404, accepted_key=True)


def test_where_knock_knows_none_of_them_the_log_names_some() -> None:
    with capture_logs() as lines:
        listed = ids(8, seed=3)
        Model(Config((environment(operations=listed),)), lambda _request, _now: MISSING).run(60)
    [line] = [each for each in lines if each["event"].startswith("Knock knows none of the operations")]
    assert line["operations"] == f"{', '.join(listed[:5])}, and 3 more"


def test_a_404_just_after_hand_over_is_asked_at_the_queued_interval_then_ever_more_rarely() -> None:
    model = always(MISSING)
    model.run(86400)
    times = model.times(A)
    gaps = [round(b - a) for a, b in pairwise(times)]
    assert gaps[:20] == [15] * 20
    assert gaps[20:25] == [60, 120, 240, 480, 960]
    assert gaps[-1] == 3600


def test_an_operation_is_lost_after_a_day_of_404s_where_others_are_found() -> None:
    model = Model(
        Config((environment(operations=[A, B]),)),
        lambda request, _now: MISSING if request.id == A else running(request.id, status=Status.COMPLETED),
    )
    with capture_logs() as lines:
        model.run(26 * 3600)
    asked = len(model.times(A))
    assert model.times(A)[-1] >= 86400
    assert model.value("knock_bulk_operations", status="lost") == 1
    assert model.samples("knock_bulk_operation_up", operation_id=A) == []
    assert [line["operation_id"] for line in lines if "lost" in line["event"]] == [A]
    model.run(7200)
    assert len(model.times(A)) == asked


def test_a_known_operation_that_is_lost_keeps_out_of_the_sums() -> None:
    gone_after = 1100.0
    model = Model(
        Config((environment(operations=[A]),)),
        lambda request, now: running(request.id, rows_processed=5) if now.mono < gone_after else MISSING,
    )
    model.run(90)
    assert model.value("knock_bulk_operations_tracked_rows_processed", name="users.identify") == 5
    model.run(26 * 3600)
    assert model.value("knock_bulk_operations_tracked_rows_processed", name="users.identify") == 0
    assert model.value("knock_bulk_operations", name="users.identify", status="lost") == 1
    assert model.value("knock_exporter_operations_not_exposed", **E) == 0


def test_a_lost_operation_is_asked_again_when_the_key_changes() -> None:
    found = False

    def knock(request: PollRequest, _now: Moment) -> Operation | KnockError:
        return running(request.id) if found or request.id == B else MISSING

    model = Model(Config((environment(operations=[A, B], polling=SELDOM),)), knock)
    model.run(26 * 3600)
    assert model.value("knock_bulk_operations", status="lost", name="unknown") == 1
    found = True
    model.tell(KeyRead("production", OTHER_KEY))
    model.run(5)
    assert model.value("knock_bulk_operations", status="lost", name="unknown") == 0
    assert model.value("knock_bulk_operation_up", operation_id=A) == 1


def test_an_environment_of_nothing_but_404s_gives_nothing_up_and_says_why() -> None:
    model = Model(Config((environment(operations=[A, B]),)), lambda _request, _now: MISSING)
    with capture_logs() as lines:
        model.run(30 * 3600)
    assert model.value("knock_bulk_operations", status="lost") == 0
    assert model.value("knock_bulk_operations", status="pending") == 2
    hints = [line for line in lines if "key of another environment, or wrong branch?" in line["event"]]
    assert len(hints) == 1


# Staleness.


def test_stale_is_judged_at_the_scrape_even_if_the_tracker_stands_still() -> None:
    model = Model(one(polling=replace(Polling(), processing=5.0)), always_running)
    model.run(2)
    assert model.value("knock_bulk_operations_stale", name="users.identify") == 0
    model.mono += 46  # three times 5 s and 30 s and the poll's own time
    assert model.value("knock_bulk_operations_stale", name="users.identify") == 1


def test_the_nil_id_never_becomes_an_operation() -> None:
    model = Model(Config((environment(),)), lambda request, _now: running(request.id))
    model.run(10)
    assert NIL_ID not in model.metrics()
    assert model.value("knock_up", **E) == 1
    assert model.tracker.ended is False
    assert KEY.reveal() not in model.metrics()


def test_a_refused_key_is_told_with_where_it_comes_from() -> None:
    with capture_logs() as logs:
        Model(one(api_key=KeySource(variable="KNOCK_KEY")), lambda *_: KeyRefused("HTTP 401", code=401)).run(60)
    told = [each for each in logs if each["event"] == "Knock refuses the key"]
    assert [(each["key"], each["hint"]) for each in told] == [("environment variable KNOCK_KEY", REFUSED_HINT)]


# The thread.


@dataclass
class Inbox:
    """Hands out messages; where it has none, the time that is waited passes at once, and after `end` comes `Close`."""

    model: Model
    messages: list[Message]
    end: float
    closed: bool = field(default=False, init=False)

    def get(self, timeout: float) -> Message:
        if self.messages:
            return self.messages.pop(0)
        self.model.mono += timeout
        if self.model.mono < self.end:
            raise Empty
        assert not self.closed, "it goes on after the end"
        self.closed = True
        return Close()

    def get_nowait(self) -> Message:
        if not self.messages:
            raise Empty
        return self.messages.pop(0)


def be_the_thread(model: Model, seconds: float, *messages: Message) -> None:
    run(model.tracker, cast("SimpleQueue[Message]", Inbox(model, [*messages], model.mono + seconds)), lambda: model.now)


def test_the_thread_sends_what_is_due_at_its_time() -> None:
    model = Model(Config((environment(operations=ids(5), rate_limit=10.0),)), always_running)
    assert model.tracker.stepped_at == model.mono
    be_the_thread(model, 2)
    assert [each.sent_at - 1000.0 for each in model.sent] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=0.01)


def test_the_thread_handles_every_message_of_a_flood_and_ends_when_it_is_closed() -> None:
    answers: list[RegistrationResult] = []
    register = Register("production", (Registration(ListedOperation(B)),), again=False, reply=answers.append)
    model = Model(one(), always_running)
    be_the_thread(model, 2, *[Scraped(model.mono)] * MESSAGES_A_STEP, register)
    assert [each.id for each in answers[0].taken] == [B]
    assert model.tracker.ended


def test_what_is_asked_and_what_is_answered_is_shown_within_a_cycle() -> None:
    model = Model(Config((environment(),)), lambda *_: MISSING, latency=lambda _request: 0.2)
    model.run(0.5)
    assert (model.value("knock_up", **E), model.value("knock_exporter_api_requests_in_flight", **E)) == (1, 0)
    model.run(599.6)  # the key is checked after ten minutes
    assert model.checks() == [0, 600]
    assert model.value("knock_exporter_api_requests_in_flight", **E) == 1
