"""The recipes for shells and CI, as they stand in the document, with curl, jq and a shell."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from programs import KEY, do_without
from recorder import recipe
from registration_service import TOKEN

from exporter.simulator.faults import StatusFault

if TYPE_CHECKING:
    from collections.abc import Iterable

    from api_server import ApiServer

    from exporter.simulator import Simulator

pytestmark = pytest.mark.e2e

STEPS = {each["name"]: each for each in yaml.safe_load(recipe("yaml")[0])}
SCRIPTS = {text.partition(":")[0].removeprefix("# "): text for text in recipe("sh") if text.startswith("# ")}
PAUSE = "sleep 1 #"
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


class Migration:
    """A folder with batches and the scripts, a Knock, and an exporter."""

    def __init__(self, folder: Path, token_file: Path, knock: Simulator, exporter: ApiServer) -> None:
        for name in ("curl", "jq"):
            if shutil.which(name) is None:
                do_without(f"{name} is missing: run tests/e2e/get-tools, or put it on PATH")
        self._seen: set[str] = set()
        self.folder, self._knock, self._exporter = folder, knock, exporter
        self._environ = {
            "PATH": PATH,
            "KNOCK_API_KEY": KEY,
            "KNOCK_BASE_URL": knock.url,
            "KNOCK_EXPORTER_URL": exporter.url,
        }
        folder.mkdir()
        shutil.copy(token_file, folder / "token")
        (folder / "batches").mkdir()
        assert SCRIPTS["migration.sh"].count(PAUSE) == 1
        for name in ("migration.sh", "migrate.sh", "rerun.sh"):
            (folder / name).write_text(SCRIPTS[name].replace(PAUSE, "sleep 0 #"))

    def batch(self, number: int, *users: str) -> None:
        document = {"users": [{"id": each, "plan": "free"} for each in users]}
        (self.folder / "batches" / f"{number}.json").write_text(json.dumps(document))

    def run(self, script: str) -> str:
        """Run a script, which must end well; return what it wrote to standard error."""
        done = subprocess.run(
            ["sh", script], cwd=self.folder, env=self._environ, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def operation(self, batch: str) -> str:
        """Return the id of the operation that a batch was last started as."""
        return str(json.loads((self.folder / "started" / f"{batch}.json").read_text())["id"])

    def ends(self, batch: str, status: str, bad: Iterable[str] = ()) -> str:
        """Let the operation of a batch end so; return its id."""
        found = self.operation(batch)
        items = [{"id": each, "collection": None} for each in bad]
        self._knock.world.put({"id": found, "status": status, "error_count": len(items), "error_items": items})
        for each in self._exporter.operations:
            if each["id"] == found:
                each |= {"status": status, "with_errors": bool(items)}
        return found

    def started(self) -> dict[str, list[str]]:
        """Return which users were sent to Knock since the last look, by what they were sent in."""
        sent = {
            each["labels"]["batch"]: [user["id"] for user in self._batch(each["labels"]["batch"])]
            for each in self._exporter.operations
            if each["id"] not in self._seen
        }
        self._seen |= {each["id"] for each in self._exporter.operations}
        return sent

    def _batch(self, batch: str) -> list[dict[str, Any]]:
        users: list[dict[str, Any]] = json.loads((self.folder / "batches" / f"{batch}.json").read_text())["users"]
        return users


@pytest.fixture
def migration(tmp_path: Path, token_file: Path, knock: Simulator, api_server: ApiServer) -> Migration:
    return Migration(tmp_path / "migration", token_file, knock, api_server)


def test_what_failed_runs_again_and_only_that(migration: Migration, knock: Simulator, api_server: ApiServer) -> None:
    for number in range(1, 6):
        migration.batch(number, *(f"user-{number}-{row}@example.com" for row in range(3)))
    knock.faults.set(StatusFault(status=422, method="POST", count=1))
    assert "batch 1: not started, or not registered" in migration.run("migrate.sh")
    run = api_server.groups["migration"]["run"]
    assert (run["expected_operations"], run["closed_at"] is not None) == (5, True)
    assert {each["run"] for each in api_server.operations} == {run["id"]}
    assert migration.started().keys() == {"2", "3", "4", "5"}

    failed = migration.ends("2", "failed", ["user-2-0@example.com"])
    with_errors = migration.ends("3", "completed", ["user-3-1@example.com", "user-3-2@example.com"])
    clean = [migration.ends(each, "completed") for each in ("4", "5")]
    told = migration.run("rerun.sh")
    assert f"{failed}: failed (" in told
    again = migration.started()
    items = next(each for each in again if each.startswith("items-"))
    assert again == {
        "1": [f"user-1-{row}@example.com" for row in range(3)],
        "2": [f"user-2-{row}@example.com" for row in range(3)],
        items: ["user-3-1@example.com", "user-3-2@example.com"],
    }
    users = json.loads((migration.folder / "batches" / f"{items}.json").read_text())["users"]
    assert users[0] == {"id": "user-3-1@example.com", "plan": "free"}, "whole, as it was sent first"
    left = {each["id"] for each in api_server.operations}
    assert {failed, with_errors} & left == set(), "what was handled stands nowhere any more"
    assert left == {*clean, *(migration.operation(each) for each in again)}
    assert {each["run"] for each in api_server.operations} == {run["id"]}

    for each in ("1", items):
        migration.ends(each, "completed")
    migration.ends("2", "failed")
    migration.run("rerun.sh")
    assert migration.started().keys() == {"2"}, "what failed again"
    migration.ends("2", "completed")
    migration.run("rerun.sh")
    assert migration.started() == {}


def test_a_key_that_is_refused_starts_nothing(migration: Migration, knock: Simulator, api_server: ApiServer) -> None:
    migration.batch(1, "ann")
    migration.run("migrate.sh")
    migration.ends("1", "completed", ["ann"])
    migration.started()
    knock.faults.set(StatusFault(status=401, method="GET"))
    with pytest.raises(AssertionError, match="HTTP 401"):
        migration.run("rerun.sh")
    assert migration.started() == {}
    assert len(api_server.operations) == 1


# GitHub Actions.


def run_step(folder: Path, name: str, exporter: ApiServer) -> subprocess.CompletedProcess[str]:
    """Run a step as a runner does, with bash, secrets filled in and the documented exporter exchanged."""
    step = STEPS[name]
    assert step["env"]["KNOCK_EXPORTER_URL"] == "https://knock-exporter.example"
    environ = {
        key: str(value).replace("${{ secrets.KNOCK_EXPORTER_TOKEN }}", TOKEN) for key, value in step["env"].items()
    }
    environ |= {"PATH": PATH, "KNOCK_EXPORTER_URL": exporter.url}
    environ |= {"RUNNER_TEMP": str(folder), "GITHUB_RUN_ID": "1658821493", "GITHUB_RUN_ATTEMPT": "2"}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=300)


def test_a_step_of_github_actions_is_a_run(tmp_path: Path, knock: Simulator, api_server: ApiServer) -> None:
    made = [knock.world.read(knock.world.create()) for _ in range(2)]
    script = tmp_path / "start-batches.sh"
    script.write_text("".join(["#!/bin/sh\n", *(f"echo {shlex.quote(json.dumps(each))}\n" for each in made)]))
    script.chmod(0o755)
    done = run_step(tmp_path, "Start the batches, as one run", api_server)
    assert (done.returncode, done.stderr) == (0, "")
    assert TOKEN not in done.stdout
    run = "1658821493-2"
    assert {(each["id"], each["group"], each["run"]) for each in api_server.operations} == {
        (each["id"], "deploy", run) for each in made if each
    }
    assert (api_server.groups["deploy"]["run"]["id"], api_server.groups["deploy"]["run"]["closed_at"]) == (
        run,
        "2027-01-15T03:00:00Z",
    )
