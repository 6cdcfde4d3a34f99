"""The chart's workloads at work: what the kubelet brings, probes behind TLS and passwords, moving between workloads."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest
import trustme
import yaml
from charts import rendered
from cluster import Cluster
from programs import KEY, TOKEN, WEB, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from programs import Exporter

    from exporter.simulator import Simulator

pytestmark = pytest.mark.e2e

DOCUMENT = Path(__file__).parents[2] / "docs" / "kubernetes.md"
QUICK = {"processing": "100ms", "queued": "100ms", "slowest": "200ms"}
TAKEN_SECONDS = 20.0
OTHER_KEY = "sk_test_fedcba9876543210"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, {"knock": {"api-key": KEY}, "tokens": {"token": TOKEN}})
    yield made
    made.end()


def endless(knock: Simulator) -> str:
    return knock.world.create(rows=10**9, queue_seconds=0.0, rows_per_second=100.0)


def install(cluster: Cluster, whole: dict[str, Any], *args: str) -> None:
    """Do `helm upgrade --install knock-exporter` with these values."""
    number = len(list(cluster.folder.glob("values-*.yaml")))  # a file of its own: what it renders is kept
    file = cluster.folder / f"values-{number}.yaml"
    file.write_text(yaml.safe_dump(whole))
    cluster.apply(rendered(4, "--values", str(file), *args, release="knock-exporter"))


def environment(knock: Simulator, *operations: str) -> dict[str, Any]:
    return {"apiKeySecret": "knock", "base_url": knock.url, "operations": [*operations], "polling": QUICK}


def test_ids_and_keys_change_without_a_restart(knock: Simulator, cluster: Cluster) -> None:
    first, second = endless(knock), endless(knock)
    whole = {"environments": {"production": environment(knock, first)}}
    install(cluster, whole)
    pod = cluster.pods["knock-exporter-0"]
    until(lambda: pod.exporter.values("knock_bulk_operation_up") == {first: 1.0}, "the first is followed")
    whole["environments"]["production"]["operations"].append(second)
    install(cluster, whole)
    assert cluster.pods["knock-exporter-0"] is pod
    until(lambda: len(pod.exporter.values("knock_bulk_operation_up")) == 2, "the second too", TAKEN_SECONDS)
    cluster.rotate("knock", {"api-key": OTHER_KEY})
    pod.exporter.said('event="using the changed API key"')


def test_probes_are_answered_behind_tls_and_passwords(knock: Simulator, cluster: Cluster) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    web = {
        "tls_server_config": {"cert_file": "tls.crt", "key_file": "tls.key"},
        "basic_auth_users": {"prometheus": bcrypt.hashpw(b"a password", bcrypt.gensalt(4)).decode()},
    }
    cluster.secrets["web"] = {
        "web.yml": yaml.safe_dump(web),
        "tls.crt": b"".join(blob.bytes() for blob in certificate.cert_chain_pems).decode(),
        "tls.key": certificate.private_key_pem.bytes().decode(),
    }
    install(cluster, {"environments": {"production": environment(knock)}, "web": {"configSecret": "web"}})
    pod = cluster.pods["knock-exporter-0"]
    assert [pod.health(f"{each}Probe") for each in ("startup", "liveness", "readiness")] == [200, 200, 200]
    address = pod.program.said(r"event=listening address=(\S+)")[0]
    authorities = cluster.folder / "ca.pem"
    authority.cert_pem.write_to_path(str(authorities))
    for auth, status in ((None, 401), (("prometheus", "a password"), 200)):
        assert (
            WEB.get(f"https://{address}/metrics", auth=auth, verify=str(authorities), timeout=30).status_code == status
        )


# Moving, by what docs/kubernetes.md says.


def steps(heading: str) -> list[str]:
    """Return the commands below a heading of the document, up to the first text in bold."""
    section = DOCUMENT.read_text().split(f"## {heading}\n")[1].split("\n## ")[0].split("\n**")[0]
    return "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).splitlines()


def follow(cluster: Cluster, whole: dict[str, Any], heading: str) -> None:
    """Do what the document says."""
    for line in steps(heading):
        command, *redirection = re.split(r" ([<>]) (\S+)$", line)[:3]
        match shlex.split(command):
            case ["helm", "upgrade", "knock-exporter", "./helm/knock-exporter", "--values", "values.yaml", *args]:
                install(cluster, whole, *args)
            case ["kubectl", "rollout", "status", workload]:
                assert f"{workload.removeprefix('statefulset/')}-0" in cluster.pods
            case ["kubectl", "exec", pod, "--", *asked]:
                told = cluster.execute(pod, asked)
                if redirection:
                    assert redirection[0] == ">"
                    (cluster.folder / redirection[1]).write_text(told)
            case ["kubectl", "exec", "-i", pod, "--", *asked]:
                assert redirection[0] == "<"
                cluster.execute(pod, asked, (cluster.folder / redirection[1]).read_text())
            case _:
                pytest.fail(f"no step that this test knows: {line}")


def test_the_chart_takes_all_values_of_the_document(tmp_path: Path) -> None:
    text = DOCUMENT.read_text()
    whole = tmp_path / "values.yaml"
    whole.touch()
    for part in re.findall(
        r"cat >> values\.yaml <<'END_OF_VALUES'\n(.*?)^ *END_OF_VALUES$", text, re.DOTALL | re.MULTILINE
    ):
        whole.write_text(whole.read_text() + dedent(part))
        assert rendered(4, "--values", str(whole))
    assert {"environments", "registration", "serviceMonitor", "networkPolicy"} <= yaml.safe_load(
        whole.read_text()
    ).keys()
    blocks = [dedent(each) for each in re.findall(r"^ *```yaml\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)]
    assert len(blocks) >= 4
    for number, block in enumerate(blocks):
        file = tmp_path / f"block-{number}.yaml"
        file.write_text(block)
        before = () if "environments" in yaml.safe_load(block) else ("--values", str(whole))
        assert rendered(4, *before, "--values", str(file))


def runs(exporter: Exporter, count: int) -> bool:
    return exporter.value("knock_bulk_operations", status="processing") == count


def test_every_registration_moves_to_a_workload_for_each_environment_and_back(
    knock: Simulator, cluster: Cluster
) -> None:
    names = ("production", "staging")
    whole: dict[str, Any] = {
        "environments": {name: environment(knock) for name in names},
        "registration": {"tokens": [{"secretName": "tokens"}]},
        "persistence": {"enabled": True},
    }
    registered = {name: {endless(knock) for _ in range(20)} for name in names}
    ended = {name: knock.world.create(rows=10, queue_seconds=0.0, rows_per_second=1e9) for name in names}
    install(cluster, whole)
    one = cluster.pods["knock-exporter-0"].exporter
    for name in names:
        answer = one.register([*registered[name], ended[name]], name)
        assert answer.json()["durable"] is True
    until(lambda: one.value("knock_bulk_operations", status="completed") == 2, "what ends has ended")
    until(partial(runs, one, 40), "all else runs")

    follow(cluster, whole, "From one workload to one for each environment")
    assert cluster.pods.keys() == {f"knock-exporter-{name}-0" for name in names}
    for name in names:
        exporter = cluster.pods[f"knock-exporter-{name}-0"].exporter
        assert exporter.values("knock_bulk_operation_info").keys() == {*registered[name], ended[name]}
        late = endless(knock)
        registered[name].add(late)
        assert exporter.register([late], name).json()["durable"] is True
        until(partial(runs, exporter, 21), "all run")
        assert exporter.value("knock_bulk_operations_finished_total", status="completed") == 0

    follow(cluster, whole, "Back to one workload")
    assert cluster.pods.keys() == {"knock-exporter-0"}
    one = cluster.pods["knock-exporter-0"].exporter
    for name in names:
        held = one.values("knock_bulk_operation_info", knock_environment=name)
        assert held.keys() == {*registered[name], ended[name]}
    until(partial(runs, one, 42), "all run")
    asked = [each.operation_id for each in knock.log]
    assert {name: asked.count(ended[name]) for name in names} == dict.fromkeys(names, 1), (
        "what is final is not asked again"
    )


def test_a_backup_is_restored(knock: Simulator, cluster: Cluster) -> None:
    persistence = {"persistence": {"enabled": True}, "registration": {"tokens": [{"secretName": "tokens"}]}}
    install(cluster, persistence | {"environments": {"production": environment(knock)}})
    one = cluster.pods["knock-exporter-0"].exporter
    registered = {endless(knock) for _ in range(5)}
    ended = knock.world.create(rows=10, queue_seconds=0.0, rows_per_second=1e9)
    assert one.register([*registered, ended]).json()["durable"] is True
    until(lambda: one.value("knock_bulk_operations", status="completed") == 1, "what ends has ended")

    follow(cluster, persistence | {"environments": {"production": environment(knock)}}, "Back up and restore the state")
    one = cluster.pods["knock-exporter-0"].exporter
    assert one.values("knock_bulk_operation_info").keys() == {*registered, ended}
    until(partial(runs, one, 5), "all else runs")
    assert [each.operation_id for each in knock.log].count(ended) == 1
