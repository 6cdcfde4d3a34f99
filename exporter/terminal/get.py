"""One operation, written for people (a table), programs (json) or Prometheus (metrics)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from exporter.metrics.exposition import operation_text
from exporter.operation import GROUP, OperationKey, Status
from exporter.terminal.columns import Column, write_columns
from exporter.terminal.exit_codes import ExitCode
from exporter.tracking.transitions import Circumstances, Moment, newly_tracked, succeeded
from exporter.wording import moment, number, percent, span, visible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from exporter.config import EnvironmentSettings
    from exporter.operation import Operation

HIDDEN_ITEMS = "error_items"


def write_table(out: TextIO, environment: str, operation: Operation, items: list[Any] | None, now: float) -> None:
    """Write a table; `items` are the failed items to list (None: do not), `now` is Unix seconds."""
    hint = " (--error-items shows them)" if items is None else ""
    out.writelines(f"{label:<12}  {visible(value)}\n" for label, value in _rows(environment, operation, now, hint))
    if items is not None:
        _write_items(out, items)


def _rows(environment: str, operation: Operation, now: float, hint: str) -> Iterator[tuple[str, str]]:
    yield "operation", operation.id
    yield "environment", environment
    yield "name", operation.name
    yield "status", operation.shown_status
    yield "rows", _progress(operation)
    yield "successes", number(operation.successes)
    yield "errors", number(operation.errors)
    if operation.error_items:
        yield "failed items", f"{operation.error_items:,} listed{hint}"
    yield "inserted", _time(operation.inserted_at, now)
    yield "started", _time(operation.started_at, now)
    yield "finished", _time(operation.finished_at, now)
    yield "updated", _time(operation.updated_at, now)
    if operation.ran_for is not None:
        yield "ran for", span(operation.ran_for)
    elif operation.started_at is not None and not operation.status.final:
        yield "running for", span(now - operation.started_at)


def _progress(operation: Operation) -> str:
    text = f"{number(operation.rows_processed)} of {number(operation.rows_estimated)}"
    if operation.rows_processed is not None and operation.rows_estimated:
        text += f" ({percent(operation.rows_processed / operation.rows_estimated)})"
    return text


def _time(seconds: float | None, now: float) -> str:
    if seconds is None:
        return "not yet, or not known"
    ago = f" ({span(now - seconds)} ago)" if seconds <= now else ""
    return moment(seconds) + ago


def _write_items(out: TextIO, items: list[Any]) -> None:
    known = [item if isinstance(item, dict) else {"id": item} for item in items]
    rows = [[str(each.get(field) or "") for field in ("id", "collection")] for each in known]
    out.write("\n" if rows else "\nKnock lists no failed items.\n")
    if rows:
        write_columns(out, [Column("failed item"), Column("collection")], rows)


def write_json(out: TextIO, document: dict[str, Any], *, with_items: bool) -> None:
    """Write Knock's record as it came; failed items, which are personal data, only when asked for."""
    shown = document if with_items else {key: value for key, value in document.items() if key != HIDDEN_ITEMS}
    out.write(json.dumps(shown, indent=2) + "\n")


def exit_status(operation: Operation) -> ExitCode:
    """Return the exit code that tells how it stands, as `watch` has them."""
    if operation.status is Status.FAILED or operation.errors or operation.error_items:
        return ExitCode.FAILED
    return ExitCode.CLEAN if operation.status.final else ExitCode.TIMEOUT


def write_metrics(out: TextIO, environment: EnvironmentSettings, operation: Operation, now: float) -> None:
    """Write the series that the exporter would have for it after this one poll; `now` is Unix seconds."""
    at_once = Moment(0.0, now)
    key = OperationKey(environment.name, operation.id)
    group = next((each.group for each in environment.operations if each.id == operation.id), GROUP)
    pending = newly_tracked(key, group, (), at_once, environment.polling)
    at = Circumstances(at_once, 0.0, environment.polling, epoch=now, trusted=True)
    out.write(operation_text(succeeded(pending, operation, at)).decode())
