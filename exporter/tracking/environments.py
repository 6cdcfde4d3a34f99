"""The environments that are watched, as the configuration changes; those that it names no more sleep."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import structlog

from exporter.tracking import record
from exporter.tracking.lane import Asker, Lane
from exporter.tracking.memory import EnvironmentMemory, Memory
from exporter.tracking.messages import Listed
from exporter.tracking.roster import CONFIG
from exporter.tracking.slices import is_due
from exporter.tracking.tombstones import KEPT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.config import Config, Environment
    from exporter.keys import Secret
    from exporter.metrics.own import Activity, PollCounters
    from exporter.operation import OperationKey
    from exporter.tracking.book import Book
    from exporter.tracking.intake import Intake
    from exporter.tracking.journal import Journal
    from exporter.tracking.memory import CellMemory, CellPlace, Kept
    from exporter.tracking.record import Moment
    from exporter.tracking.slices import Job

log = structlog.get_logger()


class Environments:
    """Owned by the tracker's thread; everything about one environment is found by its name."""

    def __init__(self, memory: Memory, book: Book, intake: Intake, journal: Journal, activity: Activity) -> None:
        self.askers: dict[str, Asker] = {}
        self.counters: dict[str, PollCounters] = {}
        self._lane_of: dict[str, Lane] = {}
        self._lanes: dict[tuple[str, Secret], Lane] = {}
        self._book = book
        self._intake = intake
        self._journal = journal
        self._activity = activity
        self._epochs = count()
        self._remembered = dict(memory.environments)
        self._asleep: dict[str, dict[str, Kept]] = {}
        self._asleep_cells: dict[str, dict[CellPlace, CellMemory]] = {}
        for key, kept in memory.operations.items():
            self._asleep.setdefault(key.environment, {})[key.id] = kept
            # An environment whose own memory is lost: at no known address, so that nothing in it counts as from birth.
            self._remembered.setdefault(key.environment, EnvironmentMemory("", None, 0.0))
        for place, cell in memory.cells.items():
            self._asleep_cells.setdefault(place[0], {})[place] = cell

    @property
    def lanes(self) -> list[Lane]:
        """All upstreams that have a poller."""
        return list(self._lanes.values())

    def lane(self, asker: Asker) -> Lane:
        """Return the upstream of an environment."""
        return self._lane_of[asker.name]

    def epoch(self, asker: Asker) -> float:
        """Return from when on (Unix seconds) the operations of an environment are this exporter's from birth."""
        return self._remembered[asker.name].epoch

    # A whole configuration.

    def configure(self, config: Config, keys: Mapping[str, Secret], now: Moment) -> None:
        """Watch what a configuration says, and nothing else."""
        self._intake.limit = config.max_operations
        self._activity.operations_limit.set(config.max_operations)
        self._book.use_labels(config.labels)
        wanted = {each.name: each for each in config.environments}
        for name in [each for each in self.askers if each not in wanted]:
            self._put_to_sleep(name, now)
        for name, settings in wanted.items():
            if name in self.askers:
                self._change(self.askers[name], settings, keys[name], now)
            else:
                self._begin(settings, keys[name], now)
            self._intake.list_all(Listed(name, CONFIG, settings.operations), now)
            self._intake.unlist_http(self.askers[name], now)
        for name in [each for each in self._remembered if each not in wanted]:
            self._sleep_on(name, now)

    def _begin(self, settings: Environment, key: Secret, now: Moment) -> None:
        asker = Asker(settings, key, self._epochs)
        self.askers[asker.name] = asker
        self.counters[asker.name] = self._activity.add_environment(asker.name)
        self._enter_lane(asker, now)
        known = self._remembered.get(asker.name) or EnvironmentMemory(settings.base_url, settings.branch, now.wall)
        self._remember(asker.name, replace(known, asleep_since=None))
        self._book.add_environment(settings, known.groups, known.names, self._asleep_cells.pop(asker.name, {}))
        self._intake.add_environment(asker, self._asleep.pop(asker.name, {}).values(), now)
        if (known.base_url, known.branch) != (settings.base_url, settings.branch):
            self._moved(asker, now)

    def _change(self, asker: Asker, settings: Environment, key: Secret, now: Moment) -> None:
        before, asker.settings = asker.settings, settings
        moved = (before.base_url, before.branch) != (settings.base_url, settings.branch)
        if moved or key != asker.key:
            self.use_key(asker, key, now)
        if before.rate_limit != settings.rate_limit:
            self.lane(asker).use_lowest_limit()
        if moved:
            self._moved(asker, now)
        self._book.change_environment(settings, now)
        if before.retention != settings.retention:
            self._intake.use_retention()
        if before.polling != settings.polling:
            self._intake.slices.put((asker.name, "pace"), self._change_pace(asker), now)

    def _change_pace(self, asker: Asker) -> Job:
        now = yield
        for number, key in enumerate([each.key for each in self._book.of(asker.name) if each.active]):
            if is_due(number):
                now = yield
            tracked = self._book.get(key)
            if tracked is not None and tracked.active and self.askers.get(asker.name) is asker:
                asker.plan(self._intake.record(record.repaced(tracked, now, asker.settings.polling), now))

    def _moved(self, asker: Asker, now: Moment) -> None:
        """Another Knock answers now: what it tells first may have been counted elsewhere."""
        known, settings = self._remembered[asker.name], asker.settings
        asker.moved()
        self._remember(asker.name, replace(known, base_url=settings.base_url, branch=settings.branch, epoch=now.wall))
        self._ask_missing_again(asker, now)

    # Keys and upstreams.

    def use_key(self, asker: Asker, key: Secret, now: Moment) -> None:
        """Ask with another key from now on, in the upstream of that key."""
        asker.use_key(key)
        self._enter_lane(asker, now)
        self._ask_missing_again(asker, now)

    def _ask_missing_again(self, asker: Asker, now: Moment) -> None:
        # A 404 under another key, or from another address, proves nothing.
        self._intake.slices.put((asker.name, "missing"), self._ask_again(asker), now)

    def _ask_again(self, asker: Asker) -> Job:
        now = yield
        missing = [each.key for each in self._book.of(asker.name) if each.missing_since is not None]
        for number, key in enumerate(missing):
            if is_due(number):
                now = yield
            tracked = self._book.get(key)
            if tracked is not None and tracked.missing_since is not None and self.askers.get(asker.name) is asker:
                self._intake.ask_again(tracked, now)

    def _enter_lane(self, asker: Asker, now: Moment) -> None:
        old = self._lane_of.get(asker.name)
        lane = self._lanes.setdefault((asker.settings.base_url, asker.key), Lane())
        is_new = not lane.askers
        if lane is old:
            lane.gate.probe_lost(now.mono)  # the answer that is awaited will be one to a former key
            return
        lane.join(asker)
        self._lane_of[asker.name] = lane
        if old is not None:
            old.leave(asker, now.mono)
            if is_new:
                lane.pacer.inherit(old.pacer)
            self._drop_empty_lanes()

    def _drop_empty_lanes(self) -> None:
        self._lanes = {where: each for where, each in self._lanes.items() if each.askers}

    # Sleep.

    def _put_to_sleep(self, name: str, now: Moment) -> None:
        asker = self.askers.pop(name)
        self._lane_of.pop(name).leave(asker, now.mono)
        self._drop_empty_lanes()
        groups, names = self._book.admitted(name)
        self._asleep_cells[name] = self._book.all_remembered(name)
        self._asleep[name] = self._intake.remove_environment(name)
        self._remember(name, replace(self._remembered[name], groups=groups, names=names))
        self._book.remove_environment(name)
        del self.counters[name]
        self._activity.remove_environment(name)
        log.info("environment is configured no more", environment=name, operations=len(self._asleep[name]))

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
                dirty = self._journal.dirty
                dirty.environments[name] = None
                dirty.operations |= dict.fromkeys(each.tracked.key for each in self._asleep.pop(name, {}).values())
                dirty.cells |= dict.fromkeys(self._asleep_cells.pop(name, {}))

    def _remember(self, name: str, memory: EnvironmentMemory) -> None:
        self._remembered[name] = memory
        self._journal.dirty.environments[name] = None

    # What is written to the state file.

    def everything(self) -> Memory:
        """Return all that is to be remembered, awake or asleep; it stays as it is now."""
        operations = {each.tracked.key: each for asleep in self._asleep.values() for each in asleep.values()}
        cells = {place: cell for asleep in self._asleep_cells.values() for place, cell in asleep.items()}
        for name in self.askers:
            operations |= {each.tracked.key: each for each in self._intake.all_kept(name)}
            cells |= self._book.all_remembered(name)
        environments = {name: memory for name in self._remembered if (memory := self.recall(name)) is not None}
        return Memory(operations, deepcopy(self._intake.tombstones), cells, environments)

    def recall(self, name: str) -> EnvironmentMemory | None:
        """Return what is to be remembered of an environment; None: nothing any more."""
        memory = self._remembered.get(name)
        if memory is None or name not in self.askers:
            return memory
        groups, names = self._book.admitted(name)
        return replace(memory, groups=groups, names=names)

    def recall_operation(self, key: OperationKey) -> Kept | None:
        """Return what is to be remembered of an operation, awake or asleep."""
        return self._intake.kept(key) or self._asleep.get(key.environment, {}).get(key.id)

    def recall_cell(self, place: CellPlace) -> CellMemory | None:
        """Return what is to be remembered of an aggregate by name, awake or asleep."""
        return self._book.remembered(place) or self._asleep_cells.get(place[0], {}).get(place)
