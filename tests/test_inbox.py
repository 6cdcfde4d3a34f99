"""What wakes the tracker, and what waits until it wakes."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from model import running

from exporter.send_window import SendWindow
from exporter.tracking.inbox import MESSAGES_AT_ONCE, SOON_SECONDS, Inbox
from exporter.tracking.messages import Close, Message, PollRequest, PollResponse, Scraped, Stop

if TYPE_CHECKING:
    from timing import InTime

SOON, FAR = SOON_SECONDS / 2, 30.0
REQUEST = PollRequest("production", "one", 0, 0.0, probe=False, window=SendWindow(50.0))
RESPONSE = PollResponse(REQUEST, running("one"), 0.1)


def taken_while(inbox: Inbox, message: Message, until: float) -> list[Message]:
    """Have a message put in while the tracker waits."""
    began = threading.Event()

    def put() -> None:
        began.wait(10)
        inbox.put(message)

    putting = threading.Thread(target=put)
    putting.start()
    began.set()
    taken = inbox.take(time.monotonic() + until)
    putting.join()
    return taken


@pytest.mark.parametrize("message", [Stop(), Scraped(1.0), RESPONSE])
def test_who_waits_for_long_is_woken(message: Message, in_time: InTime) -> None:
    with in_time(FAR / 2):
        assert taken_while(Inbox(), message, FAR) == [message]


def test_a_response_waits_for_who_wakes_soon() -> None:
    inbox, began = Inbox(), time.monotonic()
    taken = taken_while(inbox, RESPONSE, SOON)
    assert time.monotonic() >= began + SOON
    assert [*taken, *inbox.take(0.0)] == [RESPONSE]


def test_all_that_has_come_is_taken_at_once() -> None:
    inbox = Inbox()
    messages: list[Message] = [Scraped(1.0), RESPONSE, Stop(), RESPONSE, Close()]
    for each in messages:
        inbox.put(each)
    taken = inbox.take(time.monotonic() + FAR)
    assert [each for each in taken if each is not RESPONSE] == [Scraped(1.0), Stop(), Close()]
    assert len(taken) == len(messages)
    assert inbox.take(time.monotonic()) == []


def test_a_flood_is_taken_in_parts_and_holds_up_no_response() -> None:
    inbox = Inbox()
    for _ in range(MESSAGES_AT_ONCE + 1):
        inbox.put(Stop())
    inbox.put(RESPONSE)
    assert [len(inbox.take(0.0)) for _ in range(3)] == [MESSAGES_AT_ONCE + 1, 1, 0]


def test_no_response_is_left_behind_whenever_it_comes() -> None:
    inbox, count = Inbox(), 3000
    found: list[Message] = []

    def put() -> None:
        for _ in range(count // 3):
            inbox.put(RESPONSE)

    threads = [threading.Thread(target=put) for _ in range(3)]
    for each in threads:
        each.start()
    end = time.monotonic() + FAR
    while len(found) < count and time.monotonic() < end:
        found += inbox.take(end)
    for each in threads:
        each.join()
    assert found == [RESPONSE] * count
