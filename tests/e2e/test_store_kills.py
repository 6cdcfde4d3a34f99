"""A process that is killed at any moment leaves all that it had committed, again and again, in the same file."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from model import ids
from test_store import Clock, an_old_state, key, killed_while_writing

from exporter.store.opening import open_store

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e


def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    path, chance, safe = tmp_path / "state.db", random.Random(7), 0
    for _ in range(15):
        safe = max(safe, killed_while_writing(path, chance.randrange(1, 40)))
        store, memory = open_store(path, Clock())
        store.close()
        assert set(memory.operations) >= {key(each) for each in ids(5000)[:safe]}
        assert len(memory.operations) <= safe + 5
        assert not list(tmp_path.glob("*.corrupt-*"))


MIGRATE = """
import sys, time
from pathlib import Path
from exporter.store.opening import open_store
from exporter.tracking.transitions import Moment
print("begun", flush=True)
open_store(Path(sys.argv[1]), lambda: Moment(time.monotonic(), time.time()))
"""


def test_kills_while_a_file_is_brought_up_to_date_lose_nothing(tmp_path: Path) -> None:
    path, chance = tmp_path / "state.db", random.Random(11)
    an_old_state(path, 2, 5000)
    for _ in range(10):
        command = [sys.executable, "-c", MIGRATE, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.0, 0.8))
            process.kill()
    store, memory = open_store(path, Clock())
    store.close()
    assert memory.operations.keys() == {key(each) for each in ids(5000)}
    assert len(memory.tombstones) == 5000
    assert not list(tmp_path.glob("*.corrupt-*"))


def test_the_shell_reads_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    killed_while_writing(path, 3)
    shell = sqlite3.connect(path)
    ((environment, operation_id, status, group),) = shell.execute(
        'SELECT environment, id, status, "group" FROM operations WHERE id = ?', (ids(1)[0],)
    )
    shell.close()
    assert (environment, operation_id, status, group) == ("production", ids(1)[0], "processing", "nightly")
