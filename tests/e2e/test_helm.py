"""The chart by the real Helm, 3 and 4: what it renders, and what it refuses."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from charts import CHART, VALUES, WORKLOADS, configurations, documents, helm, of_kind, pods, rendered
from click.testing import CliRunner
from operator_kinds import KINDS, lost
from programs import run, tool
from promtool import MONITORING

from exporter.cli import flags, main

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

ID = "123e4567-e89b-12d3-a456-426614174000"
SHORTEST = (
    "--set",
    "environments.production.apiKeySecret=knock",
    "--set",
    f"environments.production.operations={{{ID}}}",
)
AS_THEY_ARE = CHART / "tests" / "values" / "pod-monitor.yaml"
TUNED = CHART / "tests" / "values" / "operators.yaml"
SPLIT = CHART / "ci" / "split-values.yaml"
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
each_file = pytest.mark.parametrize("file", VALUES, ids=lambda file: file.stem)


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
    texts = list(configurations(made, tmp_path))
    assert len(texts) == len(of_kind(made, *WORKLOADS))
    for each in texts:
        checked = CliRunner().invoke(main, ["check-config", str(each)])
        assert checked.exit_code == 0, checked.output


def groups(*args: str) -> list[dict[str, Any]]:
    (rule,) = of_kind(rendered(4, "--values", str(AS_THEY_ARE), *args), "PrometheusRule")
    found: list[dict[str, Any]] = rule["spec"]["groups"]
    return found


def test_rules_are_those_of_monitoring_and_link_to_grafana_once_it_is_known() -> None:
    files = [yaml.safe_load((MONITORING / "rules" / f"{name}.yaml").read_text()) for name in ("recording", "alerts")]
    expected = [group for file in files for group in file["groups"]]
    dashboards = yaml.safe_load((MONITORING / "thresholds.yaml").read_text())["dashboards"]
    assert groups("--set", f"prometheusRule.thresholds.dashboards={dashboards}") == expected
    for group in expected:
        for each in group["rules"]:
            each.get("annotations", {}).pop("dashboard_url", None)
    assert groups() == expected
    assert "localhost" not in str(groups())


@pytest.mark.parametrize(
    ("args", "job"),
    [
        ((), 'job=~".*knock.*"'),
        (("--set", "nameOverride=my-knock"), 'job=~".*knock.*"'),
        (("--set", "nameOverride=bulk"), 'job="bulk"'),
        (("--set", "nameOverride=bulk", "--set", 'prometheusRule.thresholds.job=job="mine"'), 'job="mine"'),
    ],
)
def test_rules_select_the_job_that_the_monitor_makes(args: tuple[str, ...], job: str) -> None:
    (down,) = [each for group in groups(*args) for each in group["rules"] if each.get("alert") == "KnockExporterDown"]
    assert f"up{{{job}}}" in down["expr"]


def test_any_alert_can_be_left_out() -> None:
    def alerts(*args: str) -> set[str]:
        return {each["alert"] for group in groups(*args) for each in group["rules"] if "alert" in each}

    every = alerts("--set-json", "prometheusRule.disabled=[]")
    assert alerts() == every - {"KnockNothingFinished"}
    assert alerts("--set", "prometheusRule.disabled={KnockExporterDown}") == every - {"KnockExporterDown"}


def test_dashboards_are_those_of_monitoring() -> None:
    made = rendered(4, "--values", str(AS_THEY_ARE))
    for name in ("overview", "exporter"):
        text = json.loads((MONITORING / "dashboards" / f"{name}.json").read_text())
        (map_,) = [each for each in of_kind(made, "ConfigMap") if f"{name}.json" in each.get("data", {})]
        assert json.loads(map_["data"][f"{name}.json"]) == text
        assert text in [json.loads(each["spec"]["json"]) for each in of_kind(made, "GrafanaDashboard")]


@pytest.mark.parametrize("line", [2, 3])
def test_tuned_rules_pass_promtool(line: int, tmp_path: Path) -> None:
    (rule,) = of_kind(rendered(4, "--values", str(TUNED)), "PrometheusRule")
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
        ((*SHORTEST, "--set", "ingress.enabled=true,ingress.path=/knock"), "web.externalUrl: missing"),
        (
            (*SHORTEST, "--set", "web.externalUrl=https://k.example,ingress.enabled=true,ingress.path=/knock"),
            "ingress.path: /knock, but web.externalUrl has the path /.",
        ),
        (
            (*SHORTEST, "--set", "split=environment,web.externalUrl=https://k,environments.metrics.apiKeySecret=k"),
            "web.externalUrl: the pages would be at /metrics, which the exporter has for itself",
        ),
        ((*SHORTEST, "--set", "web.externalUrl=https://k/api/v1"), "web.externalUrl: the pages would be at /api/v1"),
        ((*SHORTEST, "--set", "web.externalUrl=https://k.example/?a=b"), "externalUrl"),
        (
            (*SHORTEST, "--set", "environments.production.proxy=http://user:hunter2@proxy:3128"),
            "environments.production.proxy: has a user and a password",
        ),
        ((*SHORTEST, "--set", "config.timeout="), "timeout"),
        ((*SHORTEST, "--set-json", 'registration.tokens=[{"secretName":"t","environments":[]}]'), "environments"),
        (
            (*SHORTEST, "--set", "registration.tokens[0].secretName=t,registration.tokens[1].secretName=t"),
            "registration.tokens[1]: the same token as registration.tokens[0]",
        ),
        ((*SHORTEST, "--set", "persistence.existingClaim=c"), "persistence.existingClaim without persistence.enabled"),
        (
            (*SHORTEST, "--set", "split=environment,persistence.enabled=true,persistence.existingClaim=c"),
            "persistence.existingClaim with split: environment",
        ),
        (
            (
                *SHORTEST,
                "--set",
                "persistence.enabled=true,extraEnv[0].name=KNOCK_EXPORTER_STORAGE_PATH,extraEnv[0].value=/s",
            ),
            "extraEnv: KNOCK_EXPORTER_STORAGE_PATH is set by persistence.enabled",
        ),
        ((*SHORTEST, "--set", "podLabels.knock-exporter/workload=a"), "podLabels: knock-exporter/workload is set"),
        ((*SHORTEST, "--set", "podLabels.a=b c"), "podLabels"),
        ((*SHORTEST, "--set", "networkPolicy.enabled=true"), "networkPolicy.fromPrometheus: none"),
        ((*SHORTEST, "--set", "networkPolicy.privateRanges={nonsense}"), "privateRanges"),
        ((*SHORTEST, "--set", "networkPolicy.privateRanges={999.1.1.1/8}"), "privateRanges"),
        ((*SHORTEST, "--set-json", "networkPolicy.fromClients=[{}]"), "fromClients"),
        ((*SHORTEST, "--set-json", 'ciliumNetworkPolicy.dnsEndpoints=[{"matchLabel":{}}]'), "matchLabel"),
        ((*SHORTEST, "--set", "extraArgs={--web.telemetry-path=/m}"), "extraArgs: --web.telemetry-path"),
        (
            (*SHORTEST, "--set-json", 'registration.tokens=[{"secretName":"t","environments":["all","production"]}]'),
            "registration.tokens[0].environments: all stands for every environment",
        ),
        (
            (*SHORTEST, "--set", "registration.tokens[0].secretName=t,registration.tokens[0].environments={a,a}"),
            "environments",
        ),
        (
            (
                *SHORTEST,
                "--set-json",
                'registration.tokens=[{"secretName":"t"},{"secretName":"t","secretKey":"token"}]',
            ),
            "registration.tokens[1]: the same token as registration.tokens[0]",
        ),
        (
            (*SHORTEST, "--set", "split=environment,environments.a_b.apiKeySecret=x,environments.a-b.apiKeySecret=x"),
            "environments.a_b: cannot name a workload",
        ),
        ((*SHORTEST, "--set-json", "ciliumNetworkPolicy.fqdns=[]"), "fqdns"),
        ((*SHORTEST, "--set-json", "ciliumNetworkPolicy.dnsEndpoints=[]"), "dnsEndpoints"),
        ((*SHORTEST, "--set", "ingress.host=https://a b/c"), "host"),
        ((*SHORTEST, "--set", "httpRoute.enabled=true"), "httpRoute.parentRefs: none"),
        ((*SHORTEST, "--set", "serviceMonitor.enabled=true,podMonitor.enabled=true"), "scrape everything twice"),
        (
            (*SHORTEST, "--set", "split=environment,environments._.apiKeySecret=x"),
            "environments._: cannot name a workload",
        ),
        ((*SHORTEST, "--set", "environments.all.apiKeySecret=x"), "environments.all: is no name of an environment"),
        ((*SHORTEST, "--set", "environments.Eu.apiKeySecret=x"), "environments.Eu: is no name of an environment"),
        ((*SHORTEST, "--set", "serviceMonitor=null"), "serviceMonitor"),
        (
            (
                *SHORTEST,
                "--set",
                f"environments.production.operations[0].id={ID},environments.production.operations[0].labels.team=a",
            ),
            "environments.production.operations[0].labels.team: is not declared. Add it to config.labels.",
        ),
        (
            (
                *SHORTEST,
                "--set",
                "environments.production.proxy=http://proxy:3128,environments.production.proxy_from_environment=true",
            ),
            "environments.production: proxy and proxy_from_environment. Keep one.",
        ),
        (
            (*SHORTEST, "--set", "extraEnv[0].name=https_proxy,extraEnv[0].value=http://proxy:3128"),
            "extraEnv: https_proxy is read by no environment",
        ),
        (
            (
                *SHORTEST,
                "--set",
                (
                    "environments.production.proxy_from_environment=true,"
                    "extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=http://user:hunter2@proxy:3128"
                ),
            ),
            "extraEnv: HTTPS_PROXY has a user and a password",
        ),
        (
            (*SHORTEST, "--set", "ingress.enabled=true,networkPolicy.enabled=true,networkPolicy.fromPrometheus[0].x=y"),
            "fromPrometheus",
        ),
        (
            (
                *SHORTEST,
                "--set",
                (
                    "ingress.enabled=true,networkPolicy.enabled=true,"
                    "networkPolicy.fromPrometheus[0].podSelector.matchLabels.a=b"
                ),
            ),
            "networkPolicy.fromClients: none",
        ),
        (
            (*SHORTEST, "--set", "web.configSecret=w,podMonitor.enabled=true"),
            "podMonitor: has neither scheme: https nor basicAuth",
        ),
        ((*SHORTEST, "--set", "prometheusRule.thresholds.group_error_ratio=5"), "group_error_ratio"),
        (
            (*SHORTEST, "--set", "ingress.enabled=true,ingress.host=k.example,ingress.path=/knock"),
            "as in https://k.example/knock.",
        ),
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


CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "data-knock-exporter-0", "namespace": "default"},
    "spec": {"accessModes": ["ReadWriteOnce"]},
}


def _resources(version: str, *kinds: str) -> dict[str, Any]:
    made = [{"name": f"{kind.lower()}s", "namespaced": True, "kind": kind, "verbs": ["get"]} for kind in kinds]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": made}


# What Helm asks a cluster before it looks something up in it.
API = {
    "/version": {"major": "1", "minor": "31", "gitVersion": "v1.31.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}]}],
    },
    "/api/v1": _resources("v1", "ConfigMap", "PersistentVolumeClaim", "Pod", "Service", "ServiceAccount"),
    "/apis/apps/v1": _resources("apps/v1", "StatefulSet"),
    "/api/v1/namespaces/default/persistentvolumeclaims/data-knock-exporter-0": CLAIM,
}


class Api(BaseHTTPRequestHandler):
    """As much of a cluster as Helm asks for a claim."""

    def do_GET(self) -> None:
        found = API.get(urlsplit(self.path).path)
        body = json.dumps(found or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@each_line
@pytest.mark.parametrize(
    ("release", "args", "mode"),
    [
        ("knock-exporter", (), "ReadWriteOnce"),
        ("knock-exporter", ("--set", "persistence.accessMode=ReadWriteOncePod"), "ReadWriteOncePod"),
        ("other", (), "ReadWriteOncePod"),
    ],
)
def test_a_volume_that_is_there_keeps_its_access_mode(
    line: int, release: str, args: tuple[str, ...], mode: str, tmp_path: Path
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as api:
        threading.Thread(target=api.serve_forever).start()
        try:
            nobody = tmp_path / "config"
            nobody.write_text("{apiVersion: v1, kind: Config}")
            cluster = f"--kube-apiserver=http://127.0.0.1:{api.server_port}"
            at = (f"--kubeconfig={nobody}", cluster, "--dry-run=server")
            whole = (*SHORTEST, "--set", "persistence.enabled=true", *args)
            lenient = ("--disable-openapi-validation",) if line > LINES[0] else ()
            done = helm(line, "template", release, CHART, "--namespace=default", *at, *lenient, *whole)
        finally:
            api.shutdown()
    assert done.returncode == 0, done.stderr
    (workload,) = of_kind(documents(done.stdout), "StatefulSet")
    assert workload["spec"]["volumeClaimTemplates"][0]["spec"]["accessModes"] == [mode]


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


@pytest.mark.parametrize("taken", [*flags.TAKEN, "/metrics/"])
def test_an_external_url_that_the_exporter_refuses_is_refused_here(taken: str) -> None:
    done = helm(4, "template", "release", CHART, *SHORTEST, "--set", f"web.externalUrl=https://k.example{taken}")
    assert f"web.externalUrl: the pages would be at {taken.rstrip('/')}" in done.stderr
