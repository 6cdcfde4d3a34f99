"""From the keys of the file to the settings: defaults filled in, the top level's values handed to each environment."""

from __future__ import annotations

import os
from glob import escape
from typing import TYPE_CHECKING, Any

from exporter.config import settings
from exporter.config.files import key_source
from exporter.config.models import (
    KEY_SOURCES,
    ConfigKeys,
    EnvironmentKeys,
    HttpSourceKeys,
    Keys,
    OperationKeys,
    PollingKeys,
    TokenKeys,
)
from exporter.config.settings import Config, EnvironmentSettings, HttpSource, ListedOperation, Polling, TokenSource
from exporter.keys import Secret

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.keys import KeySource


def resolve(keys: ConfigKeys, folder: Path) -> Config:
    """Make the settings of checked keys; relative paths start at `folder`."""
    environments = tuple(_environment(own, keys, folder) for own in keys.environments)
    return Config(
        environments=environments,
        labels=tuple(keys.labels),
        max_operations=keys.max_operations,
        tokens=tuple(_token(token, folder) for token in keys.registration.tokens),
        storage=folder / keys.storage.path if "storage" in keys.model_fields_set else None,
    )


def _chosen(key: str, own: Keys, shared: Keys) -> Any:
    return getattr(own if key in own.model_fields_set else shared, key)


def _environment(own: EnvironmentKeys, shared: ConfigKeys, folder: Path) -> EnvironmentSettings:
    rate_limit: float = _chosen("rate_limit", own, shared)
    return EnvironmentSettings(
        name=own.name,
        key=_key(own, folder),
        base_url=own.base_url,
        insecure_http=own.insecure_http,
        branch=own.branch or None,
        ca_file=folder / own.ca_file if own.ca_file else None,
        proxy=Secret(own.proxy) if own.proxy else None,
        proxy_from_environment=own.proxy_from_environment,
        operations=tuple(_operation(operation) for operation in own.operations),
        operations_files=_patterns(own, folder),
        operations_http=tuple(_http_source(source, folder) for source in own.operations_http),
        rate_limit=rate_limit,
        max_in_flight=_chosen("max_in_flight", own, shared) or _in_flight(rate_limit),
        timeout=_chosen("timeout", own, shared),
        polling=_polling(own.polling, shared.polling),
        retention=_chosen("retention", own, shared),
        per_operation=_chosen("per_operation", own, shared),
        per_operation_limit=_chosen("per_operation_limit", own, shared),
    )


def _key(own: EnvironmentKeys, folder: Path) -> KeySource:
    key = next(key for key in KEY_SOURCES if key in own.model_fields_set)
    return key_source(key, getattr(own, key), folder)


def _in_flight(rate_limit: float) -> int:
    wanted = round(rate_limit * settings.IN_FLIGHT_SECONDS)
    return min(max(wanted, settings.IN_FLIGHT_LEAST), settings.IN_FLIGHT_MOST)


def _polling(own: PollingKeys, shared: PollingKeys) -> Polling:
    return Polling(**{key: _chosen(key, own, shared) for key in PollingKeys.model_fields})


def _operation(keys: OperationKeys) -> ListedOperation:
    labels = tuple(sorted(keys.labels.items())) if keys.labels else ()
    return ListedOperation(keys.id, keys.group, labels)


def _patterns(own: EnvironmentKeys, folder: Path) -> tuple[str, ...]:
    start = escape(str(folder.absolute()))
    return tuple(os.path.join(start, pattern) for pattern in own.operations_files)  # noqa: PTH118 - Path drops `**/`'s end


def _http_source(keys: HttpSourceKeys, folder: Path) -> HttpSource:
    token = keys.bearer_token_file
    return HttpSource(
        url=keys.url,
        interval=keys.interval,
        bearer_token=key_source("bearer_token_file", token, folder) if token else None,
        ca_file=folder / keys.ca_file if keys.ca_file else None,
    )


def _token(keys: TokenKeys, folder: Path) -> TokenSource:
    everywhere = settings.ALL_ENVIRONMENTS in keys.environments
    return TokenSource(
        token=key_source("token_file", keys.token_file, folder),
        environments=None if everywhere else frozenset(keys.environments),
    )
