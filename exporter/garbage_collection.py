"""Python's garbage collection: not while much is read, and rarely while it serves."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

YOUNG_MOST = 5000  # objects


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Read without it: values by the hundred thousand, none of them garbage, would be looked through for seconds."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def collect_rarely() -> None:
    """Leave alone what lives long, and look for garbage after 5,000 new objects.

    After Python's 700, it takes a tenth of the tracker's time: each time it also goes through the newest view, which
    is as long as there are operations.
    """
    gc.freeze()
    gc.set_threshold(YOUNG_MOST)
