"""Rules and dashboards in the chart: those of monitoring/, tuned and left out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import rules
import yaml
from charts import CHART, of_kind, rendered
from programs import run, tool
from promtool import MONITORING

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

AS_THEY_ARE = CHART / "tests" / "values" / "pod-monitor.yaml"
GRAFANA = "https://grafana.example/d"
NEWS = "KnockOperationsFailed"
TUNED = CHART / "tests" / "values" / "operators.yaml"


def groups(*args: str) -> list[dict[str, Any]]:
    (rule,) = of_kind(rendered(4, "--values", str(AS_THEY_ARE), *args), "PrometheusRule")
    found: list[dict[str, Any]] = rule["spec"]["groups"]
    return found


def test_rules_are_those_of_monitoring_and_link_to_grafana_once_it_is_known() -> None:
    values = yaml.safe_load(rules.THRESHOLDS.read_text())
    for args, dashboards in (
        ((), ""),
        (("--set", f"prometheusRule.thresholds.dashboards={GRAFANA}"), GRAFANA),
    ):
        made = rules.made(values | {"dashboards": dashboards})
        expected = [each for name in ("recording", "alerts") for each in yaml.safe_load(made[f"{name}.yaml"])["groups"]]
        assert groups(*args) == expected
        assert (GRAFANA in str(expected)) == bool(dashboards)
        assert "localhost" not in str(expected)


@pytest.mark.parametrize(
    ("args", "job"),
    [
        ((), 'job=~".*knock.*"'),
        (("--set", "nameOverride=my-knock"), 'job=~".*knock.*"'),
        (("--set", "nameOverride=bulk"), 'job="bulk"'),
        (("--set", "nameOverride=bulk", "--set", 'prometheusRule.thresholds.job=job="mine"'), 'job="mine"'),
    ],
)
def test_rules_select_the_job_that_the_monitor_makes(args: tuple[str, ...], job: str) -> None:
    (down,) = [each for group in groups(*args) for each in group["rules"] if each.get("alert") == "KnockExporterDown"]
    assert f"up{{{job}}}" in down["expr"]


def test_a_threshold_may_be_nothing() -> None:
    def failed(*args: str) -> str:
        (found,) = [each for group in groups(*args) for each in group["rules"] if each.get("alert") == NEWS]
        return str(found["expr"])

    assert "< 900" in failed()
    assert failed("--set", "prometheusRule.thresholds.news_seconds=0") == failed().replace("< 900", "< 0")


def test_any_alert_can_be_left_out() -> None:
    def alerts(*args: str) -> set[str]:
        return {each["alert"] for group in groups(*args) for each in group["rules"] if "alert" in each}

    every = alerts("--set-json", "prometheusRule.disabled=[]")
    assert alerts() == every - {"KnockNothingFinished"}
    assert alerts("--set", "prometheusRule.disabled={KnockExporterDown}") == every - {"KnockExporterDown"}


def test_dashboards_are_those_of_monitoring() -> None:
    made = rendered(4, "--values", str(AS_THEY_ARE))
    for name in ("overview", "exporter"):
        text = json.loads((MONITORING / "dashboards" / f"{name}.json").read_text())
        (map_,) = [each for each in of_kind(made, "ConfigMap") if f"{name}.json" in each.get("data", {})]
        assert json.loads(map_["data"][f"{name}.json"]) == text
        assert text in [json.loads(each["spec"]["json"]) for each in of_kind(made, "GrafanaDashboard")]


@pytest.mark.parametrize("line", [2, 3])
def test_tuned_rules_pass_promtool(line: int, tmp_path: Path) -> None:
    (rule,) = of_kind(rendered(4, "--values", str(TUNED)), "PrometheusRule")
    alerts = {each["alert"]: each for group in rule["spec"]["groups"] for each in group["rules"] if "alert" in each}
    assert "> 1800" in alerts["KnockOperationStalled"]["expr"]
    assert alerts["KnockOperationsStale"]["for"] == "10m"
    assert "KnockNothingFinished" in alerts
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    run(tool("promtool", line), "check", "rules", file)
