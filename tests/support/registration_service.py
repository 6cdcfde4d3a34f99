"""Takes registrations without a tracker behind it, and answers as it is told. And its server."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from exporter.config import Config, EnvironmentSettings
from exporter.keys import KeySource, Secret
from exporter.metrics.exposition import View
from exporter.metrics.own import Activity
from exporter.servers import bind
from exporter.tokens import Token, Tokens
from exporter.tracking.messages import PutRun, Register, RegistrationResult, Release, ReleaseResult, RunResult, Taken
from exporter.tracking.snapshot import NOTHING_SHOWN
from exporter.web.app import make_app
from exporter.web.context import AppContext
from exporter.web.registration import RegistrationService
from exporter.web.server import WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import ASGIApp

    from exporter.tracking.snapshot import GroupStatus

TOKEN, STAGING_TOKEN = "token-of-all-environments", "token-of-staging"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
TOKENS = Tokens((Token.of(Secret(TOKEN), None), Token.of(Secret(STAGING_TOKEN), frozenset({"staging"}))))
CONFIG = Config(
    tuple(
        EnvironmentSettings(name, api_key=KeySource(inline=Secret("sk_test_service")))
        for name in ("production", "staging")
    ),
    labels=("team", "tier"),
)


@contextmanager
def served(app: ASGIApp, on_crash: Callable[[str], None] = pytest.fail) -> Iterator[tuple[str, int]]:
    """Serve an application on a free port."""
    listening = bind("127.0.0.1", 0)
    address = listening.getsockname()
    server = WebServer(app, [listening], on_crash)
    server.start()
    try:
        yield address
    finally:
        server.stop()


@dataclass
class FakeService:
    """Stands for the tracker: notes what is delivered, and answers as told; `state` is that of every operation."""

    state: Callable[[str], str | None] = lambda _id: "pending"
    durable: bool = True
    saved: bool = True
    silent: bool = False
    released: ReleaseResult = field(default_factory=lambda: ReleaseResult(known=True, durable=True))
    run: RunResult = field(default_factory=lambda: RunResult(durable=True))
    groups: tuple[GroupStatus, ...] = ()
    tokens: Tokens = TOKENS
    config: Config = CONFIG
    ending: bool = False
    now: float = 1000.0
    reply_seconds: float = 5.0

    def __post_init__(self) -> None:
        self.activity = Activity(process=False)
        self.activity.add_environment("production")
        self.delivered: list[Register | Release | PutRun] = []
        self.registration: dict[str, Any] = {}

    @property
    def registers(self) -> list[Register]:
        return [each for each in self.delivered if isinstance(each, Register)]

    def deliver(self, message: Register | Release | PutRun) -> None:
        self.delivered.append(message)
        if isinstance(message, Register):
            self.registration |= {each.operation.id: each for each in message.operations}
        if self.silent:
            return
        if isinstance(message, Release):
            message.reply(self.released)
        elif isinstance(message, PutRun):
            message.reply(self.run)
        else:
            taken = tuple(Taken(each.operation.id, self.state(each.operation.id)) for each in message.operations)
            message.reply(RegistrationResult(taken, self.durable, self.saved))

    def refused(self, environment: str, reason: str) -> float:
        value = self.activity.registry.get_sample_value(
            "knock_exporter_operations_refused_total", {"knock_environment": environment, "reason": reason}
        )
        return value or 0.0

    def http_refused(self, reason: str) -> float:
        return self.activity.registry.get_sample_value("knock_exporter_http_refused_total", {"reason": reason}) or 0.0

    def app_context(self, **settings: Any) -> AppContext:
        service = RegistrationService(
            deliver=self.deliver,
            config=lambda: self.config,
            tokens=lambda: self.tokens,
            ending=lambda: self.ending,
            activity=self.activity,
            monotonic=lambda: self.now,
            reply_seconds=self.reply_seconds,
        )
        view = View(replace(NOTHING_SHOWN, groups=self.groups))
        app_context = AppContext(
            lambda: view, self.activity, lambda: None, lambda: None, lambda: self.now, service=service
        )
        return replace(app_context, **settings)

    def app(self, **settings: Any) -> ASGIApp:
        return make_app(self.app_context(**settings))
