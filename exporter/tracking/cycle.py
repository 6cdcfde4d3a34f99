"""One cycle: what changed is collected, committed where there is a store, and shown.

A counter must not show growth that the next process would count again: so what is shown waits until it is on disk, and
what changes meanwhile is the next cycle's. Where state cannot be written, nothing waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.metrics.exposition import View
    from exporter.operation import OperationKey
    from exporter.tracking.memory import AggregateKey, Changes
    from exporter.tracking.messages import Saved
    from exporter.tracking.runs import GroupKey
    from exporter.tracking.transitions import Moment

    Reply = Callable[[bool], None]  # whether it is committed

CYCLE_SECONDS = 0.25  # between the beginnings of two cycles, unless somebody waits
RELOAD_SECONDS = 1.0  # for the lists of a configuration, before a view may show a part of them
COMMIT_SECONDS = 5.0  # a commit that takes longer does not keep views from being shown
CHECKPOINT_SECONDS = 60.0
MANY = 500  # operations to be rendered: with more, a cycle would hold the tracker for over 50 ms


@dataclass(slots=True)
class Changed:
    """What changed since the last cycle began: keys, in dicts for their order.

    `rows` are the operations to be shown otherwise, or no more; `view` whether anything else is. The others are to be
    stored as they are when the cycle begins.
    """

    rows: dict[OperationKey, None] = field(default_factory=dict)
    operations: dict[OperationKey, None] = field(default_factory=dict)
    tombstones: dict[OperationKey, None] = field(default_factory=dict)
    aggregates: dict[AggregateKey, None] = field(default_factory=dict)
    environments: dict[str, None] = field(default_factory=dict)
    groups: dict[GroupKey, None] = field(default_factory=dict)
    view: bool = True

    def __bool__(self) -> bool:
        return bool(self.view or self.rows or self.is_stored)

    @property
    def is_stored(self) -> bool:
        """Whether some of it is to be stored."""
        return bool(self.operations or self.tombstones or self.aggregates or self.environments or self.groups)

    @property
    def is_much(self) -> bool:
        """Whether a cycle is to begin before more changes."""
        return len(self.rows) >= MANY

    def clear(self) -> None:
        """Begin again."""
        stored = (self.operations, self.tombstones, self.aggregates, self.environments, self.groups)
        for each in (self.rows, *stored):
            each.clear()
        self.view = False


class Cycle:
    """Owned by the tracker's thread. `save` (None: nothing is stored) begins a commit, of which a `Saved` tells.

    `collect` gets the number of the commit, and what is to be in it (None: everything).
    """

    def __init__(
        self,
        changed: Changed,
        collect: Callable[[int, Moment, Changed | None], Changes],
        save: Callable[[Changes], None] | None,
        render: Callable[[Moment], View],
        publish: Callable[[View], None],
    ) -> None:
        self._changed = changed
        self._collect = collect
        self._save = save
        self._render = render
        self._publish = publish
        self._number = 0
        self._began = self._next = self._checkpoint = -math.inf
        self._waiting: list[Reply] = []  # for the next cycle
        self._under_way: tuple[View, list[Reply]] | None = None  # what is shown, and who is answered, after the commit
        self._works = True  # commits do
        self._lost = False  # on disk: the next commit holds everything

    @property
    def durable(self) -> bool:
        """Whether anything is stored."""
        return self._save is not None

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for a cycle."""
        return bool(self._waiting) or self._under_way is not None

    @property
    def due(self) -> float:
        """When `step` has something to do (monotonic)."""
        if self._under_way is not None:
            return self._began + COMMIT_SECONDS
        if self._waiting or self._changed.is_much:
            return -math.inf
        if self._changed:
            return self._next
        return self._checkpoint if self.durable else math.inf

    def when_shown(self, reply: Reply) -> None:
        """Reply once all that changed so far is shown; there is a cycle at once."""
        self._waiting.append(reply)

    def wait_for_reload(self, now: Moment) -> None:
        """Begin no cycle before somebody waits for what a configuration lists, or for a second."""
        self._changed.view = True
        self._next = now.mono + RELOAD_SECONDS

    def step(self, now: Moment) -> None:
        """Begin a cycle if it is time."""
        if now.mono >= self.due and self._under_way is not None:
            self._works = False
            self._show(committed=False)
        if now.mono >= self.due:
            self._begin(now)

    def _begin(self, now: Moment) -> None:
        self._began, self._next = now.mono, now.mono + CYCLE_SECONDS
        replies, self._waiting = self._waiting, []
        self._under_way, waits = (self._render(now), replies), False
        if self._save is not None and (self._changed.is_stored or replies or now.mono >= self._checkpoint):
            self._number += 1
            self._save(self._collect(self._number, now, None if self._lost else self._changed))
            self._lost, self._checkpoint, waits = False, now.mono + CHECKPOINT_SECONDS, self._works
        self._changed.clear()
        if not waits:
            self._show(committed=self._save is None)

    def saved(self, message: Saved) -> None:
        """Take in how a commit went; after one that failed, the next cycle tries again."""
        self._works = message.ok
        self._lost |= message.lost
        if not message.ok:
            self._changed.view, self._checkpoint = True, -math.inf
        if message.number == self._number:
            self._show(committed=message.ok)

    def _show(self, *, committed: bool) -> None:
        if self._under_way is not None:
            (view, replies), self._under_way = self._under_way, None
            self._publish(view)
            for reply in replies:
                reply(committed)

    def close(self, now: Moment) -> None:
        """Hand over the last changes and show them; who still waits is told that nothing is certain."""
        self._works, self._checkpoint = False, -math.inf
        self._show(committed=False)
        self._begin(now)
