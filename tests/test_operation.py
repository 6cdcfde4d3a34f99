"""How an answer of Knock is read: every rule, and that nothing gets past them."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.operation import (
    MAX_COUNT,
    NIL_ID,
    Invalid,
    Operation,
    Status,
    decode,
    is_operation_id,
    parse_operation,
    parse_time,
)

ID = "b19d032a-fc3b-4a54-9f54-369484527201"
CREATED = {  # as seen in 2022, from the create call
    "__typename": "BulkOperation",
    "completed_at": None,
    "estimated_total_rows": 2,
    "failed_at": None,
    "id": ID,
    "inserted_at": "2022-05-27T11:12:08.281201Z",
    "name": "users.identify",
    "processed_rows": 0,
    "progress_path": f"/v1/bulk_operations/{ID}",
    "started_at": None,
    "status": "queued",
    "updated_at": "2022-05-27T11:12:08.286507Z",
}
COUNTS = {
    "processed_rows": "rows_processed",
    "estimated_total_rows": "rows_estimated",
    "success_count": "successes",
    "error_count": "errors",
}
TIMES = ("inserted_at", "updated_at", "started_at", "completed_at", "failed_at")


def read(**fields: Any) -> Operation:
    return parse_operation({"id": ID, "status": "processing"} | fields, ID)


def refused(document: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        parse_operation(document, ID)
    return caught.value


def test_a_recorded_answer() -> None:
    assert parse_operation(CREATED, ID) == Operation(
        id=ID,
        status=Status.QUEUED,
        name="users.identify",
        rows_processed=0,
        rows_estimated=2,
        inserted_at=1653649928.281201,
        updated_at=1653649928.286507,
    )


def test_all_that_may_be_missing_may_be_missing() -> None:
    assert read() == Operation(id=ID, status=Status.PROCESSING)
    assert read().name == "unknown"


@pytest.mark.parametrize("field", ["id", "status"])
@pytest.mark.parametrize("value", [None, 5, True, [], {}])
def test_id_and_status_are_required_strings(field: str, value: Any) -> None:
    record = {"id": ID, "status": "queued"}
    assert refused(record | {field: value}).field == field
    del record[field]
    error = refused(record)
    assert (error.field, str(error)) == (field, "expected a string, got nothing")


def test_the_id_must_be_the_one_asked_for_in_any_case() -> None:
    assert parse_operation({"id": ID.upper(), "status": "queued"}, ID).id == ID
    assert refused({"id": NIL_ID, "status": "queued"}).field == "id"


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.UNKNOWN])
def test_documented_statuses(status: Status) -> None:
    assert read(status=str(status)).status is status


@pytest.mark.parametrize("word", ["unknown", "cancelled", "Completed", "", "\ud800", "x" * 1000])
def test_any_other_status_is_unknown_and_not_final(word: str) -> None:
    operation = read(status=word)
    assert operation.status is Status.UNKNOWN
    assert not operation.status.final


def test_which_statuses_are_final() -> None:
    assert [status for status in Status if status.final] == [Status.COMPLETED, Status.FAILED]


@pytest.mark.parametrize(("field", "attribute"), COUNTS.items())
@pytest.mark.parametrize(
    ("value", "count"), [(None, None), (0, 0), (7, 7), (3.0, 3), (-0.0, 0), (MAX_COUNT, MAX_COUNT), (1e3, 1000)]
)
def test_counts_that_are_taken(field: str, attribute: str, value: Any, count: int | None) -> None:
    taken = getattr(read(**{field: value}), attribute)
    assert taken == count
    assert taken is None or type(taken) is int


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize(
    "value",
    [True, False, "3", -1, -0.5, 0.5, MAX_COUNT + 1, 1e300, 10**400, float("nan"), float("inf"), -float("inf"), [], {}],
)
def test_counts_that_are_refused(field: str, value: Any) -> None:
    assert refused({"id": ID, "status": "queued", field: value}).field == field


@given(st.sampled_from(sorted(COUNTS)), st.integers(0, MAX_COUNT))
def test_every_count_comes_back_exactly(field: str, count: int) -> None:
    document = decode(json.dumps({"id": ID, "status": "queued", field: count}).encode())
    assert getattr(parse_operation(document, ID), COUNTS[field]) == count


@pytest.mark.parametrize("name", [None, ""])
def test_no_name(name: Any) -> None:
    assert read(name=name).name == "unknown"


@pytest.mark.parametrize("name", [5, True, [], {}, "a\ud800b", "\udfff"])
def test_names_that_are_refused(name: Any) -> None:
    assert refused({"id": ID, "status": "queued", "name": name}).field == "name"


@pytest.mark.parametrize("name", ["objects.früchte.set", "\U0001f34c", "a\x00b", 'quo"te'])
def test_names_are_taken_as_they_are(name: str) -> None:
    assert read(name=name).name == name


@pytest.mark.parametrize(
    ("items", "count"),
    [
        (None, None),
        ([], 0),
        ([{"id": "a@b.c", "collection": None}, {"id": "x"}], 2),
        ([1, None, "junk"], 3),
        ("junk", None),
        ({"a": 1}, None),
        (5, None),
    ],
)
def test_error_items_are_counted_and_never_hide_the_status(items: Any, count: int | None) -> None:
    operation = read(error_items=items)
    assert (operation.error_items, operation.status) == (count, Status.PROCESSING)


def test_a_key_is_no_name() -> None:
    assert read(name="sk_test_0123").name == "sk_***"


def test_a_key_is_no_collection() -> None:
    assert read(error_items=[{"collection": "sk_test_0123"}, {"collection": "users"}]).collections == (
        ("sk_***", 1),
        ("users", 1),
    )


def test_the_rest_is_ignored() -> None:
    assert read(progress_path=5, __typename=[], surprise={"a": 1}) == read()


@pytest.mark.parametrize("document", [None, [], "x", 5, True])
def test_a_record_is_an_object(document: Any) -> None:
    assert refused(document).field == "body"


# Times


@pytest.mark.parametrize("field", TIMES)
def test_times(field: str) -> None:
    assert getattr(read(**{field: None}), field) is None
    assert getattr(read(**{field: "1970-01-01T00:00:10Z"}), field) == 10
    values: list[Any] = ["", "yesterday", 5, True, [], "0000-01-01T00:00:00Z"]
    assert [refused({"id": ID, "status": "queued", field: value}).field for value in values] == [field] * len(values)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01 00:00:00Z", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T01:30:00+01:30", 0),
        ("1969-12-31T23:59:59Z", -1),
        ("1970-01-01T00:00:00.5Z", 0.5),
        ("1970-01-01T00:00:00.123456789Z", 0.123456),
        ("2016-12-31T23:59:60Z", 1483228800),
        ("2024-02-29T00:00:00Z", 1709164800),
        ("0001-01-01T00:00:00Z", -62135596800),
    ],
)
def test_rfc_3339(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "1970-01-01",
        "1970-01-01T00:00:00",
        "1970-01-01T00:00Z",
        "19700101T000000Z",
        "1970-01-01T00:00:00.Z",
        "1970-01-01T00:00:00,5Z",
        "1970-01-01T00:00:00+0100",
        "1970-01-01T00:00:00+24:00",
        "1970-01-01T00:00:00+00:99",
        "1970-01-01T24:00:00Z",
        "1970-01-01T00:60:00Z",
        "9999-12-31T23:59:60-23:59",
        "9999-12-31T23:59:60Z",
        "0001-01-01T00:00:00+00:01",
        "1970-01-01T00:00:61Z",
        "1970-02-30T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "1970-01-01T00:00:00Z\n",
        " 1970-01-01T00:00:00Z",
        "1970-W01-4T00:00:00Z",
        "\u0661970-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "0",
    ],
)
def test_not_rfc_3339(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)


@given(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)), st.integers(-1439, 1439))  # noqa: DTZ001  the zone comes next to it
def test_every_moment_comes_back(moment: datetime, minutes: int) -> None:
    zoned = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert parse_time(zoned.isoformat()) == zoned.timestamp()
    utc = zoned.astimezone(UTC)
    assert parse_time(utc.isoformat().replace("+00:00", "Z")) == utc.timestamp()


# When it ended, and what counts as a change


@pytest.mark.parametrize(
    ("status", "times", "end"),
    [
        ("completed", {"completed_at": 3, "updated_at": 9}, 3),
        ("completed", {"failed_at": 4, "updated_at": 9}, 4),
        ("completed", {"updated_at": 9}, 9),
        ("completed", {}, None),
        ("failed", {"failed_at": 5, "completed_at": 3}, 5),
        ("failed", {"completed_at": 3}, 3),
        ("processing", {"completed_at": 3, "updated_at": 9}, None),
        ("cancelled", {"completed_at": 3}, None),
    ],
)
def test_when_it_ended(status: str, times: dict[str, int], end: float | None) -> None:
    written = {field: f"1970-01-01T00:00:{second:02}Z" for field, second in times.items()}
    assert read(status=status, **written).finished_at == end


def test_an_end_at_the_epoch_is_an_end() -> None:
    written = {"completed_at": "1970-01-01T00:00:00Z", "updated_at": "1970-01-01T00:00:09Z"}
    assert read(status="completed", **written).finished_at == 0


def test_updated_at_alone_is_not_progress() -> None:
    before, after = read(), read(updated_at="2024-01-01T00:00:00Z")
    assert before.progress == after.progress
    assert before.progress != read(processed_rows=1).progress
    assert before.progress != read(error_items=[1]).progress


# Ids and bytes


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (ID, True),
        (ID.upper(), True),
        (NIL_ID, True),
        (ID.replace("-", ""), False),
        (f"{{{ID}}}", False),
        (f"urn:uuid:{ID}", False),
        (f"{ID}\n", False),
        (f" {ID}", False),
        (ID.replace("b", "g", 1), False),
        (ID.replace("1", "\u0661"), False),
        ("", False),
    ],
)
def test_what_is_an_id(text: str, *, good: bool) -> None:
    assert is_operation_id(text) is good


@given(st.uuids())
def test_every_uuid_is_an_id(uuid: Any) -> None:
    assert is_operation_id(str(uuid))


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 500_000, b"9" * 5000, b"\x00", b"{}{}", b'{"a":1}\x00'])
def test_broken_bytes_are_invalid_bodies(body: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        decode(body)
    assert caught.value.field == "body"


@given(st.binary())
def test_any_bytes_are_json_or_invalid(body: bytes) -> None:
    with contextlib.suppress(Invalid):
        decode(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*CREATED, *COUNTS, "error_items"]), JSON), JSON)
def test_any_record_is_read_or_invalid(fields: dict[str, Any], status: Any) -> None:
    try:
        operation = parse_operation(CREATED | {"status": status} | fields, ID)
    except Invalid:
        return
    operation.name.encode()
    counts = (operation.rows_processed, operation.rows_estimated, operation.successes, operation.errors)
    assert all(count is None or 0 <= count <= MAX_COUNT for count in counts)
    assert hash(operation) is not None
