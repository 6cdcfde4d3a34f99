"""An Airflow DAG: start the batches of a night as one run, wait for its end, fail if the run fails.

Needs knock_registrar.py and Knock's SDK where DAGs may import from, and the command knock-exporter on the workers.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator  # Airflow 2: from airflow.operators.bash
from airflow.sdk import dag, task  # Airflow 2: from airflow.decorators

EXPORTER = "http://127.0.0.1:10187"
TOKEN_FILE = "/run/secrets/knock-exporter-token"


@task
def read_batches() -> list[list[dict[str, Any]]]:
    """Return the users to identify, up to 1,000 in each batch; replace this by your own."""
    return [[{"id": "ann", "plan": "free"}], [{"id": "bob", "plan": "free"}]]


@task
def start(batches: list[list[dict[str, Any]]], ts_nodash: str | None = None) -> None:
    """Start the batches. Airflow fills in `ts_nodash`; it is the id of the run, so a retry continues the same run."""
    from knock_registrar import Registrar
    from knockapi import DefaultHttpxClient, Knock

    registrar = Registrar(EXPORTER, "production", TOKEN_FILE)
    client = DefaultHttpxClient(event_hooks={"response": [registrar.hook]})
    with (
        closing(registrar),
        Knock(http_client=client) as knock,
        registrar.run("nightly", operations=len(batches), run=ts_nodash),
    ):
        for users in batches:
            knock.users.bulk.identify(users=users)


@dag(schedule="@daily", catchup=False)
def knock_nightly() -> None:
    """Start, then wait; `watch` exits with another code than 0 if the run fails."""
    wait = BashOperator(
        task_id="wait",
        bash_command=f"knock-exporter watch --url {EXPORTER} --environment production"
        " --group nightly --run {{ ts_nodash }} --timeout 3h",
    )
    start(read_batches()) >> wait


knock_nightly()
