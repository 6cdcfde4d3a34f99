"""Steps through plain values that may be of any type: the checks pass over what the models report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.config.values import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.config.yaml_source import Loc

    Level = tuple[Loc, dict[str, Any]]  # where a mapping stands, and the mapping


def mapping(value: Any) -> dict[str, Any]:
    """Return the mapping, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Return the list, or an empty one for anything else."""
    return value if isinstance(value, list) else []


def texts(value: Any) -> list[str]:
    """Return what of a list is text."""
    return [item for item in items(value) if isinstance(item, str)]


def levels(loc: Loc, value: Any) -> list[Level]:
    """Return what of the list at `loc` is a mapping, with its places."""
    return [((*loc, index), item) for index, item in enumerate(items(value)) if isinstance(item, dict)]


def environments(top: dict[str, Any]) -> list[Level]:
    """Return the environments."""
    return levels(("environments",), top.get("environments"))


def http_sources(loc: Loc, environment: dict[str, Any]) -> list[Level]:
    """Return the addresses that an environment takes operations from."""
    return levels((*loc, "operations_http"), environment.get("operations_http"))


def tokens(top: dict[str, Any]) -> list[Level]:
    """Return the tokens for registrations."""
    return levels(("registration", "tokens"), mapping(top.get("registration")).get("tokens"))


def fits(parse: Callable[[str], object], value: Any) -> bool:
    """Whether a value is a text that `parse` takes."""
    try:
        return isinstance(value, str) and parse(value) is not None
    except InvalidValue:
        return False
