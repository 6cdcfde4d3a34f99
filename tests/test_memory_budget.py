"""Memory for large bodies: how much there is, who gets it, and who is next."""

from __future__ import annotations

import pytest

from exporter.knock.memory_budget import (
    LARGE_BYTES,
    OWNER_BYTES,
    PATIENCE_SECONDS,
    TOTAL_BYTES,
    MemoryBudget,
    Reservation,
)

MIB = 2**20


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Clock:
    return Clock()


@pytest.fixture
def budget(seconds: Clock) -> MemoryBudget:
    return MemoryBudget(seconds)


def opened(budget: MemoryBudget, owner: str, body: str, size: int) -> Reservation:
    """Begin to read a body."""
    reservation = budget.reservation(owner, body)
    reservation.declare(size)
    return reservation


def ended(reservation: Reservation) -> None:
    with reservation:
        pass


def knows(budget: MemoryBudget, owner: str, *bodies: str, size: int = 9 * MIB) -> None:
    """Have these bodies been read once."""
    for body in bodies:
        ended(opened(budget, owner, body, size))


def test_small_bodies_need_no_room(budget: MemoryBudget) -> None:
    places = [opened(budget, "a", str(number), LARGE_BYTES) for number in range(1000)]
    for reservation in places:
        reservation.hold(LARGE_BYTES)
        ended(reservation)
    opened(budget, "a", "large", OWNER_BYTES)
    assert budget.reserve("a", "5") == 0


def test_large_bodies_are_decoded_one_at_a_time(budget: MemoryBudget) -> None:
    large, other = (opened(budget, owner, "x", LARGE_BYTES + 1) for owner in "ab")
    with large.decoding():
        assert other.decoding() is budget.decoding
        assert budget.decoding.locked()
        with opened(budget, "a", "small", LARGE_BYTES).decoding():
            pass


def test_all_large_bodies_share_one_budget(budget: MemoryBudget) -> None:
    places = [opened(budget, owner, "x", OWNER_BYTES) for owner in "abc"]
    with pytest.raises(MemoryError):
        opened(budget, "d", "x", LARGE_BYTES + 1)
    ended(places[0])
    opened(budget, "d", "x", OWNER_BYTES)


def test_an_owner_cannot_take_it_all(budget: MemoryBudget) -> None:
    opened(budget, "a", "x", OWNER_BYTES - MIB)
    with pytest.raises(MemoryError):
        opened(budget, "a", "y", 2 * MIB)
    opened(budget, "b", "y", 2 * MIB)


def test_what_declares_nothing_grows_into_its_place(budget: MemoryBudget) -> None:
    reservation = opened(budget, "a", "x", 0)
    reservation.hold(5 * MIB)  # which is as much again
    ended(opened(budget, "a", "y", 6 * MIB))
    for size in range(5 * MIB, OWNER_BYTES, 64 * 1024):
        reservation.hold(size)
    with pytest.raises(MemoryError):
        opened(budget, "a", "y", MIB)
    ended(reservation)
    opened(budget, "a", "y", OWNER_BYTES)


def test_what_was_large_is_not_asked_for_without_room(budget: MemoryBudget) -> None:
    knows(budget, "a", "x", "y")
    knows(budget, "b", "x")
    assert budget.reserve("a", "x") == 0
    assert budget.reserve("a", "y") > 0
    assert budget.reserve("a", "never seen") == 0
    assert budget.reserve("b", "x") == 0
    ended(budget.reservation("a", "x"))
    assert budget.reserve("a", "y") == 0


def test_a_place_that_was_made_is_there_for_the_body(budget: MemoryBudget) -> None:
    knows(budget, "a", "x", size=OWNER_BYTES)
    assert budget.reserve("a", "x") == 0
    with pytest.raises(MemoryError):
        opened(budget, "a", "y", MIB)
    ended(opened(budget, "a", "x", OWNER_BYTES))


def test_what_found_no_room_first_is_next(budget: MemoryBudget, seconds: Clock) -> None:
    knows(budget, "a", "small", "other", size=MIB)
    knows(budget, "a", "large", size=OWNER_BYTES)
    assert budget.reserve("a", "small") == 0
    assert budget.reserve("a", "large") > 0
    assert budget.reserve("a", "other") > budget.reserve("a", "large"), "the next one asks sooner than the others"
    ended(budget.reservation("a", "small"))
    assert budget.reserve("a", "other") > 0
    assert budget.reserve("a", "large") == 0
    ended(budget.reservation("a", "large"))
    assert budget.reserve("a", "other") == 0


def test_nobody_waits_for_one_that_comes_no_more(budget: MemoryBudget, seconds: Clock) -> None:
    knows(budget, "a", "small", "other", size=MIB)
    knows(budget, "a", "large", size=OWNER_BYTES)
    assert budget.reserve("a", "small") == 0
    assert budget.reserve("a", "large") > 0
    assert budget.reserve("a", "other") > 0
    seconds.now += PATIENCE_SECONDS
    assert budget.reserve("a", "other") == 0


def test_what_was_postponed_is_asked_for_with_room_next_time(budget: MemoryBudget) -> None:
    busy = opened(budget, "a", "x", OWNER_BYTES)
    reservation = budget.reservation("a", "y")
    with pytest.raises(MemoryError), reservation:
        reservation.hold(LARGE_BYTES + 1)
    assert budget.reserve("a", "y") > 0
    ended(busy)
    assert budget.reserve("a", "y") == 0
    with pytest.raises(MemoryError):
        opened(budget, "a", "z", MIB)  # how large it is was not known: all is kept for it


def test_an_exchange_without_a_body_forgets_nothing_and_a_small_body_does(budget: MemoryBudget) -> None:
    knows(budget, "a", "x", size=OWNER_BYTES)
    ended(budget.reservation("a", "x"))
    busy = opened(budget, "a", "y", OWNER_BYTES)
    assert budget.reserve("a", "x") > 0
    ended(busy)
    knows(budget, "a", "x", size=100)
    opened(budget, "a", "y", OWNER_BYTES)
    assert budget.reserve("a", "x") == 0


def test_the_budget_holds_a_body_of_three_owners() -> None:
    assert (TOTAL_BYTES, OWNER_BYTES) == (48 * MIB, 16 * MIB)
