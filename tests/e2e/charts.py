"""The chart by the real Helm: rendered, and taken apart."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from programs import TOOLS, do_without

if TYPE_CHECKING:
    from collections.abc import Iterator

CHART = Path(__file__).parents[2] / "helm" / "knock-exporter"
CI = sorted((CHART / "ci").glob("*.yaml"))
KUBERNETES = "1.31.0"
WORKLOADS = ("Deployment", "StatefulSet")


def helm(line: int, *args: object) -> subprocess.CompletedProcess[str]:
    """Run Helm 3 or 4 to its end."""
    program = TOOLS / f"helm{line}" / "helm"
    if not program.exists():
        do_without(f"helm {line} is missing: run tests/e2e/get-helm")
    command = [str(program), *(str(each) for each in args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@cache
def _rendered(line: int, release: str, *args: str) -> str:
    version = () if "--kube-version" in args else ("--kube-version", KUBERNETES)
    done = helm(line, "template", release, CHART, *version, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(line: int, *args: str, release: str = "release") -> list[dict[str, Any]]:
    """Return the objects that `helm template` makes with these arguments."""
    return [each for each in yaml.safe_load_all(_rendered(line, release, *args)) if each]


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] in kinds]


def pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the specifications of all pods."""
    for each in objects:
        if each["kind"] in WORKLOADS:
            yield each["spec"]["template"]["spec"]
        elif each["kind"] == "Pod":
            yield each["spec"]
