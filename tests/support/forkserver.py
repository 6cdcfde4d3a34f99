"""Exporters forked from a process that has imported them: a start takes a quarter of the CPU seconds of the command's.

What differs from the command is where the modules come from. A process has its own number, streams, environment,
folder, signals, memory and exit code, and runs `exporter/__main__.py` from its first line.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PRELOADED = ("exporter.cli", "exporter.daemon", "exporter.logs", "uvicorn.lifespan.off", "uvicorn.loops.asyncio")
MOST = 1 << 17  # bytes of arguments and variables
# Without what a start imports for `site`: it only hands on.
COMMAND = """#!{python} -IS
import json, os, socket, sys
reads, writes = os.pipe()
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    request = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(server, [request], [0, 1, 2, writes])
os.close(writes)
with os.fdopen(reads) as told:
    told.readline()
    code = int(told.readline())
sys.exit(code if code >= 0 else 128 - code)
"""


class Forked:
    """An exporter; what tests use of a `subprocess.Popen`."""

    def __init__(self, args: Sequence[str], stream: BinaryIO, environ: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        reads, writes = os.pipe()
        self._told = os.fdopen(reads, "rb", buffering=0)
        request = json.dumps([[*args], dict(environ), str(Path.cwd())]).encode()
        with os.fdopen(writes, "wb") as end, Path(os.devnull).open("rb") as nothing:
            streams = [nothing.fileno(), stream.fileno(), stream.fileno()]
            socket.send_fds(_server().ours, [request], [*streams, end.fileno()])
        self.pid = int(self._told.readline())

    def poll(self) -> int | None:
        """Return the exit code, negative where a signal ended it; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return the exit code."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"exporter {self.pid}", timeout or 0.0)
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as the power does."""
        self.send_signal(signal.SIGKILL)


class Server(NamedTuple):
    """The process that forks: asked through `ours`, or through a socket at `address`."""

    ours: socket.socket
    address: Path


@cache
def _server() -> Server:
    folder = tempfile.TemporaryDirectory(prefix="forkserver-")
    address = Path(folder.name, "socket")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(address))
        listening.listen()
        descriptors = [theirs.fileno(), listening.fileno()]
        command = [sys.executable, "-P", __file__, *map(str, descriptors)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=descriptors)

    def end() -> None:
        ours.close()
        process.wait()
        folder.cleanup()

    atexit.register(end)
    return Server(ours, address)


@cache
def forked_command() -> Path:
    """Return a `knock-exporter`, alone in its folder but for a socket, that is forked: with the streams of its caller.

    A signal to it ends it, not what is forked.
    """
    address = _server().address
    command = address.with_name("knock-exporter")
    command.write_text(COMMAND.format(python=sys.executable, address=str(address)))
    command.chmod(0o755)
    return command


def next_start(asked: socket.socket, listening: socket.socket) -> list[str]:
    """Fork for each request that comes; return in each process that is to be an exporter, with its arguments.

    Between it and the server is a process that waits for its end and tells how it was.
    """
    while True:
        ready, _, _ = select.select([asked, listening], [], [])
        if asked in ready:
            request, descriptors, _, _ = socket.recv_fds(asked, MOST, 4)
            if not request:
                os._exit(0)
        else:
            with listening.accept()[0] as caller:
                request, descriptors, _, _ = socket.recv_fds(caller, MOST, 4)
        *streams, told = descriptors
        if os.fork() == 0:
            exporter = os.fork()
            if exporter == 0:
                asked.detach()
                listening.detach()
                return _become(streams, *json.loads(request))
            os.write(told, b"%d\n" % exporter)
            os.closerange(0, told)
            os.write(told, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(exporter, 0)[1]))
            os._exit(0)
        for each in descriptors:
            os.close(each)
        with contextlib.suppress(ChildProcessError):  # there is none yet, or none left
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _become(streams: Sequence[int], args: list[str], environ: Mapping[str, str], folder: str) -> list[str]:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    return args


if __name__ == "__main__":
    for each in PRELOADED:
        importlib.import_module(each)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C; tests end exporters in their own order
    asked, listening = (socket.socket(fileno=int(each)) for each in sys.argv[1:])
    sys.argv[1:] = next_start(asked, listening)
    runpy.run_module("exporter", run_name="__main__", alter_sys=True)
