"""What is generated in the chart: schema, README, copies of rules and dashboards. `make chart` writes it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import rules
import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "knock-exporter"
MONITORING = ROOT / "monitoring"
NOTE = "# Generated from monitoring/ by `make chart`; thresholds are filled in by templates/prometheusrule.yaml.\n"
OBJECT, TEXT = {"type": "object"}, {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
OBJECTS = {"type": "array", "items": {"type": "object"}}
SECRET_KEY = {"type": "string", "minLength": 1}
INTERVAL = {"type": "string", "pattern": "^([0-9]+(ms|[smhd]))?$"}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"}
# Knock's environments: `all` is a word of registration.
ENVIRONMENT = "^[a-z0-9_-]{1,63}$"
NOT_HERE = {
    "environments": ("name", "api_key", "api_key_env", "api_key_file"),
    "": ("environments", "registration", "storage"),
}


def _one_of(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _portable(schema: Any) -> Any:
    """Return it for Helm: patterns without looking ahead, and defaults left to the exporter."""
    if isinstance(schema, dict):
        kept = {name: _portable(value) for name, value in schema.items() if name != "default"}
        if isinstance(kept.get("pattern"), str):
            kept["pattern"] = re.sub(r"\(\?[=!][^)]*\)", "", kept["pattern"])
        if "$ref" in kept:
            kept = {"$ref": kept["$ref"]}
        return kept
    return [_portable(each) for each in schema] if isinstance(schema, list) else schema


def _special(exporter: dict[str, Any], thresholds: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas that a default value does not tell, by path."""
    environment = dict(exporter["$defs"]["EnvironmentKeys"]["properties"])
    own = {key: value for key, value in environment.items() if key not in NOT_HERE["environments"]}
    whole = {key: value for key, value in exporter["properties"].items() if key not in NOT_HERE[""]}
    secret = {"apiKeySecret": NAME, "apiKeySecretKey": SECRET_KEY}
    token = {
        "secretName": NAME,
        "secretKey": SECRET_KEY,
        "environments": {"type": "array", "items": {"type": "string", "pattern": ENVIRONMENT}},
    }
    numbers = {"type": "number", "minimum": 0}
    tuned = {name: numbers if isinstance(value, (int, float)) else TEXT for name, value in thresholds.items()}
    peers: dict[str, Any] = dict.fromkeys(
        ("networkPolicy.fromPrometheus", "networkPolicy.fromClients", "networkPolicy.extraEgress"), OBJECTS
    )
    monitors = {
        f"{kind}.{key}": value
        for kind in ("serviceMonitor", "podMonitor")
        for key, value in {
            "labels": TEXTS,
            "scheme": _one_of("http", "https"),
            "relabelings": OBJECTS,
            "metricRelabelings": OBJECTS,
            "interval": INTERVAL,
            "scrapeTimeout": INTERVAL,
        }.items()
    }
    return {
        "environments": {
            "type": "object",
            "propertyNames": {"pattern": ENVIRONMENT, "not": {"const": "all"}},
            "additionalProperties": {"type": "object", "additionalProperties": False, "properties": secret | own},
        },
        "config": {"type": "object", "additionalProperties": False, "properties": whole},
        "split": _one_of("none", "environment"),
        "image.pullPolicy": _one_of("Always", "IfNotPresent", "Never"),
        "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        "imagePullSecrets": OBJECTS,
        "registration.tokens": {
            "type": "array",
            "items": {"type": "object", "additionalProperties": False, "properties": token, "required": ["secretName"]},
        },
        "persistence.size": {"type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi|Ti)$"},
        "persistence.accessMode": _one_of("", "ReadWriteOnce", "ReadWriteOncePod"),
        "web.port": PORT,
        "web.healthPort": PORT,
        "log.level": _one_of("debug", "info", "warning", "error"),
        "log.format": _one_of("logfmt", "json"),
        "extraArgs": {"type": "array", "items": {"type": "string"}},
        **dict.fromkeys(("extraEnv", "extraVolumes", "extraVolumeMounts", "extraObjects", "tolerations"), OBJECTS),
        **dict.fromkeys(("topologySpreadConstraints", "ingress.tls", "httpRoute.parentRefs"), OBJECTS),
        **dict.fromkeys(("podAnnotations", "podLabels", "nodeSelector", "serviceAccount.annotations"), TEXTS),
        **dict.fromkeys(("persistence.annotations", "service.annotations", "ingress.annotations"), TEXTS),
        **dict.fromkeys(("prometheusRule.labels", "dashboards.labels", "dashboards.annotations"), TEXTS),
        **dict.fromkeys(("podSecurityContext", "securityContext", "resources"), OBJECT),
        "grafanaDashboard.instanceSelector": OBJECT,
        "terminationGracePeriodSeconds": {"type": "integer", "minimum": 5},
        "podDisruptionBudget.maxUnavailable": {"type": "integer", "minimum": 0},
        "service.type": _one_of("ClusterIP", "NodePort", "LoadBalancer"),
        "ingress.path": {"type": "string", "pattern": "^/"},
        "httpRoute.path": {"type": "string", "pattern": "^/"},
        "httpRoute.hostnames": {"type": "array", "items": TEXT},
        "networkPolicy.privateRanges": {"type": "array", "items": TEXT},
        "ciliumNetworkPolicy.fqdns": {"type": "array", "items": TEXT},
        "prometheusRule.disabled": {"type": "array", "items": {"type": "string", "enum": list(rules.alerts())}},
        "prometheusRule.thresholds": {"type": "object", "additionalProperties": False, "properties": tuned},
        **peers,
        **monitors,
    }


def _values() -> tuple[yaml.MappingNode, list[str]]:
    """Return values.yaml with its places, and its lines, which have the comments."""
    text = (CHART / "values.yaml").read_text()
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)  # noqa: S101 - our own file
    return node, text.splitlines()


def _described(lines: list[str], line: int) -> str:
    """Return the comment above a key, as helm-docs reads it."""
    found: list[str] = []
    for text in reversed(lines[:line]):
        if not text.strip().startswith("#"):
            break
        found.insert(0, text.strip().removeprefix("#").strip())
    kept = [text.removeprefix("-- ") for text in found if not text.startswith("@")]
    return " ".join(kept)


def _walk(node: yaml.MappingNode, lines: list[str], special: dict[str, Any], before: str = "") -> dict[str, Any]:
    properties = {}
    for key, value in node.value:
        path = f"{before}{key.value}"
        made = special.get(path)
        if made is None and isinstance(value, yaml.MappingNode) and value.value:
            made = _walk(value, lines, special, f"{path}.")
        elif made is None:
            default = yaml.safe_load(yaml.serialize(value))
            made = {
                "type": {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}[type(default)]
            }
        text = _described(lines, key.start_mark.line)
        properties[key.value] = made | ({"description": text} if text else {})
    return {"type": "object", "additionalProperties": False, "properties": properties}


def schema() -> str:
    """Return values.schema.json: what the defaults tell, and the exporter's own schema for its own keys."""
    exporter = json.loads((ROOT / "docs" / "config.schema.json").read_text())
    whole = _walk(*_values(), _special(exporter, _thresholds()))
    whole["properties"]["global"] = OBJECT
    parts = {
        name: part
        for name, part in exporter["$defs"].items()
        if name in {"HttpSourceKeys", "OperationKeys", "PollingKeys"}
    }
    made = {"$schema": "http://json-schema.org/draft-07/schema#", **whole, "definitions": parts}
    return json.dumps(_portable(made), indent=2).replace("#/$defs/", "#/definitions/") + "\n"


def _thresholds() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(rules.THRESHOLDS.read_text())
    return {name: value for name, value in values.items() if name != "disabled"}


def _table() -> str:
    whole, lines = _values()
    found: list[str] = []

    def walk(node: yaml.MappingNode, before: str) -> None:
        for key, value in node.value:
            text = _described(lines, key.start_mark.line)
            if not text and isinstance(value, yaml.MappingNode):
                walk(value, f"{before}{key.value}.")
            else:
                default = json.dumps(yaml.safe_load(yaml.serialize(value)))
                found.append(f"| `{before}{key.value}` | `{default}` | {text} |")

    walk(whole, "")
    return "\n".join(["| value | default | |", "| --- | --- | --- |", *found])


def documents() -> dict[str, str]:
    """Return everything that is generated, path in the chart to text."""
    marks: dict[str, Any] = {name: f"[[{name}]]" for name in _thresholds()} | {"disabled": []}
    made = {f"files/{name}": text.replace(rules.HEADER, NOTE) for name, text in rules.made(marks).items()}
    copied = {
        f"files/dashboards/{file.name}": file.read_text() for file in sorted((MONITORING / "dashboards").iterdir())
    }
    readme = (CHART / "README.md.gotmpl").read_text().replace("VALUES", _table())
    return {
        **made,
        **copied,
        "files/thresholds.yaml": NOTE + yaml.safe_dump(_thresholds(), sort_keys=False, width=1000),
        "values.schema.json": schema(),
        "README.md": readme,
    }


def main() -> None:
    """Write all of it."""
    for name, text in documents().items():
        file = CHART / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    main()
