"""What sources and programs say about operations, on its way to the intake, and what they are answered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.tracking.messages import Listed, Register, Registered, Release, Released, Reread, Taken, Unread
from exporter.tracking.roster import API, SourceKind
from exporter.tracking.slices import is_due

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.metrics.own import Activity
    from exporter.tracking.environments import Environments
    from exporter.tracking.intake import Intake
    from exporter.tracking.journal import Journal
    from exporter.tracking.messages import Handed
    from exporter.tracking.record import Moment
    from exporter.tracking.slices import Job


class Reception:
    """Answers wait until what they tell is committed. Owned by the tracker's thread."""

    def __init__(
        self,
        intake: Intake,
        environments: Environments,
        journal: Journal,
        activity: Activity,
        chance: Callable[[], float],
    ) -> None:
        self._intake = intake
        self._environments = environments
        self._journal = journal
        self._activity = activity
        self._chance = chance

    def take(self, message: Listed | Reread | Unread | Register | Release, now: Moment) -> None:
        """Take a message in; its environment may be configured no more since it was sent."""
        known = message.environment in self._environments.askers
        match message:
            case Listed() if known:
                self._intake.list_all(message, now)
            case Reread() if known:
                self._environments.askers[message.environment].standing.reread(message.kind, now.wall)
                self._activity.source_success.labels(message.environment, message.kind).set(now.wall)
            case Unread() if known:
                self._environments.askers[message.environment].standing.unread(message.source, message.problem)
                self._activity.source_failures.labels(message.environment, message.source.kind).inc()
            case Register():
                self._intake.slices.put_urgent(self._register(message), now)
            case Release():
                self._intake.slices.put_urgent(self._release(message), now)

    def _release(self, message: Release) -> Job:
        now = yield
        known = message.environment in self._environments.askers
        released = self._intake.release(message.environment, message.id, now) if known else Released(known=False)
        self._journal.when_saved(lambda ok: message.reply(replace(released, saved=ok)))

    def _register(self, message: Register) -> Job:
        now = yield
        askers, taken = self._environments.askers, []
        for number, each in enumerate(message.operations):
            if is_due(number):
                now = yield
            known = message.environment in askers
            taken.append(Taken(each.operation.id, self._register_one(message, each, now) if known else None))
        if message.environment in askers:
            askers[message.environment].standing.read(API, now.wall)
            self._activity.source_success.labels(message.environment, SourceKind.API).set(now.wall)
        durable = self._journal.durable
        self._journal.when_saved(lambda ok: message.reply(Registered(tuple(taken), durable, saved=ok)))

    def _register_one(self, message: Register, handed: Handed, now: Moment) -> str | None:
        return self._intake.register(message.environment, handed, again=message.again, now=now, chance=self._chance())
