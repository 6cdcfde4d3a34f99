"""The OpenAPI description against the API: whatever it allows is answered as it says."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from desk import TOKEN, FakeDesk
from hypothesis import settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from shown import LISTED, everything, house

from exporter.web.app import make_app
from exporter.web.openapi import describe

if TYPE_CHECKING:
    from schemathesis import Case
    from starlette.types import ASGIApp

pytest_plugins = ["schemathesis.pytest.plugin"]
URL = "/api/v1/openapi.json"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def app() -> ASGIApp:
    desk = FakeDesk().house().desk
    assert desk is not None
    seconds = itertools.count()  # between requests, so that none is refused for coming too soon
    return make_app(house(everything(), desk=replace(desk, monotonic=lambda: float(next(seconds)))))


schema = schemathesis.openapi.from_asgi(URL, app())


def checked(case: Case[Any], **request: Any) -> None:
    response = case.call(**request)
    case.validate_response(response, checks=CHECKS)


@schema.include(method="GET").parametrize()
@settings(max_examples=30, derandomize=True)
def test_reading(case: Case[Any]) -> None:
    checked(case)


@schema.include(method="GET").parametrize()
@settings(max_examples=1, derandomize=True)
@pytest.mark.parametrize("operation_id", LISTED)
def test_reading_what_is_there(case: Case[Any], operation_id: str) -> None:
    known = {"environment": "production", "id": operation_id}
    case.path_parameters = {name: known[name] for name in case.path_parameters}
    case.query = {}
    checked(case)


@schema.exclude(method="GET").parametrize()
@settings(max_examples=40, derandomize=True)
@pytest.mark.parametrize("token", [TOKEN, "not-the-token"])
def test_registering(case: Case[Any], token: str) -> None:
    case.path_parameters["environment"] = "production"
    checked(case, headers={"Authorization": f"Bearer {token}"})


def test_every_route_is_described() -> None:
    paths = describe(100, 1000)["paths"]
    told = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    assert told == {
        ("/api/v1/operations", "GET"),
        ("/api/v1/operations/{environment}", "GET"),
        ("/api/v1/operations/{environment}", "POST"),
        ("/api/v1/operations/{environment}/{id}", "GET"),
        ("/api/v1/operations/{environment}/{id}", "DELETE"),
        ("/api/v1/environments", "GET"),
    }
