"""What a running exporter is asked from a shell: one request at a time, each with the answer or why there was none."""

from __future__ import annotations

import json
import socket
import time
from base64 import b64encode
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

from exporter import __version__, files
from exporter.errors import BadResponse, ConnectionLost, ExporterError, KnockError, Reason, StartError, redact
from exporter.keys import MAX_KEY_BYTES, InvalidKey, KeySource, Masking, Secret
from exporter.knock.deadline import Deadline
from exporter.knock.failures import failure, read_body
from exporter.knock.memory_budget import MemoryBudget
from exporter.knock.transport import Transport
from exporter.knock.trust import trust_for
from exporter.wording import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

REQUEST_SECONDS = 10.0  # the exporter itself gives up after 5
PATIENCE_SECONDS = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
RETRIED = frozenset({429, 502, 503, 504})
PAGE = 1000  # operations in a list, the most that the API gives at once

PROBLEM_TYPE = "application/problem+json"  # of what an exporter refuses
_DETAIL_LONGEST = 500  # characters of a foreign text
_FOREIGN = "the answer does not come from a knock-exporter (is --url right?)"
_PROXY = "the answer does not come from a knock-exporter, but from a proxy or another server"
_CUT_OFF = ("closed without an answer", "connection reset by peer")  # by other servers' TLS ports
# What servers write to a client that speaks plain HTTP to their TLS port: Go and this exporter, nginx, Apache.
_TLS_PORTS = (b"HTTP request to an HTTPS server", b"HTTP request was sent to HTTPS port", b"SSL-enabled server port")


class Attempt(NamedTuple):
    """What became of a request: an answer (`status`, `document`), or else why there was none."""

    status: int | None
    document: Mapping[str, Any]
    problem: str
    passing: bool  # whether it may pass by waiting
    retry_after: float = 0.0
    foreign: bool = False  # whether a refusal comes from another server


class ApiError(ExporterError):
    """A request without the answer that was hoped for; `attempt` tells what became of it."""

    def __init__(self, url: str, attempt: Attempt) -> None:
        self.attempt = attempt
        super().__init__(f"{url}: {attempt.problem}")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The value of an Authorization header, and what masks it in foreign texts."""

    header: Secret
    masking: Masking


def bearer(token_file: Path, environ: Mapping[str, str]) -> Credentials:
    """Read a token. Raises StartError."""
    try:
        token = KeySource(file=token_file).read(environ)
    except InvalidKey as error:
        raise StartError(str(error)) from None
    return Credentials(Secret(f"Bearer {token.reveal()}"), Masking(token.reveal()))


def basic(username: str, password_file: Path) -> Credentials:
    """Read a password; white space around it is not part of it. Raises StartError."""
    try:
        password = files.read(password_file, MAX_KEY_BYTES).decode("utf-8-sig").strip()
    except OSError as error:
        raise StartError(f"{password_file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StartError(f"{password_file}: is not a text file") from None
    if not password:
        raise StartError(f"{password_file} is empty")
    encoded = b64encode(f"{username}:{password}".encode()).decode()
    return Credentials(Secret(f"Basic {encoded}"), Masking(encoded, password))


class Connection:
    """Sends requests to an exporter: no redirects, nothing from the environment but SSL_CERT_FILE.

    Raises StartError for certificates that cannot be read.
    """

    def __init__(self, url: str, credentials: Credentials | None, environ: Mapping[str, str]) -> None:
        self._credentials, self._tls = credentials, url.startswith("https://")
        file = environ.get("SSL_CERT_FILE")
        try:
            context = trust_for(Path(file) if file else None, url)
        except (OSError, ValueError) as error:
            raise StartError(f"{file or 'system certificates'}: {getattr(error, 'strerror', '') or error}") from None
        self._transport = Transport(url, context=context, proxy=None, connections=1, lookup=socket.getaddrinfo)

    def send(self, address: str, method: str = "GET", body: bytes | None = None) -> Attempt:
        """Send a request once; `address` is the whole URL, `body` JSON."""
        try:
            return self._sent(address, method, body)
        except KnockError as ours:
            error = ours
        except Exception as foreign:  # noqa: BLE001  urllib3 and http.client raise more than they document
            error = failure(foreign)
        passing = isinstance(error, BadResponse) and error.field == "body"  # it ended while it answered
        passing = passing or isinstance(error, ConnectionLost) or error.reason in (Reason.CONNECT, Reason.TIMEOUT)
        return Attempt(None, {}, self._shown(f"{error}{_hint(error, tls=self._tls)}"), passing)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _sent(self, address: str, method: str, body: bytes | None) -> Attempt:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"knock-exporter/{__version__}",
        }
        if self._credentials is not None:
            headers["Authorization"] = self._credentials.header.reveal()
        if body is not None:
            headers["Content-Type"] = "application/json"
        deadline = Deadline(REQUEST_SECONDS)
        with self._transport.request(address, headers, deadline, method=method, body=body) as answer:
            body_read = read_body(answer, MemoryBudget().reservation("", ""))
        document = _document(body_read)
        # What refuses is told from other servers' errors by its type.
        foreign = not (answer.headers.get("content-type", "").startswith(PROBLEM_TYPE) or "rejected" in document)
        if answer.status == HTTPStatus.BAD_REQUEST and any(each in body_read for each in _TLS_PORTS):
            problem = "HTTP 400: this port speaks TLS (use https://)"
        else:
            problem = _problem(answer.status, answer.headers, document, foreign=foreign)
        seconds = answer.headers.get("retry-after", "")
        return Attempt(
            answer.status,
            document,
            self._shown(problem),
            answer.status in RETRIED,
            float(seconds) if seconds.isdecimal() else 0.0,
            foreign,
        )

    def _shown(self, text: str) -> str:
        return printable(self._credentials.masking.text(text) if self._credentials is not None else text)


class Retrying:
    """Repeats a request that may pass by waiting, for up to a minute: an exporter that restarts is back by then.

    Who has less time gives `seconds`.
    """

    def __init__(
        self,
        url: str,
        warn: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._url, self._warn, self._sleep, self._monotonic = url, warn, sleep, monotonic
        self._seconds = min(seconds, PATIENCE_SECONDS)
        self._told_waiting = False

    def __call__(self, send: Callable[[], Attempt]) -> Attempt:
        """Return the first attempt that waiting does not change, or the last one."""
        until, pause = self._monotonic() + self._seconds, FIRST_PAUSE
        while (attempt := send()).passing:
            wait = max(pause, attempt.retry_after)
            if self._monotonic() + wait > until:
                break
            if not self._told_waiting:
                self._warn(f"{self._url}: {attempt.problem}; trying again for up to {self._seconds:g} s")
                self._told_waiting = True
            self._sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)
        return attempt


class ExporterApi:
    """Reads the API of an exporter; raises ApiError where an answer is not the one hoped for.

    `send` sends a GET to a whole URL: `Connection.send`, alone or through Retrying.
    """

    def __init__(self, url: str, send: Callable[[str], Attempt]) -> None:
        self.url = url
        self._send = send

    def environments(self) -> list[dict[str, Any]]:
        """Return how the environments stand."""
        return self._list(self._get("/api/v1/environments"), "environments")

    def operations(self, environment: str | None = None, **filters: str) -> Iterator[dict[str, Any]]:
        """Yield operations in the API's order: unfinished ones first. The next page is asked for when it is needed."""
        path = "/api/v1/operations" + (f"/{quote(environment, safe='')}" if environment is not None else "")
        query = {"limit": str(PAGE)} | filters
        while True:
            page = self._get(f"{path}?{urlencode(query)}")
            yield from self._list(page, "operations")
            if not isinstance(page.get("next"), str):
                return
            query["cursor"] = page["next"]

    def operation(self, environment: str, operation_id: str) -> Mapping[str, Any]:
        """Return one operation in full."""
        return self._known(self._get(f"/api/v1/operations/{quote(environment, safe='')}/{operation_id}"), "status")

    def groups(self, environment: str | None = None) -> list[dict[str, Any]]:
        """Return the groups, of all environments or of one."""
        path = "/api/v1/groups" + (f"/{quote(environment, safe='')}" if environment is not None else "")
        return self._list(self._get(path), "groups")

    def group(self, environment: str, group: str) -> Mapping[str, Any]:
        """Return one group."""
        return self._known(self._get(f"/api/v1/groups/{quote(environment, safe='')}/{quote(group, safe='/')}"), "state")

    def _get(self, path: str) -> Mapping[str, Any]:
        attempt = self._send(f"{self.url}{path}")
        if attempt.status != HTTPStatus.OK:
            raise ApiError(self.url, attempt)
        return attempt.document

    def _list(self, document: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
        if not isinstance(document.get(field), list):
            raise ApiError(self.url, Attempt(HTTPStatus.OK, {}, _FOREIGN, passing=False))
        return objects(document[field])

    def _known(self, document: Mapping[str, Any], field: str) -> Mapping[str, Any]:
        if not isinstance(document.get(field), str):
            raise ApiError(self.url, Attempt(HTTPStatus.OK, {}, _FOREIGN, passing=False))
        return document


def printable(text: str) -> str:
    """Replace what a terminal would obey, mask keys, and cut what is too long."""
    return redact(visible(text[:_DETAIL_LONGEST]))


def objects(found: Any) -> list[dict[str, Any]]:
    """Return the objects of what should be a list of them."""
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _document(body: bytearray) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _problem(status: int, headers: Mapping[str, str], document: Mapping[str, Any], *, foreign: bool) -> str:
    """Say what an answer is that is not the one hoped for."""
    if status == HTTPStatus.OK:
        return _FOREIGN
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return f"HTTP {status}: redirects are not followed (is --url right?)"
    reasons = [each.get("reason") for each in objects(document.get("rejected"))][:1]
    parts = [str(each) for each in (document.get("detail"), *reasons) if each]
    if foreign:
        parts.append(_PROXY if status in RETRIED else _FOREIGN)
    needs_password = not foreign and headers.get("www-authenticate", "").startswith("Basic")
    return ": ".join([f"HTTP {status}", *parts]) + (" (--username and --password-file)" if needs_password else "")


def _hint(error: KnockError, *, tls: bool) -> str:
    """Say what may be wrong where there was no answer."""
    text = str(error)
    if "connection refused" in text:
        return " (does the exporter run, and is --url right?)"
    if text.startswith("certificate verify failed"):
        return " (SSL_CERT_FILE names a PEM file of other authorities to trust)"
    if tls and "wrong version number" in text:
        return " (does this port speak plain HTTP? Use http://)"
    if not tls and (text in _CUT_OFF or (isinstance(error, BadResponse) and error.field == "http")):
        return " (does this port speak TLS? Use https://)"
    return ""
