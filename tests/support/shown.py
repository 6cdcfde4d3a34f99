"""A snapshot of operations in every state, as a tracker makes it, and a port that shows it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
from model import WALL, Model, environment, ids, running

from exporter.config import Config, ListedOperation
from exporter.config.settings import HttpSource
from exporter.errors import NotFound, Reason, Unreachable
from exporter.operation import Operation, Status
from exporter.tracking.memberships import SourceKey, SourceKind
from exporter.tracking.messages import Unread
from exporter.web.app import make_app
from exporter.web.context import AppContext

if TYPE_CHECKING:
    from exporter.errors import KnockError
    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Moment

RUNNING, QUEUED, CLEAN, FLAWED, FAILED, ODD, GONE, DOWN, PASSED, BLANK = LISTED = ids(10)
OTHER = ids(11)[10]
HOSTILE = "\"><script>alert('1')</script>'&amp; \N{ARABIC LETTER ALEF}\N{PILE OF POO}"
SECRET_URL = "https://lists.example/ids?token=hunter2"
ROWS = 1000


def answer(request: PollRequest, now: Moment) -> Operation | KnockError:
    """Answer as Knock would, each id in its own way."""
    counts = {"rows_estimated": ROWS, "inserted_at": WALL - 60, "started_at": WALL - 30}
    done = {"rows_processed": ROWS, "successes": ROWS, "errors": 0, "completed_at": WALL}
    ways: dict[str, Operation | KnockError] = {
        RUNNING: running(RUNNING, **counts, rows_processed=min(int(now.mono) - 990, ROWS - 1), errors=1),
        QUEUED: running(QUEUED, **counts, rows_processed=0),
        CLEAN: running(CLEAN, **counts, **done),
        FLAWED: running(
            FLAWED, **counts, **(done | {"errors": 3, "error_items": 3, "collections": (("", 2), ("x", 1))})
        ),
        FAILED: running(FAILED, **counts, rows_processed=7, failed_at=WALL),
        ODD: running(ODD, **counts, name=HOSTILE),
        GONE: NotFound("no such operation", code=404, accepted_key=True),
        DOWN: Unreachable(Reason.TIMEOUT, "no answer within 10 s"),
        PASSED: running(PASSED, **(counts | {"rows_estimated": 5}), rows_processed=9),
        BLANK: running(BLANK, rows_processed=4, rows_estimated=None),
        OTHER: running(OTHER, **counts, rows_processed=1),
    }
    states = {
        QUEUED: Status.QUEUED,
        CLEAN: Status.COMPLETED,
        FLAWED: Status.COMPLETED,
        FAILED: Status.FAILED,
        ODD: Status.UNKNOWN,
    }
    found = ways[request.id]
    return replace(found, status=states.get(request.id, Status.PROCESSING)) if isinstance(found, Operation) else found


def everything(**settings: Any) -> Model:
    """Return a tracker that has polled for a minute."""
    listed = tuple(ListedOperation(each, "nightly" if each == RUNNING else "default") for each in LISTED)
    first = replace(environment(branch="b", operations_http=(HttpSource(SECRET_URL),), **settings), operations=listed)
    model = Model(Config((first, environment("staging", [OTHER])), labels=("team",)), answer)
    model.list_file("/ids.txt", ListedOperation(RUNNING, "nightly", (("team", "growth"),)))
    model.tell(Unread("production", SourceKey(SourceKind.HTTP, SECRET_URL), "HTTP 500"))
    model.run(60)
    return model


def app_context(model: Model, **settings: Any) -> AppContext:
    """Return the house of a tracker."""
    looks: dict[str, Any] = {"unhealthy": lambda: None, "unready": lambda: None} | settings
    return AppContext(
        view=lambda: model.views[-1],
        activity=model.activity,
        monotonic=lambda: model.mono,
        wall=lambda: model.now.wall,
        config=lambda: model.config,
        **looks,
    )


def ask(shown: AppContext, path: str, method: str = "GET", **request: Any) -> httpx.Response:
    """Send one request in process."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(shown))
        async with httpx.AsyncClient(transport=transport, base_url="http://exporter") as client:
            return await client.request(method, path, **request)

    return asyncio.run(asked())
