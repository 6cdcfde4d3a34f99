"""Real programs for tests: started on free ports, watched through what they say, ended by their process id."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import pytest
import requests
import yaml
from forkserver import Forked
from prometheus_client.parser import text_string_to_metric_families
from timing import BUSY_SECONDS

from exporter.simulator import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.samples import Sample

TOOLS = Path(__file__).parents[2] / ".tools"
KEY = "sk_test_0123456789abcdef"
TOKEN = "0123456789abcdef0123456789abcdef"
COMMAND = ("-m", "exporter")  # what users run, where a start or its cost is tested
LOOK_SECONDS, SELDOM_SECONDS = 0.05, 0.25
os.environ |= {"GOGC": "400", "GOMEMLIMIT": "1GiB"}  # helm and promtool, started a thousand times, take a third less
WEB = requests.Session()
WEB.trust_env = False  # no proxy stands between a test and this machine


def until(condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = 0.0) -> Any:
    """Wait until a condition holds and return what it said; fail with `what` after these seconds and BUSY_SECONDS.

    Most conditions scrape: the longer one has waited, the less often it is looked at.
    """
    began = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - began
        if waited >= seconds + BUSY_SECONDS:
            pytest.fail(f"not within {seconds + BUSY_SECONDS} s: {what if isinstance(what, str) else what()}")
        time.sleep(min(max(LOOK_SECONDS, waited / 20), SELDOM_SECONDS))
    return found


def tool(name: str, line: int | None = None) -> str:
    """Find a program (of Prometheus line 2 or 3; 3 stands for 3 and later), or skip and say how to get it.

    With KNOCK_TEST_REQUIRE_TOOLS=1 a missing one is a failure.
    """
    candidates = [Path(folder) / name for folder in os.get_exec_path()] + [TOOLS / "later" / "usr" / "bin" / name]
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and (line is None or _is_of_line(candidate, line)):
            return str(candidate)
    fallen_back = TOOLS / "no-later-prometheus"
    if line == 3 and fallen_back.exists():
        pytest.skip(fallen_back.read_text().strip())
    missing = f"{name}{f' {line}.x' if line else ''} is missing: run tests/e2e/get-tools, or put it on PATH"
    return do_without(missing)


def run(*command: object) -> str:
    """Run a program to its end, which must be a good one, and return what it said."""
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port() -> int:
    """Return a port of this machine that nobody has; for what has to come back where it was."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port: int = taken.getsockname()[1]
        return port


def do_without(missing: str) -> NoReturn:
    """Skip because a tool is missing; with KNOCK_TEST_REQUIRE_TOOLS=1 that is a failure."""
    if os.environ.get("KNOCK_TEST_REQUIRE_TOOLS") == "1":
        pytest.fail(missing)
    pytest.skip(missing)


@cache
def _is_of_line(program: Path, line: int) -> bool:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"version (\d+)\.\d+\.\d+", said.stdout + said.stderr)
    return version is not None and (int(version[1]) == 2) == (line == 2)


class Program:
    """A process; what it says on both streams is in `output`."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as stream:
            self.process = self._begin(command, stream)

    def _begin(self, command: Sequence[str], stream: BinaryIO) -> subprocess.Popen[bytes] | Forked:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        return self.log.read_text()

    def said(self, pattern: str, count: int = 1, seconds: float = 20.0) -> list[Any]:
        """Wait until it has said something so many times, and return that as re.findall does."""

        def look() -> list[Any] | None:
            found = re.findall(pattern, self.output)
            assert found or self.process.poll() is None, f"it ended: {self.output}"
            return found if len(found) >= count else None

        found: list[Any] = until(look, lambda: f"{pattern!r} in: {self.output}", seconds)
        return found

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        """Wait for its end and return its exit code."""
        return self.process.wait(seconds)

    def end(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Exporter(Program):
    """The exporter as users run it; forked, unless it is to be what follows `python`."""

    def __init__(
        self, folder: Path, args: Sequence[str], environ: Mapping[str, str], program: Sequence[str] = ()
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KNOCK_")}
        self._program, self._environ, self._url = program, inherited | dict(environ), ""
        super().__init__(args, folder / "exporter.log")

    def _begin(self, command: Sequence[str], stream: BinaryIO) -> subprocess.Popen[bytes] | Forked:
        if not self._program:
            return Forked(command, stream, self._environ)
        whole = [sys.executable, *self._program, *command]
        return subprocess.Popen(
            whole, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=self._environ
        )

    def urls(self, count: int = 1) -> list[str]:
        """Wait until it listens on so many addresses and is ready; return where."""
        found = [f"http://{address}" for address in self.said(r"event=listening address=(\S+)", count)]
        self._url = found[0]
        until(lambda: WEB.get(f"{found[0]}/-/ready", timeout=30).ok, "ready")
        return found

    @property
    def url(self) -> str:
        """Where it listens, once that was waited for."""
        return self._url or self.urls()[0]

    def get(self, path: str, **headers: str) -> requests.Response:
        return WEB.get(self.url + path, headers=headers, timeout=30)

    def metrics(self) -> str:
        answer = self.get("/metrics")
        assert answer.status_code == 200
        return answer.text

    def samples(self, name: str, /, **labels: str) -> list[Sample]:
        """Return the samples of a name that have these labels."""
        # To parse all that is there takes longer than to write it, for whom waits for something.
        lines = re.findall(rf"(?m)^{name}[{{ ].*\n", self.metrics())
        return [
            sample
            for family in text_string_to_metric_families("".join(lines))
            for sample in family.samples
            if labels.items() <= sample.labels.items()
        ]

    def values(self, name: str, /, **labels: str) -> dict[str, float]:
        """Return the values of a per-operation family, by operation id."""
        return {each.labels["operation_id"]: each.value for each in self.samples(name, **labels)}

    def value(self, name: str, /, **labels: str) -> float | None:
        """Return the sum of the samples of a name that have these labels, None where there is none."""
        found = self.samples(name, **labels)
        return sum(each.value for each in found) if found else None

    def register(
        self, body: Any, environment: str = "production", token: str = TOKEN, **query: str
    ) -> requests.Response:
        """Hand operations over."""
        address = f"{self.url}/api/v1/operations/{environment}"
        return WEB.post(address, json=body, params=query, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    def put_run(self, group: str, run: str, environment: str = "production", **says: Any) -> None:
        """Open a run of a group, or say more of it."""
        address = f"{self.url}/api/v1/groups/{environment}/{group}/runs/{run}"
        answer = WEB.put(address, json=says, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
        assert answer.status_code == 200, answer.text

    def release(self, operation_id: str, environment: str = "production", token: str = TOKEN) -> requests.Response:
        """Drop an operation."""
        address = f"{self.url}/api/v1/operations/{environment}/{operation_id}"
        return WEB.delete(address, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    def kill(self) -> None:
        """End it as the power does."""
        self.process.kill()
        self.process.wait()


class Starter:
    """Starts exporters of one test, each with a configuration of its own, and ends them."""

    def __init__(self, folder: Path, program: Sequence[str] = ()) -> None:
        self.folder = folder
        self._program = program
        self.key_file = folder / "knock.key"
        self.started: list[Program] = []
        self.whole: dict[str, Any] = {}  # settings next to the environments
        self.use_key(KEY)

    def use_key(self, key: str) -> None:
        """Put the key in place as Kubernetes does: whole, at once."""
        self._place(self.key_file, key)

    def use_token(self, token: str = TOKEN, name: str = "register") -> Path:
        """Put a token of registration in place, and have the configuration name it; return where it is."""
        file = self._place(self.folder / f"{name}.token", token)
        tokens = self.whole.setdefault("registration", {"tokens": []})["tokens"]
        if (entry := {"token_file": file.name}) not in tokens:
            tokens.append(entry)
        return file

    def keep_state(self) -> Path:
        """Have the configuration keep state; return where."""
        self.whole["storage"] = {"path": "state.db"}
        return self.folder / "state.db"

    def _place(self, file: Path, text: str) -> Path:
        fresh = file.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o600)
        return fresh.replace(file)

    def configure(self, url: str, operations: Sequence[str | dict[str, str]] = (), **settings: Any) -> Path:
        """Write a configuration with one environment."""
        environment = {"name": "production", "api_key_file": "knock.key", "base_url": url, "operations": [*operations]}
        file = self.folder / "config.yaml"
        file.write_text(yaml.safe_dump({"environments": [environment | settings]} | self.whole))
        return file

    def run(self, *args: str, **environ: str) -> Exporter:
        """Start the exporter with these arguments and variables, whether it comes up or not."""
        exporter = Exporter(self.folder, args, environ, self._program)
        self.started.append(exporter)
        return exporter

    def __call__(self, url: str, operations: Sequence[str] = (), *args: str, **settings: Any) -> Exporter:
        """Start the exporter on a free port, following these operations of the Knock at `url`."""
        file = self.configure(url, operations, **settings)
        exporter = self.run(f"--config.file={file}", "--web.listen-address=127.0.0.1:0", *args)
        exporter.urls()
        return exporter

    def end(self) -> None:
        for program in self.started:
            program.end()


class Hands:
    """A simulator's clock that is moved by hand, so that nothing changes before a test has seen how it was."""

    def __init__(self) -> None:
        self.passed = 0.0
        began = time.time()
        self.clock = Clock(lambda: self.passed, lambda: began + self.passed)


class Relay:
    """Hands scrapes on to an exporter and keeps the headers of both sides."""

    def __init__(self, target: str) -> None:
        relay = self
        self.exchanges: list[tuple[Mapping[str, str], Mapping[str, str]]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = WEB.get(target + self.path, headers=dict(self.headers), stream=True, timeout=30)
                body = answer.raw.read(decode_content=False)
                self.send_response(answer.status_code)
                for name in ("Content-Type", "Content-Encoding"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                relay.exchanges.append((dict(self.headers), answer.headers))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Relay]:
        thread = threading.Thread(target=self._server.serve_forever, args=(LOOK_SECONDS,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
