"""What a release is made by: tag, code, chart and changelog name one version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import release

from exporter import __version__

if TYPE_CHECKING:
    from pathlib import Path

CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2027-02-03

### Added
- This, with a [link](docs/web.md).

## [1.1.0] - 2027-01-01

### Fixed
- That.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "exporter").mkdir()
    (tmp_path / "exporter" / "__init__.py").write_text('"""It."""\n\n__version__ = "1.2.0"\n')
    (tmp_path / "helm" / "knock-exporter").mkdir(parents=True)
    (tmp_path / "helm" / "knock-exporter" / "Chart.yaml").write_text("version: 1.2.0\nappVersion: 1.2.0\n")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_one_version_everywhere_can_be_released(tree: Path) -> None:
    release.check("v1.2.0", tree)


@pytest.mark.parametrize(("tag", "said"), [("v1.2.1", "__init__.py says 1.2.0"), ("1.2.0", "the v is missing")])
def test_a_tag_that_is_not_the_version_is_refused(tree: Path, tag: str, said: str) -> None:
    with pytest.raises(release.ReleaseError, match=said):
        release.check(tag, tree)


@pytest.mark.parametrize("key", ["version", "appVersion"])
def test_a_chart_that_was_forgotten_is_named(tree: Path, key: str) -> None:
    chart = tree / "helm" / "knock-exporter" / "Chart.yaml"
    chart.write_text(chart.read_text().replace(f"{key}: 1.2.0", f"{key}: 1.1.0"))
    with pytest.raises(release.ReleaseError, match=rf": {key} of Chart.yaml says 1.1.0"):
        release.check("v1.2.0", tree)


def test_a_changelog_without_the_version_is_refused(tree: Path) -> None:
    (tree / "CHANGELOG.md").write_text(CHANGELOG.replace("[1.2.0] - 2027-02-03", "[1.2.0]"))
    with pytest.raises(release.ReleaseError, match=r"no section of 1\.2\.0"):
        release.check("v1.2.0", tree)


def test_the_notes_are_the_section_of_the_version(tree: Path) -> None:
    assert release.notes("1.2.0", tree) == "### Added\n- This, with a [link](docs/web.md).\n"
    assert release.notes("1.1.0", tree) == "### Fixed\n- That.\n"


def test_the_version_is_read_where_the_code_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert release.version(release.ROOT) == __version__
    assert release.main(["check", "v0.0.0"]) == 1
    assert f"exporter/__init__.py says {__version__}; version of Chart.yaml says" in capsys.readouterr().err
    assert release.main([]) == 2
