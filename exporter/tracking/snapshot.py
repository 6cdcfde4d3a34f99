"""What pages and programs are shown of the operations: all of them as they stand, frozen with each view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from exporter.tracking.history import NO_HISTORY, History, PollFailure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from exporter.operation import OperationKey
    from exporter.tracking.memberships import Memberships, SourceKey
    from exporter.tracking.transitions import Tracked

BUCKETS = 256


class Entry(NamedTuple):
    """One operation: what is known of it, who names it, what its polls brought, whether it has own series."""

    tracked: Tracked
    memberships: Memberships
    history: History = NO_HISTORY
    exposed: bool = True


@dataclass(frozen=True, slots=True)
class SourceState:
    """A source of ids: how many it names, when it was read last (Unix seconds), and what is wrong with it now."""

    source: SourceKey
    operations: int = 0
    read_at: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class LastError:
    """The last request of an environment that brought no record, and when (Unix seconds)."""

    at: float
    trouble: PollFailure


@dataclass(frozen=True, slots=True)
class EnvironmentStatus:
    """How an environment stands.

    `up` as `knock_up` tells it (None: nothing is known yet), `suspended` while the key is refused. `limit` and `pace`
    are the requests a second that are configured and current, `used` those of the last ten seconds. `last_response` is
    Unix seconds.
    """

    name: str
    base_url: str
    branch: str | None
    up: bool | None
    suspended: bool
    limit: float
    pace: float
    used: float
    in_flight: int
    last_response: float | None = None
    last_error: LastError | None = None
    sources: tuple[SourceState, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All operations, and the environments in the order of their names."""

    buckets: tuple[Mapping[OperationKey, Entry], ...] = ()
    environments: tuple[EnvironmentStatus, ...] = ()

    def get(self, key: OperationKey) -> Entry | None:
        """Return an operation, if it is tracked."""
        return self.buckets[_bucket(key)].get(key) if self.buckets else None

    def __iter__(self) -> Iterator[Entry]:
        return (entry for bucket in self.buckets for entry in bucket.values())

    def __len__(self) -> int:
        return sum(map(len, self.buckets))


NOTHING_SHOWN = Snapshot()


class SnapshotBuilder:
    """The operations as they were shown last; only touched buckets are copied for the next snapshot.

    Owned by the tracker's thread.
    """

    def __init__(self) -> None:
        self._buckets: list[Mapping[OperationKey, Entry]] = [{}] * BUCKETS

    def publish(
        self, touched: Mapping[OperationKey, Entry | None], environments: tuple[EnvironmentStatus, ...]
    ) -> Snapshot:
        """Take the touched operations in (None: dropped), and return all, frozen."""
        copies: dict[int, dict[OperationKey, Entry]] = {}
        for key, entry in touched.items():
            number = _bucket(key)
            if number not in copies:
                copies[number] = dict(self._buckets[number])
            if entry is None:
                copies[number].pop(key, None)
            else:
                copies[number][key] = entry
        for number, bucket in copies.items():
            self._buckets[number] = bucket
        return Snapshot(tuple(self._buckets), environments)


def _bucket(key: OperationKey) -> int:
    return hash(key) % BUCKETS
