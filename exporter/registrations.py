"""What programs hand over to be followed: bodies of requests, read into operations. Pure.

An item is a bare id, an object with an id, or the whole record that Knock's create call answered. Of a record, only
what is true at birth is believed; all else comes from our own polls.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.config.settings import ListedOperation
from exporter.errors import redact
from exporter.operation import GROUP, Invalid, Status, decode, is_operation_id, parse_time
from exporter.tracking.messages import Created, Registration
from exporter.values import InvalidValue, check_label_value, check_operation_id, check_run_id, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MAX_IDS = 1000  # in one request
MAX_BODY_BYTES = 2**20
LABEL_PREFIX = "label."  # of query parameters
OWN_KEYS = ("id", "group", "run", "labels", "again")
RECORD_KEYS = frozenset({"__typename", "status", "name"})  # what has one of them is a record, not an object of ours
BELIEVED_KEYS = ("id", "name", "inserted_at", "status")

_NAME_LONGEST = 256  # characters
_JSON_STARTS = (b"{", b"[", b'"')
_KINDS = {type(None): "null", bool: "true or false", str: "text", list: "a list", dict: "an object"}


class InvalidRequest(ValueError):
    """A request that names nothing that could be judged one by one; `status` is the HTTP answer to it."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class RegistrationItem:
    """What is said of an operation; the defaults say nothing. For a whole request, `id` is empty."""

    id: str = ""
    group: str = GROUP
    labels: dict[str, str] = field(default_factory=dict)
    again: bool | None = None
    created: Created | None = None
    run: str | None = None

    def over(self, other: RegistrationItem) -> RegistrationItem:
        """Return this, completed by what the other says where this says nothing."""
        return RegistrationItem(
            self.id,
            self.group if self.group != GROUP else other.group,
            other.labels | self.labels,
            other.again if self.again is None else self.again,
            self.created or other.created,
            self.run or other.run,
        )

    def registration(self) -> Registration:
        """Return it as the tracker takes it."""
        labels = tuple(sorted(self.labels.items()))
        return Registration(ListedOperation(self.id, self.group, labels, self.run), self.created)


class RejectedItem(NamedTuple):
    """An item that cannot be taken: which (counted from 0), its id where it has a good one, and why."""

    item: int
    id: str | None
    reason: str


class Batch(NamedTuple):
    """A request's operations, each once, and the items that are none."""

    named: tuple[RegistrationItem, ...]
    rejected: tuple[RejectedItem, ...]


def read_query(pairs: Iterable[tuple[str, str]], declared: Collection[str]) -> RegistrationItem:
    """Read `group`, `run`, `again` and `label.NAME`, which hold for all items of a request. Raises InvalidRequest."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidRequest(HTTPStatus.BAD_REQUEST, f"query: {quoted(name)} is given twice")
        found[name] = value
    try:
        return _defaults(found, declared)
    except InvalidValue as error:
        raise InvalidRequest(HTTPStatus.BAD_REQUEST, f"query: {error}") from None


def _defaults(query: dict[str, str], declared: Collection[str]) -> RegistrationItem:
    labels = {name.removeprefix(LABEL_PREFIX): query.pop(name) for name in list(query) if name.startswith(LABEL_PREFIX)}
    again = query.pop("again", None)
    if again not in (None, "true", "false"):
        raise InvalidValue("again: expected true or false")
    group, run = _group(query.pop("group", None)), _run(query.pop("run", None))
    for name in query:
        raise InvalidValue(f"{quoted(name)} is unknown (known: group, run, {LABEL_PREFIX}NAME, again)")
    return RegistrationItem(
        group=group, labels=_labels(labels, declared), again=None if again is None else again == "true", run=run
    )


def read_batch(body: bytes, defaults: RegistrationItem, declared: Collection[str], *, text: bool) -> Batch:
    """Read a body; `text`: ids one a line, or JSON all the same. Raises InvalidRequest for one that has no items."""
    named: dict[str, RegistrationItem] = {}
    rejected: list[RejectedItem] = []
    for index, item in enumerate(_items(body, text=text)):
        try:
            named_now = _registration_item(item, declared)
        except InvalidValue as error:
            rejected.append(RejectedItem(index, _id_of(item), str(error)))
        else:
            named[named_now.id] = named_now.over(named.get(named_now.id, RegistrationItem()))
    return Batch(tuple(each.over(defaults) for each in named.values()), tuple(rejected))


def _items(body: bytes, *, text: bool) -> list[Any]:
    if text and not body.lstrip().startswith(_JSON_STARTS):
        items: list[Any] = read_lines(body)
    else:
        items = _json_items(body)
    if not items:
        raise InvalidRequest(HTTPStatus.UNPROCESSABLE_ENTITY, "the body names no operation")
    if len(items) > MAX_IDS:
        raise InvalidRequest(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{len(items)} items in one request (at most {MAX_IDS})"
        )
    return items


def _json_items(body: bytes) -> list[Any]:
    try:
        document = decode(body)
    except Invalid as error:
        raise InvalidRequest(HTTPStatus.BAD_REQUEST, f"the body is {error}") from None
    return document if isinstance(document, list) else [document]


def read_lines(body: bytes) -> list[str]:
    """Read ids one a line; what follows `#` is a comment. Raises InvalidRequest."""
    try:
        lines = body.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InvalidRequest(HTTPStatus.BAD_REQUEST, "the body is not UTF-8 text") from None
    return [item for line in lines if (item := line.partition("#")[0].strip())]


def is_record(item: dict[str, Any]) -> bool:
    """Whether an object is Knock's record, of which unknown keys are none of our business."""
    return not RECORD_KEYS.isdisjoint(item)


def _registration_item(item: Any, declared: Collection[str]) -> RegistrationItem:
    if isinstance(item, str):
        return RegistrationItem(_id(item))
    if not isinstance(item, dict):
        raise InvalidValue(f"expected an id, an object with an id, or Knock's record; got {_kind(item)}")
    if not is_record(item):
        for key in item:
            if key not in OWN_KEYS:
                raise InvalidValue(
                    f"{quoted(key)} is unknown (known: {', '.join(OWN_KEYS)}, or the whole of Knock's record)"
                )
    if "id" not in item:
        raise InvalidValue("has no id")
    return RegistrationItem(
        _id(item["id"]),
        _group(item.get("group")),
        _labels(item.get("labels"), declared),
        _again(item.get("again")),
        _created(item),
        _run(item.get("run")),
    )


def _id(found: Any) -> str:
    return _checked("id", check_operation_id, found)


def _id_of(item: Any) -> str | None:
    found = item.get("id") if isinstance(item, dict) else item
    return found.lower() if isinstance(found, str) and is_operation_id(found) else None


def _group(found: Any) -> str:
    return GROUP if found is None else _checked("group", check_label_value, found)


def _run(found: Any) -> str | None:
    return None if found is None else _checked("run", check_run_id, found)


def _labels(found: Any, declared: Collection[str]) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidValue(f"labels: expected an object of names and values, got {_kind(found)}")
    for name in found:
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise InvalidValue(f"labels: {quoted(name)} is not declared in the configuration (declared: {known})")
    return {name: _checked(f"labels.{name}", check_label_value, value) for name, value in found.items()}


def _again(found: Any) -> bool | None:
    if found is None or isinstance(found, bool):
        return found
    raise InvalidValue(f"again: expected true or false, got {_kind(found)}")


def _created(record: dict[str, Any]) -> Created | None:
    name, inserted_at = record.get("name"), record.get("inserted_at")
    if record.get("status") != Status.QUEUED or not isinstance(name, str):
        return None
    if not name.isprintable() or not 0 < len(name) <= _NAME_LONGEST:
        return None
    try:
        return Created(redact(name), None if inserted_at is None else parse_time(inserted_at))
    except (TypeError, ValueError, OverflowError):
        return None


def _checked(what: str, check: Any, found: Any) -> str:
    if not isinstance(found, str):
        raise InvalidValue(f"{what}: expected text, got {_kind(found)}")
    try:
        return str(check(found))
    except InvalidValue as error:
        raise InvalidValue(f"{what}: {error}") from None


def _kind(found: Any) -> str:
    return _KINDS.get(type(found), "a number")
