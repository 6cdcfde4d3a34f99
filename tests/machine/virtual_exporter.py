"""The exporter in virtual time: its real tracker, store, writer and web application, without threads of their own.

All that the machine knows of the exporter's inside is here: messages as sources and housekeeping send them, and the
seams through which it reaches Knock and the disk.
"""

from __future__ import annotations

import asyncio
import heapq
import io
import itertools
import json
import selectors
import shutil
import socket
import ssl
from errno import ENOSPC
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import structlog
from virtual_knock import Asked, Trouble

from exporter.config import Config, ListedOperation, load
from exporter.errors import KnockError
from exporter.keys import Secret
from exporter.knock.client import Client
from exporter.knock.response import Response
from exporter.knock.transport import Transport
from exporter.metrics.exposition import View
from exporter.metrics.own import Activity
from exporter.operation import parse_time
from exporter.run_changes import read_run_changes
from exporter.store.opening import open_store
from exporter.store.writer import Writer
from exporter.tokens import Tokens, TokenWatch
from exporter.tracking.memberships import SourceKey, SourceKind
from exporter.tracking.memory import Changes, Memory
from exporter.tracking.messages import (
    Close,
    Created,
    KeyRead,
    Listed,
    Message,
    Outside,
    PollRequest,
    PollResponse,
    PutRun,
    Reconfigure,
    Register,
    Registration,
    RegistrationResult,
    Saved,
    Stop,
    Unread,
)
from exporter.tracking.tracker import Tracker
from exporter.tracking.transitions import Moment
from exporter.web.app import make_app
from exporter.web.context import AppContext
from exporter.web.registration import RegistrationService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from virtual_knock import Knock, Time, Wire

    from exporter.operation import Operation
    from exporter.store.store import Store

COMMIT_SECONDS, TOLD_SECONDS, KEY_SECONDS = 0.004, 0.001, 0.02
HELD_SECONDS = 5.0  # a commit that takes longer holds nothing up
STEP_SECONDS = 1.0  # the tracker steps at least this often
STEPS_MOST = 10_000  # at one moment: it has stopped waiting
TOKEN = "token-of-the-machine"


class Watcher(Protocol):
    """Is told of what passes the seams, in order, before the exporter is."""

    def asked(self, asked: Asked, in_second: int) -> None: ...
    def answered(self, asked: Asked, outcome: dict[str, Any] | Trouble) -> None: ...
    def rendered(self) -> None: ...
    def saving(self, number: int) -> None: ...
    def committed(self, number: int) -> None: ...
    def key_read(self, environment: str, key: str) -> None: ...


class _Connection(io.BytesIO):
    """A socket, read: what Knock sent, then an error or the end."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire.sent)
        self._error = wire.error

    def makefile(self, _mode: str) -> _Connection:
        return self

    def read(self, size: int | None = -1, /) -> bytes:
        return self._checked(super().read(size))

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._checked(super().readline(size))

    def _checked(self, found: bytes) -> bytes:
        if not found and self._error is not None:
            raise self._error()
        return found


class _Transport(Transport):
    """Reads what Knock sent, as from a socket."""

    wire: Wire

    def request(self, *_args: Any, **_options: Any) -> Response:
        response = Response(_Connection(self.wire))  # type: ignore[arg-type] # all that is read of a socket
        response.begin()
        return response


class _Client(Client):
    """The client of a key, but for its sockets."""

    def __init__(self, key: Secret, wall: Callable[[], float]) -> None:
        url = "http://knock.example"
        super().__init__(base_url=url, key=key, wall=wall)
        self._transport = self._knock = _Transport(
            url, context=ssl.SSLContext(), proxy=None, connections=1, lookup=socket.getaddrinfo
        )

    def read(self, operation_id: str, wire: Wire) -> Operation | KnockError:
        self._knock.wire = wire
        try:
            return self.fetch(operation_id)
        except KnockError as error:
            return error


def _no_lines(_logger: Any, _method: str, _event: Any) -> Any:
    raise structlog.DropEvent


class Disk:
    """A store whose commits fail while it is full."""

    def __init__(self, store: Store, committed: Callable[[int], None], is_full: Callable[[], bool]) -> None:
        self.path = store.path
        self._store, self._committed, self._is_full = store, committed, is_full

    def commit(self, changes: Changes, patient: Callable[[int], bool]) -> None:
        if self._is_full():
            raise OSError(ENOSPC, "No space left on device")
        self._store.commit(changes, patient)
        self._committed(changes.number)

    def close(self) -> None:
        self._store.close()


class _Selector(selectors.DefaultSelector):
    """Waits for what comes from threads; where only time is waited for, lets it pass for the exporter."""

    def __init__(self) -> None:
        super().__init__()
        self.pass_time: Callable[[float, Callable[[], bool]], None] = lambda _seconds, _until: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready and timeout > 0:
            self.pass_time(timeout, lambda: bool(super(_Selector, self).select(0)))
            ready = super().select(0)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, time: Time) -> None:
        self._virtual = time
        self.waits = _Selector()
        super().__init__(self.waits)

    def time(self) -> float:
        return self._virtual.true


class Exporter:
    """One process; `folder` holds its configuration (`config.yaml`) and its state."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a process has around it
        self,
        time: Time,
        knock: Knock,
        watcher: Watcher,
        folder: Path,
        keys: Mapping[str, str],
        chance: Callable[[], float],
    ) -> None:
        structlog.configure(processors=[_no_lines])
        self.time, self.folder = time, folder
        self.key_files = dict(keys)  # by environment
        self.hangs = self.disk_is_full = False
        self.holds_answers = False
        self._knock, self._watcher, self._chance = knock, watcher, chance
        self._numbers = itertools.count()
        self._answers: list[tuple[float, int, Asked, PollRequest]] = []
        self._events: list[tuple[float, int, str, Any]] = []
        self._clients: dict[str, _Client] = {}  # by key
        self._ending = self._awaits_commit = False
        self._stuck_since: float | None = None  # a commit is
        self._view = View()
        self._activity = Activity(process=False)
        config, secrets = self._read_config()
        self._use(config)
        memory = Memory()
        self._disk: Disk | None = None
        self._writer: Writer | None = None
        if config.storage is not None:
            store, memory = open_store(config.storage.path, lambda: self.now, sleep=time.sleep)
            self._disk = Disk(store, watcher.committed, lambda: self.disk_is_full)
            self._writer = Writer(self._disk, self._told, lambda: self.now)  # type: ignore[arg-type] # what it calls
        save = self._save if self._writer else None
        outside = Outside(self._fetch, self._ask_key, self._use_key, self._publish, chance, save)
        self._tracker = Tracker(config, secrets, outside, self._activity, self.now, memory=memory)
        self._loop = _Loop(time)
        self._loop.waits.pass_time = self.run
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(self._app()), base_url="http://exporter")

    def _app(self) -> Any:
        service = RegistrationService(
            deliver=self.deliver,
            config=lambda: self._config,
            tokens=lambda: self._tokens,
            ending=lambda: self._ending,
            activity=self._activity,
            monotonic=lambda: self.now.mono,
        )
        house = AppContext(
            view=lambda: self._view,
            activity=self._activity,
            unhealthy=lambda: None,
            unready=lambda: None,
            monotonic=lambda: self.now.mono,
            wall=lambda: self.now.wall,
            config=lambda: self._config,
            service=service,
        )
        return make_app(house)

    @property
    def now(self) -> Moment:
        return Moment(*self.time.now)

    def _read_config(self) -> tuple[Config, dict[str, Secret]]:
        config = load(self.folder / "config.yaml", {f"KEY_{name}": key for name, key in self.key_files.items()})
        return config, {each.name: Secret(self.key_files[each.name]) for each in config.environments}

    def _use(self, config: Config) -> None:
        self._config = config
        self._tokens: Tokens = TokenWatch(config.registration.tokens, {}).tokens
        self._keys = {each.name: self.key_files[each.name] for each in config.environments}
        self._addresses = {each.name: (each.base_url, each.branch) for each in config.environments}

    # What the tracker asks of others.

    def _fetch(self, request: PollRequest) -> float:
        asked = Asked(
            self.time.true,
            request.environment,
            request.id,
            *self._addresses[request.environment],
            self._keys[request.environment],
            request.checks_key,
        )
        self._watcher.asked(asked, self._knock.note(asked))
        at = self.now.mono + self._knock.latency(asked, self._chance())
        heapq.heappush(self._answers, (at, next(self._numbers), asked, request))
        return 0.0

    def _ask_key(self, name: str) -> None:
        self._plan(KEY_SECONDS, "key", name)

    def _use_key(self, name: str, key: Secret) -> None:
        self._keys[name] = key.reveal()

    def _publish(self, view: View) -> None:
        if not self._awaits_commit:  # else it was put together before that began
            self._watcher.rendered()
        self._awaits_commit = False
        self._view = view

    def _save(self, changes: Changes) -> None:
        self._watcher.rendered()
        self._awaits_commit = True
        self._watcher.saving(changes.number)
        if self._writer is not None:
            self._writer.save(changes)
        self._plan(COMMIT_SECONDS, "commit")

    def _told(self, saved: Saved) -> None:
        self._plan(TOLD_SECONDS, "saved", saved)

    def _plan(self, seconds: float, kind: str, what: Any = None) -> None:
        heapq.heappush(self._events, (self.now.mono + seconds, next(self._numbers), kind, what))

    # Time.

    def waits_for(self, kind: str) -> bool:
        """Whether a `commit` is under way, or was done and not `saved` to the tracker's knowledge."""
        stuck = kind == "commit" and self._stuck_since is not None
        return stuck or any(each[2] == kind for each in self._events)

    @property
    def shows_all(self) -> bool:
        """Whether a view of all that happened is bound to be shown by now."""
        waits = self._stuck_since is not None and self.now.mono < self._stuck_since + HELD_SECONDS + 2 * STEP_SECONDS
        return not self._events and not waits

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let this much time pass, or less: until something is so."""
        end, steps = self.now.mono + seconds, 0
        while not self._has_ended():
            wake = self._tracker.advance(self.now)
            if self._has_ended() or until():
                return
            tick = end if self._stuck_since is None or self.shows_all else self.now.mono + STEP_SECONDS
            following = min(wake, tick, *(queue[0][0] for queue in self._queues() if queue), end)
            steps = steps + 1 if following <= self.now.mono else 0
            assert steps < STEPS_MOST, "the exporter is busy without end"
            self.time.pass_until(following)
            if not self._happen() and following >= end:
                self._tracker.advance(self.now)
                return

    def _has_ended(self) -> bool:
        return self._tracker.ended

    def _queues(self) -> tuple[list[Any], list[Any]]:
        return ([] if self.holds_answers else self._answers), self._events

    def _happen(self) -> bool:
        """Have the next thing happen that is due; return whether there was one."""
        answers, events = self._queues()
        if answers and answers[0][0] <= self.now.mono:
            _, _, asked, request = heapq.heappop(self._answers)
            self._answer(asked, request)
        elif events and events[0][0] <= self.now.mono:
            _, _, kind, what = heapq.heappop(self._events)
            self._event(kind, what)
        else:
            return False
        return True

    def _answer(self, asked: Asked, request: PollRequest) -> None:
        answer = self._knock.answer(asked)
        self._watcher.answered(asked, answer.means)
        client = self._clients.get(asked.key)
        if client is None:
            client = self._clients[asked.key] = _Client(Secret(asked.key), lambda: self.now.wall)
        read = client.read(asked.id, answer.wire)
        self._tracker.handle(PollResponse(request, read, self.time.true - asked.at), self.now)

    def _event(self, kind: str, what: Any) -> None:
        if kind == "commit" and self.hangs:
            self._stuck_since = self._stuck_since or self.now.mono  # of the first: the others wait behind it
        elif kind == "commit" and self._writer is not None:
            self._writer.step(0.0)
        elif kind == "saved":
            self._tracker.handle(what, self.now)
        elif kind == "key" and what in self._keys:
            self.look_at_key(what, asked=True)

    # What comes in.

    def deliver(self, message: Message) -> None:
        self._tracker.handle(message, self.now)

    def look_at_key(self, name: str, *, asked: bool = False) -> None:
        """Read an environment's key file, as housekeeping does."""
        key = self.key_files[name]
        changed = key != self._keys[name]
        if changed:
            self._watcher.key_read(name, key)
        if changed or asked:
            self.deliver(KeyRead(name, Secret(key) if changed else None))

    def list_all(
        self, environment: str, kind: str, name: str, listed: Iterable[tuple[str, str, Any, str | None]]
    ) -> None:
        """Have a source name these: ids, groups, labels, runs."""
        operations = tuple(ListedOperation(*each) for each in listed)
        self.deliver(Listed(environment, SourceKey(SourceKind(kind), name), operations))

    def unread(self, environment: str, kind: str, name: str) -> None:
        self.deliver(Unread(environment, SourceKey(SourceKind(kind), name), "broken"))

    def reconfigure(self) -> list[bool]:
        """Read the configuration again; the list that is returned has an item once that is shown."""
        config, secrets = self._read_config()
        shown: list[bool] = []
        self.deliver(Reconfigure(config, secrets, lambda: self._use(config), lambda: shown.append(True)))
        return shown

    def begin_registration(self, environment: str, items: list[dict[str, Any]]) -> list[tuple[dict[str, Any], bool]]:
        """Register as with the API; the list that is returned gets the states by id, and whether they are on disk."""
        answers: list[tuple[dict[str, Any], bool]] = []

        def reply(answer: RegistrationResult) -> None:
            answers.append(({each.id: each.state for each in answer.taken}, answer.durable and answer.saved))

        self.deliver(Register(environment, tuple(_handed(items)), again=False, reply=reply))
        return answers

    def begin_run(self, environment: str, group: str, run: str, says: dict[str, Any]) -> list[bool]:
        """Open or change a run as with the API; the list that is returned gets whether that is on disk."""
        answers: list[bool] = []
        changes = read_run_changes(json.dumps(says).encode())
        reply = lambda answer: answers.append(answer.durable and answer.saved)  # noqa: E731
        self.deliver(PutRun(environment, group, run, changes, reply))
        return answers

    def hang(self, *, hangs: bool) -> None:
        """Have the disk hang, or go on."""
        self.hangs = hangs
        if not hangs and self._stuck_since is not None:
            self._stuck_since = None
            self._plan(0.0, "commit")

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask the web application; return the status, and what was answered: read, where it is JSON."""
        headers = {"Authorization": f"Bearer {TOKEN}"} if method != "GET" else {}
        answer = self._loop.run_until_complete(self._client.request(method, path, json=body, headers=headers))
        is_json = "json" in answer.headers.get("content-type", "")
        return answer.status_code, answer.json() if is_json else answer.text

    # The end.

    def end(self) -> None:
        """End as on SIGTERM: answers that come within 1.5 s count, and what is known is written."""
        self._ending = True
        self.deliver(Stop())
        self.run(1.5)
        if not self._has_ended():
            self.deliver(Close())
            self._tracker.advance(self.now)
        if self._writer is not None and not self.hangs:
            self._writer.stop()
            self._writer.run()
            self._disk = None  # closed
        self.close()

    def kill(self, left: Path) -> None:
        """End at once: what is in the files stays, in another folder."""
        shutil.copytree(self.folder, left)
        self.close()

    def close(self) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        if self._disk is not None:
            self._disk.close()


def _handed(items: list[dict[str, Any]]) -> Iterator[Registration]:
    for each in items:
        born = "inserted_at" in each
        created = Created(each["name"], parse_time(each["inserted_at"])) if born else None
        yield Registration(ListedOperation(each["id"], each["group"], run=each.get("run")), created)
