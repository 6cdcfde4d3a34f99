"""The configuration is changed while the exporter runs: all of it at once, or nothing."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import ssl
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme
import yaml
from chaos import answering, http, serving
from programs import KEY, WEB, Starter, until

from exporter.simulator import Simulator, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import requests
    from programs import Exporter

pytestmark = pytest.mark.e2e

QUICK = {"processing": "100ms", "queued": "100ms", "slowest": "200ms"}
WATCH_SECONDS = 10.0 + 2.0  # as documented, and some for a busy machine
SUCCESSFUL = "knock_exporter_config_last_reload_successful"
RELOADED_AT = "knock_exporter_config_last_reload_success_timestamp_seconds"
OTHER_KEY = "sk_test_fedcba9876543210"


def environment(name: str, url: str, *operations: Any, **settings: Any) -> dict[str, Any]:
    quick: dict[str, Any] = {"api_key_file": "knock.key", "polling": QUICK}
    return {"name": name, "base_url": url, "operations": [*operations]} | quick | settings


def write(config_path: Path, *environments: dict[str, Any], **settings: Any) -> Path:
    return replace(config_path, yaml.safe_dump({"environments": [*environments]} | settings))


def replace(config_path: Path, text: str) -> Path:
    """Put a file in place whole, at once."""
    fresh = config_path.with_suffix(".new")
    fresh.write_text(text)
    return fresh.replace(config_path)


def post_reload(exporter: Exporter) -> requests.Response:
    return WEB.post(f"{exporter.url}/-/reload", timeout=30)


def run(start: Starter, config_path: Path, *args: str) -> Exporter:
    exporter = start.run(f"--config.file={config_path}", "--web.listen-address=127.0.0.1:0", *args)
    exporter.urls()
    return exporter


def endless(world: World) -> str:
    return world.create(rows=10**9, queue_seconds=0.0, rows_per_second=100.0)


def shown(exporter: Exporter) -> set[str]:
    return {each.labels["operation_id"] for each in exporter.samples("knock_bulk_operation_info")}


# Exporters that can be reloaded.


@dataclass
class Reloadable:
    """An exporter that can be reloaded, with one environment."""

    exporter: Exporter
    file: Path
    knock: Simulator
    operations: list[str]

    def reload(self, *environments: dict[str, Any], **settings: Any) -> None:
        write(self.file, *environments, **settings)
        assert post_reload(self.exporter).status_code == HTTPStatus.OK

    def production(self, **settings: Any) -> dict[str, Any]:
        return environment("production", self.knock.url, *self.operations, **settings)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloadable]:
    start = Starter(tmp_path_factory.mktemp("reload"))
    config_path = start.folder / "config.yaml"
    with Simulator(world=World(seed=1), rate_limits=False) as knock:
        write(config_path, environment("none-yet", knock.url))
        try:
            exporter = run(start, config_path, "--web.enable-lifecycle")
            yield Reloadable(exporter, config_path, knock, [endless(knock.world) for _ in range(20)])
        finally:
            start.end()


@pytest.fixture
def reloadable(started: Reloadable) -> Iterator[Reloadable]:
    asked = len(started.knock.log)
    started.reload(started.production(rate_limit=100))
    until(lambda: len(started.exporter.values("knock_bulk_operation_up")) == 20, "all were asked")
    assert started.knock.log.wait(asked + 50)
    yield started
    started.reload(environment("none-yet", started.knock.url))


# Three ways to say so.


@pytest.fixture
def config_path(start: Starter) -> Path:
    return start.folder / "config.yaml"


def by_signal(exporter: Exporter) -> None:
    exporter.signal(signal.SIGHUP)


def by_post(exporter: Exporter) -> None:
    assert post_reload(exporter).status_code == HTTPStatus.OK


def by_itself(exporter: Exporter) -> None:
    """Leave it to the exporter to find out."""


@pytest.mark.parametrize("ask", [by_signal, by_post, by_itself])
def test_a_changed_file_is_applied(started: Reloadable, ask: Callable[[Exporter], None]) -> None:
    exporter, url = started.exporter, started.knock.url
    first, second = endless(started.knock.world), endless(started.knock.world)
    started.reload(environment("production", url, first))
    until(lambda: shown(exporter) == {first}, "the first configuration")
    began = exporter.value(RELOADED_AT)
    assert exporter.value(SUCCESSFUL) == 1
    write(started.file, environment("production", url, second), environment("staging", url, first))
    ask(exporter)
    until(lambda: shown(exporter) == {first, second}, "the second one", WATCH_SECONDS)
    until(lambda: (exporter.value(RELOADED_AT) or 0) > (began or 0), "when it was loaded")
    assert exporter.value(SUCCESSFUL) == 1
    until(lambda: exporter.values("knock_bulk_operation_up") == {first: 1, second: 1}, "both are asked")
    assert exporter.value("knock_exporter_operations", knock_environment="staging") == 1


@pytest.mark.parametrize("ask", [by_signal, by_itself])
def test_a_bad_file_changes_nothing_and_is_told(started: Reloadable, ask: Callable[[Exporter], None]) -> None:
    exporter, knock = started.exporter, started.knock
    operation = endless(knock.world)
    started.reload(environment("production", knock.url, operation))
    until(lambda: shown(exporter) == {operation}, "the good one")
    loaded, not_reloaded = exporter.value(RELOADED_AT), r"level=error event=\"configuration not reloaded.*"
    before = len(re.findall(not_reloaded, exporter.output))
    replace(started.file, "environments: [{name: production, api_key_fil: knock.key}]")
    ask(exporter)
    said = exporter.said(not_reloaded, before + 1, WATCH_SECONDS)
    assert "api_key_fil" in said[-1]
    assert (exporter.value(SUCCESSFUL), exporter.value(RELOADED_AT)) == (0, loaded)
    asked = len(knock.log)
    assert knock.log.wait(asked + 3)
    assert shown(exporter) == {operation}
    write(started.file, environment("production", knock.url, operation))
    ask(exporter)
    until(lambda: exporter.value(SUCCESSFUL) == 1, "good again", WATCH_SECONDS)


def test_a_post_is_told_what_came_of_it(started: Reloadable) -> None:
    exporter, knock, config_path = started.exporter, started.knock, started.file
    operation, other = endless(knock.world), endless(knock.world)
    write(config_path, environment("production", knock.url, operation))
    good = post_reload(exporter)
    assert (good.status_code, good.text) == (HTTPStatus.OK, "The configuration was reloaded.\n")
    until(lambda: shown(exporter) == {operation}, "the good one")
    write(config_path, environment("production", knock.url, other, api_key_file="no.such.key"))
    bad = post_reload(exporter)
    assert bad.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
    assert "no.such.key: No such file" in bad.text
    assert exporter.value(SUCCESSFUL) == 0
    write(config_path, environment("production", knock.url, other), storage={"path": "state.db"})
    late = post_reload(exporter)
    assert late.status_code == HTTPStatus.CONFLICT
    assert "storage.path" in late.text
    assert exporter.value(SUCCESSFUL) == 0
    assert shown(exporter) == {operation}
    assert not (config_path.parent / "state.db").exists()
    write(config_path, environment("production", knock.url, operation))
    assert post_reload(exporter).ok
    assert exporter.value(SUCCESSFUL) == 1


def test_a_post_is_refused_unless_it_is_allowed(knock: Simulator, start: Starter, config_path: Path) -> None:
    write(config_path, environment("production", knock.url))
    exporter = run(start, config_path)
    loaded = exporter.value(RELOADED_AT)
    write(config_path, environment("staging", knock.url))
    refused = post_reload(exporter)
    assert refused.status_code == HTTPStatus.FORBIDDEN
    assert "--web.enable-lifecycle" in refused.text
    assert exporter.value(RELOADED_AT) == loaded


def test_a_key_that_comes_after_its_configuration_is_taken_by_itself(
    knock: Simulator, start: Starter, config_path: Path
) -> None:
    operation = endless(knock.world)
    production = environment("production", knock.url, operation)
    write(config_path, production)
    exporter = run(start, config_path)
    write(config_path, production, environment("staging", knock.url, operation, api_key_file="late.key"))
    until(lambda: exporter.value(SUCCESSFUL) == 0, "the key is missed", WATCH_SECONDS)
    replace(start.folder / "late.key", KEY)
    until(lambda: exporter.value("knock_up", knock_environment="staging") == 1, "it is watched", WATCH_SECONDS)
    assert exporter.value(SUCCESSFUL) == 1
    assert exporter.output.count("configuration not reloaded") == 1


def test_a_ca_file_that_changes_is_trusted_by_itself(start: Starter, config_path: Path) -> None:
    operation, authority = "123e4567-e89b-12d3-a456-426614174000", trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    ca_file = start.folder / "ca.pem"
    trustme.CA().cert_pem.write_to_path(ca_file)
    with serving(answering(http(json.dumps({"id": operation, "status": "processing"}))), context) as knock:
        write(config_path, environment("production", knock.url, operation, ca_file="ca.pem"))
        exporter = run(start, config_path)
        until(lambda: exporter.value("knock_exporter_poll_failures_total", reason="tls"), "it is not trusted")
        replace(ca_file, authority.cert_pem.bytes().decode())
        patience = WATCH_SECONDS + 20.0  # what failed once or twice is asked again after 10 s or 20 s
        until(lambda: exporter.values("knock_bulk_operation_up") == {operation: 1}, "it is trusted", patience)
    assert exporter.output.count("using the changed ca_file") == 1


# Each change counts.


def test_an_environment_is_taken_out_and_comes_back(reloadable: Reloadable) -> None:
    exporter, other = reloadable.exporter, environment("other", reloadable.knock.url)
    reloadable.reload(other)
    until(lambda: "production" not in exporter.metrics(), "nothing of it is shown")
    asked = len([each for each in reloadable.knock.log.entries() if each.operation_id in reloadable.operations])
    until(lambda: exporter.value("knock_up", knock_environment="other") == 1, "the other's key was checked")
    reloadable.reload(other, reloadable.production(rate_limit=100))
    until(lambda: len(exporter.values("knock_bulk_operation_up")) == 20, "its last values are back")
    assert len([each for each in reloadable.knock.log.entries() if each.operation_id in reloadable.operations]) >= asked
    rows = exporter.values("knock_bulk_operation_rows_processed")
    until(
        lambda: all(now > rows[each] for each, now in exporter.values("knock_bulk_operation_rows_processed").items()),
        "all are asked again",
    )


def test_a_lower_limit_holds_at_once(reloadable: Reloadable) -> None:
    reloadable.reload(reloadable.production(rate_limit=5))
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 3, "three seconds", 5)
    asked = [each.at for each in reloadable.knock.log.entries() if began + 0.5 <= each.at < began + 2.5]
    assert 0 < len(asked) <= 10
    assert reloadable.exporter.value("knock_exporter_api_rate_limit_requests_per_second") == 5


def test_a_lower_limit_holds_with_another_branch_too(reloadable: Reloadable) -> None:
    reloadable.reload(reloadable.production(rate_limit=5, branch="feature"))
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 3, "three seconds", 5)
    assert len([each for each in reloadable.knock.log.entries() if began + 0.5 <= each.at < began + 2.5]) <= 10
    assert reloadable.exporter.value("knock_exporter_api_rate_limit_requests_per_second") == 5


def test_another_key_file_is_used(start: Starter, config_path: Path) -> None:
    world = World(seed=1)
    operation = endless(world)
    with Simulator(world=world, api_key=KEY, rate_limits=False) as knock:
        (start.folder / "other.key").write_text(OTHER_KEY)
        write(config_path, environment("production", knock.url, operation, api_key_file="other.key"))
        exporter = run(start, config_path, "--web.enable-lifecycle")
        until(lambda: exporter.value("knock_exporter_api_suspended") == 1, "the other key is refused")
        write(config_path, environment("production", knock.url, operation))
        assert post_reload(exporter).ok
        until(lambda: exporter.value("knock_bulk_operation_up") == 1, "the right key is used at once", 2.0)
        assert exporter.value("knock_up") == 1
        write(config_path, environment("production", knock.url, operation, api_key_file="other.key"))
        assert post_reload(exporter).ok
        until(lambda: exporter.value("knock_exporter_api_suspended") == 1, "and the other one again")


def test_another_address_is_asked(reloadable: Reloadable) -> None:
    with Simulator(world=reloadable.knock.world, rate_limits=False) as other:
        reloadable.reload(reloadable.production(base_url=other.url, rate_limit=100))
        left = len(reloadable.knock.log)
        assert other.log.wait(100)
        assert len(reloadable.knock.log) <= left + 20  # what was on its way
        assert {each.status for each in other.log.entries()} == {200}
        assert reloadable.exporter.value("knock_bulk_operations", status="processing") == 20


# Torture.

FILES = int(os.environ.get("KNOCK_TEST_RELOADS", "100"))  # 1,000 take some minutes
NAMES = ("alpha", "beta", "gamma", "delta")
FIRST_LIMIT = 10_000  # max_operations of generation 0: it tells which one is applied
GROUPS = 5
SLOWER = {"processing": "500ms", "queued": "500ms", "slowest": "1s"}


@dataclass(frozen=True)
class Generation:
    """A good file, each part of which tells which one it is."""

    number: int
    ids: dict[str, list[str]]  # of each environment
    urls: dict[str, str]

    @property
    def group(self) -> str:
        return f"group-{self.number % GROUPS}"

    @property
    def rate_limit(self) -> int:
        return 20 + self.number % 150

    def document(self) -> dict[str, Any]:
        def listed(operation_id: str) -> dict[str, Any]:
            return {"id": operation_id, "group": self.group, "labels": {"generation": str(self.number)}}

        own = {"rate_limit": self.rate_limit, "ca_file": "ca.pem", "polling": SLOWER}  # the system's CAs take 50 ms
        environments = [
            environment(name, self.urls[name], *map(listed, ids), api_key_file=f"{name}.key", **own)
            for name, ids in self.ids.items()
        ]
        settings = {"labels": ["generation"], "max_operations": FIRST_LIMIT + self.number}
        return {"environments": environments, "storage": {"path": "state.db"}} | settings


@dataclass
class Files:
    """Makes good and bad files by seeded chance."""

    worlds: dict[str, World]
    chance: random.Random
    made: dict[int, Generation] = field(default_factory=dict)
    pool: list[str] = field(default_factory=list)

    def good(self) -> Generation:
        names = self.chance.sample(NAMES, self.chance.randint(1, len(NAMES)))
        ids = {name: self.chance.sample(self.pool, self.chance.randint(1, 6)) for name in names}
        urls = {name: self.chance.choice([*self.worlds]) for name in names}
        generation = self.made[len(self.made)] = Generation(len(self.made), ids, urls)
        return generation

    def bad(self) -> tuple[str | bytes | None, HTTPStatus]:
        """Return a file's content (None: no file), and what a reload answers to it."""
        document = self._stray().document()
        whole = json.dumps(document)
        kind = self.chance.randrange(9)
        if kind == 0:
            return None, HTTPStatus.INTERNAL_SERVER_ERROR
        if kind == 1:
            return whole[: self.chance.randint(0, len(whole) // 2)] + "\n- : [", HTTPStatus.INTERNAL_SERVER_ERROR
        if kind == 2:
            return self.chance.randbytes(500), HTTPStatus.INTERNAL_SERVER_ERROR
        if kind == 3:
            return "", HTTPStatus.INTERNAL_SERVER_ERROR
        if kind in (4, 5):
            document["storage"] = {"path": "other.db"} if kind == 4 else None
            if kind == 5:
                del document["storage"]
            return json.dumps(document), HTTPStatus.CONFLICT
        last = document["environments"][-1]
        if kind == 6:
            last["api_key_file"] = "missing.key"
        elif kind == 7:
            last["ca_file"] = "empty.key"
        else:
            last["rate_limit"] = 100_000
        return json.dumps(document), HTTPStatus.INTERNAL_SERVER_ERROR

    def _stray(self) -> Generation:
        generation = self.good()
        del self.made[generation.number]
        return Generation(999_999 - FIRST_LIMIT, generation.ids, generation.urls)


class Mixture(AssertionError):
    """An answer whose families of Knock are of no one generation."""


SAMPLE = re.compile(r"(?m)^(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')
TOLD = {
    "knock_bulk_operation_info",
    "knock_bulk_operations",
    "knock_exporter_operations",
    "knock_exporter_operations_limit",
    "knock_exporter_api_rate_limit_requests_per_second",
    SUCCESSFUL,
    RELOADED_AT,
}


class Sample(NamedTuple):
    """One line that tells about the configuration."""

    labels: dict[str, str]
    value: float


class Scrape:
    """What one answer of /metrics tells about the configuration. Its parser is a quick one: there are thousands."""

    def __init__(self, text: str) -> None:
        self.samples: dict[str, list[Sample]] = defaultdict(list)
        self.environments: dict[str, set[str]] = defaultdict(set)  # by name of the sample
        for name, labels, value in SAMPLE.findall(text):
            if found := re.search(r'knock_environment="([^"]*)"', labels):
                self.environments[name].add(found[1])
            if name in TOLD:
                self.samples[name].append(Sample(dict(LABEL.findall(labels)), float(value)))

    def one(self, name: str) -> float:
        (sample,) = self.samples[name]
        return sample.value

    def sums(self, name: str) -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        for each in self.samples[name]:
            found[each.labels["knock_environment"]] += each.value
        return dict(found)

    @property
    def applied(self) -> int:
        """Which one is applied, by one of the exporter's own gauges."""
        return int(self.one("knock_exporter_operations_limit")) - FIRST_LIMIT

    def differs(self, expected: Generation, *, own: bool = True) -> dict[str, Any]:
        """Return what it shows of another one: among Knock's families, and the exporter's own."""
        info = self.samples["knock_bulk_operation_info"]
        counts = {name: len(ids) for name, ids in expected.ids.items()}
        listed = {(name, each) for name, ids in expected.ids.items() for each in ids}
        shown = {(each.labels["knock_environment"], each.labels["operation_id"]) for each in info}
        limits = {each.value for each in self.samples["knock_exporter_api_rate_limit_requests_per_second"]}
        shown_groups = {each.labels["group"] for each in self.samples["knock_bulk_operations"] if each.value}
        wrong: dict[str, Any] = {
            "labels": {each.labels["generation"] for each in info} - {str(expected.number)},
            "groups": shown_groups ^ {expected.group},
            "ids": shown - listed,
            "sums": self.sums("knock_bulk_operations").items() ^ counts.items(),
        }
        if own:
            wrong["limits"] = limits ^ {expected.rate_limit}
            wrong["counts"] = self.sums("knock_exporter_operations").items() ^ counts.items()
        for name, found in self.environments.items():
            if own or name.startswith("knock_bulk_"):
                wrong[name] = found - counts.keys()
        return {what: each for what, each in wrong.items() if each}

    def generation(self, made: dict[int, Generation], least: int) -> int:
        """Return which one Knock's families show: the one applied, or for a moment the one before. Raises Mixture."""
        for number in range(self.applied, least - 1, -1):
            if not self.differs(made[number], own=False):
                return number
        raise Mixture(f"generation {self.applied}: {self.differs(made[self.applied])}")


@dataclass
class Watcher:
    """Scrapes all the time, and keeps what is wrong."""

    exporter: Exporter
    made: dict[int, Generation]
    wrong: list[str] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self.seen.append(Scrape(self.exporter.metrics()).generation(self.made, max(self.seen, default=0)))
            except (AssertionError, OSError, LookupError) as error:
                self.wrong.append(repr(error)[:2000])
            self.stop.wait(0.03)

    @contextmanager
    def running(self) -> Iterator[Watcher]:
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stop.set()
            thread.join()


def resources(pid: int) -> tuple[int, int]:
    """Return how many threads and file descriptors a process has."""
    proc = Path("/proc", str(pid))
    threads = re.search(r"(?m)^Threads:\s+(\d+)", (proc / "status").read_text())
    assert threads is not None
    return int(threads[1]), len([*(proc / "fd").iterdir()])


def put(config_path: Path, content: str | bytes | None, *, whole: bool) -> None:
    """Bring a content into the file, by renaming or by writing into it."""
    if content is None:
        config_path.unlink(missing_ok=True)
        return
    target = config_path.with_suffix(".new") if whole else config_path
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    if whole:
        target.replace(config_path)


@dataclass
class Torture:
    """Swaps files, asks for them to be loaded, and checks what is active after each."""

    exporter: Exporter
    file: Path
    files: Files
    active: Generation
    loaded: float

    def step(self) -> None:
        chance = self.files.chance
        if chance.random() < 0.6:
            generation = self.files.good()
            self._reload(json.dumps(generation.document()), HTTPStatus.OK)
            self.active = generation
            assert Scrape(self.exporter.metrics()).differs(generation) == {}
        else:
            self._reload(*self.files.bad())

    def _reload(self, content: str | bytes | None, expected: HTTPStatus) -> None:
        put(self.file, content, whole=self.files.chance.random() < 0.5)
        began = time.time()
        answer = post_reload(self.exporter)
        assert answer.status_code == expected, (answer.text, content)
        assert self.exporter.process.poll() is None
        good = expected == HTTPStatus.OK
        self.check_gauges(successful=good, began=began if good else None)

    def check_gauges(self, *, successful: bool, began: float | None) -> None:
        scrape = Scrape(self.exporter.metrics())
        assert scrape.one(SUCCESSFUL) == successful
        if began is None:
            assert scrape.one(RELOADED_AT) == self.loaded
        else:
            assert began - 0.01 <= scrape.one(RELOADED_AT) <= time.time()
        self.loaded = scrape.one(RELOADED_AT)


@pytest.fixture
def torture(start: Starter, config_path: Path) -> Iterator[Torture]:
    for name in (*NAMES, "empty"):
        (start.folder / f"{name}.key").write_text("" if name == "empty" else f"sk_test_{name}_0123456789")
    trustme.CA().cert_pem.write_to_path(start.folder / "ca.pem")
    world = World(seed=1)
    with Simulator(world=world, rate_limits=False) as one, Simulator(world=world, rate_limits=False) as two:
        files = Files({one.url: world, two.url: world}, random.Random(4))
        files.pool = [endless(world) for _ in range(40)]
        first = files.good()
        put(config_path, json.dumps(first.document()), whole=True)
        exporter = run(start, config_path, "--web.enable-lifecycle")
        yield Torture(exporter, config_path, files, first, exporter.value(RELOADED_AT) or 0.0)


def test_many_files_never_mix_and_never_harm(torture: Torture) -> None:
    exporter = torture.exporter
    with Watcher(exporter, torture.files.made).running() as watcher:
        for number in range(FILES):
            torture.step()
            if number == FILES // 10:
                early = resources(exporter.process.pid)
        until(lambda: watcher.seen[-1:] == [torture.active.number], "the last one is shown")
    assert watcher.wrong == [], (len(watcher.wrong), len(watcher.seen))
    assert watcher.seen == sorted(watcher.seen)
    assert len(set(watcher.seen)) > FILES / 10
    late = until(lambda: _settled(exporter, early), lambda: f"{resources(exporter.process.pid)} after {early}", 20.0)
    assert late
    listed = {each for ids in torture.active.ids.values() for each in ids}
    until(lambda: {each for each, up in exporter.values("knock_bulk_operation_up").items() if up} == listed, "polled")
    exporter.signal()
    assert exporter.wait() == 0
    assert "Traceback" not in exporter.output


def _settled(exporter: Exporter, early: tuple[int, int]) -> bool:
    threads, descriptors = resources(exporter.process.pid)
    return threads <= early[0] + 64 and descriptors <= early[1] + 64
