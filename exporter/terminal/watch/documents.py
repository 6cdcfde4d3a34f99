"""Reads what an exporter's API says of operations, which may be anything: what is none of it is not known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from exporter.config import Polling
from exporter.operation import GROUP, UNKNOWN_NAME, Operation, OperationKey, Status, parse_time
from exporter.terminal.watch.core import Watched
from exporter.tracking import transitions
from exporter.tracking.transitions import LOST, PENDING, Moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.tracking.transitions import Tracked


def watched_of(document: Mapping[str, Any], environment: str, at: Moment) -> Watched:
    """Read an operation of a list, of which nothing was known before."""
    key = OperationKey(environment, str(document.get("id")))
    return updated(document, transitions.newly_tracked(key, GROUP, (), at, Polling()), at)


def updated(document: Mapping[str, Any], before: Tracked, at: Moment) -> Watched:
    """Read an operation of a list, or one in full, of which this was known."""
    state, record = document.get("status"), document.get("record")
    record = record if isinstance(record, dict) else {}
    operation = None if state == PENDING else before.operation
    if state in (*Status, LOST) and (state != LOST or number_of(document.get("processed_rows")) is not None):
        operation = Operation(
            id=before.key.id,
            status=Status(str(state)) if state != LOST else Status.UNKNOWN,
            name=str(document.get("name") or UNKNOWN_NAME),
            rows_processed=count_of(document.get("processed_rows")),
            rows_estimated=count_of(document.get("estimated_total_rows")),
            successes=count_of(document.get("success_count")),
            errors=count_of(document.get("error_count")),
            error_items=count_of(record.get("error_items_count")),
            inserted_at=time_of(record.get("inserted_at")),
            updated_at=time_of(record.get("updated_at")),
            started_at=time_of(record.get("started_at")),
            completed_at=time_of(record.get("completed_at")),
            failed_at=time_of(record.get("failed_at")),
        )
    success, up = time_of(document.get("last_success_at")), document.get("last_poll_succeeded")
    change = time_of(document.get("last_change_at"))
    tracked = before._replace(
        group=str(document.get("group", before.group)),
        operation=operation,
        lost=state == LOST,
        up=up if isinstance(up, bool) else None,
        last_success=None if success is None else Moment(at.mono, success),
        last_change=None if change is None else Moment(at.mono, change),
        missing=0,
        missing_since=None,
        due=None if state == LOST or (operation is not None and operation.status.final) else at.mono,
    )
    rate, left = number_of(document.get("rate_rows_per_second")), number_of(document.get("time_left_seconds"))
    return Watched(tracked, rate, left, flawed=document.get("with_errors") is True)


def number_of(value: Any) -> float | None:
    """Return a number of a foreign document, None where it is none."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def count_of(value: Any) -> int | None:
    """Return a count of a foreign document."""
    number = number_of(value)
    return None if number is None or number < 0 else int(number)


def time_of(value: Any) -> float | None:
    """Return a time of a foreign document in Unix seconds."""
    try:
        return parse_time(value) if isinstance(value, str) else None
    except ValueError:
        return None
