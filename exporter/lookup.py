"""Which environment to ask about operations: from the configuration, or from the variables of Knock's SDKs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporter import config
from exporter.config import EnvironmentSettings
from exporter.config.settings import BASE_URL as KNOCK_URL
from exporter.errors import REFUSED_HINT, KeyRefused, NotFound, StartError
from exporter.keys import KeySource
from exporter.values import check_base_url, check_branch, is_unprotected_http

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from exporter.errors import KnockError

DEFAULT_FILE = Path("config.yaml")
KEY, BASE_URL, BRANCH = "KNOCK_API_KEY", "KNOCK_BASE_URL", "KNOCK_BRANCH"


def environment_for(
    operation_ids: Collection[str], file: Path | None, name: str | None, environ: Mapping[str, str]
) -> EnvironmentSettings:
    """Return where to ask: `file` if named, else the variables if KNOCK_API_KEY is set, else config.yaml.

    Of several environments, the one named or the one that lists the ids. Raises StartError or ConfigError.
    """
    if file is None and environ.get(KEY):
        return _from_variables(name, environ)
    if file is None and not DEFAULT_FILE.exists():
        raise StartError(f"no key to ask with: set {KEY}, or name a configuration (--config.file)")
    # With its name, the keys of the others may be somewhere else.
    names = [name] if name is not None else []
    environments = config.load(file or DEFAULT_FILE, environ, names, needs_storage=False).environments
    return _choose(environments, operation_ids)


def explained(environment: EnvironmentSettings, error: KnockError) -> str:
    """Say why nothing was read, and what that may mean."""
    hint = ""
    if isinstance(error, NotFound):
        hint = ": no such operation, or the key of another environment, or the wrong branch?"
    if isinstance(error, KeyRefused):
        hint = f": {environment.key}: {REFUSED_HINT}"
    return f"{environment.name} ({environment.base_url}): {error}{hint}"


def _choose(environments: tuple[EnvironmentSettings, ...], operation_ids: Collection[str]) -> EnvironmentSettings:
    known = ", ".join(each.name for each in environments)
    if len(environments) == 1:
        return environments[0]
    listed = {each.name: {operation.id for operation in each.operations} for each in environments}
    found = [each for each in environments if operation_ids and listed[each.name].issuperset(operation_ids)]
    if len(found) != 1:
        raise StartError(f"which environment? Name one with --environment (there are: {known})")
    return found[0]


def _from_variables(name: str | None, environ: Mapping[str, str]) -> EnvironmentSettings:
    return EnvironmentSettings(
        name=name or "default",
        api_key_env=KeySource(variable=KEY, knock=True),
        base_url=_base_url(environ.get(BASE_URL) or KNOCK_URL),
        branch=_branch(environ.get(BRANCH)),
    )


def _base_url(text: str) -> str:
    try:
        url = check_base_url(text)
    except ValueError as error:
        raise StartError(f"{BASE_URL} {error}") from None
    if is_unprotected_http(url):
        raise StartError(f"{BASE_URL} would send the key unprotected to another machine (use https://)")
    return url


def _branch(text: str | None) -> str | None:
    try:
        return check_branch(text) if text else None
    except ValueError as error:
        raise StartError(f"{BRANCH} {error}") from None
