"""Which operations are listed, and what follows from one."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from shown import BLANK, DOWN, FAILED, HOSTILE, LISTED, PASSED, RUNNING, SECRET_URL, everything

from exporter.operation import OperationKey
from exporter.tracking.roster import Source, SourceKind
from exporter.web import facts
from exporter.web.listing import Choice, Filter, choices, read_filter, select
from exporter.web.replies import Refusal
from exporter.web.work import WAITING_MOST, Worker

if TYPE_CHECKING:
    from model import Model

    from exporter.tracking.picture import Entry


@pytest.fixture(scope="module")
def model() -> Model:
    return everything()


def entry(model: Model, operation_id: str) -> Entry:
    found = model.views[-1].picture.get(OperationKey("production", operation_id))
    assert found is not None
    return found


def test_what_there_is_to_choose_from(model: Model) -> None:
    offered = choices(model.views[-1].picture)
    assert offered.environments == (Choice("production", 10), Choice("staging", 1))
    assert offered.groups == (Choice("default", 10), Choice("nightly", 1))
    assert dict(offered.states) == {
        "pending": 2,
        "queued": 1,
        "processing": 4,
        "completed": 2,
        "failed": 1,
        "unknown": 1,
    }
    assert dict(offered.names)[HOSTILE] == 1


def test_an_empty_filter_asks_for_everything(model: Model) -> None:
    assert not read_filter({"status": "", "id": " ", "page": "2"})
    assert len(select(model.views[-1].picture, Filter(), model.now)) == len(LISTED) + 1
    assert read_filter({"group": "a"})


def test_time_left_is_told_only_where_it_can_be_known(model: Model) -> None:
    assert facts.time_left(entry(model, RUNNING)) is not None
    for operation_id in (BLANK, DOWN, FAILED, PASSED):
        assert facts.time_left(entry(model, operation_id)) is None


def test_stale_is_what_the_metric_says(model: Model) -> None:
    found = entry(model, RUNNING)
    late = found.tracked.stale_at - model.mono
    assert not facts.stale(found, model.now)
    assert facts.stale(found, model.now._replace(mono=model.mono + late))
    assert not facts.stale(entry(model, FAILED), model.now._replace(mono=model.mono + 1e9))


def test_a_list_is_named_without_what_may_be_secret() -> None:
    assert facts.name_of(Source(SourceKind.HTTP, SECRET_URL)) == "https://lists.example/ids"
    assert facts.name_of(Source(SourceKind.FILES, "/ids?token.txt")) == "/ids?token.txt"


def test_who_comes_when_too_many_wait_is_sent_away() -> None:
    go, worker_threads = threading.Event(), set()

    def work() -> int:
        go.wait(10)
        worker_threads.add(threading.current_thread().name)
        return 1

    async def flood() -> tuple[list[int], Refusal]:
        worker = Worker()
        accepted = [asyncio.ensure_future(worker.do(work)) for _ in range(WAITING_MOST + 1)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as refused:
            await worker.do(work)
        accepted[0].cancel()  # who goes away frees no place before the work is done
        go.set()
        done = await asyncio.gather(*accepted[1:])
        assert await worker.do(work) == 1
        return done, refused.value

    done, refusal = asyncio.run(flood())
    assert done == [1] * WAITING_MOST
    assert (refusal.status, refusal.headers) == (503, {"Retry-After": "1"})
    assert len(worker_threads) == 1
