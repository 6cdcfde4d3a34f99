"""One list of operations from an address of the user's own: Prometheus' http_sd.

A request is one exchange with one deadline, like those to Knock: no retries, no redirects, no cookies, nothing from the
environment. What goes wrong comes out as BrokenList, without the token.
"""

from __future__ import annotations

import os
import socket
from contextlib import closing
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus, urlsplit

from exporter import __version__
from exporter.errors import KnockError, Postponed
from exporter.keys import InvalidKey, Masking, is_word
from exporter.knock.deadline import Deadline
from exporter.knock.failures import failure, read_body
from exporter.knock.memory_budget import MemoryBudget
from exporter.knock.transport import Transport
from exporter.knock.trust import trust_for
from exporter.sources.listing import BrokenList
from exporter.sources.lists import Form, parse

if TYPE_CHECKING:
    import ssl
    from collections.abc import Collection

    from exporter.config import ListedOperation
    from exporter.config.settings import HttpSource
    from exporter.knock.deadline import Lookup
    from exporter.knock.memory_budget import Reservation
    from exporter.knock.response import Response

TIMEOUT = 10.0  # seconds, for the whole exchange
_DENIED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def fetch(
    source: HttpSource,
    labels: Collection[str],
    reservation: Reservation | None = None,
    *,
    timeout: float = TIMEOUT,
    lookup: Lookup = socket.getaddrinfo,
) -> tuple[ListedOperation, ...]:
    """Ask for a list, with the token as its file holds it now. Raises BrokenList, or Postponed."""
    token = _token(source)
    reservation = reservation or MemoryBudget().reservation(source.url, "")
    body = _exchange(source, token, reservation, Deadline(timeout), lookup)
    try:
        with reservation.decoding():
            return _parsed(Masking(token).json(body), source, labels)
    except MemoryError as error:
        raise failure(error) from None


def _parsed(body: bytearray, source: HttpSource, labels: Collection[str]) -> tuple[ListedOperation, ...]:
    try:
        return parse(body, Form.JSON, labels)
    except BrokenList:
        masked = Masking(*_query_values(source)).json(body)  # no message may quote what may be a secret
        if masked is body:
            raise
    parse(masked, Form.JSON, labels)  # says what is wrong with it
    raise BrokenList("cannot be used where it repeats the query of its URL")


def _query_values(source: HttpSource) -> list[str]:
    parts = [each.partition("=") for each in urlsplit(source.url).query.split("&")]
    values = {value or name for name, _, value in parts}  # the name of `?secret` is one
    return [each for each in values | {*map(unquote_plus, values)} if not is_word(each)]


def _token(source: HttpSource) -> str:
    if source.bearer_token_file is None:
        return ""
    try:
        return source.bearer_token_file.read(os.environ).reveal()
    except InvalidKey as error:
        raise BrokenList(f"bearer token: {error}") from None


def _exchange(
    source: HttpSource, token: str, reservation: Reservation, deadline: Deadline, lookup: Lookup
) -> bytearray:
    try:
        return _body(source, token, reservation, deadline, lookup)
    except BrokenList:
        raise
    except KnockError as ours:
        error = ours
    except Exception as foreign:  # noqa: BLE001  urllib3 and http.client raise more than they document
        error = failure(foreign)
    if isinstance(error, Postponed):
        raise error
    raise BrokenList(Masking(token, *_query_values(source)).text(str(error)))


def _body(source: HttpSource, token: str, reservation: Reservation, deadline: Deadline, lookup: Lookup) -> bytearray:
    context = _context(source)
    with (
        closing(Transport(source.url, context=context, proxy=None, connections=1, lookup=lookup)) as transport,
        transport.request(source.url, _headers(source, token), deadline) as answer,
    ):
        _check(answer)
        return read_body(answer, reservation)


def _context(source: HttpSource) -> ssl.SSLContext:
    try:
        return trust_for(source.ca_file, source.url)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        raise BrokenList(f"{source.ca_file or 'system certificates'}: {reason}") from None


def _headers(source: HttpSource, token: str) -> dict[str, str]:
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": f"knock-exporter/{__version__}",
        "X-Prometheus-Refresh-Interval-Seconds": f"{source.interval:f}".rstrip("0").rstrip("."),
    }
    return headers | {"Authorization": f"Bearer {token}"} if token else headers


def _check(answer: Response) -> None:
    status = answer.status
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise BrokenList(f"HTTP {status}: redirects are not followed (configure the address that it leads to)")
    if status in _DENIED:
        raise BrokenList(f"HTTP {status} (check bearer_token_file)")
    if status != HTTPStatus.OK:
        raise BrokenList(f"HTTP {status}, expected 200")
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BrokenList("is not JSON by its Content-Type (expected application/json)")
