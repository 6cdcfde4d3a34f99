"""`knock-exporter list` and `knock-exporter forget`: what a running exporter follows, and what it is to drop."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from exporter.cli.connection import TOKEN_FILE, reading, reads, warn, writing
from exporter.cli.flags import RUN_ID, IdOrStdin, example, flag, given

if TYPE_CHECKING:
    from pathlib import Path

# As the API takes them; a test compares both.
STATUSES = (
    *("pending", "queued", "processing", "completed", "failed", "unknown", "lost"),
    *("unfinished", "needs_attention", "with_errors", "stalled", "stale"),
)
_FINAL = ("completed", "failed", "lost")


@click.command(name="list", epilog=example("knock-exporter list --group=nightly --status=failed -o ids"))
@reads
@flag("environment", default=None, help="Only those of this environment.")
@flag("group", default=None, help="Only those of this group.")
@flag("run", default=None, type=RUN_ID, help="Only those of the run with this id.")
@click.option("--name", default=None, help="Only those that Knock calls so, as in users.identify.")
@click.option(
    "--status",
    default=None,
    type=click.Choice(STATUSES),
    metavar="STATUS",
    help=f"Only those with this status: {', '.join(STATUSES)}.",
)
@click.option("--id", "part", default=None, help="Only those whose id has this part.")
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
    """List the operations of a running exporter.

    Unfinished ones first, then failed ones, then the rest.
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
            warn("No operations found.")


@click.command(
    epilog=example("knock-exporter forget --environment=prod --token-file=token --group=nightly --status=failed")
)
@click.argument("operation_ids", metavar="[ID…|-]", nargs=-1, type=IdOrStdin())
@reads
@flag("environment", required=True, help="The environment that the operations run in.")
@TOKEN_FILE
@click.option("--group", default=None, help="Those of this group that stand as --status says, and are finished.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(["failed", "with_errors"]),
    help="Which of the group. Repeatable.",
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
    """Drop operations from a running exporter.

    Such as those that failed and were handled, so that they are no longer listed. They are named by their ID, from
    standard input (with -), or by their group. The sums of their run keep them, a list that still names them does
    not bring them back, and `register --again` does. Waits up to a minute for an exporter that restarts. The exit
    code is 1 if any was refused.
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
