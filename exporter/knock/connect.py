"""From settings to a key and a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.errors import StartError
from exporter.keys import InvalidKey
from exporter.knock.client import Client

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.config import EnvironmentSettings
    from exporter.keys import Secret
    from exporter.knock.memory_budget import MemoryBudget


def read_key(environment: EnvironmentSettings, environ: Mapping[str, str]) -> Secret:
    """Read an environment's key. Raises StartError."""
    try:
        return environment.key.read(environ)
    except InvalidKey as error:
        raise StartError(f"API key of {environment.name}: {error}") from None


def connect(environment: EnvironmentSettings, key: Secret, budget: MemoryBudget | None = None) -> Client:
    """Make the client of an environment; large answers are reserved in `budget`.

    Raises StartError for what cannot be used on this machine.
    """
    return Client(
        base_url=environment.base_url,
        key=key,
        branch=environment.branch,
        timeout=environment.timeout,
        ca_file=environment.ca_file,
        proxy=environment.proxy,
        proxy_from_environment=environment.proxy_from_environment,
        connections=environment.max_in_flight,
        budget=budget,
        owner=environment.name,
    )
