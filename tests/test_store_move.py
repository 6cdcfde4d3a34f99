"""Looking at a state, taking it out, and putting it in the place of another: nothing lost, nothing counted twice."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from model import WALL, ids
from test_store import CELL, ENVIRONMENT, Clock, impatient, kept, key

from exporter.cli import main
from exporter.errors import StartError
from exporter.store import database, move
from exporter.store.lock import Patience
from exporter.store.opening import open_store
from exporter.tracking.memory import Changes, Memory, StoredOperation
from exporter.tracking.runs import Run, RunSums, StoredGroup
from exporter.tracking.tombstones import Tombstone, Tombstones
from exporter.tracking.transitions import Marks, Moment

if TYPE_CHECKING:
    from click.testing import Result

A, B, C, D = ids(4)
NOW = Moment(1000.0, WALL)
GROUP = StoredGroup(WALL - 60, WALL - 9, Run("2", WALL - 50, 7, newest=WALL, gone=RunSums(errors=3)), {"1": WALL - 50})
STATE = Memory(
    {key(A): kept(A, NOW), key(B): kept(B, NOW), key(C, "staging"): kept(C, NOW, "staging")},
    Tombstones({key(D): Tombstone(900.0, retired=True, counted=True)}),
    {("production", "nightly", "users.identify"): CELL},
    {"production": ENVIRONMENT, "staging": replace(ENVIRONMENT, asleep_since=990.0)},
    {("production", "nightly"): GROUP},
)


def write(path: Path, memory: Memory, clock: Clock) -> None:
    store, _ = open_store(path, clock)
    kinds = (memory.operations, memory.tombstones, memory.aggregates, memory.environments, memory.groups)
    store.commit(Changes(1, clock.now, *kinds), impatient)
    store.close()


def read(path: Path, clock: Clock) -> Memory:
    store, memory = open_store(path, clock)
    store.close()
    return memory


def never(*row: str) -> None:
    raise AssertionError(row)


def export(path: Path, *environments: str) -> list[str]:
    with database.reading(path) as (connection, _form):
        return list(move.export(connection, environments, never))


def put_in(path: Path, lines: list[str], clock: Clock, *, replace: bool = False) -> list[str]:
    patience = Patience(3.0, clock, clock.sleep)
    return move.take_in(path, [line.encode() for line in lines], clock, patience, never, replace=replace)


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
    assert export(other)[3:] == lines[3:]
    asleep = replace(ENVIRONMENT, asleep_since=clock.now.mono)
    assert read(other, clock) == replace(STATE, environments={"production": asleep, "staging": asleep})


def test_an_export_says_what_it_is(state_path: Path) -> None:
    write(state_path, STATE, Clock())
    header, *lines = [json.loads(line) for line in export(state_path)]
    assert header == {"format": "knock-exporter-state", "version": 1, "age": WALL, "wall": WALL}
    kinds = [line["kind"] for line in lines]
    assert kinds == ["environment"] * 2 + ["operation"] * 3 + ["tombstone", "cell", "group", "end"]
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
    assert told == ["environment production: 2 operations (0 known here before), 1 tombstone"]
    memory = read(other, clock)
    assert set(memory.operations) == {elsewhere, key(A), key(B)}
    assert put_in(other, export(state_path, "production"), clock)[0].startswith(
        "environment production: 2 operations (2 kno"
    )
    assert read(other, clock) == memory


def test_another_knock_under_the_same_name_is_told(state_path: Path, other: Path) -> None:
    clock = Clock()
    write(state_path, STATE, clock)
    there = Memory(environments={"production": replace(ENVIRONMENT, branch="feature", asleep_since=5.0)})
    write(other, there, clock)
    told = put_in(other, export(state_path, "production"), clock)
    assert "(branch None), here https://api.knock.app (branch feature); if these are two" in told[1]
    assert read(other, clock).environments["production"].branch is None


GOOD = {"kind": "operation", "environment": "production", "id": A}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({0: "[]"}, "line 1: expected `object`, got `array`"),
        ({0: "# HELP knock_up"}, "line 1: not JSON"),
        ({0: '{"format": "other"}'}, 'line 1: expected the first line of an export, with "format"'),
        ({0: '{"format": "knock-exporter-state", "version": 2}'}, "line 1: version: this is version 2 of the format"),
        ({0: '{"format": "knock-exporter-state", "version": 1, "age": 1}'}, "line 1: wall: missing"),
        ({1: '{"kind": "planet", "environment": "production"}'}, "line 2: kind: invalid value 'planet'"),
        ({1: '{"kind": [], "environment": "production"}'}, "line 2: kind: expected `str`"),
        (
            {1: '{"kind": "cell", "environment": "../x", "group": "g", "name": "n"}'},
            "line 2: environment: expected a name of a-z",
        ),
        ({1: '{"kind": "cell", "environment": "production", "group": "g", "name": 1}'}, "line 2: name: expected `str`"),
        (
            {3: json.dumps({**GOOD, "kind": "tombstone", "id": "x", "at": 1, "retired": True})},
            "line 4: id: is not a valid UUID",
        ),
        ({3: json.dumps(GOOD)}, "line 4: group: missing"),
        ({3: '{"kind": "tombstone", "environment": "production"}'}, "line 4: id: missing"),
        ({3: json.dumps({**GOOD, "kind": "tombstone", "at": 1, "retired": 3})}, "line 4: retired: expected `bool`"),
        ({3: '{"kind": "tomb'}, "line 4: not JSON"),
        ({3: '{"kind": "end"}'}, "line 5: stands behind the end"),
        ({-1: '{"kind": "end", "x": 1}'}, "line 10: kind: invalid value 'end'"),
        ({-1: ""}, "line 10: not JSON"),
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


@pytest.mark.parametrize("lines_left", range(9))
def test_an_export_that_was_cut_off_is_refused(state_path: Path, other: Path, lines_left: int) -> None:
    write(state_path, STATE, Clock())
    with pytest.raises(StartError, match=f"line {lines_left + 1}: the export ends too soon: was it cut off"):
        put_in(other, export(state_path)[:lines_left], Clock())
    assert not other.exists()


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
    assert read(other, clock) == Memory()


def test_an_import_into_a_damaged_file_changes_nothing(state_path: Path, other: Path) -> None:
    write(state_path, STATE, Clock())
    other.write_text("no database")
    with pytest.raises(StartError, match=r"is damaged \(file is not a database\): move it away"):
        put_in(other, export(state_path), Clock())
    assert other.read_text() == "no database"


# What is there already.


def test_to_another_machine_and_back(state_path: Path, other: Path) -> None:
    clock = Clock()
    write(state_path, STATE, clock)
    put_in(other, export(state_path, "staging"), clock)
    clock.sleep(60)
    moved = read(other, clock).operations[key(C, "staging")]
    grown = StoredOperation(moved.tracked._replace(marks=Marks(500, 500, 7), last_success=clock.now), moved.memberships)
    store, _ = open_store(other, clock)
    changed = {
        key(C, "staging"): None,
        key(D, "staging"): StoredOperation(grown.tracked._replace(key=key(D, "staging")), ()),
    }
    store.commit(Changes(2, clock.now, changed), impatient)
    store.close()
    told = put_in(state_path, export(other), clock)
    assert told == ["environment staging: 1 operation (0 known here before), 0 tombstones"]
    after = read(state_path, clock)
    assert {each for each in after.operations if each.environment == "staging"} == {key(D, "staging")}
    assert after.operations[key(D, "staging")].tracked.marks == Marks(500, 500, 7)
    assert {each: after.operations[each] for each in (key(A), key(B))} == {
        each: STATE.operations[each] for each in (key(A), key(B))
    }
    assert (after.tombstones, after.aggregates) == (STATE.tombstones, STATE.aggregates)


def test_one_that_is_awake_is_refused(state_path: Path, other: Path) -> None:
    clock = Clock()
    write(state_path, STATE, clock)
    there = Memory({key(D): kept(D, NOW)}, environments={"production": ENVIRONMENT})
    write(other, there, clock)
    before = read(other, clock)
    with pytest.raises(
        StartError, match=f"^state {other}: environment production is awake there, nothing was imported"
    ):
        put_in(other, export(state_path), clock)
    assert read(other, clock) == before


def test_one_that_is_awake_is_replaced_on_demand(state_path: Path, other: Path) -> None:
    clock = Clock()
    write(state_path, STATE, clock)
    elsewhere = key(D, "elsewhere")
    there = Memory(
        {key(D): kept(D, NOW), key(A): kept(A, NOW), elsewhere: kept(D, NOW, "elsewhere")},
        Tombstones({key(B): Tombstone(900.0, retired=False), key(C, "elsewhere"): Tombstone(900.0, retired=True)}),
        {("production", "g", "n"): CELL, ("elsewhere", "g", "n"): CELL},
        {"production": ENVIRONMENT, "elsewhere": ENVIRONMENT},
    )
    write(other, there, clock)
    told = put_in(other, export(state_path, "production"), clock, replace=True)
    assert told == ["environment production: 2 operations (1 known here before), 1 tombstone"]
    after = read(other, clock)
    assert after.operations == {
        **{key(each): STATE.operations[key(each)] for each in (A, B)},
        elsewhere: there.operations[elsewhere],
    }
    assert after.tombstones == {
        key(C, "elsewhere"): there.tombstones[key(C, "elsewhere")],
        key(D): STATE.tombstones[key(D)],
    }
    assert after.aggregates == {**STATE.aggregates, ("elsewhere", "g", "n"): CELL}
    assert after.environments == {
        "production": replace(ENVIRONMENT, asleep_since=clock.now.mono),
        "elsewhere": ENVIRONMENT,
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
    assert again.stdout.splitlines()[2:] == exported.stdout.splitlines()[2:]
    refused = call("import", f"--storage.path={state_path}", text=exported.stdout)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "environment production is awake there, nothing was imported" in refused.stderr
    assert call("import", f"--storage.path={state_path}", "--replace", text=exported.stdout).exit_code == 0


def test_check_tells_what_is_there(state_path: Path) -> None:
    write(state_path, STATE, Clock())
    result = call("check", f"--storage.path={state_path}")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head == f"{state_path}: version 4 of the format, {state_path.stat().st_size:,} bytes"
    since = "watched since 2027-01-15 08:00:00 UTC"
    assert lines == [
        "integrity: ok",
        "last checkpoint: 2027-01-15 08:00:00 UTC",
        f"environment production: 2 operations (2 processing), 2 registrations, 1 tombstone, {since}",
        f"environment staging: 1 operation (1 processing), 1 registration, 0 tombstones, {since}; not configured",
    ]


def test_without_a_path_the_configuration_names_the_state_file(state_path: Path, tmp_path: Path) -> None:
    write(state_path, STATE, Clock())
    config = tmp_path / "config.yaml"
    config.write_text(
        f"environments: [{{name: production, api_key: sk_test_1}}]\nstorage: {{path: {state_path.name}}}\n"
    )
    told = call("check", f"--config.file={config}")
    assert (told.exit_code, told.stdout) == (0, call("check", f"--storage.path={state_path}").stdout)
    config.write_text("environments: [{name: production, api_key: sk_test_1}]\n")
    told = call("check", f"--config.file={config}")
    assert told.exit_code == 1
    assert told.stderr == f"{config} has no storage: name the state file with --storage.path\n"
    config.unlink()
    told = call("check", f"--config.file={config}")
    assert (told.exit_code, told.stderr) == (1, f"{config}: no such file (name the state file with --storage.path)\n")


@pytest.mark.parametrize("command", ["check", "export"])
def test_looking_changes_nothing_and_works_next_to_an_exporter(state_path: Path, command: str) -> None:
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
    shell.execute("UPDATE documents SET document = json_set(document, '$.status', 'done') WHERE key = ?", (A,))
    shell.commit()
    shell.close()
    result = call("check", f"--storage.path={state_path}")
    assert result.exit_code == 1
    assert f"environment production: {A}: cannot be read: status: invalid enum value 'done'" in result.stderr
    exported = call("export", f"--storage.path={state_path}")
    assert A not in exported.stdout
    assert f"production {A}: cannot be read, left out" in exported.stderr


def test_check_names_the_first_of_many_rows_and_a_missing_checkpoint(state_path: Path) -> None:
    write(state_path, STATE, Clock())
    with closing(sqlite3.connect(state_path)) as shell, shell:
        shell.executemany(
            "INSERT INTO documents VALUES ('operation', 'production', ?, '{}')", [(each,) for each in ids(25, seed=7)]
        )
        shell.execute("DELETE FROM checkpoint")
    result = call("check", f"--storage.path={state_path}")
    assert result.exit_code == 1
    assert result.stderr.count("cannot be read: ") == 20
    assert "and 5 more rows that cannot be read" in result.stderr
    assert "there is no checkpoint" in result.stderr


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
    assert (result.returncode, result.stderr) == (1, "standard output cannot be written: No space left on device\n")


def test_the_path_may_come_from_the_environment(state_path: Path) -> None:
    write(state_path, STATE, Clock())
    runner = CliRunner(env={"KNOCK_EXPORTER_STORAGE_PATH": str(state_path)})
    assert runner.invoke(main, ["state", "check"]).stdout == call("check", f"--storage.path={state_path}").stdout


# As docs/state.md has it.

DOCUMENT = (Path(__file__).parent.parent / "docs" / "state.md").read_text(encoding="utf-8")


def commands(heading: str) -> list[str]:
    """Return the commands below a heading of the document."""
    section = DOCUMENT.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"(?:\$ |`)(knock-exporter state [^`\n]+)", section)


def type_in(command: str, folder: Path) -> str:
    """Type a command in a folder, which stands for where the document has its state; return what it wrote."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    typed = ["sh", "-c", command.replace("/var/lib/knock-exporter/", "")]
    done = subprocess.run(typed, cwd=folder, env={"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_state_is_checked_backed_up_and_restored(state_path: Path) -> None:
    write(state_path, STATE, Clock())
    (check,) = commands("Check it")
    told = type_in(check, state_path.parent)
    export_command, import_command = commands("Back up and restore")
    type_in(export_command, state_path.parent)
    state_path.rename(state_path.with_name("damaged.db"))
    type_in(import_command, state_path.parent)
    restored = type_in(check, state_path.parent)
    assert restored.splitlines()[3].split(";")[0] == told.splitlines()[3]
    assert restored.splitlines()[4] == told.splitlines()[4]


def test_an_environment_is_moved_to_another_exporter(tmp_path: Path) -> None:
    for name, memory in (("old.db", STATE), ("new.db", replace(STATE, environments={"staging": ENVIRONMENT}))):
        write(tmp_path / name, memory, Clock())
    for command in commands("Move an environment to another exporter"):
        type_in(command, tmp_path)
    before, after = read(tmp_path / "old.db", Clock()), read(tmp_path / "new.db", Clock())
    assert after.operations.keys() == before.operations.keys()
    assert after.environments["staging"] == ENVIRONMENT
    assert after.environments["production"].asleep_since is not None
