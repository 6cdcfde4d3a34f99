"""Knock in virtual time: the simulator's world, what spoils its answers, and who asked for what how often."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from socket import gaierror
from typing import Any, NamedTuple

from urllib3.exceptions import SSLError

from exporter.knock.deadline import StaleConnection
from exporter.simulator import Order, World
from exporter.simulator.world import Clock

BEGIN = 1_800_000_000.0  # Unix seconds
ORDERS = {
    "over at once": Order(rows=40, queue_seconds=0.5, rows_per_second=1000),
    "with errors": Order(rows=60, queue_seconds=8, rows_per_second=5, errors=7),
    "fails": Order(name="users.delete", rows=500, queue_seconds=20, rows_per_second=10, fails=True),
    "for minutes": Order(rows=3000, queue_seconds=30, rows_per_second=10),
    "for hours": Order(name="objects.books.set", rows=90_000, queue_seconds=40, rows_per_second=9, errors=30),
    "for days": Order(rows=900_000, queue_seconds=3, rows_per_second=6, errors=40),
    "stalls": Order(rows=900, queue_seconds=5, rows_per_second=20, stalls=True),
    "waits": Order(rows=10, queue_seconds=90_000, rows_per_second=1),
}


class Trouble(NamedTuple):
    """What an answer without a record means: as what failed polls and requests are counted by."""

    name: str
    reason: str
    code: str = "none"  # as the label says it
    retry_after: float | None = None


class Wire(NamedTuple):
    """What the socket has to be read: these bytes, and then its end, or an error."""

    sent: bytes
    error: Callable[[], Exception] | None = None


Document = dict[str, Any]
Tells = Callable[[Document], Wire]  # what is sent in place of a record, or of it


class Answer(NamedTuple):
    """What Knock sends, and what that means."""

    wire: Wire
    means: Document | Trouble


class Oddity(NamedTuple):
    """A record that is told in an unusual way, and what of it is understood otherwise; `turns`: each second time."""

    tells: Tells
    understood: Document
    turns: bool = False


def http(body: str | bytes | Document, status: int = 200, *headers: str) -> bytes:
    body = json.dumps(body) if isinstance(body, dict) else body
    body = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Whatever", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _raw(sent: bytes, error: Callable[[], Exception] | None = None) -> Tells:
    return lambda _document: Wire(sent, error)


def _with(changes: Document) -> Tells:
    return lambda document: Wire(http(document | changes))


def _text(field: str, text: str) -> Tells:
    """Return a record in which a value is spelled like this."""
    return lambda document: Wire(http(json.dumps(document | {field: "@"}).replace('"@"', text)))


def _changed(change: Callable[[bytes], bytes]) -> Tells:
    """Return a record whose bytes, with their head, are changed."""
    return lambda document: Wire(change(http(document)))


def _of_knock(status: int, code: str = "whatever", kind: str = "api_error") -> bytes:
    return http({"code": code, "message": "No", "status": status, "type": kind}, status)


def _chunked(answer: bytes) -> bytes:
    body = answer.partition(b"\r\n\r\n")[2]
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


HEAD = b"HTTP/1.1 200 OK\r\n"
OTHER_ID = "123e4567-e89b-12d3-a456-426614174000"
HTML = "<html><h1>Bad gateway</h1></html>"
DEEP = b"[" * 100_000
BAD_COUNTS = (
    "-1", "true", '"43"', "43.5", "1" + "0" * 17, "1e300", "1e999", "[1]", "{}", "9" * 5000, "NaN", "-Infinity",
)  # fmt: skip
BAD_TIMES = (
    '"yesterday"', "17", "true", '""', '"2027-01-15"', '"2027-01-15T09:00:00"', '"2027-02-30T09:00:00Z"',
    '"2027-01-15T24:00:00Z"', '"10000-01-01T00:00:00Z"', '"0001-01-01T00:00:00+01:00"', '"2027-01-15T09:00:00+25:00"',
)  # fmt: skip
BAD_DOCUMENTS = (
    *(_text("processed_rows", each) for each in BAD_COUNTS),
    *(_text(field, BAD_COUNTS[0]) for field in ("estimated_total_rows", "success_count", "error_count")),
    *(_text("started_at", each) for each in BAD_TIMES),
    *(_text(field, BAD_TIMES[0]) for field in ("inserted_at", "updated_at", "completed_at", "failed_at")),
    *(_text("status", each) for each in ("null", "3", "[]", '{"status": "completed"}')),
    *(_text("id", each) for each in ("null", "7", '""', f'"{OTHER_ID}"')),
    *(_text("name", each) for each in ("7", "[]", r'"\ud800"')),
    *(_raw(http(each)) for each in ("", " ", "[]", '"processing"', "null", "43", "{}", "{", "nonsense", HTML)),
    lambda document: Wire(http(json.dumps([document]))),
    _changed(lambda answer: answer[:-1]),
    _changed(lambda answer: http(answer.partition(b"\r\n\r\n")[2][:-1])),
    _changed(lambda answer: http(answer.partition(b"\r\n\r\n")[2].decode().encode("utf-16"))),
    _changed(lambda answer: http(answer.partition(b"\r\n\r\n")[2] + b"{}")),
    _changed(lambda answer: answer.replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1)),
    _raw(http(DEEP)),
    _raw(http(b'{"x":' * 100_000)),
    _text("progress_path", "[" * 100_000 + "]" * 100_000),
    _raw(http(b'{"id": "\xff"}')),
    _raw(http({"code": "resource_missing", "message": "No", "status": 404, "type": "api_error"})),
    _raw(HEAD + b"Content-Length: 500\r\n\r\n{", ConnectionResetError),
    _raw(HEAD + b"Content-Length: -1\r\n\r\n{}"),
    _raw(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
    _raw(HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}"),
    _raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
    _raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{"),
)
BAD_HEADS = (
    b"\r\n\r\n", b"\x00\xff\xfe" * 100, b"220 mail.example ESMTP\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
    b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1 99999 OK\r\n\r\n", b"HTTP/2 200\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 17, HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    HEAD + b"".join(b"X-%d: a\r\n" % number for number in range(101)) + b"\r\n",
)  # fmt: skip


def _troubles(name: str, reason: str, code: str, *answers: Tells) -> tuple[tuple[Trouble, Tells], ...]:
    return tuple((Trouble(name, reason, code), each) for each in answers)


def _statuses(name: str, reason: str, *answers: bytes) -> tuple[tuple[Trouble, Tells], ...]:
    known = {301, 302, 307, 308, 400, 403, 404, 408, 409, 422, 500, 502, 503, 504}
    codes = [int(each.split()[1]) for each in answers]
    return tuple(
        (Trouble(name, reason, str(code) if code in known else f"{code // 100}xx"), _raw(each))
        for code, each in zip(codes, answers, strict=True)
    )


def _waits(name: str, *headers: str, seconds: float | None = None) -> tuple[tuple[Trouble, Tells], ...]:
    limited = Trouble(name, "rate_limited", "429", seconds)
    return tuple((limited, _raw(http("slow down", 429, each))) for each in headers)


TROUBLES: dict[str, tuple[tuple[Trouble, Tells], ...]] = {
    "not found": (
        *_statuses("not found", "not_found", _of_knock(404, "resource_missing")),
        *_statuses("not found", "not_found", http({"code": "gone", "type": "api_error"}, 404)),
    ),
    "key refused": (
        *_troubles("key refused", "unauthorized", "401", _raw(http("no", 401))),
        *_statuses("key refused", "unauthorized", _of_knock(403, "authorization", "authentication_error")),
        *_statuses("key refused", "unauthorized", _of_knock(400, "bearer_token_invalid")),
        *_statuses("key refused", "unauthorized", _of_knock(400, "api_key_expired")),
    ),
    "limited": (
        *_waits("limited", "X: 1", "Retry-After: soon", "Retry-After: -5", "Retry-After: NaN", "Retry-After: 1e3"),
        *_waits("limited", "Retry-After: Thu, 99 Foo 2027 00:00:00 GMT"),
        *_waits("limited", "Retry-After: 0", "Retry-After: Thu, 01 Jan 1970 00:00:00 GMT", seconds=0.0),
        (Trouble("limited", "rate_limited", "429"), _raw(b"HTTP/1.1 429 No\r\nContent-Length: 9\r\n\r\n", OSError)),
    ),
    "limited for 2 s": (
        *_waits("limited for 2 s", "Retry-After: 2", "retry-after-ms: 2000", "RETRY-AFTER:  2.0 ", seconds=2.0),
        *_waits("limited for 2 s", "Retry-After: 300\r\nRetry-After-Ms: 2000", seconds=2.0),
    ),
    "limited for 5 min": _waits(
        "limited for 5 min", "Retry-After: 300", f"Retry-After: {'9' * 400}",
        "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", seconds=300.0,
    ),
    "server error": _statuses(
        "server error", "server_error", _of_knock(500), http(HTML, 502), http("", 504), http("", 599),
        http("", 503, "Retry-After: 86400"), http("", 503, "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"),
        http(b"\x1f\x8b", 500, "Content-Encoding: gzip"),
    ),
    "client error": _statuses(
        "client error", "client_error", _of_knock(422), _of_knock(400), _of_knock(403), http(HTML, 403), http("", 407),
        http("", 408), http("", 409), http("", 418), http("", 499), http(DEEP, 422),
    ),
    "timeout": (
        *_troubles("timeout", "timeout", "none", _raw(b"", TimeoutError), _raw(HEAD, TimeoutError)),
        *_troubles("timeout", "timeout", "none", _raw(HEAD + b"Content-Length: 9\r\n\r\n{", TimeoutError)),
        *_troubles("timeout", "timeout", "none", _raw(b"HTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\n{", TimeoutError)),
    ),
    "no connection": (
        *_troubles("no connection", "connect", "none", _raw(b"", ConnectionRefusedError), _raw(b"", gaierror)),
        *_troubles("no connection", "connect", "none", _raw(b"", ConnectionResetError), _raw(b"")),
    ),
    "no trust": _troubles("no trust", "tls", "none", _raw(b"", SSLError)),
    "connection lost": _troubles("connection lost", "connect", "none", _raw(b"", StaleConnection)),
    "bad answers": (
        *_troubles("bad answers", "bad_response", "200", *BAD_DOCUMENTS),
        *_troubles("bad answers", "bad_response", "none", *map(_raw, BAD_HEADS)),
        *_statuses(
            "bad answers", "bad_response", http("{}", 101), http("{}", 201), http("", 204), http("{}", 206),
            http("", 300),
            http("", 301, "Location: /v1/bulk_operations/other"), http("", 302, "Location: http://other.example/"),
            http("", 304), http("", 307), http("", 308), http("", 600), http("", 999), http(HTML, 404), http("[]", 404),
            _of_knock(403, "resource_missing").replace(b"403", b"404", 1), http('{"code":5,"type":"x"}', 404),
            http("{}", 404, "Content-Encoding: br"), http(b"x" * 300_000, 404),
        ),
    ),
    "too large": _troubles(
        "too large", "too_large", "200", _raw(HEAD + b"Content-Length: 20000000\r\n\r\n{"),
        _raw(http(b"[" + b"0," * 2_000_000 + b"0]")),
    ),
    "no memory": _troubles(  # of the exporter's own
        "no memory", "too_large", "200", _raw(HEAD + b"Content-Length: 9\r\n\r\n{", MemoryError)
    ),
}  # fmt: skip


def _odd(changes: Document, *, turns: bool = False) -> Oddity:
    return Oddity(_with(changes), changes, turns)


def _unlike(sent: Document, understood: Document) -> Oddity:
    return Oddity(_with(sent), understood)


def _sent_as(change: Callable[[bytes], bytes]) -> Oddity:
    return Oddity(_changed(change), {})


PLAIN = _sent_as(lambda answer: answer)
FAR, EARLY = "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"
ODDITIES = {
    "undocumented": _odd({"status": "paused"}),
    "undocumented and over": _odd({"status": "archived", "completed_at": "2027-01-15T09:00:00Z"}),
    "undocumented and failed": _odd({"status": "cancelled", "failed_at": "2027-01-15T09:00:00Z"}),
    "over, and not": _odd({"status": "archived", "completed_at": "2027-01-15T09:00:00Z"}, turns=True),
    "in capitals": _odd({"status": "COMPLETED"}),
    "went back": _odd({"processed_rows": 3, "success_count": 3, "status": "processing"}),
    "to and fro": _odd({"processed_rows": 3, "success_count": 3, "status": "processing"}, turns=True),
    "without counts": _odd({"processed_rows": None, "success_count": None, "error_count": None}),
    "counts that do not add up": _odd(
        {"processed_rows": 5, "success_count": 90, "error_count": 80, "estimated_total_rows": 2}
    ),
    "large counts": _odd({"processed_rows": 10**14, "error_count": 10**14}),
    "whole fractions": Oddity(_text("processed_rows", "7.0"), {"processed_rows": 7}),
    "a field twice": Oddity(_text("processed_rows", '"x", "processed_rows": 4'), {"processed_rows": 4}),
    "without a name": _odd({"name": None}),
    "an empty name": _unlike({"name": ""}, {"name": None}),
    "a long name": _unlike({"name": "n" * 129}, {"name": "other"}),
    "a name of two lines": _unlike({"name": "a\nb 1.0"}, {"name": "other"}),
    "not inserted": _odd({"inserted_at": None}),
    "inserted early": _odd({"inserted_at": EARLY}),
    "inserted late": _odd({"inserted_at": FAR}),
    "started before it was made": _odd({"started_at": EARLY}),
    "other times": _unlike(
        {"started_at": "2027-01-15T12:00:00.1234567+03:30", "updated_at": "2027-01-15t08:59:60z"},
        {"started_at": "2027-01-15T08:30:00.123456Z", "updated_at": "2027-01-15T09:00:00Z"},
    ),
    "over without a time": _odd({"status": "completed", "completed_at": None, "failed_at": None}),
    "over twice": _odd(
        {"status": "failed", "completed_at": "2027-01-15T09:00:00Z", "failed_at": "2027-01-15T08:00:00Z"}
    ),
    "over later": _odd({"status": "completed", "completed_at": FAR}),
    "over before it began": _odd({"status": "completed", "started_at": FAR, "completed_at": EARLY}),
    "items": _odd({"error_count": None, "error_items": [{"id": "a", "collection": "books"}, {"id": "b"}]}),
    "broken items": Oddity(
        _text("error_items", r'[7, null, {"id": "\ud800", "collection": ["x"]}, []]'),
        {"error_items": [7, None, {}, []]},
    ),
    "no list of items": _unlike({"error_items": {"id": "a"}}, {"error_items": None}),
    "more fields": _odd({"x": {"y": [[[[1e308]]]]}, "processed_row": -1, "progress_path": "http://other.example/"}),
    "its id in capitals": Oddity(lambda document: Wire(http(document | {"id": document["id"].upper()})), {}),
    "after interim answers": _sent_as(lambda answer: b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 16 + answer),
    "in chunks": _sent_as(_chunked),
    "until it ends": _sent_as(lambda answer: b"HTTP/1.0 200\r\n\r\n" + answer.partition(b"\r\n\r\n")[2]),
    "as a page": _sent_as(lambda answer: answer.replace(b"\r\n", b"\r\nContent-Type: text/html\r\n", 1)),
}
TIMEOUT_SECONDS = 10.0


class Moment(NamedTuple):
    """One point in time on both of a computer's clocks."""

    mono: float
    wall: float


@dataclass
class Time:
    """The time that passes (`true`), and the machine's two clocks, which may be set and begin again."""

    true: float = 0.0
    mono: float = 1000.0
    wall_step: float = 0.0

    @property
    def now(self) -> Moment:
        return Moment(self.mono, BEGIN + self.true + self.wall_step)

    def sleep(self, seconds: float) -> None:
        self.pass_until(self.mono + seconds)

    def pass_until(self, mono: float) -> None:
        """Let time pass until the monotonic clock shows exactly this."""
        self.true, self.mono = self.true + max(0.0, mono - self.mono), max(self.mono, mono)


@dataclass(frozen=True, eq=False)
class Asked:
    """One request as Knock meets it; `at` is the true time."""

    at: float
    environment: str
    id: str
    base_url: str
    branch: str | None
    key: str
    checks_key: bool


@dataclass
class Knock:
    """Answers with a document or a trouble; the counts of an operation only grow, unless an oddity says otherwise."""

    time: Time
    seed: int
    troubles: dict[str, str] = field(default_factory=dict)  # by id, "" of all
    oddities: dict[str, str] = field(default_factory=dict)  # by id
    revoked: set[str] = field(default_factory=set)
    most: dict[tuple[str, str], tuple[int, int, int]] = field(default_factory=dict)  # rows, successes, errors told

    def __post_init__(self) -> None:
        clock = Clock(lambda: self.time.true, lambda: BEGIN + self.time.true)
        self.world = World(self.seed, clock=clock)
        self._chance = Random(self.seed)
        self._turns: Counter[str] = Counter()
        self._recent: dict[tuple[str, str], deque[float]] = {}

    def note(self, asked: Asked) -> int:
        """Count a request; return how many came in the second that ends with it, on its URL and key."""
        recent = self._recent.setdefault((asked.base_url, asked.key), deque())
        recent.append(asked.at)
        while recent[0] <= asked.at - 1.0:
            recent.popleft()
        return len(recent)

    def latency(self, asked: Asked, chance: float) -> float:
        trouble = self.troubles.get(asked.id) or self.troubles.get("")
        return TIMEOUT_SECONDS if trouble == "timeout" else (0.03, 0.05, 0.4, 2.5)[int(chance * 4)]

    def answer(self, asked: Asked) -> Answer:
        troubled = asked.id if asked.id in self.troubles else ""
        trouble = "key refused" if asked.key in self.revoked else self.troubles.get(troubled)
        if trouble == "no memory":  # asked again each second, so that a day of it would take an hour to run
            del self.troubles[troubled]
        document = None if asked.checks_key else self.world.read(asked.id)
        if trouble is None and document is None:
            trouble = "not found"
        if trouble is not None:
            means, tells = self._chance.choice(TROUBLES[trouble])
            return Answer(tells(document or {"id": asked.id, "status": "queued"}), means)
        assert document is not None
        return self._told(asked, document)

    def _told(self, asked: Asked, document: Document) -> Answer:
        oddity = ODDITIES.get(self.oddities.get(asked.id, ""))
        self._turns[asked.id] += 1
        if oddity is None or (oddity.turns and self._turns[asked.id] % 2):
            oddity = PLAIN
        means: Document = document | oddity.understood
        counts = (means["processed_rows"] or 0, means["success_count"] or 0, means.get("error_count") or 0)
        before = self.most.get((asked.environment, asked.id), (0, 0, 0))
        self.most[asked.environment, asked.id] = (
            max(before[0], counts[0]), max(before[1], counts[1]), max(before[2], counts[2])
        )  # fmt: skip
        return Answer(oddity.tells(document), means)
