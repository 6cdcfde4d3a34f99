"""Reading over the API."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from model import WALL, Model, environment, ids, running
from shown import (
    BLANK,
    CLEAN,
    DOWN,
    FAILED,
    FLAWED,
    GONE,
    LISTED,
    ODD,
    OTHER,
    PASSED,
    QUEUED,
    RUNNING,
    app_context,
    ask,
)

from exporter.config import Config, ListedOperation
from exporter.operation import Status

if TYPE_CHECKING:
    from exporter.web.context import AppContext

LIST = "/api/v1/operations"
ROOT = Path(__file__).parent.parent


def got(shown: AppContext, path: str, **request: Any) -> Any:
    answer = ask(shown, path, **request)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.json()


def listed(shown: AppContext, query: str = "", path: str = LIST) -> list[str]:
    return [each["id"] for each in got(shown, f"{path}?{query}")["operations"]]


# Lists.


def test_unfinished_ones_come_first_then_failed_ones_then_the_rest(shown: AppContext) -> None:
    states = [each["status"] for each in got(shown, LIST)["operations"]]
    order = ["failed" if each == "failed" else "completed" if each == "completed" else "unfinished" for each in states]
    assert order == ["unfinished"] * 8 + ["failed"] + ["completed"] * 2


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("environment=staging", {OTHER}),
        ("group=nightly", {RUNNING}),
        ("name=unknown&status=pending", {GONE, DOWN}),
        ("status=unfinished&environment=production", {*LISTED} - {CLEAN, FLAWED, FAILED}),
        ("status=with_errors", {RUNNING, FLAWED}),
        ("status=stale", set()),
        ("status=unknown", {ODD}),
        ("status=&group=&id=", {*LISTED, OTHER}),
        (f"id={RUNNING[5:20].upper()}", {RUNNING}),
        ("environment=nowhere", set()),
    ],
)
def test_filters(shown: AppContext, query: str, expected: set[str]) -> None:
    answer = got(shown, f"{LIST}?{query}")
    assert {each["id"] for each in answer["operations"]} == expected
    assert answer["total"] == len(expected)


def test_an_environment_has_a_list_of_its_own(shown: AppContext) -> None:
    assert listed(shown, path=f"{LIST}/staging") == [OTHER]
    assert set(listed(shown, "status=failed", f"{LIST}/production")) == {FAILED}


def test_pages_follow_each_other_without_a_gap_or_a_double(shown: AppContext) -> None:
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = got(shown, f"{LIST}?limit=3" + (f"&cursor={cursor}" if cursor else ""))
        assert len(page["operations"]) <= 3
        assert page["total"] == len(LISTED) + 1
        found += [each["id"] for each in page["operations"]]
        cursor = page["next"]
    assert found == listed(shown)


def test_a_cursor_stays_good_when_operations_end_meanwhile() -> None:
    states: dict[str, Status] = {}
    some = ids(30)
    model = Model(
        Config((environment(operations=some),)),
        lambda request, _now: replace(running(request.id), status=states.get(request.id, Status.PROCESSING)),
    )
    model.run(5)
    first = got(app_context(model), f"{LIST}?limit=10")
    last = [each["id"] for each in first["operations"]]
    states[last[-1]] = states[last[3]] = Status.COMPLETED
    model.run(60)
    rest = listed(app_context(model), f"limit=100&cursor={first['next']}")
    assert set(some) <= {*last, *rest}


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (
            "colour=red",
            'query: unknown parameter "colour": expected environment, group, run, name, status, id, limit, cursor',
        ),
        ("group=a&group=b", "query: group is given 2 times"),
        ("status=sleeping", "status: expected one of pending, queued"),
        ("id=" + "0" * 37, "id: expected an id or a part of one"),
        ("limit=0", "limit: expected a number from 1 to 1000"),
        ("limit=1001", "limit: expected"),
        ("limit=ten", "limit: expected"),
        ("limit=٣", "limit: expected"),
        ("limit=", "limit: expected"),
        ("cursor=", "cursor: not one that this API has given"),
        ("cursor=!", "cursor: not one"),
        ("cursor=%00é", "cursor: not one"),
        ("cursor=" + base64.urlsafe_b64encode(b'[0, Infinity, "a", "b"]').decode(), "cursor: not one"),
        ("cursor=" + base64.urlsafe_b64encode(b'[true, 1.0, "a"]').decode(), "cursor: not one"),
        ("cursor=" + base64.urlsafe_b64encode(b"[" * 900).decode(), "cursor: not one"),
    ],
)
def test_a_query_that_cannot_be_read_is_told(shown: AppContext, query: str, told: str) -> None:
    answer = ask(shown, f"{LIST}?{query}")
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"].startswith(told)


# One operation.


def test_one_in_full(shown: AppContext) -> None:
    it = got(shown, f"{LIST}/production/{RUNNING.upper()}")
    assert (it["id"], it["group"], it["labels"], it["status"]) == (RUNNING, "nightly", {"team": "growth"}, "processing")
    assert it["record"]["processed_rows"] == it["processed_rows"] > 50
    assert it["record"]["inserted_at"] == "2027-01-15T07:59:00Z"
    assert it["record"]["completed_at"] is None
    assert it["rate_rows_per_second"] == pytest.approx(1.0, abs=0.1)
    assert it["time_left_seconds"] == pytest.approx(1000 - it["processed_rows"], rel=0.1)
    assert it["age_seconds"] == 120.0
    assert [each["kind"] for each in it["sources"]] == ["config", "files"]
    assert {each["reason"] for each in it["polls"]} == {None}
    assert [each["processed_rows"] for each in it["points"]][-1] == it["processed_rows"]
    assert it["has_series"] is True


def test_what_cannot_be_known_is_null(shown: AppContext) -> None:
    passed, blank = (got(shown, f"{LIST}/production/{each}") for each in (PASSED, BLANK))
    for each in (passed, blank):
        assert (each["progress"], each["time_left_seconds"]) == (None, None)
    down = got(shown, f"{LIST}/production/{DOWN}")
    assert (down["record"], down["processed_rows"], down["last_success_at"]) == (None, None, None)
    assert {each["reason"] for each in down["polls"]} == {"timeout"}
    assert down["last_poll_succeeded"] is False
    assert got(shown, f"{LIST}/production/{CLEAN}")["next_poll_at"] is None
    assert got(shown, f"{LIST}/production/{QUEUED}")["rate_rows_per_second"] is None


def test_failed_items_are_counted_by_collection(shown: AppContext) -> None:
    record = got(shown, f"{LIST}/production/{FLAWED}")["record"]
    assert (record["error_items_count"], record["error_items_by_collection"]) == (3, {"": 2, "x": 1})


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        (f"{LIST}/nowhere", 404, 'this exporter has no environment "nowhere" (it has: production, staging)'),
        (f"{LIST}/nowhere/{RUNNING}", 404, 'this exporter has no environment "nowhere" (it has: production, staging)'),
        (f"{LIST}/staging/{RUNNING}", 404, f'{RUNNING} is not followed in "staging"'),
        (f"{LIST}/production/abc", 400, "id: "),
        (f"{LIST}/production/{RUNNING}?x=1", 400, 'query: unknown parameter "x": none is taken here'),
        ("/api/v1/environments?x=1", 400, "query: unknown parameter"),
        ("/api/v1/nothing", 404, "Nothing matches"),
        ("/api/", 404, "Nothing matches"),
    ],
)
def test_what_is_not_there_is_a_problem(shown: AppContext, path: str, status: int, told: str) -> None:
    answer = ask(shown, path)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert answer.json()["detail"].startswith(told)


def test_a_path_that_can_be_asked_otherwise_says_how(shown: AppContext) -> None:
    answer = ask(shown, "/api/v1/environments", "DELETE")
    assert (answer.status_code, set(answer.headers["Allow"].split(", "))) == (405, {"GET", "HEAD"})
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert ask(shown, LIST, "HEAD").content == b""


# Environments.


def test_environments(shown: AppContext) -> None:
    production, staging = got(shown, "/api/v1/environments")["environments"]
    assert (production["name"], production["branch"], production["up"], production["suspended"]) == (
        "production",
        "b",
        True,
        False,
    )
    assert production["operations"]["pending"] == 2
    assert production["last_error"]["reason"] in ("timeout", "not_found")
    assert production["rate_limit_per_second"] == production["rate_current_per_second"] == 20.0
    sources = {each["kind"]: each for each in production["sources"]}
    assert sources["http"] == {
        "kind": "http",
        "name": "https://lists.example/ids",
        "operations": 0,
        "read_at": None,
        "problem": "HTTP 500",
    }
    assert sources["files"]["operations"] == 1
    assert staging["operations"]["processing"] == 1


def test_no_secret_is_shown(shown: AppContext) -> None:
    for path in ("/api/v1/environments", f"{LIST}/production/{RUNNING}", LIST):
        assert "hunter2" not in ask(shown, path).text
        assert "sk_test" not in ask(shown, path).text


# Documents.


def test_the_example_in_the_document_is_an_answer() -> None:
    document = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    example = re.findall(r"```json\n(.*?)```", document, flags=re.DOTALL)[0]
    operation_id = "123e4567-e89b-12d3-a456-426614174000"
    counts = {"rows_processed": 700, "rows_estimated": 1000, "successes": 698, "errors": 2}
    times = {"inserted_at": WALL - 3590, "failed_at": WALL}
    failed = replace(running(operation_id, **counts, **times), status=Status.FAILED)
    model = Model(Config((environment(operations=[]),)), lambda *_: failed)
    model.list_file("/ids.txt", ListedOperation(operation_id, "nightly-sync"))
    model.run(10)
    answer = got(app_context(model), f"{LIST}/production?status=failed")
    answer["operations"][0]["last_success_at"] = "2027-01-15T08:00:00Z"
    assert answer == json.loads(example)
