"""The dashboard of the operations: what runs, how far it is, when it is done, what failed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import panels
from grafana_foundation_sdk.builders import dashboard as build
from panels import BAD_FROM_ONE, BLUE, COUNT, GREEN, ODD_FROM_ONE, ORANGE, RED, STATUS_COLORS, Column

if TYPE_CHECKING:
    from grafana_foundation_sdk.models import dashboard
    from panels import Panel

GROUP = 'knock_environment=~"$environment",group=~"$group"'
NAMED = GROUP + ',name=~"$name"'
GROUPS, LISTED = 20, 50
OPERATION = "knock_environment, group, operation_id"
RATE = "$__rate_interval"
ERROR_STEPS = ((None, GREEN), (0.01, ORANGE), (0.05, RED))
PROGRESS_STEPS = ((None, "blue"), (1, GREEN))
UNFINISHED_ONES, FAILED_ONES = ',status=~"pending|queued|processing|unknown"', ',status=~"failed|lost"'
STATES = ("did not run", "late", "incomplete", "will be late", "running", "done with failures", "done", "idle")
STATE_STEPS = ((None, RED), (4, ORANGE), (5, BLUE), (6, ORANGE), (7, GREEN), (8, BLUE))
TENTHS = [("decimals", 1)]
NONE = "None is listed where the exporter has `per_operation: none`."

# At `end()`, so that the same groups are drawn over the whole time, whatever their number.
BUSIEST = (
    f"topk({GROUPS}, sum by (knock_environment, group)"
    f" (increase(knock_bulk_operations_rows_processed_total{{{NAMED}}}[$__range] @ end())))"
)
UNFINISHED = f'max by ({OPERATION}) (knock_bulk_operation_status{{{GROUP},status=~"queued|processing|unknown"}}) == 1'
INFO = f"max by ({OPERATION}, name) (knock_bulk_operation_info{{{NAMED}}})"
OLDEST = (
    f"bottomk({LISTED}, max by ({OPERATION}) (knock_bulk_operation_inserted_timestamp_seconds{{{GROUP}}})"
    f" and ({UNFINISHED}) and on ({OPERATION}) {INFO})"
)
# Of all that have series, the name too where Knock has not said it yet.
NAMED_ONES = f'label_replace({INFO}, "name", "{panels.NOT_KNOWN}", "name", "")'
EACH = f"max by ({OPERATION}) (knock_bulk_operation_info{{{GROUP}}})"
WRONG = (
    f'(max by ({OPERATION}) (knock_bulk_operation_status{{{GROUP},status="failed"}}) == 1'
    f" or max by ({OPERATION}) (knock_bulk_operation_errors{{{GROUP}}}) > 0)"
)
NEWEST_WRONG = (
    f"topk({LISTED}, max by ({OPERATION}) (knock_bulk_operation_last_change_timestamp_seconds{{{GROUP}}})"
    f" and {WRONG} and on ({OPERATION}) {INFO})"
)
RUN = "on (knock_environment, group)"


def _of_run(family: str) -> str:
    return f"max by (knock_environment, group) (knock_group_{family}{{{GROUP}}})"


def _run_operations(statuses: str) -> str:
    counts = f'knock_group_run_operations{{{GROUP},status=~"{statuses}"}}'
    return f"sum by (knock_environment, group) (max by (knock_environment, group, status) ({counts}))"


def _tracked(family: str, more: str = "") -> str:
    return f"sum by (knock_environment, group) (knock_bulk_{family}{{{GROUP}{more}}})"


def _state() -> str:
    """Return a query for the number of the first of STATES that holds: an alert that fires, or how far the run is.

    Groups that have no run go by what is tracked of them.
    """
    fires = "\n    or ".join(
        f'{number} * ALERTS{{{GROUP},alertname="KnockGroup{alert}",alertstate="firing"}}'
        for number, alert in enumerate(("DidNotRun", "MissedDeadline", "Incomplete", "WillMissDeadline"), start=1)
    )
    opened, finished = _of_run("run_opened_timestamp_seconds"), _of_run("run_finished_timestamp_seconds")
    unfinished, failed, every = (_tracked("operations", more) for more in (UNFINISHED_ONES, FAILED_ONES, ""))
    wrong = f"{_run_operations('failed|lost')} + {_of_run('run_errors')} > 0"
    wrong_now = f"{failed} + {_tracked('operations_completed_with_errors')} > 0"
    holds = [
        (5, f"{opened} unless {RUN} {finished}"),
        (5, f"({unfinished} > 0) unless {RUN} {opened}"),
        (6, f"{finished} and {RUN} {wrong}"),
        (6, f"({wrong_now}) unless {RUN} {opened}"),
        (7, finished),
        (7, f"({every} > 0) unless {RUN} {opened}"),
        (8, _of_run("last_run_timestamp_seconds")),
        (8, every),
    ]
    return "\n".join(
        [
            f"min by (knock_environment, group) (\n    {fires})",
            *(f"  or {number} + 0 * ({query})" for number, query in holds),
        ]
    )


LINK = {
    "title": "Open it in the exporter",
    "url": "${exporter_url}/operations/${__data.fields.knock_environment}/${__data.fields.operation_id}",
    "targetBlank": True,
}


def _sum(family: str, more: str = "") -> str:
    return f"sum({family}{{{NAMED}{more}}})"


def _by_group(family: str) -> str:
    return f"sum by (knock_environment, group) ({family}{{{NAMED}}})"


def _by_group_rate(family: str) -> str:
    return f"sum by (knock_environment, group) (rate({family}{{{NAMED}}}[{RATE}]))"


def _growth(family: str, labels: str, *by: str) -> str:
    return panels.growth(f"knock_bulk_operations_{family}{{{labels}}}", *by)


def _of_groups(query: str) -> str:
    return f"({query})\n  and on (knock_environment, group) {BUSIEST}"


def _of(which: str, query: str) -> str:
    return f"({panels.or_not_known(query, EACH)})\n  and on ({OPERATION}) {which}"


def _operation(family: str, which: str) -> str:
    return _of(which, f"max by ({OPERATION}) ({family}{{{GROUP}}})")


def _runs() -> list[Panel]:
    def record(name: str) -> str:
        return f"max by (knock_environment, group) (group:knock_{name}{{{GROUP}}})"

    def moment(name: str) -> str:
        return f"{_of_run(f'{name}_timestamp_seconds')} * 1000"

    bad = panels.colored(BAD_FROM_ONE)
    states = panels.words({f"{number}": text for number, text in enumerate(STATES, start=1)})
    every = f"({_tracked('operations')} or {_of_run('last_run_timestamp_seconds')})"
    failed = f"{_run_operations('failed|lost')}\n  or {_tracked('operations', FAILED_ONES)}"
    errors = f"{_of_run('run_errors')}\n  or {_tracked('operations_tracked_errors')}"
    columns = [
        Column("Environment", label="knock_environment", width=130),
        Column("Group", label="group", width=0),
        Column("State", _state(), width=150, options=[*panels.colored(STATE_STEPS), states]),
        Column(
            "Progress",
            record("group_run_progress:ratio"),
            unit="percentunit",
            width=125,
            options=panels.gauge_cell(PROGRESS_STEPS),
        ),
        Column("Finished", record("group_run_finished:operations")),
        Column("Expected", _of_run("run_expected_operations")),
        Column("Failed", failed, options=bad),
        Column("Rows with errors", errors, width=130, options=bad),
        Column("Time left", record("group_run_time_left:seconds"), unit="s"),
        Column("Deadline", moment("run_deadline"), unit="dateTimeFromNow", width=145),
        Column("Last run", moment("last_run"), unit="dateTimeFromNow", width=145),
        Column("Unfinished", _tracked("operations", UNFINISHED_ONES), width=95),
        Column(
            "Rows a second", record("bulk_operations_rows_processed:rate5m"), unit="rowsps", width=115, options=TENTHS
        ),
    ]
    return [
        panels.rows(
            "Groups",
            "The newest run of each group. Progress is finished of expected operations, or rows where the job declared"
            " no number; time left goes by the pace since the run was opened. Failed counts lost ones too. Unfinished"
            " and rows a second are of all that is tracked, and so are state, failed and errors where there is no run."
            " The first four states are alerts that fire. State, progress and time left need the rules.",
            [
                replace(column, query=panels.or_not_known(column.query, every)) if column.query else column
                for column in columns
            ],
            "State",
            height=8,
        )
    ]


def _now() -> list[Panel]:
    time_left = (
        f"clamp_min({_sum('knock_bulk_operations_active_rows_estimated')}"
        f" - {_sum('knock_bulk_operations_active_rows_processed')}, 0)\n"
        f"  / (sum(rate(knock_bulk_operations_rows_processed_total{{{NAMED}}}[5m])) > 0)"
    )
    progress = (
        f"clamp_max({_sum('knock_bulk_operations_tracked_rows_processed')}\n"
        f"  / ({_sum('knock_bulk_operations_tracked_rows_estimated')} > 0), 1)"
    )
    errors = (
        f"clamp_max({_sum('knock_bulk_operations_tracked_errors')}\n"
        f"  / ({_sum('knock_bulk_operations_tracked_rows_processed')} > 0), 1)"
    )
    oldest = f"time() - min(knock_bulk_operations_oldest_active_last_success_timestamp_seconds{{{NAMED}}})"
    return [
        panels.number(
            "Unfinished",
            "Operations that are not final yet: queued, processing, or not asked for yet.",
            _sum("knock_bulk_operations", UNFINISHED_ONES),
            "short",
        ),
        panels.number(
            "Progress now",
            "Rows processed of rows estimated, of all operations that are tracked, finished ones too. It falls when new"
            " ones come: how far a run is, is under Groups.",
            progress,
            "percentunit",
            PROGRESS_STEPS,
        ),
        panels.number(
            "Done in",
            "Rows that are left of what is tracked now, by the rows of the last 5 minutes. None while nothing moves.",
            time_left,
            "s",
        ),
        panels.number(
            "Rows a second",
            "Rows that Knock processed, by the last 5 minutes.",
            f"sum(rate(knock_bulk_operations_rows_processed_total{{{NAMED}}}[5m]))",
            "rowsps",
        ),
        panels.number(
            "Failed",
            "Operations that stand as failed now. They leave when they are retired or dropped.",
            _sum("knock_bulk_operations", ',status="failed"'),
            "short",
            BAD_FROM_ONE,
        ),
        panels.number(
            "Errors",
            "Rows with errors, of the rows processed by all operations that are tracked.",
            errors,
            "percentunit",
            ERROR_STEPS,
        ),
        panels.number(
            "Stale",
            "Unfinished operations that were not read for longer than planned: what is shown of them is old.",
            _sum("knock_bulk_operations_stale"),
            "short",
            ODD_FROM_ONE,
        ),
        panels.number(
            "Oldest answer",
            "How old the oldest answer about an unfinished operation is.",
            oldest,
            "s",
            ((None, GREEN), (300, ORANGE), (900, RED)),
        ),
    ]


def _groups() -> list[Panel]:
    rate, errors = (_by_group_rate(f"knock_bulk_operations_{what}_total") for what in ("rows_processed", "errors"))
    legend = "{{knock_environment}} / {{group}}"
    only = f" The {GROUPS} groups with the most rows in the time shown."
    return [
        panels.lines(
            "Operations",
            "Operations that are tracked, by status. Final ones leave when they are retired.",
            {"{{status}}": f"sum by (status) (knock_bulk_operations{{{NAMED}}})"},
            COUNT,
            stacked=True,
            colors=STATUS_COLORS,
        ),
        panels.lines(
            "Finished",
            "Operations that were seen to finish, by how, and those of them that had errors.",
            {
                "{{status}}": _growth("finished_total", NAMED, "status"),
                "with errors": _growth("finished_with_errors_total", NAMED),
            },
            COUNT,
            bars=True,
            colors=STATUS_COLORS | {"with errors": "#ff9830"},
        ),
        panels.lines(
            "Progress of runs",
            "Finished of expected operations of the run of a group; rows where its job declared no number." + only,
            {legend: _of_groups(f"group:knock_group_run_progress:ratio{{{GROUP}}}")},
            "percentunit",
            highest=1,
        ),
        panels.lines(
            "Rows a second", "Rows that Knock processed." + only, {legend: _of_groups(rate)}, "rowsps", stacked=True
        ),
        panels.lines(
            "Error ratio",
            "Rows with errors, of the rows processed then." + only,
            {legend: _of_groups(f"{errors} / ({rate} > 0)")},
            "percentunit",
            ERROR_STEPS,
            at_least=0.1,
        ),
        panels.lines(
            "Rows left",
            "Rows estimated less rows processed, of unfinished operations." + only,
            {
                legend: _of_groups(
                    f"clamp_min({_by_group('knock_bulk_operations_active_rows_estimated')}"
                    f" - {_by_group('knock_bulk_operations_active_rows_processed')}, 0)"
                )
            },
            COUNT,
            stacked=True,
        ),
    ]


def _durations() -> list[Panel]:
    return [
        panels.buckets(
            "Time in the queue",
            "How long operations waited until they started, once each. All names.",
            _growth("queue_duration_seconds_bucket", GROUP, "le"),
        ),
        panels.buckets(
            "Run time",
            "How long operations ran, once each, when they finished, failed ones too. All names.",
            _growth("run_duration_seconds_bucket", GROUP, "le"),
        ),
    ]


def _labels() -> list[Column]:
    return [
        Column("Operation", label="operation_id", width=330, options=[("links", [LINK])]),
        Column("Environment", label="knock_environment", width=130),
        Column("Group", label="group", width=105),
        Column("Name", label="name", width=0),
    ]


def _with_name(query: str) -> str:
    return f"({query})\n  * on ({OPERATION}) group_left (name) {NAMED_ONES}"


def _moment(what: str, which: str) -> str:
    return _of(which, f"max by ({OPERATION}) (knock_bulk_operation_{what}_timestamp_seconds{{{GROUP}}}) * 1000")


def _unfinished() -> list[Column]:
    def record(name: str) -> str:
        return _operation(f"operation:knock_bulk_operation_{name}", OLDEST)

    return [
        *_labels(),
        Column("Inserted", _with_name(_moment("inserted", OLDEST)), unit="dateTimeFromNow", width=145),
        Column("Runs for", record("run_time:seconds"), unit="s", width=85),
        Column(
            "Progress",
            record("progress:ratio"),
            unit="percentunit",
            width=120,
            options=panels.gauge_cell(PROGRESS_STEPS),
        ),
        Column("Rows", _operation("knock_bulk_operation_rows_processed", OLDEST), width=80),
        Column("Speed", record("rows_processed:rate5m"), unit="rowsps", width=105, options=TENTHS),
        Column("Done in", record("time_left:seconds"), unit="s", width=85),
        Column(
            "Errors", _operation("knock_bulk_operation_errors", OLDEST), width=75, options=panels.colored(BAD_FROM_ONE)
        ),
        Column("Last change", _moment("last_change", OLDEST), unit="dateTimeFromNow", width=145),
    ]


def _wrong() -> list[Column]:
    failed = _operation("knock_bulk_operation_status", NEWEST_WRONG).replace(GROUP, GROUP + ',status="failed"', 1)
    ratio = _operation("operation:knock_bulk_operation_errors:ratio", NEWEST_WRONG)
    errors = _operation("knock_bulk_operation_errors", NEWEST_WRONG)
    yes = [*panels.colored(BAD_FROM_ONE), panels.words({"1": "failed", "0": "no"})]
    return [
        *_labels(),
        Column("Last change", _with_name(_moment("last_change", NEWEST_WRONG)), unit="dateTimeFromNow", width=145),
        Column("Failed", failed, options=yes, width=100),
        Column("Rows", _operation("knock_bulk_operation_rows_processed", NEWEST_WRONG)),
        Column("Errors", errors, options=panels.colored(BAD_FROM_ONE)),
        Column("Error ratio", ratio, unit="percentunit", width=100, options=panels.colored(ERROR_STEPS)),
        Column("Ran", _operation("knock_bulk_operation_duration_seconds", NEWEST_WRONG), unit="s"),
    ]


def _operations() -> list[Panel]:
    unfinished = (
        f"The {LISTED} that were inserted first. Run time, progress, rate and time left come from recording rules. "
    )
    wrong = f"The {LISTED} that changed last. What failed in one: `knock-exporter get ID --error-items`. "
    return [
        panels.rows("Unfinished operations", unfinished + NONE, _unfinished(), "Inserted"),
        panels.rows("Failed, or with errors", wrong + NONE, _wrong(), "Last change", newest_first=True),
    ]


def document() -> dashboard.Dashboard:
    """Return the dashboard."""
    board = panels.board(
        "knock-overview",
        "Knock bulk operations",
        "What runs in Knock, how far it is, when it is done, and what failed.",
    )
    # A group that did not run has no operations.
    families = "knock_bulk_operations|knock_group_last_run_timestamp_seconds"
    groups = f'label_values({{__name__=~"{families}",knock_environment=~"$environment"}}, group)'
    names = 'label_values(knock_bulk_operations{knock_environment=~"$environment",group=~"$group"}, name)'
    variables = [
        panels.chosen(
            "environment",
            "Environment",
            "label_values(knock_exporter_operations, knock_environment)",
            "Knock's environment.",
        ),
        panels.chosen("group", "Group", groups, "The group that operations were handed over with."),
        panels.chosen("name", "Name", names, "What Knock calls the kind of operation."),
        build.TextBoxVariable("exporter_url")
        .label("Exporter")
        .default_value("http://localhost:10187")
        .description("Where a browser reaches knock-exporter: links from a row to its operation lead there."),
    ]
    for variable in variables:
        board = board.with_variable(variable)
    failed, with_errors = (
        f"topk(100, max by (knock_environment, group, name)"
        f" (knock_bulk_operations_last_{what}_seen_timestamp_seconds{{{NAMED}}})) * 1000"
        for what in ("failed", "completed_with_errors")
    )
    text = "{{name}} in {{group}} ({{knock_environment}})"
    board = board.annotation(panels.moments("Failed", failed, RED, text))
    board = board.annotation(panels.moments("Completed with errors", with_errors, ORANGE, text, enabled=False))
    sections = {
        "Groups": _runs(),
        "Now": _now(),
        "Over time": _groups(),
        "Operations": _operations(),
        "Durations": _durations(),
    }
    return panels.filled(board, sections, collapsed=["Durations"])
