"""Jobs as they are: each pages when it should and only then, over restarts, gaps, and targets that overlap.

The real tracker runs in virtual time, a scrape a minute; promtool evaluates the rules over what it wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from model import KEY, WALL, Disk, Model, environment, ids
from programs import tool
from promtool import Case, fires, judge, series

from exporter.config import Config, ListedOperation, Polling
from exporter.config.settings import GroupSettings
from exporter.errors import NotFound
from exporter.metrics.exposition import Format, knock_part
from exporter.metrics.families import PER_RUN
from exporter.operation import NIL_ID, Operation, Status
from exporter.tracking.messages import Reconfigure, Registration, RunResult
from exporter.tracking.runs import RunDeadline

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from exporter.errors import KnockError
    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Moment

pytestmark = pytest.mark.e2e

G = "nightly"
DID_NOT_RUN, MISSED, WILL_MISS, INCOMPLETE = ALERTS = (
    *("KnockGroupDidNotRun", "KnockGroupMissedDeadline", "KnockGroupWillMissDeadline", "KnockGroupIncomplete"),
)
FAMILIES = tuple(family.name for family in PER_RUN)
FOR = KEEPS = 10  # minutes: of the forecast; that every alert goes on after its cause
NIGHT, EVERY, DEADLINE = 180, 220, 60  # minutes between two runs; what is expected of them
WAVE, ALL = 2, 8  # operations
RETENTION = 60.0  # seconds: nothing here may rest on what is tracked now
CHECKED_EACH = 6  # minutes


@dataclass
class World:
    """A job, the Knock that it calls, and the exporter; time is in minutes."""

    every: int | None = EVERY
    deadline: int | None = DEADLINE
    inserted_off: float = 0.0  # seconds by which Knock's clock is ahead
    disk: Disk = field(default_factory=Disk)

    def __post_init__(self) -> None:
        self._ids = iter(ids(1000))
        self.answers: list[list[RunResult]] = []
        self._ends: dict[str, tuple[float, float, Status]] = {}
        self.model = Model(self._config(), self._knock, disk=self.disk)

    def _config(self) -> Config:
        every, deadline = (None if each is None else each * 60.0 for each in (self.every, self.deadline))
        polling = Polling(processing=45.0, queued=45.0, slowest=45.0)
        groups = (GroupSettings(G, every=every, deadline=deadline),)
        made = environment(retention=RETENTION, polling=polling, groups=groups, per_operation="none")
        return Config((made,))

    def _knock(self, request: PollRequest, now: Moment) -> Operation | KnockError:
        if request.id == NIL_ID:
            return NotFound("404", code=404, accepted_key=True)
        began, ends, status = self._ends[request.id]
        inserted = began + self.inserted_off
        shown = Operation(
            *(request.id, Status.PROCESSING, "users.identify", 50, 100, 50, 0),
            inserted_at=inserted,
            started_at=inserted,
        )
        if now.wall < ends:
            return shown
        shown = replace(shown, status=status, rows_processed=100)
        return replace(shown, failed_at=ends) if status is Status.FAILED else replace(shown, completed_at=ends)

    def put(self, run: str, **changes: Any) -> None:
        """Open a run, or say more of it."""
        self.answers.append(self.model.put_run(G, run, **changes))

    def submit(self, count: int, run: str | None = None, takes: int = 12, status: Status = Status.COMPLETED) -> None:
        """Start operations that take so long, and hand them over."""
        began = self.model.now.wall
        new = [next(self._ids) for _ in range(count)]
        self._ends |= dict.fromkeys(new, (began, began + takes * 60, status))
        self.model.register(*(Registration(ListedOperation(each, G, run=run)) for each in new))

    def expect(self, *, every: int | None = EVERY, deadline: int | None = DEADLINE) -> None:
        """Change what the configuration expects."""
        self.every, self.deadline = every, deadline
        self.model.tell(Reconfigure(self._config(), {"production": KEY}, lambda: None, lambda: None))

    def restart(self, *, keeps_state: bool = True) -> None:
        """Begin with the next process."""
        if not keeps_state:
            self.disk = Disk()
        now = {"mono": self.model.mono, "wall_offset": self.model.wall_offset}
        self.model = self.model.restarted(disk=self.disk, config=self._config(), **now)

    def pass_minute(self) -> str:
        """Let a minute pass; return what is scraped in the middle of it."""
        self.model.run(30.0)
        whole = b"".join(knock_part(self.model.views[-1], Format.TEXT)).decode()
        self.model.run(30.0)
        return "".join(line for line in whole.splitlines(keepends=True) if "knock_group_" in line)


Script = dict[int, "Callable[[World], None]"]


class Job(NamedTuple):
    """What happens in which minute, and from when until when each alert fires; `None` is the end.

    `disturbed`: when the exporter or its scrapes are; no call of the job falls into the hour after it.
    """

    script: Script
    fires: Mapping[str, list[tuple[int, int | None]]] = {}
    disturbed: tuple[int, ...] = (70,)
    minutes: int = 240
    world: Mapping[str, Any] = {}


def night(begins: int = 0, run: str = "1", waves: int = 4, *, closes: bool = True, **says: Any) -> Script:
    """Return a job that submits a wave every 5 minutes, of all that it declares; each takes 12 minutes."""

    def begin(world: World) -> None:
        world.put(run, **{"operations": ALL} | says)
        world.submit(WAVE, run)

    script: Script = {begins: begin}
    for wave in range(1, waves):
        script[begins + wave * 5] = lambda world: world.submit(WAVE, run)
    if closes:
        script[begins + waves * 5 + 2] = lambda world: world.put(run, closed=True)
    return script


def half(**says: Any) -> Script:
    """Return a job that dies after half of its waves."""
    return night(waves=2, closes=False, **says)


def calls(*steps: Callable[[World], None]) -> Callable[[World], None]:
    """Do several things at once."""

    def do(world: World) -> None:
        for step in steps:
            step(world)

    return do


NEXT = night(NIGHT, "2")
# Half has finished after 17 minutes: that is too slow from the 34th on.
HALF_IS_SLOW = (34 + FOR, DEADLINE + KEEPS)


def over_hours(world: World) -> None:
    """Submit five operations, of which one finishes every 9 minutes."""
    for number in range(1, 6):
        world.submit(1, "1", takes=9 * number)


JOBS: dict[str, Job] = {
    "every night": Job(night() | NEXT),
    "retries by hand, also after the deadline": Job(
        night(waves=3, closes=False)
        | {
            15: lambda world: world.submit(WAVE, "1", status=Status.FAILED),
            17: lambda world: world.put("1", closed=True),
            40: lambda world: world.submit(WAVE, status=Status.FAILED),
            90: lambda world: world.submit(WAVE, takes=100),
        },
        # They do not count as a run: the next one is missing.
        fires={DID_NOT_RUN: [(EVERY + 1, None)]},
        disturbed=(91,),
        minutes=260,
    ),
    "retries where there never was a run count as one": Job(
        {0: lambda world: world.submit(WAVE), 60: lambda world: world.submit(1)},
        fires={DID_NOT_RUN: [(60 + EVERY + 1, None)]},
        minutes=300,
    ),
    "a run that is opened and closed once more stays as it is": Job(
        night() | {30: lambda world: world.put("1", operations=ALL, closed=True)} | NEXT
    ),
    "nothing to do tonight": Job(
        {
            0: lambda world: world.put("1", operations=0, closed=True),
            NIGHT: lambda world: world.put("2", operations=0, closed=True),
        },
        disturbed=(45,),
    ),
    "it does not run, and then it does": Job(
        night() | night(260, "2"),
        fires={DID_NOT_RUN: [(EVERY + 1, 260 + KEEPS)]},
        disturbed=(195,),
        minutes=300,
    ),
    "it never ran": Job({}, fires={DID_NOT_RUN: [(EVERY + 1, None)]}, minutes=250),
    "it dies half way": Job(
        half() | NEXT,
        fires={MISSED: [(DEADLINE + 1, NIGHT + KEEPS)], WILL_MISS: [HALF_IS_SLOW]},
        disturbed=(20, 80),
    ),
    "it dies half way, and closes its run": Job(
        night(waves=2) | NEXT,
        fires={
            INCOMPLETE: [(12 + 11, NIGHT + KEEPS)],
            MISSED: [(DEADLINE + 1, NIGHT + KEEPS)],
            WILL_MISS: [HALF_IS_SLOW],
        },
        disturbed=(14,),
    ),
    "it dies at once": Job(
        {0: lambda world: world.put("1", operations=ALL)} | NEXT,
        fires={MISSED: [(DEADLINE + 1, NIGHT + KEEPS)], WILL_MISS: [(16 + FOR, DEADLINE + KEEPS)]},
        disturbed=(30,),
    ),
    "it is given up": Job(
        night(waves=2) | {40: lambda world: world.put("1", operations=2 * WAVE)} | NEXT,
        fires={INCOMPLETE: [(12 + 11, 40 + KEEPS)]},
    ),
    "it dies half way, and had declared nothing": Job(
        half(operations=None) | NEXT, fires={MISSED: [(DEADLINE + 1, NIGHT + KEEPS)]}, disturbed=(30,)
    ),
    "it declares nothing, and closes": Job(night(waves=2, operations=None) | NEXT),
    "it closes early, and the rest follows": Job(
        night(waves=3, closes=False)
        | {12: lambda world: world.put("1", closed=True), 18: lambda world: world.submit(WAVE, "1")}
        | NEXT
    ),
    "more to do after it has closed": Job(
        night()
        | {
            40: lambda world: world.put("1", operations=ALL + WAVE, closed=None),
            44: lambda world: world.submit(WAVE, "1"),
            45: lambda world: world.put("1", closed=True),
        }
        | NEXT
    ),
    "late": Job(
        half()
        | {50: lambda world: world.submit(2 * WAVE, "1", takes=40), 51: lambda world: world.put("1", closed=True)}
        | NEXT,
        fires={MISSED: [(DEADLINE + 1, 90 + KEEPS)], WILL_MISS: [HALF_IS_SLOW]},
        disturbed=(70, 105),
    ),
    "a deadline of its own": Job(
        half(deadline=RunDeadline(seconds=40 * 60.0)) | NEXT,
        fires={MISSED: [(40 + 1, NIGHT + KEEPS)], WILL_MISS: [(23 + FOR, 40 + KEEPS)]},
    ),
    "pauses of twice a wave": Job(
        {0: calls(lambda world: world.put("1", operations=20), over_hours)}
        | dict.fromkeys((135, 270, 405), over_hours),
        disturbed=(190,),
        minutes=480,
        world={"every": None, "deadline": 540},
    ),
    "the next run begins while one goes on": Job(
        half() | {20: lambda world: world.submit(2 * WAVE, "1", takes=150)} | night(50, "2") | night(230, "3"),
        disturbed=(85,),
        minutes=270,
        world={"deadline": 90},
    ),
    "Knock's clock is an hour ahead": Job(night() | NEXT, world={"inserted_off": 3600.0}),
    "Knock's clock is an hour behind": Job(night() | NEXT, world={"inserted_off": -3600.0}),
    "Knock's clock is an hour ahead, and no runs are opened": Job(
        {0: lambda world: world.submit(WAVE)},
        fires={DID_NOT_RUN: [(EVERY + 1, None)]},
        minutes=250,
        world={"inserted_off": 3600.0},
    ),
    "Knock's clock is an hour behind, and no runs are opened": Job(
        {0: lambda world: world.submit(WAVE)},
        fires={DID_NOT_RUN: [(EVERY + 1 - 60, None)]},
        world={"inserted_off": -3600.0},
    ),
    "state is lost, and the job says no more": Job(
        half() | {30: lambda world: world.restart(keeps_state=False)},
        fires={DID_NOT_RUN: [(30 + EVERY + 1, None)]},
        disturbed=(40,),
        minutes=280,
    ),
    "state is lost, and the job closes": Job(
        half()
        | {
            8: lambda world: world.restart(keeps_state=False),
            10: lambda world: world.submit(2 * WAVE, "1"),
            15: lambda world: world.put("1", closed=True),
        }
        | NEXT
    ),
    "state is lost, and the job closes with its number": Job(
        half()
        | {
            8: lambda world: world.restart(keeps_state=False),
            10: lambda world: world.submit(2 * WAVE, "1"),
            15: lambda world: world.put("1", operations=ALL, closed=True),
        }
        | NEXT,
        # Half of them were known to nothing but the state. The run was opened for a second time by what came next.
        fires={
            INCOMPLETE: [(15 + 11, NIGHT + KEEPS)],
            WILL_MISS: [(10 + 34 + FOR, 10 + DEADLINE + KEEPS)],
            MISSED: [(10 + DEADLINE + 1, NIGHT + KEEPS)],
        },
        disturbed=(85,),
    ),
    "a reload gives it more time": Job(
        night(waves=3, closes=False)
        | {
            30: lambda world: world.submit(WAVE, "1", takes=50),
            31: lambda world: world.put("1", closed=True),
            40: lambda world: world.expect(every=400, deadline=100),
        },
        disturbed=(85,),
        minutes=260,
    ),
    "a reload gives it less time": Job(
        night() | {100: lambda world: world.expect(every=80)} | NEXT,
        fires={DID_NOT_RUN: [(100, NIGHT + KEEPS), (NIGHT + 81, None)]},
        disturbed=(110,),
        minutes=280,
    ),
    "a reload expects no more": Job(
        half() | {90: lambda world: world.expect(every=None, deadline=None)},
        fires={MISSED: [(DEADLINE + 1, 90 + KEEPS)], WILL_MISS: [HALF_IS_SLOW]},
        disturbed=(105,),
    ),
}


class Disturbance(NamedTuple):
    """For so many minutes nothing is scraped; the exporter restarts or is down meanwhile, and comes back elsewhere."""

    minutes: int = 0
    restarts: bool = False
    is_down: bool = False
    moves: bool = False


DISTURBANCES = {
    "a restart": Disturbance(2, restarts=True),
    "a move": Disturbance(2, restarts=True, moves=True),
    "an hour without scrapes": Disturbance(60),
    "an hour down": Disturbance(60, restarts=True, is_down=True),
}
LINGERS = 4  # minutes for which a target that has moved is still there


def ran(job: Job, restarts: int | None, down: range) -> list[str]:
    """Run it; return what was to be scraped, minute by minute."""
    world = World(**job.world)
    found = []
    for minute in range(job.minutes):
        if minute == restarts:
            world.restart()
        if minute in job.script:
            job.script[minute](world)
        if minute in down:
            world.model.mono += 60.0
        found.append("" if minute in down else world.pass_minute())
    assert all(answers == [RunResult(durable=True)] for answers in world.answers)
    return found


def inputs(shown: list[str], at: int, kind: Disturbance) -> list[dict[str, str]]:
    seen = [None if at <= minute < at + kind.minutes else text for minute, text in enumerate(shown)]
    if not kind.moves:
        return series(seen, WALL, FAMILIES)
    before = [*seen[:at], *[seen[at - 1]] * LINGERS, *[None] * (len(seen) - at - LINGERS)]
    rows = []
    for instance, target in enumerate((before, [*[None] * at, *seen[at:]])):
        for row in series(target, WALL, FAMILIES):
            values = row["values"].split(" ")
            if instance == 0:
                values[at + LINGERS] = "_"  # nobody says that it is gone
            name = row["series"].replace("{", f'{{instance="{instance}",')
            rows.append({"series": name, "values": " ".join(values)})
    return rows


def expected(job: Job, at: int, kind: Disturbance) -> dict[tuple[int, str], float]:
    """Return the values of queries at a minute; not where the disturbance decides, or a poll more or less."""
    found = {}
    for alert in ALERTS:
        slack = 3 if alert == WILL_MISS else 1
        blind = kind.minutes + (FOR + slack if kind.minutes > KEEPS or (kind.minutes and alert == WILL_MISS) else 0)
        wanted = [(begin, job.minutes if end is None else end) for begin, end in job.fires.get(alert, ())]
        edges = {edge for pair in wanted for edge in pair}
        around = {edge + step for edge in edges for step in (-slack - 1, slack + 1)}
        for minute in sorted({*range(0, job.minutes, CHECKED_EACH), *around} & {*range(job.minutes)}):
            if at <= minute < at + blind or any(abs(minute - edge) <= slack for edge in edges):
                continue
            found[minute, fires(alert)] = float(any(begin <= minute < end for begin, end in wanted))
    return found


def cells(job: Job) -> dict[str, Case]:
    """Return it undisturbed, and with each disturbance."""
    plain = ran(job, None, range(0))
    found = {"undisturbed": Case(inputs(plain, 0, Disturbance()), expected(job, 0, Disturbance()))}
    for at in job.disturbed:
        restarted = ran(job, at + 1, range(0))
        down = ran(job, at + 60, range(at, at + 60))
        for name, kind in DISTURBANCES.items():
            shown = down if kind.is_down else restarted if kind.restarts else plain
            found[f"{name} after {at} minutes"] = Case(inputs(shown, at, kind), expected(job, at, kind))
    return found


@pytest.mark.parametrize("name", JOBS)
def test_it_pages_when_it_should_and_only_then(name: str, tmp_path: Path) -> None:
    said = judge(tool("promtool"), tmp_path, cells(JOBS[name]))
    assert {cell: what for cell, what in said.items() if what != "SUCCESS"} == {}
