"""`knock-exporter get`: one operation, asked of the simulator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from exporter.cli import main
from exporter.simulator import Simulator, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "sk_test_of_get"
NOWHERE = "123e4567-e89b-12d3-a456-426614174000"


@pytest.fixture
def keyed() -> Iterator[Simulator]:
    with Simulator(world=World(1, speed=1e6), api_key=KEY) as simulator:
        yield simulator


@pytest.fixture
def known(keyed: Simulator) -> str:
    return keyed.world.put(
        {
            "id": "b19d032a-fc3b-4a54-9f54-369484527201",
            "name": "objects.projects.set",
            "status": "completed",
            "estimated_total_rows": 1200,
            "processed_rows": 1200,
            "success_count": 1198,
            "error_count": 2,
            "error_items": [{"id": "jane@example.com", "collection": "projects"}, {"id": "[bold]joe"}],
            "inserted_at": "2022-05-27T11:12:08Z",
            "started_at": "2022-05-27T11:12:10Z",
            "completed_at": "2022-05-27T11:13:40Z",
            "updated_at": "2022-05-27T11:13:40Z",
        }
    )


def ask(keyed: Simulator, *arguments: str, **variables: str) -> Result:
    environ = {"KNOCK_API_KEY": KEY, "KNOCK_BASE_URL": keyed.url, "COLUMNS": "100"} | variables
    return CliRunner().invoke(main, ["get", *arguments], env=environ)


def test_a_table_for_people(keyed: Simulator, known: str) -> None:
    answer = ask(keyed, known)
    assert answer.exit_code == 0
    rows = {line[:14].strip(): line[14:].strip() for line in answer.stdout.splitlines()}
    assert rows["status"] == "completed"
    assert rows["rows"] == "1,200 of 1,200 (100%)"
    assert rows["errors"] == "2"
    assert rows["failed items"] == "2 listed (--error-items shows them)"
    assert rows["ran for"] == "1m 30s"
    assert rows["inserted"].startswith("2022-05-27 11:12:08 UTC (")
    assert "jane" not in answer.output


def test_failed_items_only_when_asked_for(keyed: Simulator, known: str) -> None:
    assert "jane@example.com" in ask(keyed, known, "--error-items").stdout
    assert "[bold]joe" in ask(keyed, known, "--error-items").stdout, "text from the wire is not markup"
    assert "jane" not in ask(keyed, known, "-o", "json").stdout
    assert "jane" in ask(keyed, known, "-o", "json", "--error-items").stdout
    assert "jane" not in ask(keyed, known, "-o", "metrics", "--error-items").stdout


def test_a_record_that_lists_no_failed_items(keyed: Simulator) -> None:
    answer = ask(keyed, keyed.world.create(rows=10, rows_per_second=1000), "--error-items")
    assert answer.stdout.endswith("\n\nKnock lists no failed items.\n")


def test_json_is_the_record(keyed: Simulator, known: str) -> None:
    document = json.loads(ask(keyed, known, "-o", "json").stdout)
    assert document["id"] == known
    assert document["error_count"] == 2


def test_metrics_are_what_the_exporter_would_show(keyed: Simulator, known: str) -> None:
    lines = ask(keyed, known, "-o", "metrics", "--environment", "staging").stdout.splitlines()
    labels = f'{{group="default",knock_environment="staging",operation_id="{known}"}}'
    assert f"knock_bulk_operation_errors{labels} 2.0" in lines
    assert f"knock_bulk_operation_duration_seconds{labels} 90.0" in lines


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"status": "completed", "error_count": 0}, 0),
        ({"status": "completed"}, 0),
        ({"status": "completed", "error_count": 1}, 1),
        ({"status": "completed", "error_items": [{"id": "jane"}]}, 1),
        ({"status": "failed"}, 1),
        ({"status": "processing", "error_count": 1}, 1),
        ({"status": "processing", "error_count": 0}, 3),
        ({"status": "queued"}, 3),
        ({"status": "paused"}, 3),
    ],
)
def test_the_exit_status_tells_how_it_stands(keyed: Simulator, record: dict[str, object], code: int) -> None:
    keyed.world.put({"id": NOWHERE} | record)
    assert ask(keyed, NOWHERE).exit_code == 0
    answer = ask(keyed, NOWHERE, "--exit-status", "-o", "json")
    assert (answer.exit_code, json.loads(answer.stdout)["status"]) == (code, record["status"])


def test_what_knock_does_not_say_is_an_exit_status_too(keyed: Simulator) -> None:
    answer = ask(keyed, NOWHERE, "--exit-status")
    assert (answer.exit_code, answer.stdout) == (4, "")
    assert "resource_missing" in answer.stderr
    assert ask(keyed, NOWHERE, "--exit-status", KNOCK_API_KEY="sk_other_key").exit_code == 4


def test_the_id_may_be_in_upper_case(keyed: Simulator, known: str) -> None:
    assert ask(keyed, known.upper()).exit_code == 0


def test_an_unknown_id_says_what_it_may_be(keyed: Simulator) -> None:
    answer = ask(keyed, NOWHERE)
    assert answer.exit_code == 1
    assert "wrong branch?" in answer.stderr
    assert "resource_missing" in answer.stderr


def test_a_refused_key_is_told_and_not_shown(keyed: Simulator) -> None:
    answer = ask(keyed, NOWHERE, KNOCK_API_KEY="sk_other_key")
    assert answer.exit_code == 1
    assert answer.stderr.startswith(f"default ({keyed.url}): HTTP 401")
    hint = ": environment variable KNOCK_API_KEY: revoked, cut off, or the key of another account?\n"
    assert answer.stderr.endswith(hint)
    assert "sk_other_key" not in answer.output


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"KNOCK_BASE_URL": "http://knock.example"}, "KNOCK_BASE_URL would send the key unprotected"),
        ({"KNOCK_BASE_URL": "knock"}, "KNOCK_BASE_URL is no"),
        ({"KNOCK_BRANCH": "a b"}, "KNOCK_BRANCH "),
        ({"KNOCK_API_KEY": "sk a"}, "environment variable KNOCK_API_KEY holds white space"),
    ],
)
def test_bad_variables_are_named(keyed: Simulator, variables: dict[str, str], message: str) -> None:
    answer = ask(keyed, NOWHERE, **variables)
    assert answer.exit_code == 1
    assert message in answer.stderr
    assert "sk a" not in answer.stderr


def test_without_a_key_it_says_where_one_could_come_from(
    keyed: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = ask(keyed, NOWHERE, KNOCK_API_KEY="")
    assert answer.exit_code == 1
    assert "set KNOCK_API_KEY, or name a configuration" in answer.stderr


def write_config(folder: Path, keyed: Simulator, known: str) -> Path:
    environments = [
        {"name": "one", "api_key": "sk_wrong", "base_url": keyed.url},
        {"name": "two", "api_key": KEY, "base_url": keyed.url, "operations": [{"id": known, "group": "sync"}]},
    ]
    path = folder / "config.yaml"
    path.write_text(json.dumps({"environments": environments}), encoding="utf-8")
    return path


def test_of_several_environments_it_takes_the_one_that_lists_the_id(
    keyed: Simulator, known: str, tmp_path: Path
) -> None:
    path = write_config(tmp_path, keyed, known)
    answer = ask(keyed, known, f"--config.file={path}", "-o", "metrics", KNOCK_API_KEY="")
    assert (
        f'knock_bulk_operation_errors{{group="sync",knock_environment="two",operation_id="{known}"}} 2.0'
        in answer.stdout
    )


def test_of_several_environments_one_must_be_named(keyed: Simulator, known: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, keyed, known)
    unnamed = ask(keyed, NOWHERE, f"--config.file={path}")
    assert unnamed.stderr == "which environment? Name one with --environment (there are: one, two)\n"
    wrong = ask(keyed, known, f"--config.file={path}", "--environment=three")
    assert wrong.stderr == '"three" is not an environment of the configuration (it has: one, two)\n'


def test_an_environment_that_is_named_needs_no_key_of_another(keyed: Simulator, known: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "environments:\n  - {name: one, api_key_file: not-here.key}\n"
        f"  - {{name: two, api_key: {KEY}, base_url: '{keyed.url}'}}\n"
    )
    answer = ask(keyed, known, f"--config.file={path}", "--environment=two")
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert "not-here.key" in ask(keyed, known, f"--config.file={path}", "--environment=one").stderr


def test_an_address_with_the_version_is_refused(keyed: Simulator, known: str) -> None:
    answer = ask(keyed, known, KNOCK_BASE_URL=f"{keyed.url}/v1")
    assert answer.stderr.startswith("KNOCK_BASE_URL must end before /v1, which is added to it")


def test_what_a_terminal_would_obey_is_replaced(keyed: Simulator) -> None:
    hostile = {"id": "\x1b]0;owned\x07\x1b[2J", "collection": "\ud800"}
    record = {"id": NOWHERE, "status": "failed", "name": "a\x1bb", "error_items": [hostile, 5, None]}
    keyed.world.put(record | {"inserted_at": "0001-01-01T00:00:00Z"})
    answer = ask(keyed, NOWHERE, "--error-items")
    assert answer.exit_code == 0, answer.output
    assert "\x1b" not in answer.stdout
    assert "owned" in answer.stdout


def test_a_list_of_failed_items_that_is_none_is_empty(keyed: Simulator) -> None:
    keyed.world.put({"id": NOWHERE, "status": "completed", "error_items": 5})
    assert ask(keyed, NOWHERE, "--error-items").exit_code == 0


def test_a_key_in_place_of_an_id_is_not_shown(keyed: Simulator) -> None:
    answer = ask(keyed, "sk_live_secret12345")
    assert answer.exit_code == 2
    assert "secret12345" not in answer.output
