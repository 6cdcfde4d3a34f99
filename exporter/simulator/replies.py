"""Answers as values, and Knock's errors among them.

Shapes from Knock's API reference and recorded answers: `code`, `message`, `status`, `type`, for 422 `errors`. The
bodies of 400, 429 and 5xx are made up in the same shape, since none is documented.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

JSON = "application/json; charset=utf-8"
HTML = "text/html"
_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED})
_ERRORS = {
    400: ("bad_request", "invalid_request_error", "The request could not be read"),
    401: ("bearer_token_invalid", "authentication_error", "The API key you provided is not valid"),
    403: ("authorization", "authentication_error", "You are not allowed to do this"),
    404: ("resource_missing", "api_error", "The resource you requested does not exist"),
    422: ("invalid_params", "invalid_request_error", "The request is not valid"),
    429: ("rate_limited", "api_error", "Too many requests"),
}
_OTHER = ("internal_error", "api_error", "Something went wrong")


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer that is yet to be sent."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    def head(self, request_id: str, length: int | None) -> bytes:
        """Write status line and headers; a `length` of None leaves the end of the body to the end of the connection."""
        phrase = HTTPStatus(self.status).phrase if self.status in _STATUSES else "Unknown"
        ends = ("Connection", "close") if length is None else ("Content-Length", str(length))
        date = ("Date", formatdate(usegmt=True))
        fields = (date, ("Content-Type", self.content_type), ends, ("X-Request-ID", request_id), *self.headers)
        lines = [f"HTTP/1.1 {self.status} {phrase}", *(f"{name}: {value}" for name, value in fields), "", ""]
        return "\r\n".join(lines).encode("ascii")


_STATUSES = frozenset(HTTPStatus)


def ok(document: Any) -> Reply:
    """Answer 200 with a document."""
    return Reply(HTTPStatus.OK, json.dumps(document).encode("ascii"))


def error(status: int, *, code: str | None = None, message: str | None = None, **more: Any) -> Reply:
    """Answer with an error in Knock's shape."""
    usual_code, kind, usual_message = _ERRORS.get(status, _OTHER)
    document = {"code": code or usual_code, "message": message or usual_message, "status": status, "type": kind, **more}
    body = b"" if status in _BODILESS else json.dumps(document).encode("ascii")
    return Reply(status, body)


def page(status: int) -> Reply:
    """Answer with HTML, as a load balancer in front of Knock does."""
    body = f"<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\r\n".encode("ascii")
    return Reply(status, b"" if status in _BODILESS else body, HTML)


def invalid(field: str, message: str, kind: str) -> Reply:
    """Answer 422 for one field."""
    return error(422, errors=[{"field": field, "message": message, "type": kind}])


def invalid_model(problems: ValidationError) -> Reply:
    """Answer 422 for all that pydantic found."""
    found = problems.errors(include_url=False, include_context=False, include_input=False)
    errors = [{"field": ".".join(map(str, one["loc"])), "message": one["msg"], "type": one["type"]} for one in found]
    return error(422, errors=errors)
