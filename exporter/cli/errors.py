"""`knock-exporter errors`: the failed items of operations, read live from Knock."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import click

from exporter.cli.flags import FilePath, IdOrStdin, example, flag, given
from exporter.errors import KeyRefused, KnockError, StartError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from exporter.config import EnvironmentSettings

_warn = partial(click.echo, err=True)


@click.command(
    epilog=example("knock-exporter errors --environment=production 123e4567-e89b-12d3-a456-426614174000 -o json")
)
@click.argument("operation_ids", metavar="ID…|-", nargs=-1, required=True, type=IdOrStdin())
@flag("config.file", default=None, type=FilePath(), help="Configuration file to take the key from.")
@flag("environment", default=None, help="Which of its environments, where the configuration has several.")
@click.option(
    "-o", "--output", default="csv", show_default=True, type=click.Choice(["csv", "json", "ids"]), help="Form."
)
def errors(operation_ids: tuple[str, ...], config_file: Path | None, environment: str | None, output: str) -> None:
    """Write the failed items of operations, by their ID or (with -) from standard input, as Knock lists them now.

    The key comes from a configuration or from KNOCK_API_KEY, as with `get`. Items are often personal data; nothing is
    stored. The exit code is 0 if what is written is all that failed. What no record can tell is said on standard error,
    and the exit code is 1: an operation that failed (rows that were not processed are in no list), one whose list is
    shorter than its count of errors, one that runs, one that Knock does not know any more.
    """
    from exporter import lookup  # noqa: PLC0415 - only this command needs these
    from exporter.terminal.standard_input import ids_of  # noqa: PLC0415 - the same

    ids, problems = ids_of(given(operation_ids))
    for problem in problems:
        _warn(f"standard input: {problem}")
    complete = not ids or _write(lookup.environment_for(ids, config_file, environment, os.environ), ids, output)
    if problems or not complete:
        sys.exit(1)


def _write(asked: EnvironmentSettings, ids: Collection[str], output: str) -> bool:
    """Write what failed; return whether that is all. Raises StartError."""
    from exporter import lookup  # noqa: PLC0415 - only this command needs these
    from exporter.knock.client import connect, read_key  # noqa: PLC0415 - the same
    from exporter.terminal.failed_items import ItemWriter, failed_items  # noqa: PLC0415 - the same
    from exporter.terminal.paced import PacedReader, ReaderIO  # noqa: PLC0415 - the same

    complete, writer = True, ItemWriter(sys.stdout, output)
    with closing(connect(asked, read_key(asked, os.environ))) as client:
        reader = PacedReader(asked.rate_limit, ReaderIO(client.fetch_record, _warn))
        writer.begin()
        try:
            for operation_id, response in reader.read(ids):
                if isinstance(response, KnockError):
                    problems = [lookup.explained(asked, response)]
                else:
                    items, problems = failed_items(*response)
                    problems += writer.write(items)
                for problem in problems:
                    _warn(f"{operation_id}: {problem}")
                complete = complete and not problems
        except KeyRefused as error:
            raise StartError(lookup.explained(asked, error)) from None
        writer.end()
    return complete
