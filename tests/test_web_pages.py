"""The pages, as they leave the server."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from model import Model, environment, running
from shown import (
    CLEAN,
    DOWN,
    FAILED,
    FLAWED,
    HOSTILE,
    LISTED,
    ODD,
    OTHER,
    PASSED,
    RUNNING,
    app_context,
    ask,
    everything,
)

from exporter import __version__
from exporter.config import Config
from exporter.errors import KeyRefused
from exporter.operation import Operation, Status
from exporter.tracking.messages import KeyRead
from exporter.web.context import DOCUMENTATION, ConfigurationStatus

if TYPE_CHECKING:
    import httpx

    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Moment
    from exporter.web.context import AppContext


def text(answered: httpx.Response) -> str:
    """Return what a person reads, without tags."""
    bare = re.sub(r"<(script|style|title).*?</\1>", "", answered.text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", bare)).split())


def links(answered: httpx.Response) -> list[str]:
    return [html.unescape(each) for each in re.findall(r'(?:href|src|action)="([^"]*)"', answered.text)]


def row(page: str, operation_id: str) -> str:
    return next(each for each in page.split("<tr") if operation_id in each)


def test_the_overview_lists_everything_in_order(shown: AppContext) -> None:
    page = ask(shown, "/")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Cache-Control"] == "no-store"
    found = re.findall(r'class="id">([0-9a-f-]{36})', page.text)
    assert set(found) == {*LISTED, OTHER}
    assert found.index(FAILED) < found.index(CLEAN)
    assert "1 failed, 8 unfinished" in page.text
    assert text(page).index("Needs attention") < text(page).index("Unfinished") < text(page).index("Completed")
    assert found.index(FAILED) < found.index(FLAWED) < found.index(RUNNING)
    assert "11 operations" in text(page)
    assert __version__ in text(page)


@pytest.mark.parametrize(
    ("operation_id", "told"),
    [
        (RUNNING, "of 1,000 rows"),
        (PASSED, "9 rows, estimate of 5 passed"),
        (FLAWED, "with errors"),
        (DOWN, "last poll failed"),
        (FAILED, "✕"),
        (CLEAN, "✓"),
    ],
)
def test_each_says_in_words_how_it_stands(shown: AppContext, operation_id: str, told: str) -> None:
    assert told in row(ask(shown, "/").text, operation_id)


def test_progress_is_drawn_only_where_it_is_known(shown: AppContext) -> None:
    page = ask(shown, "/").text
    assert "<progress" in row(page, RUNNING)
    assert "<progress" not in row(page, PASSED)
    assert "<progress" not in row(page, DOWN)


def test_filters_stay_in_the_form_and_in_links(shown: AppContext) -> None:
    page = ask(shown, f"/?status=unfinished&environment=production&id={RUNNING[:8].upper()}")
    assert '<option value="unfinished" selected>' in page.text
    assert f'value="{RUNNING[:8]}"' in page.text
    assert "1 of 11 operations match" in text(page)
    assert "None of the 11 operations matches." in text(ask(shown, "/?group=nobody"))
    assert '<option value="nobody" selected>' in ask(shown, "/?group=nobody").text


def test_pages_of_a_hundred() -> None:
    ids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(250)]
    model = Model(Config((environment(operations=ids),)), lambda request, _now: running(request.id))
    model.run(0.5)
    first, last = ask(app_context(model), "/?group=default"), ask(app_context(model), "/?group=default&page=3")
    assert sum("/operations/" in each for each in links(first)) == 100
    assert sum("/operations/" in each for each in links(last)) == 50
    assert "/?group=default&page=2" in links(first)
    assert "/?group=default&page=2" in links(last)
    assert "Page 3 of 3" in text(ask(app_context(model), "/?page=999"))


@pytest.mark.parametrize("query", ["status=sleeping", "page=0", "page=two", "page=99999999", "id=" + "0" * 37])
def test_a_bad_query_is_told_to_people_too(shown: AppContext, query: str) -> None:
    page = ask(shown, f"/?{query}")
    assert page.status_code == 400
    assert "expected" in text(page)
    assert page.headers["Content-Type"].startswith("text/html")


def test_an_operation_has_a_page_of_its_own(shown: AppContext) -> None:
    page = ask(shown, f"/operations/production/{RUNNING}")
    read = text(page)
    for told in ("nightly", "growth", "answered", "processed_rows", "/ids.txt", "2027-01-15 07:59:00 UTC"):
        assert told in read
    assert "<polyline" in page.text
    assert "-H 'X-Knock-Branch: b'" in read
    assert "$KNOCK_API_KEY" in read
    lines = [each for each in page.text.splitlines() if RUNNING in each and each.startswith("knock_bulk_operation_")]
    exposed = app_context(everything())
    whole = "".join(part.decode() for part in [ask(exposed, "/metrics").content])
    assert lines
    assert {html.unescape(each).split(" ")[0] for each in lines} <= {each.split(" ")[0] for each in whole.splitlines()}


def test_failed_items_are_counted_and_never_named(shown: AppContext) -> None:
    read = text(ask(shown, f"/operations/production/{FLAWED}"))
    assert "3 listed; their ids are neither kept nor shown 2 without a collection 1 in the collection x" in read


def test_what_ended_well_says_why_it_has_no_chart(shown: AppContext) -> None:
    assert "No chart is kept" in text(ask(shown, f"/operations/production/{CLEAN}"))


def test_without_series_of_its_own_it_says_so() -> None:
    model = everything(per_operation="none")
    assert "no series of its own" in text(ask(app_context(model), f"/operations/production/{RUNNING}"))


@pytest.mark.parametrize(
    "path", ["/operations/production/abc", f"/operations/staging/{RUNNING}", "/nothing", "/static/x"]
)
def test_what_is_not_there_is_told_in_a_page(shown: AppContext, path: str) -> None:
    page = ask(shown, path)
    assert page.status_code == 404
    assert page.headers["Content-Type"].startswith("text/html")
    assert "/" in links(page)


@pytest.mark.parametrize("path", ["/", f"/operations/production/{ODD}", "/?name=%22%3E%3Cscript%3E", "/config"])
def test_nothing_from_outside_becomes_markup(shown: AppContext, path: str) -> None:
    page = ask(shown, path)
    assert "<script>alert" not in page.text
    assert '"><script' not in page.text
    assert not re.search(r"\son\w+=|\sstyle=|<style", page.text)
    assert re.findall(r"<script[^>]*>", page.text) == re.findall(
        r'<script src="/static/page.js\?v=[0-9a-f]{12}" defer>', page.text
    )
    assert HOSTILE not in page.text


def test_an_operation_s_whole_name_is_on_its_page(shown: AppContext) -> None:
    assert HOSTILE in html.unescape(ask(shown, f"/operations/production/{ODD}").text)


def test_environments_tell_their_health_and_sources(shown: AppContext) -> None:
    read = text(ask(shown, "/"))
    for told in (
        "✓ key accepted",
        "https://lists.example/ids",
        "✕ HTTP 500",
        "branch b",
        "Last error",
    ):
        assert told in read
    assert "hunter2" not in ask(shown, "/").text


def test_a_refused_key_is_told() -> None:
    model = Model(Config((environment(),)), lambda *_: KeyRefused("HTTP 401"))
    model.run(5)
    model.tell(KeyRead("production", None))
    model.run(60)
    read = text(ask(app_context(model), "/"))
    assert "✕ key refused" in read
    assert "No operation is followed yet." in read


def test_the_configuration_is_shown_masked(shown: AppContext) -> None:
    page = ask(shown, "/config")
    assert "rate_limit: 20" in page.text
    assert "https://lists.example/ids?***" in page.text
    assert "hunter2" not in page.text
    assert "sk_test" not in page.text


@pytest.mark.parametrize("name", ["style.css", "page.js", "icon.svg"])
def test_static_files_have_their_type_and_are_kept(shown: AppContext, name: str) -> None:
    (link,) = {each for each in links(ask(shown, "/")) if f"/static/{name}" in each}
    kept = ask(shown, link)
    assert kept.headers["Content-Type"].partition(";")[0] in ("text/css", "text/javascript", "image/svg+xml")
    assert kept.headers["Cache-Control"] == "private, max-age=31536000, immutable"


@pytest.mark.parametrize("prefix", ["", "/knock"])
def test_behind_a_proxy_links_begin_with_its_path(shown: AppContext, prefix: str) -> None:
    behind = app_context(everything(), external_url="https://example.com/knock")
    page = ask(behind, f"{prefix}/")
    assert page.status_code == 200
    assert all(each.startswith(("/knock/", "#", DOCUMENTATION)) for each in links(page))
    own = next(each for each in links(page) if RUNNING in each)
    assert ask(behind, own).status_code == 200
    assert ask(behind, own.removeprefix("/knock")).status_code == 200
    assert ask(behind, "/knocker").status_code == 404


def test_pages_carry_a_policy_without_inline_script(shown: AppContext) -> None:
    headers = ask(shown, "/").headers
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
    assert "server" not in headers


def test_links_to_the_documentation_lead_to_documents(shown: AppContext) -> None:
    paths = ("/", "/config", *(f"/operations/production/{each}" for each in (FAILED, FLAWED, RUNNING)))
    empty = Model(Config((environment(),)), answered)
    empty.run(1)
    pages = [*(ask(shown, each) for each in paths), ask(app_context(empty), "/")]
    found = {each.removeprefix(DOCUMENTATION) for page in pages for each in links(page) if each.startswith("https:")}
    documents = Path(__file__).parent.parent / "docs"
    assert {"sources.md", "runbooks/KnockOperationFailed.md", "glossary.md"} <= found
    assert [each for each in found if not (documents / each).is_file()] == []


def answered(request: PollRequest, _now: Moment) -> Operation:
    return running(request.id)


def test_a_failed_operation_says_what_to_do(shown: AppContext) -> None:
    page = ask(shown, f"/operations/production/{FAILED}")
    read = text(page)
    for told in (
        "This operation failed. Knock gives no reason. About 993 of 1,000 rows were not processed.",
        "Correct the data. Then run the whole operation again",
        f"forget --environment=production --token-file=register.token --url=http://exporter {FAILED}",
        "KnockOperationFailed",
    ):
        assert told in read
    assert "knock-exporter errors" not in read, "it has no failed items"
    assert "not yet" not in read
    assert "<code>completed_at</code>" not in page.text
    assert "What to do" not in text(ask(shown, f"/operations/production/{CLEAN}"))


def test_what_stands_still_says_for_how_long_where_it_is_listed() -> None:
    model = Model(Config((environment(operations=[RUNNING]),)), answered)
    model.run(212)
    assert "no change for 3m" in row(ask(app_context(model), "/").text, RUNNING)
    assert "None of the 1 operations matches" in text(ask(app_context(model), "/?status=stalled"))
    model.run(900)
    page = ask(app_context(model), "/?status=stalled")
    assert "1 of 1 operations match" in text(page)
    assert "Needs attention" in text(page)
    assert "KnockOperationStalled" in text(ask(app_context(model), f"/operations/production/{RUNNING}"))


def test_one_that_failed_comes_before_a_page_full_of_others() -> None:
    some = [f"00000000-0000-4000-8000-{number:012d}" for number in range(121)]
    ends = {some[60]: Status.FAILED}
    model = Model(
        Config((environment(operations=some),)),
        lambda request, _now: running(request.id, status=ends.get(request.id, Status.PROCESSING)),
    )
    model.run(30)
    shown = re.findall(r'class="id">([0-9a-f-]{36})', ask(app_context(model), "/").text)
    assert (len(shown), shown[0]) == (100, some[60])


def test_the_configuration_says_where_it_is_from_and_with_which_flags() -> None:
    model = everything()
    flags = (("--web.telemetry-path", "/metrics", False), ("--config.file", "/etc/<k>.yaml", True))
    loaded = ConfigurationStatus(model.now.wall - 90, "/etc/<k>.yaml")
    context = app_context(model, configuration=lambda: loaded, flags=flags)
    read = text(ask(context, "/config"))
    assert "Loaded from /etc/<k>.yaml at" in read
    assert "1m 30s ago" in read
    assert "--web.telemetry-path /metrics (default)" in read
    assert "[]" not in read
    assert "not reloaded" not in read + text(ask(context, "/"))
    refused = replace(loaded, problem="/etc/<k>.yaml: line 7: no such key", refused_at=model.now.wall - 30)
    for path in ("/", "/config"):
        read = text(ask(app_context(model, configuration=lambda: refused), path))
        assert "✕ The configuration was not reloaded since" in read
        assert "30s ago" in read
        assert "/etc/<k>.yaml: line 7: no such key" in read


def test_the_api_tells_its_calls() -> None:
    behind = app_context(everything(), external_url="https://example.com/knock")
    for path in ("/api/v1", "/api/v1/"):
        told = ask(behind, path).json()
        assert "GET /knock/api/v1/operations/{environment}/{id}" in told["calls"]
        assert ask(behind, told["openapi"]).status_code == 200
