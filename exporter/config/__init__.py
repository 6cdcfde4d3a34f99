"""The configuration: from a YAML file to a frozen Config, or to a ConfigError with everything that is wrong.

yaml_source   the file as plain values that remember their lines
kinds         for pydantic: how each kind of value is read (`exporter/values.py`), shown and described
settings      every key, once: from plain values to a Config, and back to YAML with secrets masked
wording       pydantic's errors in our words
checks        what concerns several keys
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.config.checks import check
from exporter.config.kinds import LoadContext, PerOperation
from exporter.config.problems import closest
from exporter.config.settings import (
    Config,
    EnvironmentSettings,
    ListedOperation,
    Polling,
    RegistrationSettings,
    Storage,
    effective_yaml,
    read,
)
from exporter.config.yaml_source import read_document
from exporter.errors import StartError
from exporter.files import is_pipe
from exporter.garbage_collection import no_garbage_collection
from exporter.values import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Config",
    "EnvironmentSettings",
    "ListedOperation",
    "PerOperation",
    "Polling",
    "Storage",
    "effective_yaml",
    "load",
]

DEVICES = Path("/dev")  # /dev/stdin may be a regular file
PIPE_SECONDS = 30.0  # decrypting asks a service of keys first


def load(
    path: Path,
    environ: Mapping[str, str],
    names: Sequence[str] = (),
    *,
    pipe_seconds: float = PIPE_SECONDS,
    needs_storage: bool = True,
) -> Config:
    """Read a configuration file and the files that it names; relative paths start at its folder.

    A pipe, as of `--config.file=<(sops -d …)`, is waited for (`pipe_seconds`); it has no folder, so that relative paths
    start where the process does.

    With `names`, only these environments of it, and only the files that they need. Without `needs_storage`, what needs
    storage.path is taken without it: the state is kept elsewhere, or not needed.

    Raises ConfigError with all problems at once, in the order of the file, and StartError for a name that is not in it.
    """
    with no_garbage_collection():
        document = read_document(path, pipe_seconds=pipe_seconds)
        folder = Path() if is_pipe(path) or path.parent == DEVICES else path.parent
        config, found = read(document, LoadContext(folder, environ, names))
        broken = {problem.loc for problem in found if problem.file is None}
        found += [problem for problem in check(document, needs_storage=needs_storage) if problem.loc not in broken]
        found = [problem for problem in found if problem.loc not in document.unusable] + document.found
        if config is None or found:
            raise document.error(str(path), found)
        return _only(config, names) if names else config


def _only(config: Config, names: Sequence[str]) -> Config:
    """Keep these environments, in the order of the file, and the tokens that are good for any of them."""
    known = [environment.name for environment in config.environments]
    for name in names:
        if name not in known:
            close = closest(name, known)
            hint = f'did you mean "{close}"? ' if close else ""
            has = f"{hint}it has: {', '.join(known)}"
            raise StartError(f"{quoted(name)} is not an environment of the configuration ({has})")
    tokens = tuple(each for each in config.registration.tokens if not (each.scope or {*names}).isdisjoint(names))
    return replace(
        config,
        environments=tuple(each for each in config.environments if each.name in names),
        registration=RegistrationSettings(tokens),
    )
