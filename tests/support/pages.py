"""Exporters that know any operations at once, hostile ones among them, as an earlier process would have left them.

What has ended comes from the state alone. What has not is asked of the simulator, which serves the same records.
"""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import yaml
from programs import until

from exporter.config import Polling
from exporter.operation import FINAL, GROUP, OperationKey, parse_operation
from exporter.store.opening import open_store
from exporter.tracking import transitions
from exporter.tracking.memberships import API, Membership
from exporter.tracking.memory import Changes, EnvironmentMemory, StoredOperation
from exporter.tracking.runs import Run, StoredGroup
from exporter.tracking.transitions import Circumstances, Moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from programs import Exporter, Starter

    from exporter.simulator import Simulator
    from exporter.tracking.memberships import Labels

HOSTILE_NAMES = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></textarea></svg></style><svg onload=alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}${7*7}",
    "&lt;b&gt;&amp;&#x3c;",
    "users.identify\u202eyfitnedi.sresu",
    "משתמשים \u2067زرع\u2069 users",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301\u0323",
    "line one\nline two\ttab\r\x00\x1b[31m",
    "../../-/reload?x=1&y=2#z%2F%00",
    "   ",
    "x" * 10_240,
    "<b>" * 3_400,
    "wide " * 2_000,
)
# What the configuration lets through: printable, up to 128 bytes.
HOSTILE_GROUPS = (
    "<script>alert(2)</script>",
    '"><img src=x onerror=alert(2)>',
    "a&b=c#d?e/../f %2F+",
    "קבוצה مجموعة",
    "🚀" * 32,
    "G" * 128,
)
LABEL = "team"
NIGHTLY, RUN = "nightly", "2027-01-15T02:00:00Z"
HOSTILE_LABELS: tuple[Labels, ...] = tuple(((LABEL, each),) for each in ("</dd><script>alert(3)</script>", "l" * 128))
FINAL_WORDS = frozenset(map(str, FINAL))
UNFINISHED_MOST = 200  # in a fleet: all are asked within 2 s
ROWS = 1000
HOUR = 3600.0
READY_SECONDS = 60.0

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """An operation to show: Knock's record (None: Knock answers 404), what the registration said, and its run."""

    id: str
    document: Document | None = None
    group: str = GROUP
    labels: Labels = ()
    run: str | None = None

    @property
    def ended(self) -> bool:
        """Whether its record says that it is at its end."""
        return self.document is not None and self.document["status"] in FINAL_WORDS


@dataclass(frozen=True, slots=True)
class Place:
    """An environment of the exporter's, the Knock that it asks, and its operations; `settings` are further keys."""

    knock: Simulator
    shown: Sequence[Shown] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def document(operation_id: str, status: str, now: float, **fields: Any) -> Document:
    """Return a record as Knock would write it at `now` (Unix seconds); fields given count more, None leaves one out."""
    started, ended = status != "queued", status in FINAL_WORDS
    done = {"queued": 0, "processing": ROWS // 3, "failed": ROWS // 2}.get(status, ROWS)
    usual = {
        "__typename": "BulkOperation",
        "id": operation_id,
        "name": "users.identify",
        "status": status,
        "estimated_total_rows": ROWS,
        "processed_rows": done,
        "success_count": done,
        "error_count": 0,
        "progress_path": f"/v1/bulk_operations/{operation_id}",
        "inserted_at": _written(now - HOUR),
        "updated_at": _written(now - 10),
        "started_at": _written(now - HOUR + 20) if started else None,
        "completed_at": _written(now - 10) if ended and status != "failed" else None,
        "failed_at": _written(now - 10) if status == "failed" else None,
    }
    return {name: value for name, value in (usual | fields).items() if value is not None}


def _written(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# One for each way in which an operation can look, by what is told of it.
LOOKS: Mapping[str, tuple[str, Document]] = {
    "queued": ("queued", {}),
    "processing": ("processing", {}),
    "completed": ("completed", {}),
    "completed with errors": (
        "completed",
        {
            "success_count": ROWS - 7,
            "error_count": 7,
            "error_items": [{"id": f"user-{row}", "collection": "users" if row else None} for row in range(7)],
        },
    ),
    "failed": ("failed", {"error_count": 3, "success_count": ROWS // 2 - 3}),
    "a status that nobody documents": ("paused", {"processed_rows": 5}),
    "nothing to do": ("processing", {"estimated_total_rows": 0, "processed_rows": 0, "success_count": 0}),
    "more than was estimated": ("processing", {"estimated_total_rows": 10, "processed_rows": 25}),
    "no counts": (
        "processing",
        {"estimated_total_rows": None, "processed_rows": None, "success_count": None, "error_count": None},
    ),
    "counts as large as they may be": (
        "processing",
        {"estimated_total_rows": 2**53, "processed_rows": 2**53 - 1, "success_count": 2**53 - 1},
    ),
}


def ids(count: int) -> list[str]:
    """Return ids, always the same."""
    chance = random.Random(count)
    return [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(count)]


def all_looks(now: float) -> list[Shown]:
    """Return one operation for each look, and one that Knock does not know."""
    looks, (unknown, *known) = LOOKS.values(), ids(len(LOOKS) + 1)
    turns = zip(known, looks, strict=True)
    shown = [Shown(each, document(each, status, now, **fields), NIGHTLY, run=RUN) for each, (status, fields) in turns]
    return [*shown, Shown(unknown)]


def hostile(now: float) -> list[Shown]:
    """Return operations with hostile names, groups and labels, one in three at its end."""
    names = ids(len(HOSTILE_NAMES))
    turns = zip(
        names, HOSTILE_NAMES, cycle(HOSTILE_GROUPS), cycle(HOSTILE_LABELS), cycle(("failed", "queued", "processing"))
    )
    return [
        Shown(each, document(each, status, now, name=name), group, labels, RUN)
        for each, name, group, labels, status in turns
    ]


def fleet(count: int, now: float) -> list[Shown]:
    """Return so many operations: a few under way, some that failed, most completed."""
    under_way = min(UNFINISHED_MOST, count // 5)
    statuses = [*islice(cycle(("processing", "queued")), under_way), *["failed"] * (count // 20)]
    statuses += ["completed"] * (count - len(statuses))
    names = cycle(("users.identify", "users.delete", "schedules.create_schedules", "objects.projects.set"))
    groups = cycle((GROUP, "nightly", "import", "import"))
    return [
        Shown(each, document(each, status, now, name=name, estimated_total_rows=ROWS + number), group)
        for number, (each, status, name, group) in enumerate(zip(ids(count), statuses, names, groups, strict=False))
    ]


def serve(start: Starter, places: Mapping[str, Place], *args: str) -> Exporter:
    """Start an exporter with these environments; return it when it has asked about all that has not ended."""
    _remember(start, places, Moment(time.monotonic(), time.time()))
    for place in places.values():
        for each in place.shown:
            if each.document is not None:
                place.knock.world.put(each.document)
    exporter = start.run(f"--config.file={_configure(start, places)}", "--web.listen-address=127.0.0.1:0", *args)
    exporter.urls()
    count = sum(len(place.shown) for place in places.values())
    until(lambda: attempted(exporter) == count, lambda: f"{attempted(exporter)} of {count}", READY_SECONDS)
    return exporter


def attempted(exporter: Exporter) -> int:
    """Return of how many operations an attempt is known; without parsing the rest, which takes long for many."""
    return exporter.metrics().count("\nknock_bulk_operation_up{")


def _configure(start: Starter, places: Mapping[str, Place]) -> Path:
    environments = [
        {"name": name, "api_key_file": start.key_file.name, "base_url": place.knock.url, "rate_limit": 200}
        | {"per_operation_limit": 10_000}
        | dict(place.settings)
        for name, place in places.items()
    ]
    file = start.folder / "config.yaml"
    file.write_text(yaml.safe_dump({"labels": [LABEL], "environments": environments} | start.whole))
    return file


def _remember(start: Starter, places: Mapping[str, Place], now: Moment) -> None:
    """Write what an earlier process would have kept."""
    store, _ = open_store(start.keep_state(), lambda: now)
    try:
        operations = {
            OperationKey(name, each.id): _kept(name, each, now)
            for name, place in places.items()
            for each in place.shown
        }
        environments = {
            name: EnvironmentMemory(place.knock.url, None, now.wall - 2 * HOUR) for name, place in places.items()
        }
        runs = {(name, each.group): each.run for name, place in places.items() for each in place.shown if each.run}
        groups = {
            key: StoredGroup(run=Run(run, now.wall - HOUR, operations=20, deadline=now.wall - 60, newest=now.wall))
            for key, run in runs.items()
        }
        store.commit(Changes(1, now, operations, environments=environments, groups=groups), lambda _tried: False)
    finally:
        store.close()


def _kept(environment: str, shown: Shown, now: Moment) -> StoredOperation:
    polling = Polling()
    tracked = transitions.newly_tracked(OperationKey(environment, shown.id), shown.group, shown.labels, now, polling)
    tracked = tracked._replace(run=shown.run)
    if shown.ended:
        answer = parse_operation(shown.document, shown.id)
        at = Circumstances(now, 0.5, polling, now.wall - 2 * HOUR, trusted=True)
        tracked = transitions.succeeded(tracked, answer, at)
    return StoredOperation(tracked, (Membership(API, shown.group, shown.labels),))
