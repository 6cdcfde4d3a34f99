"""Reads the files that users name: whole, of a bounded size, and never blocking.

A path may lead to a pipe that nobody writes to, to a device without end, or to a file of the kernel that has nothing to
say yet. Each becomes an OSError whose `strerror` says what is wrong; the caller says with which file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import select
import stat
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SETTLED_SECONDS = 1.0  # a file not written to for this long is taken as whole
BYTES_MOST = 64 * 2**20  # of any file: a million ids are 43
PEM_BYTES_MOST = 4 * 2**20  # all authorities that a system trusts are a quarter of a MiB
_PIECE = 2**20  # bytes read at once


def read(path: str | os.PathLike[str], most: int, *, pipe_seconds: float = 0.0) -> bytes:
    """Read a regular file of at most `most` bytes. Raises OSError.

    With `pipe_seconds` a pipe is read too, to its end, if it comes within so many seconds.
    """
    with opened(path, pipe=pipe_seconds > 0) as descriptor:
        return content(descriptor, most, time.monotonic() + pipe_seconds)


@contextmanager
def opened(path: str | os.PathLike[str], *, pipe: bool = False) -> Iterator[int]:
    """Open a regular file (or a pipe, where one is allowed), and hand out its descriptor. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError:
        raise OSError(errno.EINVAL, "is not a path") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not (stat.S_ISREG(mode) or (pipe and stat.S_ISFIFO(mode))):
            raise OSError(errno.EINVAL, "is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def content(descriptor: int, most: int, until: float = 0.0) -> bytes:
    """Read an opened file to its end; a pipe may take until a monotonic time. Raises OSError."""
    found = os.fstat(descriptor)
    if not stat.S_ISFIFO(found.st_mode):
        until = 0.0  # /proc/kmsg is a regular file that may have nothing to say for hours
    pieces: list[bytes] = []
    left = most - found.st_size
    if left >= 0:
        left = most
        while left >= 0 and (piece := _piece(descriptor, until)):
            pieces.append(piece)
            left -= len(piece)
    if left < 0:
        raise OSError(errno.EFBIG, f"is larger than {size(most)}")
    if not pieces and stat.S_ISFIFO(found.st_mode):
        raise OSError(errno.EPIPE, "is a pipe that nobody writes to, or that was read before")
    return b"".join(pieces)


def _piece(descriptor: int, until: float) -> bytes:
    while True:
        try:
            return os.read(descriptor, _PIECE)
        except BlockingIOError:
            if not _readable(descriptor, until - time.monotonic()):
                raise OSError(errno.ETIMEDOUT, "has nothing to read (is something writing to it?)") from None


def _readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return seconds > 0 and bool(poll.poll(seconds * 1000))


def size(count: int) -> str:
    """Show a bound in bytes."""
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count} bytes"


def pem(path: str | os.PathLike[str]) -> str:
    """Read certificates for `load_verify_locations(cadata=…)`: OpenSSL itself would wait for a pipe. Raises OSError."""
    return read(path, PEM_BYTES_MOST).decode("ascii", "ignore")


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to a pipe."""
    try:
        return Path(path).is_fifo()
    except OSError:
        return False


def digest(path: str | os.PathLike[str]) -> bytes:
    """Tell contents apart, and those from why there is none to read."""
    try:
        return hashlib.sha256(read(path, BYTES_MOST)).digest()
    except OSError as error:
        return str(error.errno).encode()


def _stat(path: str | os.PathLike[str]) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116  as `open`, for any kind of path
    except OSError:
        return None


class Watch:
    """Tells when the content of files has changed, and is whole: not written to for SETTLED_SECONDS, or seen twice.

    `seen` is what tells contents apart.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._candidate: tuple[bytes, ...] | None = None
        self.note()

    def note(self) -> None:
        """Take the files as they are now as seen."""
        self.seen = self._digests()
        self._candidate = None

    def changed(self, wall: float) -> bool:
        """Look at them at the wall-clock time `wall` (Unix seconds); each change is told once."""
        found = self._digests()
        if found == self.seen:
            self._candidate = None
            return False
        if found != self._candidate and wall - self._written_at(default=wall) < SETTLED_SECONDS:
            self._candidate = found
            return False
        self.seen, self._candidate = found, None
        return True

    def _digests(self) -> tuple[bytes, ...]:
        return tuple(map(digest, self._paths))

    def _written_at(self, default: float) -> float:
        return max((found.st_mtime for found in map(_stat, self._paths) if found), default=default)
