"""What sources and programs say about operations, on its way to the intake, and what they are answered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.tracking.memberships import API, SourceKind
from exporter.tracking.messages import (
    Listed,
    Register,
    RegistrationResult,
    Release,
    ReleaseResult,
    Reread,
    Taken,
    Unread,
)
from exporter.tracking.slices import is_due

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.metrics.own import Activity
    from exporter.tracking.environments import EnvironmentRegistry
    from exporter.tracking.group_commit import GroupCommit
    from exporter.tracking.intake import Intake
    from exporter.tracking.messages import Registration
    from exporter.tracking.slices import Job
    from exporter.tracking.transitions import Moment


class MessageHandlers:
    """Answers wait until what they tell is committed. Owned by the tracker's thread."""

    def __init__(
        self,
        intake: Intake,
        environments: EnvironmentRegistry,
        group_commit: GroupCommit,
        activity: Activity,
        chance: Callable[[], float],
    ) -> None:
        self._intake = intake
        self._environments = environments
        self._group_commit = group_commit
        self._activity = activity
        self._chance = chance

    def take(self, message: Listed | Reread | Unread | Register | Release, now: Moment) -> None:
        """Take a message in; its environment may be configured no more since it was sent."""
        known = message.environment in self._environments.pollers
        match message:
            case Listed() if known:
                self._intake.list_all(message, now)
            case Reread() if known:
                self._environments.pollers[message.environment].activity.reread(message.kind, now.wall)
                self._activity.source_success.labels(message.environment, message.kind).set(now.wall)
            case Unread() if known:
                self._environments.pollers[message.environment].activity.unread(message.source, message.problem)
                self._activity.source_failures.labels(message.environment, message.source.kind).inc()
            case Register():
                self._intake.slices.put_urgent(self._register(message), now)
            case Release():
                self._intake.slices.put_urgent(self._release(message), now)

    def _release(self, message: Release) -> Job:
        now = yield
        known = message.environment in self._environments.pollers
        released = self._intake.release(message.environment, message.id, now) if known else ReleaseResult(known=False)
        self._group_commit.when_saved(lambda ok: message.reply(replace(released, saved=ok)))

    def _register(self, message: Register) -> Job:
        now = yield
        pollers, taken = self._environments.pollers, []
        for number, each in enumerate(message.operations):
            if is_due(number):
                now = yield
            known = message.environment in pollers
            taken.append(Taken(each.operation.id, self._register_one(message, each, now) if known else None))
        if message.environment in pollers:
            pollers[message.environment].activity.read(API, now.wall)
            self._activity.source_success.labels(message.environment, SourceKind.API).set(now.wall)
        durable = self._group_commit.durable
        self._group_commit.when_saved(lambda ok: message.reply(RegistrationResult(tuple(taken), durable, saved=ok)))

    def _register_one(self, message: Register, registration: Registration, now: Moment) -> str | None:
        return self._intake.register(
            message.environment, registration, again=message.again, now=now, chance=self._chance()
        )
