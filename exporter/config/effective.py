"""The active settings, written as a configuration file."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from exporter.config.settings import ALL_ENVIRONMENTS, GROUP, Config, EnvironmentSettings, ListedOperation, Polling
from exporter.config.values import mask_proxy, show_duration, show_url
from exporter.keys import MASK

if TYPE_CHECKING:
    from exporter.config.settings import HttpSource, TokenSource
    from exporter.keys import KeySource

try:
    from yaml import CSafeDumper as _SafeDumper
except ImportError:  # PyYAML built without libyaml: slower, otherwise the same
    from yaml import SafeDumper as _SafeDumper  # type: ignore[assignment]


def effective_yaml(config: Config) -> str:
    """Write all settings with the defaults that apply; keys and the proxy's user are masked as ***."""
    document: dict[str, Any] = {
        "environments": [_environment(environment) for environment in config.environments],
        "labels": list(config.labels),
        "max_operations": config.max_operations,
        "registration": {"tokens": [_token(token) for token in config.tokens]},
    }
    if config.storage is not None:
        document["storage"] = {"path": str(config.storage)}
    return yaml.dump(document, Dumper=_SafeDumper, sort_keys=False, allow_unicode=True, width=120)


def without_queries(config: Config) -> Config:
    """Mask the queries of lists' addresses, which may be secrets."""
    return replace(
        config,
        environments=tuple(
            replace(each, operations_http=tuple(map(_without_query, each.operations_http)))
            for each in config.environments
        ),
    )


def _without_query(source: HttpSource) -> HttpSource:
    return replace(source, url=f"{show_url(source.url)}?{MASK}") if urlsplit(source.url).query else source


def _environment(environment: EnvironmentSettings) -> dict[str, Any]:
    written: dict[str, Any] = {
        "name": environment.name,
        **_key(environment.key),
        "base_url": environment.base_url,
        "insecure_http": environment.insecure_http,
        "branch": environment.branch,
        "ca_file": str(environment.ca_file) if environment.ca_file else None,
        "proxy": mask_proxy(environment.proxy.reveal()) if environment.proxy else None,
        "proxy_from_environment": environment.proxy_from_environment,
        "rate_limit": environment.rate_limit,
        "max_in_flight": environment.max_in_flight,
        "timeout": show_duration(environment.timeout),
        "polling": _polling(environment.polling),
        "retention": show_duration(environment.retention),
        "per_operation": environment.per_operation,
        "per_operation_limit": environment.per_operation_limit,
        "operations": [_operation(operation) for operation in environment.operations],
        "operations_files": list(environment.operations_files),
        "operations_http": [_http_source(source) for source in environment.operations_http],
    }
    return _set(written)


def _set(written: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in written.items() if value is not None}


def _key(source: KeySource) -> dict[str, str]:
    if source.file is not None:
        return {"api_key_file": str(source.file)}
    return {"api_key_env": source.variable} if source.variable is not None else {"api_key": MASK}


def _polling(polling: Polling) -> dict[str, str]:
    return {field.name: show_duration(getattr(polling, field.name)) for field in fields(polling)}


def _operation(operation: ListedOperation) -> Any:
    if operation.group == GROUP and not operation.labels:
        return operation.id
    return {"id": operation.id, "group": operation.group, "labels": dict(operation.labels)}


def _http_source(source: HttpSource) -> dict[str, Any]:
    return _set(
        {
            "url": source.url,
            "interval": show_duration(source.interval),
            "bearer_token_file": str(source.bearer_token.file) if source.bearer_token else None,
            "ca_file": str(source.ca_file) if source.ca_file else None,
        }
    )


def _token(source: TokenSource) -> dict[str, Any]:
    names = [ALL_ENVIRONMENTS] if source.environments is None else sorted(source.environments)
    return {"token_file": str(source.token.file), "environments": names}
