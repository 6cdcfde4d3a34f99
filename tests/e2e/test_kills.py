"""A real exporter, killed at random moments under load: some kills of the thousand that `make soak` can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kills import Round

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.e2e

KILLS, SEED = 15, 1


def test_kills_at_any_moment_lose_nothing_and_have_nothing_counted_or_asked_twice(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    killed = Round(tmp_path, SEED)
    killed.run(KILLS)
    figures = killed.figures()
    for name, each in figures.items():
        record_property(f"kills, {name}", each)
    assert killed.problems == []
    assert killed.kills == KILLS
    assert figures["rows_processed counted, of what grew on disk"] > 0.3  # else it would prove little
