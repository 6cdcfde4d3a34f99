"""Which request gets which answer: Knock's calls under `/v1`, the simulator's own under `/_simulator`. No I/O.

Calls, names and the 1,000 items from Knock's API reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pydantic import ValidationError

from exporter.operation import Invalid, decode
from exporter.simulator import faults as kinds
from exporter.simulator import replies
from exporter.simulator.plan import Order

if TYPE_CHECKING:
    from exporter.keys import Secret
    from exporter.simulator.limits import EndpointLimits
    from exporter.simulator.replies import Reply
    from exporter.simulator.world import World

MAX_ITEMS = 1000
_BULK = "/v1/bulk_operations/"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; `at` is the monotonic time of its arrival, `path` is without the query."""

    method: str
    path: str
    at: float
    authorization: str | None = field(default=None, repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def operation_id(self) -> str | None:
        """The id that a read asks for, None for any other request."""
        return unquote(self.path.removeprefix(_BULK)) if self.reads else None

    @property
    def reads(self) -> bool:
        """Whether it asks for one bulk operation."""
        return self.method == "GET" and self.path.startswith(_BULK) and "/" not in self.path.removeprefix(_BULK)


@dataclass(frozen=True, slots=True)
class SimulatedResponse:
    """What to send: after `latency` seconds the reply, in the way that `fault` spoils it; no reply: nothing."""

    reply: Reply | None
    latency: float = 0.0
    fault: kinds.Sending | kinds.Silent | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """A create call: where its items are, and which key of an item identifies it (None: the item is the id)."""

    path: re.Pattern[str]
    name: str
    items: str
    key: str | None = None
    needs: str | None = None


_CALLS = (
    _Call(re.compile("/v1/users/bulk/identify"), "users.identify", "users", key="id"),
    _Call(re.compile("/v1/users/bulk/preferences"), "users.set_preferences", "user_ids", needs="preferences"),
    _Call(re.compile("/v1/users/bulk/delete"), "users.delete", "user_ids"),
    _Call(re.compile("/v1/objects/([^/]+)/bulk/set"), "objects.{}.set", "objects", key="id"),
    _Call(re.compile("/v1/objects/([^/]+)/bulk/delete"), "objects.{}.delete", "object_ids"),
    _Call(re.compile("/v1/schedules/bulk/create"), "schedules.create_schedules", "schedules", key="recipient"),
)


class _Refused(Exception):
    """A body that cannot be used; carries the answer."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        super().__init__()


class Api:
    """Answers requests out of a world; not for two threads at once."""

    def __init__(self, world: World, limits: EndpointLimits, faults: kinds.Faults, key: Secret | None) -> None:
        self._world = world
        self._limits = limits
        self._faults = faults
        self._bearer = f"bearer {key.reveal()}" if key else None

    def respond(self, request: Request) -> SimulatedResponse:
        """Decide what a request gets."""
        try:
            if is_own(request.path):
                return SimulatedResponse(self._own(request))
            latency, fault = self._faults.pick(request.method, request.operation_id)
            if isinstance(fault, kinds.Silent):
                return SimulatedResponse(None, latency, fault)
            if isinstance(fault, kinds.Answering):
                return SimulatedResponse(self._faulty(fault), latency)
            # pick adds latencies up and never returns one as the other fault.
            spoiled = fault if isinstance(fault, kinds.Sending) else None
            return SimulatedResponse(self._knock(request), latency, spoiled)
        except _Refused as refused:
            return SimulatedResponse(refused.reply)

    def _faulty(self, fault: kinds.Answering) -> Reply:
        return fault.reply(self._world.clock.wall()) if isinstance(fault, kinds.RateLimit) else fault.reply()

    def _knock(self, request: Request) -> Reply:
        refused = self._check_key(request.authorization)
        if refused:
            return refused
        if request.operation_id is not None:
            return self._read(request, request.operation_id)
        for call in _CALLS:
            match = call.path.fullmatch(request.path)
            if match and request.method == "POST":
                return self._create(call, unquote("".join(match.groups())) or None, request)
        return replies.error(404)

    def _check_key(self, authorization: str | None) -> Reply | None:
        if not authorization:
            return replies.error(401, code="api_key_missing", message="An API key is required")
        scheme, _, key = authorization.partition(" ")
        bearer = f"{scheme.lower()} {key.strip()}"
        fits = bearer == self._bearer if self._bearer else re.fullmatch(r"bearer sk_\S+", bearer)
        return None if fits else replies.error(401)

    def _read(self, request: Request, operation_id: str) -> Reply:
        if not self._limits.take("read", request.at, reads=True):
            return replies.error(429)
        # What Knock answers to an id that is not a valid UUID is not known.
        found = self._world.read(operation_id) if operation_id else None
        return replies.error(404) if found is None else replies.ok(found)

    def _create(self, call: _Call, collection: str | None, request: Request) -> Reply:
        if not self._limits.take(call.name, request.at, reads=False):
            return replies.error(429)
        ids = [_identity(item, call.key) for item in _items(call, _json(request.body))]
        order = Order(name=call.name.format(collection), rows=len(ids))
        return replies.ok(self._world.read(self._world.start(order, ids, collection)))

    def _own(self, request: Request) -> Reply:
        routes = {
            ("GET", "/_simulator/faults"): lambda _: replies.ok(self._faults.describe()),
            ("PUT", "/_simulator/faults"): self._set_faults,
            ("DELETE", "/_simulator/faults"): lambda _: self._set_faults(b"[]"),
            ("GET", "/_simulator/operations"): lambda _: replies.ok({"ids": self._world.ids()}),
            ("POST", "/_simulator/operations"): self._order,
        }
        route = routes.get((request.method, request.path))
        try:
            return route(request.body) if route else replies.error(404)
        except ValidationError as problems:
            return replies.invalid_model(problems)

    def _set_faults(self, body: bytes) -> Reply:
        self._faults.set(*kinds.parse(_json(body)))
        return replies.ok(self._faults.describe())

    def _order(self, body: bytes) -> Reply:
        order = Order.model_validate(_json(body or b"{}"))
        return replies.ok(self._world.read(self._world.start(order)))


def is_own(path: str) -> bool:
    """Whether a path is the simulator's own, not Knock's."""
    return path.startswith("/_simulator/")


def _json(body: bytes) -> Any:
    try:
        return decode(body)
    except Invalid as problem:
        raise _Refused(replies.error(400, message=f"The body is {problem}")) from None


def _items(call: _Call, document: Any) -> list[Any]:
    if not isinstance(document, dict):
        raise _Refused(replies.invalid("body", "must be an object", "type"))
    if call.needs and not isinstance(document.get(call.needs), dict):
        raise _Refused(replies.invalid(call.needs, "must be an object", "type"))
    items = document.get(call.items)
    if not isinstance(items, list):
        raise _Refused(replies.invalid(call.items, "must be a list", "type"))
    if len(items) > MAX_ITEMS:
        raise _Refused(replies.invalid(call.items, f"must have {MAX_ITEMS} items at most", "length"))
    return items


def _identity(item: Any, key: str | None) -> str | None:
    found = item if key is None else item.get(key) if isinstance(item, dict) else None
    if key is not None and isinstance(found, dict):  # a recipient given inline
        found = found.get("id")
    return found if isinstance(found, str) and found else None
