"""What goes into the tracker's inbox, and what it asks of others: frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from exporter.operation import NIL_ID, Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.config import Config, ListedOperation
    from exporter.errors import KnockError
    from exporter.keys import Secret
    from exporter.metrics.exposition import View
    from exporter.send_window import SendWindow
    from exporter.tracking.memberships import SourceKey, SourceKind
    from exporter.tracking.memory import Changes
    from exporter.tracking.runs import RunChanges


@dataclass(frozen=True, slots=True)
class PollRequest:
    """One request to Knock; `sent_at` is monotonic, `probe` marks the only one let through an open circuit breaker.

    `window` is that of its upstream: whose slots are taken next to the send.
    """

    environment: str
    id: str
    key_epoch: int
    sent_at: float
    probe: bool
    window: SendWindow = field(compare=False)

    @property
    def checks_key(self) -> bool:
        """Whether it asks for no operation, only whether the key is good."""
        return self.id == NIL_ID


@dataclass(frozen=True, slots=True)
class PollResponse:
    """What became of a request, and how many seconds it took, without those that it waited for its slot."""

    request: PollRequest
    outcome: Operation | KnockError
    seconds: float


@dataclass(frozen=True, slots=True)
class Scraped:
    """There was a scrape, at this time (monotonic)."""

    at: float


@dataclass(frozen=True, slots=True)
class KeyRead:
    """The key source of an environment was read; `key` only if it holds another one than before."""

    environment: str
    key: Secret | None


@dataclass(frozen=True, slots=True)
class Listed:
    """A source was read: these are all the operations that it names now."""

    environment: str
    source: SourceKey
    operations: tuple[ListedOperation, ...]


@dataclass(frozen=True, slots=True)
class Reread:
    """All sources of a kind are good, and what they named last is what they name."""

    environment: str
    kind: SourceKind


@dataclass(frozen=True, slots=True)
class Unread:
    """A source could not be read: what it named last stays."""

    environment: str
    source: SourceKey
    problem: str


class Created(NamedTuple):
    """What is believed of the record that Knock's create call answered; its status was `queued`."""

    name: str
    inserted_at: float | None  # Unix seconds


@dataclass(frozen=True, slots=True)
class Registration:
    """An operation that a program registers, with the record of its birth where the program has it."""

    operation: ListedOperation
    created: Created | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one registered operation: its state, or None where there is no room for it."""

    id: str
    state: str | None  # pending, queued, processing, completed, failed, unknown, lost, retired


@dataclass(frozen=True, slots=True)
class RegistrationResult:
    """The answer to a registration, in the order of its operations.

    `durable`: it survives the end of this process. `saved` is False where state is kept but could not be written.
    """

    taken: tuple[Taken, ...]
    durable: bool
    saved: bool = True


@dataclass(frozen=True, slots=True)
class Register:
    """Operations that a program hands over; `again` brings back what was retired or lost.

    `reply` gets the answer once it is committed and shown, from another thread; it must not block.
    """

    environment: str
    operations: tuple[Registration, ...]
    again: bool
    reply: Callable[[RegistrationResult], None]


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """The answer to a release: `known` False where there is no such operation, `listed_by` who still lists it."""

    known: bool
    listed_by: tuple[SourceKey, ...] = ()
    durable: bool = False
    saved: bool = True


@dataclass(frozen=True, slots=True)
class Release:
    """Drop an operation; `reply` as with `Register`."""

    environment: str
    id: str
    reply: Callable[[ReleaseResult], None]


@dataclass(frozen=True, slots=True)
class RunResult:
    """The answer to a `PutRun`; for a past run, `current` is the id of the one that the group has now.

    `known` is False where there is no such environment, `admitted` where it has too many groups.
    """

    known: bool = True
    admitted: bool = True
    current: str | None = None
    durable: bool = False
    saved: bool = True


@dataclass(frozen=True, slots=True)
class PutRun:
    """Open a run of a group, or say more of it; `reply` as with `Register`."""

    environment: str
    group: str
    run: str
    changes: RunChanges
    reply: Callable[[RunResult], None]


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """Another configuration is active from now on, whole; `keys` are the API keys by environment.

    `switch` is called by the tracker at that moment: it exchanges what sends the requests. `reply` is called when what
    it lists is shown. Neither may block.
    """

    config: Config
    keys: Mapping[str, Secret]
    switch: Callable[[], None]
    reply: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What sends the requests is exchanged, with the same settings; `switch` as with `Reconfigure`."""

    switch: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Saved:
    """A commit of state was tried: the one of `Changes.number`. `lost`: so are those before; the next must be whole."""

    number: int
    ok: bool
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """No more requests; the last answers count until the inbox is closed by `Close`."""


@dataclass(frozen=True, slots=True)
class Close:
    """Publish the last view and end."""


Message = (
    PollResponse
    | Scraped
    | KeyRead
    | Listed
    | Reread
    | Unread
    | Register
    | Release
    | PutRun
    | Reconfigure
    | Exchange
    | Saved
    | Stop
    | Close
)


@dataclass(frozen=True, slots=True)
class Outside:
    """What the tracker asks of others; nothing of it may block.

    `fetch` sends a request (a `PollResponse` comes back) and returns 0; or, not having sent it, the seconds
    after which there may be room for its answer, which was large last time. `read_key` reads a key source again (a
    `KeyRead` comes back), `use_key` gives an environment's client its new key, `publish` shows a view, `chance` is a
    random number in [0, 1). `save` commits changes of state (a `Saved` comes back); None: nothing is kept.
    """

    fetch: Callable[[PollRequest], float]
    read_key: Callable[[str], None]
    use_key: Callable[[str, Secret], None]
    publish: Callable[[View], None]
    chance: Callable[[], float]
    save: Callable[[Changes], None] | None = None
