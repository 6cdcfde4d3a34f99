"""Which authorities are trusted, as the CA file of an environment changes."""

from __future__ import annotations

import os
import ssl
import threading
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from chaos import answering, http, serving
from programs import until
from structlog.testing import capture_logs

from exporter.config import EnvironmentSettings, ListedOperation
from exporter.config.settings import GroupSettings
from exporter.errors import KnockError, Reason, StartError
from exporter.keys import KeySource, Secret
from exporter.knock.environment_clients import EnvironmentClients
from exporter.knock.memory_budget import MemoryBudget
from exporter.operation import Operation
from exporter.send_window import SendWindow
from exporter.tracking.messages import Exchange, PollRequest, PollResponse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chaos import Server

ID = "b19d032a-fc3b-4a54-9f54-369484527201"
KEY = Secret("sk_test_0123456789abcdef")
WALL = 1_800_000_000.0
OURS, THEIRS = trustme.CA(), trustme.CA()
GOOD, OTHER = OURS.cert_pem.bytes(), THEIRS.cert_pem.bytes()


class Clients:
    """One environment whose Knock shows a certificate of OURS; messages are taken when this says so."""

    def __init__(self, path: Path, server: Server) -> None:
        self.path = path
        self.wall = WALL
        self.inbox: SimpleQueue[PollResponse | Exchange] = SimpleQueue()
        self.server = server
        self.environment = EnvironmentSettings(
            "production", api_key=KeySource(inline=KEY), base_url=server.url, ca_file=path
        )
        self.clients = EnvironmentClients(self.inbox.put, MemoryBudget())

    def write(self, content: bytes, age: float = 2.0) -> None:
        self.path.write_bytes(content)
        os.utime(self.path, (self.wall - age,) * 2)

    def reload(self) -> None:
        self.clients.prepare([self.environment], {"production": KEY})()

    def check_for_changes(self) -> bool:
        """Let the time of a look come, and take what it says; return whether it said anything."""
        self.wall += 5
        self.clients.check_for_changes([self.environment], lambda _name: KEY, self.wall)
        found = not self.inbox.empty()
        while not self.inbox.empty():
            message = self.inbox.get()
            assert isinstance(message, Exchange)
            message.switch()
        return found

    def ask(self) -> Operation | KnockError:
        self.clients.fetch(PollRequest("production", ID, 0, 0.0, probe=False, window=SendWindow(50.0)))
        answer = self.inbox.get(timeout=10)
        assert isinstance(answer, PollResponse)
        return answer.outcome

    def trusts(self) -> bool:
        outcome = self.ask()
        assert isinstance(outcome, Operation) or outcome.reason is Reason.TLS
        return isinstance(outcome, Operation)


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[Clients]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    OURS.issue_cert("localhost").configure_cert(context)
    with serving(answering(http(f'{{"id":"{ID}","status":"queued"}}'), keep=True), context) as server:
        made = Clients(tmp_path / "ca.pem", server)
        made.write(OTHER)
        made.reload()
        yield made


def test_a_changed_file_is_trusted_by_itself(clients: Clients) -> None:
    assert not clients.trusts()
    assert not clients.check_for_changes()
    clients.write(GOOD)
    with capture_logs() as lines:
        assert clients.check_for_changes()
    assert [(line["event"], line["environment"]) for line in lines] == [("using the changed ca_file", "production")]
    assert clients.trusts()
    assert not clients.check_for_changes()
    clients.write(OTHER)
    assert clients.check_for_changes()
    assert not clients.trusts()


def test_a_changed_file_is_trusted_at_a_reload(clients: Clients) -> None:
    clients.write(GOOD, age=0)
    clients.reload()
    assert clients.trusts()
    assert not clients.check_for_changes()


def test_a_reload_keeps_connections_unless_settings_or_the_file_have_changed(clients: Clients) -> None:
    clients.write(GOOD)
    clients.reload()
    opened = []
    listed: dict[str, Any] = {"operations": (ListedOperation(ID),), "operations_files": ("*.json",)}
    listed["groups"] = (GroupSettings("nightly", every=93_600.0),)
    for changed in ({}, listed, {"timeout": 9.0}):
        before = clients.server.connections
        assert clients.trusts()
        clients.environment = replace(clients.environment, **changed)
        clients.write(GOOD)
        clients.reload()
        assert clients.trusts()
        opened.append(clients.server.connections - before)
    assert opened == [1, 0, 1]


def test_a_reload_with_another_key_sends_that_one_on_the_kept_connection(clients: Clients) -> None:
    clients.write(GOOD)
    clients.reload()
    assert clients.trusts()
    clients.clients.prepare([clients.environment], {"production": Secret("sk_test_another_key_1234")})()
    assert clients.trusts()
    assert [b"sk_test_another_key_1234" in each for each in clients.server.requests[-2:]] == [False, True]


def test_a_file_that_is_written_again_as_it_was_changes_nothing(clients: Clients) -> None:
    clients.write(OTHER)
    assert not clients.check_for_changes()


def test_half_a_file_is_waited_for(clients: Clients) -> None:
    clients.write(GOOD[:300], age=-5)
    assert not clients.check_for_changes()
    clients.write(GOOD, age=-5)
    assert not clients.check_for_changes()
    assert clients.check_for_changes()
    assert clients.trusts()


@pytest.mark.parametrize("broken", [b"", b"no certificate", GOOD[:300], None])
def test_a_broken_file_is_told_once_and_leaves_the_old_one_trusted(clients: Clients, broken: bytes | None) -> None:
    clients.write(GOOD)
    clients.check_for_changes()
    with capture_logs() as lines:
        if broken is None:
            clients.path.unlink()
        else:
            clients.write(broken)
        for _ in range(5):
            assert not clients.check_for_changes()
    assert [line["event"] for line in lines] == ["ca_file cannot be used, keeping the old one"]
    assert str(clients.path) in lines[0]["error"]
    assert clients.trusts()
    clients.write(OTHER)
    assert clients.check_for_changes()
    assert not clients.trusts()


def test_what_comes_before_the_tracker_took_the_last_is_not_lost(clients: Clients) -> None:
    for content in (GOOD, OTHER, GOOD):  # back to one that is closed by the time it is put in place
        clients.write(content)
        clients.wall += 5
        clients.clients.check_for_changes([clients.environment], lambda _name: KEY, clients.wall)
    assert clients.check_for_changes()
    assert clients.trusts()


def test_a_reload_that_fails_leaves_no_thread_behind(clients: Clients) -> None:
    before = threading.active_count()
    bad = EnvironmentSettings(
        "staging", api_key=KeySource(inline=KEY), base_url="https://127.0.0.1", proxy=Secret("socks5://127.0.0.1:9")
    )
    changed = replace(clients.environment, ca_file=None, timeout=3.0)
    for _ in range(5):
        with pytest.raises(StartError):
            clients.clients.prepare([changed, bad], {"production": KEY, "staging": KEY})
    until(lambda: threading.active_count() <= before, "their threads have ended")
    assert not clients.trusts()
