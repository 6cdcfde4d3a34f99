"""Whether the threads go on: one that takes no step for long is not healthy, unless the whole process stood still."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LATE_SECONDS = 60.0
STOPPED_SECONDS = 10.0  # between two ticks: no busy machine holds the main thread up for so long


class Heartbeats:
    """`steps` tells for each thread when it stepped last. All times are monotonic: that clock runs on in a stop.

    The main thread, which does nothing else, ticks every second. Time without a tick makes no thread late.
    """

    def __init__(self, steps: Mapping[str, Callable[[], float]], now: float) -> None:
        self._steps = steps
        self._ticked_at = self._resumed_at = now

    def tick(self, now: float) -> None:
        """Note that the process runs."""
        if now - self._ticked_at > STOPPED_SECONDS:
            self._resumed_at = now
        self._ticked_at = now

    def problem(self) -> str | None:
        """Return which threads do not go on, None if all do."""
        until, since = self._ticked_at, self._resumed_at  # in this order: a tick may come in between
        late = [name for name, stepped_at in self._steps.items() if until - max(stepped_at(), since) > LATE_SECONDS]
        return f"no step for {LATE_SECONDS:.0f} s: {', '.join(late)}" if late else None
