"""`list`, `forget` and `group`, against an exporter that takes what the API takes; and its real lists."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from api_server import counted, group_of, operation, run_of
from chaos import answering, http, serving
from click.testing import CliRunner, Result
from registration_service import TOKEN, FakeService, served
from shown import LISTED, OTHER

from exporter.cli import main
from exporter.cli.listing import STATUSES
from exporter.terminal import columns, listing
from exporter.terminal.exporter_api import ApiError, Attempt
from exporter.terminal.exporter_writes import ExporterWrites
from exporter.tracking import selection
from exporter.tracking.messages import ReleaseResult
from exporter.web.app import make_app

if TYPE_CHECKING:
    from api_server import ApiServer
    from recorder import Recorder

    from exporter.web.context import AppContext

A, B, C = (operation(number)["id"] for number in (1, 2, 3))


@dataclass
class Shell:
    """Runs commands against an exporter."""

    url: str
    token_file: Path

    def __call__(self, *arguments: str, stdin: str = "", **variables: str) -> Result:
        settings = {"URL": self.url, "TOKEN_FILE": str(self.token_file)} | variables
        environ = {f"KNOCK_EXPORTER_{name}": value for name, value in settings.items()}
        return CliRunner().invoke(main, arguments, env=environ, input=stdin)


@pytest.fixture
def shell(api_server: ApiServer, token_file: Path) -> Shell:
    return Shell(api_server.url, token_file)


# list


def test_statuses_are_those_of_the_api() -> None:
    assert sorted(STATUSES) == sorted(selection.STATUSES)


def test_the_real_lists_are_read(shown: AppContext, token_file: Path) -> None:
    with served(make_app(shown)) as (host, port):
        real = Shell(f"http://{host}:{port}", token_file)
        ids = real("list", "-o", "ids").stdout.split()
        assert set(ids) == {*LISTED, OTHER}
        documents = json.loads(real("list", "-o", "json").stdout)
        assert [each["id"] for each in documents] == ids
        table = real("list").stdout.splitlines()
        assert table[0].split() == ["ID", "STATUS", "ROWS", "ERRORS", "ENVIRONMENT", "GROUP", "NAME"]
        assert [line.split()[:2] for line in table[1:]] == [[each["id"], each["status"]] for each in documents]
        failed = real("list", "--environment=production", "--status=failed", "-o", "ids").stdout.split()
        assert failed == [each["id"] for each in documents if each["status"] == "failed"]


def test_the_real_groups_are_read(shown: AppContext, token_file: Path) -> None:
    with served(make_app(shown)) as (host, port):
        real = Shell(f"http://{host}:{port}", token_file)
        documents = json.loads(real("group", "list", "-o", "json").stdout)
        assert documents
        table = real("group", "list").stdout.splitlines()
        assert [re.split("  +", line)[:2] for line in table[1:]] == [
            [each["environment"], each["group"]] for each in documents
        ]


def test_each_filter_is_sent(shell: Shell, api_server: ApiServer) -> None:
    api_server.operations = [
        operation(1, "failed", run="r1"),
        operation(2, "failed", name="users.delete", run="r1"),
        operation(3, with_errors=True),
        operation(4, "failed", environment="staging", group="other"),
    ]
    for flags, numbers in {
        (): (1, 2, 3, 4),
        ("--environment=production",): (1, 2, 3),
        ("--group=other",): (4,),
        ("--run=r1",): (1, 2),
        ("--name=users.delete",): (2,),
        ("--status=failed", "--group=nightly"): (1, 2),
        ("--status=with_errors",): (3,),
        (f"--id={C[-12:]}",): (3,),
    }.items():
        answer = shell("list", "-o", "ids", *flags)
        assert (answer.exit_code, answer.stderr) == (0, "")
        assert answer.stdout.split() == [operation(number)["id"] for number in numbers]


def test_more_than_a_page_is_read(shell: Shell, api_server: ApiServer) -> None:
    api_server.operations = [operation(number) for number in range(2500)]
    assert len(shell("list", "-o", "ids").stdout.split()) == 2500
    assert len(api_server.requests) == 3


def test_what_cannot_be_written_at_the_end_is_told_too(
    shell: Shell, api_server: ApiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api_server.operations = [operation(1)]
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            main(["list", f"--url={shell.url}"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "standard output cannot be written: No space left on device\n"


def test_where_there_is_nothing_it_says_so(shell: Shell) -> None:
    answer = shell("list")
    assert (answer.exit_code, answer.stdout, answer.stderr) == (0, "", "No operations found.\n")
    assert shell("list", "-o", "json").stdout == "[]\n"
    assert shell("list", "-o", "ids").output == ""
    answer = shell("group", "list")
    assert (answer.exit_code, answer.stdout, answer.stderr) == (0, "", "No groups found.\n")


def test_a_group_that_does_not_exist_is_told(shell: Shell, api_server: ApiServer) -> None:
    assert shell("list", "--group=nigthly").stderr == "No operations found: no group nigthly (there are: none).\n"
    assert "\x07" not in shell("list", "--group=\x07").stderr
    api_server.groups["nightly"] = group_of("nightly")
    assert shell("list", "--group=nigthly").stderr == "No operations found: no group nigthly (there are: nightly).\n"
    assert shell("list", "--group=nightly", "--status=failed").stderr == "No operations found.\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


LONG = operation(1, "processing", name="objects.my projects.set", group="nightly migration", progress=0.4567)


@pytest.mark.parametrize("width", [20, 80, 200])
def test_a_table_fits_its_terminal_and_ids_stay_whole(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = Terminal()
    hostile = operation(2, name="\x1b[2Jevil", group="\N{CJK UNIFIED IDEOGRAPH-6771}" * 30)
    assert listing.write_operations(out, [LONG, hostile])
    title, first, second = out.getvalue().splitlines()
    assert (first.split()[:4], second.split()[:2]) == ([A, "processing", "45%", "0"], [B, "completed"])
    assert "\x1b" not in second
    if width == 80:
        assert max(map(len, (title, first, second))) <= 80
        assert "…" in first
    if width == 200:
        assert "production   nightly migration" in first
        assert first.endswith("objects.my projects.set")


def test_in_a_pipe_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    columns.write_columns(out, [columns.Column("A", whole=False)], [["x" * 500]])
    assert out.getvalue() == f"A\n{'x' * 500}\n"


def test_wide_characters_take_two_cells_and_combining_ones_none() -> None:
    out = io.StringIO()
    columns.write_columns(out, [columns.Column("A"), columns.Column("B")], [["東京", "1"], ["e\u0301te\u0301", "2"]])
    assert out.getvalue() == "A     B\n東京  1\ne\u0301te\u0301   2\n"


def test_an_exporter_that_is_down_is_told(shell: Shell) -> None:
    answer = shell("list", "--url=http://127.0.0.1:1")
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert answer.stderr == "http://127.0.0.1:1: connection refused (does the exporter run, and is --url right?)\n"


def test_a_password_is_sent_where_there_is_one(shell: Shell, api_server: ApiServer, tmp_path: Path) -> None:
    api_server.passwords = True
    api_server.operations = [operation(1)]
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    assert shell("list").stderr == f"{api_server.url}: HTTP 401: a password is needed here\n"
    assert shell("list", "-o", "ids", "--username=ann", f"--password-file={password}").stdout == f"{A}\n"
    assert shell("list", "--username=ann").exit_code == 2


# forget


def forget(shell: Shell, *arguments: str, stdin: str = "") -> Result:
    return shell("forget", "--environment=production", *arguments, stdin=stdin)


def test_ids_are_forgotten(shell: Shell, api_server: ApiServer) -> None:
    api_server.operations = [operation(number, "failed") for number in (1, 2, 3)]
    answer = forget(shell, A, "-", stdin=f"{B}\n{A}\n")
    assert (answer.exit_code, answer.stdout) == (0, f"{A} forgotten\n{B} forgotten\n")
    assert answer.stderr == "2 forgotten, 0 refused\n"
    assert [each["id"] for each in api_server.operations] == [C]
    assert [each[:2] for each in api_server.requests] == [
        ("DELETE", f"/api/v1/operations/production/{each}") for each in (A, B)
    ]


def test_what_is_refused_is_told_with_its_reason(shell: Shell, api_server: ApiServer) -> None:
    api_server.operations = [operation(1), operation(2)]
    api_server.listed = {A}
    answer = forget(shell, A, B, C)
    assert (answer.exit_code, answer.stdout) == (1, f"{B} forgotten\n")
    assert answer.stderr.splitlines() == [
        f"{A}: HTTP 409: cannot drop {A}: the configuration lists it",
        f'{C}: HTTP 404: no operation {C} is known in "production"',
        "1 forgotten, 2 refused",
    ]


def test_of_a_group_what_is_finished_is_forgotten(shell: Shell, api_server: ApiServer) -> None:
    api_server.operations = [
        operation(1, "failed", with_errors=True),
        operation(2, with_errors=True),
        operation(3, "processing", with_errors=True),
        operation(4),
        operation(5, "failed", group="other"),
    ]
    answer = forget(shell, "--group=nightly", "--status=failed")
    assert (answer.exit_code, answer.stdout) == (0, f"{A} forgotten\n")
    answer = forget(shell, "--group=nightly", "--status=failed", "--status=with_errors")
    assert (answer.exit_code, answer.stdout) == (0, f"{B} forgotten\n")
    assert len(api_server.operations) == 3
    answer = forget(shell, "--group=nightly", "--status=failed")
    assert (answer.exit_code, answer.stdout, answer.stderr) == (0, "", "0 forgotten, 0 refused\n")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (A, "--group=g"),
        ("--group=g",),
        ("--status=failed",),
        (A, "--status=failed"),
        ("--group=g", "--status=lost"),
    ],
)
def test_wrong_use_of_forget_is_told(shell: Shell, api_server: ApiServer, arguments: tuple[str, ...]) -> None:
    assert forget(shell, *arguments).exit_code == 2
    assert api_server.requests == []


def test_a_bad_token_ends_it(shell: Shell, api_server: ApiServer, token_file: Path) -> None:
    token_file.write_text("another-token-than-that")
    answer = forget(shell, A, B)
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert answer.stderr == f"{api_server.url}: HTTP 401: the token is not one of this exporter's\n"
    assert TOKEN not in answer.output


def test_another_server_ends_it_at_the_first_id(token_file: Path) -> None:
    with serving(answering(http('{"detail": "Not Found"}', 404, "Content-Type: application/json"))) as server:
        answer = forget(Shell(server.url, token_file), A, B)
        assert len(server.requests) == 1
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert answer.stderr.startswith(f"{server.url}: HTTP 404: Not Found: the answer does not come from a knock-exp")


def test_the_real_exporter_drops_what_is_forgotten(service: FakeService, token_file: Path) -> None:
    with served(service.app()) as (host, port):
        real = Shell(f"http://{host}:{port}", token_file)
        assert forget(real, A).stdout == f"{A} forgotten\n"
        service.released = ReleaseResult(known=False, durable=True)
        assert forget(real, A).stderr.startswith(f"{A}: HTTP 404: no operation {A} is known")


@dataclass
class Clocked:
    """Answers as told, then with success, and a clock that only sleeping moves."""

    attempts: list[Attempt] = field(default_factory=list)
    now: float = 0.0
    times: list[float] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    def send(self, _address: str, _method: str, _body: bytes | None) -> Attempt:
        self.times.append(self.now)
        good = Attempt(200, {"released": True, "state": "running"}, "", passing=False)
        return self.attempts.pop(0) if self.attempts else good

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def writes(self) -> ExporterWrites:
        return ExporterWrites("http://here", "a b", self.send, self.warned.append, self.sleep, lambda: self.now)


RESTARTING = Attempt(503, {}, "HTTP 503: ending", passing=True)
UNKNOWN = Attempt(404, {}, "HTTP 404: not known", passing=False)


def test_it_stays_below_the_limit_of_the_server() -> None:
    world = Clocked()
    assert [reason for _, reason in world.writes().forget([A] * 100)] == [None] * 100
    assert max(sum(start <= at < start + 1 for at in world.times) for start in world.times) <= 15
    assert world.now < 8


def test_an_exporter_that_restarts_is_waited_for() -> None:
    world = Clocked([RESTARTING, UNKNOWN, UNKNOWN])
    assert list(world.writes().forget([A, B, C])) == [
        (A, None),  # the first request may have dropped it
        (B, "HTTP 404: not known"),
        (C, None),
    ]
    world = Clocked([RESTARTING, RESTARTING])
    assert world.writes().run("nightly", "r1", {})["state"] == "running"
    assert world.warned == ["http://here: HTTP 503: ending; trying again for up to 60 s"]


def test_it_gives_up_after_a_minute() -> None:
    world = Clocked([RESTARTING] * 100)
    with pytest.raises(ApiError, match=r"^http://here: HTTP 503: ending$"):
        next(world.writes().forget([A]))
    assert 50 < world.now <= 60


# group


def test_a_run_is_opened_and_closed(shell: Shell, api_server: ApiServer) -> None:
    answer = shell("group", "open", "nightly", "--environment=production", "--operations=1000", "--deadline=3h")
    assert (answer.exit_code, answer.stderr) == (0, "")
    run = answer.stdout.strip()
    opened = datetime.strptime(run, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - opened) < timedelta(minutes=10)
    closed = shell("group", "close", "nightly", "--environment=production", f"--run={run}")
    assert (closed.exit_code, closed.stdout, closed.stderr) == (0, f"{run} running\n", "")
    path = f"/api/v1/groups/production/nightly/runs/{run}"
    assert api_server.requests == [
        ("PUT", path, {"operations": 1000, "deadline": "3h"}),
        ("PUT", path, {"closed": True}),
    ]


def test_a_close_that_opens_a_run_says_so(shell: Shell, api_server: ApiServer) -> None:
    shell("group", "open", "nightly", "--environment=production", "--run=night-17")
    answer = shell("group", "close", "nightly", "--environment=production", "--run=nihgt-17")
    assert (answer.exit_code, answer.stdout) == (0, "nihgt-17 running\n")
    assert answer.stderr.startswith("nihgt-17 was not open: it was opened with this, and is the run of nightly now")


def test_a_run_may_have_an_id_of_its_own_and_a_group_any_name(shell: Shell, api_server: ApiServer) -> None:
    answer = shell("group", "open", "a/b c", "--run=night:17", ENVIRONMENT="production")
    assert answer.stdout == "night:17\n"
    assert api_server.requests == [("PUT", "/api/v1/groups/production/a/b%20c/runs/night%3A17", {})]
    answer = shell("group", "close", "a/b c", "--operations=431", ENVIRONMENT="production")
    assert answer.stdout == "night:17 running\n", "without --run it is the current one"
    assert api_server.requests[-1][2] == {"closed": True, "operations": 431}


def test_what_the_exporter_refuses_is_told(shell: Shell, api_server: ApiServer) -> None:
    api_server.groups["nightly"] = group_of("nightly", run_of("r2"))
    api_server.past = {"r1"}
    url, environment = api_server.url, "--environment=production"
    for arguments, problem in {
        ("open", "nightly", "--run=r1"): f"{url}: HTTP 409: r1 is over: r2 is the current run",
        ("open", "nightly", "--deadline=soon"): f"{url}: HTTP 422: deadline: soon is neither a duration nor a time",
        ("close", "nowhere"): f"{url}: HTTP 404: no group nowhere is known",
    }.items():
        answer = shell("group", *arguments, environment)
        assert (answer.exit_code, answer.stdout, answer.stderr) == (1, "", f"{problem}\n")
    api_server.groups["other"] = group_of("other")
    answer = shell("group", "close", "other", environment)
    assert answer.stderr == "other has no run; name one with --run, or open one\n"
    assert shell("group", "open", "nightly", environment, "--operations=-1").exit_code == 2


@pytest.mark.parametrize("run", ["a b", "a/b", "x" * 65, ""])
def test_an_id_that_no_run_can_have_is_wrong_use(shell: Shell, api_server: ApiServer, run: str) -> None:
    for command in (
        ("group", "open", "nightly", "--environment=production"),
        ("group", "close", "nightly", "--environment=production"),
        ("list",),
        ("register", "--environment=production", "123e4567-e89b-12d3-a456-426614174000"),
    ):
        answer = shell(*command, f"--run={run}")
        assert answer.exit_code == 2
        assert "is not a run id (expected 1 to 64 of" in answer.stderr
    assert api_server.requests == []


def test_what_will_be_forgotten_is_told(shell: Shell, api_server: ApiServer) -> None:
    api_server.durable = False
    answer = shell("group", "open", "nightly", "--environment=production", "--run=r1")
    assert (answer.exit_code, answer.stdout) == (0, "r1\n")
    assert answer.stderr.startswith("not durable: the run is forgotten when the exporter restarts")


def test_the_exporter_is_waited_for(shell: Shell, api_server: ApiServer) -> None:
    api_server.groups["nightly"] = group_of("nightly", run_of("r2"))
    api_server.statuses = [503, 200, 503]
    answer = shell("group", "close", "nightly", "--environment=production")
    assert (answer.exit_code, answer.stdout) == (0, "r2 running\n")
    assert len(re.findall("trying again", answer.stderr)) == 2


def test_groups_are_listed(shell: Shell, api_server: ApiServer) -> None:
    states = counted(completed=424, failed=6, processing=30, lost=1)
    run = run_of("20270115T020000Z", expected_operations=1000, operations=states, errors=120)
    api_server.groups = {
        "nightly": group_of("nightly", run, state="running", progress=0.431, time_left_seconds=5040.0),
        "by hand": group_of("by hand", state="done_with_failures", operations=counted(completed=3, failed=1), errors=2),
    }
    answer = shell("group", "list", "--environment=production")
    assert (answer.exit_code, answer.stderr) == (0, "")
    rows = [re.split(r"  +", line) for line in answer.stdout.splitlines()]
    assert rows == [
        ["ENVIRONMENT", "GROUP", "STATE", "PROGRESS", "OPERATIONS", "FAILED", "ERRORS", "LEFT", "RUN"],
        ["production", "nightly", "running", "43%", "431/1,000", "6", "120", "1h 24m", "20270115T020000Z"],
        ["production", "by hand", "done with failures", "-", "4/4", "1", "2", "-", "-"],
    ]
    assert json.loads(shell("group", "list", "-o", "json").stdout) == list(api_server.groups.values())


# register


def test_operations_are_registered_with_their_run(shell: Shell, recorder: Recorder) -> None:
    flags = ["--environment=production", "--group=nightly", "--run=night:17", f"--url={recorder.url}"]
    assert shell("register", A, *flags).exit_code == 0
    assert recorder.next().path == "/api/v1/operations/production?group=nightly&run=night%3A17"
