"""How much of the limit is used, as the server sees it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from programs import until
from timing import most_in

if TYPE_CHECKING:
    from programs import Starter

    from exporter.simulator import Simulator

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

OPERATIONS = 1000  # each due every 5 s at the latest: four times what the limit allows
LIMIT = 50
SECONDS = 12
LATE_SECONDS = 0.05  # a quarter of what a busy machine needs: this runs alone
USED_SECONDS = 3.0  # in some such span the machine holds nobody up


def test_the_limit_is_used_and_never_passed(knock: Simulator, start: Starter) -> None:
    moving = [knock.world.create(rows=10**9, queue_seconds=0.0, rows_per_second=1e4) for _ in range(OPERATIONS)]
    exporter = start(knock.url, moving, rate_limit=LIMIT)
    began = time.monotonic()
    for scrape in range(SECONDS + 1):
        until(lambda due=began + scrape: time.monotonic() >= due, "the next scrape")  # type: ignore[misc] # mypy
        assert exporter.get("/metrics", **{"Accept-Encoding": "gzip"}).status_code == 200
    times = sorted(each.at for each in knock.log.entries())
    used = most_in(USED_SECONDS, times) / (LIMIT * USED_SECONDS)
    assert used >= 0.97, f"{used:.1%} of the limit"
    assert most_in(1.0 - LATE_SECONDS, times) <= LIMIT
    assert most_in(5.0, times) <= 5 * LIMIT
    assert exporter.value("knock_exporter_api_rate_limit_requests_per_second") == LIMIT
    assert {each.status for each in knock.log.entries()} == {200}
