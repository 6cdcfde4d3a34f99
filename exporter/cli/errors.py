"""`knock-exporter errors`: the failed items of operations, read live from Knock."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import click

from exporter.cli.connection import environment_of, reading, reads, warn
from exporter.cli.flags import RUN_ID, FilePath, IdOrStdin, example, flag, given
from exporter.errors import KeyRefused, KnockError, StartError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from exporter.config import EnvironmentSettings


@click.command(epilog=example("knock-exporter errors --environment=production --group=nightly -o json"))
@click.argument("operation_ids", metavar="[ID…|-]", nargs=-1, type=IdOrStdin())
@flag("config.file", default=None, type=FilePath(), help="Configuration file with the API key.")
@flag("environment", default=None, help="Name of the environment, if the configuration has several.")
@click.option(
    "--group", default=None, help="Read the operations of this group that a running exporter (--url) follows."
)
@click.option("--run", default=None, type=RUN_ID, help="Only operations of this run of the group.")
@reads
@click.option(
    "-o", "--output", default="csv", show_default=True, type=click.Choice(["csv", "json", "ids"]), help="Output format."
)
def errors(  # noqa: PLR0913 - one parameter for each flag
    operation_ids: tuple[str, ...],
    *,
    config_file: Path | None,
    environment: str | None,
    group: str | None,
    run: str | None,
    url: str,
    username: str | None,
    password_file: Path | None,
    output: str,
) -> None:
    """Ask Knock for the failed items of operations.

    Give IDs, - to read them from standard input, or --group: a running exporter (--url) then tells which operations of
    the group failed or have errors. The API key is found as by `get`. Failed items are often personal data; nothing is
    stored.

    Exit code: 0 if the list is complete, 1 if it may not be. The reason is then on standard error: an operation failed
    (Knock does not list the rows that it did not process), Knock lists fewer items than it counts, an operation is
    not finished, or Knock does not know it any more.
    """
    from exporter import lookup  # noqa: PLC0415 - only this command needs these
    from exporter.terminal.failed_items import in_group  # noqa: PLC0415 - the same
    from exporter.terminal.standard_input import ids_of  # noqa: PLC0415 - the same

    if bool(operation_ids) is (group is not None) or (run is not None and group is None):
        raise click.UsageError("expected IDs (or -), or else --group and maybe --run")
    if group is not None:
        with reading(url, username, password_file) as api:
            environment = environment or environment_of(api, None)
            ids, problems = in_group(api, environment, group, run)
    else:
        ids, found = ids_of(given(operation_ids))
        problems = [f"standard input: {each}" for each in found]
    for problem in problems:
        warn(problem)
    if ids or group is not None:
        asked = lookup.environment_for(ids, config_file, environment, os.environ)
        problems += _write(asked, ids, output)
    if problems:
        sys.exit(1)


def _write(asked: EnvironmentSettings, ids: Collection[str], output: str) -> list[str]:
    """Write what failed; say and return what is missing there. Raises StartError."""
    from exporter import lookup  # noqa: PLC0415 - only this command needs these
    from exporter.knock.client import connect, read_key  # noqa: PLC0415 - the same
    from exporter.terminal.failed_items import ItemWriter, failed_items  # noqa: PLC0415 - the same
    from exporter.terminal.paced import PacedReader, ReaderIO  # noqa: PLC0415 - the same

    missing, writer = list[str](), ItemWriter(sys.stdout, output)
    with closing(connect(asked, read_key(asked, os.environ))) as client:
        reader = PacedReader(asked.rate_limit, ReaderIO(client.fetch_record, warn))
        writer.begin()
        try:
            for operation_id, response in reader.read(ids):
                if isinstance(response, KnockError):
                    problems = [lookup.explained(asked, response)]
                else:
                    items, problems = failed_items(*response)
                    problems += writer.write(items)
                for problem in problems:
                    warn(f"{operation_id}: {problem}")
                missing += problems
        except KeyRefused as error:
            raise StartError(lookup.explained(asked, error)) from None
        writer.end()
    return missing
