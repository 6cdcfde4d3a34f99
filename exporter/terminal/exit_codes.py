"""The exit codes of commands that say how operations stand."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How `watch` ends, and what `get --exit-status` says."""

    CLEAN = 0
    FAILED = 1
    USAGE = 2
    TIMEOUT = 3
    UNKNOWN = 4  # it cannot be known
    INTERRUPTED = 130
