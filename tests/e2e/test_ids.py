"""Ids handed over by programs that were not written here: seen in /metrics in time, and gone as documented.

That a vanished file lets go after 10 minutes is in tests/test_sources_files.py, in virtual time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from forkserver import forked_command
from programs import TOKEN, WEB, Program, do_without, free_port, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from programs import Exporter, Starter

    from exporter.simulator import Simulator

pytestmark = pytest.mark.e2e

QUICK = {"processing": "100ms", "queued": "100ms", "slowest": "200ms"}
OTHER_TOKEN = "fedcba9876543210fedcba9876543210"
SHOWN_SECONDS = 0.5 + 1.0  # as documented, and some for a busy machine, here and below
FILE_SECONDS = 10.0 + 2.0 + 2.0  # looks are 5 s apart or a little more
HTTP_SECONDS = 1.0 + 1.0 + 2.0  # the interval, and a step of the housekeeping
ROTATION_SECONDS = 12.0
UNKNOWN_ID = "123e4567-e89b-12d3-a456-426614174000"


def endless(knock: Simulator) -> str:
    return knock.world.create(rows=10**9, queue_seconds=0.0, rows_per_second=100.0)


def ended(knock: Simulator, **order: Any) -> str:
    return knock.world.create(rows=10, queue_seconds=0.0, rows_per_second=1e9, **order)


def complete(knock: Simulator, operation_id: str) -> None:
    """Have an operation that runs end well."""
    record: Any = knock.world.read(operation_id)
    knock.world.put(record | {"status": "completed", "completed_at": record["updated_at"]})


def shown(exporter: Exporter) -> set[str]:
    series = ("up", "info")  # the first needs an attempt, the second a record
    return set().union(*(exporter.values(f"knock_bulk_operation_{each}") for each in series))


def tracked(exporter: Exporter) -> float | None:
    return exporter.value("knock_exporter_operations")


def status_of(exporter: Exporter, operation_id: str) -> str:
    found = exporter.samples("knock_bulk_operation_status", operation_id=operation_id)
    return "".join(each.labels["status"] for each in found if each.value)


def see(exporter: Exporter, ids: set[str], seconds: float = SHOWN_SECONDS) -> None:
    until(lambda: shown(exporter) == ids, lambda: f"shown are {ids}, not {shown(exporter)}", seconds)


# curl.


@pytest.fixture
def open_start(start: Starter) -> Starter:
    """Let programs register."""
    start.use_token()
    return start


def program(name: str) -> str:
    return shutil.which(name) or do_without(f"{name} is missing: apt install {name}")


def curl(url: str, *args: str, token: str = TOKEN) -> tuple[int, Any]:
    """Ask as a shell script does; return the status and what was answered."""
    command = [program("curl"), "-sS", "--noproxy", "*", "-w", "\n%{http_code}", "-H", f"Authorization: Bearer {token}"]
    done = subprocess.run([*command, *args, url], capture_output=True, text=True, check=True, timeout=90)
    body, _, code = done.stdout.rpartition("\n")
    return int(code), json.loads(body)


def create_by_curl(knock: Simulator) -> tuple[int, dict[str, Any]]:
    users = json.dumps({"users": [{"id": f"user-{number}"} for number in range(100)]})
    return curl(f"{knock.url}/v1/users/bulk/identify", "-d", users, token="sk_test")


JSON = ("-H", "Content-Type: application/json", "-d")


def test_curl_hands_over_whatever_is_at_hand_and_takes_it_back(knock: Simulator, open_start: Starter) -> None:
    exporter = open_start(knock.url, polling=QUICK)
    api = f"{exporter.url}/api/v1/operations/production"
    bare, one, two, line = (endless(knock) for _ in range(4))

    assert curl(api, *JSON, json.dumps(bare)) == (
        200,
        {"accepted": [{"id": bare, "state": "pending"}], "rejected": [], "durable": False},
    )
    see(exporter, {bare})
    code, record = create_by_curl(knock)
    assert (code, record["status"]) == (200, "queued")
    code, answer = curl(f"{api}?group=nightly", *JSON, json.dumps(record))
    assert (code, answer["accepted"]) == (200, [{"id": record["id"], "state": "queued"}])
    see(exporter, {bare, record["id"]})
    assert exporter.value("knock_bulk_operation_info", group="nightly", name="users.identify") == 1

    code, answer = curl(api, *JSON, json.dumps([one, {"id": two}, "abc"]))
    assert (code, [each["id"] for each in answer["accepted"]]) == (200, [one, two])
    assert answer["rejected"][0]["item"] == 2
    assert curl(api, "-H", "Content-Type: text/plain", "--data-binary", f"# mine\n{line}\n")[0] == 200
    see(exporter, {bare, record["id"], one, two, line})

    assert curl(f"{api}/{bare}", "-X", "DELETE")[0] == 200
    see(exporter, {record["id"], one, two, line})
    assert curl(f"{api}/{UNKNOWN_ID}", "-X", "DELETE")[0] == 404
    assert curl(api, *JSON, json.dumps(bare))[0] == 200
    see(exporter, {bare, record["id"], one, two, line})


def test_what_the_configuration_lists_is_not_let_go_by_curl(knock: Simulator, open_start: Starter) -> None:
    operation = endless(knock)
    exporter = open_start(knock.url, [operation], polling=QUICK)
    code, problem = curl(f"{exporter.url}/api/v1/operations/production/{operation}", "-X", "DELETE")
    assert (code, problem["detail"]) == (409, f"cannot drop {operation}: the configuration lists it")
    assert tracked(exporter) == 1


# Who may.


def test_without_tokens_registration_is_off_and_the_start_says_so(knock: Simulator, start: Starter) -> None:
    exporter = start(knock.url)
    assert exporter.register([endless(knock)]).status_code == 404
    assert exporter.release(UNKNOWN_ID).status_code == 404
    exporter.said('event="registration over HTTP is off')
    assert tracked(exporter) == 0


def refused(exporter: Exporter) -> float | None:
    return exporter.value("knock_exporter_http_refused_total", reason="token")


def test_a_wrong_token_is_refused_and_counted(knock: Simulator, open_start: Starter) -> None:
    exporter = open_start(knock.url)
    assert refused(exporter) == 0
    for number, token in enumerate(("wrong", TOKEN[:-1], TOKEN + "0", TOKEN.upper()), start=1):
        answer = exporter.register([endless(knock)], token=token)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer error="invalid_token"')
        assert refused(exporter) == number
    assert exporter.release(UNKNOWN_ID, token="wrong").status_code == 401
    bare = WEB.post(f"{exporter.url}/api/v1/operations/production", json=[UNKNOWN_ID], timeout=30)
    assert bare.status_code == 401
    assert refused(exporter) == 6
    assert tracked(exporter) == 0
    assert TOKEN not in exporter.output


def test_tokens_are_renewed_without_a_gap(knock: Simulator, open_start: Starter) -> None:
    open_start.use_token(OTHER_TOKEN, "other")
    exporter = open_start(knock.url)
    operation, fresh = endless(knock), "00112233445566778899aabbccddeeff"
    for token in (TOKEN, OTHER_TOKEN):
        assert exporter.register([operation], token=token).status_code == 200
    open_start.use_token(fresh)

    def renewed() -> bool:
        assert exporter.register([operation], token=OTHER_TOKEN).status_code in (200, 429)  # it is asked often
        return exporter.register([operation], token=fresh).status_code == 200

    until(renewed, "the new token is good", ROTATION_SECONDS)
    assert exporter.register([operation], token=TOKEN).status_code == 401
    exporter.said('event="using changed registration tokens"')
    assert not {TOKEN, OTHER_TOKEN, fresh} & set(exporter.output.split())


# knock-exporter register.


def registering(url: str, folder: Path, *args: str) -> list[str]:
    flags = ["--url", url, "--environment=production", f"--token-file={folder / 'register.token'}"]
    return [str(forked_command()), "register", *flags, *args]


def test_register_hands_over_ids_and_what_curl_got(knock: Simulator, open_start: Starter) -> None:
    exporter = open_start(knock.url, polling=QUICK)
    one, two = endless(knock), endless(knock)
    command = registering(exporter.url, open_start.folder, one, two, "--group=ci")
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=90)
    assert done.stdout == f"{one} pending\n{two} pending\n"
    assert "not durable" in done.stderr
    see(exporter, {one, two})
    assert len(exporter.values("knock_bulk_operation_info", group="ci")) == 2

    order = [program("curl"), "-sS", "--noproxy", "*", f"{knock.url}/v1/users/bulk/identify"]
    order += ["-H", "Authorization: Bearer sk_test", "-d", '{"users": [{"id": "ann"}]}']
    with subprocess.Popen(order, stdout=subprocess.PIPE) as asking:
        command = registering(exporter.url, open_start.folder, "-")
        done = subprocess.run(command, stdin=asking.stdout, capture_output=True, text=True, check=True, timeout=90)
    born, state = done.stdout.split()
    assert (born, state) == (knock.world.ids()[-1], "queued")
    see(exporter, {one, two, born})


def test_register_waits_while_the_exporter_restarts(knock: Simulator, open_start: Starter) -> None:
    open_start.keep_state()
    port = free_port()
    file, one = open_start.configure(knock.url, polling=QUICK), endless(knock)
    command = registering(f"http://127.0.0.1:{port}", open_start.folder, one)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as register:
        assert register.stderr is not None
        assert "trying again for up to 60 s" in register.stderr.readline()
        exporter = open_start.run(f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}")
        exporter.urls()
        said, complaints = register.communicate(timeout=20)
    assert (register.returncode, said, complaints) == (0, f"{one} pending\n", "")
    see(exporter, {one})


# Files.


def lines(*ids: str) -> str:
    return "".join(f"{each}\n" for each in ids)


def test_text_that_ends_after_a_whole_line_is_a_shorter_list_and_what_runs_is_followed_on(
    knock: Simulator, start: Starter
) -> None:
    running = [endless(knock) for _ in range(20)]
    clean, failed = ended(knock), ended(knock, fails=True)
    file = start.folder / "ids.txt"
    file.write_text(lines(*running, clean, failed))
    exporter = start(knock.url, operations_files=["ids.txt"], polling=QUICK)
    see(exporter, {*running, clean, failed}, FILE_SECONDS)
    file.write_text(lines(*running[:10]))  # as if its writer was killed here
    see(exporter, {*running, failed}, FILE_SECONDS)
    assert not exporter.value("knock_exporter_source_failures_total", source="files")
    complete(knock, running[15])
    until(lambda: status_of(exporter, running[15]) == "completed", "followed to its end")
    assert {running[15], running[16]} <= shown(exporter)


def test_a_file_that_vanishes_for_a_while_lets_nothing_go_over_a_kill_too(knock: Simulator, start: Starter) -> None:
    start.keep_state()
    ids = [endless(knock), ended(knock)]
    file = start.folder / "ids.txt"
    file.write_text(lines(*ids))
    exporter = start(knock.url, operations_files=["*.txt"], polling=QUICK)
    see(exporter, set(ids), FILE_SECONDS)
    until(lambda: status_of(exporter, ids[1]) == "completed", "ended")
    file.rename(start.folder / "away")
    exporter.said("list of operations is gone, keeping what it named for 10 minutes", seconds=FILE_SECONDS)
    assert shown(exporter) == set(ids)
    until(lambda: exporter.value("knock_exporter_state_last_write_timestamp_seconds"), "written")
    exporter.kill()
    exporter = start(knock.url, operations_files=["*.txt"], polling=QUICK)
    exporter.said("list of operations is gone, keeping what it named for 10 minutes", seconds=FILE_SECONDS)
    assert shown(exporter) == set(ids)
    file.write_text(lines(ids[0]))
    see(exporter, {ids[0]}, FILE_SECONDS)


# A real http_sd server.


class ListServer:
    """Python's own web server, with one list."""

    def __init__(self, start: Starter) -> None:
        self._start = start
        self._folder = start.folder / "www"
        self._folder.mkdir()
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/ids.json"

    def put(self, *ids: str) -> None:
        """List these operations."""
        self.put_text(json.dumps([{"targets": ids, "labels": {"group": "jobs"}}]))

    def put_text(self, text: str) -> None:
        """Answer anything, from one request to the next."""
        fresh = self._folder / "new"
        fresh.write_text(text)
        fresh.rename(self._folder / "ids.json")

    def remove(self) -> None:
        """Answer 404."""
        (self._folder / "ids.json").unlink()

    def begin(self, text: str | None = None) -> Program:
        """Serve, with another answer if one is given, and return when it answers."""
        if text is not None:
            self.put_text(text)
        command = [sys.executable, "-m", "http.server", str(self._port), "--bind=127.0.0.1"]
        server = Program([*command, f"--directory={self._folder}"], self._start.folder / "www.log")
        self._start.started.append(server)
        until(self._answers, "the list's server answers")
        return server

    def _answers(self) -> bool:
        try:
            return WEB.head(self.url, timeout=30).headers["Content-Type"] == "application/json"
        except OSError:
            return False


@pytest.fixture
def server(start: Starter) -> ListServer:
    return ListServer(start)


def test_an_http_list_that_breaks_and_comes_back_and_drops_ids(
    knock: Simulator, start: Starter, server: ListServer
) -> None:
    running, kept = endless(knock), endless(knock)
    clean, failed = ended(knock), ended(knock, fails=True)
    server.put(running, kept, clean, failed)
    serving = server.begin()
    exporter = start(knock.url, operations_http=[{"url": server.url, "interval": "1s"}], polling=QUICK)
    everything = {running, kept, clean, failed}
    see(exporter, everything, HTTP_SECONDS)
    assert set(exporter.values("knock_bulk_operation_info", group="jobs")) == everything
    until(lambda: status_of(exporter, clean) == "completed", "ended")

    breaks: list[tuple[str, Callable[[], object]]] = [
        ("connection refused", serving.end),
        ("line 1", lambda: server.begin('[{"targets": ["')),
        ("HTTP 404", server.remove),
        ("expected", lambda: server.put_text('{"targets": []}')),
    ]
    for said, happens in breaks:
        happens()
        until(lambda: said in exporter.said(UNUSABLE)[-1], f"told: {said}", 2 * HTTP_SECONDS)  # noqa: B023
        before = failures(exporter)
        until(lambda: failures(exporter) > before, f"another failure: {said}", 2 * HTTP_SECONDS)  # noqa: B023
        assert shown(exporter) == everything
    assert len(exporter.said('event="list of operations cannot be used')) <= len(breaks) + 1  # once each

    server.put(kept)
    see(exporter, {running, kept, failed}, HTTP_SECONDS)
    exporter.said('event="list of operations is good again"')
    complete(knock, running)
    until(lambda: status_of(exporter, running) == "completed", "what the list dropped is followed to its end")
    assert shown(exporter) == {running, kept, failed}
    late = endless(knock)
    server.put(kept, late)
    see(exporter, {running, kept, failed, late}, HTTP_SECONDS)


UNUSABLE = 'event="list of operations cannot be used, keeping.*'


def failures(exporter: Exporter) -> float:
    return exporter.value("knock_exporter_source_failures_total", source="http") or 0.0
