"""A store on a real file, for a tracker in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model import Disk, Model

from exporter.store.opening import open_store
from exporter.store.writer import Writer
from exporter.tracking.messages import Stop

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.tracking.memory import Memory
    from exporter.tracking.messages import Saved
    from exporter.tracking.transitions import Moment


class StateFile(Disk):
    """A state file, open from `now` on, the moment at which its model begins."""

    def __init__(self, path: Path, now: Moment) -> None:
        super().__init__()
        self._saved: list[Saved] = []
        self._store, self._read = open_store(path, lambda: now)
        self._writer = Writer(self._store, self._saved.append, lambda: now)

    def read(self) -> Memory:
        return self._read

    def write(self) -> Saved | None:
        if not self.changes:
            return None
        for each in self.changes:
            self._writer.save(each)
        self.changes.clear()
        self._writer.step(0)
        return self._saved.pop()

    def close(self) -> None:
        self._store.close()


def end(model: Model) -> None:
    """End a model as SIGTERM ends the exporter: all is committed, and its file is still open."""
    model.tell(Stop())
    model.run(60)
    assert model.tracker.ended
    assert model.disk is not None
    model.disk.write()
