"""What concerns several keys at once, or things outside of the file: doubles, contradictions, files that are missing.

The checks read the plain values and step over what is of a wrong type (the models report that), so one run finds
everything.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from exporter.config import values
from exporter.config.models import KEY_SOURCES
from exporter.config.settings import Polling
from exporter.config.values import Unfit, show_duration
from exporter.config.wording import suggestion
from exporter.config.yaml_source import Found
from exporter.keys import InvalidKey, KeySource, Secret
from exporter.operation import is_operation_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from exporter.config.yaml_source import Document, Loc

    _Level = tuple[Loc, dict[str, Any]]  # where a mapping stands, and the mapping

_FOLDER = "relative paths start at the folder of this file"


def check(document: Document, folder: Path, environ: Mapping[str, str]) -> Iterator[Found]:
    """Find what the models cannot see; `folder` is where relative paths start."""
    top = _mapping(document.data)
    declared = _texts(top.get("labels"))
    yield from _doubled_labels(top, document.line)
    yield from _doubled_names(top, document.line)
    yield from _polling(top)
    for loc, environment in _environments(top):
        yield from _key(loc, environment, folder, environ)
        yield from _addresses(loc, environment)
        yield from _authorities(loc, environment, folder)
        yield from _doubled_ids(loc, environment, document.line)
        yield from _undeclared_labels(loc, environment, declared)


def key_source(key: str, value: str, folder: Path) -> KeySource:
    """Make the source of a key from its setting: `key` is one of KEY_SOURCES."""
    if key == "api_key_file":
        return KeySource(file=folder / value)
    return KeySource(variable=value) if key == "api_key_env" else KeySource(inline=Secret(value))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [item for item in _items(value) if isinstance(item, str)]


def _environments(top: dict[str, Any]) -> list[tuple[Loc, dict[str, Any]]]:
    items = enumerate(_items(top.get("environments")))
    return [(("environments", index), item) for index, item in items if isinstance(item, dict)]


def _fits(parse: Callable[[str], object], value: Any) -> bool:
    try:
        return isinstance(value, str) and parse(value) is not None
    except Unfit:
        return False


def _doubled_labels(top: dict[str, Any], line: Callable[[Loc], int]) -> Iterator[Found]:
    places: list[tuple[Loc, Any]] = [(("labels", index), name) for index, name in enumerate(_items(top.get("labels")))]
    return _doubled(places, lambda name, first: f'"{name}" stands twice (first on line {first}): keep one', line)


def _doubled_names(top: dict[str, Any], line: Callable[[Loc], int]) -> Iterator[Found]:
    places = [((*loc, "name"), environment.get("name")) for loc, environment in _environments(top)]
    return _doubled(
        places, lambda name, first: f'"{name}" is the name of another environment (line {first}): rename one', line
    )


def _doubled_ids(loc: Loc, environment: dict[str, Any], line: Callable[[Loc], int]) -> Iterator[Found]:
    places = [(place, _id(item)) for place, item in _operations(loc, environment)]
    return _doubled(places, lambda name, first: f'"{name}" stands twice (first on line {first}): keep one', line)


def _doubled(
    places: list[tuple[Loc, Any]], message: Callable[[str, int], str], line: Callable[[Loc], int]
) -> Iterator[Found]:
    first: dict[str, Loc] = {}
    for loc, value in places:
        if isinstance(value, str) and first.setdefault(value, loc) != loc:
            yield Found(loc, message(value, line(first[value])))


def _operations(loc: Loc, environment: dict[str, Any]) -> Iterator[tuple[Loc, Any]]:
    for index, item in enumerate(_items(environment.get("operations"))):
        yield (*loc, "operations", index), item


def _id(item: Any) -> str | None:
    text = item.get("id") if isinstance(item, dict) else item
    return text.lower() if isinstance(text, str) and is_operation_id(text) else None


def _undeclared_labels(loc: Loc, environment: dict[str, Any], declared: list[str]) -> Iterator[Found]:
    for place, item in _operations(loc, environment):
        for name in _mapping(_mapping(item).get("labels")):
            if name not in declared:
                hint = suggestion(name, declared)
                yield Found((*place, "labels", name), f"is not declared under the top level's labels{hint}")


def _key(loc: Loc, environment: dict[str, Any], folder: Path, environ: Mapping[str, str]) -> Iterator[Found]:
    given = [key for key in KEY_SOURCES if key in environment]
    if not given:
        yield Found(loc, f"has no API key (set one of {', '.join(KEY_SOURCES)})")
    if len(given) > 1:
        yield Found(loc, f"has {len(given)} sources of its API key, {' and '.join(given)} (keep one)")
    for key in given:
        message = _unreadable_key(key, environment[key], folder, environ)
        if message is not None:
            yield Found((*loc, key), message)


def _unreadable_key(key: str, value: Any, folder: Path, environ: Mapping[str, str]) -> str | None:
    shape = {"api_key_file": values.check_path, "api_key_env": values.check_variable}.get(key, str)
    if not _fits(shape, value):
        return None
    try:
        key_source(key, value, folder).read(environ)
    except InvalidKey as error:
        hint = {"api_key_file": f"; {_FOLDER}", "api_key_env": "; set it to the key"}
        return f"{error}{hint.get(key, '')}"
    return None


def _addresses(loc: Loc, environment: dict[str, Any]) -> Iterator[Found]:
    url = environment.get("base_url")
    plain = _fits(values.check_base_url, url) and values.plain_http_abroad(str(url))
    if plain and environment.get("insecure_http") is not True:
        yield Found(
            (*loc, "base_url"),
            "http:// would send the key unprotected to another machine (use https://, or set insecure_http: true)",
        )
    if "proxy" in environment and environment.get("proxy_from_environment") is True:
        yield Found((*loc, "proxy_from_environment"), "contradicts proxy, which is set as well (keep one)")


def _authorities(loc: Loc, environment: dict[str, Any], folder: Path) -> Iterator[Found]:
    file = environment.get("ca_file")
    if not _fits(values.check_path, file):
        return
    path = folder / str(file)
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        yield Found((*loc, "ca_file"), f"{path}: holds no certificates (expected PEM)")
    except OSError as error:
        yield Found((*loc, "ca_file"), f"{path}: {error.strerror} ({_FOLDER})")


def _polling(top: dict[str, Any]) -> Iterator[Found]:
    shared: _Level = (("polling",), _mapping(top.get("polling")))
    own = [((*loc, "polling"), _mapping(environment.get("polling"))) for loc, environment in _environments(top)]
    seen: set[Found] = set()
    chains: list[tuple[_Level, ...]] = [(level, shared) for level in own] or [(shared,)]
    for levels in chains:
        found = set(_too_fast(levels)) - seen
        seen |= found
        yield from sorted(found, key=str)


def _too_fast(levels: tuple[_Level, ...]) -> Iterator[Found]:
    slowest, slowest_loc = _interval("slowest", levels)
    for key in ("processing", "queued"):
        seconds, loc = _interval(key, levels)
        if slowest < seconds:
            message = f"slowest ({show_duration(slowest)}) must not be shorter than {key} ({show_duration(seconds)})"
            yield Found(max(slowest_loc, loc, key=len), message)


def _interval(key: str, levels: tuple[_Level, ...]) -> tuple[float, Loc]:
    for loc, polling in levels:
        if _fits(values.parse_duration, polling.get(key)):
            return values.parse_duration(polling[key]), (*loc, key)
    default: float = getattr(Polling(), key)
    return default, ()
