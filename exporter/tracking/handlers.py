"""What sources and programs say about operations, on its way to the intake, and what they are answered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from exporter.tracking.memberships import API, SourceKind
from exporter.tracking.messages import (
    Listed,
    PutRun,
    Register,
    RegistrationResult,
    Release,
    ReleaseResult,
    Reread,
    RunResult,
    Taken,
    Unread,
)
from exporter.tracking.slices import is_due

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.metrics.own import Activity
    from exporter.tracking.cycle import Cycle
    from exporter.tracking.environment import WatchedEnvironment
    from exporter.tracking.intake import Intake
    from exporter.tracking.messages import Registration
    from exporter.tracking.slices import Job
    from exporter.tracking.transitions import Moment


_Result = TypeVar("_Result", RegistrationResult, ReleaseResult, RunResult)


class MessageHandlers:
    """Answers wait until what they tell is committed, and shown. Owned by the tracker's thread."""

    def __init__(
        self,
        environments: Mapping[str, WatchedEnvironment],
        intake: Intake,
        cycle: Cycle,
        activity: Activity,
        chance: Callable[[], float],
    ) -> None:
        self._environments = environments
        self._intake = intake
        self._cycle = cycle
        self._activity = activity
        self._chance = chance

    def take(self, message: Listed | Reread | Unread | Register | Release | PutRun, now: Moment) -> None:
        """Take a message in; its environment may be configured no more since it was sent."""
        environment = self._environments.get(message.environment)
        match message:
            case Register():
                self._intake.slices.put_urgent(self._register(message), now)
            case Release():
                self._intake.slices.put_urgent(self._release(message), now)
            case PutRun():
                self._intake.slices.put_urgent(self._put_run(message), now)
            case Listed() if environment is not None:
                self._intake.list_all(message, now)
            case Reread() if environment is not None:
                environment.activity.reread(message.kind, now.wall)
                self._activity.source_success.labels(message.environment, message.kind).set(now.wall)
            case Unread() if environment is not None:
                environment.activity.unread(message.source, message.problem)
                self._activity.source_failures.labels(message.environment, message.source.kind).inc()

    def _reply_when_shown(self, reply: Callable[[_Result], None], result: _Result) -> None:
        """Reply once all that changed is shown, and tell whether it is committed."""
        durable = self._cycle.durable
        self._cycle.when_shown(lambda ok: reply(replace(result, durable=durable, saved=ok)))

    def _release(self, message: Release) -> Job:
        now = yield
        environment = self._environments.get(message.environment)
        if environment is None:
            released = ReleaseResult(known=False)
        else:
            released = self._intake.release(environment, message.id, now)
        self._reply_when_shown(message.reply, released)

    def _put_run(self, message: PutRun) -> Job:
        now = yield
        environment = self._environments.get(message.environment)
        done = RunResult(known=False) if environment is None else self._intake.put_run(environment, message, now)
        self._reply_when_shown(message.reply, done)

    def _register(self, message: Register) -> Job:
        now = yield
        taken = []
        for number, each in enumerate(message.operations):
            if is_due(number):
                now = yield
            taken.append(Taken(each.operation.id, self._register_one(message, each, now)))
        if (environment := self._environments.get(message.environment)) is not None:
            environment.activity.read(API, now.wall)
            self._activity.source_success.labels(message.environment, SourceKind.API).set(now.wall)
        self._reply_when_shown(message.reply, RegistrationResult(tuple(taken), self._cycle.durable))

    def _register_one(self, message: Register, registration: Registration, now: Moment) -> str | None:
        environment = self._environments.get(message.environment)
        if environment is None:
            return None
        return self._intake.register(environment, registration, again=message.again, now=now, chance=self._chance())
