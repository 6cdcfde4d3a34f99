"""The demo's story, told by the real thing."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from exporter import demo
from exporter.simulator import World


def test_the_story_is_in_order_and_has_all_that_it_promises() -> None:
    scenes = demo.scenes()
    assert [scene.at for scene in scenes] == sorted(scene.at for scene in scenes)
    orders = [order for scene in scenes for order in scene.orders]
    assert {scene.environment for scene in scenes} == {"production", "development"}
    assert sum(order.stalls or False for order in orders) == 1
    assert sum(order.fails or False for order in orders) == len(demo.FAILING_WAVES)
    assert any(order.errors for order in orders)
    waves = Counter(scene.group for scene in scenes)
    assert waves["migration"] == demo.WAVES
    assert waves["nightly-sync"] >= 3


def test_every_order_can_be_made() -> None:
    world = World(1)
    for scene in demo.scenes():
        for order in scene.orders:
            assert world.start(order) in world.ids()


def test_the_demo_runs_and_ends_by_itself() -> None:
    command = [sys.executable, "-m", "exporter", "demo", "--web.listen-address=127.0.0.1:0", "--speed=30"]
    with subprocess.Popen([*command, "--duration=6s"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+/metrics", line)))
        states = _wait_for_failure(url, time.monotonic() + 5.0)
        story = process.stdout.read()
    assert process.returncode == 0
    assert states["failed"] >= 1
    assert states["completed"] >= 1
    assert "production / migration: wave 1" in story
    assert "stop half-way" in story


def _wait_for_failure(url: str, until: float) -> Counter[str]:
    states: Counter[str] = Counter()
    while time.monotonic() < until and not states["failed"]:
        body = urllib.request.urlopen(url, timeout=5).read().decode()  # noqa: S310 - the demo's own address
        states = Counter()
        for family in text_string_to_metric_families(body):
            for sample in family.samples:
                if sample.name == "knock_bulk_operations":
                    states[sample.labels["status"]] += int(sample.value)
    return states
