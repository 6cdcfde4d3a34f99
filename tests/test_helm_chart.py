"""What is generated in the chart is what its sources make."""

from __future__ import annotations

import chart
import pytest
import yaml

from exporter import __version__

DOCUMENTS = chart.documents()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_committed_is_what_the_sources_make(name: str) -> None:
    assert (chart.CHART / name).read_text() == DOCUMENTS[name], "run `make chart`"


def test_the_chart_is_of_this_version() -> None:
    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert about["appVersion"] == __version__
    (image,) = yaml.safe_load(about["annotations"]["artifacthub.io/images"])
    assert image["image"].endswith(f"/knock-exporter:{__version__}")


def test_no_copy_is_left_over() -> None:
    files = {str(file.relative_to(chart.CHART)) for file in (chart.CHART / "files").rglob("*.*")}
    assert files == {name for name in DOCUMENTS if name.startswith("files/")}


def test_every_value_is_described() -> None:
    rows = [line for line in DOCUMENTS["README.md"].splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if row.endswith("|  |")] == []
