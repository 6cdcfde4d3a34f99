"""What will happen to a simulated operation, and what its record says at a given time: pure.

The fields are those of Knock's API reference (`GET /v1/bulk_operations/{id}`). Paces and batches are made up: Knock
publishes none.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from exporter.operation import Status

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

QUEUE_SECONDS = (2.0, 20.0)
ROWS_PER_SECOND = (20.0, 120.0)
BATCH_ROWS = (10, 100)
ROW_ERROR_SHARE = 0.1  # of an operation's rows, at most, where chance lets it end with errors
MAX_ERRORS = 100_000  # their ids are kept in memory


@dataclass(frozen=True, slots=True)
class Shares:
    """Which share (0 to 1) of the operations ends with errors in some rows, fails as a whole, or stalls half-way."""

    errors: float = 0.0
    fails: float = 0.0
    stalls: float = 0.0


NO_TROUBLE = Shares()
LIFELIKE = Shares(errors=0.1, fails=0.03, stalls=0.01)


class Order(BaseModel):
    """An operation to make; what is None is left to chance. Times are simulated seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(default="users.identify", min_length=1)
    rows: int = Field(default=1000, ge=0, le=10**9)
    queue_seconds: float | None = Field(default=None, ge=0, le=1e9)
    rows_per_second: float | None = Field(default=None, ge=1e-6, le=1e9)
    errors: int | None = Field(default=None, ge=0, le=MAX_ERRORS)
    fails: bool | None = None
    stalls: bool | None = None

    @model_validator(mode="after")
    def _contradicts_nothing(self) -> Self:
        if self.errors is not None and self.errors > self.rows:
            raise ValueError("errors cannot be more than rows")
        if self.fails and self.stalls:
            raise ValueError("an operation cannot both fail and stall")
        return self


class Outcome(Enum):
    """How an operation ends, if it does."""

    COMPLETES = Status.COMPLETED
    FAILS = Status.FAILED
    STALLS = Status.PROCESSING


class BadRow(NamedTuple):
    """A row that will end as an error."""

    row: int
    id: str
    collection: str | None


@dataclass(frozen=True, slots=True)
class Birth:
    """When an operation was made (monotonic and Unix seconds), and how many simulated seconds a real one holds."""

    monotonic: float
    wall: float
    speed: float


@dataclass(frozen=True, slots=True)
class Plan:
    """All that will happen to an operation, decided when it is made; paces are in simulated seconds."""

    id: str
    name: str
    rows: int
    birth: Birth
    queue_seconds: float
    rows_per_second: float
    batch_rows: int
    outcome: Outcome
    last_row: int  # how many rows it gets through
    bad_rows: tuple[BadRow, ...]  # in the order of rows


class _State(NamedTuple):
    status: Status
    rows: int
    since: float  # simulated seconds from birth to the last change


def make_plan(order: Order, birth: Birth, shares: Shares, chance: Random) -> Plan:
    """Decide what happens to an operation, drawing from `chance` whatever the order leaves open."""
    outcome, last_row = _end(order, shares, chance)
    queue_seconds, rows_per_second = chance.uniform(*QUEUE_SECONDS), chance.uniform(*ROWS_PER_SECOND)
    return Plan(
        id=str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        name=order.name,
        rows=order.rows,
        birth=birth,
        queue_seconds=queue_seconds if order.queue_seconds is None else order.queue_seconds,
        rows_per_second=rows_per_second if order.rows_per_second is None else order.rows_per_second,
        batch_rows=chance.randint(*BATCH_ROWS),
        outcome=outcome,
        last_row=last_row,
        bad_rows=tuple(BadRow(row, f"item-{row}", None) for row in _bad_rows(order, shares, chance)),
    )


def name_rows(bad_rows: tuple[BadRow, ...], ids: Sequence[str | None], collection: str | None) -> tuple[BadRow, ...]:
    """Give bad rows the ids of the items sent, and add the items without one: these are errors in any case."""
    bad = {bad_row.row for bad_row in bad_rows} | {row for row, item_id in enumerate(ids) if item_id is None}
    return tuple(BadRow(row, ids[row] or f"row-{row}", collection) for row in sorted(bad))


def record(plan: Plan, now: float) -> dict[str, Any]:
    """Write the record as it stands at the monotonic time `now`."""
    state = _state(plan, max(0.0, now - plan.birth.monotonic) * plan.birth.speed)
    bad = bisect_left(plan.bad_rows, state.rows, key=lambda bad_row: bad_row.row)
    return {
        "__typename": "BulkOperation",
        "id": plan.id,
        "name": plan.name,
        "status": str(state.status),
        "estimated_total_rows": plan.rows,
        "processed_rows": state.rows,
        "success_count": state.rows - bad,
        **_error_fields(plan, state, bad),
        "progress_path": f"/v1/bulk_operations/{plan.id}",
        "inserted_at": _timestamp(plan, 0.0),
        "updated_at": _timestamp(plan, state.since),
        "started_at": None if state.status is Status.QUEUED else _timestamp(plan, plan.queue_seconds),
        "completed_at": _timestamp(plan, state.since) if state.status is Status.COMPLETED else None,
        "failed_at": _timestamp(plan, state.since) if state.status is Status.FAILED else None,
    }


def _end(order: Order, shares: Shares, chance: Random) -> tuple[Outcome, int]:
    roll, share_done = chance.random(), chance.random()
    fails = order.fails if order.fails is not None else not order.stalls and roll < shares.fails
    stalls = order.stalls if order.stalls is not None else not fails and 1 - roll < shares.stalls
    if fails or stalls:
        return (Outcome.FAILS if fails else Outcome.STALLS), int(order.rows * share_done)
    return Outcome.COMPLETES, order.rows


def _bad_rows(order: Order, shares: Shares, chance: Random) -> list[int]:
    count = order.errors
    if count is None:
        most = min(MAX_ERRORS, int(order.rows * ROW_ERROR_SHARE)) or min(1, order.rows)
        count = chance.randint(1, most) if most and chance.random() < shares.errors else 0
    return sorted(chance.sample(range(order.rows), count))


def _state(plan: Plan, age: float) -> _State:
    worked = age - plan.queue_seconds
    if worked < 0:
        return _State(Status.QUEUED, 0, 0.0)
    whole = plan.last_row / plan.rows_per_second
    if worked >= whole:
        return _State(plan.outcome.value, plan.last_row, plan.queue_seconds + whole)
    rows = min(int(worked * plan.rows_per_second) // plan.batch_rows * plan.batch_rows, plan.last_row)
    return _State(Status.PROCESSING, rows, plan.queue_seconds + rows / plan.rows_per_second)


def _error_fields(plan: Plan, state: _State, bad: int) -> dict[str, Any]:
    # Documented as not always there: absent while queued, the list absent while it would be empty.
    if state.status is Status.QUEUED:
        return {}
    if not bad:
        return {"error_count": 0}
    items = [{"id": bad_row.id, "collection": bad_row.collection} for bad_row in plan.bad_rows[:bad]]
    return {"error_count": bad, "error_items": items}


def _timestamp(plan: Plan, simulated: float) -> str:
    moment = datetime.fromtimestamp(plan.birth.wall + simulated / plan.birth.speed, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
