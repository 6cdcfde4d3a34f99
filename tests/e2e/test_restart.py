"""What outlives the process: locked and damaged state, days of being down."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from functools import partial
from http.client import HTTPResponse
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pages
import pytest
import requests
import yaml
from chaos import http, serving
from programs import COMMAND, KEY, WEB, Exporter, Starter, do_without, free_port, until
from timing import check_cost, cpu_seconds_of_children

from exporter.simulator import Simulator, replies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chaos import Handler, Server
    from timing import InTime

pytestmark = pytest.mark.e2e

QUICK = {"processing": "100ms", "queued": "100ms", "slowest": "200ms"}
DAY = 86400.0
OTHER_KEY = "sk_test_fedcba9876543210"
ROTATION_SECONDS = 12.0
END_SECONDS = 5.0


def endless(knock: Simulator) -> str:
    return knock.world.create(rows=10**9, queue_seconds=0.0, rows_per_second=100.0)


def tracked(exporter: Exporter) -> float | None:
    return exporter.value("knock_exporter_operations")


@pytest.fixture
def kept(start: Starter) -> Path:
    """Keep state, and let programs register; return where the state is."""
    start.use_token()
    return start.keep_state()


def ids_in(state: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(state)) as database:
        found = [each for (each,) in database.execute("SELECT id FROM operations")]
    assert len(found) == len(set(found))
    return set(found)


def let_pass(state: Path, seconds: float) -> None:
    """Have so much time pass, for who reads the state: its ages go on from the wall time of its checkpoint."""
    with contextlib.closing(sqlite3.connect(state)) as database, database:
        changed = database.execute("UPDATE checkpoint SET wall = wall - ?", (seconds,)).rowcount
    assert changed == 1


# The first answers of a process.


def test_who_asks_during_the_start_is_told_of_all_operations(knock: Simulator, start: Starter, kept: Path) -> None:
    operations, port = [endless(knock) for _ in range(1000)], free_port()
    address = f"127.0.0.1:{port}"
    flags = [f"--config.file={start.configure(knock.url)}", f"--web.listen-address={address}"]
    exporter = start.run(*flags)
    assert exporter.register(operations).status_code == 200
    exporter.kill()

    def connect() -> socket.socket | None:
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port))
        return None

    exporter = start.run(*flags)
    with until(connect, "it listens") as connection:  # long before it serves
        connection.sendall(f"GET /api/v1/operations?limit=1 HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        answer = HTTPResponse(connection)
        answer.begin()
        assert json.loads(answer.read())["total"] == 1000


# Ten thousand that have ended.

FULL = {f"e{number}": 2000 for number in range(5)}
MOST = 4.0  # times the CPU of an empty start


def full_configuration(start: Starter, url: str) -> None:
    environments = []
    for name in FULL:
        (start.folder / f"{name}.key").write_text(f"sk_test_{name}")
        settings = {"rate_limit": 200, "per_operation_limit": 10_000, "polling": QUICK}
        environments.append({"name": name, "api_key_file": f"{name}.key", "base_url": url} | settings)
    (start.folder / "config.yaml").write_text(yaml.safe_dump({"environments": environments} | start.whole))


def start_to_metrics(start: Starter, operations: int) -> None:
    """Start, wait until /metrics has so many operations, and end it."""
    port = free_port()
    exporter = start.run(f"--config.file={start.folder / 'config.yaml'}", f"--web.listen-address=127.0.0.1:{port}")

    def full() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            text = WEB.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
            views = text.count("\nknock_up") + text.count("\nknock_exporter_operations{")
            return views > 0 and text.count("\nknock_bulk_operation_info{") == operations
        return False

    until(full, "the full /metrics", 30.0)
    exporter.kill()


def live_once_with_ended(knock: Simulator, start: Starter) -> set[str]:
    """Let an exporter know operations that have ended, and end it; return their ids."""
    now, known = time.time(), iter(pages.ids(sum(FULL.values())))
    shown = {
        name: [pages.Shown(each, pages.document(each, "completed", now)) for each in islice(known, count)]
        for name, count in FULL.items()
    }
    for name in FULL:
        (start.folder / f"{name}.key").write_text(f"sk_test_{name}")
    places = {
        name: pages.Place(knock, operations, {"api_key_file": f"{name}.key", "polling": QUICK})
        for name, operations in shown.items()
    }
    exporter = pages.serve(start, places)
    exporter.signal()
    assert exporter.wait() == 0
    return {each.id for operations in shown.values() for each in operations}


@pytest.mark.command
def test_ten_thousand_that_have_ended_are_shown_at_once_and_never_asked_again(
    knock: Simulator, start: Starter, kept: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    ids = live_once_with_ended(knock, start)
    assert ids_in(kept) == ids

    (tmp_path / "empty").mkdir()
    empty = Starter(tmp_path / "empty", COMMAND)
    empty.use_token()
    full_configuration(empty, knock.url)
    knock.log.clear()
    ratios = check_cost(
        lambda: start_to_metrics(start, len(ids)), MOST, lambda: start_to_metrics(empty, 0), cpu_seconds_of_children
    )
    record_property("CPU of a start with 10,000 operations, times an empty one's", [round(each, 2) for each in ratios])

    configured = f"--config.file={start.folder / 'config.yaml'}"
    last, canary = start.run(configured, "--web.listen-address=127.0.0.1:0"), endless(knock)
    assert last.register([canary], "e0").status_code == 200
    until(lambda: sum(each.operation_id == canary for each in knock.log) >= 10, "polls go on")
    assert not {each.operation_id for each in knock.log} & ids


# Days of being down.


def test_what_failed_while_it_was_down_for_two_days_is_shown_as_newly_seen_and_kept(
    knock: Simulator, start: Starter, kept: Path
) -> None:
    settings: dict[str, Any] = {"polling": QUICK, "retention": "1h"}
    exporter = start(knock.url, **settings)
    operation, other = endless(knock), endless(knock)
    assert exporter.register([operation, other]).json()["durable"] is True
    until(lambda: exporter.value("knock_bulk_operations", status="processing") == 2, "both are known")
    exporter.kill()
    let_pass(kept, 2 * DAY)
    record: Any = knock.world.read(operation)
    failed_at = time.time() - DAY
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(failed_at))
    knock.world.put(record | {"status": "failed", "failed_at": moment})

    began = time.time()
    exporter = start(knock.url, **settings)
    until(lambda: exporter.value("knock_bulk_operations", status="failed") == 1, "its failure is seen")
    seen = exporter.value("knock_bulk_operations_last_failed_seen_timestamp_seconds")
    assert seen is not None
    assert began <= seen <= time.time()
    finished = exporter.value("knock_bulk_operation_finished_timestamp_seconds", operation_id=operation)
    assert finished == pytest.approx(failed_at, abs=1.0)
    assert exporter.value("knock_bulk_operations_last_failed_timestamp_seconds") == finished
    assert exporter.value("knock_bulk_operations_finished_total", status="failed") == 1
    until(lambda: is_written_after(exporter, seen), "written")
    exporter.kill()

    for passes, stays in ((24_000.0, True), (1_500.0, False)):  # 7 hours: a failed one stays seven times as long
        let_pass(kept, passes)
        exporter = start(knock.url, **settings)
        until(partial(is_asked, exporter, other), "asked")
        until(partial(are_tracked, exporter, 1 + stays), f"it stays: {stays}")
        assert (operation in exporter.values("knock_bulk_operation_info")) is stays
        assert exporter.value("knock_bulk_operations_last_failed_seen_timestamp_seconds") == seen
        assert exporter.value("knock_bulk_operations_finished_total", status="failed") == 0
        until(partial(is_written_after, exporter, time.time()), "written")
        exporter.kill()

    exporter = start(knock.url, **settings)
    states = {each["id"]: each["state"] for each in exporter.register([operation, other]).json()["accepted"]}
    assert states == {operation: "retired", other: "processing"}
    assert tracked(exporter) == 1


def is_asked(exporter: Exporter, operation_id: str) -> bool:
    return exporter.value("knock_bulk_operation_up", operation_id=operation_id) == 1


def are_tracked(exporter: Exporter, count: int) -> bool:
    return tracked(exporter) == count


def is_written_after(exporter: Exporter, wall: float) -> bool:
    return (exporter.value("knock_exporter_state_last_write_timestamp_seconds") or 0.0) > wall


# A key of another environment.


def of_one_key(server: Server) -> Handler:
    """Be Knock, where only KEY's environment has operations: all of them run."""

    def handle(connection: socket.socket) -> None:
        while head := server.request(connection).decode():
            operation_id = head.split(" ", 2)[1].rpartition("/")[2]
            body = json.dumps({"id": operation_id, "status": "processing", "name": "users.identify"})
            found = KEY in head
            connection.sendall(http(body) if found else http(replies.error(404).body, 404))

    return handle


def test_a_key_of_another_environment_loses_no_id(start: Starter, kept: Path) -> None:
    ids = [f"123e4567-e89b-12d3-a456-42661417{number:04}" for number in range(50)]
    settings: dict[str, Any] = {"polling": {**QUICK, "not_found_after": "1m"}, "rate_limit": 200}
    with serving(of_one_key) as server:
        exporter = start(server.url, **settings)
        assert exporter.register(ids).status_code == 200
        until(lambda: exporter.value("knock_bulk_operations", status="processing") == len(ids), "all run")
        start.use_key(OTHER_KEY)
        until(lambda: missing(exporter) >= len(ids), "all are missing", ROTATION_SECONDS)
        exporter.kill()
        let_pass(kept, DAY)
        exporter = start(server.url, **settings)
        until(lambda: missing(exporter) >= len(ids), "all are missing still")
        assert exporter.value("knock_bulk_operations", status="processing") == len(ids)
        assert exporter.value("knock_bulk_operations", status="lost") == 0
        exporter.said("key of another environment, or wrong branch")
        start.use_key(KEY)
        exporter.said('event="using the changed API key"')
        exporter.kill()
        let_pass(kept, 3600.0)  # what was missing is asked again after a minute at first, and after an hour at most
        exporter = start(server.url, **settings)
        until(lambda: all_up(exporter, ids), "all are back")
        assert exporter.value("knock_bulk_operations", status="lost") == 0
        assert tracked(exporter) == len(ids)


def missing(exporter: Exporter) -> float:
    return exporter.value("knock_exporter_poll_failures_total", reason="not_found") or 0.0


def all_up(exporter: Exporter, ids: list[str]) -> bool:
    return exporter.values("knock_bulk_operation_up") == dict.fromkeys(ids, 1.0)


# State that others hold, or that is damaged.

HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(state: Path) -> Iterator[None]:
    """Have another process hold the database."""
    command = [sys.executable, "-c", HOLDER, str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            yield
        finally:
            holder.stdin.close()


def write_failures(exporter: Exporter) -> float:
    return exporter.value("knock_exporter_state_write_failures_total") or 0.0


@pytest.mark.alone
def test_a_hundred_registrations_one_after_the_other_wait_for_one_commit_each(
    knock: Simulator, start: Starter, kept: Path, record_property: Callable[[str, object], None]
) -> None:
    tokens = [f"{number:032x}" for number in range(5)]  # each is good for 20 a second
    for number, token in enumerate(tokens):
        start.use_token(token, f"program-{number}")
    exporter = start(knock.url, polling=QUICK)
    assert exporter.register([endless(knock)]).status_code == 200
    took = []
    for each in range(100):
        operation, began = endless(knock), time.perf_counter()
        assert exporter.register([operation], token=tokens[each % 5]).status_code == 200
        took.append(time.perf_counter() - began)
    assert tracked(exporter) == 101  # each was shown before it was answered
    record_property("registrations one after the other, median ms", round(1000 * median(took), 1))
    assert median(took) <= 0.02
    assert len(ids_in(kept)) == 101


@pytest.mark.alone(one_core=True)
def test_a_locked_database_holds_up_registrations_only_and_is_written_later(
    knock: Simulator, start: Starter, kept: Path, in_time: InTime
) -> None:
    first, second = endless(knock), endless(knock)
    exporter = start(knock.url, polling=QUICK)
    assert exporter.register([first]).status_code == 200
    assert write_failures(exporter) == 0
    with locked(kept):
        with in_time(END_SECONDS + 1.0):
            refusal = exporter.register([second])
        assert (refusal.status_code, refusal.headers["Retry-After"]) == (503, "1")
        until(lambda: write_failures(exporter) >= 2, "failures are counted")
        rows = exporter.value("knock_bulk_operation_rows_processed", operation_id=first) or 0.0
        until(
            lambda: (exporter.value("knock_bulk_operation_rows_processed", operation_id=first) or 0.0) > rows,
            "polls go on and are shown",
        )
        assert exporter.get("/-/healthy").status_code == exporter.get("/-/ready").status_code == 200
        written = exporter.value("knock_exporter_state_last_write_timestamp_seconds")
    until(lambda: exporter.register([second]).status_code == 200, "it is written again")
    assert (exporter.value("knock_exporter_state_last_write_timestamp_seconds") or 0.0) > (written or 0.0)
    assert len(exporter.said('event="state cannot be written')) == 1
    exporter.said('event="state is written again"')
    failures = write_failures(exporter)
    exporter.kill()
    assert failures >= 2
    assert ids_in(kept) == {first, second}


@pytest.mark.alone(one_core=True)
def test_it_ends_in_time_while_the_database_is_locked(
    knock: Simulator, start: Starter, kept: Path, in_time: InTime
) -> None:
    exporter = start(knock.url, polling=QUICK)
    accepted, late = endless(knock), endless(knock)
    assert exporter.register([accepted]).status_code == 200
    with locked(kept):
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(exporter.register([late]).status_code))
        asking.start()
        until(lambda: write_failures(exporter) >= 1, "it cannot be written")
        with in_time(END_SECONDS):
            exporter.signal()
            assert exporter.wait() == 0
        asking.join()
        assert answers == [503]
    assert "Traceback" not in exporter.output
    assert accepted in ids_in(kept)
    exporter = start(knock.url, polling=QUICK)
    assert exporter.register([accepted, late]).status_code == 200


def second_on(state: Path, knock: Simulator, start: Starter) -> Exporter:
    folder = start.folder / "second"
    folder.mkdir()
    other = Starter(folder)
    other.use_token()
    other.whole["storage"] = {"path": str(state)}
    second = other.run(f"--config.file={other.configure(knock.url)}", "--web.listen-address=127.0.0.1:0")
    start.started.append(second)
    return second


def test_a_second_exporter_on_the_same_state_gives_up_after_ten_seconds(
    knock: Simulator, start: Starter, kept: Path, in_time: InTime
) -> None:
    operation = endless(knock)
    first = start(knock.url, polling=QUICK)
    assert first.register([operation]).status_code == 200
    with in_time(10.0, at_least=10.0):
        second = second_on(kept, knock, start)
        assert second.wait() == 1
    waiting, problem = second.output.splitlines()
    assert 'level=warning event="another process has the state file: waiting"' in waiting
    assert (
        problem == f"state {kept} is held by another process, for 10 s now: end it, or give each its own storage.path"
    )
    first.kill()
    third = start(knock.url, polling=QUICK)
    until(lambda: third.values("knock_bulk_operation_up") == {operation: 1.0}, "nothing was lost by that")


def test_a_lock_that_was_removed_is_taken_again(knock: Simulator, start: Starter, kept: Path) -> None:
    exporter = start(knock.url, [endless(knock)], polling=QUICK)
    lock = kept.with_name("state.db.lock")
    lock.unlink()
    exporter.said('level=warning event="lock file of the state was removed by another program, locked again"')
    assert exporter.register([endless(knock)]).json()["durable"] is True
    assert second_on(kept, knock, start).wait(20) == 1


def stopped_between_commits(exporter: Exporter, state: Path) -> bool:
    """Stop a process; False where that was in a commit, which would hold up every other: then it goes on."""
    exporter.signal(signal.SIGSTOP)
    status = Path(f"/proc/{exporter.process.pid}/stat")
    until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", "stopped")
    with contextlib.closing(sqlite3.connect(state, timeout=0, isolation_level=None)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            exporter.signal(signal.SIGCONT)
            return False
        database.execute("ROLLBACK")
    return True


def test_a_process_whose_lock_another_one_took_ends(knock: Simulator, start: Starter, kept: Path) -> None:
    first = start(knock.url, [endless(knock)], polling=QUICK)
    until(lambda: stopped_between_commits(first, kept), "stopped")
    kept.with_name("state.db.lock").unlink()
    second = second_on(kept, knock, start)
    second.urls()
    first.signal(signal.SIGCONT)
    assert first.wait(20) == 1
    (said,) = first.said("level=error.*")
    assert f'error="state {kept} is held by another process: the file of the lock was removed"' in said
    assert "Traceback" not in first.output
    assert second.register([endless(knock)]).json()["durable"] is True


FULL_DISK = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


@pytest.mark.parametrize("size", ["8k", "32k", "64k"])
def test_a_full_disk_at_the_start_is_told(knock: Simulator, start: Starter, tmp_path: Path, size: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    start.whole["storage"] = {"path": str(disk / "state.db")}
    alone = ("unshare", "--map-root-user", "--mount", "sh", "-c", FULL_DISK, "sh", size, str(disk))
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode != 0:
        do_without("a disk of its own cannot be mounted here")
    command = (*alone, sys.executable, "-m", "exporter", f"--config.file={start.configure(knock.url)}")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 1
    assert re.fullmatch(rf"state {disk}/state.db cannot be used: .*disk is full\)?\n", done.stderr)


def in_the_middle(content: bytes) -> bytes:
    return content[:4096] + b"\xde\xad\xbe\xef" * 1024 + content[8192:]


def no_database(content: bytes) -> bytes:
    return b"This is not a database.\n" * (len(content) // 24)


def cut_off(content: bytes) -> bytes:
    return content[: len(content) // 2 + 100]


@pytest.mark.parametrize(("damage", "least"), [(in_the_middle, 400), (no_database, 0), (cut_off, 100)])
def test_damaged_state_is_put_aside_and_what_can_be_read_is_saved(
    knock: Simulator, start: Starter, kept: Path, damage: Any, least: int
) -> None:
    operations = [endless(knock) for _ in range(400)]
    exporter = start(knock.url, polling=QUICK)
    assert exporter.register(operations).status_code == 200
    exporter.signal()
    assert exporter.wait() == 0
    damaged = damage(kept.read_bytes())
    kept.write_bytes(damaged)

    exporter = start(knock.url, polling=QUICK)
    said = exporter.said('level=error event="state file is damaged: renamed, .*')[0]
    aside = next(each for each in start.folder.iterdir() if re.search(r"\.corrupt-[0-9TZ]+$", each.name))
    assert aside.read_bytes() == damaged
    assert str(aside) in said
    assert exporter.get("/-/ready").status_code == 200
    saved = tracked(exporter) or 0.0
    assert least <= saved <= (400 if least else 0)
    assert (f"{saved:.0f} operations" if saved else "saved=nothing") in said
    assert exporter.register([endless(knock)]).json()["durable"] is True
    exporter.kill()
    exporter = start(knock.url, polling=QUICK)
    assert tracked(exporter) == saved + 1
    assert "damaged" not in exporter.output
    exporter.signal()
    assert exporter.wait() == 0


def overwrite_middle(state: Path) -> None:
    size = state.stat().st_size
    with state.open("r+b") as file:
        file.seek(size // 4)
        file.write(b"\xde\xad\xbe\xef" * (size // 8))


def truncate(state: Path) -> None:
    os.truncate(state, state.stat().st_size // 2)


def delete(state: Path) -> None:
    state.unlink()


def replace_by_empty(state: Path) -> None:
    other = state.with_name("other")
    other.touch()
    other.rename(state)


@pytest.mark.parametrize("damage", [overwrite_middle, truncate, delete, replace_by_empty])
def test_a_file_that_is_damaged_while_running_is_begun_again_with_all_that_is_known(
    knock: Simulator, start: Starter, kept: Path, damage: Any
) -> None:
    operations = [endless(knock) for _ in range(400)]
    exporter = start(knock.url, polling=QUICK)
    assert exporter.register(operations).json()["durable"] is True
    with contextlib.closing(sqlite3.connect(kept)) as shell:
        until(lambda: shell.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, "all is in the file itself")
    damage(kept)
    late = endless(knock)
    until(lambda: exporter.register([late]).status_code == 200, "it is written again")
    exporter.kill()
    exporter.said('level=error event="state file is damaged, a new one will be written".*')
    (aside,) = exporter.said('level=warning event="state file was renamed, a new one was written from memory".*')
    assert f"kept_as={kept}.corrupt-" in aside
    assert ids_in(kept) == {*operations, late}
    exporter = start(knock.url, polling=QUICK)
    assert tracked(exporter) == 401
    assert "damaged" not in exporter.output
