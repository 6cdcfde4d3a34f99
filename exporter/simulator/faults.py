"""What can go wrong between Knock and its clients, on demand: pure, but for the counting down.

Each kind was met at some HTTP service; of Knock itself HTML from a load balancer was seen.
"""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from exporter.simulator import replies

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from exporter.simulator.replies import Reply

_HEADER = r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$"  # a line break would start another header

Seconds = Annotated[float, Field(ge=0, le=86_400)]
HeaderText = Annotated[str, Field(pattern=_HEADER, max_length=2000)]


class Fault(BaseModel):
    """What all faults have in common: which requests under `/v1` they hit.

    `share` of those that match, by seeded chance; `count` how many at most; `id` only reads of this operation; `method`
    only this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    share: float = Field(default=1.0, ge=0, le=1)
    count: int | None = Field(default=None, ge=1)
    id: str | None = None
    method: Literal["GET", "POST"] | None = None

    def hits(self, method: str, operation_id: str | None) -> bool:
        """Whether such a request can be hit at all."""
        if self.method not in (None, method):
            return False
        return self.id is None or (operation_id is not None and operation_id.lower() == self.id.lower())


class Latency(Fault):
    """Waits before answering; adds to other faults."""

    kind: Literal["latency"] = "latency"
    seconds: Seconds


class StatusFault(Fault):
    """Answers with a status, in Knock's JSON or as an HTML page; `code` replaces Knock's usual error code."""

    kind: Literal["status"] = "status"
    status: int = Field(ge=200, le=599)
    body: Literal["json", "html"] = "json"
    code: str | None = None

    def reply(self) -> Reply:
        """Write the answer."""
        return replies.page(self.status) if self.body == "html" else replies.error(self.status, code=self.code)


class RateLimit(Fault):
    """Answers 429 with the headers given, or with none.

    `retry_after` is sent as it is (a number of seconds, or any text), `retry_after_date` as the HTTP date so many
    seconds from now, `retry_after_ms` in the header that Knock's official clients look for.
    """

    kind: Literal["rate_limit"] = "rate_limit"
    retry_after: Seconds | HeaderText | None = None
    retry_after_date: Seconds | None = None
    retry_after_ms: float | HeaderText | None = None

    def reply(self, wall: float) -> Reply:
        """Write the answer at the wall-clock time `wall` (Unix seconds)."""
        date = None if self.retry_after_date is None else formatdate(wall + self.retry_after_date, usegmt=True)
        fields = (("Retry-After", self.retry_after), ("Retry-After", date), ("Retry-After-Ms", self.retry_after_ms))
        headers = tuple((name, _number(value)) for name, value in fields if value is not None)
        refusal = replies.error(429)
        return replies.Reply(refusal.status, refusal.body, headers=headers)


class Redirect(Fault):
    """Sends the client elsewhere."""

    kind: Literal["redirect"] = "redirect"
    location: HeaderText
    status: Literal[301, 302, 303, 307, 308] = 302

    def reply(self) -> Reply:
        """Write the answer."""
        return replies.Reply(self.status, headers=(("Location", self.location),))


class Garbage(Fault):
    """Answers 200 with what is not JSON, though it says so."""

    kind: Literal["garbage"] = "garbage"

    @staticmethod
    def reply() -> Reply:
        """Write the answer."""
        return replies.Reply(200, b"\x00\xff{not json")


class Truncated(Fault):
    """Announces the whole answer, sends half of the body and closes."""

    kind: Literal["truncated"] = "truncated"


class Oversized(Fault):
    """Pads the answer with so many MiB of blanks; `declared` false leaves its length unsaid."""

    kind: Literal["oversized"] = "oversized"
    mebibytes: int = Field(ge=1, le=1024)
    declared: bool = True


class TrickleHeaders(Fault):
    """Sends status line and headers a byte at a time, `seconds` apart."""

    kind: Literal["trickle_headers"] = "trickle_headers"
    seconds: Seconds


class TrickleBody(Fault):
    """Sends the headers at once and the body a byte at a time, `seconds` apart."""

    kind: Literal["trickle_body"] = "trickle_body"
    seconds: Seconds


class Drop(Fault):
    """Closes the connection without a byte."""

    kind: Literal["drop"] = "drop"


class Reset(Fault):
    """Resets the connection (TCP RST)."""

    kind: Literal["reset"] = "reset"


class Hang(Fault):
    """Never answers, until the client leaves or the simulator stops."""

    kind: Literal["hang"] = "hang"


Answering = StatusFault | RateLimit | Redirect | Garbage
Sending = Truncated | Oversized | TrickleHeaders | TrickleBody
Silent = Drop | Reset | Hang
AnyFault = Latency | Answering | Sending | Silent
_SPECS: TypeAdapter[list[AnyFault]] = TypeAdapter(list[Annotated[AnyFault, Field(discriminator="kind")]])


def parse(document: Any) -> list[AnyFault]:
    """Read one fault or a list of them from JSON; raises pydantic's ValidationError naming what is wrong."""
    return _SPECS.validate_python(document if isinstance(document, list) else [document])


class _Armed:
    """A fault and how many more requests it hits (None: any number)."""

    def __init__(self, fault: AnyFault) -> None:
        self.fault = fault
        self.left = fault.count

    def strikes(self, method: str, operation_id: str | None, chance: Random) -> bool:
        if self.left == 0 or not self.fault.hits(method, operation_id):
            return False
        return self.fault.share >= 1 or chance.random() < self.fault.share

    def spend(self) -> AnyFault:
        if self.left is not None:
            self.left -= 1
        return self.fault


class Faults:
    """The active faults; set from any thread, picked under the simulator's lock."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._armed: tuple[_Armed, ...] = ()

    def set(self, *faults: AnyFault) -> None:
        """Put these in place of all others; the order counts, see `pick`."""
        self._armed = tuple(_Armed(fault) for fault in faults)

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self.set()

    def pick(self, method: str, operation_id: str | None) -> tuple[float, AnyFault | None]:
        """Choose what a request meets: the sum of all latencies (seconds), and the first other fault that strikes."""
        latency, found = 0.0, None
        for armed in self._armed:
            late = isinstance(armed.fault, Latency)
            if (late or found is None) and armed.strikes(method, operation_id, self._chance):
                fault = armed.spend()
                latency, found = (latency + fault.seconds, found) if isinstance(fault, Latency) else (latency, fault)
        return latency, found

    def describe(self) -> Sequence[dict[str, Any]]:
        """List them as JSON, with `left` where they are counted."""
        return [
            armed.fault.model_dump(exclude_none=True) | ({} if armed.left is None else {"left": armed.left})
            for armed in self._armed
        ]


def _number(value: float | str) -> str:
    return str(int(value)) if isinstance(value, float | int) and value == int(value) else str(value)
