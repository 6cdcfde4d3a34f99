"""`knock-exporter watch`: from the shell to Knock, or to the API of an exporter; no terminal."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from fake_exporter import group, operation, run
from model import ids
from prometheus_client.parser import text_string_to_metric_families
from registration_service import served
from shown import CLEAN, FAILED, FLAWED, GONE, RUNNING

from exporter.cli import main
from exporter.simulator import Simulator, World
from exporter.web.app import make_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fake_exporter import FakeExporter

    from exporter.web.context import AppContext

KEY = "sk_test_of_watch"
A, B, C = ids(3)
FINISHED = {"finished_at": "2027-01-15T09:00:00Z"}


@pytest.fixture
def quick() -> Iterator[Simulator]:
    """Return a Knock where an operation takes no time."""
    with Simulator(world=World(1, speed=1e6), api_key=KEY) as simulator:
        yield simulator


def call(*arguments: str, stdin: str = "", **variables: str) -> Result:
    environ = dict.fromkeys(("KNOCK_API_KEY", "KNOCK_BASE_URL"), "") | variables
    return CliRunner().invoke(main, ["watch", *arguments], env=environ, input=stdin)


def ask_knock(knock: Simulator, *arguments: str, stdin: str = "", **variables: str) -> Result:
    return call(*arguments, stdin=stdin, **({"KNOCK_API_KEY": KEY, "KNOCK_BASE_URL": knock.url} | variables))


def last_line(result: Result) -> str:
    return result.stderr.splitlines()[-1]


# Knock itself.


def test_ids_are_waited_for(quick: Simulator) -> None:
    good, flawed = quick.world.create(rows=20), quick.world.create(rows=20, errors=3)
    answer = ask_knock(quick, good)
    assert (answer.exit_code, last_line(answer)) == (0, "default: 1 completed")
    assert answer.stdout == f"{good} completed, 20 of 20 rows\n"
    answer = ask_knock(quick, good, flawed.upper())
    assert (answer.exit_code, last_line(answer)) == (1, "default: 1 with errors")
    assert answer.stdout == f"{good} completed, 20 of 20 rows\n{flawed} completed, 20 of 20 rows, 3 errors\n"
    assert ask_knock(quick, flawed, "--allow-errors").exit_code == 0


def test_the_result_for_programs(quick: Simulator) -> None:
    failed = quick.world.create(name="users.delete", rows=20, fails=True)
    answer = ask_knock(quick, failed, "-o", "json")
    document = json.loads(answer.stdout)
    assert answer.exit_code == document["exit_code"] == 1
    assert (document["result"], document["reason"], document["environment"]) == ("failed", "1 failed", "default")
    assert document["counts"] == dict.fromkeys(document["counts"], 0) | {"failed": 1}
    (told,) = document["operations"]
    assert (told["id"], told["name"], told["status"]) == (failed, "users.delete", "failed")


def test_ids_and_create_answers_come_from_standard_input(quick: Simulator) -> None:
    made = [quick.world.create(rows=20) for _ in range(3)]
    record = json.dumps(quick.world.read(made[1]))
    for stdin in ("\n".join([made[1], made[2]]), record + json.dumps([made[2]])):
        answer = ask_knock(quick, made[0], "-", stdin=stdin)
        assert (answer.exit_code, last_line(answer)) == (0, "default: 3 completed")


def test_what_is_no_operation_on_standard_input_is_told(quick: Simulator) -> None:
    made = quick.world.create(rows=20)
    error = {"code": "not_allowed", "message": "no", "status": 403, "type": "api_error"}
    answer = ask_knock(quick, "-", stdin=f'"{made}"{json.dumps(error)}')
    assert answer.exit_code == 1
    assert answer.stderr.startswith('standard input: item 2 is an error of Knock, not a record: "not_allowed" "no"\n')
    answer = ask_knock(quick, "-", stdin="abc")
    assert (answer.exit_code, last_line(answer)) == (2, "nothing to watch")


def test_a_refused_key_cannot_know(quick: Simulator) -> None:
    answer = ask_knock(quick, A, KNOCK_API_KEY="sk_test_another")
    assert answer.exit_code == 4
    assert "HTTP 401" in last_line(answer)
    assert "environment variable KNOCK_API_KEY" in last_line(answer)
    assert "sk_test_another" not in answer.output


def test_the_timeout_is_kept(knock: Simulator) -> None:
    made = knock.world.create(rows=1000, rows_per_second=1)
    answer = ask_knock(knock, made, "--timeout", "100ms", "-o", "json")
    assert answer.exit_code == 3
    assert json.loads(answer.stdout)["result"] == "timeout"


def test_the_key_may_come_from_a_configuration(quick: Simulator, tmp_path: Path) -> None:
    made = quick.world.create(rows=20)
    file = tmp_path / "config.yaml"
    entries = "".join(
        f"  - {{name: {name}, api_key: {KEY}, base_url: {quick.url}, operations: [{listed}]}}\n"
        for name, listed in (("production", made), ("staging", ""))
    )
    file.write_text(f"environments:\n{entries}")
    answer = call(made, f"--config.file={file}")
    assert (answer.exit_code, last_line(answer)) == (0, "production: 1 completed")
    answer = call(A, f"--config.file={file}")
    assert (answer.exit_code, last_line(answer)) == (
        2,
        "which environment? Name one with --environment (there are: production, staging)",
    )
    assert call(made, f"--config.file={file}", "--environment=staging").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "nothing to watch"),
        (("abc",), "is not a valid UUID"),
        ((A, "--group=nightly"), "not both"),
        ((A, "--run=17"), "not both"),
        (("--group=nightly", "--run=a b"), "is not a run id"),
        ((A, "--timeout=0s"), "must be more than zero"),
        ((A, "--url=http://user:secret1@host"), "expected the address of an exporter"),
        ((A, "--textfile=out.txt"), "must end in .prom"),
        ((A, "--push-gateway=http://user:secret1@host"), "must not hold a user or password"),
        ((A, "--username=ann"), "--username and --password-file go together"),
        ((A,), "no key to ask with"),
    ],
)
def test_wrong_use_is_told(
    arguments: tuple[str, ...], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = call(*arguments)
    assert answer.exit_code == 2
    assert problem in answer.stderr
    assert "secret1" not in answer.output


def test_what_is_typed_wins_over_variables(quick: Simulator, fake: FakeExporter) -> None:
    made = quick.world.create(rows=20)
    fake.put(operation(made, "failed"))
    variables = {"KNOCK_EXPORTER_GROUP": "nightly", "KNOCK_EXPORTER_RUN": "17"}
    assert ask_knock(quick, made, **variables).exit_code == 0
    assert ask_knock(quick, made, KNOCK_EXPORTER_URL=fake.url).exit_code == 1


def test_metrics_for_node_exporter(quick: Simulator, tmp_path: Path) -> None:
    made = quick.world.create(rows=20)
    file = tmp_path / "watch.prom"
    assert ask_knock(quick, made, f"--textfile={file}").exit_code == 0
    rows = {
        sample.labels["operation_id"]: sample.value
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
        if sample.name == "knock_bulk_operation_rows_processed"
    }
    assert rows == {made: 20.0}
    assert list(tmp_path.iterdir()) == [file]
    answer = ask_knock(quick, made, f"--textfile={tmp_path}/nowhere/watch.prom")
    assert (answer.exit_code, last_line(answer)) == (2, f"{tmp_path}/nowhere/watch.prom: No such file or directory")


def test_a_pushgateway_that_is_not_there_is_told_once(quick: Simulator) -> None:
    answer = ask_knock(quick, quick.world.create(rows=20), "--push-gateway=http://127.0.0.1:1")
    assert answer.exit_code == 0
    assert answer.stderr.count("http://127.0.0.1:1: ") == 1


# A running exporter.


@pytest.mark.parametrize(
    ("wanted", "code", "text"),
    [
        ((CLEAN,), 0, "1 completed"),
        ((CLEAN, FLAWED), 1, "1 with errors"),
        ((CLEAN, FAILED), 1, "1 failed"),
        ((RUNNING, CLEAN), 3, "still running when --timeout passed"),
        ((GONE,), 3, "still running when --timeout passed"),
    ],
)
def test_ids_are_asked_of_the_real_api(shown: AppContext, wanted: tuple[str, ...], code: int, text: str) -> None:
    flags = ["--environment=production", "-o", "json"] + (["--timeout=300ms"] if code == 3 else [])
    with served(make_app(shown)) as (host, port):
        answer = call(*wanted, f"--url=http://{host}:{port}", *flags)
    assert (answer.exit_code, last_line(answer)) == (code, f"production: {text}")
    assert [each["id"] for each in json.loads(answer.stdout)["operations"]] == [*wanted]


def test_of_many_the_unfinished_are_read_in_one_list(fake: FakeExporter) -> None:
    names = ids(100)
    fake.put(*(operation(each) for each in names))

    def end(path: str) -> None:
        if "cursor" not in path and "status=unfinished" in path and len(fake.requests) > 2:
            fake.put(*(operation(each, "completed") for each in names))

    fake.before = end
    answer = call("-", f"--url={fake.url}", stdin="\n".join(names))
    assert (answer.exit_code, last_line(answer)) == (0, "production: 100 completed")
    lists = [each for each in fake.requests if "status=unfinished" in each]
    assert len(lists) == 2
    assert len(fake.requests) == 1 + 2 + 100
    assert len(answer.stderr.splitlines()) < 8


def test_what_the_exporter_does_not_follow_may_come(fake: FakeExporter) -> None:
    fake.before = lambda path: fake.put(operation(A, "completed")) if len(fake.requests) > 2 and A in path else None
    answer = call(A, f"--url={fake.url}", "--timeout=10ms")
    assert answer.exit_code == 3


def test_a_run_is_waited_for_to_its_end(fake: FakeExporter) -> None:
    story = [
        group(run("16", operations={"completed": 3}, **FINISHED), "done"),
        group(run(operations={"processing": 2}, expected_operations=3)),
        group(run(operations={"completed": 2, "failed": 1}, expected_operations=3, **FINISHED), "done_with_failures"),
    ]
    fake.put(operation(A, "failed", group="nightly", run="17"))

    def tell(path: str) -> None:
        if path.startswith("/api/v1/groups/"):
            fake.groups["nightly"] = story.pop(0)
            if len(story) == 2:
                fake.operations.clear()
            else:
                fake.put(operation(A, "failed", group="nightly", run="17"))

    fake.before = tell
    answer = call("--group=nightly", "--run=17", f"--url={fake.url}", "-o", "json")
    document = json.loads(answer.stdout)
    assert (answer.exit_code, last_line(answer)) == (1, "nightly, run 17: 1 failed")
    assert "waiting for run 17 (16 is open)" in answer.stderr
    assert "nightly, run 17: running · 0 of 3 finished · 25% of operations · 33 rows/s · 10m left" in answer.stderr
    assert (document["group"], document["run"]["id"], document["expected_operations"]) == ("nightly", "17", 3)
    assert [each["id"] for each in document["operations"]] == [A]
    assert all(each.startswith("GET /api/v1/") for each in fake.requests)


def test_the_run_that_is_open_is_the_one(fake: FakeExporter) -> None:
    fake.groups["a/b"] = group(run("9", operations={"completed": 2}, **FINISHED), "done")
    answer = call("--group=a/b", f"--url={fake.url}")
    assert (answer.exit_code, answer.stdout, last_line(answer)) == (0, "", "a/b, run 9: 2 completed")


def test_a_run_that_is_over_already_is_superseded(fake: FakeExporter) -> None:
    fake.groups["nightly"] = group(run("18"))
    fake.put(operation(A, "completed", group="nightly", run="17"))
    answer = call("--group=nightly", "--run=17", f"--url={fake.url}")
    assert (answer.exit_code, last_line(answer)) == (
        1,
        "nightly, run 17: superseded: run 18 of nightly is open",
    )


def test_a_group_without_a_run_is_what_is_unfinished_now(fake: FakeExporter) -> None:
    fake.groups["nightly"] = group(None)
    fake.put(operation(A, group="nightly"), operation(B, "failed", group="nightly"), operation(C))

    def end(path: str) -> None:
        if path.endswith(A):
            fake.put(operation(A, "completed", group="nightly"))

    fake.before = end
    answer = call("--group=nightly", f"--url={fake.url}")
    assert answer.stderr.startswith("nightly has no run: watching 1 operation that is unfinished now\n")
    assert (answer.exit_code, last_line(answer)) == (0, "nightly: 1 completed")
    answer = call("--group=nightly", f"--url={fake.url}")
    assert (answer.exit_code, last_line(answer)) == (
        2,
        "nothing to watch: nightly has no run, and no operation that is unfinished",
    )
    assert call("--group=weekly", f"--url={fake.url}").exit_code == 2


def test_of_several_environments_one_is_named(fake: FakeExporter) -> None:
    fake.environments.append("staging")
    fake.put(operation(A, "completed"))
    answer = call(A, f"--url={fake.url}")
    assert (answer.exit_code, last_line(answer)) == (
        2,
        "which environment? Name one with --environment (there are: production, staging)",
    )
    answer = call(A, f"--url={fake.url}", "--environment=nowhere")
    assert (answer.exit_code, answer.stderr) == (
        2,
        f"{fake.url} has no environment nowhere (it has: production, staging)\n",
    )
    assert call(A, f"--url={fake.url}", "--environment=staging").exit_code == 0


def test_an_exporter_that_is_not_there_is_not_waited_for_past_the_timeout() -> None:
    answer = call(A, "--url=http://127.0.0.1:1", "--timeout=600ms")
    assert answer.exit_code == 4
    refused = "http://127.0.0.1:1: connection refused (does the exporter run, and is --url right?)"
    assert answer.stderr.splitlines() == [f"{refused}; trying again for up to 0.6 s", refused]


@pytest.mark.parametrize("status", [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN])
@pytest.mark.parametrize("page", ["environments", "operations"])
def test_a_refused_password_cannot_know(fake: FakeExporter, tmp_path: Path, status: HTTPStatus, page: str) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    fake.before = lambda path: status if page in path else None
    answer = call(A, f"--url={fake.url}", "--username=ann", f"--password-file={password}")
    assert (answer.exit_code, last_line(answer).endswith(f"HTTP {status}: as told")) == (4, True)
    assert fake.authorizations == {"Basic YW5uOmNvcnJlY3QgaG9yc2U="}
    assert "correct horse" not in answer.output


def test_metrics_of_a_run_are_its_group_alone(fake: FakeExporter, tmp_path: Path) -> None:
    file = tmp_path / "run.prom"
    counts = {"completed": 2, "failed": 1}
    fake.groups["nightly"] = group(run(operations=counts, expected_operations=3, **FINISHED), "done_with_failures")
    fake.put(operation(A, "failed", group="nightly", run="17"))
    call("--group=nightly", f"--url={fake.url}", f"--textfile={file}")
    samples: dict[str, Any] = {
        each.name + each.labels.get("status", ""): each.value
        for family in text_string_to_metric_families(file.read_text())
        for each in family.samples
        if each.labels["group"] == "nightly"
    }
    assert all(name.startswith("knock_group_run_") for name in samples)
    assert samples["knock_group_run_expected_operations"] == 3
    assert samples["knock_group_run_operationsfailed"] == 1
    assert samples["knock_group_run_operationslost"] == 0
    assert samples["knock_group_run_finished_timestamp_seconds"] == 1_800_003_600
    assert "knock_group_run_closed_timestamp_seconds" not in samples
