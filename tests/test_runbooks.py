"""Each alert has a runbook that one can work by: complete, its queries right, listed with its severity."""

from __future__ import annotations

import re
from pathlib import Path

import promql
import pytest
import rules
import yaml

from exporter.knock.deadline import MAX_BODY_BYTES
from exporter.knock.failures import MAX_VALUES

ALERTS = rules.alerts()
SECTIONS = ["What happened", "Impact", "What to do first", "How to find the cause", "How it ends"]
RUN_AGAIN = [
    *("KnockOperationFailed", "KnockOperationCompletedWithErrors"),
    *(
        "KnockOperationsFailed",
        "KnockOperationsStandFailed",
        "KnockOperationsCompletedWithErrors",
        "KnockOperationsLost",
    ),
    *("KnockGroupMissedDeadline", "KnockGroupIncomplete"),
]
LIST = (promql.RUNBOOKS / "README.md").read_text()


def read(alert: str) -> str:
    return (promql.RUNBOOKS / f"{alert}.md").read_text()


def test_every_alert_has_a_runbook_and_no_other_is_there() -> None:
    files = {file.stem for file in promql.RUNBOOKS.glob("*.md")} - {"README"}
    assert files == ALERTS.keys()


def test_they_are_listed_with_their_severity_in_the_order_of_the_rules() -> None:
    listed = re.findall(r"^\| \[(\w+)\]\(\1\.md\) \| (\w+) \|", LIST, re.MULTILINE)
    assert listed == [(name, rule["severity"]) for name, rule in ALERTS.items()]


@pytest.mark.parametrize("alert", ALERTS)
def test_a_runbook_is_complete(alert: str) -> None:
    text = read(alert)
    assert text.startswith(f"# {alert}\n\nSeverity **{ALERTS[alert]['severity']}**, about ")
    more = ["Run again what failed"] if alert in RUN_AGAIN else []
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS + more
    first, rest = text.split("## What to do first")[1].split("## How to find the cause")
    assert "\n1. " in first
    assert "```promql" in rest.split("## How it ends")[0]
    assert "$ knock-exporter " in first + rest.split("## How it ends")[0]


@pytest.mark.parametrize("alert", ALERTS)
def test_how_it_ends_counts_the_time_that_an_alert_outlives_its_cause(alert: str) -> None:
    end = read(alert).partition("## How it ends\n")[2].partition("\n## ")[0]
    assert ("10 minutes (`keep_firing`)" in end.replace("\n", " ")) is (ALERTS[alert].get("keep_firing") != "none")


@pytest.mark.parametrize("alert", RUN_AGAIN)
def test_what_is_about_errors_ends_with_how_to_run_them_again(alert: str) -> None:
    recipe = re.findall(r"^## Run again what failed\n(```console\n.+?^```\n)", LIST, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\$ knock-exporter (\w+) ", recipe[0], re.MULTILINE) == ["list", "errors"]
    assert read(alert).endswith(
        "\n\n## Run again what failed\nThe failed operations whole, and single failed items of others"
        f" ([how](README.md#run-again-what-failed)):\n{recipe[0]}"
    )


@pytest.mark.parametrize("query", promql.of_runbooks(), ids=lambda query: query.file)
def test_a_query_is_promql_and_names_what_there_is(query: promql.Query) -> None:
    assert query.names() <= promql.known(), query.text
    assert "ENVIRONMENT" not in query.text


@pytest.mark.parametrize("alert", ALERTS)
def test_thresholds_that_are_named_are_there(alert: str) -> None:
    thresholds = yaml.safe_load(Path(rules.THRESHOLDS).read_text())
    named = re.findall(r"(?:[Rr]aise|set) `(\w+_(?:seconds|ratio|at_most|for))`", read(alert))
    assert set(named) <= thresholds.keys()


def test_bounds_of_an_answer_are_named_as_they_are() -> None:
    name, metrics = "KnockResponsesTooLarge", (promql.ROOT / "docs" / "metrics.md").read_text()
    listed = re.findall(rf"^\| (?:\[{name}\]|`too_large` \| a body).*", LIST + metrics, re.MULTILINE)
    assert len(listed) == 2
    for text in (ALERTS[name]["description"], read(name), *listed):
        assert f"{MAX_BODY_BYTES // 2**20} MiB" in text
        assert f"{MAX_VALUES:,} values" in text
