"""The aggregates: an aggregate for each (environment, group, name), and histograms for each (environment, group)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.metrics import families
from exporter.metrics.exposition import Board, encode_labels, render
from exporter.operation import UNKNOWN_NAME
from exporter.tracking.ledger import Cell, GroupCell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.tracking.memory import CellMemory, CellPlace
    from exporter.tracking.record import Tracked


class Aggregates:
    """Owned by the tracker's thread. Whatever asks for an aggregate touches it: it is rendered again."""

    def __init__(self) -> None:
        self.cells = Board()
        self.groups = Board()
        self._cells: dict[CellPlace, Cell] = {}
        self._groups: dict[tuple[str, str], GroupCell] = {}
        self._labels: dict[CellPlace, str] = {}
        self._stale: dict[CellPlace, tuple[str, Sequence[float]]] = {}
        self._touched_cells: dict[CellPlace, None] = {}
        self._touched_groups: dict[tuple[str, str], None] = {}

    def cell_of(self, tracked: Tracked) -> Cell:
        """Return the aggregate that an operation belongs to."""
        name = tracked.operation.name if tracked.operation is not None else UNKNOWN_NAME
        return self._cell((tracked.key.environment, tracked.group, name))

    def _cell(self, place: CellPlace) -> Cell:
        self._touched_cells[place] = None
        cell = self._cells.get(place)
        if cell is None:
            cell = self._cells[place] = Cell(*place)
            self._labels[place] = encode_labels(families.cell_labels(cell))
            self._group(place[:2])
        return cell

    def _group(self, place: tuple[str, str]) -> GroupCell:
        if place not in self._groups:
            self._groups[place] = GroupCell(*place)
            self._touched_groups[place] = None
        return self._groups[place]

    def observe(self, before: Tracked, after: Tracked) -> None:
        """Count in the histograms what a change of an operation shows."""
        place = (after.key.environment, after.group)
        if self._group(place).observe(before, after):
            self._touched_groups[place] = None

    def remember(self, place: CellPlace, memory: CellMemory) -> None:
        """Take over what an earlier process knew of an aggregate."""
        self._cell(place).remember(memory)

    def remembered(self, place: CellPlace) -> CellMemory | None:
        """Return what is to be remembered of an aggregate."""
        cell = self._cells.get(place)
        return cell.memory if cell is not None else None

    def all_remembered(self, environment: str) -> dict[CellPlace, CellMemory]:
        """Return what is to be remembered of all aggregates of an environment."""
        return {place: cell.memory for place, cell in self._cells.items() if place[0] == environment}

    def remove_environment(self, name: str) -> None:
        """End with an environment."""
        for place in [each for each in self._cells if each[0] == name]:
            del self._cells[place], self._labels[place]
            self._stale.pop(place, None)
            self._touched_cells.pop(place, None)
            self.cells.drop(place)
        for group in [each for each in self._groups if each[0] == name]:
            del self._groups[group]
            self._touched_groups.pop(group, None)
            self.groups.drop(group)

    @property
    def stale(self) -> tuple[tuple[str, Sequence[float]], ...]:
        """For each aggregate its labels, and from when on its operations count as stale; as of the last `render`."""
        return tuple(self._stale.values())

    def render(self) -> None:
        """Render what was touched."""
        for place in self._touched_cells:
            cell, labels = self._cells[place], self._labels[place]
            self.cells.put(place, render(families.PER_NAME, labels, cell))
            self._stale[place] = (labels, cell.stale_at.frozen())
        for group_place in self._touched_groups:
            group = self._groups[group_place]
            self.groups.put(group_place, render(families.PER_GROUP, encode_labels(families.group_labels(group)), group))
        self._touched_cells, self._touched_groups = {}, {}
