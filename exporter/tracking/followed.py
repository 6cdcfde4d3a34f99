"""One operation as the tracker follows it: what is known of it, and where it stands in what the tracker keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.tracking.history import NO_HISTORY, History
from exporter.tracking.memory import StoredOperation

if TYPE_CHECKING:
    from exporter.operation import OperationKey
    from exporter.tracking.exposure import Rank
    from exporter.tracking.ledger import Contribution
    from exporter.tracking.memberships import Memberships
    from exporter.tracking.pacing import DuePoll
    from exporter.tracking.transitions import Tracked

NEVER = float("inf")


@dataclass(slots=True, eq=False)
class FollowedOperation:
    """Never leaves the tracker's thread: others get the frozen values that are in it."""

    tracked: Tracked
    contribution: Contribution  # to the sums of its aggregate, as it was added
    memberships: Memberships = ()
    history: History = NO_HISTORY
    rank: Rank | None = None  # None: hidden
    plan: DuePoll | None = None  # its next request
    repeated: bool = False  # whether its last request was lost with its connection
    retirement: tuple[float, OperationKey] | None = None  # its place among those that may retire early
    sweep_at: float = NEVER  # when (monotonic) it is hidden or retires, or earlier

    @property
    def key(self) -> OperationKey:
        """What names it."""
        return self.tracked.key

    @property
    def id(self) -> str:
        """Its id, within its environment."""
        return self.tracked.key.id

    @property
    def stored(self) -> StoredOperation:
        """What is to be remembered of it."""
        return StoredOperation(self.tracked, self.memberships)
