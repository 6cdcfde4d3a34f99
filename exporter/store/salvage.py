"""What can be read of a damaged file, copied into a new one: Python brings no `.recover` of SQLite's.

Rows are read in the order of their keys. A page that cannot be read is a gap among them: behind it, the first key that
can be read is looked for in growing steps, then by halves.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.operation import ID_BYTES
from exporter.store import database, schema

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    Row = tuple[Any, ...]

GAPS_MOST = 10_000  # in a table: some seconds

_PAGE_SIZE, _PAGE_COUNT = slice(16, 18), slice(28, 32)  # in the first page
_UNREADABLE = (sqlite3.Error, UnicodeDecodeError)  # the latter of a message that names what was found
_ALL = -1  # as a limit
_COUNTED = ("environments", "operations", "tombstones", "cells")


def salvage(path: Path, new: Path) -> dict[str, int]:
    """Copy what can be read into a new state; return how many of what. `path` stays as it is."""
    copy = path.with_name(f"{path.name}.copy")
    database.remove(copy)
    try:
        _copy(path, copy, new)
        with closing(database.connect(copy, "rw")) as damaged, closing(database.connect(new, "rw")) as fresh:
            return _salvage(damaged, fresh)
    finally:
        database.remove(copy)


def _copy(path: Path, copy: Path, new: Path) -> None:
    """Copy a file, with a sound first page: it tells where the tables are, which is the same in all files."""
    with new.open("rb") as sound:
        head = bytearray(sound.read(1 << 16))
    size = int.from_bytes(head[_PAGE_SIZE], "big")
    head[_PAGE_COUNT] = bytes(4)  # unknown: the size of the file counts
    for side in ("", "-wal"):
        if Path(f"{path}{side}").exists():
            database.make_file(Path(f"{copy}{side}"))
            shutil.copyfile(f"{path}{side}", f"{copy}{side}")
    with copy.open("r+b") as file:
        file.write(head[:size])
        file.truncate(max(size, path.stat().st_size // size * size))  # what is missing of a page would be read as zeros


def _salvage(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> dict[str, int]:
    with schema.transaction(fresh):
        for table in sorted(
            schema.columns(schema.version_of(fresh)), key="tombstones".__eq__
        ):  # whose, the others tell
            names = [each[0] for each in fresh.execute(f"SELECT * FROM {table}").description]  # noqa: S608 - of ours
            columns, marks = ", ".join(f'"{name}"' for name in names), ", ".join("?" * len(names))
            for part in _parts(table, columns, fresh):
                statement = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608 - the same
                fresh.executemany(statement, part.rows(damaged))
    counts = {name: fresh.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _COUNTED}  # noqa: S608
    return {name: count for name, count in counts.items() if count}


def _parts(table: str, columns: str, fresh: sqlite3.Connection) -> Iterator[_Part]:
    if table != "tombstones":
        yield _Part(columns, f"{table} WHERE ? IS NULL", "rowid", None, (1 << 63) - 1, 1)
        return
    source = f"tombstones WHERE environment IS ? AND typeof(id) = 'blob' AND length(id) = {ID_BYTES}"
    for (name,) in fresh.execute("SELECT environment FROM environments UNION SELECT environment FROM operations"):
        yield _Part(columns, source, "id", name, (1 << 8 * ID_BYTES) - 1, 1 << 96)


class _Part(NamedTuple):
    """Rows that have whole numbers as keys: those of a table, or the tombstones of one environment."""

    columns: str
    source: str
    key: str
    environment: str | None
    last: int
    step: int  # the first one over a gap

    def rows(self, damaged: sqlite3.Connection) -> Iterator[Row]:
        """Read all that can be read."""
        start = 0
        for _ in range(GAPS_MOST):
            gap = yield from self._walk(damaged, start)
            if gap is None:
                return
            start = self._behind(damaged, gap)

    def _walk(self, damaged: sqlite3.Connection, key: int) -> Generator[Row, None, int | None]:
        """Read rows from a key on; return at which key that failed."""
        limit = _ALL
        while True:
            found = False
            try:
                for at, row in self._from(damaged, key, limit):
                    yield row
                    key, found = at + 1, True
            except _UNREADABLE:
                if limit == 1:
                    return key
                limit = 1  # Python reads a row ahead: a failure hides the one before it
            else:
                if limit == _ALL or not found:
                    return None

    def _behind(self, damaged: sqlite3.Connection, gap: int) -> int:
        """Return the first key from which on rows can be read again, or one behind all."""
        low, high, step = gap, gap + self.step, self.step
        while not self._is_readable(damaged, high):
            step += step // 4 + 1
            low, high = high, high + step
        while high - low > self.step:
            middle = (low + high) // 2
            low, high = (low, middle) if self._is_readable(damaged, middle) else (middle, high)
        return high

    def _is_readable(self, damaged: sqlite3.Connection, key: int) -> bool:
        try:
            list(self._from(damaged, key, 1))
        except _UNREADABLE:
            return False
        return True

    def _from(self, damaged: sqlite3.Connection, key: int, limit: int) -> Iterator[tuple[int, Row]]:
        if key > self.last:
            return
        packed = self.key == "id"
        first: Any = key.to_bytes(ID_BYTES, "big") if packed else key
        found = damaged.execute(
            f"SELECT {self.key}, {self.columns} FROM {self.source} AND {self.key} >= ? ORDER BY {self.key} LIMIT ?",  # noqa: S608
            (self.environment, first, limit),
        )
        for at, *row in found:
            number = int.from_bytes(at, "big") if packed else at
            if number < key:
                raise sqlite3.DatabaseError("pages are linked in a wrong order")
            key = number + 1
            yield number, tuple(row)
