"""The recipes for shells and CI: the files, with curl, jq and a shell."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from forkserver import forked_command
from programs import KEY, TOKEN, Hands, do_without, until
from recorder import recipe

from exporter.simulator import Simulator, World
from exporter.simulator.faults import StatusFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from programs import Exporter, Starter

pytestmark = pytest.mark.e2e

WORKFLOW = yaml.safe_load(recipe("github-actions.yaml"))
STEPS = {each["name"]: each for each in WORKFLOW["jobs"]["migrate"]["steps"] if "run" in each}
SCRIPTS = {name: recipe(name) for name in ("migration.sh", "migrate.sh", "rerun.sh")}
PAUSE = "sleep 1 #"
PATH = os.pathsep.join([str(forked_command().parent), os.environ["PATH"]])


class Migration:
    """A folder with batches and the scripts, a Knock, and an exporter."""

    def __init__(self, folder: Path, knock: Simulator, exporter: Exporter) -> None:
        self.folder, self._knock, self.exporter = folder, knock, exporter
        self._seen: set[str] = set()
        self._environ = {
            "PATH": PATH,
            "KNOCK_API_KEY": KEY,
            "KNOCK_BASE_URL": knock.url,
            "KNOCK_EXPORTER_URL": exporter.url,
        }
        folder.mkdir()
        (folder / "register.token").write_text(TOKEN)
        (folder / "batches").mkdir()
        assert SCRIPTS["migration.sh"].count(PAUSE) == 1
        for name, text in SCRIPTS.items():
            (folder / name).write_text(text.replace(PAUSE, "sleep 0 #"))

    def batch(self, number: int, *users: str) -> None:
        document = {"users": [{"id": each, "plan": "free"} for each in users]}
        (self.folder / "batches" / f"{number}.json").write_text(json.dumps(document))

    def run(self, script: str) -> str:
        """Run a script, which must end well; return what it wrote to standard error."""
        done = subprocess.run(
            ["sh", script], cwd=self.folder, env=self._environ, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def ends(self, batch: str, status: str, bad: Iterable[str] = ()) -> str:
        """Let the operation that a batch was last started as end so; return its id."""
        found = str(json.loads((self.folder / "started" / f"{batch}.json").read_text())["id"])
        items = [{"id": each, "collection": None} for each in bad]
        self._knock.world.put({"id": found, "status": status, "error_count": len(items), "error_items": items})
        return found

    def group(self) -> dict[str, Any]:
        found: dict[str, Any] = self.exporter.get("/api/v1/groups/production/migration").json()
        return found

    def finished(self, count: int) -> bool:
        """Whether so many operations of the run have ended, as far as the exporter has seen."""
        states = self.group()["run"]["operations"]
        return bool(states["completed"] + states["failed"] >= count)

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.exporter.get("/api/v1/operations?limit=1000").json()["operations"]
        return found

    def started(self) -> dict[str, list[str]]:
        """Return the users of what was sent to Knock since the last look, by batch."""
        fresh = [each for each in self._knock.world.ids() if each not in self._seen]
        self._seen |= {*fresh}
        answers = {json.loads(each.read_text())["id"]: each.stem for each in (self.folder / "started").iterdir()}
        return {answers[each]: [user["id"] for user in self.users(answers[each])] for each in fresh}

    def users(self, batch: str) -> list[dict[str, Any]]:
        users: list[dict[str, Any]] = json.loads((self.folder / "batches" / f"{batch}.json").read_text())["users"]
        return users


@pytest.fixture
def still() -> Iterator[Simulator]:
    """Return a Knock in which nothing ends by itself."""
    with Simulator(world=World(1, clock=Hands().clock), rate_limits=False) as simulator:
        yield simulator


@pytest.fixture
def migrating(tmp_path: Path, still: Simulator, start: Starter) -> Callable[..., Migration]:
    for name in ("curl", "jq"):
        if shutil.which(name) is None:
            do_without(f"{name} is missing: run tests/e2e/get-tools, or put it on PATH")

    def making(**settings: Any) -> Migration:
        start.use_token()
        start.keep_state()
        start.whole["labels"] = ["batch"]
        quick = {"processing": "200ms", "queued": "200ms"}
        return Migration(tmp_path / "migration", still, start(still.url, polling=quick, **settings))

    return making


@pytest.mark.parametrize("retention", ["1d", "1s"])
def test_what_failed_runs_again_and_only_that(
    migrating: Callable[..., Migration], still: Simulator, retention: str
) -> None:
    migration = migrating(retention=retention)
    for number in range(1, 5):
        migration.batch(number, *(f"user-{number}-{row}@example.com" for row in range(3)))
    still.faults.set(StatusFault(status=422, method="POST", count=1))
    assert "batch 1: not started, or not registered" in migration.run("migrate.sh")
    run = migration.group()["run"]
    assert (run["expected_operations"], run["closed_at"] is not None) == (4, True)
    assert migration.started().keys() == {"2", "3", "4"}

    failed = migration.ends("2", "failed", ["user-2-0@example.com"])
    with_errors = migration.ends("3", "completed", ["user-3-1@example.com", "user-3-2@example.com"])
    migration.ends("4", "completed")
    until(lambda: migration.finished(3), "three ended")
    if retention == "1s":
        until(lambda: not migration.listed(), "all have retired", seconds=60)
    told = migration.run("rerun.sh")
    assert f"{failed}: failed (" in told
    again = migration.started()
    items = next(each for each in again if each.startswith("items-"))
    assert again == {
        "1": [f"user-1-{row}@example.com" for row in range(3)],
        "2": [f"user-2-{row}@example.com" for row in range(3)],
        items: ["user-3-1@example.com", "user-3-2@example.com"],
    }
    assert migration.users(items)[0] == {"id": "user-3-1@example.com", "plan": "free"}, "whole, as it was sent first"
    left = {each["id"]: each["labels"]["batch"] for each in migration.listed()}
    assert {failed, with_errors} & left.keys() == set(), "what was seen to stands nowhere any more"
    assert {"1", "2", items} <= {*left.values()}
    assert migration.group()["run"]["operations"]["failed"] == 1, "the sums of the run keep it"

    for each in ("1", items):
        migration.ends(each, "completed")
    failed = migration.ends("2", "failed")
    until(lambda: migration.finished(6), "the others have ended too")
    migration.run("rerun.sh")
    assert migration.started().keys() == {"2"}, "what failed again"


def test_a_key_that_is_refused_starts_nothing(migrating: Callable[..., Migration], still: Simulator) -> None:
    migration = migrating()
    migration.batch(1, "ann")
    migration.run("migrate.sh")
    migration.ends("1", "completed", ["ann"])
    until(lambda: migration.finished(1), "it has ended")
    migration.started()
    still.faults.set(StatusFault(status=401, method="GET"))
    with pytest.raises(AssertionError, match="HTTP 401"):
        migration.run("rerun.sh")
    assert migration.started() == {}
    assert len(migration.listed()) == 1


# GitHub Actions.


CONTEXT = {
    "secrets.KNOCK_API_KEY": KEY,
    "secrets.KNOCK_EXPORTER_TOKEN": TOKEN,
    "github.run_id": "1658821493",
    "github.run_attempt": "2",
}


def run_step(folder: Path, name: str, exporter: Exporter) -> subprocess.CompletedProcess[str]:
    """Run a step as a runner does, with bash, contexts filled in and the exporter of the recipe exchanged."""
    assert WORKFLOW["env"]["KNOCK_EXPORTER_URL"] == "https://knock-exporter.example"
    environ = {
        key: re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda found: CONTEXT[found[1]], str(value))
        for key, value in (WORKFLOW["env"] | STEPS[name].get("env", {})).items()
    }
    environ |= {"PATH": PATH, "KNOCK_EXPORTER_URL": exporter.url, "RUNNER_TEMP": str(folder)}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]["run"]]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize(("end", "code"), [("completed", 0), ("failed", 1)])
def test_steps_of_github_actions_are_a_run_and_its_end(
    tmp_path: Path, still: Simulator, start: Starter, end: str, code: int
) -> None:
    start.use_token()
    start.keep_state()
    exporter = start(still.url, polling={"processing": "200ms", "queued": "200ms"})
    made = [still.world.read(still.world.create()) for _ in range(2)]
    script = tmp_path / "start-batches.sh"
    script.write_text("".join(["#!/bin/sh\n", *(f"echo {shlex.quote(json.dumps(each))}\n" for each in made)]))
    script.chmod(0o755)
    done = run_step(tmp_path, "Start the batches as one run", exporter)
    assert (done.returncode, done.stderr) == (0, "")
    assert TOKEN not in done.stdout
    group = exporter.get("/api/v1/groups/production/deploy").json()
    assert (group["run"]["id"], group["run"]["closed_at"] is not None) == ("1658821493-2", True)
    for each in made:
        still.world.put((each or {}) | {"status": end})
    done = run_step(tmp_path, "Wait for the end of the run", exporter)
    assert done.returncode == code, done.stderr
