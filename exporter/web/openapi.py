"""The OpenAPI description: its shapes are those of `shapes`, so that they cannot say another thing than the code."""

from __future__ import annotations

from functools import cache
from typing import Any, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from exporter import __version__
from exporter.registrations import LABEL_PREFIX, MAX_IDS
from exporter.tracking.selection import STATUSES
from exporter.values import RUN_ID
from exporter.web.filters import SEARCH_LONGEST
from exporter.web.registration import GROUPS_PATH, ONE_ENVIRONMENT_PATH, OPERATIONS_PATH
from exporter.web.shapes import ApiIndex, Detail, Environments, Group, GroupList, Operations

INDEX_PATH = "/api/v1"
_ID = {"type": "string", "format": "uuid"}
_RUN = {"type": "string", "pattern": f"^{RUN_ID}$"}
_STATUS_TEXT = (
    "Only this status; or operations that are unfinished, need attention, have errors, are stalled or are stale."
)
_SHAPES = "#/components/schemas/"
_LINES = {"schema": {"type": "string"}, "example": "# ids, one a line\n123e4567-e89b-12d3-a456-426614174000\n"}


class Accepted(TypedDict):
    """An operation that is followed from now on, or was already."""

    id: str
    state: str


class Rejected(TypedDict):
    """What could not be taken: which item, from 0, or which id, and why."""

    item: NotRequired[int]
    id: NotRequired[str]
    reason: str


class Registered(TypedDict):
    """What became of a registration; `durable`: it survives a restart."""

    accepted: list[Accepted]
    rejected: list[Rejected]
    durable: bool


class Released(TypedDict):
    """An operation that is followed no more."""

    id: str
    released: bool
    durable: bool


class RunPut(Group):
    """The group of a run that was opened, or of which more was said; `durable`: it survives a restart."""

    durable: bool


class Problem(TypedDict):
    """What is wrong with a request (RFC 9457); a registration of which nothing could be taken says what and why."""

    type: str
    title: str
    status: int
    detail: str
    accepted: NotRequired[list[Accepted]]
    rejected: NotRequired[list[Rejected]]


@cache  # it takes 0.1 s, which no start waits for
def describe(limit: int, limit_most: int) -> dict[str, Any]:
    """Return the description; `limit` operations are listed unless asked otherwise, `limit_most` at most."""
    schemas: dict[str, Any] = {}
    for shape in (ApiIndex, Operations, Detail, GroupList, Group, Environments, Registered, Released, RunPut, Problem):
        found = TypeAdapter(shape).json_schema(ref_template=_SHAPES + "{model}")
        schemas |= found.pop("$defs", {}) | {shape.__name__: found}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "knock-exporter",
            "version": __version__,
            "description": "Read the state of Knock's bulk operations, and register them.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(limit, limit_most),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "password": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "Required if --web.config.file has users.",
                },
                "token": {"type": "http", "scheme": "bearer", "description": "One of registration.tokens."},
            },
        },
    }


def _paths(limit: int, limit_most: int) -> dict[str, Any]:
    filters = [
        _query("group", {"type": "string"}, "Only this group."),
        _query("run", _RUN, "Only the operations of the run with this id."),
        _query("name", {"type": "string"}, "Only operations with this name of Knock."),
        _query("status", {"enum": [*STATUSES, ""]}, _STATUS_TEXT),
        _query("id", {"type": "string", "maxLength": SEARCH_LONGEST}, "Only ids that contain this."),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": limit_most, "default": limit}, "How many."),
        _query("cursor", {"type": "string"}, "The `next` of the previous page."),
    ]
    of_all = [_query("environment", {"type": "string"}, "Only this environment."), *filters]
    environment, operation_id = _path("environment", {"type": "string"}), _path("id", _ID)
    group = _path("group", {"type": "string", "minLength": 1}) | {
        "description": "Its name, percent-encoded; a slash need not be encoded."
    }
    of_group = f"{GROUPS_PATH}/{{environment}}/{{group}}"
    return {
        INDEX_PATH: {"get": _read("listCalls", "List the calls of this API", ApiIndex, [])},
        OPERATIONS_PATH: {"get": _read("listOperations", "List operations", Operations, of_all)},
        ONE_ENVIRONMENT_PATH: {
            "get": _read(
                "listEnvironmentOperations",
                "List the operations of an environment",
                Operations,
                [environment, *filters],
                404,
            ),
            "post": _register([environment]),
        },
        f"{ONE_ENVIRONMENT_PATH}/{{id}}": {
            "get": _read(
                "getOperation", "Get one operation with all details", Detail, [environment, operation_id], 404
            ),
            "delete": _release([environment, operation_id]),
        },
        GROUPS_PATH: {"get": _read("listGroups", "List groups and the state of their runs", GroupList, [])},
        f"{GROUPS_PATH}/{{environment}}": {
            "get": _read("listEnvironmentGroups", "List the groups of an environment", GroupList, [environment], 404)
        },
        of_group: {"get": _read("getGroup", "Get one group", Group, [environment, group], 404)},
        f"{of_group}/runs/{{run}}": {"put": _put_run([environment, group, _path("run", _RUN)])},
        "/api/v1/environments": {
            "get": _read("listEnvironments", "List environments and their state", Environments, [])
        },
    }


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": text}


def _path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _responses(shape: type, *problems: int) -> dict[str, Any]:
    good = {"description": "As asked", "content": {"application/json": {"schema": _shape(shape)}}}
    return {"200": good} | {str(each): _problem() for each in sorted(problems)}


def _problem() -> dict[str, Any]:
    return {"description": "A problem", "content": {"application/problem+json": {"schema": _shape(Problem)}}}


def _shape(shape: type) -> dict[str, str]:
    return {"$ref": _SHAPES + shape.__name__}


def _read(name: str, text: str, shape: type, parameters: list[dict[str, Any]], *problems: int) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": text,
        "security": [{}, {"password": []}],
        "parameters": parameters,
        "responses": _responses(shape, 400, 401, 503, *problems),
    }


def _register(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    item: dict[str, Any] = {
        "anyOf": [
            _ID,
            {
                "type": "object",
                "required": ["id"],
                "properties": {
                    "id": _ID,
                    "group": {"type": "string"},
                    "run": _RUN,
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "again": {"type": "boolean"},
                },
                "description": "An id with options, or the whole response of Knock's create call.",
            },
        ]
    }
    body = {"anyOf": [*item["anyOf"], {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_IDS}]}
    responses = _responses(Registered, 400, 401, 403, 404, 408, 413, 415, 422, 429, 503)
    options = [
        _query("group", {"type": "string"}, "Group of all items."),
        _query("run", _RUN, "Run of all items. A new id opens a new run of the group."),
        _query("again", {"enum": ["true", "false"]}, "Follow operations again that were retired or lost."),
    ]
    return {
        "operationId": "register",
        "summary": "Register operations",
        "description": f"Labels of all items: {LABEL_PREFIX}NAME=VALUE in the query.",
        "security": [{"token": []}],
        "parameters": [*parameters, *options],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}, "text/plain": _LINES}},
        "responses": responses,
    }


def _release(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "operationId": "release",
        "summary": "Remove an operation",
        "security": [{"token": []}],
        "parameters": parameters,
        "responses": _responses(Released, 400, 401, 403, 404, 409, 429, 503),
    }


def _put_run(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    body = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "operations": {
                "type": ["integer", "null"],
                "minimum": 0,
                "description": "How many operations the run has.",
            },
            "deadline": {
                "type": ["string", "null"],
                "description": "When the run has to finish: a time (RFC 3339), or a duration after its opening (3h).",
            },
            "closed": {"enum": [True, None], "description": "Everything has been submitted."},
        },
        "description": "An omitted key keeps its value, null removes it.",
    }
    return {
        "operationId": "putRun",
        "summary": "Open or change a run of a group",
        "security": [{"token": []}],
        "parameters": parameters,
        "requestBody": {"required": False, "content": {"application/json": {"schema": body}}},
        "responses": _responses(RunPut, 401, 403, 404, 408, 409, 413, 422, 429, 503),
    }
