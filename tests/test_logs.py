"""Log lines as they stand on standard error."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import threading
from errno import ENOSPC
from typing import TYPE_CHECKING

import pytest
import structlog
from chaos import answering, http, serving
from programs import until
from schedule import Scheduler

from exporter.config.settings import HttpSource
from exporter.logs import FLUSH_SECONDS, QUEUE_LINES, set_up
from exporter.sources.http import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from timing import InTime

KEY = "sk_test_0123456789"
FORMS = ("logfmt", "json")
LOGFMT = re.compile(r'(?:[a-z_]+=(?:"(?:[^"\\]|\\.)*"|[^" ]*)(?: |$))+')


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def said(form: str, say: Callable[[], object], level: str = "info") -> list[str]:
    """Return the lines that something leaves on standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        flush = set_up(level, form)
        say()
        assert flush()
    return stream.getvalue().splitlines()


def log() -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger


def broken(error: Exception) -> None:
    raise error


def fail(message: str) -> None:
    try:
        broken(ValueError(message))
    except ValueError:
        log().exception("it failed", thread="tracker")


def test_a_line_of_logfmt() -> None:
    (line,) = said("logfmt", lambda: log().info("it says", environment="production", up=True, much=1.5, of=None))
    assert re.fullmatch(
        r'ts=20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z level=info event="it says" '
        r"environment=production up=true much=1.5 of=",
        line,
    )


def test_a_line_of_json() -> None:
    (line,) = said("json", lambda: log().warning("it says", environment="production", up=True, much=1.5, of=None))
    found = json.loads(line)
    assert found.pop("ts").endswith("Z")
    assert found == {
        "level": "warning",
        "event": "it says",
        "environment": "production",
        "up": True,
        "much": 1.5,
        "of": None,
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text", ["", 'a "quoted" \\ word', "two\nlines", "tab\tand = sign", "\x00\x1b[31m", "ünï", f"{KEY}\\", f'{KEY}"x"']
)
def test_each_line_stays_one_that_can_be_read(form: str, text: str) -> None:
    (line,) = said(form, lambda: log().info("it says", error=text))
    assert json.loads(line)["event"] == "it says" if form == "json" else LOGFMT.fullmatch(line)


@pytest.mark.parametrize("form", FORMS)
def test_no_key_is_written_wherever_it_hides(form: str) -> None:
    def say() -> None:
        log().info(f"with {KEY}", error=f"Bearer {KEY}", several=[KEY, {"a": KEY}], of=ValueError(KEY))
        log().info("bytes", body=KEY.encode())
        fail(f"no {KEY}")
        logging.getLogger("foreign").warning("%s and %s", KEY, {"key": KEY})
        try:
            broken(OSError(KEY))
        except OSError:
            logging.getLogger("foreign").exception("foreign %s", KEY)

    lines = said(form, say)
    assert len(lines) == 5
    assert not any(KEY.removeprefix("sk_") in line for line in lines)
    assert sum("sk_***" in line for line in lines) == 5


@pytest.mark.parametrize("form", FORMS)
def test_a_traceback_is_part_of_its_line(form: str) -> None:
    (line,) = said(form, lambda: fail("for a reason"))
    assert "ValueError: for a reason" in line
    assert "level=error" in line or json.loads(line)["level"] == "error"


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_only_what_matters_enough_is_written(level: str, count: int) -> None:
    def say() -> None:
        for each in (log().debug, log().info, log().warning, log().error):
            each("ours")

    def foreign() -> None:
        logger = logging.getLogger("foreign")
        for each in (logger.debug, logger.info, logger.warning, logger.error):
            each("theirs")

    assert len(said("logfmt", say, level)) == count
    assert len(said("logfmt", foreign, level)) == count


def test_libraries_that_chatter_are_quiet_but_for_debug() -> None:
    def chatter() -> None:
        for name in ("urllib3.connectionpool", "uvicorn.error"):
            logging.getLogger(name).warning("connection dropped")

    assert said("logfmt", chatter) == []
    assert len(said("logfmt", chatter, "debug")) == 2


def test_a_request_is_told_without_its_query_which_may_be_a_secret() -> None:
    with serving(answering(http("[]", 200, "Content-Type: application/json"))) as server:
        lines = said("logfmt", lambda: fetch(HttpSource(f"{server.url}/ids?key=hunter2"), ()), "debug")
    assert any("/ids" in line and " 200 " in line for line in lines)
    assert "hunter2" not in "".join(lines)


def test_every_error_of_asyncio_is_told() -> None:
    def say() -> None:
        for number in range(3):
            logging.getLogger("asyncio").error("trouble %s", number)

    assert len(said("logfmt", say)) == 3


def test_the_bookkeeping_of_schedule_is_not_told() -> None:
    assert said("logfmt", lambda: Scheduler().clear(), "debug") == []


class Stuck(io.StringIO):
    """A terminal that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        self.go.wait(60)
        return super().write(text)


def test_a_stuck_terminal_holds_up_neither_the_logger_nor_the_end(in_time: InTime) -> None:
    with contextlib.redirect_stderr(Stuck()) as stream:
        flush = set_up("info", "logfmt")
        logger = log()
        for number in range(QUEUE_LINES + 500):
            logger.info("line", number=number)  # this would block for ever
        with in_time(FLUSH_SECONDS + 1):
            assert not flush()
        stream.go.set()
        until(lambda: all(thread.name != "log-flush" for thread in threading.enumerate()), "the rest is written")
    assert QUEUE_LINES <= len(stream.getvalue().splitlines()) <= QUEUE_LINES + 2  # the others were dropped


class Full(io.StringIO):
    """A disk that is full when it is written to for the first time."""

    tried = False

    def write(self, text: str) -> int:
        if not self.tried:
            self.tried = True
            raise OSError(ENOSPC, "No space left on device")
        return super().write(text)


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_costs_its_lines_and_shows_no_key(form: str) -> None:
    with contextlib.redirect_stderr(Full()) as stream:
        flush = set_up("info", form)
        log().info("lost", error=KEY)
        log().info("kept")
        assert flush()
    assert KEY not in stream.getvalue()
    (line,) = stream.getvalue().splitlines()
    assert "kept" in line


def test_flushing_writes_what_is_left() -> None:
    def say() -> None:
        for number in range(2000):
            log().info("line", number=number)

    assert len(said("logfmt", say)) == 2000
