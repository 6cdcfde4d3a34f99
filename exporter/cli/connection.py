"""How commands reach a running exporter: their flags, and the connections that these make."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from exporter.cli.flags import EXPORTER_URL, ExporterUrl, FilePath, flag
from exporter.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.cli.flags import Command
    from exporter.terminal.exporter_api import Credentials, ExporterApi
    from exporter.terminal.exporter_writes import ExporterWrites

warn = partial(click.echo, err=True)

URL = flag("url", default=EXPORTER_URL, type=ExporterUrl(), help="URL of the running exporter.")
TOKEN_FILE = flag("token-file", required=True, type=FilePath(), help="File with a registration token of that exporter.")
_USERNAME = flag("username", default=None, help="User name, if the exporter asks for a password.")
_PASSWORD_FILE = flag("password-file", default=None, type=FilePath(), help="File with the password of that user.")


def with_password(command: Command) -> Command:
    """Add the flags of a command that may have to say a password."""
    return _USERNAME(_PASSWORD_FILE(command))


def reads(command: Command) -> Command:
    """Add the flags of a command that reads from a running exporter."""
    return URL(with_password(command))


def check_password_flags(username: str | None, password_file: Path | None) -> None:
    """Raise click.UsageError where only one of them is given."""
    if (username is None) is not (password_file is None):
        raise click.UsageError("--username and --password-file go together")


def credentials_of(username: str | None, password_file: Path | None) -> Credentials | None:
    """Return what the flags say. Raises click.UsageError and StartError."""
    from exporter.terminal.exporter_api import basic  # noqa: PLC0415 - few commands need it

    check_password_flags(username, password_file)
    return None if username is None or password_file is None else basic(username, password_file)


@contextmanager
def reading(
    url: str, username: str | None, password_file: Path | None, *, patient: bool = False
) -> Iterator[ExporterApi]:
    """Yield what reads from an exporter; `patient`: it is waited for. Raises click.UsageError and StartError."""
    from exporter.terminal.exporter_api import Connection, ExporterApi, Retrying  # noqa: PLC0415 - the same

    credentials = credentials_of(username, password_file)
    with closing(Connection(url, credentials, os.environ)) as connection:
        retry = Retrying(url, warn)
        yield ExporterApi(
            url, (lambda address: retry(partial(connection.send, address))) if patient else connection.send
        )


@contextmanager
def writing(url: str, environment: str, token_file: Path) -> Iterator[ExporterWrites]:
    """Yield what changes something in an exporter, which it waits for up to a minute. Raises StartError."""
    from exporter.terminal.exporter_api import Connection, bearer  # noqa: PLC0415 - few commands need these
    from exporter.terminal.exporter_writes import ExporterWrites  # noqa: PLC0415 - the same

    with closing(Connection(url, bearer(token_file, os.environ), os.environ)) as connection:
        yield ExporterWrites(url, environment, connection.send, warn)


def environment_of(api: ExporterApi, name: str | None) -> str:
    """Return which environment of the exporter is meant. Raises StartError."""
    from exporter.terminal.exporter_api import printable  # noqa: PLC0415 - only this command needs it

    names = [str(each.get("name")) for each in api.environments()]
    known = printable(", ".join(names))
    if name is not None and name not in names:
        raise StartError(f"{api.url} has no environment {name} (it has: {known})")
    if name is None and len(names) != 1:
        raise StartError(f"which environment? Name one with --environment (there are: {known})")
    return name or names[0]
