"""Knock's rate limits as sliding windows: pure, time is an argument.

Tiers from Knock's API reference: 1 is one request a second, 4 is 200; they count per endpoint.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

TIER_1 = 1
TIER_4 = 200


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in so many real seconds."""

    requests: int
    seconds: float


class EndpointLimits:
    """Which requests are past the limit of their endpoint.

    A tier's second is a simulated one, so limits grow with `speed`. `rate_limits` False takes all requests; a number is
    the limit of reads, in requests per real second whatever the speed.
    """

    def __init__(self, rate_limits: bool | int, speed: float) -> None:  # noqa: FBT001 the switch of Simulator, named there
        self._on = rate_limits is not False
        self._create = Limit(TIER_1, 1 / speed)
        self._read = Limit(TIER_4, 1 / speed) if isinstance(rate_limits, bool) else Limit(rate_limits, 1.0)
        self._taken: dict[str, deque[float]] = {}

    def take(self, endpoint: str, now: float, *, reads: bool) -> bool:
        """Count a request at the monotonic time `now`; tell whether it is within the limit. Refused ones are free."""
        if not self._on:
            return True
        limit = self._read if reads else self._create
        taken = self._taken.setdefault(endpoint, deque())
        while taken and taken[0] <= now - limit.seconds:
            taken.popleft()
        if len(taken) >= limit.requests:
            return False
        taken.append(now)
        return True
