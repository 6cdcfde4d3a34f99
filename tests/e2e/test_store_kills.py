"""A process that is killed at any moment leaves all that it had committed, again and again, in the same file."""

from __future__ import annotations

import random
import sqlite3
from typing import TYPE_CHECKING

import pytest
from model import ids
from test_store import Clock, key, killed_while_writing

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


def test_the_shell_reads_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    killed_while_writing(path, 3)
    shell = sqlite3.connect(path)
    ((environment, operation_id, status, group),) = shell.execute(
        'SELECT environment, id, status, "group" FROM operations WHERE id = ?', (ids(1)[0],)
    )
    shell.close()
    assert (environment, operation_id, status, group) == ("production", ids(1)[0], "processing", "nightly")
