"""The demo's story, told by the real thing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from programs import WEB, free_port, until
from prometheus_client.parser import text_string_to_metric_families

from exporter import demo
from exporter.simulator import Clock, Simulator, World

if TYPE_CHECKING:
    from exporter.config import ListedOperation
    from exporter.tracking.runs import RunChanges


class EndedError(Exception):
    """Ends what goes on for ever."""


class Followed:
    """Takes what the demo hands over, and drops what it releases."""

    def __init__(self) -> None:
        self.operations: dict[tuple[str, str], str] = {}
        self.runs: dict[tuple[str, str, str], dict[str, object]] = {}

    def hand_over(self, environment: str, operations: tuple[ListedOperation, ...]) -> None:
        assert operations
        self.operations |= {(environment, each.id): each.group for each in operations}

    def release(self, environment: str, operation_id: str) -> None:
        del self.operations[environment, operation_id]

    def put_run(self, environment: str, group: str, run: str, changes: RunChanges) -> None:
        self.runs.setdefault((environment, group, run), {}).update(changes)


@pytest.mark.parametrize("number", [0, 1, 1000])
def test_each_round_has_all_that_it_promises(number: int) -> None:
    scenes = demo.scenes(number)
    assert [scene.at for scene in scenes] == sorted(scene.at for scene in scenes)
    assert number * demo.ROUND_SECONDS <= scenes[0].at <= scenes[-1].at < (number + 1) * demo.ROUND_SECONDS
    orders = [order for scene in scenes for order in scene.orders]
    assert sum(order.stalls or False for order in orders) == 1
    assert sum(order.fails or False for order in orders) >= 2
    assert any(order.errors for order in orders)
    assert sum(scene.rate_limited for scene in scenes) > 0
    assert Counter(scene.group for scene in scenes if scene.run) == {
        "migration": demo.WAVES,
        "nightly-sync": demo.NIGHTS,
    }


def test_the_first_half_minute_shows_a_failure_an_end_with_errors_and_a_stall() -> None:
    now = 0.0
    world = World(demo.SEED, clock=Clock(lambda: now, lambda: now))
    for scene in demo.scenes(0):
        if scene.at <= 30:
            now = scene.at
            for order in scene.orders:
                world.start(order)
    now = 30.0
    ended = [record for each in world.ids() if (record := world.read(each))]
    assert any(record["status"] == "failed" for record in ended)
    assert any(record["status"] == "completed" and record["error_count"] for record in ended)
    stalled = next(record for record in ended if record["name"] == "schedules.create_schedules")
    now = 300.0
    assert stalled["status"] == "processing"
    assert world.read(stalled["id"]) == stalled


def test_round_after_round_it_stays_within_bounds() -> None:
    simulators = {name: Simulator(world=World(1, most=1000)) for name in (demo.PRODUCTION, demo.DEVELOPMENT)}
    followed, lines = Followed(), list[str]()
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now >= 12 * demo.ROUND_SECONDS:
            raise EndedError

    with pytest.raises(EndedError):
        demo.Player(simulators, followed, lines.append).play(1.0, lambda: now, sleep)
    assert all(len(each.world.ids()) <= 1000 for each in simulators.values())
    assert list(followed.operations.values()).count("default") == demo.STALLED_MOST
    runs = [run for run in followed.runs if run[1] == demo.MIGRATION]
    assert len(runs) == 12
    assert all(followed.runs[run] == {"operations": 240, "closed": True} for run in runs)
    assert "dropped" in "\n".join(lines)
    assert simulators[demo.PRODUCTION].faults.describe()[0]["kind"] == "rate_limit"
    assert lines[-1].startswith(f"  {12 * 4 - 1:02}:")


def test_the_demo_runs_and_ends_by_itself() -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "exporter", "demo", f"--web.listen-address={address}", "--speed=30"]
    command += ["--web.external-url=http://knock.example", "--duration=6s"]
    environ = os.environ | {"KNOCK_EXPORTER_REVISION": "5eed"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        assert any("  Status page  http://knock.example/" in line for line in process.stdout)
        url = f"http://{address}/metrics"
        until(lambda: (states := _states(url))["failed"] and states["completed"], "a failure and an end", 5.0)
        metrics = WEB.get(url, timeout=5).text
        assert 'knock_exporter_web_info{external_url="http://knock.example"} 1.0' in metrics
        assert 'revision="5eed"' in metrics
        assert "--duration" in WEB.get(f"http://{address}/config", timeout=5).text
        story = process.stdout.read()
    assert process.returncode == 0
    assert "production / migration: wave 1" in story
    assert "stop half-way" in story


def _states(url: str) -> Counter[str]:
    states: Counter[str] = Counter()
    for family in text_string_to_metric_families(WEB.get(url, timeout=5).text):
        for sample in family.samples:
            if sample.name == "knock_bulk_operations":
                states[sample.labels["status"]] += int(sample.value)
    return states
