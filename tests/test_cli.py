"""The commands and their flags, as typed."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner
from timing import BUSY_SECONDS

from exporter import __version__
from exporter.cli import demo, main, run_command
from exporter.cli.flags import from_standard_input, values_of
from exporter.errors import StartError

if TYPE_CHECKING:
    from click.testing import Result

EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"
KEY = "sk_test_0123456789"
GOOD = f"environments:\n  - name: production\n    api_key: {KEY}\n"
BAD = "environments:\n  - name: production\n    api_key_env: NOT_SET\n    rate_limit: fast\nnope: 1\n"


def call(*args: str, **environ: str) -> Result:
    return CliRunner().invoke(main, args, prog_name="knock-exporter", env=environ)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def test_the_version() -> None:
    result = call("--version")
    assert (result.exit_code, result.output) == (0, f"knock-exporter {__version__}\n")


def test_the_start_does_not_wait_for_what_few_commands_need() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "exporter", "--version"]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUSY_SECONDS).stderr
    imported = {line.rpartition("|")[2].strip() for line in found.splitlines()}
    assert {"click", "exporter", "structlog"} <= imported
    assert imported.isdisjoint({"rich.console", "pydantic", "requests", "starlette"})


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("--version > /dev/full", "standard output cannot be written: No space left on device"),
        ("--version >&-", "standard output cannot be written: Bad file descriptor"),
        ("register - --environment=e --token-file=token <&- >&-", "standard input: names no operation"),
        ("register - --environment=e --token-file=token < /dev/zero", "standard input: is larger than 64 MiB"),
        ("state import --storage.path=new.db < /dev/zero", "line 1: longer than 1048576 bytes; nothing was imported"),
    ],
)
def test_standard_streams_that_are_full_or_closed_or_without_an_end_are_told(
    tmp_path: Path, typed: str, told: str
) -> None:
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef")
    command = ["sh", "-c", f'exec "$0" -m exporter {typed}', sys.executable]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True, timeout=BUSY_SECONDS, check=False
    )
    assert (ended.returncode, ended.stderr) == (1, f"{told}\n")


def test_standard_input_that_cannot_be_read_is_told() -> None:
    def read() -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(StartError, match=r"^standard input cannot be read: Input/output error$"):
        from_standard_input(read)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_commands(flag: str) -> None:
    result = call(flag)
    assert result.exit_code == 0
    assert "Without a command it runs the exporter." in result.output
    for command in ("run", "check-config", "simulate"):
        assert f"\n  {command} " in result.output


def _commands(group: click.Group, *names: str) -> list[tuple[str, ...]]:
    found = [((*names, name), each) for name, each in sorted(group.commands.items())]
    inner = [each for path, command in found if isinstance(command, click.Group) for each in _commands(command, *path)]
    return [path for path, _ in found] + inner


@pytest.mark.parametrize("command", [(), *_commands(main)], ids=" ".join)
def test_each_command_has_help_that_fits_a_terminal(command: tuple[str, ...]) -> None:
    result = call(*command, "--help", COLUMNS="80")
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert lines[0].startswith(" ".join(["Usage: knock-exporter", *command, "["]))
    assert [line for line in lines[1:] if len(line) > 80 or line.endswith("...")] == []


def test_help_of_run_names_flags_variables_and_defaults() -> None:
    text = " ".join(call("run", "--help").output.split())
    for flag, variable, default in (
        ("--config.file", "KNOCK_EXPORTER_CONFIG_FILE", "config.yaml"),
        ("--web.listen-address", "KNOCK_EXPORTER_WEB_LISTEN_ADDRESS", ":10187"),
        ("--web.telemetry-path", "KNOCK_EXPORTER_WEB_TELEMETRY_PATH", "/metrics"),
        ("--log.level", "KNOCK_EXPORTER_LOG_LEVEL", "info"),
        ("--log.format", "KNOCK_EXPORTER_LOG_FORMAT", "logfmt"),
    ):
        assert flag in text
        assert f"env var: {variable}; default: {default}]" in text


@pytest.mark.parametrize("args", [(), ("run",)])
def test_without_a_command_it_runs(args: tuple[str, ...]) -> None:
    result = call(*args, "--config.file=/nowhere/config.yaml")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "/nowhere/config.yaml" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_flag_may_come_from_the_environment() -> None:
    result = call(KNOCK_EXPORTER_CONFIG_FILE="/elsewhere/config.yaml")
    assert result.exit_code == 1
    assert "/elsewhere/config.yaml" in result.stderr


def test_levels_and_formats_are_taken_in_capitals() -> None:
    result = call("--log.level=INFO", "--log.format=JSON", "--config.file=/typed.yaml")
    assert (result.exit_code, "/typed.yaml" in result.stderr) == (1, True)


def test_a_flag_that_is_typed_wins() -> None:
    result = call("--config.file=/typed.yaml", KNOCK_EXPORTER_CONFIG_FILE="/elsewhere/config.yaml")
    assert "/typed.yaml" in result.stderr
    assert "/elsewhere" not in result.stderr


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--web.listen-address=10187", "'10187': expected HOST:PORT or :PORT"),
        ("--web.listen-address=http://localhost:10187", "expected HOST:PORT alone, without http:// and path"),
        ("--web.listen-address=*:10187", "all addresses are written as ':10187'"),
        ("--config.file=~/config.yaml", "begins with ~, which only a shell replaces: write the whole path"),
        ("--web.config.file=~me/web.yaml", "begins with ~, which only a shell replaces: write the whole path"),
        ("--web.listen-address=here:", "'here:': expected HOST:PORT or :PORT"),
        ("--web.listen-address=:65536", "':65536': expected HOST:PORT or :PORT"),
        ("--web.listen-address=:-1", "':-1': expected HOST:PORT or :PORT"),
        ("--web.listen-address=:٣", "expected HOST:PORT or :PORT"),
        ("--web.listen-address=::1:80", "'::1:80': an IPv6 address stands in brackets"),
        ("--web.telemetry-path=metrics", "'metrics': expected a path as in /metrics"),
        ("--web.telemetry-path=/-/ready", "'/-/ready': what stands below /-/ is taken"),
        ("--web.telemetry-path=/api", "'/api': what stands below /api/ is taken"),
        ("--web.external-url=example.com/knock", "expected http(s)://HOST, a port and a path"),
        ("--web.external-url=https://me:hunter2@example.com/", "expected http(s)://HOST"),
        ("--web.external-url=https://example.com/?a=b", "expected http(s)://HOST"),
        ("--web.listen-address=http://me:hunter2@host:80", "expected HOST:PORT alone"),
        ("--web.external-url=https://[2E]/knock", "expected http(s)://HOST"),
        ("--web.external-url=https://example.com/metrics", "the exporter has /metrics for itself"),
        ("--web.external-url=https://example.com/api/v1/", "the exporter has /api for itself"),
        ("--web.external-url=https://example.com/-", "the exporter has /- for itself"),
        ("--web.telemetry-path=/a{b}", "'/a{b}': expected a path"),
        ("--web.telemetry-path=/a b", "'/a b': expected a path"),
        ("--log.level=loud", "'loud' is not one of"),
        ("--log.format=xml", "'xml' is not one of"),
        ("--no-such-flag", "No such option"),
    ],
)
def test_what_is_wrong_with_a_flag_is_told(flag: str, told: str) -> None:
    result = call(flag)
    assert result.exit_code == 2
    assert told in result.stderr
    assert "hunter2" not in result.stderr


def test_an_external_url_does_not_hide_where_the_metrics_are() -> None:
    result = call("--web.external-url=https://example.com/knock", "--web.telemetry-path=/knock/metrics")
    assert result.exit_code == 2
    assert "the exporter has /knock/metrics for itself" in result.stderr


def test_what_is_wrong_with_a_variable_is_told() -> None:
    result = call(KNOCK_EXPORTER_WEB_LISTEN_ADDRESS="127.0.0.1:80 nope")
    assert result.exit_code == 2
    assert "'nope': expected HOST:PORT or :PORT" in result.stderr
    assert "KNOCK_EXPORTER_WEB_LISTEN_ADDRESS" in result.stderr


def test_an_unknown_command_is_told() -> None:
    result = call("fly")
    assert result.exit_code == 2
    assert "No such command 'fly'" in result.stderr


def test_a_start_that_fails_ends_with_its_reason(config_file: Path) -> None:
    config_file.write_text(GOOD)
    result = call(f"--config.file={config_file}", "--web.listen-address=192.0.2.1:80")
    assert result.exit_code == 1
    assert result.stderr == (
        "cannot listen on 192.0.2.1:80: Cannot assign requested address "
        "(choose another address with --web.listen-address)\n"
    )
    result = call(f"--config.file={config_file}", "--web.config.file=/nowhere.yaml", "--web.listen-address=127.0.0.1:0")
    assert (result.exit_code, result.stderr) == (1, "/nowhere.yaml: no such file (named by --web.config.file)\n")


@pytest.mark.parametrize("speed", ["0", "-1", "fast"])
def test_simulate_needs_a_speed(speed: str) -> None:
    result = call("simulate", f"--speed={speed}")
    assert result.exit_code == 2
    assert "'--speed'" in result.stderr


# Completion.

COMPLETING = (
    'source <(knock-exporter completion bash); _knock_exporter_completion knock-exporter; echo "${COMPREPLY[@]}"'
)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["che"], {"check-config", "check-web-config"}),
        ([""], set(main.commands)),
        (["--config"], {"--config.file"}),
        (["get", "--exit"], {"--exit-status"}),
        (["get", "-o", ""], {"table", "json", "metrics"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["check-config", "conf"], set()),  # the shell looks for files itself
    ],
)
def test_bash_completes_commands_flags_and_values(words: list[str], found: set[str]) -> None:
    typed = " ".join(shlex.quote(each) for each in ["knock-exporter", *words])
    script = f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; {COMPLETING}"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": path}, capture_output=True, text=True, check=False, timeout=BUSY_SECONDS
    )
    assert set(done.stdout.split()) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_completion(shell: str) -> None:
    result = call("completion", shell)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"_KNOCK_EXPORTER_COMPLETE={shell}_complete" in result.stdout


def test_flags_are_shown_as_they_are_written() -> None:
    given = [
        "--web.listen-address=[::1]:80",
        "--web.listen-address=:81",
        "--environments=a,b",
        "--web.enable-lifecycle",
    ]
    shown = list(values_of(run_command.make_context("run", given)))
    assert [(name, value) for name, value, is_set in shown if is_set] == [
        ("--web.listen-address", "[::1]:80 :81"),
        ("--web.enable-lifecycle", "true"),
        ("--environments", "a,b"),
    ]
    assert ("--config.file", "config.yaml", False) in shown
    assert not {"--web.config.file", "--web.health-without-password"} & {name for name, _, _ in shown}
    assert list(values_of(demo.make_context("demo", ["--speed=3", "--duration=5m"]))) == [
        ("--web.listen-address", "127.0.0.1:10187", False),
        ("--speed", "3", True),
        ("--duration", "5m", True),
    ]


def test_an_external_url_of_the_demo_is_checked_as_that_of_run() -> None:
    result = call("demo", "--web.external-url=https://example.com/metrics")
    assert result.exit_code == 2
    assert "the exporter has /metrics for itself" in result.stderr
