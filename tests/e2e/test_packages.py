"""The wheel and the sdist, and what runs from the wheel where nothing is but what it asks for."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from programs import KEY, run

from exporter import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
CONFIG = """
environments:
  - name: production
    api_key_env: KNOCK_API_KEY
    operations: [123e4567-e89b-12d3-a456-426614174000]
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the sdist, and of it the wheel; return both."""
    folder = tmp_path_factory.mktemp("packages")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def wanted(of: Distribution, extra: str) -> Iterator[Distribution]:
    """Find what a distribution requires, as it is installed here; markers decide."""
    for text in of.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            found = distribution(requirement.name)
            yield found
            for each in requirement.extras or {""}:
                yield from wanted(found, each)


def test_the_sdist_has_what_tests_need(packages: tuple[Path, Path]) -> None:
    with tarfile.open(packages[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = run("git", "-C", ROOT, "ls-files").splitlines() if (ROOT / ".git").exists() else []
    assert {"Makefile", "requirements/dev.txt", "tests/conftest.py", "exporter/demo.py", ".ci/run"} <= names
    assert [name for name in tracked if name not in names] == []


def test_the_wheel_alone_checks_a_configuration_and_plays_the_demo(packages: tuple[Path, Path], tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", packages[0])
    here = Path(sysconfig.get_path("purelib"))
    (site,) = home.glob("lib/python*/site-packages")
    (ours,) = site.glob("knock_exporter-*.dist-info")
    for each in set(wanted(PathDistribution(ours), "")):
        for top in {file.parts[0] for file in each.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(here / top)
    assert not (site / "rich").exists()

    command = home / "bin" / "knock-exporter"
    assert run(command, "--version") == f"knock-exporter {__version__}\n"
    (tmp_path / "config.yaml").write_text(CONFIG)
    checked = subprocess.run(
        [command, "check-config", "config.yaml"],
        cwd=tmp_path, env={"KNOCK_API_KEY": KEY}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    told = run(command, "demo", "--web.listen-address=127.0.0.1:0", "--duration=2s")
    assert re.search(r"Status page +http://127\.0\.0\.1:\d+/\n", told)
    assert "production / migration: wave 1 of 8" in told
    assert "The demo has ended." in told
