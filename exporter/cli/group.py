"""`knock-exporter group`: runs of groups, opened and closed by the jobs that do them; and how groups stand."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.connection import TOKEN_FILE, URL, reading, reads, warn, writing
from exporter.cli.flags import RUN_ID, example, flag
from exporter.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_ENVIRONMENT = flag("environment", required=True, help="Environment of the group.")
_OPERATIONS = click.option("--operations", type=click.IntRange(min=0), help="Number of operations in the run.")


@click.group(name="group")
def groups() -> None:
    """Open and close runs of groups, and list groups.

    A run is one execution of the job that a group stands for, for example one night of a nightly job.
    """


@groups.command(name="open", epilog=example("run=$(knock-exporter group open nightly --operations=1000 --deadline=3h)"))
@click.argument("name", metavar="GROUP")
@URL
@_ENVIRONMENT
@TOKEN_FILE
@flag("run", default=None, type=RUN_ID, help="Id of the run.  [default: the time, for example 20270115T020000Z]")
@_OPERATIONS
@click.option(
    "--deadline",
    default=None,
    help="When the run has to be finished: a duration from its opening, for example 3h, or an RFC 3339 time.",
)
def open_command(  # noqa: PLR0913 - one parameter for each flag
    name: str,
    *,
    url: str,
    environment: str,
    token_file: Path,
    run: str | None,
    operations: int | None,
    deadline: str | None,
) -> None:
    """Open a run of a group and print its id.

    Operations that are registered in GROUP from now on belong to the new run. The run before it ends. If the run is
    open already, its --operations and --deadline are changed.

    Waits up to a minute for an exporter that restarts.
    """
    run = run or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    changes = {key: value for key, value in (("operations", operations), ("deadline", deadline)) if value is not None}
    with writing(url, environment, token_file) as exporter:
        _warn_of_memory(exporter.run(name, run, changes))
    click.echo(run)


@groups.command(epilog=example("knock-exporter group close nightly --run=20270115T020000Z"))
@click.argument("name", metavar="GROUP")
@reads
@_ENVIRONMENT
@TOKEN_FILE
@flag("run", default=None, type=RUN_ID, help="Id of the run.  [default: the group's current one]")
@_OPERATIONS
def close(  # noqa: PLR0913 - one parameter for each flag
    name: str,
    *,
    url: str,
    username: str | None,
    password_file: Path | None,
    environment: str,
    token_file: Path,
    run: str | None,
    operations: int | None,
) -> None:
    """Say that a run has no further operations to start.

    Prints the id of the run and the state of GROUP. If ten minutes later fewer operations are known than --operations
    says, the run counts as incomplete. To give up a run, close it with the number of operations that it has.

    Waits up to a minute for an exporter that restarts.
    """
    if run is None:
        with reading(url, username, password_file, patient=True) as api:
            run = _current(api.group(environment, name), name)
    changes: dict[str, Any] = {"closed": True} | ({} if operations is None else {"operations": operations})
    with writing(url, environment, token_file) as exporter:
        changed = exporter.run(name, run, changes)
    _warn_of_memory(changed)
    now = changed["run"]
    says_nothing = now["expected_operations"] is None and not any(now["operations"].values())
    if says_nothing and now["opened_at"] == now["closed_at"]:
        warn(f"{run} was not open: it was opened with this, and is the run of {name} now (was another id meant?)")
    click.echo(f"{run} {changed['state']}")


@groups.command(name="list", epilog=example("knock-exporter group list --environment=production"))
@reads
@flag("environment", default=None, help="Only groups of this environment.")
@click.option(
    "-o", "--output", default="table", show_default=True, type=click.Choice(["table", "json"]), help="Output format."
)
def list_command(
    *, url: str, username: str | None, password_file: Path | None, environment: str | None, output: str
) -> None:
    """List groups and the progress of their runs."""
    from exporter.terminal import listing  # noqa: PLC0415 - only this command needs it

    with reading(url, username, password_file) as api:
        found = api.groups(environment)
    if output == "json":
        listing.write_json(sys.stdout, found)
    elif not listing.write_groups(sys.stdout, found):
        warn("No groups found.")


def _current(document: Mapping[str, Any], name: str) -> str:
    run = document.get("run")
    if not isinstance(run, dict):
        raise StartError(f"{name} has no run; name one with --run, or open one")
    return str(run["id"])


def _warn_of_memory(document: Mapping[str, Any]) -> None:
    if document.get("durable") is False:
        warn("not durable: the run is forgotten when the exporter restarts, unless its configuration sets storage.path")
