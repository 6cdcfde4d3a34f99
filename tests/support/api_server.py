"""Stands for an exporter that people and jobs talk to from a shell: lists, groups, runs, and what is dropped.

It refuses what the API does not take, so that a command which sends it fails its test.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from base64 import b64encode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from registration_service import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATUSES = ("pending", "queued", "processing", "completed", "failed", "unknown", "lost")
FILTERS = frozenset({"group", "run", "name", "status", "id"})
WORDS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "unfinished": lambda each: each["status"] not in ("completed", "failed", "lost"),
    "with_errors": lambda each: each["with_errors"],
    "stale": lambda each: each["stale"],
}
BASIC = "Basic " + b64encode(b"ann:correct horse").decode()


def operation(number: int, status: str = "completed", **known: Any) -> dict[str, Any]:
    """Return an operation as lists have it."""
    return {
        "environment": "production",
        "id": f"00000000-0000-4000-8000-{number:012x}",
        "name": "users.identify",
        "group": "nightly",
        "run": None,
        "labels": {},
        "status": status,
        "with_errors": False,
        "stale": False,
        "processed_rows": 1000,
        "estimated_total_rows": 1000,
        "success_count": 1000,
        "error_count": 0,
        "progress": 1.0,
        "rate_rows_per_second": None,
        "time_left_seconds": None,
        "age_seconds": 60.0,
        "last_poll_succeeded": True,
        "last_success_at": "2027-01-15T08:00:00Z",
        "next_poll_at": None,
    } | known


def counted(**statuses: int) -> dict[str, int]:
    """Return how many operations there are by status."""
    return dict.fromkeys(STATUSES, 0) | statuses


def run_of(run_id: str, **known: Any) -> dict[str, Any]:
    """Return a run as the API has it."""
    return {
        "id": run_id,
        "opened_at": "2027-01-15T02:00:00Z",
        "deadline_at": None,
        "closed_at": None,
        "finished_at": None,
        "expected_operations": None,
        "operations": counted(),
        "with_errors": 0,
        "rows_processed": 0,
        "rows_estimated": 0,
        "errors": 0,
    } | known


def group_of(name: str, run: dict[str, Any] | None = None, **known: Any) -> dict[str, Any]:
    """Return a group as the API has it."""
    return {
        "environment": "production",
        "group": name,
        "state": "idle",
        "every_seconds": None,
        "last_run_at": None,
        "progress": None,
        "progress_of": None,
        "time_left_seconds": None,
        "rate_rows_per_second": None,
        "operations": counted(),
        "with_errors": 0,
        "rows_processed": 0,
        "rows_estimated": 0,
        "errors": 0,
        "run": run,
    } | known


class Refused(Exception):
    """What is not answered with 200."""

    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, detail
        super().__init__(detail)


@dataclass
class ApiServer:
    """Holds what is listed; `listed` are the ids that a configuration keeps, `past` the ids of runs that are over."""

    operations: list[dict[str, Any]] = field(default_factory=list)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    past: set[str] = field(default_factory=set)
    opened: set[str] = field(default_factory=set)
    durable: bool = True
    passwords: bool = False
    statuses: list[int] = field(default_factory=list)  # of the next answers; what is right after them
    requests: list[tuple[str, str, Any]] = field(default_factory=list)  # method, path with query, document
    url: str = ""

    def respond(self, method: str, target: str, authorization: str | None, document: Any) -> dict[str, Any]:
        """Answer a request, or raise Refused."""
        self.requests.append((method, target, document))
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            raise Refused(status, "told to")
        parts = urlsplit(target)
        path = [unquote(each) for each in parts.path.removeprefix("/api/v1/").split("/")]
        self._authorize(method, authorization)
        match method, path:
            case "GET", ["operations", *environment]:
                return self._list(dict(parse_qsl(parts.query)), environment)
            case "DELETE", ["operations", "production", operation_id]:
                return self._delete(operation_id)
            case "GET", ["groups", *environment] if len(environment) < 2:
                return {
                    "groups": [
                        each for each in self.groups.values() if each["environment"] in environment or not environment
                    ]
                }
            case "GET", ["groups", "production", *name]:
                return self._group("/".join(name))
            case "PUT", ["groups", "production", *name, "runs", run]:
                return self._put("/".join(name), run, document) | {"durable": self.durable}
        raise Refused(404, f"this exporter has no environment {path[1]}" if len(path) > 1 else "no such page")

    def _authorize(self, method: str, authorization: str | None) -> None:
        if method != "GET" and authorization != f"Bearer {TOKEN}":
            raise Refused(401, "the token is not one of this exporter's")
        if method == "GET" and authorization != (BASIC if self.passwords else None):
            raise Refused(401, "a password is needed here")

    def _list(self, query: dict[str, str], environment: list[str]) -> dict[str, Any]:
        limit, start = int(query.pop("limit", "100")), int(query.pop("cursor", "0"))
        if unknown := query.keys() - FILTERS:
            raise Refused(400, f"query: unknown parameter {unknown}")
        if not limit <= 1000 or query.get("status", "lost") not in (*STATUSES, *WORDS):
            raise Refused(400, "query")
        found = [each for each in self.operations if not environment or each["environment"] == environment[0]]
        status, part = query.pop("status", None), query.pop("id", "")
        found = [each for each in found if part in each["id"] and query.items() <= each.items()]
        if status is not None:
            found = (
                [each for each in found if WORDS[status](each)]
                if status in WORDS
                else [each for each in found if each["status"] == status]
            )
        following = start + limit if start + limit < len(found) else None
        shown = found[start : start + limit]
        return {"operations": shown, "next": None if following is None else str(following), "total": len(found)}

    def _delete(self, operation_id: str) -> dict[str, Any]:
        if operation_id in self.listed:
            raise Refused(409, f"cannot drop {operation_id}: the configuration lists it")
        left = [each for each in self.operations if each["id"] != operation_id]
        if len(left) == len(self.operations):
            raise Refused(404, f'no operation {operation_id} is known in "production"')
        self.operations = left
        return {"id": operation_id, "released": True, "durable": self.durable}

    def _group(self, name: str) -> dict[str, Any]:
        if name not in self.groups:
            raise Refused(404, f"no group {name} is known")
        return self.groups[name]

    def _put(self, name: str, run_id: str, changes: Any) -> dict[str, Any]:
        if not re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", run_id):
            raise Refused(422, "run: expected 1 to 64 of A-Z a-z 0-9 . _ : -")
        if not isinstance(changes, dict) or changes.keys() - {"operations", "deadline", "closed"}:
            raise Refused(422, "body")
        if changes.get("closed", True) is not True or not isinstance(changes.get("operations"), int | None):
            raise Refused(422, "body")
        deadline = changes.get("deadline")
        if deadline is not None and not re.fullmatch(r"([0-9]+[dhms])+|[0-9]{4}-.*Z", deadline):
            raise Refused(422, f"deadline: {deadline} is neither a duration nor a time")
        group = self.groups.setdefault(name, group_of(name))
        if run_id in self.past:
            raise Refused(409, f"{run_id} is over: {group['run']['id']} is the current run")
        if group["run"] is None or group["run"]["id"] != run_id:
            self.past |= {group["run"]["id"]} if group["run"] else set()
            group["run"] = run_of(run_id)
        if "operations" in changes:
            group["run"]["expected_operations"] = changes["operations"]
        if "closed" in changes:
            begins = group["run"]["closed_at"] is None and run_id not in self.opened
            group["run"]["closed_at"] = group["run"]["opened_at"] if begins else "2027-01-15T03:00:00Z"
        self.opened.add(run_id)
        group["run"]["deadline_at"] = deadline
        group["state"] = "running"
        return group

    @contextlib.contextmanager
    def running(self) -> Iterator[ApiServer]:
        """Listen on a loopback port."""
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def _respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                try:
                    status, document = (
                        200,
                        exporter.respond(
                            self.command, self.path, self.headers["Authorization"], json.loads(body or b"null")
                        ),
                    )
                except Refused as refused:
                    status, document = refused.status, {"status": refused.status, "detail": refused.detail}
                answer = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("Content-Type", f"application/{'problem+json' if status >= 400 else 'json'}")
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_DELETE = _respond  # noqa: N815 - the base class's names

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
