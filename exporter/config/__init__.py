"""The configuration: from a YAML file to a frozen Config, or to a ConfigError with everything that is wrong.

yaml_source   the file as plain values that remember their lines
models        the keys, one by one (pydantic); `values` says what a single value may look like
wording       pydantic's errors in our words
checks        what concerns several keys; `plain` steps through values that may be of any type
files         what the keys name outside of the file
resolve       keys → `settings`, with the defaults
effective     `settings` → YAML, secrets masked
selection     some of the environments
schema        `models` → JSON Schema (`python -m exporter.config`)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from exporter.config.checks import check
from exporter.config.effective import effective_yaml
from exporter.config.files import check_files
from exporter.config.models import ConfigKeys
from exporter.config.resolve import resolve
from exporter.config.selection import only
from exporter.config.settings import (
    Config,
    EnvironmentSettings,
    HttpSource,
    ListedOperation,
    PerOperation,
    Polling,
    TokenSource,
)
from exporter.config.wording import reworded
from exporter.config.yaml_source import Found, no_garbage_collection, read_document
from exporter.files import is_pipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Config",
    "EnvironmentSettings",
    "HttpSource",
    "ListedOperation",
    "PerOperation",
    "Polling",
    "TokenSource",
    "effective_yaml",
    "load",
]

PIPE_SECONDS = 30.0  # decrypting asks a service of keys first


def load(
    path: Path, environ: Mapping[str, str], names: Sequence[str] = (), *, pipe_seconds: float = PIPE_SECONDS
) -> Config:
    """Read a configuration file and the files that it names; relative paths start at its folder.

    A pipe, as of `--config.file=<(sops -d …)`, is waited for (`pipe_seconds`); it has no folder, so that relative paths
    start where the process does.

    With `names`, only these environments of it, and only the files that they need. Raises ConfigError with all problems
    at once, in the order of the file, and StartError for a name that is not in it.
    """
    with no_garbage_collection():
        return _load(path, environ, names, pipe_seconds)


def _load(path: Path, environ: Mapping[str, str], names: Sequence[str], pipe_seconds: float) -> Config:
    folder = Path() if is_pipe(path) else path.parent
    document = read_document(path, pipe_seconds=pipe_seconds)
    keys, found = _validate(document.data)
    places = {problem.loc for problem in found}
    more = [*check(document), *check_files(document, folder, environ, names)]
    found += [problem for problem in more if problem.loc not in places]
    found = [problem for problem in found if problem.loc not in document.unusable] + document.found
    if keys is None or found:
        raise document.error(str(path), found)
    settings = resolve(keys, folder)
    return only(settings, names) if names else settings


def _validate(data: object) -> tuple[ConfigKeys | None, list[Found]]:
    try:
        return ConfigKeys.model_validate(data), []
    except ValidationError as error:
        return None, reworded(error)
