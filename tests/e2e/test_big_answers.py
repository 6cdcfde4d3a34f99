"""Big answers against the real daemon: it lives on little memory, answers probes meanwhile, and ends in time.

The server is a process of its own, as fast as the machine.
"""

from __future__ import annotations

import multiprocessing
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from programs import COMMAND, KEY, WEB, Exporter, Starter, until

from exporter.knock.deadline import MAX_BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    Answering = Callable[[str, bytes], str]

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.command]

COST_BYTES = 256 * 2**20
KEPT_BYTES = 64 * 2**20
HEALTH_SECONDS = 1.0
EXIT_SECONDS = 5.0
IDS = [str(UUID(int=number)) for number in range(1, 101)]


RECORD = '{"id":"ID","status":"processing"'
LIST = '[{"targets":["ID"]}'


def items(count: int) -> bytes:
    """Return a record with so many failed items of 60 bytes."""
    item = '{{"id":"user_{:08}_abcdefghi","collection":"users","n":12}}'
    return b',"error_items":[' + ",".join(item.format(number) for number in range(count)).encode() + b"]}"


def pairs(count: int) -> bytes:
    """Return a record with an object of so many keys."""
    return b',"surprise":{' + ",".join(f'"{number:08x}":1' for number in range(count)).encode() + b"}}"


def lists() -> bytes:
    """Return a record with as many empty lists as a body can hold."""
    return b',"surprise":[' + b"[]," * ((MAX_BODY_BYTES - 200) // 3) + b"[]]}"


def groups(count: int) -> bytes:
    """Return a list with so many groups of 160 bytes."""
    return f',{{"targets":[],"labels":{{"__meta_a":"{"x" * 50}","__meta_b":"{"y" * 50}"}}}}'.encode() * count + b"]"


def serve(told: Connection) -> None:
    """Answer every request with what was told last, and the id that it asks for in place of ID."""
    begin, rest = "", b""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            head = begin.replace("ID", self.path.rpartition("/")[2]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(head) + len(rest)))
            self.end_headers()
            self.wfile.write(head)
            self.wfile.write(rest)

        def log_message(self, *_: Any) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    while True:
        begin, rest = told.recv()
        told.send(f"http://127.0.0.1:{server.server_address[1]}")


@pytest.fixture(scope="module")
def answering() -> Iterator[Answering]:
    """Start the server, once, as its imports take a second; it is told what to answer, and says where."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()

    def told(begin: str, rest: bytes) -> str:
        ours.send((begin, rest))
        url: str = ours.recv()
        return url

    yield told
    server.kill()
    server.join()


def memory(exporter: Exporter, field: str) -> int:
    status = Path(f"/proc/{exporter.process.pid}/status").read_text()
    return 1024 * int(re.findall(rf"{field}:\s+(\d+) kB", status)[0])


def watch(exporter: Exporter, over: Callable[[], bool], seconds: float) -> float:
    """Ask for health until it is over; return the longest that an answer took."""
    longest = 0.0

    def look() -> bool:
        nonlocal longest
        began = time.monotonic()
        assert WEB.get(f"{exporter.url}/-/healthy", timeout=10).ok
        longest = max(longest, time.monotonic() - began)
        return over()

    until(look, lambda: f"all that was asked for: {exporter.output[-2000:]}", seconds)
    return longest


def check(exporter: Exporter, idle: int, over: Callable[[], bool], record: Callable[[str, object], None]) -> None:
    longest = watch(exporter, over, 30.0)
    cost = memory(exporter, "VmHWM") - idle
    exporter.signal()
    began = time.monotonic()
    assert exporter.wait() == 0
    took = time.monotonic() - began
    record("big answers", f"{cost / 2**20:.0f} MiB, health within {longest:.2f} s, ended in {took:.2f} s")
    assert "Traceback" not in exporter.output
    assert cost <= COST_BYTES
    assert longest <= HEALTH_SECONDS
    assert took <= EXIT_SECONDS


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> int:
    start = Starter(tmp_path_factory.mktemp("idle"), COMMAND)
    try:
        return memory(start("http://127.0.0.1:9"), "VmRSS")
    finally:
        start.end()


@pytest.mark.parametrize(
    ("operations", "rest", "count"), [(10, items, 270_000), (40, items, 97_000), (10, pairs, 1_250_000)]
)
def test_big_answers_are_read(  # noqa: PLR0913, PLR0917  two of the case, and four fixtures
    start: Starter,
    answering: Answering,
    idle: int,
    record_property: Callable[[str, object], None],
    operations: int,
    rest: Callable[[int], bytes],
    count: int,
) -> None:
    url = answering(RECORD, rest(count))
    exporter = start(url, IDS[:operations])

    def all_read() -> bool:
        return exporter.value("knock_bulk_operation_up") == operations

    check(exporter, idle, all_read, record_property)


def test_big_answers_of_many_environments_are_read_and_leave_nothing(
    start: Starter, answering: Answering, idle: int, record_property: Callable[[str, object], None]
) -> None:
    url = answering(RECORD, items(270_000))
    environments = []
    for number in range(3):
        start.folder.joinpath(f"{number}.key").write_text(f"{KEY}{number}")
        settings = {
            "api_key_file": f"{number}.key",
            "base_url": url,
            "operations": IDS[8 * number : 8 * number + 8],
        }
        environments.append({"name": f"production-{number}"} | settings)
    start.whole = {"environments": environments}
    exporter = start(url)

    def all_read() -> bool:
        return exporter.value("knock_bulk_operation_up") == 24

    # Each was read by another thread, for which the C library would keep memory.
    check(exporter, idle, lambda: all_read() and memory(exporter, "VmRSS") - idle <= KEPT_BYTES, record_property)


def test_answers_of_too_many_values_are_not_decoded(
    start: Starter, answering: Answering, idle: int, record_property: Callable[[str, object], None]
) -> None:
    url = answering(RECORD, lists())
    exporter = start(url, IDS[:60])

    def all_refused() -> bool:
        return exporter.value("knock_exporter_poll_failures_total", reason="too_large") == 60

    check(exporter, idle, all_refused, record_property)


def test_big_lists_are_read(
    start: Starter, answering: Answering, idle: int, record_property: Callable[[str, object], None]
) -> None:
    url = answering(LIST, groups(99_000))
    exporter = start(url, operations_http=[{"url": f"{url}/{each}"} for each in IDS[:6]])

    def all_read() -> bool:
        return exporter.value("knock_exporter_operations") == 6

    check(exporter, idle, all_read, record_property)
