"""The pages for people: made on the server, in the worker's thread; HTML stands in the templates."""

from __future__ import annotations

import hashlib
import math
import shlex
from dataclasses import asdict, replace
from functools import cache, partial
from http import HTTPStatus
from importlib.resources import files
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from exporter import __version__, chart, wording
from exporter.config import effective_yaml
from exporter.metrics.exposition import operation_text
from exporter.operation import OperationKey, is_operation_id
from exporter.tracking import facts
from exporter.tracking.group_facts import group_facts
from exporter.tracking.selection import (
    STATUSES,
    Filter,
    FilterOption,
    Part,
    by_part,
    choices,
    operations,
    select,
    tally,
)
from exporter.web import advice, rows
from exporter.web.context import DOCUMENTATION
from exporter.web.filters import read_filter
from exporter.web.replies import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from jinja2 import Environment
    from starlette.requests import Request

    from exporter.tracking.snapshot import Entry, EnvironmentStatus
    from exporter.tracking.transitions import Moment
    from exporter.web.context import AppContext
    from exporter.web.worker import Worker

PAGE_ROWS = 100
GROUPS_OPEN = 20  # further ones are folded
ATTENTION_ROWS = 10  # of a group's page
STATIC = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
STATIC_SECONDS = 31_536_000  # their links change with their content
PROJECT = "knock-exporter"
PART_TITLES = {Part.ATTENTION: "Needs attention", Part.RUNNING: "Unfinished", Part.ENDED: "Completed"}
TITLE_LONGEST = 60
_NOT_KEPT = {"Cache-Control": "no-store"}
_FIRST = ("needs_attention", "unfinished")
_STATUSES = (*_FIRST, *(each for each in STATUSES if each not in _FIRST))


@cache
def _content(name: str) -> bytes:
    return files("exporter.web").joinpath("static", name).read_bytes()


@cache
def _versions() -> dict[str, str]:
    return {name: hashlib.sha256(_content(name)).hexdigest()[:12] for name in STATIC}


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    # A page of another version may link here while the exporter is replaced.
    is_this = request.query_params.get("v") == _versions()[name]
    kept = f"private, max-age={STATIC_SECONDS}, immutable" if is_this else "no-cache"
    return Response(_content(name), media_type=STATIC[name], headers={"Cache-Control": kept})


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - a tenth of all imports of a start

    templates = Environment(
        loader=PackageLoader("exporter.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "number": wording.number,
        "counted": wording.counted,
        "cut": wording.cut,
        "speed": wording.speed,
        "span": wording.span,
        "moment": wording.moment,
        "machine": wording.machine_moment,
        "source": facts.source_name,
        "offered": rows.offered,
        "document": DOCUMENTATION.__add__,
    }
    return templates


class ListedPart(NamedTuple):
    """What a page shows of a part of the list."""

    name: Part
    rows: list[rows.Row]


class Pages:
    """The pages of an application, made in the worker's thread."""

    def __init__(self, app_context: AppContext, worker: Worker) -> None:
        self._app_context, self._worker = app_context, worker

    def routes(self) -> list[Route]:
        """Return their routes."""
        return [
            Route("/", self._made(self.overview)),
            Route("/operations/{environment}/{id}", self._made(self.operation)),
            Route("/groups/{environment}/{group:path}", self._made(self.group)),
            Route("/config", self._made(self.configuration)),
            Route("/static/{name}", _static),
        ]

    def _made(self, make: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await self._worker.run_bounded(partial(make, request))

        return endpoint

    # The pages.

    def overview(self, request: Request) -> Response:
        """Show groups, environments and operations."""
        query = dict(request.query_params)
        wanted, number = read_filter(query), _page_number(query.get("page") or "1")
        snapshot, now = self._app_context.view().snapshot, self._app_context.now
        listing = by_part(snapshot, wanted, now)
        counts = listing.of_any_status
        pages = max(1, math.ceil(listing.total / PAGE_ROWS))
        page = min(number, pages)
        first = (page - 1) * PAGE_ROWS
        environments = rows.environment_rows(snapshot, now)
        return self._page(
            "overview.html",
            title=rows.headline(environments),
            now=now,
            wanted=wanted,
            groups=rows.group_rows(group_facts(snapshot, now), self._app_context.prefix),
            groups_open=GROUPS_OPEN,
            choices=choices(snapshot),
            statuses=_STATUSES,
            environments=environments,
            troubled=rows.troubled(environments),
            configuration=self._app_context.configuration(),
            tally=[FilterOption(word, counts[word]) for word in _STATUSES if counts[word]],
            of_any_status=operations(counts),
            parts=self._parts(islice(listing.entries, first, first + PAGE_ROWS), now),
            part_titles=PART_TITLES,
            first=first,
            last=min(first + PAGE_ROWS, listing.total),
            found=listing.total,
            total=len(snapshot.operations),
            page=page,
            pages=pages,
            link=partial(_link, self._app_context.prefix, wanted),
        )

    def group(self, request: Request) -> Response:
        """Show one group."""
        environment, name = request.path_params["environment"], request.path_params["group"]
        snapshot, now = self._app_context.view().snapshot, self._app_context.now
        found = group_facts(snapshot, now, environment, name)
        if not found:
            raise Refusal(HTTPStatus.NOT_FOUND, "This exporter has no such group, or does not follow it any more.")
        (it,), of_group = found, Filter(environment, name)
        row = rows.group_row(it, self._app_context.prefix)
        status = next((each for each in snapshot.groups if (each.environment, each.group) == (environment, name)), None)
        unfinished = select(snapshot, replace(of_group, status="unfinished"), now)
        listing = by_part(snapshot, replace(of_group, status="needs_attention"), now)
        return self._page(
            "group.html",
            title=f"{row.word}: {wording.cut(name, TITLE_LONGEST)}",
            now=now,
            row=row,
            it=it,
            attention=advice.group_troubles(it, now),
            counts=tally(snapshot, of_group, now),
            rows_chart=chart.draw(status.rows.points, it.run_sums.rows_estimated) if status else None,
            rows_points=status.rows.points if status else (),
            ended_chart=chart.draw(status.ended.points, it.run.operations if it.run else None) if status else None,
            ended_points=status.ended.points if status else (),
            box=chart,
            slowest=[self._row(each, now) for each in rows.slowest(unfinished.entries, now)],
            listed=[self._row(each, now) for _, each in islice(listing.entries, ATTENTION_ROWS)],
            listed_count=listing.total,
            commands=advice.group_commands(it, self._url(request)),
        )

    def operation(self, request: Request) -> Response:
        """Show one operation."""
        key = OperationKey(request.path_params["environment"], request.path_params["id"].lower())
        snapshot, now = self._app_context.view().snapshot, self._app_context.now
        entry = snapshot.operations.get(key) if is_operation_id(key.id) else None
        if entry is None:
            raise Refusal(
                HTTPStatus.NOT_FOUND, "This exporter does not follow this operation, or does not follow it any more."
            )
        environment_status = next((each for each in snapshot.environments if each.name == key.environment), None)
        row, record, points = self._row(entry, now), entry.tracked.operation, entry.history.points
        return self._page(
            "operation.html",
            title=f"{row.state}: {wording.cut(row.name, TITLE_LONGEST)} {key.id}",
            now=now,
            row=row,
            tracked=entry.tracked,
            record=record,
            memberships=entry.memberships,
            polls=entry.history.polls[::-1],
            points=points,
            chart=chart.draw(points, record.rows_estimated if record else None),
            box=chart,
            metrics=operation_text(entry.tracked, self._app_context.config().labels).decode()
            if entry.exposed
            else None,
            curl=_curl(environment_status, key.id),
            advice=advice.operation_advice(entry, now, self._url(request)),
        )

    def configuration(self, _request: Request) -> Response:
        """Show the active configuration."""
        return self._page(
            "config.html",
            title="Configuration",
            now=self._app_context.now,
            text=effective_yaml(self._app_context.config(), queries_masked=True, empty_lists=False),
            configuration=self._app_context.configuration(),
            flags=self._app_context.flags,
        )

    def trouble(self, refusal: Refusal) -> Response:
        """Tell what is wrong with a request."""
        status, now = refusal.status, self._app_context.now
        page = self._page("trouble.html", title=status.phrase, now=now, text=str(refusal), status=status)
        page.status_code = status
        page.headers.update(refusal.headers or {})
        return page

    # What they share.

    def _page(self, template: str, **values: Any) -> Response:
        values |= {"prefix": self._app_context.prefix, "telemetry_path": self._app_context.telemetry_path}
        values |= {"version": __version__, "static": _versions(), "project": PROJECT}
        values |= {"notice": self._app_context.notice}
        return HTMLResponse(_templates().get_template(template).render(values), headers=_NOT_KEPT)

    def _parts(self, found: Iterable[tuple[Part, Entry]], now: Moment) -> list[ListedPart]:
        by_its_part = groupby(found, key=itemgetter(0))
        return [ListedPart(part, [self._row(each, now) for _, each in of_part]) for part, of_part in by_its_part]

    def _url(self, request: Request) -> str:
        return self._app_context.external_url or str(request.base_url).rstrip("/")

    def _row(self, entry: Entry, now: Moment) -> rows.Row:
        return rows.row(entry, self._app_context.prefix, now)


def _page_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) > 0):  # noqa: PLR2004 - far past all
        raise Refusal(HTTPStatus.BAD_REQUEST, "page: expected a number from 1")
    return int(text)


def _link(prefix: str, wanted: Filter, **changes: str | int | None) -> str:
    query = {name: value for name, value in {**asdict(wanted), **changes}.items() if value is not None}
    return f"{prefix}/?{urlencode(query)}" if query else f"{prefix}/"


def _curl(environment_status: EnvironmentStatus | None, operation_id: str) -> str | None:
    """Write how to ask Knock for it in a shell, with the key in a variable; None: nobody knows where to ask."""
    if environment_status is None:
        return None
    branch = f" -H {shlex.quote(f'X-Knock-Branch: {environment_status.branch}')}" if environment_status.branch else ""
    url = shlex.quote(f"{environment_status.base_url}/v1/bulk_operations/{operation_id}")
    return f'curl -H "Authorization: Bearer $KNOCK_API_KEY"{branch} {url}'
