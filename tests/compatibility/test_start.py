"""What earlier versions left behind starts as it did: nothing is lost, counted twice or asked again.

Each start is on a copy, 20 s after the last commit by the wall clock, on a machine that has just been started.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from click.testing import CliRunner
from golden_text import compare, normalised
from model import Model
from registration_service import HEADERS, TOKENS
from shown import app_context
from state_file import StateFile

from exporter.cli import main
from exporter.config import load
from exporter.errors import KnockError, Reason, Unreachable
from exporter.metrics.exposition import Format
from exporter.operation import NIL_ID, Operation, parse_operation
from exporter.store.lock import Patience
from exporter.store.move import take_in
from exporter.tracking.transitions import Moment
from exporter.web.app import make_app
from exporter.web.registration import RegistrationService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result
    from programs import Starter

    from exporter.simulator import Simulator
    from exporter.tracking.messages import PollRequest, PutRun, Register, Release
    from exporter.web.context import AppContext

HERE = Path(__file__).parent
VERSIONS = sorted(each.parent.name for each in HERE.glob("*/settings.yaml"))
AWAKE = ("production", "staging")  # `archive` sleeps
DOWN_SECONDS, MONO = 20.0, 50.0
SHOWN_SECONDS = 3.0  # after the start: all is recalled, and what was due is asked for
HOUR = 3600.0
FINAL = ("completed", "failed")
ENDED = (*FINAL, "lost")


def lines(version: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / version / "export.jsonl").read_text(encoding="utf-8").splitlines()]


def details(version: str) -> dict[tuple[str, str], Any]:
    """Return what the API said of each operation, by environment and id."""
    answers = json.loads((HERE / version / "api.json").read_text(encoding="utf-8"))
    return {place(each): each for each in answers.values() if "record" in each}


def place(operation: dict[str, Any]) -> tuple[str, str]:
    return operation["environment"], operation["id"]


def start_of(version: str) -> Moment:
    return Moment(MONO, lines(version)[0]["wall"] + DOWN_SECONDS)


def put_state(version: str, path: Path) -> None:
    shutil.copyfile(HERE / version / "state.db", path)


def put_killed(version: str, path: Path) -> None:
    for ending in ("", "-wal"):
        shutil.copyfile(HERE / version / f"killed.db{ending}", f"{path}{ending}")


def put_export(version: str, path: Path) -> None:
    """Import it, at the moment of the export."""
    now = start_of(version)
    now = Moment(now.mono - DOWN_SECONDS, now.wall - DOWN_SECONDS)
    patience = Patience(0, lambda: now, lambda _seconds: None)
    with (HERE / version / "export.jsonl").open("rb") as file:
        take_in(path, file, lambda: now, patience, lambda *row: pytest.fail(str(row)))


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=[put_state, put_killed, put_export])
def state(request: pytest.FixtureRequest, version: str, tmp_path: Path) -> Path:
    """Return the path of a state file, as each of the three ways makes it."""
    path = tmp_path / "state.db"
    request.param(version, path)
    return path


class Restart:
    """Starts trackers on a state, in virtual time."""

    def __init__(self, version: str, state: Path) -> None:
        self.version, self.folder = version, HERE / version
        self.known = [each for each in lines(version) if each.get("id") and each["environment"] in AWAKE]
        self._state = state
        self._disks: list[StateFile] = []

    def __call__(self, mode: str = "all", environments: tuple[str, ...] = AWAKE, **knock: Any) -> Model:
        """Start the exporter; Knock does not answer unless `knock` says so."""
        settings = self._state.with_name("settings.yaml")
        text = (self.folder / "settings.yaml").read_text(encoding="utf-8")
        settings.write_text(text.replace("per_operation: all", f"per_operation: {mode}"), encoding="utf-8")
        config = load(settings, {"KNOCK_API_KEY": "sk_test_compatibility"}, environments)
        now = start_of(self.version)
        self._disks.append(StateFile(self._state, now))
        silent = {"knock": unreachable, "latency": lambda _request: float("inf")}
        wall_offset = now.wall - now.mono
        return Model(config, **(silent | knock), mono=now.mono, wall_offset=wall_offset, disk=self._disks[-1])

    def close(self) -> None:
        for disk in self._disks:
            disk.close()
        assert not list(self._state.parent.glob("*.corrupt-*"))


def unreachable(_request: PollRequest, _now: Moment) -> KnockError:
    return Unreachable(Reason.CONNECT, "refused")


@pytest.fixture
def restart(version: str, state: Path) -> Iterator[Restart]:
    made = Restart(version, state)
    yield made
    made.close()


def answers(shown: AppContext, *requests: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """Send requests one after the other, each a method, a path and what else httpx takes; return what comes back."""

    async def send() -> dict[str, Any]:
        transport = httpx.ASGITransport(make_app(shown))
        async with httpx.AsyncClient(transport=transport, base_url="http://exporter") as client:
            return {
                f"{method} {path}": (await client.request(method, path, **more)).json()
                for method, path, more in requests
            }

    return asyncio.run(send())


def service_of(model: Model) -> RegistrationService:
    """Return the way to a tracker, which answers at once."""

    def deliver(message: Register | Release | PutRun) -> None:
        model.tell(message)
        model.run(1)

    return RegistrationService(
        deliver,
        config=lambda: model.config,
        tokens=lambda: TOKENS,
        ending=lambda: False,
        activity=model.activity,
        monotonic=lambda: model.mono,
    )


def shown_by(model: Model, form: Format = Format.TEXT) -> str:
    model.run(max(0.0, MONO + SHOWN_SECONDS - model.mono))
    return normalised(model.metrics(form))


def difference(text: str, other: str) -> str:
    """Return which lines of the other text are not in the one, and which lines it has instead."""
    before, after = other.splitlines(), text.splitlines()
    gone, new = set(before) - set(after), set(after) - set(before)
    return "".join([f"-{each}\n" for each in before if each in gone] + [f"+{each}\n" for each in after if each in new])


def test_metrics_is_as_it_was(restart: Restart) -> None:
    model = restart()
    text = shown_by(model)
    compare(text, restart.folder / "metrics.txt")
    compare(difference(shown_by(model, Format.OPENMETRICS), text), restart.folder / "openmetrics.diff")


@pytest.mark.parametrize("mode", ["active", "none"])
def test_metrics_of_other_modes_is_as_it_was(restart: Restart, mode: str) -> None:
    model, whole = restart(mode), (restart.folder / "metrics.txt").read_text(encoding="utf-8")
    text = shown_by(model)
    compare(difference(text, whole), restart.folder / f"{mode}.diff")
    compare(difference(shown_by(model, Format.OPENMETRICS), text), restart.folder / "openmetrics.diff")


def test_an_environment_that_slept_wakes_as_it_was(restart: Restart) -> None:
    whole = (restart.folder / "metrics.txt").read_text(encoding="utf-8")
    compare(difference(shown_by(restart(environments=())), whole), restart.folder / "woken.diff")


def test_the_api_answers_as_it_did(restart: Restart) -> None:
    model = restart()
    model.run(SHOWN_SECONDS)
    paths = ["environments", "operations?limit=1000"]
    paths += ["/".join(("operations", *place(each))) for each in restart.known if each["kind"] == "operation"]
    given = answers(app_context(model), *(("GET", f"/api/v1/{path}", {}) for path in paths))
    compare(json.dumps(given, indent=1, ensure_ascii=False), restart.folder / "api.json")


def test_what_was_registered_listed_or_dropped_is_known(restart: Restart) -> None:
    model, requests = restart(), []
    for environment in AWAKE:
        path = f"/api/v1/operations/{environment}"
        ids = [each["id"] for each in restart.known if each["environment"] == environment]
        requests.append(("POST", path, {"headers": HEADERS, "content": "\n".join(ids)}))
        requests += [("DELETE", f"{path}/{each}", {"headers": HEADERS}) for each in ids]
    given = answers(app_context(model, service=service_of(model)), *requests)
    compare(json.dumps(given, indent=1, ensure_ascii=False), restart.folder / "registrations.json")


def test_what_has_ended_is_not_asked_again_and_growth_is_counted_once(restart: Restart) -> None:
    unfinished = {at: each for at, each in details(restart.version).items() if each["status"] not in ENDED}
    records = {at: each["record"] for at, each in unfinished.items() if each["record"]}
    marks, growth = {place(each): each.get("mark_processed") for each in restart.known}, 0
    for at, record in records.items():
        if marks[at] is not None:
            record["processed_rows"] += 10
            growth += max(0, record["processed_rows"] - marks[at])

    asked: set[tuple[str, str]] = set()

    def knock(request: PollRequest, now: Moment) -> Operation | KnockError:
        record = records.get((request.environment, request.id))
        return parse_operation(record, request.id) if record else unreachable(request, now)

    def latency(request: PollRequest) -> float:
        before = len(asked)
        asked.add((request.environment, request.id))
        return 0.05 if len(asked) > before else float("inf")  # one answer each is enough

    model = restart(knock=knock, latency=latency)
    model.run(1.1 * HOUR)
    assert {at for at in asked if NIL_ID not in at} == set(unfinished)
    assert model.value("knock_bulk_operations_rows_processed_total") == growth
    assert model.value("knock_bulk_operations_finished_total") == 0


def test_retention_goes_on(restart: Restart) -> None:
    model, known = restart(), details(restart.version)
    stays = {
        at
        for at, each in known.items()
        if each["status"] not in FINAL or any(source["kind"] == "config" for source in each["sources"])
    }
    went_wrong = {at for at, each in known.items() if each["status"] == "failed" or each["with_errors"]}
    assert went_wrong - stays
    for hours, kept in ((1.1, stays | went_wrong), (6.0, stays)):
        model.run(hours * HOUR)
        (listed,) = answers(app_context(model), ("GET", "/api/v1/operations?limit=1000", {})).values()
        assert set(map(place, listed["operations"])) == kept


def run(*args: str, text: str = "") -> Result:
    result = CliRunner().invoke(main, ["state", *args], input=text)
    assert result.exit_code == 0, result.output
    return result


def documents(export: str) -> list[dict[str, Any]]:
    """Read an export, without what an import changes: that an environment sleeps, and that `other` is a value."""
    found = [json.loads(line) for line in export.splitlines()]
    for each in found:
        if each.get("kind") == "environment":
            each.pop("asleep_since", None)
            each |= {label: [value for value in each[label] if value != "other"] for label in ("groups", "names")}
    return found


def test_an_export_of_an_import_is_the_same(version: str, tmp_path: Path) -> None:
    path, text = tmp_path / "new.db", (HERE / version / "export.jsonl").read_text(encoding="utf-8")
    run("import", f"--storage.path={path}", text=text)
    exported = run("export", f"--storage.path={path}").stdout
    assert documents(exported)[1:] == documents(text)[1:]  # the first line tells when


def test_a_state_is_sound_and_exports_what_it_did(version: str, state: Path) -> None:
    run("check", f"--storage.path={state}")
    exported = run("export", f"--storage.path={state}").stdout
    assert documents(exported) == documents((HERE / version / "export.jsonl").read_text(encoding="utf-8"))


def test_the_last_changes_before_the_kill_are_in_the_wal_alone(version: str, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    shutil.copyfile(HERE / version / "killed.db", path)
    exported = documents(run("export", f"--storage.path={path}").stdout)
    assert exported[1:] != documents((HERE / version / "export.jsonl").read_text(encoding="utf-8"))[1:]


@pytest.mark.e2e
def test_the_program_starts_on_what_a_kill_left(version: str, start: Starter, knock: Simulator) -> None:
    put_killed(version, start.keep_state())
    exporter = start(knock.url)
    followed = [each for (environment, _), each in details(version).items() if environment == "production"]
    expected = {
        each["id"]: each["processed_rows"]
        for each in followed
        if each["status"] not in ENDED
        and each["processed_rows"] is not None
        and all(source["kind"] != "config" for source in each["sources"])
    }
    values = exporter.values("knock_bulk_operation_rows_processed")
    assert expected
    assert expected.items() <= values.items()
