"""What is there for those without Helm: the kustomization, and the systemd unit."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from textwrap import dedent

import plain
import pytest
import yaml
from charts import of_kind, rendered
from kubernetes_kinds import is_described
from programs import KEY, TOOLS, Starter, do_without, run, tool, until

from exporter.simulator import Simulator, World

pytestmark = pytest.mark.e2e

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "knock-exporter.service"
DOCUMENT = Path(__file__).parents[2] / "docs" / "systemd.md"
MOST_EXPOSED = 15  # of 100, as `systemd-analyze security` counts; 12 with systemd 252


def tools_own(name: str) -> Path:
    program = TOOLS / name
    if not program.exists():
        do_without(f"{program.name} is missing: run tests/e2e/get-helm")
    return program


def test_the_manifests_are_those_of_the_chart() -> None:
    made = plain.documents(tools_own("helm4/helm"))
    for name, text in made.items():
        assert (plain.FOLDER / name).read_text() == text, "run `make chart`"
    files = {each.name for each in plain.FOLDER.iterdir()}
    assert files == {*made, "kustomization.yaml"}


def test_kustomize_builds_what_the_chart_renders() -> None:
    text = run(tools_own("kubectl/kubectl"), "kustomize", plain.FOLDER)
    made = {each["kind"]: each for each in yaml.safe_load_all(text)}
    assert made.keys() == {"ConfigMap", "Deployment", "Service", "ServiceAccount"}
    for each in made.values():
        assert is_described(each, "1.37")
        assert "namespace" not in each["metadata"]
    chart = rendered(
        4,
        *("--set", "environments.production.apiKeySecret=knock", "--set-json", "environments.production.operations=[]"),
        release="knock-exporter",
    )
    (workload,) = of_kind(chart, "Deployment")
    assert made["Deployment"]["spec"] == workload["spec"]
    (config,) = of_kind(chart, "ConfigMap")
    assert yaml.safe_load(made["ConfigMap"]["data"]["config.yaml"]) == yaml.safe_load(config["data"]["config.yaml"])
    assert made["ConfigMap"]["metadata"]["name"] == config["metadata"]["name"]


def settings(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


def test_systemd_understands_the_unit_and_finds_it_closed(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/knock-exporter/bin/knock-exporter", "/bin/true"))
    done = subprocess.run(
        [analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    run(analyze, "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}", unit)


def test_the_units_command_follows_with_the_credential_that_its_document_names(tmp_path: Path) -> None:
    (written,) = re.findall(
        r"tee /etc/knock-exporter/config.yaml .*?\n(.*?)END_OF_CONFIG", DOCUMENT.read_text(), re.DOTALL
    )
    config = dedent(written)
    (credential,) = settings("LoadCredential")
    name, _, source = credential.partition(":")
    place = f"/run/credentials/{UNIT.name}/{name}"
    assert place in config
    assert source in DOCUMENT.read_text()
    with Simulator(world=World(seed=1), rate_limits=False) as knock:
        made = knock.world.create("users.identify", rows=10, queue_seconds=0.0, rows_per_second=1e6)
        (tmp_path / "api-key").write_text(KEY)
        whole = yaml.safe_load(config.replace(place, str(tmp_path / "api-key")))
        whole["environments"][0] |= {"base_url": knock.url, "operations": [made]}
        (tmp_path / "config.yaml").write_text(json.dumps(whole))
        program, *args = settings("ExecStart")[0].split()
        assert program == "/opt/knock-exporter/bin/knock-exporter"
        there = {"/etc/knock-exporter": str(tmp_path), "%S/knock-exporter": str(tmp_path)}
        for old, new in there.items():
            args = [each.replace(old, new) for each in args]
        start = Starter(tmp_path)
        try:
            exporter = start.run(*args, "--web.listen-address=127.0.0.1:0")
            until(lambda: exporter.value("knock_bulk_operations", status="completed") == 1, "it is followed")
            assert (tmp_path / "state.db").exists()
        finally:
            start.end()


def test_the_unit_reloads_where_there_is_no_program_to_send_a_signal(tmp_path: Path) -> None:
    program, *args = shlex.split(settings("ExecReload")[0])
    assert program == "/bin/sh"
    with Simulator(world=World(seed=1)) as knock:
        start = Starter(tmp_path)
        try:
            exporter = start(knock.url)
            environ = {"MAINPID": str(exporter.process.pid), "PATH": str(tmp_path)}
            subprocess.run([program, *args], check=True, env=environ)
            exporter.said('event="configuration reloaded"')
        finally:
            start.end()
