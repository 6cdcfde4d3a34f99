"""Reads from a query which operations are asked for."""

from __future__ import annotations

from dataclasses import fields
from http import HTTPStatus
from typing import TYPE_CHECKING

from exporter.tracking.selection import STATUSES, Filter
from exporter.web.replies import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

SEARCH_LONGEST = 36


def read_filter(parameters: Mapping[str, str]) -> Filter:
    """Read a filter from a query; what is empty asks for nothing. Raises Refusal (400)."""
    given = {each.name: parameters.get(each.name) or None for each in fields(Filter)}
    status, sought = given["status"], (given["id"] or "").strip().lower()
    if status is not None and status not in STATUSES:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"status: expected one of {', '.join(STATUSES)}")
    if len(sought) > SEARCH_LONGEST:
        raise Refusal(
            HTTPStatus.BAD_REQUEST, f"id: expected an id or a part of one ({SEARCH_LONGEST} characters at most)"
        )
    return Filter(**{**given, "id": sought or None})
