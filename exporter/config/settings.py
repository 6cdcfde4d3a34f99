"""The settings as the rest of the program sees them: frozen, complete, defaults filled in. Times are seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.keys import KeySource, Secret

PerOperation = Literal["all", "active", "none"]

BASE_URL = "https://api.knock.app"
GROUP = "default"
RATE_LIMIT = 20.0  # polls a second
RATE_LIMIT_MAX = 200  # the most that Knock allows anybody: its tier 4
IN_FLIGHT_SECONDS = 2  # so many seconds' worth of polls may be under way
IN_FLIGHT_LEAST = 4
IN_FLIGHT_MOST = 64  # by default; who asks for more may have IN_FLIGHT_MAX
IN_FLIGHT_MAX = 256
TIMEOUT = 10.0
TIMEOUT_MIN = 0.1
TIMEOUT_MAX = 300.0
PER_OPERATION: PerOperation = "all"
PER_OPERATION_LIMIT = 1000
POLL_PROCESSING = 5.0
POLL_QUEUED = 15.0
POLL_SLOWEST = 60.0
NOT_FOUND_AFTER = 24 * 3600.0
MAX_AGE = 7 * 86400.0
KEY_CHECK_INTERVAL = 600.0
RETENTION = 24 * 3600.0
MAX_OPERATIONS = 50_000
MAX_OPERATIONS_MOST = 1_000_000  # far past what one process can ask for
HTTP_INTERVAL = 60.0
HTTP_INTERVAL_MIN = 1.0
ALL_ENVIRONMENTS = "all"  # no environment's name
TOKEN_LEAST = 16  # characters; a shorter token could be guessed


@dataclass(frozen=True, slots=True)
class Polling:
    """How often operations are asked for; all in seconds."""

    processing: float = POLL_PROCESSING
    queued: float = POLL_QUEUED
    slowest: float = POLL_SLOWEST
    not_found_after: float = NOT_FOUND_AFTER
    max_age: float = MAX_AGE
    key_check_interval: float = KEY_CHECK_INTERVAL


@dataclass(frozen=True, slots=True)
class ListedOperation:
    """An operation as a source names it; the id in lower case, the labels sorted by name.

    The group `default` says nothing: another source may name one.
    """

    id: str
    group: str = GROUP
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class HttpSource:
    """A list of operations at an address of the user's own: Prometheus' http_sd; `interval` in seconds."""

    url: str
    interval: float = HTTP_INTERVAL
    bearer_token: KeySource | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class TokenSource:
    """A bearer token for registrations, and the environments that it is good for (None: all)."""

    token: KeySource
    environments: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class EnvironmentSettings:
    """One Knock environment: where it answers, with which key, and what is asked of it how often."""

    name: str
    key: KeySource
    base_url: str = BASE_URL  # without a slash at its end
    insecure_http: bool = False
    branch: str | None = None
    ca_file: Path | None = None
    proxy: Secret | None = None  # a whole URL, which may hold a password
    proxy_from_environment: bool = False
    operations: tuple[ListedOperation, ...] = ()
    operations_files: tuple[str, ...] = ()  # absolute globs
    operations_http: tuple[HttpSource, ...] = ()
    rate_limit: float = RATE_LIMIT
    max_in_flight: int = round(RATE_LIMIT * IN_FLIGHT_SECONDS)
    timeout: float = TIMEOUT
    polling: Polling = Polling()
    retention: float = RETENTION
    per_operation: PerOperation = PER_OPERATION
    per_operation_limit: int = PER_OPERATION_LIMIT


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, valid configuration.

    `labels` are the names of the declared extra labels, `tokens` what registrations are allowed by (none: they are
    off), `storage` the file that holds the state (None: memory only).
    """

    environments: tuple[EnvironmentSettings, ...]
    labels: tuple[str, ...] = ()
    max_operations: int = MAX_OPERATIONS
    tokens: tuple[TokenSource, ...] = ()
    storage: Path | None = None
