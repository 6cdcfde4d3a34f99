"""`knock-exporter list` and `knock-exporter forget`: what a running exporter follows, and what it is to drop."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from exporter.cli.connection import TOKEN_FILE, reading, reads, warn, writing
from exporter.cli.flags import RUN_ID, IdOrStdin, example, flag, given
from exporter.wording import first_few, visible

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.terminal.exporter_api import ExporterApi

# As the API takes them; a test compares both.
STATUSES = (
    *("pending", "queued", "processing", "completed", "failed", "unknown", "lost"),
    *("unfinished", "needs_attention", "with_errors", "stalled", "stale"),
)
_FINAL = ("completed", "failed", "lost")


@click.command(name="list", epilog=example("knock-exporter list --group=nightly --status=failed -o ids"))
@reads
@flag("environment", default=None, help="Only operations of this environment.")
@flag("group", default=None, help="Only operations of this group.")
@flag("run", default=None, type=RUN_ID, help="Only operations of the run with this id.")
@click.option("--name", default=None, help="Only operations with this name, for example users.identify.")
@click.option(
    "--status",
    default=None,
    type=click.Choice(STATUSES),
    metavar="STATUS",
    help=f"Only operations with this status: {', '.join(STATUSES)}.",
)
@click.option("--id", "part", default=None, help="Only operations whose id contains this text.")
@click.option(
    "-o",
    "--output",
    default="table",
    show_default=True,
    type=click.Choice(["table", "json", "ids"]),
    help="Output format.",
)
def list_command(  # noqa: PLR0913 - one parameter for each flag
    *,
    url: str,
    username: str | None,
    password_file: Path | None,
    environment: str | None,
    group: str | None,
    run: str | None,
    name: str | None,
    status: str | None,
    part: str | None,
    output: str,
) -> None:
    """List the operations that a running exporter follows.

    Unfinished operations come first, then failed ones, then the rest.
    """
    from exporter.terminal import listing  # noqa: PLC0415 - only this command needs it

    filters = {"group": group, "run": run, "name": name, "status": status, "id": part}
    with reading(url, username, password_file) as api:
        found = api.operations(environment, **{key: value for key, value in filters.items() if value is not None})
        if output == "json":
            listing.write_json(sys.stdout, found)
        elif output == "ids":
            listing.write_ids(sys.stdout, found)
        elif not listing.write_operations(sys.stdout, found):
            warn(f"No operations found{_hint(api, environment, group)}.")


def _hint(api: ExporterApi, environment: str | None, group: str | None) -> str:
    """Say what groups there are, where the one that was asked for is not among them."""
    if group is None:
        return ""
    known = sorted({str(each.get("group")) for each in api.groups(environment)})
    return "" if group in known else visible(f": no group {group} (there are: {first_few(known) or 'none'})")


@click.command(
    epilog=example(
        "knock-exporter forget --environment=production --token-file=register.token \\",
        "    --group=nightly --status=failed",
    )
)
@click.argument("operation_ids", metavar="[ID…|-]", nargs=-1, type=IdOrStdin())
@reads
@flag("environment", required=True, help="Environment of the operations.")
@TOKEN_FILE
@click.option("--group", default=None, help="Finished operations of this group with the --status.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(["failed", "with_errors"]),
    help="Which operations of the group. Can be repeated.",
)
def forget(  # noqa: PLR0913 - one parameter for each flag
    operation_ids: tuple[str, ...],
    *,
    url: str,
    username: str | None,
    password_file: Path | None,
    environment: str,
    token_file: Path,
    group: str | None,
    statuses: tuple[str, ...],
) -> None:
    """Remove operations from a running exporter.

    Use it for failed operations that were dealt with, so that they are no longer listed. Give IDs, - to read them from
    standard input, or --group with --status. The counts of their run still include them. A source that still lists
    them does not bring them back; `register --again` does.

    Waits up to a minute for an exporter that restarts. Exit code: 1 if an operation was refused.
    """
    from exporter.terminal.standard_input import ids_of  # noqa: PLC0415 - only this command needs it

    if bool(operation_ids) is (group is not None) or bool(statuses) is not (group is not None):
        raise click.UsageError("expected IDs (or -), or else --group with --status")
    ids, problems = ids_of(given(operation_ids))
    for problem in problems:
        warn(f"standard input: {problem}")
    if group is not None:
        with reading(url, username, password_file, patient=True) as api:
            found = (each for status in statuses for each in api.operations(environment, group=group, status=status))
            ids = list(dict.fromkeys(each["id"] for each in found if each["status"] in _FINAL))
    refused = 0
    with writing(url, environment, token_file) as exporter:
        for operation_id, reason in exporter.forget(ids):
            if reason is None:
                click.echo(f"{operation_id} forgotten")
            else:
                refused += 1
                warn(f"{operation_id}: {reason}")
    warn(f"{len(ids) - refused} forgotten, {refused} refused")
    if refused or problems:
        sys.exit(1)
