"""An import from its lines to the file."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

from exporter.errors import StartError
from exporter.store import database, portable
from exporter.store.merge import merge
from exporter.store.opening import Opening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from exporter.operation import OperationKey
    from exporter.store.lock import Patience
    from exporter.store.rows import Skip
    from exporter.store.store import Store
    from exporter.tracking.memory import Changes, Memory
    from exporter.tracking.transitions import Moment


def take_in(
    path: Path, lines: Iterable[bytes], clock: Callable[[], Moment], patience: Patience, skip: Skip
) -> list[str]:
    """Take an export into a file that no exporter has; return what to tell. Raises StartError: then nothing changed."""
    taken = portable.read(lines, clock())
    store, here = Opening(path, clock, patience, taken.ages, mend=False, skip=skip).open()
    with closing(store):
        memory = taken.memory()
        changes = merge(here, memory, clock())
        _commit(store, changes)
    return _summary(here, memory, changes)


def _commit(store: Store, changes: Changes) -> None:
    try:
        store.commit(changes, lambda _tried: False)
    except database.FAILURES as error:
        problem = database.describe(error, store.path)
        raise StartError(f"state {store.path} cannot be written, nothing was imported: {problem}") from None


def _summary(here: Memory, taken: Memory, changes: Changes) -> list[str]:
    given = Counter(key.environment for key in taken.operations)
    known = Counter(key.environment for key in taken.operations if key in here.operations)
    over = Counter(key.environment for key in taken.operations if not _followed(key, here, changes))
    stones = Counter(key.environment for key in taken.tombstones)
    told = []
    for name in sorted({*taken.environments, *given, *stones}):
        told.append(
            f"environment {name}: {given[name]} operations ({known[name]} known here before, {over[name]} left out as"
            f" retired here), {stones[name]} tombstones"
        )
        told += _differences(here, taken, name)
    return told


def _followed(key: OperationKey, here: Memory, changes: Changes) -> bool:
    return (changes.operations if key in changes.operations else here.operations).get(key) is not None


def _differences(here: Memory, taken: Memory, name: str) -> list[str]:
    ours, theirs = here.environments.get(name), taken.environments.get(name)
    if ours is None or theirs is None or (ours.base_url, ours.branch) == (theirs.base_url, theirs.branch):
        return []
    where = f"{theirs.base_url} (branch {theirs.branch}), here {ours.base_url} (branch {ours.branch})"
    return [f"environment {name}: the export is of {where}; if these are two, its ids are not known here"]
