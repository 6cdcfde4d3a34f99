"""`knock-exporter watch` as a process: in a real terminal, in a pipe, and with a real Pushgateway."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from fake_exporter import FakeExporter, group, operation, run
from model import ids
from programs import KEY, WEB, Program, free_port, tool, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.simulator import Simulator

pytestmark = pytest.mark.e2e

# Makes its standard error the terminal that Ctrl-C goes through.
BEGIN = "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
PUSHGATEWAY = "prometheus-pushgateway" if shutil.which("prometheus-pushgateway") else "pushgateway"
FINISHED = {"finished_at": "2027-01-15T09:00:00Z"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "exporter", "watch", *arguments]


def environ(knock: Simulator | None = None, **variables: str) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("KNOCK_", "COLUMNS", "LINES"))}
    asked = {} if knock is None else {"KNOCK_API_KEY": KEY, "KNOCK_BASE_URL": knock.url}
    return known | {"TERM": "xterm-256color"} | asked | variables


class Terminal:
    """The program with a terminal of so many columns as its standard error; standard output is a pipe."""

    def __init__(self, width: int, *arguments: str, **variables: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
        self._before, self._slave = termios.tcgetattr(slave), slave
        self._written = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGIN, *command(*arguments)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave, env=variables, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def written(self) -> str:
        return self._written.decode(errors="ignore")

    @property
    def lines(self) -> list[str]:
        """What was written, without what moves and colours."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.written).replace("\r", "\n").split("\n")

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def wait(self) -> tuple[int, str]:
        """Return exit code and standard output at its end."""
        stdout, _ = self.process.communicate(timeout=60)
        return self.process.returncode, stdout.decode()

    def check_tidy(self) -> None:
        until(lambda: self.written.rfind(SHOWN) > self.written.rfind(HIDDEN) >= 0, "the cursor is shown again")
        assert termios.tcgetattr(self._slave) == self._before

    def _read(self) -> None:
        with suppress(OSError):
            while piece := os.read(self._master, 4096):
                self._written += piece

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._slave)  # ends the reader
        self._reader.join()
        os.close(self._master)


@contextmanager
def terminal(width: int, *arguments: str, **variables: str) -> Iterator[Terminal]:
    it = Terminal(width, *arguments, **variables)
    try:
        yield it
    finally:
        it.end()


@pytest.mark.parametrize("width", [80, 200])
def test_bars_until_ctrl_c(knock: Simulator, width: int) -> None:
    made = [knock.world.create(rows=100_000, rows_per_second=100, queue_seconds=0) for _ in range(10)]
    with terminal(width, *made, **environ(knock)) as it:
        for each in made:
            until(lambda wanted=each: any(line.startswith(f"{wanted} processing") for line in it.lines), each)  # type: ignore[misc]
        assert max(map(len, it.lines)) <= width
        it.press(b"\x03")
        assert it.wait() == (130, "")
        it.check_tidy()
        assert "default: interrupted; it runs on" in it.lines


def test_the_result_alone_is_on_standard_output(knock: Simulator) -> None:
    made = knock.world.create(rows=10, queue_seconds=0, rows_per_second=1000)
    with terminal(80, made, "-o", "json", **environ(knock)) as it:
        code, stdout = it.wait()
        it.check_tidy()
        assert (code, json.loads(stdout)["result"]) == (0, "clean")
        assert "default: 1 completed" in it.lines


def test_a_terminal_is_tidy_after_sigterm(knock: Simulator) -> None:
    made = knock.world.create(rows=100_000)
    with terminal(80, made, **environ(knock)) as it:
        until(lambda: made in it.written, "bars")
        it.process.send_signal(signal.SIGTERM)
        assert it.wait()[0] == 143
        it.check_tidy()


def test_of_500_there_are_as_many_bars_as_there_is_room(knock: Simulator) -> None:
    with FakeExporter().running() as fake:
        fake.put(*(operation(each) for each in ids(500)))
        with terminal(80, *ids(500), f"--url={fake.url}", **environ()) as it:
            until(lambda: "and 475 more" in it.written, it.written)
            assert max(map(len, it.lines)) <= 80


@pytest.mark.parametrize("variables", [{"FORCE_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_pipe_gets_plain_lines(knock: Simulator, variables: dict[str, str]) -> None:
    made = knock.world.create(rows=10, queue_seconds=0, rows_per_second=1000)
    done = subprocess.run(command(made), capture_output=True, text=True, check=False, env=environ(knock, **variables))
    assert (done.returncode, done.stdout) == (0, f"{made} completed, 10 of 10 rows\n")
    assert done.stderr.splitlines()[-1] == "default: 1 completed"
    assert "\x1b" not in done.stderr


def test_who_reads_only_the_beginning_is_no_trouble(knock: Simulator) -> None:
    made = knock.world.create(rows=10, queue_seconds=0, rows_per_second=1000)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command(made), stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=environ(knock)
    )
    os.close(writing)
    assert "Traceback" not in done.stderr


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    program = Program(
        [tool(PUSHGATEWAY), f"--web.listen-address={address}", f"--persistence.file={tmp_path}/pushed"],
        tmp_path / "pushgateway.log",
    )
    try:
        url = f"http://{address}"
        until(lambda: program.process.poll() is None and _is_ready(url), lambda: program.output)
        yield url
    finally:
        program.end()


def _is_ready(url: str) -> bool:
    with suppress(OSError):
        return bool(WEB.get(f"{url}/-/ready", timeout=30).ok)
    return False


def _pushed(url: str) -> set[str]:
    lines = WEB.get(f"{url}/metrics", timeout=30).text.splitlines()
    return {line for line in lines if line.startswith("knock_")}


def test_a_pushgateway_holds_the_newest_run_of_a_group(gateway: str) -> None:
    labels = 'group="a/b",instance="",job="knock-exporter-watch",knock_environment="production"'
    with FakeExporter().running() as fake:
        for number, code in (("16", 1), ("17", 0)):
            counts = {"completed": int(number), "failed": code}
            fake.groups["a/b"] = group(run(number, operations=counts, expected_operations=17, **FINISHED), "done")
            flags = ["--group=a/b", f"--url={fake.url}", f"--push-gateway={gateway}"]
            assert subprocess.run(command(*flags), check=False, env=environ()).returncode == code
    pushed = _pushed(gateway)
    assert [line for line in pushed if not line.startswith("knock_group_run_") or labels not in line] == []
    assert f"knock_group_run_expected_operations{{{labels}}} 17" in pushed
    assert f'knock_group_run_operations{{{labels},status="completed"}} 17' in pushed
    assert f'knock_group_run_operations{{{labels},status="failed"}} 0' in pushed


def test_a_pushgateway_holds_operations(gateway: str, knock: Simulator) -> None:
    made = knock.world.create(rows=10, queue_seconds=0, rows_per_second=1000)
    flags = [made, f"--push-gateway={gateway}"]
    assert subprocess.run(command(*flags), check=False, env=environ(knock)).returncode == 0
    (row,) = [line for line in _pushed(gateway) if line.startswith("knock_bulk_operation_rows_processed{")]
    assert f'operation_id="{made}"' in row
    assert row.endswith(" 10")
