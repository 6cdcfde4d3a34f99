"""`knock-exporter register`: against the application on a socket, and against an exporter that restarts, in no time."""

from __future__ import annotations

import json
import re
import ssl
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from chaos import http, serving
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from registration_service import TOKEN, FakeService, served

from exporter.cli import main
from exporter.config import ListedOperation
from exporter.errors import StartError
from exporter.registrations import MAX_BODY_BYTES, MAX_IDS
from exporter.terminal.exporter_api import Attempt, printable
from exporter.terminal.register import Registrar, RegistrarIO, Sender, Target, batches
from exporter.terminal.standard_input import read
from exporter.tracking.messages import Created, Registration

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from chaos import Handler, Server

A, B, C = (f"00000000-0000-4000-8000-00000000000{each}" for each in "abc")
RECORD = {"__typename": "BulkOperation", "id": A, "name": "users.delete", "status": "queued", "inserted_at": None}
NOT_FOUND = {"code": "resource_missing", "message": "The resource does not exist", "status": 404, "type": "api_error"}


@pytest.fixture
def url(service: FakeService) -> Iterator[str]:
    with served(service.app()) as (host, port):
        yield f"http://{host}:{port}"


def run(url: str, token_file: Path, *arguments: str, stdin: str | bytes = "", **variables: str) -> Result:
    settings = {"URL": url, "TOKEN_FILE": str(token_file), "ENVIRONMENT": "production"}
    environ = {f"KNOCK_EXPORTER_{name}": value for name, value in settings.items()} | variables
    return CliRunner().invoke(main, ["register", *arguments], env=environ, input=stdin)


# From the shell to the exporter.


def test_ids_are_handed_over(service: FakeService, url: str, token_file: Path) -> None:
    answer = run(url, token_file, A, B.upper())
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert answer.stdout == f"{A} pending\n{B} pending\n"
    assert list(service.registration) == [A, B]
    assert [each.environment for each in service.delivered] == ["production"]


@pytest.mark.parametrize("page", ["/metrics", "/api/v1/operations", "/-/ready", "/knock/metrics/"])
def test_an_address_that_is_a_page_is_refused(url: str, token_file: Path, page: str) -> None:
    answer = run(f"{url}{page}", token_file, A)
    assert answer.exit_code == 2
    assert "must end before" in answer.stderr


def test_flags_hold_for_all(service: FakeService, url: str, token_file: Path) -> None:
    flags = ["--group=nightly sync", "--label", "team=a&b=c", "--label=tier=2", "--again", "--environment=staging"]
    assert run(url, token_file, *flags, A, B).exit_code == 0
    labels = (("team", "a&b=c"), ("tier", "2"))
    assert [each.operation for each in service.registration.values()] == [
        ListedOperation(A, "nightly sync", labels),
        ListedOperation(B, "nightly sync", labels),
    ]
    assert [(each.again, each.environment) for each in service.registers] == [(True, "staging")]


@pytest.mark.parametrize(
    "stdin",
    [
        f"{A}\n# one more\n{B}  # here\n",
        json.dumps([A, {"id": B}]),
        json.dumps(RECORD) + json.dumps(RECORD | {"id": B}),
        json.dumps(RECORD) + "\n" + json.dumps(RECORD | {"id": B}) + "\n",
        "\ufeff" + json.dumps([RECORD], indent=2) + f'\n"{B}"',
    ],
)
def test_standard_input_is_read_in_each_form(service: FakeService, url: str, token_file: Path, stdin: str) -> None:
    answer = run(url, token_file, "-", stdin=stdin)
    assert (answer.exit_code, answer.stdout) == (0, f"{A} pending\n{B} pending\n")
    assert list(service.registration) == [A, B]


def test_a_record_keeps_what_is_believed_of_it(service: FakeService, url: str, token_file: Path) -> None:
    assert run(url, token_file, "-", C, stdin=json.dumps(RECORD | {"error_items": ["jane@example.com"]})).exit_code == 0
    assert service.registration == {
        A: Registration(ListedOperation(A), Created("users.delete", None)),
        C: Registration(ListedOperation(C)),
    }


def test_personal_data_stays_here() -> None:
    found = read(json.dumps(RECORD | {"error_items": [{"id": "jane@example.com"}], "group": "x"}).encode())
    believed = {"id": A, "name": "users.delete", "status": "queued", "inserted_at": None}
    assert found.items == [believed | {"group": "x"}]


@pytest.mark.parametrize(
    ("stdin", "problem"),
    [
        (b"", "names no operation"),
        (b"\n# nothing\n", "names no operation"),
        (b"[]", "names no operation"),
        (b"{", "begins like JSON, but line 1 column 2 is wrong: was it cut off?"),
        (b'{"id": 1} x', "begins like JSON, but line 1 column 11 is wrong: was it cut off?"),
        (b"[" + b"1" * 5000 + b"]", "has a number with too many digits"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"[5]", "item 1 is neither an id nor a record"),
        (b"{}", "item 1 has no id"),
        (json.dumps(NOT_FOUND).encode(),
         'item 1 is an error of Knock, not a record: "resource_missing" "The resource does not exist"'),
        (b'{"message": "\\u001b[2J sk_live_12345"}', 'item 1 is an error of Knock, not a record: "\ufffd[2J sk_***"'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_standard_input_is_told(
    service: FakeService, url: str, token_file: Path, stdin: bytes, problem: str
) -> None:
    answer = run(url, token_file, "-", stdin=stdin)
    assert (answer.exit_code, answer.stdout, answer.stderr) == (1, "", f"standard input: {problem}\n")
    assert service.delivered == []


def test_an_error_among_records_does_not_hold_up_the_others(service: FakeService, url: str, token_file: Path) -> None:
    answer = run(url, token_file, "-", stdin=json.dumps(RECORD) + json.dumps(NOT_FOUND) + json.dumps(RECORD))
    assert (answer.exit_code, answer.stdout) == (1, f"{A} pending\n")
    assert answer.stderr.startswith("standard input: item 2 is an error of Knock")


@given(st.binary() | st.text().map(str.encode) | st.text(alphabet='{}[]":, \n').map(str.encode))
def test_any_standard_input_is_read(data: bytes) -> None:
    found = read(data)
    assert found.items or found.problems


def test_rejected_ones_are_told(service: FakeService, url: str, token_file: Path) -> None:
    answer = run(url, token_file, "-", stdin=f'["{A}", "abc", {{"id": "{B}", "group": 5}}]')
    assert (answer.exit_code, answer.stdout) == (1, f"{A} pending\n")
    assert answer.stderr.splitlines() == [
        '"abc": id: "abc" is not a valid UUID (expected e.g. 123e4567-e89b-12d3-a456-426614174000)',
        f"{B}: group: expected text, got a number",
    ]
    assert list(service.registration) == [A]
    nothing = run(url, token_file, "-", stdin="abc")
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert (
        nothing.stderr == '"abc": id: "abc" is not a valid UUID (expected e.g. 123e4567-e89b-12d3-a456-426614174000)\n'
    )


def test_what_will_be_forgotten_is_told(service: FakeService, url: str, token_file: Path) -> None:
    service.durable = False
    answer = run(url, token_file, A)
    assert (answer.exit_code, answer.stdout) == (0, f"{A} pending\n")
    assert answer.stderr == (
        "not durable: what was registered is forgotten when the exporter restarts, unless its configuration sets "
        "storage.path\n"
    )


def test_more_than_a_request_holds_is_several(service: FakeService, url: str, token_file: Path) -> None:
    names = [f"00000000-0000-4000-8000-{each:012x}" for each in range(MAX_IDS + 1)]
    answer = run(url, token_file, "-", stdin="\n".join(names))
    assert answer.exit_code == 0
    assert answer.stdout == "".join(f"{each} pending\n" for each in names)
    assert [len(each.operations) for each in service.registers] == [MAX_IDS, 1]


def test_requests_stay_under_their_size() -> None:
    items: list[Any] = [{"id": A, "group": "\u20ac" * 50_000} for _ in range(7)]
    made = list(batches(items))
    assert [*chain(*made)] == items
    assert [len(each) for each in made] == [3, 3, 1]
    assert all(len(json.dumps(each, separators=(",", ":"))) <= MAX_BODY_BYTES for each in made)
    assert list(batches([])) == []


NOWHERE = 'this exporter has no environment "nowhere" (it has: production, staging)'


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"--environment": "nowhere"}, f"HTTP 404: {NOWHERE}"),
        ({"--group": "a\nb"},
         "HTTP 400: query: group: holds characters that cannot be shown (expected printable text)"),
        ({"--label": "tem=x"},
         'HTTP 400: query: labels: "tem" is not declared in the configuration (declared: team, tier)'),
    ],
)  # fmt: skip
def test_what_the_exporter_refuses_is_told(
    service: FakeService, url: str, token_file: Path, change: dict[str, str], problem: str
) -> None:
    answer = run(url, token_file, A, *(f"{name}={value}" for name, value in change.items()))
    assert (answer.exit_code, answer.stdout, answer.stderr) == (1, "", f"{url}: {problem}\n")


def test_a_bad_token_is_told_and_not_shown(url: str, token_file: Path, tmp_path: Path) -> None:
    token_file.write_text("another-token")
    answer = run(url, token_file, A)
    assert answer.stderr == (
        f"{url}: HTTP 401: the token is not one of this exporter's (it is wrong, or was replaced)\n"
    )
    token_file.write_text("two words of mine")
    answer = run(url, token_file, A)
    assert answer.exit_code == 1
    assert answer.stderr == (
        f"{token_file} holds white space or other characters that no key has (one key, on one line?)\n"
    )
    answer = run(url, tmp_path / "nowhere", A)
    assert (answer.exit_code, answer.stderr) == (1, f"{tmp_path / 'nowhere'}: No such file or directory\n")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("sk_live_secret1",),
        (A, "--url=ftp://user:secret1@host"),
        (A, "--url=http://user:secret1@host"),
        (A, "--label=team"),
        (A, "--label==secret1"),
        (A, "--environment"),
    ],
)
def test_wrong_use_is_told(token_file: Path, arguments: tuple[str, ...]) -> None:
    answer = run("http://127.0.0.1:1", token_file, *arguments)
    assert answer.exit_code == 2
    assert "secret1" not in answer.output


# Who answers.


def answering(answer: bytes) -> Callable[[Server], Handler]:
    """Make a handler that reads a whole request and answers it with these bytes."""

    def bind(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            length = re.search(rb"Content-Length: ([0-9]+)", server.request(connection))
            left = int(length[1]) if length else 0
            while left and (piece := connection.recv(left)):  # else the end would be a reset
                left -= len(piece)
            connection.sendall(answer)

        return handle

    return bind


def test_a_redirect_is_not_followed(token_file: Path) -> None:
    moved = b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with serving(answering(moved)) as server:
        answer = run(server.url, token_file, A)
    assert answer.stderr == f"{server.url}: HTTP 307: redirects are not followed (is --url right?)\n"


@pytest.mark.parametrize("body", ["<html>", "[]", '{"accepted": [], "rejected": 5}', "{}"])
def test_what_is_not_exporter_is_told(token_file: Path, body: str) -> None:
    with serving(answering(http(body))) as server:
        answer = run(server.url, token_file, A)
    assert answer.stderr == f"{server.url}: the answer does not come from a knock-exporter (is --url right?)\n"
    assert answer.exit_code == 1


def test_a_token_that_is_echoed_is_masked(token_file: Path) -> None:
    with serving(
        answering(http(json.dumps({"detail": f"no {TOKEN}\x1b here"}), 400, "Content-Type: application/problem+json"))
    ) as server:
        answer = run(server.url, token_file, A)
    assert answer.stderr == f"{server.url}: HTTP 400: no ***\ufffd here\n"


def tls_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def test_certificates_are_checked(token_file: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    good = http(json.dumps({"accepted": [{"id": A, "state": "pending"}], "rejected": [], "durable": True}))
    with serving(answering(good), tls_of(authority.issue_cert("localhost"))) as server:
        refused = run(server.url, token_file, A)
        trusted = run(server.url, token_file, A, SSL_CERT_FILE=str(file))
        unreadable = run(server.url, token_file, A, SSL_CERT_FILE=str(tmp_path / "nowhere"))
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"{server.url}: certificate verify failed: ")
    assert (trusted.exit_code, trusted.stdout) == (0, f"{A} pending\n")
    assert unreadable.stderr == f"{tmp_path / 'nowhere'}: No such file or directory\n"


# An exporter that restarts, without waiting for it.

OK = Attempt(200, {"accepted": [{"id": A, "state": "pending"}], "rejected": [], "durable": True}, "", passing=False)
DOWN = Attempt(None, {}, "connection refused", passing=True)


@dataclass
class World:
    """Attempts that turn out as told, and a clock that only sleeping moves."""

    attempts: list[Attempt]
    last: Attempt = DOWN
    now: float = 0.0
    slept: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    def send(self, _body: bytes) -> Attempt:
        return self.attempts.pop(0) if self.attempts else self.last

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def register(self, *items: str) -> bool:
        outside = RegistrarIO(self.send, self.said.append, self.warned.append, self.sleep, lambda: self.now)
        return Registrar("http://here", outside).register(items or [A])


def test_it_waits_for_an_exporter_that_restarts() -> None:
    world = World([DOWN, Attempt(503, {}, "HTTP 503: ending", passing=True, retry_after=1.0), DOWN, DOWN, DOWN, OK])
    assert world.register()
    assert world.slept == [0.5, 1.0, 2.0, 4.0, 5.0]
    assert world.warned == ["http://here: connection refused; trying again for up to 60 s"]
    assert world.said == [f"{A} pending"]


def test_it_waits_as_it_is_told() -> None:
    world = World([Attempt(429, {}, "HTTP 429", passing=True, retry_after=7.0), OK])
    assert world.register()
    assert world.slept == [7.0]


def test_it_gives_up_after_a_minute() -> None:
    world = World([])
    with pytest.raises(StartError) as told:
        world.register()
    assert str(told.value) == "http://here: connection refused"
    assert 55 <= world.now <= 60
    assert len(world.warned) == 1


def test_it_gives_up_on_what_does_not_pass() -> None:
    world = World([Attempt(None, {}, "certificate verify failed: unknown", passing=False)])
    with pytest.raises(StartError, match=r"^http://here: certificate verify failed: unknown$"):
        world.register()
    assert world.slept == []


def test_it_does_not_wait_longer_than_it_has() -> None:
    world = World([Attempt(503, {}, "HTTP 503: no", passing=True, retry_after=3600.0)])
    with pytest.raises(StartError, match=r"^http://here: HTTP 503: no$"):
        world.register()
    assert world.slept == []


@pytest.mark.parametrize(
    ("status", "passing"),
    [(429, True), (502, True), (503, True), (504, True), (400, False), (401, False), (500, False)],
)
def test_which_answers_pass_by_waiting(token_file: Path, status: int, *, passing: bool) -> None:
    attempt = attempted(token_file, http("{}", status, "Retry-After: 7"))
    assert (attempt.status, attempt.passing, attempt.retry_after) == (status, passing, 7.0)


@pytest.mark.parametrize("broken", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"])
def test_an_exporter_that_ends_while_it_answers_is_asked_again(token_file: Path, broken: bytes) -> None:
    attempt = attempted(token_file, broken)
    assert (attempt.status, attempt.passing) == (None, True)


def test_a_kept_connection_that_ends_without_a_byte_passes(token_file: Path) -> None:
    def forgetting(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            server.request(connection)
            connection.recv(2)  # the body
            connection.sendall(http("{}", 503))
            server.request(connection)

        return handle

    with serving(forgetting) as server:
        sender = Sender(Target(server.url, "production"), token_file, {})
        assert [sender(b"[]").passing for _ in range(2)] == [True, True]
        sender.close()


def test_what_is_not_http_does_not_pass(token_file: Path) -> None:
    assert not attempted(token_file, b"SSH-2.0-OpenSSH_9.2\r\n").passing


def attempted(token_file: Path, answer: bytes) -> Attempt:
    with serving(answering(answer)) as server:
        sender = Sender(Target(server.url, "production"), token_file, {})
        try:
            return sender(b"[]")
        finally:
            sender.close()


def test_an_exporter_that_is_not_there_passes_by_waiting(token_file: Path) -> None:
    attempt = Sender(Target("http://127.0.0.1:1", "production"), token_file, {})(b"[]")
    assert attempt == Attempt(None, {}, "connection refused (does the exporter run, and is --url right?)", passing=True)


def test_the_address_says_it_all() -> None:
    target = Target("http://here/base", "a/b", "g&h", [("team", "x"), ("team", "y z")], again=True)
    assert target.address() == "http://here/base/api/v1/operations/a%2Fb?label.team=y+z&group=g%26h&again=true"


def test_foreign_text_does_not_reach_the_terminal() -> None:
    assert printable("\x1b]0;x\x07 sk_live_secret " + "a" * 1000).startswith("\ufffd]0;x\ufffd sk_*** aaa")
    assert len(printable("a" * 10_000)) == 500
