"""The keys of the configuration file: the one place that names them, with types, ranges and descriptions.

The models describe single values; what concerns several at once is in `checks`. An unset key is told from a set one by
`model_fields_set`; "" stands for unset where a key has no default.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from exporter.config import settings, values
from exporter.config.values import Unfit, show_duration

KEY_SOURCES = ("api_key_file", "api_key_env", "api_key")


def _pattern(expression: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{expression}$"})


def _in_timeout_range(seconds: float) -> float:
    if not settings.TIMEOUT_MIN <= seconds <= settings.TIMEOUT_MAX:
        lowest, highest = show_duration(settings.TIMEOUT_MIN), show_duration(settings.TIMEOUT_MAX)
        raise Unfit(f"is out of range (expected {lowest} to {highest})")
    return seconds


def _as_operation(item: Any) -> Any:
    if isinstance(item, str):
        return {"id": item}
    if isinstance(item, dict):
        return item
    raise Unfit(
        "expected an operation's id (in quotes, if it looks like a number), or a mapping with id, group and labels"
    )


Duration = Annotated[float, BeforeValidator(values.parse_duration), _pattern(f"(?=.){values.DURATION}")]
Timeout = Annotated[Duration, AfterValidator(_in_timeout_range)]
Name = Annotated[str, AfterValidator(values.check_name), _pattern(values.NAME)]
Branch = Annotated[str, AfterValidator(values.check_branch), _pattern(values.BRANCH)]
Variable = Annotated[str, AfterValidator(values.check_variable), _pattern(values.VARIABLE)]
FilePath = Annotated[str, AfterValidator(values.check_path)]
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
        default=False, description="Allow an http:// base_url on another machine: the key travels unprotected."
    )
    branch: Branch = _optional("The slug of a branch of the development environment.")
    ca_file: FilePath = _optional("A PEM file of the authorities to trust, in place of the system's.")
    proxy: ProxyUrl = _optional("The proxy to go through: http:// or https://, with user and password if need be.")
    proxy_from_environment: bool = Field(
        default=False, description="Take the proxy from HTTPS_PROXY, HTTP_PROXY and NO_PROXY."
    )
    operations: list[
        Annotated[OperationKeys, BeforeValidator(_as_operation, json_schema_input_type=OperationId | OperationKeys)]
    ] = Field(default_factory=list, description="The operations to follow: ids, or mappings with id, group and labels.")


class ConfigKeys(PaceKeys):
    """The configuration of knock-exporter."""

    environments: list[EnvironmentKeys] = Field(min_length=1, description="The Knock environments to watch.")
    labels: list[LabelName] = Field(
        default_factory=list, description="Names of extra labels that operations may have; they stand on `_info` only."
    )


# Keys that are planned: refused by name, so that nobody believes they work.
NOT_YET = frozenset({"operations_files", "operations_http", "retention", "max_operations", "registration", "storage"})
