"""Rules tested by promtool with what the exporter wrote: expositions become the series of a unit test."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MONITORING = Path(__file__).parents[2] / "monitoring"


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
    return f'count(ALERTS{{alertname="{alert}",alertstate="firing"{chosen}}}) or vector(0)'


def judge(promtool: str, folder: Path, inputs: list[dict[str, str]], expected: Mapping[tuple[int, str], float]) -> str:
    """Evaluate the rules over these series; return what promtool found that is not as expected, nothing if all is.

    `expected` gives the value of a query at a minute. Of the alerts, those are evaluated that queries name.
    """
    tests: list[dict[str, Any]] = [
        {"expr": query, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": value}]}
        for (minute, query), value in expected.items()
    ]
    rules = folder / "rules.yaml"
    rules.write_text(_rules(frozenset(re.findall(r'alertname="(\w+)"', str(expected)))))
    document = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": tests}],
    }
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump(document))
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False, timeout=300)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@cache
def _rules(alerts: frozenset[str]) -> str:
    """Return the rules of these alerts, and the records that they read."""
    files = sorted((MONITORING / "rules").glob("*.yaml"))
    rules = [each for file in files for group in yaml.safe_load(file.read_text())["groups"] for each in group["rules"]]
    asked = [each for each in rules if each.get("alert") in alerts]
    read = [each for each in rules if "record" in each and any(each["record"] in rule["expr"] for rule in asked)]
    return yaml.safe_dump({"groups": [{"name": "records", "rules": read}, {"name": "alerts", "rules": asked}]})
