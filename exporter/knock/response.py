"""An answer as http.client reads it, in the place of urllib3's response."""

from __future__ import annotations

from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, IncompleteRead, LineTooLong, UnknownProtocol
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from urllib3 import Retry
    from urllib3.connection import HTTPConnection
    from urllib3.connectionpool import HTTPConnectionPool

_INTERIM_MOST = 16  # 1xx answers before the final one
_HEADERS_MOST, _HEADER_BYTES_MOST = 100, 65536  # http.client's own bounds
LENGTH_DIGITS_MOST = 18  # Python refuses to read numbers of thousands of digits


class TooManyInterimResponses(HTTPException):
    """A server goes on announcing an answer that does not come."""


class Response(HTTPResponse):
    """An answer as http.client reads it; its connection goes back into the pool when it is closed.

    Without urllib3's response around it, and without http.client's parser of headers, which is that of mails, a request
    takes three quarters of the time.
    """

    headers: dict[str, str]  # type: ignore[assignment]  # by lower-case name; of several the values, with commas
    # What urllib3's pool sets or logs.
    retries: Retry
    version_string = "HTTP/1"
    length_remaining: int | None = None
    _pool: HTTPConnectionPool | None = None
    _connection: HTTPConnection | None = None
    _whole = False

    def begin(self) -> None:
        """Read status and headers."""
        version, self.status, self.reason = self._read_status()
        if not version.startswith(("HTTP/1.", "HTTP/0.9")):
            raise UnknownProtocol(version)
        self.headers = _headers(self.fp)
        self.chunked, self.chunk_left = self.headers.get("transfer-encoding", "").lower() == "chunked", None
        # Of several only one that all agree on is read, as `failures.read_body` says; a proxy may add its own.
        length = self.headers.get("content-length", "").partition(",")[0].strip()
        possible = length.isdecimal() and len(length) <= LENGTH_DIGITS_MOST and not self.chunked
        self.length = int(length) if possible else None
        if self.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
            self.length = 0
        connection = self.headers.get("connection", "").lower()
        ends = "keep-alive" not in connection if version in {"HTTP/1.0", "HTTP/0.9"} else "close" in connection
        self.will_close = ends or (self.length is None and not self.chunked)

    def _read_status(self) -> tuple[str, int, str]:
        """Read the final answer's status line, also that of a CONNECT; http.client itself skips 100 only."""
        for _ in range(_INTERIM_MOST + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in typeshed
            if status >= HTTPStatus.OK or status == HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            _headers(self.fp)
        raise TooManyInterimResponses

    def _read_and_discard_trailer(self) -> None:
        _headers(self.fp)  # http.client itself would read on as long as some come

    def read(self, amt: int | None = None) -> bytes:
        """Read a piece of the body; raises IncompleteRead where it ends too early, which http.client leaves to see."""
        piece = super().read(amt)
        if not piece and self.length:
            raise IncompleteRead(piece, self.length)
        self._whole = not piece
        return piece

    def close(self) -> None:
        """Give the connection back; where the body was not read to its end, closed."""
        super().close()
        connection, self._connection = self._connection, None
        if connection is not None and self._pool is not None:
            if not self._whole:
                connection.close()
            self._pool._put_conn(connection)  # noqa: SLF001  as urllib3's responses do


def _headers(lines: IO[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for _ in range(_HEADERS_MOST):
        line = lines.readline(_HEADER_BYTES_MOST + 1)
        if len(line) > _HEADER_BYTES_MOST:
            raise LineTooLong("header")
        if line in {b"\r\n", b"\n", b""}:
            return headers
        name, _, value = line.decode("latin-1").partition(":")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    raise HTTPException("too many headers")
