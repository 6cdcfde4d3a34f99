"""What concerns several keys at once: doubles, contradictions, names that lead nowhere.

The checks read the plain values and step over what is of a wrong type (the models report that), so one run finds
everything.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from exporter.config import plain, values
from exporter.config.models import KEY_SOURCES
from exporter.config.settings import ALL_ENVIRONMENTS, Polling
from exporter.config.values import quoted, show_duration
from exporter.config.wording import suggestion
from exporter.config.yaml_source import Found
from exporter.operation import is_operation_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from exporter.config.plain import Level
    from exporter.config.yaml_source import Document, Loc

    _Place = tuple[Loc, Any]  # where a value stands, and the value

_UNPROTECTED = "to another machine (use https://, or set insecure_http: true)"


def check(document: Document) -> Iterator[Found]:
    """Find what the models cannot see."""
    top = plain.mapping(document.data)
    declared = dict.fromkeys(plain.texts(top.get("labels")))
    known = _known_environments(top)
    for places, message in _unique(top):
        yield from _doubled(places, message, document.line)
    yield from _polling(top)
    for loc, environment in plain.environments(top):
        yield from _key(loc, environment)
        yield from _addresses(loc, environment)
        yield from _http_sources(loc, environment)
        yield from _undeclared_labels(loc, environment, declared)
    for loc, token in plain.tokens(top):
        yield from _token_environments(loc, token, known)


def _twice(value: str, first: int) -> str:
    return f"{quoted(value)} is a duplicate (first on line {first}): keep one"


def _named_twice(name: str, first: int) -> str:
    return f"{quoted(name)} is the name of another environment (line {first}): rename one"


def _listed_twice(_url: str, first: int) -> str:  # the query may hold a secret
    return f"the same address is listed twice (first on line {first}): keep one"


def _unique(top: dict[str, Any]) -> Iterator[tuple[Iterable[_Place], Callable[[str, int], str]]]:
    yield _numbered(("labels",), top.get("labels")), _twice
    yield _of_each("name", plain.environments(top)), _named_twice
    for loc, environment in plain.environments(top):
        yield _ids(loc, environment), _twice
        yield _numbered((*loc, "operations_files"), environment.get("operations_files")), _twice
        urls = _of_each("url", plain.http_sources(loc, environment))
        yield ((place, _address(url)) for place, url in urls), _listed_twice
    yield _of_each("token_file", plain.tokens(top)), _twice
    for loc, token in plain.tokens(top):
        yield _numbered((*loc, "environments"), token.get("environments")), _twice


def _numbered(loc: Loc, value: Any) -> Iterator[_Place]:
    return (((*loc, index), item) for index, item in enumerate(plain.items(value)))


def _of_each(key: str, levels: Iterable[Level]) -> Iterator[_Place]:
    return (((*loc, key), level.get(key)) for loc, level in levels)


def _doubled(
    places: Iterable[_Place], message: Callable[[str, int], str], line: Callable[[Loc], int]
) -> Iterator[Found]:
    first: dict[str, Loc] = {}
    for loc, value in places:
        if isinstance(value, str) and first.setdefault(value, loc) != loc:
            yield Found(loc, partial(_again, message, value, line, first[value]))


def _again(message: Callable[[str, int], str], value: str, line: Callable[[Loc], int], first: Loc) -> str:
    return message(value, line(first))


def _ids(loc: Loc, environment: dict[str, Any]) -> Iterator[_Place]:
    ids = list(map(_id, plain.items(environment.get("operations"))))
    if len(set(ids)) == len(ids):
        return  # places of ids by the ten thousand take as long to make as the ids to read
    for place, found in _numbered((*loc, "operations"), ids):
        yield place, found if found and is_operation_id(found) else None


def _id(item: Any) -> str | None:
    text = item.get("id") if isinstance(item, dict) else item
    return text.lower() if isinstance(text, str) else None


def _address(url: Any) -> str | None:
    return values.check_source_url(url) if plain.fits(values.check_source_url, url) else None


def _undeclared_labels(loc: Loc, environment: dict[str, Any], declared: Collection[str]) -> Iterator[Found]:
    message = "is not declared under the top level's labels"
    for index, item in enumerate(plain.items(environment.get("operations"))):
        if isinstance(item, dict):
            for name in plain.mapping(item.get("labels")):
                if name not in declared:
                    place = (*loc, "operations", index, "labels", name)
                    yield Found(place, partial(_suggesting, message, name, declared))


def _suggesting(message: str, word: str, known: Collection[str]) -> str:
    return message + suggestion(word, known)


def _key(loc: Loc, environment: dict[str, Any]) -> Iterator[Found]:
    given = [key for key in KEY_SOURCES if key in environment]
    if not given:
        yield Found(loc, f"has no API key (set one of {', '.join(KEY_SOURCES)})")
    if len(given) > 1:
        yield Found(loc, f"has {len(given)} sources of its API key, {' and '.join(given)} (keep one)")


def _addresses(loc: Loc, environment: dict[str, Any]) -> Iterator[Found]:
    if _unprotected(values.check_base_url, environment.get("base_url"), environment):
        yield Found((*loc, "base_url"), f"http:// would send the key unprotected {_UNPROTECTED}")
    if "proxy" in environment and environment.get("proxy_from_environment") is True:
        yield Found((*loc, "proxy_from_environment"), "contradicts proxy, which is set as well (keep one)")


def _http_sources(loc: Loc, environment: dict[str, Any]) -> Iterator[Found]:
    for place, source in plain.http_sources(loc, environment):
        if "bearer_token_file" in source and _unprotected(values.check_source_url, source.get("url"), environment):
            yield Found((*place, "url"), f"http:// would send the bearer token unprotected {_UNPROTECTED}")


def _unprotected(parse: Callable[[str], str], url: Any, environment: dict[str, Any]) -> bool:
    allowed = environment.get("insecure_http") is True
    return not allowed and plain.fits(parse, url) and values.plain_http_abroad(str(url))


def _known_environments(top: dict[str, Any]) -> Collection[str]:
    named = plain.texts([environment.get("name") for _, environment in plain.environments(top)])
    return dict.fromkeys([*(name for name in named if plain.fits(values.check_name, name)), ALL_ENVIRONMENTS])


def _token_environments(loc: Loc, token: dict[str, Any], known: Collection[str]) -> Iterator[Found]:
    names = token.get("environments")
    for place, name in _numbered((*loc, "environments"), names):
        if isinstance(name, str) and name not in known:
            yield Found(place, partial(_suggesting, f"{quoted(name)} is not an environment of this file", name, known))
    if ALL_ENVIRONMENTS in (texts := plain.texts(names)) and set(texts) != {ALL_ENVIRONMENTS}:
        yield Found(
            (*loc, "environments"), f"{ALL_ENVIRONMENTS} stands for every environment (remove it, or the others)"
        )


def _polling(top: dict[str, Any]) -> Iterator[Found]:
    shared: Level = (("polling",), plain.mapping(top.get("polling")))
    own = [
        ((*loc, "polling"), plain.mapping(environment.get("polling"))) for loc, environment in plain.environments(top)
    ]
    seen: set[Found] = set()
    chains: list[tuple[Level, ...]] = [(level, shared) for level in own] or [(shared,)]
    for levels in chains:
        found = set(_too_fast(levels)) - seen
        seen |= found
        yield from sorted(found, key=str)


def _too_fast(levels: tuple[Level, ...]) -> Iterator[Found]:
    slowest, slowest_loc = _interval("slowest", levels)
    for key in ("processing", "queued"):
        seconds, loc = _interval(key, levels)
        if slowest < seconds:
            message = f"slowest ({show_duration(slowest)}) must not be shorter than {key} ({show_duration(seconds)})"
            yield Found(max(slowest_loc, loc, key=len), message)


def _interval(key: str, levels: tuple[Level, ...]) -> tuple[float, Loc]:
    for loc, polling in levels:
        if plain.fits(values.parse_duration, polling.get(key)):
            return values.parse_duration(polling[key]), (*loc, key)
    default: float = getattr(Polling(), key)
    return default, ()
