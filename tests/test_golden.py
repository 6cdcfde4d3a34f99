"""Whole answers of /metrics, compared text against text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from golden_text import compare
from model import WALL, Model, environment, running

from exporter.config import Config, EnvironmentSettings, ListedOperation
from exporter.errors import KnockError, NotFound, Reason, Unreachable
from exporter.metrics.exposition import Format
from exporter.operation import NIL_ID, Operation, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.config import PerOperation
    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Moment

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = 'say "hi" \\ or 🧀'
FOLDED = "two\nlines"
DAY = 86400.0
MISSING = NotFound("404", code=404, accepted_key=True)

QUEUED, BORN, FOUND_DONE, WITH_ERRORS, FAILED, ODD, PENDING, LOST, FLAKY = (
    f"{number}0000000-0000-4000-8000-00000000000{number}" for number in range(1, 10)
)


def now_and_then(request: PollRequest, now: Moment) -> Operation | KnockError:
    """Answer as Knock would: each id has a story, told by how long the model has run."""
    since, name = now.mono - 1000.0, request.id
    made: dict[str, Callable[[], Operation | KnockError]] = {
        NIL_ID: lambda: MISSING,
        QUEUED: lambda: Operation(name, Status.QUEUED, HOSTILE, inserted_at=WALL - 900),
        # Made an hour after the start, started 10 s later, done after 100 s more.
        BORN: lambda: born(name, since - 3600),
        FOUND_DONE: lambda: running(
            name,
            status=Status.COMPLETED,
            rows_processed=100,
            successes=100,
            started_at=WALL - 90,
            completed_at=WALL - 30,
        ),
        WITH_ERRORS: lambda: with_errors(name, since),
        FAILED: lambda: Operation(name, Status.FAILED, FOLDED, 7, 50, 3, 4, inserted_at=WALL - 50, failed_at=WALL - 20),
        ODD: lambda: running(name, status=Status.UNKNOWN, name="objects.<collection>.set"),
        PENDING: lambda: Unreachable(Reason.TIMEOUT, "no answer within 10 s"),
        LOST: lambda: running(name, rows_processed=33, errors=1) if since < 100 else MISSING,
        FLAKY: lambda: running(name, rows_processed=12) if since < 90000 else Unreachable(Reason.CONNECT, "refused"),
    }
    return made[name]()


def born(name: str, age: float) -> Operation | KnockError:
    if age < 0:
        return MISSING
    fresh = Operation(
        name, Status.QUEUED, "users.identify", 0, 10, 0, 0, inserted_at=WALL + 3600, updated_at=WALL + 3600
    )
    if age < 10:
        return fresh
    started = replace(fresh, status=Status.PROCESSING, started_at=WALL + 3610, rows_processed=4, successes=4)
    if age < 110:
        return started
    return replace(
        started, status=Status.COMPLETED, rows_processed=10, successes=10, error_items=0, completed_at=WALL + 3710
    )


def with_errors(name: str, since: float) -> Operation:
    if since < 50:
        return running(name, rows_processed=20, started_at=WALL - 400)
    return running(
        name,
        status=Status.COMPLETED,
        rows_processed=90,
        successes=85,
        errors=5,
        error_items=5,
        started_at=WALL - 400,
        completed_at=WALL + 50,
        updated_at=WALL + 51,
    )


def lively(per_operation: PerOperation = "all") -> EnvironmentSettings:
    groups = {QUEUED: HOSTILE, FAILED: FOLDED, WITH_ERRORS: "tenants", LOST: "tenants"}
    labels = {QUEUED: (("team", HOSTILE),), FAILED: (("team", "crm"), ("ticket", "A-1"))}
    ids = (QUEUED, BORN, FOUND_DONE, WITH_ERRORS, FAILED, ODD, PENDING, LOST, FLAKY)
    listed = tuple(ListedOperation(each, groups.get(each, "default"), labels.get(each, ())) for each in ids)
    return replace(environment(per_operation=per_operation), operations=listed)


def run(config: Config, seconds: float) -> Model:
    model = Model(config, now_and_then)
    model.run(seconds)
    return model


MODELS: dict[str, Callable[[], Model]] = {
    "empty": lambda: run(Config((environment(),)), 30),
    "lively": lambda: run(Config((lively(),), ("team", "ticket")), DAY + 2 * 3600),
    "none": lambda: run(Config((lively(per_operation="none"),), ("team", "ticket")), 60),
}


@pytest.mark.parametrize("name", MODELS)
def test_metrics_is_as_agreed(name: str) -> None:
    model = MODELS[name]()
    for form, ending in ((Format.TEXT, "text"), (Format.OPENMETRICS, "openmetrics")):
        text = model.metrics(form)
        assert NIL_ID not in text
        compare(text, GOLDEN / f"{name}.{ending}.txt")
