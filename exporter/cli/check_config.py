"""`knock-exporter check-config`: whether a configuration is good, and whether Knock accepts its keys."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.cli.flags import FilePath, Names, example, flag
from exporter.errors import KnockError, StartError
from exporter.values import quoted
from exporter.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exporter.config import Config, EnvironmentSettings
    from exporter.keys import Secret
    from exporter.knock.client import ProbeResult

STDIN = Path("/dev/stdin")
CLOCK_SECONDS = 2.0  # the Date of an answer has whole seconds, and the answer takes a while
CLOCK_MOST = 60.0


@click.command(
    name="check-config",
    epilog=example(
        "knock-exporter check-config config.yaml",
        "knock-exporter check-config --probe    # one request for each environment",
        "sops -d config.enc.yaml | knock-exporter check-config -",
    ),
)
@click.argument("file", type=FilePath(), required=False)
@flag("config.file", default="config.yaml", type=FilePath(), help="Configuration file to check, if FILE is not given.")
@flag(
    "environments",
    default=None,
    type=Names(),
    help="Names of the environments to check, separated by commas. Default: all.",
)
@flag(
    "storage.path",
    default=None,
    type=FilePath(),
    help="Path of the state file; overrides storage.path of the configuration.",
)
@click.option("--print", "printed", is_flag=True, help="Print the effective settings as YAML, with secrets masked.")
@click.option(
    "--probe",
    is_flag=True,
    help="Send one request to Knock for each environment to test key, network and clock. It changes nothing.",
)
def check_config(  # noqa: PLR0913 - one parameter for each flag
    file: Path | None,
    *,
    config_file: Path,
    environments: tuple[str, ...] | None,
    storage_path: Path | None,
    printed: bool,
    probe: bool,
) -> None:
    """Check a configuration file.

    Without FILE it checks the file that `run` would read. FILE may be - for standard input; relative paths in it then
    start at the working directory. All problems are printed with their lines.

    Exit code: 0 if there is no problem (warnings may be printed), 1 if the configuration, a key file or a file of
    operations_files cannot be used or a probe failed, 2 for wrong use of the command line.
    """
    from exporter import config, reloading  # noqa: PLC0415 - pydantic is not needed for --help
    from exporter.knock.client import read_key  # noqa: PLC0415 - the same
    from exporter.sources.files import matches  # noqa: PLC0415 - the same

    path = config_file if file is None else STDIN if str(file) == "-" else file
    loaded = reloading.ConfigFile(path, os.environ, environments or (), storage_path).load()
    keys = {each.name: read_key(each, os.environ) for each in loaded.environments}
    for warning in _warnings(loaded, keys, path):
        click.echo(f"warning: {warning}", err=True)
    good = True
    listed = 0
    for each in loaded.environments:
        ids = {operation.id for operation in each.operations}
        for pattern in each.operations_files:
            paths = sorted(matches(pattern))
            if not paths:
                click.echo(f"warning: operations_files of {each.name}: {pattern} matches no file", err=True)
            for problem in _read_files(paths, loaded, ids):
                click.echo(f"operations_files of {each.name}: {problem}", err=True)
                good = False
        listed += len(ids)
    if printed:
        click.echo(config.effective_yaml(loaded, queries_masked=True), nl=False)
    elif good:
        counts = counted(len(loaded.environments), "environment"), counted(listed, "operation")
        click.echo(f"OK: {', '.join(counts)}")
    if probe:
        probed = [_probe(each, keys[each.name]) for each in loaded.environments]
        good = good and all(probed)
    sys.exit(0 if good else 1)


def _warnings(loaded: Config, keys: dict[str, Secret], path: Path) -> Iterator[str]:
    from exporter.keys import doubt, exposure  # noqa: PLC0415 - only what loads a configuration needs it

    first: dict[tuple[str, str | None, Secret], str] = {}
    for each in loaded.environments:
        key = keys[each.name]
        if problem := doubt(key):
            yield f"API key of {each.name}: {each.key} {problem}"
        other = first.setdefault((each.base_url, each.branch, key), each.name)
        if other != each.name:
            yield f"{other} and {each.name} have the same API key: Knock shows both the same operations"
        for declared in each.groups:
            if declared.every is not None and declared.deadline is None:
                hint = "unless the job gives one, a run that hangs is noticed only when the next one is due"
                yield f"group {quoted(declared.name)} of {each.name} has every, but no deadline: {hint}"
    for file in loaded.secret_files(path):
        if problem := exposure(file):
            yield f"{file} holds a secret, and {problem}"


def _read_files(paths: Iterable[str], loaded: Config, ids: set[str]) -> Iterator[str]:
    """Add the ids of these files to `ids`; yield what is wrong with which."""
    from exporter.sources import files  # noqa: PLC0415 - only what loads a configuration needs it
    from exporter.sources.listing import BrokenList  # noqa: PLC0415 - the same
    from exporter.sources.lists import form_of, parse  # noqa: PLC0415 - the same

    for path in paths:
        mark = files.mark_of(path)
        try:
            content = files.read(path, mark) if mark is not None else None
            if content is not None:
                ids |= {operation.id for operation in parse(content, form_of(path), loaded.labels)}
        except BrokenList as error:
            yield f"{path}: {error}"


def _probe(environment: EnvironmentSettings, key: Secret) -> bool:
    from exporter.knock.client import connect  # noqa: PLC0415 - only --probe needs it

    try:
        with closing(connect(environment, key)) as client:
            result = client.probe()
    except StartError as error:
        click.echo(f"{environment.name}: {error}", err=True)
        return False
    good = result.error is None or result.error.accepted_key
    click.echo(f"{environment.name}: {'; '.join(_probed(environment, result))}", err=not good)
    return good


def _probed(environment: EnvironmentSettings, result: ProbeResult) -> Iterator[str]:
    from exporter.errors import REFUSED_HINT, KeyRefused, RateLimited  # noqa: PLC0415 - only --probe needs them

    error = result.error
    if isinstance(error, KeyRefused):
        yield f"{environment.base_url} does not accept {environment.key} ({error}): {REFUSED_HINT}"
    elif isinstance(error, KnockError) and not error.accepted_key:
        yield f"{environment.base_url}: {error}"
    else:
        yield f"{environment.base_url} accepts the key, and answered in {result.seconds:.2f} s"
    if isinstance(error, RateLimited):
        yield "it answered 429: the rate limit of the account is used up now"
    if environment.branch is not None:
        yield f"branch {environment.branch} was sent (an answer does not show whether it exists)"
    if result.clock_difference is not None:
        apart = abs(result.clock_difference)
        direction = "ahead of" if result.clock_difference > 0 else "behind"
        if apart <= CLOCK_SECONDS:
            yield "clocks agree"
        else:
            doubtful = ": set this machine's clock" if apart > CLOCK_MOST else ""
            yield f"this machine's clock is {apart:.0f} s {direction} Knock's{doubtful}"
    yield f"at most {environment.rate_limit:g} requests a second (rate_limit)"
