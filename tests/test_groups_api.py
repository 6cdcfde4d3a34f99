"""Groups and runs over the API: reading them, and what a job says of its run."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from model import WALL, Disk, Model, environment, ids, running
from registration_service import HEADERS, STAGING_TOKEN, FakeService
from shown import app_context, ask

from exporter.config import Config, ListedOperation
from exporter.config.settings import GroupSettings
from exporter.operation import Status
from exporter.tracking.messages import Registration, RunResult
from exporter.web.app import make_app
from exporter.web.web_config import WebConfig

if TYPE_CHECKING:
    from exporter.tracking.messages import PollRequest, PutRun, Register, Release
    from exporter.tracking.transitions import Moment
    from exporter.web.context import AppContext

ROOT = Path(__file__).parent.parent
GROUPS = "/api/v1/groups"
NIGHTLY = f"{GROUPS}/production/nightly"
A, B, C, D = ids(4)
NAMES = (
    "import/2027/users",
    "a b",
    "100% done",
    "%2F",
    "a/runs/b",
    "runs/1",
    "naïve \N{ARABIC LETTER ALEF}\N{PILE OF POO}",
    "?x=1#y&z",
    "-q",
    "x" * 128,
)


def house(**settings: Any) -> Model:
    """Return a tracker with two environments, on a disk."""
    declared: dict[str, Any] = {
        "groups": (GroupSettings("nightly", every=93600.0, deadline=7200.0),),
        "retention": 3600.0,
    }
    watched = environment(**(declared | settings)), environment("staging")
    model = Model(Config(watched), knock, disk=Disk())
    model.run(1)
    return model


def knock(request: PollRequest, _now: Moment) -> Any:
    """Answer of one that is processed, one that completed with errors, and one that failed."""
    counts = {"rows_estimated": 100, "inserted_at": WALL + 1}
    known = {
        A: running(A, **counts, rows_processed=40),
        B: replace(running(B, **counts, rows_processed=100, errors=3, completed_at=WALL + 5), status=Status.COMPLETED),
        C: replace(running(C, **counts, rows_processed=10, failed_at=WALL + 5), status=Status.FAILED),
    }
    return known.get(request.id) or running(request.id, **counts, rows_processed=0)


def port(model: Model) -> AppContext:
    """Return the port of a tracker, which takes in at once what it is told."""

    def deliver(message: PutRun | Register | Release) -> None:
        model.tell(message)
        model.run(0.1)

    service = FakeService().app_context().service
    assert service is not None
    return app_context(model, service=replace(service, deliver=deliver, config=lambda: model.config))


def put(model: Model, path: str, body: Any = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return ask(port(model), path, "PUT", content=content, headers=HEADERS | headers)


def got(model: Model, path: str = NIGHTLY) -> Any:
    answer = ask(port(model), path)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    return answer.json()


def told(answer: httpx.Response, status: int) -> str:
    """Check that an answer is a problem; return what it says."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    return str(answer.json()["detail"])


def of_run(run: str, *operation_ids: str, group: str = "nightly") -> list[Registration]:
    return [Registration(ListedOperation(each, group, run=run)) for each in operation_ids]


# Reading.


def test_a_group_tells_of_its_run_and_of_what_is_tracked() -> None:
    model = house()
    put(model, f"{NIGHTLY}/runs/1", {"operations": 4})
    model.register(*of_run("1", A, B, C))
    model.register(Registration(ListedOperation(D, "weekly")))
    model.run(60)
    found = got(model)
    states = dict.fromkeys(("pending", "queued", "processing", "completed", "failed", "unknown", "lost"), 0)
    states |= {"processing": 1, "completed": 1, "failed": 1}
    run = found.pop("run")
    assert (run["opened_at"], run["deadline_at"]) == ("2027-01-15T08:00:01Z", "2027-01-15T10:00:01Z")
    assert (run["id"], run["closed_at"], run["finished_at"], run["expected_operations"]) == ("1", None, None, 4)
    sums = {"with_errors": 1, "rows_processed": 150, "rows_estimated": 300, "errors": 3}
    assert {name: run[name] for name in sums} == sums
    assert run["operations"] == states
    assert found == {
        "environment": "production",
        "group": "nightly",
        "state": "running",
        "every_seconds": 93600.0,
        "last_run_at": "2027-01-15T08:00:01Z",
        "progress": 0.5,
        "progress_of": "operations",
        "time_left_seconds": pytest.approx(60, abs=2),
        "rate_rows_per_second": 0.0,
        "operations": states,
        **sums,
    }
    weekly = got(model, f"{GROUPS}/production/weekly")
    assert (weekly["state"], weekly["progress_of"], weekly["run"]) == ("running", "rows", None)
    assert weekly["time_left_seconds"] is None


def test_groups_are_listed_by_environment_and_name() -> None:
    model = house()
    for path in ("production/b", "production/a", "staging/b"):
        put(model, f"{GROUPS}/{path}/runs/1")
    places = [(each["environment"], each["group"]) for each in got(model, GROUPS)["groups"]]
    assert places == [("production", "a"), ("production", "b"), ("production", "nightly"), ("staging", "b")]
    staging = got(model, f"{GROUPS}/staging")["groups"]
    assert staging == [got(model, f"{GROUPS}/staging/b")]
    assert got(model, f"{GROUPS}/staging/")["groups"] == staging


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        (f"{GROUPS}/nowhere", 'this exporter has no environment "nowhere" (it has: production, staging)'),
        (f"{GROUPS}/nowhere/nightly", 'this exporter has no environment "nowhere" (it has: production, staging)'),
        (f"{GROUPS}/production/weekly", '"production" has no group "weekly"'),
        (f"{GROUPS}/staging/nightly", '"staging" has no group "nightly"'),
        (f"{NIGHTLY}/runs/1", '"production" has no group "nightly/runs/1"'),
    ],
)
def test_what_is_not_there_is_a_problem(path: str, detail: str) -> None:
    assert told(ask(port(house()), path), 404) == detail


@pytest.mark.parametrize("path", [GROUPS, f"{GROUPS}/production", NIGHTLY])
def test_reading_takes_no_parameters_and_answers_head(path: str) -> None:
    model = house()
    assert told(ask(port(model), f"{path}?run=1"), 400) == 'query: unknown parameter "run": none is taken here'
    head = ask(port(model), path, "HEAD")
    assert (head.status_code, head.content) == (200, b"")


def test_lists_are_filtered_by_run_and_tell_it() -> None:
    model = house()
    model.register(*of_run("1", A), *of_run("2", B, group="weekly"), Registration(ListedOperation(C, "other group")))
    model.run(20)
    (found,) = got(model, "/api/v1/operations/production?run=1")["operations"]
    assert (found["id"], found["run"]) == (A, "1")
    assert got(model, f"/api/v1/operations/production/{C}")["run"] is None
    assert got(model, "/api/v1/operations?run=2&group=nightly")["total"] == 0


# Writing.


def test_what_a_job_says_is_answered_with_the_group() -> None:
    model = house()
    opened = put(model, f"{NIGHTLY}/runs/1", {})
    assert opened.status_code == 200
    assert opened.json() == got(model) | {"durable": True}
    said = {"operations": 431, "deadline": "3h", "closed": True}
    run = put(model, f"{NIGHTLY}/runs/1", said).json()["run"]
    assert (run["expected_operations"], run["deadline_at"]) == (431, "2027-01-15T11:00:01Z")
    assert run["closed_at"] == "2027-01-15T08:00:01Z"
    assert put(model, f"{NIGHTLY}/runs/1").json()["run"] == run
    cleared = put(model, f"{NIGHTLY}/runs/1", dict.fromkeys(said)).json()["run"]
    assert (cleared["expected_operations"], cleared["closed_at"]) == (None, None)
    assert cleared["deadline_at"] == "2027-01-15T10:00:01Z"
    at = put(model, f"{NIGHTLY}/runs/1", {"deadline": "2027-01-16T06:00:00+02:00"}).json()["run"]
    assert at["deadline_at"] == "2027-01-16T04:00:00Z"


def test_nothing_to_do_tonight_is_done() -> None:
    model = house()
    answer = put(model, f"{NIGHTLY}/runs/1", {"closed": True}).json()
    assert (answer["state"], answer["run"]["finished_at"]) == ("done", "2027-01-15T08:00:01Z")


def test_without_state_it_is_not_durable() -> None:
    model = Model(Config((environment(),)), knock)
    assert put(model, f"{NIGHTLY}/runs/1").json()["durable"] is False


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("safe", ["/", ""], ids=["slashes as they are", "slashes encoded"])
def test_any_name_can_be_said_in_a_path(name: str, safe: str) -> None:
    model = house()
    path = f"{GROUPS}/production/{quote(name, safe=safe)}"
    assert put(model, f"{path}/runs/1").json()["group"] == name
    assert got(model, path)["group"] == name


@pytest.mark.parametrize("run", ["1", "2027-01-15T02:00:00Z", "a.b_c-d", "x" * 64])
def test_ids_of_runs(run: str) -> None:
    assert put(house(), f"{NIGHTLY}/runs/{run}").json()["run"]["id"] == run


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        (f"{NIGHTLY}/runs/{'x' * 65}", "run: is not a run id (expected 1 to 64 of A-Z"),
        (f"{NIGHTLY}/runs/a%20b", "run: is not a run id"),
        (f"{NIGHTLY}/runs/n%C3%A4chtlich", "run: is not a run id"),
        (f"{GROUPS}/production/{'x' * 129}/runs/1", "group: is too long (expected at most 128 bytes"),
        (f"{GROUPS}/production/{quote('ä' * 65)}/runs/1", "group: is too long"),
        (f"{GROUPS}/production/a%00b/runs/1", "group: holds characters that cannot be shown"),
        (f"{GROUPS}/production/a%E2%80%AEb/runs/1", "group: holds characters that cannot be shown"),
        (f"{GROUPS}/production//runs/1", "group: is empty"),
    ],
)
def test_a_bad_path_is_told(path: str, detail: str) -> None:
    model = house()
    assert told(put(model, path), 422).startswith(detail)
    assert got(model)["run"] is None


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"operations": -1}, "operations: expected a whole number from 0, or null"),
        ({"operations": 1.5}, "operations: expected"),
        ({"operations": True}, "operations: expected"),
        ({"operations": "12"}, "operations: expected"),
        ({"operations": 2**53 + 1}, "operations: expected"),
        ({"deadline": 3600}, "deadline: expected a duration since the opening (3h), a time (2027-01-15T06:00:00Z)"),
        ({"deadline": "tonight"}, "deadline: expected"),
        ({"deadline": ""}, "deadline: expected"),
        ({"closed": False}, "closed: expected true, or null to take it back"),
        ({"closed": "true"}, "closed: expected"),
        ({"finished": True}, '"finished" is unknown (known: operations, deadline, closed)'),
        ([], "the body: expected an object"),
        ("1", "the body: expected an object"),
        (b"{", "the body is "),
        (b"\xff", "the body is "),
        (b'{"operations": NaN}', "operations: expected"),
    ],
)
def test_a_bad_value_is_told_and_changes_nothing(body: Any, detail: str) -> None:
    model = house()
    put(model, f"{NIGHTLY}/runs/1", {"operations": 5})
    before = got(model)
    assert told(put(model, f"{NIGHTLY}/runs/1", body), 422).startswith(detail)
    assert told(put(model, f"{NIGHTLY}/runs/2", body), 422).startswith(detail)
    assert got(model) == before


def test_a_past_run_is_refused_by_the_name_of_the_current_one() -> None:
    model = house()
    for run in ("1", "2"):
        assert put(model, f"{NIGHTLY}/runs/{run}").status_code == 200
    detail = told(put(model, f"{NIGHTLY}/runs/1", {"closed": True}), 409)
    assert detail == 'the run 1 is past: the current run of "nightly" is 2'
    assert got(model)["run"]["id"] == "2"


def test_a_run_of_a_group_past_the_limit_is_refused() -> None:
    model = house()
    many = [Registration(ListedOperation(each, f"group {number}")) for number, each in enumerate(ids(120, seed=1))]
    model.register(*many)
    detail = told(put(model, f"{GROUPS}/production/late/runs/1"), 409)
    assert detail.startswith('no run of the group "late": it would be shown as `other`')
    assert told(put(model, f"{GROUPS}/production/other/runs/1"), 409).startswith('no run of the group "other"')
    assert put(model, f"{NIGHTLY}/runs/1").status_code == 200


def test_what_could_not_be_saved_is_told() -> None:
    model = house()
    assert model.disk is not None
    model.disk.broken = True
    answer = put(model, f"{NIGHTLY}/runs/1")
    assert told(answer, 503).startswith("the state was not written in time, try again")
    assert answer.headers["Retry-After"] == "1"


# Documents.


def test_the_example_in_the_document_is_an_answer() -> None:
    document = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"## Groups.*?```json\n(.*?)```", document, flags=re.DOTALL)
    status = {A: Status.COMPLETED, B: Status.FAILED, C: Status.PROCESSING, D: Status.QUEUED}
    done = {A: (1000, 0), B: (700, 2), C: (300, 0), D: (0, 0)}

    def answer(request: PollRequest, _now: Moment) -> Any:
        rows, errors = done.get(request.id, (0, 0))
        record = running(request.id, rows_estimated=1000, rows_processed=rows, errors=errors, inserted_at=WALL)
        return replace(record, status=status.get(request.id, record.status))

    groups = (GroupSettings("nightly-sync", every=93600.0, deadline=10800.0),)
    model = Model(Config((environment(groups=groups),)), answer, disk=Disk())
    path = f"{GROUPS}/production/nightly-sync"
    assert put(model, f"{path}/runs/2027-01-15", {"operations": 5}).status_code == 200
    model.register(*of_run("2027-01-15", *ids(4), group="nightly-sync"))
    model.run(600 - 0.1)
    assert got(model, path) | {"rate_rows_per_second": 12.5} == json.loads(example)


# Who may.


def test_a_token_is_asked_for() -> None:
    model, path = house(), f"{NIGHTLY}/runs/1"
    missing = ask(port(model), path, "PUT")
    assert "expected an Authorization header with a token" in told(missing, 401)
    assert missing.headers["WWW-Authenticate"] == "Bearer"
    assert "the token is not one of this exporter's" in told(put(model, path, Authorization="Bearer wrong"), 401)
    staging = {"Authorization": f"Bearer {STAGING_TOKEN}"}
    assert told(put(model, path, **staging), 403) == 'the token is not good for "production"'
    assert put(model, f"{GROUPS}/staging/nightly/runs/1", **staging).status_code == 200
    nowhere = told(put(model, f"{GROUPS}/nowhere/nightly/runs/1"), 404)
    assert nowhere == 'this exporter has no environment "nowhere" (it has: production, staging)'
    assert got(model)["run"] is None


def test_a_token_is_asked_for_in_place_of_a_password() -> None:
    locked = WebConfig(users={"ann": b"$2b$04$abcdefghijklmnopqrstuuMnxXDJZVMhY6PCRQoBgcQQcV4nA1Ii6"})
    model = house()

    async def asked(method: str, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(make_app(port(model), lambda: locked))
        async with httpx.AsyncClient(transport=transport, base_url="http://exporter") as client:
            return await client.request(method, path, headers=HEADERS)

    assert asyncio.run(asked("PUT", f"{NIGHTLY}/runs/1")).status_code == 200
    refused = asyncio.run(asked("GET", NIGHTLY))
    assert (refused.status_code, refused.headers["WWW-Authenticate"].partition(" ")[0]) == (401, "Basic")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (GROUPS, {"GET", "HEAD"}),
        (f"{GROUPS}/production", {"GET", "HEAD"}),
        (NIGHTLY, {"GET", "HEAD"}),
        (f"{NIGHTLY}/runs/1", {"GET", "HEAD", "PUT"}),
    ],
)
def test_a_path_that_can_be_asked_otherwise_says_how(path: str, methods: set[str]) -> None:
    answer = ask(port(house()), path, "PATCH")
    assert told(answer, 405)
    assert set(answer.headers["Allow"].split(", ")) == methods


def test_while_it_ends_nothing_is_opened() -> None:
    service = FakeService(ending=True)
    answer = ask(service.app_context(), f"{NIGHTLY}/runs/1", "PUT", headers=HEADERS)
    assert told(answer, 503) == "the exporter is ending"
    assert service.delivered == []


def test_a_run_without_an_answer_in_time_may_have_been_opened() -> None:
    service = FakeService(silent=True, reply_seconds=0.01, run=RunResult())
    answer = ask(service.app_context(), f"{NIGHTLY}/runs/1", "PUT", headers=HEADERS)
    assert told(answer, 503).startswith("no answer in 0.01 s; it may have been done")
