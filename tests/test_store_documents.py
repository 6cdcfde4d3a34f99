"""What is kept comes back as it was: every field, and every time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Any, get_type_hints

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import to_builtins

from exporter.operation import MAX_COUNT, Operation, OperationKey, pack_id, unpack_id
from exporter.store import conversions, documents, schema, tables
from exporter.store.ages import Ages, Checkpoint, first_ages
from exporter.store.documents import UnreadableRow
from exporter.tracking.memberships import API, Membership, SourceKey
from exporter.tracking.memory import Changes, EnvironmentMemory, Memory, StoredAggregate, StoredOperation
from exporter.tracking.runs import Run, RunSums, StoredGroup
from exporter.tracking.tombstones import Tombstone, Tombstones
from exporter.tracking.transitions import STATES, Marks, Moment, Tracked

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
    hints = get_type_hints(made, localns={"Mapping": Mapping})  # which modules import for types alone
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
KINDS[tuple[int, ...]] = st.tuples(*[COUNTS] * len(STATES))
SUMS = st.integers(0, 10_000 * MAX_COUNT)
KINDS[RunSums] = every_field(RunSums, rows_processed=SUMS, rows_estimated=SUMS, errors=SUMS)
KINDS[Run | None] = st.none() | every_field(Run)
KINDS[Mapping[str, float]] = st.dictionaries(TEXTS, TIMES, max_size=3)
PLACES = st.tuples(TEXTS, TEXTS)
KEPT = st.builds(StoredOperation, every_field(Tracked, key=st.just(KEY)), MEMBERSHIPS)


def never(*row: str) -> None:
    raise AssertionError(row)


@FEWER
@given(
    kept=KEPT,
    environment=every_field(EnvironmentMemory),
    aggregate=every_field(StoredAggregate),
    group=every_field(StoredGroup),
    stone=every_field(Tombstone),
    place=PLACES,
)
def test_what_is_kept_comes_back_with_every_field(  # noqa: PLR0913, PLR0917 - one for each kind
    kept: StoredOperation,
    environment: EnvironmentMemory,
    aggregate: StoredAggregate,
    group: StoredGroup,
    stone: Tombstone,
    place: tuple[str, str],
) -> None:
    aggregates, groups = {("production", *place): aggregate}, {("production", place[0]): group}
    memory = Memory({KEY: kept}, Tombstones({KEY: stone}), aggregates, {"production": environment}, groups)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.migrate(connection)
        parts = (memory.operations, memory.tombstones, memory.aggregates, memory.environments, memory.groups)
        changes = Changes(1, Moment(0.0, 0.0), *parts)
        tables.write_changes(connection, changes, AS_IT_IS)
        assert tables.read_memory(connection, AS_IT_IS, never) == memory


@FEWER
@given(kept=KEPT, environment=every_field(EnvironmentMemory))
def test_the_views_show_every_field(kept: StoredOperation, environment: EnvironmentMemory) -> None:
    """As in docs/state.md: a column for each field, lists and objects as JSON."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.migrate(connection)
        changes = Changes(1, Moment(0.0, 0.0), {KEY: kept}, {}, {}, {"production": environment})
        tables.write_changes(connection, changes, AS_IT_IS)
        for view, document in (
            ("operations", conversions.operation_document(KEY, kept, AS_IT_IS)),
            ("environments", conversions.environment_document("production", environment, AS_IT_IS)),
        ):
            found = connection.execute(f"SELECT * FROM {view}")  # noqa: S608 - ours
            row = dict(zip([each[0] for each in found.description], found.fetchone(), strict=True))
            assert list(row) == [*document.__struct_fields__]
            for name, value in to_builtins(document).items():
                if name != "kind":
                    shown = json.loads(row[name]) if isinstance(value, dict | list | tuple) else row[name]
                    if isinstance(value, str):  # SQLite ends a text there; the document has all of it
                        value = value.partition("\0")[0]  # noqa: PLW2901
                    assert shown == (list(value) if isinstance(value, tuple) else value), name


def test_no_time_field_is_written_as_it_is() -> None:
    """Each monotonic time moves with the clock; a new one must be told to the documents."""
    moved = {"handed_over", "due", "last_success", "last_change", "missing_since", "final_at"}
    seconds = {"interval", "healthy_interval", "final_seen"}
    floats = {name for name, kind in get_type_hints(Tracked).items() if "float" in str(kind) or "Moment" in str(kind)}
    assert floats == moved | seconds, "a new time: is it monotonic? Then it is stored as an age"
    now = Moment(50.0, 2000.0)
    tracked = Tracked(KEY, "g", (), now, 60.0, 1.0, 1.0, last_success=now, last_change=now, missing_since=1.0)
    document = conversions.operation_document(KEY, StoredOperation(tracked, ()), Ages(1000.0))
    back = conversions.read_operation(KEY, document, Ages(990.0)).tracked
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

GOOD: dict[str, Any] = json.loads(
    documents.encode(
        conversions.operation_document(
            KEY,
            StoredOperation(Tracked(KEY, "g", (("a", "b"),), Moment(1.0, 2.0), None, 5.0, 5.0), (Membership(API),)),
            AS_IT_IS,
        )
    )
)


def decoded(**fields: Any) -> documents.Document:
    """Read a good document with these fields instead; None: without."""
    given_fields = {name: value for name, value in {**GOOD, **fields}.items() if value is not None}
    return documents.decode(json.dumps(given_fields).encode())


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("kind", "planet", "kind: invalid value 'planet'"),
        ("kind", [], "kind: expected `str`"),
        ("environment", "../x", "environment: expected a name of a-z"),
        ("id", "x", "id: is not a valid UUID"),
        ("group", None, "group: missing"),
        ("group", 7, "group: expected `str`, got `int`"),
        ("group", "\ud800", "not JSON"),
        ("status", "queued", "name: missing"),
        ("status", "done", "status: invalid enum value 'done'"),
        ("poll_class", "fast", "poll_class: invalid enum value 'fast'"),
        ("poll_class", ["new"], "poll_class: expected `str`, got `array`"),
        ("failures", -1, "failures: expected `int` >= 0"),
        ("failures", 1.5, "failures: expected `int`, got `float`"),
        ("failures", True, "failures: expected `int`, got `bool`"),
        ("mark_errors", MAX_COUNT + 1, "mark_errors: expected `int` <= 9007199254740992"),
        ("lost", 2, "lost: expected `bool`, got `int`"),
        ("lost", "true", "lost: expected `bool`, got `str`"),
        ("due", float("inf"), "not JSON"),
        ("due", 1e300, "due: expected `float` <="),
        ("due", "soon", "due: expected `float | null`, got `str`"),
        ("due", 10**400, "due: number out of range"),
        ("interval", None, "interval: missing"),
        ("collections", {"users": 0}, "collections[...]: expected `int` >= 1"),
        ("collections", {"\ud800": 1}, "not JSON"),
        ("labels", ["a"], "labels: expected `object`, got `array`"),
        ("labels", {"a": 1}, "labels[...]: expected `str`, got `int`"),
        ("labels", {"a": "\udfff"}, "not JSON"),
        ("labels", None, "labels: missing"),
        ("namings", {}, "namings: expected `array`, got `object`"),
        ("namings", ["api"], "namings[0]: expected `object`, got `str`"),
        ("namings", [{"kind": "api", "name": "", "group": "g"}], "namings[0]: labels: missing"),
        ("namings", [{"kind": "api", "name": "", "group": "g", "labels": {}, "x": 1}], "namings[0]: x: unknown field"),
        ("namings", [{"kind": "mail", "name": "", "group": "g", "labels": {}}], "namings[0].kind: invalid enum value"),
        ("colour", "red", "colour: unknown field"),
    ],
)
def test_what_cannot_be_is_refused_by_name(field: str, value: Any, told: str) -> None:
    with pytest.raises(UnreadableRow) as refused:
        decoded(**{field: value})
    assert str(refused.value).startswith(told)


@FEWER
@given(st.sampled_from(sorted(GOOD)), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
@example("due", float("nan"))
def test_any_other_value_is_read_or_refused(field: str, value: Any) -> None:
    try:
        document = decoded(**{field: value})
    except ValueError:
        return
    assert isinstance(document, documents.OperationDocument)
    kept = conversions.read_operation(document.key, document, AS_IT_IS)
    again = documents.decode(documents.encode(conversions.operation_document(document.key, kept, AS_IT_IS)))
    assert isinstance(again, documents.OperationDocument)
    assert conversions.read_operation(again.key, again, AS_IT_IS) == kept


@pytest.mark.parametrize("line", [b"", b"{", b'{"a": Infinity}', b"[" * 100_000, b"\x00", b'{"kind": "\xff"}'])
def test_what_cannot_be_a_document_is_refused(line: bytes) -> None:
    with pytest.raises(UnreadableRow):
        documents.decode(line)


@given(st.uuids())
def test_ids_are_packed(uuid: Any) -> None:
    assert unpack_id(pack_id(str(uuid))) == str(uuid)


# The tables.


def test_migrations_go_on_from_any_version_and_each_is_whole() -> None:
    """Each migration runs on the file that those before it left; one that fails leaves that file as it was."""
    made = len(schema.MIGRATIONS)

    def add(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE tombstones ADD COLUMN reason TEXT")

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
