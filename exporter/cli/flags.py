"""What the commands share: flags with their variables, and the kinds of values that they take."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from exporter.errors import StartError, redact, redact_all
from exporter.operation import is_operation_id
from exporter.values import InvalidValue, check_address, check_run_id, parse_duration, show_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from exporter.terminal.standard_input import Item, Read

    Command = Callable[..., Any]

MAX_PORT = 65535
EXPORTER_URL = "http://127.0.0.1:10187"
STDIN = "-"
_PORT = re.compile(r"[0-9]{1,5}")
_EXTERNAL_URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?")
TAKEN = ("/-/", "/api/", "/operations/", "/groups/", "/static/", "/config/")  # by other pages
_URL_PATH = re.compile(r"/|(/[A-Za-z0-9._~-]+)+")


def flag(name: str, **settings: Any) -> Callable[[Command], Command]:
    """Make a flag that a variable can set too: --config.file and KNOCK_EXPORTER_CONFIG_FILE."""
    variable = "KNOCK_EXPORTER_" + name.upper().replace(".", "_").replace("-", "_")
    parameter = name.replace(".", "_").replace("-", "_")
    return click.option(f"--{name}", parameter, envvar=variable, show_envvar=True, show_default=True, **settings)


def values_of(ctx: click.Context) -> Iterator[tuple[str, str, bool]]:
    """Yield the flags of a command that have a value, as one writes them, and whether it is not the default."""
    for each in ctx.command.params:
        name, value = each.name or "", ctx.params.get(each.name or "")
        if value not in (None, False, ()) and isinstance(each, click.Option):
            values = value if each.multiple else [value]
            written = " ".join(_written(one, each.type) for one in values)
            yield each.opts[0], written, ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


def _written(value: Any, kind: click.ParamType[Any]) -> str:
    match value:
        case float() if isinstance(kind, Duration):
            return show_duration(value)
        case float():
            return f"{value:g}"
        case (str(host), int(port)):  # as Address reads it
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case tuple():
            return ",".join(map(str, value))
        case True:
            return "true"
    return str(value)


def example(*lines: str) -> str:
    """Return the end of a command's help: an example, its lines as they are."""
    return "\n".join(["\b", "Example:", *(f"  {each}" for each in lines)])


class Address(click.ParamType[tuple[str, int]]):
    """`HOST:PORT`, `:PORT` (all addresses) or `[IPV6]:PORT`, read as (host, port)."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Read the value, or fail with what was expected."""
        if isinstance(value, tuple):
            return value
        if "/" in value:
            self.fail(f"{redact_all(repr(value))}: expected HOST:PORT alone, without http:// and path", param, ctx)
        if value.startswith("*:"):
            self.fail(f"{value!r}: all addresses are written as {value[1:]!r}", param, ctx)
        host, colon, port = value.rpartition(":")
        if not colon or not _PORT.fullmatch(port) or int(port) > MAX_PORT:
            self.fail(f"{value!r}: expected HOST:PORT or :PORT, as in :10187 or 127.0.0.1:10187", param, ctx)
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            self.fail(f"{value!r}: an IPv6 address stands in brackets, as in [::1]:10187", param, ctx)
        return host, int(port)


class FilePath(click.ParamType[Path]):
    """The path of a file."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Read the value, or fail for a ~ that the shell has left: it does not look behind the = of a flag."""
        if str(value).startswith("~"):
            self.fail(f"{str(value)!r} begins with ~, which only a shell replaces: write the whole path", param, ctx)
        return Path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click passes them
        """Let the shell look for files."""
        return [CompletionItem(incomplete, type="file")]


class UrlPath(click.ParamType[str]):
    """The path of an URL."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read the value, or fail with what was expected."""
        text = str(value)
        if not _URL_PATH.fullmatch(text):
            self.fail(f"{text!r}: expected a path as in /metrics", param, ctx)
        if taken := next((each for each in TAKEN if f"{text}/".startswith(each)), None):
            self.fail(f"{text!r}: what stands below {taken} is taken", param, ctx)
        return text


class ExternalUrl(click.ParamType[str]):
    """Where people reach the port; read without a slash at its end."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read the value, or fail with what was expected."""
        if not _EXTERNAL_URL.fullmatch(value) or not _is_splittable(value):
            expected = "expected http(s)://HOST, a port and a path where there are such, and nothing else"
            self.fail(f"{redact_all(repr(value))}: {expected}, as in https://example.com/knock", param, ctx)
        return str(value).rstrip("/")


def _is_splittable(url: str) -> bool:
    try:
        urlsplit(url)
    except ValueError:  # what stands in brackets is not an IPv6 address
        return False
    return True


def check_prefix(external_url: str | None, telemetry_path: str) -> None:
    """Refuse an external URL whose path the exporter could not tell from one of its own; raises click.BadParameter."""
    prefix = f"{urlsplit(external_url or '').path}/"
    for taken in (*TAKEN, f"{telemetry_path}/"):
        if prefix != "/" and (taken.startswith(prefix) or prefix.startswith(taken)):
            problem = f"{external_url!r}: the exporter has {taken[:-1]} for itself, choose another path"
            raise click.BadParameter(problem, param_hint="'--web.external-url'")


class Duration(click.ParamType[float]):
    """A duration in Prometheus' syntax, read as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the value, or fail with what was expected."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Names(click.ParamType[tuple[str, ...]]):
    """Names, separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Read the value, or fail with what was expected."""
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in str(value).split(","))
        if not all(names):
            self.fail(f"{value!r}: expected names, separated by commas, as in a,b", param, ctx)
        return names


class OperationId(click.ParamType[str]):
    """A bulk operation's id, in lower case."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read the value, or fail with what was expected."""
        if not is_operation_id(value):
            self.fail(
                f"{redact(repr(value))} is not a valid UUID (expected as in 123e4567-e89b-12d3-a456-426614174000)",
                param,
                ctx,
            )
        return str(value).lower()


class Checked(click.ParamType[str]):
    """A text that a check of values.py takes."""

    def __init__(self, name: str, check: Callable[[str], str]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read the value, or fail with what was expected."""
        try:
            return self._check(str(value))
        except InvalidValue as error:
            self.fail(str(error), param, ctx)


RUN_ID = Checked("id", check_run_id)


class IdOrStdin(OperationId):
    """A bulk operation's id, or STDIN: they are read from there."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read the value, or fail with what was expected."""
        return STDIN if value == STDIN else super().convert(value, param, ctx)


def from_standard_input(read: Callable[[], bytes]) -> bytes:
    """Read it; raises StartError."""
    try:
        return read()
    except OSError as error:
        raise StartError(f"standard input cannot be read: {error.strerror}") from None


def given(operation_ids: Sequence[str]) -> Read:
    """Return the ids of a command line, and with STDIN among them what standard input holds."""
    from exporter.files import BYTES_MOST, size  # noqa: PLC0415 - few commands need it
    from exporter.terminal.standard_input import Read, read  # noqa: PLC0415 - the same

    named: list[Item] = [each for each in operation_ids if each != STDIN]
    if STDIN not in operation_ids:
        return Read(named, [])
    data = from_standard_input(lambda: sys.stdin.buffer.read(BYTES_MOST + 1))
    if len(data) > BYTES_MOST:
        return Read(named, [f"is larger than {size(BYTES_MOST)}"])
    found = read(data)
    return Read([*named, *found.items], found.problems)


class ExporterUrl(click.ParamType[str]):
    """Where a running exporter answers; read without a slash at its end."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read the value, or fail with what was expected."""
        try:
            url = check_address(str(value))
        except InvalidValue:  # its message knows of Knock's own address only; and the value may hold a password
            self.fail(f"expected the address of an exporter, as in {EXPORTER_URL}", param, ctx)
        for page in ("/metrics", *TAKEN):
            if page in f"{urlsplit(url).path}/":
                self.fail(f"must end before {page.rstrip('/')}, as in {EXPORTER_URL}", param, ctx)
        return url
