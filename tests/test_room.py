"""Room for large bodies: how much there is, who gets it, and who is next."""

from __future__ import annotations

import pytest

from exporter.net.room import LARGE_BYTES, OWNER_BYTES, PATIENCE_SECONDS, TOTAL_BYTES, Place, Room

MIB = 2**20


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def room(clock: Clock) -> Room:
    return Room(clock)


def opened(room: Room, owner: str, body: str, size: int) -> Place:
    """Begin to read a body."""
    place = room.place(owner, body)
    place.declare(size)
    return place


def ended(place: Place) -> None:
    with place:
        pass


def knows(room: Room, owner: str, *bodies: str, size: int = 9 * MIB) -> None:
    """Have these bodies been read once."""
    for body in bodies:
        ended(opened(room, owner, body, size))


def test_small_bodies_need_no_room(room: Room) -> None:
    places = [opened(room, "a", str(number), LARGE_BYTES) for number in range(1000)]
    for place in places:
        place.hold(LARGE_BYTES)
    ended(opened(room, "a", "large", OWNER_BYTES))
    assert room.make("a", "5") == 0


def test_all_large_bodies_share_one_budget(room: Room) -> None:
    places = [opened(room, owner, "x", OWNER_BYTES) for owner in "abc"]
    with pytest.raises(MemoryError):
        opened(room, "d", "x", LARGE_BYTES + 1)
    ended(places[0])
    opened(room, "d", "x", OWNER_BYTES)


def test_an_owner_cannot_take_it_all(room: Room) -> None:
    opened(room, "a", "x", OWNER_BYTES - MIB)
    with pytest.raises(MemoryError):
        opened(room, "a", "y", 2 * MIB)
    opened(room, "b", "y", 2 * MIB)


def test_what_declares_nothing_grows_into_its_place(room: Room) -> None:
    place = opened(room, "a", "x", 0)
    for size in range(0, OWNER_BYTES, 64 * 1024):
        place.hold(size)
    with pytest.raises(MemoryError):
        opened(room, "a", "y", MIB)
    ended(place)
    opened(room, "a", "y", OWNER_BYTES)


def test_what_was_large_is_not_asked_for_without_room(room: Room) -> None:
    knows(room, "a", "x", "y")
    knows(room, "b", "x")
    assert room.make("a", "x") == 0
    assert room.make("a", "y") > 0
    assert room.make("a", "never seen") == 0
    assert room.make("b", "x") == 0
    ended(room.place("a", "x"))
    assert room.make("a", "y") == 0


def test_a_place_that_was_made_is_there_for_the_body(room: Room) -> None:
    knows(room, "a", "x", size=OWNER_BYTES)
    assert room.make("a", "x") == 0
    with pytest.raises(MemoryError):
        opened(room, "a", "y", MIB)
    ended(opened(room, "a", "x", OWNER_BYTES))


def test_what_found_no_room_first_is_next(room: Room, clock: Clock) -> None:
    knows(room, "a", "small", "other", size=MIB)
    knows(room, "a", "large", size=OWNER_BYTES)
    assert room.make("a", "small") == 0
    assert room.make("a", "large") > 0
    assert room.make("a", "other") > room.make("a", "large"), "the next one asks sooner than the others"
    ended(room.place("a", "small"))
    assert room.make("a", "other") > 0
    assert room.make("a", "large") == 0
    ended(room.place("a", "large"))
    assert room.make("a", "other") == 0


def test_nobody_waits_for_one_that_comes_no_more(room: Room, clock: Clock) -> None:
    knows(room, "a", "small", "other", size=MIB)
    knows(room, "a", "large", size=OWNER_BYTES)
    assert room.make("a", "small") == 0
    assert room.make("a", "large") > 0
    assert room.make("a", "other") > 0
    clock.now += PATIENCE_SECONDS
    assert room.make("a", "other") == 0


def test_what_was_postponed_is_asked_for_with_room_next_time(room: Room) -> None:
    busy = opened(room, "a", "x", OWNER_BYTES)
    place = room.place("a", "y")
    with pytest.raises(MemoryError), place:
        place.hold(LARGE_BYTES + 1)
    assert room.make("a", "y") > 0
    ended(busy)
    assert room.make("a", "y") == 0
    with pytest.raises(MemoryError):
        opened(room, "a", "z", MIB)  # how large it is was not known: all is kept for it


def test_an_exchange_without_a_body_forgets_nothing_and_a_small_body_does(room: Room) -> None:
    knows(room, "a", "x", size=OWNER_BYTES)
    ended(room.place("a", "x"))
    busy = opened(room, "a", "y", OWNER_BYTES)
    assert room.make("a", "x") > 0
    ended(busy)
    knows(room, "a", "x", size=100)
    opened(room, "a", "y", OWNER_BYTES)
    assert room.make("a", "x") == 0


def test_the_budget_holds_a_body_of_three_owners() -> None:
    assert (TOTAL_BYTES, OWNER_BYTES) == (48 * MIB, 16 * MIB)
