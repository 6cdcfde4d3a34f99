"""What is generated in the chart is what its sources make."""

from __future__ import annotations

import json
import re
from typing import Any

import chart
import pytest
import yaml

from exporter import __version__


@pytest.fixture(scope="module")
def documents() -> dict[str, str]:
    return chart.documents()


def test_what_is_committed_is_what_the_sources_make(documents: dict[str, str]) -> None:
    assert {name: (chart.CHART / name).read_text() for name in documents} == documents, "run `make chart`"


def test_the_chart_is_of_this_version() -> None:
    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert about["appVersion"] == __version__
    (image,) = yaml.safe_load(about["annotations"]["artifacthub.io/images"])
    assert image["image"].endswith(f"/knock-exporter:{__version__}")


def test_no_copy_is_left_over(documents: dict[str, str]) -> None:
    files = {str(file.relative_to(chart.CHART)) for file in (chart.CHART / "files").rglob("*.*")}
    assert files == {name for name in documents if name.startswith("files/")}


def test_what_the_schema_refers_to_is_in_it(documents: dict[str, str]) -> None:
    text = documents["values.schema.json"]
    assert set(re.findall(r'"#/definitions/(\w+)"', text)) <= json.loads(text)["definitions"].keys()


def test_every_value_is_described(documents: dict[str, str]) -> None:
    rows = [line for line in documents["README.md"].splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if row.endswith("|  |")] == []


CHARTS = chart.ROOT / "docs" / "chart-values.md"
ROWS = re.findall(r"^\| (`.*?|.*?`.*?) \| (.*?) \| (.*?) \|$", CHARTS.read_text(encoding="utf-8"), re.MULTILINE)


def is_value(schema: dict[str, Any], path: str) -> bool:
    """Whether the chart takes a value at this path; below types of Kubernetes it takes any."""
    for name in path.split("."):
        if "properties" in schema:
            if name not in schema["properties"]:
                return False
            schema = schema["properties"][name]
        elif "additionalProperties" in schema:
            schema = schema["additionalProperties"]
        elif schema["type"] != "object":
            return False
    return True


def test_values_that_other_charts_have_are_where_the_document_says(documents: dict[str, str]) -> None:
    schema = json.loads(documents["values.schema.json"])
    assert len(ROWS) > 90
    for there, _, here in ROWS:
        named = re.findall(r"`([\w.]+)`", there if here.startswith("the same") else here)
        if here.startswith("not: "):
            refused = [each for each in re.findall(r"`([\w.]+)`", there) if is_value(schema, each)]
            assert refused == [], f"{there}: the chart has it"
        else:
            assert named, here
            assert [each for each in named if not is_value(schema, each)] == [], there


def test_a_value_that_the_chart_does_not_have_is_not_one(documents: dict[str, str]) -> None:
    schema = json.loads(documents["values.schema.json"])
    assert is_value(schema, "environments.production.apiKeySecret")
    assert is_value(schema, "livenessProbe.initialDelaySeconds")
    for path in ("replicas", "service.enabled", "environments.production.apiKey", "fullnameOverride.more"):
        assert not is_value(schema, path)


def test_the_schema_is_short(documents: dict[str, str]) -> None:
    assert documents["values.schema.json"].count("\n") <= 900
