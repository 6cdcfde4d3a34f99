"""The installs of the chart's README, as they can be pasted: files are written, Helm renders in place of installing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from charts import CHART, LINES, configurations, documents, helm, of_kind, pods
from click.testing import CliRunner
from doc_commands import commands

from exporter.cli import main

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

README = CHART / "README.md"
SECTIONS = re.findall(r"^## (.*?)\n(.*?)(?=^## )", README.read_text(), re.MULTILINE | re.DOTALL)
HERE = re.compile(r"cat > (\S+) <<'(\w+)'\n(.*?)^\2$", re.MULTILINE | re.DOTALL)
BASE = [text for title, text in SECTIONS if title.startswith("Install: ")]
ADDED = [text for title, text in SECTIONS if title in {"With kube-prometheus-stack", "On OpenShift"}]


def follow(section: str, folder: Path) -> tuple[list[dict[str, Any]], set[str], list[tuple[str, ...]]]:
    """Do what a section says, with both Helms; returns the objects, the created Secrets, and all other commands."""
    for name, _, text in HERE.findall(section):
        (folder / name).write_text(text)
    objects: list[dict[str, Any]] = []
    secrets, others = set(), []
    for command in commands(README, section):
        match command.words:
            case ("helm", "upgrade", "--install", "knock-exporter", "./helm/knock-exporter", *args) | (
                "helm",
                "template",
                "knock-exporter",
                "./helm/knock-exporter",
                *args,
            ):
                named = [folder / each if each.endswith(".yaml") else each for each in args if each != "--wait"]
                made = []
                for line in LINES:
                    done = helm(line, "template", "knock-exporter", CHART, *named)
                    assert done.returncode == 0, done.stderr
                    made.append(documents(done.stdout))
                objects, of_other = made
                assert objects == of_other
            case ("kubectl", "create", "secret", "generic", name, *_):
                secrets.add(name)
            case other:
                others.append(other)
    assert objects, "nothing was installed"
    return objects, secrets, others


@pytest.mark.parametrize("section", BASE)
def test_an_install_has_its_secrets_and_a_configuration_that_the_exporter_takes(section: str, tmp_path: Path) -> None:
    objects, secrets, others = follow(section, tmp_path)
    mounted = {
        volume["secret"]["secretName"]
        for pod in pods(objects)
        for volume in pod.get("volumes", ())
        if "secret" in volume
    }
    assert mounted == secrets
    ports = {each["metadata"]["name"]: each["spec"]["ports"][0]["port"] for each in of_kind(objects, "Service")}
    for words in others:
        if words[:2] == ("kubectl", "port-forward"):
            assert ports[words[2].removeprefix("service/")] == int(words[3])
        else:
            assert words[0] in {"cat", "openssl"}
    for file in configurations(objects, tmp_path):
        checked = CliRunner().invoke(main, ["check-config", "--storage.path=state.db", str(file)])
        assert checked.exit_code == 0, checked.output


def test_there_are_three_installs_and_two_additions_to_each(tmp_path: Path) -> None:
    assert (len(BASE), len(ADDED)) == (3, 2)
    for name, _, text in HERE.findall(BASE[0]):
        (tmp_path / name).write_text(text)
    monitored, adapted = (follow(each, tmp_path)[0] for each in ADDED)
    for each in of_kind(monitored, "ServiceMonitor", "PrometheusRule"):
        assert each["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert {each["kind"] for each in monitored} >= {"ServiceMonitor", "PrometheusRule"}
    for pod in pods(adapted):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["securityContext"].keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
