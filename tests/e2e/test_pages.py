"""The pages in a real browser, on the real daemon."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from browser import NARROW, Reader, axe, focused, overhang
from pages import HOSTILE_GROUPS, HOSTILE_NAMES, NIGHTLY, Place, all_looks, fleet, hostile, serve
from programs import Starter, until

from exporter.simulator import Simulator, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from browser import Visits
    from pages import Shown

pytestmark = pytest.mark.e2e

READERS = {
    "light": Reader(),
    "dark": Reader(dark=True),
    "narrow": Reader(width=NARROW),
    "tablet": Reader(width=768),
    "dark and narrow": Reader(dark=True, width=NARROW),
    "reduced motion": Reader(still=True),
    "without scripts": Reader(scripts=False),
    "forced colors": Reader(forced_colors=True),
}
THOROUGH = (READERS["light"], READERS["dark and narrow"])
ROWS = "main table tbody tr:has(a[href*='/operations/'])"


class Served(NamedTuple):
    """An exporter that shows every look, for tests that leave it as it is."""

    url: str
    looks: list[Shown]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    start = Starter(tmp_path_factory.mktemp("pages"))
    looks = all_looks(time.time())
    with Simulator(world=World(seed=1), rate_limits=False) as knock:
        try:
            yield Served(serve(start, {"production": Place(knock, looks)}).url, looks)
        finally:
            start.end()


def test_nobody_is_kept_out(served: Served, visit: Visits) -> None:
    failed = next(each.id for each in served.looks if "fail" in str(each.document))
    visit.excused.append("404")
    for reader in READERS.values():
        everywhere = ("/", f"/operations/production/{failed}", f"/groups/production/{NIGHTLY}", "/config", "/nothing")
        for path in everywhere if reader in THOROUGH else everywhere[:3]:
            page = visit(served.url + path, reader)
            assert axe(page) == [], (reader, path)
            assert overhang(page) == 0, (reader, path)


def test_a_tablet_has_the_table_and_a_telephone_two_lines(served: Served, visit: Visits) -> None:
    page = visit(served.url, READERS["tablet"])
    table = page.locator("main table.operations").first
    assert table.locator("tbody tr").first.evaluate("each => getComputedStyle(each).display") == "table-row"
    page = visit(served.url, READERS["narrow"])
    line = page.evaluate("parseFloat(getComputedStyle(document.body).lineHeight)")
    heights = page.eval_on_selector_all(ROWS, "all => all.map(each => each.offsetHeight)")
    assert len(heights) == len(served.looks)
    assert max(heights) < 3 * line


def test_hostile_names_stay_text(knock: Simulator, start: Starter, visit: Visits) -> None:
    url = serve(start, {"production": Place(knock, hostile(time.time()))}).url
    links = "main table a[href*='/operations/']"
    for number, reader in enumerate((READERS["light"], READERS["narrow"])):
        page = visit(url, reader)
        assert overhang(page) == 0
        addresses = page.eval_on_selector_all(links, "all => all.map(each => each.href)")
        assert len(addresses) == len(HOSTILE_NAMES)
        for href in addresses[number::2]:
            page = visit(href, reader)
            assert overhang(page) == 0, href
            assert page.locator("main script, main img").count() == 0
        page = visit(url, reader)
        addresses = page.eval_on_selector_all("main .groups .name", "all => all.map(each => each.href)")
        assert len(addresses) == len(HOSTILE_GROUPS)
        for href in addresses:
            page = visit(href, reader)
            assert overhang(page) == 0, href
            assert page.locator("h1").inner_text() in HOSTILE_GROUPS
            assert page.locator("main script, main img").count() == 0
    visit(f"{url}/config")


def test_a_group_refreshes_itself_without_losing_what_is_open(served: Served, visit: Visits) -> None:
    page = visit(f"{served.url}/groups/production/{NIGHTLY}")
    assert page.locator("figure svg").count() == 2
    page.locator("#ended-numbers summary").click()
    before = page.inner_text("#updated")
    until(lambda: page.inner_text("#updated") != before, "refreshed", 20.0)
    assert page.locator("#ended-numbers table").is_visible()
    page.get_by_role("link", name=re.compile("with errors")).first.click()
    page.wait_for_url(re.compile("group=nightly&status=with_errors"))


def test_nothing_is_followed_yet(knock: Simulator, start: Starter, visit: Visits) -> None:
    page = visit(serve(start, {"production": Place(knock, ())}).url)
    assert "No operation is followed yet" in page.inner_text("main")
    assert axe(page) == []


def test_thousands_of_operations(knock: Simulator, start: Starter, visit: Visits) -> None:
    url = serve(start, {"production": Place(knock, fleet(2000, time.time()))}).url
    page = visit(url)
    assert page.locator(ROWS).count() == 100
    assert len(page.content()) < 1_000_000
    assert "2,000 operations" in page.inner_text("main")
    page.locator("select[name=status]").select_option("failed")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url(re.compile("status=failed"))
    assert 0 < page.locator(ROWS).count() <= 100
    page.go_back()
    page.get_by_role("link", name=re.compile("next", re.IGNORECASE)).click()
    page.wait_for_url(re.compile("page=2"))
    assert page.locator(ROWS).count() == 100
    one = page.locator(f"{ROWS} a").first.get_attribute("href") or ""
    page.get_by_role("searchbox").fill(one[-12:])
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("id="))
    assert page.locator(ROWS).count() == 1


def test_it_refreshes_itself_without_losing_place_and_can_be_paused(
    knock: Simulator, start: Starter, visit: Visits
) -> None:
    exporter = serve(start, {"production": Place(knock, all_looks(time.time()))})
    page = visit(exporter.url)
    page.wait_for_selector("#pause:visible")
    page.get_by_role("searchbox").fill("half typed")
    link = page.locator(f"{ROWS} a").last
    link.focus()
    href, before = link.get_attribute("href"), page.inner_text("#updated")
    page.evaluate("window.scrollTo(0, 120)")
    place = page.evaluate("window.scrollY")
    with page.expect_response(exporter.url + "/", timeout=15_000):
        pass
    until(lambda: page.inner_text("#updated") != before, "refreshed")
    assert page.evaluate("document.activeElement.getAttribute('href')") == href
    assert page.evaluate("window.scrollY") == place
    assert page.get_by_role("searchbox").input_value() == "half typed"
    page.locator("#pause").focus()
    page.keyboard.press("Enter")
    assert page.locator("#pause").get_attribute("aria-pressed") == "true"
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(6000)
    assert asked == []
    page.keyboard.press("Enter")
    visit.excused.append("ERR_CONNECTION_REFUSED")
    exporter.process.terminate()
    until(lambda: "does not answer" in page.inner_text("body"), "the page says so", 20.0)


def test_a_keyboard_is_enough(served: Served, visit: Visits) -> None:
    page = visit(served.url)
    page.keyboard.press("Tab")
    assert "Skip" in focused(page)
    page.keyboard.press("Enter")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.href || ''").count("/operations/"):
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/operations/"))


def test_reduced_motion_moves_nothing(served: Served, visit: Visits) -> None:
    page = visit(served.url, READERS["reduced motion"])
    assert page.evaluate("document.getAnimations().length") == 0
