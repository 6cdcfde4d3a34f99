"""Rules tested by promtool with what the exporter wrote: expositions become the series of a unit test."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MONITORING = Path(__file__).parents[2] / "monitoring"
ENVIRONMENT = 'knock_environment="production"'  # of `model`


def series(scrapes: Sequence[str | None], start: float, families: Iterable[str]) -> list[dict[str, str]]:
    """Turn one exposition a minute (None: the scrape failed) into input series of promtool.

    Its clock starts at 0, so timestamps are moved by `start`, Unix seconds.
    """
    rows: dict[str, dict[int, float]] = {}
    chosen = frozenset(families)
    for minute, scrape in enumerate(scrapes):
        for name, value in _samples(scrape or "", start, chosen):
            rows.setdefault(name, {})[minute] = value
    return [{"series": name, "values": _values(row, len(scrapes))} for name, row in rows.items()]


@cache  # most minutes are as the one before
def _samples(text: str, start: float, families: frozenset[str]) -> list[tuple[str, float]]:
    found = []
    for family in text_string_to_metric_families(text):
        moved = start if family.name.endswith("_timestamp_seconds") else 0.0
        for sample in family.samples if family.name in families else ():
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found.append((f"{sample.name}{{{labels}}}", sample.value - moved))
    return found


def _values(row: Mapping[int, float], count: int) -> str:
    """Write a row as promtool reads it; a sample that is missing after one that was there is a stale marker."""
    written = [f"{row[at]:f}" if at in row else "stale" if at - 1 in row else "_" for at in range(count)]
    return " ".join(written)


def fires(alert: str, **labels: str) -> str:
    """Return the query for how many of an alert fire."""
    chosen = "".join(f',{name}="{value}"' for name, value in labels.items())
    return f'count(ALERTS{{alertname="{alert}",alertstate="firing",{ENVIRONMENT}{chosen}}}) or vector(0)'


class Case(NamedTuple):
    """Series, and the value that a query has over them at a minute. Of the alerts, those count that queries name.

    Each series and each query names the environment.
    """

    inputs: list[dict[str, str]]
    expected: Mapping[tuple[int, str], float]


def judge(promtool: str, folder: Path, cases: Mapping[str, Case]) -> dict[str, str]:
    """Evaluate the rules over each case's series; return what promtool says of it, SUCCESS if all is as expected.

    Each case is an environment of one unit test: rules look at one environment at a time, and evaluated once for all
    they take a quarter of the time.
    """
    rules, file = folder / "rules.yaml", folder / "test.yaml"
    rules.write_text(rules_of(alerts_in([case.expected for case in cases.values()])))
    environments = {name: f"case-{number}" for number, name in enumerate(cases)}
    _write(rules, file, {environments[name]: case for name, case in cases.items()})
    done = subprocess.run(
        [promtool, "test", "rules", file],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode == 0:
        return dict.fromkeys(cases, "SUCCESS")
    wrong = re.split(r"\n(?= +expr: )", done.stdout)
    told = {
        name: "\n".join(each for each in wrong if re.search(rf"\b{environment}\b", each))
        for name, environment in environments.items()
    }
    assert any(told.values()), done.stdout
    return {name: what or "SUCCESS" for name, what in told.items()}


def _write(rules: Path, file: Path, cases: Mapping[str, Case]) -> None:
    inputs: list[dict[str, str]] = []
    tests: list[dict[str, Any]] = []
    for environment, case in cases.items():
        inputs += [each | {"series": _in(environment, each["series"])} for each in case.inputs]
        tests += [
            {
                "expr": _in(environment, query),
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": value}],
            }
            for (minute, query), value in case.expected.items()
        ]
    document = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "group_eval_order": [group["name"] for group in yaml.safe_load(rules.read_text())["groups"]],
        "tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": tests}],
    }
    file.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper))


def _in(environment: str, text: str) -> str:
    assert text.count(ENVIRONMENT) == 1, text
    return text.replace(ENVIRONMENT, f'knock_environment="{environment}"')


def alerts_in(asked: object) -> frozenset[str]:
    """Return the alerts that queries and expectations name."""
    return frozenset(re.findall(r"""alertname(?:="|': ')(\w+)""", str(asked)))


@cache
def rules_of(alerts: frozenset[str]) -> str:
    """Return the rules of these alerts, and the records that they read: all would take ten times as long."""
    files = sorted((MONITORING / "rules").glob("*.yaml"), reverse=True)  # first what alerts read
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    rules = [each for group in groups for each in group["rules"]]
    wanted = [each for each in rules if each.get("alert") in alerts]
    for each in reversed(rules):  # a record reads only those before it
        if "record" in each and any(each["record"] in str(rule) for rule in wanted):
            wanted.append(each)
    chosen = [group | {"rules": [each for each in group["rules"] if each in wanted]} for group in groups]
    return yaml.safe_dump({"groups": [group for group in chosen if group["rules"]]})
