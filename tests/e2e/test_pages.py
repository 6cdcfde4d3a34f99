"""The pages in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from browser import NARROW, Reader, axe, overhang

if TYPE_CHECKING:
    from browser import Visits
    from programs import Starter

    from exporter.knock.simulator import Simulator

pytestmark = pytest.mark.e2e

READERS = {
    "light": Reader(),
    "narrow": Reader(width=NARROW),
    "reduced motion": Reader(still=True),
    "without scripts": Reader(scripts=False),
    "forced colors": Reader(forced_colors=True),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_nobody_is_kept_out_of_the_first_page(reader: Reader, knock: Simulator, start: Starter, visit: Visits) -> None:
    visit.excused.append(r"/favicon\.ico")
    page = visit(start(knock.url).url, reader)
    assert page.title() == "knock-exporter"
    assert axe(page) == []
    assert overhang(page) == 0
