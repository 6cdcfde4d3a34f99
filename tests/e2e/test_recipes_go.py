"""The recipe for Go, the file: around Go's own client, and in Knock's SDK where Go has it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from programs import KEY
from recorder import Recorder, recipe, usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.simulator import Simulator

    Drive = Callable[..., "Done"]

pytestmark = pytest.mark.e2e

MODULE = recipe("knockregistrar.go")
USAGE, RUN = usage("go")
DOCUMENTED_URL, DOCUMENTED_FILE = "http://127.0.0.1:10187", "/run/secrets/knock-exporter-token"
PAUSES = "{0, 1e9, 2e9, 4e9, 8e9, 15e9}"
SDK = "github.com/knocklabs/knock-go"
# On a new machine it builds what Go brings too, which takes long: that needs neither to be fast nor to be debugged.
BUILD = ("build", "-gcflags=all=-N -l -dwarf=false", "-ldflags=-s -w")

DELETE = ("POST", "/v1/users/bulk/delete", '{"user_ids": ["ann"]}')
# Sends what its arguments say through the middleware; writes what was answered.
DRIVER = """
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"example/knockregistrar"
)

func main() {
	registrar := knockregistrar.New(knockregistrar.Options{
		URL: os.Args[1], Environment: "production", TokenFile: os.Args[2], Group: os.Args[3], Run: os.Args[4],
	})
	defer registrar.Close()
	// A method RUN or FAIL sends the rest within a run of the group; FAIL ends it with an error.
	var send func([]string)
	send = func(rest []string) {
		if len(rest) == 0 {
			return
		}
		if rest[0] == "RUN" || rest[0] == "FAIL" {
			run := knockregistrar.RunOptions{Group: rest[1], Operations: 2, Deadline: "3h", ID: rest[2]}
			err := registrar.InRun(run, func(string) error {
				send(rest[3:6])
				if rest[0] == "FAIL" {
					return fmt.Errorf("dead")
				}
				return nil
			})
			if (err != nil) != (rest[0] == "FAIL") {
				panic("not what the work returned")
			}
			send(rest[6:])
			return
		}
		request, _ := http.NewRequest(rest[0], os.Getenv("KNOCK_BASE_URL")+rest[1], strings.NewReader(rest[2]))
		request.Header.Set("Authorization", "Bearer "+os.Getenv("KNOCK_API_KEY"))
		response, err := registrar.Middleware(request, http.DefaultClient.Do)
		if err != nil {
			panic(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || response.Body.Close() != nil {
			panic("the body is not as it came")
		}
		fmt.Println(string(body))
		send(rest[3:])
	}
	send(os.Args[5:])
}
"""
OF_SDK = """
package main

import (
	"context"

	"example/knockregistrar"

	knock "SDK"
	"SDK/option"
)

func main() {
USAGE
	ctx := context.TODO()
	batches := [][]knock.InlineIdentifyUserRequestParam{{{ID: knock.F("ann")}}, {{ID: knock.F("bob")}}}
RUN
	if err != nil {
		panic(err)
	}
}
"""


class Done:
    """What a program wrote: a JSON document on each line, and what was logged."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        assert process.returncode == 0, process.stderr
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in process.stdout.splitlines()]
        self.logged = process.stderr


def go(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Go, which must not fetch anything."""
    program = shutil.which("go")
    if program is None:  # also in CI: few who change the exporter have it
        pytest.skip("Go is not on this machine: its recipe is not tried")
    environ = os.environ | {"GOPROXY": "off", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    return subprocess.run(
        [program, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=600
    )


def written(folder: Path, main: str, *requirements: str) -> Path:
    (folder / "knockregistrar").mkdir()
    assert MODULE.count(PAUSES) == 1
    (folder / "knockregistrar" / "knockregistrar.go").write_text(MODULE.replace(PAUSES, "{0, 0, 0}"))
    (folder / "main.go").write_text(main)
    (folder / "go.mod").write_text("\n".join(["module example", "go 1.21", *requirements, ""]))
    return folder


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = written(tmp_path_factory.mktemp("go"), DRIVER)
    built = go(folder, *BUILD, "-o", "driver", ".")
    assert built.returncode == 0, built.stderr
    return folder / "driver"


@pytest.fixture
def drive(driver: Path, knock: Simulator, recorder: Recorder, token_file: Path) -> Drive:
    def driving(*requests: tuple[str, str, str], url: str = recorder.url, token: Path = token_file, **of: str) -> Done:
        arguments = [part for request in requests for part in request]
        environ = {"KNOCK_API_KEY": KEY, "KNOCK_BASE_URL": knock.url}
        command = [str(driver), url, str(token), of.get("group", ""), of.get("run", ""), *arguments]
        return Done(subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60))

    return driving


def test_what_starts_an_operation_registers_it(drive: Drive, recorder: Recorder) -> None:
    objects = ("POST", "/v1/objects/my%20cars/bulk/set", '{"objects": [{"id": "vw"}]}')
    done = drive(DELETE, objects)
    assert done.logged == ""
    made = {each["id"]: each for each in done.lines}
    for _ in range(2):
        posted = recorder.next()
        assert (posted.method, posted.path) == ("POST", "/api/v1/operations/production")
        assert posted.headers["Authorization"] == "Bearer token-of-all-environments"
        record = made.pop(posted.items[0]["id"])
        assert posted.items == [{key: record[key] for key in ("id", "name", "status", "inserted_at")}]
    assert recorder.nothing_more()


def test_operations_have_the_group_and_the_run_that_were_given(drive: Drive, recorder: Recorder) -> None:
    drive(DELETE, group="imports", run="17")
    [item] = recorder.next_items(1)
    assert (item["group"], item["run"]) == ("imports", "17")


def test_what_a_job_starts_is_a_run(drive: Drive, recorder: Recorder) -> None:
    drive(("RUN", "a/b c", ""), DELETE, DELETE, group="imports")
    posted = [recorder.next() for _ in range(4)]
    changes = {each.path for each in posted if each.method == "PUT"}
    (path,) = changes
    run = path.removeprefix("/api/v1/groups/production/a/b%20c/runs/")
    assert re.fullmatch("[0-9]{8}T[0-9]{6}Z", run)
    said = [each.items[0] for each in posted if each.method == "PUT"]
    assert sorted(said, key=len) == [{"closed": True}, {"operations": 2, "deadline": "3h"}]
    items = [each.items[0] for each in posted if each.method == "POST"]
    assert {(each["group"], each.get("run")) for each in items} == {("a/b c", run), ("imports", None)}


def test_a_job_that_dies_leaves_its_run_open(drive: Drive, recorder: Recorder) -> None:
    drive(("FAIL", "nightly", "17"), DELETE)
    posted = {each.method: each for each in (recorder.next(), recorder.next())}
    assert posted["PUT"].path == "/api/v1/groups/production/nightly/runs/17"
    assert posted["PUT"].items == [{"operations": 2, "deadline": "3h"}]
    assert (posted["POST"].items[0]["group"], posted["POST"].items[0]["run"]) == ("nightly", "17")
    assert recorder.nothing_more()


def test_other_calls_register_nothing(drive: Drive, recorder: Recorder) -> None:
    done = drive(("GET", "/v1/users/ann", ""), ("POST", "/v1/users/bulk/delete", '{"user_ids": 5}'), DELETE)
    assert [each.get("status") for each in done.lines] == [404, 422, "queued"]
    assert [each["id"] for each in recorder.next_items(1)] == [done.lines[-1]["id"]]
    assert recorder.nothing_more()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_exporter_in_trouble_is_asked_again(drive: Drive, recorder: Recorder, status: int) -> None:
    recorder.statuses = [status, status]
    done = drive(DELETE)
    assert [each["id"] for each in recorder.next_items(3)] == [done.lines[0]["id"]] * 3
    assert done.logged == ""


def test_what_goes_wrong_is_logged(drive: Drive, recorder: Recorder, tmp_path: Path) -> None:
    recorder.statuses = [401]
    done = drive(DELETE)
    assert f"knockregistrar: {done.lines[0]['id']} was not registered: HTTP 401 " in done.logged
    recorder.next()
    assert recorder.nothing_more()
    done = drive(DELETE, url="http://127.0.0.1:1")
    assert done.logged.rstrip().endswith("connection refused")
    done = drive(DELETE, token=tmp_path / "nowhere")
    assert done.logged.rstrip().endswith("no such file or directory")


def test_the_sdk_takes_it(tmp_path: Path, knock: Simulator, recorder: Recorder, token_file: Path) -> None:
    cache = Path(go(tmp_path, "env", "GOMODCACHE").stdout.strip())
    versions = sorted((cache / "cache" / "download" / SDK / "@v").glob("*.zip"))
    if not versions:
        pytest.skip(f"Go's cache of modules has no {SDK}: `go get` it first")
    assert USAGE.count(DOCUMENTED_URL) == USAGE.count(DOCUMENTED_FILE) == 1
    begin = USAGE.replace(DOCUMENTED_URL, recorder.url).replace(DOCUMENTED_FILE, str(token_file))
    main = OF_SDK.replace("USAGE", begin).replace("RUN", RUN).replace("SDK", SDK)
    written(tmp_path, main, f"require {SDK} {versions[-1].stem}")
    built = go(tmp_path, *BUILD, "-o", "program", ".")
    assert built.returncode == 0, built.stderr
    environ = {"KNOCK_API_KEY": KEY, "KNOCK_BASE_URL": knock.url}
    subprocess.run([tmp_path / "program"], env=environ, capture_output=True, text=True, check=True, timeout=60)
    posted = [recorder.next() for _ in range(4)]
    assert [each.items for each in posted if each.method == "PUT"] in (
        [[{"operations": 2}], [{"closed": True}]],
        [[{"closed": True}], [{"operations": 2}]],  # each is sent by a goroutine of its own
    )
    items = [each.items[0] for each in posted if each.method == "POST"]
    assert {(each["group"], each["name"]) for each in items} == {("nightly", "users.identify")}
