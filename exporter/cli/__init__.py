"""The commands and their flags, named as Prometheus names its own."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from contextlib import closing
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click import shell_completion

from exporter import __version__
from exporter.cli.check_config import check_config
from exporter.cli.errors import errors
from exporter.cli.flags import (
    Address,
    Duration,
    ExternalUrl,
    FilePath,
    Names,
    OperationId,
    UrlPath,
    check_prefix,
    example,
    flag,
    values_of,
)
from exporter.cli.group import groups
from exporter.cli.listing import forget, list_command
from exporter.cli.register import register
from exporter.cli.state import state
from exporter.cli.watch import watch
from exporter.errors import ExporterError, KnockError, StartError
from exporter.startup import signals_are_taken_over

if TYPE_CHECKING:
    from pathlib import Path

_UNWRITABLE = {errno.EBADF, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}
_SHELLS = {
    "bash": shell_completion.BashComplete,
    "zsh": shell_completion.ZshComplete,
    "fish": shell_completion.FishComplete,
}


def _leave(code: int) -> NoReturn:
    # All is closed and written; the interpreter's own end would wait for worker threads that are still at work.
    os._exit(code)


def _give_up_output() -> None:
    """Have Python drop what it could not write: at its end it would try again, and fail without a word of ours."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _RunByDefault(click.Group):
    """A group whose command may be left out: `knock-exporter --config.file=…` runs the exporter.

    Our own errors end in their message and exit code 1, as does standard output that cannot be written.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        completing = ctx.resilient_parsing and not args  # what comes first is a command
        if not completing and (not args or (args[0].startswith("-") and args[0] not in ("--help", "-h", "--version"))):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[shell_completion.CompletionItem]:
        found = super().shell_complete(ctx, incomplete)
        return found + run_command.shell_complete(ctx, incomplete) if incomplete.startswith("-") else found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ExporterError as error:
            click.echo(str(error), err=True)
            ctx.exit(1)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()  # Python does so too late to say what went wrong
        except OSError as error:
            if error.errno not in _UNWRITABLE or error.filename is not None:  # of a file that has a name
                raise
            _give_up_output()
            if error.errno != errno.EPIPE:  # nobody reads on, as with `head`
                click.echo(f"standard output cannot be written: {error.strerror}", err=True)
            sys.exit(1)


@click.group(cls=_RunByDefault, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="knock-exporter %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Prometheus exporter for Knock bulk operations.

    Without a command it runs the exporter. `knock-exporter COMMAND --help` shows the flags of a command. Most flags
    can also be set by an environment variable; its name is shown with the flag.
    """
    if ctx.invoked_subcommand != run_command.name:  # that one takes the signals over once it is built
        signals_are_taken_over()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


_external_url = flag(
    "web.external-url",
    default=None,
    type=ExternalUrl(),
    help="URL at which users reach the exporter, if it is behind a proxy.",
)


@main.command(name="run", epilog=example("knock-exporter --config.file=config.yaml --storage.path=state.db"))
@flag("config.file", default="config.yaml", type=FilePath(), help="Path of the configuration file.")
@flag(
    "web.listen-address",
    default=[":10187"],
    multiple=True,
    type=Address(),
    help="Address to listen on, HOST:PORT or :PORT. Can be repeated; in the variable, separate with spaces.",
)
@flag("web.telemetry-path", default="/metrics", type=UrlPath(), help="URL path of the metrics.")
@_external_url
@flag(
    "web.config.file",
    default=None,
    type=FilePath(),
    help="Web configuration file (TLS, passwords), in the format of Prometheus' exporter-toolkit.",
)
@flag(
    "web.health-listen-address",
    default=None,
    type=Address(),
    help="Second address that serves /-/healthy and /-/ready only, without TLS and passwords.",
)
@flag("web.health-without-password", is_flag=True, help="Serve /-/healthy and /-/ready without a password.")
@flag("web.enable-lifecycle", is_flag=True, help="Enable POST /-/reload, which reloads the configuration.")
@flag(
    "environments",
    default=None,
    type=Names(),
    help="Names of the environments to follow, separated by commas. Default: all.",
)
@flag(
    "storage.path",
    default=None,
    type=FilePath(),
    help="Path of the state file; overrides storage.path of the configuration.",
)
@flag(
    "log.level",
    default="info",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    help="Lowest level of the events to log.",
)
@flag(
    "log.format",
    default="logfmt",
    type=click.Choice(["logfmt", "json"], case_sensitive=False),
    help="Format of log lines.",
)
def run_command(  # noqa: PLR0913 - one parameter for each flag
    *,
    config_file: Path,
    web_listen_address: tuple[tuple[str, int], ...],
    web_telemetry_path: str,
    web_external_url: str | None,
    web_config_file: Path | None,
    web_health_listen_address: tuple[str, int] | None,
    web_health_without_password: bool,
    web_enable_lifecycle: bool,
    environments: tuple[str, ...] | None,
    storage_path: Path | None,
    log_level: str,
    log_format: str,
) -> None:
    """Run the exporter. This is the default command.

    It stops with exit code 0 after SIGTERM or SIGINT, and reloads its configuration after SIGHUP.
    """
    from exporter import daemon, logs, reloading, servers  # noqa: PLC0415 - the other commands start without these

    check_prefix(web_external_url, web_telemetry_path)
    file = reloading.ConfigFile(config_file, os.environ, environments or (), storage_path)
    settings = file.load()
    flush = logs.set_up(log_level, log_format)
    try:
        flags = servers.Flags(
            web_listen_address,
            web_telemetry_path,
            enable_lifecycle=web_enable_lifecycle,
            external_url=web_external_url,
            web_config_file=web_config_file,
            health_listen_address=web_health_listen_address,
            health_without_password=web_health_without_password,
            shown=tuple(values_of(click.get_current_context())),
        )
        code = daemon.Daemon(settings, flags, os.environ, file).run()
    finally:
        flush()
    _leave(code)


@main.command(
    epilog=example(
        "source <(knock-exporter completion bash)    # in ~/.bashrc",
        "source <(knock-exporter completion zsh)     # in ~/.zshrc",
        "knock-exporter completion fish \\",
        "    > ~/.config/fish/completions/knock-exporter.fish",
    )
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    click.echo(_SHELLS[shell](main, {}, ctx.find_root().info_name or "", "_KNOCK_EXPORTER_COMPLETE").source())


@main.command(name="check-web-config", epilog=example("knock-exporter check-web-config web-config.yaml"))
@click.argument("file", type=FilePath())
def check_web_config(file: Path) -> None:
    """Check a file for --web.config.file.

    The certificates and keys that it names are read too. The exit code is 1 if there is a problem.
    """
    from exporter.web.web_config_watcher import WebConfigWatcher  # noqa: PLC0415 - only this command needs it

    config = WebConfigWatcher(file).config
    tls = "TLS" if config.tls is not None else "no TLS"
    click.echo(f"{file} is good: {tls}, {len(config.users)} users, {len(config.headers)} headers.")


@main.command(epilog=example("knock-exporter simulate --speed=10"))
@flag("web.listen-address", default="127.0.0.1:10188", type=Address(), help="Address to listen on, HOST:PORT.")
@flag(
    "speed",
    default=1.0,
    type=click.FloatRange(min=0, min_open=True),
    help="Factor of time; 10 is ten times as fast. Rate limits scale with it.",
)
@flag(
    "seed",
    default=None,
    type=int,
    help="Seed of the random numbers; the same seed repeats a simulation. Default: random, and printed.",
)
@flag("api-key", default=None, help="The only API key to accept. Default: any key that begins with sk_.")
def simulate(web_listen_address: tuple[str, int], speed: float, seed: int | None, api_key: str | None) -> None:
    """Run a simulated Knock API for tests.

    Its bulk operations are queued, run and fail as those of Knock do. It needs no account and sends nothing.
    """
    from exporter.simulator import LIFELIKE, Simulator, World  # noqa: PLC0415 - only this command needs them

    world = World(seed, speed, shares=LIFELIKE)
    ends: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: ends.put(received))
    try:
        with Simulator(*web_listen_address, world=world, api_key=api_key) as simulator:
            accepted = "the key given" if api_key else "any key that begins with sk_"
            click.echo(f"Knock is simulated at {simulator.url} (speed {speed:g}, seed {world.seed}), with {accepted}.")
            click.echo(
                f"Faults and operations on demand: {simulator.url}/_simulator, see docs/simulator.md. Ctrl-C ends it."
            )
            ends.get()
    except StartError as error:
        raise StartError(f"{error} (choose another address with --web.listen-address)") from None


@main.command(epilog=example("knock-exporter demo --speed=3 --duration=5m"))
@flag("web.listen-address", default="127.0.0.1:10187", type=Address(), help="Address to listen on, HOST:PORT.")
@_external_url
@flag(
    "speed", default=1.0, type=click.FloatRange(min=0, min_open=True), help="Factor of time; 3 is three times as fast."
)
@flag(
    "duration", default=None, type=Duration(), help="Stop after this time, for example 90s or 5m. Default: on Ctrl-C."
)
def demo(
    *, web_listen_address: tuple[str, int], web_external_url: str | None, speed: float, duration: float | None
) -> None:
    """Run the exporter against a simulated Knock.

    Needs no API key and no configuration. Open the printed URL in a browser.
    """
    from exporter import demo as story  # noqa: PLC0415 - only this command needs it
    from exporter import logs, servers  # noqa: PLC0415 - the same

    flags = servers.Flags(
        [web_listen_address],
        external_url=web_external_url,
        shown=tuple(values_of(click.get_current_context())),
        notice="This is the demo, with a simulated Knock. The commands on these pages are for an exporter of your own.",
    )
    check_prefix(flags.external_url, flags.telemetry_path)
    flush = logs.set_up("warning", "logfmt")
    try:
        code = story.run(flags, os.environ, speed, duration, click.echo)
    finally:
        flush()
    _leave(code)


@main.command(epilog=example("knock-exporter get 123e4567-e89b-12d3-a456-426614174000 --exit-status"))
@click.argument("operation_id", metavar="ID", type=OperationId())
@flag("config.file", default=None, type=FilePath(), help="Configuration file with the API key.")
@flag("environment", default=None, help="Name of the environment, if the configuration has several.")
@click.option(
    "-o",
    "--output",
    default="table",
    show_default=True,
    type=click.Choice(["table", "json", "metrics"]),
    help="Output format.",
)
@click.option("--error-items", is_flag=True, help="Print the failed items too. They are often personal data.")
@click.option(
    "--exit-status",
    is_flag=True,
    help="Set the exit code: 1 if the operation failed or has errors, 3 if it is not finished, 4 if Knock does not "
    "tell.",
)
def get(  # noqa: PLR0913 - one parameter for each flag
    operation_id: str,
    *,
    config_file: Path | None,
    environment: str | None,
    output: str,
    error_items: bool,
    exit_status: bool,
) -> None:
    """Ask Knock for one operation and print it.

    The API key is taken from the file of --config.file; without that flag from the variable KNOCK_API_KEY (with
    KNOCK_BASE_URL and KNOCK_BRANCH, as in Knock's SDKs); without that variable from config.yaml.
    """
    from exporter import lookup  # noqa: PLC0415 - only this command needs these
    from exporter.knock.client import connect, read_key  # noqa: PLC0415 - the same
    from exporter.terminal import get as writer  # noqa: PLC0415 - the same
    from exporter.terminal.exit_codes import ExitCode  # noqa: PLC0415 - the same

    asked = lookup.environment_for([operation_id], config_file, environment, os.environ)
    with closing(connect(asked, read_key(asked, os.environ))) as client:
        try:
            operation, document = client.fetch_record(operation_id)
        except KnockError as error:
            if exit_status:
                click.echo(lookup.explained(asked, error), err=True)
                sys.exit(ExitCode.UNKNOWN)
            raise StartError(lookup.explained(asked, error)) from None
    if output == "json":
        writer.write_json(sys.stdout, document, with_items=error_items)
    elif output == "metrics":
        writer.write_metrics(sys.stdout, asked, operation, time.time())
    else:
        listed = document.get("error_items")
        items = (listed if isinstance(listed, list) else []) if error_items else None
        writer.write_table(sys.stdout, asked.name, operation, items, time.time())
    if exit_status:
        sys.exit(writer.exit_status(operation))


main.add_command(check_config)
main.add_command(errors)
main.add_command(list_command)
main.add_command(forget)
main.add_command(groups)
main.add_command(register)
main.add_command(state)
main.add_command(watch)
