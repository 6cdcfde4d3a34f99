"""The OpenAPI description against the API: whatever it allows is answered as it says.

Schemathesis begins with a test: each of pytest's workers collects all tests, and one runs these.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from registration_service import HEADERS, FakeService
from shown import LISTED, app_context, everything

from exporter.web.app import make_app
from exporter.web.openapi import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from schemathesis import BaseSchema, Case
    from starlette.types import ASGIApp

URL = "/api/v1/openapi.json"
OPERATIONS = [(path, method.upper()) for path, methods in describe(100, 1000)["paths"].items() for method in methods]


def app() -> ASGIApp:
    service = FakeService().app_context().service
    assert service is not None
    seconds = itertools.count()  # between requests, so that none is refused for coming too soon
    return make_app(app_context(everything(), service=replace(service, monotonic=lambda: float(next(seconds)))))


@pytest.fixture
def schema() -> BaseSchema:
    from schemathesis import openapi  # noqa: PLC0415 - see above

    return openapi.from_asgi(URL, app())


def checked(case: Case[Any], **request: Any) -> None:
    from schemathesis import checks  # noqa: PLC0415 - see above

    response = case.call(**request)
    kept = (
        checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    )
    case.validate_response(response, checks=[*kept])


def make_up_requests(schema: BaseSchema, path: str, method: str, test: Callable[[Case[Any]], None]) -> None:
    """Test with requests made up for an operation: of each of its examples, of each edge of its values, and by chance.

    Not in a decorator, which would make the edges up while tests are collected.
    """
    from schemathesis.generation.hypothesis import builder  # noqa: PLC0415 - see above

    modes = [*builder.HypothesisTestMode]
    config = builder.HypothesisTestConfig(schema.config, modes, schema.config.get_hypothesis_settings())
    builder.create_test(operation=schema[path][method], test_func=settings(max_examples=20)(test), config=config)()


def cases(schema: BaseSchema, method: str, operation_id: str) -> Iterator[Case[Any]]:
    """Yield a request for each operation of a method, with what is there in its path."""
    known = {"environment": "production", "id": operation_id, "group": "nightly", "run": "1"}
    for operation in (schema[path][method] for path, its_method in OPERATIONS if its_method == method):
        yield operation.Case(path_parameters={each.name: known[each.name] for each in operation.path_parameters})


@pytest.mark.parametrize(("path", "method"), [each for each in OPERATIONS if each[1] == "GET"])
def test_reading(schema: BaseSchema, path: str, method: str) -> None:
    make_up_requests(schema, path, method, lambda case: checked(case, headers={"Accept": "application/json"}))


@pytest.mark.parametrize("operation_id", LISTED)
def test_reading_what_is_there(schema: BaseSchema, operation_id: str) -> None:
    for case in cases(schema, "GET", operation_id):
        checked(case)


@pytest.mark.parametrize(("path", "method"), [each for each in OPERATIONS if each[1] != "GET"])
def test_registering(schema: BaseSchema, path: str, method: str) -> None:
    def register(case: Case[Any]) -> None:
        case.path_parameters["environment"] = "production"
        checked(case, headers=HEADERS)

    make_up_requests(schema, path, method, register)


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_without_a_good_token(schema: BaseSchema, method: str) -> None:
    for case in cases(schema, method, LISTED[0]):
        checked(case, headers={"Authorization": "Bearer not-the-token"})


def test_every_route_is_described() -> None:
    assert {*OPERATIONS} == {
        ("/api/v1", "GET"),
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
