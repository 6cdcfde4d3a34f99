"""Each alert is made to fire by its cause, and somebody is told: exporter, Prometheus, Alertmanager, webhook."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rules
import stack as stacks
import yaml
from programs import WEB, Exporter, Starter, free_port, until

from exporter.simulator import Simulator, World, faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stack import Stack

pytestmark = pytest.mark.e2e

POLLING = {"processing": "500ms", "queued": "500ms", "slowest": "1s", "not_found_after": "1s"}
MISSING = "123e4567-e89b-12d3-a456-426614174000"
ENVIRONMENTS = (
    *("failing", "erring", "stalling", "queueing", "stale", "refused", "unreachable", "limited", "large", "losing"),
    *("files", "twice", "many", "runs"),
)
FAULTS: dict[str, faults.AnyFault] = {
    "large": faults.Oversized(mebibytes=17),
    "limited": faults.RateLimit(retry_after=1.0),
    "refused": faults.StatusFault(status=401),
    "unreachable": faults.StatusFault(status=502, body="html"),
    "stale": faults.StatusFault(status=502, body="html"),
}


@dataclass(frozen=True)
class Alerting:
    """A Knock for each environment, exporters that follow them, and who watches these."""

    knocks: dict[str, Simulator]
    ids: dict[str, str]
    main: Exporter
    second: Exporter
    hanging: Exporter
    stack: Stack
    folder: Path


def operations(knocks: dict[str, Simulator]) -> dict[str, str]:
    """Make an operation in each environment."""
    make = {name: knock.world.create for name, knock in knocks.items()}
    plain = {name: make[name](rows=10**6, queue_seconds=0.0, rows_per_second=50.0) for name in ENVIRONMENTS}
    return plain | {
        "failing": make["failing"](rows=100, queue_seconds=0.0, rows_per_second=20.0, fails=True),
        "erring": make["erring"](rows=100, errors=40, queue_seconds=0.0, rows_per_second=50.0),
        "stalling": make["stalling"](rows=400, queue_seconds=0.0, rows_per_second=200.0, stalls=True),
        "queueing": make["queueing"](queue_seconds=1e6),
    }


def environment(name: str, url: str, operation: str) -> dict[str, Any]:
    made = {"name": name, "api_key_file": "knock.key", "base_url": url, "polling": POLLING}
    if name == "files":
        return made | {"operations_files": ["ids/*.yaml"]}
    if name == "runs":
        return made | {"groups": [{"name": "asleep", "every": "2s"}]}
    return made | {"operations": [{"id": operation, "group": "migration"}]}


def start_main(knocks: dict[str, Simulator], ids: dict[str, str], starter: Starter) -> Exporter:
    (starter.folder / "ids").mkdir()
    (starter.folder / "ids" / "list.yaml").write_text("- operations: [")
    starter.use_token()
    starter.keep_state()
    watched = [environment(name, knocks[name].url, ids[name]) for name in ENVIRONMENTS if name != "many"]
    file = starter.folder / "config.yaml"
    file.write_text(yaml.safe_dump(starter.whole | {"environments": watched}))
    address = f"--web.listen-address=127.0.0.1:{free_port()}"
    main = starter.run(f"--config.file={file}", address, "--web.enable-lifecycle")
    main.urls()
    return main


def start_second(knocks: dict[str, Simulator], ids: dict[str, str], starter: Starter) -> Exporter:
    """Start one that watches an environment of the first too, and is full."""
    starter.use_token()
    watched = [environment(name, knocks[name].url, ids[name]) for name in ("twice", "many")]
    file = starter.folder / "config.yaml"
    file.write_text(yaml.safe_dump(starter.whole | {"environments": watched, "max_operations": 2}))
    second = starter.run(f"--config.file={file}", f"--web.listen-address=127.0.0.1:{free_port()}")
    second.urls()
    return second


# What no cause from outside does to it: its tracker waits for ever, 5 s after the start.
HANGS = """
import threading, time
from exporter.tracking.tracker import Tracker
advance, began = Tracker.advance, time.monotonic()
def hang(self, now):
    if time.monotonic() > began + 5:
        threading.Event().wait()
    return advance(self, now)
Tracker.advance = hang
from exporter.__main__ import main
main()
"""


def start_hanging(url: str, starter: Starter) -> Exporter:
    args = f"--config.file={starter.configure(url, name='hanging')}", f"--web.listen-address=127.0.0.1:{free_port()}"
    hanging = Exporter(starter.folder, args, {}, program=("-c", HANGS))
    starter.started.append(hanging)
    return hanging


@pytest.fixture(scope="module")
def alerting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerting]:
    folder = tmp_path_factory.mktemp("alerts")
    with contextlib.ExitStack() as ends:
        starters = {}
        for name in ("main", "second", "hanging"):
            (folder / name).mkdir()
            starters[name] = Starter(folder / name)
            ends.callback(starters[name].end)
        knocks = {name: ends.enter_context(Simulator(world=World(seed=1), rate_limits=False)) for name in ENVIRONMENTS}
        ids = operations(knocks)
        main = start_main(knocks, ids, starters["main"])
        second = start_second(knocks, ids, starters["second"])
        hanging = start_hanging(knocks["failing"].url, starters["hanging"])
        targets = [each.url.removeprefix("http://") for each in (main, second, hanging)]
        stack = ends.enter_context(stacks.running(folder, targets))
        seen = 'knock_bulk_operations{knock_environment="losing",status="processing"} == 1'
        until(lambda: stack.query(seen), "seen", 20)
        for name, fault in FAULTS.items():  # some take half a minute to be told: all begin at once
            knocks[name].faults.set(fault)
        knocks["losing"].world.forget(ids["losing"])
        yield Alerting(knocks, ids, main, second, hanging, stack, folder / "main")


def test_a_failure_is_told_with_its_labels_and_text_and_its_end(alerting: Alerting) -> None:
    single = alerting.stack.fires("KnockOperationFailed")
    assert single["labels"] == {
        "alertname": "KnockOperationFailed",
        "knock_environment": "failing",
        "group": "migration",
        "name": "users.identify",
        "operation_id": alerting.ids["failing"],
        "severity": "warning",
        "service": "knock-exporter",
    }
    whole = alerting.stack.fires("KnockOperationsFailed")
    assert whole["annotations"]["summary"] == "1 users.identify operation of group migration failed in failing"
    assert whole["annotations"]["description"].startswith("A failure was first seen within the last ")
    assert alerting.ids["failing"] in single["annotations"]["description"]
    assert "after" in single["annotations"]["description"]
    for alert in (single, whole):
        assert alert["annotations"]["runbook_url"].endswith(f"{alert['labels']['alertname']}.md")
        assert "var-environment=failing&var-group=migration" in alert["annotations"]["dashboard_url"]
    alerting.stack.resolves("KnockOperationsFailed")
    alerting.stack.resolves("KnockOperationFailed")


def take_the_key(alerting: Alerting) -> None:
    alerting.stack.fires("KnockKeyRefused", 60, knock_environment="refused")
    alerting.knocks["refused"].faults.clear()


def test_a_refused_key_is_told(alerting: Alerting) -> None:
    take_the_key(alerting)  # it is tried again the later the longer it was refused: the other tests use that time


@pytest.mark.parametrize(
    ("alert", "environment"),
    [
        ("KnockOperationsStandFailed", "failing"),
        ("KnockOperationCompletedWithErrors", "erring"),
        ("KnockOperationsCompletedWithErrors", "erring"),
        ("KnockNothingFinished", "erring"),
        ("KnockOperationStalled", "stalling"),
        ("KnockOperationsStalled", "stalling"),
        ("KnockOperationQueuedTooLong", "queueing"),
        ("KnockOperationsQueuedTooLong", "queueing"),
        ("KnockSourceBroken", "files"),
        ("KnockEnvironmentWatchedTwice", "twice"),
    ],
)
def test_what_goes_wrong_with_operations_is_told(alerting: Alerting, alert: str, environment: str) -> None:
    told = alerting.stack.fires(alert, knock_environment=environment)
    assert environment in told["annotations"]["summary"]
    assert "<<" not in str(told["annotations"])
    assert "error expanding template" not in str(told["annotations"])


@pytest.mark.parametrize(
    ("alert", "group", "says", "summary"),
    [
        (
            "KnockGroupWillMissDeadline",
            "slow",
            {"deadline": "80s"},
            "Group slow will be late in runs; operations finished: 0 of 10",
        ),
        ("KnockGroupDidNotRun", "asleep", None, "Group asleep has not run for "),
        (
            "KnockGroupMissedDeadline",
            "late",
            {"deadline": "1s"},
            "Group late is late in runs; operations finished: 0 of 10",
        ),
        ("KnockGroupIncomplete", "short", {"closed": True}, "9 of 10 operations of group short are missing"),
    ],
)
def test_what_goes_wrong_with_a_run_is_told(
    alerting: Alerting, alert: str, group: str, says: dict[str, Any] | None, summary: str
) -> None:
    if says is not None:
        operation = alerting.knocks["runs"].world.create(rows=10**6, queue_seconds=0.0, rows_per_second=50.0)
        alerting.main.put_run(group, "1", "runs", operations=10, **says)
        assert alerting.main.register({"id": operation, "group": group, "run": "1"}, "runs").ok
    told = alerting.stack.fires(alert, 60, group=group)
    assert told["annotations"]["summary"].startswith(summary)
    assert f"/knock-overview?var-environment=runs&var-group={group}" in told["annotations"]["dashboard_url"]


def test_a_run_that_is_given_up_is_told_of_no_more(alerting: Alerting) -> None:
    alerting.stack.fires("KnockGroupIncomplete", group="short")
    alerting.main.put_run("short", "1", "runs", operations=1)
    alerting.stack.resolves("KnockGroupIncomplete", group="short")


@pytest.mark.parametrize(
    ("reason", "alert"), [("limit", "KnockOperationsRefused"), ("token", "KnockRegistrationsRefused")]
)
def test_refused_registrations_are_told(alerting: Alerting, reason: str, alert: str) -> None:
    if reason == "limit":
        assert alerting.second.register({"id": MISSING}, "many").status_code == 503
    else:
        for _ in range(6):  # five are somebody's slip
            assert alerting.main.register({"id": MISSING}, "failing", token="x" * 32).status_code == 401
    alerting.stack.fires(alert)


def test_a_broken_configuration_is_told_and_that_it_is_mended(alerting: Alerting) -> None:
    file = alerting.folder / "config.yaml"
    good = file.read_text()
    file.write_text("environments: 7")
    assert WEB.post(f"{alerting.main.url}/-/reload", timeout=30).status_code >= 400
    alerting.stack.fires("KnockConfigReloadFailed")
    file.write_text(good)
    WEB.post(f"{alerting.main.url}/-/reload", timeout=30)
    alerting.stack.resolves("KnockConfigReloadFailed")


def test_an_environment_that_is_left_out_is_told(alerting: Alerting) -> None:
    file = alerting.folder / "config.yaml"
    whole = yaml.safe_load(file.read_text())
    whole["environments"] = [each for each in whole["environments"] if each["name"] != "files"]
    file.write_text(yaml.safe_dump(whole))
    assert WEB.post(f"{alerting.main.url}/-/reload", timeout=30).ok
    alerting.stack.fires("KnockEnvironmentNotWatched", knock_environment="files")


def test_an_exporter_whose_tracker_hangs_is_told(alerting: Alerting) -> None:
    alerting.stack.fires("KnockExporterStuck", instance=alerting.hanging.url.removeprefix("http://"))


def test_state_that_cannot_be_written_is_told(alerting: Alerting) -> None:
    with contextlib.closing(sqlite3.connect(alerting.folder / "state.db", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        alerting.stack.fires("KnockStateNotWritten", 90)
        database.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("alert", "environment"),
    [
        ("KnockResponsesTooLarge", "large"),
        ("KnockRateLimited", "limited"),
        ("KnockUnreachable", "unreachable"),
    ],
)
def test_what_goes_wrong_with_knock_is_told(alerting: Alerting, alert: str, environment: str) -> None:
    alerting.stack.fires(alert, 60, knock_environment=environment)


def test_that_a_refused_key_is_good_again_is_told(alerting: Alerting) -> None:
    if not alerting.stack.told.alerts("KnockKeyRefused"):
        take_the_key(alerting)
    alerting.stack.resolves("KnockKeyRefused", knock_environment="refused")


def test_old_numbers_are_told(alerting: Alerting) -> None:
    alerting.stack.fires("KnockOperationsStale", 90, knock_environment="stale")


def test_lost_operations_are_told(alerting: Alerting) -> None:
    alerting.stack.fires("KnockOperationsLost", 150, knock_environment="losing")


def test_every_alert_has_its_cause_here() -> None:
    here = Path(__file__).read_text()
    assert all(f'"{alert}"' in here for alert in rules.alerts())


def test_an_exporter_that_is_gone_is_told_and_silences_the_rest(alerting: Alerting) -> None:
    alerting.main.kill()
    alerting.stack.fires("KnockExporterDown", knock_environment="failing")
    until(lambda: alerting.stack.inhibited("KnockEnvironmentNotWatched"), "inhibited", 30)
    assert not alerting.stack.told.alerts("KnockEnvironmentNotWatched", knock_environment="failing")
