"""`knock-exporter watch`: wait for operations or for a run of a group, and say by the exit code how it ended."""

from __future__ import annotations

import math
import os
import signal
import sys
from contextlib import closing, contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click
from click.core import ParameterSource

from exporter.cli.connection import check_password_flags, credentials_of, environment_of, with_password
from exporter.cli.flags import (
    EXPORTER_URL,
    RUN_ID,
    Checked,
    Duration,
    ExporterUrl,
    FilePath,
    IdOrStdin,
    example,
    flag,
    given,
)
from exporter.errors import ExporterError, StartError
from exporter.operation import is_operation_id
from exporter.values import InvalidValue, check_address, check_label_value, check_operation_id, check_run_id
from exporter.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import FrameType

    from exporter.terminal.exporter_api import ExporterApi
    from exporter.terminal.watch.core import Frame
    from exporter.terminal.watch.follow import WatchClock, Watching
    from exporter.tracking.transitions import Moment

THREADS = 8  # requests to Knock at once, where the configuration allows as many
TERMINATED = 143


class _TextFile(FilePath):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        if path.suffix != ".prom":
            self.fail(f"{str(path)!r} must end in .prom: node_exporter reads no other files", param, ctx)
        return path


@click.command(
    epilog=example(
        "knock-exporter watch 123e4567-e89b-12d3-a456-426614174000",
        "curl -sS … | knock-exporter watch - -o json",
        "knock-exporter watch --group nightly --run 17 --url http://127.0.0.1:10187",
    )
)
@click.argument("operation_ids", metavar="[ID…|-]", nargs=-1, type=IdOrStdin())
@flag(
    "group",
    default=None,
    type=Checked("group", check_label_value),
    help="Wait for a run of this group instead of for IDs.",
)
@flag("run", default=None, type=RUN_ID, help="Id of the run.  [default: the open one]")
@flag(
    "url",
    default=None,
    type=ExporterUrl(),
    help=f"Ask this exporter instead of Knock.  [default with --group: {EXPORTER_URL}]",
)
@with_password
@flag("config.file", default=None, type=FilePath(), help="Configuration file with the API key, to ask Knock.")
@flag("environment", default=None, help="Name of the environment, if there are several.")
@flag("timeout", default=None, type=Duration(), help="Stop waiting after this time, for example 90m, with exit code 3.")
@click.option("--allow-errors", is_flag=True, help="Exit with 0 even if operations completed with errors.")
@click.option(
    "-o",
    "--output",
    default="table",
    show_default=True,
    type=click.Choice(["table", "json"]),
    help="Output format.",
)
@flag(
    "textfile",
    default=None,
    type=_TextFile(),
    help="Write metrics to this file, for the textfile collector of node_exporter.",
)
@flag("push-gateway", default=None, type=Checked("url", check_address), help="Push metrics to this Pushgateway.")
@click.pass_context
def watch(ctx: click.Context, /, **flags: Any) -> None:
    """Wait until operations or a run are finished.

    Give IDs, - to read them from standard input, or --group. Operations are read from Knock, with the API key found as
    by `get`, or from a running exporter (--url). Progress goes to standard error, the result to standard output.

    Exit code: 0 all completed without errors; 1 failed, lost, with errors, or the run is incomplete or was replaced by
    a newer one; 2 wrong use of the command line, or nothing to watch; 3 not finished at --timeout; 4 Knock or the
    exporter cannot be asked; 130 interrupted.
    """
    from exporter.terminal.exit_codes import ExitCode  # noqa: PLC0415 - the same
    from exporter.terminal.exporter_api import ApiError  # noqa: PLC0415 - only this command needs these

    wanted = _wanted(ctx, flags)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = _watch(wanted)
    except ApiError as error:
        click.echo(str(error), err=True)
        code = ExitCode.UNKNOWN
    except ExporterError as error:
        click.echo(str(error), err=True)
        code = ExitCode.USAGE
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    sys.exit(code)


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)  # an exception: the terminal is left tidy


class _Wanted(NamedTuple):
    """The flags, with what follows from which of them were typed."""

    operation_ids: tuple[str, ...]
    group: str | None
    run: str | None
    url: str | None
    username: str | None
    password_file: Path | None
    config_file: Path | None
    environment: str | None
    timeout: float | None
    allow_errors: bool
    output: str
    textfile: Path | None
    push_gateway: str | None


def _wanted(ctx: click.Context, flags: dict[str, Any]) -> _Wanted:
    """Settle what is asked for: what is typed wins over variables, which are set for other commands too."""

    def typed(name: str) -> bool:
        return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE

    wanted = _Wanted(**flags)
    if wanted.operation_ids and (typed("group") or typed("run")):
        raise click.UsageError("ids, or --group with --run: not both")
    if wanted.operation_ids:
        wanted = wanted._replace(group=None, run=None)
    elif wanted.group is None:
        raise click.UsageError("nothing to watch: name operations by their ID, - for standard input, or a --group")
    if wanted.group is not None:
        wanted = wanted._replace(url=wanted.url or EXPORTER_URL)
    elif typed("config_file") and not typed("url"):
        wanted = wanted._replace(url=None)
    check_password_flags(wanted.username, wanted.password_file)
    return wanted


def _watch(wanted: _Wanted) -> int:
    from exporter.terminal.exit_codes import ExitCode  # noqa: PLC0415 - the same
    from exporter.terminal.exporter_api import ApiError  # noqa: PLC0415 - only this command needs these
    from exporter.terminal.watch import result  # noqa: PLC0415 - the same
    from exporter.terminal.watch.core import WatchOutcome  # noqa: PLC0415 - the same
    from exporter.terminal.watch.follow import WatchClock, follow  # noqa: PLC0415 - the same
    from exporter.terminal.watch.metrics import MetricsOutput  # noqa: PLC0415 - the same
    from exporter.terminal.watch.screen import shown  # noqa: PLC0415 - the same

    clock = WatchClock()
    began = clock.monotonic()
    until = math.inf if wanted.timeout is None else began + wanted.timeout
    ids, problems = _ids(wanted.operation_ids)
    with _watching(wanted, ids, clock) as watching:
        with shown(sys.stderr, clock.monotonic) as (show, say):
            metrics = MetricsOutput(wanted.textfile, wanted.push_gateway, say)

            def seen(frame: Frame, at: Moment) -> None:
                metrics.update(watching.state, at.mono)
                show(frame, at)

            try:
                outcome = follow(watching, seen, clock, until, allow_errors=wanted.allow_errors)
            except KeyboardInterrupt:
                outcome = WatchOutcome(ExitCode.INTERRUPTED, "interrupted; it runs on")
            else:
                metrics.write(watching.state)
        if problems and outcome.code is ExitCode.CLEAN:
            outcome = WatchOutcome(ExitCode.FAILED, f"{outcome.text}; not all of standard input was operations")
        click.echo(f"{watching.state.title}: {outcome.text}", err=True)
        if outcome.code is ExitCode.INTERRUPTED:
            return outcome.code
        try:
            ended = watching.ended()
        except ApiError as error:
            click.echo(str(error), err=True)
            ended = []
    if wanted.output == "json":
        result.write_json(sys.stdout, watching.state, outcome, ended, clock.monotonic() - began)
    else:
        result.write_lines(sys.stdout, ended)
    return outcome.code


def _ids(operation_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the ids to watch, and what is wrong with the rest of standard input, which is said."""
    items, problems = given(operation_ids)
    ids: list[str] = []
    for each in items:
        text = each if isinstance(each, str) else str(each["id"])
        try:
            ids.append(check_operation_id(text))
        except InvalidValue as error:
            problems.append(str(error))
    for problem in problems:
        click.echo(f"standard input: {problem}", err=True)
    if operation_ids and not ids:
        raise StartError("nothing to watch")
    return list(dict.fromkeys(ids)), problems


@contextmanager
def _watching(wanted: _Wanted, ids: list[str], clock: WatchClock) -> Iterator[Watching]:
    if wanted.url is None:
        with _of_knock(wanted, ids, clock) as watching:
            yield watching
        return
    from exporter.terminal.exporter_api import Connection, ExporterApi, Retrying  # noqa: PLC0415 - rarely needed
    from exporter.terminal.watch import follow, operations  # noqa: PLC0415 - the same
    from exporter.terminal.watch.run import WatchedRun  # noqa: PLC0415 - the same

    credentials = credentials_of(wanted.username, wanted.password_file)
    with closing(Connection(wanted.url, credentials, os.environ)) as connection:
        seconds = math.inf if wanted.timeout is None else wanted.timeout
        patiently = Retrying(wanted.url, lambda line: click.echo(line, err=True), seconds=seconds)
        at_first = ExporterApi(wanted.url, lambda address: patiently(lambda: connection.send(address)))
        api = ExporterApi(wanted.url, connection.send)
        environment = environment_of(at_first, wanted.environment)
        title = environment
        if wanted.group is not None:
            run = wanted.run or _open_run(at_first, environment, wanted.group)
            if run is not None:
                yield follow.RunWatching(WatchedRun(environment, wanted.group, run), api, clock)
                return
            ids, title = _unfinished(at_first, environment, wanted.group), wanted.group
        watched = replace(operations.begin(title, environment, ids, clock.now), asked=wanted.url)
        yield follow.ApiWatching(watched, api, clock)


@contextmanager
def _of_knock(wanted: _Wanted, ids: list[str], clock: WatchClock) -> Iterator[Watching]:
    from exporter import lookup  # noqa: PLC0415 - not for what an exporter is asked
    from exporter.knock.client import connect, read_key  # noqa: PLC0415 - the same
    from exporter.send_window import SendWindow  # noqa: PLC0415 - the same
    from exporter.terminal.watch import follow, operations  # noqa: PLC0415 - the same

    settings = lookup.environment_for(ids, wanted.config_file, wanted.environment, os.environ)
    together = min(settings.max_in_flight, THREADS)
    window = SendWindow(settings.rate_limit)
    with closing(connect(settings, read_key(settings, os.environ))) as client:
        yield follow.KnockWatching(
            operations.begin(settings.name, settings.name, ids, clock.now, settings.polling),
            follow.FetchThreads(lambda each: client.fetch(each, window.slot()), together),
            clock,
            limit=settings.rate_limit,
            together=together,
            explain=lambda error: lookup.explained(settings, error),
        )


def _open_run(api: ExporterApi, environment: str, group: str) -> str | None:
    """Return the id of a group's run, None where it has none. Raises StartError for a group that is not known."""
    from exporter.terminal.exporter_api import ApiError  # noqa: PLC0415 - only this command needs it

    try:
        run = api.group(environment, group).get("run")
    except ApiError as error:
        if error.attempt.status != HTTPStatus.NOT_FOUND:
            raise
        raise StartError(f"nothing to watch: {error}") from None
    try:
        return check_run_id(str(run["id"])) if isinstance(run, dict) and "id" in run else None
    except InvalidValue as error:
        raise StartError(f"{api.url}: the run of {group} {error}") from None


def _unfinished(api: ExporterApi, environment: str, group: str) -> list[str]:
    """Return the ids of what is unfinished in a group that has no run, and say so. Raises StartError for none."""
    found = [str(each.get("id")) for each in api.operations(environment, group=group, status="unfinished")]
    ids = [each for each in found if is_operation_id(each)]
    if not ids:
        raise StartError(f"nothing to watch: {group} has no run, and no operation that is unfinished")
    click.echo(
        f"{group} has no run: watching {counted(len(ids), 'operation that is', 'operations that are')} unfinished now",
        err=True,
    )
    return ids
