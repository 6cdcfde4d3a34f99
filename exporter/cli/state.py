"""`knock-exporter state`: look at, move and check what the exporter remembers."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import click

from exporter.cli.flags import FilePath, example, flag, from_standard_input
from exporter.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.cli.flags import Command

WAIT_SECONDS = 3.0


def _of_state_file(command: Command) -> Command:
    """Say which state file is meant."""
    config_file = flag(
        "config.file",
        default="config.yaml",
        type=FilePath(),
        help="Configuration file that names the state file, if --storage.path is not given.",
    )
    path = flag(
        "storage.path",
        default=None,
        type=FilePath(),
        help="Path of the state file.  [default: storage.path of the configuration]",
    )
    return path(config_file(command))


def _path(storage_path: Path | None, config_file: Path) -> Path:
    """Return the path of the state file. Raises StartError where nothing names one."""
    if storage_path is not None:
        return storage_path
    if not config_file.exists():
        raise StartError(f"{config_file}: no such file (name the state file with --storage.path)")
    from exporter import reloading  # noqa: PLC0415 - pydantic is not needed for --help

    storage = reloading.ConfigFile(config_file, os.environ).load().storage
    if storage is None:
        raise StartError(f"{config_file} has no storage: name the state file with --storage.path")
    return storage.path


@click.group()
def state() -> None:
    """Check, export or import the state file."""


@state.command(epilog=example("knock-exporter state check", "knock-exporter state check --storage.path=state.db"))
@_of_state_file
def check(*, storage_path: Path | None, config_file: Path) -> None:
    """Check a state file and print what is in it.

    It can be used while an exporter runs. Exit code: 1 if the file is damaged.
    """
    from exporter.store.inspect import inspect  # noqa: PLC0415 - the other commands start without these

    report = inspect(_path(storage_path, config_file))
    for line in report.lines:
        click.echo(line)
    for problem in report.problems:
        click.echo(problem, err=True)
    if report.problems:
        sys.exit(1)


@state.command(name="export", epilog=example("knock-exporter state export --storage.path=state.db > state.jsonl"))
@_of_state_file
@click.option("--environment", "environments", multiple=True, help="Export only this environment. Can be repeated.")
def export_command(*, storage_path: Path | None, config_file: Path, environments: tuple[str, ...]) -> None:
    """Write the state to standard output as JSON lines.

    It can be used while an exporter runs.
    """
    from exporter.store import database, move  # noqa: PLC0415 - the other commands start without these

    with database.reading(_path(storage_path, config_file)) as (connection, _form):
        for line in move.export(connection, environments, _report_skipped):
            click.echo(line)


@state.command(name="import", epilog=example("knock-exporter state import --storage.path=new.db < state.jsonl"))
@_of_state_file
@click.option("--replace", is_flag=True, help="Replace environments of the state file that are still configured, too.")
def import_command(*, storage_path: Path | None, config_file: Path, replace: bool) -> None:
    """Read an export from standard input into a state file.

    Either all of it is imported or nothing. No exporter may be using the file. An environment of the export replaces
    the one of that name in the file if that one is no longer configured. Other environments of the file are kept.
    """
    from exporter import logs  # noqa: PLC0415 - the other commands start without these
    from exporter.store.lock import Patience  # noqa: PLC0415 - the same
    from exporter.store.move import MOST_BYTES, take_in  # noqa: PLC0415 - the same
    from exporter.tracking.transitions import Moment  # noqa: PLC0415 - the same

    def clock() -> Moment:
        return Moment(time.monotonic(), time.time())

    path = _path(storage_path, config_file)
    flush = logs.set_up("warning", "logfmt")
    try:
        patience = Patience(WAIT_SECONDS, clock, time.sleep)
        # A line without an end would else be read for ever.
        lines = iter(lambda: from_standard_input(partial(sys.stdin.buffer.readline, MOST_BYTES + 1)), b"")
        told = take_in(path, lines, clock, patience, _report_skipped, replace=replace)
    finally:
        flush()
    for line in told:
        click.echo(line, err=True)


def _report_skipped(environment: str, row: str, problem: str) -> None:
    click.echo(f"{environment} {row}: cannot be read, left out: {problem}", err=True)
