"""What is kept comes back as it was: every field, and every time."""

from __future__ import annotations

import sqlite3
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.operation import MAX_COUNT, Operation, OperationKey, pack_id, unpack_id
from exporter.store import codec, rows, schema
from exporter.store.ages import Ages, Checkpoint, first_ages
from exporter.store.layout import UnreadableRow, dump, parse
from exporter.tracking.memberships import API, Membership, SourceKey
from exporter.tracking.memory import EnvironmentMemory, StoredAggregate, StoredOperation
from exporter.tracking.transitions import Marks, Moment, Tracked

KEY = OperationKey("production", "123e4567-e89b-12d3-a456-426614174000")
AS_IT_IS = Ages(0.0)
FEWER = settings(max_examples=40)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
COUNTS = st.integers(0, MAX_COUNT)
TIMES = st.floats(-1e12, 1e12)
LABELS = st.dictionaries(TEXTS, TEXTS, max_size=3).map(lambda labels: tuple(labels.items()))
KINDS: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: COUNTS,
    float: TIMES,
    bool: st.booleans(),
    int | None: st.none() | COUNTS,
    float | None: st.none() | TIMES,
    bool | None: st.none() | st.booleans(),
    str | None: st.none() | TEXTS,
    tuple[str, ...]: st.lists(TEXTS, max_size=3).map(tuple),
    tuple[tuple[str, str], ...]: LABELS,
}


def every_field(made: type[Any], **given_fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Make values of a class with any value in each field, also in those that it will have one day."""
    hints = get_type_hints(made)
    strategies = {name: KINDS[hint] if hint in KINDS else st.from_type(hint) for name, hint in hints.items()}
    return st.builds(made, **{**strategies, **given_fields})


MOMENTS = every_field(Moment)
COLLECTIONS = st.dictionaries(TEXTS, st.integers(1, MAX_COUNT), max_size=3).map(lambda counts: tuple(counts.items()))
OPERATIONS = every_field(Operation, id=st.just(KEY.id), collections=COLLECTIONS, status_word=st.none(), size=st.just(0))
KINDS[Moment | None] = st.none() | MOMENTS
KINDS[Moment] = MOMENTS
KINDS[Operation | None] = st.none() | OPERATIONS
KINDS[Marks] = every_field(Marks)
MEMBERSHIPS = st.lists(every_field(Membership, source=every_field(SourceKey), labels=LABELS), max_size=3).map(tuple)
KEPT = st.builds(StoredOperation, every_field(Tracked, key=st.just(KEY)), MEMBERSHIPS)


@FEWER
@given(KEPT)
def test_an_operation_comes_back_with_every_field(kept: StoredOperation) -> None:
    row = codec.operation_row(kept, AS_IT_IS)
    assert codec.read_operation(KEY, row, AS_IT_IS) == kept


@given(every_field(EnvironmentMemory))
def test_an_environment_comes_back_with_every_field(environment: EnvironmentMemory) -> None:
    row = codec.environment_row(environment, AS_IT_IS)
    assert codec.read_environment(row, AS_IT_IS) == environment


@given(every_field(StoredAggregate))
def test_an_aggregate_comes_back_with_every_field(aggregate: StoredAggregate) -> None:
    assert codec.read_aggregate(tuple(aggregate)) == aggregate


@FEWER
@given(kept=KEPT, environment=every_field(EnvironmentMemory), aggregate=every_field(StoredAggregate))
def test_rows_come_back_from_sqlite_and_from_json(
    kept: StoredOperation, environment: EnvironmentMemory, aggregate: StoredAggregate
) -> None:
    written = {
        rows.OPERATIONS: (codec.OPERATIONS, codec.operation_row(kept, AS_IT_IS)),
        rows.ENVIRONMENTS: (codec.ENVIRONMENTS, codec.environment_row(environment, AS_IT_IS)),
        rows.CELLS: (codec.CELLS, tuple(aggregate)),
    }
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(connection)
    for table, (layout, row) in written.items():
        keys = tuple(str(number) for number in range(len(table.keys)))
        connection.execute(table.put, (*keys, *row))
        assert connection.execute(table.select).fetchall() == [(*keys, *row)]
        assert layout.row(parse(dump(layout.document(row)))) == row
    connection.close()


def test_no_time_field_is_written_as_it_is() -> None:
    """Each monotonic time moves with the clock; a new one must be told to the codec."""
    moved = {"handed_over", "due", "last_success", "last_change", "missing_since", "final_at"}
    seconds = {"interval", "healthy_interval", "final_seen"}
    floats = {each.name for each in fields(Tracked) if "float" in str(each.type) or "Moment" in str(each.type)}
    assert floats == moved | seconds, "a new time: is it monotonic? Then the codec must write it as an age"
    now = Moment(50.0, 2000.0)
    tracked = Tracked(KEY, "g", (), now, 60.0, 1.0, 1.0, last_success=now, last_change=now, missing_since=1.0)
    row = codec.operation_row(StoredOperation(tracked, ()), Ages(1000.0))
    back = codec.read_operation(KEY, row, Ages(990.0)).tracked
    assert (back.due, back.missing_since) == (70.0, 11.0)
    assert back.handed_over == back.last_success == back.last_change == Moment(60.0, 2000.0)


# Times.


def test_the_clock_of_the_file_runs_on_while_nobody_has_it() -> None:
    ages = Checkpoint(age=5000.0, wall=2000.0).ages(Moment(mono=7.0, wall=2060.0))
    assert ages.age(7.0) == 5060.0
    assert ages.mono(5000.0) == -53.0, "a minute before now, before this machine started"


def test_a_wall_clock_that_went_back_counts_as_no_time() -> None:
    ages = Checkpoint(age=5000.0, wall=2000.0).ages(Moment(mono=7.0, wall=12.0))
    assert ages.age(7.0) == 5000.0


def test_the_ages_of_a_new_file_look_like_unix_seconds() -> None:
    assert first_ages(Moment(7.0, 1_800_000_000.0)).age(8.0) == 1_800_000_001.0


@given(st.floats(0, 1e7), st.floats(1.7e9, 2e9), st.floats(-1e8, 1e8))
def test_an_age_that_was_read_is_written_as_the_same(mono: float, wall: float, since: float) -> None:
    ages = Checkpoint(wall - 100.0, wall - 100.0).ages(Moment(mono, wall))
    age = ages.age(mono + since)
    assert ages.age(ages.mono(age)) == pytest.approx(age, abs=1e-6)


# What cannot be.

GOOD = codec.OPERATIONS.document(
    codec.operation_row(
        StoredOperation(Tracked(KEY, "g", (("a", "b"),), Moment(1.0, 2.0), None, 5.0, 5.0), (Membership(API),)),
        AS_IT_IS,
    )
)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("group", None, "group: missing"),
        ("group", 7, "group: expected a text"),
        ("group", "\ud800", "a text holds a lone surrogate"),
        ("status", "queued", "name: missing"),
        ("poll_class", "fast", "poll_class: expected one of new"),
        ("poll_class", ["new"], "poll_class: expected a text"),
        ("failures", -1, "failures: expected a whole number"),
        ("failures", 1.5, "failures: expected a whole number"),
        ("failures", True, "failures: expected a whole number"),
        ("mark_errors", MAX_COUNT + 1, "mark_errors: expected a whole number"),
        ("lost", 2, "lost: expected true or false"),
        ("lost", "true", "lost: expected true or false"),
        ("due", float("inf"), "due: expected a finite number"),
        ("due", "soon", "due: expected a finite number"),
        ("due", 10**400, "due: expected a finite number"),
        ("interval", None, "interval: missing"),
        ("collections", {"users": 0}, "collections: expected an object of numbers"),
        ("collections", {"\ud800": 1}, "collections: holds a lone surrogate"),
        ("labels", ["a"], "labels: expected an object of texts"),
        ("labels", {"a": 1}, "labels: expected an object of texts"),
        ("labels", {"a": "\udfff"}, "labels: holds a lone surrogate"),
        ("labels", None, "labels: expected an object of texts"),
        ("namings", {}, "namings: expected a list"),
        ("namings", ["api"], "namings: expected kind"),
        ("namings", [{"kind": "api", "name": "", "group": "g"}], "namings: expected kind"),
        ("namings", [{"kind": "api", "name": "", "group": "g", "labels": {}, "x": 1}], "namings: expected kind"),
        ("namings", [{"kind": "mail", "name": "", "group": "g", "labels": {}}], "namings: expected one of config"),
        ("namings", [{"kind": "api", "name": "\ud800", "group": "g", "labels": {}}], "namings: holds a lone"),
        ("colour", "red", "colour: unknown field"),
    ],
)
def test_what_cannot_be_is_refused_by_name(field: str, value: Any, told: str) -> None:
    with pytest.raises(UnreadableRow, match=f"^{told}"):
        codec.read_operation(KEY, codec.OPERATIONS.row({**GOOD, field: value}), AS_IT_IS)


@FEWER
@given(st.sampled_from(sorted(GOOD)), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
@example("due", float("nan"))
def test_any_other_value_is_read_or_refused(field: str, value: Any) -> None:
    try:
        document = parse(dump({**GOOD, field: value}))
        kept = codec.read_operation(KEY, codec.OPERATIONS.row(document), AS_IT_IS)
    except ValueError:
        return
    assert codec.read_operation(KEY, codec.operation_row(kept, AS_IT_IS), AS_IT_IS) == kept


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(UnreadableRow, match=r"^status: expected one of queued, processing"):
        codec.read_operation(KEY, codec.OPERATIONS.row({**GOOD, "status": "done", "name": "n"}), AS_IT_IS)


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a": Infinity}', "[" * 100_000, "\x00"])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(UnreadableRow):
        parse(text)


@given(st.uuids())
def test_ids_are_packed(uuid: Any) -> None:
    assert unpack_id(pack_id(str(uuid))) == str(uuid)


# The tables.


def test_the_tables_hold_what_the_codec_writes() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(connection)
    for name, layout in (
        ("operations", codec.OPERATIONS),
        ("cells", codec.CELLS),
        ("environments", codec.ENVIRONMENTS),
    ):
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
        keys = [row[1] for row in connection.execute(f"PRAGMA table_info({name})") if row[5]]
        assert columns == [*keys, *layout.names]
    connection.close()


def test_migrations_go_on_from_any_version_and_each_is_whole() -> None:
    """Each migration runs on the file that those before it left; one that fails leaves that file as it was."""
    made = len(schema.MIGRATIONS)

    def add(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE operations ADD COLUMN colour TEXT")

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half (done)")
        connection.execute("no SQL")

    for start in range(made + 1):
        connection = sqlite3.connect(":memory:", isolation_level=None)
        schema.migrate(connection, schema.MIGRATIONS[:start])
        assert schema.version_of(connection) == start
        assert schema.is_ours(connection)
        schema.migrate(connection, (*schema.MIGRATIONS, add))
        assert schema.version_of(connection) == made + 1
        with pytest.raises(sqlite3.OperationalError):
            schema.migrate(connection, (*schema.MIGRATIONS, add, fail))
        assert schema.version_of(connection) == made + 1
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
        connection.close()
