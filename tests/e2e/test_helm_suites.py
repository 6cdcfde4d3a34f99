"""The chart's suites for helm-unittest, run by the real Helm: for the assertions that they use."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from charts import CHART, helm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.e2e

CASES = [
    pytest.param(file, suite, case, id=f"{file.stem}: {case['it']}")
    for file in sorted((CHART / "tests").glob("*_test.yaml"))
    for suite in [yaml.safe_load(file.read_text())]
    for case in suite["tests"]
]
KEYS = {"it", "asserts", "set", "values", "template", "capabilities"}
MISSING = object()


def put(whole: dict[str, Any], path: str, value: Any) -> None:
    *before, last = path.split(".")
    for name in before:
        whole = whole.setdefault(name, {})
    whole[last] = value


def at(document: Any, path: str) -> Any:
    """Return what is at a path such as a.b[0].c, MISSING where nothing is."""
    for name, number in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        if number:
            document = document[int(number)] if isinstance(document, list) and int(number) < len(document) else MISSING
        else:
            document = document.get(name, MISSING) if isinstance(document, dict) else MISSING
    return document


def holds(assertion: dict[str, Any], documents: list[dict[str, Any]]) -> bool:
    """Judge one assertion, of all documents or of the one that it names."""
    assertion = dict(assertion)
    index = assertion.pop("documentIndex", None)
    ((kind, told),) = assertion.items()
    if kind == "hasDocuments":
        return bool(len(documents) == told["count"])
    chosen = documents if index is None else [documents[index]]
    assert chosen, "nothing was rendered"
    return all(ASSERTIONS[kind](at(each, told.get("path", "")), told) for each in chosen)


ASSERTIONS: dict[str, Callable[[Any, dict[str, Any]], bool]] = {
    "equal": lambda found, told: bool(found == told["value"]),
    "exists": lambda found, _: found is not MISSING,
    "notExists": lambda found, _: found is MISSING,
    "contains": lambda found, told: told["content"] in found,
    "notContains": lambda found, told: told["content"] not in found,
    "isSubset": lambda found, told: all(found.get(name) == value for name, value in told["content"].items()),
    "isKind": lambda found, told: bool(found["kind"] == told["of"]),
}


@pytest.mark.parametrize("line", [3, 4])
@pytest.mark.parametrize(("file", "suite", "case"), CASES)
def test_suite(line: int, file: Path, suite: dict[str, Any], case: dict[str, Any], tmp_path: Path) -> None:
    assert case.keys() <= KEYS, "helm-unittest knows more than this test"
    whole: dict[str, Any] = {}
    for path, value in {**suite.get("set", {}), **case.get("set", {})}.items():
        put(whole, path, deepcopy(value))
    (tmp_path / "values.yaml").write_text(json.dumps(whole))
    args: list[object] = ["template", suite["release"]["name"], CHART]
    args += ["--namespace", suite["release"].get("namespace", "default")]
    for name in case.get("values", ()):
        args += ["--values", file.parent / name]
    args += ["--values", tmp_path / "values.yaml"]
    if version := case.get("capabilities"):
        args += ["--kube-version", f"{version['majorVersion']}.{version['minorVersion']}.0"]
    template = case.get("template") or suite["templates"][0]
    done = helm(line, *args, "--show-only", template)
    # Helm says so where a template renders nothing.
    assert done.returncode == 0 or "could not find template" in done.stderr, done.stderr
    documents = [each for each in yaml.safe_load_all(done.stdout) if each]
    for assertion in case["asserts"]:
        assert holds(assertion, documents), (assertion, documents)
