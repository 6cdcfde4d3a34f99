"""The book of all operations: who is tracked, what they add up to, and how it is published.

Every change of an operation goes through `record`. Only what it touched is rendered again, once, when the next view is
published.
"""

from __future__ import annotations

from dataclasses import replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from exporter.metrics import families
from exporter.metrics.exposition import Board, View, encode_labels, render, render_operation
from exporter.operation import UNKNOWN_NAME, OperationKey
from exporter.tracking import exposure
from exporter.tracking.exposure import Admission, Shelf
from exporter.tracking.ledger import Cell, GroupCell, Ordered, ended_now, grow, share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from exporter.config import Environment
    from exporter.metrics.activity import Activity
    from exporter.tracking.record import Moment, Tracked


class _EnvironmentBook:
    """What the book keeps for one environment."""

    def __init__(self, settings: Environment, labels: Sequence[str]) -> None:
        self.settings = settings
        self.labels = labels
        self.shelf = Shelf(settings.per_operation_limit)
        self.groups = Admission(exposure.GROUPS_MOST)
        self.names = Admission(exposure.NAMES_MOST)
        self.tracked = 0
        self.lost = 0
        self.missing = 0  # those of which Knock said 404 since their last record
        self.intervals = Ordered()


class Book:
    """All tracked operations. Owned by the tracker's thread."""

    def __init__(self, environments: Sequence[Environment], labels: Sequence[str], activity: Activity) -> None:
        self._activity = activity
        self._environments = {each.name: _EnvironmentBook(each, labels) for each in environments}
        self._operations: dict[OperationKey, Tracked] = {}
        self._cells: dict[tuple[str, str, str], Cell] = {}
        self._groups: dict[tuple[str, str], GroupCell] = {}
        self._boards = {"operations": Board(), "cells": Board(), "groups": Board()}
        self._cell_labels: dict[tuple[str, str, str], str] = {}
        self._stale: dict[tuple[str, str, str], tuple[str, Sequence[float]]] = {}
        self._touched: dict[OperationKey, None] = {}
        self._touched_cells: dict[tuple[str, str, str], None] = {}
        self._touched_groups: dict[tuple[str, str], None] = {}
        self._hidings: list[tuple[float, OperationKey]] = []
        self.changed = True

    def __len__(self) -> int:
        return len(self._operations)

    def get(self, key: OperationKey) -> Tracked | None:
        """Return an operation as it stands, if it is tracked."""
        return self._operations.get(key)

    def of(self, environment: str) -> Iterator[Tracked]:
        """Walk through the operations of an environment."""
        return (each for each in self._operations.values() if each.key.environment == environment)

    def admit_group(self, environment: str, group: str) -> str:
        """Return the group under which a new operation is shown; what is folded is counted."""
        return self._admit(environment, "group", group)

    def _admit(self, environment: str, label: str, value: str) -> str:
        kept = self._environments[environment]
        admitted = (kept.groups if label == "group" else kept.names).admit(value)
        if admitted != value:
            self._activity.folded.labels(environment, label).inc()
        return admitted

    def only_missing(self, environment: str) -> bool:
        """Whether Knock said 404 of every operation of an environment, and has shown no record of any since."""
        kept = self._environments[environment]
        return kept.missing == kept.tracked > 0

    def record(self, after: Tracked, now: Moment) -> Tracked:
        """Take in an operation, new or changed, and return it with its marks raised and its name admitted."""
        before = self._operations.get(after.key)
        after = self._admitted(before, after)
        if before is not None and after.operation is not None and after.operation is not before.operation:
            after = self._count(before, after)
        self._operations[after.key] = after
        if before is not None:
            self._cell(before).remove(share(before))
            self._tally(before, -1)
        self._cell(after).add(share(after))
        self._tally(after, 1)
        self._touched[after.key] = None
        self._show(after, now)
        self.changed = True
        return after

    def _admitted(self, before: Tracked | None, after: Tracked) -> Tracked:
        record = after.operation
        if record is None:
            return after
        known = before.operation if before is not None else None
        # A known name stays, so that an operation does not wander between aggregates and its fold is counted once.
        if known is not None and known.name != UNKNOWN_NAME:
            name = known.name
        elif record.name == UNKNOWN_NAME:
            return after
        else:
            name = self._admit(after.key.environment, "name", record.name)
        return after if name == record.name else replace(after, operation=replace(record, name=name))

    def _count(self, before: Tracked, after: Tracked) -> Tracked:
        if after.operation is None:
            return after
        marks, growth = grow(before.marks, after.operation, from_birth=after.from_birth)
        cell = self._cell(after)
        cell.count(growth)
        if ended_now(before, after):
            cell.count_end(after)
        if after.final and not before.final:
            cell.note_final(after)
        group = self._group(after)
        if group.observe(before, after):
            self._touched_groups[group.environment, group.group] = None
        return replace(after, marks=marks)

    def _tally(self, tracked: Tracked, sign: int) -> None:
        kept = self._environments[tracked.key.environment]
        kept.tracked += sign
        kept.lost += sign * tracked.lost
        kept.missing += sign * (tracked.missing_since is not None)
        if tracked.active:
            (kept.intervals.add if sign > 0 else kept.intervals.remove)(tracked.interval)

    def _cell(self, tracked: Tracked) -> Cell:
        name = tracked.operation.name if tracked.operation is not None else UNKNOWN_NAME
        place = (tracked.key.environment, tracked.group, name)
        self._touched_cells[place] = None
        cell = self._cells.get(place)
        if cell is None:
            cell = self._cells[place] = Cell(*place)
            self._cell_labels[place] = encode_labels(families.cell_labels(cell))
            self._group(tracked)
        return cell

    def _group(self, tracked: Tracked) -> GroupCell:
        place = (tracked.key.environment, tracked.group)
        if place not in self._groups:
            self._groups[place] = GroupCell(*place)
            self._touched_groups[place] = None
        return self._groups[place]

    def _show(self, tracked: Tracked, now: Moment) -> None:
        kept = self._environments[tracked.key.environment]
        mode = kept.settings.per_operation
        hidden_at = exposure.hidden_at(tracked, mode)
        hidden = hidden_at is not None and hidden_at <= now.mono
        if hidden_at is not None and not hidden:
            heappush(self._hidings, (hidden_at, tracked.key))
        place = None if hidden else exposure.rank(tracked)
        for operation_id in kept.shelf.place(tracked.key.id, place):
            self._touched[OperationKey(tracked.key.environment, operation_id)] = None

    def hide_due(self, now: Moment) -> None:
        """Take away the series of clean operations whose time in `active` mode is over."""
        while self._hidings and self._hidings[0][0] <= now.mono:
            _, key = heappop(self._hidings)
            if (tracked := self._operations.get(key)) is not None:
                self._show(tracked, now)
                self.changed = True

    def next_hiding(self) -> float:
        """Return when `hide_due` has work next (monotonic; inf: never)."""
        return self._hidings[0][0] if self._hidings else float("inf")

    def publish(self) -> View:
        """Render what changed since the last view, and return all as it stands."""
        for key in self._touched:
            self._render_operation(key)
        for place in self._touched_cells:
            self._render_cell(place)
        for group_place in self._touched_groups:
            group = self._groups[group_place]
            labels = encode_labels(families.group_labels(group))
            self._boards["groups"].put(group_place, render(families.PER_GROUP, labels, group))
        self._touched, self._touched_cells, self._touched_groups = {}, {}, {}
        self._publish_gauges()
        self.changed = False
        chunks = {level: board.publish() for level, board in self._boards.items()}
        size = sum(board.size for board in self._boards.values())
        return View(**chunks, stale=tuple(self._stale.values()), size=size)

    def _render_operation(self, key: OperationKey) -> None:
        board = self._boards["operations"]
        tracked, kept = self._operations.get(key), self._environments[key.environment]
        if tracked is None or not kept.shelf.shows(key.id):
            board.drop(key)
            return
        board.put(key, render_operation(tracked, kept.labels))

    def _render_cell(self, place: tuple[str, str, str]) -> None:
        cell, labels = self._cells[place], self._cell_labels[place]
        self._boards["cells"].put(place, render(families.PER_NAME, labels, cell))
        self._stale[place] = (labels, cell.stale_at.frozen())

    def _publish_gauges(self) -> None:
        for name, kept in self._environments.items():
            self._activity.operations.labels(name).set(kept.tracked)
            self._activity.not_exposed.labels(name).set(kept.tracked - kept.lost - kept.shelf.shown)
            longest = kept.intervals.most
            if longest is None:
                self._activity.poll_interval.remove(name)
            else:
                self._activity.poll_interval.labels(name).set(longest)
