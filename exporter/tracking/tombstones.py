"""What is left of operations that were dropped: known, so that nothing is counted or asked again by mistake.

A million are possible, so each takes some 27 bytes: their ids lie packed and in order in leaves of a thousand, and what
is put in, looked up or taken away touches one leaf.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.operation import ID_BYTES, OperationKey, pack_id, unpack_id

KEPT_SECONDS = 30 * 86400.0
TOMBSTONES_MOST = 1_000_000
LEAF_MOST = 1024


class Tombstone(NamedTuple):
    """What is left of an operation that was dropped; `at` is monotonic.

    `retired`: its time was over, so it is tracked again only on demand; otherwise somebody dropped it, and naming it
    again is enough. `counted`: a run has counted it, and it joins no other.
    """

    at: float
    retired: bool
    counted: bool = False


@dataclass(slots=True)
class _Leaf:
    """Tombstones of one environment, by id."""

    ids: bytearray = field(default_factory=bytearray)
    ats: array[float] = field(default_factory=lambda: array("d"))
    retired: bytearray = field(default_factory=bytearray)
    counted: bytearray = field(default_factory=bytearray)

    def id(self, place: int) -> bytearray:
        """Return the id at a place, nothing behind the last one."""
        return self.ids[place * ID_BYTES : (place + 1) * ID_BYTES]

    def find(self, packed: bytes) -> int:
        return bisect_left(range(len(self.ats)), bytearray(packed), key=self.id)

    def insert(self, place: int, packed: bytes, stone: Tombstone) -> None:
        self.ids[place * ID_BYTES : place * ID_BYTES] = packed
        self.ats.insert(place, stone.at)
        self.retired.insert(place, stone.retired)
        self.counted.insert(place, stone.counted)

    def stone(self, place: int) -> Tombstone:
        """Return the tombstone at a place."""
        return Tombstone(self.ats[place], bool(self.retired[place]), bool(self.counted[place]))

    def remove(self, place: int) -> None:
        del self.ids[place * ID_BYTES : (place + 1) * ID_BYTES]
        del self.ats[place], self.retired[place], self.counted[place]

    def split(self) -> _Leaf:
        """Return the upper half, which is taken away here."""
        half = len(self.ats) // 2
        upper = _Leaf(self.ids[half * ID_BYTES :], self.ats[half:], self.retired[half:], self.counted[half:])
        del self.ids[half * ID_BYTES :], self.ats[half:], self.retired[half:], self.counted[half:]
        return upper


class Tombstones(MutableMapping[OperationKey, Tombstone]):
    """The newest `most` of them. Owned by one thread: the tracker's, once it has them."""

    def __init__(self, stones: Mapping[OperationKey, Tombstone] | None = None, most: int = TOMBSTONES_MOST) -> None:
        self._most = most
        self._length = 0
        self._leaves: list[_Leaf] = []
        self._firsts: list[tuple[str, bytes]] = []  # of each leaf: its environment, and no id in it is below this one
        self._leasts = array("d")  # of each leaf: when its oldest one was dropped
        self.update(stones or {})

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[OperationKey]:
        return (key for key, _ in self.walk())

    def items(self) -> ItemsView[OperationKey, Tombstone]:
        """View them all, without looking each up."""
        return _Items(self)

    def walk(self) -> Iterator[tuple[OperationKey, Tombstone]]:
        """Walk through all in order."""
        for (environment, _), leaf in zip(self._firsts, self._leaves, strict=True):
            for place in range(len(leaf.ats)):
                yield OperationKey(environment, unpack_id(leaf.id(place))), leaf.stone(place)

    def __getitem__(self, key: OperationKey) -> Tombstone:
        number, place = self._find(key)
        return self._leaves[number].stone(place)

    def __delitem__(self, key: OperationKey) -> None:
        self._remove(*self._find(key))

    def __setitem__(self, key: OperationKey, stone: Tombstone) -> None:
        packed = pack_id(key.id)
        number = self._leaf_of(key.environment, packed)
        if number is None:
            number = bisect_left(self._firsts, (key.environment, b""))
            self._insert(number, (key.environment, b""), _Leaf())
        leaf = self._leaves[number]
        place = leaf.find(packed)
        if leaf.id(place) == packed:
            leaf.ats[place], leaf.retired[place], leaf.counted[place] = stone
            self._leasts[number] = min(leaf.ats)
            return
        leaf.insert(place, packed, stone)
        self._leasts[number] = min(self._leasts[number], stone.at)
        self._length += 1
        if len(leaf.ats) > LEAF_MOST:
            upper = leaf.split()
            self._leasts[number] = min(leaf.ats)
            self._insert(number + 1, (key.environment, bytes(upper.id(0))), upper)

    def append(
        self,
        environment: str,
        ids: Sequence[bytes],
        ats: Iterable[float],
        retired: Iterable[bool],
        counted: Iterable[bool],
    ) -> None:
        """Put in up to LEAF_MOST of one environment, by id, that come after all there are: fast, for the start."""
        leaf = _Leaf(bytearray().join(ids), array("d", ats), bytearray(retired), bytearray(counted))
        self._insert(len(self._leaves), (environment, ids[0]), leaf)
        self._length += len(ids)

    def overdue(self, now: float) -> Iterator[tuple[OperationKey, Tombstone]]:
        """Take away, one by one, those that are too old or too many: the oldest first."""
        while self._leaves:
            at = min(self._leasts)
            if at + KEPT_SECONDS > now and self._length <= self._most:
                return
            number = self._leasts.index(at)
            leaf = self._leaves[number]
            place = leaf.ats.index(at)
            key, stone = OperationKey(self._firsts[number][0], unpack_id(leaf.id(place))), leaf.stone(place)
            self._remove(number, place)
            yield key, stone

    def _leaf_of(self, environment: str, packed: bytes) -> int | None:
        number = bisect_right(self._firsts, (environment, packed)) - 1
        return number if number >= 0 and self._firsts[number][0] == environment else None

    def _find(self, key: OperationKey) -> tuple[int, int]:
        packed = pack_id(key.id)
        number = self._leaf_of(key.environment, packed)
        if number is not None:
            leaf = self._leaves[number]
            place = leaf.find(packed)
            if leaf.id(place) == packed:
                return number, place
        raise KeyError(key)

    def _insert(self, number: int, first: tuple[str, bytes], leaf: _Leaf) -> None:
        self._leaves.insert(number, leaf)
        self._firsts.insert(number, first)
        self._leasts.insert(number, min(leaf.ats, default=math.inf))

    def _remove(self, number: int, place: int) -> None:
        leaf = self._leaves[number]
        leaf.remove(place)
        self._length -= 1
        if leaf.ats:
            self._leasts[number] = min(leaf.ats)
        else:
            del self._leaves[number], self._firsts[number], self._leasts[number]


class _Items(ItemsView[OperationKey, Tombstone]):
    _mapping: Tombstones

    def __iter__(self) -> Iterator[tuple[OperationKey, Tombstone]]:
        return self._mapping.walk()
