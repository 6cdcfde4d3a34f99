"""What is to outlive a restart: collected as it changes, committed in groups by the store.

What waits for a commit is held until then: answers to registrations, and views, since a counter must not show growth
that the next process would count again. Where state cannot be written, nothing waits any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from exporter.tracking.memory import Changes

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.metrics.exposition import View
    from exporter.operation import OperationKey
    from exporter.tracking.memory import AggregateKey, EnvironmentMemory, Memory, StoredAggregate, StoredOperation
    from exporter.tracking.messages import Saved
    from exporter.tracking.tombstones import Tombstone
    from exporter.tracking.transitions import Moment

VIEW_SECONDS = 0.1  # between views: each has the whole answer to a scrape joined and compressed again
GROUP_SECONDS = 0.25  # between commits, unless somebody waits for one
RETRY_SECONDS = 1.0
HOLD_SECONDS = 5.0  # a commit that takes longer does not keep views from being shown
CHECKPOINT_SECONDS = 60.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CurrentState:
    """Looks up how things stand when they are written: None for what is gone."""

    everything: Callable[[], Memory]

    operation: Callable[[OperationKey], StoredOperation | None]
    tombstone: Callable[[OperationKey], Tombstone | None]
    aggregate: Callable[[AggregateKey], StoredAggregate | None]
    environment: Callable[[str], EnvironmentMemory | None]


@dataclass(slots=True)
class _Dirty:
    """What changed since the last commit was begun; dicts for their order."""

    operations: dict[OperationKey, None] = field(default_factory=dict)
    tombstones: dict[OperationKey, None] = field(default_factory=dict)
    aggregates: dict[AggregateKey, None] = field(default_factory=dict)
    environments: dict[str, None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.operations or self.tombstones or self.aggregates or self.environments)

    def add(self, changes: Changes) -> None:
        self.operations |= dict.fromkeys(changes.operations)
        self.tombstones |= dict.fromkeys(changes.tombstones)
        self.aggregates |= dict.fromkeys(changes.aggregates)
        self.environments |= dict.fromkeys(changes.environments)


class GroupCommit:
    """Owned by the tracker's thread; `save` begins a commit, of which a `Saved` tells. Without it nothing is kept."""

    def __init__(self, save: Callable[[Changes], None] | None, show: Callable[[View], None]) -> None:
        self.dirty = _Dirty()
        self._save = save
        self._show = show
        self._number = 0
        self._under_way: Changes | None = None
        self._held: View | None = None
        self._works = True
        self._lost = False  # on disk: the next commit holds everything
        self._next_at = 0.0
        self._checkpoint_at = 0.0
        self._view_at = 0.0
        self._waiting: list[Callable[[bool], None]] = []  # for the next commit
        self._answers: list[Callable[[bool], None]] = []  # for the one under way

    @property
    def durable(self) -> bool:
        """Whether anything is kept at all."""
        return self._save is not None

    @property
    def holds(self) -> bool:
        """Whether somebody waits for a commit."""
        return bool(self._waiting or self._answers)

    def when_saved(self, callback: Callable[[bool], None]) -> None:
        """Call back once all that was noted so far is committed (True), or could not be (False)."""
        if self._save is None:
            callback(True)  # noqa: FBT003 - the answer to "was it saved": there is nothing to save to
        else:
            self._waiting.append(callback)

    def hurry(self) -> None:
        """Begin the next commit, and render the view that it holds, as soon as can be."""
        self._next_at = self._view_at = 0.0

    def shows_at_once(self, now: float) -> bool:
        """Whether views need not wait for a commit: without a store, or with one that does not work."""
        if self._save is None or not self._works:
            return True
        return self._under_way is not None and now - self._under_way.at.mono > HOLD_SECONDS

    def next_step(self, now: float, *, changed: bool) -> float:
        """Return when `step` has something to do (inf: not before a `Saved` comes)."""
        if self._save is None or self._under_way is not None:
            return float("inf")
        if self._waiting and self._works:
            return now
        if self.dirty or self._waiting or self._lost:
            return self._next_at
        return max(self._next_at, self._view_at) if changed else self._checkpoint_at

    def step(self, now: Moment, current: CurrentState, render: Callable[[], View | None]) -> None:
        """Begin a commit if it is time; `render` makes the view that is shown after it (None: as before)."""
        if self._held is not None and self.shows_at_once(now.mono):
            self.show(self._held)
        if self._save is None:
            self.dirty = _Dirty()  # else it grows as long as operations come and go
            return
        if self._under_way is not None:
            return
        hurried = bool(self._waiting) and self._works
        if not hurried and now.mono < self._next_at:
            return
        view = None
        if self._works and now.mono >= self._view_at:
            view, self._view_at = render(), now.mono + VIEW_SECONDS
        if not self.dirty and not self._waiting and not self._lost and now.mono < self._checkpoint_at:
            if view is not None:
                self.show(view)
            return
        self._held = view
        self._begin(now, current)

    def show(self, view: View) -> None:
        """Show a view at once, in place of one that waits."""
        self._held = None
        self._show(view)

    def _begin(self, now: Moment, current: CurrentState) -> None:
        self._number += 1
        changes = self._everything(now, current) if self._lost else self._changes(now, current)
        self.dirty, self._lost = _Dirty(), False
        self._under_way = changes
        self._answers, self._waiting = self._waiting, []
        self._next_at, self._checkpoint_at = now.mono + GROUP_SECONDS, now.mono + CHECKPOINT_SECONDS
        if self._save is not None:
            self._save(changes)

    def _changes(self, now: Moment, current: CurrentState) -> Changes:
        return Changes(
            self._number,
            now,
            {key: current.operation(key) for key in self.dirty.operations},
            {key: current.tombstone(key) for key in self.dirty.tombstones},
            {place: current.aggregate(place) for place in self.dirty.aggregates},
            {name: current.environment(name) for name in self.dirty.environments},
        )

    def _everything(self, now: Moment, current: CurrentState) -> Changes:
        all_ = current.everything()
        return Changes(
            self._number, now, all_.operations, all_.tombstones, all_.aggregates, all_.environments, whole=True
        )

    def saved(self, message: Saved, now: Moment) -> None:
        """Take in how a commit went; what could not be written is tried again with the next."""
        changes = self._under_way
        if changes is None or message.number != changes.number:
            return
        self._under_way, self._works, self._lost = None, message.ok, message.lost
        if not message.ok:
            if not message.lost:
                self.dirty.add(changes)
            self._next_at = now.mono + RETRY_SECONDS
        if self._held is not None:
            self.show(self._held)
        answers, self._answers = self._answers, []
        for callback in answers:
            callback(message.ok)

    def close(self, now: Moment, current: CurrentState, view: View) -> None:
        """Hand over the last changes and show the last view; who still waits is told that nothing is certain."""
        answers, self._answers = [*self._answers, *self._waiting], []
        self._waiting = []
        if self._save is not None:
            self._under_way = None
            self._begin(now, current)
        self.show(view)
        for callback in answers:
            callback(False)  # noqa: FBT003 - the answer to "was it saved"
