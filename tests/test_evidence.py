"""What counts as evidence, and that nothing is asked twice: in virtual time."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from model import KEY, WALL, Model, environment, ids, running
from structlog.testing import capture_logs

from exporter.config import Config, ListedOperation, Polling
from exporter.errors import KeyRefused, KnockError, NotFound
from exporter.operation import Operation, OperationKey, Status, parse_operation
from exporter.tracking.messages import Created, PollRequest, Reconfigure, Registration
from exporter.web import shapes

if TYPE_CHECKING:
    from exporter.tracking.transitions import Moment

A, B = ids(2)
E = {"knock_environment": "production"}


def always_running(request: PollRequest, _now: Moment) -> Operation:
    return running(request.id)


def refused() -> KeyRefused:
    return KeyRefused("HTTP 401", code=401)


def missing() -> NotFound:
    return NotFound("HTTP 404", code=404, accepted_key=True)


def registration(operation_id: str, inserted_at: float | None, name: str = "users.identify") -> Registration:
    return Registration(ListedOperation(operation_id), Created(name, inserted_at))


def reconfigure(model: Model, config: Config) -> None:
    keys = {each.name: KEY for each in config.environments}
    model.tell(Reconfigure(config, keys, lambda: None, lambda: None))


@pytest.mark.parametrize("latency", [0.05, 8.0])
def test_a_reload_that_changes_the_pace_asks_nothing_twice(latency: float) -> None:
    config = Config((environment(operations=ids(100), rate_limit=200.0, max_in_flight=300),))
    model = Model(config, always_running, latency=lambda _request: latency)
    model.run(20)
    before = len(model.sent)
    for seconds in (4.0, 6.0, 4.5):
        polling = replace(Polling(), processing=seconds)
        reconfigure(model, Config((replace(config.environments[0], polling=polling),)))
        model.run(0.2)
    model.run(0.4)
    sent = [each.id for each in model.sent[before:]]
    assert len(sent) == len(set(sent))


def test_an_operation_under_way_is_not_asked_again_by_a_new_registration() -> None:
    model = Model(Config((environment(),)), always_running, latency=lambda _request: 5.0)
    model.register(A)
    model.run(1)
    model.release(A)
    model.register(A, again=True)
    model.run(3)
    assert len(model.times(A)) == 1
    model.run(60)
    assert len(model.times(A)) > 1


def test_an_id_with_its_create_answer_has_the_grace_of_404s_too() -> None:
    model = Model(Config((environment(),)), lambda _request, _now: missing())
    model.register(registration(A, WALL))
    model.run(200)
    times = model.times(A)
    assert len(times) >= 12
    assert all(14 <= later - earlier <= 17 for earlier, later in itertools.pairwise(times))


def test_a_late_answer_from_before_the_key_was_refused_does_not_make_it_good() -> None:
    def knock(request: PollRequest, now: Moment) -> Operation | KnockError:
        return running(request.id) if now.mono < 1000.02 else refused()

    slow = {A: 20.0}
    model = Model(Config((environment(operations=[A, B]),)), knock, latency=lambda it: slow.pop(it.id, 0.05))
    model.run(15)
    assert model.value("knock_exporter_api_suspended", **E) is not None
    ups = []
    for _ in range(12):
        model.run(1)
        ups.append(model.value("knock_up", **E))
    assert set(ups) == {0}


def test_a_late_refusal_from_before_the_key_was_taken_does_not_suspend_it() -> None:
    answers = {A: [refused()], B: [refused()]}

    def knock(request: PollRequest, _now: Moment) -> Operation | KnockError:
        left = answers.get(request.id)
        return left.pop() if left else running(request.id)

    slow = {B: 5.0}
    model = Model(Config((environment(operations=[A, B]),)), knock, latency=lambda it: slow.pop(it.id, 0.05))
    model.run(1)
    assert model.reread
    model.key_was_read()
    for _ in range(10):
        model.run(1)
        assert model.value("knock_up", **E) == 1
    assert len(model.reread) == 1


def test_a_name_believed_of_a_registration_gives_way_to_knocks_own() -> None:
    model = Model(Config((environment(),)), lambda it, _now: running(it.id, name="objects.set"))
    model.register(registration(A, WALL, name="users.identify"))
    model.run(1)
    assert model.value("knock_bulk_operation_info", name="users.identify", **E) == 1
    model.run(30)
    assert model.value("knock_bulk_operation_info", name="objects.set", **E) == 1
    assert model.value("knock_bulk_operation_info", name="users.identify", **E) is None
    assert model.value("knock_bulk_operations", name="objects.set", status="processing", **E) == 1
    assert not model.value("knock_bulk_operations", name="users.identify", **E)


@pytest.mark.parametrize(("age", "rows"), [(-1.0, 40.0), (7 * 86400.0, 0.0), (1.0, 0.0)])
def test_rows_count_from_0_only_where_it_was_made_after_the_epoch(age: float, rows: float) -> None:
    inserted = WALL - age
    model = Model(
        Config((environment(),)),
        lambda it, _now: running(it.id, status=Status.COMPLETED, rows_processed=40, inserted_at=inserted),
    )
    model.register(registration(A, inserted))
    model.run(60)
    assert model.value("knock_bulk_operations_rows_processed_total", **E) == rows
    assert model.value("knock_bulk_operations_finished_total", status="completed", **E) == (1 if rows else 0)
    again = model.restarted()  # without storage, some time later
    again.mono += 3600
    again.run(1)
    again.register(registration(A, inserted))
    again.run(60)
    assert not again.value("knock_bulk_operations_rows_processed_total", **E)


def test_a_duration_below_0_is_absent() -> None:
    ended = {"status": Status.COMPLETED, "started_at": WALL, "completed_at": WALL - 5}
    model = Model(Config((environment(operations=[A]),)), lambda it, _now: running(it.id, **ended))
    model.run(1)
    assert model.value("knock_bulk_operation_finished_timestamp_seconds", **E) == WALL - 5
    assert model.value("knock_bulk_operation_duration_seconds", **E) is None


def test_a_refusal_for_an_environment_that_was_removed_brings_no_series_back() -> None:
    model = Model(Config((environment(), environment("staging"))), always_running)
    reconfigure(model, Config((environment(),)))
    model.run(1)
    model.activity.refuse("staging", "invalid")
    model.activity.refuse("production", "invalid")
    assert model.value("knock_exporter_operations_refused_total", knock_environment="staging") is None
    assert model.value("knock_exporter_operations_refused_total", reason="invalid", **E) == 1


def test_the_word_of_an_undocumented_status_is_kept_for_people_and_told_once() -> None:
    odd = parse_operation({"id": A, "status": "paused\x1b" + "x" * 100, "name": "users.identify"}, A)
    assert odd.status_word == "paused\N{REPLACEMENT CHARACTER}" + "x" * 57
    assert parse_operation({"id": A, "status": "queued"}, A).status_word is None
    assert parse_operation({"id": A, "status": "sk_secret"}, A).shown_status == "unknown (sk_***)"
    model = Model(
        Config((environment(operations=[A, B]),)), lambda it, _now: replace(odd, id=it.id, status_word="paused")
    )
    with capture_logs() as logs:
        model.run(100)
    assert [each["status"] for each in logs if "does not document" in each["event"] and "status" in each] == ["paused"]
    entry = model.views[-1].snapshot.operations.get(OperationKey("production", A))
    assert entry is not None
    told = shapes.detail(entry, model.now)["record"]
    assert told is not None
    assert (told["status"], told["status_word"]) == ("unknown", "paused")


def test_a_finished_operation_that_is_dropped_and_listed_again_is_not_asked_again() -> None:
    ended = {"status": Status.COMPLETED, "completed_at": WALL - 5, "rows_processed": 40}
    model = Model(Config((environment(operations=[A]),)), lambda it, _now: running(it.id, **ended))
    model.list_file("/ids", B)
    model.run(10)
    reconfigure(model, Config((environment(),)))
    model.list_file("/ids")
    model.run(10)
    assert model.value("knock_exporter_operations", **E) == 0
    reconfigure(model, Config((environment(operations=[A]),)))
    model.list_file("/ids", B)
    model.run(100)
    assert model.samples("knock_bulk_operation_rows_processed", **E) == [40, 40]
    assert (len(model.times(A)), len(model.times(B))) == (1, 1)
    assert not model.value("knock_bulk_operations_finished_total", **E)


def test_what_ended_and_was_dropped_is_remembered_in_the_room_that_is_left() -> None:
    many, others = ids(30, seed=5), ids(25, seed=6)
    model = Model(Config((environment(),), max_operations=40), lambda it, _now: running(it.id, status=Status.COMPLETED))
    model.list_file("/ids", *many)
    model.run(10)
    model.list_file("/ids", *others)
    model.run(10)
    model.list_file("/ids", *many)
    model.run(100)
    assert len(model.sent) == 30 + 25 + 15  # 15 were remembered
