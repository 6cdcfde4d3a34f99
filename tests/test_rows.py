"""What the pages say of operations and environments, and how they write numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from model import WALL, running
from snapshots import entry_of, snapshot_of

from exporter import wording
from exporter.config import Polling
from exporter.operation import UNKNOWN_NAME, Operation, OperationKey, Status
from exporter.tracking import facts
from exporter.tracking.history import NO_HISTORY, plotted
from exporter.tracking.memberships import SourceKey, SourceKind
from exporter.tracking.selection import FilterOption
from exporter.tracking.snapshot import EnvironmentStatus, SourceState
from exporter.tracking.transitions import Circumstances, Moment, Tracked, newly_tracked, succeeded
from exporter.web.advice import operation_advice
from exporter.web.rows import EnvironmentRow, Row, environment_rows, headline, offered, row, troubled

ID = "00000000-0000-4000-8000-000000000001"
NOW = Moment(1000.0, WALL)
SITUATION = EnvironmentStatus(
    "production", "https://api.knock.app", None, None, suspended=False, limit=20, pace=20, used=0.0, in_flight=0
)


def tracked(record: Operation | None = None, name: str = "production", **changes: Any) -> Tracked:
    made = newly_tracked(OperationKey(name, ID), "default", (), NOW, Polling())
    if record is not None:
        made = succeeded(made, record, Circumstances(NOW, 0.5, Polling(), WALL, trusted=True))
    return made._replace(**changes)


def shown(record: Operation | None = None, after: float = 0.0, **changes: Any) -> Row:
    return row(entry_of(tracked(record, **changes)), "/knock", Moment(NOW.mono + after, NOW.wall + after))


# Operations.


def test_a_line_says_what_is_known() -> None:
    line = shown(running(ID, rows_processed=25, errors=2), 10.0)
    assert (line.url, line.name, line.state) == (f"/knock/operations/production/{ID}", "users.identify", "processing")
    assert (line.bar, line.flawed) == ("processing", False)
    assert (line.progress, line.share, line.errors, line.notes) == ("25 of 100 rows", 0.25, 2, ())


def test_a_line_of_what_was_never_answered_guesses_nothing() -> None:
    line = shown()
    assert (line.name, line.state, line.progress, line.notes) == (
        "name not known yet",
        "pending",
        "not known",
        ("not read yet",),
    )
    assert (line.share, line.rate, line.time_left, line.errors, line.end) == (None, None, None, None, None)


@pytest.mark.parametrize(("name", "told"), [(UNKNOWN_NAME, "name not known yet"), (" \t", "blank name"), ("x", "x")])
def test_every_line_has_a_name_to_click_on(name: str, told: str) -> None:
    assert shown(running(ID, name=name)).name == told


@pytest.mark.parametrize(
    ("record", "changes", "after", "notes"),
    [
        (running(ID, status=Status.COMPLETED), {}, 9e9, ()),
        (running(ID, status=Status.COMPLETED, errors=1), {}, 0.0, ()),
        (running(ID), {"last_success": Moment(NOW.mono + 200, NOW.wall + 200)}, 212.0, ("no change for 3m 32s",)),
        (running(ID), {"last_success": Moment(NOW.mono + 50, NOW.wall + 50)}, 70.0, ()),
        (running(ID, status=Status.FAILED, errors=1), {}, 0.0, ()),
        (running(ID, status=Status.UNKNOWN), {}, 0.0, ("Knock's status is not documented",)),
        (None, {"lost": True}, 0.0, ("Knock answers 404",)),
        (running(ID), {"lost": True, "up": False}, 0.0, ("Knock answers 404",)),
        (running(ID), {"up": False}, 0.0, ("last poll failed",)),
        (running(ID), {}, 3600.0, ("stale: not read for 1h",)),
        (None, {}, 3600.0, ("not read yet", "stale: not read for 1h")),
    ],
)
def test_notes_say_what_the_state_does_not(
    record: Operation | None, changes: dict[str, object], after: float, notes: tuple[str, ...]
) -> None:
    assert shown(record, after, **changes).notes == notes


def test_the_end_is_expected_while_rows_move_and_known_afterwards() -> None:
    history = NO_HISTORY
    for seconds in (0, 10):
        record = running(ID, rows_processed=25 + seconds)
        history = plotted(history, WALL + seconds, record)
    moving = tracked(record, up=True)
    assert row(entry_of(moving, history), "", NOW).end == WALL + 65
    assert shown(running(ID)).end is None
    assert shown(running(ID, status=Status.FAILED, failed_at=WALL - 9)).end == WALL - 9


@pytest.mark.parametrize(
    ("record", "changes", "after", "runbook"),
    [
        (running(ID, status=Status.FAILED), {}, 0.0, "KnockOperationFailed"),
        (running(ID, status=Status.COMPLETED, errors=1), {}, 0.0, "KnockOperationCompletedWithErrors"),
        (running(ID), {"last_success": Moment(NOW.mono + 900, NOW.wall + 900)}, 901.0, "KnockOperationStalled"),
        (running(ID), {}, 600.0, "KnockOperationsStale"),
        (None, {"lost": True}, 0.0, "KnockOperationsLost"),
        (running(ID, status=Status.COMPLETED), {}, 9e9, None),
        (running(ID), {}, 10.0, None),
    ],
)
def test_what_needs_attention_leads_to_its_runbook(
    record: Operation | None, changes: dict[str, Any], after: float, runbook: str | None
) -> None:
    now = Moment(NOW.mono + after, NOW.wall + after)
    entry = entry_of(tracked(record, **changes))
    found = operation_advice(entry, now, "https://example.com")
    assert (found.runbook if found is not None else None) == runbook
    assert facts.needs_attention(entry, now) is (runbook is not None)


# Environments.


def test_environments_count_their_own_operations_and_what_waits() -> None:
    later = Moment(NOW.mono + 30, NOW.wall + 30)
    operations = (
        tracked(due=NOW.mono),
        tracked(running(ID, status=Status.FAILED))._replace(key=OperationKey("production", "b")),
        tracked(name="other", due=NOW.mono + 90),
    )
    snapshot = snapshot_of(operations, (SITUATION, replace(SITUATION, name="empty")))
    assert environment_rows(snapshot, later) == (
        EnvironmentRow(SITUATION, 2, 1, 1, 1, 30.0),
        EnvironmentRow(replace(SITUATION, name="empty"), 0, 0, 0, 0, 0.0),
    )


def test_the_headline_names_trouble_first() -> None:
    good = EnvironmentRow(replace(SITUATION, up=True), 1200, 1100, 3, 0, 0.0)
    bad = EnvironmentRow(replace(SITUATION, up=False), 0, 0, 0, 0, 0.0)
    assert headline([good]) == "3 failed, 1,100 unfinished"
    assert headline([good, bad]) == "1 of 2 environments in trouble, 3 failed, 1,100 unfinished"
    assert headline([]) == "0 failed, 0 unfinished"


def test_environments_in_trouble_are_told_at_the_top() -> None:
    broken = SourceState(SourceKey(SourceKind.FILES, "ids.txt"), problem="no such file")
    statuses = {
        "good": replace(SITUATION, up=True),
        "refused": replace(SITUATION, up=False, suspended=True),
        "down": replace(SITUATION, up=False),
        "source": replace(SITUATION, up=True, sources=(broken,)),
    }
    found = [EnvironmentRow(replace(each, name=name), 0, 0, 0, 0, 0.0) for name, each in statuses.items()]
    assert troubled(found) == [
        ("refused", "key refused"),
        ("down", "cannot be read"),
        ("source", "1 source cannot be read"),
    ]


def test_a_form_offers_what_a_browser_sends_unchanged() -> None:
    good = (
        FilterOption("plain", 1),
        FilterOption("<b>&\"'", 1),
        FilterOption("👩\u200d👧", 1),
        FilterOption("x" * 1000, 1),
    )
    bad = (FilterOption("a\nb", 1), FilterOption("\x00", 1), FilterOption("\x7f", 1), FilterOption("x" * 1001, 1))
    assert offered((*good, *bad)) == good


# Numbers.


@pytest.mark.parametrize(
    ("processed", "estimated", "told"),
    [
        (512, 1000, "512 of 1,000 rows"),
        (1000, 1000, "1,000 of 1,000 rows"),
        (1200, 1000, "1,200 rows, estimate of 1,000 passed"),
        (512, 0, "512 rows, estimate 0"),
        (0, 0, "0 rows, estimate 0"),
        (512, None, "512 rows, no estimate"),
        (None, 1000, "of 1,000 rows, not known how many"),
        (None, None, "not known"),
    ],
)
def test_progress_is_honest(processed: int | None, estimated: int | None, told: str) -> None:
    assert wording.progress(processed, estimated) == told


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0"), (999, "999"), (1000, "1k"), (1500, "1.5k"), (20_000_000, "20M"), (2**53, "9.01P"), (10**12, "1T")],
)
def test_axes_have_little_room(count: int, told: str) -> None:
    assert wording.short(count) == told


@pytest.mark.parametrize(("text", "told"), [("abc", "abc"), ("abcd", "ab…"), ("", "")])
def test_what_is_cut_says_so(text: str, told: str) -> None:
    assert wording.cut(text, 3) == told
