"""Asks Knock how one bulk operation stands: an Operation, or the KnockError that says what to do next.

`GET /v1/bulk_operations/{id}` (Knock's API reference). One request is one exchange with one deadline: no retries, no
redirects, no cookies, no netrc, and the key goes to the configured host only.
"""

from __future__ import annotations

import os
import re
import socket
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

import requests
from requests.utils import get_environ_proxies, select_proxy

from exporter import __version__
from exporter.errors import BadResponse, KeyRefused, KnockError, NotFound, RateLimited, Refused, StartError, TooLarge
from exporter.keys import InvalidKey, Masking
from exporter.knock.deadline import Deadline
from exporter.knock.failures import about, failure, read_body
from exporter.knock.memory_budget import MemoryBudget
from exporter.knock.reading import read_operation
from exporter.knock.transport import Transport
from exporter.knock.trust import trust, trust_for
from exporter.operation import NIL_ID, Invalid, decode, parse_operation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from exporter.config import EnvironmentSettings
    from exporter.keys import Secret
    from exporter.knock.deadline import Lookup
    from exporter.knock.memory_budget import Reservation
    from exporter.knock.response import Response
    from exporter.operation import Operation
    from exporter.send_window import Slot

    _Read = TypeVar("_Read")

MAX_RETRY_AFTER = 300.0  # seconds; a longer wait is not obeyed

_PATH = "/v1/bulk_operations/"
_USER_AGENT = f"knock-exporter/{__version__} python-requests/{requests.__version__}"
_BAD_TOKEN = frozenset({"bearer_token_invalid", "api_key_missing", "api_key_expired"})
_CODE = re.compile(r"[a-z0-9_]{1,64}")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


class ProbeResult(NamedTuple):
    """What an answer shows that names no operation.

    `error` is NotFound in the best case, with `accepted_key`. `clock_difference` is this machine's clock less Knock's,
    in seconds; None where the answer has no `Date` (RFC 9110, 6.6.1).
    """

    error: KnockError | None
    seconds: float
    clock_difference: float | None


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a request carries, and what masks the secrets of it in the answer."""

    headers: Mapping[str, str] = field(repr=False)
    masking: Masking


class Client:
    """Asks one environment of Knock; thread-safe.

    `timeout` is seconds for the whole exchange. `ca_file` replaces the system's authorities. `proxy` is an http or
    https URL; `proxy_from_environment` takes it from the usual variables instead, NO_PROXY included, once. At most
    `connections` are open. Large answers are reserved in `budget`, as those of `owner`. Raises StartError for a URL,
    proxy or CA file that cannot be used.
    """

    def __init__(  # noqa: PLR0913  one parameter for each setting, by name
        self,
        *,
        base_url: str,
        key: Secret,
        branch: str | None = None,
        timeout: float = 10.0,
        ca_file: Path | None = None,
        proxy: Secret | None = None,
        proxy_from_environment: bool = False,
        connections: int = 4,
        budget: MemoryBudget | None = None,
        owner: str = "",
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        lookup: Lookup = socket.getaddrinfo,
    ) -> None:
        self._base_url = _normal(base_url)
        self._branch = branch
        self._timeout = timeout
        self._wall = wall
        self._monotonic = monotonic
        self._budget = budget or MemoryBudget()
        self._owner = owner
        address, origin = proxy.reveal() if proxy else None, "proxy"
        if proxy_from_environment:
            address, origin = _environments_proxy(self._base_url)
        try:
            # A file that was named has to be good, whatever the address.
            context = trust_for(None, self._base_url, address) if ca_file is None else trust(ca_file)
        except (OSError, ValueError) as error:
            raise StartError(f"{ca_file or 'system certificates'}: {_why(error)}") from None
        try:
            self._transport = Transport(
                self._base_url,
                context=context,
                proxy=address,
                connections=connections,
                lookup=lookup,
                monotonic=monotonic,
            )
        except (OSError, ValueError):
            raise StartError(f"{origin}: not an http or https URL") from None
        self.use_key(key)

    def __repr__(self) -> str:
        return f"Client({self._base_url})"

    def use_key(self, key: Secret) -> None:
        """Send this key from now on; requests on their way keep the old one."""
        headers = {
            "Authorization": f"Bearer {key.reveal()}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": _USER_AGENT,
        }
        if self._branch is not None:
            headers["X-Knock-Branch"] = self._branch
        self._sent = _Sent(MappingProxyType(headers), Masking(key.reveal(), *self._transport.proxy_secrets))

    def fetch(self, operation_id: str, slot: Slot | None = None) -> Operation:
        """Ask for one operation, within the timeout; raises a KnockError and nothing else.

        The request is sent when `slot` is free (None: at once); waiting for it does not count for the timeout.
        """
        return self._fetched(operation_id, read_operation, slot)

    def fetch_record(self, operation_id: str) -> tuple[Operation, dict[str, Any]]:
        """Ask like `fetch`; return also the record as Knock wrote it, failed items (personal data) included."""
        return self._fetched(operation_id, _read_record)

    def probe(self) -> ProbeResult:
        """Ask for an operation that cannot exist, which changes nothing; raises nothing."""
        sent, began, date = self._sent, self._monotonic(), None
        url = f"{self._base_url}{_PATH}{NIL_ID}"
        error: KnockError | None = None
        try:
            with self._transport.request(url, sent.headers, Deadline(self._timeout)) as answer:
                date = _date(answer.headers.get("date", ""))
                if answer.status != HTTPStatus.OK:
                    error = _refusal(answer, self._wall)
        except KnockError as ours:
            error = ours
        except Exception as foreign:  # noqa: BLE001  as in `_outcome`
            error = failure(foreign)
        if error is not None:
            error = _clean(error, sent.masking)
        difference = None if date is None else self._wall() - date
        return ProbeResult(error, self._monotonic() - began, difference)

    def close(self) -> None:
        """Close idle connections; fetches on their way end by themselves."""
        self._transport.close()

    def _fetched(self, operation_id: str, read: Callable[[bytearray, str], _Read], slot: Slot | None = None) -> _Read:
        outcome = self._outcome(operation_id, read, slot)
        if isinstance(outcome, KnockError):
            raise outcome
        return outcome

    def _outcome(
        self, operation_id: str, read: Callable[[bytearray, str], _Read], slot: Slot | None
    ) -> _Read | KnockError:
        sent = self._sent  # read once: the key may be replaced meanwhile
        try:
            with self._budget.reservation(self._owner, operation_id) as reservation:
                return self._request(operation_id, sent, reservation, read, slot)
        except KnockError as ours:
            error = ours
        except Exception as foreign:  # noqa: BLE001  urllib3 and http.client raise more than they document
            error = failure(foreign)
        return _clean(error, sent.masking)

    def _request(
        self,
        operation_id: str,
        sent: _Sent,
        reservation: Reservation,
        read: Callable[[bytearray, str], _Read],
        slot: Slot | None,
    ) -> _Read:
        url = self._base_url + _PATH + quote(operation_id, safe="")
        with self._transport.request(url, sent.headers, Deadline(self._timeout, slot)) as answer:
            if answer.status != HTTPStatus.OK:
                raise _refusal(answer, self._wall)
            body = read_body(answer, reservation)
        with reservation.decoding():
            return _record(answer, sent.masking.json(body), operation_id, read)


def _normal(base_url: str) -> str:
    request = requests.PreparedRequest()
    try:
        request.prepare_url(base_url, None)  # host names in IDNA, paths quoted
    except (OSError, ValueError):
        raise StartError("base URL: not an http or https URL") from None
    if not str(request.url).lower().startswith(("http://", "https://")):  # prepare_url lets other schemes pass
        raise StartError("base URL: not an http or https URL")
    return str(request.url).rstrip("/")


def _environments_proxy(base_url: str) -> tuple[str | None, str]:
    """Return the proxy that the usual variables name for an address, and the variable that does."""
    address = select_proxy(base_url, get_environ_proxies(base_url))
    own, for_all = f"{base_url.partition(':')[0].lower()}_proxy", "all_proxy"
    names = [name for name in os.environ if name.lower() in (own, for_all) and os.environ[name] == address]
    return address, min(names, key=lambda name: name.lower() == for_all, default="proxy")


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__


def _clean(error: KnockError, masking: Masking) -> KnockError:
    """Take off all that leads back to the headers, and what the server sent back to us of them."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    error.args = tuple(masking.text(str(each)) for each in error.args)
    if error.request_id is not None:
        error.request_id = masking.text(error.request_id)
    return error


def _read_record(body: bytearray, operation_id: str) -> tuple[Operation, dict[str, Any]]:
    document = decode(body)
    return parse_operation(document, operation_id), document


def _record(answer: Response, body: bytearray, operation_id: str, read: Callable[[bytearray, str], _Read]) -> _Read:
    try:
        return read(body, operation_id)
    except Invalid as invalid:
        accepted = invalid.field != "body"  # an object: so Knock answers who has the right key
        raise BadResponse(invalid.field, str(invalid), accepted_key=accepted, **about(answer)) from None


def _refusal(answer: Response, wall: Callable[[], float]) -> KnockError:
    """Say what an answer other than 200 means. Raises what makes the body unreadable where the meaning is in it."""
    status, known = answer.status, about(answer)
    if not HTTPStatus.BAD_REQUEST <= status < 600:  # noqa: PLR2004  statuses end there (RFC 9110, 15)
        return BadResponse("status", f"HTTP {status}, expected 200", **known)
    document = _error_document(answer)
    text = _text(status, document)
    if status == HTTPStatus.UNAUTHORIZED or _refuses_key(status, document):
        return KeyRefused(text, **known)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimited(text, retry_after=retry_after(answer.headers, wall()), request_id=known["request_id"])
    if status == HTTPStatus.NOT_FOUND:
        if document is None:
            return BadResponse("status", f"{text}, but not from Knock's API", **known)
        return NotFound(text, accepted_key=True, **known)
    accepted = document is not None and status == HTTPStatus.UNPROCESSABLE_ENTITY
    return Refused(text, accepted_key=accepted, **known)


def _error_document(answer: Response) -> dict[str, Any] | None:
    """Read Knock's own error, if it is one: an object with `code` and `type`, and no other status in it."""
    try:
        document = decode(read_body(answer))
    except (Invalid, TooLarge):
        return None  # Knock's own are short
    except KnockError:
        if answer.status == HTTPStatus.NOT_FOUND:
            raise
        return None  # the status says enough: a 429 whose body hangs is a 429
    if not isinstance(document, dict) or document.get("status", answer.status) != answer.status:
        return None
    return document if isinstance(document.get("code"), str) and isinstance(document.get("type"), str) else None


def _refuses_key(status: int, document: dict[str, Any] | None) -> bool:
    if document is None:
        return False
    if status == HTTPStatus.FORBIDDEN:
        return bool(document["type"] == "authentication_error")
    return status == HTTPStatus.BAD_REQUEST and document["code"] in _BAD_TOKEN


def _text(status: int, document: dict[str, Any] | None) -> str:
    code = document["code"] if document else ""
    return f"HTTP {status} {code}" if _CODE.fullmatch(code) else f"HTTP {status}"


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Return the seconds to wait, 0 to MAX_RETRY_AFTER: `retry-after-ms`, else `Retry-After` (RFC 9110, 10.2.3).

    None where neither is there or makes sense. `headers` are by lower-case name; `wall` is the time now, in Unix
    seconds, for a date.
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        return min(float(milliseconds) / 1000, MAX_RETRY_AFTER)
    text = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(text):
        return min(float(text), MAX_RETRY_AFTER)
    date = _date(text)
    return None if date is None else min(max(date - wall, 0.0), MAX_RETRY_AFTER)


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def read_key(environment: EnvironmentSettings, environ: Mapping[str, str]) -> Secret:
    """Read an environment's key. Raises StartError."""
    try:
        return environment.key.read(environ)
    except InvalidKey as error:
        raise StartError(f"API key of {environment.name}: {error}") from None


def connect(environment: EnvironmentSettings, key: Secret, budget: MemoryBudget | None = None) -> Client:
    """Make the client of an environment; large answers are reserved in `budget`.

    Raises StartError for what cannot be used on this machine.
    """
    return Client(
        base_url=environment.base_url,
        key=key,
        branch=environment.branch,
        timeout=environment.timeout,
        ca_file=environment.ca_file,
        proxy=environment.proxy,
        proxy_from_environment=environment.proxy_from_environment,
        connections=environment.max_in_flight,
        budget=budget,
        owner=environment.name,
    )
