"""Some of the environments of a configuration: many processes may share one file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.config.values import quoted
from exporter.config.wording import closest
from exporter.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.config.settings import Config


def only(config: Config, names: Sequence[str]) -> Config:
    """Keep the environments of these names, in the order of the file, and the tokens that are good for any of them.

    Raises StartError for a name that it has not.
    """
    known = [environment.name for environment in config.environments]
    has = f"it has: {', '.join(known)}"
    for name in names:
        if name not in known:
            close = closest(name, known)
            hint = f'did you mean "{close}"? ' if close else ""
            raise StartError(f"{quoted(name)} is not an environment of the configuration ({hint}{has})")
    return replace(
        config,
        environments=tuple(one for one in config.environments if one.name in names),
        tokens=tuple(one for one in config.tokens if one.environments is None or one.environments.intersection(names)),
    )
