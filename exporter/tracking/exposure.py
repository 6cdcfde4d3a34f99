"""Which operations have series of their own, and which label values are let in: bounds on what /metrics may grow to."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from exporter.errors import redact
from exporter.operation import Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.tracking.transitions import Tracked

GROUPS_MOST, NAMES_MOST, LABEL_BYTES_MOST = 100, 50, 128
OTHER = "other"
CLEAN_SECONDS = 15 * 60.0  # how long `active` shows an operation that completed without errors


class Rank(NamedTuple):
    """Orders operations for their series: unfinished, then failed, then the newest."""

    level: int
    newest_first: float
    id: str


def rank(tracked: Tracked) -> Rank:
    """Return where an operation stands among those of its environment."""
    finished_level = 1 if tracked.state == Status.FAILED else 2
    level = 0 if tracked.active else finished_level
    inserted = tracked.operation.inserted_at if tracked.operation else None
    return Rank(level, -(tracked.handed_over.wall if inserted is None else inserted), tracked.key.id)


def hidden_at(tracked: Tracked, mode: str) -> float | None:
    """Return from when on (monotonic) the mode hides an operation: -inf for always, None for never."""
    if mode == "none" or tracked.lost:
        return float("-inf")
    if mode == "active" and tracked.clean and tracked.final_at is not None:
        return tracked.final_at + CLEAN_SECONDS
    return None


class TopN:
    """The first `limit` operations of an environment, by rank."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._order: list[Rank] = []
        self._ranks: dict[str, Rank] = {}

    @property
    def shown(self) -> int:
        """How many have series of their own."""
        return min(self.limit, len(self._order))

    def shows(self, operation_id: str) -> bool:
        """Whether an operation has series of its own."""
        rank = self._ranks.get(operation_id)
        return rank is not None and bisect_left(self._order, rank, hi=self.shown) < self.shown

    def fill(self, ranks: Iterable[Rank]) -> None:
        """Begin with these, all at once."""
        self._order = sorted(ranks)
        self._ranks = {rank.id: rank for rank in self._order}

    def place(self, operation_id: str, rank: Rank | None) -> list[str]:
        """Move an operation to its rank (None: not ranked); return the ids that may be shown or hidden by it."""
        before = self._ranks.get(operation_id)
        if before == rank:
            return []
        moved = [operation_id]
        if before is not None:
            moved += self._take(before)
        if rank is not None:
            moved += self._insert(rank)
        return moved

    def _take(self, rank: Rank) -> list[str]:
        index = bisect_left(self._order, rank)
        del self._order[index], self._ranks[rank.id]
        moves_up = index < self.limit <= len(self._order)
        return [self._order[self.limit - 1].id] if moves_up else []

    def _insert(self, rank: Rank) -> list[str]:
        index = bisect_left(self._order, rank)
        self._order.insert(index, rank)
        self._ranks[rank.id] = rank
        displaces = index < self.limit < len(self._order)
        return [self._order[self.limit].id] if displaces else []


class CardinalityLimit:
    """The values of one label that are let in: the first `most`, each short and printable; the rest becomes `other`."""

    def __init__(self, most: int, admitted: Iterable[str] = ()) -> None:
        self._most = most
        self._admitted = dict.fromkeys(admitted)

    @property
    def admitted(self) -> tuple[str, ...]:
        """The values let in so far, in their order."""
        return tuple(self._admitted)

    def fold(self, value: str) -> str:
        """Return what `admit` would."""
        room = len(self._admitted) < self._most
        return value if value in self._admitted or (room and is_label_value(value)) else OTHER

    def admit(self, value: str) -> str:
        """Return the value itself, or `other`. What was admitted once stays so."""
        folded = self.fold(value)
        if folded == value:
            self._admitted[value] = None
        return folded


def is_label_value(text: str) -> bool:
    """Whether a text may stand in a label: printable (so valid UTF-8 without control characters), short, and no key."""
    return text.isprintable() and len(text.encode()) <= LABEL_BYTES_MOST and redact(text) == text
