"""The dashboards are what their code makes, and what Grafana and a reader need of each panel is there."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import dashboards
import promql
import pytest
import rules
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

if TYPE_CHECKING:
    from pathlib import Path

each_dashboard = pytest.mark.parametrize("file", promql.DASHBOARDS, ids=lambda file: file.name)
GRAFANAS_OWN = {*promql.BUILT_IN, "__data", "__all"}
UNITS = {"short", "locale", "s", "percentunit", "rowsps", "reqps", "bytes", "dateTimeFromNow"}


def loaded(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_the_committed_dashboards_are_what_the_code_makes() -> None:
    made = dashboards.documents()
    assert {file.name: file.read_text() for file in promql.DASHBOARDS} == made, "run `make monitoring`"


@each_dashboard
def test_grafanas_own_model_loses_nothing_of_it(file: Path) -> None:
    register_default_plugins()
    again = json.loads(json.dumps(Dashboard.from_json(loaded(file)), cls=JSONEncoder))
    assert dashboards.shown(again) == loaded(file)


@each_dashboard
def test_newer_grafana_hides_no_link_and_no_switch(file: Path) -> None:
    whole = loaded(file)
    assert all("placement" not in each for each in (*whole["annotations"]["list"], *whole["links"]))


def test_ids_fit_their_column_and_a_panel_of_zeros_has_an_axis() -> None:
    everything = [panel for file in promql.DASHBOARDS for panel in promql.panels(file)]
    ids = [
        {each["id"]: each["value"] for each in override["properties"]}["custom.width"]
        for panel in everything
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"]["options"] == "operation_id"
    ]
    assert ids
    assert set(ids) == {330}
    for panel in everything:
        defaults = panel["fieldConfig"]["defaults"]
        if panel["type"] == "timeseries":
            assert defaults["min"] == 0, panel["title"]
            assert "max" in defaults or defaults["custom"]["axisSoftMax"] > 0, panel["title"]
            assert defaults["unit"] != "short", panel["title"]  # its axis has fractions, or rounds 1,500 to 2 K
            assert defaults.get("decimals") == (0 if defaults["unit"] == "locale" else None), panel["title"]


def test_a_table_has_the_same_columns_whatever_the_data() -> None:
    tables = [panel for file in promql.DASHBOARDS for panel in promql.panels(file) if panel["type"] == "table"]
    assert len(tables) == 4
    for panel in tables:
        shown = [each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]]
        steps = {each["id"]: each["options"] for each in panel["transformations"]}
        assert list(steps) == ["merge", "filterFieldsByName", "organize"], panel["title"]
        assert steps["filterFieldsByName"]["include"]["names"] == shown, panel["title"]
        assert steps["organize"]["indexByName"] == {name: place for place, name in enumerate(shown)}, panel["title"]
        # What each cell has, tests/e2e/test_queries.py asks a Prometheus.
        assert {f"Value #{target['refId']}" for target in panel["targets"]} <= set(shown), panel["title"]


def test_rows_that_few_need_are_collapsed() -> None:
    rows = [
        (file.stem, panel) for file in promql.DASHBOARDS for panel in loaded(file)["panels"] if panel["type"] == "row"
    ]
    collapsed = {(name, row["title"]) for name, row in rows if row["collapsed"]}
    assert collapsed == {
        *(("exporter", "Operations and their sources"), ("exporter", "The process")),
        ("overview", "Durations"),
    }
    # Grafana drops panels that an open row holds.
    assert all(bool(row["panels"]) == row["collapsed"] for _, row in rows)


@each_dashboard
def test_every_panel_says_what_it_shows_in_which_unit_and_when_it_is_bad(file: Path) -> None:
    for panel in promql.panels(file):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"] in UNITS, panel["title"]
        assert defaults["thresholds"]["steps"][0]["value"] is None, panel["title"]
        if panel["type"] in {"stat", "table"}:
            assert defaults["noValue"], panel["title"]


@each_dashboard
def test_all_goes_to_the_data_source_that_is_chosen(file: Path) -> None:
    whole = loaded(file)
    asked = [
        *(mark["datasource"] for mark in whole["annotations"]["list"]),
        *(each["datasource"] for each in whole["templating"]["list"] if each["type"] == "query"),
        *(panel["datasource"] for panel in promql.panels(file)),
        *(target["datasource"] for panel in promql.panels(file) for target in panel["targets"]),
    ]
    assert asked
    assert all(each == {"type": "prometheus", "uid": "${datasource}"} for each in asked)


def test_what_is_counted_step_by_step_is_counted_over_its_step() -> None:
    counting = promql.counting()
    assert {panel["interval"] for panel in counting} == {"1m"}
    for panel in counting:
        for target in panel["targets"]:
            assert set(re.findall(r"offset ([^\s)]+)", target["expr"])) == {"$__interval"}, panel["title"]
    # The others draw what is, or rates: an increase of another range than the step would add up to something else.
    for query in promql.of_dashboards():
        assert query.instant or set(re.findall(r"increase\(.*?\[(\S+)\]", query.text)) <= {"$__range"}, query.title


@each_dashboard
def test_every_variable_is_there_and_used(file: Path) -> None:
    defined = {each["name"] for each in loaded(file)["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", file.read_text()))
    assert used - GRAFANAS_OWN == defined


@each_dashboard
def test_panels_do_not_overlap_and_their_ids_differ(file: Path) -> None:
    whole = loaded(file)["panels"]
    everything = [inner for panel in whole for inner in (panel, *panel.get("panels", ()))]
    places = [panel["gridPos"] for panel in everything]
    below = {
        row["gridPos"]["y"]: {each["gridPos"]["y"] for each in row["panels"]} for row in whole if row.get("panels")
    }
    assert all(min(inside) == y + 1 for y, inside in below.items())
    shown = [panel["gridPos"] for panel in whole]
    # Panels of a collapsed row lie over what stands below it, which makes room when it is opened.
    hidden = [
        pair for row in whole for pair in itertools.combinations([p["gridPos"] for p in row.get("panels", ())], 2)
    ]
    for one, other in (*itertools.combinations(shown, 2), *hidden):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({panel["id"] for panel in everything}) == len(everything)
    for panel in promql.panels(file):
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs), panel["title"]


def test_dashboards_and_alerts_name_each_other() -> None:
    ids = {loaded(file)["uid"] for file in promql.DASHBOARDS}
    thresholds = yaml.safe_load(rules.THRESHOLDS.read_text()) | {"dashboards": "https://grafana.example/d"}
    assert set(re.findall(r"dashboard_url: \S+/d/([\w-]+)", rules.made(thresholds)["alerts.yaml"])) == ids


@pytest.mark.parametrize("query", [*promql.of_dashboards(), *promql.of_rules()], ids=lambda query: query.title)
def test_a_query_is_promql_and_names_what_there_is(query: promql.Query) -> None:
    names = query.names()
    assert names
    assert names <= promql.known(), query.text


@pytest.mark.parametrize(
    "query", [*promql.of_dashboards(), *promql.of_rules(), *promql.of_runbooks()], ids=lambda query: query.title
)
def test_instances_are_put_together_as_the_contract_says(query: promql.Query) -> None:
    how = promql.across_instances()
    assert len(how) == 34
    for name, aggregation in query.aggregations():
        assert aggregation == how.get(name, aggregation), name


def test_a_query_is_read_whole() -> None:
    query = promql.Query("", "", "topk(5, sum by (a) (rate(b{c=~'$d'}[$__rate_interval]))) and on (a) (e - -f) > g")
    assert query.names() == {"b", "e", "f", "g"}
    assert query.aggregations() == {("b", "sum"), ("e", ""), ("f", ""), ("g", "")}


def test_labels_of_links_are_columns_of_their_table() -> None:
    for file in promql.DASHBOARDS:
        for panel in promql.panels(file):
            fields = set(re.findall(r"__data\.fields\.(\w+)", json.dumps(panel)))
            shown = {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]}
            assert fields <= shown, panel["title"]
