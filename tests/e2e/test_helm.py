"""The chart by the real Helm, 3 and 4: what it renders."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from charts import (
    CHART,
    SHORTEST,
    WORKLOADS,
    configurations,
    each_file,
    each_line,
    helm,
    of_kind,
    pods,
    rendered,
)
from click.testing import CliRunner
from kubernetes_kinds import is_described
from operator_kinds import KINDS, lost

from exporter.cli import main

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

SPLIT = CHART / "ci" / "split-values.yaml"
SUPPORTED = [f"1.{minor}" for minor in range(25, 38)]  # from the chart's kubeVersion on
OTHERS = {
    "CiliumNetworkPolicy",
    "ExternalSecret",
    "GrafanaDashboard",
    "HTTPRoute",
    "PodMonitor",
    "PrometheusRule",
    "ServiceMonitor",
}


@each_line
@each_file
def test_lint_finds_nothing(line: int, file: Path) -> None:
    done = helm(line, "lint", "--strict", CHART, "--values", file)
    assert done.returncode == 0, done.stdout + done.stderr


@each_file
def test_both_helms_render_the_same(file: Path) -> None:
    assert rendered(3, "--values", str(file)) == rendered(4, "--values", str(file))


@each_line
def test_two_values_install_it(line: int) -> None:
    made = rendered(line, *SHORTEST)
    assert sorted(each["kind"] for each in made) == ["ConfigMap", "Deployment", "Pod", "Service", "ServiceAccount"]
    (deployment,) = of_kind(made, "Deployment")
    assert deployment["spec"]["replicas"] == 1


def test_split_makes_one_of_each_for_an_environment() -> None:
    made = rendered(4, "--values", str(SPLIT))
    names = ["release-knock-exporter-eu-west", "release-knock-exporter-production"]
    for kind in ("StatefulSet", "Service", "PodDisruptionBudget"):
        assert sorted(each["metadata"]["name"] for each in of_kind(made, kind)) == names, kind
    (ingress,) = of_kind(made, "Ingress")
    paths = {each["path"]: each["backend"]["service"]["name"] for each in ingress["spec"]["rules"][0]["http"]["paths"]}
    assert paths == {
        f"{before}/{name}": made
        for before in ("", "/api/v1/operations", "/api/v1/groups")
        for name, made in (("eu_west", names[0]), ("production", names[1]))
    }


def test_no_object_depends_on_the_version_of_kubernetes() -> None:
    templates = "".join(each.read_text() for each in (CHART / "templates").rglob("*.*"))
    used = re.findall(r"Capabilities\.\w+", templates)
    assert sorted(used) == ["Capabilities.APIVersions", "Capabilities.HelmVersion"], "of OpenShift, and in NOTES.txt"


@each_file
def test_every_manifest_is_as_kubernetes_and_the_operator_describe_it(file: Path) -> None:
    checked: set[str] = set()
    others: set[str] = set()
    for each in rendered(4, "--values", str(file)):
        if each["kind"] in KINDS:
            assert lost(each) == []
            continue
        described = {is_described(each, version) for version in SUPPORTED}
        (checked if described == {True} else others).add(each["kind"])
    assert checked >= {"ConfigMap", "Service", "ServiceAccount"}
    assert others <= OTHERS
    assert not (others and file.parent.name == "ci")


def selected(selector: dict[str, str], found: dict[str, dict[str, str]]) -> set[str]:
    return {name for name, labels in found.items() if selector.items() <= labels.items()}


@each_file
def test_what_selects_finds_its_own_and_nobody_else(file: Path) -> None:
    made = rendered(4, "--values", str(file))
    ours = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each in of_kind(made, *WORKLOADS)
    }
    tests = {each["metadata"]["name"]: each["metadata"]["labels"] for each in of_kind(made, "Pod")}
    found = ours | tests | {"a stranger": {"app.kubernetes.io/name": "other"}}
    services = {each["metadata"]["name"]: each["metadata"]["labels"] for each in of_kind(made, "Service")}
    assert services.keys() == ours.keys()
    for each in of_kind(made, "Service"):
        assert selected(each["spec"]["selector"], found) == {each["metadata"]["name"]}
    for each in of_kind(made, "PodDisruptionBudget"):
        assert selected(each["spec"]["selector"]["matchLabels"], found) == {each["metadata"]["name"]}
    for each in of_kind(made, *WORKLOADS):
        assert selected(each["spec"]["selector"]["matchLabels"], found) == {each["metadata"]["name"]}
    for each in of_kind(made, "NetworkPolicy", "CiliumNetworkPolicy"):
        selector = each["spec"].get("podSelector") or each["spec"]["endpointSelector"]
        assert selected(selector["matchLabels"], found) == ours.keys()
    for each in of_kind(made, "PodMonitor"):
        assert selected(each["spec"]["selector"]["matchLabels"], found) == ours.keys()
    for each in of_kind(made, "ServiceMonitor"):
        other = {"a stranger": found["a stranger"]}
        assert selected(each["spec"]["selector"]["matchLabels"], services | other) == services.keys()


@each_file
def test_no_two_objects_share_a_name(file: Path) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in rendered(4, "--values", str(file))]
    assert len(set(names)) == len(names)


def test_releases_with_long_names_stay_apart() -> None:
    whole = [
        rendered(4, *SHORTEST, release=f"knock-exporter-of-customer-notifications-{each}") for each in ("eu", "us")
    ]
    first, second = ({each["metadata"]["name"] for each in made} for made in whole)
    assert not first & second
    assert all(len(name) <= len("-test") + 31 for name in first | second)


def test_no_environment_takes_the_name_of_a_dashboard() -> None:
    split = ("split=environment", "dashboards.enabled=true", "grafanaDashboard.enabled=true")
    named = [f"environments.{name}.apiKeySecret=k" for name in ("overview", "exporter", "dashboard-overview", "test")]
    made = rendered(4, *(word for each in (*split, *named) for word in ("--set", each)))
    names = [(each["kind"], each["metadata"]["name"]) for each in made]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("ServiceMonitor", {"endpoints": [{"prot": "http"}], "selector": {}}),
        ("PodMonitor", {"podMetricsEndpoints": [{"tlsConfig": {"caFil": "x"}}], "selector": {}}),
        ("PrometheusRule", {"groups": [{"name": "a", "rules": [{"expr": "1", "alrt": "A"}]}]}),
    ],
)
def test_what_the_operator_does_not_know_is_noticed(kind: str, spec: dict[str, Any]) -> None:
    made = {"apiVersion": "monitoring.coreos.com/v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec}
    assert len(lost(made)) == 1


@each_file
def test_the_restricted_pod_security_standard_is_kept(file: Path) -> None:
    found = list(pods(rendered(4, "--values", str(file))))
    assert found
    for pod in found:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"].get("runAsUser") != 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        kinds = {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected"}
        for container in pod["containers"]:
            inner = container["securityContext"]
            assert inner["allowPrivilegeEscalation"] is False
            assert inner["readOnlyRootFilesystem"] is True
            assert inner["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in inner
            assert all("hostPort" not in port for port in container.get("ports", ()))


@each_file
def test_what_changes_is_mounted_as_a_folder(file: Path) -> None:
    for pod in pods(rendered(4, "--values", str(file))):
        for mount in pod["containers"][0].get("volumeMounts", ()):
            assert "subPath" not in mount
        for probe in ("livenessProbe", "readinessProbe"):
            if probe in pod["containers"][0]:
                assert pod["containers"][0][probe]["httpGet"]["port"] == "health"


@each_file
def test_the_exporter_takes_its_configuration(file: Path, tmp_path: Path) -> None:
    made = rendered(4, "--values", str(file))
    texts = list(configurations(made, tmp_path))
    assert len(texts) == len(of_kind(made, *WORKLOADS))
    for each in texts:
        checked = CliRunner().invoke(main, ["check-config", "--storage.path=state.db", str(each)])
        assert checked.exit_code == 0, checked.output


@each_file
def test_a_pod_sees_its_own_keys_and_tokens_alone(file: Path) -> None:
    for pod in pods(rendered(4, "--values", str(file))):
        for volume in pod.get("volumes", ()):
            if volume["name"].startswith(("key-", "token-")):
                (item,) = volume["secret"]["items"]
                assert item["key"] == item["path"]


def token_volumes(*secrets: str) -> list[str]:
    tokens = json.dumps([{"secretName": each} for each in secrets])
    made = rendered(4, *SHORTEST, "--set", "persistence.enabled=true", "--set-json", f"registration.tokens={tokens}")
    (pod,) = [each for each in pods(made) if "volumes" in each]
    return [each["name"] for each in pod["volumes"] if each["name"].startswith("token-")]


def test_a_token_keeps_its_place_when_another_goes() -> None:
    old, new = token_volumes("old", "new")
    assert token_volumes("new") == [new]
    assert old != new


@each_line
def test_another_chart_may_have_it_as_a_dependency(line: int, tmp_path: Path) -> None:
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "knock-exporter").symlink_to(CHART)
    dependency = {"name": "knock-exporter", "version": "*", "condition": "knock-exporter.enabled"}
    about = {"apiVersion": "v2", "name": "whole", "version": "1.0.0", "dependencies": [dependency]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(about))
    for enabled in (True, False):
        below = {"enabled": enabled, "environments": {"production": {"apiKeySecret": "knock"}}}
        (tmp_path / "values.yaml").write_text(yaml.safe_dump({"knock-exporter": below, "global": {"a": "b"}}))
        done = helm(line, "template", "release", tmp_path)
        assert done.returncode == 0, done.stderr
        assert ("kind: Deployment" in done.stdout) is enabled
