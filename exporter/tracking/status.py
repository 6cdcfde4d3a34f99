"""What is noted of an environment besides its operations: its traffic, its last error, its sources."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.tracking.history import PollFailure
from exporter.tracking.memberships import API, Membership, SourceKind, precedence
from exporter.tracking.snapshot import LastError, SourceState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from exporter.errors import KnockError
    from exporter.tracking.memberships import SourceKey

TRAFFIC_SECONDS = 10


class EnvironmentActivity:
    """Of one environment; owned by the tracker's thread."""

    def __init__(self) -> None:
        self.last_response: float | None = None  # Unix seconds
        self.last_error: LastError | None = None
        self._sent: deque[tuple[int, int]] = deque(maxlen=TRAFFIC_SECONDS + 1)  # second (monotonic), requests in it
        self._sources: dict[SourceKey, SourceState] = {}

    def sent(self, mono: float) -> None:
        """Note a request."""
        second = int(mono)
        if self._sent and self._sent[-1][0] == second:
            self._sent[-1] = (second, self._sent[-1][1] + 1)
        else:
            self._sent.append((second, 1))

    def used(self, mono: float) -> float:
        """Return the requests a second over the last ten whole seconds."""
        now = int(mono)
        return sum(count for second, count in self._sent if now - TRAFFIC_SECONDS <= second < now) / TRAFFIC_SECONDS

    def failed(self, error: KnockError, wall: float) -> None:
        """Note a request that brought no record."""
        self.last_error = LastError(wall, PollFailure(error.reason, str(error)))

    def read(self, source: SourceKey, wall: float) -> None:
        """Note that a source was read."""
        self._sources[source] = SourceState(source, read_at=wall)

    def reread(self, kind: SourceKind, wall: float) -> None:
        """Note that all sources of a kind are good."""
        for source, state in self._sources.items():
            if source.kind is kind:
                self._sources[source] = replace(state, read_at=wall, problem=None)

    def unread(self, source: SourceKey, problem: str) -> None:
        """Note that a source could not be read."""
        self._sources[source] = replace(self._sources.get(source, SourceState(source)), problem=problem)

    def sources(self, counts: Mapping[SourceKey, int], urls: Collection[str]) -> tuple[SourceState, ...]:
        """Return the sources as they stand: `counts` tells how many operations each names, `urls` which are asked for.

        Those that are gone are forgotten.
        """
        known = {source: SourceState(source) for source in counts} | self._sources
        self._sources = {source: each for source, each in known.items() if _is_there(each, counts, urls)}
        ordered = sorted(self._sources.values(), key=lambda each: precedence(Membership(each.source)))
        return tuple(replace(each, operations=counts.get(each.source, 0)) for each in ordered)


def _is_there(state: SourceState, counts: Mapping[SourceKey, int], urls: Collection[str]) -> bool:
    if state.source.kind is SourceKind.HTTP:
        return state.source.name in urls
    return state.source in counts or state.problem is not None or state.source == API
