"""The chart by the real Helm, 3 and 4: what it renders, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from charts import CHART, CI, helm, of_kind, pods, rendered
from operator_kinds import KINDS, lost
from programs import run, tool
from promtool import MONITORING

from exporter import config

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

ID = "123e4567-e89b-12d3-a456-426614174000"
SHORTEST = (
    "--set",
    "environments.production.apiKeySecret=knock",
    "--set",
    f"environments.production.operations={{{ID}}}",
)
LINES = (3, 4)
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

each_line = pytest.mark.parametrize("line", LINES)
each_file = pytest.mark.parametrize("file", CI, ids=lambda file: file.stem)


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
    made = rendered(4, "--values", str(CHART / "ci" / "split-values.yaml"))
    names = ["release-knock-exporter-eu-west", "release-knock-exporter-production"]
    for kind in ("StatefulSet", "Service", "PodDisruptionBudget"):
        assert sorted(each["metadata"]["name"] for each in of_kind(made, kind)) == names, kind
    for service in of_kind(made, "Service"):
        chosen = [
            each
            for each in of_kind(made, "StatefulSet")
            if service["spec"]["selector"].items() <= each["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert [each["metadata"]["name"] for each in chosen] == [service["metadata"]["name"]]
    (ingress,) = of_kind(made, "Ingress")
    paths = {each["path"]: each["backend"]["service"]["name"] for each in ingress["spec"]["rules"][0]["http"]["paths"]}
    assert paths == {
        f"{before}/{name}": made
        for before in ("", "/api/v1/operations")
        for name, made in (("eu_west", names[0]), ("production", names[1]))
    }


@pytest.mark.parametrize("version", SUPPORTED)
@each_file
def test_every_manifest_is_as_kubernetes_and_the_operator_describe_it(file: Path, version: str) -> None:
    checked, others = set(), set()
    for each in rendered(4, "--values", str(file), "--kube-version", f"{version}.0"):
        if each["kind"] in KINDS:
            assert lost(each) == []
            continue
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            others.add(each["kind"])
        else:
            checked.add(each["kind"])
    assert checked >= {"ConfigMap", "Service", "ServiceAccount", "Pod"}
    assert others <= OTHERS


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
        assert pod["securityContext"]["runAsUser"] > 0
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
    names = {each["metadata"]["name"] for each in of_kind(made, "Deployment", "StatefulSet")}
    for place, each in enumerate(of_kind(made, "ConfigMap")):
        if each["metadata"]["name"] not in names:
            continue
        root = tmp_path / str(place)
        text = (
            each["data"]["config.yaml"]
            .replace("/etc/knock-exporter", str(root))
            .replace("/var/lib/knock-exporter", str(root))
        )
        for path in _named(yaml.safe_load(text)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("sk_test_0123456789abcdef" + str(path).replace("/", ""))
        (root / "config.yaml").write_text(text)
        config.load(root / "config.yaml", {})


def _named(whole: dict[str, Any]) -> Iterator[Path]:
    for environment in whole["environments"]:
        yield Path(environment["api_key_file"])
    for token in whole.get("registration", {}).get("tokens", ()):
        yield Path(token["token_file"])


def test_rules_and_dashboards_are_those_of_monitoring() -> None:
    made = rendered(4, "--values", str(CHART / "ci" / "split-values.yaml"))
    (rule,) = of_kind(made, "PrometheusRule")
    files = [yaml.safe_load((MONITORING / "rules" / f"{name}.yaml").read_text()) for name in ("recording", "alerts")]
    assert rule["spec"]["groups"] == [group for file in files for group in file["groups"]]
    for name in ("overview", "exporter"):
        text = json.loads((MONITORING / "dashboards" / f"{name}.json").read_text())
        (map_,) = [each for each in of_kind(made, "ConfigMap") if f"{name}.json" in each.get("data", {})]
        assert json.loads(map_["data"][f"{name}.json"]) == text
        assert text in [json.loads(each["spec"]["json"]) for each in of_kind(made, "GrafanaDashboard")]


@pytest.mark.parametrize("line", [2, 3])
def test_tuned_rules_pass_promtool(line: int, tmp_path: Path) -> None:
    (rule,) = of_kind(rendered(4, "--values", str(CHART / "ci" / "registration-values.yaml")), "PrometheusRule")
    alerts = {each["alert"]: each for group in rule["spec"]["groups"] for each in group["rules"] if "alert" in each}
    assert "> 1800" in alerts["KnockOperationStalled"]["expr"]
    assert alerts["KnockOperationsStale"]["for"] == "10m"
    assert "KnockNothingFinished" in alerts
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    run(tool("promtool", line), "check", "rules", file)


@each_line
@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ((), "environments: none. Set environments.NAME.apiKeySecret"),
        (("--set", "environments.production.rate_limit=5"), "environments.production.apiKeySecret: missing"),
        ((*SHORTEST, "--set", "splt=environment"), "splt"),
        ((*SHORTEST, "--set", "environments.production.ratelimit=5"), "ratelimit"),
        ((*SHORTEST, "--set", "config.retenton=5d"), "retenton"),
        ((*SHORTEST, "--set", "resources.limts.memory=1Gi"), "limts"),
        ((*SHORTEST, "--set", "tolerations[0].opertor=Exists"), "opertor"),
        ((*SHORTEST, "--set", "serviceMonitor.tlsConfig.insecureSkipVerfy=true"), "insecureSkipVerfy"),
        ((*SHORTEST, "--set", "environments.production.apiKeyRemoteRef.key=x"), "apiKeySecret and apiKeyRemoteRef"),
        (("--set", "environments.production.apiKeyRemoteRef.key=x"), "externalSecrets.secretStoreRef.name: missing"),
        ((*SHORTEST, "--set", "registration.tokens[0].secretKey=t"), "registration.tokens[0]: needs either secretName"),
        (
            (*SHORTEST, "--set", "registration.tokens[0].secretName=t,registration.tokens[0].environments={prod}"),
            "registration.tokens[0].environments: prod is none of environments (production)",
        ),
        ((*SHORTEST, "--set", "web.configSecret=a,web.configRemoteRef.key=b"), "web: configSecret and configRemoteRef"),
        ((*SHORTEST, "--set", "maintenance=true"), "maintenance without persistence"),
        ((*SHORTEST, "--set", "split=environment,ingress.enabled=true"), "web.externalUrl: missing"),
        ((*SHORTEST, "--set", "httpRoute.enabled=true"), "httpRoute.parentRefs: none"),
        ((*SHORTEST, "--set", "serviceMonitor.enabled=true,podMonitor.enabled=true"), "scrape everything twice"),
        (
            (*SHORTEST, "--set", "split=environment,environments._.apiKeySecret=x"),
            "environments._: cannot name a workload",
        ),
        ((*SHORTEST, "--set", "environments.all.apiKeySecret=x"), "all"),
        ((*SHORTEST, "--set", "web.healthPort=10187"), "web.healthPort: the same as web.port"),
        ((*SHORTEST, "--set", "registration.tokens[0].secretName=t"), "registration.tokens without persistence"),
        ((*SHORTEST, "--set", "prometheusRule.disabled={KnockTypo}"), "disabled"),
        ((*SHORTEST, "--set", "prometheusRule.thresholds.staled_seconds=5"), "staled_seconds"),
        ((*SHORTEST, "--set-string", "prometheusRule.thresholds.runbooks=https://a b"), "runbooks"),
        ((*SHORTEST, "--set-string", "prometheusRule.thresholds.remembered=0d"), "remembered"),
    ],
)
def test_wrong_values_are_refused_in_words(line: int, args: tuple[str, ...], complaint: str) -> None:
    done = helm(line, "template", "release", CHART, *args)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_registrations_without_persistence_can_be_accepted() -> None:
    accepted = "registration.acceptLossWithoutPersistence=true"
    made = rendered(4, *SHORTEST, "--set", "registration.tokens[0].secretName=t", "--set", accepted)
    assert of_kind(made, "Deployment")
