"""Long lists do not hold the tracker: it takes them in slices, and asks, publishes and answers in between."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from model import KEY, Disk, Model, environment, ids, running

from exporter.config import Config, ListedOperation, Polling
from exporter.keys import Secret
from exporter.tracking.cycle import MANY as MANY_CHANGED
from exporter.tracking.memberships import CONFIG, SourceKey, SourceKind
from exporter.tracking.messages import Close, Listed, PollRequest, Reconfigure

if TYPE_CHECKING:
    from exporter.config import EnvironmentSettings
    from exporter.operation import Operation
    from exporter.tracking.transitions import Moment

MANY = ids(1000, seed=7)
FIRST = ids(1)[0]
MOST_A_STEP = 240  # operations taken in between two looks at what is due
SOURCES = [
    CONFIG,
    SourceKey(SourceKind.FILES, "/ids.txt"),
    SourceKey(SourceKind.HTTP, "https://app.example/operations"),
]


def always_running(request: PollRequest, now: Moment) -> Operation:
    return running(request.id, rows_processed=int(now.mono))


def tracked(model: Model) -> int:
    return model.tracker.operations


def steps(model: Model, most: int = 10_000) -> list[int]:
    """Step until nothing more is taken in; return how many operations each step took in or dropped."""
    taken, before = [], tracked(model)
    for _ in range(most):
        wake = model.tracker.advance(model.now)
        taken.append(abs(tracked(model) - before))
        before = tracked(model)
        if wake > model.mono:
            break
    return taken


def listed(*operation_ids: str) -> tuple[ListedOperation, ...]:
    return tuple(ListedOperation(each) for each in operation_ids)


@pytest.mark.parametrize("source", SOURCES, ids=[each.kind for each in SOURCES])
def test_a_long_list_comes_and_goes_in_slices(source: SourceKey) -> None:
    model = Model(Config((environment(),)), always_running)
    model.run(1)
    model.tell(Listed("production", source, listed(*MANY)))
    assert tracked(model) <= MOST_A_STEP
    model.run(20)
    assert tracked(model) == len(MANY)
    model.tell(Listed("production", source, ()))
    model.run(1)
    model = Model(Config((environment(),)), always_running)
    model.tell(Listed("production", source, listed(*MANY)))
    assert max(steps(model)) <= MOST_A_STEP


def test_at_the_start_too() -> None:
    model = Model(Config((environment(operations=MANY), environment("staging", ids(1000)))), always_running)
    assert tracked(model) <= MOST_A_STEP
    assert max(steps(model)) <= MOST_A_STEP
    model.run(1)
    assert tracked(model) == 2000
    assert model.value("knock_exporter_operations", knock_environment="production") == 1000


def test_asking_goes_on_while_a_list_comes_in() -> None:
    model = Model(Config((environment(operations=[FIRST]),)), always_running)
    model.run(1)
    model.tell(Listed("production", SOURCES[1], listed(*MANY)))
    model.mono += 6
    sent = len(model.sent)
    model.tracker.advance(model.now)
    assert tracked(model) < len(MANY)
    assert len(model.sent) > sent


def test_a_registration_does_not_wait_for_a_list() -> None:
    model = Model(Config((environment(),)), always_running)
    model.tell(Listed("production", SOURCES[1], listed(*MANY)))
    answers = model.register(FIRST)
    model.tracker.advance(model.now)
    assert [each.state for each in answers[0].taken] == ["pending"]
    assert tracked(model) < len(MANY)


def test_what_somebody_waits_for_is_done_and_saved_at_the_end() -> None:
    model = Model(Config((environment(),)), always_running, disk=Disk())
    answers = model.register(*MANY)
    assert not answers
    model.tell(Close())
    model.tracker.advance(model.now)
    assert [len(each.taken) for each in answers] == [len(MANY)]
    assert model.disk is not None
    while model.disk.write() is not None:
        pass
    assert {key.id for key in model.disk.memory.operations} == {*MANY}


def test_a_registration_of_many_is_answered_whole() -> None:
    model = Model(Config((environment(),)), always_running)
    answers = model.register(*MANY[:500])
    assert not answers
    assert tracked(model) <= MOST_A_STEP
    model.run(0.1)
    assert [each.id for each in answers[0].taken] == MANY[:500]


def test_a_reload_is_answered_when_its_list_is_shown_and_a_newer_list_takes_the_place_of_one_not_taken_in() -> None:
    model = Model(Config((environment(),)), always_running)
    model.run(1)
    shown: list[float | None] = []

    def reconfigure(operations: list[str]) -> None:
        config = Config((environment(operations=operations),))
        reply = lambda: shown.append(model.value("knock_exporter_operations"))  # noqa: E731 - as a message has it
        model.tell(Reconfigure(config, {"production": KEY}, lambda: None, reply))

    reconfigure(MANY)
    assert not shown
    reconfigure(MANY[500:])
    model.run(1)
    assert len(shown) == 2
    assert shown[-1] == 500
    assert tracked(model) == 500


def advance(model: Model) -> None:
    """Take one step, which takes some time."""
    model.tracker.advance(model.now)
    if model.disk is not None and (saved := model.disk.write()) is not None:
        model.tell(saved)
    model.mono += 0.03


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("pause", [0.0, 0.05, 0.3])
def test_no_view_shows_a_part_of_a_reload(pause: float, *, kept: bool) -> None:
    model = Model(Config((environment(operations=MANY[:100]),)), always_running, disk=Disk() if kept else None)
    model.run(1)
    model.mono += pause
    replies: list[bool] = []
    config = Config((environment(operations=MANY[100:600]),))
    model.tell(Reconfigure(config, {"production": KEY}, lambda: None, lambda: replies.append(True)))
    shown = []
    while not replies:
        advance(model)
        shown.append(model.value("knock_exporter_operations"))
    assert set(shown) == {100, 500}


def test_a_reload_of_very_many_holds_views_up_for_a_second_at_most() -> None:
    model = Model(Config((environment(),)), always_running)
    model.run(1)
    model.tell(
        Reconfigure(Config((environment(operations=ids(6000)),)), {"production": KEY}, lambda: None, lambda: None)
    )
    before, began = len(model.views), model.mono
    while len(model.views) == before:
        advance(model)
    assert model.mono - began < 1.2
    assert tracked(model) < 6000


@pytest.mark.parametrize("limit", [1, 50_000])
def test_a_long_list_waits_for_a_slow_disk_so_that_no_cycle_is_a_long_step(limit: int) -> None:
    model = Model(Config((environment(),), max_operations=limit), always_running, disk=Disk())
    model.run(1)
    assert model.disk is not None
    if limit == 1:  # they wait for room, and come in when there is some
        model.tell(Listed("production", SOURCES[1], listed(*ids(6000, seed=8))))
        model.run(3)
        model.disk.slow = True
        model.tell(Reconfigure(Config((environment(),)), {"production": KEY}, lambda: None, lambda: None))
    else:
        model.disk.slow = True
        model.tell(Listed("production", SOURCES[1], listed(*ids(6000, seed=8))))
    for _ in range(100):
        advance(model)
    waiting = tracked(model)
    assert waiting <= 2 * (MANY_CHANGED + MOST_A_STEP)
    model.run(1)
    assert tracked(model) == waiting
    model.disk.slow = False
    model.run(1)
    assert tracked(model) == 6000
    assert max(len(each.operations) for each in model.disk.written) <= MANY_CHANGED + MOST_A_STEP


def test_an_environment_that_is_removed_takes_its_list_with_it() -> None:
    model = Model(Config((environment(), environment("staging"))), always_running)
    model.tell(Listed("staging", SOURCES[1], listed(*MANY)))
    model.tell(Reconfigure(Config((environment(),)), {"production": KEY}, lambda: None, lambda: None))
    model.run(1)
    assert tracked(model) == 0


def test_what_is_under_way_for_an_environment_ends_with_it() -> None:
    config = Config((environment(), environment("staging", MANY[:400])))
    model = Model(config, always_running)
    model.run(1)
    faster = replace(config.environments[1], polling=Polling(slowest=30.0))
    for after in (replace(config, environments=(config.environments[0], faster)), Config(config.environments[:1])):
        model.tell(Reconfigure(after, {"production": KEY, "staging": KEY}, lambda: None, lambda: None))
    model.run(2)
    assert "staging" not in model.metrics()


def test_another_pace_is_taken_in_slices_and_loses_nobody() -> None:
    some = MANY[:500]
    config = Config((environment(operations=some, rate_limit=100.0, max_in_flight=300),))
    model = Model(config, always_running)
    model.run(8)
    assert tracked(model) == len(some)
    polling = replace(Polling(), slowest=30.0)
    changed = Config((replace(config.environments[0], polling=polling),))
    model.tell(Reconfigure(changed, {"production": KEY}, lambda: None, lambda: None))
    sent = len(model.sent)
    assert max(steps(model)) == 0
    model.run(12)
    assert {each.id for each in model.sent[sent:]} == set(some)


def test_those_that_wait_for_room_come_in_slices() -> None:
    model = Model(Config((environment(),), max_operations=1), always_running)
    model.tell(Listed("production", SOURCES[1], listed(*MANY)))
    model.run(5)
    assert tracked(model) == 1
    model.tell(Reconfigure(Config((environment(),)), {"production": KEY}, lambda: None, lambda: None))
    assert max(steps(model)) <= MOST_A_STEP
    model.run(2)
    assert tracked(model) == len(MANY)


def environments(**settings: Any) -> tuple[EnvironmentSettings, ...]:
    return environment("a"), environment("b", rate_limit=500.0, per_operation_limit=1000, **settings)


KEYS = {"a": KEY, "b": Secret("sk_test_another")}  # or both would be asked at the pace of the slower one
OTHERWISE = {
    "labels": Config(environments(), labels=("team",)),
    "limit": Config((environment("a"), replace(environments()[1], per_operation_limit=10))),
    "mode": Config(environments(per_operation="none")),
    "removed": Config((environment("a"),)),
}


def series(model: Model) -> set[str]:
    """Return the series of operations at /metrics, without their values."""
    lines = model.metrics().split("\n")
    return {line.rpartition(" ")[0] for line in lines if line.startswith("knock_bulk_operation_")}


@pytest.mark.parametrize("config", OTHERWISE.values(), ids=OTHERWISE)
def test_a_reload_that_shows_very_many_otherwise_does_so_part_by_part(config: Config) -> None:
    listed = ids(800)
    model = Model(Config(environments()), always_running, keys=KEYS)
    model.list_file("/ids", *listed, environment="b")
    model.run(2)
    assert len(series(model)) > len(listed)
    del model.views[:-1]
    replies: list[set[str]] = []
    reply = lambda: replies.append(series(model))  # noqa: E731 - as a message has it
    model.tell(Reconfigure(config, KEYS, lambda: None, reply))
    while not replies:
        advance(model)
    for before, after in pairwise(each.snapshot.operations for each in model.views):
        assert sum(after.get(key) is not entry for key, entry in before.items()) <= MANY_CHANGED + MOST_A_STEP
    fresh = Model(config, always_running, keys=KEYS)
    if len(config.environments) > 1:
        fresh.list_file("/ids", *listed, environment="b")
    fresh.run(2)
    assert replies[0] == series(fresh)
