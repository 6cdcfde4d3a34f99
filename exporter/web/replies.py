"""What routes share: problems told as RFC 9457 has it, and waiting for another thread's reply."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import JSONResponse

from exporter.values import quoted
from exporter.wording import first_few

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_Reply = TypeVar("_Reply")


class Refusal(Exception):
    """An answer other than the one hoped for; `more` are further members of the problem's body.

    `reason` is the one that it is counted under (of HTTP_REFUSALS); None: it is not counted.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        headers: dict[str, str] | None = None,
        reason: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.headers, self.reason = status, headers, reason
        self._detail, self._more = detail, more

    def response(self) -> JSONResponse:
        """Return it as problem details."""
        known = {"type": "about:blank", "title": self.status.phrase, "status": self.status, "detail": self._detail}
        return JSONResponse(known | self._more, self.status, self.headers, "application/problem+json")


def unknown_environment(name: str, known: Collection[str]) -> Refusal:
    """Refuse a request for an environment that is not configured; the answer names those that are."""
    has = first_few(known) or "none"
    return Refusal(HTTPStatus.NOT_FOUND, f"this exporter has no environment {quoted(name)} (it has: {has})")


async def reply_of(ask: Callable[[Callable[[_Reply], None]], None], seconds: float) -> _Reply | None:
    """Ask with a function that takes the reply, from any thread; return the reply, None if none came in time."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Reply] = loop.create_future()

    def settle(value: _Reply) -> None:
        if not future.done():
            future.set_result(value)

    def reply(value: _Reply) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it those who waited
            loop.call_soon_threadsafe(settle, value)

    ask(reply)
    try:
        return await asyncio.wait_for(future, seconds)
    except TimeoutError:
        return None
