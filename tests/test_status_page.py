"""What the status page does beyond listing: titles, counts, choices, static files and pages of operations at odds."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

import pytest
from model import Model, environment, running
from shown import LISTED, OTHER, RUNNING, app_context, ask

from exporter.config import Config
from exporter.errors import Reason, Unreachable

if TYPE_CHECKING:
    from exporter.web.context import AppContext

FIRST = LISTED[0]


def read(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_the_title_tells_the_state(shown: AppContext) -> None:
    assert "<title>1 failed, 8 unfinished " in ask(shown, "/").text
    assert f"<title>processing: users.identify {RUNNING} " in ask(shown, f"/operations/production/{RUNNING}").text


def test_counts_of_each_status_link_to_them_and_keep_the_other_filters(shown: AppContext) -> None:
    page = ask(shown, "/?environment=production&status=failed").text
    assert '<a href="/?environment=production&amp;status=completed">completed 2</a>' in page
    assert '<a href="/?environment=production&amp;status=failed" aria-current="true">failed 1</a>' in page
    assert '<a href="/?environment=production">all 10</a>' in page


def test_a_number_past_the_last_page_shows_the_last(shown: AppContext) -> None:
    assert set(re.findall(r'class="id">([0-9a-f-]{36})', ask(shown, "/?page=9").text)) == {*LISTED, OTHER}


def test_a_name_that_no_form_can_send_is_not_offered() -> None:
    names = {LISTED[0]: "two\nlines", LISTED[1]: "plain"}
    model = Model(
        Config((environment(operations=list(names)),)),
        lambda request, _now: running(request.id, name=names[request.id]),
    )
    model.run(5)
    page = ask(app_context(model), "/").text
    assert '<option value="plain">' in page
    assert 'value="two' not in page


def test_before_the_first_answer_the_page_of_an_operation_says_so() -> None:
    error = Unreachable(Reason.TIMEOUT, "no answer within 10 s")
    model = Model(Config((environment(operations=[FIRST]),)), lambda *_: error)
    model.run(5)
    page = read(ask(app_context(model), f"/operations/production/{FIRST}").text)
    for told in ("pending", "Knock has not answered about it", "✕ timeout", "no answer within 10 s"):
        assert told in page


def test_an_id_may_be_written_in_capitals(shown: AppContext) -> None:
    assert ask(shown, f"/operations/production/{RUNNING.upper()}").status_code == 200


@pytest.mark.parametrize("name", ["base.html", "..%2ftemplates%2fbase.html", "../pages.py", "%2e%2e/pages.py", ""])
def test_nothing_else_is_served_as_a_static_file(shown: AppContext, name: str) -> None:
    assert ask(shown, f"/static/{name}").status_code == 404


@pytest.mark.parametrize("query", ["", "?v=0123456789ab"])
def test_a_static_file_is_not_kept_under_the_link_of_another_version(shown: AppContext, query: str) -> None:
    answer = ask(shown, f"/static/page.js{query}")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-cache")


def test_whatever_lives_in_a_page_can_be_found_again_after_a_refresh(shown: AppContext) -> None:
    for path in ("/", f"/operations/production/{RUNNING}"):
        page = ask(shown, path).text
        ids, parts = re.findall(r'\sid="([^"]*)"', page), re.findall(r'data-live="([^"]*)"', page)
        assert len(ids) == len(set(ids))
        assert len(parts) == len(set(parts)) > 1
