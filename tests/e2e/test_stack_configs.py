"""What compose.yaml mounts and the example for Alertmanager, by their own tools."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import stack as stacks
import yaml
from programs import WEB, run, tool, until
from promtool import MONITORING

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

EXAMPLE = MONITORING / "alertmanager.yaml"
GROUP = {"knock_environment": "production", "group": "migration"}
OF_RUNS = {"KnockGroupDidNotRun", "KnockGroupMissedDeadline", "KnockGroupWillMissDeadline"}
OPERATION = {**GROUP, "name": "users.identify"}


@pytest.mark.parametrize("file", ["alertmanager.yaml", "alertmanager.simple.yaml", "alertmanager.demo.yaml"])
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
        ({"alertname": "KnockGroupMissedDeadline", "severity": "critical", **GROUP}, "pagerduty,slack"),
        ({"alertname": "KnockGroupWillMissDeadline", "severity": "warning", **GROUP}, "slack"),
        ({"alertname": "KnockExporterDown", "severity": "critical", "instance": "a:1"}, "pagerduty,slack"),
        ({"alertname": "KnockStateNotWritten", "severity": "warning", "instance": "a:1"}, "slack"),
        ({"alertname": "KnockKeyRefused", "severity": "critical", "knock_environment": "eu"}, "pagerduty,slack"),
    ],
)
def test_an_alert_goes_where_it_should(labels: dict[str, str], receivers: str) -> None:
    written = [f"{name}={value}" for name, value in labels.items()]
    said = run(tool("amtool"), "config", "routes", "test", f"--config.file={EXAMPLE}", *written)
    assert said.strip() == receivers


def alert(alertname: str, /, **labels: str) -> dict[str, dict[str, str]]:
    return {"labels": {"alertname": alertname, "service": "knock-exporter", "severity": "warning", **labels}}


def test_what_follows_from_a_cause_is_held_back_and_a_broken_migration_is_told_once(tmp_path: Path) -> None:
    blind = {"knock_environment": "blind", "group": "migration", "name": "users.identify"}
    refused = {"knock_environment": "refused", "group": "migration", "name": "users.identify"}
    sent = [
        alert("KnockExporterDown", instance="a:1", knock_environment="blind"),
        *(alert(name, **blind) for name in ("KnockOperationsFailed", "KnockOperationsStale", "KnockKeyRefused")),
        alert("KnockEnvironmentNotWatched", knock_environment="blind"),
        alert("KnockKeyRefused", knock_environment="refused"),
        *(alert(name, **refused) for name in ("KnockOperationsFailed", "KnockOperationsStale")),
        *(alert("KnockOperationFailed", operation_id=str(number), **OPERATION) for number in range(10)),
    ]
    with stacks.Told().listening() as told, stacks.alertmanager(tmp_path, told) as url:
        assert WEB.post(f"{url}/api/v2/alerts", json=sent, timeout=30).ok
        until(lambda: len(told.alerts("KnockOperationFailed")) == 10, "told")
        until(lambda: told.alerts("KnockOperationsFailed", knock_environment="refused"), "told of the refused too")
        found = WEB.get(f"{url}/api/v2/alerts", timeout=30).json()
    held = {
        (each["labels"]["alertname"], each["labels"]["knock_environment"])
        for each in found
        if each["status"]["inhibitedBy"]
    }
    assert held == {
        *((name, "blind") for name in ("KnockOperationsFailed", "KnockOperationsStale", "KnockKeyRefused")),
        *(("KnockEnvironmentNotWatched", "blind"), ("KnockOperationsStale", "refused")),
    }
    assert not told.alerts("KnockOperationsFailed", knock_environment="blind")
    assert [len(each["alerts"]) for each in told.notifications if each["groupLabels"] == OPERATION] == [10]


@pytest.mark.parametrize(
    ("cause", "held"),
    [
        ("KnockKeyRefused", OF_RUNS),
        ("KnockUnreachable", OF_RUNS),
        ("KnockGroupIncomplete", {"KnockGroupMissedDeadline"}),
    ],
)
def test_what_follows_for_a_group_is_held_back(cause: str, held: set[str], tmp_path: Path) -> None:
    causes = GROUP if cause.startswith("KnockGroup") else {"knock_environment": GROUP["knock_environment"]}
    others = [GROUP | {"knock_environment": "staging"}, *([GROUP | {"group": "nightly"}] if "group" in causes else [])]
    sent = [alert(cause, **causes), *(alert(name, **where) for name in OF_RUNS for where in (GROUP, *others))]
    loud = [(name, where) for name in OF_RUNS for where in (GROUP, *others) if name not in held or where in others]
    with stacks.Told().listening() as told, stacks.alertmanager(tmp_path, told) as url:
        assert WEB.post(f"{url}/api/v2/alerts", json=sent, timeout=30).ok
        until(lambda: all(told.alerts(name, **where) for name, where in loud), "told")
        assert not [name for name in held if told.alerts(name, **GROUP)]


@pytest.mark.parametrize("example", [EXAMPLE, MONITORING / "alertmanager.simple.yaml"], ids=lambda file: file.name)
def test_an_example_holds_no_secret(example: Path) -> None:
    for receiver in yaml.safe_load(example.read_text())["receivers"]:
        for settings in (each for name, each in receiver.items() if name != "name"):
            for one in settings:
                assert {"routing_key", "service_key", "api_url"}.isdisjoint(one)
                here = str(one.get("url")).startswith("http://127.0.0.1:")
                assert here or any(name.endswith("_file") for name in one)
