"""What pages are shown: the operations and environments as the tracker has them, frozen with each view."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model import KEY, WALL, Disk, Model, environment, ids, running
from snapshots import entry_of

from exporter.config import Config, Polling
from exporter.config.settings import HttpSource
from exporter.errors import KeyRefused, KnockError, NotFound, RateLimited, Reason, Unreachable
from exporter.operation import Operation, OperationKey, Status
from exporter.tracking.history import PollFailure
from exporter.tracking.memberships import API, CONFIG, SourceKey, SourceKind
from exporter.tracking.messages import Listed, Reconfigure, Reread, Unread
from exporter.tracking.snapshot import NOTHING_SHOWN, Entry, EnvironmentStatus, Snapshot
from exporter.tracking.status import EnvironmentActivity
from exporter.tracking.transitions import Moment, newly_tracked

if TYPE_CHECKING:
    from exporter.tracking.messages import PollRequest

A, B, C = ids(3)
FILE, URL = SourceKey(SourceKind.FILES, "/ids.txt"), SourceKey(SourceKind.HTTP, "https://lists.example/ids")
DOWN = Unreachable(Reason.CONNECT, "no connection")


def growing(request: PollRequest, now: Moment) -> Operation:
    return running(request.id, rows_processed=int(now.mono), rows_estimated=10**6, errors=1)


def shown(model: Model) -> Snapshot:
    return model.views[-1].snapshot


def environment_status(model: Model) -> EnvironmentStatus:
    (found,) = shown(model).environments
    return found


def key(operation_id: str) -> OperationKey:
    return OperationKey("production", operation_id)


def test_before_the_first_view_nothing_is_shown() -> None:
    assert (len(NOTHING_SHOWN.operations), list(NOTHING_SHOWN.order)) == (0, [])


def test_every_operation_is_in_the_snapshot_also_those_without_series() -> None:
    model = Model(Config((environment(operations=[A, B], per_operation="none"),)), growing)
    model.run(10)
    snapshot = shown(model)
    assert {each.tracked.key.id for each in snapshot.order} == {A, B}
    assert len(snapshot.operations) == 2
    found = snapshot.operations.get(key(A))
    assert found is not None
    assert found.tracked.operation is not None
    assert [each.source for each in found.memberships] == [CONFIG]
    assert snapshot.operations.get(key(C)) is None


def test_a_snapshot_never_changes_and_the_next_one_does() -> None:
    model = Model(Config((environment(),)), growing)
    model.register(A)
    model.run(5)
    before = shown(model)
    entries, operations = list(before.order), dict(before.operations)
    model.register(B)
    model.release(A)
    model.run(5)
    assert (list(before.order), before.operations) == (entries, operations)
    assert [each.tracked.key.id for each in before.order] == [A]
    assert [each.tracked.key.id for each in shown(model).order] == [B]


@given(
    st.lists(st.dictionaries(st.integers(0, 199), st.integers(-1, 3), max_size=200), max_size=6),
    st.sampled_from([0, 200]),
)
def test_the_order_is_what_a_sort_would_give(steps: list[dict[int, int]], at_first: int) -> None:
    snapshot, naive, operation_ids = NOTHING_SHOWN, dict[OperationKey, Entry](), ids(200)
    for step in [dict.fromkeys(range(at_first), 0), *steps]:
        touched = {key(operation_ids[number]): ordered(operation_ids[number], level) for number, level in step.items()}
        naive = {each: entry for each, entry in (naive | touched).items() if entry is not None}
        snapshot = snapshot.changed(touched, (), (), ())
        assert snapshot.operations == naive
        assert snapshot.order == sorted(naive.values(), key=lambda each: each.rank)


def ordered(operation_id: str, level: int) -> Entry | None:
    """Build an operation as old as its level says; None for a negative one: it is dropped."""
    if level < 0:
        return None
    seen = Moment(0.0, WALL - level)
    return entry_of(newly_tracked(key(operation_id), "default", (), seen, Polling()))


def test_polls_and_points_come_with_the_operation() -> None:
    answers: list[Operation | KnockError] = [running(A, rows_processed=5), DOWN, running(A, rows_processed=9)]
    model = Model(Config((environment(operations=[A]),)), lambda *_: answers.pop(0) if answers else DOWN)
    model.run(30)
    found = shown(model).operations.get(key(A))
    assert found is not None
    assert [each.processed for each in found.history.points] == [5, 9]
    polls = found.history.polls
    assert [each.trouble for each in polls[:3]] == [None, PollFailure("connect", "no connection"), None]
    assert [round(each.seconds, 2) for each in polls[:3]] == [0.05] * 3
    assert WALL < polls[0].at < polls[1].at


@pytest.mark.parametrize("error", [RateLimited("slow down", retry_after=5.0), KeyRefused("no")])
def test_the_trouble_of_a_whole_upstream_is_seen_at_the_operation_too(error: KnockError) -> None:
    model = Model(Config((environment(operations=[A]),)), lambda *_: error)
    model.run(3)
    found = shown(model).operations.get(key(A))
    assert found is not None
    assert found.history.polls[0].trouble == PollFailure(error.reason, str(error))


def test_the_line_goes_when_it_ended_well_and_stays_when_it_failed() -> None:
    def ending(request: PollRequest, now: Moment) -> Operation:
        if now.mono < 1010:
            return growing(request, now)
        status = Status.FAILED if request.id == B else Status.COMPLETED
        return replace(growing(request, now), status=status, errors=0)

    model = Model(Config((environment(operations=[A, B]),)), ending)
    model.run(60)
    good, bad = shown(model).operations.get(key(A)), shown(model).operations.get(key(B))
    assert good is not None
    assert bad is not None
    assert (good.history.points, len(good.history.polls) > 1) == ((), True)
    assert len(bad.history.points) > 1


def test_who_names_an_operation_is_shown_as_it_changes() -> None:
    model = Model(Config((environment(operations=[A]),)), growing)
    model.run(1)
    model.list_file("/ids.txt", A)
    model.run(1)
    found = shown(model).operations.get(key(A))
    assert found is not None
    assert [each.source for each in found.memberships] == [CONFIG, FILE]


def test_what_is_followed_to_its_end_is_shown_as_named_by_nobody_and_kept_so() -> None:
    model = Model(Config((environment(),)), growing, disk=Disk())
    model.list_file("/ids.txt", A)
    model.run(1)
    model.list_file("/ids.txt")
    model.run(0.3)
    found = shown(model).operations.get(key(A))
    assert found is not None
    assert model.disk is not None
    assert found.memberships == model.disk.memory.operations[key(A)].memberships == ()


# Environments.


def test_a_quiet_environment_is_shown_and_says_what_is_known() -> None:
    model = Model(Config((environment(branch="b"),)), growing)
    model.run(0.2)
    known = environment_status(model)
    assert (known.name, known.branch, known.suspended, known.limit, known.pace) == ("production", "b", False, 20, 20)
    assert (known.last_error, known.sources) == (None, ())


def test_the_good_answer_to_a_check_of_the_key_is_not_an_error() -> None:
    model = Model(Config((environment(),)), lambda *_: NotFound("no such operation", code=404, accepted_key=True))
    model.run(5)
    assert model.checks()
    assert environment_status(model).up is True
    assert environment_status(model).last_error is None


def test_traffic_is_that_of_the_last_ten_seconds() -> None:
    model = Model(Config((environment(operations=ids(1000), rate_limit=10.0),)), growing)
    model.run(30)
    assert 9.0 <= environment_status(model).used <= 10.0
    activity = EnvironmentActivity()
    for second in (0.5, 1.5, 1.9, 10.9, 11.1):
        activity.sent(second)
    assert [activity.used(each) for each in (1.0, 11.9, 12.0)] == [0.1, 0.3, 0.2], "of whole seconds"
    assert environment_status(model).up is True
    assert environment_status(model).last_response == pytest.approx(WALL + 30, abs=1)


def test_when_it_stops_the_page_says_so_within_seconds_though_nothing_else_changes() -> None:
    model = Model(Config((environment(operations=[A]),)), lambda *_: DOWN)
    model.run(100)
    known = environment_status(model)
    assert known.up is False
    assert known.last_error is not None
    assert known.last_error.trouble == PollFailure("connect", "no connection")
    model = Model(Config((environment(operations=[A]),)), lambda *_: KeyRefused("refused"))
    model.run(5)
    model.run(60)
    assert environment_status(model).up is False
    assert environment_status(model).used <= 0.1


def test_an_environment_at_rest_publishes_no_views() -> None:
    model = Model(Config((environment(),)), growing)
    model.run(60)
    before = len(model.views)
    model.run(300)
    assert len(model.views) == before


def test_sources_tell_how_many_they_name_when_they_were_read_and_what_is_wrong() -> None:
    settings = environment(operations=[A], operations_http=(HttpSource(URL.name),))
    model = Model(Config((settings,)), growing)
    model.list_file("/ids.txt", A, B)
    model.tell(Listed("production", URL, ()))
    model.register(C)
    model.tell(Unread("production", FILE, "line 3: is not a valid UUID"))
    model.tell(Unread("production", SourceKey(SourceKind.FILES, "/new.txt"), "is empty"))
    model.run(2)
    told = {each.source: (each.operations, each.read_at, each.problem) for each in environment_status(model).sources}
    assert list(told) == [CONFIG, FILE, SourceKey(SourceKind.FILES, "/new.txt"), URL, API]
    assert told[CONFIG] == (1, WALL, None)
    assert told[FILE] == (2, WALL, "line 3: is not a valid UUID")
    assert told[SourceKey(SourceKind.FILES, "/new.txt")] == (0, None, "is empty")
    assert told[URL] == (0, WALL, None)
    assert told[API] == (1, WALL, None)
    model.tell(Reread("production", SourceKind.FILES))
    model.tell(Listed("production", FILE, ()))
    model.tell(Reconfigure(Config((environment(operations=[A]),)), {"production": KEY}, lambda: None, lambda: None))
    model.run(2)
    assert [each.source for each in environment_status(model).sources] == [CONFIG, API], "what is gone is forgotten"
