"""`knock-exporter register`: hand ids to a running exporter, from a shell or a CI job."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.connection import TOKEN_FILE, URL
from exporter.cli.flags import RUN_ID, IdOrStdin, example, flag, given

if TYPE_CHECKING:
    from pathlib import Path


class _Label(click.ParamType[tuple[str, str]]):
    name = "k=v"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        label, sign, text = str(value).partition("=")
        if not (label and sign and text):
            self.fail("expected NAME=VALUE, as in team=growth", param, ctx)
        return label, text


@click.command(
    epilog=example(
        "curl -sS … | knock-exporter register - --environment=production \\", "    --token-file=register.token"
    )
)
@click.argument("operation_ids", metavar="ID…|-", nargs=-1, required=True, type=IdOrStdin())
@URL
@flag("environment", required=True, help="Environment of the operations.")
@TOKEN_FILE
@flag("group", default=None, help="Group of the operations.")
@flag("run", default=None, type=RUN_ID, help="Id of the run that they belong to. A run with a new id is opened.")
@click.option("--label", "labels", multiple=True, type=_Label(), help="Extra label of the operations. Can be repeated.")
@flag("again", is_flag=True, help="Follow operations again that were forgotten, retired or lost.")
def register(  # noqa: PLR0913 - a parameter for each flag
    operation_ids: tuple[str, ...],
    *,
    url: str,
    environment: str,
    token_file: Path,
    group: str | None,
    run: str | None,
    labels: tuple[tuple[str, str], ...],
    again: bool,
) -> None:
    """Tell a running exporter to follow operations.

    Give IDs, or - to read standard input: one id a line, or the JSON that Knock answered to the calls that started the
    operations.

    Waits up to a minute for an exporter that restarts. Exit code: 0 if all were accepted, else 1.
    """
    from exporter.terminal.register import Registrar, RegistrarIO, Sender, Target  # noqa: PLC0415 - only this command

    items, problems = given(operation_ids)
    for problem in problems:
        click.echo(f"standard input: {problem}", err=True)
    target = Target(url, environment, group, labels, again, run)
    with closing(Sender(target, token_file, os.environ)) as sender:
        outside = RegistrarIO(sender, click.echo, lambda line: click.echo(line, err=True))
        complete = Registrar(url, outside).register(items)
    if problems or not complete:
        sys.exit(1)
