"""Looking at a state, taking it out, and putting it together with another: nothing lost, nothing counted twice."""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from model import WALL, ids, running
from test_store import CELL, ENVIRONMENT, Clock, impatient, kept, key

from exporter.cli import main
from exporter.errors import StartError
from exporter.operation import Status
from exporter.store import database, portable
from exporter.store.lock import Patience
from exporter.store.merge import merge, settled
from exporter.store.opening import open_store
from exporter.store.transfer import take_in
from exporter.tracking.exposure import GROUPS_MOST, OTHER
from exporter.tracking.memberships import API, CONFIG, Membership, SourceKey, SourceKind
from exporter.tracking.memory import Changes, Memory, StoredAggregate, StoredOperation
from exporter.tracking.tombstones import Tombstone, Tombstones
from exporter.tracking.transitions import NO_MARKS, Marks, Moment

if TYPE_CHECKING:
    from click.testing import Result

A, B, C, D = ids(4)
NOW = Moment(1000.0, WALL)
STATE = Memory(
    {key(A): kept(A, NOW), key(B): kept(B, NOW), key(C, "staging"): kept(C, NOW, "staging")},
    Tombstones({key(D): Tombstone(900.0, retired=True)}),
    {("production", "nightly", "users.identify"): CELL},
    {"production": ENVIRONMENT, "staging": replace(ENVIRONMENT, asleep_since=990.0)},
)


def write(path: Path, memory: Memory, clock: Clock) -> None:
    store, _ = open_store(path, clock)
    store.commit(
        Changes(1, clock.now, memory.operations, memory.tombstones, memory.aggregates, memory.environments), impatient
    )
    store.close()


def read(path: Path, clock: Clock) -> Memory:
    store, memory = open_store(path, clock)
    store.close()
    return memory


def never(*row: str) -> None:
    raise AssertionError(row)


def export(path: Path, *environments: str) -> list[str]:
    with database.reading(path) as connection:
        return list(portable.export(connection, environments, never))


def put_in(path: Path, lines: list[str], clock: Clock) -> list[str]:
    patience = Patience(3.0, clock, clock.sleep)
    return take_in(path, [line.encode() for line in lines], clock, patience, never)


def call(*args: str, text: str | bytes = "") -> Result:
    return CliRunner().invoke(main, ["state", *args], input=text, prog_name="knock-exporter")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return tmp_path / "other.db"


# Out and in.


def test_an_export_is_imported_as_it_was(state_path: Path, other: Path) -> None:
    clock = Clock()
    write(state_path, STATE, clock)
    lines = export(state_path)
    put_in(other, lines, clock)
    assert [json.loads(line) for line in export(other)[2:]] == [
        {each: value for each, value in json.loads(line).items() if each != "asleep_since"} for line in lines[2:]
    ]
    assert read(other, clock) == replace(
        STATE, environments={**STATE.environments, "staging": replace(ENVIRONMENT, asleep_since=None)}
    )


def test_an_export_says_what_it_is(state_path: Path) -> None:
    write(state_path, STATE, Clock())
    header, *lines = [json.loads(line) for line in export(state_path)]
    assert header == {"format": "knock-exporter-state", "version": 1, "age": WALL, "wall": WALL}
    kinds = [line["kind"] for line in lines]
    assert kinds == ["environment"] * 2 + ["operation"] * 3 + ["tombstone", "cell", "end"]
    operation = next(line for line in lines if line.get("id") == A)
    assert (operation["status"], operation["mark_processed"], operation["seen_unfinished"]) == ("processing", 10, True)
    assert operation["namings"] == [{"kind": "api", "name": "", "group": "nightly", "labels": {"team": "growth"}}]


def test_times_move_with_the_clock_of_the_other_machine(state_path: Path, other: Path) -> None:
    write(state_path, STATE, Clock())
    later = Clock(mono=50.0, wall=WALL + 600)
    write(other, Memory(), Clock(mono=7.0, wall=WALL + 100))
    put_in(other, export(state_path), later)
    tracked = read(other, later).operations[key(A)].tracked
    assert tracked.handed_over.mono == pytest.approx(50.0 - 600)
    assert tracked.handed_over.wall == WALL
    behind = Clock(mono=50.0, wall=WALL - 600)
    write(other.with_name("third.db"), Memory(), behind)
    put_in(other.with_name("third.db"), export(state_path), behind)
    assert read(other.with_name("third.db"), behind).operations[key(A)].tracked.due == pytest.approx(55.0)


def test_only_some_environments(state_path: Path) -> None:
    write(state_path, STATE, Clock())
    lines = [json.loads(line) for line in export(state_path, "staging")]
    assert {line["environment"] for line in lines[1:-1]} == {"staging"}
    assert [line["kind"] for line in lines[1:]] == ["environment", "operation", "end"]
    with pytest.raises(StartError, match="no environment 'prod'; it has: production, staging"):
        export(state_path, "prod")


def test_what_is_there_already_is_added_to_and_the_rest_left_alone(state_path: Path, other: Path) -> None:
    clock = Clock()
    write(state_path, STATE, clock)
    elsewhere = key(D, "elsewhere")
    there = Memory({elsewhere: kept(D, NOW, "elsewhere")}, environments={"elsewhere": ENVIRONMENT})
    write(other, there, clock)
    told = put_in(other, export(state_path, "production"), clock)
    assert told == [
        "environment production: 2 operations (0 known here before, 0 left out as retired here), 1 tombstones"
    ]
    memory = read(other, clock)
    assert set(memory.operations) == {elsewhere, key(A), key(B)}
    assert put_in(other, export(state_path, "production"), clock)[0].startswith(
        "environment production: 2 operations (2 kno"
    )
    assert read(other, clock) == memory


def test_another_knock_under_the_same_name_is_told(state_path: Path, other: Path) -> None:
    clock = Clock()
    write(state_path, STATE, clock)
    there = Memory(environments={"production": replace(ENVIRONMENT, branch="feature", epoch=WALL + 5)})
    write(other, there, clock)
    told = put_in(other, export(state_path, "production"), clock)
    assert "(branch None), here https://api.knock.app (branch feature); if these are two" in told[1]
    assert read(other, clock).environments["production"] == there.environments["production"]


GOOD = {"kind": "operation", "environment": "production", "id": A}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({0: "[]"}, "line 1: expected an object"),
        ({0: "# HELP knock_up"}, "line 1: not JSON"),
        ({0: '{"format": "other"}'}, 'line 1: expected the first line of an export, with "format"'),
        ({0: '{"format": "knock-exporter-state", "version": 2}'}, "line 1: version: this is version 2 of the format"),
        ({0: '{"format": "knock-exporter-state", "version": 1, "age": 1}'}, "line 1: wall: missing"),
        ({1: '{"kind": "planet", "environment": "production"}'}, "line 2: kind: expected one of environment"),
        ({1: '{"kind": [], "environment": "production"}'}, "line 2: kind: expected one of environment"),
        ({1: '{"kind": "cell", "environment": "../x"}'}, "line 2: environment: expected a name of a-z"),
        ({1: '{"kind": "cell", "environment": "production", "name": 1}'}, "line 2: group, name: expected texts"),
        ({3: json.dumps({**GOOD, "id": "x"})}, "line 4: id: is not a valid UUID"),
        ({3: json.dumps(GOOD)}, "line 4: group: missing"),
        ({3: '{"kind": "tombstone", "environment": "production"}'}, "line 4: id: is not a valid UUID"),
        ({3: json.dumps({**GOOD, "kind": "tombstone", "at": 1, "retired": 3})}, "line 4: retired: expected true or"),
        ({3: '{"kind": "tomb'}, "line 4: not JSON"),
        ({3: '{"kind": "end"}'}, "line 5: stands behind the end"),
        ({-1: '{"kind": "end", "x": 1}'}, "line 9: kind: expected one of"),
        ({-1: ""}, "line 9: not JSON"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_nothing_is_imported(
    state_path: Path, other: Path, change: dict[int, str], told: str
) -> None:
    write(state_path, STATE, Clock())
    lines = export(state_path)
    for number, line in change.items():
        lines[number] = line
    with pytest.raises(StartError, match="^" + told.replace("(", r"\(")) as error:
        put_in(other, lines, Clock())
    assert "othing was imported" in str(error.value)
    assert not other.exists()


@pytest.mark.parametrize("lines_left", range(8))
def test_an_export_that_was_cut_off_is_refused(state_path: Path, other: Path, lines_left: int) -> None:
    write(state_path, STATE, Clock())
    with pytest.raises(StartError, match=f"line {lines_left + 1}: the export ends too soon: was it cut off"):
        put_in(other, export(state_path)[:lines_left], Clock())


@pytest.mark.parametrize("number", [1, 3, 6, 7])
def test_nothing_stands_there_twice(state_path: Path, other: Path, number: int) -> None:
    write(state_path, STATE, Clock())
    lines = export(state_path)
    with pytest.raises(StartError, match=f"line {number + 2}: .* is a duplicate"):
        put_in(other, [*lines[: number + 1], *lines[number:]], Clock())


def test_no_import_while_an_exporter_runs(state_path: Path, other: Path) -> None:
    clock = Clock()
    write(state_path, STATE, clock)
    store, _ = open_store(other, clock)
    with pytest.raises(StartError, match="is held by another process, for 3 s now"):
        put_in(other, export(state_path), clock)
    store.close()


def test_an_import_into_a_damaged_file_changes_nothing(state_path: Path, other: Path) -> None:
    write(state_path, STATE, Clock())
    other.write_text("no database")
    with pytest.raises(StartError, match=r"is damaged \(file is not a database\): move it away"):
        put_in(other, export(state_path), Clock())
    assert other.read_text() == "no database"


# One operation known on both sides.


def test_the_end_wins_and_then_the_later_answer() -> None:
    later = Moment(1100.0, WALL + 100)
    old, new = kept(A, NOW), kept(A, later)
    ended = StoredOperation(
        replace(old.tracked, operation=running(A, status=Status.FAILED), due=None, final_at=1.0), old.memberships
    )
    pending = StoredOperation(replace(new.tracked, operation=None, last_success=None, from_birth=None), new.memberships)
    for one, other, winner in ((old, new, new), (new, ended, ended), (pending, old, old)):
        for after in (settled(one, other), settled(other, one)):
            assert isinstance(after, StoredOperation)
            assert after.tracked.operation == winner.tracked.operation
            assert after.tracked.due == winner.tracked.due
            assert after.tracked.handed_over == NOW


MARK = st.none() | st.integers(0, 9)
SIDES = st.builds(
    lambda marks, **fields: StoredOperation(
        replace(kept(A, NOW).tracked, marks=Marks(*marks), **fields), kept(A, NOW).memberships
    ),
    st.tuples(MARK, MARK, MARK),
    from_birth=st.none() | st.booleans(),
    seen_unfinished=st.booleans(),
    seen_started=st.booleans(),
    operation=st.none() | st.sampled_from([running(A), running(A, status=Status.COMPLETED)]),
    last_success=st.sampled_from([None, NOW, Moment(1001.0, WALL)]),
    handed_over=st.sampled_from([NOW, Moment(2000.0, WALL)]),
    due=st.sampled_from([None, 1.0]),
) | st.builds(Tombstone, st.sampled_from([500.0, 1500.0]), st.booleans())


def may_count(side: StoredOperation, place: int, value: int) -> int:
    """Return what a next value would add to a counter."""
    mark = side.tracked.marks[place]
    if mark is None:
        return value if side.tracked.from_birth else 0
    return max(0, value - mark)


@given(SIDES, SIDES)
def test_nothing_is_counted_that_either_side_may_have_counted(
    before: StoredOperation | Tombstone, taken: StoredOperation | Tombstone
) -> None:
    after = settled(before, taken)
    followed = [side for side in (before, taken) if isinstance(side, StoredOperation)]
    if not isinstance(after, StoredOperation):
        assert any(isinstance(side, Tombstone) for side in (before, taken))
        assert isinstance(before, Tombstone) or not any(side.tracked.final for side in followed)
        return
    dropped = len(followed) < 2
    told = [side for side in followed if side.tracked.from_birth is not None]
    for place in range(3):
        for value in (0, 5, 20):
            bound = 0 if dropped else min((may_count(side, place, value) for side in told), default=value)
            assert may_count(after, place, value) <= bound
    # Who never answered, and who dropped it, cannot vouch for an end that nobody counted.
    if dropped or any(not side.tracked.seen_unfinished for side in told):
        assert not after.tracked.seen_unfinished
    assert after.tracked.final or not any(side.tracked.final for side in followed), "no end is asked for again"
    assert all(membership in after.memberships for side in followed for membership in side.memberships)


@given(SIDES, SIDES)
def test_to_import_the_same_again_changes_nothing(
    before: StoredOperation | Tombstone, taken: StoredOperation | Tombstone
) -> None:
    after = settled(before, taken)
    assert settled(after, taken) == after


@pytest.mark.parametrize("retired", [True, False])
def test_what_was_let_go_and_what_is_followed(*, retired: bool) -> None:
    stone = Tombstone(1050.0, retired)
    running_here = kept(A, NOW)
    brought_back = kept(A, Moment(1100.0, WALL + 100))
    ended = StoredOperation(
        replace(running_here.tracked, operation=running(A, status=Status.COMPLETED)), running_here.memberships
    )
    assert (settled(stone, running_here) == stone) == retired
    followed = [settled(brought_back, stone), settled(stone, brought_back), settled(ended, stone)]
    for after in followed:
        assert isinstance(after, StoredOperation)
        assert (after.tracked.marks, after.tracked.from_birth) == (NO_MARKS, False)
    assert (settled(stone, ended) == stone) == retired, "what was retired here is not retired again"


def test_two_tombstones() -> None:
    early, late = Tombstone(1.0, retired=True), Tombstone(2.0, retired=False)
    assert settled(early, late) == settled(late, early) == Tombstone(2.0, retired=True)


def test_who_names_it_is_united_and_says_the_group() -> None:
    here, there = kept(A, NOW), kept(A, NOW)
    file = SourceKey(SourceKind.FILES, "/ids.txt")
    here = StoredOperation(here.tracked, (Membership(CONFIG), Membership(file, "old"), Membership(API, "b")))
    there = StoredOperation(there.tracked, (Membership(file, "new", (("team", "x"),)),))
    after = settled(here, there)
    assert isinstance(after, StoredOperation)
    assert after.memberships == (Membership(CONFIG), Membership(file, "new", (("team", "x"),)), Membership(API, "b"))
    assert (after.tracked.group, after.tracked.labels) == ("new", (("team", "x"),))


def test_to_another_machine_and_back(state_path: Path, other: Path) -> None:
    clock = Clock()
    write(state_path, STATE, clock)
    put_in(other, export(state_path, "production"), clock)
    clock.sleep(60)
    moved = read(other, clock)
    grown = StoredOperation(
        replace(moved.operations[key(A)].tracked, marks=Marks(500, 500, 7), last_success=clock.now),
        moved.operations[key(A)].memberships,
    )
    store, _ = open_store(other, clock)
    store.commit(Changes(2, clock.now, {key(A): grown}), impatient)
    store.close()
    put_in(state_path, export(other), clock)
    after = read(state_path, clock)
    assert after.operations[key(A)].tracked.marks == Marks(500, 500, 7)
    assert after.operations[key(A)].tracked.from_birth
    assert {each: after.operations[each] for each in (key(B), key(C, "staging"))} == {
        each: STATE.operations[each] for each in (key(B), key(C, "staging"))
    }


# Environments and aggregates.


def test_the_later_epoch_and_what_was_let_in_here_first() -> None:
    here = Memory(
        aggregates={("production", "g0", "n"): StoredAggregate(5.0, 9.0)},
        environments={"production": replace(ENVIRONMENT, groups=tuple(f"g{n}" for n in range(99)), asleep_since=5.0)},
    )
    taken = Memory(
        {key(A): kept(A, NOW), key(B): StoredOperation(replace(kept(B, NOW).tracked, group="late"), ())},
        aggregates={("production", "g0", "n"): StoredAggregate(7.0, 8.0, 1.0), ("production", "late", "n"): CELL},
        environments={"production": replace(ENVIRONMENT, epoch=WALL + 1, groups=("g0", "nightly", "default"))},
    )
    changes = merge(here, taken, NOW)
    after = changes.environments["production"]
    assert after is not None
    assert (after.epoch, after.asleep_since) == (WALL + 1, None)
    assert after.groups == (*(f"g{n}" for n in range(99)), "nightly")
    assert len(after.groups) == GROUPS_MOST
    assert {each.id: it and it.tracked.group for each, it in changes.operations.items()} == {A: "nightly", B: OTHER}
    assert changes.aggregates == {
        ("production", "g0", "n"): StoredAggregate(7.0, 9.0, 1.0),
        ("production", OTHER, "n"): CELL,
    }


# The commands.


def test_the_commands_move_an_environment(state_path: Path, other: Path) -> None:
    write(state_path, STATE, Clock())
    exported = call("export", f"--storage.path={state_path}", "--environment=production")
    assert exported.exit_code == 0
    imported = call("import", f"--storage.path={other}", text=exported.stdout)
    assert (imported.exit_code, imported.stdout) == (0, "")
    assert imported.stderr.startswith("environment production: 2 operations (0 known")
    again = call("export", f"--storage.path={other}")
    assert again.stdout.splitlines()[1:] == exported.stdout.splitlines()[1:]


def test_check_tells_what_is_there(state_path: Path) -> None:
    write(state_path, STATE, Clock())
    result = call("check", f"--storage.path={state_path}")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head == f"{state_path}: form 2, {state_path.stat().st_size:,} bytes"
    since = "from birth since 2027-01-15 08:00:00 UTC"
    assert lines == [
        "integrity: ok",
        "last checkpoint: 2027-01-15 08:00:00 UTC",
        f"environment production: 2 operations (2 processing), 2 registrations, 1 tombstones, {since}",
        f"environment staging: 1 operations (1 processing), 1 registrations, 0 tombstones, {since}; not configured",
    ]


@pytest.mark.parametrize("command", ["check", "export"])
def test_looking_changes_nothing_and_works_beside_an_exporter(state_path: Path, command: str) -> None:
    clock = Clock()
    write(state_path, STATE, clock)
    before = state_path.read_bytes()
    assert call(command, f"--storage.path={state_path}").exit_code == 0
    assert state_path.read_bytes() == before
    store, _ = open_store(state_path, clock)
    store.commit(Changes(2, clock.now, {key(D, "production"): kept(D, NOW)}), impatient)
    result = call(command, f"--storage.path={state_path}")
    assert result.exit_code == 0
    assert ("3 operations" if command == "check" else D) in result.stdout
    store.commit(Changes(3, clock.now), impatient)
    store.close()


def test_check_names_what_cannot_be_read(state_path: Path) -> None:
    write(state_path, STATE, Clock())
    shell = sqlite3.connect(state_path)
    shell.execute("UPDATE operations SET status = 'done' WHERE id = ?", (A,))
    shell.commit()
    shell.close()
    result = call("check", f"--storage.path={state_path}")
    assert result.exit_code == 1
    assert f"environment production: {A}: cannot be read: status: expected one of" in result.stderr
    exported = call("export", f"--storage.path={state_path}")
    assert A not in exported.stdout
    assert f"production {A}: cannot be read, left out" in exported.stderr


@pytest.mark.parametrize("command", ["check", "export"])
@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "No such file or directory"), (b"", "is empty"), (b"no database at all" * 99, "is damaged: file is not a")],
)
def test_what_cannot_be_looked_at_is_told(state_path: Path, command: str, content: bytes | None, told: str) -> None:
    if content is not None:
        state_path.write_bytes(content)
    result = call(command, f"--storage.path={state_path}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert told in result.stderr
    assert state_path.exists() == (content is not None)


def test_an_export_that_cannot_be_written_is_told(state_path: Path) -> None:
    write(state_path, STATE, Clock())
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "exporter", "state", "export", f"--storage.path={state_path}"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "the export cannot be written: No space left on device\n")


@pytest.mark.parametrize("command", ["check", "export", "import"])
def test_the_path_is_required_and_may_come_from_the_environment(state_path: Path, command: str) -> None:
    assert call(command).exit_code == 2
    runner = CliRunner(env={"KNOCK_EXPORTER_STORAGE_PATH": str(state_path)})
    assert runner.invoke(main, ["state", command], input=io.BytesIO()).exit_code == 1
