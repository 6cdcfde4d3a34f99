"""The nightly job of docs/groups.md, as it stands there: with sh, curl and a simulated Knock."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from programs import KEY, do_without
from registration_service import TOKEN

from exporter.cli import main
from exporter.simulator import Simulator, World

if TYPE_CHECKING:
    from recorder import Recorder

pytestmark = pytest.mark.e2e

DOCUMENT = (Path(__file__).parents[2] / "docs" / "groups.md").read_text(encoding="utf-8")
RUN = re.compile(r"/api/v1/groups/production/nightly-sync/runs/(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)")


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def job(folder: Path, recorder: Recorder, knock: Simulator, batches: int) -> subprocess.CompletedProcess[str]:
    if shutil.which("curl") is None:
        do_without("curl is missing: apt install curl")
    (folder / "batches").mkdir()
    for number in range(batches):
        (folder / "batches" / f"{number}.json").write_text(json.dumps({"users": [{"id": f"user-{number}"}]}))
    (folder / "register.token").write_text(f"{TOKEN}\n")
    script = block("sh").replace("http://127.0.0.1:10187", recorder.url).replace("https://api.knock.app", knock.url)
    environ = {"PATH": os.environ["PATH"], "KNOCK_API_KEY": KEY, "NO_PROXY": "*"}
    return subprocess.run(
        ["sh"], input=script, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_job_opens_its_run_hands_over_and_closes(tmp_path: Path, recorder: Recorder) -> None:
    with Simulator(world=World(seed=1)) as knock:  # it limits the rate of calls, as Knock does
        done = job(tmp_path, recorder, knock, 2)
    assert done.returncode == 0, done.stderr
    opened, *handed_over, closed = (recorder.next() for _ in range(4))
    assert (opened.items, closed.items) == ([{"operations": 2}], [{"closed": True}])
    assert opened.path == closed.path
    run = RUN.fullmatch(opened.path)
    assert run is not None
    for each in handed_over:
        assert each.path == f"/api/v1/operations/production?group=nightly-sync&run={run[1]}"
        assert each.items[0]["name"] == "users.identify"
    assert {each.headers["Authorization"] for each in (opened, *handed_over, closed)} == {f"Bearer {TOKEN}"}


def test_a_job_that_cannot_hand_over_does_not_close_its_run(
    tmp_path: Path, recorder: Recorder, knock: Simulator
) -> None:
    recorder.statuses = [200, 401]
    assert job(tmp_path, recorder, knock, 2).returncode != 0
    recorder.next_items(2)
    assert recorder.nothing_more()


def test_its_configuration_is_good(tmp_path: Path) -> None:
    (tmp_path / "knock.key").write_text(KEY)
    (tmp_path / "knock.key").chmod(0o600)
    (tmp_path / "config.yaml").write_text(block("yaml"))
    checked = CliRunner().invoke(main, ["check-config", str(tmp_path / "config.yaml")])
    assert (checked.exit_code, checked.stderr) == (0, "")
