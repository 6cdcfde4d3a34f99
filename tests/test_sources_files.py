"""Files that list operations, looked at in virtual time."""

from __future__ import annotations

import os
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest
from structlog.testing import capture_logs

from exporter.config import Config, EnvironmentSettings, ListedOperation
from exporter.keys import KeySource, Secret
from exporter.sources.files import AGE_SECONDS, GRACE_SECONDS, FileLists, mark_of, matches, read
from exporter.sources.listing import MAX_BYTES
from exporter.tracking.memberships import SourceKey, SourceKind
from exporter.tracking.messages import Listed, Unread
from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import MutableMapping

A = "123e4567-e89b-12d3-a456-426614174000"
B = "b19d032a-fc3b-4a54-9f54-369484527201"
WALL = 1_800_000_000.0
UNREAD = Unread("production", ANY, ANY)


def environment(name: str, *patterns: str) -> EnvironmentSettings:
    return EnvironmentSettings(name, api_key=KeySource(inline=Secret("sk_test_1")), operations_files=patterns)


def source(path: Path) -> SourceKey:
    return SourceKey(SourceKind.FILES, str(path))


class Scene:
    """A folder of lists, and clocks that only this moves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = Moment(1000.0, WALL)
        self.config = Config((environment("production", f"{folder}/*.*"),))
        self.lists = FileLists(self.config)
        self.logs: list[MutableMapping[str, Any]] = []

    def restart(self, *remembered: tuple[str, SourceKey]) -> None:
        self.lists = FileLists(self.config, remembered)

    def write(self, name: str, text: str | bytes, age: float = 100.0) -> Path:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        os.utime(path, (self.now.wall - age,) * 2)
        return path

    def check_for_changes(self, seconds: float = 5.0) -> list[Listed | Unread]:
        """Let time pass and look."""
        self.now = Moment(self.now.mono + seconds, self.now.wall + seconds)
        with capture_logs() as logs:
            news = self.lists.check_for_changes(self.now)
        self.logs += logs
        return news

    def settle(self) -> list[Listed | Unread]:
        return self.check_for_changes() + self.check_for_changes()

    def reconfigure(self, **changes: Any) -> None:
        self.config = replace(self.config, **changes)
        self.lists.reconfigure(self.config)

    def told(self) -> list[tuple[str, Any]]:
        found = [(each["log_level"], each.get("error")) for each in self.logs if each["event"] != IDLE]
        self.logs.clear()
        return found


IDLE = "pattern of operations_files matches no file yet"


@pytest.fixture
def looked_at(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def listed(path: Path, *ids: str, owner: str = "production") -> Listed:
    return Listed(owner, source(path), tuple(ListedOperation(each) for each in ids))


# When a file counts


def test_at_the_start_an_old_file_counts_at_once(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A, age=AGE_SECONDS)
    assert looked_at.check_for_changes(0) == [listed(path, A)]
    assert looked_at.settle() == []


@pytest.mark.parametrize("age", [AGE_SECONDS - 1, 0, -3600])
def test_at_the_start_a_fresh_file_has_to_stand_still(looked_at: Scene, age: float) -> None:
    path = looked_at.write("a.txt", A, age=age)
    assert looked_at.check_for_changes(0) == []
    assert looked_at.check_for_changes() == [listed(path, A)]


def test_later_each_file_has_to_stand_still(looked_at: Scene) -> None:
    looked_at.check_for_changes()
    path = looked_at.write("a.txt", A)
    assert looked_at.check_for_changes() == []
    assert looked_at.check_for_changes(0.1) == []
    assert looked_at.check_for_changes() == [listed(path, A)]


def test_a_file_that_is_being_written_does_not_count(looked_at: Scene) -> None:
    looked_at.check_for_changes()
    for end in range(1, 4):
        looked_at.write("a.txt", f"{A}\n{B}\n"[: end * 15], age=0)
        assert looked_at.check_for_changes() == []
    path = looked_at.write("a.txt", f"{A}\n{B}\n", age=0)
    assert looked_at.settle() == [listed(path, A, B)]
    assert looked_at.told() == []


def test_the_same_size_and_time_in_another_file_is_a_change(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A)
    looked_at.check_for_changes()
    os.replace(looked_at.write("new", B), path)  # noqa: PTH105  the pattern does not match `new`
    assert looked_at.settle() == [listed(path, B)]


def test_a_copy_that_sets_its_time_back_is_a_change(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A)
    looked_at.check_for_changes()
    looked_at.write("a.txt", B)
    assert looked_at.settle() == [listed(path, B)]


def test_a_changed_file_is_listed_again(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", f"{A}\n{B}")
    assert looked_at.check_for_changes() == [listed(path, A, B)]
    looked_at.write("a.txt", f"{B}\n")
    assert looked_at.settle() == [listed(path, B)]
    looked_at.write("a.txt", "# none\n")
    assert looked_at.settle() == [listed(path)]


# Which files there are


def test_files_come_in_the_order_of_their_paths_and_each_once(looked_at: Scene) -> None:
    paths = [looked_at.write(name, A) for name in ("b.txt", "a.txt", "c.txt")]
    looked_at.reconfigure(
        environments=(
            environment("production", *(f"{looked_at.folder}/{each}" for each in ("c.txt", "*.txt", "./a.*"))),
        )
    )
    assert looked_at.check_for_changes() == [listed(each, A) for each in sorted(paths)]


def test_environments_share_files_and_differ(looked_at: Scene) -> None:
    first, second = looked_at.write("a.txt", A), looked_at.write("b.txt", B)
    looked_at.reconfigure(environments=(environment("z", str(second), str(first)), environment("y", str(first))))
    assert looked_at.check_for_changes() == [
        listed(first, A, owner="z"),
        listed(second, B, owner="z"),
        listed(first, A, owner="y"),
    ]


def test_two_stars_go_into_folders(looked_at: Scene) -> None:
    (looked_at.folder / "in" / "deep").mkdir(parents=True)
    path = looked_at.write("in/deep/a.txt", A)
    looked_at.reconfigure(environments=(environment("production", f"{looked_at.folder}/**/*.txt"),))
    assert looked_at.check_for_changes() == [listed(path, A)]


def test_folders_and_hidden_files_are_passed_over(looked_at: Scene) -> None:
    (looked_at.folder / "folder.txt").mkdir()
    looked_at.write(".a.txt", A)
    assert looked_at.settle() == []
    assert looked_at.told() == []


def test_forms_go_by_the_name(looked_at: Scene) -> None:
    text = f'[{{"targets": ["{A}"], "labels": {{"group": "g"}}}}]'
    paths = [looked_at.write(name, text) for name in ("a.json", "b.yaml", "c.yml")]
    operations = (ListedOperation(A, "g"),)
    assert looked_at.check_for_changes() == [Listed("production", source(path), operations) for path in paths]


def test_a_pattern_without_files_is_told_once(looked_at: Scene) -> None:
    looked_at.settle()
    assert looked_at.logs == [
        {"event": IDLE, "log_level": "info", "environment": "production", "pattern": f"{looked_at.folder}/*.*"}
    ]
    path = looked_at.write("a.txt", A)
    looked_at.check_for_changes()
    path.unlink()
    looked_at.check_for_changes()
    assert [each["event"] for each in looked_at.logs].count(IDLE) == 2


def test_a_mounted_config_map_that_is_switched(looked_at: Scene) -> None:
    for number, text in enumerate((A, B)):
        (looked_at.folder / f"..{number}").mkdir()
        looked_at.write(f"..{number}/a.txt", text)
    (looked_at.folder / "..data").symlink_to("..0")
    (looked_at.folder / "a.txt").symlink_to("..data/a.txt")
    assert looked_at.check_for_changes() == [listed(looked_at.folder / "a.txt", A)]
    (looked_at.folder / "..new").symlink_to("..1")
    os.replace(looked_at.folder / "..new", looked_at.folder / "..data")  # noqa: PTH105  a rename, as kubelet does it
    assert looked_at.settle() == [listed(looked_at.folder / "a.txt", B)]


# Broken files


def test_a_broken_file_is_told_once_and_keeps_what_it_named(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A)
    looked_at.check_for_changes()
    looked_at.write("a.txt", f"{B}\nx")
    assert looked_at.settle() == [UNREAD]
    assert looked_at.settle() == []
    error = 'line 2: "x" is not a valid UUID (expected e.g. 123e4567-e89b-12d3-a456-426614174000)'
    assert looked_at.logs == [
        {
            "event": "list of operations is broken, keeping its last list",
            "log_level": "warning",
            "environment": "production",
            "path": str(path),
            "error": error,
        }
    ]
    looked_at.write("a.txt", f"{A}\nx")
    assert looked_at.settle() == [UNREAD]
    looked_at.write("a.txt", "")
    assert looked_at.settle() == [UNREAD]
    looked_at.logs[:1] = []
    assert looked_at.told() == [("warning", "is empty (to list nothing, write a comment such as # none)")]
    looked_at.write("a.txt", A)
    assert looked_at.settle() == [listed(path, A)]
    assert [each["event"] for each in looked_at.logs] == ["list of operations is good again"]


def test_a_broken_file_does_not_hold_up_the_others(looked_at: Scene) -> None:
    looked_at.write("a.txt", "x")
    path = looked_at.write("b.txt", B)
    assert looked_at.check_for_changes() == [UNREAD, listed(path, B)]


def test_a_named_pipe_does_not_block(looked_at: Scene) -> None:
    os.mkfifo(looked_at.folder / "a.txt")
    assert looked_at.settle() == [UNREAD]
    assert looked_at.told() == [("warning", "is not a regular file")]


def test_a_link_to_itself(looked_at: Scene) -> None:
    (looked_at.folder / "a.txt").symlink_to("a.txt")
    assert looked_at.settle() == [UNREAD]
    assert looked_at.told() == [("warning", "cannot be read: Too many levels of symbolic links")]


def test_a_link_to_nothing_is_not_a_file(looked_at: Scene) -> None:
    (looked_at.folder / "a.txt").symlink_to("nowhere")
    assert looked_at.settle() == []
    assert looked_at.told() == []


def test_a_file_that_cannot_be_read_is_tried_at_each_look(looked_at: Scene) -> None:
    path = looked_at.folder / "a.txt"
    path.symlink_to("/proc/self/mem")  # a regular file whose beginning nobody can read, not even root
    assert looked_at.settle() == [UNREAD]
    assert looked_at.settle() == []
    assert looked_at.told() == [("warning", "cannot be read: Input/output error")]
    path.unlink()
    looked_at.write("a.txt", A)
    assert looked_at.settle() == [listed(path, A)]


def test_a_file_past_the_bound(looked_at: Scene) -> None:
    looked_at.write("a.txt", b"#" * (MAX_BYTES + 1))
    assert looked_at.check_for_changes() == [UNREAD]
    assert looked_at.told() == [("warning", "cannot be read: is larger than 16 MiB")]


def test_a_name_that_no_state_could_hold(looked_at: Scene) -> None:
    with open(os.fsencode(looked_at.folder) + b"/\xff.txt", "w", encoding="utf-8") as file:  # noqa: PTH123  no Path takes bytes
        file.write(A)
    assert looked_at.settle() == [UNREAD]
    assert looked_at.told() == [("warning", "its name holds special characters (rename it)")]


# Files that vanish


def test_a_vanished_file_keeps_its_ids_for_ten_minutes(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A)
    looked_at.check_for_changes()
    path.unlink()
    assert looked_at.check_for_changes() == []
    assert looked_at.check_for_changes(GRACE_SECONDS - 1) == []
    assert looked_at.check_for_changes(1) == [listed(path)]
    assert looked_at.check_for_changes(GRACE_SECONDS) == []
    assert looked_at.told() == [("info", None), ("info", None)]


def test_the_wall_clock_does_not_count(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A)
    looked_at.check_for_changes()
    path.unlink()
    looked_at.check_for_changes()
    looked_at.now = Moment(looked_at.now.mono, looked_at.now.wall + 1e6)
    assert looked_at.check_for_changes() == []


def test_a_file_that_comes_back_lost_nothing(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A)
    looked_at.check_for_changes()
    aside = path.rename(looked_at.folder / "aside")
    assert looked_at.check_for_changes(0) == looked_at.check_for_changes(GRACE_SECONDS - 1) == []
    aside.rename(path)
    assert looked_at.settle() == [listed(path, A)]
    path.unlink()
    assert looked_at.check_for_changes() == looked_at.check_for_changes(GRACE_SECONDS - 1) == []
    assert looked_at.check_for_changes(1) == [listed(path)]
    looked_at.write("a.txt", A)
    assert looked_at.settle() == [listed(path, A)]


def test_a_file_that_comes_back_broken_keeps_its_ids(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A)
    looked_at.check_for_changes()
    path.unlink()
    looked_at.check_for_changes()
    looked_at.write("a.txt", "x")
    assert looked_at.settle() == [UNREAD]
    assert looked_at.check_for_changes(2 * GRACE_SECONDS) == []


def test_a_file_that_named_nothing_goes_without_a_word(looked_at: Scene) -> None:
    for text in ("# none", "x"):
        path = looked_at.write("a.txt", text)
        looked_at.settle()
        path.unlink()
        assert looked_at.check_for_changes() == looked_at.check_for_changes(GRACE_SECONDS) == []


# Restarts


def test_what_vanished_while_the_exporter_was_down_has_its_ten_minutes(looked_at: Scene) -> None:
    path, other = looked_at.folder / "a.txt", looked_at.write("b.txt", B)
    looked_at.restart(
        ("production", source(path)),
        ("production", source(other)),
        ("gone", source(path)),
        ("production", SourceKey(SourceKind.HTTP, "http://x/")),
        ("production", SourceKey(SourceKind.CONFIG)),
    )
    assert looked_at.check_for_changes() == [listed(other, B)]
    assert looked_at.check_for_changes(GRACE_SECONDS - 1) == []
    assert looked_at.check_for_changes(1) == [listed(path)]
    assert looked_at.check_for_changes(GRACE_SECONDS) == []


def test_a_remembered_file_that_is_no_longer_configured_has_them_too(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A)
    looked_at.config = Config((environment("production"),))
    looked_at.restart(("production", source(path)))
    assert looked_at.check_for_changes() == looked_at.check_for_changes(GRACE_SECONDS - 1) == []
    assert looked_at.check_for_changes(1) == [listed(path)]


# Reloads


def test_a_label_that_is_declared_now_makes_a_file_good_and_back(looked_at: Scene) -> None:
    path = looked_at.write("a.yaml", f"- {{targets: [{A}], labels: {{team: x}}}}")
    assert looked_at.check_for_changes() == [UNREAD]
    looked_at.reconfigure(labels=("team",))
    good = Listed("production", source(path), (ListedOperation(A, labels=(("team", "x"),)),))
    assert looked_at.check_for_changes() == [good]
    looked_at.reconfigure(labels=("team",))
    assert looked_at.settle() == []
    looked_at.reconfigure(labels=("area", "team"))
    assert looked_at.check_for_changes() == [good]
    looked_at.reconfigure(labels=())
    assert looked_at.check_for_changes() == [UNREAD]


def test_a_file_that_stays_broken_is_not_told_again(looked_at: Scene) -> None:
    looked_at.write("a.txt", "x")
    looked_at.check_for_changes()
    looked_at.told()
    looked_at.reconfigure(labels=("team",))
    assert looked_at.check_for_changes() == []
    assert looked_at.told() == []


def test_a_removed_pattern_drops_at_once(looked_at: Scene) -> None:
    first, second = looked_at.write("a.txt", A), looked_at.write("b.txt", B)
    looked_at.check_for_changes()
    second.unlink()
    looked_at.check_for_changes()
    looked_at.reconfigure(environments=(environment("production", str(second)),))
    assert looked_at.check_for_changes() == [listed(first), listed(second)]


def test_another_pattern_for_the_same_file_changes_nothing(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A)
    looked_at.check_for_changes()
    looked_at.reconfigure(environments=(environment("production", str(path)),))
    assert looked_at.settle() == []


def test_a_removed_environment_is_silent_and_lists_anew_when_it_is_back(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A)
    looked_at.check_for_changes()
    before = looked_at.config.environments
    looked_at.reconfigure(environments=(environment("other"),))
    assert looked_at.check_for_changes() == looked_at.check_for_changes(GRACE_SECONDS) == []
    looked_at.reconfigure(environments=before)
    assert looked_at.check_for_changes() == [listed(path, A)]


# Links


def test_a_folder_that_links_to_itself_lists_each_file_once(looked_at: Scene) -> None:
    below = looked_at.folder / "below"
    below.mkdir()
    for folder in (looked_at.folder, below):
        for name in ("again", "and-again"):
            (folder / name).symlink_to(looked_at.folder)
    top = looked_at.write("a.txt", A)
    inner = looked_at.write("below/b.txt", B)
    looked_at.reconfigure(environments=(environment("production", f"{looked_at.folder}/**/*.txt"),))
    assert looked_at.settle() == [listed(top, A), listed(inner, B)]
    assert looked_at.settle() == []


def test_several_names_of_one_file_are_one_list(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A)
    (looked_at.folder / "b.txt").hardlink_to(path)
    (looked_at.folder / "c.txt").symlink_to(path)
    assert looked_at.settle() == [listed(path, A)]
    path.unlink()
    assert looked_at.settle() == [listed(looked_at.folder / "b.txt", A)]


@pytest.mark.parametrize(
    "pattern",
    ["**", "**/*", "**/*.txt", "x/**", "x/**/*.txt", "*/**/*.txt", "**/y/**/*", "**/", "x/**/", "**/z.txt", "a**"],
)
def test_patterns_find_what_glob_finds(tmp_path: Path, pattern: str) -> None:
    for name in ("a.txt", ".hidden/a.txt", "x/b.txt", "x/.c.txt", "x/y/d.txt", "x/y/z/z.txt", "w/y/z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = glob(f"{tmp_path}/{pattern}", recursive=True)  # noqa: PTH207  it is what ours is compared with
    expected = {os.path.normpath(each) for each in found if Path(each).is_file()}
    assert {os.path.normpath(each) for each in matches(f"{tmp_path}/{pattern}") if Path(each).is_file()} == expected


# Races


def test_a_file_that_is_another_one_by_now_is_not_read(looked_at: Scene) -> None:
    path = looked_at.write("a.txt", A)
    mark = mark_of(str(path))
    assert mark is not None
    assert read(str(path), mark) == A.encode()
    looked_at.write("a.txt", f"{A}\n")
    assert read(str(path), mark) is None
    path.unlink()
    assert read(str(path), mark) is None
    os.mkfifo(path)
    assert read(str(path), mark) is None
