"""The rules are what their source and thresholds make, and wrong thresholds are refused."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import generate
import pytest
import rules
import yaml

if TYPE_CHECKING:
    from pathlib import Path

RULES = rules.FOLDER / "rules"
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
    made = alerts(rules.documents(tuned(tmp_path, stalled_seconds=1234, stale_for="7m", disabled=["KnockUnreachable"])))
    assert "> 1234" in str(made["KnockOperationStalled"]["expr"])
    assert made["KnockOperationsStale"]["for"] == "7m"
    assert "KnockUnreachable" not in made
    assert "KnockNothingFinished" in made


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stalled_seconds": None}, "thresholds: missing or not known: stalled_seconds"),
        ({"staled_seconds": 1}, "thresholds: missing or not known: staled_seconds"),
        ({"disabled": ["KnockNothing"]}, "thresholds: `disabled` names no alert: KnockNothing"),
        (
            {"disabled": "KnockUnreachable", "stale_for": ["5m"]},
            "thresholds: `disabled` must be a list, the others texts or numbers: disabled, stale_for",
        ),
    ],
)
def test_wrong_thresholds_are_refused(changes: dict[str, object], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(rules.BadThresholdsError) as caught:
        rules.documents(tuned(tmp_path, **changes))
    assert str(caught.value) == complaint


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "thresholds: missing or not known: "),
        (b"- job", "thresholds: expected a mapping"),
        (b"job: ]", "line 1: is not valid YAML"),
        (b"job: a\njob: b", "line 2: job: is a duplicate"),
        (b"\xff\xfe", "line 1: is not UTF-8 text"),
    ],
)
def test_an_error_names_the_file_of_thresholds(content: bytes | None, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content)
    assert generated(file, tmp_path).startswith(f"{file}: {complaint}")


def test_a_device_as_thresholds_is_refused_and_a_pipe_is_read(tmp_path: Path) -> None:
    assert generated("/dev/zero", tmp_path) == "/dev/zero: cannot be read: is not a regular file"
    piped = f"{sys.executable} {generate.__file__} --thresholds <(cat {rules.THRESHOLDS}) --output {tmp_path}"
    subprocess.run(["bash", "-c", piped], check=True, timeout=60)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == rules.documents()


def test_every_alert_says_what_to_do_and_where_to_look() -> None:
    for name, rule in alerts(rules.documents()).items():
        assert rule["labels"] == {"severity": rule["labels"]["severity"], "service": "knock-exporter"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert {"summary", "description", "runbook_url"} <= set(rule["annotations"])
        assert str(rule["annotations"]["runbook_url"]).endswith(f"/{name}.md")


def test_alerts_link_to_the_exporter_unless_it_is_gone() -> None:
    without = {name for name, rule in alerts(rules.documents()).items() if "page_url" not in rule["annotations"]}
    assert without == {"KnockExporterDown", "KnockEnvironmentNotWatched"}


def test_alerts_link_to_dashboards_once_it_is_known_where_those_are(tmp_path: Path) -> None:
    assert "localhost" not in "".join(rules.documents().values())
    made = alerts(rules.documents(tuned(tmp_path, dashboards="https://grafana.example/d")))
    for rule in made.values():
        assert str(rule["annotations"]["dashboard_url"]).startswith("https://grafana.example/d/knock-")
