"""The one reader of files that users name: what it reads, and what it refuses without waiting."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from exporter import files
from exporter.cli import main
from exporter.errors import ConfigError
from exporter.keys import InvalidKey, KeySource
from exporter.knock.trust import trust
from exporter.reloading import ConfigFile, NeedsRestart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timing import InTime

GOOD = "environments:\n  - name: production\n    api_key: sk_test_0123456789\n    ca_file: {ca_file}\n"
PLAIN = "environments:\n  - name: production\n    api_key: sk_test_0123456789\n"
NOT_REGULAR = "is not a regular file"


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.fixture
def inherited() -> Iterator[tuple[Path, int]]:
    """Give what a shell gives for `<(…)`: the path of a pipe, and the end to write to."""
    reading, writing = os.pipe()
    try:
        yield Path(f"/dev/fd/{reading}"), writing
    finally:
        os.close(reading)


def problem(path: Path | str, most: int = 100) -> str | None:
    with pytest.raises(OSError, match=r".") as caught:
        files.read(path, most)
    return caught.value.strerror


def checked(*args: str) -> str:
    result = CliRunner().invoke(main, args, prog_name="knock-exporter")
    assert (result.exit_code, result.exception.__class__) == (1, SystemExit)
    return result.output


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    assert files.read(path, 3_000_000) == b"x" * 3_000_000
    assert problem(path, 2_999_999) == "is larger than 2 MiB"
    assert Path("/proc/self/status").read_bytes()[:5] == files.read("/proc/self/status", 10_000)[:5]


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert problem(path, 2**40 - 1) == "is larger than 1048575 MiB"


def test_what_is_not_a_regular_file(tmp_path: Path, pipe: Path) -> None:
    assert problem(pipe) == problem("/dev/zero") == problem("/dev/null") == NOT_REGULAR
    assert problem(tmp_path) == "Is a directory"
    assert problem("a\0b") == "is not a path"
    assert problem(tmp_path / "none") == "No such file or directory"


@pytest.mark.parametrize("path", ["/proc/kmsg", "/proc/self/mem"])
def test_files_of_the_kernel_are_refused_as_keys(path: str) -> None:
    with pytest.raises(InvalidKey, match=path):
        KeySource(file=Path(path)).read({})


def test_only_a_pipe_is_waited_for(in_time: InTime) -> None:
    with in_time(60.0), pytest.raises(OSError, match=r"."):
        files.read("/proc/kmsg", 1, pipe_seconds=600.0)


def test_check_config_refuses_what_never_ends(pipe: Path) -> None:
    assert checked("check-config", "/dev/zero") == f"/dev/zero: cannot be read: {NOT_REGULAR}\n"
    assert checked("check-config", str(pipe)).startswith(f"{pipe}: cannot be read: is a pipe that nobody writes to")
    assert checked("check-web-config", str(pipe)) == f"{pipe}: cannot be read: {NOT_REGULAR}\n"


def test_authorities_are_read_with_the_same_guard(tmp_path: Path, pipe: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(GOOD.format(ca_file=pipe))
    assert f"environments[0].ca_file: {pipe}: {NOT_REGULAR}" in checked("check-config", str(config))
    with pytest.raises(OSError, match=NOT_REGULAR):
        trust(pipe)


def test_the_configuration_may_come_from_a_pipe_once(inherited: tuple[Path, int]) -> None:
    path, writing = inherited
    file = ConfigFile(path, {})

    def write() -> None:
        with closing(os.fdopen(writing, "wb", buffering=0)) as end:
            for piece in PLAIN.encode().splitlines(keepends=True):
                end.write(piece)

    writer = threading.Thread(target=write)
    writer.start()
    loaded = file.load()
    writer.join()
    assert [each.name for each in loaded.environments] == ["production"]
    assert not file.changed(0.0)
    with pytest.raises(NeedsRestart, match="is a pipe, which was read at the start"):
        file.load()


def test_a_pipe_that_took_the_place_of_the_file_holds_nothing_up(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(PLAIN)
    file = ConfigFile(path, {})
    file.load()
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=NOT_REGULAR):
        file.load()
    path.unlink()
    os.mkfifo(path)
    holder = os.open(path, os.O_RDWR)
    try:
        file.changed(0.0)
        with pytest.raises(NeedsRestart):
            file.load()
    finally:
        os.close(holder)


def test_a_configuration_beyond_its_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with path.open("wb") as file:
        file.truncate(files.BYTES_MOST + 1)
    assert checked("check-config", str(path)) == f"{path}: cannot be read: is larger than 64 MiB\n"
