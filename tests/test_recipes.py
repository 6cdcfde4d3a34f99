"""The recipes in Python: the files, used as the document says, with Knock's SDK."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import closing
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
import httpx
import knockapi
import pytest
from knockapi import Knock
from recorder import PATIENCE, RECIPES, Recorder, recipe, usage
from registration_service import TOKEN

from exporter.cli.watch import watch
from exporter.operation import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from knockapi.types import BulkOperation

    from exporter.simulator import Simulator

KEY = "sk_test_recipes"
MODULE = recipe("knock_registrar.py")
CLIENT, RUN, ASYNC = usage("python")
DOCUMENTED_URL, DOCUMENTED_FILE = "http://127.0.0.1:10187", "/run/secrets/knock-exporter-token"


def pointed(code: str, recorder: str, token_file: Path) -> str:
    """Return code of ours with another exporter and another file of a token."""
    assert code.count(DOCUMENTED_URL) == code.count(DOCUMENTED_FILE) == 1
    return code.replace(DOCUMENTED_URL, recorder).replace(DOCUMENTED_FILE, str(token_file))


class Program:
    """A program that uses the recipe, and what the recipe logs."""

    def __init__(self, knock: Simulator, recorder: str, token_file: Path, **constants: Any) -> None:
        module = ModuleType("knock_registrar")
        exec(MODULE, vars(module))  # noqa: S102 - the recipe is what is tested
        vars(module).update({"PAUSES": (0, 0, 0)} | constants)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "knock_registrar", module)
            patch.setenv("KNOCK_API_KEY", KEY)
            patch.setenv("KNOCK_BASE_URL", knock.url)
            names: dict[str, Any] = {}
            exec(pointed(CLIENT, recorder, token_file), names)  # noqa: S102 - the same
        self.registrar_of = module.Registrar
        self.knock: Knock = names["knock"]
        self.registrar: Any = names["registrar"]
        self.logged: SimpleQueue[str] = SimpleQueue()
        self._handler = logging.Handler()
        self._handler.emit = lambda record: self.logged.put(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("knock_registrar").addHandler(self._handler)

    def start_one(self) -> BulkOperation:
        return self.knock.users.bulk.delete(user_ids=["ann"])

    def end(self) -> None:
        logging.getLogger("knock_registrar").removeHandler(self._handler)
        self.knock.close()
        self.registrar.close()


@pytest.fixture
def start_program(knock: Simulator, recorder: Recorder, token_file: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def starting(url: str = recorder.url, **constants: Any) -> Program:
        programs.append(Program(knock, url, token_file, **constants))
        return programs[-1]

    yield starting
    recorder.gate.set()
    for program in programs:
        program.end()


CREATES: dict[str, Callable[[Knock], BulkOperation]] = {
    "users.identify": lambda knock: knock.users.bulk.identify(users=[{"id": "ann"}]),
    "users.set_preferences": lambda knock: knock.users.bulk.set_preferences(user_ids=["ann"], preferences={}),
    "users.delete": lambda knock: knock.users.bulk.delete(user_ids=["ann"]),
    "objects.my cars.set": lambda knock: knock.objects.bulk.set("my cars", objects=[{"id": "vw"}]),
    "objects.cars.delete": lambda knock: knock.objects.bulk.delete("cars", object_ids=["vw"]),
    "schedules.create_schedules": lambda knock: knock.schedules.bulk.create(
        schedules=[{"workflow": "digest", "recipient": "ann"}]
    ),
}


@pytest.mark.parametrize("name", CREATES)
def test_each_call_that_starts_one_registers_it(
    start_program: Callable[..., Program], recorder: Recorder, knock: Simulator, name: str
) -> None:
    made = CREATES[name](start_program().knock)
    posted = recorder.next()
    assert posted.path == "/api/v1/operations/production"
    assert posted.headers["Authorization"] == f"Bearer {TOKEN}"
    assert posted.headers["Content-Type"] == "application/json"
    [item] = posted.items
    assert item == {
        "id": made.id,
        "name": name,
        "status": "queued",
        "inserted_at": item["inserted_at"],
        "group": "imports",
    }
    assert parse_time(item["inserted_at"]) == made.inserted_at.timestamp()
    assert made.name == name


def test_the_answer_is_that_of_the_sdk_alone(start_program: Callable[..., Program], knock: Simulator) -> None:
    made = start_program().start_one().to_dict()
    with Knock(api_key=KEY, base_url=knock.url) as plain:
        alone = plain.users.bulk.delete(user_ids=["ann"]).to_dict()
    own = {"id", "inserted_at", "updated_at", "progress_path"}
    assert made.keys() == alone.keys()
    assert {key: made[key] for key in made.keys() - own} == {key: alone[key] for key in alone.keys() - own}


def test_other_calls_register_nothing(start_program: Callable[..., Program], recorder: Recorder) -> None:
    program = start_program()
    made = program.start_one()
    assert recorder.next_items(1)[0]["id"] == made.id
    program.knock.bulk_operations.get(made.id)
    with pytest.raises(knockapi.NotFoundError):
        program.knock.users.get("ann")
    with pytest.raises(knockapi.UnprocessableEntityError):
        program.knock.users.bulk.delete(user_ids=["ann"] * 1001)
    last = program.start_one()
    assert [each["id"] for each in recorder.next_items(1)] == [last.id]
    assert recorder.nothing_more()
    assert program.logged.empty()


def test_an_answer_that_is_streamed_can_still_be_read(
    start_program: Callable[..., Program], recorder: Recorder
) -> None:
    with start_program().knock.users.bulk.with_streaming_response.delete(user_ids=["ann"]) as answer:
        document: Any = answer.json()
        assert document["id"] == recorder.next_items(1)[0]["id"]


# An exporter that is in trouble.


def test_an_exporter_that_is_down_is_logged_and_nothing_else(
    start_program: Callable[..., Program], knock: Simulator
) -> None:
    program = start_program("http://127.0.0.1:1")
    made = program.start_one()
    assert made.status == "queued"
    assert program.logged.get(timeout=PATIENCE) == f"not registered: ['{made.id}']: ConnectError"


def test_an_exporter_that_hangs_holds_nobody_up(start_program: Callable[..., Program], recorder: Recorder) -> None:
    program = start_program()
    recorder.gate.clear()
    first = program.start_one()
    assert recorder.next_items(1)[0]["id"] == first.id
    others = [program.start_one().id for _ in range(20)]  # all answered while the first registration hangs
    assert recorder.nothing_more()
    recorder.gate.set()
    assert [each["id"] for each in recorder.next_items(20)] == others


def test_more_than_can_wait_is_dropped_and_logged(start_program: Callable[..., Program], recorder: Recorder) -> None:
    program = start_program(MOST_WAITING=2)
    recorder.gate.clear()
    program.start_one()
    recorder.next()
    waiting = [program.start_one().id for _ in range(2)]
    assert program.start_one().status == "queued"
    assert program.logged.get(timeout=PATIENCE) == "a bulk operation could not be registered"
    recorder.gate.set()
    assert [each["id"] for each in recorder.next_items(2)] == waiting


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_exporter_in_trouble_is_asked_again(
    start_program: Callable[..., Program], recorder: Recorder, status: int
) -> None:
    recorder.statuses = [status, status]
    program = start_program()
    made = program.start_one()
    assert [each["id"] for each in recorder.next_items(3)] == [made.id] * 3
    assert program.start_one().id == recorder.next_items(1)[0]["id"]
    assert program.logged.empty()


def test_an_exporter_that_stays_in_trouble_is_given_up(
    start_program: Callable[..., Program], recorder: Recorder
) -> None:
    recorder.statuses = [500] * 3
    program = start_program()
    made = program.start_one()
    assert program.logged.get(timeout=PATIENCE).startswith(f"not registered: ['{made.id}']: HTTP 500 ")


def test_a_refusal_is_not_repeated(start_program: Callable[..., Program], recorder: Recorder) -> None:
    recorder.statuses = [401]
    program = start_program()
    made = program.start_one()
    assert program.logged.get(timeout=PATIENCE).startswith(f"not registered: ['{made.id}']: HTTP 401 ")
    recorder.next()
    assert recorder.nothing_more()


def test_a_token_is_renewed_and_may_be_missing(
    start_program: Callable[..., Program], recorder: Recorder, token_file: Path
) -> None:
    program = start_program()
    token_file.write_text("another\n")
    program.start_one()
    assert recorder.next().headers["Authorization"] == "Bearer another"
    token_file.unlink()
    assert program.start_one().status == "queued"
    assert "FileNotFoundError" in program.logged.get(timeout=PATIENCE)
    token_file.write_text("a third\none")
    program.start_one()
    told = program.logged.get(timeout=PATIENCE)
    assert told.endswith(": LocalProtocolError")
    token_file.write_text("a third")
    program.start_one()
    assert recorder.next().headers["Authorization"] == "Bearer a third"


# Runs.


def start_run(program: Program, batches: list[list[dict[str, str]]]) -> None:
    exec(RUN, {"registrar": program.registrar, "knock": program.knock, "batches": batches})  # noqa: S102 - the same


def next_change(recorder: Recorder) -> tuple[str, str, dict[str, Any]]:
    posted = recorder.next()
    assert posted.headers["Authorization"] == f"Bearer {TOKEN}"
    return posted.method, posted.path, posted.items[0]


def test_what_a_job_starts_is_a_run(start_program: Callable[..., Program], recorder: Recorder) -> None:
    program = start_program()
    recorder.gate.clear()
    start_run(program, [[{"id": "ann"}], [{"id": "bob"}]])
    recorder.gate.set()
    method, path, said = next_change(recorder)
    run = path.removeprefix("/api/v1/groups/production/nightly/runs/")
    assert (method, said) == ("PUT", {"operations": 2})
    assert re.fullmatch("[0-9]{8}T[0-9]{6}Z", run)
    items = recorder.next_items(2)
    assert {(each["group"], each["run"], each["name"]) for each in items} == {("nightly", run, "users.identify")}
    assert next_change(recorder) == ("PUT", path, {"closed": True})
    program.start_one()
    assert "run" not in recorder.next_items(1)[0]
    assert program.logged.empty()


def test_a_job_that_dies_leaves_its_run_open(start_program: Callable[..., Program], recorder: Recorder) -> None:
    program = start_program()
    with pytest.raises(ZeroDivisionError), program.registrar.run("a/b c", 5, deadline="3h", run="17"):  # noqa: PT012
        program.start_one()
        1 / 0  # noqa: B018 - it dies
    assert next_change(recorder) == (
        "PUT",
        "/api/v1/groups/production/a/b%20c/runs/17",
        {"operations": 5, "deadline": "3h"},
    )
    assert recorder.next_items(1)[0]["run"] == "17"
    program.start_one()
    assert "run" not in recorder.next_items(1)[0]
    assert recorder.nothing_more()


def test_a_run_that_another_program_opened_can_be_named(
    start_program: Callable[..., Program], recorder: Recorder, token_file: Path, knock: Simulator
) -> None:
    program = start_program()
    other = program.registrar_of(recorder.url, "production", token_file, group="nightly", run="17")
    client = knockapi.DefaultHttpxClient(event_hooks={"response": [other.hook]})
    with closing(other), Knock(api_key=KEY, base_url=knock.url, http_client=client) as sdk:
        sdk.users.bulk.delete(user_ids=["ann"])
        [item] = recorder.next_items(1)
    assert (item["group"], item["run"]) == ("nightly", "17")


def test_a_run_that_is_refused_stops_nobody(start_program: Callable[..., Program], recorder: Recorder) -> None:
    recorder.statuses = [409]
    program = start_program()
    with program.registrar.run("nightly", run="17"):
        made = program.start_one()
    assert made.status == "queued"
    assert "/api/v1/groups/production/nightly/runs/17: HTTP 409" in program.logged.get(timeout=PATIENCE)
    assert next_change(recorder)[2] == {}
    assert recorder.next_items(1)[0]["id"] == made.id


class Airflow:
    """Stands for Airflow, which is a hundred packages: keeps the tasks of a DAG, and in which order they run."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.functions: dict[str, Callable[..., Any]] = {}
        self.commands: dict[str, str] = {}
        self.calls: dict[Any, tuple[Any, ...]] = {}  # of each task: what it takes from others
        self.order: list[tuple[Any, Any]] = []
        airflow = self

        class Node(str):
            __slots__ = ()

            def __rshift__(self, other: Any) -> Any:
                airflow.order.append((self, other))
                return other

        def task(function: Any) -> Any:
            name = Node(function.__name__)
            self.functions[name] = function
            return lambda *taken: (self.calls.update({name: taken}), name)[1]

        def operator(task_id: str, bash_command: str) -> Node:
            self.commands[task_id] = bash_command
            return Node(task_id)

        modules: dict[str, dict[str, Any]] = {
            "airflow.sdk": {"task": task, "dag": lambda **_: lambda function: function},
            "airflow.providers.standard.operators.bash": {"BashOperator": operator},
        }
        for name, content in modules.items():
            parts = name.split(".")
            for each in range(len(parts)):
                module = ModuleType(".".join(parts[: each + 1]))
                patch.setitem(sys.modules, module.__name__, module)
            vars(module).update(content)


def test_a_dag_of_airflow_starts_a_run_and_waits_for_it(
    recorder: Recorder, knock: Simulator, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow, registrar = Airflow(monkeypatch), ModuleType("knock_registrar")
    exec(MODULE, vars(registrar))  # noqa: S102 - the recipe is what is tested
    monkeypatch.setitem(sys.modules, "knock_registrar", registrar)
    monkeypatch.setenv("KNOCK_API_KEY", KEY)
    monkeypatch.setenv("KNOCK_BASE_URL", knock.url)
    exec(pointed(recipe("airflow_nightly.py"), recorder.url, token_file), {})  # noqa: S102 - the same
    assert (airflow.calls, airflow.order) == ({"read_batches": (), "start": ("read_batches",)}, [("start", "wait")])

    airflow.functions["start"](airflow.functions["read_batches"](), ts_nodash="20270115T020000")
    path = "/api/v1/groups/production/nightly/runs/20270115T020000"
    assert next_change(recorder) == ("PUT", path, {"operations": 2})
    assert {(each["group"], each["run"]) for each in recorder.next_items(2)} == {("nightly", "20270115T020000")}
    assert next_change(recorder) == ("PUT", path, {"closed": True})

    program, *words = shlex.split(airflow.commands["wait"].replace("{{ ts_nodash }}", "20270115T020000"))
    watch.make_parser(click.Context(watch, help_option_names=["-h", "--help"])).parse_args(words[1:])
    assert (program, words[0]) == ("knock-exporter", "watch")
    assert dict(zip(words[1::2], words[2::2], strict=True)) == {
        "--url": recorder.url,
        "--environment": "production",
        "--group": "nightly",
        "--run": "20270115T020000",
        "--timeout": "3h",
    }


# The rest.


def test_what_is_not_record_is_left_alone(start_program: Callable[..., Program], recorder: Recorder) -> None:
    program = start_program()
    for body in (b"", b"<html>", b"[]", b"5", b"{}", b'{"id": 1}'):
        request = httpx.Request("POST", "https://api.knock.app/v1/users/bulk/delete")
        response = httpx.Response(200, content=body, request=request)
        program.registrar.hook(response)
        assert response.content == body
    assert program.start_one().id == recorder.next_items(1)[0]["id"]
    assert recorder.nothing_more()


def test_the_asynchronous_client_has_a_hook_too(
    start_program: Callable[..., Program], recorder: Recorder, knock: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNOCK_API_KEY", KEY)
    monkeypatch.setenv("KNOCK_BASE_URL", knock.url)
    program = start_program()

    async def started() -> str:
        names: dict[str, Any] = {"registrar": program.registrar}
        exec(ASYNC, names)  # noqa: S102 - the document's code is what is tested
        async with names["knock"] as sdk:
            made: BulkOperation = await sdk.users.bulk.delete(user_ids=["ann"])
            await sdk.bulk_operations.get(made.id)
            return made.id

    recorder.gate.clear()
    assert asyncio.run(started()) == recorder.next_items(1)[0]["id"]
    recorder.gate.set()


def test_a_program_that_ends_at_once_has_registered(
    recorder: Recorder, knock: Simulator, token_file: Path, tmp_path: Path
) -> None:
    shutil.copy(RECIPES / "knock_registrar.py", tmp_path)
    script = tmp_path / "program.py"
    script.write_text(
        pointed(CLIENT, recorder.url, token_file) + 'print(knock.users.bulk.delete(user_ids=["ann"]).id)\n'
    )
    environ = {"KNOCK_API_KEY": KEY, "KNOCK_BASE_URL": knock.url}
    done = subprocess.run([sys.executable, script], env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert recorder.next_items(1)[0]["id"] == done.stdout.strip()
    assert done.stderr == ""
