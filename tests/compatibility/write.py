"""Write what this version of the exporter leaves behind, for later versions to start on.

By hand, once for each version whose state file, export or settings differ from the last, into a new folder:

    PYTHONPATH=tests/support .venv/bin/python tests/compatibility/write.py
    UPDATE_GOLDEN=1 .venv/bin/pytest tests/compatibility

The first writes the state, in virtual time; the second what a start on it answers. Read that before you commit it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

from model import WALL, Model, running
from state_file import StateFile, end

import exporter
from exporter.config import ListedOperation, load
from exporter.errors import KnockError, NotFound, Reason, Unreachable
from exporter.operation import NIL_ID, Operation, Status
from exporter.store.schema import MIGRATIONS
from exporter.tracking.memberships import SourceKey, SourceKind
from exporter.tracking.messages import Created, Listed, Registration
from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.tracking.messages import PollRequest

FOLDER = Path(__file__).parent / f"{exporter.__version__}-form-{len(MIGRATIONS)}"
FILE = "/etc/knock-exporter/ids/nightly.json"
URL = "https://lists.example/operations?token=hunter2"
HOSTILE = 'say "hi" \\ or 🧀'
LONG = "g" * 129  # a label value that is replaced by `other`
HOUR = 3600.0
FIRST_ENDS, SECOND_BEGINS, SECOND_ENDS = 2 * HOUR, 2 * HOUR + 30, 2 * HOUR + 36
MISSING = NotFound("404", code=404, accepted_key=True)

IDS = (f"{number:08d}-0000-4000-8000-{number:012d}" for number in count(1))
QUEUED, FOUND_DONE, PENDING, WITH_ERRORS = islice(IDS, 4)  # listed by the configuration
CONFLICTING, FAILED, UNLISTED = islice(IDS, 3)  # by the file: the first is registered too, the last soon not listed
ODD, ODD_ENDED = islice(IDS, 2)  # by the HTTP list: a status that Knock does not document
RUNNING, SHRUNK, BLANK, FLAKY, MISSED, LOST, EXPIRING = islice(IDS, 7)  # registered
BORN, GROWN_UP = islice(IDS, 2)  # registered with what Knock's create call answered
RETIRED, RELEASED = islice(IDS, 2)  # registered; gone in the first process
LATE, UNREADABLE, CREATED, FINISHING, REMOVED = islice(IDS, 5)  # come or end in the second process
STAGED, STAGED_FAILED, ARCHIVED, ARCHIVED_DONE, ARCHIVED_RELEASED = islice(IDS, 5)  # of the other environments

SETTINGS = f"""\
environments:
  - name: production
    api_key_env: KNOCK_API_KEY
    operations:
      - {{id: {QUEUED}, group: nightly-sync, labels: {{team: growth}}}}
      - {FOUND_DONE}
      - {PENDING}
      - {{id: {WITH_ERRORS}, group: nightly-sync}}
    operations_files: [/etc/knock-exporter/ids/*.json]
    operations_http:
      - url: {URL}
  - name: staging
    api_key_env: KNOCK_API_KEY
    branch: feature
    operations: [{STAGED}, {QUEUED}]
  - name: archive # asleep: the second process runs without it
    api_key_env: KNOCK_API_KEY
    base_url: https://knock.example
labels: [team, ticket]
polling: {{not_found_after: 30m}}
retention: 1h
per_operation: all
"""


def knock(request: PollRequest, now: Moment) -> Operation | KnockError:
    """Answer as Knock would: each id has a story, told by the seconds since the start."""
    since, name = now.wall - WALL, request.id
    grown = running(name, rows_processed=int(since // 5), successes=int(since // 5), rows_estimated=2000)
    stories: dict[str, Callable[[], Operation | KnockError]] = {
        NIL_ID: lambda: MISSING,
        QUEUED: lambda: Operation(name, Status.QUEUED, inserted_at=WALL - 900),
        FOUND_DONE: lambda: done(grown, WALL - 30, rows_processed=100, successes=100),
        PENDING: lambda: Unreachable(Reason.TIMEOUT, "no answer within 10 s"),
        WITH_ERRORS: lambda: grown if since < HOUR else done(grown, WALL + HOUR, errors=3, error_items=3),
        FAILED: lambda: (
            replace(grown, status=Status.FAILED, failed_at=WALL + 1.5 * HOUR) if since > 1.5 * HOUR else grown
        ),
        ODD: lambda: replace(grown, status=Status.UNKNOWN, status_word="paused", name="two\nlines"),
        ODD_ENDED: lambda: replace(grown, status=Status.UNKNOWN, completed_at=WALL + 6000) if since > 6000 else grown,
        RUNNING: lambda: replace(grown, errors=2),
        SHRUNK: lambda: grown if since < HOUR else replace(grown, rows_processed=5),
        BLANK: lambda: Operation(name, Status.PROCESSING),
        FLAKY: lambda: grown if since < HOUR else Unreachable(Reason.CONNECT, "refused"),
        MISSED: lambda: grown if since < FIRST_ENDS - 600 else MISSING,
        LOST: lambda: grown if since < HOUR else MISSING,
        BORN: lambda: born(grown, since - 60),
        GROWN_UP: lambda: done(born(grown, since - 60), WALL + 6900) if since > 6900 else born(grown, since - 60),
        EXPIRING: lambda: done(grown, WALL + 3642) if since > 3642 else grown,
        RETIRED: lambda: done(grown, WALL),
        UNREADABLE: lambda: MISSING,
        FINISHING: lambda: done(grown, WALL + SECOND_BEGINS + 1) if since > SECOND_BEGINS + 1 else grown,
        STAGED_FAILED: lambda: replace(grown, status=Status.FAILED, failed_at=WALL + 7000) if since > 7000 else grown,
        ARCHIVED_DONE: lambda: done(grown, WALL + 7000) if since > 7000 else grown,
    }
    return stories.get(name, lambda: grown)()


def done(record: Operation, at: float, **fields: object) -> Operation:
    collections = (("", 2), ("tenants", 1)) if "error_items" in fields else ()
    ended = replace(record, status=Status.COMPLETED, completed_at=at, started_at=at - 60, collections=collections)
    return replace(ended, updated_at=at + 1, **fields)  # type: ignore[arg-type] # the callers name fields that exist


def born(grown: Operation, age: float) -> Operation:
    if age < 20:
        return Operation(grown.id, Status.QUEUED, grown.name, 0, 2000, 0, 0, inserted_at=WALL + 60)
    return replace(grown, inserted_at=WALL + 60, started_at=WALL + 80)


def begin(disk: StateFile, now: Moment, *environments: str) -> Model:
    config = load(FOLDER / "settings.yaml", {"KNOCK_API_KEY": "sk_test_compatibility"}, environments)
    model = Model(config, knock, mono=now.mono, wall_offset=now.wall - now.mono, disk=disk)
    model.tell(
        Listed("production", SourceKey(SourceKind.HTTP, URL), (ListedOperation(ODD), ListedOperation(ODD_ENDED)))
    )
    return model


def list_file(model: Model, *more: str) -> None:
    conflicting = ListedOperation(CONFLICTING, "nightly-sync", (("team", "growth"), ("ticket", "A-1")))
    model.list_file(FILE, conflicting, ListedOperation(FAILED, LONG, (("team", HOSTILE),)), *more)


def run_first(path: Path) -> None:
    now = Moment(1000, WALL)
    disk = StateFile(path, now)
    model = begin(disk, now)
    list_file(model, UNLISTED)
    model.register(Registration(ListedOperation(CONFLICTING, "tenants", (("team", "crm"),))))
    model.register(RUNNING, SHRUNK, BLANK, FLAKY, MISSED, LOST, EXPIRING, RETIRED, RELEASED, FINISHING, REMOVED)
    model.register(STAGED_FAILED, environment="staging")
    model.register(ARCHIVED, ARCHIVED_DONE, ARCHIVED_RELEASED, environment="archive")
    model.run(60)
    created = Created("users.identify", WALL + 60)
    model.register(
        Registration(ListedOperation(BORN, HOSTILE), created), Registration(ListedOperation(GROWN_UP), created)
    )
    model.release(RELEASED)
    model.release(ARCHIVED_RELEASED, environment="archive")
    list_file(model)
    model.run(FIRST_ENDS - 60)
    end(model)
    disk.close()


def run_second(path: Path) -> StateFile:
    now = Moment(70, WALL + SECOND_BEGINS)  # the machine was started again, too
    disk = StateFile(path, now)
    model = begin(disk, now, "production", "staging")
    list_file(model)
    model.run(2)
    created = Created("users.identify", WALL + SECOND_BEGINS + 1)
    model.register(
        LATE, UNREADABLE, Registration(ListedOperation(CREATED, "nightly-sync", (("ticket", "A-2"),)), created)
    )
    model.release(REMOVED)
    model.run(SECOND_ENDS - SECOND_BEGINS - 2)
    end(model)
    return disk


def main() -> None:
    FOLDER.mkdir()  # one that is there is not changed
    (FOLDER / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.db")
        run_first(path)
        disk = run_second(path)
        for ending in ("", "-wal"):
            shutil.copyfile(f"{path}{ending}", FOLDER / f"killed.db{ending}")
        disk.close()
        shutil.copyfile(path, FOLDER / "state.db")
        with (FOLDER / "export.jsonl").open("wb") as file:
            command = [sys.executable, "-m", "exporter", "state", "export", f"--storage.path={path}"]
            subprocess.run(command, stdout=file, check=True)


if __name__ == "__main__":
    main()
