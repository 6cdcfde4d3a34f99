"""The calls by which programs register operations: the application in process, without a tracker."""

from __future__ import annotations

import asyncio
import json
import threading
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from registration_service import CONFIG, HEADERS, STAGING_TOKEN, FakeService
from starlette.applications import Starlette

from exporter.config import Config, ListedOperation
from exporter.registrations import MAX_BODY_BYTES, MAX_IDS
from exporter.tokens import Tokens
from exporter.tracking.memberships import CONFIG as LISTED
from exporter.tracking.memberships import SourceKey, SourceKind
from exporter.tracking.messages import Created, Registration, Release, ReleaseResult
from exporter.web.lifecycle import ReloadReply, reload_route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import ASGIApp

A, B, C = (f"00000000-0000-4000-8000-00000000000{each}" for each in "abc")
BORN = {
    "__typename": "BulkOperation",
    "completed_at": None,
    "estimated_total_rows": 2,
    "failed_at": None,
    "id": A,
    "inserted_at": "2022-05-27T11:12:08.281201Z",
    "name": "users.identify",
    "processed_rows": 0,
    "progress_path": f"/v1/bulk_operations/{A}",
    "started_at": None,
    "status": "queued",
    "updated_at": "2022-05-27T11:12:08.286507Z",
}
BORN_AT = 1653649928.281201
POST = "/api/v1/operations/production"
NO_RUN_ID = "is not a run id (expected 1 to 64 of A-Z, a-z, 0-9, . _ : and -)"
JSON, TEXT = "application/json", "text/plain"


async def asked(app: ASGIApp, method: str, path: str, **request: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://exporter") as client:
        return await client.request(method, path, **request)


def call(service: FakeService, method: str, path: str, **request: Any) -> httpx.Response:
    return asyncio.run(asked(service.app(), method, path, **request))


def post(service: FakeService, body: Any, path: str = POST, kind: str = JSON, **headers: str) -> httpx.Response:
    content = body if isinstance(body, (bytes, str)) and kind != JSON else json.dumps(body)
    return call(service, "POST", path, content=content, headers=HEADERS | {"Content-Type": kind} | headers)


def problem(answer: httpx.Response, status: int, detail: str, **more: Any) -> None:
    """Check a whole answer of problem details."""
    assert answer.json() == more | {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"


# What a body may hold.


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (A, JSON), ({"id": A}, JSON), ([A], JSON), ([{"id": A.upper()}], JSON),
        (A, TEXT), (f"# one\n\n  {A} # it\n", TEXT), (f"\ufeff{A}\r\n", TEXT),
        (json.dumps({"id": A}), TEXT), (f' "{A}"', TEXT), (f'[{{"id": "{A}"}}]', "text/plain;charset=UTF-8"),
        (A, 'Application/JSON; charset="utf-8"'), (A, "text/plain; charset=us-ascii"),
        ({"status": "completed", "id": A}, JSON), (BORN | {"status": "failed"}, JSON),
        ({"id": A, "group": None, "run": None, "labels": None, "again": None}, JSON),
        ({"id": A, "group": "default"}, JSON),
    ],
)  # fmt: skip
def test_an_id_is_taken_as_it_is_at_hand(service: FakeService, body: Any, kind: str) -> None:
    if "json" in kind.lower():
        body, kind = json.dumps(body).encode(), kind + " "
    answer = post(service, body, kind=kind)
    assert answer.json() == {"accepted": [{"id": A, "state": "pending"}], "rejected": [], "durable": True}
    assert answer.status_code == 200
    [message] = service.registers
    assert (message.environment, message.operations) == ("production", (Registration(ListedOperation(A)),))
    assert not message.again


@pytest.mark.parametrize(
    ("change", "created"),
    [
        ({}, Created("users.identify", BORN_AT)),
        ({"inserted_at": None}, Created("users.identify", None)),
        ({"inserted_at": "yesterday"}, None),
        ({"inserted_at": 5}, None),
        ({"status": "processing"}, None),
        ({"status": ["queued"]}, None),
        ({"name": "sk_live_0123"}, Created("sk_***", BORN_AT)),
        ({"name": None}, None),
        ({"name": ""}, None),
        ({"name": "a" * 257}, None),
        ({"name": "\ud800"}, None),
        ({"name": "a\nb"}, None),
        ({"completed_at": "2022-05-27T11:12:09Z", "processed_rows": "many", "new": {"deep": []}},
         Created("users.identify", BORN_AT)),
    ],
)  # fmt: skip
def test_of_a_record_only_its_birth_is_believed(
    service: FakeService, change: dict[str, Any], created: Created | None
) -> None:
    assert post(service, BORN | change).status_code == 200
    assert service.registration[A] == Registration(ListedOperation(A), created)


def test_group_and_labels_stand_beside_the_id_or_in_the_query(service: FakeService) -> None:
    items = [{"id": A, "group": "own", "labels": {"tier": "2", "team": "own"}}, BORN | {"id": B, "labels": {}}, C]
    answer = post(service, items, path=f"{POST}?group=sync&label.team=growth")
    assert answer.status_code == 200
    assert [service.registration[each].operation for each in (A, B, C)] == [
        ListedOperation(A, "own", (("team", "own"), ("tier", "2"))),
        ListedOperation(B, "sync", (("team", "growth"),)),
        ListedOperation(C, "sync", (("team", "growth"),)),
    ]


def test_a_run_stands_next_to_the_group_or_in_the_query(service: FakeService) -> None:
    items = [{"id": A, "group": "own", "run": "own:1"}, BORN | {"id": B, "group": "sync", "run": None}, C]
    assert post(service, items, path=f"{POST}?group=sync&run=2026-01-31").status_code == 200
    assert [service.registration[each].operation for each in (A, B, C)] == [
        ListedOperation(A, "own", run="own:1"),
        ListedOperation(B, "sync", run="2026-01-31"),
        ListedOperation(C, "sync", run="2026-01-31"),
    ]


def test_a_run_without_a_group_is_one_of_the_group_default(service: FakeService) -> None:
    assert post(service, f"{A}\n", path=f"{POST}?run=1", kind=TEXT).status_code == 200
    assert service.registration[A].operation == ListedOperation(A, "default", run="1")


def test_a_record_may_have_a_group_beside_it(service: FakeService) -> None:
    assert post(service, BORN | {"group": "sync", "run": "1", "labels": {"team": "x"}}).status_code == 200
    operation = ListedOperation(A, "sync", (("team", "x"),), "1")
    assert service.registration[A] == Registration(operation, Created("users.identify", BORN_AT))


@pytest.mark.parametrize(
    ("query", "body", "again"),
    [
        ("", [A, B], {False: [A, B]}),
        ("?again=false", [A], {False: [A]}),
        ("?again=true", [A, B], {True: [A, B]}),
        ("", {"id": A, "again": True}, {True: [A]}),
        ("?again=true", {"id": A, "again": False}, {False: [A]}),
        ("?again=true", [A, {"id": B, "again": False}, C], {False: [B], True: [A, C]}),
    ],
)
def test_again_is_asked_for_each_or_for_all(
    service: FakeService, query: str, body: Any, again: dict[bool, list[str]]
) -> None:
    answer = post(service, body, path=POST + query)
    assert {each.again: [one.operation.id for one in each.operations] for each in service.registers} == again
    assert [each["id"] for each in answer.json()["accepted"]] == sorted(chain(*again.values()))


def test_doubles_are_one_and_the_last_that_says_something_wins(service: FakeService) -> None:
    items = [
        BORN | {"group": "first", "labels": {"team": "x", "tier": "1"}, "again": True},
        {"id": A.upper(), "group": "second", "run": "2", "labels": {"tier": "2"}},
        A,
        {"id": A, "group": "default"},
    ]
    answer = post(service, items)
    assert answer.json()["accepted"] == [{"id": A, "state": "pending"}]
    operation = ListedOperation(A, "second", (("team", "x"), ("tier", "2")), "2")
    assert service.registers[0].operations == (Registration(operation, Created("users.identify", BORN_AT)),)
    assert service.registers[0].again


def test_known_states_are_told_and_order_is_kept(service: FakeService) -> None:
    service.state = {A: "retired", B: "lost", C: "completed"}.get
    service.durable = False
    answer = post(service, [C, A, {"id": B, "again": True}])
    states = [{"id": C, "state": "completed"}, {"id": A, "state": "retired"}, {"id": B, "state": "lost"}]
    assert answer.json() == {"accepted": states, "rejected": [], "durable": False}


# Items that are none.

NOT_A_UUID = "is not a valid UUID (expected e.g. 123e4567-e89b-12d3-a456-426614174000)"
LABELS = "(declared: team, tier)"


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("abc", f'id: "abc" {NOT_A_UUID}'),
        ("sk_live_secret", f'id: "sk_***" {NOT_A_UUID}'),
        ("\x1b[2J" + "x" * 99, f'id: "�[2J{"x" * 56}…" {NOT_A_UUID}'),
        ("\ud800", f'id: "�" {NOT_A_UUID}'),
        ("00000000-0000-0000-0000-000000000000", "id: is the nil UUID, which no operation has"),
        (None, "expected an id, an object with an id, or Knock's record; got null"),
        (5, "expected an id, an object with an id, or Knock's record; got a number"),
        (True, "expected an id, an object with an id, or Knock's record; got true or false"),
        ([A], "expected an id, an object with an id, or Knock's record; got a list"),
        ({}, "has no id"),
        ({"status": "queued"}, "has no id"),
        ({"id": None}, "id: expected text, got null"),
        ({"id": [A]}, "id: expected text, got a list"),
        ({"id": A, "grup": "x"},
         '"grup" is unknown (known: id, group, run, labels, again, or the whole of Knock\'s record)'),
        ({"id": A, "group": 5}, "group: expected text, got a number"),
        ({"id": A, "run": 5}, "run: expected text, got a number"),
        ({"id": A, "run": "a b"}, f"run: {NO_RUN_ID}"),
        ({"id": A, "run": "sk_live_1"},
         "run: looks like an API key, which everybody could read here (renew the key if it is one)"),
        ({"id": A, "group": ""}, "group: is empty (give a value, or remove the key)"),
        ({"id": A, "group": "a\n"}, "group: holds characters that cannot be shown (expected printable text)"),
        ({"id": A, "labels": "team"}, "labels: expected an object of names and values, got text"),
        ({"id": A, "labels": {"tem": "x"}}, f'labels: "tem" is not declared in the configuration {LABELS}'),
        ({"id": A, "labels": {"team": 1.5}}, "labels.team: expected text, got a number"),
        ({"id": A, "labels": {"team": "é" * 65}}, "labels.team: is too long (expected at most 128 bytes of UTF-8)"),
        ({"id": A, "again": "yes"}, "again: expected true or false, got text"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_item_is_told(service: FakeService, item: Any, reason: str) -> None:
    known = {"id": A} if isinstance(item, dict) and item.get("id") == A else {}
    known |= {"id": item} if isinstance(item, str) and item.startswith("0000") else {}
    answer = post(service, [B, item])
    assert answer.status_code == 200
    assert answer.json()["accepted"] == [{"id": B, "state": "pending"}]
    assert answer.json()["rejected"] == [{"item": 1, **known, "reason": reason}]
    assert list(service.registration) == [B]
    assert service.refused("production", "invalid") == 1

    rejected = [{"item": 0, **known, "reason": reason}]
    alone = post(service, [item])
    problem(alone, 422, "nothing could be accepted", accepted=[], rejected=rejected)
    assert len(service.delivered) == 1
    assert service.refused("production", "invalid") == 2


def test_without_declared_labels_none_are_known(service: FakeService) -> None:
    service.config = Config(CONFIG.environments)
    answer = post(service, {"id": A, "labels": {"team": "x"}})
    reason = answer.json()["rejected"][0]["reason"]
    assert reason == 'labels: "team" is not declared in the configuration (declared: none)'


@pytest.mark.parametrize(
    ("body", "kind", "status", "detail"),
    [
        (b"{", JSON, 400, "the body is not JSON (JSONDecodeError)"),
        (b"", JSON, 400, "the body is not JSON (JSONDecodeError)"),
        (A.encode(), JSON, 400, "the body is not JSON (JSONDecodeError)"),
        (b"\xff\xfe\xff", JSON, 400, "the body is not JSON (UnicodeDecodeError)"),
        (b"[" * 100_000, JSON, 400, "the body is nested too deeply"),
        (b"9" * 5000, JSON, 400, "the body is not JSON (ValueError)"),
        (b"\xff", TEXT, 400, "the body is not UTF-8 text"),
        (b"[]", JSON, 422, "the body names no operation"),
        (b"", TEXT, 422, "the body names no operation"),
        (b"# nothing\n", TEXT, 422, "the body names no operation"),
        (b"x\n" * (MAX_IDS + 1), TEXT, 413, "1001 items in one request (at most 1000)"),
        (b"[" + b"1," * MAX_IDS + b"1]", JSON, 413, "1001 items in one request (at most 1000)"),
    ],
)  # fmt: skip
def test_bodies_that_name_nothing(service: FakeService, body: bytes, kind: str, status: int, detail: str) -> None:
    problem(post(service, body, kind=kind + ";"), status, detail)
    assert service.delivered == []


def test_a_thousand_records_are_one_request(service: FakeService) -> None:
    names = [f"00000000-0000-4000-8000-{each:012x}" for each in range(MAX_IDS)]
    answer = post(service, [BORN | {"id": each} for each in names])
    assert [each["id"] for each in answer.json()["accepted"]] == names


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("grup=x", '"grup" is unknown (known: group, run, label.NAME, again)'),
        ("team=x", '"team" is unknown (known: group, run, label.NAME, again)'),
        ("run=", f"run: {NO_RUN_ID}"),
        ("run=a/b", f"run: {NO_RUN_ID}"),
        (f"run={'a' * 65}", f"run: {NO_RUN_ID}"),
        ("run=a&run=b", '"run" is given twice'),
        ("group=a&group=b", '"group" is given twice'),
        ("group=", "group: is empty (give a value, or remove the key)"),
        ("label.tem=x", f'labels: "tem" is not declared in the configuration {LABELS}'),
        ("label.=x", f'labels: "" is not declared in the configuration {LABELS}'),
        ("label.team=", "labels.team: is empty (give a value, or remove the key)"),
        ("label.team=sk_live_1",
         "labels.team: looks like an API key, which everybody could read here (renew the key if it is one)"),
        ("again=1", "again: expected true or false"),
        ("again=", "again: expected true or false"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_query_is_told(service: FakeService, query: str, detail: str) -> None:
    problem(post(service, A, path=f"{POST}?{query}"), 400, f"query: {detail}")
    assert service.delivered == []


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize("body", [A, f'"{A}"', json.dumps({"id": A}), json.dumps([BORN])])
def test_what_curl_sends_by_itself_is_taken(service: FakeService, body: str, kind: str) -> None:
    assert post(service, body, kind=kind).json()["accepted"][0]["id"] == A


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/jsonp"},
        {"Content-Encoding": "gzip"},
    ],
)
def test_other_kinds_of_bodies_are_refused(service: FakeService, headers: dict[str, str]) -> None:
    detail = "expected Content-Type: application/json or text/plain (ids, one a line), in UTF-8 and not compressed"
    problem(post(service, A, **headers), 415, detail)


# How large a body may be.


def large(size: int) -> bytes:
    return json.dumps([A]).encode().ljust(size)


def test_a_body_may_have_a_mebibyte(service: FakeService) -> None:
    assert post(service, large(MAX_BODY_BYTES), kind=JSON + ";").status_code == 200
    problem(post(service, large(MAX_BODY_BYTES + 1), kind=JSON + ";"), 413, "the body is larger than 1 MiB")


def test_a_body_that_is_too_large_is_not_even_read(service: FakeService) -> None:
    answer = post(service, A, **{"Content-Length": "9" * 30})
    problem(answer, 413, "the body is larger than 1 MiB")


def test_a_body_in_chunks_is_counted_while_it_is_read(service: FakeService) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 65536

    async def attempt() -> httpx.Response:
        headers = HEADERS | {"Content-Type": JSON}
        return await asked(service.app(), "POST", POST, content=chunks(), headers=headers)

    answer = asyncio.run(attempt())
    problem(answer, 413, "the body is larger than 1 MiB")
    assert sent == 17


def test_a_body_in_chunks_is_whole(service: FakeService) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for each in json.dumps([A, B]).encode():
            yield bytes([each])

    async def attempt() -> httpx.Response:
        headers = HEADERS | {"Content-Type": JSON}
        return await asked(service.app(), "POST", POST, content=chunks(), headers=headers)

    assert len(asyncio.run(attempt()).json()["accepted"]) == 2


# Who may.

WRONG_TOKEN = "the token is not one of this exporter's (it is wrong, or was replaced)"
NO_TOKEN = "expected an Authorization header with a token of this exporter (Bearer …)"
DELETE = f"{POST}/{A}"
CALLS = [("POST", POST), ("DELETE", DELETE)]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_without_tokens_the_calls_are_off(service: FakeService, method: str, path: str) -> None:
    service.tokens, service.ending = Tokens(), True
    answer = call(service, method, path, headers=HEADERS)
    problem(answer, 404, "registration is off: the configuration has no tokens (registration.tokens)")


def test_without_a_service_there_are_no_calls(service: FakeService) -> None:
    assert asyncio.run(asked(service.app(service=None), "POST", POST, headers=HEADERS)).status_code == 405


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_wrong_token_is_called_wrong(service: FakeService, method: str, path: str) -> None:
    answer = call(service, method, path, headers={"Authorization": "Bearer wrong"})
    problem(answer, 401, WRONG_TOKEN)
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert service.http_refused("token") == 1


def test_a_slash_at_the_end_of_the_path_changes_nothing(service: FakeService) -> None:
    assert post(service, [A], f"{POST}/").json()["accepted"] == post(service, [A]).json()["accepted"]


def test_a_body_that_is_too_large_is_counted(service: FakeService) -> None:
    assert post(service, "x" * (MAX_BODY_BYTES + 1), kind=TEXT).status_code == 413
    assert service.http_refused("too_large") == 1


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_at_the_end_nothing_is_taken(service: FakeService, method: str, path: str) -> None:
    service.ending = True
    answer = call(service, method, path, headers=HEADERS)
    problem(answer, 503, "the exporter is ending")
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ([], NO_TOKEN),
        ([("Authorization", "Basic YTpi")], NO_TOKEN),
        ([("Authorization", "Bearer wrong")], WRONG_TOKEN),
        ([("Authorization", HEADERS["Authorization"][:-1])], WRONG_TOKEN),
        ([*HEADERS.items(), *HEADERS.items()], NO_TOKEN),
    ],
)
def test_without_a_good_token_nothing_is_told(
    service: FakeService, method: str, path: str, headers: list[tuple[str, str]], told: str
) -> None:
    answer = call(service, method, path, headers=headers)
    problem(answer, 401, told)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert service.http_refused("token") == 1
    problem(call(service, method, path.replace("production", "nowhere"), headers=headers), 401, told)
    assert {environment for environment, _ in service.activity.refused._metrics} == {"production"}


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_token_of_another_environment_is_refused(service: FakeService, method: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {STAGING_TOKEN}", "Content-Type": JSON}
    problem(call(service, method, path, headers=headers), 403, 'the token is not good for "production"')
    assert service.http_refused("token") == 1
    answer = call(service, method, path.replace("production", "staging"), headers=headers, content=json.dumps(A))
    assert answer.status_code == 200
    assert service.delivered[0].environment == "staging"


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_an_environment_of_another_process_is_told(service: FakeService, method: str, path: str) -> None:
    answer = call(service, method, path.replace("production", "sk_test_x"), headers=HEADERS)
    problem(answer, 404, 'this exporter has no environment "sk_***" (it has: production, staging)')


def test_each_token_has_a_pace_of_its_own(service: FakeService) -> None:
    app = service.app()

    def statuses(count: int, **headers: str) -> list[int]:
        sent = HEADERS | {"Content-Type": JSON} | headers
        path = POST.replace("production", "staging")
        return [
            asyncio.run(asked(app, "POST", path, content=json.dumps(A), headers=sent)).status_code for _ in range(count)
        ]

    assert statuses(21) == [200] * 20 + [429]
    assert statuses(1, Authorization=f"Bearer {STAGING_TOKEN}") == [200]
    assert statuses(1, Authorization="Bearer wrong") == [401]
    service.now += 0.1
    assert statuses(3) == [200, 200, 429]
    service.now += 3600
    assert statuses(21) == [200] * 20 + [429]
    answer = asyncio.run(asked(app, "DELETE", DELETE, headers=HEADERS))
    problem(answer, 429, "more than 20 requests a second with one token")
    assert answer.headers["Retry-After"] == "1"


# What the tracker says.


def test_ids_without_room_are_told(service: FakeService) -> None:
    service.state = lambda each: None if each == B else "queued"
    answer = post(service, [A, B, "x"])
    assert answer.status_code == 200
    reason = "no room: max_operations is reached, and none of the operations can be dropped (try again later)"
    assert answer.json()["accepted"] == [{"id": A, "state": "queued"}]
    assert answer.json()["rejected"][1:] == [{"id": B, "reason": reason}]
    nothing = post(service, [B])
    problem(nothing, 503, "nothing could be accepted", accepted=[], rejected=[{"id": B, "reason": reason}])
    assert nothing.headers["Retry-After"] == "30"
    assert service.refused("production", "limit") == 0, "the tracker counts these"


def test_state_that_cannot_be_written_is_told(service: FakeService) -> None:
    service.saved = False
    answer = post(service, [A, {"id": B, "again": True}])
    problem(answer, 503, "the state was not written in time, try again (a failure is in the exporter's log)")
    assert answer.headers["Retry-After"] == "1"
    service.released = ReleaseResult(known=True, saved=False)
    answer = call(service, "DELETE", DELETE, headers=HEADERS)
    problem(answer, 503, "the state was not written in time, try again (a failure is in the exporter's log)")


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_tracker_that_says_nothing_is_not_waited_for(method: str, path: str) -> None:
    service = FakeService(silent=True, reply_seconds=0.01)
    headers = HEADERS | {"Content-Type": JSON}
    answer = call(service, method, path, headers=headers, content=json.dumps(A))
    problem(answer, 503, "no answer in 0.01 s; it may have been done (asking again does no harm)")
    assert answer.headers["Retry-After"] == "1"
    late: Callable[[Any], None] = service.delivered[0].reply
    late(None)  # the loop has ended meanwhile


def test_the_reply_comes_from_another_thread_late_or_twice() -> None:
    service = FakeService()
    reply_now, asked_for, deliver = threading.Event(), asyncio.Event(), service.deliver
    threads: list[threading.Thread] = []

    def later(message: Any) -> None:
        def answer() -> None:
            assert reply_now.wait(10)
            deliver(message)
            deliver(message)

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        asked_for.set()

    service.deliver = later  # type: ignore[method-assign] # a tracker of its own
    app = service.app()

    async def exchange() -> list[int]:
        headers = HEADERS | {"Content-Type": JSON}
        first = asyncio.create_task(asked(app, "POST", POST, content=json.dumps(A), headers=headers))
        await asked_for.wait()
        others = [(await asked(app, "GET", "/-/ready")).status_code]  # the loop is not blocked meanwhile
        reply_now.set()
        return [*others, (await first).status_code]

    assert asyncio.run(exchange()) == [200, 200]
    for thread in threads:
        thread.join()


# Letting go.


def test_an_operation_is_dropped(service: FakeService) -> None:
    answer = call(service, "DELETE", f"{POST}/{A.upper()}", headers=HEADERS)
    assert (answer.status_code, answer.json()) == (200, {"id": A, "released": True, "durable": True})
    assert [(each.environment, each.id) for each in service.delivered if isinstance(each, Release)] == [
        ("production", A)
    ]


def test_what_is_unknown_cannot_be_dropped(service: FakeService) -> None:
    service.released = ReleaseResult(known=False)
    problem(call(service, "DELETE", DELETE, headers=HEADERS), 404, f'no operation {A} is known in "production"')
    answer = call(service, "DELETE", f"{POST}/abc", headers=HEADERS)
    problem(answer, 400, 'id: "abc" is not a valid UUID (expected e.g. 123e4567-e89b-12d3-a456-426614174000)')


@pytest.mark.parametrize(
    ("sources", "reasons"),
    [
        ((LISTED,), "the configuration lists it"),
        ((SourceKey(SourceKind.FILES, "/etc/ids.yaml"),), "a file lists it: /etc/ids.yaml"),
        (
            (LISTED, SourceKey(SourceKind.HTTP, "https://user:secret@app.example:8443/ids?key=secret")),
            "the configuration lists it; an HTTP source lists it: https://app.example:8443/ids",
        ),
    ],
)
def test_what_a_source_still_lists_cannot_be_dropped(
    service: FakeService, sources: tuple[SourceKey, ...], reasons: str
) -> None:
    service.released = ReleaseResult(known=True, listed_by=sources)
    problem(call(service, "DELETE", DELETE, headers=HEADERS), 409, f"cannot drop {A}: {reasons}")


@pytest.mark.parametrize(("method", "path"), [("DELETE", POST), ("PATCH", POST), ("POST", DELETE), ("PUT", DELETE)])
def test_other_methods_are_none(service: FakeService, method: str, path: str) -> None:
    assert call(service, method, path, headers=HEADERS).status_code == 405


# Whatever comes.

anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.sampled_from([A, B, "queued", "default"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "group", "run", "labels", "again", "status", "name", "inserted_at", "team"])
            | st.text(),
            inner,
        )
    ),
)
MANY = FakeService()
MANY_APP = MANY.app()


def survives(content: bytes, kind: str, query: str = "") -> None:
    MANY.now += 1
    headers = HEADERS | {"Content-Type": kind}
    answer = asyncio.run(asked(MANY_APP, "POST", f"{POST}{query}", content=content, headers=headers))
    assert answer.status_code in (200, 400, 422)
    document = answer.json()
    assert (answer.status_code == 200) == ("durable" in document)
    for each in document.get("rejected", ()):
        assert each["reason"]


@given(anything)
def test_any_document_is_answered(document: Any) -> None:
    survives(json.dumps(document).encode(), JSON)


@given(st.binary(), st.sampled_from([JSON, TEXT]))
def test_any_bytes_are_answered(content: bytes, kind: str) -> None:
    survives(content, kind)


@given(st.dictionaries(st.sampled_from(["group", "run", "again", "label.team"]) | st.text(), st.text(), max_size=3))
def test_any_query_is_answered(query: dict[str, str]) -> None:
    sent = {name.encode(errors="replace"): value.encode(errors="replace") for name, value in query.items()}
    survives(json.dumps([A]).encode(), JSON, f"?{httpx.QueryParams({k.decode(): v.decode() for k, v in sent.items()})}")


# Reload.


def reloaded(reload: Callable[[ReloadReply], None] | None, method: str = "POST") -> httpx.Response:
    return asyncio.run(asked(FakeService().app(reload=reload), method, "/-/reload"))


def test_reload_is_off_by_default() -> None:
    answer = reloaded(None)
    assert (answer.status_code, answer.text) == (
        403,
        "Lifecycle API is not enabled (--web.enable-lifecycle).\n",
    )


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(
    ("verdict", "status", "text"),
    [
        ((None, False), 200, "The configuration was reloaded.\n"),
        (("config.yaml: line 3: no sk_live_key", False), 500, "config.yaml: line 3: no sk_***\n"),
        (("storage.path needs a restart", True), 409, "storage.path needs a restart\n"),
    ],
)
def test_reload_tells_what_came_of_it(method: str, verdict: tuple[str | None, bool], status: int, text: str) -> None:
    answer = reloaded(lambda reply: reply(*verdict), method)
    assert (answer.status_code, answer.text) == (status, text)
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_reload_is_asked_for_with_post() -> None:
    answer = reloaded(lambda reply: reply(None, False), "GET")  # noqa: FBT003 - the contract
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == {"POST", "PUT"}


def test_a_reload_without_end_is_not_waited_for() -> None:
    waiting: list[ReloadReply] = []
    app = Starlette(routes=[reload_route("/-/reload", waiting.append, seconds=0.01)])
    answer = asyncio.run(asked(app, "POST", "/-/reload"))
    assert (answer.status_code, answer.text) == (
        503,
        "The reload is still running. The log will have its result.\n",
    )
    waiting[0](None, False)  # noqa: FBT003 - the contract
