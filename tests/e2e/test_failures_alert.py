"""A failure raises its alert in every cell: mode, time, restart, state, first of its group or not.

The real tracker runs in virtual time; promtool evaluates the rules over what it wrote.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import pytest
from model import WALL, Disk, Model, environment, ids
from programs import tool
from promtool import Case, fires, judge, series

from exporter.config import Config, PerOperation, Polling
from exporter.errors import NotFound
from exporter.metrics.exposition import Format, knock_part
from exporter.operation import NIL_ID, Operation, Status

if TYPE_CHECKING:
    from exporter.errors import KnockError
    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Moment

pytestmark = pytest.mark.e2e

DAY = 86400.0
BROKEN, OTHER = ids(2)
FAILS, END = 60, 131  # minutes
FAMILIES = (
    *("knock_bulk_operations", "knock_bulk_operations_last_failed_seen_timestamp_seconds"),
    *("knock_bulk_operation_status", "knock_bulk_operation_info", "knock_bulk_operation_last_change_timestamp_seconds"),
)


@dataclass(frozen=True)
class Cell:
    """One way in which a failure can come. `restart`: the minute in which nothing could be scraped, None for never."""

    mode: PerOperation
    late: bool
    restart: int | None
    kept: bool
    first: bool

    def __str__(self) -> str:
        restart = {None: "no restart", FAILS - 1: "restart before", FAILS + 3: "restart after"}[self.restart]
        kept = "state" if self.kept else "no state"
        return (
            f"{self.mode}-{'late' if self.late else 'in time'}-{restart}-{kept}-{'first' if self.first else 'second'}"
        )

    def knock(self, request: PollRequest, now: Moment) -> Operation | KnockError:
        """Answer: the other one failed before all this; the broken one at its minute, or days ago."""
        if request.id == NIL_ID:
            return NotFound("404", code=404, accepted_key=True)
        known = Operation(
            request.id,
            Status.PROCESSING,
            "users.identify",
            40,
            100,
            40,
            0,
            inserted_at=WALL - 4 * DAY,
            started_at=WALL - 4 * DAY,
        )
        failed = self.late or request.id == OTHER or now.wall >= WALL + FAILS * 60 - 20
        if not failed:
            return known
        return Operation(
            *(request.id, Status.FAILED, "users.identify", 40, 100, 40, 60),
            inserted_at=WALL - 4 * DAY,
            started_at=WALL - 4 * DAY,
            failed_at=WALL - 3 * DAY if self.late or request.id == OTHER else WALL + FAILS * 60 - 20,
        )

    def scrapes(self) -> list[str | None]:
        """Run it, and scrape each minute."""
        polling = Polling(processing=30.0, queued=30.0, slowest=60.0)
        listed = [] if self.first else [OTHER]
        config = Config((environment(operations=listed, per_operation=self.mode, polling=polling),))
        model = Model(config, self.knock, disk=Disk() if self.kept else None)
        found: list[str | None] = []
        for minute in range(END):
            if minute == self.restart:
                model = model.restarted(mono=model.mono, wall_offset=model.wall_offset)
            if minute == (FAILS if self.late else 0) or (minute == self.restart and not self._comes_later(minute)):
                model.list_file("ids.txt", BROKEN)
            model.run(30.0)
            found.append(None if minute == self.restart else _knocks_part(model))
            model.run(30.0)
        return found

    def _comes_later(self, minute: int) -> bool:
        return self.late and minute < FAILS


def _knocks_part(model: Model) -> str:
    return b"".join(knock_part(model.views[-1], Format.TEXT)).decode()


CELLS = [
    Cell(mode, late, restart, kept, first)
    for mode in get_args(PerOperation)
    for late, restart, kept, first in itertools.product(
        (False, True), (None, FAILS - 1, FAILS + 3), (True, False), (True, False)
    )
]


def expected(cell: Cell) -> dict[tuple[int, str], float]:
    """Return the values of queries at a minute."""
    single = 0 if cell.mode == "none" else 1
    # Without state every failure is news to the next process, also the other one's.
    again = not cell.kept and cell.restart is not None and not cell.first
    before = int(again and cell.restart == FAILS - 1)
    return {
        (FAILS - 2, fires("KnockOperationsFailed")): 0,
        (FAILS + 1, fires("KnockOperationsFailed", group="default", name="users.identify")): 1,
        (FAILS + 1, fires("KnockOperationFailed", operation_id=BROKEN)): single,
        (FAILS + 1, fires("KnockOperationFailed", operation_id=OTHER)): before * single,
        # Not a gap over the restart, and only one of the group.
        **{(minute, fires("KnockOperationsFailed")): 1 for minute in range(FAILS + 1, FAILS + 14)},
        (FAILS + 60, fires("KnockOperationsFailed")): 0,
        (FAILS + 60, fires("KnockOperationFailed")): 0,
        (END - 1, fires("KnockOperationsStandFailed")): 1,
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what promtool says of each cell: it is started once."""
    cases = {str(cell): Case(series(cell.scrapes(), WALL, FAMILIES), expected(cell)) for cell in CELLS}
    return judge(tool("promtool"), tmp_path_factory.mktemp("cells"), cases)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_failure_raises_its_alert(cell: Cell, told: dict[str, str]) -> None:
    assert told[str(cell)] == "SUCCESS"
