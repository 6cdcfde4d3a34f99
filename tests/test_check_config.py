"""`knock-exporter check-config`: what it finds, says and asks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner

from exporter.cli import main
from exporter.errors import NotFound
from exporter.keys import Secret
from exporter.knock.client import Client
from exporter.simulator import Simulator, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"
KEY = "sk_test_0123456789"
ID, OTHER = "123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174001"
GOOD = f"environments:\n  - name: production\n    api_key: {KEY}\n"
BAD = "environments:\n  - name: production\n    api_key_env: NOT_SET\n    rate_limit: fast\nnope: 1\n"


def call(*args: str, typed: str = "", **environ: str) -> Result:
    return CliRunner().invoke(main, ("check-config", *args), prog_name="knock-exporter", env=environ, input=typed)


@pytest.fixture
def config_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o077)  # what is written here holds keys
    yield tmp_path / "config.yaml"
    os.umask(before)


@pytest.fixture
def simulated() -> Iterator[Simulator]:
    with Simulator(world=World(1), api_key=KEY) as simulator:
        yield simulator


def test_what_is_good_is_ok_in_a_line(config_here: Path) -> None:
    config_here.write_text(GOOD)
    result = call(str(config_here))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "OK: 1 environment, 0 operations\n", "")


def test_print_shows_what_is_active_without_secrets(config_here: Path) -> None:
    query = "http://127.0.0.1:1/ids?token=hunter2"
    config_here.write_text(f"{GOOD}    operations_http: [{{url: '{query}'}}]\n")
    result = call("--print")
    assert (result.exit_code, result.stderr) == (0, "")
    assert KEY not in result.stdout
    assert "hunter2" not in result.stdout
    shown = yaml.safe_load(result.stdout)["environments"][0]
    assert (shown["name"], shown["api_key"], shown["rate_limit"]) == ("production", "***", 20.0)


def test_it_tells_all_problems(config_here: Path) -> None:
    config_here.write_text(BAD)
    result = call(str(config_here))
    assert (result.exit_code, result.stdout) == (1, "")
    assert [line.split(": ")[:3] for line in result.stderr.splitlines()] == [
        [str(config_here), "line 3", "environments[0].api_key_env"],
        [str(config_here), "line 4", "environments[0].rate_limit"],
        [str(config_here), "line 5", "nope"],
    ]


def test_it_takes_the_example(tmp_path: Path) -> None:
    (tmp_path / "knock.key").write_text(KEY)
    (tmp_path / "config.yaml").write_text(EXAMPLE.read_text())
    assert call(str(tmp_path / "config.yaml")).exit_code == 0


def test_it_warns_of_runs_that_may_hang_unnoticed(config_here: Path) -> None:
    groups = "{name: nightly, every: 26h}, {name: weekly, every: 8d, deadline: 6h}, {name: default}"
    config_here.write_text(f"{GOOD}    groups: [{groups}]\n")
    refused = call(str(config_here))
    assert (refused.exit_code, "groups: needs a state file" in refused.stderr) == (1, True)
    result = call(str(config_here), "--storage.path=state.db", "--print")
    assert result.exit_code == 0
    assert result.stderr == (
        'warning: group "nightly" of production has every, but no deadline: '
        "unless the job gives one, a run that hangs is noticed only when the next one is due\n"
    )
    assert yaml.safe_load(result.stdout)["storage"] == {"path": "state.db"}
    by_variable = call(str(config_here), "--print", KNOCK_EXPORTER_STORAGE_PATH="state.db")
    assert by_variable.stdout == result.stdout


def test_without_a_file_it_checks_what_run_would_read(config_here: Path) -> None:
    assert "config.yaml: no such file (name another with --config.file" in call().stderr
    config_here.write_text(GOOD)
    assert call().stdout == "OK: 1 environment, 0 operations\n"
    config_here.rename("other.yaml")
    assert call("--config.file=other.yaml").exit_code == 0
    assert call(KNOCK_EXPORTER_CONFIG_FILE="other.yaml").exit_code == 0


@pytest.mark.parametrize("how", ["pipe", "file"])
def test_standard_input_is_read_where_a_dash_is_given(config_here: Path, how: str) -> None:
    Path("knock.key").write_text(KEY)
    Path("knock.key").chmod(0o600)
    config_here.write_text("environments: [{name: production, api_key_file: knock.key}]")
    command = f"{'cat config.yaml |' if how == 'pipe' else ''} {sys.executable} -m exporter check-config -"
    redirected = f"{command} {'< config.yaml' if how == 'file' else ''}"
    done = subprocess.run(["bash", "-c", redirected], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("OK: 1 environment, 0 operations\n", "", 0)


def test_files_of_operations_are_read(config_here: Path) -> None:
    config_here.write_text(f"{GOOD}    operations: [{ID}]\n    operations_files: [ids/*.txt]\n")
    empty = call()
    assert (empty.exit_code, empty.stdout) == (0, "OK: 1 environment, 1 operation\n")
    assert empty.stderr == f"warning: operations_files of production: {config_here.parent}/ids/*.txt matches no file\n"
    Path("ids").mkdir()
    Path("ids/a.txt").write_text(f"{ID}\n{OTHER}\n")
    assert call().stdout == "OK: 1 environment, 2 operations\n"
    Path("ids/b.txt").write_text("nonsense\n")
    broken = call()
    assert (broken.exit_code, broken.stdout) == (1, "")
    assert broken.stderr.startswith(f"operations_files of production: {config_here.parent}/ids/b.txt: line 1: ")


def test_two_environments_with_one_key_are_warned_of(config_here: Path) -> None:
    config_here.write_text(f"{GOOD}  - name: copy\n    api_key: {KEY}\n")
    result = call()
    assert result.stderr == "warning: production and copy have the same API key: Knock shows both the same operations\n"
    assert result.stdout == "OK: 2 environments, 0 operations\n"
    config_here.write_text(f"{GOOD}  - name: branch\n    api_key: {KEY}\n    branch: other\n")
    assert call().stderr == ""


def test_secrets_that_every_user_can_read_are_warned_of(config_here: Path, open_folder: Path) -> None:
    os.chdir(open_folder)  # `config_here` goes back
    config_here = open_folder / "config.yaml"

    def warned(name: str) -> str:
        path = open_folder / name
        path.chmod(0o644)
        told = call(str(config_here)).stderr
        path.chmod(0o440)
        assert call(str(config_here)).stderr == ""
        return told.replace(str(path), name)

    for name in ("knock.key", "list.token", "register.token"):
        Path(name).write_text(KEY)
    config_here.write_text(
        "environments: [{name: production, api_key_file: knock.key, operations_http: [{"
        "url: 'http://127.0.0.1:1/ids', bearer_token_file: list.token}]}]\n"
        "storage: {path: state.db}\nregistration: {tokens: [{token_file: register.token}]}\n"
    )
    for name in ("knock.key", "list.token", "register.token"):
        problem = f"can be read by other users (mode 0644; chmod o-r {name})"
        assert warned(name) == f"warning: {name} holds a secret, and {problem}\n"
    config_here.write_text(GOOD)
    assert warned("config.yaml").startswith("warning: config.yaml holds a secret, and can be read by other users")
    config_here.write_text(
        "environments: [{name: production, api_key_file: knock.key, proxy: 'http://me:pw@proxy:1'}]\n"
    )
    assert warned("config.yaml").startswith("warning: config.yaml holds a secret, and can be read by other users")


def test_a_key_that_is_unlikely_to_be_one_is_warned_of(config_here: Path) -> None:
    config_here.write_text("environments: [{name: production, api_key_env: KNOCK_KEY}]")
    result = call(str(config_here), KNOCK_KEY="secret-0123456789")
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: API key of production: environment variable KNOCK_KEY does not begin with sk_, "
        "as Knock's secret keys do\n"
    )
    assert call(str(config_here), KNOCK_KEY=KEY).stderr == ""
    refused = call(str(config_here), KNOCK_KEY=f"'{KEY}'")
    assert (refused.exit_code, "environment variable KNOCK_KEY is in quotes" in refused.stderr) == (1, True)
    assert KEY not in refused.output


def test_probe_says_what_an_answer_shows(config_here: Path, simulated: Simulator) -> None:
    config_here.write_text(f"{GOOD}    base_url: {simulated.url}\n    branch: blue\n")
    result = call("--probe")
    assert result.exit_code == 0
    ok, probed = result.stdout.splitlines()
    assert ok == "OK: 1 environment, 0 operations"
    assert probed.startswith(f"production: {simulated.url} accepts the key, and answered in 0.")
    assert "; branch blue was sent (an answer does not show whether it exists); clocks agree; " in probed
    assert probed.endswith("; at most 20 requests a second (rate_limit)")


def test_probe_fails_for_a_key_that_is_refused_and_for_what_cannot_be_reached(
    config_here: Path, simulated: Simulator
) -> None:
    wrong = GOOD.replace(KEY, "sk_test_other")
    config_here.write_text(
        f"{wrong}    base_url: {simulated.url}\n  - name: gone\n    api_key: {KEY}\n    base_url: http://127.0.0.1:1\n"
    )
    result = call("--probe")
    assert (result.exit_code, result.stdout) == (1, "OK: 2 environments, 0 operations\n")
    refused, gone = result.stderr.splitlines()
    assert refused.startswith(f"production: {simulated.url} does not accept the key (HTTP 401")
    assert gone.startswith("gone: http://127.0.0.1:1: connection refused; ")
    assert "sk_test" not in result.output


def test_a_probe_tells_how_far_clocks_are_apart(simulated: Simulator) -> None:
    with closing(Client(base_url=simulated.url, key=Secret(KEY), wall=lambda: time.time() + 90)) as client:
        result = client.probe()
    assert isinstance(result.error, NotFound)
    assert result.clock_difference == pytest.approx(90, abs=5)
