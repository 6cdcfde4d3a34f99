"""The way of an alert: a real Prometheus with our rules, a real Alertmanager, and who is told."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import promql
import rules
import yaml
from programs import LOOK_SECONDS, WEB, Program, free_port, tool, until
from promtool import MONITORING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

# What Debian calls it, or what it is called elsewhere.
ALERTMANAGER = "prometheus-alertmanager" if shutil.which("prometheus-alertmanager") else "alertmanager"
# The causes are real, only patience is shorter.
HASTY = {
    **dict.fromkeys(
        ("failed_stand_for", "stale_for", "lost_for", "down_for", "unwatched_for", "watched_twice_for"), "1s"
    ),
    **dict.fromkeys(("key_refused_for", "unreachable_for", "rate_limited_for", "config_for", "keep_firing"), "1s"),
    "stalled_seconds": 4,
    "queued_seconds": 4,
    "nothing_finished_seconds": 4,
    "source_broken_seconds": 2,
    "news_seconds": 20,
    "state_not_written_seconds": 8,
    "rate_limited_over": "10s",
    "stuck_seconds": 10,
    "forecast_for": "1s",
    "incomplete_seconds": 2,
    "disabled": [],
    "dashboards": "https://grafana.example/d",
}


def hasty_rules(folder: Path) -> list[Path]:
    """Write the rules by thresholds of seconds."""
    folder.mkdir()
    thresholds = folder / "thresholds"
    thresholds.write_text(yaml.safe_dump(yaml.safe_load(rules.THRESHOLDS.read_text()) | HASTY))
    for name, text in rules.documents(thresholds).items():
        (folder / name).write_text(text)
    return sorted(folder.glob("*.yaml"))


@dataclass
class Told:
    """A webhook: keeps the notifications that it got."""

    notifications: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def alerts(self, name: str, status: str = "firing", **labels: str) -> list[dict[str, Any]]:
        """Return the alerts of a name that were told with this status."""
        wanted = {"alertname": name, **labels}.items()
        return [
            alert
            for notification in list(self.notifications)
            for alert in notification["alerts"]
            if alert["status"] == status and wanted <= alert["labels"].items()
        ]

    @contextlib.contextmanager
    def listening(self) -> Iterator[Told]:
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.notifications.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(LOOK_SECONDS,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def hasty_alertmanager(folder: Path, told: Told) -> Path:
    """Write our example with its routes and inhibition, but all receivers told at one webhook, and soon."""
    example = yaml.safe_load((MONITORING / "alertmanager.yaml").read_text())
    example["receivers"] = [
        {"name": each["name"], "webhook_configs": [{"url": f"{told.url}/{each['name']}"}]}
        for each in example["receivers"]
    ]
    example["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    file = folder / "alertmanager.yaml"
    file.write_text(yaml.safe_dump(example))
    return file


@dataclass(frozen=True)
class Stack:
    """Where they listen, and who was told."""

    prometheus: str
    alertmanager: str
    told: Told

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what Prometheus answers to an instant query; fails when it refuses it."""
        answer = WEB.get(f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=30).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def fires(self, name: str, seconds: float = 30.0, **labels: str) -> dict[str, Any]:
        """Wait until somebody was told of an alert, and return it; what its runbook asks then must have an answer."""
        until(lambda: self.told.alerts(name, **labels), lambda: f"told of {name}: {self._active()}", seconds)
        for query in promql.of_runbooks():
            if query.file == f"{name}.md":
                assert self.query(query.text), f"{name}: its runbook asks in vain: {query.text}"
        return self.told.alerts(name, **labels)[-1]

    def resolves(self, name: str, seconds: float = 60.0, **labels: str) -> None:
        """Wait until somebody was told of its end."""
        until(lambda: self.told.alerts(name, "resolved", **labels), lambda: f"{name} ends: {self._active()}", seconds)

    def inhibited(self, name: str) -> bool:
        """Whether Alertmanager holds back every alert of this name that it has, and has one."""
        alerts = WEB.get(f"{self.alertmanager}/api/v2/alerts", timeout=30).json()
        found = [each["status"]["inhibitedBy"] for each in alerts if each["labels"]["alertname"] == name]
        return bool(found) and all(found)

    def _active(self) -> list[str]:
        return sorted({each["metric"]["alertname"] for each in self.query("ALERTS")})


@contextlib.contextmanager
def alertmanager(folder: Path, told: Told) -> Iterator[str]:
    """Run our example of an Alertmanager; its URL."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        *(tool(ALERTMANAGER), f"--config.file={hasty_alertmanager(folder, told)}", f"--web.listen-address={address}"),
        *("--cluster.listen-address=", f"--storage.path={folder / 'alertmanager'}"),
    ]
    program = Program(command, folder / "alertmanager.log")
    try:
        until(lambda: _ready(f"http://{address}"), "Alertmanager ready", 30)
        yield f"http://{address}"
    finally:
        program.end()


@contextlib.contextmanager
def prometheus(folder: Path, config: Mapping[str, Any], line: int = 2) -> Iterator[str]:
    """Run a Prometheus of this line on what is in `folder / "tsdb"`; its URL."""
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        *(tool("prometheus", line), f"--config.file={folder / 'prometheus.yaml'}"),
        *(f"--web.listen-address={address}", f"--storage.tsdb.path={folder / 'tsdb'}"),
        "--rules.alert.resend-delay=1s",
    ]
    program = Program(command, folder / "prometheus.log")
    try:
        until(lambda: _ready(f"http://{address}"), "Prometheus ready", 30)
        yield f"http://{address}"
    finally:
        program.end()


@contextlib.contextmanager
def running(folder: Path, targets: Sequence[str], line: int = 2) -> Iterator[Stack]:
    """Run Alertmanager and a Prometheus of this line, which scrapes `targets` (HOST:PORT) each second."""
    files = hasty_rules(folder / "rules")
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(file) for file in files],
        "scrape_configs": [{"job_name": "knock", "static_configs": [{"targets": [*targets]}]}],
    }
    with Told().listening() as told, alertmanager(folder, told) as manager:
        tells = {"static_configs": [{"targets": [manager.removeprefix("http://")]}]}
        with prometheus(folder, config | {"alerting": {"alertmanagers": [tells]}}, line) as url:
            yield Stack(url, manager, told)


def _ready(url: str) -> bool:
    try:
        return WEB.get(f"{url}/-/ready", timeout=30).ok
    except OSError:
        return False
