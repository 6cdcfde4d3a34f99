"""What is left of operations that were let go: known, so that nothing is counted or asked again by mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from exporter.operation import OperationKey
    from exporter.tracking.memory import Tombstone

KEPT_SECONDS = 30 * 86400.0
TOMBSTONES_MOST = 1_000_000


class Tombstones:
    """The newest `most` of them, the oldest first. Owned by the tracker's thread."""

    def __init__(self, most: int = TOMBSTONES_MOST) -> None:
        self._most = most
        self._stones: dict[OperationKey, Tombstone] = {}

    def __len__(self) -> int:
        return len(self._stones)

    def restore(self, stones: Mapping[OperationKey, Tombstone]) -> None:
        """Take over what is known from before."""
        self._stones.update(sorted(stones.items(), key=lambda item: item[1].at))

    def get(self, key: OperationKey) -> Tombstone | None:
        """Return what is left of an operation, if anything."""
        return self._stones.get(key)

    def put(self, key: OperationKey, stone: Tombstone) -> None:
        """Note an operation that is let go now."""
        self._stones.pop(key, None)
        self._stones[key] = stone

    def discard(self, key: OperationKey) -> bool:
        """Take one away; return whether it was there."""
        return self._stones.pop(key, None) is not None

    def overdue(self, now: float) -> Iterator[OperationKey]:
        """Take away, one by one, those that are too old or too many."""
        excess = len(self._stones) - self._most
        old: list[OperationKey] = []  # collected first: the front of a dict is slow to find once it has holes
        for key, stone in self._stones.items():
            if stone.at + KEPT_SECONDS > now and len(old) >= excess:
                break
            old.append(key)
        for key in old:
            del self._stones[key]
            yield key
