"""The metric families about Knock's operations: a table, a row each.

A row is name, type, HELP (which names the Knock field) and a function from what it describes to its samples.
What is not known has no sample. The exporter's own families are in own.py; docs/metrics.md describes both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client.utils import floatToGoString

from exporter.operation import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from exporter.tracking.ledger import Aggregate, GroupAggregate, Histogram
    from exporter.tracking.snapshot import GroupStatus
    from exporter.tracking.transitions import Tracked

# Most numbers of an operation are those of its last poll, or 0 and 1.
go_number: Callable[[float], str] = lru_cache(maxsize=16_384)(floatToGoString)
"""Write a number as Prometheus' own programs do."""

_POLLED = "as of the last successful poll"


class Sample(NamedTuple):
    """One sample: `suffix` extends the family's name, `labels` (encoded, with a leading comma) those of its row."""

    suffix: str
    labels: str
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: `samples` takes what a row of its level describes.

    It returns the only sample's value, None where there is none, or the samples.
    """

    name: str
    kind: str  # gauge, counter, histogram
    help: str
    samples: Callable[[Any], float | Iterable[Sample] | None]

    def encode(self, labels: str, row: object) -> bytes:
        """Write the sample lines of one row, in the order of the function."""
        name, found = self.name, self.samples(row)
        # Most families have one sample or none, and this is done for each family of each operation that changes.
        if found is None:
            return b""
        if isinstance(found, (int, float)):
            return f"{name}{{{labels}}} {go_number(found)}\n".encode()
        lines = [f"{name}{suffix}{{{labels}{extra}}} {go_number(value)}\n" for suffix, extra, value in found]
        return "".join(lines).encode()


class OperationRow(NamedTuple):
    """What the per-operation families see: the operation, and the encoded labels of its info series."""

    tracked: Tracked
    info_labels: str


def _each(label: str, values: Callable[[Any], dict[str, int]]) -> Callable[[Any], Iterator[Sample]]:
    def samples(row: Any) -> Iterator[Sample]:
        for value, number in values(row).items():
            yield Sample("", f',{label}="{value}"', number)

    return samples


def _of_record(field: str) -> Callable[[OperationRow], float | None]:
    def value(row: OperationRow) -> float | None:
        record = row.tracked.operation
        return getattr(record, field) if record is not None else None

    return value


def _info(row: OperationRow) -> Iterator[Sample]:
    if row.tracked.operation is not None:
        yield Sample("", row.info_labels, 1)


def _status(row: OperationRow) -> Iterable[Sample]:
    record = row.tracked.operation
    return () if record is None else _STATUS_SAMPLES[record.status]


_STATUS_SAMPLES = {now: tuple(Sample("", f',status="{status}"', now is status) for status in Status) for now in Status}


def _duration(row: OperationRow) -> float | None:
    record = row.tracked.operation
    return None if record is None else record.ran_for


def _last_change(row: OperationRow) -> float | None:
    return row.tracked.last_change.wall if row.tracked.last_change else None


def _last_success(row: OperationRow) -> float | None:
    return row.tracked.last_success.wall if row.tracked.last_success else None


def histogram_samples(histogram: Histogram, labels: str = "") -> Iterator[Sample]:
    """Write a histogram as Prometheus has it: cumulative buckets, count and sum; `labels` come before `le`."""
    counts = histogram.cumulative()
    for bound, count in zip((*histogram.bounds, float("inf")), counts, strict=True):
        yield Sample("_bucket", f'{labels},le="{go_number(bound)}"', count)
    yield Sample("_count", labels, counts[-1])
    yield Sample("_sum", labels, histogram.total)


def _run_durations(aggregate: GroupAggregate) -> Iterator[Sample]:
    for status, histogram in aggregate.run.items():
        yield from histogram_samples(histogram, f',status="{status}"')


_OP = "knock_bulk_operation_"
PER_OPERATION = (
    Family(f"{_OP}info", "gauge", f"Knock's name of the operation and its labels, {_POLLED}; always 1.", _info),
    Family(f"{_OP}status", "gauge", f"Knock's status, {_POLLED}: 1 for the current one, 0 for the others.", _status),
    Family(
        f"{_OP}rows_processed",
        "gauge",
        f"Knock's processed_rows, {_POLLED}: rows handled, successfully or not.",
        _of_record("rows_processed"),
    ),
    Family(
        f"{_OP}rows_estimated",
        "gauge",
        f"Knock's estimated_total_rows, {_POLLED}; may end above or below the rows processed.",
        _of_record("rows_estimated"),
    ),
    Family(f"{_OP}successes", "gauge", f"Knock's success_count, {_POLLED}.", _of_record("successes")),
    Family(f"{_OP}errors", "gauge", f"Knock's error_count, {_POLLED}.", _of_record("errors")),
    Family(
        f"{_OP}error_items", "gauge", f"Number of items in Knock's error_items, {_POLLED}.", _of_record("error_items")
    ),
    Family(
        f"{_OP}inserted_timestamp_seconds",
        "gauge",
        f"Knock's inserted_at in Unix seconds, {_POLLED}.",
        _of_record("inserted_at"),
    ),
    Family(
        f"{_OP}started_timestamp_seconds",
        "gauge",
        f"Knock's started_at in Unix seconds, {_POLLED}.",
        _of_record("started_at"),
    ),
    Family(
        f"{_OP}finished_timestamp_seconds",
        "gauge",
        f"Knock's completed_at or failed_at in Unix seconds, {_POLLED}; updated_at where a final record has neither.",
        _of_record("finished_at"),
    ),
    Family(
        f"{_OP}updated_timestamp_seconds",
        "gauge",
        f"Knock's updated_at in Unix seconds, {_POLLED}.",
        _of_record("updated_at"),
    ),
    Family(
        f"{_OP}last_change_timestamp_seconds",
        "gauge",
        f"When this exporter last saw Knock's status or a count change, in Unix seconds, {_POLLED}.",
        _last_change,
    ),
    Family(
        f"{_OP}duration_seconds",
        "gauge",
        "Seconds from Knock's started_at to the end of the operation; absent until it is completed or failed.",
        _duration,
    ),
    Family(
        f"{_OP}up",
        "gauge",
        "Whether the last poll of this operation succeeded (1) or failed (0).",
        lambda row: row.tracked.up,
    ),
    Family(
        f"{_OP}last_success_timestamp_seconds",
        "gauge",
        "When the last successful poll of this operation was, in Unix seconds.",
        _last_success,
    ),
)

_OPS = "knock_bulk_operations"
STALE = Family(
    f"{_OPS}_stale",
    "gauge",
    "Unfinished operations whose last successful poll was more than three poll intervals and 30 s before this scrape.",
    lambda count: count,
)
PER_NAME = (
    Family(
        _OPS,
        "gauge",
        f"Operations tracked now, by Knock's status, {_POLLED}; pending: never read, lost: no longer known to Knock.",
        _each("status", lambda aggregate: aggregate.tracked),
    ),
    Family(
        f"{_OPS}_completed_with_errors",
        "gauge",
        f"Tracked operations with Knock's status completed and error_count or error_items above 0, {_POLLED}.",
        lambda aggregate: aggregate.completed_with_errors,
    ),
    Family(
        f"{_OPS}_active_rows_processed",
        "gauge",
        f"Sum of Knock's processed_rows over unfinished operations, {_POLLED}.",
        lambda aggregate: aggregate.active_processed,
    ),
    Family(
        f"{_OPS}_active_rows_estimated",
        "gauge",
        f"Sum of Knock's estimated_total_rows over unfinished operations, {_POLLED}.",
        lambda aggregate: aggregate.active_estimated,
    ),
    Family(
        f"{_OPS}_tracked_rows_processed",
        "gauge",
        f"Sum of Knock's processed_rows over all tracked operations, {_POLLED}.",
        lambda aggregate: aggregate.all_processed,
    ),
    Family(
        f"{_OPS}_tracked_rows_estimated",
        "gauge",
        f"Sum of Knock's estimated_total_rows over all tracked operations, {_POLLED}.",
        lambda aggregate: aggregate.all_estimated,
    ),
    Family(
        f"{_OPS}_tracked_errors",
        "gauge",
        f"Sum of Knock's error_count over all tracked operations, {_POLLED}.",
        lambda aggregate: aggregate.all_errors,
    ),
    Family(
        f"{_OPS}_oldest_active_inserted_timestamp_seconds",
        "gauge",
        f"Oldest of Knock's inserted_at among unfinished operations, in Unix seconds, {_POLLED}.",
        lambda aggregate: aggregate.inserted.least,
    ),
    Family(
        f"{_OPS}_oldest_active_last_success_timestamp_seconds",
        "gauge",
        "Oldest last successful poll of unfinished operations, in Unix seconds; if never read, when its id came in.",
        lambda aggregate: aggregate.last_success.least,
    ),
    Family(
        f"{_OPS}_oldest_processing_change_timestamp_seconds",
        "gauge",
        "Oldest time of the last seen change of status or counts among processing operations, in Unix seconds.",
        lambda aggregate: aggregate.processing_change.least,
    ),
    Family(
        f"{_OPS}_last_completed_timestamp_seconds",
        "gauge",
        f"Newest of Knock's completed_at, in Unix seconds, {_POLLED}.",
        lambda aggregate: aggregate.last_completed,
    ),
    Family(
        f"{_OPS}_last_failed_timestamp_seconds",
        "gauge",
        f"Newest of Knock's failed_at, in Unix seconds, {_POLLED}.",
        lambda aggregate: aggregate.last_failed,
    ),
    Family(
        f"{_OPS}_last_failed_seen_timestamp_seconds",
        "gauge",
        "When an operation was last exposed as failed for the first time, in Unix seconds.",
        lambda aggregate: aggregate.last_failed_seen,
    ),
    Family(
        f"{_OPS}_last_completed_with_errors_seen_timestamp_seconds",
        "gauge",
        "When an operation was last exposed as completed with errors for the first time, in Unix seconds.",
        lambda aggregate: aggregate.last_completed_with_errors_seen,
    ),
    Family(
        f"{_OPS}_finished_total",
        "counter",
        "Operations that this exporter saw reach Knock's status completed or failed.",
        _each("status", lambda aggregate: aggregate.finished),
    ),
    Family(
        f"{_OPS}_finished_with_errors_total",
        "counter",
        "Operations that this exporter saw reach completed or failed, with Knock's error_count or error_items above 0.",
        lambda aggregate: aggregate.finished_with_errors,
    ),
    Family(
        f"{_OPS}_rows_processed_total",
        "counter",
        "Increase of Knock's processed_rows that this exporter saw.",
        lambda aggregate: aggregate.processed_total,
    ),
    Family(
        f"{_OPS}_successes_total",
        "counter",
        "Increase of Knock's success_count that this exporter saw.",
        lambda aggregate: aggregate.successes_total,
    ),
    Family(
        f"{_OPS}_errors_total",
        "counter",
        "Increase of Knock's error_count that this exporter saw.",
        lambda aggregate: aggregate.errors_total,
    ),
    Family(
        f"{_OPS}_retired_total",
        "counter",
        "Operations that the exporter removed after their retention, or earlier because of max_operations.",
        _each("reason", lambda aggregate: aggregate.retired),
    ),
)
PER_GROUP = (
    Family(
        f"{_OPS}_queue_duration_seconds",
        "histogram",
        "Seconds from Knock's inserted_at to started_at, once for each operation whose start this exporter saw.",
        lambda aggregate: histogram_samples(aggregate.queue),
    ),
    Family(
        f"{_OPS}_run_duration_seconds",
        "histogram",
        "Seconds from Knock's started_at to the end, once for each operation whose end this exporter saw.",
        _run_durations,
    ),
)


_GROUP = "knock_group"


def _of_run(field: str) -> Callable[[GroupStatus], float | None]:
    def value(status: GroupStatus) -> float | None:
        return None if status.run is None else getattr(status.run, field)

    return value


def _of_sums(field: str) -> Callable[[GroupStatus], float | None]:
    return lambda status: None if status.run is None else getattr(status.sums, field)


_by_status = _each("status", lambda status: status.sums.by_state)


PER_RUN = (
    Family(
        f"{_GROUP}_expected_interval_seconds",
        "gauge",
        "Longest allowed time between the openings of two runs of the group, as configured, in seconds.",
        lambda status: status.every,
    ),
    Family(
        f"{_GROUP}_last_run_timestamp_seconds",
        "gauge",
        "When the newest run of the group was opened, in Unix seconds; newest inserted_at if it never had a run.",
        lambda status: status.last_run,
    ),
    Family(
        f"{_GROUP}_run_opened_timestamp_seconds",
        "gauge",
        "When the run was opened, in Unix seconds.",
        _of_run("opened"),
    ),
    Family(
        f"{_GROUP}_run_closed_timestamp_seconds",
        "gauge",
        "When the job said that it had submitted all operations of the run, in Unix seconds.",
        _of_run("closed"),
    ),
    Family(
        f"{_GROUP}_run_finished_timestamp_seconds",
        "gauge",
        "When all expected operations of the run were first seen completed, failed or lost, in Unix seconds.",
        _of_run("finished"),
    ),
    Family(
        f"{_GROUP}_run_deadline_timestamp_seconds",
        "gauge",
        "When the run has to be finished, in Unix seconds: its own deadline, or that of the group.",
        lambda status: status.deadline,
    ),
    Family(
        f"{_GROUP}_run_expected_operations",
        "gauge",
        "Number of operations in the run, as the job declared it.",
        _of_run("operations"),
    ),
    Family(
        f"{_GROUP}_run_operations",
        "gauge",
        "Operations of the run by Knock's status, as of their last successful poll, including retired ones.",
        lambda status: None if status.run is None else _by_status(status),
    ),
    Family(
        f"{_GROUP}_run_rows_processed",
        "gauge",
        "Sum of Knock's processed_rows over the operations of the run, including retired and lost ones.",
        _of_sums("rows_processed"),
    ),
    Family(
        f"{_GROUP}_run_rows_estimated",
        "gauge",
        "Sum of Knock's estimated_total_rows over the operations of the run, including retired and lost ones.",
        _of_sums("rows_estimated"),
    ),
    Family(
        f"{_GROUP}_run_errors",
        "gauge",
        "Sum of Knock's error_count over the operations of the run, including retired and lost ones.",
        _of_sums("errors"),
    ),
)


def aggregate_labels(aggregate: Aggregate) -> dict[str, str]:
    """Return the labels of an aggregate by name."""
    return {"knock_environment": aggregate.environment, "group": aggregate.group, "name": aggregate.name}


def group_labels(group: GroupAggregate | GroupStatus) -> dict[str, str]:
    """Return the labels of what there is one of for each group."""
    return {"knock_environment": group.environment, "group": group.group}
