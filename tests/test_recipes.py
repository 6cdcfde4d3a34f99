"""The recipe for Knock's Python SDK, as it stands in the document, with that SDK."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Any

import httpx
import knockapi
import pytest
from knockapi import AsyncKnock, DefaultAsyncHttpxClient, Knock
from recorder import PATIENCE, RECIPES, Recorder, recipe

from exporter.knock.simulator import Simulator, World
from exporter.operation import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from knockapi.types import BulkOperation

KEY = "sk_test_recipes"
BLOCKS = recipe("python")
DOCUMENTED_URL, DOCUMENTED_FILE = "http://127.0.0.1:10187", "/run/secrets/knock-exporter-token"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(world=World(seed=1), rate_limits=False) as running:
        yield running


@pytest.fixture
def exporter() -> Iterator[Recorder]:
    with Recorder().running() as running:
        yield running


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("a-token\n")
    return path


def from_document(exporter: str, token_file: Path) -> str:
    usage = BLOCKS[1]
    assert usage.count(DOCUMENTED_URL) == usage.count(DOCUMENTED_FILE) == 1
    return usage.replace(DOCUMENTED_URL, exporter).replace(DOCUMENTED_FILE, str(token_file))


class Program:
    """A program that uses the recipe, and what the recipe logs."""

    def __init__(self, simulator: Simulator, exporter: str, token_file: Path, **constants: Any) -> None:
        module = ModuleType("knock_registrar")
        exec(BLOCKS[0], vars(module))  # noqa: S102 - the document's code is what is tested
        vars(module).update({"PAUSES": (0, 0, 0)} | constants)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "knock_registrar", module)
            patch.setenv("KNOCK_API_KEY", KEY)
            patch.setenv("KNOCK_BASE_URL", simulator.url)
            names: dict[str, Any] = {}
            exec(from_document(exporter, token_file), names)  # noqa: S102 - the same
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
def start(simulator: Simulator, exporter: Recorder, token_file: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def starting(url: str = exporter.url, **constants: Any) -> Program:
        programs.append(Program(simulator, url, token_file, **constants))
        return programs[-1]

    yield starting
    exporter.gate.set()
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
    start: Callable[..., Program], exporter: Recorder, simulator: Simulator, name: str
) -> None:
    made = CREATES[name](start().knock)
    posted = exporter.next()
    assert posted.path == "/api/v1/operations/production"
    assert posted.headers["Authorization"] == "Bearer a-token"
    assert posted.headers["Content-Type"] == "application/json"
    [item] = posted.items
    assert item == {"id": made.id, "name": name, "status": "queued", "inserted_at": item["inserted_at"]}
    assert parse_time(item["inserted_at"]) == made.inserted_at.timestamp()
    assert made.name == name


def test_the_answer_is_that_of_the_sdk_alone(start: Callable[..., Program], simulator: Simulator) -> None:
    made = start().start_one().to_dict()
    with Knock(api_key=KEY, base_url=simulator.url) as plain:
        alone = plain.users.bulk.delete(user_ids=["ann"]).to_dict()
    own = {"id", "inserted_at", "updated_at", "progress_path"}
    assert made.keys() == alone.keys()
    assert {key: made[key] for key in made.keys() - own} == {key: alone[key] for key in alone.keys() - own}


def test_other_calls_register_nothing(start: Callable[..., Program], exporter: Recorder) -> None:
    program = start()
    made = program.start_one()
    assert exporter.next_items(1)[0]["id"] == made.id
    program.knock.bulk_operations.get(made.id)
    with pytest.raises(knockapi.NotFoundError):
        program.knock.users.get("ann")
    with pytest.raises(knockapi.UnprocessableEntityError):
        program.knock.users.bulk.delete(user_ids=["ann"] * 1001)
    last = program.start_one()
    assert [each["id"] for each in exporter.next_items(1)] == [last.id]
    assert exporter.nothing_more()
    assert program.logged.empty()


def test_an_answer_that_is_streamed_can_still_be_read(start: Callable[..., Program], exporter: Recorder) -> None:
    with start().knock.users.bulk.with_streaming_response.delete(user_ids=["ann"]) as answer:
        document: Any = answer.json()
        assert document["id"] == exporter.next_items(1)[0]["id"]


# An exporter that is in trouble.


def test_an_exporter_that_is_down_is_logged_and_nothing_else(
    start: Callable[..., Program], simulator: Simulator
) -> None:
    program = start("http://127.0.0.1:1")
    made = program.start_one()
    assert made.status == "queued"
    assert program.logged.get(timeout=PATIENCE) == f"not registered: ['{made.id}']: ConnectError"


def test_an_exporter_that_hangs_holds_nobody_up(start: Callable[..., Program], exporter: Recorder) -> None:
    program = start()
    exporter.gate.clear()
    first = program.start_one()
    assert exporter.next_items(1)[0]["id"] == first.id
    others = [program.start_one().id for _ in range(20)]  # all answered while the first registration hangs
    assert exporter.nothing_more()
    exporter.gate.set()
    assert [each["id"] for each in exporter.next_items(20)] == others


def test_more_than_can_wait_is_dropped_and_logged(start: Callable[..., Program], exporter: Recorder) -> None:
    program = start(MOST_WAITING=2)
    exporter.gate.clear()
    program.start_one()
    exporter.next()
    waiting = [program.start_one().id for _ in range(2)]
    assert program.start_one().status == "queued"
    assert program.logged.get(timeout=PATIENCE) == "a bulk operation could not be noted"
    exporter.gate.set()
    assert [each["id"] for each in exporter.next_items(2)] == waiting


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_exporter_in_trouble_is_asked_again(start: Callable[..., Program], exporter: Recorder, status: int) -> None:
    exporter.statuses = [status, status]
    program = start()
    made = program.start_one()
    assert [each["id"] for each in exporter.next_items(3)] == [made.id] * 3
    assert program.start_one().id == exporter.next_items(1)[0]["id"]
    assert program.logged.empty()


def test_an_exporter_that_stays_in_trouble_is_given_up(start: Callable[..., Program], exporter: Recorder) -> None:
    exporter.statuses = [500] * 3
    program = start()
    made = program.start_one()
    assert program.logged.get(timeout=PATIENCE).startswith(f"not registered: ['{made.id}']: HTTP 500 ")


def test_a_refusal_is_not_repeated(start: Callable[..., Program], exporter: Recorder) -> None:
    exporter.statuses = [401]
    program = start()
    made = program.start_one()
    assert program.logged.get(timeout=PATIENCE).startswith(f"not registered: ['{made.id}']: HTTP 401 ")
    exporter.next()
    assert exporter.nothing_more()


def test_a_token_is_renewed_and_may_be_missing(
    start: Callable[..., Program], exporter: Recorder, token_file: Path
) -> None:
    program = start()
    token_file.write_text("another\n")
    program.start_one()
    assert exporter.next().headers["Authorization"] == "Bearer another"
    token_file.unlink()
    assert program.start_one().status == "queued"
    assert "FileNotFoundError" in program.logged.get(timeout=PATIENCE)
    token_file.write_text("a third\none")
    program.start_one()
    told = program.logged.get(timeout=PATIENCE)
    assert told.endswith(": LocalProtocolError")
    token_file.write_text("a third")
    program.start_one()
    assert exporter.next().headers["Authorization"] == "Bearer a third"


# The rest.


def test_what_is_no_record_is_left_alone(start: Callable[..., Program], exporter: Recorder) -> None:
    program = start()
    for body in (b"", b"<html>", b"[]", b"5", b"{}", b'{"id": 1}'):
        request = httpx.Request("POST", "https://api.knock.app/v1/users/bulk/delete")
        response = httpx.Response(200, content=body, request=request)
        program.registrar.hook(response)
        assert response.content == body
    assert program.start_one().id == exporter.next_items(1)[0]["id"]
    assert exporter.nothing_more()


def test_the_asynchronous_client_has_a_hook_too(
    start: Callable[..., Program], exporter: Recorder, simulator: Simulator
) -> None:
    assert '`DefaultAsyncHttpxClient(event_hooks={"response": [registrar.async_hook]})`' in RECIPES.read_text("utf-8")
    program = start()

    async def started() -> str:
        client = DefaultAsyncHttpxClient(event_hooks={"response": [program.registrar.async_hook]})
        async with AsyncKnock(api_key=KEY, base_url=simulator.url, http_client=client) as knock:
            made = await knock.users.bulk.delete(user_ids=["ann"])
            await knock.bulk_operations.get(made.id)
            return made.id

    exporter.gate.clear()
    assert asyncio.run(started()) == exporter.next_items(1)[0]["id"]
    exporter.gate.set()


def test_a_program_that_ends_at_once_has_registered(
    exporter: Recorder, simulator: Simulator, token_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "knock_registrar.py").write_text(BLOCKS[0])
    script = tmp_path / "program.py"
    script.write_text(from_document(exporter.url, token_file) + 'print(knock.users.bulk.delete(user_ids=["ann"]).id)\n')
    environ = {"KNOCK_API_KEY": KEY, "KNOCK_BASE_URL": simulator.url}
    done = subprocess.run([sys.executable, script], env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert exporter.next_items(1)[0]["id"] == done.stdout.strip()
    assert done.stderr == ""
