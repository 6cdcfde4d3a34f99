"""The demo: two simulated Knock environments with a story in them, followed by the real exporter."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING, Protocol

from exporter.config import Config, EnvironmentSettings, ListedOperation, Polling
from exporter.config.settings import RATE_LIMIT_MAX
from exporter.daemon import Daemon
from exporter.keys import KeySource, Secret
from exporter.simulator import Order, RequestLog, Simulator, World
from exporter.simulator.faults import RateLimit
from exporter.tracking.runs import RunChanges

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.servers import Flags

PRODUCTION, DEVELOPMENT = "production", "development"
MIGRATION, NIGHTLY, DEFAULT = "migration", "nightly-sync", "default"
WAVE_OPERATIONS, WAVE_ROWS, WAVES = 30, 1000, 8
FAILING_WAVE = 3  # every third
WAVE_SECONDS, NIGHT_SECONDS, ROUND_SECONDS = 25.0, 60.0, 240.0
NIGHTS = int(ROUND_SECONDS // NIGHT_SECONDS)
RATE_LIMITED_READS = 2  # each halves the pace
# Bounds, for it runs until somebody ends it. What had errors is kept seven times as long as what had none.
RETENTION_SECONDS = 600.0
STALLED_MOST = 5  # rounds: long enough to be called stalled, after 15 minutes
OPERATIONS_MOST = 5_000
SEED = 1
WILDCARDS = ("::", "0.0.0.0")  # noqa: S104 - named to be shown as localhost, not to be bound
# Faster than the defaults: a demo is watched for minutes, a migration for hours.
POLLING = Polling(processing=1.0, queued=2.0, slowest=5.0)


class Follower(Protocol):
    """What the demo uses of the daemon."""

    def hand_over(self, environment: str, operations: tuple[ListedOperation, ...]) -> None: ...  # noqa: D102
    def release(self, environment: str, operation_id: str) -> None: ...  # noqa: D102
    def put_run(self, environment: str, group: str, run: str, changes: RunChanges) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Scene:
    """What happens at a time (seconds from the start): these operations begin, and a line tells it.

    They are of a `run`, of which the job says `changes` (None: of none). Knock answers as many reads as `rate_limited`
    says with 429.
    """

    at: float
    environment: str
    group: str
    story: str
    orders: tuple[Order, ...] = ()
    run: str | None = None
    changes: RunChanges = field(default_factory=RunChanges)
    rate_limited: int = 0


def scenes(number: int) -> list[Scene]:
    """Return a round of the story, by its number from 0, in the order of time."""
    start = number * ROUND_SECONDS
    waves = [_wave(number, wave) for wave in range(WAVES)]
    nights = [_night(number * NIGHTS + night) for night in range(NIGHTS)]
    return sorted([*waves, *nights, _stall(start + 2.0), _rate_limit(start + 62.0)], key=lambda scene: scene.at)


def _stall(at: float) -> Scene:
    order = Order(
        name="schedules.create_schedules", rows=400, queue_seconds=2, rows_per_second=20, errors=0, stalls=True
    )
    story = "a schedules.create_schedules operation starts; it will stop half-way and stay there"
    return Scene(at, DEVELOPMENT, DEFAULT, story, (order,))


def _rate_limit(at: float) -> Scene:
    story = f"Knock answers {RATE_LIMITED_READS} polls with 429; the exporter slows down, and goes on"
    return Scene(at, PRODUCTION, MIGRATION, story, rate_limited=RATE_LIMITED_READS)


def _wave(number: int, wave: int) -> Scene:
    orders = [_part_of_wave(index) for index in range(WAVE_OPERATIONS)]
    run = f"users-to-knock-{number + 1}"
    story = f"wave {wave + 1} of {WAVES}: {WAVE_OPERATIONS} users.identify operations of {WAVE_ROWS:,} rows"
    if (number + wave) % FAILING_WAVE == 0:
        orders[-1] = Order(rows=WAVE_ROWS, queue_seconds=4, rows_per_second=80, fails=True)
        story += ", one of which will fail"
    if wave == 0:
        story += f" (run {run} begins)"
    changes = RunChanges(operations=WAVES * WAVE_OPERATIONS)
    if wave == WAVES - 1:
        changes["closed"] = True
    at = number * ROUND_SECONDS + wave * WAVE_SECONDS
    return Scene(at, PRODUCTION, MIGRATION, story, tuple(orders), run, changes)


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


def run(
    flags: Flags, environ: Mapping[str, str], speed: float, duration: float | None, tell: Callable[[str], None]
) -> int:
    """Play the demo until a signal, or for `duration` seconds; `tell` takes its lines. Returns the exit code."""
    with _simulator(SEED, speed) as production, _simulator(SEED + 1, speed) as development:
        simulators = {PRODUCTION: production, DEVELOPMENT: development}
        config = Config(
            tuple(_environment(name, each.url, speed) for name, each in simulators.items()),
            max_operations=OPERATIONS_MOST,
        )
        daemon = Daemon(config, flags, environ)
        _print_addresses(flags.external_url or _url(*daemon.addresses[0]), tell)

        def print_if_read(line: str) -> None:
            try:
                tell(line)
            except BrokenPipeError:
                daemon.end("nobody reads its output")

        player = Player(simulators, daemon, print_if_read)
        threading.Thread(target=player.play, args=(speed,), name="story", daemon=True).start()
        if duration is not None:
            timer = threading.Timer(duration, daemon.end, ["the demo is over"])
            timer.daemon = True
            timer.start()
        code = daemon.run()
        tell("\nThe demo has ended.")
        return code


def _simulator(seed: int, speed: float) -> Simulator:
    simulator = Simulator(world=World(seed, speed, most=OPERATIONS_MOST), rate_limits=False)
    simulator.log = RequestLog(OPERATIONS_MOST)
    return simulator


def _environment(name: str, url: str, speed: float) -> EnvironmentSettings:
    key = KeySource(inline=Secret(f"sk_demo_{name}"))
    rate_limit = min(50.0 * max(speed, 1.0), RATE_LIMIT_MAX)
    retention = RETENTION_SECONDS / speed
    return EnvironmentSettings(
        name, api_key=key, base_url=url, rate_limit=rate_limit, polling=POLLING, retention=retention
    )


def _url(host: str, port: int) -> str:
    shown = "localhost" if host in WILDCARDS else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _print_addresses(url: str, tell: Callable[[str], None]) -> None:
    tell("knock-exporter demo: two simulated Knock environments, and the real exporter that follows them.\n")
    tell(f"  Status page  {url}/")
    tell(f"  Metrics      {url}/metrics")
    tell(f"  JSON API     curl -s '{url}/api/v1/operations?status=failed'\n")
    tell(f"  curl -s {url}/metrics | grep '^knock_bulk_operations{{' | grep -v ' 0.0$'   # how many, by status")
    tell(f"  curl -s {url}/metrics | grep '^knock_bulk_operation_status.*failed.* 1.0$'  # which of them failed")
    tell(f"  curl -s {url}/metrics | grep '^knock_group_run_'                            # how far the jobs are\n")
    tell("  Faster, on another port, for five minutes (`knock-exporter demo --help` lists the flags):")
    tell('  make demo DEMO_FLAGS="--speed=3 --web.listen-address=127.0.0.1:10287 --duration=5m"\n')
    tell("What happens, until Ctrl-C ends it:")


class Player:
    """Lets scenes happen: starts their operations in the simulators, and hands them to who follows them."""

    def __init__(self, simulators: Mapping[str, Simulator], follower: Follower, tell: Callable[[str], None]) -> None:
        self._simulators = simulators
        self._follower = follower
        self._tell = tell
        self._stalled: deque[str] = deque()

    def play(
        self,
        speed: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Play round after round, for as long as the process runs."""
        start = monotonic()
        for scene in chain.from_iterable(map(scenes, count())):
            sleep(max(start + scene.at / speed - monotonic(), 0.0))
            self.begin(scene, monotonic() - start)

    def begin(self, scene: Scene, elapsed: float) -> None:
        """Let a scene happen; `elapsed` is how many seconds the demo has run."""
        simulator = self._simulators[scene.environment]
        ids = [simulator.world.start(order) for order in scene.orders]
        listed = tuple(ListedOperation(each, scene.group, run=scene.run) for each in ids)
        if listed:
            self._follower.hand_over(scene.environment, listed)
        if scene.run is not None:
            self._follower.put_run(scene.environment, scene.group, scene.run, scene.changes)
        if scene.rate_limited:
            simulator.faults.set(RateLimit(count=scene.rate_limited, retry_after_ms=1000.0 / simulator.world.speed))
        minutes, seconds = divmod(int(elapsed), 60)
        where = f"{scene.environment} / {scene.group}"
        self._tell(f"  {minutes:02}:{seconds:02}  {where}: {scene.story}")
        self._stalled += [each for each, order in zip(ids, scene.orders, strict=True) if order.stalls]
        while len(self._stalled) > STALLED_MOST:
            self._follower.release(scene.environment, self._stalled.popleft())
            self._tell(f"         {where}: the oldest stalled operation is dropped, as `forget` does")
