"""What make installs before a target, told by a dry run in a fresh clone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TARGETS = re.findall(r"^([a-z]+):.* ## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
DEVELOPERS = sorted(set(TARGETS) - {"help", "demo", "dist", "sbom", "clean"})
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    return tmp_path


def steps(clone: Path, target: str) -> list[str]:
    """Return the lists that are installed, each once it has been said."""
    command = ["make", "--dry-run", f"--directory={clone}", "PYTHON=python3", target]
    planned = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^echo \"Installing .* (\d+) packages|/pip .* --require-hashes -r (\S+)", planned, re.MULTILINE)
    said, installed = [count for count, _ in found[::2]], [file for _, file in found[1::2]]
    assert said == [str((clone / file).read_text().count("==")) for file in installed]
    return installed


def test_the_demo_installs_what_runs_the_exporter_and_nothing_else(clone: Path) -> None:
    assert steps(clone, "demo") == ["requirements/run.txt"]


def test_packages_are_built_with_their_build_system_and_nothing_else(clone: Path) -> None:
    assert steps(clone, "dist") == ["requirements/build.txt"]


def test_the_bill_of_materials_is_made_of_the_wheel_and_what_it_needs(clone: Path) -> None:
    assert steps(clone, "sbom") == ["requirements/build.txt", "requirements/sbom.txt", "requirements/run.txt"]


@pytest.mark.parametrize("target", DEVELOPERS)
def test_the_developers_tools_come_in_a_step_of_their_own(clone: Path, target: str) -> None:
    assert steps(clone, target) == ["requirements/run.txt", "requirements/dev.txt"]
    (clone / ".venv").mkdir()
    (clone / ".venv" / "run").touch()
    assert steps(clone, target) == ["requirements/dev.txt"]
    (clone / ".venv" / "dev").touch()
    assert steps(clone, "demo") == steps(clone, target) == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_has_hashes_and_names_no_host(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    whole = re.sub(r"(?m)^ *#.*\n", "", text).replace("\\\n", "")
    packages = [line for line in whole.splitlines() if line.strip()]
    assert packages
    pinned = r"[a-z0-9-]+==[^ ;]+( ; [^\\]+?)?( +--hash=sha256:[0-9a-f]{64})+ *"
    assert [line for line in packages if not re.fullmatch(pinned, line)] == []


def test_the_lock_of_npm_has_hashes_and_names_no_host() -> None:
    text = (ROOT / "tools" / "dashboard" / "package-lock.json").read_text()
    assert "://" not in text
    whole, *packages = json.loads(text)["packages"].values()
    assert packages
    assert all(each["integrity"].startswith("sha512-") for each in packages)
    wanted = json.loads((ROOT / "tools" / "dashboard" / "package.json").read_text())["dependencies"]
    assert whole["dependencies"] == wanted
    assert len({version for name, version in wanted.items() if name.startswith("@grafana/")}) == 1
