"""Which source names which operation, and what follows for its group and labels.

One operation is one, however many sources name it. Group and labels come from the first source that says something, in
the order of precedence: configuration, files by path, http lists by URL, registrations.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from exporter.operation import GROUP

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from exporter.config import ListedOperation

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
    run: str | None = None


Memberships = tuple[Membership, ...]  # of one operation, in the order of precedence


def group_of(memberships: Memberships) -> str:
    """Return the group that an operation belongs to."""
    return next((each.group for each in memberships if each.group != GROUP), GROUP)


def run_of(memberships: Memberships) -> str | None:
    """Return the run that an operation is said to belong to."""
    return next((each.run for each in memberships if each.run is not None), None)


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
    runs = {each.run for each in memberships if each.run is not None}
    labels = {pair for each in memberships for pair in each.labels}
    return len(groups) > 1 or len(runs) > 1 or len(labels) > len({name for name, _ in labels})


class Followed(Protocol):
    """An operation that is followed."""

    memberships: Memberships


class MembershipIndex:
    """Who names which operation of one environment; those of a followed one are in its object."""

    def __init__(self, followed: Mapping[str, Followed]) -> None:
        self._followed = followed
        self._others: dict[str, Memberships] = {}  # of operations that are not
        self._lists: dict[SourceKey, set[str]] = {}

    def memberships(self, operation_id: str) -> Memberships:
        """Return who names an operation; empty: nobody any more."""
        followed = self._followed.get(operation_id)
        return followed.memberships if followed is not None else self._others.get(operation_id, ())

    def put(self, operation_id: str, memberships: Memberships) -> None:
        """Note who names an operation."""
        followed = self._followed.get(operation_id)
        if followed is not None:
            followed.memberships = memberships
        elif memberships:
            self._others[operation_id] = memberships
        else:
            self._others.pop(operation_id, None)

    def counts(self) -> dict[SourceKey, int]:
        """Return how many operations each source names; one that names none is left out."""
        return {source: len(listed) for source, listed in self._lists.items()}

    def sources(self, kind: SourceKind) -> list[SourceKey]:
        """Return the lists of a kind that name anything."""
        return [source for source in self._lists if source.kind is kind]

    def restore(self, operation_id: str, memberships: Memberships) -> None:
        """Take over what is known of an operation from before."""
        self.put(operation_id, memberships)
        for membership in memberships:
            self._lists.setdefault(membership.source, set()).add(operation_id)

    def left_out(self, source: SourceKey, listed: Container[str]) -> list[str]:
        """Return what a source names that its new list does not."""
        return [each for each in self._lists.get(source, ()) if each not in listed]

    def name(self, source: SourceKey, operation: ListedOperation) -> Memberships | None:
        """Note that a source names an operation; return who did before, None if that says nothing new."""
        before = self.memberships(operation.id)
        membership = Membership(source, operation.group, operation.labels, operation.run)
        if membership in before:
            return None
        others = [each for each in before if each.source != source]
        self.put(operation.id, tuple(sorted([*others, membership], key=precedence)))
        self._lists.setdefault(source, set()).add(operation.id)
        return before

    def drop(self, source: SourceKey, operation_id: str) -> None:
        """Note that a source names an operation no more."""
        self.put(operation_id, tuple(each for each in self.memberships(operation_id) if each.source != source))
        listed = self._lists.get(source)
        if listed is not None:
            listed.discard(operation_id)
            if not listed:
                del self._lists[source]


def precedence(membership: Membership) -> tuple[int, str]:
    """Return what orders who names an operation: what comes first is believed first."""
    return _RANKS[membership.source.kind], membership.source.name
