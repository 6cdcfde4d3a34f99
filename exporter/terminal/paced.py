"""Reads records from Knock one after the other, evenly, and patiently while Knock is out of reach."""

from __future__ import annotations

import random
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.errors import BadResponse, KeyRefused, KnockError, RateLimited, Reason
from exporter.tracking.pacing import RateLimiter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from exporter.operation import Operation

    Record = tuple[Operation, dict[str, Any]]

PATIENCE_SECONDS = 60.0  # without an answer of Knock
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0

_PASSING = frozenset({Reason.CONNECT, Reason.TIMEOUT, Reason.SERVER_ERROR, Reason.RATE_LIMITED})


@dataclass(frozen=True, slots=True)
class ReaderIO:
    """How a reader reaches the world: `fetch` asks Knock once, `warn` writes a line for people."""

    fetch: Callable[[str], Record]
    warn: Callable[[str], None]
    sleep: Callable[[float], object] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random


class PacedReader:
    """Reads records, at most `limit` a second."""

    def __init__(self, limit: float, outside: ReaderIO) -> None:
        self._limiter = RateLimiter(limit)
        self._outside = outside
        self._warned = False

    def read(self, operation_ids: Iterable[str]) -> Iterator[tuple[str, Record | KnockError]]:
        """Yield what Knock answers for each id; what may pass is asked again after all others. Raises KeyRefused."""
        waiting, monotonic = deque(operation_ids), self._outside.monotonic
        heard, pause = monotonic(), FIRST_PAUSE
        while waiting:
            operation_id = waiting.popleft()
            response = self._response(operation_id)
            if not _passes(response):
                heard, pause = monotonic(), FIRST_PAUSE
                yield operation_id, response
                continue
            if isinstance(response, RateLimited):
                heard = max(heard, self._limiter.next_start)  # waiting as Knock says does not use up the patience
            if monotonic() + pause > heard + PATIENCE_SECONDS:
                yield from ((each, response) for each in (operation_id, *waiting))
                return
            self._warn_once(f"{response}; trying again for up to {PATIENCE_SECONDS:g} s")
            waiting.append(operation_id)
            self._outside.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _response(self, operation_id: str) -> Record | KnockError:
        monotonic = self._outside.monotonic
        if (wait := self._limiter.next_start - monotonic()) > 0:
            self._outside.sleep(wait)
        sent = monotonic()
        self._limiter.start(sent)
        try:
            record = self._outside.fetch(operation_id)
        except KeyRefused:
            raise
        except RateLimited as error:
            self._limiter.limited(monotonic(), sent, error.retry_after, self._outside.chance())
            return error
        except KnockError as error:
            return error
        self._limiter.accepted(sent)
        return record

    def _warn_once(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self._outside.warn(text)


def _passes(response: Record | KnockError) -> bool:
    """Whether asking again may bring another answer."""
    ended = isinstance(response, BadResponse) and response.field == "body"  # it broke off
    return ended or (isinstance(response, KnockError) and response.reason in _PASSING)
