"""The OpenAPI description against the API: whatever it allows is answered as it says."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import settings
from registration_service import HEADERS, FakeService
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.result import Ok
from shown import LISTED, app_context, everything

from exporter.web.app import make_app
from exporter.web.openapi import describe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemathesis import Case
    from starlette.types import ASGIApp

pytest_plugins = ["schemathesis.pytest.plugin"]
URL = "/api/v1/openapi.json"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def app() -> ASGIApp:
    service = FakeService().app_context().service
    assert service is not None
    seconds = itertools.count()  # between requests, so that none is refused for coming too soon
    return make_app(app_context(everything(), service=replace(service, monotonic=lambda: float(next(seconds)))))


schema = schemathesis.openapi.from_asgi(URL, app())


def checked(case: Case[Any], **request: Any) -> None:
    response = case.call(**request)
    case.validate_response(response, checks=CHECKS)


def cases(method: str, operation_id: str) -> Iterator[Case[Any]]:
    """Yield a request for each operation of a method, with what is there in its path."""
    known = {"environment": "production", "id": operation_id, "group": "nightly", "run": "1"}
    for found in schema.include(method=method).get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        yield operation.Case(path_parameters={each.name: known[each.name] for each in operation.path_parameters})


# Without a parameter all operations are one name, of which pytest's workers run one.
@schema.include(method="GET").parametrize()
@settings(max_examples=20)
@pytest.mark.parametrize("accept", ["application/json"])
def test_reading(case: Case[Any], accept: str) -> None:
    checked(case, headers={"Accept": accept})


@pytest.mark.parametrize("operation_id", LISTED)
def test_reading_what_is_there(operation_id: str) -> None:
    for case in cases("GET", operation_id):
        checked(case)


@schema.exclude(method="GET").parametrize()
@settings(max_examples=20)
@pytest.mark.parametrize("headers", [HEADERS], ids=["with a token"])
def test_registering(case: Case[Any], headers: dict[str, str]) -> None:
    case.path_parameters["environment"] = "production"
    checked(case, headers=headers)


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_without_a_good_token(method: str) -> None:
    for case in cases(method, LISTED[0]):
        checked(case, headers={"Authorization": "Bearer not-the-token"})


def test_every_route_is_described() -> None:
    paths = describe(100, 1000)["paths"]
    told = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    assert told == {
        ("/api/v1/operations", "GET"),
        ("/api/v1/operations/{environment}", "GET"),
        ("/api/v1/operations/{environment}", "POST"),
        ("/api/v1/operations/{environment}/{id}", "GET"),
        ("/api/v1/operations/{environment}/{id}", "DELETE"),
        ("/api/v1/groups", "GET"),
        ("/api/v1/groups/{environment}", "GET"),
        ("/api/v1/groups/{environment}/{group}", "GET"),
        ("/api/v1/groups/{environment}/{group}/runs/{run}", "PUT"),
        ("/api/v1/environments", "GET"),
    }
