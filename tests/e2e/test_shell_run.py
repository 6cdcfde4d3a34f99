"""The commands of the shell, one after the other, with an exporter and a Knock: from a run's opening to its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from programs import KEY, Hands, until

from exporter.cli import main
from exporter.simulator import Simulator, World

if TYPE_CHECKING:
    from programs import Exporter, Starter

pytestmark = pytest.mark.e2e


def run_of(exporter: Exporter) -> dict[str, Any]:
    found: dict[str, Any] = exporter.get("/api/v1/groups/production/nightly").json()["run"]
    return found


def test_a_run_from_its_opening_to_its_end(start: Starter) -> None:
    token = start.use_token()
    start.keep_state()
    with Simulator(world=World(1, clock=Hands().clock), rate_limits=False) as knock:
        exporter = start(knock.url, polling={"processing": "200ms", "queued": "200ms"})
        flags = {"URL": exporter.url, "ENVIRONMENT": "production", "TOKEN_FILE": str(token)}
        environ = {f"KNOCK_EXPORTER_{name}": value for name, value in flags.items()}
        environ |= {"KNOCK_API_KEY": KEY, "KNOCK_BASE_URL": knock.url}

        def shell(*arguments: str, stdin: str = "") -> Result:
            return CliRunner().invoke(main, arguments, env=environ, input=stdin)

        run = shell("group", "open", "nightly", "--operations=3", "--deadline=3h").stdout.strip()
        clean, failed, with_errors = made = [knock.world.create() for _ in range(3)]
        answers = "".join(json.dumps(knock.world.read(each)) for each in made[1:])
        assert shell("register", "-", clean, "--group=nightly", f"--run={run}", stdin=answers).exit_code == 0
        assert shell("group", "close", "nightly").stdout == f"{run} running\n"
        assert shell("group", "open", "nightly", "--run=a b").exit_code == 2
        assert {*shell("list", f"--run={run}", "-o", "ids").stdout.split()} == {*made}

        knock.world.put({"id": clean, "status": "completed"})
        knock.world.put({"id": failed, "status": "failed", "processed_rows": 7, "estimated_total_rows": 10})
        items = [{"id": "ann", "collection": None}]
        knock.world.put({"id": with_errors, "status": "completed", "error_count": 1, "error_items": items})
        until(lambda: run_of(exporter)["finished_at"], "finished")
        assert shell("watch", "--group=nightly", f"--run={run}").exit_code == 1
        [row] = [line.split() for line in shell("group", "list").stdout.splitlines()[1:]]
        assert row[:2] == ["production", "nightly"]
        assert ("3/3" in row, row[-1]) == (True, run)

        told = shell("errors", "--group=nightly", f"--run={run}", "-o", "ids")
        assert (told.exit_code, told.stdout) == (1, "ann\n")
        assert told.stderr.startswith(f"{failed}: failed (7 of 10 rows were processed)")
        assert shell("list", "--group=nightly", "--status=failed", "-o", "ids").stdout == f"{failed}\n"

        handled = shell("forget", "--group=nightly", "--status=failed", "--status=with_errors")
        assert (handled.exit_code, handled.stderr) == (0, "2 forgotten, 0 refused\n")
        assert shell("list", f"--run={run}", "-o", "ids").stdout == f"{clean}\n"
        states = run_of(exporter)["operations"]
        assert (states["completed"], states["failed"]) == (2, 1), "the sums of the run keep them"
        assert f"{failed} retired" in shell("register", failed, "--group=nightly").stdout
        assert shell("group", "open", "nightly", "--run=next").stdout == "next\n"
        gone = shell("group", "close", "nightly", f"--run={run}")
        assert (gone.exit_code, "HTTP 409" in gone.stderr) == (1, True)
