"""What holds for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def logs_as_they_are_at_first() -> Iterator[None]:
    """Undo what a command settles about logs; else the next test in this process would lack lines."""
    yield
    structlog.reset_defaults()
