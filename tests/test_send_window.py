"""The window of a second: no second on the wire holds more requests than the limit, however late threads wake."""

from __future__ import annotations

import random
import threading
import time

import pytest
from timing import most_in

from exporter.send_window import SendWindow

FASTER = 20.0  # than the clock of the machine


class Clock:
    """A clock that stands still but where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_a_slot_is_free_a_second_after_its_request_was_sent() -> None:
    clock = Clock()
    window = SendWindow(2.0, lambda: clock.now, clock.sleep)
    for sending in (0.25, 0.125, 0.0, 0.0):
        with window.slot():
            clock.now += sending
    assert clock.slept == [1.0 - 0.125, 0.125]  # a second after the end of the first, and of the second


@pytest.mark.parametrize(("limit", "slots"), [(0.2, 1), (1.0, 1), (2.9, 2), (50.0, 50)])
def test_as_many_as_the_limit_says_but_one_at_least(limit: float, slots: int) -> None:
    clock = Clock()
    window = SendWindow(limit, lambda: clock.now, clock.sleep)
    for _ in range(slots):
        with window.slot():
            pass
    assert clock.slept == []
    with window.slot():
        assert clock.slept == [1.0]


def test_another_limit_holds_at_once() -> None:
    clock = Clock()
    window = SendWindow(1.0, lambda: clock.now, clock.sleep)
    for window.limit in (1.0, 2.0, 2.0):
        with window.slot():
            clock.now += 0.25
    assert clock.slept == [0.75]


def test_a_slot_of_a_send_that_failed_was_used() -> None:
    clock = Clock()
    window = SendWindow(1.0, lambda: clock.now, clock.sleep)
    with pytest.raises(BrokenPipeError), window.slot():
        raise BrokenPipeError
    with window.slot():
        assert clock.slept == [1.0]


def test_no_second_holds_more_with_many_threads_that_are_late_at_random() -> None:
    def now() -> float:
        return time.monotonic() * FASTER

    window = SendWindow(20.0, now, lambda seconds: time.sleep(seconds / FASTER))
    sent: list[float] = []

    def send(number: int) -> None:
        chance = random.Random(number)
        for _ in range(10):
            with window.slot():
                time.sleep(chance.choice((0.0, 0.0, 0.001)))
                sent.append(now())
                time.sleep(chance.choice((0.0, 0.0, 0.001)))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(sent) == 160
    assert most_in(1.0, sorted(sent)) <= 20
