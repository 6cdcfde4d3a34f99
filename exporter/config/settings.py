"""The settings: every key once, with its type, range, default and meaning. What is read is what the program runs by.

Times are seconds, lists are tuples, and an optional key is None where it is not set. The text below a field is its
description in the JSON Schema.
"""
# Without `from __future__ import annotations`: pydantic reads these.

from dataclasses import dataclass, fields
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

from exporter.config.kinds import (
    AT_LEAST_ONE,
    SOME,
    ApiKey,
    ApiKeyFile,
    ApiKeyVariable,
    BaseUrl,
    BearerTokenFile,
    Branch,
    CaFile,
    Count,
    Duration,
    FilePattern,
    Flag,
    Info,
    LabelName,
    LabelValue,
    LoadContext,
    Name,
    NameOrAll,
    Number,
    OperationId,
    PerOperation,
    Proxy,
    SourceInterval,
    SourceUrl,
    StateFile,
    Timeout,
    TokenFile,
    adapter_of,
    not_null,
)
from exporter.config.values import ALL_ENVIRONMENTS, InvalidValue
from exporter.config.wording import Wording
from exporter.config.yaml_source import Document, Found, Loc
from exporter.keys import KeySource
from exporter.operation import NIL_ID, is_operation_id

try:
    from yaml import CSafeDumper as _SafeDumper
except ImportError:  # PyYAML built without libyaml: slower, otherwise the same
    from yaml import SafeDumper as _SafeDumper  # type: ignore[assignment]

BASE_URL = "https://api.knock.app"
GROUP = "default"  # says nothing: another source may name one
RATE_LIMIT = 20.0  # polls a second
RATE_LIMIT_MAX = 200  # the most that Knock allows anybody: its tier 4
IN_FLIGHT_SECONDS = 2  # so many seconds' worth of polls may be under way
IN_FLIGHT_LEAST, IN_FLIGHT_MOST = 4, 64  # by default; who asks for more may have IN_FLIGHT_MAX
IN_FLIGHT_MAX = 256
MAX_OPERATIONS_MOST = 1_000_000  # far past what one process can ask for
KEY_SOURCES = ("api_key_file", "api_key_env", "api_key")


@dataclass(frozen=True, slots=True)
class Polling:
    """Intervals and limits of polling, each a duration such as 5s."""

    processing: Duration = 5.0
    """How often an operation under way is asked for."""
    queued: Duration = 15.0
    """How often an operation that waits is asked for."""
    slowest: Duration = 60.0
    """The longest interval that a growing one reaches; not shorter than processing and queued."""
    not_found_after: Duration = 24 * 3600.0
    """How long Knock may say that there is no such operation until it is given up."""
    max_age: Duration = 7 * 86400.0
    """Unfinished for so long, an operation is asked for hourly."""
    key_check_interval: Duration = 600.0
    """How often the key is checked where there is nothing else to ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The keys that stand at the top level for all environments, or in an environment for itself."""

    rate_limit: Annotated[Number, Field(gt=0, le=RATE_LIMIT_MAX)] = RATE_LIMIT
    """Polls a second, at most."""
    max_in_flight: Annotated[Count, Field(ge=1, le=IN_FLIGHT_MAX)] = 40
    """Polls under way at one time, at most. Default: twice rate_limit, at least 4 and at most 64."""
    timeout: Timeout = 10.0
    """How long a whole answer of Knock may take; 100ms to 5m."""
    polling: Polling = Polling()
    """How often operations are asked for."""
    retention: Duration = 24 * 3600.0
    """How long a finished operation is kept: from its end, or from when it was first shown so, if that is later."""
    per_operation: PerOperation = "all"
    """Which operations have series of their own."""
    per_operation_limit: Annotated[Count, Field(ge=0)] = 1000
    """How many operations have series of their own, at most."""


def _labels(_source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
    written = handler.generate_schema(dict[LabelName, LabelValue])
    return core_schema.no_info_after_validator_function(lambda labels: tuple(sorted(labels.items())), written)


@dataclass(frozen=True, slots=True)
class ListedOperation:
    """An operation with a group or labels."""

    id: OperationId
    """The operation's id, as Knock gave it."""
    group: LabelValue = GROUP
    """Your own grouping: the label `group` of its metrics."""
    labels: Annotated[tuple[tuple[str, str], ...], GetPydanticSchema(_labels)] = ()
    """Values of extra labels, which the top level declares under `labels`."""


def _as_operation(item: Any) -> Any:
    if isinstance(item, str):
        return {"id": item}
    if isinstance(item, dict):
        return item
    raise InvalidValue(
        "expected an operation's id (in quotes, if it looks like a number), or a mapping with id, group and labels"
    )


def _operations(written: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(written, list) and all(isinstance(each, str) and is_operation_id(each) for each in written):
        ids = [each.lower() for each in written]
        if NIL_ID not in ids:
            return tuple(map(ListedOperation, ids))  # pydantic would take ids by the ten thousand one by one
    return validate(written)


def _show_operations(operations: tuple[ListedOperation, ...]) -> list[Any]:
    return [
        {"id": each.id, "group": each.group, "labels": dict(each.labels)}
        if (each.group, each.labels) != (GROUP, ())
        else each.id
        for each in operations
    ]


@dataclass(frozen=True, slots=True)
class HttpSource:
    """An address of your own that lists operations."""

    url: SourceUrl
    """Where the list is: http:// or https://, path and query allowed."""
    interval: SourceInterval = 60.0
    """How often the list is asked for; 1s at least."""
    bearer_token_file: BearerTokenFile = None
    """A file that holds the bearer token to send; relative to this file."""
    ca_file: CaFile = None
    """A PEM file of the authorities to trust, in place of the system's."""


def _as_source(item: Any) -> Any:
    if isinstance(item, dict):
        return item
    raise InvalidValue(
        "expected a mapping (write it as {url: https://…}; interval, bearer_token_file and ca_file may follow)"
    )


_Operation = Annotated[
    ListedOperation, BeforeValidator(_as_operation, json_schema_input_type=OperationId | ListedOperation)
]


@dataclass(frozen=True, slots=True)
class EnvironmentSettings(Pace):
    """A Knock environment; exactly one of api_key_file, api_key_env and api_key."""

    name: Name
    """The label `knock_environment` of all its metrics; unique."""
    api_key_file: ApiKeyFile = None
    """A file that holds the secret API key; relative to this file."""
    api_key_env: ApiKeyVariable = None
    """The environment variable that holds the secret API key."""
    api_key: ApiKey = None
    """The secret API key itself; a file is safer."""
    base_url: BaseUrl = BASE_URL
    """Where Knock answers; http:// only to this machine, or with insecure_http."""
    insecure_http: Flag = False
    """Allow http:// to another machine: the key or bearer token travels unprotected."""
    branch: Branch = None
    """The slug of a branch of the development environment."""
    ca_file: CaFile = None
    """A PEM file of the authorities to trust, in place of the system's."""
    proxy: Proxy = None
    """The proxy to go through: http:// or https://, with user and password if need be."""
    proxy_from_environment: Flag = False
    """Take the proxy from HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."""
    operations: Annotated[tuple[_Operation, ...], WrapValidator(_operations), PlainSerializer(_show_operations)] = ()
    """The operations to follow: ids, or mappings with id, group and labels."""
    operations_files: tuple[FilePattern, ...] = ()
    """Patterns of files that list operations; relative to this file."""
    operations_http: tuple[Annotated[HttpSource, BeforeValidator(_as_source)], ...] = ()
    """Addresses that list operations."""

    @property
    def key(self) -> KeySource:
        """Where the API key comes from."""
        return self.api_key_file or self.api_key_env or self.api_key or KeySource()


@dataclass(frozen=True, slots=True)
class TokenSource:
    """A bearer token that may register operations."""

    token_file: TokenFile
    """A file that holds the token, of at least 16 characters; relative to this file."""
    environments: Annotated[tuple[NameOrAll, ...], SOME, AT_LEAST_ONE] = (ALL_ENVIRONMENTS,)
    """The environments that the token is good for."""

    @property
    def scope(self) -> frozenset[str] | None:
        """The environments that it is good for (None: all)."""
        return None if ALL_ENVIRONMENTS in self.environments else frozenset(self.environments)


def _wanted_by(key: str) -> WrapValidator:
    """Look up what a section needs only if it is for an environment that is wanted; `key` says which it is for."""

    def validated(written: Any, validate: ValidatorFunctionWrapHandler, info: Info) -> Any:
        context = info.context
        given = written.get(key) if isinstance(written, dict) else None
        wanted = (*context.names, ALL_ENVIRONMENTS, None)
        context.wanted = not context.names or any(
            each in wanted for each in (given if isinstance(given, list) else [given])
        )
        try:
            return validate(written)
        finally:
            context.wanted = True

    return WrapValidator(validated)


@dataclass(frozen=True, slots=True)
class RegistrationSettings:
    """Who may register operations over HTTP."""

    tokens: tuple[Annotated[TokenSource, _wanted_by("environments")], ...] = ()
    """The tokens that are valid; two at a time allow rotation. None: it is off."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the state outlives a restart."""

    path: StateFile
    """The file that holds the state, in a folder that exists; relative to this file."""


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of knock-exporter."""

    environments: Annotated[tuple[Annotated[EnvironmentSettings, _wanted_by("name")], ...], SOME, AT_LEAST_ONE]
    """The Knock environments to watch."""
    labels: tuple[LabelName, ...] = ()
    """Names of extra labels that operations may have; they stand on `_info` only."""
    max_operations: Annotated[Count, Field(ge=1, le=MAX_OPERATIONS_MOST)] = 50_000
    """How many operations are kept, at most; the oldest that completed cleanly go early."""
    registration: RegistrationSettings = RegistrationSettings()
    """Registering operations over HTTP."""
    storage: Annotated[Storage | None, not_null(Storage)] = None
    """Where the state is kept. Without it: in memory only."""


# From plain values to settings, and back.

PACE, CONFIG = adapter_of(Pace), adapter_of(Config)
PACE_KEYS = [each.name for each in fields(Pace)]
SECTIONS = {
    "": (Pace, Config),
    "environments": (EnvironmentSettings,),
    "polling": (Polling,),
    "operations": (ListedOperation,),
    "operations_http": (HttpSource,),
    "registration": (RegistrationSettings,),
    "tokens": (TokenSource,),
    "storage": (Storage,),
}


def read(document: Document, context: LoadContext) -> tuple[Config | None, list[Found]]:
    """Read the settings, or find what is wrong with single values; environments inherit the pace of the top level."""
    data, shared, own, found = document.data, {}, document.data, []
    if isinstance(data, dict):
        shared = {key: value for key, value in data.items() if key in PACE_KEYS}
        own = {key: value for key, value in data.items() if key not in PACE_KEYS}
        if isinstance(environments := data.get("environments"), list):
            own["environments"] = [_inheriting(each, shared) for each in environments]
    try:
        PACE.validate_python(shared)
    except ValidationError as error:
        found = Wording(data, SECTIONS).found(error)
    try:
        return CONFIG.validate_python(own, context=context), found
    except ValidationError as error:
        return None, found + [
            each for each in Wording(data, SECTIONS).found(error) if not _is_inherited(each.loc, data)
        ]


def _inheriting(environment: Any, shared: dict[str, Any]) -> Any:
    if not isinstance(environment, dict):
        return environment
    merged = shared | environment
    above, own = shared.get("polling"), environment.get("polling")
    if isinstance(above, dict) and isinstance(own, dict):
        merged["polling"] = above | own
    rate = merged.get("rate_limit", RATE_LIMIT)
    if "max_in_flight" not in merged and isinstance(rate, (int, float)) and 0 < rate <= RATE_LIMIT_MAX:
        merged["max_in_flight"] = min(max(round(rate * IN_FLIGHT_SECONDS), IN_FLIGHT_LEAST), IN_FLIGHT_MOST)
    return merged


def _is_inherited(loc: Loc, data: Any) -> bool:
    """Whether a place is of a value that the top level gave to an environment: what is wrong is told there."""
    match loc:
        case "environments", int(index), key, *inside if key in PACE_KEYS:
            own = data["environments"][index]
            return key not in own or any(part not in own[key] for part in inside[:1])
    return False


def effective_yaml(config: Config, *, queries_masked: bool = False) -> str:
    """Write all settings as a configuration file, with the defaults that apply; secrets are masked as ***.

    The queries of lists' addresses may be secrets too.
    """
    shown = CONFIG.dump_python(config, exclude_none=True, context={"queries_masked": queries_masked})
    shown["environments"] = [_in_order(each) for each in shown["environments"]]
    return yaml.dump(shown, Dumper=_SafeDumper, sort_keys=False, allow_unicode=True, width=120)


def _in_order(environment: dict[str, Any]) -> dict[str, Any]:
    """Have the pace after what tells the environment from others, and the operations at the end."""
    keys = sorted(environment, key=lambda key: (key.startswith("operations"), key in PACE_KEYS))
    return {key: environment[key] for key in keys}
