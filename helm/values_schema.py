"""values.schema.json: what the defaults cannot tell. Types of Kubernetes and of operators are left to the cluster."""

from __future__ import annotations

import re
from typing import Any

import rules

OBJECT, TEXT = {"type": "object"}, {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
OBJECTS = {"type": "array", "items": OBJECT}
PULL_SECRETS = {"type": "array", "items": {"type": ["string", "object"]}}
# Whatever the cluster's version of Kubernetes takes.
OF_KUBERNETES = (
    "livenessProbe",
    "podSecurityContext",
    "readinessProbe",
    "resources",
    "securityContext",
    "startupProbe",
)
LISTS_OF_KUBERNETES = (
    *(
        "extraContainers",
        "extraEnv",
        "extraEnvFrom",
        "extraVolumeMounts",
        "extraVolumes",
        "hostAliases",
        "initContainers",
    ),
    *("service.extraPorts", "tolerations", "topologySpreadConstraints", "ingress.tls", "httpRoute.parentRefs"),
    *("networkPolicy.dns", "networkPolicy.extraEgress", "networkPolicy.fromClients", "networkPolicy.fromPrometheus"),
    *("ciliumNetworkPolicy.extraEgress", "serviceMonitor.metricRelabelings", "serviceMonitor.relabelings"),
    *("podMonitor.metricRelabelings", "podMonitor.relabelings"),
)
_MONITOR: dict[str, tuple[str, ...]] = {
    "boolean": (
        *("convertClassicHistogramsToNHCB", "enableHttp2", "filterRunning", "followRedirects", "honorTimestamps"),
        *("proxyFromEnvironment", "scrapeClassicHistograms", "scrapeNativeHistograms", "trackTimestampsStaleness"),
    ),
    "integer": (
        *("keepDroppedTargets", "labelLimit", "labelNameLengthLimit", "labelValueLengthLimit"),
        *("nativeHistogramBucketLimit", "sampleLimit", "targetLimit"),
    ),
    "string": (
        *(
            "bodySizeLimit",
            "fallbackScrapeProtocol",
            "jobLabel",
            "nativeHistogramMinBucketFactor",
            "noProxy",
            "proxyUrl",
        ),
        *("scrapeClass", "selectorMechanism"),
    ),
    "array": ("podTargetLabels", "scrapeProtocols"),
    "object": ("attachMetadata", "authorization", "bearerTokenSecret", "oauth2", "params", "proxyConnectHeader"),
}
OTHERS: dict[str, dict[str, tuple[str, ...]]] = {
    "service": {
        "boolean": ("allocateLoadBalancerNodePorts", "publishNotReadyAddresses"),
        "integer": ("healthCheckNodePort",),
        "string": (
            *("clusterIP", "externalTrafficPolicy", "internalTrafficPolicy", "ipFamilyPolicy", "loadBalancerClass"),
            *("loadBalancerIP", "sessionAffinity", "trafficDistribution"),
        ),
        "array": ("clusterIPs", "externalIPs", "ipFamilies", "loadBalancerSourceRanges"),
        "object": ("sessionAffinityConfig",),
    },
    "serviceMonitor": _MONITOR
    | {
        "string": (*_MONITOR["string"], "bearerTokenFile", "serviceDiscoveryRole"),
        "array": (*_MONITOR["array"], "targetLabels"),
    },
    "podMonitor": _MONITOR,
}
# A file of a Secret: a file's name, not a path.
SECRET_KEY = {"type": "string", "pattern": "^[-._a-zA-Z0-9]*[-_a-zA-Z0-9][-._a-zA-Z0-9]*$", "maxLength": 253}
INTERVAL = {"type": "string", "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"}
NAME_OR_NONE = {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$"}
PART = {"type": "string", "pattern": "^([a-z]([-a-z0-9]{0,50}[a-z0-9])?)?$"}
PATH = {"type": "string", "pattern": "^/([-._~a-zA-Z0-9]+/)*([-._~a-zA-Z0-9]+)?$"}
# As the exporter's --web.external-url takes it, addresses of IPv6 apart.
EXTERNAL_URL = {
    "type": "string",
    "pattern": "^(https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?)?$",
}
_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
HOST = {"type": "string", "pattern": rf"^([*]\.)?{_LABEL}(\.{_LABEL})*$"}
_BYTE = "(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_CIDR_4, _CIDR_6 = rf"{_BYTE}(\.{_BYTE}){{3}}/([1-9]|[12][0-9]|3[0-2])", "[0-9a-f:]*:[0-9a-f:]*/[1-9][0-9]{0,2}"
CIDR = {"type": "string", "pattern": f"^({_CIDR_4}|{_CIDR_6})$"}
# What can stand in a rule's text as it is: no space, quote, backslash or brace.
VISIBLE = r"[!#-&(-\[\]-z|~]"
# Knock's environments.
ENVIRONMENT = "^[a-z0-9_-]{1,63}$"
NOT_HERE = {
    "environments": ("name", "api_key", "api_key_env", "api_key_file"),
    "": ("environments", "registration", "storage"),
}


def _one_of(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    made = {"type": "object", "additionalProperties": False, "properties": properties}
    return made | ({"required": list(required)} if required else {})


def _listed(item: dict[str, Any], at_least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": item} | ({"minItems": at_least} if at_least else {})


def portable(schema: Any) -> Any:
    """Return it for Helm: patterns without looking ahead, and defaults left to the exporter."""
    if isinstance(schema, dict):
        kept = {name: portable(value) for name, value in schema.items() if name != "default"}
        if isinstance(kept.get("pattern"), str):
            kept["pattern"] = re.sub(r"\(\?[=!][^)]*\)", "", kept["pattern"])
            if re.search(kept["pattern"], "") and not re.search(schema["pattern"], ""):
                kept["minLength"] = 1
        if "$ref" in kept:
            kept = {"$ref": kept["$ref"]}
        return kept
    return [portable(each) for each in schema] if isinstance(schema, list) else schema


def special(exporter: dict[str, Any], thresholds: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas that a default value does not tell, by path."""
    environment = dict(exporter["$defs"]["EnvironmentSettings"]["properties"])
    own = {key: value for key, value in environment.items() if key not in NOT_HERE["environments"]}
    whole = {key: value for key, value in exporter["properties"].items() if key not in NOT_HERE[""]}
    some = {"type": "string", "minLength": 1}
    remote = _object("key", key=some, property=some, version=some)
    secret = {"apiKeySecret": NAME, "apiKeySecretKey": SECRET_KEY, "apiKeyRemoteRef": remote}
    adapt = {"adaptSecurityContext": _one_of("auto", "force", "disabled")}
    openshift = {
        "compatibility": {"type": "object", "properties": {"openshift": {"type": "object", "properties": adapt}}}
    }
    good_for = _listed({"type": "string", "pattern": ENVIRONMENT}, at_least=1) | {"uniqueItems": True}
    token = _object(secretName=NAME, secretKey=SECRET_KEY, remoteRef=remote, environments=good_for)
    return {
        "nameOverride": PART,
        "fullnameOverride": PART,
        "environments": {
            "type": "object",
            # Which names there may be is checked in templates: Helm would name another place.
            "additionalProperties": _object(**secret, **own),
        },
        "config": _object(**whole),
        "split": _one_of("none", "environment"),
        # Other charts of a release have values here, too.
        "global": {
            "type": "object",
            "properties": {"imageRegistry": TEXT, "imagePullSecrets": PULL_SECRETS} | openshift,
        },
        "imagePullSecrets": PULL_SECRETS,
        "image.repository": {"type": "string", "pattern": "^[a-z0-9]([-._:/a-zA-Z0-9]*[a-zA-Z0-9])?$"},
        "image.tag": {"type": "string", "pattern": "^([_a-zA-Z0-9][-._a-zA-Z0-9]{0,127})?$"},
        "image.pullPolicy": _one_of("Always", "IfNotPresent", "Never"),
        "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        "registration.tokens": _listed(token),
        "externalSecrets.secretStoreRef": _object(name=NAME_OR_NONE, kind=_one_of("SecretStore", "ClusterSecretStore")),
        "externalSecrets.refreshInterval": {"type": "string", "pattern": "^([0-9]+(s|m|h))+$"},
        "externalSecrets.apiVersion": _one_of("external-secrets.io/v1", "external-secrets.io/v1beta1"),
        "persistence.existingClaim": NAME_OR_NONE,
        "persistence.size": {"type": "string", "pattern": "^[1-9][0-9]*([KMGT]i|[kMGT])$"},
        "persistence.accessModes": _listed(_one_of("ReadWriteOnce", "ReadWriteOncePod"), at_least=1),
        "web.port": PORT,
        "web.healthPort": PORT,
        "web.configSecret": NAME_OR_NONE,
        "web.configRemoteRef": _object(key=some, version=some),
        "web.configSecretKey": SECRET_KEY,
        "web.externalUrl": EXTERNAL_URL,
        "log.level": _one_of("debug", "info", "warning", "error"),
        "log.format": _one_of("logfmt", "json"),
        "extraArgs": _listed(TEXT),
        "extraObjects": _listed(
            {"type": "object", "required": ["apiVersion", "kind"], "properties": {"apiVersion": TEXT, "kind": TEXT}}
        ),
        "serviceAccount.name": NAME_OR_NONE,
        **dict.fromkeys(OF_KUBERNETES, OBJECT),
        **dict.fromkeys(LISTS_OF_KUBERNETES, OBJECTS),
        "dashboards.labels": TEXTS,
        "nodeSelector": TEXTS,
        "revisionHistoryLimit": {"type": "integer", "minimum": 0},
        "terminationGracePeriodSeconds": {"type": "integer", "minimum": 5},
        "podDisruptionBudget.maxUnavailable": {"type": "integer", "minimum": 0},
        "podDisruptionBudget.unhealthyPodEvictionPolicy": _one_of("", "AlwaysAllow", "IfHealthyBudget"),
        "service.type": _one_of("ClusterIP", "NodePort", "LoadBalancer"),
        "service.port": PORT | {"minimum": 0},
        "service.targetPort": {"type": ["integer", "string"]},
        "service.nodePort": PORT | {"minimum": 0},
        "ingress.hosts": _listed(HOST),
        "ingress.path": PATH,
        "ingress.pathType": _one_of("Prefix", "Exact", "ImplementationSpecific"),
        "httpRoute.path": PATH,
        "httpRoute.hostnames": _listed(HOST),
        "networkPolicy.dnsPorts": _listed(PORT, at_least=1),
        "networkPolicy.privateRanges": _listed(CIDR),
        # Without an entry Cilium would let everything out.
        "ciliumNetworkPolicy.fqdns": _listed(HOST, at_least=1),
        "ciliumNetworkPolicy.dnsEndpoints": _listed(OBJECT, at_least=1),
        "prometheusRule.disabled": _listed(_one_of(*rules.alerts())),
        "prometheusRule.thresholds": _object(**{name: _tuned(name, value) for name, value in thresholds.items()}),
        **{
            f"{monitor}.{name}": value
            for monitor in ("serviceMonitor", "podMonitor")
            for name, value in {
                "scheme": _one_of("http", "https"),
                "interval": INTERVAL,
                "scrapeTimeout": INTERVAL,
            }.items()
        },
    }


def _tuned(name: str, value: Any) -> dict[str, Any]:
    """Return what a threshold may be: these texts are put into rules, where a wrong one would break them all."""
    if isinstance(value, (int, float)):
        return {"type": "number", "minimum": 0} | ({"maximum": 1} if name.endswith("_ratio") else {})
    if name == "job":
        matcher = rf'[a-zA-Z_][a-zA-Z0-9_]*(=|!=|=~|!~)"{VISIBLE}*"'
        return {"type": "string", "pattern": f"^{matcher}(, *{matcher})*$"}
    if name in {"runbooks", "dashboards"}:
        return {"type": "string", "pattern": f"^https?://{VISIBLE}+$"}
    duration = {"type": "string", "pattern": f"^{rules.DURATION}$", "minLength": 1}
    # How long something holds may be 0; a range that a query looks back over may not.
    return duration if name.endswith(("_for", "keep_firing")) else duration | {"allOf": [{"pattern": "[1-9]"}]}


def others() -> dict[str, dict[str, Any]]:
    """Return the fields of Services and monitors that values.yaml does not list, by section."""
    return {
        section: {name: {"type": kind} for kind, names in fields.items() for name in names}
        for section, fields in OTHERS.items()
    }
