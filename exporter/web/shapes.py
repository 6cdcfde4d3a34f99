"""What the API answers: the shapes, and how they are made of what is known. Pure.

What is not known is null. Times are RFC 3339, durations seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from typing_extensions import TypedDict

from exporter import wording
from exporter.tracking import facts
from exporter.tracking.group_facts import GroupState  # noqa: TC001 - pydantic reads it
from exporter.tracking.selection import Filter, operation_name, tally
from exporter.tracking.transitions import STATES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.tracking.group_facts import GroupFacts
    from exporter.tracking.runs import Run, RunSums
    from exporter.tracking.snapshot import Entry, EnvironmentStatus, Snapshot
    from exporter.tracking.transitions import Moment

Labels = dict[str, str]


class Summary(TypedDict):
    """An operation as lists have it."""

    environment: str
    id: str
    name: str
    group: str
    run: str | None
    labels: Labels
    status: str
    with_errors: bool
    stale: bool
    processed_rows: int | None
    estimated_total_rows: int | None
    success_count: int | None
    error_count: int | None
    progress: float | None
    rate_rows_per_second: float | None
    time_left_seconds: float | None
    age_seconds: float
    last_poll_succeeded: bool | None
    last_success_at: str | None
    next_poll_at: str | None


class Record(TypedDict):
    """What Knock said last, under Knock's own names; failed items are counted by collection ("": without one)."""

    id: str
    name: str
    status: str
    status_word: str | None  # where `status` is unknown: Knock's own word
    processed_rows: int | None
    estimated_total_rows: int | None
    success_count: int | None
    error_count: int | None
    error_items_count: int | None
    error_items_by_collection: dict[str, int]
    inserted_at: str | None
    updated_at: str | None
    started_at: str | None
    completed_at: str | None
    failed_at: str | None


class Poll(TypedDict):
    """One poll; `reason` is null where it brought a record."""

    at: str
    duration_seconds: float
    reason: str | None
    text: str | None


class Point(TypedDict):
    """The counts at one time."""

    at: str
    processed_rows: int | None
    error_count: int | None


class OperationSource(TypedDict):
    """Who names an operation, and the group that it says."""

    kind: str
    name: str
    group: str


class Detail(Summary):
    """An operation in full; `has_series`: it has metrics of its own."""

    record: Record | None
    tracked_since: str
    last_change_at: str | None
    has_series: bool
    sources: list[OperationSource]
    polls: list[Poll]
    points: list[Point]


class Operations(TypedDict):
    """A page of operations; `next` is the cursor of the page after it."""

    operations: list[Summary]
    next: str | None
    total: int


class Trouble(TypedDict):
    """The last request that brought no record."""

    at: str
    reason: str
    text: str


class Source(TypedDict):
    """A source of ids."""

    kind: str
    name: str
    operations: int
    read_at: str | None
    problem: str | None


class Environment(TypedDict):
    """How an environment stands; `waiting` polls are due and not yet sent, the longest for `delay_seconds`."""

    name: str
    base_url: str
    branch: str | None
    up: bool | None
    suspended: bool
    rate_limit_per_second: float
    rate_current_per_second: float
    rate_used_per_second: float
    in_flight: int
    waiting: int
    delay_seconds: float
    last_response_at: str | None
    last_error: Trouble | None
    operations: dict[str, int]
    sources: list[Source]


class Environments(TypedDict):
    """All environments that this process watches."""

    environments: list[Environment]


class Sums(TypedDict):
    """What operations add up to; `operations` by status."""

    operations: dict[str, int]
    with_errors: int
    rows_processed: int
    rows_estimated: int
    errors: int


class RunShape(Sums):
    """A run: what the job declared, and what all its operations add up to, those that have retired too."""

    id: str
    opened_at: str
    deadline_at: str | None
    closed_at: str | None
    finished_at: str | None
    expected_operations: int | None


class Group(Sums):
    """How a group stands; `operations` and what follows add up what is tracked now, `progress` is of `progress_of`."""

    environment: str
    group: str
    state: GroupState
    every_seconds: float | None
    last_run_at: str | None
    progress: float | None
    progress_of: Literal["operations", "rows"] | None
    time_left_seconds: float | None
    rate_rows_per_second: float | None
    run: RunShape | None


class ApiIndex(TypedDict):
    """What the API has: its calls as METHOD /path, and where they are described."""

    version: str
    openapi: str
    documentation: str
    calls: list[str]


class GroupList(TypedDict):
    """Groups, by environment and name."""

    groups: list[Group]


def groups(found: Iterable[GroupFacts]) -> GroupList:
    """Tell how groups stand."""
    return GroupList(groups=[group(each) for each in found])


def group(it: GroupFacts) -> Group:
    """Tell how a group stands."""
    return Group(
        environment=it.environment,
        group=it.group,
        state=it.state,
        every_seconds=it.every,
        last_run_at=_time(it.last_run),
        progress=it.progress,
        progress_of=it.progress_of,
        time_left_seconds=it.time_left,
        rate_rows_per_second=it.rate,
        **_sums(it.tracked),
        run=_run(it, it.run) if it.run is not None else None,
    )


def _run(it: GroupFacts, run: Run) -> RunShape:
    return RunShape(
        id=run.id,
        opened_at=_at(run.opened),
        deadline_at=_time(it.deadline),
        closed_at=_time(run.closed),
        finished_at=_time(run.finished),
        expected_operations=run.operations,
        **_sums(it.run_sums),
    )


def _sums(sums: RunSums) -> Sums:
    return Sums(
        operations=sums.by_state,
        with_errors=sums.with_errors,
        rows_processed=sums.rows_processed,
        rows_estimated=sums.rows_estimated,
        errors=sums.errors,
    )


def summary(entry: Entry, now: Moment) -> Summary:
    """Tell of an operation what lists have."""
    it, record = entry.tracked, entry.tracked.operation
    return Summary(
        environment=it.key.environment,
        id=it.key.id,
        name=operation_name(entry),
        group=it.group,
        run=it.run or None,
        labels=dict(it.labels),
        status=it.state,
        with_errors=it.has_errors,
        stale=facts.stale(entry, now),
        processed_rows=record.rows_processed if record else None,
        estimated_total_rows=record.rows_estimated if record else None,
        success_count=record.successes if record else None,
        error_count=record.errors if record else None,
        progress=facts.progress(entry),
        rate_rows_per_second=facts.rate(entry, now),
        time_left_seconds=facts.time_left(entry, now),
        age_seconds=facts.age(entry, now),
        last_poll_succeeded=it.up,
        last_success_at=_time(it.last_success.wall if it.last_success else None),
        next_poll_at=_time(facts.next_poll(entry, now)),
    )


def detail(entry: Entry, now: Moment) -> Detail:
    """Tell of an operation everything."""
    it = entry.tracked
    return Detail(
        **summary(entry, now),
        record=_record(entry),
        tracked_since=_at(it.handed_over.wall),
        last_change_at=_time(it.last_change.wall if it.last_change else None),
        has_series=entry.exposed,
        sources=[
            OperationSource(kind=str(each.source.kind), name=facts.source_name(each.source), group=each.group)
            for each in entry.memberships
        ],
        polls=[
            Poll(
                at=_at(each.at),
                duration_seconds=round(each.seconds, 6),
                reason=each.trouble.reason if each.trouble else None,
                text=each.trouble.text if each.trouble else None,
            )
            for each in entry.history.polls
        ],
        points=[
            Point(at=_at(each.at), processed_rows=each.processed, error_count=each.errors)
            for each in entry.history.points
        ],
    )


def _record(entry: Entry) -> Record | None:
    it = entry.tracked.operation
    if it is None:
        return None
    return Record(
        id=it.id,
        name=it.name,
        status=str(it.status),
        status_word=it.status_word,
        processed_rows=it.rows_processed,
        estimated_total_rows=it.rows_estimated,
        success_count=it.successes,
        error_count=it.errors,
        error_items_count=it.error_items,
        error_items_by_collection=dict(it.collections),
        inserted_at=_time(it.inserted_at),
        updated_at=_time(it.updated_at),
        started_at=_time(it.started_at),
        completed_at=_time(it.completed_at),
        failed_at=_time(it.failed_at),
    )


def environments(snapshot: Snapshot, now: Moment) -> Environments:
    """Tell how all environments stand."""
    return Environments(environments=[_environment(snapshot, each, now) for each in snapshot.environments])


def _environment(snapshot: Snapshot, it: EnvironmentStatus, now: Moment) -> Environment:
    counts, (waiting, delay) = tally(snapshot, Filter(it.name), now), facts.waiting(it, now)
    error = it.last_error
    return Environment(
        name=it.name,
        base_url=it.base_url,
        branch=it.branch,
        up=it.up,
        suspended=it.suspended,
        rate_limit_per_second=it.limit,
        rate_current_per_second=it.pace,
        rate_used_per_second=it.used,
        in_flight=it.in_flight,
        waiting=waiting,
        delay_seconds=delay,
        last_response_at=_time(it.last_response),
        last_error=Trouble(at=_at(error.at), reason=error.trouble.reason, text=error.trouble.text) if error else None,
        operations={state: counts[state] for state in STATES},
        sources=[
            Source(
                kind=str(each.source.kind),
                name=facts.source_name(each.source),
                operations=each.operations,
                read_at=_time(each.read_at),
                problem=each.problem,
            )
            for each in it.sources
        ],
    )


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else _at(seconds) or None


def _at(seconds: float) -> str:
    return wording.machine_moment(seconds)
