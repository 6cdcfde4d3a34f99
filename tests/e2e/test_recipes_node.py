"""The recipe for Node.js: the file, used as the document says, with Knock's SDK and Node.js."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from programs import KEY, TOOLS, do_without, tool
from recorder import Recorder, recipe, usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from exporter.simulator import Simulator

    Run = Callable[..., "Program"]

pytestmark = pytest.mark.e2e

MODULE = recipe("knock-registrar.mjs")
USAGE, RUN = usage("js")
DOCUMENTED_URL, DOCUMENTED_FILE = "http://127.0.0.1:10187", "/run/secrets/knock-exporter-token"
PAUSES = "[0, 1000, 2000, 4000, 8000, 15000]"
START_ONE = 'await knock.users.bulk.delete({ user_ids: ["ann"] })'
SAY = "const say = (value) => console.log(JSON.stringify(value));\n"


class Program:
    """A Node program that uses the recipe; each line that it writes is a JSON document."""

    def __init__(self, node: str, script: Path, environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [node, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True
        )

    def line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def end(self) -> str:
        """Wait for its end, which must be a good one; return what it wrote to standard error."""
        _, errors = self._process.communicate(timeout=30)
        assert self._process.returncode == 0, errors
        return errors

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def run(tmp_path: Path, knock: Simulator, recorder: Recorder) -> Iterator[Run]:
    node, modules = tool("node"), TOOLS / "node" / "node_modules"
    if not (modules / "@knocklabs" / "node").is_dir():
        do_without("npm's @knocklabs/node is missing: run tests/e2e/get-tools")
    (tmp_path / "node_modules").symlink_to(modules)
    token_file = tmp_path / "token"
    token_file.write_text("a-token\n")
    assert MODULE.count(PAUSES) == USAGE.count(DOCUMENTED_URL) == USAGE.count(DOCUMENTED_FILE) == 1
    (tmp_path / "knock-registrar.mjs").write_text(MODULE.replace(PAUSES, "[0, 0, 0]"))
    programs: list[Program] = []

    def running(code: str, url: str = recorder.url) -> Program:
        begin = USAGE.replace(DOCUMENTED_URL, url).replace(DOCUMENTED_FILE, str(token_file))
        script = tmp_path / "program.mjs"
        script.write_text(begin + SAY + code)
        environ = {"PATH": os.environ["PATH"], "KNOCK_API_KEY": KEY, "KNOCK_BASE_URL": knock.url}
        programs.append(Program(node, script, environ))
        return programs[-1]

    yield running
    recorder.gate.set()
    for program in programs:
        program.kill()


CREATES = """
say([
    await knock.users.bulk.identify({ users: [{ id: "ann" }] }),
    await knock.users.bulk.setPreferences({ user_ids: ["ann"], preferences: {} }),
    await knock.users.bulk.delete({ user_ids: ["ann"] }),
    await knock.objects.bulk.set("my cars", { objects: [{ id: "vw" }] }),
    await knock.objects.bulk.delete("cars", { object_ids: ["vw"] }),
    await knock.schedules.bulk.create({ schedules: [{ workflow: "digest", recipient: "ann" }] }),
]);
"""


def test_each_call_that_starts_one_registers_it(run: Run, recorder: Recorder) -> None:
    program = run(CREATES)
    made = {each["id"]: each for each in program.line()}
    assert len(made) == 6
    for _ in range(6):
        posted = recorder.next()
        assert posted.path == "/api/v1/operations/production"
        headers = {name.lower(): value for name, value in posted.headers.items()}
        assert (headers["authorization"], headers["content-type"]) == ("Bearer a-token", "application/json")
        [item] = posted.items
        believed = ("id", "name", "status", "inserted_at")
        record = made.pop(item["id"])
        assert item == {key: record[key] for key in believed} | {"group": "imports"}
    assert program.end() == ""


OTHERS = f"""
const made = {START_ONE};
const read = await knock.bulkOperations.get(made.id);
const problems = [];
for (const wrong of [
    () => knock.users.get("ann"),
    () => knock.users.bulk.delete({{ user_ids: Array(1001).fill("ann") }}),
]) {{
    try {{ await wrong(); }} catch (error) {{ problems.push(error.status); }}
}}
say({{ made, read, problems }});
"""


def test_other_calls_register_nothing_and_answers_are_the_sdks(run: Run, recorder: Recorder) -> None:
    program = run(OTHERS)
    said = program.line()
    assert program.end() == ""
    assert said["problems"] == [404, 422]
    assert said["made"].keys() == said["read"].keys()
    assert said["made"]["progress_path"] == f"/v1/bulk_operations/{said['made']['id']}"
    assert [each["id"] for each in recorder.next_items(1)] == [said["made"]["id"]]
    assert recorder.nothing_more()


def test_what_a_job_starts_is_a_run(run: Run, recorder: Recorder) -> None:
    batches = 'const batches = [[{ id: "ann" }], [{ id: "bob" }]];\n'
    program = run(batches + RUN + f"say(({START_ONE}).id);")
    last = program.line()
    assert program.end() == ""
    posted = [recorder.next() for _ in range(5)]
    opened, closed = (each for each in posted if each.method == "PUT")
    assert opened.path == closed.path
    group, _, run_id = opened.path.removeprefix("/api/v1/groups/production/").partition("/runs/")
    assert (group, opened.items, closed.items) == ("nightly", [{"operations": 2}], [{"closed": True}])
    assert re.fullmatch("[0-9]{8}T[0-9]{6}Z", run_id)
    items = [each.items[0] for each in posted if each.method == "POST"]
    inside = [each for each in items if each["id"] != last]
    assert [(each["group"], each["run"]) for each in inside] == [("nightly", run_id)] * 2
    assert [(each["group"], "run" in each) for each in items if each["id"] == last] == [("imports", False)]


def test_a_job_that_dies_leaves_its_run_open(run: Run, recorder: Recorder) -> None:
    dying = f"""
    const end = await fetch.run("a/b c", {{ deadline: "3h", run: "17" }}, async () => {{
        {START_ONE};
        throw new Error("dead");
    }}).catch((error) => error.message);
    say(end);
    """
    program = run(dying)
    assert program.line() == "dead"
    assert program.end() == ""
    posted = {each.method: each for each in (recorder.next(), recorder.next())}
    assert posted["PUT"].path == "/api/v1/groups/production/a/b%20c/runs/17"
    assert posted["PUT"].items == [{"deadline": "3h"}]
    assert posted["POST"].items[0]["run"] == "17"
    assert recorder.nothing_more()


def test_an_exporter_that_hangs_holds_nobody_up(run: Run, recorder: Recorder) -> None:
    recorder.gate.clear()
    program = run(f"for (let each = 0; each < 20; each += 1) say(({START_ONE}).id);")
    made = [program.line() for _ in range(20)]
    assert sorted(each["id"] for each in recorder.next_items(20)) == sorted(made)  # none of them answered so far
    recorder.gate.set()
    assert program.end() == ""


def test_an_exporter_that_is_down_is_a_warning_and_nothing_else(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]  # nobody listens on it any more; fetch refuses to try the low ones
    program = run(f"say(({START_ONE}).id);", f"http://127.0.0.1:{port}")
    made = program.line()
    assert program.end() == f"knock-registrar: {made} was not registered: ECONNREFUSED\n"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_exporter_in_trouble_is_asked_again(run: Run, recorder: Recorder, status: int) -> None:
    recorder.statuses = [status, status]
    program = run(f"say(({START_ONE}).id);")
    made = program.line()
    assert [each["id"] for each in recorder.next_items(3)] == [made] * 3
    assert program.end() == ""


def test_a_refusal_is_a_warning(run: Run, recorder: Recorder) -> None:
    recorder.statuses = [401]
    program = run(f"say(({START_ONE}).id);")
    made = program.line()
    assert program.end().startswith(f"knock-registrar: {made} was not registered: HTTP 401 ")
    recorder.next()
    assert recorder.nothing_more()
