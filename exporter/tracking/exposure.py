"""Which operations have series of their own, and which label values are let in: bounds on what /metrics may grow to."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from exporter.errors import redact
from exporter.operation import OTHER, Status
from exporter.values import LABEL_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.tracking.transitions import Tracked

NAMES_MOST = 50  # of an environment
CLEAN_SECONDS = 15 * 60.0  # how long `active` shows an operation that completed without errors


class Rank(NamedTuple):
    """Orders operations, in lists and for their series: unfinished, failed, the rest, the newest first in each."""

    level: int
    newest_first: float
    id: str
    environment: str


def rank(tracked: Tracked) -> Rank:
    """Return where an operation stands."""
    finished_level = 1 if tracked.state == Status.FAILED else 2
    level = 0 if tracked.active else finished_level
    inserted = tracked.operation.inserted_at if tracked.operation else None
    newest_first = -(tracked.handed_over.wall if inserted is None else inserted)
    return Rank(level, newest_first, tracked.key.id, tracked.key.environment)


def hidden_at(tracked: Tracked, mode: str) -> float:
    """Return from when on (monotonic) the mode hides an operation: -inf for always, inf for never."""
    if mode == "none" or tracked.lost:
        return float("-inf")
    if mode == "active" and tracked.clean and tracked.final_at is not None:
        return tracked.final_at + CLEAN_SECONDS
    return float("inf")


class TopN:
    """The first `limit` operations of an environment, by rank; none has two."""

    def __init__(self, limit: int, ranks: Iterable[Rank] = ()) -> None:
        self.limit = limit
        self._order = sorted(ranks)

    @property
    def shown(self) -> int:
        """How many have series of their own."""
        return min(self.limit, len(self._order))

    def shows(self, rank: Rank | None) -> bool:
        """Whether the operation of a rank (None: it has none) has series of its own."""
        return rank is not None and (len(self._order) <= self.limit or rank < self._order[self.limit])

    def move(self, before: Rank | None, after: Rank | None) -> list[str]:
        """Give an operation another rank (None: it has none); return the other ids that are shown or hidden by that."""
        if before == after:
            return []
        taken = self._take(before) if before is not None else []
        return taken if after is None else [*taken, *self._insert(after)]

    def _take(self, rank: Rank) -> list[str]:
        index = bisect_left(self._order, rank)
        del self._order[index]
        moves_up = index < self.limit <= len(self._order)
        return [self._order[self.limit - 1].id] if moves_up else []

    def _insert(self, rank: Rank) -> list[str]:
        index = bisect_left(self._order, rank)
        self._order.insert(index, rank)
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

    def declare(self, values: Iterable[str]) -> None:
        """Let values in that the configuration names, however many there are."""
        self._admitted |= dict.fromkeys(values)

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
    return text.isprintable() and len(text.encode()) <= LABEL_BYTES and redact(text) == text
