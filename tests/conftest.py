"""What holds for every test, and fixtures of those that need real servers or a browser."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import settings
from programs import COMMAND, Starter
from timing import InTime

from exporter.simulator import Simulator, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _pytest.terminal import TerminalReporter
    from api_server import ApiServer
    from browser import Visits
    from fake_exporter import FakeExporter
    from playwright.sync_api import Browser
    from recorder import Recorder
    from registration_service import FakeService
    from trustme import CA

    from exporter.web.context import AppContext


# A run draws what the last one drew: a new find must not fail a change that has nothing to do with it.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None)
settings.register_profile("few", settings.get_profile("repeatable"), max_examples=20)
settings.load_profile("repeatable")


# The garbage collector looks through what the collection of tests made neither while it is made, nor after, nor in each
# test: that was a twentieth of the CPU seconds of all.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Show what tests measured (`record_property`): in a good run too, and from processes side by side."""
    told = [each for report in terminalreporter.getreports("passed") for each in report.user_properties]
    if told:
        terminalreporter.section("measured")
    for name, value in told:
        terminalreporter.line(f"{name}: {value}")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Make a folder that every user of the machine can enter, other than tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(autouse=True)
def logs_as_they_are_at_first() -> Iterator[None]:
    """Undo what a command settles about logs; else the next test in this process would lack lines."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def in_time(request: pytest.FixtureRequest) -> InTime:
    return InTime(alone=request.node.get_closest_marker("alone") is not None)


@pytest.fixture
def state_path(tmp_path: Path) -> Path:
    """Where a state file may be; none is there yet."""
    return tmp_path / "state.db"


@pytest.fixture
def knock() -> Iterator[Simulator]:
    with Simulator(world=World(seed=1), rate_limits=False) as simulator:
        yield simulator


@pytest.fixture
def service() -> FakeService:
    from registration_service import FakeService  # noqa: PLC0415 - others start without what the web needs

    return FakeService()


@pytest.fixture(scope="module")
def shown() -> AppContext:
    """Return pages of everything that an operation can be."""
    from shown import app_context, everything  # noqa: PLC0415 - the same

    return app_context(everything())


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    from registration_service import TOKEN  # noqa: PLC0415 - the same

    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    from recorder import Recorder  # noqa: PLC0415 - the same

    with Recorder().running() as running:
        yield running


@pytest.fixture
def api_server() -> Iterator[ApiServer]:
    from api_server import ApiServer  # noqa: PLC0415 - the same

    with ApiServer().running() as running:
        yield running


@pytest.fixture
def fake() -> Iterator[FakeExporter]:
    from fake_exporter import FakeExporter  # noqa: PLC0415 - the same

    with FakeExporter().running() as running:
        yield running


@pytest.fixture(scope="session")
def authority() -> CA:
    from trustme import CA  # noqa: PLC0415 - the same

    return CA()


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path, COMMAND if request.node.get_closest_marker("command") else ())
    yield starter
    starter.end()


@pytest.fixture(scope="module")  # not longer: while it runs, tests elsewhere could not run an event loop
def browser() -> Iterator[Browser]:
    import browser as browsers  # noqa: PLC0415 - other tests start without Playwright

    with browsers.running() as found:
        yield found


@pytest.fixture(scope="module")
def visits(browser: Browser) -> Iterator[Visits]:
    from browser import Visits  # noqa: PLC0415 - the same

    found = Visits(browser)
    yield found
    found.close()


@pytest.fixture
def visit(visits: Visits) -> Iterator[Visits]:
    yield visits
    problems = [*visits.problems]
    visits.leave()
    assert problems == []
