"""What a poll costs, and how much of the limit is used: the daemon as a process of its own, Knock as another."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from common import Result, ids, median_seconds
from requests.adapters import HTTPAdapter

from exporter.simulator import Simulator, World

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATIONS, SECONDS = 1000, 10.0
POLLED, SCRAPE_SECONDS = 2000, 15.0  # all with series of their own
BARE_THREADS, BARE_SECONDS, ROUNDS = 8, 5.0, 2
STARTS = 3
LIBRARIES = "click prometheus_client pydantic requests schedule starlette.applications structlog uvicorn yaml"


def serve() -> None:
    """Be Knock, in a process of its own, until standard input closes; writes its URL, then what it saw as JSON."""
    world = World(1)
    with Simulator(world=world, rate_limits=False) as simulator:
        for _ in range(int(sys.argv[2])):
            world.create(rows=1_000_000, queue_seconds=0.0, rows_per_second=50.0, errors=0)
        print(json.dumps({"url": simulator.url, "ids": world.ids()}), flush=True)  # noqa: T201 - it is the protocol
        sys.stdin.readline()
        print(json.dumps([entry.at for entry in simulator.log.entries()]), flush=True)  # noqa: T201 - the same


@contextlib.contextmanager
def knock(operations: int) -> Iterator[tuple[str, list[str], subprocess.Popen[str]]]:
    """Run Knock with so many operations under way; gives its URL, their ids, and the process."""
    with subprocess.Popen(  # noqa: S603 - this very script
        [sys.executable, __file__, "serve", str(operations)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - asked for above
        told = json.loads(process.stdout.readline())
        yield told["url"], told["ids"], process


def _starts(process: subprocess.Popen[str]) -> list[float]:
    """End the simulator and return when requests reached it."""
    out, _ = process.communicate("\n")
    return [float(each) for each in json.loads(out)]


@contextlib.contextmanager
def daemon(url: str, listed: list[str], rate: float, environments: int = 1) -> Iterator[tuple[str, int]]:
    """Run the daemon, with a part of the operations in each environment; gives its address and process id."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        configured = [
            {
                "name": f"production-{number}",
                "api_key": f"sk_benchmark_{number}",
                "base_url": url,
                "operations": listed[number::environments],
                "rate_limit": rate,
                "per_operation_limit": POLLED,
                "polling": {"processing": "1s", "queued": "1s", "slowest": "2s"},
            }
            for number in range(environments)
        ]
        config.write_text(json.dumps({"environments": configured}))
        arguments = ["-m", "exporter", f"--config.file={config}", "--web.listen-address=127.0.0.1:0"]
        with subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
            try:
                yield _address(process), process.pid
            finally:
                process.terminate()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None  # noqa: S101 - asked for
    for line in process.stderr:
        if found := re.search(r"address=(\S+)", line):
            return f"http://{found[1]}"
    raise SystemExit("the daemon did not start")


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used (Linux: proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_memory(pid: int) -> float:
    """Return the MB that a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def limit_use(rate: float) -> list[Result]:
    """Measure at the server how much of a limit is used, and its fullest second, while the daemon is scraped."""
    with knock(OPERATIONS) as (url, listed, process), daemon(url, listed, rate) as (address, pid):
        time.sleep(2.0)  # past the start
        cpu, begin = cpu_seconds(pid), time.monotonic()
        while time.monotonic() - begin < SECONDS:
            urllib.request.urlopen(f"{address}/metrics", timeout=10).read()  # noqa: S310 - our own address
            time.sleep(1.0)
        end = time.monotonic()
        cpu, memory = cpu_seconds(pid) - cpu, resident_memory(pid)
        # Monotonic time is one clock for all processes of a machine.
        starts = [at for at in _starts(process) if begin <= at <= end]
    fullest = max(sum(at <= other < at + 1.0 for other in starts[i : i + 300]) for i, at in enumerate(starts))
    polls = f"{len(starts) / (end - begin):.1f} polls/s; {cpu / len(starts) * 1e6:.0f} µs of CPU each"
    detail = f"{polls}, scrapes included; {memory:.0f} MB"
    return [
        Result(f"use of a limit of {rate:.0f}/s", 100 * len(starts) / (end - begin) / rate, "%", ">= 97", detail),
        Result(f"fullest second at a limit of {rate:.0f}/s", fullest, "polls", f"<= {rate:.0f}"),
    ]


def two_limits(rate: float) -> list[Result]:
    """Measure how much of two limits one process uses."""
    with knock(OPERATIONS) as (url, listed, process), daemon(url, listed, rate, 2) as (_, pid):
        time.sleep(2.0)  # past the start
        cpu, begin = cpu_seconds(pid), time.monotonic()
        time.sleep(SECONDS)
        cpu, seconds = cpu_seconds(pid) - cpu, time.monotonic() - begin
        polls = sum(begin <= at <= begin + seconds for at in _starts(process))
    detail = f"{polls / seconds:.1f} polls/s; {100 * cpu / seconds:.0f}% of a core"
    return [Result(f"use of two limits of {rate:.0f}/s", 50 * polls / seconds / rate, "%", "", detail)]


def poll_cpu(rate: float = 200.0) -> list[Result]:
    """Measure the CPU of a poll, all in, against a bare adapter that sends the same request at the same rate.

    In turns, the daemon stopped while the other one sends: so both meet the same machine.
    """
    rounds: list[tuple[float, float, float]] = []
    bare = []
    with knock(POLLED) as (url, listed, process):
        with daemon(url, listed, rate) as (address, pid):
            time.sleep(POLLED / rate + 2.0)  # until all were asked once: rendering a changed one is the common case
            for _ in range(ROUNDS):
                cpu, begin = cpu_seconds(pid), time.monotonic()
                scrape = urllib.request.Request(f"{address}/metrics", headers={"Accept-Encoding": "gzip"})  # noqa: S310 - our own address
                urllib.request.urlopen(scrape, timeout=10).read()  # noqa: S310 - the same
                time.sleep(begin + SCRAPE_SECONDS - time.monotonic())
                rounds.append((cpu_seconds(pid) - cpu, begin, time.monotonic()))
                os.kill(pid, signal.SIGSTOP)
                bare.append(_bare(url, listed, rate))
                os.kill(pid, signal.SIGCONT)
        starts = _starts(process)
    ours = [cpu / sum(begin <= at <= end for at in starts) for cpu, begin, end in rounds]
    ratio = statistics.median(one / other for one, other in zip(ours, bare, strict=True))
    detail = f"{statistics.median(ours) * 1e6:.0f} µs against {statistics.median(bare) * 1e6:.0f} µs"
    return [Result(f"CPU of a poll at {rate:.0f}/s, all in", ratio, "x a bare one", "<= 1.2", detail)]


def _bare(url: str, listed: list[str], rate: float) -> float:
    """Return the CPU seconds of one request by requests' adapter, its answer read as JSON, sent by some threads."""
    adapter = HTTPAdapter()
    headers = {"Authorization": "Bearer sk_benchmark"}
    count, begin = int(BARE_SECONDS * rate), time.monotonic()

    def send(first: int) -> None:
        for number in range(first, count, BARE_THREADS):
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
            path = f"{url}/v1/bulk_operations/{listed[number % len(listed)]}"
            adapter.send(requests.Request("GET", path, headers=headers).prepare(), timeout=10).json()

    cpu = time.process_time()
    with ThreadPoolExecutor(BARE_THREADS) as threads:
        list(threads.map(send, range(BARE_THREADS)))
    return (time.process_time() - cpu) / count


def start_up() -> list[Result]:
    """Measure the start, to the first answer at /metrics, against importing the libraries alone; then its memory."""
    imports = [sys.executable, "-c", "import " + LIBRARIES.replace(" ", ", ")]

    libraries = median_seconds(lambda: subprocess.run(imports, check=True), STARTS)  # noqa: S603 - as above
    until_answer, idle = _median_until_answer(STARTS)
    detail = f"{until_answer:.2f} s against {libraries:.2f} s"
    return [
        Result("start to first /metrics", until_answer / libraries, "x imports", "<= 1.8", detail),
        Result("memory of an idle exporter", idle, "MB", "<= 64"),
    ]


def _median_until_answer(runs: int) -> tuple[float, float]:
    """Return the seconds that starts take, and the resident memory of the last exporter in MB."""
    times, idle = [], 0.0
    for _ in range(runs):
        begin = time.perf_counter()
        with daemon("http://127.0.0.1:9", ids(10), 20.0) as (address, pid):
            urllib.request.urlopen(f"{address}/metrics", timeout=10).read()  # noqa: S310 - our own address
            times.append(time.perf_counter() - begin)
            idle = resident_memory(pid)
    return sorted(times)[runs // 2], idle


if __name__ == "__main__":
    serve()
