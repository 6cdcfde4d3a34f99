"""Keys looked at in virtual time."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from programs import until
from structlog.testing import capture_logs

from exporter.housekeeping import CHECK_SECONDS, DRIFT_SECONDS, Housekeeping, KeyReader
from exporter.keys import KeySource, KeyWatch, Secret
from exporter.tracking.messages import KeyRead
from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

OLD, NEW = "sk_test_old", "sk_test_new"
WALL = 1_800_000_000.0


class Broken(KeyWatch):
    """A watch that fails in a way that nobody foresaw."""

    def __init__(self) -> None:
        super().__init__(KeySource(inline=Secret(OLD)), Secret(OLD))

    def reload_if_changed(self, wall: float, environ: Mapping[str, str]) -> Secret | None:
        raise RuntimeError(f"unforeseen at {wall}")


class Scene:
    """A housekeeping, its key file, and a clock that only this moves."""

    def __init__(self, file: Path, **others: KeyWatch) -> None:
        self.file = file
        self.now = Moment(1000.0, WALL)
        self.read: list[KeyRead] = []
        self.write(OLD, age=100)
        watches = others | {"production": KeyWatch(KeySource(file=file), Secret(OLD))}
        self.keys = KeyReader({}, self.read.append, lambda: self.now)
        self.keys.use(watches)
        self.keeping = Housekeeping([self.keys.check_for_changes], [self.keys.read_requested], lambda: self.now)

    def write(self, text: str, age: float = 0.0) -> None:
        self.file.write_text(text)
        os.utime(self.file, (self.now.wall - age,) * 2)

    def wait(self, seconds: float = 1.0, wall: float | None = None) -> None:
        """Let time pass, and what is due be done."""
        self.now = Moment(self.now.mono + seconds, self.now.wall + (seconds if wall is None else wall))
        self.keeping.step()

    def look(self) -> None:
        """Let the time of the next look come; `schedule` asks the real clock."""
        for job in self.keeping.scheduler.jobs:
            job.next_run = local_now() - timedelta(seconds=1)
        self.wait(CHECK_SECONDS)


def local_now() -> datetime:
    return datetime.now(UTC).astimezone().replace(tzinfo=None)


@pytest.fixture
def keeper(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "key")


def test_nothing_new_is_not_a_message(keeper: Scene) -> None:
    for _ in range(5):
        keeper.look()
    assert keeper.read == []


def test_nothing_is_looked_at_before_its_time(keeper: Scene) -> None:
    keeper.write(NEW, age=100)
    keeper.wait()
    assert keeper.read == []


def test_a_changed_key_is_told_once(keeper: Scene) -> None:
    keeper.write(NEW, age=2)
    for _ in range(3):
        keeper.look()
    assert keeper.read == [KeyRead("production", Secret(NEW))]


def test_a_half_written_key_is_not_told(keeper: Scene) -> None:
    keeper.write(NEW[:-2], age=-CHECK_SECONDS)
    keeper.look()
    keeper.write(NEW, age=-CHECK_SECONDS)
    keeper.look()
    assert keeper.read == []
    keeper.look()
    assert keeper.read == [KeyRead("production", Secret(NEW))]


def test_asked_for_the_same_key_is_told_too(keeper: Scene) -> None:
    keeper.keys.request("production")
    keeper.wait()
    assert keeper.read == [KeyRead("production", None)]
    keeper.wait()
    assert len(keeper.read) == 1


def test_asked_for_a_key_that_is_being_written_waits_for_the_whole(keeper: Scene) -> None:
    keeper.keys.request("production")
    keeper.write(NEW[:-2], age=-1)
    keeper.wait()
    keeper.write(NEW, age=-1)
    keeper.wait()
    assert keeper.read == []
    keeper.wait()
    assert keeper.read == [KeyRead("production", Secret(NEW))]


def test_a_key_that_cannot_be_read_is_told_once_in_the_log(keeper: Scene) -> None:
    keeper.file.unlink()
    with capture_logs() as lines:
        for _ in range(3):
            keeper.look()
        keeper.write(OLD, age=100)
        keeper.look()
        keeper.write("two words", age=100)
        keeper.look()
    assert [line["event"] for line in lines] == ["API key cannot be read, keeping the old one"] * 2
    assert "No such file or directory" in lines[0]["error"]
    assert "two words" not in lines[1]["error"]


@pytest.mark.parametrize("name", ["a", "z"])  # before and after the sound one
def test_one_that_fails_does_not_keep_others_from_their_turn(tmp_path: Path, name: str) -> None:
    keeper = Scene(tmp_path / "key", **{name: Broken()})
    keeper.write(NEW, age=2)
    with capture_logs() as lines:
        keeper.look()
        assert keeper.read == [KeyRead("production", Secret(NEW))]
        keeper.write(OLD, age=2)
        keeper.look()
    assert keeper.read[1:] == [KeyRead("production", Secret(OLD))]
    assert [line["event"] for line in lines] == ["housekeeping failed, trying again at its next turn"] * 2


def test_one_that_fails_when_asked_ends_nothing(tmp_path: Path) -> None:
    keeper = Scene(tmp_path / "key", a=Broken())
    for name in ("a", "production"):
        keeper.keys.request(name)
    with capture_logs() as lines:
        keeper.wait()
    assert keeper.read == [KeyRead("production", None)]
    assert len(lines) == 1


def test_a_key_that_is_watched_no_more_is_not_waited_for(keeper: Scene) -> None:
    keeper.keys.request("gone")
    for _ in range(2):
        keeper.wait()
    assert keeper.read == []


def stand_still(keeper: Scene) -> None:
    """Have the jobs planned for a time that is far off now, as when the clock went back."""
    for job in keeper.keeping.scheduler.jobs:
        job.next_run = local_now() + timedelta(hours=1)


def planned_again(keeper: Scene) -> bool:
    return all(
        job.next_run is not None and job.next_run <= local_now() + timedelta(seconds=CHECK_SECONDS)
        for job in keeper.keeping.scheduler.jobs
    )


@pytest.mark.parametrize("jump", [-3600.0, -DRIFT_SECONDS - 1, DRIFT_SECONDS + 1, 86400.0])
def test_a_clock_that_jumps_has_the_jobs_planned_again(keeper: Scene, jump: float) -> None:
    stand_still(keeper)
    keeper.wait(1.0, wall=1.0 + jump)
    assert planned_again(keeper)
    stand_still(keeper)
    keeper.wait()
    assert not planned_again(keeper)  # once for each jump


def test_a_clock_that_is_a_little_off_does_not(keeper: Scene) -> None:
    stand_still(keeper)
    keeper.wait(1.0, wall=2.0)
    assert not planned_again(keeper)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_end_of_summer_time_has_the_jobs_planned_again(berlin: None, tmp_path: Path) -> None:
    keeper = Scene(tmp_path / "key")
    before = datetime(2026, 10, 25, 0, 59, 59, tzinfo=UTC).timestamp()
    keeper.wait(1.0, wall=before - keeper.now.wall)
    stand_still(keeper)
    keeper.wait(1.0)
    assert planned_again(keeper)


def test_the_thread_answers_and_ends(keeper: Scene) -> None:
    thread = threading.Thread(target=keeper.keeping.run, daemon=True)
    thread.start()
    keeper.keeping.request(lambda: keeper.keys.request("production"))
    until(lambda: keeper.read, "read")
    keeper.keeping.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert keeper.keeping.stepped_at == keeper.now.mono
