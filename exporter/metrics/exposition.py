"""Rendered once per change, joined per scrape.

The tracker renders the sample lines of what changed and publishes a frozen `View`; a scrape joins the lines that are
there. Escaping, number format and headers are prometheus-client's own.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from prometheus_client import Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics

from exporter.metrics.families import PER_GROUP, PER_NAME, PER_OPERATION, PER_RUN, STALE, Family, OperationRow
from exporter.operation import UNKNOWN_NAME
from exporter.tracking.snapshot import NOTHING_SHOWN, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from exporter.tracking.transitions import Tracked

Lines = tuple[bytes, ...]  # one entry per family of the row's level
Rows = tuple[Lines, ...]
ROWS_A_PIECE = 512
_EOF = b"# EOF\n"


class Format(Enum):
    """The text formats that can be asked for."""

    TEXT = CONTENT_TYPE_PLAIN_0_0_4
    OPENMETRICS = openmetrics.CONTENT_TYPE_LATEST

    @property
    def content_type(self) -> str:
        """The Content-Type header's value."""
        return self.value

    def encode(self, registry: Any) -> bytes:
        """Write a prometheus-client registry or collector whole, as OpenMetrics with its EOF."""
        encoder: Callable[[Any], bytes] = openmetrics.generate_latest if self is Format.OPENMETRICS else generate_latest
        return encoder(registry)


def choose_format(accept: str) -> Format:
    """Return the format that an Accept header prefers: OpenMetrics 1.0 or text 0.0.4, the latter when in doubt."""
    best = {Format.TEXT: 0.0, Format.OPENMETRICS: 0.0}
    for media, parameters, weight in _offers(accept):
        if media == "application/openmetrics-text" and parameters.get("version", "1.0.0") in ("1.0.0", "0.0.1"):
            best[Format.OPENMETRICS] = max(best[Format.OPENMETRICS], weight)
        elif media in ("text/plain", "text/*", "*/*"):
            best[Format.TEXT] = max(best[Format.TEXT], weight)
    return Format.OPENMETRICS if best[Format.OPENMETRICS] > best[Format.TEXT] else Format.TEXT


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header asks for gzip."""
    return any(coding == "gzip" and weight > 0 for coding, _, weight in _offers(accept_encoding))


def _offers(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Read a header of alternatives with quality values (RFC 9110, 12.4.2): what, its parameters, its weight."""
    for part in header.split(","):
        what, *rest = (piece.strip() for piece in part.lower().split(";"))
        parameters = dict(each.partition("=")[::2] for each in rest)
        yield what, parameters, _weight(parameters.get("q", "1"))


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


class _Once:
    """A collector of one family, so that prometheus-client encodes it."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def encode_labels(labels: dict[str, str]) -> str:
    """Write label pairs as they stand between the braces of a sample line."""
    return _encoded(tuple(labels.items()))


@lru_cache(maxsize=1024)
def _encoded(labels: tuple[tuple[str, str], ...]) -> str:
    metric = Metric("labels", "", "gauge")
    metric.add_sample("labels", dict(labels), 1)
    text = Format.TEXT.encode(_Once(metric)).decode()
    return text[text.index("{") + 1 : text.rindex("}")]


def _header(family: Family, form: Format) -> bytes:
    metric = Metric(family.name.removesuffix("_total"), family.help, family.kind)
    return form.encode(_Once(metric)).removesuffix(_EOF)


_HEADERS = {
    form: {family.name: _header(family, form) for family in (*PER_OPERATION, *PER_NAME, *PER_GROUP, *PER_RUN, STALE)}
    for form in Format
}


def render(families: Iterable[Family], labels: str, row: object) -> Lines:
    """Render one row's sample lines, an entry per family."""
    return tuple(family.encode(labels, row) for family in families)


def render_operation(tracked: Tracked, declared: Sequence[str]) -> Lines:
    """Render an operation's own series; `declared` are the extra labels of its info series."""
    shared = encode_labels({"knock_environment": tracked.key.environment, "group": tracked.group})
    labels = f'{shared},operation_id="{tracked.key.id}"'  # a UUID: nothing in it needs escaping
    name = tracked.operation.name if tracked.operation is not None else UNKNOWN_NAME
    given = dict(tracked.labels)
    info = {"name": name, **{label: given.get(label, "") for label in declared}}
    row = OperationRow(tracked, "," + encode_labels(info))
    return render(PER_OPERATION, labels, row)


def operation_text(tracked: Tracked, declared: Sequence[str] = ()) -> bytes:
    """Write the families of one operation as a scrape would show them, alone; `declared` are its extra labels."""
    return operations_text([tracked], declared)


def operations_text(operations: Iterable[Tracked], declared: Sequence[str] = ()) -> bytes:
    """Write the families of operations as a scrape would show them, alone; `declared` are their extra labels."""
    rows = tuple(render_operation(each, declared) for each in operations)
    return b"".join(_level(PER_OPERATION, rows, Format.TEXT))


class RenderedRows:
    """The rendered rows of aggregates, or of groups. Owned by the tracker's thread."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, Lines] = {}
        self.size = 0  # bytes of all rows

    def put(self, key: Hashable, lines: Lines) -> None:
        """Place or replace a row."""
        self.size += size_of(lines) - size_of(self._rows.get(key, ()))
        self._rows[key] = lines

    def drop(self, key: Hashable) -> None:
        """Take a row away, if it is there."""
        self.size -= size_of(self._rows.pop(key, ()))

    def publish(self) -> Rows:
        """Return the rows as they stand, frozen."""
        return tuple(self._rows.values())


def size_of(lines: Lines) -> int:
    """Return how many bytes rendered lines have."""
    return sum(map(len, lines))


@dataclass(frozen=True)
class View:
    """What was known at one moment, rendered; nothing in it ever changes.

    `size` is how many bytes the rows have, HELP and TYPE apart.
    """

    snapshot: Snapshot = NOTHING_SHOWN
    aggregates: Rows = ()
    groups: Rows = ()
    runs: Rows = ()
    size: int = 0

    @cached_property
    def operations(self) -> Rows:
        """The rows of operations: once for all readers of a view, and not for views that nobody reads."""
        return tuple(each.lines for each in self.snapshot.operations.values() if each.lines)


def knock_part(view: View, form: Format) -> Iterator[bytes]:
    """Write Knock's families, each piece as it is taken: the lines are the view's, shared by all readers."""
    yield from _level(PER_OPERATION, view.operations, form)
    yield from _level(PER_NAME, view.aggregates, form)
    yield from _level(PER_GROUP, view.groups, form)
    yield from _level(PER_RUN, view.runs, form)


def knock_size(view: View, form: Format) -> int:
    """Return how many bytes `knock_part` writes, without writing it."""
    families = (*PER_OPERATION, *PER_NAME, *PER_GROUP, *PER_RUN)
    return view.size + sum(len(_HEADERS[form][each.name]) for each in families)


def _level(families: Sequence[Family], rows: Rows, form: Format) -> Iterator[bytes]:
    # To transpose all rows at once takes three quarters of the time, and 70 bytes a row for each reader that stalls.
    for index, family in enumerate(families):
        yield _HEADERS[form][family.name]
        line = itemgetter(index)
        for start in range(0, len(rows), ROWS_A_PIECE):
            yield b"".join(map(line, rows[start : start + ROWS_A_PIECE]))


def stale_part(view: View, form: Format, mono: float) -> bytes:
    """Write what depends on the monotonic time."""
    stale = [STALE.encode(each.labels, bisect_left(each.stale_at, mono)) for each in view.snapshot.counts]
    return b"".join((_HEADERS[form][STALE.name], *stale))
