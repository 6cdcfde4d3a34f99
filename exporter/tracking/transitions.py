"""What is known of one operation, and how one more answer changes it: frozen values, pure steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from exporter.errors import NotFound, TooLarge
from exporter.operation import Operation, OperationKey, Status
from exporter.tracking import pacing
from exporter.tracking.pacing import PollClass

if TYPE_CHECKING:
    from exporter.config import Polling
    from exporter.errors import KnockError

PENDING = "pending"  # accepted, never answered
LOST = "lost"
STATES = (PENDING, *(str(status) for status in Status), LOST)
ENDED_POLLS = 2  # in a row: an undocumented status with an end time is then taken as final
BIRTH_SLACK = 60.0  # seconds after the epoch, where no create answer came: clocks differ


class Moment(NamedTuple):
    """One point in time on both clocks: `mono` paces, `wall` (Unix seconds) is shown."""

    mono: float
    wall: float


class Marks(NamedTuple):
    """The highest value seen of each count, so that growth is counted once; None: never known."""

    processed: int | None = None
    successes: int | None = None
    errors: int | None = None


NO_MARKS = Marks()


class Circumstances(NamedTuple):
    """What an outcome is judged by, besides the operation itself.

    `chance` (0 to 1) spreads the next poll. `epoch` (Unix seconds) tells which operations are this exporter's from
    birth. `trusted`: the environment has had a record since its key, branch or URL changed, so its 404s are evidence.
    """

    now: Moment
    chance: float
    polling: Polling
    epoch: float
    trusted: bool


class Tracked(NamedTuple):
    """One operation as this exporter follows it.

    A tuple: to copy a frozen dataclass of so many fields, twice a poll, takes three to five times as long.

    `up` tells how the last attempt about it went; `healthy_interval` is the interval planned for its state, by which it
    is judged stale; `due` is when it is asked next (None: never again). `from_birth`: this exporter sees its whole
    life, so its counts grow from 0; None until the first record tells.
    """

    key: OperationKey
    group: str
    labels: tuple[tuple[str, str], ...]
    handed_over: Moment
    due: float | None
    interval: float
    healthy_interval: float
    poll_class: PollClass = PollClass.NEW
    operation: Operation | None = None
    up: bool | None = None
    last_success: Moment | None = None
    last_change: Moment | None = None
    failures: int = 0  # since the last record, 404s apart
    missing: int = 0  # 404s since the last record
    missing_since: float | None = None
    odd_polls: int = 0  # records in a row with an undocumented status
    ended_polls: int = 0  # of these, in a row with an end time
    lost: bool = False
    from_birth: bool | None = None
    seen_unfinished: bool = False
    seen_started: bool = False
    marks: Marks = NO_MARKS
    final_seen: float | None = None  # Unix seconds
    final_at: float | None = None  # the same, monotonic
    run: str | None = None  # the run of its group that it belongs to (`runs.NO_RUN`: it can join none)

    @property
    def state(self) -> str:
        """What the label `status` of the aggregates says."""
        if self.lost:
            return LOST
        return PENDING if self.operation is None else self.operation.status

    @property
    def final(self) -> bool:
        """Whether Knock will never change it again."""
        return self.operation is not None and self.operation.status.final

    @property
    def active(self) -> bool:
        """Whether it is followed and not at its end."""
        return not self.final and not self.lost

    @property
    def clean(self) -> bool:
        """Whether it ended well: completed, without errors."""
        return self.final and self.state == Status.COMPLETED and not self.has_errors

    @property
    def has_errors(self) -> bool:
        """Whether Knock counted or listed a failed item."""
        return self.operation is not None and bool(self.operation.errors or self.operation.error_items)

    @property
    def stale_at(self) -> float:
        """From when on (monotonic) its values count as stale, unless Knock answers."""
        since = self.last_success or self.handed_over
        return since.mono + pacing.STALE_INTERVALS * self.healthy_interval + pacing.STALE_SLACK


def newly_tracked(
    key: OperationKey, group: str, labels: tuple[tuple[str, str], ...], now: Moment, polling: Polling
) -> Tracked:
    """Begin with an id of which nothing is known yet: asked as soon as there is a slot."""
    return Tracked(key, group, labels, now, now.mono, polling.queued, polling.queued)


def created(before: Tracked, record: Operation, chance: float) -> Tracked:
    """Believe what Knock's create call answered: it is queued.

    It is asked for the first time when one that waits would be.
    """
    return before._replace(
        operation=record,
        poll_class=PollClass.LIVE,
        due=before.handed_over.mono + pacing.spread(before.interval, chance),
    )


def succeeded(before: Tracked, record: Operation, at: Circumstances) -> Tracked:
    """Take in a record from Knock."""
    now = at.now
    odd = before.odd_polls + 1 if record.status is Status.UNKNOWN else 0
    has_end = record.completed_at is not None or record.failed_at is not None
    ended = before.ended_polls + 1 if odd and has_end else 0
    if ended >= ENDED_POLLS:
        status = Status.FAILED if record.failed_at is not None else Status.COMPLETED
        record = replace(record, status=status, status_word=None)
    changed = before.operation is None or before.operation.progress != record.progress
    last_change = now if changed or before.last_change is None else before.last_change
    final = record.status.final
    poll_class, interval = _next_poll(before, record, odd, last_change, at)
    return before._replace(
        operation=record,
        up=True,
        last_success=now,
        last_change=last_change,
        failures=0,
        missing=0,
        missing_since=None,
        odd_polls=odd,
        ended_polls=ended,
        lost=False,
        from_birth=_ours_from_birth(before, record, at.epoch) if before.from_birth is None else before.from_birth,
        seen_unfinished=before.seen_unfinished or not final,
        seen_started=before.seen_started or record.started_at is not None,
        final_seen=now.wall if final else None,
        final_at=now.mono if final else None,
        poll_class=poll_class,
        interval=interval,
        healthy_interval=interval,
        due=None if final else _after(interval, at),
    )


def _next_poll(
    before: Tracked, record: Operation, odd: int, last_change: Moment, at: Circumstances
) -> tuple[PollClass, float]:
    if odd:
        return PollClass.RETRY, pacing.doubling(pacing.RETRY_FIRST, odd, pacing.ODD_STATUS_MOST)
    unchanged, age = at.now.mono - last_change.mono, at.now.mono - before.handed_over.mono
    interval = pacing.live_interval(record.status, unchanged, age, at.polling)
    return PollClass.LIVE, max(interval, pacing.size_interval(record.size))


def failed(before: Tracked, error: KnockError, at: Circumstances) -> Tracked:
    """Take in a failed attempt; the last values stay."""
    after = before._replace(up=False, poll_class=PollClass.RETRY)
    if isinstance(error, NotFound):
        return _missing(after, at)
    after = after._replace(failures=before.failures + 1)
    interval = pacing.doubling(pacing.RETRY_FIRST, after.failures, pacing.RETRY_MOST)
    if isinstance(error, TooLarge):
        interval = max(interval, pacing.TOO_LARGE_LEAST / pacing.SPREAD_LEAST)
    return after._replace(interval=interval, due=_after(interval, at))


def _missing(after: Tracked, at: Circumstances) -> Tracked:
    now = at.now.mono
    since = now if after.missing_since is None else after.missing_since
    if at.trusted and now - since >= at.polling.not_found_after:
        return after._replace(missing_since=since, lost=True, due=None)
    age = now - after.handed_over.mono
    ever_seen = after.last_success is not None  # what a create answer told does not count as seeing it
    # The 404s of the first minutes prove nothing, so the doubling starts after them.
    attempt = after.missing + 1 if ever_seen or age >= pacing.MISSING_GRACE else 0
    interval = pacing.missing_interval(attempt, at.polling)
    return after._replace(missing=attempt, missing_since=since, interval=interval, due=_after(interval, at))


def _after(interval: float, at: Circumstances) -> float:
    return at.now.mono + pacing.spread(interval, at.chance)


def retried(before: Tracked, now: Moment, polling: Polling) -> Tracked:
    """Give an operation that Knock did not know another chance: key, branch or URL have changed, or somebody asks."""
    poll_class = PollClass.NEW if before.operation is None else PollClass.LIVE
    return before._replace(
        lost=False, missing=0, missing_since=None, due=now.mono, interval=polling.queued, poll_class=poll_class
    )


def repaced(before: Tracked, now: Moment, polling: Polling) -> Tracked:
    """Ask sooner where other settings of the pace say so; never later than planned."""
    if before.due is None or before.operation is None or before.poll_class is not PollClass.LIVE:
        return before
    last = before.last_success or before.handed_over
    unchanged, age = now.mono - (before.last_change or last).mono, now.mono - before.handed_over.mono
    interval = pacing.live_interval(before.operation.status, unchanged, age, polling)
    interval = max(interval, pacing.size_interval(before.operation.size))
    return before._replace(interval=interval, healthy_interval=interval, due=min(before.due, last.mono + interval))


def _ours_from_birth(before: Tracked, record: Operation, epoch: float) -> bool:
    slack = BIRTH_SLACK if before.operation is None else 0.0  # the operation of a create answer
    return record.inserted_at is not None and record.inserted_at > epoch + slack
