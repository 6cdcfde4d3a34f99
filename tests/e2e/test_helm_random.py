"""Whatever the schema of the values accepts renders, and what renders is as Kubernetes and the operator describe it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pytest
from charts import CHART, KUBERNETES, LINES, configurations, documents, helm
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from kubernetes_kinds import is_described
from operator_kinds import KINDS, lost
from schema_values import values
from values_schema import others

from exporter import config
from exporter.errors import ConfigError

pytestmark = pytest.mark.e2e

OTHERS_OF = others()
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
DEFINITIONS = SCHEMA["definitions"]
SECTIONS = SCHEMA["properties"]
for section, part in SECTIONS.items():
    part.pop("required", None)  # the defaults have all of it
    for name in OTHERS_OF.get(
        section, {}
    ):  # types of the operator and of Kubernetes: test_helm_values.py has all of them
        del part["properties"][name]
SWITCHES = [name for name, part in SECTIONS.items() if "enabled" in part.get("properties", ())]
RANDOM = values(SCHEMA, DEFINITIONS)
ENVIRONMENTS = st.dictionaries(
    st.from_regex("[a-z0-9_-]{1,63}", fullmatch=True).filter(lambda name: name != "all"),
    values(SECTIONS["environments"]["additionalProperties"], DEFINITIONS),
    min_size=1,
    max_size=3,
)
TOKENS = values(SECTIONS["registration"]["properties"]["tokens"], DEFINITIONS)
# What Kubernetes requires of its own types, which the schema leaves to it.
LISTS: dict[str, dict[str, Any]] = {
    "extraEnv": {"name": "MADE_UP"},
    "extraVolumes": {"name": "made-up", "emptyDir": {}},
    "extraVolumeMounts": {"name": "made-up", "mountPath": "/made-up"},
    "hostAliases": {"ip": "192.0.2.1"},
    "initContainers": {"name": "made-up"},
    "extraContainers": {"name": "made-up"},
    "topologySpreadConstraints": {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
}
NEWEST = "1.37"
OTHERS = {"CiliumNetworkPolicy", "ExternalSecret", "GrafanaDashboard", "HTTPRoute"}
OF_KUBERNETES = {
    *("ConfigMap", "Deployment", "Ingress", "NetworkPolicy", "Pod", "PodDisruptionBudget", "Service", "ServiceAccount"),
    "StatefulSet",
}
# How long durations may be, what goes together, where there is a host, and which files are there.
NOT_OF_SCHEMAS = re.compile(
    "is (out of range|too long|not a duration) [(]expected |must (not be shorter|be more) than|keep one"
    "|is not a URL|No such file|is not a (valid )?(path|pattern)|of a URL has|would send the .* unprotected"
)
many = settings(
    max_examples=30,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),  # a smaller example of a failure would take Helm an hour
)


@st.composite
def accepted(draw: st.DrawFn) -> dict[str, Any]:
    """Draw values that the schema accepts; first what is switched on, and how many there are, so that all is met."""
    switched = {name: draw(st.booleans()) for name in SWITCHES}
    split, environments, tokens = draw(st.sampled_from(["none", "environment"])), draw(ENVIRONMENTS), draw(TOKENS)
    whole: dict[str, Any] = draw(RANDOM)
    for name, on in switched.items():
        whole.setdefault(name, {})["enabled"] = on
    whole |= {"split": split, "environments": environments, "registration": {"tokens": tokens}}
    whole.pop("extraObjects", None)  # templates and kinds of the user's own
    return whole


def template(whole: dict[str, Any], line: int = 4) -> tuple[str, str]:
    """Return what Helm rendered, and what it complained of."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "values.yaml"
        file.write_text(json.dumps(whole, ensure_ascii=False))
        done = helm(line, "template", "release", CHART, "--kube-version", KUBERNETES, "--values", file)
    return done.stdout, done.stderr if done.returncode else ""


def workable(whole: dict[str, Any]) -> dict[str, Any]:
    """Mend what a schema cannot say: how values that each are good go together."""
    for mend in (_mend_environments, _mend_tokens, _mend_state, _mend_pod, _mend_ways, _mend_monitors):
        mend(whole)
    return whole


def _mend_environments(whole: dict[str, Any]) -> None:
    environments, labels = whole["environments"], set()
    for each in environments.values():
        _one_of(each, "apiKeyRemoteRef", "apiKeySecret")
        if "proxy" in each:
            each["proxy"] = "http://proxy:3128"
            each.pop("proxy_from_environment", None)
        labels |= {
            name for one in each.get("operations", ()) if isinstance(one, dict) for name in one.get("labels", ())
        }
    if labels:
        whole.setdefault("config", {})["labels"] = sorted(labels)
    shorts = {name.replace("_", "-")[:20].strip("-") for name in environments}
    if len(shorts - {""}) < len(environments):
        whole["split"] = "none"


def _mend_tokens(whole: dict[str, Any]) -> None:
    for number, token in enumerate(whole["registration"]["tokens"]):
        _one_of(token, "remoteRef", "secretName")
        if "secretName" in token:
            token["secretName"] = f"token-{number}"
        else:
            token["remoteRef"]["key"] = f"token-{number}"
        if "environments" in token:
            token["environments"] = [each for each in token["environments"] if each in whole["environments"]] or ["all"]
    whole.setdefault("externalSecrets", {}).setdefault("secretStoreRef", {})["name"] = "vault"


def _mend_state(whole: dict[str, Any]) -> None:
    persistence = whole["persistence"]
    if whole["split"] == "environment" or not persistence["enabled"]:
        persistence.pop("existingClaim", None)
    if not persistence["enabled"]:
        whole["registration"]["acceptLossWithoutPersistence"] = True
        whole.pop("maintenance", None)
        for each in whole["environments"].values():
            each.pop("groups", None)


def _mend_pod(whole: dict[str, Any]) -> None:
    for name, good in LISTS.items():
        whole[name] = [good for _ in whole.get(name, ())]
    whole["dnsPolicy"] = "Default"
    service = whole.setdefault("service", {})
    service["extraPorts"] = [{"port": 4180} for _ in service.get("extraPorts", ())]


def _mend_ways(whole: dict[str, Any]) -> None:
    web = whole.setdefault("web", {})
    if web.get("configRemoteRef"):
        web.pop("configSecret", None)
    if web.get("port", 10187) == web.get("healthPort", 10188):
        web["healthPort"] = 1 + web["port"] % 65535
    path = "/knock" + urlsplit(web.get("externalUrl", "")).path.rstrip("/")
    web["externalUrl"] = f"https://knock.example{path}"
    for each in ("ingress", "httpRoute"):
        whole[each]["path"] = path
    whole["httpRoute"]["parentRefs"] = whole["httpRoute"].get("parentRefs") or [{"name": "gateway"}]
    if whole["ciliumNetworkPolicy"]["enabled"]:
        whole["networkPolicy"].pop("extraEgress", None)
    for each in ("fromPrometheus", "fromClients"):
        whole["networkPolicy"][each] = whole["networkPolicy"].get(each) or [{"podSelector": {}}]


def _mend_monitors(whole: dict[str, Any]) -> None:
    if whole["serviceMonitor"]["enabled"] and whole["podMonitor"]["enabled"]:
        whole["serviceMonitor" if whole["split"] == "none" else "podMonitor"]["enabled"] = False
    for each in ("serviceMonitor", "podMonitor"):
        whole[each]["scheme"] = "https"


def problems(file: Path) -> list[str]:
    """Return what the exporter refuses in a configuration, but for what no schema can tell."""
    try:
        config.load(file, {}, needs_storage=False)
    except ConfigError as error:
        return [text for text in map(str, error.problems) if not NOT_OF_SCHEMAS.search(text)]
    return []


def _one_of(settings_: dict[str, Any], first: str, second: str) -> None:
    if first in settings_:
        settings_.pop(second, None)
    else:
        settings_.setdefault(second, "made-up")


def test_what_the_schema_accepts_renders_and_is_valid_or_is_refused_in_the_charts_own_words() -> None:
    seen: set[str] = set()
    refused = []

    @many
    @given(accepted())
    def check(whole: dict[str, Any]) -> None:
        note(f"values, as drawn: {json.dumps(whole)}")  # which are drawn depends on the modules that are loaded, too
        _, complaint = template(whole)
        # Which template Helm comes to first is chance; an error of a template's own reads otherwise.
        assert not complaint or complaint.startswith("Error: execution error at (knock-exporter/"), complaint
        refused.append(bool(complaint))

        made = []
        note(f"values, made workable: {json.dumps(workable(whole))}")
        for line in LINES:
            text, complaint = template(whole, line)
            assert not complaint, complaint
            made.append(documents(text))
        objects, of_other = made
        assert objects == of_other
        names = [(each["kind"], each["metadata"]["name"]) for each in objects]
        assert len(set(names)) == len(names)
        for each in objects:
            if each["kind"] in KINDS:
                assert lost(each) == []
            elif each["kind"] not in OTHERS:
                assert is_described(each, NEWEST)
        with TemporaryDirectory() as folder:
            for file in configurations(objects, Path(folder)):
                assert problems(file) == []
        seen.update(kind for kind, _ in names)

    check()
    assert seen == OF_KUBERNETES | OTHERS | KINDS
    assert any(refused)
