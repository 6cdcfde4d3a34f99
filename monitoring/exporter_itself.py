"""The dashboard of the exporter: its budget of requests, its delay, its failures, its scrapes, its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import panels
from panels import BAD_FROM_ONE, COUNT, GREEN, ODD_FROM_ONE, ORANGE, RED, Column

if TYPE_CHECKING:
    from grafana_foundation_sdk.models import dashboard
    from panels import Panel

ENVIRONMENT = 'knock_environment=~"$environment"'
INSTANCE = 'instance=~"$instance"'
BOTH = f"{ENVIRONMENT},{INSTANCE}"
RATE = "$__rate_interval"
MINE = f"on (job, instance) group_left () (knock_exporter_build_info{{{INSTANCE}}} * 0 + 1)"


def _age(family: str, labels: str = INSTANCE) -> str:
    return f"time() - {family}{{{labels}}}"


def _growth(family: str, *by: str, labels: str = BOTH) -> str:
    return panels.growth(f"{family}{{{labels}}}", *by)


def _rate(family: str, by: str) -> str:
    return f"sum by ({by}) (rate({family}{{{BOTH}}}[{RATE}]))"


def _quantile(quantile: float, family: str, by: str = "", labels: str = BOTH) -> str:
    kept = f"le, {by}" if by else "le"
    # A quantile of nothing is NaN, which is no more than nothing.
    return f"histogram_quantile({quantile}, sum by ({kept}) (rate({family}_bucket{{{labels}}}[{RATE}]))) >= 0"


def _now() -> list[Panel]:
    spent = f"sum(increase(knock_exporter_api_requests_total{{{BOTH}}}[$__range]))"
    finished = f"sum(increase(knock_bulk_operations_finished_total{{{BOTH}}}[$__range]))"
    tracked = f"sum by (job, instance) (knock_exporter_operations{{{INSTANCE}}})"
    return [
        panels.number("Exporters", "How many are scraped.", f"count(knock_exporter_build_info{{{INSTANCE}}})", "short"),
        panels.yes_or_no(
            "Knock",
            "Whether Knock's last answer accepted the key, in the environment where it is worst.",
            f"min(knock_up{{{BOTH}}})",
            "answers",
            "refuses or fails",
        ),
        panels.yes_or_no(
            "Configuration",
            "Whether the last reload was good, on the instance where it is worst.",
            f"min(knock_exporter_config_last_reload_successful{{{INSTANCE}}})",
            "good",
            "has a mistake",
        ),
        panels.number(
            "Budget used",
            "Requests a second as a share of the limit, in the environment where it is highest. At 100% polls wait.",
            f"max({_share()})",
            "percentunit",
            ((None, GREEN), (0.9, ORANGE)),
        ),
        panels.number(
            "Limit used",
            "Operations of `max_operations`, on the instance where it is most. At 100% final ones leave early.",
            f"max({tracked} / on (job, instance) knock_exporter_operations_limit{{{INSTANCE}}})",
            "percentunit",
            ((None, GREEN), (0.9, ORANGE), (1, RED)),
        ),
        panels.number(
            "Requests each",
            "Requests to Knock for each operation that finished in the time shown.",
            f"{spent} / ({finished} > 0)",
            "short",
        ),
        panels.number(
            "Scrape",
            "99 of 100 scrapes are quicker.",
            _quantile(0.99, "knock_exporter_scrape_duration_seconds", labels=INSTANCE),
            "s",
            ((None, GREEN), (1, ORANGE), (5, RED)),
        ),
        panels.number(
            "Last step",
            "How long ago the tracker stepped last, on the instance where it is longest.",
            f"max({_age('knock_exporter_tracker_last_step_timestamp_seconds')})",
            "s",
            ((None, GREEN), (60, ORANGE), (120, RED)),
        ),
        _instances(),
    ]


def _instances() -> Panel:
    every = f"max by (job, instance) (knock_exporter_build_info{{{INSTANCE}}})"
    labels = "version, revision, pythonversion"
    versions = f"max by (job, instance, {labels}) (knock_exporter_build_info{{{INSTANCE}}})"

    def known(query: str) -> str:
        return panels.or_not_known(query, every)

    def of_each(family: str, factor: str = "") -> str:
        return known(f"max by (job, instance) ({family}{{{INSTANCE}}}){factor}")

    def moment(title: str, query: str) -> Column:
        return Column(title, query, unit="dateTimeFromNow", width=150)

    started = of_each("process_start_time_seconds", " * 1000")
    state, reload = "knock_exporter_state", "knock_exporter_config_last_reload_success_timestamp_seconds"
    operations = known(f"sum by (job, instance) (knock_exporter_operations{{{INSTANCE}}})")
    bad = panels.colored(BAD_FROM_ONE)
    columns = [
        Column("Instance", label="instance", width=0),
        Column("Job", label="job", width=130),
        Column("Version", label="version"),
        Column("Revision", label="revision", width=100),
        Column("Python", label="pythonversion"),
        moment("Started", f"({started})\n  * on (job, instance) group_left ({labels}) {versions}"),
        Column("Operations", operations, width=110),
        moment("Configured", of_each(reload, " * 1000")),
        moment("State written", of_each(f"{state}_last_write_timestamp_seconds", " * 1000")),
        Column("State failures", of_each(f"{state}_write_failures_total"), width=130, options=bad),
    ]
    return panels.rows("Instances", "The exporters that are scraped.", columns, "Instance", height=6)


def _limit() -> str:
    return f"max by (knock_environment) (knock_exporter_api_rate_limit_requests_per_second{{{BOTH}}})"


def _share() -> str:
    return f"{_rate('knock_exporter_api_requests_total', 'knock_environment')} / {_limit()}"


def _api() -> list[Panel]:
    delay, suspended, share = "knock_exporter_poll_delay_seconds", "knock_exporter_api_suspended", _share()
    return [
        panels.lines(
            "Requests",
            "Requests to Knock, by answer.",
            {"{{code}}": _rate("knock_exporter_api_requests_total", "code")},
            "reqps",
        ),
        panels.lines(
            "Budget used",
            "Requests a second as a share of the limit at that time. At 100% polls wait, and intervals grow.",
            {"{{knock_environment}}": share},
            "percentunit",
            ((None, GREEN), (0.9, ORANGE)),
        ),
        panels.lines(
            "Delay of polls",
            "From when a poll was due until it was sent: the median, and what 99 of 100 stay below.",
            {"{{class}}, median": _quantile(0.5, delay, "class"), "{{class}}, 99%": _quantile(0.99, delay, "class")},
            "s",
            ((None, GREEN), (60, ORANGE)),
        ),
        panels.lines(
            "Planned interval",
            "The longest that is planned between two polls of an unfinished operation.",
            {"{{knock_environment}}": f"max by (knock_environment) (knock_exporter_poll_interval_seconds{{{BOTH}}})"},
            "s",
        ),
        panels.lines(
            "Failed polls",
            "Polls without a good answer, by reason.",
            {"{{reason}}": _growth("knock_exporter_poll_failures_total", "reason")},
            COUNT,
            BAD_FROM_ONE,
            bars=True,
            stacked=True,
        ),
        panels.buckets(
            "Duration of requests",
            "How long Knock took to answer.",
            _growth("knock_exporter_api_request_duration_seconds_bucket", "le"),
        ),
        panels.lines(
            "In flight",
            "Requests that wait for their answer.",
            {"{{knock_environment}}": f"sum by (knock_environment) (knock_exporter_api_requests_in_flight{{{BOTH}}})"},
            COUNT,
        ),
        panels.lines(
            "Knock",
            "1: Knock's last answer accepted the key. 0: not so, for 30 s. Refused: polls wait for a new key.",
            {
                "{{knock_environment}}": f"min by (knock_environment) (knock_up{{{BOTH}}})",
                "{{knock_environment}}: refused": f"max by (knock_environment) ({suspended}{{{BOTH}}})",
            },
            COUNT,
            highest=1,
        ),
    ]


def _operations() -> list[Panel]:
    refused = "knock_exporter_operations_refused_total"
    source_success = "knock_exporter_source_last_success_timestamp_seconds"
    return [
        panels.lines(
            "Tracked",
            "Operations that are tracked, finished ones until they retire.",
            {"{{knock_environment}}": f"sum by (knock_environment) (knock_exporter_operations{{{BOTH}}})"},
            COUNT,
        ),
        panels.lines(
            "Not shown one by one",
            "Operations without series of their own, because of `per_operation_limit` or `per_operation`.",
            {"{{knock_environment}}": f"sum by (knock_environment) (knock_exporter_operations_not_exposed{{{BOTH}}})"},
            COUNT,
        ),
        panels.lines(
            "Refused and folded",
            "Refused operations and requests, by reason; label values that became `other`; ids that two sources claim.",
            {
                "refused: {{reason}}": _growth(refused, "reason"),
                "requests: {{reason}}": _growth("knock_exporter_http_refused_total", "reason", labels=INSTANCE),
                "folded: {{label}}": _growth("knock_exporter_label_values_folded_total", "label"),
                "conflicts": _growth("knock_exporter_source_conflicts_total"),
            },
            COUNT,
            ODD_FROM_ONE,
            bars=True,
        ),
        panels.lines(
            "Age of the sources",
            "How long ago operation ids were last read from each source, in the environment where it is longest.",
            {"{{source}}": f"max by (source) ({_age(source_success, BOTH)})"},
            "s",
        ),
        panels.lines(
            "Failures of sources",
            "Files and lists that could not be read.",
            {
                "{{knock_environment}} / {{source}}": _growth(
                    "knock_exporter_source_failures_total", "knock_environment", "source"
                )
            },
            COUNT,
            BAD_FROM_ONE,
            bars=True,
        ),
        panels.lines(
            "Retired",
            "Operations that left, by reason: their retention ended, or the limit was reached.",
            {"{{reason}}": _growth("knock_bulk_operations_retired_total", "reason")},
            COUNT,
            bars=True,
        ),
    ]


def _process() -> list[Panel]:
    def mine(family: str) -> str:
        return f"{family}{{{INSTANCE}}} * {MINE}"

    return [
        panels.buckets(
            "Duration of scrapes",
            "How long the exporter took to answer `/metrics`.",
            _growth("knock_exporter_scrape_duration_seconds_bucket", "le", labels=INSTANCE),
        ),
        panels.lines(
            "Size of /metrics",
            "Of the last view, before compression.",
            {"{{instance}}": f"knock_exporter_exposition_size_bytes{{{INSTANCE}}}"},
            "bytes",
        ),
        panels.lines("Memory", "Resident memory.", {"{{instance}}": mine("process_resident_memory_bytes")}, "bytes"),
        panels.lines(
            "CPU",
            "Of one core.",
            {"{{instance}}": f"rate(process_cpu_seconds_total{{{INSTANCE}}}[{RATE}]) * {MINE}"},
            "percentunit",
            ((None, GREEN), (0.9, ORANGE)),
        ),
        panels.lines(
            "File descriptors",
            "Open ones, of those that are allowed.",
            {"{{instance}}": f"process_open_fds{{{INSTANCE}}} / process_max_fds{{{INSTANCE}}} * {MINE}"},
            "percentunit",
            ((None, GREEN), (0.8, ORANGE)),
        ),
        panels.lines(
            "State and heartbeat",
            "How long ago the state was written, and the tracker stepped.",
            {
                "{{instance}}: state": _age("knock_exporter_state_last_write_timestamp_seconds"),
                "{{instance}}: step": _age("knock_exporter_tracker_last_step_timestamp_seconds"),
            },
            "s",
            ((None, GREEN), (120, ORANGE)),
        ),
    ]


def document() -> dashboard.Dashboard:
    """Return the dashboard."""
    board = panels.board(
        "knock-exporter",
        "knock-exporter",
        "The exporter itself: its budget of requests, its delay, its failures, its scrapes.",
    )
    board = board.with_variable(
        panels.chosen(
            "environment",
            "Environment",
            "label_values(knock_exporter_operations, knock_environment)",
            "Knock's environment.",
        )
    ).with_variable(
        panels.chosen(
            "instance",
            "Instance",
            "label_values(knock_exporter_build_info, instance)",
            "The exporter, as it is scraped.",
        )
    )
    started = f"process_start_time_seconds{{{INSTANCE}}} * {MINE} * 1000"
    board = board.annotation(panels.moments("Start", started, panels.BLUE, "{{instance}} started"))
    failed = (
        "topk(100, max by (knock_environment, group) "
        f"(knock_bulk_operations_last_failed_seen_timestamp_seconds{{{BOTH}}})) * 1000"
    )
    board = board.annotation(panels.moments("Failed", failed, RED, "{{group}} ({{knock_environment}})", enabled=False))
    sections = {
        "Now": _now(),
        "Requests to Knock": _api(),
        "Operations and their sources": _operations(),
        "The process": _process(),
    }
    return panels.filled(board, sections, collapsed=["Operations and their sources", "The process"])
