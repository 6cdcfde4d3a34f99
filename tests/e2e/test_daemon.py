"""The exporter as a process: its start, its end, its keys and its logs."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chaos import http, serving
from programs import KEY, WEB, Exporter, Hands, free_port, until
from structlog.testing import capture_logs

from exporter import config
from exporter.daemon import Daemon
from exporter.heartbeats import Heartbeats
from exporter.logs import FLUSH_SECONDS
from exporter.operation import OperationKey
from exporter.servers import Flags
from exporter.simulator import Simulator, World, faults
from exporter.tracking.memberships import CONFIG
from exporter.tracking.memory import Changes
from exporter.tracking.messages import Exchange, Listed
from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos import Handler, Server
    from programs import Starter
    from timing import InTime

pytestmark = [pytest.mark.e2e, pytest.mark.command]

QUICK = {"processing": "100ms", "queued": "100ms", "slowest": "200ms"}
ROTATION_SECONDS = 12.0
END_SECONDS = 5.0
LOADING_SECONDS = 240.0  # for tens of thousands of operations on a busy machine
OTHER_KEY = "sk_test_fedcba9876543210"
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens


def polls(knock: Simulator, operation_id: str | None = None) -> int:
    return sum(operation_id in (None, each.operation_id) for each in knock.log.entries())


def many(knock: Simulator, count: int) -> list[str]:
    return [knock.world.create(rows=10**6, queue_seconds=0.0, rows_per_second=100.0) for _ in range(count)]


# A life.


def test_it_follows_an_operation_to_its_end_and_then_lets_it_be(knock: Simulator, start: Starter) -> None:
    hands = Hands()
    knock.world.clock = hands.clock
    story = knock.world.create("users.identify", rows=100, errors=3, queue_seconds=2.0, rows_per_second=50.0)
    other = many(knock, 1)[0]
    exporter = start(knock.url, [story, other], polling=QUICK)
    assert exporter.get("/-/healthy").status_code == exporter.get("/-/ready").status_code == 200

    for status, passed in {"queued": 0.0, "processing": 3.0, "completed": 4.0}.items():
        hands.passed = passed
        until(lambda now=status: exporter.value("knock_bulk_operation_status", operation_id=story, status=now), status)  # type: ignore[misc] # mypy
    assert exporter.value("knock_bulk_operation_rows_processed", operation_id=story) == 100
    assert exporter.value("knock_bulk_operation_errors", operation_id=story) == 3
    assert exporter.value("knock_bulk_operations_finished_total", status="completed") == 1
    assert exporter.value("knock_up") == 1
    asked, others = polls(knock, story), polls(knock, other)
    until(lambda: polls(knock, other) >= others + 10, "the other one is followed")
    assert polls(knock, story) == asked
    assert exporter.get("/").headers["Content-Type"].startswith("text/html")


@pytest.mark.alone(one_core=True)
def test_an_idle_end_is_quick(knock: Simulator, start: Starter, in_time: InTime) -> None:
    exporter = start(knock.url, many(knock, 3))
    until(lambda: exporter.value("knock_exporter_polls_total") == 3, "polled")
    with in_time(1.0):
        exporter.signal()
        assert exporter.wait() == 0
    assert re.findall(r"event=(\w+)", exporter.output)[-2:] == ["stopping", "stopped"]


@pytest.fixture
def stuck(knock: Simulator, start: Starter) -> Iterator[Exporter]:
    """Have 64 fetches hang, and a reader stall in the middle of an answer."""
    exporter = start(knock.url, many(knock, 80), rate_limit=200, max_in_flight=64, timeout="30s", polling=QUICK)
    until(lambda: exporter.value("knock_bulk_operations", status="processing") == 80, "all polled")
    knock.faults.set(faults.Hang())
    with closing(socket.socket()) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", int(exporter.url.rpartition(":")[2])))
        reader.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n" * 80)  # more than any buffer between takes
        until(lambda: exporter.value("knock_exporter_api_requests_in_flight") == 64, "64 fetches hang")
        yield exporter


@pytest.mark.alone(one_core=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_time_whatever_hangs(stuck: Exporter, number: signal.Signals, in_time: InTime) -> None:
    with in_time(END_SECONDS):
        stuck.signal(number)
        assert stuck.wait() == 0
    assert f"reason={number.name}" in stuck.output
    assert "Traceback" not in stuck.output


@pytest.mark.alone(one_core=True)
def test_a_second_signal_ends_it_at_once(stuck: Exporter, in_time: InTime) -> None:
    stuck.signal()
    stuck.said("event=stopping")
    assert stuck.get("/-/ready").status_code == 503
    assert stuck.get("/-/healthy").status_code == 200
    with in_time(0.5):
        stuck.signal(signal.SIGINT)
        assert stuck.wait() == 1


def cpu_seconds(exporter: Exporter) -> float:
    fields = Path(f"/proc/{exporter.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.alone(one_core=True)
def test_it_ends_in_time_while_a_password_is_checked(knock: Simulator, start: Starter, in_time: InTime) -> None:
    hashed = "$2y$16$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"  # takes 5 s and more
    (start.folder / "web.yaml").write_text(f"basic_auth_users: {{ann: {hashed}}}\n")
    flags = (f"--web.config.file={start.folder / 'web.yaml'}", "--web.health-without-password")
    exporter = start(knock.url, [], *flags)
    address = ("127.0.0.1", int(exporter.url.rpartition(":")[2]))
    before = cpu_seconds(exporter)
    with closing(socket.create_connection(address)) as asking:
        asking.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nAuthorization: Basic YW5uOmE=\r\n\r\n")
        until(lambda: cpu_seconds(exporter) > before + 0.3, "the password is checked")
        with in_time(END_SECONDS - 1.5):  # well before the check is done
            exporter.signal()
            assert exporter.wait() == 0


def list_many(start: Starter, count: int) -> list[str]:
    """Write a list of so many ids, and return the patterns that find it."""
    ids = (f"00000000-0000-4000-8000-{number:012x}\n" for number in range(count))
    (start.folder / "ids.txt").write_text("".join(ids))
    return ["ids.txt"]


@pytest.mark.alone(one_core=True)
@pytest.mark.parametrize("stored", [True, False])
def test_it_ends_in_time_while_a_long_list_comes_in(
    start: Starter,
    stored: bool,  # noqa: FBT001 - pytest passes it
    in_time: InTime,
) -> None:
    start.whole["max_operations"] = 100_000
    state = start.keep_state() if stored else None
    exporter = start(NOWHERE, operations_files=list_many(start, 50_000))
    shown = until(lambda: exporter.value("knock_exporter_operations"), "the first have come in", LOADING_SECONDS)
    assert shown < 50_000
    with in_time(END_SECONDS):
        exporter.signal()
        assert exporter.wait() == 0
    assert "Traceback" not in exporter.output
    if state is not None:
        with closing(sqlite3.connect(state)) as database:
            (kept,) = database.execute("SELECT count(*) FROM operations").fetchone()
        assert shown <= kept < 50_000


@pytest.mark.alone(one_core=True)
def test_it_ends_in_time_while_pages_wait(start: Starter, in_time: InTime) -> None:
    exporter = start(NOWHERE, operations_files=list_many(start, 20_000))
    until(lambda: exporter.value("knock_exporter_operations") == 20_000, "all have come in", LOADING_SECONDS)
    address = ("127.0.0.1", int(exporter.url.rpartition(":")[2]))
    with ExitStack() as asking:
        pages = [asking.enter_context(closing(socket.create_connection(address))) for _ in range(8)]
        for number, page in enumerate(pages):
            page.sendall(f"GET /?q={number}&sort=name HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        made, _, _ = select.select(pages, [], [], LOADING_SECONDS)
        assert 0 < len(made) < len(pages)
        with in_time(END_SECONDS):
            exporter.signal()
            assert exporter.wait() == 0
    assert "Traceback" not in exporter.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["click/core.py", "pydantic/main.py", "structlog/__init__.py"])
def test_a_signal_while_it_is_loaded_ends_it_well(start: Starter, module: str, number: signal.Signals) -> None:
    file = start.configure(NOWHERE)
    command = [sys.executable, "-v", "-m", "exporter", f"--config.file={file}", "--web.listen-address=127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if module in line:
                process.send_signal(number)
                break
        process.stderr.read()  # else it waits for a place in the pipe
        assert process.wait(60) == 0


BUSY = """
import sqlite3
from exporter.startup import end_on_signals
end_on_signals()
connection = sqlite3.connect(":memory:")
connection.create_function("begins", 0, lambda: print("busy", flush=True) or 1)
numbers = "WITH RECURSIVE n(x) AS (SELECT begins() UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
connection.execute(numbers).fetchall()
"""


def test_a_signal_while_the_state_is_opened_ends_it_well() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        process.terminate()
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_a_standard_error_that_nobody_reads_holds_up_neither_the_polls_nor_the_end(
    knock: Simulator, start: Starter
) -> None:
    file = start.configure(knock.url, many(knock, 100), rate_limit=200, polling=QUICK)
    command = [sys.executable, "-m", "exporter", f"--config.file={file}", "--web.listen-address=127.0.0.1:0"]
    with subprocess.Popen([*command, "--log.level=debug"], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        try:
            until(lambda: polls(knock) >= 300, "polls go on")
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.fixture
def _process_as_before() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    of_uvicorn = logging.getLogger("uvicorn.error")
    level = of_uvicorn.level
    yield
    of_uvicorn.setLevel(level)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_process_as_before")
def test_a_thread_that_crashes_ends_the_process_with_one_line(knock: Simulator, start: Starter) -> None:
    daemon = Daemon(config.load(start.configure(knock.url), {}), Flags([("127.0.0.1", 0)]), {})
    daemon._inbox.put(Listed("production", CONFIG, None))  # type: ignore[arg-type] # that is the fault
    with capture_logs() as lines:
        assert daemon.run() == 1
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["stopping: a thread crashed"]
    assert lines[-2]["reason"] == "tracker crashed"


@pytest.mark.alone(one_core=True)
@pytest.mark.usefixtures("_process_as_before")
def test_all_that_hangs_shares_one_time_to_end(start: Starter) -> None:
    start.keep_state()
    addresses = [("127.0.0.1", free_port()) for _ in range(2)]
    daemon = Daemon(
        config.load(start.configure(NOWHERE), {}), Flags(addresses[:1], health_listen_address=addresses[1]), {}
    )
    over, began = threading.Event(), 0.0

    def end() -> None:
        nonlocal began
        began = time.monotonic()
        daemon.end("all hang")

    all_hang = threading.Barrier(4, end, timeout=60.0)

    def hang() -> None:
        all_hang.wait()
        over.wait()

    class HangingKey(OperationKey):
        def __iter__(self) -> Iterator[str]:
            hang()
            return super().__iter__()

    class HangingHeartbeats(Heartbeats):
        def problem(self) -> None:
            hang()

    assert daemon._writer is not None
    daemon._inbox.put(Exchange(hang))
    daemon._writer.save(Changes(0, Moment(0.0, 0.0), operations={HangingKey("production", ""): None}))
    daemon._heartbeats = HangingHeartbeats({}, time.monotonic())
    with ExitStack() as asking:
        for address in addresses:
            probe = asking.enter_context(closing(socket.create_connection(address)))
            probe.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: here\r\n\r\n")
        assert daemon.run() == 0
        assert time.monotonic() - began < END_SECONDS - FLUSH_SECONDS
        over.set()
        for thread in daemon._threads:
            thread.join()


# What it refuses.


def test_an_address_in_use_is_named(knock: Simulator, start: Starter) -> None:
    file = start.configure(knock.url)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        exporter = start.run(f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}")
        assert exporter.wait() == 1
    assert exporter.output == (
        f"cannot listen on 127.0.0.1:{port}: Address already in use "
        "(choose another address with --web.listen-address)\n"
    )


def test_a_missing_configuration_is_named(start: Starter) -> None:
    exporter = start.run("--config.file=/nowhere/config.yaml")
    assert exporter.wait() == 1
    assert "/nowhere/config.yaml" in exporter.output
    assert "Traceback" not in exporter.output


def test_a_missing_key_is_named(start: Starter) -> None:
    file = start.configure(NOWHERE)
    start.key_file.unlink()
    exporter = start.run(f"--config.file={file}")
    assert exporter.wait() == 1
    assert "knock.key: No such file or directory" in exporter.output
    assert "Traceback" not in exporter.output


@pytest.mark.parametrize("flag", ["--no-such-flag", "--web.listen-address=here", "--log.level=loud", "extra"])
def test_bad_flags_are_refused(start: Starter, flag: str) -> None:
    exporter = start.run(flag)
    assert exporter.wait() == 2
    assert "Error: " in exporter.output


# Where it listens.


def test_variables_stand_for_flags(knock: Simulator, start: Starter) -> None:
    exporter = start.run(
        KNOCK_EXPORTER_CONFIG_FILE=str(start.configure(knock.url)),
        KNOCK_EXPORTER_WEB_LISTEN_ADDRESS="127.0.0.1:0 127.0.0.1:0",
        KNOCK_EXPORTER_WEB_TELEMETRY_PATH="/knock/metrics",
        KNOCK_EXPORTER_LOG_FORMAT="json",
    )
    first, second = [f"http://{each}" for each in exporter.said(r'"address": "([^"]+)"', count=2)]
    assert first != second
    for url in (first, second):
        until(lambda url=url: WEB.get(f"{url}/-/ready", timeout=30).ok, "ready")  # type: ignore[misc] # mypy, B023
        assert "knock_exporter_build_info" in WEB.get(f"{url}/knock/metrics", timeout=30).text
        assert WEB.get(f"{url}/metrics", timeout=30).status_code == 404
        assert 'href="/knock/metrics"' in WEB.get(url, timeout=30).text


def test_several_addresses_and_ipv6(knock: Simulator, start: Starter) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6 on loopback")
    file = start.configure(knock.url)
    addresses = ("[::1]:0", "127.0.0.1:0", ":0")
    exporter = start.run(f"--config.file={file}", *[f"--web.listen-address={each}" for each in addresses])
    ipv6, ipv4, everywhere = exporter.urls(3)
    assert ipv6.startswith("http://[::1]:")
    port = everywhere.rpartition(":")[2]
    for url in (ipv6, ipv4, f"http://127.0.0.1:{port}", f"http://[::1]:{port}"):
        assert WEB.get(f"{url}/metrics", timeout=30).ok


def _has_ipv6() -> bool:
    try:
        with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)):
            return True
    except OSError:
        return False


# Keys.


def knowing_keys(server: Server) -> Handler:
    """Answer each read with a record of its operation, whatever the key."""

    def handle(connection: socket.socket) -> None:
        while head := server.request(connection):
            operation_id = head.split(b" ", 2)[1].decode().rpartition("/")[2]
            connection.sendall(http(json.dumps({"id": operation_id, "status": "processing", "name": "users.identify"})))

    return handle


def forgetting(server: Server) -> Handler:
    """Answer one request of each connection, as behind a balancer that forgets it then."""

    def handle(connection: socket.socket) -> None:
        operation_id = server.request(connection).split()[1].rpartition(b"/")[2].decode()
        connection.sendall(http(json.dumps({"id": operation_id, "status": "processing", "name": "users.identify"})))
        server.request(connection)

    return handle


def test_connections_that_were_forgotten_are_no_failures(start: Starter) -> None:
    with serving(forgetting) as server:
        exporter = start(server.url, ["123e4567-e89b-12d3-a456-426614174000"], polling=QUICK)
        until(lambda: (exporter.value("knock_exporter_polls_total") or 0) >= 5, "polls")
        assert (exporter.value("knock_exporter_api_requests_total", code="none") or 0) >= 4
        assert not exporter.value("knock_exporter_poll_failures_total")
        assert exporter.value("knock_bulk_operation_up") == exporter.value("knock_up") == 1


def keys_of(server: Server) -> list[str]:
    return re.findall(r"authorization: bearer (\S+)", b"".join(server.requests).decode(), re.IGNORECASE)


def write_slowly(file: Path, text: str) -> None:
    with file.open("w") as stream:
        for character in text:
            stream.write(character)
            stream.flush()
            time.sleep(6 / len(text))  # no wait for anything: longer than the time between two looks at the file


@pytest.mark.parametrize("whole", [True, False])
def test_a_key_that_changes_on_disk_is_used(start: Starter, whole: bool) -> None:  # noqa: FBT001 - pytest passes it
    with serving(knowing_keys) as server:
        start(server.url, ["123e4567-e89b-12d3-a456-426614174000"], polling=QUICK)
        until(lambda: KEY in keys_of(server), "polls with the first key")
        if whole:
            start.use_key(OTHER_KEY)
        else:
            write_slowly(start.key_file, OTHER_KEY)
        until(lambda: keys_of(server)[-1] == OTHER_KEY, "polls with the other key", ROTATION_SECONDS)
        assert set(keys_of(server)) == {KEY, OTHER_KEY}


def test_a_refused_key_suspends_until_it_is_good_again(start: Starter) -> None:
    with Simulator(world=World(seed=1), api_key=OTHER_KEY, rate_limits=False) as knock:
        operation = many(knock, 1)[0]
        exporter = start(knock.url, [operation], polling=QUICK)
        until(lambda: exporter.value("knock_exporter_api_suspended") == 1, "suspended")
        assert exporter.value("knock_up") == 0
        assert exporter.value("knock_bulk_operation_up") is None
        assert exporter.get("/-/healthy").status_code == exporter.get("/-/ready").status_code == 200
        assert polls(knock) <= 3
        start.use_key(OTHER_KEY)
        until(lambda: exporter.value("knock_bulk_operation_up") == 1, "polled", ROTATION_SECONDS)
        assert exporter.value("knock_up") == 1
        assert exporter.value("knock_exporter_api_suspended") == 0


def test_it_is_healthy_while_knock_is_down(start: Starter) -> None:
    exporter = start(NOWHERE, ["123e4567-e89b-12d3-a456-426614174000"])
    until(lambda: exporter.value("knock_exporter_poll_failures_total", reason="connect"), "a failed poll")
    assert exporter.get("/-/healthy").status_code == exporter.get("/-/ready").status_code == 200
    until(lambda: exporter.value("knock_bulk_operation_up") == 0, "the view that shows it")


# A thread is late after a tenth of the time.
QUICKLY_LATE = """
from exporter import heartbeats
heartbeats.LATE_SECONDS, heartbeats.STOPPED_SECONDS = 6.0, 3.0
from exporter.__main__ import main
main()
"""


def test_it_is_healthy_in_the_first_look_after_a_stop(start: Starter) -> None:
    file = start.configure(NOWHERE)
    args = f"--config.file={file}", "--web.listen-address=127.0.0.1:0"
    exporter = Exporter(start.folder, args, {}, program=("-c", QUICKLY_LATE))
    start.started.append(exporter)
    host, _, port = exporter.urls()[0].removeprefix("http://").rpartition(":")
    exporter.signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    request = f"GET /-/healthy HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    waiting = [socket.create_connection((host, int(port)), 5) for _ in range(20)]
    for each in waiting:
        each.sendall(request)
    until(lambda: time.monotonic() >= stopped_at + 8.0, "its time")
    exporter.signal(signal.SIGCONT)
    answers = [each.recv(64).split(b"\r\n")[0] for each in waiting]
    for each in waiting:
        each.close()
    assert set(answers) == {b"HTTP/1.1 200 OK"}


def test_polls_leave_no_line_at_info(knock: Simulator, start: Starter) -> None:
    exporter = start(knock.url, many(knock, 20), rate_limit=100, polling=QUICK)
    until(lambda: polls(knock) >= 200, "200 polls")
    assert len(exporter.output.splitlines()) <= 3  # listening, and that Knock takes the key
    assert os.environ.get("KNOCK_API_KEY", KEY) not in exporter.output
