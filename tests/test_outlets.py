"""Which authorities are trusted, as the CA file of an environment changes."""

from __future__ import annotations

import os
import ssl
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest
import trustme
from chaos import answering, http, serving
from programs import until
from structlog.testing import capture_logs

from exporter.config import Environment
from exporter.errors import KnockError, Reason, StartError
from exporter.keys import KeySource, Secret
from exporter.knock.outlets import Outlets
from exporter.net.memory_budget import MemoryBudget
from exporter.operation import Operation
from exporter.tracking.messages import Answered, Exchange, Request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ID = "b19d032a-fc3b-4a54-9f54-369484527201"
KEY = Secret("sk_test_0123456789abcdef")
WALL = 1_800_000_000.0
OURS, THEIRS = trustme.CA(), trustme.CA()
GOOD, OTHER = OURS.cert_pem.bytes(), THEIRS.cert_pem.bytes()


class Desk:
    """One environment whose Knock shows a certificate of OURS; messages are taken when this says so."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self.wall = WALL
        self.inbox: SimpleQueue[Answered | Exchange] = SimpleQueue()
        self.environment = Environment("production", KeySource(inline=KEY), url, ca_file=path)
        self.outlets = Outlets(self.inbox.put, MemoryBudget())

    def write(self, content: bytes, age: float = 2.0) -> None:
        self.path.write_bytes(content)
        os.utime(self.path, (self.wall - age,) * 2)

    def reload(self) -> None:
        self.outlets.prepare([self.environment], {"production": KEY})()

    def look(self) -> bool:
        """Let the time of a look come, and take what it says; return whether it said anything."""
        self.wall += 5
        self.outlets.look([self.environment], lambda _name: KEY, self.wall)
        found = not self.inbox.empty()
        while not self.inbox.empty():
            message = self.inbox.get()
            assert isinstance(message, Exchange)
            message.switch()
        return found

    def ask(self) -> Operation | KnockError:
        self.outlets.fetch(Request("production", ID, 0, 0.0, probe=False))
        answer = self.inbox.get(timeout=10)
        assert isinstance(answer, Answered)
        return answer.outcome

    def trusts(self) -> bool:
        outcome = self.ask()
        assert isinstance(outcome, Operation) or outcome.reason is Reason.TLS
        return isinstance(outcome, Operation)


@pytest.fixture
def outlets(tmp_path: Path) -> Iterator[Desk]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    OURS.issue_cert("localhost").configure_cert(context)
    with serving(answering(http(f'{{"id":"{ID}","status":"queued"}}')), context) as server:
        made = Desk(tmp_path / "ca.pem", server.url)
        made.write(OTHER)
        made.reload()
        yield made


def test_a_changed_file_is_trusted_by_itself(outlets: Desk) -> None:
    assert not outlets.trusts()
    assert not outlets.look()
    outlets.write(GOOD)
    with capture_logs() as lines:
        assert outlets.look()
    assert [(line["event"], line["environment"]) for line in lines] == [("using the changed ca_file", "production")]
    assert outlets.trusts()
    assert not outlets.look()
    outlets.write(OTHER)
    assert outlets.look()
    assert not outlets.trusts()


def test_a_changed_file_is_trusted_at_a_reload(outlets: Desk) -> None:
    outlets.write(GOOD, age=0)
    outlets.reload()
    assert outlets.trusts()
    assert not outlets.look()


def test_a_file_that_is_written_again_as_it_was_changes_nothing(outlets: Desk) -> None:
    outlets.write(OTHER)
    assert not outlets.look()


def test_half_a_file_is_waited_for(outlets: Desk) -> None:
    outlets.write(GOOD[:300], age=-5)
    assert not outlets.look()
    outlets.write(GOOD, age=-5)
    assert not outlets.look()
    assert outlets.look()
    assert outlets.trusts()


@pytest.mark.parametrize("broken", [b"", b"no certificate", GOOD[:300], None])
def test_a_broken_file_is_told_once_and_leaves_the_old_one_trusted(outlets: Desk, broken: bytes | None) -> None:
    outlets.write(GOOD)
    outlets.look()
    with capture_logs() as lines:
        if broken is None:
            outlets.path.unlink()
        else:
            outlets.write(broken)
        for _ in range(5):
            assert not outlets.look()
    assert [line["event"] for line in lines] == ["ca_file cannot be used, keeping the old one"]
    assert str(outlets.path) in lines[0]["error"]
    assert outlets.trusts()
    outlets.write(OTHER)
    assert outlets.look()
    assert not outlets.trusts()


def test_what_comes_before_the_tracker_took_the_last_is_not_lost(outlets: Desk) -> None:
    for content in (GOOD, OTHER, GOOD):  # back to one that is closed by the time it is put in place
        outlets.write(content)
        outlets.wall += 5
        outlets.outlets.look([outlets.environment], lambda _name: KEY, outlets.wall)
    assert outlets.look()
    assert outlets.trusts()


def test_a_reload_that_fails_leaves_no_thread_behind(outlets: Desk) -> None:
    before = threading.active_count()
    bad = Environment("staging", KeySource(inline=KEY), "https://127.0.0.1", proxy=Secret("socks5://127.0.0.1:9"))
    changed = Environment("production", KeySource(inline=KEY), outlets.environment.base_url, timeout=3.0)
    for _ in range(5):
        with pytest.raises(StartError):
            outlets.outlets.prepare([changed, bad], {"production": KEY, "staging": KEY})
    until(lambda: threading.active_count() <= before, "their threads have ended")
    assert not outlets.trusts()
