"""The operations that exist in the simulator."""

from __future__ import annotations

import itertools
import math
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from exporter.simulator.plan import NO_TROUBLE, Birth, Order, Plan, Shares, make_plan, name_rows, record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_OPERATIONS = 100_000


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the simulator takes time from: `monotonic` for what happens, `wall` (Unix seconds) for what is written."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


REAL_TIME = Clock()


class Overrides(TypedDict, total=False):
    """What `World.create` takes besides name and rows; see `Order`."""

    queue_seconds: float
    rows_per_second: float
    errors: int
    fails: bool
    stalls: bool


@dataclass(frozen=True, slots=True)
class _Verbatim:
    document: Any


class World:
    """All operations, by id; the same seed and the same calls bring the same ids and fates.

    `speed` is how many simulated seconds pass in a real one, `seed` None draws one. Without `shares` nothing fails
    unless told to. Of more than `most` operations the oldest are forgotten.
    """

    def __init__(
        self,
        seed: int | None = None,
        speed: float = 1.0,
        *,
        shares: Shares = NO_TROUBLE,
        clock: Clock = REAL_TIME,
        most: int = MAX_OPERATIONS,
    ) -> None:
        if not (math.isfinite(speed) and speed > 0):
            raise ValueError("speed must be a number above 0")
        self.seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        self.speed = speed
        self.shares = shares
        self.clock = clock
        self._most = most
        self._numbers = itertools.count()
        self._operations: dict[str, Plan | _Verbatim] = {}

    def chance(self, of: object) -> random.Random:
        """Return a source of chance for one purpose, so that what one draws never shifts another."""
        return random.Random(f"{self.seed}/{of}")  # noqa: S311 a seed that can be told again is the point

    def create(self, name: str = "users.identify", rows: int = 1000, **overrides: Unpack[Overrides]) -> str:
        """Make an operation and return its id; raises ValueError (pydantic's) for what cannot be."""
        return self.start(Order(name=name, rows=rows, **overrides))

    def start(self, order: Order, ids: Sequence[str | None] | None = None, collection: str | None = None) -> str:
        """Make an operation, of the items with these ids where given, and return its id."""
        birth = Birth(self.clock.monotonic(), self.clock.wall(), self.speed)
        plan = make_plan(order, birth, self.shares, self.chance(next(self._numbers)))
        if ids is not None:
            plan = replace(plan, bad_rows=name_rows(plan.bad_rows, ids, collection))
        self._keep(plan.id, plan)
        return plan.id

    def put(self, document: Any, *, under: str | None = None) -> str:
        """Serve a document as it is, well-formed or not, under its own `id` or the one given; return that id."""
        operation_id = str(document["id"] if under is None else under).lower()
        self._keep(operation_id, _Verbatim(document))
        return operation_id

    def forget(self, operation_id: str) -> None:
        """Answer 404 for it from now on: how long Knock keeps operations is not documented."""
        self._operations.pop(operation_id.lower(), None)

    def read(self, operation_id: str) -> Any | None:
        """Return the record as it stands now, None where there is no such operation."""
        found = self._operations.get(operation_id.lower())
        if isinstance(found, Plan):
            return record(found, self.clock.monotonic())
        return found.document if found else None

    def ids(self) -> list[str]:
        """List the ids of all operations, the oldest first."""
        return list(self._operations)

    def _keep(self, operation_id: str, what: Plan | _Verbatim) -> None:
        if len(self._operations) >= self._most:
            for oldest in self.ids()[: max(self._most // 100, 1)]:
                self._operations.pop(oldest, None)
        self._operations[operation_id] = what
