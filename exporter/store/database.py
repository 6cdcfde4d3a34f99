"""The file itself: connected to, looked at, and put aside where it is damaged. Foreign errors end here."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import StartError
from exporter.store import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY_SECONDS = 0.1  # how long SQLite itself waits for a lock; who may wait longer asks again
READER_SECONDS = 2.0
WAL_BYTES = 16 << 20  # what is left of a log that a long read made grow
FULL_BYTES = 1 << 20  # less than that is free: the disk is what failed
SIDES = ("-wal", "-shm")  # first to be put aside: a log without its file is nothing, but must not meet another one

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ}


class Damaged(Exception):
    """The file is no longer a database: it is put aside, or left alone, by the code that opens it."""


FAILURES = (sqlite3.Error, OSError, UnicodeDecodeError, Damaged)  # of a commit


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else has the lock."""
    return _code(error) in _BUSY


def is_damage(error: Exception) -> bool:
    """Whether the file is no longer a database."""
    if isinstance(error, sqlite3.Error):
        return not _DAMAGED.isdisjoint({_code(error), getattr(error, "sqlite_errorcode", None)})
    return isinstance(error, Damaged | UnicodeDecodeError)  # the latter of a message that names what was found


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def describe(error: Exception, path: Path) -> str:
    """Say what went wrong: of a full disk SQLite often says no more than "disk I/O error"."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if not isinstance(error, sqlite3.Error) or _code(error) != sqlite3.SQLITE_IOERR:
        return str(error)
    full = ", the disk is full" if _is_full(path.parent) else ""
    return f"{error} ({error.sqlite_errorname}{full})"


def _is_full(folder: Path) -> bool:
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < FULL_BYTES


@contextmanager
def ours(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system say into our words; who waits for a lock sees SQLite's own error."""
    try:
        yield
    except sqlite3.Error as error:
        if is_busy(error):
            raise
        if is_damage(error):
            raise Damaged(str(error)) from None
        raise StartError(f"state {path} cannot be used: {describe(error, path)}") from None
    except UnicodeDecodeError:  # of SQLite's own message, which names what it found
        raise Damaged("its tables have names in no encoding") from None
    except OSError as error:
        raise StartError(f"state {path} cannot be used: {describe(error, path)}") from None


def make_file(path: Path) -> bool:
    """Make an empty file, that its owner alone may read, unless there is one; return whether it was made."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def check_kind(path: Path) -> None:
    """Refuse all but a regular file: SQLite would wait for a pipe. Raises StartError, or OSError."""
    if not path.is_file():
        path.stat()  # says why, where there is nothing
        raise StartError(f"state {path} is not a regular file: name another one as storage.path")


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a file that exists; `mode` is as in SQLite's addresses. Transactions are begun and ended by name."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
    # A row in another encoding is one that cannot be read, no more.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return connection


def check_identity(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse what another program made, or a newer version of this one."""
    if not schema.is_ours(connection):
        raise StartError(f"state {path} is a database of another program: name another file as storage.path")
    version, newest = schema.version_of(connection), len(schema.MIGRATIONS)
    if version > newest:
        raise StartError(
            f"state {path} was written by a newer version of knock-exporter (its form is {version}, this one knows up"
            f" to {newest}): run that version, or name another file as storage.path"
        )


def check_soundness(connection: sqlite3.Connection, check: str = "PRAGMA quick_check(1)") -> None:
    """Raise Damaged where SQLite finds something wrong."""
    found = connection.execute(check).fetchone()[0]
    if found != "ok":
        raise Damaged(str(found))


def check_tables(connection: sqlite3.Connection) -> None:
    """Raise Damaged where a table is not as it was made: SQLite's own check does not look at names."""
    for table, columns in schema.columns(schema.version_of(connection)).items():
        if not columns <= schema.columns_of(connection, table):
            raise Damaged(f"table {table} is not as it was made")


def prepare(path: Path, connection: sqlite3.Connection, form: int | None = None) -> None:
    """Set how the file is written, and bring it up to date."""
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StartError(f"state {path} cannot have a write-ahead log there: storage.path must be on a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    schema.migrate(connection, schema.MIGRATIONS[:form])


def make_replacement(path: Path, form: int | None = None) -> Path:
    """Make a state that holds nothing, to take the place of a file; return its name."""
    new = path.with_name(f"{path.name}.new")
    remove(new)
    make_file(new)
    with closing(connect(new, "rw")) as connection:
        prepare(new, connection, form)
    return new


def form_of(path: Path) -> int:
    """Return the form of a damaged file: the newest, where it does not tell."""
    with path.open("rb") as file:
        head = file.read(100)
    form, newest = int.from_bytes(head[60:64], "big"), len(schema.MIGRATIONS)
    return form if head.startswith(b"SQLite format 3\0") and 0 < form < newest else newest


def remove(path: Path) -> None:
    """Remove a file and what belongs to it."""
    for side in (*SIDES, ""):
        Path(f"{path}{side}").unlink(missing_ok=True)


def put_aside(path: Path, wall: float) -> Path:
    """Rename a damaged file and what belongs to it; return its new name."""
    stem = f"{path.name}.corrupt-{datetime.fromtimestamp(wall, UTC):%Y%m%dT%H%M%SZ}"
    names = (path.with_name(stem if number == 0 else f"{stem}-{number}") for number in range(1000))
    kept_as = next(name for name in names if not name.exists())
    for side in (*SIDES, ""):
        part = Path(f"{path}{side}")
        if part.exists():
            part.rename(f"{kept_as}{side}")
    return kept_as


@contextmanager
def reading(path: Path) -> Iterator[tuple[sqlite3.Connection, int]]:
    """Read a file as it is at one moment, also while an exporter writes to it; and its form. Raises StartError."""
    try:
        with ours(path):
            connection = _connect_reader(path)
        with closing(connection):
            form = schema.version_of(connection)
            if form == len(schema.MIGRATIONS):
                yield connection, form
                return
            with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
                connection.backup(copy)
                copy.text_factory = connection.text_factory
                schema.migrate(copy)
                yield copy, form
    except Damaged as error:
        raise StartError(f"state {path} is damaged: {error}") from None
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise StartError(f"state {path} cannot be read: {error}") from None


def _connect_reader(path: Path) -> sqlite3.Connection:
    check_kind(path)  # and SQLite's own "unable to open database file" names no reason
    closed = not Path(f"{path}-wal").exists()
    # Where the folder is read-only, SQLite cannot make its log, and a file that nobody has open needs none.
    connection = connect(path, "ro" if os.access(path.absolute().parent, os.W_OK) or not closed else "ro&immutable=1")
    try:
        connection.execute(f"PRAGMA busy_timeout = {READER_SECONDS * 1000:.0f}")
        connection.execute("BEGIN")
        check_identity(path, connection)
        _check_written(path, connection)
        check_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_written(path: Path, connection: sqlite3.Connection) -> None:
    if schema.version_of(connection) == 0:
        raise StartError(f"state {path} is empty: no exporter has written to it")
