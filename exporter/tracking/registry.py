"""The environments that are watched, as the configuration changes; those that it names no more sleep."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import TYPE_CHECKING

import structlog

from exporter.tracking import transitions
from exporter.tracking.environment import Upstream, WatchedEnvironment
from exporter.tracking.memberships import CONFIG
from exporter.tracking.memory import Changes, EnvironmentMemory
from exporter.tracking.messages import Listed
from exporter.tracking.slices import is_due
from exporter.tracking.tombstones import KEPT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.config import Config, EnvironmentSettings
    from exporter.keys import Secret
    from exporter.metrics.own import Activity
    from exporter.operation import OperationKey
    from exporter.tracking.book import Book
    from exporter.tracking.cycle import Changed
    from exporter.tracking.intake import Intake
    from exporter.tracking.memory import AggregateKey, Memory, StoredAggregate, StoredOperation
    from exporter.tracking.runs import GroupKey, StoredGroup
    from exporter.tracking.slices import Job
    from exporter.tracking.transitions import Moment

log = structlog.get_logger()


@dataclass(slots=True)
class StoredEnvironment:
    """What is stored of an environment; of one that is configured no more, or not yet since the start, all there is."""

    memory: EnvironmentMemory
    operations: dict[str, StoredOperation] = field(default_factory=dict)
    aggregates: dict[AggregateKey, StoredAggregate] = field(default_factory=dict)
    groups: dict[GroupKey, StoredGroup] = field(default_factory=dict)


class EnvironmentRegistry:
    """Owned by the tracker's thread: what is watched stands in `environments`, by name; it shares that with others."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it works on
        self,
        environments: dict[str, WatchedEnvironment],
        memory: Memory,
        book: Book,
        intake: Intake,
        changed: Changed,
        activity: Activity,
    ) -> None:
        self._environments = environments
        self._asleep = {name: StoredEnvironment(each) for name, each in memory.environments.items()}
        self._upstreams: dict[tuple[str, Secret], Upstream] = {}
        self._book = book
        self._intake = intake
        self._changed = changed
        self._activity = activity
        self._epochs = count()
        for key, kept in memory.operations.items():
            self._sleeping(key.environment).operations[key.id] = kept
        for aggregate_key, aggregate in memory.aggregates.items():
            self._sleeping(aggregate_key[0]).aggregates[aggregate_key] = aggregate
        for group_key, group in memory.groups.items():
            self._sleeping(group_key[0]).groups[group_key] = group

    def _sleeping(self, name: str) -> StoredEnvironment:
        # One whose own memory is lost: at no known address, so that nothing in it counts as from birth.
        return self._asleep.setdefault(name, StoredEnvironment(EnvironmentMemory("", None, 0.0)))

    @property
    def upstreams(self) -> list[Upstream]:
        """All upstreams that have an environment."""
        return list(self._upstreams.values())

    # A whole configuration.

    def configure(self, config: Config, keys: Mapping[str, Secret], now: Moment) -> None:
        """Watch what a configuration says, and nothing else."""
        self._intake.limit = config.max_operations
        self._activity.operations_limit.set(config.max_operations)
        if self._book.use_labels(config.labels):
            for environment in self._environments.values():
                self._change_exposure(environment, now)
        wanted = {each.name: each for each in config.environments}
        for environment in [each for each in self._environments.values() if each.name not in wanted]:
            self._put_to_sleep(environment, now)
        for name, settings in wanted.items():
            if name in self._environments:
                self._change(self._environments[name], settings, keys[name], now)
            else:
                self._begin(settings, keys[name], now)
            self._intake.list_all(Listed(name, CONFIG, settings.operations), now)
            self._intake.unlist_http(self._environments[name], now)
        for name, asleep in self._asleep.items():
            if asleep.memory.asleep_since is None:
                asleep.memory = replace(asleep.memory, asleep_since=now.mono)
                self._changed.environments[name] = None

    def _begin(self, settings: EnvironmentSettings, key: Secret, now: Moment) -> None:
        name = settings.name
        known = EnvironmentMemory(settings.base_url, settings.branch, now.wall)
        asleep = self._asleep.pop(name, None) or StoredEnvironment(known)
        memory = replace(asleep.memory, asleep_since=None)
        upstream, counters = self._upstream(settings, key), self._activity.add_environment(name)
        environment = WatchedEnvironment(settings, key, upstream, memory, counters, self._epochs)
        self._environments[name] = environment
        self._changed.environments[name] = None
        self._book.restore(asleep.aggregates, asleep.groups)
        self._use_groups(environment, now)
        self._intake.restore(environment, asleep.operations.values(), now)
        if (memory.base_url, memory.branch) != (settings.base_url, settings.branch):
            self._moved(environment, now)

    def _change(self, environment: WatchedEnvironment, settings: EnvironmentSettings, key: Secret, now: Moment) -> None:
        before, environment.settings = environment.settings, settings
        moved = (before.base_url, before.branch) != (settings.base_url, settings.branch)
        if moved or key != environment.key:
            self.use_key(environment, key, now)
        if before.groups != settings.groups:
            self._use_groups(environment, now)
        if before.rate_limit != settings.rate_limit:
            environment.upstream.use_lowest_limit()
        if moved:
            self._moved(environment, now)
        if (before.per_operation, before.per_operation_limit) != (settings.per_operation, settings.per_operation_limit):
            self._change_exposure(environment, now)
        if (before.retention, before.per_operation) != (settings.retention, settings.per_operation):
            self._intake.sweep(environment, now)
        if before.polling != settings.polling:
            self._intake.slices.put((environment.name, "pace"), self._change_pace(environment), now)

    def _use_groups(self, environment: WatchedEnvironment, now: Moment) -> None:
        known, settings = environment.groups.admitted, environment.settings
        environment.groups.declare(each.name for each in settings.groups)
        if environment.groups.admitted != known:
            self._changed.environments[environment.name] = None
        self._book.groups.configure(environment.name, settings.groups, now)

    def _change_exposure(self, environment: WatchedEnvironment, now: Moment) -> None:
        self._intake.slices.put((environment.name, "exposure"), self._book.change_exposure(environment), now)

    def _change_pace(self, environment: WatchedEnvironment) -> Job:
        now = yield
        for number, operation in enumerate([each for each in environment.operations.values() if each.tracked.active]):
            if is_due(number):
                now = yield
            if operation.tracked.active and not operation.dropped:
                after = transitions.repaced(operation.tracked, now, environment.settings.polling)
                self._intake.update(operation, after, now)
                environment.plan(operation)

    def _moved(self, environment: WatchedEnvironment, now: Moment) -> None:
        """Another Knock answers now: what it tells first may have been counted elsewhere."""
        settings = environment.settings
        environment.moved()
        environment.memory = replace(
            environment.memory, base_url=settings.base_url, branch=settings.branch, epoch=now.wall
        )
        self._changed.environments[environment.name] = None
        self._retry_missing(environment, now)

    # Keys and upstreams.

    def use_key(self, environment: WatchedEnvironment, key: Secret, now: Moment) -> None:
        """Ask with another key from now on, in the upstream of that key."""
        environment.use_key(key)
        environment.use_upstream(self._upstream(environment.settings, key), now.mono)
        self._drop_empty_upstreams()
        self._retry_missing(environment, now)

    def _upstream(self, settings: EnvironmentSettings, key: Secret) -> Upstream:
        return self._upstreams.setdefault((settings.base_url, key), Upstream())

    def _retry_missing(self, environment: WatchedEnvironment, now: Moment) -> None:
        # A 404 under another key, or from another address, proves nothing.
        self._intake.slices.put((environment.name, "missing"), self._retry(environment), now)

    def _retry(self, environment: WatchedEnvironment) -> Job:
        now = yield
        missing = [each for each in environment.operations.values() if each.tracked.missing_since is not None]
        for number, operation in enumerate(missing):
            if is_due(number):
                now = yield
            if operation.tracked.missing_since is not None and not operation.dropped:
                self._intake.retry(operation, now)

    def _drop_empty_upstreams(self) -> None:
        self._upstreams = {where: each for where, each in self._upstreams.items() if each.environments}

    # Sleep.

    def _put_to_sleep(self, environment: WatchedEnvironment, now: Moment) -> None:
        name = environment.name
        environment.upstream.leave(environment, now.mono)
        self._drop_empty_upstreams()
        asleep = self._asleep[name] = self._as_stored(environment)
        self._changed.environments[name] = None
        del self._environments[name]
        self._intake.remove_environment(name)
        self._intake.slices.put(object(), self._book.remove_environment(environment), now)
        self._activity.remove_environment(name)
        log.info("environment is no longer configured", environment=name, operations=len(asleep.operations))

    def _as_stored(self, environment: WatchedEnvironment) -> StoredEnvironment:
        """Return what is to be stored of an environment, as it is now."""
        operations = {each: operation.stored for each, operation in environment.operations.items()}
        aggregates = self._book.all_remembered(environment.name)
        groups = self._book.groups.all_remembered(environment.name)
        return StoredEnvironment(environment.stored_memory, operations, aggregates, groups)

    def forget_old(self, now: Moment) -> None:
        """Forget the environments that have slept for 30 days."""
        for name, asleep in list(self._asleep.items()):
            since = asleep.memory.asleep_since
            if since is not None and since + KEPT_SECONDS <= now.mono:
                del self._asleep[name]
                self._changed.environments[name] = None
                self._changed.operations |= dict.fromkeys(each.tracked.key for each in asleep.operations.values())
                self._changed.aggregates |= dict.fromkeys(asleep.aggregates)
                self._changed.groups |= dict.fromkeys(asleep.groups)

    # What is written to the state file.

    def collect(self, number: int, now: Moment, changed: Changed | None) -> Changes:
        """Return what is to be stored of what changed (None: of everything), awake or asleep, as it is now."""
        if changed is None:
            return self._everything(number, now)
        return Changes(
            number,
            now,
            {key: self._operation(key) for key in changed.operations},
            {key: self._intake.tombstones.get(key) for key in changed.tombstones},
            {place: self._aggregate(place) for place in changed.aggregates},
            {name: self._environment(name) for name in changed.environments},
            {group: self._group(group) for group in changed.groups},
        )

    def _everything(self, number: int, now: Moment) -> Changes:
        operations: dict[OperationKey, StoredOperation] = {}
        aggregates: dict[AggregateKey, StoredAggregate] = {}
        environments: dict[str, EnvironmentMemory] = {}
        groups: dict[GroupKey, StoredGroup] = {}
        awake = ((name, self._as_stored(it)) for name, it in self._environments.items())  # one copy at a time
        for name, each in chain(self._asleep.items(), awake):
            operations |= {stored.tracked.key: stored for stored in each.operations.values()}
            aggregates |= each.aggregates
            groups |= each.groups
            environments[name] = each.memory
        tombstones = deepcopy(self._intake.tombstones)
        return Changes(number, now, operations, tombstones, aggregates, environments, groups, whole=True)

    def _environment(self, name: str) -> EnvironmentMemory | None:
        if (environment := self._environments.get(name)) is not None:
            return environment.stored_memory
        asleep = self._asleep.get(name)
        return asleep.memory if asleep is not None else None

    def _operation(self, key: OperationKey) -> StoredOperation | None:
        if (operation := self._book.find(key)) is not None:
            return operation.stored
        asleep = self._asleep.get(key.environment)
        return asleep.operations.get(key.id) if asleep is not None else None

    def _group(self, key: GroupKey) -> StoredGroup | None:
        if key[0] in self._environments:
            return self._book.groups.remembered(key)
        asleep = self._asleep.get(key[0])
        return asleep.groups.get(key) if asleep is not None else None

    def _aggregate(self, key: AggregateKey) -> StoredAggregate | None:
        if (kept := self._book.remembered(key)) is not None or (asleep := self._asleep.get(key[0])) is None:
            return kept
        return asleep.aggregates.get(key)
