"""What is generated in the chart is what its sources make."""

from __future__ import annotations

import json
import re

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
