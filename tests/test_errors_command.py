"""`knock-exporter errors`: failed items, asked of the simulator; and its patience, in no time."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from api_server import counted, group_of, operation, run_of
from click.testing import CliRunner, Result

from exporter.cli import main
from exporter.errors import BadResponse, KeyRefused, NotFound, RateLimited, Reason, Refused, Unreachable
from exporter.operation import parse_operation
from exporter.simulator import Simulator, World
from exporter.terminal.failed_items import FailedItem, ItemWriter
from exporter.terminal.paced import PacedReader, ReaderIO

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from api_server import ApiServer

    from exporter.errors import KnockError

KEY = "sk_test_of_errors"
A, B, C = (f"00000000-0000-4000-8000-00000000000{each}" for each in "abc")
ITEMS = [{"id": "jane@example.com", "collection": "projects"}, {"id": 'a,"b"', "collection": None}]
CLEAN = {"status": "completed", "processed_rows": 10, "estimated_total_rows": 10, "error_count": 0}
WITH_ERRORS = CLEAN | {"error_count": 2, "error_items": ITEMS}
FAILED = {"status": "failed", "processed_rows": 700, "estimated_total_rows": 1000}
FAILED_TEXT = "failed (700 of 1,000 rows were processed): the rows that were not are in no list"


def errors(knock: Simulator, *arguments: str, stdin: str = "", **variables: str) -> Result:
    environ = {"KNOCK_API_KEY": KEY, "KNOCK_BASE_URL": knock.url} | variables
    return CliRunner().invoke(main, ["errors", *arguments], env=environ, input=stdin)


def put(knock: Simulator, operation_id: str, document: Mapping[str, Any]) -> str:
    return knock.world.put({"id": operation_id, **document})


# What is written.


def test_csv_and_json_carry_operation_collection_and_id(knock: Simulator) -> None:
    put(knock, A, WITH_ERRORS)
    put(knock, B, CLEAN)
    put(knock, C, CLEAN | {"error_count": 1, "error_items": [{"id": "ann"}]})
    rows = [[A, "projects", "jane@example.com"], [A, "", 'a,"b"'], [C, "", "ann"]]
    answer = errors(knock, A, B, C)
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert list(csv.reader(io.StringIO(answer.stdout))) == [["operation_id", "collection", "id"], *rows]
    answer = errors(knock, A, B, C, "-o", "json")
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert json.loads(answer.stdout) == [
        {"operation_id": operation, "collection": collection or None, "id": item}
        for operation, collection, item in rows
    ]
    assert errors(knock, A, B, C, "-o", "ids").stdout == 'jane@example.com\na,"b"\nann\n'


@pytest.mark.parametrize(("form", "text"), [("csv", "operation_id,collection,id\n"), ("json", "[]\n"), ("ids", "")])
def test_where_nothing_failed_there_is_nothing(knock: Simulator, form: str, text: str) -> None:
    answer = errors(knock, put(knock, A, CLEAN), "-o", form)
    assert (answer.exit_code, answer.stdout, answer.stderr) == (0, text, "")


def test_ids_come_from_standard_input_too_each_once(knock: Simulator) -> None:
    for each in (A, B):
        put(knock, each, CLEAN | {"error_count": 1, "error_items": [{"id": f"of {each}"}]})
    listed = json.dumps({"id": B.upper(), "name": "users.delete", "status": "queued"})
    answer = errors(knock, "-", A, A.upper(), "-o", "ids", stdin=listed)
    assert (answer.exit_code, answer.stdout) == (0, f"of {A}\nof {B}\n")
    answer = errors(knock, "-", "-o", "ids", stdin=f"{A}\nno id\n{A}\n")
    assert (answer.exit_code, answer.stdout) == (1, f"of {A}\n")
    assert answer.stderr == 'standard input: "no id" is not a valid UUID\n'
    answer = errors(knock, "-", stdin="")
    assert (answer.exit_code, answer.stdout, answer.stderr) == (1, "", "standard input: names no operation\n")


def test_no_form_breaks_on_what_ids_may_hold(knock: Simulator) -> None:
    hostile = ["two\nlines", "\ud800", "\x1b[2J", "=1+1"]
    put(knock, A, CLEAN | {"error_count": 4, "error_items": [{"id": each} for each in hostile]})
    answer = errors(knock, A, "-o", "json")
    assert (answer.exit_code, [each["id"] for each in json.loads(answer.stdout)]) == (0, hostile)
    answer = errors(knock, A, "-o", "csv")
    assert [row[2] for row in csv.reader(io.StringIO(answer.stdout))][1:] == ["two\nlines", "\x1b[2J", "=1+1"]
    assert answer.stderr == f"{A}: 1 of its failed items cannot be written in this form (-o json can)\n"
    answer = errors(knock, A, "-o", "ids")
    assert (answer.exit_code, answer.stdout) == (1, "\x1b[2J\n=1+1\n")
    assert answer.stderr == f"{A}: 2 of its failed items cannot be written in this form (-o json can)\n"


def test_a_terminal_is_not_driven_by_ids() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    assert ItemWriter(out, "ids").write([FailedItem(A, None, "\x1b[2Jann")]) == []
    assert out.getvalue() == "\N{REPLACEMENT CHARACTER}[2Jann\n"


# What no record can tell.


@pytest.mark.parametrize(
    ("document", "written", "problem"),
    [
        (FAILED, 0, f"{FAILED_TEXT}, so run the whole operation again"),
        (FAILED | {"error_count": 2, "error_items": ITEMS}, 2, f"{FAILED_TEXT}, so run the whole operation again"),
        (WITH_ERRORS | {"error_count": 5}, 2, "5 items failed, and Knock lists 2 of them"),
        (CLEAN | {"error_count": 5}, 0, "5 items failed, and Knock lists 0 of them"),
        (CLEAN | {"error_count": 5, "error_items": "jane"}, 0, "5 items failed, and Knock lists 0 of them"),
        (WITH_ERRORS | {"status": "processing"}, 2, "is processing: more of its items may fail"),
        (WITH_ERRORS | {"status": "paused"}, 2, "is unknown (paused): more of its items may fail"),
        (
            CLEAN | {"error_count": 3, "error_items": [{"id": 5}, {"id": "ann", "collection": 5}, "ann"]},
            0,
            "3 of its failed items are not written as Knock documents it, and are left out",
        ),
    ],
)
def test_what_is_missing_is_told(knock: Simulator, document: dict[str, Any], written: int, problem: str) -> None:
    answer = errors(knock, put(knock, A, document), put(knock, B, CLEAN), "-o", "json")
    assert (answer.exit_code, answer.stderr) == (1, f"{A}: {problem}\n")
    assert len(json.loads(answer.stdout)) == written
    assert "jane" not in answer.stderr


def test_a_record_that_knock_has_forgotten_is_told_and_the_others_are_read(knock: Simulator) -> None:
    put(knock, B, WITH_ERRORS)
    answer = errors(knock, A, B, "-o", "json")
    assert answer.exit_code == 1
    assert len(json.loads(answer.stdout)) == 2
    assert answer.stderr.startswith(f"{A}: default ({knock.url}): HTTP 404 resource_missing")


def test_a_refused_key_ends_it(tmp_path: Path) -> None:
    with Simulator(world=World(1), api_key="sk_test_another") as knock:
        answer = errors(knock, A, B, "-o", "json")
    assert answer.exit_code == 1
    assert answer.stderr.startswith(f"default ({knock.url}): HTTP 401")
    assert answer.stderr.count("\n") == 1
    assert KEY not in answer.output
    with pytest.raises(ValueError, match="Expecting"):  # so what is cut off is not taken for all
        json.loads(answer.stdout)


def test_of_several_environments_it_takes_the_one_that_lists_all_ids(knock: Simulator, tmp_path: Path) -> None:
    put(knock, A, WITH_ERRORS)
    put(knock, B, CLEAN)
    shared = {"api_key": KEY, "base_url": knock.url}
    environments = [
        {"name": "one", "operations": [A], **shared},
        {"name": "two", "operations": [A, B], **shared},
    ]
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"environments": environments}))
    assert errors(knock, A, B, f"--config.file={path}").exit_code == 0
    answer = errors(knock, A, f"--config.file={path}")
    assert answer.stderr == "which environment? Name one with --environment (there are: one, two)\n"
    assert errors(knock, A, f"--config.file={path}", "--environment=one").exit_code == 0


def test_wrong_use_is_told(knock: Simulator) -> None:
    for wrong in ((), (A, "--group=g"), (A, "--run=r")):
        assert errors(knock, *wrong).exit_code == 2
    assert errors(knock, "sk_live_secret1").exit_code == 2
    assert "secret1" not in errors(knock, "sk_live_secret1").output


# Of a group, with a running exporter.


def of_group(knock: Simulator, exporter: ApiServer, *arguments: str) -> Result:
    return errors(knock, "--environment=production", "--group=nightly", f"--url={exporter.url}", *arguments)


def follow(exporter: ApiServer, knock: Simulator, number: int, document: Mapping[str, Any], run: str = "r1") -> str:
    with_errors = bool(document.get("error_count"))
    listed = operation(number, document["status"], with_errors=with_errors, run=run)
    exporter.operations.append(listed)
    return put(knock, listed["id"], document)


def test_of_a_group_it_reads_what_failed_or_has_errors(knock: Simulator, api_server: ApiServer) -> None:
    follow(api_server, knock, 1, CLEAN)
    with_errors = follow(api_server, knock, 2, WITH_ERRORS)
    failed = follow(api_server, knock, 3, FAILED | {"error_count": 1, "error_items": [{"id": "ann"}]})
    other = follow(api_server, knock, 4, WITH_ERRORS, run="r2")
    knock.log.clear()
    api_server.groups["nightly"] = group_of("nightly", operations=counted(completed=3, failed=1), with_errors=3)
    answer = of_group(knock, api_server, "-o", "json")
    assert {each["operation_id"] for each in json.loads(answer.stdout)} == {failed, with_errors, other}
    assert (answer.exit_code, answer.stderr) == (1, f"{failed}: {FAILED_TEXT}, so run the whole operation again\n")
    assert len(knock.log) == 3, "each is read once"
    run = run_of("r2", operations=counted(completed=1), with_errors=1)
    api_server.groups["nightly"] = group_of("nightly", run, operations=counted(completed=3, failed=1), with_errors=3)
    answer = of_group(knock, api_server, "--run=r2", "-o", "json")
    assert {each["operation_id"] for each in json.loads(answer.stdout)} == {other}
    assert (answer.exit_code, answer.stderr) == (0, "")


@pytest.mark.parametrize("of_run", [[], ["--run=r1"]], ids=["of its current run", "of a run"])
def test_of_a_group_it_says_what_is_not_there_to_be_read(
    knock: Simulator, api_server: ApiServer, of_run: list[str]
) -> None:
    states = counted(completed=988, failed=2, processing=4, lost=1)
    run = run_of("r1", operations=states, with_errors=5, expected_operations=1000)
    api_server.groups["nightly"] = group_of("nightly", run, operations=counted(processing=4, completed=1, lost=1))
    follow(api_server, knock, 1, WITH_ERRORS)
    lost = operation(2, "lost", run="r1")
    api_server.operations.append(lost)
    answer = of_group(knock, api_server, *of_run, "-o", "ids")
    assert (answer.exit_code, len(answer.stdout.splitlines())) == (1, 2)
    *group, of_lost = answer.stderr.splitlines()
    assert group == [
        "4 operations are not finished: more may fail",
        "5 operations of the run were never registered",
        "2 operations that failed are not followed any more (retired, or forgotten), and not read",
        "4 operations with errors are not followed any more (retired, or forgotten), and not read",
    ]
    assert of_lost.startswith(f"{lost['id']}: production ({knock.url}): HTTP 404")


def test_of_a_run_that_is_over_it_reads_what_is_left(knock: Simulator, api_server: ApiServer) -> None:
    follow(api_server, knock, 1, WITH_ERRORS)
    api_server.groups["nightly"] = group_of("nightly", run_of("r2"))
    answer = of_group(knock, api_server, "--run=r1", "-o", "ids")
    assert (answer.exit_code, len(answer.stdout.splitlines())) == (1, 2)
    assert answer.stderr == "r1 is not the current run of nightly: only what is still followed of it is read\n"


def test_a_group_that_is_not_known_is_told(knock: Simulator, api_server: ApiServer) -> None:
    answer = of_group(knock, api_server)
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert answer.stderr == f"{api_server.url}: HTTP 404: no group nightly is known\n"


# Pace and patience.

DOWN = Unreachable(Reason.CONNECT, "connection refused")
BUSY = Refused("HTTP 503", code=503)


@dataclass
class Clocked:
    """Responses by id, the last of which stays, and a clock that only sleeping moves."""

    responses: dict[str, list[KnockError | None]]
    now: float = 0.0
    requests: list[tuple[float, str]] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    def fetch(self, operation_id: str) -> Any:
        self.requests.append((self.now, operation_id))
        left = self.responses.get(operation_id, [None])
        response = left.pop(0) if len(left) > 1 else left[0]
        if response is not None:
            raise response
        document = {"id": operation_id, **CLEAN}
        return parse_operation(document, operation_id), document

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def read(self, *ids: str, limit: float = 20.0) -> dict[str, str]:
        outside = ReaderIO(self.fetch, self.warned.append, self.sleep, lambda: self.now, lambda: 0.5)
        return {
            name: str(found) if isinstance(found, Exception) else "read"
            for name, found in PacedReader(limit, outside).read(ids)
        }


def test_requests_keep_the_pace() -> None:
    world = Clocked({})
    names = [f"00000000-0000-4000-8000-{each:012x}" for each in range(100)]
    assert set(world.read(*names).values()) == {"read"}
    times = [at for at, _ in world.requests]
    assert all(sum(start <= at < start + 1 for at in times) <= 20 for start in times)
    assert 4.5 <= times[-1] <= 5.5


def test_what_passes_is_asked_again_after_the_others() -> None:
    world = Clocked({A: [BUSY, DOWN, None]})
    assert list(world.read(A, B, C).items()) == [(B, "read"), (C, "read"), (A, "read")]
    assert world.warned == ["HTTP 503; trying again for up to 60 s"]


@pytest.mark.parametrize("error", [DOWN, BUSY, BadResponse("body", "it ended early")])
def test_after_a_minute_without_an_answer_it_gives_up_on_the_rest(error: KnockError) -> None:
    world = Clocked({A: [error], B: [error]})
    assert world.read(C, A, B) == {A: str(error), B: str(error), C: "read"}
    assert 50 <= world.now <= 60


def test_one_that_cannot_be_read_does_not_keep_the_others_from_it() -> None:
    world = Clocked({A: [BUSY], B: [BadResponse("id", "another id than the one asked for")]})
    found = world.read(A, B, C)
    assert (found[A], found[C]) == ("HTTP 503", "read")
    assert found[B].startswith("id: another id")
    assert sum(name == B for _, name in world.requests) == 1


def test_a_429_slows_down_and_is_obeyed() -> None:
    world = Clocked({A: [RateLimited("HTTP 429", retry_after=200.0), None], B: [NotFound("HTTP 404")]})
    assert world.read(A, B) == {A: "read", B: "HTTP 404"}
    assert [at for at, _ in world.requests][1] >= 200


def test_a_refused_key_is_raised() -> None:
    world = Clocked({A: [KeyRefused("HTTP 401")]})
    with pytest.raises(KeyRefused):
        world.read(A, B)
    assert len(world.requests) == 1
