"""Which source names which operation, and what follows for its group and labels.

One operation is one, however many sources name it. Group and labels come from the first source that says something, in
the order of precedence: configuration, files by path, http lists by URL, registrations.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from exporter.operation import GROUP

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from exporter.config import ListedOperation
    from exporter.operation import OperationKey

Labels = tuple[tuple[str, str], ...]


class SourceKind(StrEnum):
    """Where ids come from, in the order of precedence; the label `source`."""

    CONFIG = "config"
    FILES = "files"
    HTTP = "http"
    API = "api"


_RANKS = {kind: rank for rank, kind in enumerate(SourceKind)}


class SourceKey(NamedTuple):
    """One list of ids: the configuration, a file (`name`: its path), an http list (its URL), or the registrations."""

    kind: SourceKind
    name: str = ""


CONFIG, API = SourceKey(SourceKind.CONFIG), SourceKey(SourceKind.API)


class Membership(NamedTuple):
    """That a source names an operation, and what it says of it; the group `default` says nothing."""

    source: SourceKey
    group: str = GROUP
    labels: Labels = ()


Memberships = tuple[Membership, ...]  # of one operation, in the order of precedence


def group_of(memberships: Memberships) -> str:
    """Return the group that an operation belongs to."""
    return next((each.group for each in memberships if each.group != GROUP), GROUP)


def labels_of(memberships: Memberships) -> Labels:
    """Return the labels of an operation, each from the first source that sets it, sorted by name."""
    labels: dict[str, str] = {}
    for membership in memberships:
        for name, value in membership.labels:
            labels.setdefault(name, value)
    return tuple(sorted(labels.items()))


def contradict(memberships: Memberships) -> bool:
    """Whether sources say different things about an operation."""
    groups = {each.group for each in memberships if each.group != GROUP}
    labels = {pair for each in memberships for pair in each.labels}
    return len(groups) > 1 or len(labels) > len({name for name, _ in labels})


class Conflicts:
    """The operations that sources contradict each other about."""

    def __init__(self) -> None:
        self._known: set[OperationKey] = set()

    def newly(self, key: OperationKey, memberships: Memberships) -> bool:
        """Look at an operation as it is named now; return whether it is one of them that was none before."""
        if not contradict(memberships):
            self._known.discard(key)
            return False
        before = len(self._known)
        self._known.add(key)
        return len(self._known) > before


class MembershipIndex:
    """Who names which operation of one environment. Owned by the tracker's thread."""

    def __init__(self) -> None:
        self._memberships: dict[str, Memberships] = {}
        self._lists: dict[SourceKey, set[str]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._memberships)

    def memberships(self, operation_id: str) -> Memberships:
        """Return who names an operation; empty: nobody any more."""
        return self._memberships.get(operation_id, ())

    def counts(self) -> dict[SourceKey, int]:
        """Return how many operations each source names; one that names none is left out."""
        return {source: len(listed) for source, listed in self._lists.items()}

    def sources(self, kind: SourceKind) -> list[SourceKey]:
        """Return the lists of a kind that name anything."""
        return [source for source in self._lists if source.kind is kind]

    def restore(self, operation_id: str, memberships: Memberships) -> None:
        """Take over what is known of an operation from before."""
        if memberships:
            self._memberships[operation_id] = memberships
        for membership in memberships:
            self._lists.setdefault(membership.source, set()).add(operation_id)

    def left_out(self, source: SourceKey, listed: Container[str]) -> list[str]:
        """Return what a source names that its new list does not."""
        return [each for each in self._lists.get(source, ()) if each not in listed]

    def name(self, source: SourceKey, operation: ListedOperation) -> bool:
        """Note that a source names an operation; return whether that is new, or says something new."""
        before = self._memberships.get(operation.id, ())
        membership = Membership(source, operation.group, operation.labels)
        if membership in before:
            return False
        others = [each for each in before if each.source != source]
        self._memberships[operation.id] = tuple(sorted([*others, membership], key=precedence))
        self._lists.setdefault(source, set()).add(operation.id)
        return True

    def drop(self, source: SourceKey, operation_id: str) -> None:
        """Note that a source names an operation no more."""
        left = tuple(each for each in self._memberships.get(operation_id, ()) if each.source != source)
        if left:
            self._memberships[operation_id] = left
        else:
            self._memberships.pop(operation_id, None)
        listed = self._lists.get(source)
        if listed is not None:
            listed.discard(operation_id)
            if not listed:
                del self._lists[source]


def precedence(membership: Membership) -> tuple[int, str]:
    """Return what orders who names an operation: what comes first is believed first."""
    return _RANKS[membership.source.kind], membership.source.name
