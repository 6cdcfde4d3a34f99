"""What a single value may look like, wherever people and programs write it: text in, value out, or InvalidValue.

The messages name what was expected; what was found they show only where it can be no secret.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, urlsplit

from exporter.errors import redact, redact_all
from exporter.operation import NIL_ID, OTHER, is_operation_id

if TYPE_CHECKING:
    from pathlib import Path

ALL_ENVIRONMENTS = "all"  # no environment's name
NAME = r"[a-z0-9_-]{1,63}"
BRANCH = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
LABEL_NAME = r"[a-zA-Z_][a-zA-Z0-9_]*"  # Prometheus' data model
DURATION = "".join(f"([0-9]+{unit})?" for unit in ("y", "w", "d", "h", "m", "s", "ms"))  # Prometheus' configuration
DURATION_MAX = 100 * 365 * 86400.0  # seconds; beyond it clocks and calendars overflow
TIMEOUT_MIN, TIMEOUT_MAX = 0.1, 300.0
HTTP_INTERVAL_MIN = 1.0
LABEL_BYTES = 128
RUN_ID = r"[A-Za-z0-9._:-]{1,64}"
RUN = "run"  # no label, but lists name it among the labels
# Labels that the metrics have themselves, or that Prometheus sets for each target.
REFUSED_LABELS = frozenset({"knock_environment", "group", "name", "operation_id", "status", "le", "job", "instance"})

_UNITS = {"y": 365 * 86_400_000, "w": 7 * 86_400_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_SHOWN_UNITS = ("d", "h", "m", "s", "ms")
_PART = re.compile(r"([0-9]+)([a-z]+)")
_RUN_ID = re.compile(RUN_ID)
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_URL_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_URL_QUERY = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")
_VERSION = re.compile(r"(?<=[^/:])/+v1(?=/|$)", re.IGNORECASE)  # Knock's reference prints its address with it
_SOURCE_EXAMPLE = "https://ids.example/operations"
_DURATION_CHARACTERS = 60  # Python refuses to read numbers of thousands of digits
_SHOWN = 60  # characters of a found value
_DURATION_HINT = "a duration such as 5s, 1m30s, 1h, 7d or 500ms"


class InvalidValue(ValueError):
    """A value that cannot be used; the message says what was expected.

    `file` is what may mend it without a change of the configuration.
    """

    def __init__(self, message: str, file: Path | None = None) -> None:
        super().__init__(message)
        self.file = file


def quoted(text: str) -> str:
    """Show a value that was found: in quotes, one line, not too long, keys masked."""
    shown = "".join(sign if sign.isprintable() else "�" for sign in redact_all(text[:1000]))
    return f'"{shown[:_SHOWN]}…"' if len(shown) > _SHOWN else f'"{shown}"'


def parse_duration(value: object) -> float:
    """Turn Prometheus' way to write durations into seconds; more than zero. Raises InvalidValue."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise InvalidValue(f"a number needs its unit (expected {_DURATION_HINT})")
    if not isinstance(value, str):
        raise InvalidValue(f"expected {_DURATION_HINT}")
    if not 0 < len(value) <= _DURATION_CHARACTERS or re.fullmatch(DURATION, value) is None:
        raise InvalidValue(f"{quoted(value)} is not a duration (expected {_DURATION_HINT})")
    seconds = sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(value)) / 1000
    if seconds == 0:
        raise InvalidValue("must be more than zero")
    if seconds > DURATION_MAX:
        raise InvalidValue("is too long (expected at most 100y)")
    return seconds


def parse_timeout(value: object) -> float:
    """Turn a duration into the seconds of a timeout. Raises InvalidValue."""
    seconds = parse_duration(value)
    if not TIMEOUT_MIN <= seconds <= TIMEOUT_MAX:
        raise InvalidValue(f"is out of range (expected {show_duration(TIMEOUT_MIN)} to {show_duration(TIMEOUT_MAX)})")
    return seconds


def parse_source_interval(value: object) -> float:
    """Turn a duration into the seconds between two requests for a list. Raises InvalidValue."""
    seconds = parse_duration(value)
    if seconds < HTTP_INTERVAL_MIN:
        raise InvalidValue(f"is too short (expected at least {show_duration(HTTP_INTERVAL_MIN)})")
    return seconds


def show_duration(seconds: float) -> str:
    """Write seconds as Prometheus does, to the millisecond."""
    rest, text = round(seconds * 1000), ""
    for unit in _SHOWN_UNITS:
        count, rest = divmod(rest, _UNITS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def check_name(text: str) -> str:
    """Take an environment's name. Raises InvalidValue."""
    if re.fullmatch(NAME, text) is None:
        raise InvalidValue(f"{quoted(text)} is not a name (expected 1 to 63 of a-z, 0-9, _ and -)")
    if text == ALL_ENVIRONMENTS:
        raise InvalidValue(
            f"{quoted(text)} stands for every environment under registration.tokens (choose another name)"
        )
    return _public(text)


def check_operation_id(text: str) -> str:
    """Take an operation's id, in lower case. Raises InvalidValue."""
    if not is_operation_id(text):
        raise InvalidValue(f"{quoted(text)} is not a valid UUID (expected e.g. 123e4567-e89b-12d3-a456-426614174000)")
    if text == NIL_ID:
        raise InvalidValue("is the nil UUID, which no operation has")
    return text.lower()


def check_branch(text: str) -> str:
    """Take a branch's slug, which must be fit for a header. Raises InvalidValue."""
    if re.fullmatch(BRANCH, text) is None:
        raise InvalidValue(f"{quoted(text)} is not a branch (expected its slug: letters, digits, . _ / and -)")
    return _public(text)


def check_variable(text: str) -> str:
    """Take the name of an environment variable. Raises InvalidValue, without the text: it may be a misplaced key."""
    if re.fullmatch(VARIABLE, text) is None:
        raise InvalidValue("is not a valid name of an environment variable (expected e.g. KNOCK_API_KEY)")
    return text


def check_path(text: str) -> str:
    """Take a path of a file. Raises InvalidValue."""
    return _path(text, "path of a file (expected visible characters)")


def check_public_path(text: str) -> str:
    """Take a path of a file that need not be there yet, and is shown. Raises InvalidValue."""
    _public(check_path(text).rpartition("/")[2])
    return text


def check_pattern(text: str) -> str:
    """Take a pattern of files. Raises InvalidValue."""
    if "://" in text:
        raise InvalidValue("is a URL, no pattern of files (lists at URLs belong under operations_http)")
    _public(_path(text, "pattern of files (expected visible characters, e.g. ids/*.json)").rpartition("/")[2])
    return text


def _path(text: str, expected: str) -> str:
    if not text or not text.isprintable():
        raise InvalidValue(f"is not a valid {expected}")
    if text.startswith("~"):
        raise InvalidValue(
            "begins with ~, which only a shell replaces (write the whole path; ./~ for a name that has it)"
        )
    return text


def check_label_name(text: str) -> str:
    """Take a label's name that the metrics do not use themselves. Raises InvalidValue."""
    if re.fullmatch(LABEL_NAME, text) is None:
        raise InvalidValue(f"{quoted(text)} is not a label name (expected letters, digits and _, no digit first)")
    if text in REFUSED_LABELS or text.startswith("__"):
        raise InvalidValue(f"{quoted(text)} is taken by Prometheus or by the metrics themselves (choose another name)")
    if text == RUN:
        raise InvalidValue(f"{quoted(text)} is taken by lists, for the run of a group (choose another name)")
    return _public(text)


def check_label_value(text: str) -> str:
    """Take a label's value or a group. Raises InvalidValue."""
    if not text:
        raise InvalidValue("is empty (give a value, or remove the key)")
    if not text.isprintable():
        raise InvalidValue("holds characters that cannot be shown (expected printable text)")
    if len(text.encode()) > LABEL_BYTES:
        raise InvalidValue(f"is too long (expected at most {LABEL_BYTES} bytes of UTF-8)")
    return _public(text)


def check_declared_group(text: str) -> str:
    """Take the name of a group of which something is expected. Raises InvalidValue."""
    if text == OTHER:
        raise InvalidValue(f"{quoted(text)} holds what is past the limit of groups (choose another name)")
    return check_label_value(text)


def check_run_id(text: str) -> str:
    """Take the id of a run. Raises InvalidValue."""
    if not _RUN_ID.fullmatch(text):
        raise InvalidValue("is not a run id (expected 1 to 64 of A-Z, a-z, 0-9, . _ : and -)")
    return _public(text)


def check_base_url(text: str) -> str:
    """Take Knock's address, without the slash at its end. Raises InvalidValue."""
    url = check_address(text)
    if found := _VERSION.search(url):
        raise InvalidValue(f"must end before {found[0]}, which is added to it (as in https://api.knock.app)")
    return url


def check_address(text: str) -> str:
    """Take the address of a server that paths are added to, without the slash at its end. Raises InvalidValue."""
    parts = _split(text, "https://api.knock.app")
    if parts.scheme not in ("http", "https"):
        raise InvalidValue("is not an absolute URL (expected https:// and a host, e.g. https://api.knock.app)")
    if "@" in parts.netloc:
        raise InvalidValue("must not hold a user or password (expected e.g. https://api.knock.app)")
    if "?" in text or "#" in text:
        raise InvalidValue("must not hold a query (?) or a fragment (#)")
    if _URL_PATH.fullmatch(parts.path) is None:
        raise InvalidValue("holds characters that no path of a URL has (percent-encode them)")
    return _public(f"{parts.scheme}://{_authority(parts)}{parts.path.rstrip('/')}")


def check_source_url(text: str) -> str:
    """Take the address of a list, with scheme and host in lower case. Raises InvalidValue, without the text."""
    parts = _split(text, _SOURCE_EXAMPLE)
    if parts.scheme not in ("http", "https"):
        raise InvalidValue(f"is not an absolute URL (expected http:// or https:// and a host, e.g. {_SOURCE_EXAMPLE})")
    if "@" in parts.netloc:
        raise InvalidValue("must not hold a user or password (use bearer_token_file)")
    if "#" in text:
        raise InvalidValue("must not hold a fragment (#)")
    if not (_URL_PATH.fullmatch(parts.path) and _URL_QUERY.fullmatch(parts.query)):
        raise InvalidValue("holds characters that no path or query of a URL has (percent-encode them)")
    query = f"?{parts.query}" if parts.query else ""
    return _public(f"{parts.scheme}://{_authority(parts)}{parts.path or '/'}{query}")


def check_proxy(text: str) -> str:
    """Take a proxy's URL, which may hold user and password, beyond ASCII too. Raises InvalidValue, without the text."""
    text = _BEYOND_ASCII.sub(lambda found: quote(found[0]), text)
    parts = _split(text, "http://proxy.example:3128")
    if parts.scheme not in ("http", "https"):
        found = f"{parts.scheme}:// proxies are not supported" if "://" in text else "is not a valid URL of a proxy"
        raise InvalidValue(f"{found} (expected http:// or https://, e.g. http://proxy.example:3128)")
    if parts.path not in ("", "/") or "?" in text or "#" in text:
        raise InvalidValue("must end after host and port (expected e.g. http://proxy.example:3128)")
    _public(parts.netloc.rpartition("@")[2])
    return text


def mask_proxy(url: str) -> str:
    """Show a proxy's URL without its user and password."""
    scheme, _, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}://***@{host}" if user or at else url


def show_url(url: str) -> str:
    """Show where a list is: without user, password and query, which may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def is_unprotected_http(url: str) -> bool:
    """Whether what is sent to a valid URL would travel unencrypted over a network."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def _public(text: str) -> str:
    if redact(text) != text:
        raise InvalidValue("looks like an API key, which everybody could read here (renew the key if it is one)")
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _split(text: str, example: str) -> SplitResult:
    if _VISIBLE.fullmatch(text) is None:  # urlsplit drops tabs and line ends without a word
        raise InvalidValue(f"is not a URL: empty, or with white space or special characters (expected e.g. {example})")
    try:
        parts = urlsplit(text)
        host_ok = _is_host(parts.hostname or "") and parts.port != 0
    except ValueError:  # brackets that hold no address; a port past 65535
        raise InvalidValue(f"is not a URL: its host or port is wrong (expected e.g. {example})") from None
    if parts.scheme in ("http", "https") and not host_ok:
        raise InvalidValue(f"is not a URL: its host or port is wrong (expected e.g. {example})")
    return parts


def _is_host(host: str) -> bool:
    if ":" in host:
        return IPv6Address(host).scope_id is None
    return _HOST.fullmatch(host) is not None


def _authority(parts: SplitResult) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{parts.port}" if parts.port is not None else host
