"""The chart by the real Helm: rendered, and taken apart."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from programs import TOOLS, do_without

if TYPE_CHECKING:
    from collections.abc import Iterator

CHART = Path(__file__).parents[2] / "helm" / "knock-exporter"
# Those in ci/ install on any cluster; the others want operators that are not everywhere.
VALUES = [*sorted((CHART / "ci").glob("*.yaml")), *sorted((CHART / "tests" / "values").glob("*.yaml"))]
KUBERNETES = "1.31.0"
LINES = (3, 4)
ID = "123e4567-e89b-12d3-a456-426614174000"
SHORTEST = (
    "--set",
    "environments.production.apiKeySecret=knock",
    "--set",
    f"environments.production.operations={{{ID}}}",
)
WORKLOADS = ("Deployment", "StatefulSet")

each_line = pytest.mark.parametrize("line", LINES)
each_file = pytest.mark.parametrize("file", VALUES, ids=lambda file: file.stem)


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
    return documents(_rendered(line, release, *args))


class _Loader(yaml.CSafeLoader):
    """Reads a lone = as text, as Kubernetes does."""


def _text(_: _Loader, node: yaml.ScalarNode) -> str:
    return str(node.value)


_Loader.add_constructor("tag:yaml.org,2002:value", _text)


def documents(text: str) -> list[dict[str, Any]]:
    """Read what Helm wrote."""
    return [each for each in yaml.load_all(text, _Loader) if each]


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] in kinds]


def pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the specifications of all pods."""
    for each in objects:
        if each["kind"] in WORKLOADS:
            yield each["spec"]["template"]["spec"]
        elif each["kind"] == "Pod":
            yield each["spec"]


def configurations(objects: list[dict[str, Any]], folder: Path) -> Iterator[Path]:
    """Lay out the configuration of each workload below the folder, with the files that it names; yield its place."""
    for each in of_kind(objects, "ConfigMap"):
        if "config.yaml" in each.get("data", ()):
            root = folder / each["metadata"]["name"]
            text = each["data"]["config.yaml"].replace("/etc/knock-exporter", str(root))
            for path in _named(yaml.safe_load(text)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("sk_test_0123456789abcdef" + path.parent.name)
            file = root / "config.yaml"
            file.write_text(text)
            yield file


def _named(whole: dict[str, Any]) -> Iterator[Path]:
    for environment in whole["environments"]:
        yield Path(environment["api_key_file"])
    for token in whole.get("registration", {}).get("tokens", ()):
        yield Path(token["token_file"])
