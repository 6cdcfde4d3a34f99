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
    pytest.param(suite, case, id=f"{file.stem}: {case['it']}")
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


def selected(suite: dict[str, Any], case: dict[str, Any]) -> list[str]:
    """Return the templates whose documents a case is about: its own, or each of its suite."""
    listed = suite.get("templates")
    chosen = [case["template"]] if "template" in case else (listed or [])
    assert chosen, "no template is chosen"
    for template in chosen:
        assert listed is None or template in listed, f"{template} is not selected in the suite"
        assert (CHART / template).is_file(), f"{template} does not exist"
    return chosen


def judge(suite: dict[str, Any], case: dict[str, Any], folder: Path) -> None:
    """Fail where the real program fails: an assertion has to hold for each selected template."""
    assert case.keys() <= KEYS, "helm-unittest knows more than this test"
    whole: dict[str, Any] = {}
    for path, value in {**suite.get("set", {}), **case.get("set", {})}.items():
        put(whole, path, deepcopy(value))
    (folder / "values.yaml").write_text(json.dumps(whole))
    args: list[object] = ["template", suite["release"]["name"], CHART]
    args += ["--namespace", suite["release"].get("namespace", "default")]
    for name in case.get("values", ()):
        args += ["--values", CHART / "tests" / name]
    args += ["--values", folder / "values.yaml"]
    for each in case.get("capabilities", {}).get("apiVersions", ()):
        args += ["--api-versions", each]
    for template in selected(suite, case):
        done = helm(4, *args, "--show-only", template)
        # Helm says so where a template renders nothing.
        assert done.returncode == 0 or "could not find template" in done.stderr, done.stderr
        documents = [each for each in yaml.safe_load_all(done.stdout) if each]
        for assertion in case["asserts"]:
            assert holds(assertion, documents), (template, assertion, documents)


@pytest.mark.parametrize(("suite", "case"), CASES)
def test_suite(suite: dict[str, Any], case: dict[str, Any], tmp_path: Path) -> None:
    judge(suite, case, tmp_path)


WORKLOAD, SERVICE, DASHBOARDS = (f"templates/{name}.yaml" for name in ("workload", "service", "dashboards"))
ONE = {"hasDocuments": {"count": 1}}


@pytest.mark.parametrize(
    ("templates", "case", "said"),
    [
        ([WORKLOAD], {"template": SERVICE, "asserts": [ONE]}, "not selected"),
        (None, {"template": "templates/none.yaml", "asserts": [{"hasDocuments": {"count": 0}}]}, "does not exist"),
        (None, {"asserts": [ONE]}, "no template"),
        ([WORKLOAD, SERVICE], {"asserts": [ONE, {"isKind": {"of": "Deployment"}}]}, SERVICE),
        ([WORKLOAD, SERVICE], {"asserts": [{"hasDocuments": {"count": 2}}]}, WORKLOAD),
        ([WORKLOAD, SERVICE, DASHBOARDS], {"asserts": [ONE]}, DASHBOARDS),
    ],
)
def test_what_the_real_program_refuses_fails_here_too(
    templates: list[str] | None, case: dict[str, Any], said: str, tmp_path: Path
) -> None:
    suite: dict[str, Any] = {"release": {"name": "knock"}, "set": {"environments.production.apiKeySecret": "knock"}}
    if templates is not None:
        suite["templates"] = templates
    with pytest.raises(AssertionError, match=said):
        judge(suite, case, tmp_path)


def test_an_assertion_holds_once_it_holds_for_each_template_of_the_suite(tmp_path: Path) -> None:
    suite = {
        "release": {"name": "knock"},
        "set": {"environments.production.apiKeySecret": "knock"},
        "templates": [WORKLOAD, SERVICE],
    }
    judge(suite, {"asserts": [ONE, {"equal": {"path": "metadata.name", "value": "knock-knock-exporter"}}]}, tmp_path)
