"""Files that list operations: which there are, when one counts, and what happens when it breaks or goes.

A file counts once it stood still between two looks, so that a half-written one never does; at the first look of the
process its age is enough. It is read again when it changed. Broken, it keeps what it named last; vanished, for
GRACE_SECONDS.
"""

from __future__ import annotations

import os
import stat
from glob import escape, glob
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

import structlog

from exporter.files import content as content_of
from exporter.files import opened
from exporter.sources.listing import MAX_BYTES, BrokenList
from exporter.sources.lists import form_of, parse
from exporter.tracking.memberships import SourceKey, SourceKind
from exporter.tracking.messages import Listed, Unread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from exporter.config import Config, EnvironmentSettings, ListedOperation
    from exporter.tracking.transitions import Moment

STILL_SECONDS = 3.5  # looks are 5 s apart, the first two less: the process begins with one
AGE_SECONDS = 5.0
GRACE_SECONDS = 600.0

log = structlog.get_logger()


class Mark(NamedTuple):
    """What changes when a file does; `problem` where it is not a file that can be read."""

    device: int = 0
    inode: int = 0
    size: int = 0
    modified: int = 0  # nanoseconds
    changed: int = 0  # also when access is given, and when a copy sets `modified` back
    problem: str = ""

    def old(self, wall: float) -> bool:
        """Whether it was not written to for a while; a time in the future tells nothing."""
        return not self.problem and wall - self.modified / 1e9 >= AGE_SECONDS


class FileList:
    """One file, for one environment.

    `listed`: it named operations that were not dropped since. `patterns`: those that found it; None: it is known from
    before a restart.
    """

    def __init__(self, environment: str, path: str, *, listed: bool = False) -> None:
        self.listed = listed
        self.patterns: frozenset[str] | None = None
        self._environment = environment
        self._path = path
        self._seen: Mark | None = None
        self._seen_at = 0.0
        self._judged: Mark | None = None
        self._broken: tuple[Mark, str] | None = None
        self._gone_at: float | None = None

    def recheck(self) -> None:
        """Have it read at the next look, changed or not."""
        self._judged = None

    def check_for_changes(
        self, mark: Mark, labels: tuple[str, ...], now: Moment, *, first: bool
    ) -> Listed | Unread | None:
        """Read it if it counts and changed since; `first`: this is the first look of the process."""
        self._gone_at = None
        if mark != self._seen:
            self._seen, self._seen_at = mark, now.mono
        still = now.mono - self._seen_at >= STILL_SECONDS
        if mark == self._judged or not (still or (first and mark.old(now.wall))):
            return None
        try:
            content = read(self._path, mark)
            if content is None:
                self._seen = None
                return None
            self._judged = mark
            return self._good(parse(content, form_of(self._path), labels))
        except BrokenList as error:
            return self._bad(mark, str(error))
        except Exception as error:  # noqa: BLE001  whatever it is: it must not lose the news of the files before it
            self._judged = None
            return self._bad(mark, f"unforeseen {type(error).__name__}")

    def miss(self, now: Moment, *, wanted: bool) -> Listed | None:
        """Note that it is not there; drops what it named after a while, or at once if it is not wanted."""
        self._seen = None
        if self.listed and self._gone_at is None:
            self._gone_at = now.mono
            if wanted:
                self._log().info("list of operations is gone, keeping what it named for 10 minutes")
        if self._gone_at is None or (wanted and now.mono - self._gone_at < GRACE_SECONDS):
            return None
        self.listed = False
        self._log().info("list of operations is gone, dropping what it listed")
        return Listed(self._environment, self._source, ())

    @property
    def sound(self) -> bool:
        """Whether it counts as it stands, and nothing is wrong with it."""
        return self._broken is None and self._judged is not None

    @property
    def _source(self) -> SourceKey:
        return SourceKey(SourceKind.FILES, self._path)

    def _log(self) -> structlog.stdlib.BoundLogger:
        bound: structlog.stdlib.BoundLogger = log.bind(environment=self._environment, path=self._path)
        return bound

    def _good(self, operations: tuple[ListedOperation, ...]) -> Listed:
        if self._broken is not None:
            self._log().info("list of operations is good again", operations=len(operations))
        self._broken = None
        self.listed = bool(operations)
        return Listed(self._environment, self._source, operations)

    def _bad(self, mark: Mark, problem: str) -> Unread | None:
        before, self._broken = self._broken, (mark, problem)
        if before == self._broken:
            return None
        if before is None or before[1] != problem:
            self._log().warning("list of operations is broken, keeping its last list", error=problem)
        return Unread(self._environment, self._source, problem)


class FileLists:
    """All files of all environments. `remembered` are the sources that are known from before a restart."""

    def __init__(self, config: Config, remembered: Iterable[tuple[str, SourceKey]] = ()) -> None:
        self._config = config
        self._files: dict[tuple[str, str], FileList] = {}
        self._first = True
        self._idle: set[tuple[str, str]] = set()
        for environment, source in remembered:
            if source.kind is SourceKind.FILES:
                self._files[environment, source.name] = FileList(environment, source.name, listed=True)

    def reconfigure(self, config: Config) -> None:
        """Go by another configuration from the next look on."""
        names = {each.name for each in config.environments}
        relabeled = config.labels != self._config.labels
        self._config = config
        for (environment, _), file in self._files.items():
            if relabeled or environment not in names:
                file.recheck()

    def check_for_changes(self, now: Moment) -> list[Listed | Unread]:
        """Look at all files; return what is news, in the order of environments and paths."""
        news = [each for environment in self._config.environments for each in self._check(environment, now)]
        self._first = False
        return news

    def sound(self) -> list[str]:
        """Return the environments of which every file was read as it stands, as of the last look."""
        unsound = {environment for (environment, _), file in self._files.items() if not file.sound}
        return [each.name for each in self._config.environments if each.operations_files and each.name not in unsound]

    def _check(self, environment: EnvironmentSettings, now: Moment) -> Iterator[Listed | Unread]:
        name, wanted = environment.name, frozenset(environment.operations_files)
        found = self._matches(environment)
        known = {path for owner, path in self._files if owner == name}
        marks = _each_once({path: mark_of(path) for path in found})
        for path in sorted(known | marks.keys()):
            file = self._files.setdefault((name, path), FileList(name, path))
            mark = marks.get(path)
            if mark is not None:
                file.patterns = frozenset(found[path])
                message = file.check_for_changes(mark, self._config.labels, now, first=self._first)
            else:
                message = file.miss(now, wanted=file.patterns is None or not wanted.isdisjoint(file.patterns))
                if not file.listed:
                    del self._files[name, path]
            if message is not None:
                yield message

    def _matches(self, environment: EnvironmentSettings) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for pattern in environment.operations_files:
            paths = matches(pattern)
            self._log_idle(environment.name, pattern, idle=not paths)
            for path in paths:
                found.setdefault(str(PurePath(path)), set()).add(pattern)
        return found

    def _log_idle(self, environment: str, pattern: str, *, idle: bool) -> None:
        if not idle:
            self._idle.discard((environment, pattern))
        elif (environment, pattern) not in self._idle:
            self._idle.add((environment, pattern))
            log.info("pattern of operations_files matches no file yet", environment=environment, pattern=pattern)


def matches(pattern: str) -> set[str]:
    """Return the paths that a pattern finds. `**` enters a folder once, by whichever of its names it comes first.

    `glob` would go round for 40 turns where a folder links to itself, and 2 to the power of 40 where it does so twice.
    """
    before, stars, after = f"{pattern}/".partition("/**/")
    if not stars:
        return set(glob(pattern))  # noqa: PTH207  Path.glob takes no absolute pattern
    folders = _folders(glob(before or "/"))  # noqa: PTH207  the same
    rest = after[:-1] if after else "*"
    return {path for folder in folders for path in matches(f"{escape(folder)}/{rest}")}


def _folders(paths: Iterable[str]) -> list[str]:
    """Return these folders and those in them, each once, but no hidden ones; the nearest names first."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    level = sorted(paths)
    while level:
        below: list[str] = []
        for path in level:
            try:
                known = os.stat(path)  # noqa: PTH116  the paths come as text
                if (known.st_dev, known.st_ino) in seen or not stat.S_ISDIR(known.st_mode):
                    continue
                seen.add((known.st_dev, known.st_ino))
                with os.scandir(path) as entries:
                    below += [each.path for each in entries if not each.name.startswith(".") and each.is_dir()]
            except OSError:  # gone meanwhile, or closed to us: as `glob` has it, nothing matches there
                continue
            found.append(path)
        level = sorted(below)
    return found


def _each_once(marks: Mapping[str, Mark | None]) -> dict[str, Mark]:
    """Keep one path of each file, the one with the fewest folders: links may give it several."""
    kept: dict[str, Mark] = {}
    seen: set[tuple[int, int]] = set()
    for path in sorted(marks, key=lambda each: (each.count("/"), each)):
        mark = marks[path]
        if mark is None or (not mark.problem and (mark.device, mark.inode) in seen):
            continue
        seen.add((mark.device, mark.inode))
        kept[path] = mark
    return kept


def mark_of(path: str) -> Mark | None:
    """Look at a file without opening it; None where there is none: nothing, or a folder."""
    if not path.isprintable():  # such as a name that is not UTF-8, which neither state nor logs can hold
        return Mark(problem="its name holds special characters (rename it)")
    try:
        found = os.stat(path)  # noqa: PTH116  the paths come as text, and there may be thousands
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return Mark(problem=f"cannot be read: {error.strerror}")
    if stat.S_ISDIR(found.st_mode):
        return None
    return _signature(found) if stat.S_ISREG(found.st_mode) else Mark(problem="is not a regular file")


def _signature(found: os.stat_result) -> Mark:
    return Mark(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read(path: str, mark: Mark) -> bytes | None:
    """Read a file; None if it is another one meanwhile, or changes while it is read. Raises BrokenList."""
    if mark.problem:
        raise BrokenList(mark.problem)
    try:
        with opened(path) as descriptor:
            if _signature(os.fstat(descriptor)) != mark:
                return None
            content = content_of(descriptor, MAX_BYTES)
            return content if _signature(os.fstat(descriptor)) == mark else None
    except OSError as error:
        if mark_of(path) != mark:
            return None
        raise BrokenList(f"cannot be read: {error.strerror}") from None
