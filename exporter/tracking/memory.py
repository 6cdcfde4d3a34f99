"""What outlives a restart: frozen values between the tracker and the store.

All `mono` times are those of this process; the store keeps them so that they mean the same to the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from exporter.tracking.tombstones import Tombstones

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.operation import OperationKey
    from exporter.tracking.memberships import Memberships
    from exporter.tracking.runs import GroupKey, StoredGroup
    from exporter.tracking.tombstones import Tombstone
    from exporter.tracking.transitions import Moment, Tracked

AggregateKey = tuple[str, str, str]  # environment, group, name


class StoredOperation(NamedTuple):
    """An operation, and who names it."""

    tracked: Tracked
    memberships: Memberships


class StoredAggregate(NamedTuple):
    """What an aggregate by name remembers, in Unix seconds."""

    last_completed: float | None = None
    last_failed: float | None = None
    last_failed_seen: float | None = None
    last_completed_with_errors_seen: float | None = None


@dataclass(frozen=True, slots=True)
class EnvironmentMemory:
    """What an environment remembers.

    `epoch` (Unix seconds): operations inserted later are the exporter's from birth. `groups` and `names` are the label
    values let in. `asleep_since` (monotonic): no longer configured since then; None: configured.
    """

    base_url: str
    branch: str | None
    epoch: float
    groups: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    asleep_since: float | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """All that was kept, as it is read at the start; who takes it over owns the tombstones."""

    operations: Mapping[OperationKey, StoredOperation] = field(default_factory=dict)
    tombstones: Tombstones = field(default_factory=Tombstones)
    aggregates: Mapping[AggregateKey, StoredAggregate] = field(default_factory=dict)
    environments: Mapping[str, EnvironmentMemory] = field(default_factory=dict)
    groups: Mapping[GroupKey, StoredGroup] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be kept from now on, in one commit: None for what is gone.

    `number` tells commits apart, `at` is the checkpoint: when this was so.
    `whole`: this is all there is, for a new file.
    """

    number: int
    at: Moment
    operations: Mapping[OperationKey, StoredOperation | None] = field(default_factory=dict)
    tombstones: Mapping[OperationKey, Tombstone | None] = field(default_factory=dict)
    aggregates: Mapping[AggregateKey, StoredAggregate | None] = field(default_factory=dict)
    environments: Mapping[str, EnvironmentMemory | None] = field(default_factory=dict)
    groups: Mapping[GroupKey, StoredGroup | None] = field(default_factory=dict)
    whole: bool = False
