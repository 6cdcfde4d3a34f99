"""The settings: every key once, with its type, range and default. What is read is what the program runs by.

What a key means stands in docs/configuration.md. Times are seconds, lists are tuples, and an optional key is None where
it is not set.
"""
# Without `from __future__ import annotations`: pydantic reads these.

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema, core_schema

from exporter.config import kinds
from exporter.config.kinds import Info, LoadContext, PerOperation, adapter_of, not_null
from exporter.config.problems import Wording
from exporter.config.yaml_source import Document
from exporter.errors import Found, Loc
from exporter.keys import KeySource
from exporter.operation import GROUP, NIL_ID, is_operation_id
from exporter.values import ALL_ENVIRONMENTS, InvalidValue

BASE_URL = "https://api.knock.app"
RATE_LIMIT = 20.0  # polls a second
RATE_LIMIT_MAX = 200  # the most that Knock allows anybody: its tier 4
IN_FLIGHT_SECONDS = 2  # so many seconds' worth of polls may be under way
IN_FLIGHT_DEFAULT_MIN, IN_FLIGHT_DEFAULT_MAX = 4, 64  # by default; who asks for more may have IN_FLIGHT_MAX
IN_FLIGHT_MAX = 256
GROUPS_MOST = 100  # of an environment
MAX_OPERATIONS_MOST = 1_000_000  # far past what one process can ask for
KEY_SOURCES = ("api_key_file", "api_key_env", "api_key")


def in_flight_at(rate_limit: float) -> int:
    """Return how many polls may be under way where the configuration does not say so."""
    return min(max(round(rate_limit * IN_FLIGHT_SECONDS), IN_FLIGHT_DEFAULT_MIN), IN_FLIGHT_DEFAULT_MAX)


@dataclass(frozen=True, slots=True)
class Polling:
    """Intervals and limits of polling, each a duration such as 5s."""

    processing: kinds.Duration = 5.0
    queued: kinds.Duration = 15.0
    slowest: kinds.Duration = 60.0
    not_found_after: kinds.Duration = 24 * 3600.0
    max_age: kinds.Duration = 7 * 86400.0
    key_check_interval: kinds.Duration = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSettings:
    """The keys that stand at the top level for all environments, or in an environment for itself."""

    rate_limit: Annotated[kinds.Number, Field(gt=0, le=RATE_LIMIT_MAX)] = RATE_LIMIT
    max_in_flight: Annotated[kinds.Count, Field(ge=1, le=IN_FLIGHT_MAX)] = 40  # at RATE_LIMIT; else `in_flight_at`
    timeout: kinds.Timeout = 10.0
    polling: Polling = Polling()
    retention: kinds.Duration = 24 * 3600.0
    per_operation: PerOperation = "all"
    per_operation_limit: Annotated[kinds.Count, Field(ge=0)] = 1000


def _labels(_source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
    written = handler.generate_schema(dict[kinds.LabelName, kinds.LabelValue])
    return core_schema.no_info_after_validator_function(lambda labels: tuple(sorted(labels.items())), written)


@dataclass(frozen=True, slots=True)
class ListedOperation:
    """An operation with a group or labels."""

    id: kinds.OperationId
    group: kinds.LabelValue = GROUP
    labels: Annotated[tuple[tuple[str, str], ...], GetPydanticSchema(_labels)] = ()
    run: kinds.RunId = None


def _mapping_or(expected: str, item: Any, *, text_is: str = "") -> Any:
    if isinstance(item, dict):
        return item
    if text_is and isinstance(item, str):
        return {text_is: item}
    raise InvalidValue(f"expected {expected}")


_AN_OPERATION = "an operation's id (in quotes, if it looks like a number), or a mapping with id, group, run and labels"
_A_SOURCE = "a mapping (write it as {url: https://…}; interval, bearer_token_file and ca_file may follow)"


def _operations(written: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(written, list) and all(isinstance(each, str) and is_operation_id(each) for each in written):
        ids = [each.lower() for each in written]
        if NIL_ID not in ids:
            return tuple(map(ListedOperation, ids))  # pydantic would take ids by the ten thousand one by one
    return validate(written)


def _show_operations(operations: tuple[ListedOperation, ...]) -> list[Any]:
    return [
        _shown(each) if (each.group, each.run, each.labels) != (GROUP, None, ()) else each.id for each in operations
    ]


def _shown(operation: ListedOperation) -> dict[str, Any]:
    run = {} if operation.run is None else {"run": operation.run}
    return {"id": operation.id, "group": operation.group, **run, "labels": dict(operation.labels)}


@dataclass(frozen=True, slots=True)
class HttpSource:
    """An address of your own that lists operations."""

    url: kinds.SourceUrl
    interval: kinds.SourceInterval = 60.0
    bearer_token_file: kinds.BearerTokenFile = None
    ca_file: kinds.CaFile = None


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """What is expected of the runs of a group."""

    name: kinds.GroupName
    every: Annotated[kinds.Duration | None, not_null(kinds.Duration)] = None
    deadline: Annotated[kinds.Duration | None, not_null(kinds.Duration)] = None


_Operation = Annotated[
    ListedOperation,
    BeforeValidator(
        partial(_mapping_or, _AN_OPERATION, text_is="id"), json_schema_input_type=kinds.OperationId | ListedOperation
    ),
]
_Source = Annotated[HttpSource, BeforeValidator(partial(_mapping_or, _A_SOURCE))]


@dataclass(frozen=True, slots=True)
class EnvironmentSettings(SharedSettings):
    """A Knock environment; exactly one of api_key_file, api_key_env and api_key."""

    name: kinds.Name
    api_key_file: kinds.ApiKeyFile = None
    api_key_env: kinds.ApiKeyVariable = None
    api_key: kinds.ApiKey = None
    base_url: kinds.BaseUrl = BASE_URL
    insecure_http: kinds.Flag = False
    branch: kinds.Branch = None
    ca_file: kinds.CaFile = None
    proxy: kinds.Proxy = None
    proxy_from_environment: kinds.Flag = False
    operations: Annotated[tuple[_Operation, ...], WrapValidator(_operations), PlainSerializer(_show_operations)] = ()
    operations_files: tuple[kinds.FilePattern, ...] = ()
    operations_http: tuple[_Source, ...] = ()
    groups: Annotated[tuple[GroupSettings, ...], Field(json_schema_extra={"maxItems": GROUPS_MOST})] = ()

    @property
    def key(self) -> KeySource:
        """Where the API key comes from."""
        return self.api_key_file or self.api_key_env or self.api_key or KeySource()

    def without_operations(self) -> "EnvironmentSettings":
        """All but what lists operations, and what is expected of their groups."""
        return replace(self, operations=(), operations_files=(), operations_http=(), groups=())


@dataclass(frozen=True, slots=True)
class TokenSource:
    """A bearer token that may register operations."""

    token_file: kinds.TokenFile
    environments: Annotated[tuple[kinds.NameOrAll, ...], kinds.NOT_EMPTY, kinds.MIN_ONE_ITEM] = (ALL_ENVIRONMENTS,)

    @property
    def scope(self) -> frozenset[str] | None:
        """The environments that it is good for (None: all)."""
        return None if ALL_ENVIRONMENTS in self.environments else frozenset(self.environments)


def _wanted_by(key: str, otherwise: str = "") -> WrapValidator:
    """Look up what a section needs only if it is for an environment that is wanted; `key` says which it is for."""

    def validated(written: Any, validate: ValidatorFunctionWrapHandler, info: Info) -> Any:
        context = info.context
        given = (written.get(key) if isinstance(written, dict) else None) or otherwise
        wanted = (*context.names, ALL_ENVIRONMENTS)
        named = given if isinstance(given, list) else [given]
        context.wanted = not context.names or any(each in wanted for each in named)
        return validate(written)

    return WrapValidator(validated)


_Token = Annotated[TokenSource, _wanted_by("environments", ALL_ENVIRONMENTS)]
_Environment = Annotated[EnvironmentSettings, _wanted_by("name")]


@dataclass(frozen=True, slots=True)
class RegistrationSettings:
    """Who may register operations over HTTP."""

    tokens: tuple[_Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the state outlives a restart."""

    path: kinds.StateFile


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of knock-exporter."""

    environments: Annotated[tuple[_Environment, ...], kinds.NOT_EMPTY, kinds.MIN_ONE_ITEM]
    labels: tuple[kinds.LabelName, ...] = ()
    max_operations: Annotated[kinds.Count, Field(ge=1, le=MAX_OPERATIONS_MOST)] = 50_000
    registration: RegistrationSettings = RegistrationSettings()
    storage: Annotated[Storage | None, not_null(Storage)] = None

    def secret_files(self, own: Path | None) -> list[Path]:
        """Return the files that hold keys, tokens or passwords; `own` is that of the configuration, which may too."""
        sources = [each.token_file for each in self.registration.tokens]
        found = []
        for each in self.environments:
            sources += [each.key, *(http.bearer_token_file for http in each.operations_http if http.bearer_token_file)]
            if own is not None and (each.api_key or (each.proxy is not None and "@" in each.proxy.reveal())):
                found.append(own)
        return list(dict.fromkeys(found + [each.file for each in sources if each.file is not None]))


# From plain values to settings, and back.

SHARED, CONFIG = adapter_of(SharedSettings), adapter_of(Config)
SHARED_KEYS = [each.name for each in fields(SharedSettings)]
SECTIONS = {
    "": (SharedSettings, Config),
    "environments": (EnvironmentSettings,),
    "polling": (Polling,),
    "operations": (ListedOperation,),
    "operations_http": (HttpSource,),
    "groups": (GroupSettings,),
    "registration": (RegistrationSettings,),
    "tokens": (TokenSource,),
    "storage": (Storage,),
}


def read(document: Document, context: LoadContext) -> tuple[Config | None, list[Found]]:
    """Read the settings, or find what is wrong with single values; environments inherit what the top level shares."""
    data, shared, own, found = document.data, {}, document.data, []
    if isinstance(data, dict):
        shared = {key: value for key, value in data.items() if key in SHARED_KEYS}
        own = {key: value for key, value in data.items() if key not in SHARED_KEYS}
        if isinstance(environments := data.get("environments"), list):
            own["environments"] = [_inheriting(each, shared) for each in environments]
    try:
        SHARED.validate_python(shared)
    except ValidationError as error:
        found = Wording(data, SECTIONS).found(error)
    try:
        return CONFIG.validate_python(own, context=context), found
    except ValidationError as error:
        more = Wording(data, SECTIONS).found(error)
        return None, found + [each for each in more if not _is_inherited(each.loc, data)]


def _inheriting(environment: Any, shared: dict[str, Any]) -> Any:
    if not isinstance(environment, dict):
        return environment
    merged = shared | environment
    above, own = shared.get("polling"), environment.get("polling")
    if isinstance(above, dict) and isinstance(own, dict):
        merged["polling"] = above | own
    rate = merged.get("rate_limit", RATE_LIMIT)
    if "max_in_flight" not in merged and isinstance(rate, (int, float)) and 0 < rate <= RATE_LIMIT_MAX:
        merged["max_in_flight"] = in_flight_at(rate)
    return merged


def _is_inherited(loc: Loc, data: Any) -> bool:
    """Whether a place is of a value that the top level gave to an environment: what is wrong is told there."""
    match loc:
        case "environments", int(index), key, *inside if key in SHARED_KEYS:
            own = data["environments"][index]
            return key not in own or (bool(inside) and inside[0] not in own[key])
    return False


def _without_empty(shown: Any) -> Any:
    if isinstance(shown, (list, tuple)):
        return [_without_empty(each) for each in shown]
    if not isinstance(shown, dict):
        return shown
    return {key: it for key, value in shown.items() if (it := _without_empty(value)) not in ([], {})}


def effective_yaml(config: Config, *, queries_masked: bool = False, empty_lists: bool = True) -> str:
    """Write all settings as a configuration file, with the defaults that apply; secrets are masked as ***.

    The queries of lists' addresses may be secrets too. Without `empty_lists`, only what holds something is written.
    """
    shown = CONFIG.dump_python(config, exclude_none=True, context={"queries_masked": queries_masked})
    shown["environments"] = [
        dict(
            sorted(
                each.items(), key=lambda item: (item[0].startswith(("operations", "groups")), item[0] in SHARED_KEYS)
            )
        )
        for each in shown["environments"]
    ]
    if not empty_lists:
        shown = _without_empty(shown)
    return yaml.dump(
        shown, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False, allow_unicode=True, width=120
    )
