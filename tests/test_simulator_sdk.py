"""Knock's official Python client, validating strictly, takes the simulator for Knock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import knockapi
import pytest
from knockapi import Knock

from exporter.simulator import Clock, Simulator, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from knockapi.types import BulkOperation
    from knockapi.types.schedules.bulk_create_params import Schedule


@dataclass
class Hands:
    """A clock that is moved by hand."""

    now: float = 0.0


@dataclass(frozen=True)
class Box:
    """A running simulator, its clock, and the official client."""

    hands: Hands
    knock: Knock


@pytest.fixture
def box() -> Iterator[Box]:
    hands = Hands()
    clock = Clock(lambda: hands.now, lambda: hands.now + 1_700_000_000)
    with (
        Simulator(world=World(seed=1, clock=clock), api_key="sk_test_right") as simulator,
        client(simulator.url, "sk_test_right") as knock,
    ):
        yield Box(hands, knock)


def client(url: str, key: str) -> Knock:
    return Knock(api_key=key, base_url=url, _strict_response_validation=True, max_retries=0)


IDS = [f"ann-{number}" for number in range(200)]


def schedule(knock: Knock) -> BulkOperation:
    schedules: list[Schedule] = [{"workflow": "digest", "recipient": one} for one in IDS]
    schedules[0]["recipient"] = {"id": "vw", "collection": "cars"}
    return knock.schedules.bulk.create(schedules=schedules)


CREATES: dict[str, Callable[[Knock], BulkOperation]] = {
    "users.identify": lambda knock: knock.users.bulk.identify(users=[{"id": one, "name": "Ann"} for one in IDS]),
    "users.set_preferences": lambda knock: knock.users.bulk.set_preferences(
        user_ids=IDS, preferences={"workflows": {"digest": False}}
    ),
    "users.delete": lambda knock: knock.users.bulk.delete(user_ids=IDS),
    "objects.my cars.set": lambda knock: knock.objects.bulk.set("my cars", objects=[{"id": one} for one in IDS]),
    "objects.cars.delete": lambda knock: knock.objects.bulk.delete("cars", object_ids=IDS),
    "schedules.create_schedules": schedule,
}


@pytest.mark.parametrize("name", CREATES)
def test_official_client_creates_and_reads_to_the_end(box: Box, name: str) -> None:
    made = CREATES[name](box.knock)
    assert (made.name, made.status, made.estimated_total_rows, made.processed_rows) == (name, "queued", 200, 0)
    statuses = [made.status]
    while statuses[-1] != "completed":
        box.hands.now += 0.5
        read = box.knock.bulk_operations.get(made.id)
        if read.status != statuses[-1]:
            statuses.append(read.status)
    assert statuses == ["queued", "processing", "completed"]
    assert (read.id, read.processed_rows, read.success_count, read.error_count) == (made.id, 200, 200, 0)
    assert read.completed_at
    assert read.started_at
    assert made.inserted_at < read.started_at < read.completed_at == read.updated_at


def test_official_client_reads_error_items(box: Box) -> None:
    users = [{"id": "ann"}, {"name": "no id"}]
    made = box.knock.users.bulk.identify(users=users)  # type: ignore[arg-type]  # what Knock has to refuse
    box.hands.now += 1000
    read = box.knock.bulk_operations.get(made.id)
    assert [(item.id, item.collection) for item in read.error_items or ()] == [("row-1", None)]
    assert (read.success_count, read.error_count) == (1, 1)


def test_official_client_meets_its_own_exceptions(box: Box) -> None:
    with pytest.raises(knockapi.NotFoundError):
        box.knock.bulk_operations.get("00000000-0000-0000-0000-000000000000")
    with pytest.raises(knockapi.UnprocessableEntityError):
        box.knock.users.bulk.delete(user_ids=["ann"] * 1001)
    with pytest.raises(knockapi.RateLimitError):
        box.knock.users.bulk.delete(user_ids=["ann"])
    with client(str(box.knock.base_url), "sk_test_wrong") as wrong, pytest.raises(knockapi.AuthenticationError):
        wrong.users.bulk.delete(user_ids=["ann"])
