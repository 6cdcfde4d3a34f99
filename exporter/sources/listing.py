"""What the forms of a list share: entries gathered and checked, the first fault told, the others counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from exporter.config.problems import suggestion
from exporter.config.settings import ListedOperation
from exporter.errors import ExporterError, redact
from exporter.operation import GROUP
from exporter.values import InvalidValue, check_operation_id, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from exporter.tracking.memberships import Labels

MAX_BYTES = 16 * 2**20
MAX_IDS = 100_000

Place = TypeVar("Place")


class BrokenList(ExporterError):
    """A list that could not be read or used, of which nothing counts; the message shows no key."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class Listing(Generic[Place]):
    """The entries of one list as they are read; `where` shows a place in it."""

    def __init__(self, where: Callable[[Place], str]) -> None:
        self._where = where
        self._found: dict[str, tuple[ListedOperation, Place]] = {}
        self._entries = 0
        self._fault = ""
        self._faults = 0

    def fault(self, place: Place, message: str, choice: tuple[str, Collection[str]] | None = None) -> None:
        """Note what is wrong at a place; `choice`: the word that was found, and those that are known."""
        self._faults += 1
        if self._faults == 1:  # a suggestion for each of a hundred thousand would take minutes
            hint = suggestion(*choice) if choice else ""
            self._fault = f"{self._where(place)}: {message}{hint}"

    def add(self, place: Place, text: str, group: str = GROUP, labels: Labels = (), run: str | None = None) -> None:
        """Take an entry. Raises BrokenList when there are too many."""
        self._entries += 1
        if self._entries > MAX_IDS:
            raise BrokenList(f"names more than {MAX_IDS} ids (split it)")
        try:
            operation = ListedOperation(check_operation_id(text), group, labels, run)
        except InvalidValue as error:
            self.fault(place, str(error))
            return
        first, there = self._found.setdefault(operation.id, (operation, place))
        if first != operation:
            what = f"{quoted(text)} is a duplicate, with another group, another run or other labels"
            self.fault(place, f"{what} (first at {self._where(there)}): keep one")

    def operations(self) -> tuple[ListedOperation, ...]:
        """Return what is listed. Raises BrokenList if anything is wrong."""
        if self._faults:
            more = f"; {self._faults} faults in all" if self._faults > 1 else ""
            raise BrokenList(f"{self._fault}{more}")
        return tuple(operation for operation, _ in self._found.values())
