"""When to ask again, and who is next."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import Polling
from exporter.operation import Status
from exporter.tracking import pacing
from exporter.tracking.pacing import (
    CircuitBreaker,
    DuePoll,
    DueQueue,
    PollClass,
    RateLimiter,
    ScrapeRhythm,
    WeightedRoundRobin,
)

POLLING = Polling()
DAY = 86400.0
BUCKET_WIDTH = 2**0.25  # intervals of one heap differ by no more

# Intervals.


def test_a_spread_is_the_last_fifth_of_the_interval() -> None:
    assert [pacing.spread(10.0, chance) for chance in (0.0, 0.5, 1.0)] == [8.0, 9.0, 10.0]


def test_doubling_starts_at_the_first_and_ends_at_the_most() -> None:
    assert [pacing.doubling(10, attempt, 300) for attempt in (1, 2, 3, 5, 6, 7, 10**6)] == [
        10, 20, 40, 160, 300, 300, 300,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "unchanged", "age", "seconds"),
    [
        (Status.PROCESSING, 0, 0, 5),
        (Status.PROCESSING, 100, 100, 5),
        (Status.PROCESSING, 200, 200, 10),
        (Status.PROCESSING, 1200, 1200, 60),
        (Status.PROCESSING, 9999, 9999, 60),
        (Status.QUEUED, 0, 0, 15),
        (Status.QUEUED, 400, 400, 20),
        (Status.PROCESSING, 0, 7 * DAY - 1, 5),
        (Status.PROCESSING, 0, 7 * DAY, 3600),
        (Status.QUEUED, 8 * DAY, 8 * DAY, 3600),
    ],
)
def test_the_interval_is_a_share_of_the_standstill_between_base_and_slowest(
    status: Status, unchanged: float, age: float, seconds: float
) -> None:
    assert pacing.live_interval(status, unchanged, age, POLLING) == seconds


def rhythm(times: list[float]) -> ScrapeRhythm:
    made = ScrapeRhythm()
    for each in times:
        made.scraped(each)
    return made


@pytest.mark.parametrize(
    ("times", "processing"),
    [
        ([], 5.0),
        ([0.0, 15.0], 5.0),  # it may be a person
        ([0.0, 15.0, 30.0], 15.0),
        ([0.0, 10.0, 20.0, 30.0], 10.0),
        ([0.0, 1.0, 15.0, 16.0, 30.0], 7.5),  # two servers
        ([0.0, 60.0, 120.0], 15.0),
        ([float(each) for each in range(60)], 5.0),
        ([0.0, 10.0, 20.0, 110.0], 5.0),  # not regular
        ([0.0, 90.0, *(300.0 + 12.0 * each for each in range(26))], 12.0),  # what was before does not count
    ],
)
def test_what_runs_is_polled_as_often_as_it_is_scraped_where_that_is_regular(
    times: list[float], processing: float
) -> None:
    now = times[-1] if times else 0.0
    assert rhythm(times).adapted(POLLING, now) == replace(POLLING, processing=processing)


def test_once_scrapes_stay_away_the_configured_interval_holds() -> None:
    scraped = rhythm([0.0, 15.0, 30.0])
    assert [scraped.adapted(POLLING, now).processing for now in (59.0, 60.0, 61.0)] == [15.0, 15.0, 5.0]


def test_scrapes_make_no_interval_shorter() -> None:
    slow = Polling(processing=30.0)
    assert rhythm([0.0, 10.0, 20.0]).adapted(slow, 20.0) == slow


def test_a_base_slower_than_hourly_holds_for_old_ones_too() -> None:
    slow = Polling(processing=7200.0, slowest=7200.0)
    assert pacing.live_interval(Status.PROCESSING, 0, 8 * DAY, slow) == 7200


def test_404s_that_prove_nothing_are_asked_at_the_queued_interval() -> None:
    assert [pacing.missing_interval(attempt, POLLING) for attempt in (0, 1, 2, 3, 7, 99)] == [
        15, 60, 120, 240, 3600, 3600,
    ]  # fmt: skip


# The rate limiter.


def starts(rate_limiter: RateLimiter, seconds: float, since: float = 0.0) -> list[float]:
    times = []
    now = max(since, rate_limiter.next_start)
    while now < since + seconds:
        rate_limiter.start(now)
        times.append(now)
        now = max(now, rate_limiter.next_start)
    return times


def test_requests_are_spaced_evenly_just_under_the_limit() -> None:
    times = starts(RateLimiter(50.0), 10)
    assert len(times) == pytest.approx(0.985 * 500, abs=1)
    assert times[1] - times[0] == pytest.approx(1 / (0.985 * 50) - 0.005)
    assert times[2] - times[1] == pytest.approx(1 / (0.985 * 50))


def test_a_late_start_is_caught_up_by_5_ms_in_all() -> None:
    rate_limiter = RateLimiter(10.0)
    rate_limiter.start(0.0)
    rate_limiter.start(100.0)
    assert rate_limiter.next_start == pytest.approx(100.0 - 0.005 + 1 / 9.85)


@given(st.floats(0.2, 200), st.lists(st.floats(0, 0.3), min_size=20, max_size=300))
def test_no_second_passes_the_limit_however_late_the_starts(limit: float, delays: list[float]) -> None:
    rate_limiter, now, times = RateLimiter(limit), 0.0, []
    for delay in delays:
        now = max(now, rate_limiter.next_start) + delay
        rate_limiter.start(now)
        times.append(now)
    for index, start in enumerate(times):
        assert sum(start <= each < start + 1.0 for each in times[index:]) <= math.ceil(limit)


def test_a_429_halves_once_an_episode() -> None:
    rate_limiter = RateLimiter(100.0)
    assert rate_limiter.limited(10.0, 9.9, 1.0, 0.5)
    assert not rate_limiter.limited(10.2, 9.95, 1.0, 0.5), "it was sent before the last halving"
    assert rate_limiter.rate == 50
    assert rate_limiter.next_start == 11.2, "the longest wait holds"
    assert rate_limiter.limited(11.5, 11.3, 1.0, 0.5)
    assert rate_limiter.rate == 25


@pytest.mark.parametrize(("limit", "least"), [(100.0, 2.0), (20.0, 0.4), (5.0, 0.2), (0.1, 0.1)])
def test_the_limit_has_a_floor(limit: float, least: float) -> None:
    rate_limiter = RateLimiter(limit)
    for now in range(1, 20):
        rate_limiter.limited(now, now - 0.1, 0.0, 0.5)
    assert rate_limiter.rate == pytest.approx(least)


def test_the_limit_grows_back_by_two_percent_a_second_of_sending() -> None:
    rate_limiter = RateLimiter(100.0)
    rate_limiter.start(0.0)
    rate_limiter.limited(0.1, 0.0, 0.0, 0.5)
    starts(rate_limiter, 10, since=0.1)
    assert rate_limiter.rate == pytest.approx(70, abs=0.5)
    starts(rate_limiter, 30, since=10.1)
    assert rate_limiter.rate == 100


def test_a_pause_is_not_clean_sending() -> None:
    rate_limiter = RateLimiter(100.0)
    rate_limiter.start(0.0)
    rate_limiter.limited(0.1, 0.0, 0.0, 0.5)
    rate_limiter.start(1000.0)
    assert rate_limiter.rate == pytest.approx(50.04, abs=0.01)


def test_untold_waits_double_to_a_minute_until_an_answer() -> None:
    rate_limiter, waits, now = RateLimiter(10.0), [], 0.0
    for _ in range(8):
        now += 1000
        rate_limiter.limited(now, now - 0.1, None, 0.5)
        waits.append(rate_limiter.next_start - now)
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    rate_limiter.accepted(now - 0.5)
    rate_limiter.limited(now + 1000, now + 999, None, 0.5)
    assert rate_limiter.next_start - now - 1000 == pytest.approx(60), "that answer was to an earlier request"
    rate_limiter.accepted(now + 1000.5)
    rate_limiter.limited(now + 2000, now + 1999, None, 0.5)
    assert rate_limiter.next_start - now - 2000 == pytest.approx(1)


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_an_untold_wait_varies_by_a_fifth(chance: float, wait: float) -> None:
    rate_limiter = RateLimiter(10.0)
    rate_limiter.limited(0.0, -0.1, None, chance)
    assert rate_limiter.next_start == pytest.approx(wait)


def test_a_told_wait_is_kept_as_told() -> None:
    rate_limiter = RateLimiter(10.0)
    rate_limiter.limited(0.0, -0.1, 7.5, 1.0)
    assert rate_limiter.next_start == 7.5


def test_the_first_without_a_time_waits_a_second_also_in_an_episode_that_began_with_one() -> None:
    rate_limiter = RateLimiter(100.0)
    assert rate_limiter.limited(10.0, 9.9, 0.0, 0.5)
    assert not rate_limiter.limited(10.0, 10.0, None, 0.5)
    assert rate_limiter.next_start == 11.0
    assert rate_limiter.limited(11.1, 11.0, None, 0.5)
    assert rate_limiter.next_start == 13.1


def test_another_limit_keeps_what_was_learnt_in_proportion() -> None:
    rate_limiter = RateLimiter(100.0)
    rate_limiter.limited(1.0, 0.9, 5.0, 0.5)
    rate_limiter.use_limit(20.0)
    assert (rate_limiter.limit, rate_limiter.rate, rate_limiter.next_start) == (20, 10, 6)


def test_another_limit_keeps_the_floor() -> None:
    rate_limiter = RateLimiter(100.0)
    for now in range(1, 20):
        rate_limiter.limited(now, now - 0.1, 0.0, 0.5)
    rate_limiter.use_limit(1.0)
    assert rate_limiter.rate == 0.2


def test_a_new_key_goes_on_where_the_old_one_stood() -> None:
    old, new = RateLimiter(100.0), RateLimiter(60.0)
    old.limited(10.0, 9.9, 30.0, 0.5)
    new.inherit(old)
    assert (new.limit, new.rate, new.next_start) == (60, 50, 40)
    assert not new.limited(10.5, 9.9, 0.0, 0.5), "the same episode"


# The circuit breaker.


def test_a_circuit_breaker_is_closed_until_refused() -> None:
    circuit_breaker = CircuitBreaker()
    assert circuit_breaker.probe_at == -math.inf
    assert circuit_breaker.refused(0.0, probe=False), "the key must be read again"
    assert circuit_breaker.probe_at == math.inf
    assert not circuit_breaker.refused(0.1, probe=False), "an answer that was under way"
    assert not circuit_breaker.suspended


def test_refused_twice_it_probes_ever_more_rarely() -> None:
    circuit_breaker, now = CircuitBreaker(), 0.0
    circuit_breaker.refused(now, probe=False)
    circuit_breaker.key_was_read(1.0)
    assert circuit_breaker.probe_at == 1.0
    waits = []
    for _ in range(7):
        now = circuit_breaker.probe_at
        circuit_breaker.probe_started()
        assert circuit_breaker.probe_at == math.inf
        circuit_breaker.refused(now, probe=True)
        waits.append(circuit_breaker.probe_at - now)
    assert waits == [30, 60, 120, 240, 480, 600, 600]
    assert circuit_breaker.suspended
    circuit_breaker.accepted(now)
    assert (circuit_breaker.is_closed, circuit_breaker.suspended, circuit_breaker.probe_at) == (True, False, -math.inf)


def test_a_key_read_again_does_not_hurry_the_probes() -> None:
    circuit_breaker = CircuitBreaker()
    circuit_breaker.refused(0.0, probe=False)
    circuit_breaker.key_was_read(0.0)
    circuit_breaker.refused(0.0, probe=True)
    circuit_breaker.key_was_read(1.0)
    assert circuit_breaker.probe_at == 30


def test_probes_without_a_verdict_wait_as_after_a_refusal() -> None:
    circuit_breaker = CircuitBreaker()
    circuit_breaker.refused(0.0, probe=False)
    circuit_breaker.probe_failed(5.0)
    assert (circuit_breaker.probe_at, circuit_breaker.suspended) == (35.0, False)
    circuit_breaker.probe_failed(35.0)
    assert circuit_breaker.probe_at == 95
    circuit_breaker.refused(95.0, probe=True)
    assert (circuit_breaker.probe_at, circuit_breaker.suspended) == (215.0, True)


def test_a_probe_that_left_the_upstream_is_not_waited_for() -> None:
    circuit_breaker = CircuitBreaker()
    circuit_breaker.refused(0.0, probe=False)
    circuit_breaker.probe_started()
    circuit_breaker.probe_lost(5.0)
    assert circuit_breaker.probe_at == 6


def test_the_waits_start_anew_after_the_key_was_taken() -> None:
    circuit_breaker = CircuitBreaker()
    for _ in range(3):
        circuit_breaker.refused(0.0, probe=True)
    circuit_breaker.accepted(0.0)
    circuit_breaker.refused(100.0, probe=False)
    circuit_breaker.refused(100.0, probe=True)
    assert circuit_breaker.probe_at == 130


# The due queue.


def planned_queue() -> DueQueue:
    return DueQueue(lambda _entry: True)


def entry(number: int, due: float, interval: float, poll_class: PollClass = PollClass.LIVE) -> DuePoll:
    return DuePoll(due, number, str(number), poll_class, interval)


def test_an_empty_due_queue_has_nothing() -> None:
    due_queue = planned_queue()
    assert due_queue.next_due() == math.inf
    assert due_queue.most_overdue(PollClass.NEW, 1e9) is None


def test_what_is_not_due_is_not_in_line() -> None:
    due_queue = planned_queue()
    due_queue.add(entry(1, 10.0, 5.0))
    assert due_queue.most_overdue(PollClass.LIVE, 9.9) is None
    assert due_queue.most_overdue(PollClass.NEW, 10.0) is None
    assert due_queue.next_due() == 10
    first = due_queue.most_overdue(PollClass.LIVE, 10.0)
    assert first is not None
    assert first[0] == 0


def test_the_most_overdue_by_its_own_interval_is_first() -> None:
    due_queue = planned_queue()
    due_queue.add(entry(1, 0.0, 60.0))  # due for longest: a third of its interval
    due_queue.add(entry(2, 10.0, 5.0))  # twice its interval
    first = due_queue.most_overdue(PollClass.LIVE, 20.0)
    assert first is not None
    assert first[0] == 2
    assert due_queue.pop(PollClass.LIVE, first[1]).id == "2"
    assert due_queue.next_due() == 0


ENTRIES = st.lists(
    st.tuples(st.floats(0, 1000), st.floats(0.5, 4000), st.sampled_from(list(PollClass))), min_size=1, max_size=40
)


@given(ENTRIES, st.floats(0, 5000))
def test_the_due_queue_hands_out_all_that_is_due_nearly_in_order(
    planned: list[tuple[float, float, PollClass]], now: float
) -> None:
    due_queue = planned_queue()
    naive = [entry(number, *each) for number, each in enumerate(planned)]
    for each in naive:
        due_queue.add(each)
    for poll_class in PollClass:
        while (first := due_queue.most_overdue(poll_class, now)) is not None:
            assert due_queue.next_due() == min(each.due for each in naive)
            popped = due_queue.pop(poll_class, first[1])
            assert first[0] == (now - popped.due) / popped.interval
            due = [each for each in naive if each.poll_class is poll_class and each.due <= now]
            most = max((now - each.due) / each.interval for each in due)
            assert first[0] * BUCKET_WIDTH * (1 + 1e-9) >= most
            naive.remove(popped)
        assert not [each for each in naive if each.poll_class is poll_class and each.due <= now]
    assert due_queue.next_due() == min((each.due for each in naive), default=math.inf)


# Round robin.


def test_turns_are_five_to_four_to_one_in_each_round() -> None:
    round_robin = WeightedRoundRobin()
    for _ in range(20):
        assert Counter(round_robin.choose(list(PollClass)) for _ in range(10)) == {
            PollClass.NEW: 5,
            PollClass.LIVE: 4,
            PollClass.RETRY: 1,
        }


@pytest.mark.parametrize(
    ("waiting", "shares"),
    [
        ([PollClass.NEW, PollClass.LIVE], {PollClass.NEW: 5, PollClass.LIVE: 4}),
        ([PollClass.NEW, PollClass.RETRY], {PollClass.NEW: 5, PollClass.RETRY: 1}),
        ([PollClass.LIVE, PollClass.RETRY], {PollClass.LIVE: 4, PollClass.RETRY: 1}),
        ([PollClass.RETRY], {PollClass.RETRY: 1}),
    ],
)
def test_an_absent_class_leaves_its_slots_to_the_others(waiting: list[PollClass], shares: dict[PollClass, int]) -> None:
    round_robin = WeightedRoundRobin()
    for _ in range(10):
        assert Counter(round_robin.choose(waiting) for _ in range(sum(shares.values()))) == shares


@given(st.lists(st.sets(st.sampled_from(list(PollClass)), min_size=1), max_size=60))
def test_with_any_that_come_and_go_only_those_waiting_are_chosen_and_no_debt_grows(
    rounds: list[set[PollClass]],
) -> None:
    round_robin = WeightedRoundRobin()
    for waiting in rounds:
        assert round_robin.choose(sorted(waiting)) in waiting
    for _ in range(2):  # what is left of earlier turns is paid back soon
        later = Counter(round_robin.choose(list(PollClass)) for _ in range(20))
    assert later[PollClass.RETRY] >= 1
