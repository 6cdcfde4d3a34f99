"""Records from the wire are read as what they mean, however large what is not read may be."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.knock.reading import read_operation
from exporter.operation import Invalid, Operation, Status, parse_operation

ID = "b19d032a-fc3b-4a54-9f54-369484527201"
RECORD = {"id": ID, "status": "processing", "name": "users.identify", "processed_rows": 3}
COUNTS = ("estimated_total_rows", "success_count", "error_count", "error_items")
TIMES = ("inserted_at", "updated_at", "started_at", "completed_at", "failed_at")
FIELDS = (*RECORD, *COUNTS, *TIMES, "surprise")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
VALUES = JSON | st.sampled_from(["2026-11-29T06:00:00Z", "completed", ID, [{"collection": "users"}, {}, 5]])


def read(text: str) -> Operation:
    return read_operation(bytearray(text.encode()), ID)


def outcome(read: Any) -> Any:
    try:
        return read()
    except Invalid as invalid:
        return invalid.field, str(invalid)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_what_is_read_is_what_the_whole_document_says(fields: dict[str, Any]) -> None:
    document = RECORD | fields
    assert outcome(lambda: read(json.dumps(document))) == outcome(lambda: parse_operation(document, ID))


@pytest.mark.parametrize(
    "items", [[{"id": "\ud800", "collection": "users"}, {"collection": "\udfff"}], ["\ud800"], {"a": "\udead"}]
)
def test_a_lone_surrogate_among_what_failed_does_not_hide_the_status(items: Any) -> None:
    document = RECORD | {"error_items": items}
    assert read(json.dumps(document)).status is Status.PROCESSING
    assert read(json.dumps(document)).error_items == parse_operation(document, ID).error_items


def test_a_lone_surrogate_in_the_name_is_not_a_name() -> None:
    assert outcome(lambda: read(json.dumps(RECORD | {"name": "a\ud800"}))) == ("name", "holds a lone surrogate")


@pytest.mark.parametrize("body", ["", "{", "[]", "5", "{}{}", '{"a":1}\x00', "{'a': 1}", '{"x":' * 500_000])
def test_broken_bodies_are_invalid(body: str) -> None:
    assert outcome(lambda: read(body))[0] == "body"


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000])
def test_a_number_out_of_all_bounds_is_that_fields(number: str) -> None:
    body = json.dumps(RECORD)[:-1] + f',"error_count":{number}}}'
    assert outcome(lambda: read(body)) == ("error_count", "expected a whole number from 0 to 2^53")


@given(st.binary())
def test_any_bytes_are_a_record_or_invalid(body: bytes) -> None:
    with pytest.raises(Invalid):
        read_operation(bytearray(body), ID)


def _many(item: Any, count: int) -> str:
    return json.dumps(RECORD)[:-1] + ',"error_items":[' + ",".join(item(number) for number in range(count)) + "]}"


def _read_with_peak(text: str) -> tuple[Operation, int]:
    body = bytearray(text.encode())
    tracemalloc.start()
    try:
        return read_operation(body, ID), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_size_is_that_of_the_answer() -> None:
    assert read(json.dumps(RECORD)).size == len(json.dumps(RECORD))


@pytest.mark.parametrize(
    ("item", "count"),
    [
        (lambda number: f'{{"id":"user_{number}","collection":"users"}}', 20_000),
        (lambda _number: '{"a":1}', 40_000),
        (lambda _number: "[]", 40_000),
        (lambda number: f'{{"collection":"{number:x}"}}', 20_000),
    ],
)
def test_many_failed_items_cost_little_memory(item: Any, count: int) -> None:
    operation, peak = _read_with_peak(_many(item, count))
    assert operation.error_items == count
    assert peak < 5 * 2**20


def test_an_object_of_many_keys_costs_no_memory() -> None:
    keys = ",".join(f'"{number:x}":1' for number in range(20_000))
    operation, peak = _read_with_peak(f'{json.dumps(RECORD)[:-1]},"x":{{{keys}}}}}')
    assert operation.status is Status.PROCESSING
    assert peak < 2**18
