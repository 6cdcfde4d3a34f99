"""Registration by programs: POST hands operations over, DELETE drops one, PUT opens a run or says more of it.

A client without a good token learns nothing but that; nothing here waits for anything but the tracker's reply.
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from exporter.registrations import MAX_BODY_BYTES, Batch, InvalidRequest, read_batch, read_query
from exporter.run_changes import read_run_changes
from exporter.tracking.facts import source_name
from exporter.tracking.group_facts import group_facts
from exporter.tracking.memberships import SourceKind
from exporter.tracking.messages import PutRun, Register, RegistrationResult, Release, ReleaseResult, RunResult
from exporter.values import InvalidValue, check_label_value, check_operation_id, check_run_id, quoted
from exporter.web import shapes
from exporter.web.replies import Refusal, reply_of, unknown_environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from exporter.config import Config
    from exporter.metrics.exposition import View
    from exporter.metrics.own import Activity
    from exporter.registrations import RegistrationItem, RejectedItem
    from exporter.tokens import Grant, Tokens
    from exporter.tracking.memberships import SourceKey
    from exporter.tracking.transitions import Moment

OPERATIONS_PATH = "/api/v1/operations"
ONE_ENVIRONMENT_PATH = OPERATIONS_PATH + "/{environment}"
GROUPS_PATH = "/api/v1/groups"
RUN_PATH = GROUPS_PATH + "/{environment}/{group:path}/runs/{run}"
RATE = 20  # POSTs, PUTs and DELETEs a second, of each token
REPLY_SECONDS = 5.0
BODY_SECONDS = 10.0
LARGE_BODY = 64 * 1024  # bytes; reading more takes long enough to be noticed by a scrape
LIMIT_RETRY_SECONDS = 30

_TEXT, _JSON = "text/plain", "application/json"
# What curl says of `-d` where nobody says more. No browser's form can reach these calls: it sends no bearer token.
_ANY = frozenset({_TEXT, "application/x-www-form-urlencoded", ""})
_CONTENT_TYPE = re.compile(r'\s*([\w./+-]+)\s*(?:;\s*charset\s*=\s*"?(?:utf-?8|us-ascii)"?\s*)?;?\s*', re.IGNORECASE)
_NO_ROOM = "no room: max_operations is reached, and none of the operations can be dropped (try again later)"
_LISTED_BY = {
    SourceKind.CONFIG: "the configuration lists it",
    SourceKind.FILES: "a file lists it",
    SourceKind.HTTP: "an HTTP source lists it",
    SourceKind.API: "a registration names it",
}


@dataclass(frozen=True, slots=True)
class RegistrationService:
    """Where programs register: looks at what is active, and the way into the tracker's inbox; none of it blocks."""

    deliver: Callable[[Register | Release | PutRun], None]
    config: Callable[[], Config]
    tokens: Callable[[], Tokens]
    ending: Callable[[], bool]
    activity: Activity
    monotonic: Callable[[], float]
    reply_seconds: float = REPLY_SECONDS


class RegistrationEndpoints:
    """The calls of the registration API. Lives in the event loop's thread."""

    def __init__(self, service: RegistrationService, view: Callable[[], View], now: Callable[[], Moment]) -> None:
        self._service = service
        self._view, self._now = view, now
        self._recent: dict[
            bytes, tuple[float, float]
        ] = {}  # by token: requests that its rate limit has not forgotten, and as of when
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="register")

    # Who may.

    def _admit(self, request: Request) -> str:
        """Return the environment that the request may register for. Raises Refusal."""
        tokens, environment = self._service.tokens(), str(request.path_params["environment"])
        if not tokens:
            raise Refusal(
                HTTPStatus.NOT_FOUND, "registration is off: the configuration has no tokens (registration.tokens)"
            )
        self._check_open()
        known = self._names()
        grant = _grant(request, tokens)
        if grant is None:
            raise _unauthorized(request)
        self._check_rate(grant)
        if environment not in known:
            raise unknown_environment(environment, [each for each in known if grant.allows(each)])
        if not grant.allows(environment):
            raise Refusal(HTTPStatus.FORBIDDEN, f"the token is not good for {quoted(environment)}", reason="token")
        return environment

    def _names(self) -> list[str]:
        return [each.name for each in self._service.config().environments]

    def _check_open(self) -> None:
        if self._service.ending():
            raise _try_again("the exporter is ending", 1)

    def _check_rate(self, grant: Grant) -> None:
        """Raise Refusal past RATE requests a second, or as many at once after a quiet second."""
        now = self._service.monotonic()
        debt, since = self._recent.get(grant.token, (0.0, now))
        debt = max(0.0, debt - (now - since) * RATE)
        allowed = debt <= RATE - 1
        self._recent[grant.token] = debt + allowed, now
        if not allowed:
            often = f"more than {RATE} requests a second with one token"
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, often, {"Retry-After": "1"}, "rate")

    # POST.

    async def register(self, request: Request) -> Response:
        """Take operations in. Raises Refusal."""
        environment = self._admit(request)
        text = _is_text(request)
        body = await _body(request)
        batch = await self._read(request, body, text=text)
        if batch.rejected:
            self._service.activity.refuse(environment, "invalid", len(batch.rejected))
        rejected = [_rejected(each) for each in batch.rejected]
        if not batch.named:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "nothing could be accepted", accepted=[], rejected=rejected)
        self._check_open()
        registered = await self._hand_over(environment, batch.named)
        states = {each.id: each.state for each in registered.taken}
        accepted = [{"id": each.id, "state": states[each.id]} for each in batch.named if states.get(each.id)]
        rejected += [{"id": each.id, "reason": _NO_ROOM} for each in batch.named if not states.get(each.id)]
        if not accepted:
            raise _try_again("nothing could be accepted", LIMIT_RETRY_SECONDS, accepted=[], rejected=rejected)
        return JSONResponse({"accepted": accepted, "rejected": rejected, "durable": registered.durable})

    async def _read(self, request: Request, body: bytes, *, text: bool) -> Batch:
        declared = self._service.config().labels
        try:
            defaults = read_query(request.query_params.multi_items(), declared)
            read = partial(read_batch, body, defaults, declared, text=text)
            if len(body) <= LARGE_BODY:
                return read()
            return await asyncio.get_running_loop().run_in_executor(self._reader, read)
        except InvalidRequest as error:
            too_large = error.status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            raise Refusal(error.status, str(error), reason="too_large" if too_large else None) from None

    async def _hand_over(self, environment: str, named: tuple[RegistrationItem, ...]) -> RegistrationResult:
        parts = [
            self._requested(partial(Register, environment, operations, again))
            for again in (False, True)
            if (operations := tuple(each.registration() for each in named if bool(each.again) is again))
        ]
        answers = await asyncio.gather(*parts)
        _check_saved(saved=all(each.saved for each in answers))
        taken = tuple(each for answer in answers for each in answer.taken)
        return RegistrationResult(taken, durable=all(each.durable for each in answers))

    # DELETE.

    async def release(self, request: Request) -> Response:
        """Drop one. Raises Refusal."""
        environment = self._admit(request)
        try:
            operation_id = check_operation_id(request.path_params["id"])
        except InvalidValue as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"id: {error}") from None
        released: ReleaseResult = await self._requested(partial(Release, environment, operation_id))
        if not released.known:
            raise Refusal(HTTPStatus.NOT_FOUND, f"no operation {operation_id} is known in {quoted(environment)}")
        if released.listed_by:
            reasons = "; ".join(map(_lister, released.listed_by))
            raise Refusal(HTTPStatus.CONFLICT, f"cannot drop {operation_id}: {reasons}")
        _check_saved(saved=released.saved)
        return JSONResponse({"id": operation_id, "released": True, "durable": released.durable})

    # PUT.

    async def put_run(self, request: Request) -> Response:
        """Open a run, or take in what is said of it; answer with its group. Raises Refusal."""
        environment = self._admit(request)
        group, run = _checked(request, "group", check_label_value), _checked(request, "run", check_run_id)
        body = await _body(request)
        try:
            changes = read_run_changes(body)
        except InvalidValue as error:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        done: RunResult = await self._requested(partial(PutRun, environment, group, run, changes))
        if not done.known:
            raise unknown_environment(environment, self._names())
        if not done.admitted:
            many = "it would be shown as `other`: there are too many groups (declare it under the environment's groups)"
            raise Refusal(HTTPStatus.CONFLICT, f"no run of the group {quoted(group)}: {many}")
        if done.current is not None:
            raise Refusal(
                HTTPStatus.CONFLICT, f"the run {run} is past: the current run of {quoted(group)} is {done.current}"
            )
        _check_saved(saved=done.saved)
        found = group_facts(self._view().snapshot, self._now(), environment, group)
        if not found:  # taken out of the configuration at this moment
            raise unknown_environment(environment, self._names())
        return JSONResponse(shapes.group(found[0]) | {"durable": done.durable})

    async def _requested(self, message: Callable[[Callable[[Any], None]], Register | Release | PutRun]) -> Any:
        seconds = self._service.reply_seconds
        answer: RegistrationResult | ReleaseResult | RunResult | None = await reply_of(
            lambda reply: self._service.deliver(message(reply)), seconds
        )
        if answer is None:
            raise _try_again(f"no answer in {seconds:g} s; it may have been done (asking again does no harm)", 1)
        return answer


def _try_again(detail: str, seconds: int, **more: Any) -> Refusal:
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": str(seconds)}, **more)


def _check_saved(*, saved: bool) -> None:
    if not saved:
        raise _try_again("the state was not written in time, try again (a failure is in the exporter's log)", 1)


def _grant(request: Request, tokens: Tokens) -> Grant | None:
    headers = request.headers.getlist("authorization")
    return tokens.find(headers[0] if len(headers) == 1 else "")


def _unauthorized(request: Request) -> Refusal:
    headers = request.headers.getlist("authorization")
    if len(headers) == 1 and headers[0].lower().startswith("bearer "):
        wrong = "the token is not one of this exporter's (it is wrong, or was replaced)"
        return Refusal(
            HTTPStatus.UNAUTHORIZED, wrong, {"WWW-Authenticate": 'Bearer error="invalid_token"'}, "token"
        )  # RFC 6750
    missing = "expected an Authorization header with a token of this exporter (Bearer …)"
    return Refusal(HTTPStatus.UNAUTHORIZED, missing, {"WWW-Authenticate": "Bearer"}, "token")


def _checked(request: Request, name: str, check: Callable[[str], str]) -> str:
    try:
        return check(request.path_params[name])
    except InvalidValue as error:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name}: {error}") from None


def _is_text(request: Request) -> bool:
    given = request.headers.get("content-type", "").strip()
    match = _CONTENT_TYPE.fullmatch(given)
    kind = match[1].lower() if match else given
    if (kind != _JSON and kind not in _ANY) or request.headers.get(
        "content-encoding", "identity"
    ).lower() != "identity":
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"expected Content-Type: {_JSON} or {_TEXT} (ids, one a line), in UTF-8 and not compressed",
        )
    return kind in _ANY


async def _body(request: Request) -> bytes:
    """Read a body. Raises Refusal as soon as it is too large or too slow."""
    # Not Starlette's max_body_size: with such a Content-Length it puts its own 413 in place of any answer, a 401 too.
    length, body = request.headers.get("content-length", ""), bytearray()
    if length.isdecimal() and int(length[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise _too_large()
    except TimeoutError:
        late = f"the body took longer than {BODY_SECONDS:g} s"
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, late, reason="timeout") from None
    return bytes(body)


def _too_large() -> Refusal:
    large = f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB"
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, large, reason="too_large")


def _rejected(each: RejectedItem) -> dict[str, Any]:
    known = {"item": each.item} if each.id is None else {"item": each.item, "id": each.id}
    return known | {"reason": each.reason}


def _lister(source: SourceKey) -> str:
    name = source_name(source)
    return f"{_LISTED_BY[source.kind]}: {name}" if name else _LISTED_BY[source.kind]
