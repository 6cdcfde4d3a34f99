"""What became of it, on standard output: lines for people, or JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from exporter.terminal.exit_codes import ExitCode
from exporter.terminal.watch.screen import line_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from exporter.terminal.watch.core import Watched, WatchOutcome
    from exporter.terminal.watch.operations import WatchedOperations
    from exporter.terminal.watch.run import WatchedRun

_WORDS = {
    ExitCode.CLEAN: "clean",
    ExitCode.FAILED: "failed",
    ExitCode.TIMEOUT: "timeout",
    ExitCode.UNKNOWN: "unknown",
}


def write_lines(out: TextIO, watched: Sequence[Watched]) -> None:
    """Write a line for each of these operations."""
    out.writelines(f"{line_of(each)}\n" for each in watched)


def write_json(
    out: TextIO,
    state: WatchedOperations | WatchedRun,
    outcome: WatchOutcome,
    watched: Sequence[Watched],
    seconds: float,
) -> None:
    """Write all that is known."""
    frame = state.frame()
    document = {
        "result": _WORDS[outcome.code],
        "reason": outcome.text,
        "exit_code": int(outcome.code),
        "seconds": round(seconds, 3),
        **state.place,
        "counts": dict(frame.counts),
        "expected_operations": frame.expected,
        "with_errors": frame.with_errors,
        "rows_processed": frame.processed,
        "rows_estimated": frame.estimated,
        "errors": frame.errors,
        "operations": [_operation(each) for each in watched],
    }
    out.write(json.dumps(document, indent=2) + "\n")


def _operation(each: Watched) -> dict[str, Any]:
    """Return an operation under the API's names."""
    tracked, record = each.tracked, each.tracked.operation
    return {
        "environment": tracked.key.environment,
        "id": each.id,
        "name": record.name if record else None,
        "status": tracked.state,
        "with_errors": each.has_errors,
        "processed_rows": record.rows_processed if record else None,
        "estimated_total_rows": record.rows_estimated if record else None,
        "success_count": record.successes if record else None,
        "error_count": record.errors if record else None,
    }
