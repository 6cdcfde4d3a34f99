"""What goes into the tracker's inbox, and what it asks of others: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.operation import NIL_ID, Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.config import ListedOperation
    from exporter.errors import KnockError
    from exporter.keys import Secret
    from exporter.metrics.exposition import View


@dataclass(frozen=True, slots=True)
class Request:
    """One request to Knock; `sent_at` is monotonic, `probe` marks the only one let through a shut gate."""

    environment: str
    id: str
    key_epoch: int
    sent_at: float
    probe: bool

    @property
    def checks_key(self) -> bool:
        """Whether it asks for no operation, only whether the key is good."""
        return self.id == NIL_ID


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a request, and how many seconds it took."""

    request: Request
    outcome: Operation | KnockError
    seconds: float


@dataclass(frozen=True, slots=True)
class KeyRead:
    """The key source of an environment was read; `key` only if it holds another one than before."""

    environment: str
    key: Secret | None


@dataclass(frozen=True, slots=True)
class HandOver:
    """Operations to follow from now on, named by some source; those already followed stay as they are."""

    environment: str
    operations: tuple[ListedOperation, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """No more requests; the last answers count until the inbox is closed by `Close`."""


@dataclass(frozen=True, slots=True)
class Close:
    """Publish the last view and end."""


Message = Answered | KeyRead | HandOver | Stop | Close


@dataclass(frozen=True, slots=True)
class Outside:
    """What the tracker asks of others; nothing of it may block.

    `fetch` sends a request (an `Answered` comes back), `read_key` reads a key source anew (a `KeyRead` comes back),
    `use_key` gives an environment's client its new key, `publish` shows a view, `chance` is a random number in [0, 1).
    """

    fetch: Callable[[Request], None]
    read_key: Callable[[str], None]
    use_key: Callable[[str, Secret], None]
    publish: Callable[[View], None]
    chance: Callable[[], float]
