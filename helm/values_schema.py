"""values.schema.json: what the defaults cannot tell, and the schemas that it is put together from."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import rules

# The newest that kubernetes-validate knows: what users write for their cluster goes by it.
KUBERNETES = "1.37.0"
KINDS = {
    "core": (
        *("Affinity", "EnvVar", "LocalObjectReference", "PodSecurityContext", "ResourceRequirements"),
        *("SecurityContext", "Toleration", "TopologySpreadConstraint", "Volume", "VolumeMount"),
    ),
    "networking": ("IngressTLS", "NetworkPolicyEgressRule", "NetworkPolicyPeer"),
}
OBJECT, TEXT = {"type": "object"}, {"type": "string"}
# Keys of labels and annotations are alike.
KEY = {"pattern": "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[a-zA-Z0-9]([-._a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$"}
TEXTS = {"type": "object", "propertyNames": KEY, "additionalProperties": TEXT}
LABELS = TEXTS | {
    "additionalProperties": {"type": "string", "pattern": "^([a-zA-Z0-9]([-._a-zA-Z0-9]{0,61}[a-zA-Z0-9])?)?$"}
}
OBJECTS = {"type": "array", "items": OBJECT}
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
HOST_OR_NONE = {"type": "string", "pattern": rf"^(([*]\.)?{_LABEL}(\.{_LABEL})*)?$"}
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


# Cilium's labels have a source before them, as in k8s:app.
SELECTOR = _object(
    matchLabels={"type": "object", "additionalProperties": TEXT},
    matchExpressions=_listed(_object("key", "operator", key=TEXT, operator=TEXT, values=_listed(TEXT))),
)


def _of(kind: str) -> dict[str, Any]:
    """Refer to a kind of Kubernetes."""
    return {"$ref": f"#/definitions/{kind}"}


def of_kubernetes() -> dict[str, Any]:
    """Return KINDS and what they consist of: name to schema, without texts, nothing unknown let in."""
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}-local-strict"
    every = json.loads((folder / "_definitions.json").read_text())["$defs"]
    wanted = [f"io.k8s.api.{group}.v1.{kind}" for group, kinds in KINDS.items() for kind in kinds]
    found: dict[str, Any] = {}
    while wanted:
        name = wanted.pop()
        short = name.rpartition(".")[2]
        if short not in found:
            found[short] = _bare(every[name])
            wanted += re.findall(r'"#/\$defs/([^"]+)"', json.dumps(every[name]))
    number = {"type": ["string", "number"], "pattern": "^[-+]?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+|[KMGTPE]i?|[numk])?$"}
    found["NetworkPolicyPeer"]["minProperties"] = 1
    return dict(sorted(found.items())) | {"Quantity": number, "IntOrString": {"type": ["string", "integer"]}}


def _bare(schema: Any) -> Any:
    """Return a schema of Kubernetes without its texts, and without null, which Helm reads as "not set"."""
    if isinstance(schema, list):
        return [_bare(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _of(schema["$ref"].rpartition(".")[2])
    kept = {key: _bare(value) for key, value in schema.items() if key in {"items", "required", "additionalProperties"}}
    kept |= (
        {"properties": {key: _bare(each) for key, each in schema["properties"].items()}}
        if "properties" in schema
        else {}
    )
    kept |= {"enum": [each for each in schema["enum"] if each is not None]} if "enum" in schema else {}
    kind = schema.get("type")
    return ({"type": kind[0] if isinstance(kind, list) else kind} if kind else {}) | kept


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
    good_for = _listed({"type": "string", "pattern": ENVIRONMENT}, at_least=1) | {"uniqueItems": True}
    token = _object(secretName=NAME, secretKey=SECRET_KEY, remoteRef=remote, environments=good_for)
    kubernetes = {
        "affinity": _of("Affinity"),
        "extraEnv": _listed(_of("EnvVar")),
        "extraVolumeMounts": _listed(_of("VolumeMount")),
        "extraVolumes": _listed(_of("Volume")),
        "imagePullSecrets": _listed(_of("LocalObjectReference")),
        "ingress.tls": _listed(_of("IngressTLS")),
        "networkPolicy.extraEgress": _listed(_of("NetworkPolicyEgressRule")),
        "networkPolicy.fromClients": _listed(_of("NetworkPolicyPeer")),
        "networkPolicy.fromPrometheus": _listed(_of("NetworkPolicyPeer")),
        "podSecurityContext": _of("PodSecurityContext"),
        "resources": _of("ResourceRequirements"),
        "securityContext": _of("SecurityContext"),
        "tolerations": _listed(_of("Toleration")),
        "topologySpreadConstraints": _listed(_of("TopologySpreadConstraint")),
    }
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
        "image.repository": {"type": "string", "pattern": "^[a-z0-9]([-._:/a-zA-Z0-9]*[a-zA-Z0-9])?$"},
        "image.tag": {"type": "string", "pattern": "^([_a-zA-Z0-9][-._a-zA-Z0-9]{0,127})?$"},
        "image.pullPolicy": _one_of("Always", "IfNotPresent", "Never"),
        "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        "registration.tokens": _listed(token),
        "externalSecrets.secretStoreRef": _object(name=NAME_OR_NONE, kind=_one_of("SecretStore", "ClusterSecretStore")),
        "externalSecrets.refreshInterval": {"type": "string", "pattern": "^([0-9]+(s|m|h))+$"},
        "externalSecrets.apiVersion": _one_of("external-secrets.io/v1", "external-secrets.io/v1beta1"),
        "persistence.existingClaim": NAME_OR_NONE,
        "persistence.size": {"type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi|Ti)$"},
        "persistence.storageClass": NAME_OR_NONE,
        "persistence.accessMode": _one_of("", "ReadWriteOnce", "ReadWriteOncePod"),
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
        **dict.fromkeys(("podAnnotations", "serviceAccount.annotations", "persistence.annotations"), TEXTS),
        **dict.fromkeys(("service.annotations", "ingress.annotations", "dashboards.annotations"), TEXTS),
        **dict.fromkeys(("podLabels", "nodeSelector", "prometheusRule.labels", "dashboards.labels"), LABELS),
        "grafanaDashboard.instanceSelector": SELECTOR,
        "terminationGracePeriodSeconds": {"type": "integer", "minimum": 5},
        "priorityClassName": NAME_OR_NONE,
        "podDisruptionBudget.maxUnavailable": {"type": "integer", "minimum": 0},
        "service.type": _one_of("ClusterIP", "NodePort", "LoadBalancer"),
        "ingress.className": NAME_OR_NONE,
        "ingress.host": HOST_OR_NONE,
        "ingress.path": PATH,
        "httpRoute.path": PATH,
        "httpRoute.hostnames": _listed(HOST),
        "httpRoute.parentRefs": _listed(
            _object("name", name=NAME, **dict.fromkeys(("group", "kind", "namespace", "sectionName"), TEXT), port=PORT)
        ),
        "networkPolicy.dns": _listed(_of("NetworkPolicyPeer")),
        "networkPolicy.dnsPorts": _listed(PORT, at_least=1),
        "networkPolicy.privateRanges": _listed(CIDR),
        # Without an entry Cilium would let everything out.
        "ciliumNetworkPolicy.fqdns": _listed(HOST, at_least=1),
        "ciliumNetworkPolicy.dnsEndpoints": _listed(SELECTOR, at_least=1),
        "ciliumNetworkPolicy.extraEgress": OBJECTS,
        "prometheusRule.disabled": _listed(_one_of(*rules.alerts())),
        "prometheusRule.thresholds": _object(**{name: _tuned(name, value) for name, value in thresholds.items()}),
        **kubernetes,
        **_monitors(),
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
    # How long something holds may be 0; a range that a query looks back over may not.
    return {"type": "string", "pattern": f"^{'[0-9]+' if name.endswith('_for') else '[1-9][0-9]*'}(ms|[smhdwy])$"}


def _monitors() -> dict[str, Any]:
    """Return the schemas of both monitors; the operator knows files of TLS in a ServiceMonitor alone."""
    key = _object("key", key=TEXT, name=TEXT, optional={"type": "boolean"})
    source = _object(secret=key, configMap=key)
    tls: dict[str, Any] = {"ca": source, "cert": source, "keySecret": key, "serverName": TEXT}
    tls |= {"insecureSkipVerify": {"type": "boolean"}}
    tls |= dict.fromkeys(("minVersion", "maxVersion"), _one_of("TLS10", "TLS11", "TLS12", "TLS13"))
    files = dict.fromkeys(("caFile", "certFile", "keyFile"), TEXT)
    texts = dict.fromkeys(("separator", "targetLabel", "regex", "replacement"), TEXT)
    actions = ("replace", "keep", "drop", "hashmod", "labelmap", "labeldrop", "labelkeep", "lowercase", "uppercase")
    relabeling = _object(
        **texts,
        sourceLabels=_listed({"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}),
        modulus={"type": "integer", "minimum": 0},
        action=_one_of(*actions, "keepequal", "dropequal"),
    )
    return {
        f"{kind}.{name}": value
        for kind, more in (("serviceMonitor", files), ("podMonitor", {}))
        for name, value in {
            "labels": LABELS,
            "scheme": _one_of("http", "https"),
            "tlsConfig": _object(**tls, **more),
            "basicAuth": _object(username=key, password=key),
            "relabelings": _listed(relabeling),
            "metricRelabelings": _listed(relabeling),
            "interval": INTERVAL,
            "scrapeTimeout": INTERVAL,
        }.items()
    }
