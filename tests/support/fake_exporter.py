"""Stands for a running exporter whose API is read: operations and groups as a test puts them, and requests."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATUSES = ("pending", "queued", "processing", "completed", "failed", "unknown", "lost")
_ENDED = ("completed", "failed", "lost")


def operation(operation_id: str, status: str = "processing", **fields: Any) -> dict[str, Any]:
    """Return an operation as lists have it."""
    return {
        "environment": "production",
        "id": operation_id,
        "name": "users.identify",
        "group": "default",
        "run": None,
        "labels": {},
        "status": status,
        "with_errors": False,
        "processed_rows": 100,
        "estimated_total_rows": 1000,
        "success_count": 100,
        "error_count": 0,
        "rate_rows_per_second": 12.5,
        "time_left_seconds": 72.0,
        "last_poll_succeeded": True,
        "last_success_at": "2027-01-15T08:00:00Z",
    } | fields


def run(run_id: str = "17", **fields: Any) -> dict[str, Any]:
    """Return a run of a group; `operations` are counts by status."""
    counts = dict.fromkeys(STATUSES, 0) | fields.pop("operations", {})
    return {
        "id": run_id,
        "opened_at": "2027-01-15T08:00:00Z",
        "deadline_at": None,
        "closed_at": None,
        "finished_at": None,
        "expected_operations": None,
        "operations": counts,
        "with_errors": 0,
        "rows_processed": 100,
        "rows_estimated": 1000,
        "errors": 0,
    } | fields


def group(run: dict[str, Any] | None = None, state: str = "running", **fields: Any) -> dict[str, Any]:
    """Return a group."""
    return {
        "environment": "production",
        "group": "nightly",
        "state": state,
        "every_seconds": None,
        "last_run_at": None,
        "progress": 0.25,
        "progress_of": "operations",
        "time_left_seconds": 600.0,
        "rate_rows_per_second": 33.0,
        "operations": dict.fromkeys(STATUSES, 0),
        "with_errors": 0,
        "rows_processed": 0,
        "rows_estimated": 0,
        "errors": 0,
        "run": run,
    } | fields


class FakeExporter:
    """Answers GETs; `before` is called with each path first, and may change what there is or return a status."""

    def __init__(self) -> None:
        self.environments = ["production"]
        self.operations: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, dict[str, Any]] = {}
        self.before: Callable[[str], int | None] = lambda _path: None
        self.requests: list[str] = []  # method and path with its query
        self.authorizations: set[str | None] = set()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

            def do_GET(self) -> None:
                fake.requests.append(f"GET {self.path}")
                fake.authorizations.add(self.headers["Authorization"])
                status, document = fake.respond(self.path)
                body = json.dumps(document).encode()
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.send_header("Content-Type", f"application/{'problem+json' if status >= 400 else 'json'}")
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def put(self, *operations: dict[str, Any]) -> None:
        """Have these operations, in place of those of the same ids."""
        self.operations |= {each["id"]: each for each in operations}

    def respond(self, target: str) -> tuple[int, Any]:
        """Return status and document for a path with its query."""
        status = self.before(target)
        if status is not None:
            return status, {"detail": "as told"}
        found = self._found(urlsplit(target).path, parse_qs(urlsplit(target).query))
        return (404, {"detail": f"{target} is not known"}) if found is None else (200, found)

    def _found(self, path: str, query: dict[str, list[str]]) -> dict[str, Any] | None:
        match [unquote(each) for each in path.removeprefix("/api/v1/").split("/")]:
            case ["environments"]:
                return {"environments": [{"name": each} for each in self.environments]}
            case ["operations"] | ["operations", _]:
                return self._listed({name: values[0] for name, values in query.items()})
            case ["operations", _, operation_id]:
                return self.operations.get(operation_id)
            case ["groups"] | ["groups", _]:
                return {"groups": list(self.groups.values())}
            case ["groups", _, *name]:
                return self.groups.get("/".join(name))
        return None

    def _listed(self, query: dict[str, str]) -> dict[str, Any]:
        found = [each for each in self.operations.values() if all(_holds(each, *wish) for wish in query.items())]
        start, limit = int(query.get("cursor", "0")), int(query.get("limit", "100"))
        following = str(start + limit) if start + limit < len(found) else None
        return {"operations": found[start : start + limit], "next": following, "total": len(found)}

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeExporter]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def _holds(each: dict[str, Any], name: str, value: str) -> bool:
    if name in ("limit", "cursor"):
        return True
    if name == "status" and value == "unfinished":
        return each["status"] not in _ENDED
    if name == "status" and value == "with_errors":
        return bool(each["with_errors"])
    return bool(each[name] == value)
