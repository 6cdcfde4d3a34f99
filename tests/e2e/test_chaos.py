"""Whatever Knock answers: the exporter lives, /metrics answers, and no wrong number is ever shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from chaos import http, serving
from programs import until

from exporter.simulator import faults

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from chaos import Handler, Server
    from programs import Exporter, Starter

    from exporter.simulator import Simulator

pytestmark = pytest.mark.e2e

POLLING = {"processing": "200ms", "queued": "200ms", "slowest": "1s"}
GOOD = {
    "status": "processing",
    "name": "users.identify",
    "processed_rows": 42,
    "estimated_total_rows": 100,
    "success_count": 40,
    "error_count": 2,
}
SHOWN = {"rows_processed": 42, "rows_estimated": 100, "successes": 40, "errors": 2}


def name(number: int) -> str:
    return f"123e4567-e89b-12d3-a456-42661417{number:04}"


def good(operation_id: str) -> dict[str, Any]:
    return {"id": operation_id, **GOOD}


def numbers_are_right(exporter: Exporter, ids: list[str]) -> None:
    """Check that every number shown is the last good one."""
    text = exporter.metrics()
    for line in text.splitlines():
        for family, value in SHOWN.items():
            if line.startswith(f"knock_bulk_operation_{family}{{"):
                assert line.rsplit(" ", 1)[1] == f"{value}.0", line
    assert text.count("\nknock_bulk_operation_rows_processed{") == len(ids)
    assert exporter.get("/-/healthy").status_code == 200


def all_are(exporter: Exporter, ids: list[str], up: float) -> Callable[[], bool]:
    def look() -> bool:
        numbers_are_right(exporter, ids)
        return set(exporter.values("knock_bulk_operation_up").items()) >= {(each, up) for each in ids}

    return look


def faults_of(ids: list[str]) -> list[faults.AnyFault]:
    """Return all that spoil one operation's answers each; what stops the whole upstream is not among them."""
    kinds: list[tuple[type[Any], dict[str, Any]]] = [
        *[(faults.StatusFault, {"status": status}) for status in (400, 404, 408, 409, 418, 422, 500, 503, 599)],
        *[(faults.StatusFault, {"status": status, "body": "html"}) for status in (200, 403, 404, 502, 504)],
        (faults.Redirect, {"location": "http://127.0.0.1:9/elsewhere"}),
        (faults.Redirect, {"location": "/v1/bulk_operations/other", "status": 308}),
        (faults.Garbage, {}),
        (faults.Truncated, {}),
        (faults.Oversized, {"mebibytes": 17}),
        (faults.Oversized, {"mebibytes": 17, "declared": False}),
        (faults.TrickleHeaders, {"seconds": 0.2}),
        (faults.TrickleBody, {"seconds": 0.2}),
        (faults.Latency, {"seconds": 5.0}),
        (faults.Drop, {}),
        (faults.Reset, {}),
        (faults.Hang, {}),
    ]
    return [kind(id=each, **fields) for each, (kind, fields) in zip(ids, kinds, strict=False)]


LIES: tuple[Any, ...] = (
    [],
    "processing",
    {"status": None},
    {"status": 3},
    {"id": name(9999)},
    {"id": None},
    {"processed_rows": -1},
    {"processed_rows": True},
    {"processed_rows": "43"},
    {"processed_rows": 43.5},
    {"processed_rows": 2**60},
    {"success_count": 1e300},
    {"error_count": [1]},
    {"estimated_total_rows": {}},
    {"started_at": "yesterday"},
    {"inserted_at": 17},
    {"completed_at": "2026-02-30T00:00:00Z", "status": "completed"},
)


def test_faults_and_lies_show_no_wrong_number(knock: Simulator, start: Starter) -> None:
    faulty = [knock.world.put(good(name(number))) for number in range(len(faults_of([name(0)] * 100)))]
    lying = [knock.world.put(good(name(1000 + number))) for number in range(len(LIES))]
    ids = faulty + lying
    exporter = start(knock.url, ids, rate_limit=200, timeout="1s", polling=POLLING)
    until(lambda: len(exporter.values("knock_bulk_operation_rows_processed")) == len(ids), "all are known")
    until(all_are(exporter, ids, up=1), "all are up")
    for each, lie in zip(lying, LIES, strict=True):
        knock.world.put(good(each) | lie if isinstance(lie, dict) else lie, under=each)
    knock.faults.set(*faults_of(faulty))
    until(all_are(exporter, ids, up=0), "all went wrong", 20.0)
    reasons = ("timeout", "connect", "not_found", "client_error", "server_error", "bad_response", "too_large")
    for reason in reasons:
        assert exporter.value("knock_exporter_poll_failures_total", reason=reason), reason
    for each in lying:
        knock.world.put(good(each), under=each)
    knock.faults.set(faults.RateLimit(retry_after=1, count=3))
    until(lambda: exporter.value("knock_exporter_poll_failures_total", reason="rate_limited"), "429", 15.0)
    quick = [each for each, fault in zip(faulty, faults_of(faulty), strict=True) if fault.kind in ("drop", "garbage")]
    until(lambda: all(exporter.values("knock_bulk_operation_up").get(each) == 1 for each in quick), "again up", 20.0)
    numbers_are_right(exporter, ids)
    exporter.signal()
    assert exporter.wait() == 0
    assert "Traceback" not in exporter.output


HEAD = b"HTTP/1.1 200 OK\r\n"
RAW: tuple[bytes, ...] = (
    b"",
    b"\r\n\r\n",
    b"\x00\xff\xfe" * 1000,
    b"220 mail.example ESMTP\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 99999 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,
    b"HTTP/1.1 204 Nothing\r\n\r\n",
    HEAD + b"Content-Length: -1\r\n\r\n{}",
    HEAD + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}",
    HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    HEAD + b"".join(b"X-%d: a\r\n" % number for number in range(2000)) + b"\r\n",
    HEAD + b"\r\n" + b"[" * 200_000,
    HEAD + b"\r\n" + b'{"id": "\xff"}',
    HEAD + b"\r\n" + b"9" * 10_000,
    http('{"id": 1, "id": 2}'),
    http("NaN"),
)


def turning_bad(server: Server) -> Handler:
    """Answer the first read of each operation well, and all later ones with its own garbage."""
    seen: set[str] = set()

    def handle(connection: socket.socket) -> None:
        head = server.request(connection)
        operation_id = head.split(b" ", 2)[1].decode().rpartition("/")[2]
        first = operation_id not in seen
        seen.add(operation_id)
        connection.sendall(http(json.dumps(good(operation_id))) if first else RAW[int(operation_id[-4:])])

    return handle


def test_raw_garbage_shows_no_wrong_number(start: Starter, tmp_path: Path) -> None:
    ids = [name(number) for number in range(len(RAW))]
    with serving(turning_bad) as server:
        exporter = start(server.url, ids, rate_limit=200, timeout="1s", polling=POLLING)
        until(lambda: len(exporter.values("knock_bulk_operation_rows_processed")) == len(ids), "all are known")
        known = exporter.values("knock_bulk_operation_rows_processed")
        until(all_are(exporter, ids, up=0), "all went wrong", 20.0)
        assert exporter.values("knock_bulk_operation_rows_processed") == known
        exporter.signal()
        assert exporter.wait() == 0
    assert "Traceback" not in exporter.output
