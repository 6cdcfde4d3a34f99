"""What happens to simulated operations: pure, with time as an argument."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from exporter.operation import Status, parse_operation
from exporter.simulator import LIFELIKE, Clock, Faults, Shares, World, faults
from exporter.simulator.limits import EndpointLimits
from exporter.simulator.plan import Order
from exporter.simulator.world import MAX_OPERATIONS

SPEEDS = st.floats(min_value=0.01, max_value=1e4)


@dataclass
class Hands:
    """A clock that is moved by hand."""

    now: float = 1000.0

    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.now + 1_700_000_000)


def told(world: World, operation_id: str) -> dict[str, Any]:
    found = world.read(operation_id)
    assert isinstance(found, dict)
    return found


def test_operation_goes_from_queued_to_completed_in_batches() -> None:
    hands = Hands()
    world = World(seed=1, clock=hands.clock())
    made = world.create("users.identify", rows=500, queue_seconds=5, rows_per_second=100)
    seen = []
    for second in range(12):
        hands.now = 1000.0 + second
        record = told(world, made)
        seen.append((record["status"], record["processed_rows"]))
    assert seen[:5] == [("queued", 0)] * 5
    assert seen[10:] == [("completed", 500)] * 2
    assert [status for status, _ in seen[5:10]] == ["processing"] * 5
    assert 0 < seen[7][1] <= 200


def test_record_has_the_fields_that_knock_documents() -> None:
    hands = Hands(now=0.25)
    world = World(seed=1, clock=hands.clock())
    made = world.create("objects.cars.set", rows=10, queue_seconds=1, rows_per_second=10, errors=1)
    queued = {
        "__typename": "BulkOperation",
        "id": made,
        "name": "objects.cars.set",
        "status": "queued",
        "estimated_total_rows": 10,
        "processed_rows": 0,
        "success_count": 0,
        "progress_path": f"/v1/bulk_operations/{made}",
        "inserted_at": "2023-11-14T22:13:20.250000Z",
        "updated_at": "2023-11-14T22:13:20.250000Z",
        "started_at": None,
        "completed_at": None,
        "failed_at": None,
    }
    assert told(world, made) == queued
    hands.now += 60
    record = told(world, made)
    assert len(record.pop("error_items")) == 1
    assert record == queued | {
        "status": "completed",
        "processed_rows": 10,
        "success_count": 9,
        "error_count": 1,
        "updated_at": "2023-11-14T22:13:22.250000Z",
        "started_at": "2023-11-14T22:13:21.250000Z",
        "completed_at": "2023-11-14T22:13:22.250000Z",
    }


def test_failing_one_stops_on_the_way_and_says_when() -> None:
    hands = Hands()
    world = World(seed=4, clock=hands.clock())
    made = world.create(rows=100, fails=True)
    hands.now += 1e6
    record = told(world, made)
    assert record["status"] == "failed"
    assert record["processed_rows"] < 100
    assert record["failed_at"] == record["updated_at"]
    assert record["completed_at"] is None


def test_stalled_one_stands_still_for_ever() -> None:
    hands = Hands()
    world = World(seed=4, clock=hands.clock())
    made = world.create(rows=100, stalls=True)
    hands.now += 1e4
    record = told(world, made)
    hands.now += 1e6
    assert told(world, made) == record
    assert (record["status"], record["completed_at"], record["failed_at"]) == ("processing", None, None)


def test_items_without_an_id_become_errors() -> None:
    hands = Hands()
    world = World(seed=1, clock=hands.clock())
    made = world.start(Order(name="objects.cars.set", rows=3), ["a", None, "c"], "cars")
    hands.now += 1e4
    record = told(world, made)
    assert (record["success_count"], record["error_count"]) == (2, 1)
    assert record["error_items"] == [{"id": "row-1", "collection": "cars"}]


@given(
    seed=st.integers(0, 2**32),
    speed=SPEEDS,
    rows=st.integers(0, 3000),
    steps=st.lists(st.floats(0, 1e6), min_size=1, max_size=20),
)
def test_records_only_move_forward_and_always_add_up(seed: int, speed: float, rows: int, steps: list[float]) -> None:
    hands = Hands()
    world = World(seed=seed, speed=speed, shares=Shares(errors=0.5, fails=0.3, stalls=0.3), clock=hands.clock())
    made = world.create(rows=rows)
    before = told(world, made)
    for now in sorted(steps):
        hands.now = 1000.0 + now / speed
        record = told(world, made)
        operation = parse_operation(record, made)
        assert record["success_count"] + record.get("error_count", 0) == record["processed_rows"] <= rows
        assert len(record.get("error_items", ())) == record.get("error_count", 0)
        assert record["processed_rows"] >= before["processed_rows"]
        assert record["updated_at"] >= before["updated_at"]
        assert operation.updated_at is not None
        assert operation.updated_at <= hands.clock().wall() + 1e-3
        if Status(before["status"]).final:
            assert record == before
        before = record


def test_same_seed_brings_the_same_ids_and_fates() -> None:
    first, second = (World(seed=9, shares=LIFELIKE, clock=Hands().clock()) for _ in range(2))
    made = [first.create() for _ in range(20)]
    assert [second.create() for _ in range(20)] == made
    assert [first.read(one) for one in made] == [second.read(one) for one in made]
    assert len(set(made)) == 20


def test_shares_are_met_and_without_them_nothing_goes_wrong() -> None:
    hands = Hands()
    shares = Shares(errors=0.5, fails=0.2, stalls=0.1)
    troubled = World(seed=2, shares=shares, clock=hands.clock())
    calm = World(seed=2, clock=hands.clock())
    for world in (troubled, calm):
        for _ in range(1000):
            world.create(rows=50)
    hands.now += 1e6
    ends = [told(troubled, one)["status"] for one in troubled.ids()]
    assert 150 < ends.count("failed") < 250
    assert 70 < ends.count("processing") < 130
    assert {(told(calm, one)["status"], told(calm, one)["error_count"]) for one in calm.ids()} == {("completed", 0)}


def test_speed_shortens_real_time_and_timestamps_tell_real_time() -> None:
    hands = Hands(now=0.0)
    world = World(seed=1, speed=100, clock=hands.clock())
    made = world.create(rows=1000, queue_seconds=100, rows_per_second=10)
    hands.now = 1.999
    assert told(world, made)["status"] == "processing"
    hands.now = 2.0
    assert told(world, made)["completed_at"] == "2023-11-14T22:13:22.000000Z"


def test_put_serves_anything_and_forget_takes_it_away() -> None:
    world = World(seed=1)
    assert world.put({"id": "ABC", "status": 7}) == "abc"
    assert world.put(["no", "record"], under="X") == "x"
    assert world.read("Abc") == {"id": "ABC", "status": 7}
    assert world.read("x") == ["no", "record"]
    world.forget("abc")
    assert world.read("abc") is None
    assert world.ids() == ["x"]


def test_oldest_operations_are_forgotten_past_the_bound() -> None:
    world = World(seed=1)
    for number in range(MAX_OPERATIONS + 1):
        world.put(number, under=str(number))
    assert world.ids() == [str(number) for number in range(1000, MAX_OPERATIONS + 1)]


@pytest.mark.parametrize(
    "order",
    [
        {"rows": -1},
        {"rows": 2, "errors": 3},
        {"fails": True, "stalls": True},
        {"rows_per_second": 0},
        {"queue_seconds": float("nan")},
        {"name": ""},
    ],
)
def test_what_cannot_be_is_refused(order: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        World(seed=1).create(**order)


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_speed_is_a_number_above_zero(speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        World(speed=speed)


def test_read_limit_is_a_sliding_second() -> None:
    limits = EndpointLimits(rate_limits=2, speed=1000)
    times = [0.0, 0.5, 0.9, 1.0, 1.4, 1.5]
    assert [limits.take("read", now, reads=True) for now in times] == [True, True, False, True, False, True]


def test_tiers_grow_with_speed_and_count_per_endpoint() -> None:
    limits = EndpointLimits(rate_limits=True, speed=10)
    assert [limits.take("a", now, reads=False) for now in (0.0, 0.05, 0.1)] == [True, False, True]
    assert limits.take("b", 0.1, reads=False)
    assert sum(limits.take("read", 0.2, reads=True) for _ in range(300)) == 200


def test_limits_can_be_off() -> None:
    limits = EndpointLimits(rate_limits=False, speed=1)
    assert all(limits.take("a", 0.0, reads=False) for _ in range(300))


def pick_kinds(armed: Faults, times: int, method: str = "GET", operation_id: str | None = "a") -> list[str]:
    picked = [armed.pick(method, operation_id)[1] for _ in range(times)]
    return [fault.kind if fault else "" for fault in picked]


def test_counted_fault_hits_so_many_requests() -> None:
    armed = Faults(random.Random(1))
    armed.set(faults.Drop(count=2), faults.Hang(count=1))
    assert pick_kinds(armed, 4) == ["drop", "drop", "hang", ""]
    assert armed.describe()[0] == {"kind": "drop", "share": 1.0, "count": 2, "left": 0}


def test_shared_fault_hits_its_share() -> None:
    armed = Faults(random.Random(1))
    armed.set(faults.Drop(share=0.25))
    assert 200 < pick_kinds(armed, 1000).count("drop") < 300


def test_fault_hits_only_what_it_names() -> None:
    armed = Faults(random.Random(1))
    armed.set(faults.Drop(id="A"), faults.Hang(method="POST"))
    assert pick_kinds(armed, 1, operation_id="a") == ["drop"]
    assert pick_kinds(armed, 1, operation_id="b") == [""]
    assert pick_kinds(armed, 1, method="POST", operation_id=None) == ["hang"]


def test_latencies_add_up_with_another_fault() -> None:
    armed = Faults(random.Random(1))
    armed.set(faults.Latency(seconds=1), faults.Garbage(), faults.Latency(seconds=2))
    latency, fault = armed.pick("GET", None)
    assert (latency, fault) == (3, faults.Garbage())


def test_retry_after_is_written_as_asked() -> None:
    limit = faults.RateLimit(retry_after=30, retry_after_date=10, retry_after_ms="soon")
    assert limit.reply(1_700_000_000).headers == (
        ("Retry-After", "30"),
        ("Retry-After", "Tue, 14 Nov 2023 22:13:30 GMT"),
        ("Retry-After-Ms", "soon"),
    )
    assert faults.RateLimit(retry_after=0.5).reply(0).headers == (("Retry-After", "0.5"),)
    assert faults.RateLimit().reply(0).headers == ()


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"kind": "nonsense"}, (0,)),
        ({"kind": "latency"}, (0, "latency", "seconds")),
        ({"kind": "drop", "share": 2}, (0, "drop", "share")),
        ({"kind": "status", "status": 99}, (0, "status", "status")),
        ({"kind": "redirect", "location": "/\r\nX: 1"}, (0, "redirect", "location")),
        ([{"kind": "drop"}, {"kind": "drop", "typo": 1}], (1, "drop", "typo")),
        (7, (0,)),
    ],
)
def test_wrong_fault_names_what_is_wrong(spec: Any, where: tuple[object, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        faults.parse(spec)
    assert [problem["loc"] for problem in caught.value.errors()] == [where]
