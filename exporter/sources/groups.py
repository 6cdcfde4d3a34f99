"""Prometheus' form of a list, from a file (file_sd: YAML or JSON) or an address (http_sd: JSON).

A list of `{targets: [ids], labels: {group: …, run: …, and declared extra labels}}`, with no other keys.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from exporter.config.yaml_source import parse_document
from exporter.errors import ConfigError
from exporter.operation import GROUP
from exporter.sources.listing import MAX_IDS, BrokenList, Listing
from exporter.values import RUN, InvalidValue, check_label_value, check_run_id, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from exporter.config import ListedOperation
    from exporter.errors import Loc

MAX_VALUES = 500_000  # of a YAML file; each takes 400 bytes while it is read
MAX_COLONS = 800_000  # of JSON; there is one for each key, which takes 250 bytes while it is read
_KEYS = ("targets", "labels")
_EXAMPLE = '{"targets": ["123e4567-e89b-12d3-a456-426614174000"]}'
_INNER = "__"  # labels that begin so are for relabeling, and Prometheus keeps none of them
_KINDS = {type(None): "nothing", bool: "true or false", str: "text", list: "a list", dict: "a mapping"}
_UNQUOTED = (bool, int, float)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")
# A file that says nothing, or has only begun to: null is an empty list only where it is written out.
_NOTHING = re.compile(r"[ \t\r]*(?:#.*)?|%.*|---[ \t\r]*(?:#.*)?|\.\.\.[ \t\r]*")


def read_json(text: str, labels: Collection[str]) -> tuple[ListedOperation, ...]:
    """Read target groups in JSON. Raises BrokenList.

    null is an empty list, also in place of targets or labels: so Go writes those, and Prometheus takes it.
    """
    data = _json(text)
    return _Groups(lambda loc: _in_json(text, data, loc), labels, null=True).read(data)


def read_yaml(text: str, labels: Collection[str]) -> tuple[ListedOperation, ...]:
    """Read target groups in YAML. Raises BrokenList."""
    if all(_NOTHING.fullmatch(line) for line in text.split("\n")):
        raise BrokenList("is empty (to list nothing, write [])")
    try:
        document = parse_document(text, "", MAX_VALUES)
    except ConfigError as error:
        raise BrokenList(str(error.problems[0])) from None
    for found in document.found:
        raise BrokenList(f"line {found.line}: {_path(found.loc)}: {found.message}")
    return _Groups(lambda loc: f"line {document.line(loc)}: {_path(loc)}", labels, null=False).read(document.data)


class _Groups:
    """Checks target groups in plain values; with `null` a group's targets or labels may be null."""

    def __init__(self, where: Callable[[Loc], str], labels: Collection[str], *, null: bool) -> None:
        self._listing: Listing[Loc] = Listing(where)
        self._names = ("group", RUN, *labels)
        self._null = null

    def read(self, data: Any) -> tuple[ListedOperation, ...]:
        if data is None:
            return ()
        if not isinstance(data, list):
            raise BrokenList(f"expected a list such as [{_EXAMPLE}], got {_kind(data)}")
        if len(data) > MAX_IDS:  # in YAML, aliases make millions of a few bytes
            raise BrokenList(f"has more than {MAX_IDS} groups (split it)")
        for index, group in enumerate(data):
            self._group((index,), group)
        return self._listing.operations()

    def _group(self, loc: Loc, group: Any) -> None:
        if not isinstance(group, dict):
            self._listing.fault(loc, f"expected a mapping such as {_EXAMPLE}, got {_kind(group)}")
            return
        self._check_names(loc, group, _KEYS, "unknown key")
        labels = dict(self._labels((*loc, "labels"), group))
        name, run = labels.pop("group", GROUP), labels.pop(RUN, None)
        pairs = tuple(sorted(labels.items()))
        for place, target in self._targets((*loc, "targets"), group):
            self._listing.add(place, target, name, pairs, run)

    def _check_names(self, loc: Loc, mapping: dict[str, Any], known: Collection[str], message: str) -> None:
        for name in mapping:
            if name not in known:
                self._listing.fault((*loc, name), message, (name, known))

    def _targets(self, loc: Loc, group: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
        if "targets" not in group:
            self._listing.fault(loc, "is missing (list the ids there; [] for none)")
            return
        targets = group["targets"]
        if isinstance(targets, list):
            yield from self._texts(loc, enumerate(targets), "an id")
        elif targets is not None or not self._null:
            self._listing.fault(loc, f"expected a list of ids, got {_kind(targets)}")

    def _labels(self, loc: Loc, group: dict[str, Any]) -> Iterator[tuple[str, str]]:
        labels = group.get("labels", {})
        if isinstance(labels, dict):
            labels = {name: value for name, value in labels.items() if not name.startswith(_INNER)}
            self._check_names(loc, labels, self._names, "is not declared under the configuration's labels")
            yield from self._values(loc, labels)
        elif labels is not None or not self._null:
            self._listing.fault(loc, f"expected a mapping of labels to values, got {_kind(labels)}")

    def _values(self, loc: Loc, labels: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for place, value in self._texts(loc, labels.items(), "text"):
            try:
                name = str(place[-1])
                yield name, check_run_id(value) if name == RUN else check_label_value(value)
            except InvalidValue as error:
                self._listing.fault(place, str(error))

    def _texts(self, loc: Loc, items: Iterable[tuple[Any, Any]], expected: str) -> Iterator[tuple[Loc, str]]:
        for key, value in items:
            if isinstance(value, str):
                yield (*loc, key), value
            else:
                quote = " (put it in quotes)" if isinstance(value, _UNQUOTED) else ""
                self._listing.fault((*loc, key), f"expected {expected}, got {_kind(value)}{quote}")


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def _path(loc: Loc) -> str:
    steps = [f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in loc]
    return "".join(steps).removeprefix(".") or "the list"


def _key(name: str) -> str:
    return name if _PLAIN_KEY.fullmatch(name) else quoted(name)


def _json(text: str) -> Any:
    if text.count(":") > MAX_COLONS:
        raise BrokenList(f"has more than {MAX_COLONS} keys (split it)")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise BrokenList(f"line {error.lineno}: is not valid JSON at column {error.colno}: {error.msg}") from None
    except ValueError:
        raise BrokenList("is not valid JSON: holds a number that is not valid, or too long") from None
    except RecursionError:
        raise BrokenList("is not valid JSON: nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BrokenList(f"the key {quoted(key)} is a duplicate in its object: keep one")
        found[key] = value
    return found


def _no_number(_: str) -> None:
    raise ValueError


def _in_json(text: str, data: Any, loc: Loc) -> str:
    """Show a place; with its line where what stands there stands nowhere else, as json keeps no lines."""
    path, sought = _path(loc), loc[-1]
    if isinstance(sought, int):
        for part in loc:
            data = data[part]
        sought = data
    written = json.dumps(sought, ensure_ascii=False) if isinstance(sought, str) else ""
    if not written or text.count(written) != 1:
        return path
    return f"line {text.count(chr(10), 0, text.index(written)) + 1}: {path}"
