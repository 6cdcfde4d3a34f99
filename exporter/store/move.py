"""An export, and an import: lines of JSON, of which the first says when it was true, and the last that it is whole.

An import puts an environment in the place of one that nobody follows: two histories are never put together, since
nobody knows what both counted.
"""

from __future__ import annotations

import dataclasses
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Any

from msgspec import Struct, json, to_builtins

from exporter.errors import StartError
from exporter.store import database, documents, tables
from exporter.store.ages import Ages, Checkpoint
from exporter.store.conversions import Contents
from exporter.store.documents import Number, TombstoneDocument, UnreadableRow, dump
from exporter.store.opening import Opening
from exporter.tracking.memory import Changes
from exporter.wording import counted

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from exporter.store.lock import Patience
    from exporter.store.store import Store
    from exporter.store.tables import Skip
    from exporter.tracking.memory import Memory
    from exporter.tracking.transitions import Moment

FORMAT, VERSION = "knock-exporter-state", 1
MOST_BYTES = 1 << 20  # of a line: none that was exported comes near

_AS_IN_THE_FILE = Ages(0.0)
_END = '{"kind":"end"}'


# Out.


def export(connection: sqlite3.Connection, environments: Collection[str], skip: Skip) -> Iterator[str]:
    """Write what is kept, of these environments (none: of all), as it was at the last checkpoint."""
    known = [name for name, _ in tables.read_documents(connection, "environment", skip)]
    for name in environments:
        if name not in known:
            raise StartError(f"the state has no environment {name!r}; it has: {', '.join(known) or 'none'}")
    at = tables.read_checkpoint(connection)
    if at is None:
        raise StartError("the state has no checkpoint: nothing tells when it was true")
    yield dump({"format": FORMAT, "version": VERSION, **at._asdict()})
    for document in _documents(connection, skip):
        if not environments or document["environment"] in environments:
            yield dump(document)
    yield _END


def _documents(connection: sqlite3.Connection, skip: Skip) -> Iterator[dict[str, Any]]:
    yield from _of_kind(connection, "environment", skip)
    yield from _of_kind(connection, "operation", skip)
    for key, stone in tables.read_tombstones(connection, _AS_IN_THE_FILE, skip).items():
        yield to_builtins(TombstoneDocument(**key._asdict(), **stone._asdict()))
    yield from _of_kind(connection, "cell", skip)
    yield from _of_kind(connection, "group", skip)


def _of_kind(connection: sqlite3.Connection, kind: str, skip: Skip) -> Iterator[dict[str, Any]]:
    return (to_builtins(document) for _, document in tables.read_documents(connection, kind, skip))


# In.


class _Format(Struct):
    """What the first line of an export of any version has."""

    format: str = ""
    version: int = 0


class _Header(Struct, forbid_unknown_fields=True):
    """The first line of an export of this version."""

    format: str
    version: int
    age: Number
    wall: Number


_FORMAT, _HEADER = json.Decoder(_Format), json.Decoder(_Header)


def read(lines: Iterable[bytes], now: Moment) -> tuple[Ages, Memory]:
    """Read and check an export, whole. Raises StartError, which names the first line that is wrong."""
    ages, contents, ended, number = Ages(0.0), None, False, 0
    for number, line in enumerate(lines, 1):
        try:
            _check_line(line, ended=ended)
            if contents is None:
                ages = _begin(line, now)
                contents = Contents(ages)
            elif not (ended := line.replace(b" ", b"").strip() == _END.encode()):
                contents.take(documents.decode(line))
        except UnreadableRow as error:
            raise StartError(f"line {number}: {error}; nothing was imported") from None
    if contents is None or not ended:
        raise StartError(f"line {number + 1}: the export ends too soon: was it cut off? Nothing was imported")
    return ages, contents.memory()


def _check_line(line: bytes, *, ended: bool) -> None:
    if len(line) > MOST_BYTES:
        raise UnreadableRow(f"longer than {MOST_BYTES} bytes")
    if ended:
        raise UnreadableRow("stands behind the end")


def _begin(line: bytes, now: Moment) -> Ages:
    found = documents.decode_by(_FORMAT, line)
    if found.format != FORMAT:
        raise UnreadableRow(f'expected the first line of an export, with "format": "{FORMAT}"')
    if found.version != VERSION:
        raise UnreadableRow(f"version: this is version {found.version} of the format, known here is {VERSION}")
    header = documents.decode_by(_HEADER, line)
    return Checkpoint(header.age, header.wall).ages(now)


def take_in(  # noqa: PLR0913 - each is said by the caller
    path: Path,
    lines: Iterable[bytes],
    clock: Callable[[], Moment],
    patience: Patience,
    skip: Skip,
    *,
    replace: bool = False,
) -> list[str]:
    """Take an export into a file that no exporter has; return what to tell. Raises StartError: then nothing changed.

    Without `replace`, an environment that is not asleep here is refused.
    """
    ages, taken = read(lines, clock())
    store, here = Opening(path, clock, patience, ages, mend=False, skip=skip).open()
    with closing(store):
        keyed = chain(taken.operations, taken.tombstones, taken.aggregates, taken.groups)
        names = {each[0] for each in keyed} | {*taken.environments}
        awake = [name for name, each in here.environments.items() if name in names and each.asleep_since is None]
        if awake and not replace:
            raise StartError(
                f"state {path}: environment {', '.join(awake)} is awake there, nothing was imported: --replace drops"
                " what is known there, and puts the export in its place"
            )
        _commit(store, _replacing(here, taken, names, clock()))
    return [line for name in sorted(names) for line in _summary(here, taken, name)]


def _replacing(here: Memory, taken: Memory, names: set[str], now: Moment) -> Changes:
    """Return what puts these environments in the place of those here: asleep, until they are configured."""

    def replaced(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> dict[Any, Any]:
        return {key: None for key in before if key[0] in names} | dict(after)

    asleep = {name: dataclasses.replace(each, asleep_since=now.mono) for name, each in taken.environments.items()}
    return Changes(
        0,
        now,
        replaced(here.operations, taken.operations),
        replaced(here.tombstones, taken.tombstones),
        replaced(here.aggregates, taken.aggregates),
        dict.fromkeys(names) | asleep,
        replaced(here.groups, taken.groups),
    )


def _commit(store: Store, changes: Changes) -> None:
    try:
        store.commit(changes, lambda _tried: False)
    except database.FAILURES as error:
        problem = database.describe(error, store.path)
        raise StartError(f"state {store.path} cannot be written, nothing was imported: {problem}") from None


def _summary(here: Memory, taken: Memory, name: str) -> Iterator[str]:
    given = [key for key in taken.operations if key.environment == name]
    known = sum(key in here.operations for key in given)
    stones = sum(key.environment == name for key in taken.tombstones)
    operations = f"{counted(len(given), 'operation')} ({known} known here before)"
    yield f"environment {name}: {operations}, {counted(stones, 'tombstone')}"
    ours, theirs = here.environments.get(name), taken.environments.get(name)
    if ours is not None and theirs is not None and (ours.base_url, ours.branch) != (theirs.base_url, theirs.branch):
        where = f"{theirs.base_url} (branch {theirs.branch}), here {ours.base_url} (branch {ours.branch})"
        yield f"environment {name}: the export is of {where}; if these are two, its ids are not known here"
