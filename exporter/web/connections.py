"""Connections as values: how far each is, how long it may take, and which one must go when there is no room.

Times are seconds on the event loop's clock.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from starlette.types import Scope

HELD_SECONDS = 0.25  # an answer that its reader has held up for so long gives way to others
EXTENSION = "connection"  # its name in a scope's extensions
DESCRIPTORS_SHARE = 2  # connections get one of so many file descriptors: Knock and the state need some as well


class Phase(Enum):
    """What a connection is waited for to do."""

    HANDSHAKE = "TLS handshake"
    HEAD = "head of a request"
    BODY = "body of a request"
    ANSWER = "taking an answer"
    IDLE = "next request"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections there may be, in all and from one address, and how many seconds each may take for what."""

    connections: int = 256
    per_address: int = 192
    handshake: float = 5.0
    head: float = 10.0  # from its first byte, or from the connection's start
    request: float = 15.0  # head and body
    response: float = 60.0
    stall: float = 20.0  # an answer of which nothing at all is taken
    idle: float = 75.0
    young: float = 1.0  # so long a connection without a request is not taken for one that will never send any
    head_bytes: int = 16 * 1024

    def within(self, descriptors: int) -> ConnectionLimits:
        """Return these limits for a process that may open so many files."""
        most = max(1, min(self.connections, descriptors // DESCRIPTORS_SHARE))
        return (
            ConnectionLimits(connections=most, per_address=min(self.per_address, most))
            if most < self.connections
            else self
        )

    def of(self, phase: Phase) -> float:
        """Return how long a phase may take, counted from `Connection.since`."""
        return {
            Phase.HANDSHAKE: self.handshake,
            Phase.HEAD: self.head,
            Phase.BODY: self.request,
            Phase.ANSWER: self.response,
            Phase.IDLE: self.idle,
        }[phase]


def nothing() -> None:
    """Stand for what nobody has asked for."""


@dataclass(slots=True, eq=False)
class Connection:
    """A connection from accept to close; in every scope as `scope["extensions"]["connection"]`.

    `trusted`: it has shown a client certificate that was verified, or a password that was right. What finds the
    password right sets it; it stays for the connection's life.
    """

    address: str = ""
    phase: Phase = Phase.HANDSHAKE
    since: float = 0.0  # when what it is waited for began; for a body: when its head began
    trusted: bool = False
    plain: bool = False  # without TLS
    drop: Callable[[], None] = nothing  # closes it at once, without sending what is left
    on_lost: Callable[[], None] = nothing  # called when it has ended
    held_before: float = field(default=0.0, repr=False)  # of this answer, without the present stall
    stalled_since: float | None = None
    proven: bool = False  # it has taken a large answer without holding it up

    def enter(self, phase: Phase, now: float) -> None:
        """Begin a phase."""
        self.phase, self.since, self.held_before = phase, now, 0.0

    def stall(self, now: float) -> None:
        """Note that its reader takes no more."""
        if self.stalled_since is None:
            self.stalled_since = now

    def flow(self, now: float) -> None:
        """Note that its reader has taken everything."""
        if self.stalled_since is not None:
            self.held_before += now - max(self.stalled_since, self.since)
            self.stalled_since = None

    def held(self, now: float) -> float:
        """Return how long its answer has been held up by its reader so far, in seconds.

        Many short stalls count like one long one: who reads just enough to move is slow too.
        """
        if self.phase is not Phase.ANSWER:
            return 0.0
        return self.held_before + (now - max(self.stalled_since, self.since) if self.stalled_since is not None else 0.0)


def connection_of(scope: Scope) -> Connection:
    """Return the connection of a scope; one that nothing is known of where another server made the scope."""
    found = scope.get("extensions", {}).get(EXTENSION)
    return found if isinstance(found, Connection) else Connection()


def party(host: str) -> str:
    """Return whom an IP address stands for: IPv6 networks of /64 are one, as they are given to one customer."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.IPv6Network((address.packed, 64), strict=False))


def overdue(connection: Connection, now: float, limits: ConnectionLimits) -> bool:
    """Tell whether a connection has had its time."""
    stalled = connection.stalled_since is not None and now - connection.stalled_since >= limits.stall
    return stalled or now - connection.since >= limits.of(connection.phase)


def expendable(group: Iterable[Connection], now: float, young: float) -> Connection | None:
    """Choose who of a group has to go for a newcomer that is already in it; None: nobody may be dropped.

    - First who has waited for long without sending a request.
    - A flood of connections must not cut answers, and a flood of requests must not close young connections before
      their request is read: the larger half gives one of its own, the oldest, or the answer its reader holds up most.
    - One that has proven to read goes after those that have not, unless it holds its answer up now.
    - A trusted connection goes after those that are not, and never while it is answered.
    """
    everybody = list(group)
    waiting = [each for each in everybody if each.phase is not Phase.ANSWER]
    answered = [each for each in everybody if each.phase is Phase.ANSWER and not each.trusted]
    oldest = min(waiting, key=lambda each: (each.trusted, each.proven, each.since), default=None)
    if oldest is not None and (now - oldest.since >= young or 2 * len(waiting) >= len(everybody)):
        return oldest
    return max(answered, key=lambda each: _hindrance(each, now), default=oldest)


def _hindrance(connection: Connection, now: float) -> tuple[bool, bool, float, float]:
    held = connection.held(now)
    return held >= HELD_SECONDS, not connection.proven, held, -connection.since


def expendable_of_all(by_party: Mapping[str, set[Connection]], now: float, young: float) -> Connection | None:
    """Choose who has to go of everybody: of those with most connections, and of those with less if nobody there may."""
    largest_first = sorted(by_party.values(), key=len, reverse=True)
    for _size, groups in groupby(largest_first, key=len):
        found = expendable((each for group in groups for each in group), now, young)
        if found is not None:
            return found
    return None
