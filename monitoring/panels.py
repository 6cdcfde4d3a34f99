"""What the dashboards are put together from: panels that all have a unit, thresholds and a description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from grafana_foundation_sdk.builders import common as parts
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


Panel: TypeAlias = Builder[dashboard.Panel]
DATASOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"
STATUS_COLORS = {
    "pending": "#8e8e8e",
    "queued": "#b877d9",
    "processing": "#5794f2",
    "completed": "#73bf69",
    "failed": "#f2495c",
    "unknown": "#ff9830",
    "lost": "#c4162a",
}
# From which value on a panel has which colour; the first holds below the second.
Steps = tuple[tuple[float | None, str], ...]
PLAIN: Steps = ((None, BLUE),)
BAD_FROM_ONE: Steps = ((None, GREEN), (1, RED))
ODD_FROM_ONE: Steps = ((None, GREEN), (1, ORANGE))
GRAPH_WIDTH, GRAPH_HEIGHT = 12, 8
NUMBER_WIDTH, NUMBER_HEIGHT = 3, 4
COUNT = "locale"  # the unit of whole numbers over time: of 1,500 the usual one makes "2 K" where it may not say 1.5
NOT_KNOWN = "-"
SHORTEST_STEP = "1m"  # of panels that count; shorter ones would mostly be empty
# The instances that started or reloaded since the last step: what they have counted is all growth, where the counter
# is new or fell. Not those that were scraped before; 5 minutes, since Prometheus looks as far back for a last scrape.
_CONFIGURED = "knock_exporter_config_last_reload_success_timestamp_seconds"
_STARTED = (
    f"{_CONFIGURED} > time() - $__interval_ms / 1000 - 300"
    f" unless {_CONFIGURED} == last_over_time({_CONFIGURED}[5m] offset $__interval)"
)

_UNKNOWN = dashboard.SpecialValueMap(
    dashboard.DashboardSpecialValueMapOptions(
        match=dashboard.SpecialValueMatch.NULL_AND_NAN, result=dashboard.ValueMappingResult(text=NOT_KNOWN)
    )
)


@dataclass(frozen=True)
class Column:
    """A column of a table: a query whose labels say which row, or a label.

    `width` is in pixels, 0 for what is left over; `options` are Grafana's field settings.
    """

    title: str
    query: str = ""
    label: str = ""
    unit: str = ""
    width: int = 90
    options: Sequence[tuple[str, object]] = ()


def _thresholds(steps: Steps) -> Builder[dashboard.ThresholdsConfig]:
    marks = [dashboard.Threshold(value=value, color=color) for value, color in steps]
    return build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(marks)


def _target(expression: str, legend: str, number: int) -> prometheus.Dataquery:
    ref = chr(ord("A") + number)
    return prometheus.Dataquery().datasource(DATASOURCE).expr(expression).legend_format(legend).ref_id(ref)


def growth(counter: str, *by: str) -> str:
    """Return by how much a counter grew in each step, by these labels; the steps add up to the whole growth.

    Those of `increase` do not: its range is longer than a step and counts twice, or misses what falls between two
    ranges, and it extrapolates. Groups and names count from 0 when they appear, so series are summed first. So do
    instances that have just started, but not those that are only new to Prometheus.
    """
    known = ", ".join(dict.fromkeys(("job", "instance", "knock_environment", *by)))
    now, before = (f"sum by ({known}) ({counter}{offset})" for offset in ("", " offset $__interval"))
    shown = f"sum by ({', '.join(by)})" if by else "sum"
    return f"{shown} ({now} - {before} >= 0 or {now} and on (job, instance) ({_STARTED}))"


def number(title: str, description: str, query: str, unit: str, steps: Steps = PLAIN) -> stat.Panel:
    """Return a panel of one number, as it is now."""
    panel = stat.Panel().title(title).description(description).datasource(DATASOURCE).unit(unit)
    panel = panel.thresholds(_thresholds(steps)).span(NUMBER_WIDTH).height(NUMBER_HEIGHT).no_value("none")
    panel = panel.color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.NONE)
    panel = panel.reduce_options(parts.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.with_target(_target(query, title, 0).instant())


def yes_or_no(title: str, description: str, query: str, yes: str, no: str) -> stat.Panel:
    """Return a panel that says one of two words: `yes` for 1."""
    words = {
        "1": dashboard.ValueMappingResult(text=yes, color=GREEN),
        "0": dashboard.ValueMappingResult(text=no, color=RED),
    }
    panel = number(title, description, query, "short", ((None, RED), (1, GREEN)))
    return panel.mappings([dashboard.ValueMap(options=words)])


def lines(
    title: str,
    description: str,
    queries: Mapping[str, str],
    unit: str,
    steps: Steps = PLAIN,
    *,
    stacked: bool = False,
    bars: bool = False,
    highest: float | None = None,
    at_least: float = 1,
    colors: Mapping[str, str] | None = None,
) -> timeseries.Panel:
    """Return a panel over time; `queries` maps a legend to what is drawn.

    Its axis ends at `highest`, else not before `at_least`.
    """
    panel = timeseries.Panel().title(title).description(description).datasource(DATASOURCE).unit(unit)
    panel = panel.span(GRAPH_WIDTH).height(GRAPH_HEIGHT).min(0).thresholds(_thresholds(steps))
    if len(steps) > 1:
        panel = panel.thresholds_style(parts.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    # A panel of zeros has no extent of its own.
    panel = panel.axis_soft_max(at_least) if highest is None else panel.max(highest)
    if unit == COUNT:
        panel = panel.decimals(0)
    if bars:
        panel = panel.draw_style(common.GraphDrawStyle.BARS).fill_opacity(80).line_width(0).interval(SHORTEST_STEP)
    else:
        panel = panel.draw_style(common.GraphDrawStyle.LINE).fill_opacity(60 if stacked else 10).line_width(1)
        panel = panel.show_points(common.VisibilityMode.NEVER)
    if stacked:
        panel = panel.stacking(parts.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    panel = panel.legend(
        parts.VizLegendOptions()
        .show_legend(True)
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
    )
    panel = panel.tooltip(
        parts.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    )
    for name, color in (colors or {}).items():
        fixed = dashboard.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})
        panel = panel.override_by_name(name, [fixed])
    for place, (legend, query) in enumerate(queries.items()):
        panel = panel.with_target(_target(query, legend, place).range())
    return panel


def buckets(title: str, description: str, query: str) -> heatmap.Panel:
    """Return a heatmap of a histogram of seconds; `query` gives the growth of its buckets by `le`."""
    panel = heatmap.Panel().title(title).description(description).datasource(DATASOURCE).unit("short")
    panel = panel.span(GRAPH_WIDTH).height(GRAPH_HEIGHT).thresholds(_thresholds(PLAIN)).calculate(False)
    panel = panel.interval(SHORTEST_STEP)
    panel = panel.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
    panel = panel.y_axis(heatmap.YAxisConfig().unit("s").axis_placement(common.AxisPlacement.LEFT))
    panel = panel.cell_values(heatmap.CellValues().unit("short")).filter_values(heatmap.FilterValueRange().le(1e-9))
    panel = panel.tooltip(heatmap.HeatmapTooltip().mode(common.TooltipDisplayMode.SINGLE)).show_legend()
    return panel.with_target(_target(query, "{{le}}", 0).range().format(PromQueryFormat.HEATMAP))


def rows(
    title: str, description: str, columns: Sequence[Column], order: str, height: int = 10, *, newest_first: bool = False
) -> table.Panel:
    """Return a table, one row for each set of labels, in the order of the column with the title `order`.

    It has these columns and no other. Grafana makes a column only of what some row has, so each query must say
    something of each row: what is not known is NaN, as `or_not_known` adds it.
    """
    panel = table.Panel().title(title).description(description).datasource(DATASOURCE).unit("short")
    panel = panel.span(24).height(height).thresholds(_thresholds(PLAIN)).no_value(NOT_KNOWN)
    panel = panel.mappings([_UNKNOWN])
    panel = panel.sort_by([parts.TableSortByFieldState().display_name(order).desc(newest_first)])
    queried = [column for column in columns if column.query]
    shown: dict[str, int] = {}
    for place, column in enumerate(queried):
        target = _target(column.query, "", place).instant().format(PromQueryFormat.TABLE)
        panel = panel.with_target(target)
    for place, column in enumerate(columns):
        field = column.label or f"Value #{chr(ord('A') + queried.index(column))}"
        shown[field] = place
        # Of labels only: the sign for it hides a part of a narrow column's title.
        settings = {"unit": column.unit, "custom.width": column.width, "custom.filterable": bool(column.label)}
        chosen_ones = [(name, value) for name, value in settings.items() if value]
        options = [("displayName", column.title), *chosen_ones, *column.options]
        panel = panel.override_by_name(
            field, [dashboard.DynamicConfigValue(id_val=name, value=value) for name, value in options]
        )
    transformations: Mapping[str, dict[str, object]] = {
        "merge": {},
        "filterFieldsByName": {"include": {"names": list(shown)}},
        "organize": {"excludeByName": {}, "indexByName": shown, "renameByName": {}},
    }
    for name, settings in transformations.items():
        panel = panel.with_transformation(dashboard.DataTransformerConfig(id_val=name, options=settings))
    return panel


def or_not_known(query: str, every: str) -> str:
    """Return the query, with NaN for those of `every`, a query with the same labels, of which it says nothing."""
    return f"{query}\n  or {every} * NaN"


def gauge_cell(steps: Steps) -> list[tuple[str, object]]:
    """Return the settings of a column that draws ratios as bars."""
    return [
        ("custom.cellOptions", {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}),
        *(("min", 0), ("max", 1)),
        ("thresholds", _thresholds_value(steps)),
    ]


def colored(steps: Steps) -> list[tuple[str, object]]:
    """Return the settings of a column whose text has the colour of its value."""
    return [("custom.cellOptions", {"type": "color-text"}), ("thresholds", _thresholds_value(steps))]


def _thresholds_value(steps: Steps) -> dict[str, object]:
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def words(texts: Mapping[str, str]) -> tuple[str, object]:
    """Return the setting of a column that says words for values."""
    said = {"type": "value", "options": {value: {"text": text} for value, text in texts.items()}}
    return "mappings", [said, _UNKNOWN]


def chosen(name: str, label: str, query: str, description: str) -> build.QueryVariable:
    """Return a variable of several values of a label, all at first."""
    variable = build.QueryVariable(name).label(label).description(description).datasource(DATASOURCE)
    variable = variable.query({"query": query, "refId": name}).definition(query)
    variable = variable.multi(True).include_all(True).all_value(".*")
    variable = variable.current(dashboard.VariableOption(text="All", value="$__all"))
    return variable.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        dashboard.VariableSort.ALPHABETICAL_ASC
    )


def moments(name: str, query: str, color: str, text: str, *, enabled: bool = True) -> build.AnnotationQuery:
    """Return annotations; `query` gives series whose values are times, in milliseconds since 1970."""
    marks = build.AnnotationQuery().name(name).datasource(DATASOURCE).enable(enabled).icon_color(color)
    return marks.expr(query).title_format(name).text_format(text).use_value_for_time(True)


def board(uid: str, title: str, description: str) -> build.Dashboard:
    """Return a dashboard with what all have: a data source to choose, links between them, a shared crosshair."""
    sources = build.DatasourceVariable("datasource").label("Data source").type("prometheus")
    sources = sources.description("The Prometheus that scrapes knock-exporter.")
    links = build.DashboardLink("knock-exporter").type(dashboard.DashboardLinkType.DASHBOARDS).tags(["knock-exporter"])
    links = links.include_vars(True).keep_time(True)
    whole = build.Dashboard(title).uid(uid).description(description).tags(["knock", "knock-exporter"]).links([links])
    whole = (
        whole.time("now-1h", "now").refresh("30s").timezone("browser").tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    )
    return whole.readonly().with_variable(sources)


def _close_up(panels: Sequence[dashboard.Panel | dashboard.RowPanel]) -> None:
    """Move up what stands below a collapsed row: the builder leaves room for its panels, Grafana's own files do not."""
    free = 0
    for panel in panels:
        hidden = panel.panels if isinstance(panel, dashboard.RowPanel) else []
        places = [each.grid_pos for each in (panel, *hidden) if each.grid_pos]
        for place in places:
            place.y -= free
        if hidden:
            free += max(place.y + place.h for place in places) - places[0].y - 1


def filled(
    whole: build.Dashboard, sections: Mapping[str, Sequence[Panel]], collapsed: Collection[str] = ()
) -> dashboard.Dashboard:
    """Put panels under the titles of their rows, and number them; what `collapsed` ones hold asks nothing."""
    for title, members in sections.items():
        row = build.Row(title)
        for member in members if title in collapsed else ():
            row = row.with_panel(member)
        whole = whole.with_row(row)
        for member in members if title not in collapsed else ():
            whole = whole.with_panel(member)
    made = whole.build()
    _close_up(made.panels or [])
    everything = [inner for panel in made.panels or [] for inner in (panel, *(getattr(panel, "panels", None) or ()))]
    for id_, panel in enumerate(everything, start=1):
        panel.id_val = id_
    return made
