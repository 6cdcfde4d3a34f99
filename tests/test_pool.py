"""The fetch pool: how many threads, and what comes back."""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
from model import running
from structlog.testing import capture_logs

from exporter.errors import BadResponse, KnockError, Reason, Unreachable
from exporter.knock.pool import FetchPool
from exporter.send_window import SendWindow, Slot
from exporter.tracking.messages import PollRequest, PollResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.operation import Operation

KEY = "sk_test_0123456789"


class Pool:
    """A pool, what it delivered, and fetches that hang until they are let go."""

    def __init__(self, name: str, most: int, fetch: Callable[[str, Slot], Operation] | None = None) -> None:
        self.name = name
        self.go = threading.Event()
        self.answers: SimpleQueue[PollResponse] = SimpleQueue()
        self.pool = FetchPool(name, most, fetch or self.fetch, self.answers.put)

    def fetch(self, operation_id: str, _slot: Slot) -> Operation:
        if operation_id.startswith("hang"):
            self.go.wait(30)
        return running(operation_id)

    def submit(self, *ids: str) -> None:
        for each in ids:
            self.pool.submit(PollRequest(self.name, each, 0, 0.0, probe=False, window=SendWindow(50.0)))

    def answered(self, count: int) -> list[PollResponse]:
        return [self.answers.get(timeout=10) for _ in range(count)]

    @property
    def threads(self) -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name.startswith(f"fetch-{self.name}-")]


@pytest.fixture
def pools(request: pytest.FixtureRequest) -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def make(most: int, fetch: Callable[[str, Slot], Operation] | None = None) -> Pool:
        made.append(Pool(f"{request.node.name}{len(made)}", most, fetch))
        return made[-1]

    yield make
    for each in made:
        each.go.set()


def test_threads_start_only_when_they_are_needed(pools: Callable[..., Pool]) -> None:
    pool = pools(5)
    assert pool.threads == []
    for number in range(20):
        pool.submit(f"{number}")
        pool.answered(1)
    assert 1 <= len(pool.threads) <= 2  # one may not be back yet when the next comes
    assert all(thread.daemon for thread in pool.threads)


def test_a_thread_that_worked_last_is_the_next_one(pools: Callable[..., Pool]) -> None:
    workers: list[str] = []
    together = threading.Barrier(5)

    def note(operation_id: str, _slot: Slot) -> Operation:
        workers.append(threading.current_thread().name)
        if operation_id == "together":
            together.wait(10)
        return running(operation_id)

    pool = pools(5, note)
    pool.submit(*["together"] * 5)
    pool.answered(5)
    for number in range(20):
        pool.submit(f"{number}")
        pool.answered(1)
    assert len(set(workers[:5])) == 5
    assert len(set(workers[-10:])) <= 3  # some may not be back yet when the next comes


def test_closing_ends_the_threads_once_what_was_submitted_is_done(pools: Callable[..., Pool]) -> None:
    pool = pools(1)
    pool.submit("hang", "one")
    pool.pool.close()
    pool.go.set()
    assert [each.request.id for each in pool.answered(2)] == ["hang", "one"]
    for thread in pool.threads:
        thread.join(10)
    assert pool.threads == []


def test_hanging_fetches_hold_up_others_only_when_all_hang(pools: Callable[..., Pool]) -> None:
    pool = pools(4)
    pool.submit("hang 1", "hang 2", "hang 3", *map(str, range(50)))
    assert sorted(each.request.id for each in pool.answered(50)) == sorted(map(str, range(50)))
    assert len(pool.threads) == 4
    pool.submit("hang 4", "late")
    with pytest.raises(Empty):
        pool.answers.get(timeout=0.1)
    pool.go.set()
    assert len(pool.answered(5)) == 5
    assert len(pool.threads) == 4


def test_pools_hold_up_only_themselves(pools: Callable[..., Pool]) -> None:
    stuck, free = pools(2), pools(2)
    stuck.submit("hang 1", "hang 2", "more")
    free.submit("one")
    assert free.answered(1)[0].request.id == "one"


def test_as_many_as_are_allowed_run_at_once(pools: Callable[..., Pool]) -> None:
    together = threading.Barrier(8)

    def meet(operation_id: str, _slot: Slot) -> Operation:
        together.wait(10)
        return running(operation_id)

    pool = pools(8, meet)
    for _ in range(5):
        pool.submit(*map(str, range(8)))
        assert all(not isinstance(each.outcome, KnockError) for each in pool.answered(8))


def test_an_answer_tells_its_request_outcome_and_time(pools: Callable[..., Pool]) -> None:
    def slow(operation_id: str, _slot: Slot) -> Operation:
        began = time.monotonic()
        while time.monotonic() - began < 0.05:
            threading.Event().wait(0.01)
        return running(operation_id)

    pool = pools(1, slow)
    pool.submit("one")
    (answer,) = pool.answered(1)
    assert answer.request.id == "one"
    assert answer.outcome == running("one")
    assert 0.05 <= answer.seconds < 30


def test_the_time_of_an_answer_is_without_the_wait_for_its_slot(pools: Callable[..., Pool]) -> None:
    def send(operation_id: str, slot: Slot) -> Operation:
        with slot:
            return running(operation_id)

    pool, slept = pools(1, send), list[float]()
    window = SendWindow(1.0, lambda: sum(slept), slept.append)
    for number in range(3):
        pool.pool.submit(PollRequest(pool.name, f"{number}", 0, 0.0, probe=False, window=window))
    answers = pool.answered(3)
    assert slept == [1.0, 1.0]
    # Only the window's clock has gone on: what it says was waited is taken off what the pool's says.
    assert [round(each.seconds) for each in answers] == [0, -1, -1]


def test_an_error_comes_back_without_what_leads_to_the_headers(pools: Callable[..., Pool]) -> None:
    def refuse(_id: str, _slot: Slot) -> Any:
        headers = {"Authorization": KEY}
        try:
            return int(headers["Authorization"])
        except ValueError as error:
            raise Unreachable(Reason.CONNECT, "no connection") from error

    pool = pools(1, refuse)
    pool.submit("one")
    outcome = pool.answered(1)[0].outcome
    assert isinstance(outcome, Unreachable)
    assert (outcome.__traceback__, outcome.__cause__, outcome.__context__) == (None, None, None)


def test_an_unforeseen_error_is_a_bad_answer_and_in_the_log(pools: Callable[..., Pool]) -> None:
    def break_down(operation_id: str, _slot: Slot) -> Operation:
        if operation_id == "one":
            raise RuntimeError("unforeseen")
        return running(operation_id)

    pool = pools(1, break_down)
    with capture_logs() as lines:
        pool.submit("one", "two")
        first, second = pool.answered(2)
    assert isinstance(first.outcome, BadResponse)
    assert KEY not in str(first.outcome)
    assert second.outcome == running("two")
    (line,) = lines
    assert (line["event"], line["environment"]) == ("unexpected error in a fetch", pool.name)
    assert line["exc_info"] is True


@pytest.fixture
def no_more_threads() -> Iterator[Callable[[], object]]:
    usual = threading.stack_size()
    yield lambda: threading.stack_size(1 << 47)  # more than there are addresses: no thread can start
    threading.stack_size(usual)


def test_where_no_more_threads_can_start_the_first_does_it_all(
    pools: Callable[..., Pool], no_more_threads: Callable[[], object]
) -> None:
    pool = pools(4)
    pool.submit("one")
    assert len(pool.answered(1)) == 1
    no_more_threads()
    pool.submit(*map(str, range(10)))
    assert len(pool.answered(10)) == 10
    assert len(pool.threads) == 1


def test_where_no_thread_can_start_at_all_it_says_so(
    pools: Callable[..., Pool], no_more_threads: Callable[[], object]
) -> None:
    pool = pools(4)
    no_more_threads()
    with pytest.raises(RuntimeError):
        pool.submit("one")
