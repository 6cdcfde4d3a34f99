"""`knock-exporter errors`: what failed, of many operations, for programs; and what no record can tell."""

from __future__ import annotations

import csv
import json
import re
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.operation import Status
from exporter.wording import counted, number, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TextIO

    from exporter.operation import Operation
    from exporter.terminal.exporter_api import ExporterApi

_SURROGATE = re.compile("[\ud800-\udfff]")  # which no UTF-8 can hold
_FINAL = ("completed", "failed", "lost")
_LINE_END = re.compile("[\r\n]")


class FailedItem(NamedTuple):
    """One failed item, as it is written."""

    operation_id: str
    collection: str | None
    id: str


def failed_items(operation: Operation, document: dict[str, Any]) -> tuple[list[FailedItem], list[str]]:
    """Return what a record lists as failed, and what it does not tell."""
    found = document.get("error_items")
    entries = found if isinstance(found, list) else []
    items = [item for each in entries if (item := _item(operation.id, each)) is not None]
    return items, list(_problems(operation, len(entries), len(entries) - len(items)))


def _item(operation_id: str, entry: Any) -> FailedItem | None:
    known = entry if isinstance(entry, dict) else {}
    item_id, collection = known.get("id"), known.get("collection")
    if not isinstance(item_id, str) or not (collection is None or isinstance(collection, str)):
        return None
    return FailedItem(operation_id, collection, item_id)


def _problems(operation: Operation, listed: int, unreadable: int) -> Iterator[str]:
    if not operation.status.final:
        yield f"is {operation.shown_status}: more of its items may fail"
    if operation.status is Status.FAILED:
        done = f"{number(operation.rows_processed)} of {number(operation.rows_estimated)} rows were processed"
        yield f"failed ({done}): the rows that were not are in no list, so run the whole operation again"
    if (operation.errors or 0) > listed:
        yield f"{counted(operation.errors, 'item')} failed, and Knock lists {number(listed)} of them"
    if unreadable:
        yield f"{number(unreadable)} of its failed items are not written as Knock documents it, and are left out"


def in_group(api: ExporterApi, environment: str, group: str, run: str | None) -> tuple[list[str], list[str]]:
    """Return the ids of what failed in a group, or in a run of it, and what they do not hold. Raises ApiError."""
    filters = {"group": group} | ({} if run is None else {"run": run})
    found = [
        list(api.operations(environment, **filters, status=status)) for status in ("failed", "with_errors", "lost")
    ]
    ids = list(dict.fromkeys(each["id"] for each in chain(*found)))
    document = api.group(environment, group)
    current = document.get("run") or {}
    if run is not None and current.get("id") != run:
        return ids, [f"{run} is not the current run of {group}: only what is still followed of it is read"]
    problems = list(_unfinished(document if run is None else current))
    if current:
        of_run = [sum(each["run"] == current["id"] for each in kind) for kind in found]
        problems += _not_read(current, *of_run)
    return ids, problems


def _unfinished(sums: Mapping[str, Any]) -> Iterator[str]:
    if unfinished := sum(count for status, count in sums["operations"].items() if status not in _FINAL):
        yield f"{counted(unfinished, 'operation is', 'operations are')} not finished: more may fail"


def _not_read(run: Mapping[str, Any], failed: int, with_errors: int, lost: int) -> Iterator[str]:
    """Say what the operations of a run that are followed, so many that failed or have errors, do not tell."""
    by_status = run["operations"]
    missing = (run["expected_operations"] or 0) - sum(by_status.values())
    if missing > 0:
        yield f"{counted(missing, 'operation of the run was', 'operations of the run were')} never registered"
    kinds = (("that failed", by_status["failed"] - failed), ("that were lost", by_status["lost"] - lost))
    for kind, gone in (*kinds, ("with errors", run["with_errors"] - with_errors)):
        if gone > 0:
            they = counted(gone, f"operation {kind} is", f"operations {kind} are")
            yield f"{they} not followed any more (retired, or forgotten), and not read"


class ItemWriter:
    """Writes failed items as they come; `form` is csv, json or ids."""

    def __init__(self, out: TextIO, form: str) -> None:
        self._out, self._form = out, form
        self._shown = visible if out.isatty() else str  # a terminal would obey somebody else's text
        self._csv = csv.writer(out, lineterminator="\n")
        self._begun = False

    def begin(self) -> None:
        """Write what comes before the first."""
        if self._form == "csv":
            self._csv.writerow(FailedItem._fields)
        if self._form == "json":
            self._out.write("[")

    def write(self, items: list[FailedItem]) -> list[str]:
        """Write the items of one operation; return what is wrong with those that could not be."""
        fit = [each for each in items if self._fits(each)]
        for each in fit:
            if self._form == "csv":
                self._csv.writerow([self._shown(value or "") for value in each])
            elif self._form == "json":
                self._out.write(f"{',' if self._begun else ''}\n  {json.dumps(each._asdict())}")
                self._begun = True
            else:
                self._out.write(f"{self._shown(each.id)}\n")
        self._out.flush()
        unfit = len(items) - len(fit)
        return [f"{number(unfit)} of its failed items cannot be written in this form (-o json can)"] if unfit else []

    def end(self) -> None:
        """Write what comes after the last; without it what was written of JSON cannot be read."""
        if self._form == "json":
            self._out.write("\n]\n" if self._begun else "]\n")

    def _fits(self, item: FailedItem) -> bool:
        if self._form == "json":
            return True
        return not _SURROGATE.search(f"{item.collection}{item.id}") and not (
            self._form == "ids" and _LINE_END.search(item.id)
        )
