"""`knock-exporter register`: hands operations over to a running exporter, patiently while it restarts."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

from exporter import __version__
from exporter.errors import BadResponse, ConnectionLost, KnockError, Reason, StartError, redact
from exporter.keys import MASK, InvalidKey, KeySource
from exporter.knock.deadline import Deadline
from exporter.knock.failures import failure, read_body
from exporter.knock.memory_budget import MemoryBudget
from exporter.knock.transport import Transport
from exporter.knock.trust import trust
from exporter.registrations import LABEL_PREFIX, MAX_BODY_BYTES, MAX_IDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from exporter.keys import Secret
    from exporter.terminal.standard_input import Item

REQUEST_SECONDS = 10.0  # the exporter itself gives up after 5
PATIENCE_SECONDS = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
RETRIED = frozenset({429, 502, 503, 504})

_DETAIL_LONGEST = 500  # characters of a foreign text
_SHORTEST_TOKEN = 8  # masking anything shorter would garble words


class Attempt(NamedTuple):
    """What became of sending: an answer (`status`, `document`), or else why there was none."""

    status: int | None
    document: Mapping[str, Any]
    problem: str
    passing: bool  # whether it may pass by waiting
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where to register, and what is said of all operations."""

    url: str
    environment: str
    group: str | None = None
    labels: Sequence[tuple[str, str]] = ()
    again: bool = False

    def address(self) -> str:
        """Return the URL to POST to."""
        pairs = [(LABEL_PREFIX + name, value) for name, value in dict(self.labels).items()]
        pairs += [("group", self.group)] if self.group else []
        pairs += [("again", "true")] if self.again else []
        query = f"?{urlencode(pairs)}" if pairs else ""
        return f"{self.url}/api/v1/operations/{quote(self.environment, safe='')}{query}"


class Sender:
    """POSTs bodies to an exporter: no redirects, nothing from the environment but SSL_CERT_FILE.

    Raises StartError for a token or certificates that cannot be read.
    """

    def __init__(self, target: Target, token_file: Path, environ: Mapping[str, str]) -> None:
        self._token = _token(token_file, environ)
        self._address = target.address()
        file = environ.get("SSL_CERT_FILE")
        try:
            context = trust(Path(file) if file else None)
        except (OSError, ValueError) as error:
            raise StartError(f"{file or 'system certificates'}: {getattr(error, 'strerror', '') or error}") from None
        self._transport = Transport(target.url, context=context, proxy=None, connections=1, lookup=socket.getaddrinfo)

    def __call__(self, body: bytes) -> Attempt:
        """Send a body once."""
        try:
            return self._sent(body)
        except KnockError as ours:
            error = ours
        except Exception as foreign:  # noqa: BLE001  urllib3 and http.client raise more than they document
            error = failure(foreign)
        passing = isinstance(error, BadResponse) and error.field == "body"  # it ended while it answered
        passing = passing or isinstance(error, ConnectionLost) or error.reason in (Reason.CONNECT, Reason.TIMEOUT)
        return Attempt(None, {}, self._shown(str(error)), passing)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _sent(self, body: bytes) -> Attempt:
        headers = {
            "Authorization": f"Bearer {self._token.reveal()}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"knock-exporter/{__version__}",
        }
        deadline = Deadline(REQUEST_SECONDS)
        with self._transport.request(self._address, headers, deadline, method="POST", body=body) as answer:
            document = _document(read_body(answer, MemoryBudget().reservation("", "")))
        seconds = answer.headers.get("retry-after", "")
        return Attempt(
            answer.status,
            document,
            self._shown(_problem(answer.status, document)),
            answer.status in RETRIED,
            float(seconds) if seconds.isdecimal() else 0.0,
        )

    def _shown(self, text: str) -> str:
        token = self._token.reveal()
        text = text.replace(token, MASK) if len(token) >= _SHORTEST_TOKEN else text
        return printable(text)


@dataclass(frozen=True, slots=True)
class RegistrarIO:
    """How a registrar reaches the world: `send` POSTs a body, `say` and `warn` write a line for people."""

    send: Callable[[bytes], Attempt]
    say: Callable[[str], None]
    warn: Callable[[str], None]
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic


class Registrar:
    """Sends items in requests that an exporter takes, and tells what became of each."""

    def __init__(self, url: str, outside: RegistrarIO) -> None:
        self._url, self._outside = url, outside
        self._told_waiting = False
        self._rejected = 0
        self._durable = True

    def register(self, items: Sequence[Item]) -> bool:
        """Register all; return whether all were accepted. Raises StartError where it makes no sense to go on."""
        for batch in batches(items):
            self._report(batch, self._response([_encoded(each) for each in batch]))
        if not self._durable:
            self._outside.warn("not durable: what was registered is forgotten when the exporter restarts, unless its "
                               "configuration sets storage.path")  # fmt: skip
        return self._rejected == 0

    def _response(self, encoded: list[bytes]) -> Mapping[str, Any]:
        attempt = self._patiently(b"[" + b",".join(encoded) + b"]")
        known = attempt.status in (HTTPStatus.OK, HTTPStatus.UNPROCESSABLE_ENTITY)
        if not known or not all(isinstance(attempt.document.get(each), list) for each in ("accepted", "rejected")):
            raise StartError(f"{self._url}: {attempt.problem}")
        return attempt.document

    def _patiently(self, body: bytes) -> Attempt:
        until, pause = self._outside.monotonic() + PATIENCE_SECONDS, FIRST_PAUSE
        while (attempt := self._outside.send(body)).passing:
            wait = max(pause, attempt.retry_after)
            if self._outside.monotonic() + wait > until:
                break
            if not self._told_waiting:
                self._outside.warn(f"{self._url}: {attempt.problem}; trying again for up to {PATIENCE_SECONDS:g} s")
                self._told_waiting = True
            self._outside.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)
        return attempt

    def _report(self, batch: Sequence[Item], answer: Mapping[str, Any]) -> None:
        for each in _objects(answer["accepted"]):
            self._outside.say(printable(f"{each.get('id')} {each.get('state')}"))
        for each in _objects(answer["rejected"]):
            self._rejected += 1
            self._outside.warn(printable(f"{_name(each, batch)}: {each.get('reason')}"))
        if answer.get("durable") is False:
            self._durable = False


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield the items in lists that one request may hold."""
    batch: list[Item] = []
    size = 2
    for item in items:
        more = len(_encoded(item)) + 1
        if batch and (len(batch) == MAX_IDS or size + more > MAX_BODY_BYTES):
            yield batch
            batch, size = [], 2
        batch.append(item)
        size += more
    if batch:
        yield batch


def printable(text: str) -> str:
    """Replace what a terminal would obey, mask keys, and cut what is too long."""
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[:_DETAIL_LONGEST])
    return redact(shown)


def _encoded(item: Item) -> bytes:
    return json.dumps(item).encode()


def _token(file: Path, environ: Mapping[str, str]) -> Secret:
    try:
        return KeySource(file=file).read(environ)
    except InvalidKey as error:
        raise StartError(str(error)) from None


def _document(body: bytearray) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _problem(status: int, document: Mapping[str, Any]) -> str:
    if status == HTTPStatus.OK:
        return "the answer is none of knock-exporter (wrong --url?)"
    reasons = [each.get("reason") for each in _objects(document.get("rejected"))][:1]
    parts = [str(each) for each in (document.get("detail"), *reasons) if each]
    moved = HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST
    return ": ".join([f"HTTP {status}", *parts]) + (" (redirects are not followed)" if moved else "")


def _objects(found: Any) -> list[dict[str, Any]]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _name(rejected: dict[str, Any], batch: Sequence[Item]) -> str:
    if rejected.get("id"):
        return str(rejected["id"])
    number = rejected.get("item")
    known = isinstance(number, int) and 0 <= number < len(batch)
    return json.dumps(batch[number])[:100] if known and number is not None else "an item"
