"""The file of the state: opened, held, written, and put aside when it is damaged."""

from __future__ import annotations

import fcntl
import os
import random
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from model import WALL, ids, running
from structlog.testing import capture_logs

from exporter.errors import StartError
from exporter.operation import OperationKey, pack_id
from exporter.store import database, schema, tables
from exporter.store.ages import Ages, Checkpoint
from exporter.store.lock import LockLost
from exporter.store.opening import open_store
from exporter.store.writer import Writer
from exporter.tracking.memberships import API, Membership
from exporter.tracking.memory import Changes, EnvironmentMemory, Memory, StoredAggregate, StoredOperation
from exporter.tracking.messages import Saved
from exporter.tracking.tombstones import Tombstone, Tombstones
from exporter.tracking.transitions import Marks, Moment, Tracked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from exporter.store.store import Store

    Opened = Callable[[], tuple[Store, Memory]]

    from timing import InTime

A, B, C = ids(3)
NOBODY = 65534
ENVIRONMENT = EnvironmentMemory("https://api.knock.app", None, WALL, ("default", "nightly"), ("users.identify",))
CELL = StoredAggregate(last_completed=WALL)


class Clock:
    """Both clocks of a process; sleeping moves them."""

    def __init__(self, mono: float = 1000.0, wall: float = WALL) -> None:
        self.now = Moment(mono, wall)
        self.slept = 0.0

    def __call__(self) -> Moment:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now = Moment(self.now.mono + seconds, self.now.wall + seconds)


def key(operation_id: str, environment: str = "production") -> OperationKey:
    return OperationKey(environment, operation_id)


def kept(operation_id: str, now: Moment, environment: str = "production") -> StoredOperation:
    tracked = Tracked(
        key(operation_id, environment),
        "nightly",
        (("team", "growth"),),
        now,
        now.mono + 5.0,
        5.0,
        5.0,
        operation=running(operation_id),
        last_success=now,
        last_change=now,
        marks=Marks(10, None, 0),
        from_birth=True,
        seen_unfinished=True,
    )
    return StoredOperation(tracked, (Membership(API, "nightly", (("team", "growth"),)),))


def changes(number: int, now: Moment, *operation_ids: str) -> Changes:
    return Changes(number, now, {key(each): kept(each, now) for each in operation_ids})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(state_path: Path, clock: Clock) -> Iterator[Opened]:
    stores: list[Store] = []

    def open_it() -> tuple[Store, Memory]:
        while stores:
            stores.pop().close()
        store, memory = open_store(state_path, clock, sleep=clock.sleep)
        stores.append(store)
        return store, memory

    yield open_it
    for store in stores:
        store.close()


def impatient(_tried: int) -> bool:
    return False


# What is kept.


def test_a_new_file_is_its_owners_alone_and_empty(state_path: Path, opened: Opened) -> None:
    _store, memory = opened()
    assert memory == Memory()
    names = ("state.db", "state.db-wal", "state.db-shm", "state.db.lock")
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in state_path.parent.iterdir()}
    assert modes == dict.fromkeys(names, "0o600")


def test_all_that_was_committed_is_read(opened: Opened, clock: Clock) -> None:
    store, _ = opened()
    now = clock.now
    memory = Memory(
        {key(A): kept(A, now), key(B, "gone"): kept(B, now, "gone")},
        Tombstones({key(C): Tombstone(now.mono - 9.0, retired=True), key(B): Tombstone(now.mono, retired=False)}),
        {("production", "nightly", "users.identify"): CELL},
        {"production": ENVIRONMENT, "gone": replace(ENVIRONMENT, branch="b", asleep_since=now.mono)},
    )
    everything = Changes(1, now, memory.operations, memory.tombstones, memory.aggregates, memory.environments)
    store.commit(everything, impatient)
    _, read = opened()
    assert read == memory


def test_what_is_gone_is_taken_away(opened: Opened, clock: Clock) -> None:
    store, _ = opened()
    place = ("production", "nightly", "users.identify")
    some = Changes(1, clock.now, {key(A): kept(A, clock.now)}, {key(B): Tombstone(1.0, retired=False)}, {place: CELL})
    store.commit(replace(some, environments={"production": ENVIRONMENT}), impatient)
    gone = Changes(2, clock.now, {key(A): None}, {key(B): None}, {place: None}, {"production": None})
    store.commit(gone, impatient)
    assert opened()[1] == Memory()


def test_an_operation_is_written_over(opened: Opened, clock: Clock) -> None:
    store, _ = opened()
    store.commit(changes(1, clock.now, A, B), impatient)
    clock.sleep(60)
    store.commit(changes(2, clock.now, A), impatient)
    read = opened()[1].operations
    assert read[key(A)] == kept(A, clock.now)
    assert read[key(B)].tracked.handed_over == Moment(1000.0, WALL)


def test_only_time_since_the_checkpoint_counts(state_path: Path) -> None:
    first = Clock(mono=1000.0)
    store, _ = open_store(state_path, first)
    store.commit(changes(1, first.now, A), impatient)
    first.sleep(600)
    store.commit(Changes(2, first.now), impatient)
    store.close()
    rebooted = Clock(mono=20.0, wall=WALL + 600 + 3600)
    store, memory = open_store(state_path, rebooted)
    store.close()
    assert memory.operations[key(A)].tracked.handed_over == Moment(20.0 - 3600 - 600, WALL)
    went_back = Clock(mono=20.0, wall=WALL - 1e6)
    store, memory = open_store(state_path, went_back)
    store.close()
    assert memory.operations[key(A)].tracked.handed_over == Moment(20.0 - 600, WALL)


@pytest.mark.parametrize(
    "damage",
    [
        "SET document = json_set(document, '$.status', 'done')",
        "SET document = json_set(document, '$.labels', '{')",
        "SET document = json_set(document, '$.failures', 'x')",
        "SET document = replace(document, '\"interval\":5.0', '\"interval\":9e999')",
        "SET document = CAST(replace(document, 'nightly', x'ff') AS TEXT)",
        "SET document = json_remove(document, '$.handed_over')",
        "SET document = json_set(document, '$.id', 'x')",
        "SET document = json_set(document, '$.environment', 'staging')",
        "SET document = substr(document, 1, 50)",
        "SET document = NULL",
    ],
)
def test_a_row_that_cannot_be_read_costs_no_other(state_path: Path, opened: Opened, clock: Clock, damage: str) -> None:
    store, _ = opened()
    store.commit(changes(1, clock.now, A, B), impatient)
    outside = sqlite3.connect(state_path)
    outside.execute(f"UPDATE documents {damage} WHERE key = ?", (A,))
    outside.commit()
    outside.close()
    with capture_logs() as lines:
        store, memory = opened()
    assert list(memory.operations) == [key(B)]
    (line,) = lines
    assert (line["environment"], line["id"], line["log_level"]) == ("production", A, "error")
    store.commit(changes(2, clock.now, A), impatient)
    assert list(opened()[1].operations) == sorted([key(A), key(B)])


# One process.


def test_another_process_that_holds_the_file_is_waited_for(state_path: Path, clock: Clock) -> None:
    store, _ = open_store(state_path, clock)
    with (
        capture_logs() as lines,
        pytest.raises(StartError, match=r"state .*state\.db is held by another process, for 10 s now"),
    ):
        open_store(state_path, clock, sleep=clock.sleep)
    assert [line["event"] for line in lines] == ["another process has the state file: waiting"]
    assert clock.slept == pytest.approx(10.0, abs=0.2)
    store.close()


def test_the_lock_is_of_the_file_whatever_its_name(state_path: Path, clock: Clock) -> None:
    other = state_path.with_name("other.db")
    other.symlink_to(state_path)
    store, _ = open_store(state_path, clock)
    with pytest.raises(StartError, match="held by another process"):
        open_store(other, clock, sleep=clock.sleep)
    store.close()


def test_a_lock_that_is_let_go_in_time_is_taken(state_path: Path, clock: Clock) -> None:
    holder = os.open(state_path.with_name("state.db.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(holder, fcntl.LOCK_EX)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.slept > 3:
            fcntl.flock(holder, fcntl.LOCK_UN)

    store, _ = open_store(state_path, clock, sleep=sleep)
    store.close()
    os.close(holder)
    assert clock.slept == pytest.approx(3.1, abs=0.2)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lock_that_was_removed_is_taken_again(state_path: Path, clock: Clock, *, replaced: bool) -> None:
    store, _ = open_store(state_path, clock)
    lock = state_path.with_name("state.db.lock")
    lock.unlink()
    if replaced:
        lock.touch()
    with capture_logs() as lines:
        store.commit(changes(1, clock.now, A), impatient)
        store.commit(changes(2, clock.now, B), impatient)
    assert [line["event"] for line in lines] == ["lock file of the state was removed by another program, locked again"]
    with pytest.raises(StartError, match="held by another process"):
        open_store(state_path, clock, sleep=clock.sleep)
    store.close()


def test_a_removed_lock_that_another_process_took_is_told(state_path: Path, clock: Clock) -> None:
    first, _ = open_store(state_path, clock)
    state_path.with_name("state.db.lock").unlink()
    second, _ = open_store(state_path, clock)
    with pytest.raises(LockLost, match="held by another process: the file of the lock was removed"):
        first.commit(changes(1, clock.now, A), impatient)
    second.commit(changes(1, clock.now, B), impatient)
    second.close()
    first.close()


def test_the_lock_of_a_file_that_is_gone_is_not_a_lock(state_path: Path, clock: Clock) -> None:
    lock = state_path.with_name("state.db.lock")
    lock.touch()
    holder = os.open(lock, os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        lock.unlink(missing_ok=True)

    store, _ = open_store(state_path, clock, sleep=sleep)
    with pytest.raises(StartError, match="held by another process"):
        open_store(state_path, clock, sleep=clock.sleep)
    store.close()
    os.close(holder)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_shell_that_holds_the_write_lock_is_waited_for(state_path: Path, clock: Clock, mode: str) -> None:
    store, _ = open_store(state_path, clock)
    store.close()
    shell = sqlite3.connect(state_path, isolation_level=None)
    shell.execute(f"PRAGMA journal_mode = {mode}")
    shell.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StartError, match="held by another process"):
        open_store(state_path, clock, sleep=clock.sleep)
    shell.execute("COMMIT")
    store, _ = open_store(state_path, clock, sleep=clock.sleep)
    store.close()
    shell.close()


def test_readers_do_not_disturb_and_see_one_moment(state_path: Path, opened: Opened, clock: Clock) -> None:
    store, _ = opened()
    store.commit(changes(1, clock.now, A), impatient)
    count = "SELECT count(*) FROM operations"
    with database.reading(state_path) as (reader, _form):
        assert reader.execute(count).fetchone() == (1,)
        store.commit(changes(2, clock.now, B), impatient)
        assert reader.execute(count).fetchone() == (1,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM documents")
    with database.reading(state_path) as (reader, _form):
        assert reader.execute(count).fetchone() == (2,)


# Files that are not ours, or not whole.


def some_state(path: Path, clock: Clock) -> None:
    store, _ = open_store(path, clock)
    store.commit(changes(1, clock.now, *ids(200)), impatient)
    store.close()


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def short(path: Path) -> None:
    os.truncate(path, 50)


def overwritten(path: Path) -> None:
    # With the pages that lead to all others.
    chance = random.Random(1)
    content = bytearray(path.read_bytes())
    middle = max(8192, len(content) // 2)
    content[4096:middle] = chance.randbytes(middle - 4096)
    path.write_bytes(content)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def text(path: Path) -> None:
    path.write_text("environments:\n  - name: production\n" * 100)


def without_head(path: Path) -> None:
    path.write_bytes(bytes(4096) + path.read_bytes()[4096:])


def without_checkpoint(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xde\xad\xbe\xef" * 1024 + content[8192:])


def each_fourth_page_lost(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for page in range(12 * 4096, len(content), 4 * 4096):
        content[page : page + 4096] = bytes(4096)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "least"),
    [
        (truncated, 50),
        (each_fourth_page_lost, 150),  # 145 where the row before each gap is lost with it
        (without_head, 200),
        (without_checkpoint, 200),
        (overwritten, 0),
        (short, 0),
        (zeroed, 0),
        (text, 0),
    ],
)
def test_a_damaged_file_is_put_aside_and_what_can_be_read_is_saved(
    state_path: Path, clock: Clock, damage: Callable[[Path], None], least: int
) -> None:
    some_state(state_path, clock)
    damage(state_path)
    damaged = state_path.read_bytes()
    with capture_logs() as lines:
        store, memory = open_store(state_path, clock)
    saved = dict(memory.operations)
    store.commit(changes(1, clock.now, A), impatient)
    store.close()
    assert least <= len(saved) <= (200 if least else 0)
    assert saved.items() <= changes(1, Clock().now, *ids(200)).operations.items()
    (line,) = [line for line in lines if line["log_level"] == "error"]
    aside = state_path.with_name("state.db.corrupt-20270115T080000Z")
    assert (line["path"], line["kept_as"]) == (str(state_path), str(aside))
    assert (f"{len(saved)} operations" if saved else "nothing") in line["saved"]
    assert aside.read_bytes() == damaged
    assert not [file for file in state_path.parent.iterdir() if file.name.startswith(("state.db.new", "state.db.copy"))]
    store, memory = open_store(state_path, clock)
    store.close()
    assert memory.operations.keys() == {*saved, key(A)}


@pytest.mark.parametrize("damage", [each_fourth_page_lost, without_head])
def test_a_large_damaged_file_is_saved_between_its_gaps(
    state_path: Path, clock: Clock, damage: Callable[[Path], None]
) -> None:
    store, _ = open_store(state_path, clock)
    stones = {key(each): Tombstone(clock.now.mono, retired=True) for each in ids(2500, seed=9)}
    store.commit(replace(changes(1, clock.now, *ids(1000)), tombstones=stones), impatient)
    store.commit(Changes(2, clock.now, environments={"production": ENVIRONMENT}), impatient)
    store.close()
    damage(state_path)
    store, memory = open_store(state_path, clock)
    store.close()
    assert len(memory.operations) > 0.7 * 1000
    assert len(memory.tombstones) > 0.7 * 2500
    assert dict(memory.tombstones).items() <= stones.items()


def test_what_belongs_to_a_damaged_file_goes_with_it_and_no_name_is_taken_twice(state_path: Path, clock: Clock) -> None:
    for round_number in range(2):
        text(state_path)
        state_path.with_name("state.db-wal").write_text(f"log {round_number}")
        store, _ = open_store(state_path, clock)
        store.close()
    aside = "state.db.corrupt-20270115T080000Z"
    names = {file.name for file in state_path.parent.iterdir()}
    assert {aside, f"{aside}-wal", f"{aside}-1", f"{aside}-1-wal"} <= names
    assert state_path.with_name(f"{aside}-1-wal").read_text() == "log 1"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_bytes_are_wrong_the_exporter_starts(state_path: Path, clock: Clock, seed: int) -> None:
    some_state(state_path, clock)
    chance = random.Random(seed)
    content = bytearray(state_path.read_bytes())
    for _ in range(chance.choice([1, 10, 1000])):
        content[chance.randrange(100, len(content))] = chance.randrange(256)
    state_path.write_bytes(content)
    with capture_logs():
        store, memory = open_store(state_path, clock)
        store.commit(changes(1, clock.now, A), impatient)
        store.close()
        store, again = open_store(state_path, clock)
    store.close()
    assert key(A) in again.operations
    assert len(memory.operations) <= 200


# Files of older versions.

OLD = """INSERT INTO operations (environment, id, "group", status, name, rows_processed, labels, namings, handed_over,
    handed_over_wall, due, interval, healthy_interval, poll_class, up, last_success, last_success_wall, last_change,
    last_change_wall, failures, missing, odd_polls, ended_polls, lost, from_birth, seen_unfinished, seen_started,
    mark_processed)
    VALUES ('production', ?, 'nightly', 'processing', 'users.identify', 9, '{"team":"growth"}',
    '[{"kind":"api","name":"","group":"nightly","labels":{"team":"growth"}}]', 5.0, 5.0, 9.0, 5.0, 5.0, 'live', 1, 6.0,
    6.0, 6.0, 6.0, 0, 0, 0, 0, 0, 1, 1, 0, 9)"""


def an_old_state(path: Path, form: int, count: int) -> None:
    """Make a file as version 0.1.0 and one before it made it, with some operations and tombstones."""
    database.make_file(path)
    with closing(database.connect(path, "rw")) as connection:
        database.prepare(path, connection, form)
        with schema.transaction(connection):
            tables.write_checkpoint(connection, Checkpoint(WALL, WALL))
            connection.execute(
                "INSERT INTO environments VALUES ('production', 'http://x', NULL, 1.0, '[]', '[]', NULL)"
            )
            connection.execute("INSERT INTO cells VALUES ('production', 'nightly', 'n', 1.0, NULL, NULL, NULL)")
            connection.executemany(OLD, ((each,) for each in ids(count)))
            stones = ((pack_id(each),) for each in ids(count, seed=9))
            connection.executemany("INSERT INTO tombstones VALUES ('production', ?, 1.0, 1)", stones)


@pytest.mark.parametrize("form", [1, 2])
def test_a_file_of_an_older_version_is_brought_up_to_date(state_path: Path, opened: Opened, form: int) -> None:
    an_old_state(state_path, form, 300)
    with closing(database.connect(state_path, "rw")) as connection:
        connection.execute("UPDATE operations SET labels = '{' WHERE id = ?", (B,))
        connection.execute("UPDATE operations SET due = 9e999 WHERE id = ?", (C,))
    with database.reading(state_path) as (reader, found):
        before = tables.read_memory(reader, Ages(0.0), lambda *_row: None)
        assert found == form
    with capture_logs() as lines:
        _, memory = opened()
    assert {line["id"]: line["error"] for line in lines} == {
        C: "not JSON (DecodeError)",
        B: "labels: expected `object`, got `str`",
    }
    assert memory.operations.keys() == before.operations.keys() == {key(each) for each in ids(300)} - {key(B), key(C)}
    one = memory.operations[key(A)]
    assert (one.tracked.marks, one.tracked.up, one.tracked.lost) == (Marks(9), True, False)
    assert one.memberships == (Membership(API, "nightly", (("team", "growth"),)),)
    assert memory.aggregates == {("production", "nightly", "n"): StoredAggregate(1.0)}
    assert memory.environments == {"production": EnvironmentMemory("http://x", None, 1.0)}
    assert len(memory.tombstones) == len(before.tombstones) == 300


def test_a_migrated_file_without_its_first_page_is_saved(state_path: Path, clock: Clock) -> None:
    an_old_state(state_path, 2, 300)
    open_store(state_path, clock)[0].close()
    without_head(state_path)
    store, memory = open_store(state_path, clock)
    store.close()
    assert (len(memory.operations), len(memory.tombstones)) == (300, 300)


@pytest.mark.parametrize("form", [1, 2])
def test_a_damaged_file_of_an_older_version_is_put_aside_and_saved(state_path: Path, clock: Clock, form: int) -> None:
    an_old_state(state_path, form, 1000)
    each_fourth_page_lost(state_path)
    store, memory = open_store(state_path, clock)
    store.close()
    assert 700 < len(memory.operations) < 1000
    assert 700 < len(memory.tombstones) < 1000
    assert list(state_path.parent.glob("state.db.corrupt-*"))


def test_an_empty_file_is_begun_and_told(state_path: Path, clock: Clock) -> None:
    state_path.touch()
    with capture_logs() as lines:
        store, memory = open_store(state_path, clock)
    store.close()
    assert memory == Memory()
    assert [line["event"] for line in lines] == ["state file is empty: starting without state"]


def test_a_database_of_another_program_is_refused_and_left_alone(state_path: Path, clock: Clock) -> None:
    foreign = sqlite3.connect(state_path)
    foreign.execute("CREATE TABLE bookmarks (url)")
    foreign.commit()
    foreign.close()
    before = state_path.read_bytes()
    with pytest.raises(StartError, match="is a database of another program: name another file"):
        open_store(state_path, clock)
    assert state_path.read_bytes() == before


def test_a_file_of_a_newer_version_is_refused_and_left_alone(state_path: Path, clock: Clock) -> None:
    some_state(state_path, clock)
    newer = sqlite3.connect(state_path)
    newer.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    newer.close()
    with pytest.raises(StartError, match=r"written by a newer version of knock-exporter .*: run that version"):
        open_store(state_path, clock)
    assert [file.name for file in state_path.parent.iterdir() if "corrupt" in file.name] == []


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("missing/state.db", r"there is no directory \S+/missing \(create it\)"),
        ("file/state.db", "Not a directory"),
        ("closed/state.db", r"cannot be locked: \S+/closed/state.db.lock: Permission denied"),
    ],
)
def test_a_place_where_no_file_can_be_is_told(open_folder: Path, clock: Clock, where: str, told: str) -> None:
    (open_folder / "file").touch()
    (open_folder / "closed").mkdir()
    if os.geteuid() == 0:
        os.chown(open_folder / "closed", NOBODY, NOBODY)
    (open_folder / "closed").chmod(0o500)
    with pytest.raises(StartError, match=told), without_rights() if "closed" in where else nullcontext():
        open_store(open_folder / where, clock)


@contextmanager
def without_rights() -> Iterator[None]:
    """Be nobody for a while where the tests run as root, who may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_refused(state_path: Path, clock: Clock, make: Callable[[Path], None]) -> None:
    make(state_path)
    with pytest.raises(StartError, match=r"is not a regular file: name another one as storage\.path"):
        open_store(state_path, clock)
    with pytest.raises(StartError, match="is not a regular file"), database.reading(state_path):
        pass


def test_a_full_disk_at_the_start_is_not_damage(state_path: Path, clock: Clock) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    with pytest.raises(StartError, match="cannot be used: database or disk is full"), database.ours(state_path):
        raise full


class Refusing(sqlite3.Connection):
    """Rolls back by itself when something is written, as SQLite does on a full disk."""

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if not sql.startswith("REPLACE"):
            return super().execute(sql, *args)
        super().execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")


def test_what_made_sqlite_roll_back_is_told() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=Refusing)) as connection:
        schema.migrate(connection)
        with pytest.raises(sqlite3.OperationalError, match="database or disk is full"), schema.transaction(connection):
            tables.write_checkpoint(connection, Checkpoint(1.0, 1.0))


# The writer.


class UnthreadedWriter:
    """A writer without its thread, and what it said."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.said: list[Saved] = []
        self.writer = Writer(store, self.said.append, clock)

    def step(self) -> bool:
        return self.writer.step(0.0)


@pytest.fixture
def unthreaded(opened: Opened, clock: Clock) -> UnthreadedWriter:
    return UnthreadedWriter(opened()[0], clock)


def fill_disk(store: Store, *, full: bool) -> None:
    """Let the file not grow any more, or let it again."""
    store._connection.execute(f"PRAGMA max_page_count = {1 if full else 100_000}")


def test_what_is_queued_is_committed_at_once_and_told_once(
    unthreaded: UnthreadedWriter, opened: Opened, clock: Clock
) -> None:
    unthreaded.writer.save(changes(1, clock.now, A, B))
    unthreaded.writer.save(replace(changes(2, clock.now, C), operations={key(A): None, key(C): kept(C, clock.now)}))
    assert unthreaded.step()
    assert unthreaded.said == [Saved(2, ok=True)]
    assert set(opened()[1].operations) == {key(B), key(C)}, "the later change counts"


def test_the_heart_beats_when_idle(unthreaded: UnthreadedWriter, clock: Clock) -> None:
    clock.sleep(100)
    assert unthreaded.step()
    assert unthreaded.writer.stepped_at == clock.now.mono
    assert unthreaded.said == []


def test_a_failure_is_told_once_and_what_failed_is_tried_again_with_the_next(
    state_path: Path, unthreaded: UnthreadedWriter, opened: Opened, clock: Clock
) -> None:
    fill_disk(unthreaded.writer._store, full=True)
    with capture_logs() as lines:
        for number, operation_id in enumerate(ids(60, seed=5)):
            unthreaded.writer.save(changes(number, clock.now, operation_id))
            unthreaded.step()
        failed = [each for each in unthreaded.said if not each.ok]
        assert len(failed) > 2
        fill_disk(unthreaded.writer._store, full=False)
        unthreaded.writer.save(Changes(99, clock.now))
        unthreaded.step()
    assert unthreaded.said[-1] == Saved(99, ok=True)
    assert [line["event"] for line in lines] == [
        "state cannot be written, continuing in memory",
        "state is written again",
    ]
    assert lines[0]["error"] == "database or disk is full"
    assert len(opened()[1].operations) == 60


@pytest.mark.alone(one_core=True)
def test_a_locked_file_fails_after_two_seconds_and_sooner_when_ending(
    state_path: Path, clock: Clock, in_time: InTime
) -> None:
    unthreaded = UnthreadedWriter(open_store(state_path, clock)[0], clock)
    tries = [tried for tried in range(1, 100) if not unthreaded.writer._patient(tried)]
    assert tries[0] * database.BUSY_SECONDS == 2.0
    shell = sqlite3.connect(state_path, isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    unthreaded.writer.save(changes(1, clock.now, A))
    unthreaded.writer.stop()
    with in_time(1.5):
        unthreaded.writer.run()
    assert unthreaded.said == [Saved(1, ok=False)]
    shell.close()


# What others do to the file while it is open.


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_name("other.db")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def a_page_zeroed(path: Path) -> None:
    middle = path.stat().st_size // 2 // 4096
    with path.open("r+b") as file:
        file.seek(middle * 4096)
        file.write(bytes(4096))


def log_deleted(path: Path) -> None:
    path.with_name("state.db-wal").unlink()


def log_cut(path: Path) -> None:
    os.truncate(path.with_name("state.db-wal"), 5000)


def log_overwritten(path: Path) -> None:
    log = path.with_name("state.db-wal")
    content = log.read_bytes()
    log.write_bytes(content[:4096] + b"\xde\xad\xbe\xef" * ((len(content) - 4096) // 4))


def everything(number: int, now: Moment, *operation_ids: str) -> Changes:
    stones = Tombstones({key(each): Tombstone(now.mono, retired=True) for each in ids(500, seed=9)})
    some = replace(changes(number, now, *operation_ids), tombstones=stones, whole=True)
    return replace(some, environments={"production": ENVIRONMENT})


@pytest.mark.parametrize("checkpointed", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        *(truncated, overwritten, a_page_zeroed, without_head, emptied, text),
        *(deleted, replaced, log_deleted, log_cut, log_overwritten),
    ],
)
def test_what_others_do_to_the_file_loses_nothing_that_was_said_to_be_saved(
    state_path: Path, unthreaded: UnthreadedWriter, clock: Clock, damage: Callable[[Path], None], *, checkpointed: bool
) -> None:
    known = ids(200)
    unthreaded.writer.save(changes(1, clock.now, *known))
    unthreaded.step()
    if checkpointed and not damage.__name__.startswith("log"):
        unthreaded.writer._store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        unthreaded.writer.save(changes(2, clock.now, known[0]))
        unthreaded.step()
    damage(state_path)
    clock.sleep(1)
    with capture_logs() as lines:
        unthreaded.writer.save(changes(3, clock.now, C))
        unthreaded.step()
        lost = unthreaded.said[-1] == Saved(3, ok=False, lost=True)
        assert lost or unthreaded.said[-1] == Saved(3, ok=True)
        if lost:
            unthreaded.writer.save(everything(4, clock.now, *known, C))
            unthreaded.step()
            assert unthreaded.said[-1] == Saved(4, ok=True)
    assert lost or not checkpointed
    events = ["state file is damaged, a new one will be written"]
    assert [line["event"] for line in lines if line["log_level"] == "error"] == (events if lost else [])
    assert [line["kept_as"] for line in lines if "kept_as" in line] == (
        [str(state_path.with_name("state.db.corrupt-20270115T080001Z"))] if lost else []
    )
    unthreaded.writer.save(changes(5, clock.now, B))
    unthreaded.step()
    assert unthreaded.said[-1] == Saved(5, ok=True)
    crashed = state_path.with_name("crashed.db")  # what a restart would find
    for side in ("", "-wal"):
        crashed.with_name(f"crashed.db{side}").write_bytes(state_path.with_name(f"state.db{side}").read_bytes())
    store, memory = open_store(crashed, clock)
    store.close()
    assert memory.operations.keys() == {key(each) for each in [*known, B, C]}
    assert len(memory.tombstones) == (500 if lost else 0)


def test_what_others_may_do_to_the_file_is_not_damage(
    state_path: Path, unthreaded: UnthreadedWriter, opened: Opened, clock: Clock
) -> None:
    def touch() -> None:
        state_path.chmod(0o640)

    def write_back() -> None:
        with closing(sqlite3.connect(state_path)) as shell:
            shell.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def vacuum() -> None:
        with closing(sqlite3.connect(state_path)) as shell:
            shell.execute("VACUUM")

    with capture_logs() as lines:
        for number, do in enumerate([touch, write_back, vacuum, touch], start=1):
            unthreaded.writer.save(changes(number, clock.now, ids(9)[number]))
            unthreaded.step()
            do()
        unthreaded.writer.save(changes(9, clock.now, A))
        unthreaded.step()
    assert [each.ok for each in unthreaded.said] == [True] * 5
    assert lines == []
    assert len(opened()[1].operations) == 5


def test_a_new_file_that_cannot_be_made_is_asked_for_again(
    state_path: Path, unthreaded: UnthreadedWriter, opened: Opened, clock: Clock
) -> None:
    state_path.unlink()
    obstacle = state_path.with_name("state.db.new")
    obstacle.mkdir()
    with capture_logs() as lines:
        for number in range(1, 4):
            unthreaded.writer.save(everything(number, clock.now, A) if number > 1 else changes(number, clock.now, A))
            unthreaded.step()
        assert unthreaded.said == [Saved(number, ok=False, lost=True) for number in range(1, 4)]
        obstacle.rmdir()
        unthreaded.writer.save(everything(9, clock.now, A, B))
        unthreaded.step()
    assert unthreaded.said[-1] == Saved(9, ok=True)
    assert [line["event"] for line in lines] == [
        "state file is damaged, a new one will be written",
        "state file was renamed, a new one was written from memory",
        "state is written again",
    ]
    assert set(opened()[1].operations) == {key(A), key(B)}


def test_stopping_commits_what_is_queued_and_lets_go(state_path: Path, clock: Clock) -> None:
    store, _ = open_store(state_path, clock)
    unthreaded = UnthreadedWriter(store, clock)
    thread = threading.Thread(target=unthreaded.writer.run)
    thread.start()
    for number, operation_id in enumerate(ids(50)):
        unthreaded.writer.save(changes(number, clock.now, operation_id))
    unthreaded.writer.stop()
    thread.join(5)
    assert unthreaded.said[-1] == Saved(49, ok=True)
    assert not state_path.with_name("state.db-wal").exists(), "its log is written back"
    store, memory = open_store(state_path, clock)
    store.close()
    assert len(memory.operations) == 50


def test_the_log_does_not_grow_without_bound(state_path: Path, unthreaded: UnthreadedWriter, clock: Clock) -> None:
    for number in range(150):
        unthreaded.writer.save(changes(number, clock.now, *ids(40)))
        unthreaded.step()
    assert state_path.with_name("state.db-wal").stat().st_size < 5 << 20


CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from test_store import changes, ids, Moment
from exporter.store.opening import open_store
clock = lambda: Moment(time.monotonic(), time.time())
store, memory = open_store(Path({path!r}), clock)
every = ids(5000)
for number in range(len(memory.operations), len(every), 5):
    store.commit(changes(number, clock(), *every[number:number + 5]), lambda tried: False)
    print(number + 5, flush=True)
"""


def killed_while_writing(path: Path, lines: int) -> int:
    """Have a process write, kill it after so many commits, and return how many operations it said are safe."""
    child = CHILD.format(paths=sys.path, path=str(path))
    process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    safe = 0
    for _ in range(lines):
        safe = int(process.stdout.readline())
    process.kill()
    told = process.stdout.read().split()
    process.wait()
    process.stdout.close()
    return int(told[-1]) if told else safe


def test_the_log_shrinks_after_a_long_reader(state_path: Path, unthreaded: UnthreadedWriter, clock: Clock) -> None:
    log = state_path.with_name("state.db-wal")
    with closing(sqlite3.connect(state_path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM documents").fetchone()
        with closing(sqlite3.connect(state_path)) as other, other:
            other.execute("CREATE TABLE padding AS SELECT zeroblob(?) AS bytes", (database.WAL_BYTES,))
        unthreaded.writer.save(changes(1, clock.now, A))
        unthreaded.step()
        assert log.stat().st_size > database.WAL_BYTES
    for number in (2, 3):
        unthreaded.writer.save(changes(number, clock.now, *ids(number)))
        unthreaded.step()
    assert unthreaded.said[-1] == Saved(3, ok=True)
    assert log.stat().st_size <= database.WAL_BYTES


def test_a_commit_waits_for_the_disk(state_path: Path) -> None:
    database.make_file(state_path)
    with closing(database.connect(state_path, "rw")) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # a build of SQLite may have another default than FULL
        database.prepare(state_path, connection)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_what_was_committed_survives_a_kill(state_path: Path) -> None:
    safe = killed_while_writing(state_path, 20)
    store, memory = open_store(state_path, Clock())
    store.close()
    assert set(memory.operations) >= {key(each) for each in ids(5000)[:safe]}
    assert len(memory.operations) <= safe + 5
