"""How what is kept is written: plain JSON, and checked field by field when it is read.

What is None is left out. A field that is not in its table is not kept: `tests/test_store_codec.py` compares the tables
with the classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.operation import Operation, Status
from exporter.store.forms import (
    AGE,
    COUNT,
    FLAG,
    LABELS,
    MOMENT,
    NUMBER,
    TEXT,
    TEXTS,
    Form,
    Forms,
    Unreadable,
    need,
    or_none,
    read_fields,
    word,
    write_fields,
)
from exporter.tracking.memory import CellMemory, EnvironmentMemory, Kept
from exporter.tracking.pacing import PollClass
from exporter.tracking.record import Marks, Tracked
from exporter.tracking.roster import Naming, Source, SourceKind

if TYPE_CHECKING:
    from exporter.operation import OperationKey
    from exporter.store.ages import Ages

    Document = dict[str, Any]

OPERATION: Forms = {  # without its id, by which it is kept
    "status": word(Status),
    "name": TEXT,
    "rows_processed": or_none(COUNT),
    "rows_estimated": or_none(COUNT),
    "successes": or_none(COUNT),
    "errors": or_none(COUNT),
    "error_items": or_none(COUNT),
    "inserted_at": or_none(NUMBER),
    "updated_at": or_none(NUMBER),
    "started_at": or_none(NUMBER),
    "completed_at": or_none(NUMBER),
    "failed_at": or_none(NUMBER),
}
MARKS: Forms = {name: or_none(COUNT) for name in Marks._fields}
CELL: Forms = {name: or_none(NUMBER) for name in CellMemory._fields}
SOURCE: Forms = {"kind": word(SourceKind), "name": TEXT}
ENVIRONMENT: Forms = {
    "base_url": TEXT,
    "branch": or_none(TEXT),
    "epoch": NUMBER,
    "groups": TEXTS,
    "names": TEXTS,
    "asleep_since": or_none(AGE),
}


def _read_marks(document: Any, ages: Ages) -> Marks:
    return Marks(**read_fields(MARKS, document, ages))


def _read_record(document: Any, ages: Ages) -> Document:
    values = read_fields(OPERATION, document, ages)
    need(values, "status")
    return values  # an Operation but for its id, which only the row knows


def _write_naming(naming: Naming, ages: Ages) -> Document:
    return {**write_fields(SOURCE, naming.source, ages), "group": naming.group, "labels": dict(naming.labels)}


NAMING: Forms = {**SOURCE, "group": TEXT, "labels": LABELS}


def _read_namings(documents: Any, ages: Ages) -> tuple[Naming, ...]:
    if not isinstance(documents, list):
        raise Unreadable("expected a list")
    return tuple(_read_naming(each, ages) for each in documents)


def _read_naming(document: Any, ages: Ages) -> Naming:
    values = read_fields(NAMING, document, ages)
    need(values, *NAMING)
    return Naming(Source(values["kind"], values["name"]), values["group"], values["labels"])


TRACKED: Forms = {  # without its key, by which it is kept
    "group": TEXT,
    "labels": LABELS,
    "handed_over": MOMENT,
    "due": or_none(AGE),
    "interval": NUMBER,
    "healthy_interval": NUMBER,
    "poll_class": word(PollClass),
    "operation": or_none(Form(lambda value, ages: write_fields(OPERATION, value, ages), _read_record)),
    "up": or_none(FLAG),
    "last_success": or_none(MOMENT),
    "last_change": or_none(MOMENT),
    "failures": COUNT,
    "missing": COUNT,
    "missing_since": or_none(AGE),
    "odd_polls": COUNT,
    "ended_polls": COUNT,
    "lost": FLAG,
    "from_birth": or_none(FLAG),
    "seen_unfinished": FLAG,
    "seen_started": FLAG,
    "marks": Form(lambda value, ages: write_fields(MARKS, value, ages), _read_marks),
    "final_seen": or_none(NUMBER),
    "final_at": or_none(AGE),
}
KEPT: Forms = {
    **TRACKED,
    "namings": Form(lambda value, ages: [_write_naming(each, ages) for each in value], _read_namings),
}
# Without one of these a record is none; what else is missing is at its default.
_NEEDED = ("group", "labels", "handed_over", "interval", "healthy_interval", "namings")


def write_kept(kept: Kept, ages: Ages) -> Document:
    """Write an operation; its key is the row's."""
    return {**write_fields(TRACKED, kept.tracked, ages), "namings": KEPT["namings"].write(kept.namings, ages)}


def read_kept(key: OperationKey, document: Any, ages: Ages) -> Kept:
    """Read an operation. Raises Unreadable."""
    values = read_fields(KEPT, document, ages)
    need(values, *_NEEDED)
    record = values.pop("operation", None)
    operation = None if record is None else Operation(key.id, **record)
    due = values.pop("due", None)
    return Kept(namings=values.pop("namings"), tracked=Tracked(key, due=due, operation=operation, **values))


def write_environment(environment: EnvironmentMemory, ages: Ages) -> Document:
    """Write what an environment remembers; its name is the row's."""
    return write_fields(ENVIRONMENT, environment, ages)


def read_environment(document: Any, ages: Ages) -> EnvironmentMemory:
    """Read what an environment remembers. Raises Unreadable."""
    values = read_fields(ENVIRONMENT, document, ages)
    need(values, "base_url", "epoch")
    return EnvironmentMemory(**{"branch": None, **values})


def write_cell(cell: CellMemory, ages: Ages) -> Document:
    """Write what an aggregate remembers; its place is the row's."""
    return write_fields(CELL, cell, ages)


def read_cell(document: Any, ages: Ages) -> CellMemory:
    """Read what an aggregate remembers. Raises Unreadable."""
    return CellMemory(**read_fields(CELL, document, ages))
