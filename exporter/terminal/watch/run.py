"""A run of a group that is watched until it is finished, by what an exporter's API says: frozen, time as argument.

Word, progress and time left are the exporter's own: page, rules and this show the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from exporter.operation import FINAL
from exporter.terminal.exit_codes import ExitCode
from exporter.terminal.exporter_api import printable
from exporter.terminal.watch.core import REACHED, Frame, Reach, Watched, WatchOutcome, judged
from exporter.terminal.watch.documents import count_of, number_of
from exporter.tracking.transitions import LOST, STATES
from exporter.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

INCOMPLETE_SECONDS = 600.0  # after "that was all": then what is missing will not come
_OPEN = "all that came so far has ended; more may come, until the run is closed"
_ENDED = FINAL | {LOST}


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """The run `id` of a group. `group` is what the API said last of the group (None: it is not known).

    `past`: the run is known to be over, since operations are its members and another run is open. `began`: it was seen.
    `closed_for` counts from when this saw it closed: clocks of two machines may differ.
    """

    environment: str
    name: str
    id: str
    group: Mapping[str, Any] | None = None
    past: bool = False
    began: bool = False
    closed_since: float | None = None
    now: float | None = None  # of the last answer
    watched: tuple[Watched, ...] = ()
    reach: Reach = REACHED

    def reported(self, group: Mapping[str, Any] | None, watched: tuple[Watched, ...], now: float) -> WatchedRun:
        """Take in what the API says of the group (None: it does not know it), and its operations to draw."""
        following = replace(self, group=group, watched=watched, now=now, reach=REACHED)
        run = following.current
        if run is None and self.began and _run_of(group) is None:
            lost = f"the exporter does not know run {self.id} of {self.name} any more"
            return replace(following, group=self.group, reach=self.reach.failed(lost, now))
        closed = run is not None and run.get("closed_at") is not None
        since = (now if self.closed_since is None else self.closed_since) if closed else None
        return replace(following, began=self.began or run is not None, closed_since=since)

    def unreachable(self, problem: str, now: float, *, refused: bool) -> WatchedRun:
        """Take in that the exporter did not answer."""
        return replace(self, now=now, reach=self.reach.failed(problem, now, refused=refused))

    @property
    def current(self) -> Mapping[str, Any] | None:
        """What the API said of this run; None while it is not the open one."""
        run = _run_of(self.group)
        return run if run is not None and run.get("id") == self.id else None

    @property
    def other(self) -> str | None:
        """The id of the open run, where that is another one."""
        run = _run_of(self.group)
        return printable(str(run.get("id"))) if run is not None and run.get("id") != self.id else None

    @property
    def counts(self) -> Mapping[str, int]:
        """How many operations the run has, by status."""
        found = (self.current or {}).get("operations")
        known = found if isinstance(found, dict) else {}
        return {state: count_of(known.get(state)) or 0 for state in STATES}

    @property
    def missing(self) -> int:
        """How many of the expected operations have not come."""
        expected = count_of((self.current or {}).get("expected_operations"))
        return max((expected or 0) - sum(self.counts.values()), 0)

    @property
    def incomplete(self) -> bool:
        """Whether some will not come: the exporter says so, or it is closed for long enough."""
        if not self.missing or self.closed_since is None:
            return False
        late = self.now is not None and self.now - self.closed_since >= INCOMPLETE_SECONDS
        return late or (self.group or {}).get("state") == "incomplete"

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"{self.name}, run {self.id}"

    @property
    def place(self) -> dict[str, Any]:
        """What the result says it is."""
        return {"environment": self.environment, "group": self.name, "run": self.current or {"id": self.id}}

    def outcome(self, *, allow_errors: bool) -> WatchOutcome | None:
        """Return the end; None while it goes on."""
        if (end := self.reach.outcome()) is not None:
            return end
        run = self.current
        if run is None:
            if self.other is not None and (self.began or self.past):
                return WatchOutcome(ExitCode.FAILED, f"superseded: run {self.other} of {self.name} is open")
            return None
        if run.get("finished_at") is not None:
            return judged(self.counts, count_of(run.get("with_errors")) or 0, allow_errors=allow_errors)
        if self.incomplete and self._all_ended:
            return WatchOutcome(ExitCode.FAILED, f"incomplete: {counted(self.missing, 'operation')} never came")
        return None

    def frame(self) -> Frame:
        """Return what is shown of it now."""
        group, run = (self.group or {}, self.current) if self.current is not None else ({}, {})
        waiting = "" if self.now is None else f"waiting for run {self.id}"
        waiting += f" ({self.other} is open)" if self.other is not None else ""
        return Frame(
            title=self.title,
            word=printable(str(group.get("state", waiting))).replace("_", " "),
            watched=self.watched if run else (),
            counts=self.counts,
            expected=count_of(run.get("expected_operations")),
            with_errors=count_of(run.get("with_errors")) or 0,
            processed=count_of(run.get("rows_processed")),
            estimated=count_of(run.get("rows_estimated")),
            errors=count_of(run.get("errors")),
            progress=number_of(group.get("progress")),
            progress_of="operations" if group.get("progress_of") == "operations" else "rows",
            rate=number_of(group.get("rate_rows_per_second")),
            time_left=number_of(group.get("time_left_seconds")),
            problem=self.reach.problem,
            note=_OPEN if self._waits_for_more else "",
        )

    @property
    def _waits_for_more(self) -> bool:
        run, counts = self.current, self.counts
        if run is None or run.get("closed_at") is not None or run.get("finished_at") is not None:
            return False
        return sum(counts.values()) > 0 and self._all_ended

    @property
    def _all_ended(self) -> bool:
        return all(state in _ENDED for state, count in self.counts.items() if count)


def _run_of(group: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    run = group.get("run") if group is not None else None
    return run if isinstance(run, dict) else None
