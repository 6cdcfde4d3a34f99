"""When a configuration is loaded again, in virtual time."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml
from structlog.testing import capture_logs

from exporter.errors import StartError
from exporter.housekeeping import CHECK_SECONDS
from exporter.reloading import RETRY_SECONDS_MOST, ConfigFile, NeedsRestart, Reloading
from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exporter.config import Config

WALL = 1_800_000_000.0
KEY = "sk_test_0123456789abcdef"
TOKEN = "0123456789abcdef0123456789abcdef"
CA = trustme.CA().cert_pem.bytes().decode()


class Reloader:
    """A configuration file that names others, what is active of it, and a clock that only this moves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = Moment(1000.0, WALL)
        self.taken: list[list[str]] = []
        self.failures = 0
        self.refusal: Exception | None = None
        self.write("a.key", KEY)
        self.configure()
        self.file = ConfigFile(folder / "config.yaml", {})
        self.file.load()
        self.reloading = Reloading(self.file, self._apply, self._fail)

    def _apply(self, config: Config) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.taken.append([each.name for each in config.environments])

    def _fail(self) -> None:
        self.failures += 1

    def write(self, name: str, text: str, age: float = 2.0) -> None:
        path = self.folder / name
        path.write_text(text)
        os.utime(path, (self.now.wall - age,) * 2)

    def make_folder(self, name: str) -> None:
        path = self.folder / name
        path.mkdir()
        os.utime(path, (self.now.wall - 2.0,) * 2)

    def configure(self, *more: dict[str, Any], **settings: Any) -> None:
        environments = [{"name": "a", "api_key_file": "a.key"}, *more]
        self.write("config.yaml", yaml.safe_dump({"environments": environments} | settings))

    def reload_if_changed(self, times: int = 1) -> None:
        """Let the time of so many looks come."""
        for _ in range(times):
            self.now = Moment(self.now.mono + CHECK_SECONDS, self.now.wall + CHECK_SECONDS)
            self.reloading.reload_if_changed(self.now)


@pytest.fixture
def reloader(tmp_path: Path) -> Reloader:
    return Reloader(tmp_path)


B = {"name": "b", "api_key_file": "b.key"}
LISTED = [{"url": "https://ids.example", "bearer_token_file": "list.token", "ca_file": "list.pem"}]


def names_all(reloader: Reloader) -> None:
    """Have the file name one of each kind; none of them is there."""
    reloader.configure(
        B | {"ca_file": "b.pem", "operations_http": LISTED},
        registration={"tokens": [{"token_file": "register.token"}]},
        storage={"path": "state/state.db"},
    )


BRINGS: list[Callable[[Reloader], None]] = [
    lambda reloader: reloader.write("b.key", KEY),
    lambda reloader: reloader.write("b.pem", CA),
    lambda reloader: reloader.write("list.token", TOKEN),
    lambda reloader: reloader.write("list.pem", CA),
    lambda reloader: reloader.write("register.token", TOKEN),
    lambda reloader: reloader.make_folder("state"),
]


@pytest.mark.parametrize("last", range(len(BRINGS)))
def test_what_comes_late_is_taken_at_the_next_look(reloader: Reloader, last: int) -> None:
    names_all(reloader)
    for bring in (*BRINGS[:last], *BRINGS[last + 1 :]):
        bring(reloader)
    reloader.reload_if_changed(40)
    assert reloader.taken == []
    BRINGS[last](reloader)
    reloader.reload_if_changed()
    assert reloader.taken == [["a", "b"]]
    reloader.reload_if_changed(40)
    assert len(reloader.taken) == 1


def test_what_is_mended_is_taken_at_the_next_look(reloader: Reloader) -> None:
    reloader.write("b.key", "pk_test_0123456789")
    reloader.configure(B)
    reloader.reload_if_changed()
    first, since = reloader.reloading.refused, reloader.now.wall
    reloader.reload_if_changed(39)
    assert reloader.taken == []
    assert first is not None
    assert "b.key" in first.problem
    assert reloader.reloading.refused == first._replace(since=since)
    reloader.write("b.key", KEY)
    reloader.reload_if_changed()
    assert reloader.taken == [["a", "b"]]
    assert reloader.reloading.refused is None


def test_a_failed_load_is_tried_ever_more_rarely(reloader: Reloader) -> None:
    reloader.configure(B)
    tried = []
    for _ in range(60):
        before = reloader.failures
        reloader.reload_if_changed()
        tried += [reloader.now.mono] if reloader.failures > before else []
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert pauses == [5.0, 10.0, 20.0, 40.0] + [RETRY_SECONDS_MOST] * (len(pauses) - 4)
    assert len(pauses) > 6


def test_a_file_that_came_but_is_not_whole_is_waited_for(reloader: Reloader) -> None:
    reloader.configure(B)
    reloader.reload_if_changed(40)
    before = reloader.failures
    reloader.write("b.key", KEY[:-2], age=-CHECK_SECONDS)
    reloader.reload_if_changed()
    reloader.write("b.key", KEY, age=-CHECK_SECONDS)
    reloader.reload_if_changed()
    assert reloader.taken == []
    assert reloader.failures == before
    reloader.reload_if_changed()
    assert reloader.taken == [["a", "b"]]


def test_a_problem_is_told_once_and_when_it_changes(reloader: Reloader) -> None:
    reloader.configure(B, {"name": "c", "api_key_file": "c.key"})
    with capture_logs() as lines:
        reloader.reload_if_changed(40)
        reloader.write("b.key", KEY)
        reloader.reload_if_changed(40)
        reloader.write("c.key", KEY)
        reloader.reload_if_changed(40)
    assert [line["event"] for line in lines] == [
        "configuration not reloaded, the old one stays active",
        "configuration not reloaded, the old one stays active",
        "configuration reloaded",
    ]
    assert ["b.key" in lines[0]["error"], "b.key" in lines[1]["error"]] == [True, False]
    assert all("c.key" in line["error"] for line in lines[:2])


def test_who_asks_is_told_each_time(reloader: Reloader) -> None:
    reloader.configure(B)
    told: list[str | None] = []
    with capture_logs() as lines:
        for _ in range(2):
            reloader.reloading.reload(reloader.now, lambda problem, _conflict: told.append(problem))
    assert len(lines) == len(told) == 2
    assert "b.key: No such file" in str(told[0])


@pytest.mark.parametrize(
    "settings",
    [{"no_such_key": 1}, {"registration": {"tokens": [{"token_file": "no.token", "environments": ["nope"]}]}}],
)
def test_what_the_file_itself_has_wrong_is_not_tried_again(reloader: Reloader, settings: dict[str, Any]) -> None:
    reloader.configure(**settings)
    reloader.reload_if_changed(60)
    assert reloader.failures == 1
    reloader.configure(B)
    reloader.write("b.key", KEY)
    reloader.reload_if_changed()
    assert reloader.taken == [["a", "b"]]


@pytest.mark.parametrize(
    ("refusal", "again"), [(StartError("no room"), True), (RuntimeError("odd"), True), (NeedsRestart("no"), False)]
)
def test_what_this_machine_refuses_is_tried_again_unless_it_takes_a_restart(
    reloader: Reloader,
    refusal: Exception,
    again: bool,  # noqa: FBT001 - pytest passes it
) -> None:
    reloader.refusal = refusal
    reloader.configure(retention="2d")
    for _ in range(10):
        with suppress(RuntimeError):  # the housekeeping logs it and goes on
            reloader.reload_if_changed()
    assert (reloader.failures > 1) == again
    reloader.refusal = None
    reloader.reload_if_changed(12)
    assert reloader.taken == ([["a"]] if again else [])


def test_a_file_that_cannot_be_read_for_a_while_is_taken_when_it_can(reloader: Reloader) -> None:
    reloader.configure(B)
    reloader.write("b.key", KEY)
    (reloader.folder / "config.yaml").rename(reloader.folder / "elsewhere")
    reloader.reload_if_changed(10)
    assert (reloader.taken, reloader.failures) == ([], 1)
    (reloader.folder / "elsewhere").rename(reloader.folder / "config.yaml")
    reloader.reload_if_changed()
    assert reloader.taken == [["a", "b"]]
