"""Queries as users get them: of panels, rules and runbooks; and which metrics they name."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import promql_parser
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MONITORING, RUNBOOKS = ROOT / "monitoring", ROOT / "docs" / "runbooks"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))
RULES = sorted((MONITORING / "rules").glob("*.yaml"))
# What Grafana puts in; those of the user come from the test.
BUILT_IN = {"__rate_interval": "1m", "__range": "1h", "__interval": "15s", "__interval_ms": "15000"}
_FAMILY = re.compile(r"^\| `(knock_\w+)` \| (\w+) \|", re.MULTILINE)
_ACROSS = re.compile(r"^\| `(knock_\w+)` \| (\w+) \|.*\| (sum|min|max) \|$", re.MULTILINE)


class Query(NamedTuple):
    """A query, and where it stands: file and title."""

    file: str
    title: str
    text: str
    instant: bool = True

    def filled(self, **values: str) -> str:
        """Return it with Grafana's variables, and these, put in; `.*` stands for all."""
        variables = BUILT_IN | values
        return re.sub(r"\$(\w+)", lambda found: variables.get(found[1], ".*"), self.text)

    def names(self) -> set[str]:
        """Return the metrics that it asks for; raises ValueError where it is not PromQL."""
        return {name for name, _ in self.aggregations()}

    def aggregations(self) -> set[tuple[str, str]]:
        """Return each metric with the aggregation right around it, such as sum; "" where there is none."""
        return set(_aggregations(promql_parser.parse(self.filled()), ""))


def _parts(node: Any) -> Iterator[Any]:
    for part in ("expr", "lhs", "rhs", "param", "args", "vector_selector"):
        inner = getattr(node, part, None)
        yield from inner if isinstance(inner, list) else [inner] if inner is not None else []


def _aggregations(node: Any, around: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, promql_parser.VectorSelector) and node.name:
        yield node.name, around
    if isinstance(node, promql_parser.AggregateExpr):
        around = str(node.op)
    for each in _parts(node):
        yield from _aggregations(each, around)


def panels(file: Path) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, those of collapsed rows too, without the titles of rows."""
    everything = [
        inner for panel in json.loads(file.read_text())["panels"] for inner in (panel, *panel.get("panels", ()))
    ]
    return [panel for panel in everything if panel["type"] != "row"]


def counting() -> list[dict[str, Any]]:
    """Return the panels that show how much happened in each step."""
    everything = [panel for file in DASHBOARDS for panel in panels(file)]
    return [
        panel
        for panel in everything
        if panel["type"] == "heatmap" or panel["fieldConfig"]["defaults"].get("custom", {}).get("drawStyle") == "bars"
    ]


@cache
def of_dashboards() -> list[Query]:
    """Return the queries of all panels and annotations."""
    found = []
    for file in DASHBOARDS:
        for panel in panels(file):
            found += [
                Query(file.name, panel["title"], target["expr"], target.get("instant", False))
                for target in panel["targets"]
            ]
        marks = json.loads(file.read_text())["annotations"]["list"]
        found += [Query(file.name, f"annotation {mark['name']}", mark["expr"], instant=False) for mark in marks]
    return found


@cache
def of_rules() -> list[Query]:
    """Return the queries of all rules."""
    return [
        Query(file.name, rule.get("alert") or rule["record"], rule["expr"])
        for file in RULES
        for group in yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["groups"]
        for rule in group["rules"]
    ]


@cache
def of_runbooks() -> list[Query]:
    """Return the queries of all runbooks."""
    return [
        Query(file.name, "runbook", text.strip())
        for file in sorted(RUNBOOKS.glob("*.md"))
        for text in re.findall(r"^```promql\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL)
    ]


@cache
def across_instances() -> dict[str, str]:
    """Return how each aggregate is put together across instances, as the contract says."""
    found = {}
    for name, kind, how in _ACROSS.findall((ROOT / "docs" / "metrics.md").read_text()):
        found[f"{name}_bucket" if kind == "histogram" else name] = how
    return found


@cache
def known() -> set[str]:
    """Return every metric that a query may name: of the contract, of the recording rules, Prometheus' own."""
    document = (ROOT / "docs" / "metrics.md").read_text()
    found = {"up", "ALERTS", "ALERTS_FOR_STATE"}
    for name, kind in _FAMILY.findall(document):
        found |= {f"{name}{end}" for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    found |= {query.title for query in of_rules() if ":" in query.title}
    process = ("start_time_seconds", "resident_memory_bytes", "cpu_seconds_total", "open_fds", "max_fds")
    return found | {f"process_{name}" for name in process}
