"""The rules are what their source and thresholds make, and wrong thresholds are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import generate
import pytest
import rules
import yaml
from jsonschema import Draft7Validator

PATH = os.environ["PATH"]
RULES = rules.FOLDER / "rules"
CHART = rules.FOLDER.parent / "helm" / "knock-exporter"
TUNED = yaml.load(rules.THRESHOLDS.read_text(), Loader=yaml.CSafeLoader)


def tuned(folder: Path, **changes: object) -> Path:
    """Write thresholds with changes; None takes one away."""
    values = {name: value for name, value in (TUNED | changes).items() if value is not None}
    file = folder / "thresholds.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def alerts(documents: dict[str, str]) -> dict[str, dict[str, Any]]:
    groups = yaml.load(documents["alerts.yaml"], Loader=yaml.CSafeLoader)["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def generated(thresholds: object, folder: Path) -> str:
    """Return what generate.py says about these thresholds when it refuses them."""
    with pytest.raises(SystemExit) as refused:
        generate.main([f"--thresholds={thresholds}", f"--output={folder / 'rules'}"])
    assert not (folder / "rules").exists()
    return str(refused.value)


def test_the_committed_rules_are_what_the_source_makes() -> None:
    made = rules.documents()
    assert {file.name: file.read_text() for file in RULES.iterdir()} == made, "run `make monitoring`"


def test_a_threshold_reaches_its_rule(tmp_path: Path) -> None:
    changes = {"stalled_seconds": 1234, "stale_for": "7m", "down_for": "0s", "disabled": ["KnockUnreachable"]}
    made = alerts(rules.documents(tuned(tmp_path, **changes)))
    assert "> 1234" in str(made["KnockOperationStalled"]["expr"])
    assert made["KnockOperationsStale"]["for"] == "7m"
    assert "KnockUnreachable" not in made
    assert "KnockNothingFinished" in made


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"staled_seconds": 1}, "not known: staled_seconds (the names are those of thresholds.yaml)"),
        ({"disabled": ["KnockNothing"]}, "`disabled` names no alert: KnockNothing"),
        ({"disabled": "KnockUnreachable"}, "disabled: expected a list of alerts, got 'KnockUnreachable'"),
        ({"stale_for": ["5m"]}, "stale_for: expected a duration such as 5m, got ['5m']"),
        ({"stale_for": "5 minutes"}, "stale_for: expected a duration such as 5m, got '5 minutes'"),
        ({"stale_for": ""}, "stale_for: expected a duration such as 5m, got ''"),
        ({"remembered": "0d"}, "remembered: expected a duration above 0 such as 1d, got '0d'"),
        ({"stalled_seconds": "30m"}, "stalled_seconds: expected a number from 0, got '30m'"),
        ({"stalled_seconds": -5}, "stalled_seconds: expected a number from 0, got -5"),
        ({"stalled_seconds": True}, "stalled_seconds: expected a number from 0, got True"),
        ({"operation_error_ratio": 5}, "operation_error_ratio: expected a number from 0 to 1, got 5"),
        ({"dashboards": 5}, "dashboards: expected a text, got 5"),
    ],
)
def test_wrong_thresholds_are_refused(changes: dict[str, object], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(rules.BadThresholdsError) as caught:
        rules.documents(tuned(tmp_path, **changes))
    assert str(caught.value) == complaint


@pytest.mark.parametrize(
    "text", ["5m", "1h30m", "0s", "1d0h", "100ms", "", "0", "5", "m5", "-5m", "1.5h", "5 m", "5m1h"]
)
@pytest.mark.parametrize("name", ["stale_for", "keep_firing", "remembered"])
def test_the_chart_takes_the_durations_that_the_rules_take(name: str, text: str, tmp_path: Path) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["prometheusRule"]["properties"]
    try:
        rules.documents(tuned(tmp_path, **{name: text}))
    except rules.BadThresholdsError:
        taken = False
    else:
        taken = True
    assert Draft7Validator(schema["thresholds"]["properties"][name]).is_valid(text) is taken


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file or directory"),
        (b"- job", "expected a mapping of names to values"),
        (b"job: ]", "line 1: "),
        (b"job: a\njob: b", "line 2: job is a duplicate"),
        (b"job: \xff\xfe", "is not UTF-8 text"),
    ],
)
def test_an_error_names_the_file_of_thresholds(content: bytes | None, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content)
    assert generated(file, tmp_path).startswith(f"{file}: {complaint}")


def test_thresholds_of_your_own_need_to_name_only_what_they_change(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("stalled_seconds: 1234\n")
    assert rules.documents(file) == rules.documents(tuned(tmp_path, stalled_seconds=1234))
    file.write_text("# as they are\n")
    assert rules.documents(file) == rules.documents()


def test_rules_are_generated_with_nothing_but_pyyaml(tmp_path: Path) -> None:
    (tmp_path / "yaml").symlink_to(Path(yaml.__file__).parent)
    piped = (
        f"{sys.executable} -S {generate.__file__} --thresholds <(cat {rules.THRESHOLDS}) --output {tmp_path / 'rules'}"
    )
    subprocess.run(["bash", "-c", piped], check=True, timeout=60, env={"PYTHONPATH": str(tmp_path), "PATH": PATH})
    assert {file.name: file.read_text() for file in (tmp_path / "rules").iterdir()} == rules.documents()


def test_dashboards_say_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "yaml").symlink_to(Path(yaml.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-S", generate.__file__],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PYTHONPATH": str(tmp_path), "PATH": PATH},
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "the dashboards need grafana-foundation-sdk: `make monitoring` installs it; rules alone: --output FOLDER\n"
    )


def test_every_alert_says_what_to_do_and_where_to_look() -> None:
    for name, rule in alerts(rules.documents()).items():
        assert rule["labels"] == {"severity": rule["labels"]["severity"], "service": "knock-exporter"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert {"summary", "description", "runbook_url"} <= set(rule["annotations"])
        assert str(rule["annotations"]["runbook_url"]).endswith(f"/{name}.md")


def test_alerts_link_to_the_exporter_unless_it_is_gone() -> None:
    without = {name for name, rule in alerts(rules.documents()).items() if "page_url" not in rule["annotations"]}
    of_two_kinds = {"KnockRegistrationsRefused"}  # of an environment, or of an exporter
    assert without == {"KnockExporterDown", "KnockEnvironmentNotWatched"} | of_two_kinds


def test_alerts_link_to_dashboards_once_it_is_known_where_those_are(tmp_path: Path) -> None:
    assert "localhost" not in "".join(rules.documents().values())
    made = alerts(rules.documents(tuned(tmp_path, dashboards="https://grafana.example/d")))
    for rule in made.values():
        assert str(rule["annotations"]["dashboard_url"]).startswith("https://grafana.example/d/knock-")
