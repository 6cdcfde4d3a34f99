"""The keys of the configuration file: the one place that names them, with types, ranges and descriptions.

The models describe single values; what concerns several at once is in `checks`. An unset key is told from a set one by
`model_fields_set`; "" stands for unset where a key has no default.
"""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from exporter.config import settings, values
from exporter.config.values import InvalidValue, show_duration

KEY_SOURCES = ("api_key_file", "api_key_env", "api_key")


def _pattern(expression: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{expression}$"})


def _in_timeout_range(seconds: float) -> float:
    if not settings.TIMEOUT_MIN <= seconds <= settings.TIMEOUT_MAX:
        lowest, highest = show_duration(settings.TIMEOUT_MIN), show_duration(settings.TIMEOUT_MAX)
        raise InvalidValue(f"is out of range (expected {lowest} to {highest})")
    return seconds


def _not_too_often(seconds: float) -> float:
    if seconds < settings.HTTP_INTERVAL_MIN:
        raise InvalidValue(f"is too short (expected at least {show_duration(settings.HTTP_INTERVAL_MIN)})")
    return seconds


def _as_source(item: Any) -> Any:
    if isinstance(item, dict):
        return item
    raise InvalidValue(
        "expected a mapping (write it as {url: https://…}; interval, bearer_token_file and ca_file may follow)"
    )


def _as_operation(item: Any) -> Any:
    if isinstance(item, str):
        return {"id": item}
    if isinstance(item, dict):
        return item
    raise InvalidValue(
        "expected an operation's id (in quotes, if it looks like a number), or a mapping with id, group and labels"
    )


Duration = Annotated[float, BeforeValidator(values.parse_duration), _pattern(f"(?=.){values.DURATION}")]
Timeout = Annotated[Duration, AfterValidator(_in_timeout_range)]
SourceInterval = Annotated[Duration, AfterValidator(_not_too_often)]
Name = Annotated[str, AfterValidator(values.check_name), _pattern(f"(?!{settings.ALL_ENVIRONMENTS}$){values.NAME}")]
NameOrAll = Annotated[str, _pattern(values.NAME)]
Branch = Annotated[str, AfterValidator(values.check_branch), _pattern(values.BRANCH)]
Variable = Annotated[str, AfterValidator(values.check_variable), _pattern(values.VARIABLE)]
FilePath = Annotated[str, AfterValidator(values.check_path), _pattern("([^~].*)?")]
FilePattern = Annotated[str, AfterValidator(values.check_pattern), _pattern("[^~].*")]
SourceUrl = Annotated[str, AfterValidator(values.check_source_url), _pattern("https?://[^#@/?]+([/?][^#]*)?")]
BaseUrl = Annotated[str, AfterValidator(values.check_base_url), _pattern("https?://[^?#@]+")]
ProxyUrl = Annotated[str, AfterValidator(values.check_proxy), _pattern("https?://[^?#]+")]
LabelName = Annotated[str, AfterValidator(values.check_label_name), _pattern(values.LABEL_NAME)]
LabelValue = Annotated[
    str,
    AfterValidator(values.check_label_value),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": values.LABEL_BYTES}),
]
OperationId = Annotated[
    str, AfterValidator(values.check_operation_id), WithJsonSchema({"type": "string", "format": "uuid"})
]


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


def _optional(description: str) -> Any:
    return Field(default="", description=description, json_schema_extra=_without_default)


def _duration(seconds: float, description: str) -> Any:
    return Field(default=show_duration(seconds), validate_default=True, description=description)


class Keys(BaseModel):
    """What all levels share: unknown keys are refused, nothing is converted, and no message shows a value."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class PollingKeys(Keys):
    """Intervals and limits of polling, each a duration such as 5s."""

    processing: Duration = _duration(settings.POLL_PROCESSING, "How often an operation under way is asked for.")
    queued: Duration = _duration(settings.POLL_QUEUED, "How often an operation that waits is asked for.")
    slowest: Duration = _duration(
        settings.POLL_SLOWEST,
        "The longest interval that a growing one reaches; not shorter than processing and queued.",
    )
    not_found_after: Duration = _duration(
        settings.NOT_FOUND_AFTER, "How long Knock may say that there is no such operation until it is given up."
    )
    max_age: Duration = _duration(settings.MAX_AGE, "Unfinished for so long, an operation is asked for hourly.")
    key_check_interval: Duration = _duration(
        settings.KEY_CHECK_INTERVAL, "How often the key is checked where there is nothing else to ask."
    )


class PaceKeys(Keys):
    """The keys that stand at the top level for all environments, or in an environment for itself."""

    rate_limit: float = Field(
        default=settings.RATE_LIMIT, gt=0, le=settings.RATE_LIMIT_MAX, description="Polls a second, at most."
    )
    max_in_flight: int = Field(
        default=0,
        ge=1,
        le=settings.IN_FLIGHT_MAX,
        description="Polls under way at one time, at most. Default: twice rate_limit, at least 4 and at most 64.",
        json_schema_extra=_without_default,
    )
    timeout: Timeout = _duration(settings.TIMEOUT, "How long a whole answer of Knock may take; 100ms to 5m.")
    polling: PollingKeys = Field(default_factory=PollingKeys, description="How often operations are asked for.")
    retention: Duration = _duration(
        settings.RETENTION,
        "How long a finished operation is kept: from its end, or from when it was first shown so, if that is later.",
    )
    per_operation: settings.PerOperation = Field(
        default=settings.PER_OPERATION, description="Which operations have series of their own."
    )
    per_operation_limit: int = Field(
        default=settings.PER_OPERATION_LIMIT, ge=0, description="How many operations have series of their own, at most."
    )


class OperationKeys(Keys):
    """An operation with a group or labels."""

    id: OperationId = Field(description="The operation's id, as Knock gave it.")
    group: LabelValue = Field(
        default=settings.GROUP, description="Your own grouping: the label `group` of its metrics."
    )
    labels: dict[LabelName, LabelValue] = Field(
        default_factory=dict, description="Values of extra labels, which the top level declares under `labels`."
    )


class HttpSourceKeys(Keys):
    """An address of your own that lists operations."""

    url: SourceUrl = Field(description="Where the list is: http:// or https://, path and query allowed.")
    interval: SourceInterval = _duration(settings.HTTP_INTERVAL, "How often the list is asked for; 1s at least.")
    bearer_token_file: FilePath = _optional("A file that holds the bearer token to send; relative to this file.")
    ca_file: FilePath = _optional("A PEM file of the authorities to trust, in place of the system's.")


class EnvironmentKeys(PaceKeys):
    """A Knock environment; exactly one of api_key_file, api_key_env and api_key."""

    name: Name = Field(description="The label `knock_environment` of all its metrics; unique.")
    api_key_file: FilePath = _optional("A file that holds the secret API key; relative to this file.")
    api_key_env: Variable = _optional("The environment variable that holds the secret API key.")
    api_key: str = _optional("The secret API key itself; a file is safer.")
    base_url: BaseUrl = Field(
        default=settings.BASE_URL,
        description="Where Knock answers; http:// only to this machine, or with insecure_http.",
    )
    insecure_http: bool = Field(
        default=False, description="Allow http:// to another machine: the key or bearer token travels unprotected."
    )
    branch: Branch = _optional("The slug of a branch of the development environment.")
    ca_file: FilePath = _optional("A PEM file of the authorities to trust, in place of the system's.")
    proxy: ProxyUrl = _optional("The proxy to go through: http:// or https://, with user and password if need be.")
    proxy_from_environment: bool = Field(
        default=False, description="Take the proxy from HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."
    )
    operations: list[
        Annotated[OperationKeys, BeforeValidator(_as_operation, json_schema_input_type=OperationId | OperationKeys)]
    ] = Field(default_factory=list, description="The operations to follow: ids, or mappings with id, group and labels.")
    operations_files: list[FilePattern] = Field(
        default_factory=list, description="Patterns of files that list operations; relative to this file."
    )
    operations_http: list[Annotated[HttpSourceKeys, BeforeValidator(_as_source)]] = Field(
        default_factory=list, description="Addresses that list operations."
    )


class TokenKeys(Keys):
    """A bearer token that may register operations."""

    token_file: FilePath = Field(
        description="A file that holds the token, of at least 16 characters; relative to this file."
    )
    environments: list[NameOrAll] = Field(
        default=[settings.ALL_ENVIRONMENTS], min_length=1, description="The environments that the token is good for."
    )


class RegistrationKeys(Keys):
    """Who may register operations over HTTP."""

    tokens: list[TokenKeys] = Field(
        default_factory=list, description="The tokens that are valid; two at a time allow rotation. None: it is off."
    )


class StorageKeys(Keys):
    """Where the state outlives a restart."""

    path: FilePath = Field(description="The file that holds the state, in a folder that exists; relative to this file.")


class ConfigKeys(PaceKeys):
    """The configuration of knock-exporter."""

    environments: list[EnvironmentKeys] = Field(min_length=1, description="The Knock environments to watch.")
    labels: list[LabelName] = Field(
        default_factory=list, description="Names of extra labels that operations may have; they stand on `_info` only."
    )
    max_operations: int = Field(
        default=settings.MAX_OPERATIONS,
        ge=1,
        le=settings.MAX_OPERATIONS_MOST,
        description="How many operations are kept, at most; the oldest that completed cleanly go early.",
    )
    registration: RegistrationKeys = Field(
        default_factory=RegistrationKeys, description="Registering operations over HTTP."
    )
    # Not `| None`: an empty `storage:` would pass, and the state be kept in memory only.
    storage: StorageKeys = Field(
        default=cast("StorageKeys", None),
        description="Where the state is kept. Without it: in memory only.",
        json_schema_extra=_without_default,
    )
