"""Ids that come and go, in virtual time: sources, precedence, the limit, retention, tombstones."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from model import KEY, LATE, SELDOM, WALL, Model, environment, ids, running
from structlog.testing import capture_logs

from exporter.config import Config, ListedOperation
from exporter.config.settings import HttpSource
from exporter.errors import KeyRefused, NotFound
from exporter.keys import Secret
from exporter.metrics.own import Activity
from exporter.operation import Operation, OperationKey, Status
from exporter.tracking import transitions
from exporter.tracking.environment import NEVER, FollowedOperation, Upstream, WatchedEnvironment
from exporter.tracking.expiry import Sweep
from exporter.tracking.exposure import CLEAN_SECONDS
from exporter.tracking.memberships import API, CONFIG, SourceKey, SourceKind
from exporter.tracking.memory import EnvironmentMemory
from exporter.tracking.messages import (
    Created,
    KeyRead,
    Listed,
    Reconfigure,
    Registration,
    ReleaseResult,
    Reread,
    Taken,
    Unread,
)
from exporter.tracking.tombstones import KEPT_SECONDS
from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.errors import KnockError
    from exporter.tracking.messages import PollRequest

A, B, C, D = ids(4)
DAY = 86400.0
E = {"knock_environment": "production"}
URL = "https://app.example/operations"

Knock = dict[str, "Operation | KnockError"]


def finished(operation_id: str, status: Status = Status.COMPLETED, **fields: object) -> Operation:
    made = running(operation_id, rows_processed=100, successes=100, started_at=WALL - 400)
    ends = {"failed_at" if status is Status.FAILED else "completed_at": WALL - 5}
    return replace(made, status=status, **ends | fields)  # type: ignore[arg-type] # the tests name fields that exist


def missing() -> NotFound:
    return NotFound("HTTP 404", code=404, accepted_key=True)


def knock_of(records: Knock) -> Callable[[PollRequest, Moment], Operation | KnockError]:
    return lambda request, _now: missing() if request.checks_key else records.get(request.id, running(request.id))


def model_of(records: Knock | None = None, **settings: object) -> Model:
    whole = {key: settings.pop(key) for key in ("max_operations", "labels") if key in settings}
    config = Config((environment("production", **settings),), **whole)  # type: ignore[arg-type]
    return Model(config, knock_of(records if records is not None else {}))


def reconfigure(model: Model, *environments: object, **settings: object) -> list[str]:
    """Apply another configuration; what was called is in the list."""
    calls: list[str] = []
    config = Config(tuple(environments), **settings)  # type: ignore[arg-type]
    keys = {each.name: KEY for each in config.environments}
    model.tell(Reconfigure(config, keys, lambda: calls.append("switch"), lambda: calls.append("reply")))
    return calls


def shown(model: Model) -> set[str]:
    return {line.split('operation_id="')[1][:36] for line in model.metrics().splitlines() if "_operation_up{" in line}


def tracked(model: Model) -> float | None:
    return model.value("knock_exporter_operations", **E)


# Sources.


def test_ids_of_all_sources_are_followed() -> None:
    model = model_of(operations=[A])
    model.list_file("/ids", B)
    model.tell(Listed("production", SourceKey(SourceKind.HTTP, URL), (ListedOperation(C),)))
    model.register(D)
    model.run(2)
    assert shown(model) == {A, B, C, D}
    for source in SourceKind:
        assert model.value("knock_exporter_source_last_success_timestamp_seconds", source=source, **E) == WALL


def test_a_source_that_cannot_be_read_is_counted_and_lets_nothing_go() -> None:
    model = model_of()
    model.list_file("/ids", A)
    model.tell(Unread("production", SourceKey(SourceKind.FILES, "list.txt"), "broken"))
    model.tell(Unread("gone", SourceKey(SourceKind.FILES, "list.txt"), "broken"))
    model.mono += 200
    for name in ("gone", "production"):
        model.tell(Reread(name, SourceKind.FILES))
    model.run(2)
    assert model.value("knock_exporter_source_failures_total", source="files", **E) == 1
    assert model.value("knock_exporter_source_last_success_timestamp_seconds", source="files", **E) == WALL + 200
    assert tracked(model) == 1


def test_one_operation_of_many_sources_is_one() -> None:
    model = model_of(operations=[A])
    for path in ("/a", "/b"):
        model.list_file(path, A)
    model.register(A)
    model.run(2)
    assert tracked(model) == 1
    assert len(model.sent) == 1


@pytest.mark.parametrize("reverse", [False, True])
def test_the_group_is_that_of_the_first_source_that_names_one(*, reverse: bool) -> None:
    model = model_of()
    steps: list[Callable[[], object]] = [
        lambda: model.list_file("/b", ListedOperation(A, "of-b")),
        lambda: model.list_file("/a", ListedOperation(A, "of-a")),
        lambda: model.register(Registration(ListedOperation(A, "of-post"))),
        lambda: model.tell(Listed("production", SourceKey(SourceKind.HTTP, URL), (ListedOperation(A, "of-http"),))),
    ]
    with capture_logs() as lines:
        for step in reversed(steps) if reverse else steps:
            step()
    model.run(2)
    assert model.value("knock_bulk_operation_up", group="of-a", operation_id=A) == 1
    assert model.value("knock_exporter_source_conflicts_total", **E) == 1
    assert [line["event"] for line in lines] == ["sources give different groups or labels to the same operations"]
    model.tell(Listed("production", CONFIG, (ListedOperation(A, "of-config"),)))
    model.run(2)
    assert model.value("knock_bulk_operation_up", operation_id=A) == 1
    assert model.value("knock_bulk_operation_up", group="of-config", operation_id=A) == 1
    assert model.value("knock_exporter_source_conflicts_total", **E) == 1


def saying(group: str = "default", run: str | None = None, **labels: str) -> ListedOperation:
    return ListedOperation(A, group, tuple(labels.items()), run)


@pytest.mark.parametrize(
    ("one", "other", "conflicts"),
    [
        (saying("nightly"), saying("weekly"), 1),
        (saying("nightly"), saying("nightly"), 0),
        (saying("nightly", "1"), saying("nightly", "2"), 1),
        (saying("nightly", "1"), saying("nightly", "1"), 0),
        (saying("nightly", "1"), saying(), 0),
        (saying(team="growth"), saying(team="core"), 1),
        (saying(team="growth"), saying(team="growth"), 0),
        (saying(team="growth"), saying(tier="1"), 0),
    ],
)
def test_sources_conflict_where_they_say_different_things(
    one: ListedOperation, other: ListedOperation, conflicts: int
) -> None:
    model = model_of(labels=("team", "tier"))
    model.list_file("/a", one)
    model.list_file("/b", other)
    model.run(1)
    assert model.value("knock_exporter_source_conflicts_total", **E) == conflicts


def test_a_bare_id_says_nothing_about_its_group() -> None:
    model = model_of(operations=[A], labels=("team", "tier"))
    model.list_file("/a", ListedOperation(A, labels=(("team", "growth"),)))
    model.register(Registration(ListedOperation(A, "nightly", (("tier", "1"),))))
    model.run(2)
    assert model.value("knock_bulk_operation_info", group="nightly", team="growth", tier="1") == 1
    assert model.value("knock_exporter_source_conflicts_total", **E) == 0


def test_when_the_first_source_drops_it_the_group_is_that_of_the_next() -> None:
    model = model_of()
    model.list_file("/a", ListedOperation(A, "of-a"))
    model.list_file("/b", ListedOperation(A, "of-b"))
    model.run(2)
    model.list_file("/a")
    model.run(2)
    assert model.value("knock_bulk_operation_up", group="of-b") == 1
    assert model.value("knock_bulk_operations", group="of-a") == 0


# Letting go.


def test_what_the_configuration_drops_goes_at_once() -> None:
    model = model_of(operations=[A, B])
    model.run(2)
    reconfigure(model, environment("production", [B]))
    model.run(1)
    assert shown(model) == {B}
    assert tracked(model) == 1


def test_what_the_configuration_drops_stays_while_a_file_lists_it() -> None:
    model = model_of(operations=[A])
    model.list_file("/ids", A)
    reconfigure(model, environment("production"))
    model.run(2)
    assert shown(model) == {A}


def test_what_a_file_drops_is_followed_to_its_end() -> None:
    records: Knock = {}
    model = model_of(records)
    model.list_file("/ids", A)
    model.run(10)
    model.list_file("/ids")
    model.run(60)
    assert shown(model) == {A}
    records[A] = finished(A)
    model.run(60)
    assert model.value("knock_bulk_operation_status", status="completed") == 1
    model.run(CLEAN_SECONDS)
    assert shown(model) == set()
    assert model.value("knock_bulk_operations_retired_total", reason="retention") == 1


def test_what_a_file_drops_when_it_has_ended_cleanly_goes_at_once() -> None:
    model = model_of({A: finished(A), B: finished(B, errors=3), C: finished(C, Status.FAILED)})
    model.list_file("/ids", A, B, C)
    model.run(10)
    model.list_file("/ids")
    model.run(2)
    assert shown(model) == {B, C}  # what went wrong is seen for its retention
    model.run(7 * DAY)
    assert shown(model) == set()


def test_an_http_list_that_is_configured_no_more_lets_go() -> None:
    lists = (HttpSource(URL), HttpSource(URL + "2"))
    model = model_of({A: finished(A), B: finished(B)}, operations_http=lists)
    for each, source in zip((A, B), lists, strict=True):
        model.tell(Listed("production", SourceKey(SourceKind.HTTP, source.url), (ListedOperation(each),)))
    model.run(5)
    reconfigure(model, environment("production", operations_http=lists[1:]))
    model.run(1)
    assert shown(model) == {B}


def test_release_drops_at_once_and_a_new_registration_follows_again() -> None:
    model = model_of()
    model.register(A)
    model.run(2)
    assert model.release(A) == [ReleaseResult(known=True, durable=False)]
    assert model.release(A) == [ReleaseResult(known=False)]
    model.run(1)
    assert shown(model) == set()
    assert model.value("knock_bulk_operations_retired_total", **E) == 0
    assert model.register(A)[0].taken == (Taken(A, "pending"),)
    model.run(2)
    assert shown(model) == {A}


@pytest.mark.parametrize("status", [Status.FAILED, Status.COMPLETED])
def test_to_release_what_has_ended_ends_its_retention_and_holds_off_lists_that_name_it(status: Status) -> None:
    model = model_of({A: finished(A, status, errors=1)})
    http = SourceKey(SourceKind.HTTP, URL)
    model.list_file("/ids", A)
    model.tell(Listed("production", http, (ListedOperation(A),)))
    model.register(A)
    model.run(5)
    assert model.value("knock_bulk_operations", status=status, **E) == 1
    for _ in range(2):  # asking again does no harm
        assert model.release(A) == [ReleaseResult(known=True)]
        model.run(1)
        assert shown(model) == set()
        assert model.value("knock_bulk_operations_retired_total", reason="retention", **E) == 1
    model.list_file("/other", A)
    model.tell(Listed("production", http, (ListedOperation(A, "nightly"),)))
    assert model.register(A)[0].taken == (Taken(A, "retired"),)
    model.run(30)
    assert (tracked(model), len(model.times(A))) == (0, 1)
    assert model.register(A, again=True)[0].taken == (Taken(A, "pending"),)
    model.run(5)
    assert shown(model) == {A}


def test_what_has_ended_and_the_configuration_lists_is_not_released() -> None:
    model = model_of({A: finished(A, Status.FAILED)}, operations=[A])
    model.list_file("/ids", A)
    model.run(5)
    assert model.release(A) == [ReleaseResult(known=True, listed_by=(CONFIG,))]
    model.run(5)
    assert shown(model) == {A}


def test_what_is_lost_is_released_as_before() -> None:
    records: Knock = {A: missing()}
    model = model_of(records, operations=[B], polling=SELDOM)
    model.list_file("/ids", A)
    model.run(DAY + 7200)
    assert model.value("knock_bulk_operations", status="lost", **E) == 1
    assert model.release(A)[0].listed_by == (SourceKey(SourceKind.FILES, "/ids"),)
    model.register(A)
    model.list_file("/ids")
    assert model.release(A) == [ReleaseResult(known=True)]
    assert model.register(A)[0].taken == (Taken(A, "pending"),)


def test_what_a_source_lists_is_not_released() -> None:
    model = model_of(operations=[A])
    model.list_file("/ids", A)
    model.register(A)
    sources = (CONFIG, SourceKey(SourceKind.FILES, "/ids"))
    assert model.release(A) == [ReleaseResult(known=True, listed_by=sources)]
    model.run(2)
    assert shown(model) == {A}


def test_what_is_let_go_while_it_is_asked_for_stays_away() -> None:
    model = model_of()
    model.register(A)
    model.run(0.01)
    assert len(model.sent) == 1
    model.release(A)
    model.run(30)
    assert shown(model) == set()
    assert tracked(model) == 0


def test_another_environment_knows_nothing_of_it() -> None:
    model = model_of()
    assert model.release(A, environment="gone") == [ReleaseResult(known=False)]
    assert model.register(A, environment="gone")[0].taken == (Taken(A, None),)


# The record of a create call.


def registration(operation_id: str, name: str = "users.identify", inserted_at: float | None = WALL - 5) -> Registration:
    return Registration(ListedOperation(operation_id), Created(name, inserted_at))


def test_a_create_answer_is_believed_to_be_queued() -> None:
    model = model_of({A: running(A, rows_processed=40, successes=40, inserted_at=WALL + 1)})
    assert model.register(registration(A))[0].taken == (Taken(A, "queued"),)
    model.run(1)
    text = [line for line in model.metrics().splitlines() if A in line and "status" not in line]
    assert sorted(line.split("{")[0] for line in text) == [
        "knock_bulk_operation_info",
        "knock_bulk_operation_inserted_timestamp_seconds",
    ]
    assert model.value("knock_bulk_operation_status", status="queued") == 1
    assert model.value("knock_bulk_operations", name="users.identify", status="queued") == 1
    assert model.times(A) == []
    model.run(20)
    assert model.times(A)[0] == pytest.approx(15.0, abs=0.1)
    # Ours from birth: what it did before our first look counts.
    assert model.value("knock_bulk_operations_rows_processed_total", name="users.identify") == 40


def test_an_operation_of_a_create_answer_that_is_over_at_the_first_look_counts_as_ended() -> None:
    model = model_of({A: finished(A, inserted_at=WALL + 1)})
    model.register(registration(A))
    model.run(30)
    assert model.value("knock_bulk_operations_finished_total", status="completed") == 1
    assert model.value("knock_bulk_operations_rows_processed_total", name="users.identify") == 100


def test_a_create_answer_for_what_is_known_already_changes_nothing() -> None:
    model = model_of({A: finished(A)})
    model.register(A)
    model.run(2)
    assert model.register(registration(A))[0].taken == (Taken(A, "completed"),)
    model.release(A)
    again = model.register(registration(A), again=True)
    assert again[0].taken == (Taken(A, "pending"),)  # followed before: nothing is believed
    model.run(2)
    assert model.value("knock_bulk_operations_finished_total") == 0


def test_a_create_answer_names_what_was_handed_over_bare() -> None:
    model = model_of({A: running(A, rows_processed=40)}, rate_limit=0.01)
    model.list_file("/ids", B, A)
    model.register(registration(A))
    model.run(1)
    assert model.value("knock_bulk_operation_status", operation_id=A, status="queued") == 1


# Idempotence, retirement, tombstones.


def test_registering_again_is_the_same() -> None:
    model = model_of()
    first = model.register(Registration(ListedOperation(A, "nightly")))[0]
    model.run(5)
    assert [each.id for each in first.taken] == [A]
    assert model.register(A)[0].taken == (Taken(A, "processing"),)
    model.run(5)
    assert model.value("knock_bulk_operation_up", group="nightly") == 1
    assert model.value("knock_exporter_operations_refused_total", **E) == 0
    model.register(Registration(ListedOperation(A, "daily")))
    model.run(5)
    assert model.value("knock_bulk_operation_up", group="daily") == 1


def test_retention_runs_from_when_it_was_first_shown_as_final() -> None:
    model = model_of({A: finished(A, completed_at=WALL - 5 * DAY)})
    model.register(A)
    model.run(DAY - 10)
    assert shown(model) == {A}
    model.run(20)
    assert shown(model) == set()
    assert tracked(model) == 0
    assert model.value("knock_bulk_operations_retired_total", reason="retention", **E) == 1


def test_what_failed_or_had_errors_stays_seven_times_as_long() -> None:
    model = model_of({A: finished(A), B: finished(B, error_items=1), C: finished(C, Status.FAILED)}, retention=600.0)
    model.register(A, B, C)
    model.run(600 + LATE + 5)
    assert shown(model) == {B, C}
    model.run(6 * 600 - LATE - 10)
    assert shown(model) == {B, C}
    model.run(LATE + 10)
    assert shown(model) == set()
    assert model.value("knock_bulk_operations_retired_total", reason="retention", **E) == 3


def test_what_failed_and_whose_end_lies_ahead_stays_one_retention_longer_at_most() -> None:
    ahead = finished(A, Status.FAILED, failed_at=WALL + 3650 * DAY)
    model = model_of({A: ahead, B: finished(B, Status.FAILED)}, retention=600.0)
    model.register(A, B)
    model.run(7 * 600 + LATE + 5)
    assert shown(model) == {A}
    model.run(600)
    assert shown(model) == set()


def test_what_is_over_is_found_within_30_seconds_whatever_goes_meanwhile() -> None:
    tracked = transitions.newly_tracked(OperationKey("production", A), "default", (), Moment(0.0, WALL), SELDOM)
    counters, memory = Activity(process=False).add_environment("production"), EnvironmentMemory("", None, WALL)
    watched = WatchedEnvironment(environment(), KEY, Upstream(), memory, counters, itertools.count())
    sweep, chance, followed = Sweep(part_least=1), random.Random(1), list[FollowedOperation]()
    found = 0
    for second in range(2000):
        if chance.random() < 0.1:  # so those looked at first in one round may be the last in the next
            del followed[: len(followed) * 9 // 10]
        for _ in range(chance.randrange(30)):
            followed.append(FollowedOperation(watched, tracked))
            sweep.plan(followed[-1], second + chance.uniform(0.0, 60.0))
        due = sweep.step(second, followed.copy)
        found += len(due)
        for each in due:
            assert 0.0 <= second - each.sweep_at <= LATE
            each.sweep_at = NEVER
        assert all(second - each.sweep_at <= LATE for each in followed)
    assert found > 1000


def test_an_end_that_lies_ahead_counts_from_there_but_not_for_ever() -> None:
    ahead = finished(A, completed_at=WALL + 360)
    model = model_of({A: ahead, B: finished(B, completed_at=WALL + 3650 * DAY)}, retention=600.0)
    model.register(A, B)
    model.run(950)
    assert shown(model) == {A, B}
    model.run(30)
    assert shown(model) == {B}
    model.run(600)
    assert shown(model) == set()


def test_a_wall_clock_that_jumps_retires_nothing() -> None:
    model = model_of({A: finished(A)})
    model.register(A)
    model.run(10)
    model.wall_offset += 400 * DAY
    model.run(60)
    assert shown(model) == {A}


def test_what_the_configuration_lists_stays() -> None:
    model = model_of({A: finished(A)}, operations=[A], retention=60.0)
    model.run(3600)
    assert shown(model) == {A}
    model.list_file("/ids", A)
    reconfigure(model, environment("production", retention=60.0))
    model.run(5)
    assert shown(model) == set()  # its time was over long ago


def test_a_retired_id_is_known_and_comes_back_on_demand_only() -> None:
    model = model_of({A: finished(A, inserted_at=WALL + 100)}, retention=60.0)
    model.register(A)
    model.run(100)
    counted = model.value("knock_bulk_operations_finished_total", **E)
    asked = len(model.times(A))
    assert counted == 1
    assert model.register(A)[0].taken == (Taken(A, "retired"),)
    model.list_file("/ids", A)
    model.run(30)
    assert (shown(model), len(model.times(A))) == (set(), asked)
    model.list_file("/ids")
    assert model.register(A, again=True)[0].taken == (Taken(A, "pending"),)
    model.run(30)
    assert shown(model) == {A}
    assert len(model.times(A)) == asked + 1
    assert model.value("knock_bulk_operations_finished_total", **E) == counted


def test_a_registration_that_is_refused_or_of_a_retired_id_names_nothing() -> None:
    model = model_of({A: finished(A)}, retention=60.0, max_operations=1)
    model.register(A)
    model.run(100)
    assert model.register(A, B, C)[0].taken == (Taken(A, "retired"), Taken(B, "pending"), Taken(C, None))
    model.run(1)
    (source,) = model.views[-1].snapshot.environments[0].sources
    assert (source.source, source.operations) == (API, 1)


def test_to_release_a_retired_id_changes_nothing() -> None:
    model = model_of({A: finished(A)}, retention=60.0)
    model.register(A)
    model.run(100)
    assert model.release(A)[0].known
    assert model.register(A)[0].taken == (Taken(A, "retired"),)


def test_what_the_configuration_lists_anew_is_followed_whatever_was_before() -> None:
    model = model_of({A: finished(A)}, retention=60.0)
    model.register(A)
    model.run(100)
    reconfigure(model, environment("production", [A], retention=60.0))
    model.run(5)
    assert shown(model) == {A}


def test_what_is_hidden_leaves_in_its_time() -> None:
    model = model_of({A: finished(A)}, retention=3600.0, per_operation="active")
    model.list_file("/ids", A)
    model.run(CLEAN_SECONDS + LATE + 5)
    assert (shown(model), tracked(model)) == (set(), 1)
    assert model.value("knock_exporter_poll_interval_seconds", **E) is None
    model.run(3600 - CLEAN_SECONDS)
    assert tracked(model) == 0


def test_a_shorter_retention_holds_at_once() -> None:
    model = model_of({A: finished(A)})
    model.register(A)
    model.run(1000)
    reconfigure(model, environment("production", retention=60.0))
    model.run(1)
    assert shown(model) == set()


def test_tombstones_go_after_a_month_unless_a_source_still_names_them() -> None:
    model = model_of({A: finished(A), B: finished(B)}, retention=60.0)
    model.register(A)
    model.list_file("/ids", B)
    model.run(100)
    assert model.register(A, B)[0].taken == (Taken(A, "retired"), Taken(B, "retired"))
    model.mono += KEPT_SECONDS
    model.run(1)
    assert model.register(A, B)[0].taken == (Taken(A, "pending"), Taken(B, "retired"))


# Lost.


def test_a_lost_id_is_asked_again_on_demand() -> None:
    records: Knock = {A: missing()}
    model = model_of(records, operations=[B], polling=SELDOM)
    model.register(A)
    model.run(DAY + 7200)
    assert model.register(A)[0].taken == (Taken(A, "lost"),)
    model.run(10)
    assert model.value("knock_bulk_operations", status="lost", **E) == 1
    records[A] = running(A)
    assert model.register(A, again=True)[0].taken == (Taken(A, "pending"),)
    model.run(10)
    assert model.value("knock_bulk_operations", status="lost", **E) == 0
    assert shown(model) == {A, B}


def test_a_key_of_the_wrong_environment_for_a_day_loses_no_id() -> None:
    records: Knock = dict.fromkeys((A, B, C), missing())
    model = model_of(records)
    model.register(A, B)
    model.list_file("/ids", C)
    model.run(DAY + 7200)
    assert model.value("knock_bulk_operations", status="lost", **E) == 0
    records.clear()
    model.tell(KeyRead("production", Secret("sk_test_the_right_one")))
    model.run(5)
    assert model.value("knock_bulk_operations", status="processing", **E) == 3


def test_a_lost_id_goes_after_a_month() -> None:
    model = model_of({A: missing()}, operations=[B], polling=SELDOM)
    model.mono += KEPT_SECONDS  # the machine has run for long
    model.register(A)
    model.run(DAY + 7200)
    model.mono += KEPT_SECONDS - DAY - 7260
    model.run(1)
    assert tracked(model) == 2
    model.run(60 + LATE)
    assert tracked(model) == 1


# The limit.


def test_at_the_limit_the_oldest_clean_ones_retire_early() -> None:
    records: Knock = {A: finished(A), B: finished(B, errors=1), C: finished(C, Status.FAILED)}
    model = model_of(records, max_operations=4)
    model.register(A, B, C)
    model.run(5)
    fourth, fifth, sixth = ids(3, seed=7)
    records |= {fourth: finished(fourth)}
    model.register(fourth)
    model.run(5)
    assert model.register(fifth)[0].taken == (Taken(fifth, "pending"),)
    model.run(5)
    assert shown(model) == {B, C, fourth, fifth}
    assert model.value("knock_bulk_operations_retired_total", reason="limit", **E) == 1
    assert model.register(sixth)[0].taken == (Taken(sixth, "pending"),)
    assert model.register(ids(1, seed=8)[0])[0].taken[0].state is None
    model.run(1)
    assert model.value("knock_exporter_operations_refused_total", reason="limit", **E) == 1
    assert model.value("knock_exporter_operations_limit") == 4
    assert tracked(model) == 4


def test_at_the_limit_what_went_wrong_retires_once_it_is_older_than_retention_and_after_the_clean_ones() -> None:
    failed, with_errors, late, clean, *new = ids(8, seed=9)
    records: Knock = {failed: finished(failed, Status.FAILED), with_errors: finished(with_errors, errors=1)}
    model = model_of(records, retention=1000.0, max_operations=4)
    model.register(failed)
    model.run(5)
    model.register(with_errors)
    model.run(500)
    records |= {late: finished(late, Status.FAILED), clean: finished(clean)}
    model.register(late)
    model.run(490)
    model.register(clean)
    model.run(3)
    assert model.register(new[0])[0].taken == (Taken(new[0], "pending"),)
    assert model.register(new[1])[0].taken == (Taken(new[1], None),)  # nothing is old enough
    model.run(5)
    assert shown(model) == {failed, with_errors, late, new[0]}
    for each, left in ((new[1], {with_errors, late}), (new[2], {late})):
        model.run(5)
        assert model.register(each)[0].taken == (Taken(each, "pending"),)
        model.run(1)
        assert shown(model) & {failed, with_errors, late} == left
    assert model.register(new[3])[0].taken == (Taken(new[3], None),)
    assert model.value("knock_bulk_operations_retired_total", reason="limit", **E) == 3
    assert model.register(failed)[0].taken == (Taken(failed, "retired"),)


def test_at_the_limit_a_clean_one_retires_before_one_that_failed_long_ago() -> None:
    records: Knock = {A: finished(A, Status.FAILED), B: finished(B)}
    model = model_of(records, retention=1000.0, max_operations=2)
    model.register(A)
    model.run(1500)
    model.register(B)
    model.run(5)
    model.register(C)
    model.run(1)
    assert shown(model) & {A, B} == {A}


def test_at_the_limit_each_environment_has_its_own_retention() -> None:
    records: Knock = {A: finished(A, Status.FAILED), B: finished(B, Status.FAILED)}
    settings = environment("production", retention=1000.0), environment("short", retention=100.0)
    model = Model(Config(settings, max_operations=2), knock_of(records))
    model.register(A)
    model.run(5)
    model.register(B, environment="short")
    model.run(200)
    assert model.register(C)[0].taken == (Taken(C, "pending"),)
    model.run(5)
    assert shown(model) == {A, C}
    reconfigure(model, environment("production", retention=150.0), max_operations=2)
    assert model.register(D)[0].taken == (Taken(D, "pending"),)
    model.run(5)
    assert shown(model) == {C, D}


def test_an_environment_that_sleeps_has_nothing_to_retire_early() -> None:
    awake, other = environment("production", retention=100.0), environment("other", retention=100.0)
    records: Knock = {A: finished(A), B: finished(B, Status.FAILED), C: finished(C, Status.FAILED)}
    model = Model(Config((awake, other), max_operations=3), knock_of(records))
    model.register(A, B, environment="other")
    model.register(C)
    model.run(200)
    reconfigure(model, awake, max_operations=1)
    assert model.register(D)[0].taken == (Taken(D, "pending"),)
    model.run(5)
    assert shown(model) == {D}
    reconfigure(model, awake, other, max_operations=1)
    assert model.register(C, again=True)[0].taken == (Taken(C, None),)  # it would take three, and only two have ended
    reconfigure(model, awake, other, max_operations=2)
    assert model.register(C, again=True)[0].taken == (Taken(C, "pending"),)
    model.run(5)
    assert shown(model) == {C, D}


def test_what_ended_cleanly_in_an_environment_that_sleeps_makes_no_room_either() -> None:
    model = Model(Config((environment(), environment("other"))), knock_of({A: finished(A), B: finished(B)}))
    model.register(A, environment="other")
    model.run(5)
    model.register(B)
    model.run(5)
    reconfigure(model, environment(), max_operations=1)
    assert model.register(C)[0].taken == (Taken(C, "pending"),)


def test_what_the_configuration_lists_and_failed_does_not_retire_early_until_it_is_listed_no_more() -> None:
    model = model_of({A: finished(A, Status.FAILED)}, operations=[A], retention=100.0, max_operations=1)
    model.run(200)
    model.list_file("/ids", A)
    assert model.register(B)[0].taken == (Taken(B, None),)
    reconfigure(model, environment("production", retention=100.0), max_operations=1)
    assert model.register(B)[0].taken == (Taken(B, "pending"),)


def test_a_listed_id_gets_the_place_of_what_failed_once_that_is_old_enough() -> None:
    model = model_of({A: finished(A, Status.FAILED)}, retention=100.0, max_operations=1)
    model.register(A)
    model.run(50)
    model.list_file("/ids", B)
    model.run(40)
    assert shown(model) == {A}
    model.run(20)
    assert shown(model) == {B}
    assert model.value("knock_exporter_operations_refused_total", reason="limit", **E) == 1


def test_at_the_limit_what_was_followed_again_counts_from_its_last_end() -> None:
    model = model_of({A: finished(A), B: finished(B)}, max_operations=2)
    model.register(A)
    model.run(5)
    model.release(A)
    model.register(B)
    model.run(5)
    model.register(A, again=True)
    model.run(5)
    model.register(C)
    model.run(5)
    assert shown(model) == {A, C}


def test_what_the_configuration_lists_does_not_retire_early() -> None:
    model = model_of({A: finished(A)}, operations=[A], max_operations=1)
    model.run(5)
    assert model.register(B)[0].taken == (Taken(B, None),)
    model.list_file("/ids", A)
    reconfigure(model, environment("production"), max_operations=1)
    assert model.register(B)[0].taken == (Taken(B, "pending"),)


def test_listed_ids_wait_for_room() -> None:
    records: Knock = {}
    model = model_of(records, max_operations=2)
    with capture_logs() as lines:
        model.list_file("/ids", A, B, C, D)
    assert [(line["event"], line["refused"]) for line in lines] == [
        ("operations refused: max_operations is reached", 2)
    ]
    model.run(5)
    assert model.value("knock_exporter_operations_refused_total", reason="limit", **E) == 2
    assert shown(model) == {A, B}
    records |= {A: finished(A), B: finished(B)}
    model.run(60)
    assert shown(model) == {C, D}
    assert model.value("knock_exporter_operations_refused_total", reason="limit", **E) == 2


def test_what_waits_for_room_waits_as_long_as_a_source_lists_it() -> None:
    model = model_of(max_operations=1)
    model.register(A)
    model.list_file("/one", B, C)
    model.list_file("/two", B)
    model.list_file("/one")
    model.release(A)
    model.run(5)
    assert shown(model) == {B}
    model.tell(Listed("production", SourceKey(SourceKind.FILES, "/two"), ()))
    model.release(B)
    model.run(5)
    assert shown(model) == set()


def test_an_environment_that_is_taken_out_takes_nothing_of_the_others_with_it() -> None:
    model = Model(Config((environment(), environment("other")), max_operations=3), knock_of({A: finished(A)}))
    model.list_file("/ids", A)
    model.run(5)
    model.list_file("/ids")
    model.register(B)
    reconfigure(model, environment(), environment("another"), max_operations=3)
    model.list_file("/ids", A)
    model.run(5)
    assert shown(model) == {A, B}
    assert len(model.times(A)) == 1  # its end is known still
    reconfigure(model, environment(), environment("another"), max_operations=1)
    model.list_file("/others", C, environment="another")  # waits for room, as does:
    model.list_file("/more", D)
    model.run(5)
    reconfigure(model, environment(), max_operations=1)
    model.release(A)
    model.release(B)
    model.run(5)
    assert shown(model) == {D}


def test_a_lower_limit_drops_nothing() -> None:
    model = model_of(operations=[A, B])
    model.register(C)
    reconfigure(model, environment("production", [A, B]), max_operations=1)
    model.run(2)
    assert tracked(model) == 3


# What was found by breaking it.


def test_a_branch_that_changes_while_a_probe_is_awaited_stops_nothing() -> None:
    bad = [True]
    refused = KeyRefused("HTTP 401", code=401)
    model = Model(
        Config((environment(operations=[A]),)),
        lambda request, _now: refused if bad[0] else missing() if request.checks_key else running(request.id),
        latency=lambda _request: 2.0,
    )
    model.run(3)
    model.tell(KeyRead("production", None))
    model.run(33)
    reconfigure(model, environment("production", [A], branch="feature"))
    bad[0] = False
    model.run(60)
    assert shown(model) == {A}
    assert model.value("knock_exporter_api_suspended", **E) == 0


def test_an_answer_of_the_former_address_is_not_taken_for_one_of_the_new() -> None:
    answers = iter([finished(A)])
    model = Model(
        Config((environment(operations=[A]),)),
        lambda request, _now: missing() if request.checks_key else next(answers, running(request.id)),
        latency=lambda _request: 2.0,
    )
    model.run(1)
    reconfigure(model, environment("production", [A], branch="feature"))
    model.run(10)
    assert model.value("knock_bulk_operations", status="processing", **E) == 1


def test_what_the_configuration_lists_and_had_no_room_is_followed_in_the_end() -> None:
    model = model_of({A: finished(A)}, retention=60.0, max_operations=1)
    model.register(A)
    model.run(100)
    model.register(B)
    model.run(5)
    reconfigure(model, environment("production", [A], retention=60.0), max_operations=1)
    model.run(5)
    model.release(B)
    model.run(60)
    assert shown(model) == {A}


def test_what_is_dropped_makes_room_for_what_is_new() -> None:
    model = model_of({A: finished(A)}, operations=[B], max_operations=2)
    model.register(A)
    model.run(5)
    reconfigure(model, environment("production", [C]), max_operations=2)
    model.run(5)
    assert shown(model) == {A, C}
    assert model.value("knock_exporter_operations_refused_total", reason="limit", **E) == 0


def test_nothing_retires_early_where_it_would_not_make_room() -> None:
    clean, others = ids(10, seed=21), ids(20, seed=22)
    model = model_of({each: finished(each) for each in clean})
    model.register(*clean, *others)
    model.run(30)
    reconfigure(model, environment("production"), max_operations=5)
    assert model.register(A)[0].taken == (Taken(A, None),)
    assert model.release(clean[0])[0].known
    model.run(1)
    assert tracked(model) == 29


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_what_has_left_is_not_remembered_for_the_limit(status: Status) -> None:
    many = ids(100, seed=23)
    model = model_of({each: finished(each, status) for each in many}, retention=5.0, rate_limit=200.0)
    model.register(*many)
    model.run(45 + LATE)
    assert tracked(model) == 0
    assert not any(model.tracker._intake._retirement_order._ended.values())


def test_a_folded_group_is_counted_once() -> None:
    model = model_of()
    model.register(Registration(ListedOperation(A, "x" * 129)))
    for _ in range(5):
        model.register(A)
        model.list_file("/ids", ListedOperation(A, labels=()))
        model.list_file("/ids")
    model.run(1)
    assert model.value("knock_exporter_label_values_folded_total", label="group", **E) == 1


def test_a_conflict_that_was_over_and_comes_again_is_a_new_one() -> None:
    model = model_of()
    for _ in range(2):
        model.list_file("/a", ListedOperation(A, "of-a"))
        model.list_file("/b", ListedOperation(A, "of-b"))
        model.list_file("/b")
    model.run(1)
    assert model.value("knock_exporter_source_conflicts_total", **E) == 2


def test_a_listed_id_that_waits_for_room_is_not_released() -> None:
    model = model_of(max_operations=1)
    model.list_file("/ids", A, B)
    assert model.release(B)[0].listed_by == (SourceKey(SourceKind.FILES, "/ids"),)
