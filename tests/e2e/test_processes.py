"""Several processes on one configuration file: each environment is of one of them, and can be moved to another."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from programs import Exporter, until
from timing import LATE_SECONDS, most_in

from exporter.simulator import Simulator, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from programs import Starter

pytestmark = pytest.mark.e2e

QUICK = {"processing": "100ms", "queued": "100ms", "slowest": "200ms"}
SHARES = {"one": ("alpha", "beta"), "two": ("gamma", "delta"), "three": ("epsilon", "zeta")}
MOVED = {**SHARES, "one": ("alpha",), "two": ("gamma", "delta", "beta")}
NAMES = tuple(name for names in SHARES.values() for name in names)
LIMIT = 30
LISTED = 12  # of each environment, in the file: each due every 100 to 200 ms, far more than the limit allows
SHORT, SHORT_ROWS = 4, 40
COUNTERS = ("rows_processed", "finished")
LOOK_SECONDS = 0.3  # the simulators run in this process: looking all the time would hold them up
SERIES = re.compile(r"(?m)^knock_bulk_operation_(info|status)\{(.*)\} (\S+)$")
COUNTER = re.compile(rf"(?m)^knock_bulk_operations_({'|'.join(COUNTERS)})_total\{{(.*)\}} (\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')

Place = tuple[str, str, str]  # counter, environment, group


class Process:
    """One exporter after the other on one state; the counters that each showed last."""

    def __init__(self, start: Starter, name: str) -> None:
        self.folder = start.folder / name
        self.folder.mkdir()
        self.state = self.folder / "state.db"
        self.shown: list[dict[Place, float]] = []
        self._start = start

    def begin(self, *environments: str) -> None:
        """Start it on a free port, for these environments, and do not wait for it."""
        file = self._start.folder / "config.yaml"
        flags = [f"--config.file={file}", "--web.listen-address=127.0.0.1:0", f"--storage.path={self.state}"]
        self.exporter = Exporter(self.folder, [*flags, f"--environments={','.join(environments)}"], {})
        self._start.started.append(self.exporter)
        self.shown.append({})

    def scrape(self) -> set[str]:
        """Scrape, keep the counters as this life's last, and return which environments have series."""
        text = self.exporter.metrics()
        counted: dict[Place, float] = defaultdict(float)
        for counter, labels, value in COUNTER.findall(text):
            place = dict(LABEL.findall(labels))
            counted[counter, place["knock_environment"], place["group"]] += float(value)
        self.shown[-1] = dict(counted)
        return set(re.findall(r'knock_environment="([^"]*)"', text))

    def end(self) -> None:
        """Scrape it for the last time, and stop it."""
        self.scrape()
        self.exporter.signal()
        assert self.exporter.wait() == 0
        assert "Traceback" not in self.exporter.output
        assert "level=error" not in self.exporter.output


def hand_on(environment: str, old: Process, new: Process) -> None:
    """Hand the state of an environment on, as documented."""
    state = [sys.executable, "-m", "exporter", "state"]
    export = [*state, "export", f"--storage.path={old.state}", f"--environment={environment}"]
    with subprocess.Popen(export, stdout=subprocess.PIPE) as exporting:
        command = [*state, "import", f"--storage.path={new.state}"]
        subprocess.run(command, stdin=exporting.stdout, check=True, timeout=90)
    assert exporting.returncode == 0


def processed(knock: Simulator, operation_id: str) -> tuple[str, int]:
    record: Any = knock.world.read(operation_id)
    return record["status"], record["processed_rows"]


def asked(knock: Simulator) -> Counter[str | None]:
    return Counter(each.operation_id for each in knock.log)


class Pods:
    """The processes, and a Knock of its own for each environment."""

    def __init__(self, start: Starter, knocks: Mapping[str, Simulator]) -> None:
        self.knocks = knocks
        self.made: dict[str, dict[str, str]] = {name: {} for name in NAMES}  # group by operation, of each environment
        environments = []
        for name, knock in knocks.items():
            (start.folder / f"{name}.key").write_text(f"sk_test_{name}")
            listed = [knock.world.create(rows=10**9, queue_seconds=0.0, rows_per_second=10.0) for _ in range(LISTED)]
            self.made[name] |= dict.fromkeys(listed, "default")
            own = {"api_key_file": f"{name}.key", "base_url": knock.url, "rate_limit": LIMIT, "polling": QUICK}
            environments.append({"name": name, "operations": listed} | own)
        start.use_token()
        (start.folder / "config.yaml").write_text(yaml.safe_dump({"environments": environments} | start.whole))
        self.processes = {name: Process(start, name) for name in SHARES}

    def hand_over(self, process: str, environment: str, group: str, **order: Any) -> str:
        """Make an operation, and register what its create call answered; return its id."""
        world = self.knocks[environment].world
        exporter = self.processes[process].exporter
        exporter.urls()  # it has started: what is made from now on is its own from birth
        made = world.create(**order)
        record: Any = world.read(made)
        assert record["status"] == "queued"
        answer = exporter.register(record | {"group": group}, environment)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"accepted": [{"id": made, "state": "queued"}], "rejected": [], "durable": True}
        self.made[environment][made] = group
        return made

    def hand_over_short(self, process: str, environment: str) -> None:
        """Hand over some that end soon."""
        for number in range(SHORT):
            order = {"rows": SHORT_ROWS, "queue_seconds": 0.5, "rows_per_second": 80.0}
            self.hand_over(process, environment, "short", **order, errors=number)

    def ends(self, environment: str) -> set[str]:
        """Return which operations of it have ended, by Knock itself."""
        knock = self.knocks[environment]
        return {each for each in self.made[environment] if processed(knock, each)[0] == "completed"}

    def shares(self) -> dict[str, set[str]]:
        return {name: process.scrape() for name, process in self.processes.items()}

    def counted(self) -> dict[Place, float]:
        """Add up all lives of all processes: each begins at 0."""
        whole: dict[Place, float] = defaultdict(float)
        for process in self.processes.values():
            for life in process.shown:
                for place, value in life.items():
                    whole[place] += value
        return whole

    def truth(self) -> dict[Place, float]:
        """Return what the operations did up to now, by Knock itself."""
        whole: dict[Place, float] = defaultdict(float)
        for name, made in self.made.items():
            for operation_id, group in made.items():
                status, rows = processed(self.knocks[name], operation_id)
                whole["rows_processed", name, group] += rows
                whole["finished", name, group] += status == "completed"
        return whole

    def settle(self, shares: Mapping[str, tuple[str, ...]]) -> None:
        """Wait until each process has asked for all it has, shows it, and shows as ended what has."""
        before = {name: asked(knock) for name, knock in self.knocks.items()}
        for process, names in shares.items():
            for name in names:
                until(lambda name=name: self.is_asked(name, before[name]), f"{name} is asked")  # type: ignore[misc] # mypy
                due = [time.monotonic()]
                until(lambda name=name, due=due: self.is_shown(process, name, due), f"{process} shows {name}")  # type: ignore[misc] # noqa: B023 mypy

    def is_asked(self, name: str, before: Counter[str | None]) -> bool:
        """Tell whether all that runs, and nothing else, is asked for again and again."""
        made, ends, now = self.made[name], self.ends(name), asked(self.knocks[name])
        ended = sum(group == "short" for group in made.values()) <= len(ends)
        return ended and all(now[each] >= before[each] + 2 for each in made.keys() - ends)

    def is_shown(self, process: str, name: str, due: list[float]) -> bool:
        if time.monotonic() < due[0]:
            return False
        due[0] = time.monotonic() + LOOK_SECONDS
        text = self.processes[process].exporter.metrics()
        shown: dict[str, set[str]] = {"info": set(), "status": set()}
        for kind, labels, value in SERIES.findall(text):
            place = dict(LABEL.findall(labels))
            if place["knock_environment"] == name and (kind == "info" or place["status"] == "completed"):
                shown[kind] |= {place["operation_id"]} if float(value) == 1 else set()
        return shown == {"info": self.made[name].keys(), "status": self.ends(name)}

    def move(self, source: str, target: str, shares: Mapping[str, tuple[str, ...]], ends: str) -> None:
        """Move beta to another process; an operation of it ends while neither runs."""
        old, new, beta = self.processes[source], self.processes[target], self.knocks["beta"]
        old.end()
        new.end()
        left = len(beta.log)
        record: Any = beta.world.read(ends)
        beta.world.put(record | {"status": "completed", "completed_at": record["updated_at"]})
        hand_on("beta", old, new)
        assert len(beta.log) == left
        for name in (source, target):
            self.processes[name].begin(*shares[name])

    def check(self, shares: Mapping[str, tuple[str, ...]]) -> None:
        """Nothing is shown by two, nothing by none, and nothing was counted twice."""
        assert self.shares() == {name: set(names) for name, names in shares.items()}
        counted, truth = self.counted(), self.truth()
        excess = {place: (value, truth[place]) for place, value in counted.items() if value > truth[place]}
        assert excess == {}
        for place, value in truth.items():
            if place[2] == "short":  # all these were seen before the last scrape of a life: none is missing either
                assert counted[place] == value, place


@pytest.fixture
def pods(start: Starter) -> Iterator[Pods]:
    with ExitStack() as stack:
        yield Pods(
            start,
            {
                name: stack.enter_context(
                    Simulator(world=World(seed=seed), api_key=f"sk_test_{name}", rate_limits=False)
                )
                for seed, name in enumerate(NAMES)
            },
        )


def test_environments_are_shared_out_and_one_is_moved_there_and_back(pods: Pods) -> None:
    for name, process in pods.processes.items():
        process.begin(*SHARES[name])
    for name, names in SHARES.items():
        for environment in names:
            pods.hand_over_short(name, environment)
    runs_on = {"rows": 10**9, "queue_seconds": 0.2, "rows_per_second": 100.0}
    long = pods.hand_over("one", "beta", "long", **runs_on)
    stopped = [pods.hand_over("one", "beta", "long", **runs_on) for _ in range(2)]

    for name, process in pods.processes.items():  # what is of another process is not here
        for environment in set(NAMES) - set(SHARES[name]):
            assert process.exporter.register([long], environment).status_code == 404
    pods.settle(SHARES)
    pods.check(SHARES)

    for source, target, shares, ends in (("one", "two", MOVED, stopped[0]), ("two", "one", SHARES, stopped[1])):
        before = {name: (asked(knock), pods.ends(name)) for name, knock in pods.knocks.items()}
        pods.move(source, target, shares, ends)
        assert pods.processes[source].exporter.register([long], "beta").status_code == 404
        pods.hand_over_short(target, "beta")
        pods.settle(shares)
        pods.check(shares)
        for name, (asked_before, ended) in before.items():
            now = asked(pods.knocks[name])
            assert ended
            assert {each: now[each] for each in ended} == {each: asked_before[each] for each in ended}

    processed = pods.truth()["rows_processed", "beta", "long"]
    pods.settle(SHARES)  # so that what had been processed is read, and scraped
    counted = pods.counted()
    # Nobody sees what a life counts after its last scrape: at each end, what one poll brings.
    assert counted["rows_processed", "beta", "long"] > 0.7 * processed
    assert counted["finished", "beta", "long"] == len(stopped)
    for process in pods.processes.values():
        process.end()
    for name, knock in pods.knocks.items():
        arrived = sorted(each.at for each in knock.log)
        assert {each.status for each in knock.log if each.operation_id in pods.made[name]} == {200}
        assert most_in(1.0, arrived) >= 0.9 * LIMIT, name
        assert most_in(5.0 - LATE_SECONDS, arrived) <= 5 * LIMIT, name  # two would be twice as many
