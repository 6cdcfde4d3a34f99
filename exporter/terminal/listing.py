"""`knock-exporter list` and `group list`: what a running exporter follows, for people and programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from exporter.terminal.columns import Column, write_columns
from exporter.wording import number, percent, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TextIO

_FINISHED = ("completed", "failed", "lost")


def write_json(out: TextIO, found: Iterable[Mapping[str, Any]]) -> None:
    """Write a list of objects, as the API gives them."""
    out.write(json.dumps(list(found), indent=2) + "\n")


def write_ids(out: TextIO, operations: Iterable[Mapping[str, Any]]) -> None:
    """Write the ids alone, one a line."""
    out.writelines(f"{each['id']}\n" for each in operations)


def write_operations(out: TextIO, operations: Iterable[Mapping[str, Any]]) -> bool:
    """Write a table of operations; return whether there were any."""
    columns = [Column(title) for title in ("ID", "STATUS", "ROWS", "ERRORS")]
    columns += [Column(title, whole=False) for title in ("ENVIRONMENT", "GROUP", "NAME")]
    rows = [
        (
            each["id"],
            each["status"],
            _percent(each["progress"]),
            _count(each["error_count"]),
            each["environment"],
            each["group"],
            each["name"],
        )
        for each in operations
    ]
    if rows:
        write_columns(out, columns, rows)
    return bool(rows)


def write_groups(out: TextIO, groups: Iterable[Mapping[str, Any]]) -> bool:
    """Write a table of groups; return whether there were any."""
    titles = ("GROUP", "STATE", "PROGRESS", "OPERATIONS", "FAILED", "ERRORS", "LEFT", "RUN")
    rows = [(each["environment"], *_group(each)) for each in groups]
    if rows:
        write_columns(out, [Column("ENVIRONMENT", whole=False), *map(Column, titles)], rows)
    return bool(rows)


def _group(group: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a group: of its run if it has one, else of what is followed in it now."""
    run = group["run"]
    counted = run or group
    by_status = counted["operations"]
    finished = sum(by_status.get(status, 0) for status in _FINISHED)
    expected = run and run["expected_operations"]
    left = group["time_left_seconds"]
    return (
        group["group"],
        group["state"].replace("_", " "),
        _percent(group["progress"]),
        f"{number(finished)}/{number(expected or sum(by_status.values()))}",
        number(by_status.get("failed", 0)),
        _count(counted["errors"]),
        "-" if left is None else span(left),
        run["id"] if run else "-",
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else percent(share)


def _count(value: float | None) -> str:
    return "-" if value is None else number(value)
