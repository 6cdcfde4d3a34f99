"""Fixtures of the tests that need real servers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests/chaos.py, also when only this folder is run

from programs import Starter

from exporter.knock.simulator import Simulator, World

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def knock() -> Iterator[Simulator]:
    with Simulator(world=World(seed=1), rate_limits=False) as simulator:
        yield simulator


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    starter.end()
