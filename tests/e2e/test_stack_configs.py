"""What compose.yaml mounts and the example for Alertmanager, by their own tools."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml
from programs import tool
from promtool import MONITORING

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

EXAMPLE = MONITORING / "alertmanager.yaml"
OPERATION = {"knock_environment": "production", "group": "migration", "name": "users.identify"}


def run(*command: object) -> str:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("file", ["alertmanager.yaml", "alertmanager.demo.yaml"])
def test_amtool_finds_nothing_wrong(file: str) -> None:
    run(tool("amtool"), "check-config", MONITORING / file)


@pytest.mark.parametrize("line", [2, 3])
def test_promtool_finds_nothing_wrong_with_prometheus_configuration(line: int, tmp_path: Path) -> None:
    shutil.copytree(MONITORING / "rules", tmp_path / "rules")
    config = (MONITORING / "prometheus.yaml").read_text().replace("/etc/prometheus/rules", str(tmp_path / "rules"))
    (tmp_path / "prometheus.yaml").write_text(config)
    said = run(tool("promtool", line), "check", "config", "--lint=all", "--lint-fatal", tmp_path / "prometheus.yaml")
    assert "2 rule files found" in said


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ({"alertname": "KnockOperationsFailed", "severity": "critical", **OPERATION}, "pagerduty,slack"),
        ({"alertname": "KnockOperationFailed", "severity": "warning", **OPERATION}, "slack"),
        ({"alertname": "KnockOperationsStandFailed", "severity": "info", **OPERATION}, "slack-quiet"),
        ({"alertname": "KnockExporterDown", "severity": "critical", "instance": "a:1"}, "pagerduty,slack"),
        ({"alertname": "KnockStateNotWritten", "severity": "warning", "instance": "a:1"}, "slack"),
        ({"alertname": "KnockKeyRefused", "severity": "critical", "knock_environment": "eu"}, "pagerduty,slack"),
    ],
)
def test_an_alert_goes_where_it_should(labels: dict[str, str], receivers: str) -> None:
    written = [f"{name}={value}" for name, value in labels.items()]
    said = run(tool("amtool"), "config", "routes", "test", f"--config.file={EXAMPLE}", *written)
    assert said.strip() == receivers


def test_the_example_holds_no_secret() -> None:
    for receiver in yaml.safe_load(EXAMPLE.read_text())["receivers"]:
        for settings in (each for name, each in receiver.items() if name != "name"):
            for one in settings:
                assert {"routing_key", "service_key", "api_url"}.isdisjoint(one)
                assert any(name.endswith("_file") for name in one)
