"""The rules by Prometheus' own tools, of both lines."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml
from programs import run, tool
from promtool import MONITORING, alerts_in, rules_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

RULES = sorted((MONITORING / "rules").glob("*.yaml"))
TESTS = sorted((MONITORING / "tests").glob("*.yaml"))


@pytest.mark.parametrize("line", [2, 3])
def test_promtool_finds_nothing_wrong(line: int) -> None:
    run(tool("promtool", line), "check", "rules", "--lint=all", "--lint-fatal", *RULES)


def test_the_unit_tests_pass() -> None:
    run(tool("promtool", 2), "test", "rules", *TESTS)


def test_the_unit_tests_pass_in_the_later_line_too_with_the_rules_that_they_ask_about(tmp_path: Path) -> None:
    files: list[Path] = []
    for each in TESTS:
        whole = yaml.safe_load(each.read_text())
        for test in whole["tests"]:
            rules = [each.parent / name for name in whole["rule_files"]]
            if alerts := alerts_in(test):
                rules = [tmp_path / f"{len(files)}.rules"]
                rules[0].write_text(rules_of(alerts))
            files.append(tmp_path / f"{len(files)}.yaml")
            chosen = {"rule_files": [str(rule) for rule in rules], "tests": [test]}
            files[-1].write_text(yaml.safe_dump(whole | chosen))
    run(tool("promtool", 3), "test", "rules", *files)


def test_a_wrong_rule_fails_its_unit_test(tmp_path: Path) -> None:
    for sub in ("rules", "tests"):
        shutil.copytree(MONITORING / sub, tmp_path / sub)
    tests = tmp_path / "tests" / "operations.yaml"
    whole = yaml.safe_load(tests.read_text())
    whole["tests"] = [each for each in whole["tests"] if "KnockOperationStalled" in str(each)]
    tests.write_text(yaml.safe_dump(whole))
    run(tool("promtool"), "test", "rules", tests)
    alerts = tmp_path / "rules" / "alerts.yaml"
    alerts.write_text(alerts.read_text().replace("> 900", "> 9000"))
    done = subprocess.run([tool("promtool"), "test", "rules", tests], capture_output=True, check=False)
    assert done.returncode != 0


def test_every_alert_is_tested_to_fire_and_to_be_silent_and_every_record_for_its_value() -> None:
    asked: dict[str, set[bool]] = {}
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for each in test.get("promql_expr_test", ()):
                name = re.search(r'alertname="(\w+)"|^(\w+:\w+:\w+)', each["expr"])
                if name is not None:
                    values = [sample["value"] > 0 for sample in each["exp_samples"]] or [False]
                    asked.setdefault(name[1] or name[2], set()).update(values)
    rules = [rule for file in RULES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        wanted = {True, False} if "alert" in rule else {True}
        name = rule.get("alert") or rule["record"]
        assert asked.get(name, set()) >= wanted, name
