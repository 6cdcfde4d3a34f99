"""What concerns several keys at once: doubles, contradictions, names that lead nowhere.

The checks read the plain values and step over what is of a wrong type (which is reported where values are read), so one
run finds everything.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter import values
from exporter.config.problems import suggestion
from exporter.config.settings import GROUPS_MOST, KEY_SOURCES, Polling
from exporter.errors import Found
from exporter.operation import is_operation_id
from exporter.values import ALL_ENVIRONMENTS, InvalidValue, quoted, show_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from exporter.config.yaml_source import Document
    from exporter.errors import Loc

_DUPLICATE = "{} is a duplicate (first on line {}): keep one"
_NAMED_TWICE = "{} is the name of another environment (line {}): rename one"
_LISTED_TWICE = "the same address is listed twice (first on line {1}): keep one"  # its query may hold a secret
_UNPROTECTED = "to another machine (use https://, or set insecure_http: true)"


class Place(NamedTuple):
    """A place in a file, and what is there: None where there is nothing."""

    loc: Loc
    value: Any

    def at(self, key: str) -> Place:
        """Step to a key."""
        return Place((*self.loc, key), self.mapping().get(key))

    def mapping(self) -> dict[str, Any]:
        """Return the mapping, or an empty one for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    def list(self) -> list[Any]:
        """Return the list, or an empty one for anything else."""
        return self.value if isinstance(self.value, list) else []

    def items(self) -> Iterator[Place]:
        """Step to each item of the list."""
        return (Place((*self.loc, index), item) for index, item in enumerate(self.list()))

    def mappings(self) -> Iterator[Place]:
        """Step to each item that is a mapping."""
        return (item for item in self.items() if isinstance(item.value, dict))

    def fits(self, parse: Callable[[str], object]) -> bool:
        """Whether there is a text that `parse` takes."""
        try:
            return isinstance(self.value, str) and parse(self.value) is not None
        except InvalidValue:
            return False


def check(document: Document, *, needs_storage: bool = True) -> Iterator[Found]:
    """Find what cannot be seen in single values; `needs_storage`: whether the file alone says where state is kept."""
    top = Place((), document.data)
    environments = list(top.at("environments").mappings())
    tokens = list(top.at("registration").at("tokens").mappings())
    for message, places in _unique(top, environments, tokens):
        yield from _doubled(message, places, document.line)
    yield from _polling(top, environments)
    declared = dict.fromkeys(each for each in top.at("labels").list() if isinstance(each, str))
    for environment in environments:
        yield from _key(environment)
        yield from _addresses(environment)
        yield from _undeclared_labels(environment.at("operations"), declared)
        yield from _groups(environment.at("groups"), stored=not needs_storage or "storage" in top.mapping())
    names = [each.at("name") for each in environments]
    known = dict.fromkeys([*(each.value for each in names if each.fits(values.check_name)), ALL_ENVIRONMENTS])
    for token in tokens:
        yield from _token_environments(token.at("environments"), known)


def _unique(top: Place, environments: list[Place], tokens: list[Place]) -> Iterator[tuple[str, Iterable[Place]]]:
    yield _DUPLICATE, top.at("labels").items()
    yield _NAMED_TWICE, (each.at("name") for each in environments)
    for environment in environments:
        yield _DUPLICATE, _ids(environment.at("operations"))
        yield _DUPLICATE, environment.at("operations_files").items()
        yield _DUPLICATE, (each.at("name") for each in environment.at("groups").mappings())
        yield _LISTED_TWICE, (_address(each.at("url")) for each in environment.at("operations_http").mappings())
    yield _DUPLICATE, (each.at("token_file") for each in tokens)
    for token in tokens:
        yield _DUPLICATE, token.at("environments").items()


def _doubled(message: str, places: Iterable[Place], line: Callable[[Loc], int]) -> Iterator[Found]:
    first: dict[str, Loc] = {}
    for loc, value in places:
        if isinstance(value, str) and first.setdefault(value, loc) != loc:
            yield Found(loc, partial(_again, message, value, line, first[value]))


def _again(message: str, value: str, line: Callable[[Loc], int], first: Loc) -> str:
    return message.format(quoted(value), line(first))


def _ids(operations: Place) -> Iterator[Place]:
    ids = list(map(_id, operations.list()))
    if len(set(ids)) == len(ids):
        return  # places of ids by the ten thousand take as long to make as the ids to read
    for place in Place(operations.loc, ids).items():
        yield place if place.value and is_operation_id(place.value) else Place(place.loc, None)


def _id(item: Any) -> str | None:
    text = item.get("id") if isinstance(item, dict) else item
    return text.lower() if isinstance(text, str) else None


def _address(url: Place) -> Place:
    return Place(url.loc, values.check_source_url(url.value) if url.fits(values.check_source_url) else None)


def _undeclared_labels(operations: Place, declared: Collection[str]) -> Iterator[Found]:
    message = "is not declared under the top level's labels"
    for index, item in enumerate(operations.list()):
        labels = item.get("labels") if isinstance(item, dict) else None
        for name in labels if isinstance(labels, dict) else ():
            if name not in declared:
                place = (*operations.loc, index, "labels", name)
                yield Found(place, partial(suggestion, name, declared, message))


def _groups(groups: Place, *, stored: bool) -> Iterator[Found]:
    if len(groups.list()) > GROUPS_MOST:
        yield Found(groups.loc, f"has {len(groups.list())} groups (at most {GROUPS_MOST} in an environment)")
    if groups.list() and not stored:
        hint = "set storage.path, or --storage.path where the exporter is started"
        yield Found(groups.loc, f"needs a state file, or each restart would forget when they last ran ({hint})")


def _key(environment: Place) -> Iterator[Found]:
    given = [key for key in KEY_SOURCES if key in environment.mapping()]
    if not given:
        yield Found(environment.loc, f"has no API key (set one of {', '.join(KEY_SOURCES)})")
    if len(given) > 1:
        yield Found(environment.loc, f"has {len(given)} sources of its API key, {' and '.join(given)} (keep one)")


def _addresses(environment: Place) -> Iterator[Found]:
    if environment.at("insecure_http").value is not True:
        if (url := environment.at("base_url")).fits(values.check_base_url) and values.is_unprotected_http(url.value):
            yield Found(url.loc, f"http:// would send the key unprotected {_UNPROTECTED}")
        for source in environment.at("operations_http").mappings():
            url = source.at("url")
            with_token = "bearer_token_file" in source.value
            if with_token and url.fits(values.check_source_url) and values.is_unprotected_http(url.value):
                yield Found(url.loc, f"http:// would send the bearer token unprotected {_UNPROTECTED}")
    by_variables = environment.at("proxy_from_environment")
    if "proxy" in environment.mapping() and by_variables.value is True:
        yield Found(by_variables.loc, "contradicts proxy, which is set as well (keep one)")


def _token_environments(names: Place, known: Collection[str]) -> Iterator[Found]:
    for loc, name in names.items():
        if isinstance(name, str) and name not in known:
            yield Found(loc, partial(suggestion, name, known, f"{quoted(name)} is not an environment of this file"))
    others = [each for each in names.list() if isinstance(each, str) and each != ALL_ENVIRONMENTS]
    if others and ALL_ENVIRONMENTS in names.list():
        yield Found(names.loc, f"{ALL_ENVIRONMENTS} stands for every environment (remove it, or the others)")


def _polling(top: Place, environments: list[Place]) -> Iterator[Found]:
    shared = top.at("polling")
    own = [each.at("polling") for each in environments if "polling" in each.mapping()]
    chains: list[tuple[Place, ...]] = [(each, shared) for each in own]
    if not environments or len(own) < len(environments):
        chains.append((shared,))  # once for all that have none of their own
    seen: set[Found] = set()
    for levels in chains:
        found = set(_too_fast(levels)) - seen
        seen |= found
        yield from sorted(found, key=str)


def _too_fast(levels: tuple[Place, ...]) -> Iterator[Found]:
    slowest, slowest_loc = _interval("slowest", levels)
    for key in ("processing", "queued"):
        seconds, loc = _interval(key, levels)
        if slowest < seconds:
            message = f"slowest ({show_duration(slowest)}) must not be shorter than {key} ({show_duration(seconds)})"
            yield Found(max(slowest_loc, loc, key=len), message)


def _interval(key: str, levels: tuple[Place, ...]) -> tuple[float, Loc]:
    for polling in levels:
        if (place := polling.at(key)).fits(values.parse_duration):
            return values.parse_duration(place.value), place.loc
    default: float = getattr(Polling(), key)
    return default, ()
