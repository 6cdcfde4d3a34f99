"""The JSON API: reading what is known; registering stands next to it on the same paths."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections import Counter
from dataclasses import fields
from functools import partial
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from exporter import __version__
from exporter.operation import OperationKey
from exporter.tracking.exposure import Rank
from exporter.tracking.group_facts import group_facts
from exporter.tracking.selection import Filter, select
from exporter.values import InvalidValue, check_operation_id, quoted
from exporter.web import shapes
from exporter.web.context import DOCUMENTATION
from exporter.web.filters import read_filter
from exporter.web.openapi import INDEX_PATH, describe
from exporter.web.registration import (
    GROUPS_PATH,
    ONE_ENVIRONMENT_PATH,
    OPERATIONS_PATH,
    RUN_PATH,
    RegistrationEndpoints,
)
from exporter.web.replies import Refusal, unknown_environment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from exporter.tracking.snapshot import Snapshot
    from exporter.tracking.transitions import Moment
    from exporter.web.context import AppContext
    from exporter.web.worker import Worker

    Endpoint = Callable[[Request], Awaitable[Response]]

LIMIT, LIMIT_MOST = 100, 1000
_FILTERS = tuple(each.name for each in fields(Filter))
_PAGING = ("limit", "cursor")
_NOT_KEPT = {"Cache-Control": "no-store"}


def api_routes(app_context: AppContext, worker: Worker) -> list[Route]:
    """Return the routes of the API, those of registrations with them."""
    endpoints = _ReadEndpoints(app_context, worker)
    service = app_context.service
    registration = (
        RegistrationEndpoints(service, app_context.view, lambda: app_context.now) if service is not None else None
    )
    return [
        _route(OPERATIONS_PATH, GET=endpoints.operations),
        _route(
            ONE_ENVIRONMENT_PATH,
            GET=endpoints.operations_of,
            POST=registration.register if registration else None,
        ),
        _route(
            f"{ONE_ENVIRONMENT_PATH}/{{id}}",
            GET=endpoints.operation,
            DELETE=registration.release if registration else None,
        ),
        _route(RUN_PATH, GET=endpoints.group, PUT=registration.put_run if registration else None),
        _route(GROUPS_PATH, GET=endpoints.groups),
        _route(f"{GROUPS_PATH}/{{environment}}", GET=endpoints.groups_of),
        _route(f"{GROUPS_PATH}/{{environment}}/{{group:path}}", GET=endpoints.group),
        _route("/api/v1/environments", GET=endpoints.environments),
        _route(INDEX_PATH, GET=endpoints.index),
        _route("/api/v1/openapi.json", GET=endpoints.description),
    ]


def _route(path: str, **handlers: Endpoint | None) -> Route:
    """Make one route of all methods of a path, so that a 405 names them all; None: there is no such call."""
    known = {method: handler for method, handler in handlers.items() if handler is not None}
    known["HEAD"] = known["GET"]

    async def endpoint(request: Request) -> Response:
        return await known[request.method](request)

    return Route(path, endpoint, methods=list(known))


class _ReadEndpoints:
    def __init__(self, app_context: AppContext, worker: Worker) -> None:
        self._app_context = app_context
        self._worker = worker

    async def operations(self, request: Request) -> Response:
        """List operations."""
        return await self._list(request, {})

    async def operations_of(self, request: Request) -> Response:
        """List the operations of one environment."""
        return await self._list(request, {"environment": self._environment(request)})

    async def operation(self, request: Request) -> Response:
        """Tell of one operation everything."""
        environment = self._environment(request)
        _parameters(request, ())
        try:
            operation_id = check_operation_id(request.path_params["id"])
        except InvalidValue as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"id: {error}") from None
        entry = self._app_context.view().snapshot.operations.get(OperationKey(environment, operation_id))
        if entry is None:
            raise Refusal(HTTPStatus.NOT_FOUND, f"{operation_id} is not followed in {quoted(environment)}")
        return _json(shapes.detail(entry, self._app_context.now))

    async def groups(self, request: Request) -> Response:
        """Tell how all groups stand."""
        return await self._groups(request, None)

    async def groups_of(self, request: Request) -> Response:
        """Tell how the groups of one environment stand."""
        return await self._groups(request, self._environment(request))

    async def _groups(self, request: Request, environment: str | None) -> Response:
        _parameters(request, ())
        snapshot, now = self._app_context.view().snapshot, self._app_context.now
        return await self._worker.run_bounded(lambda: _json(shapes.groups(group_facts(snapshot, now, environment))))

    async def group(self, request: Request) -> Response:
        """Tell how one group stands."""
        environment, name = self._environment(request), request.path_params["group"]
        if "run" in request.path_params:  # which only a PUT knows; a group may be named so
            name = f"{name}/runs/{request.path_params['run']}"
        _parameters(request, ())
        snapshot, now = self._app_context.view().snapshot, self._app_context.now
        found = await self._worker.run_bounded(lambda: group_facts(snapshot, now, environment, name))
        if not found:
            raise Refusal(HTTPStatus.NOT_FOUND, f"{quoted(environment)} has no group {quoted(name)}")
        return _json(shapes.group(found[0]))

    async def environments(self, request: Request) -> Response:
        """Tell how the environments stand."""
        _parameters(request, ())
        snapshot, now = self._app_context.view().snapshot, self._app_context.now
        return await self._worker.run_bounded(lambda: _json(shapes.environments(snapshot, now)))

    async def index(self, request: Request) -> Response:
        """Tell which calls there are."""
        _parameters(request, ())
        return await self._worker.run_bounded(lambda: _json(self._index()))

    def _index(self) -> shapes.ApiIndex:
        prefix, paths = self._app_context.prefix, describe(LIMIT, LIMIT_MOST)["paths"]
        calls = [f"{method.upper()} {prefix}{path}" for path, methods in paths.items() for method in methods]
        return shapes.ApiIndex(
            version=__version__,
            openapi=f"{prefix}{INDEX_PATH}/openapi.json",
            documentation=f"{DOCUMENTATION}api.md",
            calls=calls,
        )

    async def description(self, _request: Request) -> Response:
        """Describe the API."""
        return await self._worker.run_bounded(lambda: _json(describe(LIMIT, LIMIT_MOST)))

    async def _list(self, request: Request, settled: dict[str, str]) -> Response:
        given = _parameters(request, tuple(each for each in (*_FILTERS, *_PAGING) if each not in settled))
        wanted = read_filter(given | settled)
        limit, after = _limit(given.get("limit")), _after(given.get("cursor"))
        snapshot, now = self._app_context.view().snapshot, self._app_context.now
        return await self._worker.run_bounded(partial(_listed, snapshot, now, wanted, limit, after))

    def _environment(self, request: Request) -> str:
        name: str = request.path_params["environment"]
        known = [each.name for each in self._app_context.config().environments]
        if name not in known:
            raise unknown_environment(name, known)
        return name


def _json(document: Any) -> Response:
    return JSONResponse(document, headers=_NOT_KEPT)


def _listed(snapshot: Snapshot, now: Moment, wanted: Filter, limit: int, after: Rank | None) -> Response:
    selection = select(snapshot, wanted, now, after)
    rest = list(islice(selection.entries, limit + 1))
    shown = rest[:limit]
    following = _cursor(shown[-1].rank) if len(rest) > limit else None
    operations = [shapes.summary(each, now) for each in shown]
    return _json(shapes.Operations(operations=operations, next=following, total=selection.total))


def _parameters(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    counts = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in counts.items():
        if name not in known:
            expected = f"expected {', '.join(known)}" if known else "none is taken here"
            raise Refusal(HTTPStatus.BAD_REQUEST, f"query: unknown parameter {quoted(name)}: {expected}")
        if count > 1:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"query: {name} is given {count} times")
    return dict(request.query_params)


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT_MOST)) and 1 <= int(text) <= LIMIT_MOST):
        raise Refusal(HTTPStatus.BAD_REQUEST, f"limit: expected a number from 1 to {LIMIT_MOST}")
    return int(text)


def _cursor(last: Rank) -> str:
    return base64.urlsafe_b64encode(json.dumps(last).encode()).decode().rstrip("=")


def _after(cursor: str | None) -> Rank | None:
    """Return the rank of the last operation that was shown. Raises Refusal for what is not a cursor."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        decoded = json.loads(base64.b64decode(padded, b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        decoded = None
    match decoded:
        case [int(level), float(newest_first), str(operation_id), str(environment)] if math.isfinite(newest_first):
            return Rank(level, newest_first, operation_id, environment)
    raise Refusal(HTTPStatus.BAD_REQUEST, "cursor: not one that this API has given (leave it out to start again)")
