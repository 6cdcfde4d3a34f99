"""The environments that are watched, as the configuration changes; those that it names no more sleep."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import structlog

from exporter.tracking import transitions
from exporter.tracking.memberships import CONFIG
from exporter.tracking.memory import EnvironmentMemory, Memory
from exporter.tracking.messages import Listed
from exporter.tracking.slices import is_due
from exporter.tracking.tombstones import KEPT_SECONDS
from exporter.tracking.upstream import EnvironmentPoller, Upstream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.config import Config, EnvironmentSettings
    from exporter.keys import Secret
    from exporter.metrics.own import Activity, PollCounters
    from exporter.operation import OperationKey
    from exporter.tracking.book import Book
    from exporter.tracking.group_commit import GroupCommit
    from exporter.tracking.intake import Intake
    from exporter.tracking.memory import AggregateKey, StoredAggregate, StoredOperation
    from exporter.tracking.slices import Job
    from exporter.tracking.transitions import Moment

log = structlog.get_logger()


class EnvironmentRegistry:
    """Owned by the tracker's thread; everything about one environment is found by its name."""

    def __init__(
        self, memory: Memory, book: Book, intake: Intake, group_commit: GroupCommit, activity: Activity
    ) -> None:
        self.pollers: dict[str, EnvironmentPoller] = {}
        self.counters: dict[str, PollCounters] = {}
        self._upstream_of: dict[str, Upstream] = {}
        self._upstreams: dict[tuple[str, Secret], Upstream] = {}
        self._book = book
        self._intake = intake
        self._group_commit = group_commit
        self._activity = activity
        self._epochs = count()
        self._remembered = dict(memory.environments)
        self._asleep: dict[str, dict[str, StoredOperation]] = {}
        self._asleep_aggregates: dict[str, dict[AggregateKey, StoredAggregate]] = {}
        for key, kept in memory.operations.items():
            self._asleep.setdefault(key.environment, {})[key.id] = kept
            # An environment whose own memory is lost: at no known address, so that nothing in it counts as from birth.
            self._remembered.setdefault(key.environment, EnvironmentMemory("", None, 0.0))
        for place, aggregate in memory.aggregates.items():
            self._asleep_aggregates.setdefault(place[0], {})[place] = aggregate

    @property
    def upstreams(self) -> list[Upstream]:
        """All upstreams that have a poller."""
        return list(self._upstreams.values())

    def upstream(self, poller: EnvironmentPoller) -> Upstream:
        """Return the upstream of an environment."""
        return self._upstream_of[poller.name]

    def epoch(self, poller: EnvironmentPoller) -> float:
        """Return from when on (Unix seconds) the operations of an environment are this exporter's from birth."""
        return self._remembered[poller.name].epoch

    # A whole configuration.

    def configure(self, config: Config, keys: Mapping[str, Secret], now: Moment) -> None:
        """Watch what a configuration says, and nothing else."""
        self._intake.limit = config.max_operations
        self._activity.operations_limit.set(config.max_operations)
        self._book.use_labels(config.labels)
        wanted = {each.name: each for each in config.environments}
        for name in [each for each in self.pollers if each not in wanted]:
            self._put_to_sleep(name, now)
        for name, settings in wanted.items():
            if name in self.pollers:
                self._change(self.pollers[name], settings, keys[name], now)
            else:
                self._begin(settings, keys[name], now)
            self._intake.list_all(Listed(name, CONFIG, settings.operations), now)
            self._intake.unlist_http(self.pollers[name], now)
        for name in [each for each in self._remembered if each not in wanted]:
            self._sleep_on(name, now)

    def _begin(self, settings: EnvironmentSettings, key: Secret, now: Moment) -> None:
        poller = EnvironmentPoller(settings, key, self._epochs)
        self.pollers[poller.name] = poller
        self.counters[poller.name] = self._activity.add_environment(poller.name)
        self._join_upstream(poller, now)
        known = self._remembered.get(poller.name) or EnvironmentMemory(settings.base_url, settings.branch, now.wall)
        self._remember(poller.name, replace(known, asleep_since=None))
        self._book.add_environment(settings, known.groups, known.names, self._asleep_aggregates.pop(poller.name, {}))
        self._intake.add_environment(poller, self._asleep.pop(poller.name, {}).values(), now)
        if (known.base_url, known.branch) != (settings.base_url, settings.branch):
            self._moved(poller, now)

    def _change(self, poller: EnvironmentPoller, settings: EnvironmentSettings, key: Secret, now: Moment) -> None:
        before, poller.settings = poller.settings, settings
        moved = (before.base_url, before.branch) != (settings.base_url, settings.branch)
        if moved or key != poller.key:
            self.use_key(poller, key, now)
        if before.rate_limit != settings.rate_limit:
            self.upstream(poller).use_lowest_limit()
        if moved:
            self._moved(poller, now)
        self._book.change_environment(settings, now)
        if before.retention != settings.retention:
            self._intake.use_retention()
        if before.polling != settings.polling:
            self._intake.slices.put((poller.name, "pace"), self._change_pace(poller), now)

    def _change_pace(self, poller: EnvironmentPoller) -> Job:
        now = yield
        for number, key in enumerate([each.key for each in self._book.of(poller.name) if each.active]):
            if is_due(number):
                now = yield
            tracked = self._book.get(key)
            if tracked is not None and tracked.active and self.pollers.get(poller.name) is poller:
                poller.plan(self._intake.update(transitions.repaced(tracked, now, poller.settings.polling), now))

    def _moved(self, poller: EnvironmentPoller, now: Moment) -> None:
        """Another Knock answers now: what it tells first may have been counted elsewhere."""
        known, settings = self._remembered[poller.name], poller.settings
        poller.moved()
        self._remember(poller.name, replace(known, base_url=settings.base_url, branch=settings.branch, epoch=now.wall))
        self._retry_missing(poller, now)

    # Keys and upstreams.

    def use_key(self, poller: EnvironmentPoller, key: Secret, now: Moment) -> None:
        """Ask with another key from now on, in the upstream of that key."""
        poller.use_key(key)
        self._join_upstream(poller, now)
        self._retry_missing(poller, now)

    def _retry_missing(self, poller: EnvironmentPoller, now: Moment) -> None:
        # A 404 under another key, or from another address, proves nothing.
        self._intake.slices.put((poller.name, "missing"), self._retry(poller), now)

    def _retry(self, poller: EnvironmentPoller) -> Job:
        now = yield
        missing = [each.key for each in self._book.of(poller.name) if each.missing_since is not None]
        for number, key in enumerate(missing):
            if is_due(number):
                now = yield
            tracked = self._book.get(key)
            if tracked is not None and tracked.missing_since is not None and self.pollers.get(poller.name) is poller:
                self._intake.retry(tracked, now)

    def _join_upstream(self, poller: EnvironmentPoller, now: Moment) -> None:
        old = self._upstream_of.get(poller.name)
        upstream = self._upstreams.setdefault((poller.settings.base_url, poller.key), Upstream())
        is_new = not upstream.pollers
        if upstream is old:
            upstream.circuit_breaker.probe_lost(now.mono)  # the answer that is awaited will be one to a former key
            return
        upstream.join(poller)
        self._upstream_of[poller.name] = upstream
        if old is not None:
            old.leave(poller, now.mono)
            if is_new:
                upstream.rate_limiter.inherit(old.rate_limiter)
            self._drop_empty_upstreams()

    def _drop_empty_upstreams(self) -> None:
        self._upstreams = {where: each for where, each in self._upstreams.items() if each.pollers}

    # Sleep.

    def _put_to_sleep(self, name: str, now: Moment) -> None:
        poller = self.pollers.pop(name)
        self._upstream_of.pop(name).leave(poller, now.mono)
        self._drop_empty_upstreams()
        groups, names = self._book.admitted(name)
        self._asleep_aggregates[name] = self._book.all_remembered(name)
        self._asleep[name] = self._intake.remove_environment(name)
        self._remember(name, replace(self._remembered[name], groups=groups, names=names))
        self._book.remove_environment(name)
        del self.counters[name]
        self._activity.remove_environment(name)
        log.info("environment is no longer configured", environment=name, operations=len(self._asleep[name]))

    def _sleep_on(self, name: str, now: Moment) -> None:
        """Keep what is asleep for 30 days."""
        memory = self._remembered[name]
        if memory.asleep_since is None:
            self._remember(name, replace(memory, asleep_since=now.mono))

    def forget_old(self, now: Moment) -> None:
        """Forget the environments that have slept too long."""
        for name, memory in list(self._remembered.items()):
            if memory.asleep_since is not None and memory.asleep_since + KEPT_SECONDS <= now.mono:
                del self._remembered[name]
                dirty = self._group_commit.dirty
                dirty.environments[name] = None
                dirty.operations |= dict.fromkeys(each.tracked.key for each in self._asleep.pop(name, {}).values())
                dirty.aggregates |= dict.fromkeys(self._asleep_aggregates.pop(name, {}))

    def _remember(self, name: str, memory: EnvironmentMemory) -> None:
        self._remembered[name] = memory
        self._group_commit.dirty.environments[name] = None

    # What is written to the state file.

    def everything(self) -> Memory:
        """Return all that is to be remembered, awake or asleep; it stays as it is now."""
        operations = {each.tracked.key: each for asleep in self._asleep.values() for each in asleep.values()}
        aggregates = {
            place: aggregate for asleep in self._asleep_aggregates.values() for place, aggregate in asleep.items()
        }
        for name in self.pollers:
            operations |= {each.tracked.key: each for each in self._intake.all_stored(name)}
            aggregates |= self._book.all_remembered(name)
        environments = {
            name: memory for name in self._remembered if (memory := self.stored_environment(name)) is not None
        }
        return Memory(operations, deepcopy(self._intake.tombstones), aggregates, environments)

    def stored_environment(self, name: str) -> EnvironmentMemory | None:
        """Return what is to be remembered of an environment; None: nothing any more."""
        memory = self._remembered.get(name)
        if memory is None or name not in self.pollers:
            return memory
        groups, names = self._book.admitted(name)
        return replace(memory, groups=groups, names=names)

    def stored_operation(self, key: OperationKey) -> StoredOperation | None:
        """Return what is to be remembered of an operation, awake or asleep."""
        return self._intake.stored(key) or self._asleep.get(key.environment, {}).get(key.id)

    def stored_aggregate(self, place: AggregateKey) -> StoredAggregate | None:
        """Return what is to be remembered of an aggregate by name, awake or asleep."""
        return self._book.remembered(place) or self._asleep_aggregates.get(place[0], {}).get(place)
