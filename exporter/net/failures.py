"""What can go wrong in an exchange, as errors of ours: bodies that break off, and every foreign exception.

requests wraps urllib3's exceptions, which wrap those of http.client, ssl and socket. The cause is found by type,
wherever it hides; only texts of our own, of OpenSSL and of the C library get into a message, none from the wire.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING, Any, TypeVar

from requests import RequestException
from requests.exceptions import ProxyError as RequestsProxyError
from urllib3.exceptions import ClosedPoolError, EmptyPoolError, ProxyError, ReadTimeoutError, SSLError
from urllib3.util.ssl_match_hostname import CertificateError

from exporter.errors import BadAnswer, ConnectionLost, KnockError, Postponed, Reason, TooLarge, Unreachable
from exporter.net.deadline import MAX_BODY_BYTES, Flood, NameTimeout, StaleConnection
from exporter.net.room import LARGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3.response import BaseHTTPResponse

    from exporter.net.room import Place

MAX_VALUES = 2_000_000  # decoding more would take too much memory, and hold all threads for too long
_BEFORE_VALUES = (b",", b"[", b"{")
_PIECE = 64 * 1024  # bytes read at once
_PRINTABLE = re.compile(r"[\x21-\x7e]{1,128}")
_LENGTH = re.compile(r"[0-9]{1,18}")
_TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: ([0-9]{3})\b")  # http.client's words
_Kind = TypeVar("_Kind", bound=BaseException)


def about(answer: BaseHTTPResponse) -> dict[str, Any]:
    """Return what each error tells of an answer: its status, and Knock's X-Request-ID if a log line can hold it."""
    request_id = answer.headers.get("X-Request-ID", "")
    return {"code": answer.status, "request_id": request_id if _PRINTABLE.fullmatch(request_id) else None}


def read_body(answer: BaseHTTPResponse, place: Place | None = None) -> bytearray:
    """Read a body to its end, if its place has room; without a place it may have LARGE_BYTES.

    Raises TooLarge past MAX_BODY_BYTES or MAX_VALUES, Postponed, BadAnswer or Unreachable.
    """
    most = LARGE_BYTES if place is None else MAX_BODY_BYTES
    length = _declared_length(answer)
    if length > most:
        raise failure(Flood("declared"), answer)
    body, values = bytearray(), 0
    try:
        if place is not None:
            place.declare(length)
        while not answer.closed:
            piece = answer.read(_PIECE, decode_content=False)
            body += piece
            values += sum(map(piece.count, _BEFORE_VALUES))
            if len(body) > most:
                raise Flood("body")  # noqa: TRY301  the same end as when the socket finds it
            if values > MAX_VALUES:
                raise TooLarge(f"an answer of more than {MAX_VALUES:,} values", **about(answer))  # noqa: TRY301
            if place is not None:
                place.hold(len(body))
    except KnockError:
        raise
    except Exception as error:  # noqa: BLE001  urllib3 and http.client raise more than they document
        raise failure(error, answer) from None
    return body


def _declared_length(answer: BaseHTTPResponse) -> int:
    """Return a body's length, 0 where it is not declared."""
    headers = answer.headers
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise BadAnswer("content-encoding", "compressed, though asked not to be", **about(answer))
    if headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        raise BadAnswer("http", "unknown Transfer-Encoding", **about(answer))
    lengths = {text.strip() for text in headers.get("Content-Length", "0").split(",")}
    # http.client takes a negative length for none at all, and `+5`, `1_0` for numbers.
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise BadAnswer("http", "impossible Content-Length", **about(answer))
    return int(lengths.pop())


def failure(error: Exception, answer: BaseHTTPResponse | None = None) -> KnockError:
    """Say what a foreign exception means; `answer` if it came up while that one's body was read."""
    causes = list(_causes(error))
    known = about(answer) if answer is not None else {}
    if _first(causes, Flood):
        return TooLarge(f"an answer of more than {MAX_BODY_BYTES // 2**20} MiB", **known)
    if _first(causes, MemoryError):
        return Postponed("no memory left for an answer", **known)
    unreachable = _timeout(causes) or _distrust(causes)
    if unreachable is None and answer is not None:
        return _broken_body(causes, answer)
    unreachable = unreachable or _disconnection(causes)
    if unreachable is None:
        return BadAnswer("http", f"malformed answer ({_kind(causes)})")
    reason, text = unreachable
    proxied = _first(causes, ProxyError) or _first(causes, RequestsProxyError)
    kind = ConnectionLost if _first(causes, StaleConnection) else Unreachable
    return kind(reason, f"proxy: {text}" if proxied else text)


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


def _timeout(causes: list[BaseException]) -> tuple[Reason, str] | None:
    if _first(causes, NameTimeout):
        return Reason.TIMEOUT, "the name did not resolve in time"
    if _first(causes, EmptyPoolError):
        return Reason.TIMEOUT, "no connection came free in time"
    if _first(causes, TimeoutError) or _first(causes, ReadTimeoutError):
        return Reason.TIMEOUT, "no whole answer in time"
    return None


def _distrust(causes: list[BaseException]) -> tuple[Reason, str] | None:
    if verification := _first(causes, ssl.SSLCertVerificationError):
        return Reason.TLS, f"certificate verify failed: {verification.verify_message.rstrip('.')}"
    if _first(causes, CertificateError):
        return Reason.TLS, "certificate verify failed: host name mismatch"
    if fault := _first(causes, ssl.SSLError):
        return Reason.TLS, f"TLS failed: {(fault.reason or type(fault).__name__).replace('_', ' ').lower()}"
    if _first(causes, SSLError):
        return Reason.TLS, "TLS failed"
    return None


def _disconnection(causes: list[BaseException]) -> tuple[Reason, str] | None:
    if _first(causes, RemoteDisconnected):
        return Reason.CONNECT, "closed without an answer"
    if _first(causes, ClosedPoolError):
        return Reason.CONNECT, "the client was closed"
    if unknown := _first(causes, socket.gaierror):
        return Reason.CONNECT, f"name did not resolve: {unknown.strerror}".removesuffix(": ")
    # requests' own exceptions are OSErrors as well, and say nothing of the cause.
    fault = _first([each for each in causes if not isinstance(each, RequestException)], OSError)
    if fault is None or _first(causes, HTTPException):
        return None
    if refused := _TUNNEL_REFUSED.search(str(fault)):
        return Reason.CONNECT, f"refused the tunnel with HTTP {refused[1]}"
    return Reason.CONNECT, os.strerror(fault.errno).lower() if fault.errno else "no connection"


def _broken_body(causes: list[BaseException], answer: BaseHTTPResponse) -> BadAnswer:
    if _first(causes, IncompleteRead) or not _first(causes, HTTPException):
        return BadAnswer("body", "broke off", **about(answer))
    return BadAnswer("http", f"malformed body ({_kind(causes)})", **about(answer))


def _kind(causes: list[BaseException]) -> str:
    return type(_first(causes, HTTPException) or causes[-1]).__name__
