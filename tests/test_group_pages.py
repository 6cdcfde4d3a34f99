"""What the status page says of groups, and the page that each has."""

from __future__ import annotations

import html
import re
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from model import WALL, Disk, Model, environment, ids, running
from shown import app_context, ask

from exporter.config import Config, ListedOperation
from exporter.config.settings import GroupSettings
from exporter.operation import Status
from exporter.tracking.group_facts import group_facts
from exporter.tracking.messages import Registration
from exporter.tracking.runs import RunDeadline

if TYPE_CHECKING:
    import httpx

    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Moment

A, B, C, D = ids(4)
HOUR = 3600.0
NIGHTLY = "/groups/production/nightly"
HOSTILE = (
    "\"><script>alert('1')</script>",
    "a/../b %2F?x=1#y&z",
    "it's $(id) `id` \\",
    "-q",
    "קבוצה مجموعة",
    "G" * 128,
)


class Knock:
    """Knock as the tests have it: how each operation stands; one that is not named is processed."""

    def __init__(self) -> None:
        self.states: dict[str, tuple[Status, int]] = {}

    def answer(self, request: PollRequest, now: Moment) -> Any:
        status, errors = self.states.get(request.id, (Status.PROCESSING, 0))
        done = 1000 if status is Status.COMPLETED else min(int(now.mono - 1000), 900)
        fields = {"rows_estimated": 1000, "rows_processed": done, "errors": errors, "inserted_at": WALL + 1}
        return replace(running(request.id, **fields), status=status)


def house(knock: Knock, **settings: Any) -> Model:
    """Return a tracker with two environments."""
    watched = environment(**({"retention": 60.0} | settings)), environment("staging")
    model = Model(Config(watched), knock.answer, disk=Disk())
    model.run(1)
    return model


def hand_over(model: Model, group: str, *operation_ids: str, run: str | None = None, place: str = "production") -> None:
    model.register(*[Registration(ListedOperation(each, group, run=run)) for each in operation_ids], environment=place)


def nightly(knock: Knock) -> Model:
    """Return a tracker that follows a run: of five operations two have ended well, one with errors, and one failed."""
    model = house(knock, groups=(GroupSettings("nightly", every=26 * HOUR, deadline=2 * HOUR),))
    model.put_run("nightly", "n1", operations=5)
    knock.states |= {A: (Status.COMPLETED, 0), B: (Status.COMPLETED, 7), C: (Status.FAILED, 2)}
    hand_over(model, "nightly", A, B, C, D, run="n1")
    model.run(30)
    return model


def shown(model: Model, path: str = "/", **settings: Any) -> httpx.Response:
    answer = ask(app_context(model, **settings), path)
    assert answer.status_code == 200
    return answer


def read(page: str) -> str:
    words = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
    return re.sub(r" (?=[,.:;)])|(?<=\() ", "", words)


def rows(page: str) -> dict[str, str]:
    """Return the line of each group, by its name, in their order."""
    found = re.findall(r'<tr role="row" id="group-[^"]*">.*?</tr>', page, re.DOTALL)
    return {html.unescape(re.findall(r'class="name"[^>]*>([^<]*)<', each)[0]): each for each in found}


def section(page: str, name: str) -> str:
    return next(each for each in page.split("<section ") if each.startswith(f'aria-labelledby="{name}"'))


# The status page.


def test_the_page_begins_with_groups() -> None:
    page = shown(nightly(Knock())).text
    assert page.index('id="groups"') < page.index('id="operations"') < page.index('id="environments"')
    (line,) = rows(page).values()
    told = read(line)
    for each in ("run n1, opened 30s ago", "▶ running", "60% of operations", "3 of 5", "1 failed", "in 1h 59m"):
        assert each in told
    assert (
        '<progress class="running" max="1" value="0.6000" aria-label="Progress of the group nightly in production">'
        in line
    )
    assert 'href="/?environment=production&amp;group=nightly&amp;status=failed"' in line
    assert 'href="/?environment=production&amp;group=nightly&amp;status=with_errors"' in line
    assert f'href="{NIGHTLY}"' in line


def test_the_page_and_the_api_show_the_same_numbers() -> None:
    model = nightly(Knock())
    (it,) = group_facts(model.views[-1].snapshot, model.now)
    told = ask(app_context(model), "/api/v1/groups/production/nightly").json()
    line = read(rows(shown(model).text)["nightly"])
    assert told["progress"] == it.progress == 0.6
    assert told["time_left_seconds"] == it.time_left == pytest.approx(20)
    assert "20s" in line
    assert f"{sum(told['run']['operations'].values()):,}: 1 processing, 2 completed, 1 failed" in read(
        shown(model, NIGHTLY).text
    )


def test_what_needs_attention_comes_first() -> None:
    knock = Knock()
    seldom = GroupSettings("seldom", every=60.0)
    model = house(knock, groups=(seldom, GroupSettings("idle")), retention=HOUR)
    model.put_run("late", "1", operations=1, deadline=RunDeadline(seconds=60.0))
    model.put_run("incomplete", "1", operations=2, closed=True)
    model.put_run("done", "1", closed=True)
    knock.states |= {A: (Status.FAILED, 0), B: (Status.COMPLETED, 0)}
    hand_over(model, "failed", A)
    hand_over(model, "default", C)
    hand_over(model, "running", D, run="1", place="staging")
    model.run(700)
    lines = rows(shown(model).text)
    words = {name: read(line) for name, line in lines.items()}
    assert [*lines] == ["seldom", "late", "incomplete", "failed", "default", "running", "done", "idle"]
    for name, word in {"seldom": "✕ did not run", "failed": "✕ done with failures", "done": "✓ done"}.items():
        assert word in words[name]
    assert "passed" in words["late"]
    assert '<span class="bad">passed' in lines["late"]
    assert '<span class="bad">late</span>' in lines["late"]
    assert '<span class="quiet">none</span>' in lines["running"]


@pytest.mark.parametrize("group", ["default", "nightly"])
def test_without_groups_of_ones_own_there_is_no_table_of_them(group: str) -> None:
    model = house(Knock())
    hand_over(model, group, A)
    model.run(5)
    assert ('<h2 id="groups">' in shown(model).text) is (group != "default")


def test_many_groups_are_folded() -> None:
    model = house(Knock())
    for number in range(30):
        model.put_run(f"group {number:02}", "1")
    model.run(1)
    page = shown(model).text
    assert len(rows(page)) == 30
    assert "10 more groups" in read(page)
    assert page.index("group 19") < page.index("<details") < page.index("group 20")


def test_what_failed_and_was_dropped_is_handled() -> None:
    knock = Knock()
    model = nightly(knock)
    for each in (B, C):
        model.release(each)
    model.run(1)
    told = read(rows(shown(model).text)["nightly"])
    assert "1 failed, handled" in told
    page = read(section(shown(model, NIGHTLY).text, "attention"))
    assert "✓ Nothing: 1 failed, 0 lost and 2 with errors in this run, all handled." in page


def test_a_run_stays_in_the_form_and_in_links() -> None:
    model = nightly(Knock())
    page = shown(model, "/?environment=production&run=n1&status=failed").text
    assert '<input name="run" value="n1"' in page
    assert 'href="/?environment=production&amp;run=n1&amp;status=completed"' in page
    assert "1 of 4 operations match" in read(page)
    assert '<a class="name" href="/?environment=production">' in page
    assert '<input name="run"' not in shown(model).text


# The page of a group.


def test_a_group_has_a_page() -> None:
    page = shown(nightly(Knock()), NIGHTLY).text
    told = read(page)
    for each in (
        "▶ running 60% of operations 3 of 5 operations finished",
        "✕ 1 failed",
        "✕ 2 with errors",
        "Opened 2027-01-15 08:00:01 UTC (30s ago)",
        "Closed not yet",
        "2027-01-15 10:00:01 UTC (in 1h 59m)",
        "Operations expected 5",
        "Runs at least every 1d 2h",
    ):
        assert each in told
    assert "<title>running: nightly " in page
    assert D in section(page, "slowest")
    listed = section(page, "listed")
    assert 0 < listed.index(C) < listed.index(B)
    assert A not in page


def test_the_progress_of_a_run_is_drawn() -> None:
    knock = Knock()
    model = nightly(knock)
    knock.states[D] = (Status.COMPLETED, 0)
    model.run(60)
    page = section(shown(model, NIGHTLY).text, "chart")
    assert page.count("<svg") == 2
    assert "to 4 operations finished, from 0 to 1 failed or lost" in page
    assert "the number that the job declared" in page
    model.put_run("nightly", "n2")
    model.run(1)
    assert "The chart appears after two changes" in shown(model, NIGHTLY).text


def test_a_group_without_a_run_says_so() -> None:
    model = house(Knock())
    hand_over(model, "nightly", A)
    model.run(5)
    told = read(shown(model, NIGHTLY).text)
    assert "No job has opened a run" in told
    assert "There is a chart only if a job has opened a run" in told


def test_the_longest_and_the_slowest_are_shown_once_each() -> None:
    some = ids(30, seed=3)
    begun = {each: WALL - 100 * number for number, each in enumerate(some)}
    speeds = {each: 1 + (number * 7) % 30 for number, each in enumerate(some)}

    def answer(request: PollRequest, now: Moment) -> Any:
        rows = int((now.mono - 1000) * speeds.get(request.id, 1))
        return running(request.id, rows_processed=rows, rows_estimated=10**6, started_at=begun.get(request.id))

    model = Model(Config((environment(),)), answer)
    hand_over(model, "nightly", *some)
    model.run(120)
    found = re.findall(r'class="id">([0-9a-f-]{36})', section(shown(model, NIGHTLY).text, "slowest"))
    expected = {*some[-5:], *sorted(some, key=lambda each: speeds[each])[:5]}
    assert found == sorted(expected, key=lambda each: begun[each])


@pytest.mark.parametrize(
    ("declared", "run", "seconds", "told", "runbook"),
    [
        (
            GroupSettings("nightly", every=60.0),
            {},
            90,
            "It did not run: the last run began 1m 30s ago",
            "KnockGroupDidNotRun",
        ),
        (
            GroupSettings("nightly", deadline=60.0),
            {},
            90,
            "It is late: its deadline passed 30s ago",
            "KnockGroupMissedDeadline",
        ),
        (
            GroupSettings("nightly"),
            {"operations": 1234, "closed": True},
            700,
            "1,234 operations were not created",
            "KnockGroupIncomplete",
        ),
    ],
)
def test_it_says_why_it_needs_attention(
    declared: GroupSettings, run: dict[str, Any], seconds: float, told: str, runbook: str
) -> None:
    model = house(Knock(), groups=(declared,))
    model.put_run("nightly", "n1", **run)
    model.run(seconds)
    told_at = section(shown(model, NIGHTLY).text, "attention")
    assert told in read(told_at)
    assert f"What to do: {runbook}" in read(told_at)
    assert f"/docs/runbooks/{runbook}.md" in told_at
    gives_up = "close the run with the operations that it has"
    assert (gives_up in shown(model, NIGHTLY).text) is ("operations" in run)


@pytest.mark.parametrize("name", HOSTILE)
def test_commands_are_as_a_shell_takes_them(name: str) -> None:
    model = house(Knock())
    model.put_run(name, "n1")
    model.run(1)
    page = shown(model, f"/groups/production/{quote(name, safe='')}", external_url="https://example.com/knock").text
    found = [shlex.split(html.unescape(each)) for each in re.findall(r"<pre[^>]*>(.*?)</pre>", page)]
    assert [each[1] for each in found] == ["watch", "list", "errors", "forget", "group"]
    assert all(each[0] == "knock-exporter" and "--url=https://example.com/knock" in each for each in found)
    assert all(f"--group={name}" in each for each in found[:-1])
    assert found[-1][-3:] == ["--run=n1", "--", name]
    assert "<script>alert" not in page


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_leads_to_its_page(name: str) -> None:
    model = house(Knock())
    hand_over(model, name, A)
    model.run(5)
    overview = shown(model).text
    assert "<script>alert" not in overview
    (link,) = (html.unescape(each) for each in re.findall(r'class="name" href="(/groups/[^"]*)"', overview))
    page = shown(model, link).text
    assert html.unescape(re.findall(r"<h1[^>]*>(.*?)</h1>", page)[0]) == name
    assert f'href="{html.escape(link)}"' in shown(model, f"/operations/production/{A}").text


@pytest.mark.parametrize(
    "path", ["/groups/production/weekly", "/groups/nowhere/nightly", "/groups/production", "/groups"]
)
def test_what_is_not_there_is_told_in_a_page(path: str) -> None:
    page = ask(app_context(nightly(Knock())), path)
    assert page.status_code == 404
    assert page.headers["Content-Type"].startswith("text/html")


def test_whatever_lives_in_the_page_can_be_found_again_after_a_refresh() -> None:
    page = shown(nightly(Knock()), NIGHTLY).text
    names = re.findall(r'\sid="([^"]*)"', page)
    assert len(names) == len(set(names))
    assert re.findall(r'data-live="([^"]*)"', page) == ["group", "made"]
