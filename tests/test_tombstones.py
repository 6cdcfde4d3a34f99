"""A million tombstones are possible: what they take, how they are read, and that none of it holds the tracker."""

from __future__ import annotations

import itertools
import random
import sqlite3
import tracemalloc
import uuid
from typing import TYPE_CHECKING

import pytest
from model import Disk, Model, environment, ids, running
from timing import check_cost

from exporter.config import Config
from exporter.operation import OperationKey, pack_id
from exporter.store import schema, tables
from exporter.store.ages import Ages
from exporter.tracking.memory import Memory
from exporter.tracking.tombstones import KEPT_SECONDS, LEAF_MOST, Tombstone, Tombstones

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

A, B, C = ids(3)
MANY, MORE = 3_000, 50_000
BYTES_EACH = 32  # so that a million take less than 32 MB


def key(operation_id: str, name: str = "production") -> OperationKey:
    return OperationKey(name, operation_id)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(connection)
    yield connection
    connection.close()


def fill(connection: sqlite3.Connection, stones: Iterable[tuple[OperationKey, Tombstone]]) -> None:
    connection.execute("BEGIN")
    packed = ((name, pack_id(operation_id), *stone) for (name, operation_id), stone in stones)
    connection.executemany("INSERT INTO tombstones VALUES (?, ?, ?, ?, ?)", packed)
    connection.execute("COMMIT")


def many(count: int) -> Iterator[tuple[OperationKey, Tombstone]]:
    chance = random.Random(count)
    for number in range(count):
        operation_id = str(uuid.UUID(int=chance.getrandbits(128)))
        yield key(operation_id, chance.choice(["a", "b"])), Tombstone(float(number), retired=number % 3 > 0)


def unread(environment: str, row: str, problem: str) -> None:
    raise AssertionError((environment, row, problem))


# What they are: a dict, but smaller, that tells the oldest.


def test_they_are_what_a_dict_would_be() -> None:
    chance = random.Random(1)
    stones, expected = Tombstones(), dict[OperationKey, Tombstone]()
    for name in ("b", "a", "c"):
        known = ids(3 * LEAF_MOST, seed=ord(name))
        for number in range(4 * len(known)):
            one = key(chance.choice(known), name)
            if chance.random() < 0.7:
                stones[one] = expected[one] = Tombstone(float(number), chance.random() < 0.5)
            else:
                assert stones.pop(one, None) == expected.pop(one, None)
            other = key(chance.choice(known), name)
            assert (stones.get(other), len(stones)) == (expected.get(other), len(expected))
    assert stones == expected
    assert stones.get(key(A, "d")) is None
    oldest = sorted(expected, key=lambda each: expected[each].at)
    until = expected[oldest[len(oldest) // 2]].at + KEPT_SECONDS
    gone = list(stones.overdue(until))
    assert all(expected[each] == stone for each, stone in gone)
    assert [stone.at for _, stone in gone] == sorted(each.at for each in expected.values())[: len(gone)]
    assert stones == {each: stone for each, stone in expected.items() if stone.at + KEPT_SECONDS > until}


@pytest.mark.parametrize("ordered", [str.lower, lambda each: each[::-1]], ids=["ascending", "by their ends"])
def test_ids_in_any_order_are_found(ordered: Callable[[str], str]) -> None:
    known = sorted((str(uuid.UUID(int=number)) for number in range(3 * LEAF_MOST)), key=ordered)
    for each in (known, known[::-1]):
        stones = Tombstones({key(one): Tombstone(1.0, retired=True) for one in each})
        assert set(stones) == {key(one) for one in known}
        assert all(key(one) in stones for one in known)


def test_the_oldest_go_where_there_are_too_many() -> None:
    stones = Tombstones(most=2)
    for number, each in enumerate((A, B, C)):
        stones[key(each)] = Tombstone(float(number), retired=True)
    stones[key(A)] = Tombstone(9.0, retired=True)
    assert [each.id for each, _ in stones.overdue(10.0)] == [B]
    assert len(stones) == 2


# What they cost.


def test_few_bytes_each(connection: sqlite3.Connection) -> None:
    fill(connection, many(MORE))
    tracemalloc.start()
    stones = tables.read_tombstones(connection, Ages(0.0), unread)
    size, peak = tracemalloc.get_traced_memory()
    assert size / MORE < BYTES_EACH
    assert peak / MORE < BYTES_EACH + 5
    for one, stone in many(MANY):
        stones[one] = stone
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / (MORE + MANY) < BYTES_EACH


@pytest.mark.alone(one_core=True)
def test_to_read_them_takes_little_more_than_their_rows_do(connection: sqlite3.Connection) -> None:
    fill(connection, many(MORE))
    check_cost(
        lambda: tables.read_memory(connection, Ages(0.0), unread),
        2.5,  # 1.6 where it is well
        lambda: all(connection.execute("SELECT * FROM tombstones ORDER BY environment, id")),
    )


def test_those_that_are_read_are_those_that_were_written(connection: sqlite3.Connection) -> None:
    written = dict(many(MANY))
    fill(connection, written.items())
    read = tables.read_tombstones(connection, Ages(5.0), unread)
    assert read == {one: Tombstone(stone.at - 5.0, stone.retired) for one, stone in written.items()}
    assert list(read) == sorted(written)


@pytest.mark.parametrize(
    "damage", ["id = x'00'", "id = 'text' || hex(id)", "at = 'x'", "at = 9e999", "at = NULL", "environment = x'62'"]
)
def test_one_that_cannot_be_read_costs_no_other(connection: sqlite3.Connection, damage: str) -> None:
    written = dict(many(MANY))
    fill(connection, written.items())
    bad = next(iter(written))
    connection.execute(f"UPDATE tombstones SET {damage} WHERE id = ?", (pack_id(bad.id),))  # noqa: S608 - ours
    skipped: list[tuple[str, str, str]] = []
    read = tables.read_tombstones(connection, Ages(0.0), lambda *row: skipped.append(row))
    del written[bad]
    assert read == written
    assert [problem for _, _, problem in skipped] == ["is not a tombstone"]


# In the tracker.


def test_many_that_are_too_old_go_bit_by_bit() -> None:
    stones = Tombstones({key(each): Tombstone(1000.0, retired=True) for each in ids(2000)})
    disk = Disk(Memory(tombstones=stones))
    model = Model(Config((environment(),)), lambda request, _now: running(request.id), disk=disk)
    model.run(1)
    model.mono += KEPT_SECONDS
    left = [len(disk.memory.tombstones)]
    while left[-1] > 0 and len(left) < 100:
        model.run(1)
        left.append(len(disk.memory.tombstones))
    assert left[-1] == 0
    assert all(before - after <= 1000 for before, after in itertools.pairwise(left))
