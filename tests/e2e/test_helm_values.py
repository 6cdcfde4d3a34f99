"""Every value of the chart shows in what is rendered: one that is set and ignored would be found by its user only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import chart
import pytest
import values_schema
from charts import ID, of_kind, rendered
from kubernetes_kinds import is_described
from operator_kinds import lost

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

DIGEST = "sha256:0123456789012345678901234567890123456789012345678901234567890123"
PEER = {"podSelector": {"matchLabels": {"changed": "changed"}}}
RELABELING = {"targetLabel": "changed", "replacement": "changed"}
# All that there is, switched on.
BASE: dict[str, Any] = {
    "environments.production.apiKeySecret": "knock",
    "environments.production.operations": [ID],
    "environments.staging.apiKeyRemoteRef": {"key": "staging"},
    "externalSecrets.secretStoreRef.name": "vault",
    "registration.tokens": [{"secretName": "token"}],
    "persistence.enabled": True,
    "web.configSecret": "web",
    "web.externalUrl": "https://knock.example/knock",
    "podDisruptionBudget.enabled": True,
    "ingress.enabled": True,
    "ingress.path": "/knock",
    "httpRoute.enabled": True,
    "httpRoute.path": "/knock",
    "httpRoute.parentRefs": [{"name": "gateway"}],
    "networkPolicy.enabled": True,
    "networkPolicy.fromPrometheus": [{"podSelector": {}}],
    "networkPolicy.fromClients": [{"podSelector": {}}],
    "ciliumNetworkPolicy.enabled": True,
    "serviceMonitor.enabled": True,
    "serviceMonitor.scheme": "https",
    "prometheusRule.enabled": True,
    "dashboards.enabled": True,
    "grafanaDashboard.enabled": True,
}
# What has to be so for values below it to matter.
WHERE: dict[str, dict[str, Any]] = {
    "networkPolicy.": {"ciliumNetworkPolicy.enabled": False},
    "podMonitor.": {"serviceMonitor.enabled": False, "podMonitor.enabled": True, "podMonitor.scheme": "https"},
    "web.configRemoteRef": {"web.configSecret": ""},
    "web.externalUrl": {"ingress.enabled": False, "httpRoute.enabled": False},
    "ingress.path": {"web.externalUrl": "", "httpRoute.enabled": False, "ingress.path": "/"},
    "httpRoute.path": {"web.externalUrl": "", "ingress.enabled": False, "httpRoute.path": "/"},
}
# Long texts, of which only their own values say anything.
TEXTS = ("prometheusRule", "dashboards", "grafanaDashboard")
WITHOUT_TEXTS = dict.fromkeys((f"{each}.enabled" for each in TEXTS), False)
# Another value for each, and what goes with it.
CHANGED: dict[str, Any] = {
    "nameOverride": "changed",
    "fullnameOverride": "changed",
    "namespaceOverride": "changed",
    "commonLabels": {"changed": "changed"},
    "commonAnnotations": {"changed": "changed"},
    "global.imageRegistry": "changed",
    "global.imagePullSecrets": ["changed"],
    "global.compatibility.openshift.adaptSecurityContext": "force",
    "image.registry": "changed",
    "image.repository": "changed",
    "image.tag": "changed",
    "image.digest": DIGEST,
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "changed"}],
    "environments": {"changed": {"apiKeySecret": "changed"}},
    "config": {"rate_limit": 7.25},
    "split": "environment",
    "registration.tokens": [{"secretName": "changed"}],
    "externalSecrets.secretStoreRef": {"name": "changed", "kind": "ClusterSecretStore"},
    "externalSecrets.refreshInterval": "7m",
    "externalSecrets.apiVersion": "external-secrets.io/v1beta1",
    "persistence.enabled": False,
    "persistence.existingClaim": "changed",
    "persistence.size": "7Gi",
    "persistence.storageClass": "changed",
    "persistence.accessModes": ["ReadWriteOncePod"],
    "persistence.annotations": {"changed": "changed"},
    "persistence.labels": {"changed": "changed"},
    "persistence.selector": {"matchLabels": {"changed": "changed"}},
    "maintenance": True,
    "web.port": 9000,
    "web.healthPort": 9000,
    "web.configSecret": "changed",
    "web.configRemoteRef": {"key": "changed"},
    "web.configSecretKey": "changed",
    "web.externalUrl": "https://changed.example",
    "web.enableLifecycle": True,
    "log.level": "debug",
    "log.format": "json",
    "extraArgs": ["--changed"],
    "extraEnv": [{"name": "CHANGED", "value": "changed"}],
    "extraEnvFrom": [{"secretRef": {"name": "changed"}}],
    "initContainers": [{"name": "changed", "image": "changed"}],
    "extraContainers": [{"name": "changed", "image": "changed"}],
    "extraVolumes": [{"name": "changed", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "changed", "mountPath": "/changed"}],
    "extraObjects": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "{{ .Release.Name }}-changed"}}],
    "serviceAccount.create": False,
    "serviceAccount.name": "changed",
    "serviceAccount.annotations": {"changed": "changed"},
    "serviceAccount.labels": {"changed": "changed"},
    "automountServiceAccountToken": True,
    "deploymentAnnotations": {"changed": "changed"},
    "deploymentLabels": {"changed": "changed"},
    "revisionHistoryLimit": 7,
    "podAnnotations": {"changed": "changed"},
    "podLabels": {"changed": "changed"},
    "podSecurityContext": {"runAsUser": 7777},
    "securityContext": {"procMount": "changed"},
    "resources": {"limits": {"memory": "777Mi"}},
    "terminationGracePeriodSeconds": 77,
    **{f"{probe}Probe": {"periodSeconds": 777} for probe in ("liveness", "readiness", "startup")},
    "lifecycle": {"preStop": {"exec": {"command": ["changed"]}}},
    "runtimeClassName": "changed",
    "schedulerName": "changed",
    "dnsPolicy": "changed",
    "dnsConfig": {"nameservers": ["changed"]},
    "hostAliases": [{"ip": "changed"}],
    "extraPodConfigs": {"hostname": "changed"},
    "priorityClassName": "changed",
    "nodeSelector": {"changed": "changed"},
    "tolerations": [{"key": "changed", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 7, "topologyKey": "changed", "whenUnsatisfiable": "ScheduleAnyway"}],
    "podDisruptionBudget.enabled": False,
    "podDisruptionBudget.maxUnavailable": 0,
    "podDisruptionBudget.unhealthyPodEvictionPolicy": "AlwaysAllow",
    "service.type": "NodePort",
    "service.port": 7777,
    "service.targetPort": "changed",
    "service.nodePort": 7777,
    "service.extraPorts": [{"name": "changed", "port": 7777}],
    "service.annotations": {"changed": "changed"},
    "service.labels": {"changed": "changed"},
    "ingress.enabled": False,
    "ingress.className": "changed",
    "ingress.annotations": {"changed": "changed"},
    "ingress.labels": {"changed": "changed"},
    "ingress.hosts": ["changed"],
    "ingress.pathType": "Exact",
    "ingress.path": "/changed",
    "ingress.tls": [{"secretName": "changed"}],
    "httpRoute.enabled": False,
    "httpRoute.parentRefs": [{"name": "changed"}],
    "httpRoute.hostnames": ["changed"],
    "httpRoute.annotations": {"changed": "changed"},
    "httpRoute.labels": {"changed": "changed"},
    "httpRoute.path": "/changed",
    "networkPolicy.enabled": False,
    "networkPolicy.fromPrometheus": [PEER],
    "networkPolicy.fromClients": [PEER],
    "networkPolicy.dns": [PEER],
    "networkPolicy.dnsPorts": [7777],
    "networkPolicy.extraEgress": [{"to": [PEER]}],
    "networkPolicy.privateRanges": ["7.0.0.0/8"],
    "ciliumNetworkPolicy.enabled": False,
    "ciliumNetworkPolicy.fqdns": ["changed"],
    "ciliumNetworkPolicy.dnsEndpoints": [{"matchLabels": {"changed": "changed"}}],
    "ciliumNetworkPolicy.extraEgress": [{"toEntities": ["changed"]}],
    **{
        f"{monitor}.{name}": value
        for monitor in ("serviceMonitor", "podMonitor")
        for name, value in {
            "enabled": False,
            "namespace": "changed",
            "labels": {"changed": "changed"},
            "annotations": {"changed": "changed"},
            "honorLabels": True,
            "interval": "7s",
            "scrapeTimeout": "7s",
            "scheme": "http",
            "tlsConfig": {"serverName": "changed"},
            "basicAuth": {"username": {"name": "changed", "key": "changed"}},
            "relabelings": [RELABELING],
            "metricRelabelings": [RELABELING],
        }.items()
    },
    "prometheusRule.enabled": False,
    "prometheusRule.namespace": "changed",
    "prometheusRule.labels": {"changed": "changed"},
    "prometheusRule.annotations": {"changed": "changed"},
    "prometheusRule.additionalRuleLabels": {"changed": "changed"},
    "prometheusRule.additionalRuleAnnotations": {"changed": "changed"},
    "prometheusRule.disabled": ["KnockExporterDown"],
    "prometheusRule.thresholds": {"stuck_seconds": 777},
    "dashboards.enabled": False,
    "dashboards.namespace": "changed",
    "dashboards.labels": {"changed": "changed"},
    "dashboards.annotations": {"changed": "changed"},
    "grafanaDashboard.enabled": False,
    "grafanaDashboard.namespace": "changed",
    "grafanaDashboard.labels": {"changed": "changed"},
    "grafanaDashboard.annotations": {"changed": "changed"},
    "grafanaDashboard.allowCrossNamespaceImport": False,
    "grafanaDashboard.folder": "changed",
    "grafanaDashboard.instanceSelector": {"matchLabels": {"changed": "changed"}},
}
ALONGSIDE: dict[str, dict[str, Any]] = {
    "ingress.path": {"web.externalUrl": "https://knock.example/changed"},
    "httpRoute.path": {"web.externalUrl": "https://knock.example/changed"},
    "serviceMonitor.scheme": {"serviceMonitor.basicAuth": {"username": {"name": "user", "key": "user"}}},
    "podMonitor.scheme": {"podMonitor.basicAuth": {"username": {"name": "user", "key": "user"}}},
}
ALONGSIDE["persistence.enabled"] = {"registration.acceptLossWithoutPersistence": True}
# What takes other values away.
ALONE = {
    *("nameOverride", "fullnameOverride", "environments", "persistence.existingClaim", "web.configSecret"),
    *("web.configRemoteRef", "namespaceOverride", "global.imageRegistry"),
}
# It only lets an install through: test_helm_refused.py has it refused and let through.
NOT_SHOWN = {"registration.acceptLossWithoutPersistence"}


def made(values: dict[str, Any]) -> str:
    """Render values given by path, as one text in order."""
    told = [word for path, value in values.items() for word in ("--set-json", f"{path}={json.dumps(value)}")]
    return json.dumps(rendered(4, *told))


def test_ports_are_nowhere_fixed() -> None:
    text = made(BASE | WITHOUT_TEXTS | {"web.port": 9000, "web.healthPort": 9001})
    assert "10187" not in text
    assert "10188" not in text


def test_objects_of_the_users_own_are_templates() -> None:
    assert "release-changed" in made(BASE | {"extraObjects": CHANGED["extraObjects"]})


def test_each_value_has_a_change() -> None:
    rows = [line.split("`")[1] for line in chart.documents()["README.md"].splitlines() if line.startswith("| `")]
    known = {path.removesuffix(".name").removesuffix(".kind") if "secretStoreRef" in path else path for path in rows}
    assert CHANGED.keys() | NOT_SHOWN == known


def optional(schema: dict[str, Any], before: str = "") -> Iterator[str]:
    """Yield the paths of values that are not required."""
    for name, part in schema["properties"].items():
        if name not in schema.get("required", ()):
            yield f"{before}{name}"
        elif "properties" in part:
            yield from optional(part, f"{before}{name}.")


def test_each_value_that_is_not_required_can_be_null() -> None:
    schema = json.loads(chart.schema())
    unset = [f"{section}.{name}" for section, names in values_schema.others().items() for name in names]
    nothing = {path for path in optional(schema) if not any(each.startswith(path) for each in BASE)} - {
        "enabled",
        *unset,
    }
    assert {"commonLabels", "service.labels", "global.compatibility", "livenessProbe", "resources"} <= nothing
    made(BASE | WITHOUT_TEXTS | dict.fromkeys(sorted(nothing)))


def where(path: str) -> dict[str, Any]:
    """Return the values with which the one at this path matters."""
    base = BASE if path.startswith(TEXTS) else BASE | WITHOUT_TEXTS
    return base | {
        name: value for start, more in WHERE.items() if path.startswith(start) for name, value in more.items()
    }


def marked(path: str) -> Any:
    """Return another value for a path, with the path's number where it says "changed"."""
    return json.loads(json.dumps(CHANGED[path]).replace("changed", f"changed{list(CHANGED).index(path):03}"))


TOGETHER = [path for path in CHANGED if "changed" in json.dumps(CHANGED[path]) and path not in ALONE | ALONGSIDE.keys()]


def test_each_value_that_is_a_name_or_holds_one_shows() -> None:
    hidden = []
    rest = list(TOGETHER)
    while rest:
        base = where(rest[0])
        some = [path for path in rest if where(path) == base]
        text = made(base | {path: marked(path) for path in some})
        hidden += [path for path in some if f"changed{list(CHANGED).index(path):03}" not in text]
        rest = [path for path in rest if path not in some]
    assert hidden == []


@pytest.mark.parametrize("path", [path for path in CHANGED if path not in TOGETHER])
def test_each_value_shows(path: str) -> None:
    base = where(path)
    before = made(base)
    after = made(base | ALONGSIDE.get(path, {}) | {path: CHANGED[path]})
    assert after != before
    if "changed" in json.dumps(CHANGED[path]):
        assert "changed" in after


# Fields of Services and monitors that values.yaml does not list.
SECRET = {"name": "made-up", "key": "made-up"}
BY_TYPE = {
    "boolean": False,
    "integer": 7,
    "string": "made-up",
    "array": ["made-up"],
    "object": {"made-up": ["made-up"]},
}
FIELDS: dict[str, Any] = {
    "attachMetadata": {"node": True},
    "authorization": {"credentials": SECRET},
    "bearerTokenSecret": SECRET,
    "bodySizeLimit": "1MB",
    "fallbackScrapeProtocol": "PrometheusText0.0.4",
    "healthCheckNodePort": 30000,
    "nativeHistogramMinBucketFactor": "1.5",
    "oauth2": {"clientId": {"secret": SECRET}, "clientSecret": SECRET, "tokenUrl": "https://made-up.example"},
    "proxyConnectHeader": {"made-up": [SECRET]},
    "proxyUrl": "http://made-up.example",
    "scrapeProtocols": ["PrometheusText0.0.4"],
    "selectorMechanism": "RoleSelector",
    "serviceDiscoveryRole": "EndpointSlice",
    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}},
}
OF_SERVICES = {
    "externalTrafficPolicy": "Local",
    "internalTrafficPolicy": "Local",
    "ipFamilies": ["IPv4"],
    "ipFamilyPolicy": "SingleStack",
    "sessionAffinity": "ClientIP",
    "trafficDistribution": "PreferClose",
}
# Of operators later than the one whose definitions the tests have (0.80).
LATER = {
    *("convertClassicHistogramsToNHCB", "noProxy", "proxyConnectHeader", "proxyFromEnvironment"),
    *("scrapeNativeHistograms", "selectorMechanism", "serviceDiscoveryRole"),
}


def fields(section: str) -> dict[str, Any]:
    made_up = {name: BY_TYPE[schema["type"]] for name, schema in values_schema.others()[section].items()}
    known = FIELDS | OF_SERVICES if section == "service" else FIELDS
    return made_up | {name: known[name] for name in made_up.keys() & known.keys()}


@pytest.mark.parametrize(
    ("section", "kind", "endpoints"),
    [("serviceMonitor", "ServiceMonitor", "endpoints"), ("podMonitor", "PodMonitor", "podMetricsEndpoints")],
)
def test_every_field_of_a_monitor_can_be_set(section: str, kind: str, endpoints: str) -> None:
    told = [
        word
        for name, value in fields(section).items()
        for word in ("--set-json", f"{section}.{name}={json.dumps(value)}")
    ]
    named = ("--set", "environments.production.apiKeySecret=knock", "--set", f"{section}.enabled=true")
    (monitor,) = of_kind(rendered(4, *named, *told), kind)
    (endpoint,) = monitor["spec"][endpoints]
    assert fields(section).items() <= (monitor["spec"] | endpoint).items()
    assert {place.rpartition(".")[2] for place in lost(monitor)} <= LATER


def test_every_field_of_a_service_can_be_set() -> None:
    told = [
        word
        for name, value in fields("service").items()
        for word in ("--set-json", f"service.{name}={json.dumps(value)}")
    ]
    (service,) = of_kind(rendered(4, "--set", "environments.production.apiKeySecret=knock", *told), "Service")
    assert fields("service").items() <= service["spec"].items()
    assert is_described(service, "1.37")
