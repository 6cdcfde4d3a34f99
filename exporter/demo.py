"""The demo: two simulated Knock environments with a story in them, followed by the real exporter."""

from __future__ import annotations

import sched
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.config import Config, EnvironmentSettings, ListedOperation, Polling
from exporter.daemon import Daemon
from exporter.keys import KeySource, Secret
from exporter.servers import Flags
from exporter.simulator import Order, Simulator, World
from exporter.tracking.runs import RunChanges

if TYPE_CHECKING:
    from collections.abc import Callable

PRODUCTION, DEVELOPMENT = "production", "development"
MIGRATION, NIGHTLY = "migration", "nightly-sync"
WAVE_OPERATIONS, WAVE_ROWS, WAVES = 30, 1000, 8
FAILING_WAVES = (1, 4, 7)
WAVE_SECONDS, NIGHT_SECONDS = 25.0, 60.0
SEED = 1
WILDCARDS = ("::", "0.0.0.0")  # noqa: S104 - named to be shown as localhost, not to be bound
# Faster than the defaults: a demo is watched for minutes, a migration for hours.
POLLING = Polling(processing=1.0, queued=2.0, slowest=5.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """What happens at a time (seconds from the start): these operations begin, and a line tells it.

    They are of a `run`, of which the job says `changes` (None: of none).
    """

    at: float
    environment: str
    group: str
    story: str
    orders: tuple[Order, ...]
    run: str | None = None
    changes: RunChanges = field(default_factory=RunChanges)


def scenes() -> list[Scene]:
    """Return the story, in the order of time: the migration's waves, a nightly job, failures and a stall."""
    waves = [_wave(number) for number in range(WAVES)]
    nights = [_night(number) for number in range(int(WAVES * WAVE_SECONDS // NIGHT_SECONDS))]
    return sorted([*waves, *nights, STALL], key=lambda scene: scene.at)


STALL = Scene(
    12.0,
    DEVELOPMENT,
    "default",
    "a schedules.create_schedules operation starts; it will stop half-way and stay there",
    (Order(name="schedules.create_schedules", rows=400, queue_seconds=2, rows_per_second=20, errors=0, stalls=True),),
)


def _wave(number: int) -> Scene:
    orders = [_part_of_wave(index) for index in range(WAVE_OPERATIONS)]
    story = f"wave {number + 1} of {WAVES}: {WAVE_OPERATIONS} users.identify operations of {WAVE_ROWS:,} rows"
    if number in FAILING_WAVES:
        orders[-1] = Order(rows=WAVE_ROWS, queue_seconds=4, rows_per_second=80, fails=True)
        story += ", one of which will fail"
    changes = RunChanges(operations=WAVES * WAVE_OPERATIONS)
    if number == WAVES - 1:
        changes["closed"] = True
    return Scene(number * WAVE_SECONDS, PRODUCTION, MIGRATION, story, tuple(orders), "users-to-knock", changes)


def _part_of_wave(index: int) -> Order:
    errors = 40 if index == 0 else 0
    return Order(rows=WAVE_ROWS, queue_seconds=1 + index / 4, rows_per_second=40 + 7 * (index % 9), errors=errors)


def _night(number: int) -> Scene:
    orders = (
        Order(name="objects.projects.set", rows=500, queue_seconds=3, rows_per_second=30, errors=0),
        Order(name="objects.projects.delete", rows=120, queue_seconds=8, rows_per_second=25, errors=5),
    )
    story = "500 projects are set and 120 deleted, 5 of these with an error"
    changes = RunChanges(operations=len(orders), closed=True)
    return Scene(5.0 + number * NIGHT_SECONDS, DEVELOPMENT, NIGHTLY, story, orders, f"night-{number + 1}", changes)


def run(address: tuple[str, int], speed: float, duration: float | None, tell: Callable[[str], None]) -> int:
    """Play the demo until a signal, or for `duration` seconds; `tell` takes its lines. Returns the exit code."""
    worlds = {name: World(SEED + number, speed) for number, name in enumerate((PRODUCTION, DEVELOPMENT))}
    with (
        Simulator(world=worlds[PRODUCTION], rate_limits=False) as production,
        Simulator(world=worlds[DEVELOPMENT], rate_limits=False) as development,
    ):
        urls = {PRODUCTION: production.url, DEVELOPMENT: development.url}
        config = Config(tuple(_environment(name, url) for name, url in urls.items()))
        daemon = Daemon(config, Flags([address]), {})
        _print_addresses(daemon, tell)
        threading.Thread(target=_play, args=(worlds, daemon, speed, tell), name="story", daemon=True).start()
        if duration is not None:
            timer = threading.Timer(duration, daemon.end, ["the demo is over"])
            timer.daemon = True
            timer.start()
        code = daemon.run()
        tell("\nThe demo has ended.")
        return code


def _environment(name: str, url: str) -> EnvironmentSettings:
    key = KeySource(inline=Secret(f"sk_demo_{name}"))
    return EnvironmentSettings(name, api_key=key, base_url=url, rate_limit=50.0, polling=POLLING)


def _print_addresses(daemon: Daemon, tell: Callable[[str], None]) -> None:
    host, port = daemon.addresses[0]
    shown = "localhost" if host in WILDCARDS else f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    tell("knock-exporter demo: two simulated Knock environments, and the real exporter that follows them.\n")
    tell(f"  {url}/          start here")
    tell(f"  {url}/metrics   what Prometheus scrapes\n")
    tell(f"  curl -s {url}/metrics | grep '^knock_bulk_operations{{' | grep -v ' 0.0$'   # how many, by status")
    tell(f"  curl -s {url}/metrics | grep '^knock_bulk_operation_status.*failed.* 1.0$'  # which of them failed")
    tell(f"  curl -s {url}/metrics | grep '^knock_group_run_'                            # how far the jobs are\n")
    tell("What happens (Ctrl-C ends it):")


def _play(worlds: dict[str, World], daemon: Daemon, speed: float, tell: Callable[[str], None]) -> None:
    story = sched.scheduler(time.monotonic, time.sleep)
    start = time.monotonic()
    for scene in scenes():
        story.enterabs(start + scene.at / speed, 1, _begin, (scene, worlds, daemon, start, tell))
    story.run()
    tell("  (that was the last scene; what is under way goes on, and the stalled operation stays)")


def _begin(scene: Scene, worlds: dict[str, World], daemon: Daemon, start: float, tell: Callable[[str], None]) -> None:
    ids = [worlds[scene.environment].start(order) for order in scene.orders]
    daemon.hand_over(scene.environment, tuple(ListedOperation(each, scene.group, run=scene.run) for each in ids))
    if scene.run is not None:
        daemon.put_run(scene.environment, scene.group, scene.run, scene.changes)
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    tell(f"  {minutes:02}:{seconds:02}  {scene.environment} / {scene.group}: {scene.story}")
