"""What a shell changes in a running exporter: runs of groups, and operations that it is to forget."""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from exporter.terminal.exporter_api import ApiError, Retrying
from exporter.tracking.pacing import RateLimiter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from exporter.terminal.exporter_api import Attempt

DELETES_A_SECOND = 15.0  # an exporter takes 20 requests a second with one token, those of others included

_OF_ONE = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT})  # others refuse all


class ExporterWrites:
    """Sends what changes something, patiently while the exporter restarts; raises ApiError where it is refused.

    `send` sends a request to a whole URL, with a method and a body: `Connection.send`.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - one for each way to the world
        self,
        url: str,
        environment: str,
        send: Callable[[str, str, bytes | None], Attempt],
        warn: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._environment = quote(environment, safe="")
        self._send, self._sleep, self._monotonic = send, sleep, monotonic
        self._patiently = Retrying(url, warn, sleep, monotonic)

    def run(self, group: str, run: str, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Open a run, or change what is known of it; return its group."""
        address = f"{self.url}/api/v1/groups/{self._environment}/{quote(group)}/runs/{quote(run, safe='')}"
        body = json.dumps(changes).encode()
        attempt = self._patiently(lambda: self._send(address, "PUT", body))
        if attempt.status != HTTPStatus.OK or not isinstance(attempt.document.get("state"), str):
            raise ApiError(self.url, attempt)
        return attempt.document

    def forget(self, operation_ids: Iterable[str]) -> Iterator[tuple[str, str | None]]:
        """Drop operations, evenly; yield each with None, or with why the exporter refuses that one."""
        limiter = RateLimiter(DELETES_A_SECOND)
        for operation_id in operation_ids:
            if (wait := limiter.next_start - self._monotonic()) > 0:
                self._sleep(wait)
            limiter.start(self._monotonic())
            attempt, repeated = self._deleted(operation_id)
            done = attempt.status == HTTPStatus.OK and attempt.document.get("released") is True
            refused = attempt.status in _OF_ONE and not attempt.foreign
            if done or (refused and repeated and attempt.status == HTTPStatus.NOT_FOUND):  # the first answer was lost
                yield operation_id, None
            elif refused:
                yield operation_id, attempt.problem
            else:
                raise ApiError(self.url, attempt)

    def _deleted(self, operation_id: str) -> tuple[Attempt, bool]:
        attempts: list[Attempt] = []

        def send() -> Attempt:
            address = f"{self.url}/api/v1/operations/{self._environment}/{operation_id}"
            attempts.append(self._send(address, "DELETE", None))
            return attempts[-1]

        return self._patiently(send), len(attempts) > 1
