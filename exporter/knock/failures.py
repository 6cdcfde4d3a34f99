"""What can go wrong in an exchange, as errors of ours: bodies that break off, and every foreign exception.

urllib3's exceptions wrap those of http.client, ssl and socket. The cause is found by type,
wherever it hides; only texts of our own, of OpenSSL and of the C library get into a message, none from the wire.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Callable
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING, Any, TypeVar

from urllib3.exceptions import ClosedPoolError, EmptyPoolError, ProxyError, ReadTimeoutError, SSLError
from urllib3.util.ssl_match_hostname import CertificateError

from exporter.errors import BadResponse, ConnectionLost, KnockError, Postponed, Reason, TooLarge, Unreachable
from exporter.knock.deadline import MAX_BODY_BYTES, NameTimeout, ResponseTooLarge, StaleConnection
from exporter.knock.memory_budget import LARGE_BYTES
from exporter.knock.response import LENGTH_DIGITS_MOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.knock.memory_budget import Reservation
    from exporter.knock.response import Response

MAX_VALUES = 2_000_000  # decoding more would take too much memory, and hold all threads for too long
_BEFORE_VALUES = (b",", b"[", b"{")
_PIECE = 64 * 1024  # bytes read at once
_PRINTABLE = re.compile(r"[\x21-\x7e]{1,128}")
_LENGTH = re.compile(rf"[0-9]{{1,{LENGTH_DIGITS_MOST}}}")
_TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: ([0-9]{3})\b")  # http.client's words
_Kind = TypeVar("_Kind", bound=BaseException)


def about(answer: Response) -> dict[str, Any]:
    """Return what each error tells of an answer: its status, and Knock's X-Request-ID if a log line can hold it."""
    request_id = answer.headers.get("x-request-id", "")
    return {"code": answer.status, "request_id": request_id if _PRINTABLE.fullmatch(request_id) else None}


def read_body(answer: Response, reservation: Reservation | None = None) -> bytearray:
    """Read a body to its end, if its reservation can grow to that; without one it may have LARGE_BYTES.

    Raises TooLarge past MAX_BODY_BYTES or MAX_VALUES, Postponed, BadResponse or Unreachable.
    """
    most = LARGE_BYTES if reservation is None else MAX_BODY_BYTES
    length = _declared_length(answer)
    if length > most:
        raise failure(ResponseTooLarge("declared"), answer)
    body, values = bytearray(), 0
    try:
        if reservation is not None:
            reservation.declare(length)
        while piece := answer.read(_PIECE):
            body += piece
            values += sum(map(piece.count, _BEFORE_VALUES))
            if len(body) > most:
                raise ResponseTooLarge("body")  # noqa: TRY301  the same end as when the socket finds it
            if values > MAX_VALUES:
                raise TooLarge(f"an answer of more than {MAX_VALUES:,} values", **about(answer))  # noqa: TRY301
            if reservation is not None:
                reservation.hold(len(body))
    except KnockError:
        raise
    except Exception as error:  # noqa: BLE001  urllib3 and http.client raise more than they document
        raise failure(error, answer) from None
    return body


def _declared_length(answer: Response) -> int:
    """Return a body's length, 0 where it is not declared."""
    headers = answer.headers
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise BadResponse("content-encoding", "compressed, though asked not to be", **about(answer))
    if headers.get("transfer-encoding", "chunked").strip().lower() != "chunked":
        raise BadResponse("http", "unknown Transfer-Encoding", **about(answer))
    lengths = {text.strip() for text in headers.get("content-length", "0").split(",")}
    # http.client takes a negative length for none at all, and `+5`, `1_0` for numbers.
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise BadResponse("http", "impossible Content-Length", **about(answer))
    return int(lengths.pop())


def failure(error: Exception, answer: Response | None = None) -> KnockError:
    """Say what a foreign exception means; `answer` if it came up while that one's body was read."""
    causes = list(_causes(error))
    known = about(answer) if answer is not None else {}
    if _first(causes, ResponseTooLarge):
        return TooLarge(f"an answer of more than {MAX_BODY_BYTES // 2**20} MiB", **known)
    if _first(causes, MemoryError):
        return Postponed("no memory left for an answer", **known)
    meaning = _meaning(causes, _AT_ANY_TIME)
    if meaning is None and answer is not None:
        return _broken_body(causes, answer)
    meaning = meaning or _meaning(causes, _BEFORE_A_BODY)
    if meaning is None:
        return BadResponse("http", f"malformed answer ({_kind(causes)})")
    reason, text = meaning
    proxied = _first(causes, ProxyError)
    kind = ConnectionLost if _first(causes, StaleConnection) else Unreachable
    return kind(reason, f"proxy: {text}" if proxied else text)


def _of_tls(error: ssl.SSLError) -> str:
    return f"TLS failed: {(error.reason or type(error).__name__).replace('_', ' ').lower()}"


def _of_the_system(error: OSError) -> str:
    if refused := _TUNNEL_REFUSED.search(str(error)):
        return f"refused the tunnel with HTTP {refused[1]}"
    return os.strerror(error.errno).lower() if error.errno else "no connection"


# The first row whose kind is among the causes counts; one without a reason: the answer was malformed.
_Table = tuple[tuple[type[BaseException], Reason | None, str | Callable[[Any], str]], ...]
_AT_ANY_TIME: _Table = (
    (NameTimeout, Reason.TIMEOUT, "the name did not resolve in time"),
    (EmptyPoolError, Reason.TIMEOUT, "no connection came free in time"),
    (TimeoutError, Reason.TIMEOUT, "no whole answer in time"),
    (ReadTimeoutError, Reason.TIMEOUT, "no whole answer in time"),
    (
        ssl.SSLCertVerificationError,
        Reason.TLS,
        lambda error: f"certificate verify failed: {error.verify_message.rstrip('.')}",
    ),
    (CertificateError, Reason.TLS, "certificate verify failed: host name mismatch"),
    (ssl.SSLError, Reason.TLS, _of_tls),
    (SSLError, Reason.TLS, "TLS failed"),
)
_BEFORE_A_BODY: _Table = (
    (RemoteDisconnected, Reason.CONNECT, "closed without an answer"),
    (ClosedPoolError, Reason.CONNECT, "the client was closed"),
    (
        socket.gaierror,
        Reason.CONNECT,
        lambda error: f"name did not resolve: {error.strerror}".removesuffix(": "),
    ),
    (HTTPException, None, ""),
    (OSError, Reason.CONNECT, _of_the_system),
)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and all that it wraps, outermost first."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]


def _first(causes: list[BaseException], kind: type[_Kind]) -> _Kind | None:
    return next((cause for cause in causes if isinstance(cause, kind)), None)


def _meaning(causes: list[BaseException], table: _Table) -> tuple[Reason, str] | None:
    for kind, reason, text in table:
        if cause := _first(causes, kind):
            return None if reason is None else (reason, text if isinstance(text, str) else text(cause))
    return None


def _broken_body(causes: list[BaseException], answer: Response) -> BadResponse:
    if _first(causes, IncompleteRead) or not _first(causes, HTTPException):
        return BadResponse("body", "broke off", **about(answer))
    return BadResponse("http", f"malformed body ({_kind(causes)})", **about(answer))


def _kind(causes: list[BaseException]) -> str:
    return type(_first(causes, HTTPException) or causes[-1]).__name__
