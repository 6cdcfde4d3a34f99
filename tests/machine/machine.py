"""The machine: anything that can happen to an exporter, in any order, and after each step what is to hold.

It reads what everybody can read: `/metrics`, the API and the state file.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sqlite3
import tempfile
import uuid
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from reference import (
    KEPT,
    LATE,
    STATES,
    Cell,
    Followed,
    Group,
    GroupKey,
    Key,
    Reference,
    Run,
    Stone,
    Sums,
    Wanted,
    WantedEnvironment,
    read_time,
)
from virtual_exporter import TOKEN, Exporter
from virtual_knock import ODDITIES, ORDERS, TROUBLES, Knock, Time

NAMES = ("production", "staging")
IDS_MOST = 9
AT_THE_LIMIT = 5
SOURCES = (("files", "/ids/a"), ("files", "/ids/b"), ("http", "https://ids.example/list"))
CALM_SECONDS = 25 * 86_400.0  # what is let go is remembered for 30 days
WELL_SECONDS, SLACK_SECONDS = 700.0, 60.0  # an upstream that was refused, or told to wait, tries again after 10 minutes
FORGOTTEN_SECONDS = 1000.0  # lost after 600 s: the first answer after that comes within the next 300
PAUSE_SECONDS = 1.1  # a process takes longer to start: no second holds requests of two

FAMILIES = {  # of an operation, and what they are of Knock's record
    "rows_processed": "processed_rows",
    "rows_estimated": "estimated_total_rows",
    "successes": "success_count",
    "errors": "error_count",
}
SINGLE = {
    *FAMILIES,
    "error_items",
    "up",
    "info",
    "inserted_timestamp_seconds",
    "started_timestamp_seconds",
    "updated_timestamp_seconds",
    "finished_timestamp_seconds",
    "duration_seconds",
    "last_success_timestamp_seconds",
    "last_change_timestamp_seconds",
}
COUNTERS = {  # of all operations, and what the reference calls them
    "rows_processed_total": "processed_rows",
    "successes_total": "success_count",
    "errors_total": "error_count",
    "finished_with_errors_total": "finished_with_errors",
    "finished_total": "finished",
    "retired_total": "retired",
    "queue_duration_seconds_count": "queue",
    "run_duration_seconds_count": "run",
}
SUMS = {
    "_tracked_rows_processed": "processed_rows",
    "_tracked_rows_estimated": "estimated_total_rows",
    "_tracked_errors": "error_count",
    "_active_rows_processed": "processed_rows",
    "_active_rows_estimated": "estimated_total_rows",
}
TRUTH = {"rows_processed_total": 0, "successes_total": 1, "errors_total": 2}
GROUP_FAMILIES = {  # of a group, and what the reference calls them
    "expected_interval_seconds": "every",
    "last_run_timestamp_seconds": "last_run",
    "run_opened_timestamp_seconds": "opened",
    "run_closed_timestamp_seconds": "closed",
    "run_finished_timestamp_seconds": "finished",
    "run_deadline_timestamp_seconds": "deadline",
    "run_expected_operations": "operations",
    "run_rows_processed": "processed",
    "run_rows_estimated": "estimated",
    "run_errors": "errors",
}
_SAMPLE = re.compile(r"^(knock_(?:bulk|exporter|group)_[a-z_]+)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'([a-z_]+)="([^"]*)"')

names = st.sampled_from(NAMES)
troubles = st.sampled_from([*sorted(TROUBLES), *["bad answers"] * 3])  # of these there are most
numbers = st.integers(0, IDS_MOST - 1)
some = st.lists(numbers, max_size=4, unique=True)
groups = st.sampled_from(["default", "nightly", "nightly", "daily", "other"])
runs = st.sampled_from(["1", "2", "2027-01-15T08:00:00Z"])
some_run = st.sampled_from([None, None, "1", "2"])
DEADLINES = {"100s": 100, "2h": 7200, "2027-01-15T08:30:00Z": "2027-01-15T08:30:00Z", None: None}
NONSENSE: tuple[Any, ...] = (  # what a job may not say
    [], "1", {"operations": -1}, {"operations": 1.0}, {"operations": True}, {"operations": 2**60}, {"deadline": "soon"},
    {"deadline": 100}, {"deadline": "-3h"}, {"closed": False}, {"closed": "true"}, {"finished": True},
    {"operations": "3"},
)  # fmt: skip
says = st.fixed_dictionaries(
    {},
    optional={
        "operations": st.sampled_from([0, 1, 2, 3, None]),
        "deadline": st.sampled_from(list(DEADLINES)),
        "closed": st.sampled_from([True, True, None]),
    },
)
teams = st.sampled_from([None, "growth", "core"])
moments = st.sampled_from(["now", "commit", "saved"])
pauses = st.sampled_from([PAUSE_SECONDS, PAUSE_SECONDS, 30.0, 3000.0, 100_000.0])
durations = st.sampled_from([0.05, 1.0, 6.0, 30.0, 100.0, 130.0, 400.0, 1300.0])
long_durations = st.sampled_from([0.05, 1.0, 6.0, 6.0, 30.0, 30.0, 100.0, 100.0, 400.0, 1300.0, 7300.0])
wanted_environments = st.fixed_dictionaries(
    {},
    optional={
        "base_url": st.sampled_from(["https://knock.example", "https://other.example"]),
        "branch": st.sampled_from([None, "feature"]),
        "http": st.booleans(),
        "rate_limit": st.sampled_from([1, 3, 20]),
        "processing": st.sampled_from([5, 20]),
        "queued": st.sampled_from([15, 30]),
        "slowest": st.sampled_from([60, 1800]),
        "not_found_after": st.sampled_from([600, 86_400]),
        "max_age": st.sampled_from([3600, 7 * 86_400]),
        "retention": st.sampled_from([200, 2000, 86_400]),
        "per_operation": st.sampled_from(["all", "active", "none"]),
        "per_operation_limit": st.sampled_from([0, 3, 1000]),
        "groups": st.sampled_from(
            [(), (("nightly", 600, 300),), (("nightly", 90_000, None), ("daily", None, 7200), ("idle", 3600, None))]
        ),
    },
)


class Samples:
    """A scrape, read."""

    def __init__(self, text: str) -> None:
        self.by_name: dict[str, list[tuple[dict[str, str], float]]] = {}
        for name, labels, value in _SAMPLE.findall(text):
            self.by_name.setdefault(name, []).append((dict(_LABEL.findall(labels)), float(value)))

    def __getitem__(self, name: str) -> list[tuple[dict[str, str], float]]:
        return self.by_name.get(name, [])

    def keyed(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Return the samples of a name by some labels, those apart that are 0."""
        return {tuple(found.get(each, "") for each in labels): value for found, value in self[name] if value}


def same(shown: dict[Any, Any], expected: dict[Any, Any], what: object) -> None:
    """Assert that two are the same, and tell the differences alone."""
    keys = [key for key in {**shown, **expected} if shown.get(key) != expected.get(key)]
    told = [f"{key} is {shown.get(key)}, not {expected.get(key)}" for key in keys]
    assert not told, f"{what}: {'; '.join(told)}"


class Machine(RuleBasedStateMachine):
    """An exporter with two environments, and a Knock."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="machine-", dir=_memory()))
        self.folders = 0
        self.time = Time()
        self.ids: list[str] = []
        self.lists: dict[tuple[str, str, str], list[tuple[str, str, Any, str | None]]] = {}
        self.shown: Counter[tuple[str, str]] = Counter()  # counted by former processes: family, environment
        self.excused: Counter[tuple[str, str]] = Counter()  # counted without a disk that kept it

    @initialize(seed=st.integers(0, 2**16), keeps=st.sampled_from([True, True, True, False]))
    def begin(self, seed: int, *, keeps: bool) -> None:
        self.keeps = keeps
        self.chance = Random(seed)
        self.knock = Knock(self.time, seed)
        self.reference = Reference(self.time)
        self.keys = {name: f"sk_test_{name}" for name in NAMES}
        environments = (
            WantedEnvironment(NAMES[0], per_operation="active", per_operation_limit=3),
            WantedEnvironment(NAMES[1]),
        )
        self.wanted = Wanted(environments, ("team",), AT_THE_LIMIT)
        self.start(self._next_folder())
        for order in ("for minutes", "for hours", "for days"):
            self.ids.append(self.knock.world.start(ORDERS[order]))
        self.register(NAMES[0], self.items(self.ids))

    def teardown(self) -> None:
        if hasattr(self, "exporter"):
            self.exporter.close()
        shutil.rmtree(self.root)

    # Processes and configurations.

    def _next_folder(self) -> Path:
        self.folders += 1
        folder = self.root / str(self.folders)
        if not folder.exists():
            folder.mkdir()
        return folder

    def write_config(self, folder: Path) -> None:
        """Write the configuration that is wanted."""
        wanted = self.wanted
        document: dict[str, Any] = {
            "environments": [_written(each) for each in wanted.environments],
            "labels": list(wanted.labels),
            "max_operations": wanted.limit,
            "registration": {"tokens": [{"token_file": "token"}]},
        }
        if self.keeps:
            document["storage"] = {"path": "state.db"}
        (folder / "token").write_text(TOKEN)
        (folder / "config.yaml").write_text(yaml.safe_dump(document))

    def start(self, folder: Path) -> None:
        self.write_config(folder)
        self.reference.start(self.wanted, self.keys, keeps=self.keeps)
        self.exporter = Exporter(self.time, self.knock, self.reference, folder, self.keys, self.chance.random)
        for place, listed in self.lists.items():  # sources are read soon
            self._list(*place, listed)

    def _list(self, name: str, kind: str, source: str, listed: list[tuple[str, str, Any, str | None]]) -> None:
        environment = self.reference.environments.get(name)
        if environment is None or (kind == "http" and not environment.wanted.http):
            return
        self.reference.list_all(name, (kind, source), listed)
        self.exporter.list_all(name, kind, source, listed)

    def reconfigure(self, wanted: Wanted) -> None:
        self.count_shown({each.name for each in self.wanted.environments} - {each.name for each in wanted.environments})
        before, self.wanted = self.wanted, wanted
        for each in before.environments:
            if each.http and not any(each.name == new.name and new.http for new in wanted.environments):
                self.lists.pop((each.name, *SOURCES[2]), None)
        self.write_config(self.exporter.folder)
        self.exporter.key_files = dict(self.keys)
        self.reference.configure(wanted, self.keys)
        shown = self.exporter.reconfigure()
        self.exporter.run(PAUSE_SECONDS)
        assert shown or self.exporter.hangs, "a reload was not answered"

    def known(self, numbers: list[int]) -> list[str]:
        return list(dict.fromkeys(self.ids[each % len(self.ids)] for each in numbers))

    def labels(self, team: str | None) -> tuple[tuple[str, str], ...]:
        return (("team", team),) if team is not None and "team" in self.wanted.labels else ()

    # Knock goes on.

    @precondition(lambda self: len(self.ids) < IDS_MOST)
    @rule(order=st.sampled_from(sorted(ORDERS)), name=names, created=st.booleans())
    def operation_is_created(self, order: str, name: str, *, created: bool) -> None:
        self.ids.append(self.knock.world.start(ORDERS[order]))
        self.register(name, self.items([self.ids[-1]], created=created))

    @rule(number=numbers, trouble=troubles)
    def one_is_troubled(self, number: int, trouble: str) -> None:
        [operation_id] = self.known([number])
        if self.knock.troubles.pop(operation_id, None) is None:
            self.knock.troubles[operation_id] = trouble

    @rule(number=numbers)
    def knock_forgets_one(self, number: int) -> None:
        [operation_id] = self.known([number])
        self.knock.troubles[operation_id] = "not found"
        self.pass_time(FORGOTTEN_SECONDS)

    @rule(troubles=st.lists(troubles, min_size=1, max_size=2), seconds=durations)
    def all_are_troubled_for_a_while(self, troubles: list[str], seconds: float) -> None:
        for each in troubles:
            self.knock.troubles[""] = each
            self.pass_time(seconds)
        self.knock.troubles.pop("", None)

    @rule(past=st.sampled_from([-5.0, 5.0]))
    def one_is_about_to_be_stale(self, past: float) -> None:
        age = self.reference.now.age
        left = [each.stale_at - age for each in self.reference.awake.values() if each.active and each.stale_at > age]
        if left and min(left) < WELL_SECONDS:
            self.knock.troubles[""] = "no connection"
            self.pass_time(max(0.0, min(left) + past))
            self.knock.troubles.pop("")

    @rule(number=numbers, oddity=st.sampled_from(sorted(ODDITIES)))
    def knock_tells_oddly(self, number: int, oddity: str) -> None:
        [operation_id] = self.known([number])
        if self.knock.oddities.pop(operation_id, None) is None:
            self.knock.oddities[operation_id] = oddity

    @rule(name=names, revoked=st.booleans(), seconds=durations)
    def key_is_replaced(self, name: str, *, revoked: bool, seconds: float) -> None:
        if revoked:
            self.knock.revoked.add(self.keys[name])
            self.pass_time(seconds)
        self.keys[name] = f"sk_test_{self.chance.random()}"
        self.exporter.key_files[name] = self.keys[name]
        if name in self.reference.environments:
            self.exporter.look_at_key(name)
        self.pass_time(PAUSE_SECONDS)

    @rule(seconds=long_durations)
    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        self.exporter.run(seconds if self.time.true < CALM_SECONDS else min(seconds, 40.0))

    @rule(seconds=st.sampled_from([-100_000.0, -3600.0, -40.0, -0.5, 0.5, 40.0, 3600.0, 100_000.0]))
    def wall_clock_is_set(self, seconds: float) -> None:
        before = self._hidden_runs()
        self.time.wall_step += seconds
        if self._hidden_runs() != before:  # which is noticed within a second
            self.pass_time(2.0)

    @rule(seconds=st.sampled_from([KEPT - 1000.0, KEPT + 1000.0]))
    def wall_clock_is_ahead_for_a_while(self, seconds: float) -> None:
        for each in (seconds, -seconds):
            self.all_is_as_it_should()
            self.time.wall_step += each
            self.pass_time(2.0)

    def _hidden_runs(self) -> set[GroupKey]:
        groups = self.reference.memory.groups.items()
        return {key for key, each in groups if each.run is not None and each.run.hidden(self.reference.now.wall)}

    @rule()
    def all_goes_well_for_long(self) -> None:
        """End all troubles: each operation that goes on is asked for as planned, and none stays stale."""
        self.knock.troubles.clear()
        self.knock.oddities.clear()
        self.knock.revoked.clear()
        self.disk_goes_on()
        self.pass_time(WELL_SECONDS)
        for key, each in self.reference.awake.items():
            late = self.reference.now.age - each.due.latest
            assert not each.active or late < SLACK_SECONDS, f"{key} should have been asked for {late} s ago"

    # Who names what.

    @rule(name=names, source=st.sampled_from(SOURCES), numbers=some, group=groups, team=teams, run=some_run)
    def source_lists(  # noqa: PLR0913 - what a list may say
        self, name: str, source: tuple[str, str], numbers: list[int], group: str, team: str | None, *, run: str | None
    ) -> None:
        environment = self.reference.environments.get(name)
        if environment is None or (source[0] == "http" and not environment.wanted.http):
            return
        listed = [(each, group, self.labels(team), run) for each in self.known(numbers)]
        self.lists[name, *source] = listed
        self._list(name, *source, listed)

    @rule(name=names, source=st.sampled_from(SOURCES))
    def source_breaks(self, name: str, source: tuple[str, str]) -> None:
        self.exporter.unread(name, *source)

    @rule(
        name=names, numbers=some.filter(bool), group=groups, team=teams, run=some_run, again=st.booleans(),
        created=st.booleans(),
    )  # fmt: skip
    def program_registers(  # noqa: PLR0913 - what a registration may say
        self,
        name: str,
        numbers: list[int],
        group: str,
        team: str | None,
        *,
        run: str | None,
        again: bool,
        created: bool,
    ) -> None:
        self.register(name, self.items(self.known(numbers), group, team, run=run, again=again, created=created))

    def items(  # noqa: PLR0913 - what a registration may say
        self,
        ids: list[str],
        group: str = "default",
        team: str | None = None,
        *,
        run: str | None = None,
        again: bool = False,
        created: bool = False,
    ) -> list[dict[str, Any]]:
        """Return what a program hands over: with its create answer, while that is what Knock has of an operation."""
        items = []
        for each in ids:
            record = self.knock.world.read(each)
            birth = record if created and record is not None and record["status"] == "queued" else {}
            named = {} if run is None else {"run": run}
            items.append(
                {"id": each, "group": group, "labels": dict(self.labels(team)), "again": again} | named | birth
            )
        return items

    def register(self, name: str, items: list[dict[str, Any]]) -> None:
        path = f"/api/v1/operations/{name}"
        if name not in self.reference.environments:
            assert self.exporter.request("POST", path, items)[0] == 404
            return
        states = self.expect_states(name, items)
        status, answer = self.exporter.request("POST", path, items)
        if self.disk_fails:
            assert status == 503, "a registration was accepted that is not on disk"
            return
        assert status == (200 if any(states.values()) else 503), answer
        for each in answer["accepted"]:
            told, doubtful = states[each["id"]], self.reference.doubtful.get((name, each["id"]))
            assert each["state"] == told or (doubtful is not None and each["state"] == doubtful.state), each["id"]
        assert {each["id"] for each in answer["rejected"]} == {each for each, state in states.items() if state is None}
        if status == 200:
            assert answer["durable"] == self.keeps
            self.note_accepted(name, items)

    def expect_states(self, name: str, items: list[dict[str, Any]]) -> dict[str, str | None]:
        states = {}
        for each in items:
            says = each["group"], tuple(each["labels"].items()), each.get("run")
            created = (each["name"], each["inserted_at"]) if "inserted_at" in each else None
            states[each["id"]] = self.reference.register((name, each["id"]), says, created, again=each["again"])
        return states

    def note_accepted(self, name: str, items: list[dict[str, Any]]) -> None:
        if self.keeps:
            ids = {(name, each["id"]) for each in items}
            self.reference.accepted |= ids & self.reference.memory.operations.keys()

    @rule(name=names, number=numbers)
    def program_releases(self, name: str, number: int) -> None:
        self.release(name, *self.known([number]))

    @rule(name=names, group=groups)
    def failures_are_forgotten(self, name: str, group: str) -> None:
        for key, each in list(self.reference.awake.items()):
            if (key[0], each.group) == (name, group) and each.final is not None and not each.clean:
                self.release(*key)

    def release(self, name: str, operation_id: str) -> None:
        known = name in self.reference.environments
        expected = self.reference.release((name, operation_id)) if known else 404
        status, _ = self.exporter.request("DELETE", f"/api/v1/operations/{name}/{operation_id}")
        # Whether an answer may be given is learnt with the next commit, also where nothing is to be written.
        allowed = {expected} if not self.disk_fails or not known else {expected, 503} - {200}
        assert status in allowed, f"DELETE of {operation_id} is answered {status}, not {expected}"

    # Runs.

    @rule(name=names, group=groups, run=runs, says=says)
    def job_says(self, name: str, group: str, run: str, says: dict[str, Any]) -> None:
        self.say(name, group, run, says)

    @rule(name=names, group=groups, run=runs, nonsense=st.sampled_from(NONSENSE))
    def job_says_nonsense(self, name: str, group: str, run: str, nonsense: Any) -> None:
        status, _ = self.exporter.request("PUT", f"/api/v1/groups/{name}/{group}/runs/{run}", nonsense)
        assert status == (422 if name in self.reference.environments else 404), f"{nonsense} is answered {status}"

    @rule(
        name=names, group=groups, run=runs, numbers=some, expected=st.sampled_from([None, 0, 1, 2, 4]),
        closes=st.sampled_from([True, True, False]),
    )  # fmt: skip
    def job_runs(  # noqa: PLR0913 - what a job may do
        self, name: str, group: str, run: str, numbers: list[int], expected: int | None, *, closes: bool
    ) -> None:
        says = {"operations": expected} | ({} if closes else {"deadline": "100s"})
        if self.say(name, group, run, says) == 200:
            if numbers:
                self.register(name, self.items(self.known(numbers), group, run=run, again=True))
            if closes:
                self.say(name, group, run, {"closed": True})

    def say(self, name: str, group: str, run: str, says: dict[str, Any]) -> int:
        known = name in self.reference.environments
        expected = self.expect_run((name, group), run, says) if known else 404
        status, answer = self.exporter.request("PUT", f"/api/v1/groups/{name}/{group}/runs/{run}", says)
        allowed = {expected} if not self.disk_fails or not known else {expected, 503} - {200}
        assert status in allowed, f"{says} of {run} is answered {status}, not {expected}: {answer}"
        if status == 200:
            kept = self.reference.memory.groups[name, group].run
            assert kept is not None
            told = answer["run"]
            assert told is not None, f"the run {run} is answered, and not shown"
            assert (told["id"], told["expected_operations"]) == (run, kept.operations)
            assert (told["closed_at"] is None) == (kept.closed is None)
            assert answer["durable"] == self.keeps
            self.note_opened((name, group))
        return status

    def expect_run(self, key: GroupKey, run: str, says: dict[str, Any]) -> int:
        changes = says | ({"deadline": DEADLINES[says["deadline"]]} if "deadline" in says else {})
        if self.reference.put_run(key, run, changes) is not None:
            return 409
        if (key, run) in self.reference.opened:
            self.reference.opened[key, run] = None
        return 200

    def note_opened(self, key: GroupKey) -> None:
        run = self.reference.memory.groups[key].run
        if self.keeps and run is not None:
            self.reference.opened[key, run.id] = run.told

    # The configuration.

    @rule(name=names, numbers=some, group=groups, team=teams, run=some_run)
    def configuration_lists(self, name: str, numbers: list[int], group: str, team: str | None, run: str | None) -> None:
        listed = tuple((each, group, self.labels(team), run) for each in self.known(numbers))
        wanted = [replace(each, operations=listed) if each.name == name else each for each in self.wanted.environments]
        self.reconfigure(replace(self.wanted, environments=tuple(wanted)))

    @rule(name=names, changes=wanted_environments)
    def environment_changes(self, name: str, changes: dict[str, Any]) -> None:
        if not self.keeps:
            changes.pop("groups", None)  # which is a mistake there
        wanted = [replace(each, **changes) if each.name == name else each for each in self.wanted.environments]
        self.reconfigure(replace(self.wanted, environments=tuple(wanted)))

    @rule(
        limit=st.sampled_from([2, AT_THE_LIMIT, AT_THE_LIMIT, 50]), labels=st.sampled_from([("team",), ("team",), ()])
    )
    def all_changes(self, limit: int, labels: tuple[str, ...]) -> None:
        environments = self.wanted.environments
        if not labels:
            environments = tuple(
                replace(each, operations=tuple((id_, group, (), run) for id_, group, _, run in each.operations))
                for each in environments
            )
        self.reconfigure(Wanted(environments, labels, limit))

    @rule(name=names, shares_key=st.booleans())
    def environment_goes_or_comes(self, name: str, *, shares_key: bool) -> None:
        left = tuple(each for each in self.wanted.environments if each.name != name)
        if shares_key:
            self.keys[name] = self.keys[next(each for each in NAMES if each != name)]
        if left == self.wanted.environments:
            left = (*left, WantedEnvironment(name))
        if left:
            self.reconfigure(replace(self.wanted, environments=left))

    # The disk, and the end of a process.

    @property
    def disk_fails(self) -> bool:
        return self.exporter.hangs or self.exporter.disk_is_full

    @precondition(lambda self: self.keeps and not self.exporter.disk_is_full)
    @rule(seconds=st.sampled_from([0.5, 2.0, 30.0]))
    def disk_hangs(self, seconds: float) -> None:
        self.exporter.hang(hangs=True)
        self.pass_time(seconds)

    @precondition(lambda self: self.keeps and not self.exporter.hangs)
    @rule()
    def disk_is_full(self) -> None:
        self.exporter.disk_is_full = True
        self.pass_time(2.0)  # the next commit tells
        for each in self.reference.environments:  # a commit fails at the latest where somebody waits for one
            self.register(each, self.items(self.known([0])))

    @rule()
    def disk_goes_on(self) -> None:
        self.exporter.hang(hangs=False)
        if self.exporter.disk_is_full:
            self.exporter.disk_is_full = False
            self.pass_time(2.5)

    @precondition(lambda self: self.keeps and not self.disk_fails)
    @rule(kind=st.sampled_from(["overwritten", "cut", "deleted", "log cut"]))
    def file_is_damaged(self, kind: str) -> None:
        path = self.exporter.folder / "state.db"
        log = self.exporter.folder / "state.db-wal"
        if kind == "deleted":
            path.unlink()
            log.unlink(missing_ok=True)
        elif kind == "log cut":
            log.write_bytes(b"")
        elif kind == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            path.write_bytes(self.chance.randbytes(path.stat().st_size))
        self.pass_time(61.0 + 3)  # noticed with the next commit, the last of which is a minute away

    @rule(pause=pauses, reboots=st.booleans())
    def process_ends(self, pause: float, *, reboots: bool) -> None:
        self.restart(pause, reboots=reboots, kills=False)

    @rule(moment=moments, within=st.sampled_from([0.3, 6.0, 20.0]), pause=pauses, reboots=st.booleans())
    def process_is_killed(self, moment: str, within: float, pause: float, *, reboots: bool) -> None:
        if moment != "now":
            self.exporter.run(within, lambda: self.exporter.waits_for(moment))
        self.restart(pause, reboots=reboots, kills=True)

    @rule(
        name=names, numbers=some.filter(bool), created=st.booleans(), moment=moments, pause=pauses, quick=st.booleans()
    )
    def process_is_killed_while_a_program_registers(  # noqa: PLR0913 - what happens, and when
        self, name: str, numbers: list[int], moment: str, pause: float, *, created: bool, quick: bool
    ) -> None:
        if name not in self.reference.environments:
            return
        items = self.items(self.known(numbers), created=created)
        states = self.expect_states(name, items)
        answers = self.exporter.begin_registration(name, items)
        if not quick:
            self.exporter.run(6.0, lambda: bool(answers))
            for told, saved in answers:
                if not self.reference.doubtful:
                    assert told == states
                if saved:
                    self.note_accepted(name, items)
        if moment != "now":
            self.exporter.run(0.3, lambda: self.exporter.waits_for(moment))
        self.restart(pause, reboots=False, kills=True)

    @rule(name=names, group=groups, run=runs, says=says, moment=moments, pause=pauses, quick=st.booleans())
    def process_is_killed_while_a_job_says(  # noqa: PLR0913 - what happens, and when
        self, name: str, group: str, run: str, says: dict[str, Any], *, moment: str, pause: float, quick: bool
    ) -> None:
        if name not in self.reference.environments:
            return
        expected = self.expect_run((name, group), run, says)
        answers = self.exporter.begin_run(name, group, run, says)
        if not quick:
            self.exporter.run(6.0, lambda: bool(answers))
            if expected == 200 and answers == [True]:
                self.note_opened((name, group))
        if moment != "now":
            self.exporter.run(0.3, lambda: self.exporter.waits_for(moment))
        self.restart(pause, reboots=False, kills=True)

    def restart(self, pause: float, *, reboots: bool, kills: bool) -> None:
        self.count_shown(set(NAMES))
        groups, opened = self.reference.memory.groups, self.reference.opened
        self.reference.opened = {(key, run): told for (key, run), told in opened.items() if groups[key].knows(run)}
        folder = self.exporter.folder
        if kills:
            left = self.root / str(self.folders + 1)
            self.exporter.kill(left)
            folder = self._next_folder()
        else:
            self.exporter.end()
        if self.keeps:
            self._resolve(folder)
        self.time.sleep(pause if self.time.true < CALM_SECONDS else min(pause, 30.0))
        if reboots:
            self.time.mono = 20.0
        self.start(folder)
        lost = self.reference.accepted - self.reference.memory.operations.keys()
        assert not lost, f"{lost} were registered, and are forgotten"
        groups = self.reference.memory.groups
        for (key, run_id), told in self.reference.opened.items():
            group = groups.get(key, Group())
            assert group.knows(run_id), f"the run {run_id} of {key} was opened, and is forgotten"
            if told is not None and group.run is not None and group.run.id == run_id:
                assert group.run.told == told, f"what was said of the run {run_id} of {key} is forgotten"

    def _resolve(self, folder: Path) -> None:
        """Note what the last process committed of what only its own clock decided: who had left, who was let in."""
        stored = _stored(folder)
        followed, tombstones = stored.operations.keys(), stored.tombstones
        durable, memory = self.reference.durable, self.reference.memory
        for key in [key for key in self.reference.waiting if key in followed - durable.operations.keys()]:
            self.reference.enter_waiting(key)
        for key in durable.operations.keys() - followed:
            is_over = key in self.reference.awake and self.reference.overdue(key) >= 0
            if key in tombstones and (is_over or key not in memory.operations):
                durable.leave(key, durable.operations.pop(key), self.reference.earliest, self.reference.now)
                durable.tombstones[key] = tombstones[key]
                self.reference.accepted.discard(key)
        for key in followed - durable.operations.keys():
            if key in memory.operations and not memory.operations[key].exact:
                each = durable.operations[key] = memory.operations[key]
                if durable.is_member(key, each):
                    durable.change_run((key[0], each.group), self.reference.earliest, self.reference.now)
                durable.tombstones.pop(key, None)
                durable.says[key] = dict(memory.says[key])

    @rule(moment=st.sampled_from(["commit", "saved"]))
    def scrapes_come_between_commits(self, moment: str) -> None:
        for _ in range(4):
            self.exporter.run(30.0, lambda: self.exporter.waits_for(moment))
            self.counted_on_disk(set(NAMES))
            self.exporter.run(0.3)

    # What holds at any time.

    def counted_on_disk(self, names: set[str]) -> dict[tuple[str, str], int]:
        """Return what counters show now, by family and environment: no more than has its mark on disk."""
        samples, counted = Samples(self.exporter.request("GET", "/metrics")[1]), {}
        checks = self.keeps and not self.disk_fails
        for family, what in COUNTERS.items():
            for name in self.reference.environments.keys() & names:
                shown = int(_sum(samples, f"knock_bulk_operations_{family}", {"knock_environment": name}))
                kept = self.reference.durable.counters[name, what]
                # That something has retired is learnt late.
                assert shown <= kept or what == "retired" or not checks, f"{family} shows {shown}, on disk is {kept}"
                counted[family, name] = shown
        return counted

    def count_shown(self, going: set[str]) -> None:
        """Add up what the counters of environments that go have shown."""
        self.shown.update(self.counted_on_disk(going))
        if going == set(NAMES) and (self.disk_fails or (not self.keeps and self.time.wall_step < 0)):
            # What was shown without a commit, or is new by a clock that was set back, may be counted again.
            for family, index in TRUTH.items():
                for key, most in self.knock.most.items():
                    followed = self.reference.durable.operations.get(key)
                    self.excused[family, key[0]] += most[index] - ((followed.marks[index] if followed else 0) or 0)

    def settle(self) -> tuple[dict[Key, dict[str, Any]], Samples] | None:
        """Let all that happened be shown; return it, None while a disk that hangs holds it up."""
        self.exporter.holds_answers = True
        try:
            for _ in range(20):
                self.exporter.run(0.4)
                if self.exporter.shows_all:
                    break
            else:
                assert self.exporter.hangs, "what changed is never shown"
                return None
            return self._shown()
        finally:
            self.exporter.holds_answers = False

    def _shown(self) -> tuple[dict[Key, dict[str, Any]], Samples]:
        reference = self.reference
        for _ in range(int(LATE / 0.4)):
            listed = self._listed()
            for key in [key for key in reference.awake if key not in listed and reference.overdue(key) >= 0]:
                reference.retire(key, "retention", late=True)
            for key in listed.keys() - reference.awake.keys():
                assert key in reference.waiting, f"{key} is followed, and nobody named it"
                reference.enter_waiting(key)
                reference.blurred = True
            for key in reference.doubtful.keys() & listed.keys():
                if listed[key]["status"] == reference.doubtful[key].state:
                    reference.is_back(key)
            reference.doubtful.clear()
            assert reference.awake.keys() == listed.keys(), f"{reference.awake.keys() - listed.keys()} is forgotten"
            late = [key for key in reference.awake if reference.overdue(key) >= 0]
            assert all(reference.overdue(key) <= LATE for key in late), f"{late} should have gone"
            if not late and not (reference.waiting and reference.has_room()):
                return listed, Samples(self.exporter.request("GET", "/metrics")[1])
            self.exporter.run(0.4)
        raise AssertionError(f"{late or reference.waiting} wait to go or come for no reason")

    def _listed(self) -> dict[Key, dict[str, Any]]:
        status, answer = self.exporter.request("GET", "/api/v1/operations?limit=1000")
        assert status == 200
        return {(each["environment"], each["id"]): each for each in answer["operations"]}

    @invariant()
    def all_is_as_it_should(self) -> None:
        shown = self.settle()
        if shown is None:
            return
        listed, samples = shown
        self._check_operations(listed)
        self._check_series(samples)
        self._check_sums(listed, samples)
        self._check_oldest(samples)
        self._check_counters(samples)
        self._check_limit(listed, samples)
        self._check_groups(samples)
        if self.keeps and not self.disk_fails:
            self._check_file()

    def _check_operations(self, listed: dict[Key, dict[str, Any]]) -> None:
        for key, each in self.reference.awake.items():
            shown, said = listed[key], each.said or {}
            expected = {
                "status": each.state,
                "group": each.group,
                "labels": dict(each.labels),
                "name": each.name,
                "with_errors": each.has_errors,
                "processed_rows": said.get("processed_rows"),
                "estimated_total_rows": said.get("estimated_total_rows"),
                "success_count": said.get("success_count"),
                "error_count": said.get("error_count"),
                "last_poll_succeeded": each.up,
            }
            same({name: shown[name] for name in expected}, expected, key)
            assert (shown["next_poll_at"] is None) == (not each.active), key
            left = each.stale_at - self.reference.now.age
            if abs(left) > 2 or not each.active:
                assert shown["stale"] == (each.active and left < 0), f"{key}: stale in {left} s"

    def _exposed(self) -> dict[Key, Followed]:
        """Return the operations that have series of their own."""
        exposed: dict[Key, Followed] = {}
        for name, environment in self.reference.environments.items():
            wanted = environment.wanted
            ranked = []
            for key, each in self.reference.awake.items():
                hidden = each.final is not None and each.clean and self.reference.now.age >= each.final.age + 900
                if key[0] != name or each.lost or (wanted.per_operation == "active" and hidden):
                    continue
                newest = each.time("inserted_at")
                level = 0 if each.active else 1 if each.status == "failed" else 2
                ranked.append((level, -(each.registration.wall if newest is None else newest), key))
            if wanted.per_operation != "none":
                exposed |= {
                    key: self.reference.memory.operations[key]
                    for *_, key in sorted(ranked)[: wanted.per_operation_limit]
                }
        return exposed

    def _is_edge(self) -> bool:
        """Whether the series of an operation may go now or in a moment."""
        over = (self.reference.now.age - each.final.age for each in self.reference.awake.values() if each.final)
        return any(899 < each < 900 + LATE for each in over)

    def _check_series(self, samples: Samples) -> None:
        if self._is_edge():
            return
        exposed = self._exposed()
        expected: dict[str, dict[Key, float]] = {}

        def put(family: str, key: Key, value: float | None) -> None:
            if value is not None:
                expected.setdefault(family, {})[key] = float(value)

        for key, each in exposed.items():
            for family, field in FAMILIES.items():
                put(family, key, (each.said or {}).get(field))
            items = (each.said or {}).get("error_items")
            put("error_items", key, None if items is None else len(items))
            put("up", key, each.up)
            put("info", key, None if each.said is None else 1)
            for name in ("inserted", "started", "updated"):
                put(f"{name}_timestamp_seconds", key, each.time(f"{name}_at"))
            put("finished_timestamp_seconds", key, each.finished)
            put("duration_seconds", key, each.ran_for)
            put("last_success_timestamp_seconds", key, each.success.wall if each.success else None)
            put("last_change_timestamp_seconds", key, each.change.wall if each.change else None)
        for family in SINGLE | expected.keys():
            shown = {
                (labels["knock_environment"], labels["operation_id"]): value
                for labels, value in samples[f"knock_bulk_operation_{family}"]
            }
            wanted = expected.get(family, {})
            assert shown.keys() == wanted.keys(), f"{family} is shown of {shown.keys()}, not of {wanted.keys()}"
            for key, value in wanted.items():
                assert abs(shown[key] - value) < 0.001, f"{family} of {key} is {shown[key]}, not {value}"
        statuses = samples.keyed("knock_bulk_operation_status", "knock_environment", "operation_id", "status")
        assert statuses.keys() == {(*key, each.status) for key, each in exposed.items() if each.said is not None}
        for labels, _ in samples["knock_bulk_operation_info"]:
            each = exposed[labels["knock_environment"], labels["operation_id"]]
            own = {"group": each.group, "name": each.name}
            own |= {label: dict(each.labels).get(label, "") for label in self.wanted.labels}
            assert labels.items() >= own.items(), labels

    def _check_sums(self, listed: dict[Key, dict[str, Any]], samples: Samples) -> None:
        sums: dict[str, Counter[tuple[str, ...]]] = {
            name: Counter() for name in ("", "_stale", "_completed_with_errors", *SUMS)
        }
        for each in listed.values():
            place = each["environment"], each["group"], each["name"]
            sums[""][*place, each["status"]] += 1
            if each["status"] == "lost":
                continue
            sums["_stale"][place] += each["stale"]
            sums["_completed_with_errors"][place] += each["status"] == "completed" and each["with_errors"]
            for name, field in SUMS.items():
                if name.startswith("_tracked") or each["status"] not in {"completed", "failed"}:
                    sums[name][place] += each[field] or 0
        for name, counted in sums.items():
            shown = samples.keyed(f"knock_bulk_operations{name}", "knock_environment", "group", "name", "status")
            expected = {(*place, "")[:4]: value for place, value in counted.items() if value}
            same(shown, expected, name)

    def _check_oldest(self, samples: Samples) -> None:
        oldest: dict[str, dict[Cell, float]] = {
            "active_inserted": {},
            "active_last_success": {},
            "processing_change": {},
        }
        for key, each in self.reference.awake.items():
            if not each.active:
                continue
            changed = each.change.wall if each.change and each.status == "processing" else None
            since = (each.time("inserted_at"), (each.success or each.registration).wall, changed)
            for found, value in zip(oldest.values(), since, strict=True):
                cell = key[0], each.group, each.name
                if value is not None:
                    found[cell] = min(value, found.get(cell, value))
        exact = all(each.exact for each in self.reference.awake.values())
        for name, expected in oldest.items():
            family = f"knock_bulk_operations_oldest_{name}_timestamp_seconds"
            shown = samples.keyed(family, "knock_environment", "group", "name")
            assert shown.keys() == expected.keys(), name
            if exact:
                same(
                    {cell: round(each, 2) for cell, each in shown.items()},
                    {cell: round(each, 2) for cell, each in expected.items()},
                    name,
                )

    def _check_counters(self, samples: Samples) -> None:
        for family, counted in COUNTERS.items():
            label = "reason" if counted == "retired" else "status"
            if counted == "retired" and self.reference.blurred:
                continue
            shown = samples.keyed(f"knock_bulk_operations_{family}", "knock_environment", "group", "name", label)
            expected = {
                (name, *place): value
                for name, environment in self.reference.environments.items()
                for (what, *place), value in environment.counters.items()
                if what == counted and value
            }
            same(shown, expected, family)
        for family, index in TRUTH.items():
            for name in NAMES:
                now = sum(
                    value
                    for (environment, *_), value in samples.keyed(
                        f"knock_bulk_operations_{family}", "knock_environment", "group", "name"
                    ).items()
                    if environment == name
                )
                truth = sum(most[index] for (environment, _), most in self.knock.most.items() if environment == name)
                assert self.shown[family, name] + now <= truth + self.excused[family, name], f"{family} of {name}"
        for name, environment in self.reference.environments.items():
            own = {"knock_environment": name}
            assert _sum(samples, "knock_exporter_polls_total", own) == environment.polls
            for reason, count in environment.failures.items():
                assert _sum(samples, "knock_exporter_poll_failures_total", own | {"reason": reason}) == count, reason
            for code, count in environment.requests.items():
                assert _sum(samples, "knock_exporter_api_requests_total", own | {"code": code}) == count, code
            refused = _sum(samples, "knock_exporter_operations_refused_total", own | {"reason": "limit"})
            assert refused == environment.refused
        self._check_seen(samples)

    def _check_seen(self, samples: Samples) -> None:
        for index, name in enumerate(("completed", "failed", "failed_seen", "completed_with_errors_seen")):
            family = f"knock_bulk_operations_last_{name}_timestamp_seconds"
            expected = {
                cell: value
                for cell, each in self.reference.memory.seen.items()
                if cell[0] in self.reference.environments and (value := each[index]) is not None
            }
            same(samples.keyed(family, "knock_environment", "group", "name"), expected, name)

    def _check_limit(self, listed: dict[Key, dict[str, Any]], samples: Samples) -> None:
        for name in self.reference.environments:
            own = sum(key[0] == name for key in listed)
            assert _sum(samples, "knock_exporter_operations", {"knock_environment": name}) == own
            if not self._is_edge():
                hidden = own - sum(key[0] == name for key in self._exposed())
                hidden -= sum(each["status"] == "lost" for key, each in listed.items() if key[0] == name)
                assert _sum(samples, "knock_exporter_operations_not_exposed", {"knock_environment": name}) == hidden
        assert len(listed) <= self.reference.ceiling, f"{len(listed)} are followed, the limit is {self.wanted.limit}"
        self.reference.ceiling = max(len(listed), self.wanted.limit)

    # Groups.

    def _check_groups(self, samples: Samples) -> None:
        reference = self.reference
        keys = {key for key in reference.memory.groups if key[0] in reference.environments}
        keys |= {(key[0], each.group) for key, each in reference.awake.items()}
        declared = {(name, each) for name, it in reference.environments.items() for each, *_ in it.wanted.groups}
        status, answer = self.exporter.request("GET", "/api/v1/groups")
        assert status == 200
        told = {(each["environment"], each["group"]): each for each in answer["groups"]}
        expected: dict[str, dict[tuple[str, ...], float]] = {family: {} for family in GROUP_FAMILIES}
        states: dict[tuple[str, ...], float] = {}
        shown = set()
        for key in keys | declared:
            run = reference.run_of(key)
            if run is not None and run.hidden(reference.now.wall) is None:
                return  # it is hidden about now
            sums, tracked = reference.memory.sums(key) if run is not None else None, reference.tracked(key)
            facts = self._facts(key, run, sums)
            for family, fact in GROUP_FAMILIES.items():
                if facts[fact] is not None:
                    expected[family][key] = facts[fact]
            if sums is not None:
                states |= {(*key, state): float(count) for state, count in sums.states.items() if count}
            if run is not None or key in declared or tracked.states.total():
                shown.add(key)
                self._check_document(key, told[key], run, sums)
        assert told.keys() == shown, f"groups are {told.keys()}, not {shown}"
        for family, values in expected.items():
            found: dict[tuple[str, ...], float] = {
                (labels["knock_environment"], labels["group"]): value
                for labels, value in samples[f"knock_group_{family}"]
            }
            assert found.keys() == values.keys(), f"{family} is shown of {found.keys()}, not of {values.keys()}"
            for place, value in values.items():
                assert abs(found[place] - value) < 0.001, f"{family} of {place} is {found[place]}, not {value}"
        same(samples.keyed("knock_group_run_operations", "knock_environment", "group", "status"), states, "of runs")
        zeros = Counter(
            (labels["knock_environment"], labels["group"]) for labels, _ in samples["knock_group_run_operations"]
        )
        assert all(count == len(STATES) for count in zeros.values()), "not of all states"

    def _facts(self, key: GroupKey, run: Run | None, sums: Sums | None) -> dict[str, Any]:
        """Return what families and documents tell of a group."""
        of_run = {each: run and getattr(run, each) for each in ("opened", "closed", "finished", "operations")}
        of_sums = {each: sums and getattr(sums, each) for each in ("processed", "estimated", "errors")}
        expected = self.reference.expectation(key)[0]
        return {
            "every": expected, "last_run": self.reference.last_run(key), "deadline": self.reference.deadline(key),
            **of_run, **of_sums,
        }  # fmt: skip

    def _check_document(self, key: GroupKey, told: dict[str, Any], run: Run | None, sums: Sums | None) -> None:
        reference, tracked = self.reference, self.reference.tracked(key)
        facts, of = self._facts(key, run, sums), tracked if sums is None else sums
        expected = {
            "state": reference.state(key),
            "every_seconds": facts["every"],
            "last_run_at": facts["last_run"],
            "operations": {state: tracked.states[state] for state in STATES},
            "with_errors": tracked.with_errors,
            "rows_processed": tracked.processed,
            "rows_estimated": tracked.estimated,
            "errors": tracked.errors,
        }
        progress = None
        if run is not None and run.operations:
            progress = min(of.ended / run.operations, 1.0)
        elif of.estimated:
            progress = min(of.processed / of.estimated, 0.99 if of.unfinished else 1.0)
        expected["progress"] = progress
        expected["progress_of"] = None if progress is None else "operations" if run and run.operations else "rows"
        elapsed = None if run is None else reference.now.wall - run.opened
        left = None
        if run is not None and run.operations is not None and run.finished is None and of.unfinished:
            left = elapsed / progress - elapsed if progress and elapsed and elapsed > 0 else None
        expected["time_left_seconds"] = left
        self._same_document({each: told[each] for each in expected}, expected, key)
        assert (told["run"] is None) == (run is None), f"{key}: the run is {told['run']}"
        if run is None or sums is None:
            return
        expected = {
            "id": run.id,
            "opened_at": run.opened,
            "deadline_at": facts["deadline"],
            "closed_at": run.closed,
            "finished_at": run.finished,
            "expected_operations": run.operations,
            "operations": {state: sums.states[state] for state in STATES},
            "with_errors": sums.with_errors,
            "rows_processed": sums.processed,
            "rows_estimated": sums.estimated,
            "errors": sums.errors,
        }
        self._same_document(told["run"], expected, (key, "run"))

    def _same_document(self, told: dict[str, Any], expected: dict[str, Any], what: object) -> None:
        for name, value in expected.items():
            shown = told[name]
            if name.endswith("_at"):  # to the second
                shown, value = shown and read_time(shown), value and math.floor(value)  # noqa: PLW2901
            close = isinstance(value, float) and shown is not None and abs(shown - value) <= 0.01
            assert close or shown == value, f"{name} of {what} is {shown}, not {value}"

    def _check_file(self) -> None:
        stored, memory = _stored(self.exporter.folder), self.reference.memory
        same(
            stored.operations, {key: each.run for key, each in memory.operations.items()}, "runs of operations on disk"
        )
        same(stored.tombstones, memory.tombstones, "tombstones")
        groups = {key: each for key, each in memory.groups.items() if each != Group()}
        assert stored.groups.keys() == groups.keys(), f"groups on disk are {stored.groups.keys()}, not {groups.keys()}"
        for key, group in groups.items():
            found, run = stored.groups[key], group.run
            assert (found.get("run") is None) == (run is None), f"{key}: {found}"
            expected: dict[str, Any] = {"last_inserted": group.last_inserted, "every_since": group.every_since}
            self._same_document({each: found.get(each) for each in expected}, expected, key)
            assert found.get("past", {}).keys() == set(group.past_ids), f"{key}: {found}"
            if run is not None:
                kept = found["run"]
                expected = {
                    name: getattr(run, name)
                    for name in ("id", "opened", "operations", "deadline", "closed", "finished")
                }
                self._same_document({each: kept.get(each) for each in expected}, expected, key)
                first, last = run.newest
                assert first.wall - 0.01 <= kept["newest"] <= last.wall + 0.01, f"{key}: {kept}, not {run.newest}"
                gone = kept.get("gone", {})
                expected = {
                    "operations": dict(run.gone.states),
                    "with_errors": run.gone.with_errors,
                    "rows_processed": run.gone.processed,
                    "rows_estimated": run.gone.estimated,
                    "errors": run.gone.errors,
                }
                self._same_document(
                    {each: gone.get(each, {} if each == "operations" else 0) for each in expected}, expected, key
                )


def _memory() -> str | None:
    """Return a folder that no disk is behind, where there is one: nothing here tests the disk's own speed."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own is made in it


class Stored(NamedTuple):
    """What a state file holds: the runs of operations, tombstones, and groups."""

    operations: dict[Key, str | None]
    tombstones: dict[Key, Stone]
    groups: dict[GroupKey, dict[str, Any]]


def _stored(folder: Path) -> Stored:
    """Read what a state file holds, as docs/state.md describes it."""
    with closing(sqlite3.connect(f"file:{folder}/state.db?mode=ro", uri=True)) as file:
        operations = {
            (name, each): run for name, each, run in file.execute("SELECT environment, id, run FROM operations")
        }
        stones = file.execute("SELECT environment, lower(hex(id)), retired, counted FROM tombstones").fetchall()
        documents = file.execute("SELECT environment, document FROM documents WHERE kind = 'group'").fetchall()
    groups = {(name, document["group"]): document for name, text in documents for document in [json.loads(text)]}
    return Stored(
        operations,
        {(name, str(uuid.UUID(each))): Stone(bool(retired), bool(counted)) for name, each, retired, counted in stones},
        groups,
    )


def _written(each: WantedEnvironment) -> dict[str, Any]:
    operations = [
        {"id": id_, "group": group, "labels": dict(labels)} | ({} if run is None else {"run": run})
        for id_, group, labels, run in each.operations
    ]
    polling = {
        name: f"{getattr(each, name)}s" for name in ("processing", "queued", "slowest", "not_found_after", "max_age")
    }
    written = {
        "name": each.name,
        "api_key_env": f"KEY_{each.name}",
        "base_url": each.base_url,
        "operations": operations,
        "rate_limit": each.rate_limit,
        "polling": polling,
        "retention": f"{each.retention}s",
        "per_operation": each.per_operation,
        "per_operation_limit": each.per_operation_limit,
    }
    if each.groups:
        written["groups"] = [
            {"name": name}
            | {key: f"{value}s" for key, value in (("every", every), ("deadline", span)) if value is not None}
            for name, every, span in each.groups
        ]
    if each.branch is not None:
        written["branch"] = each.branch
    if each.http:
        written["operations_http"] = [{"url": SOURCES[2][1]}]
    return written


def _sum(samples: Samples, name: str, labels: dict[str, str]) -> float:
    return sum(value for found, value in samples[name] if labels.items() <= found.items())
