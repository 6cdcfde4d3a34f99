"""Requests that are refused: counted, and wrong passwords logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import Counter

LOG_SECONDS = 60.0

log = structlog.get_logger()


class Refusals:
    """Counts refusals by reason; of wrong passwords it logs one line a minute."""

    def __init__(self, counter: Counter, monotonic: Callable[[], float]) -> None:
        self._counter = counter
        self._monotonic = monotonic
        self._logged_at: float | None = None

    def note(self, reason: str, address: str) -> None:
        """Note one, and who asked."""
        self._counter.labels(reason).inc()
        now = self._monotonic()
        # Without the user: people type passwords there.
        if reason == "password" and (self._logged_at is None or now - self._logged_at >= LOG_SECONDS):
            self._logged_at = now
            log.warning("wrong user or password (logged once a minute)", address=address)
