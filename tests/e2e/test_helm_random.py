"""Whatever the schema of the values accepts renders, and what renders is as Kubernetes and the operator describe it."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate
import pytest
import yaml
from charts import CHART, KUBERNETES, helm
from hypothesis import HealthCheck, event, given, settings
from operator_kinds import KINDS, lost
from schema_values import values

pytestmark = pytest.mark.e2e

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
RANDOM = values(SCHEMA, SCHEMA["definitions"])
NEWEST = "1.37"
OTHERS = {"CiliumNetworkPolicy", "ExternalSecret", "GrafanaDashboard", "HTTPRoute"}
OWN_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "knock-exporter/workload")
many = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def template(whole: dict[str, Any], line: int = 4) -> tuple[str, str]:
    """Return what Helm rendered, and what it complained of."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "values.yaml"
        file.write_text(json.dumps(whole, ensure_ascii=False))
        done = helm(line, "template", "release", CHART, "--kube-version", KUBERNETES, "--values", file)
    return done.stdout, done.stderr if done.returncode else ""


def workable(whole: dict[str, Any]) -> dict[str, Any]:
    """Mend what a schema cannot say: how values that each are good go together."""
    whole["environments"] = environments = whole.get("environments") or {"production": {}}
    for each in environments.values():
        _one_of(each, "apiKeyRemoteRef", "apiKeySecret")
    shorts = {name.replace("_", "-")[:20].strip("-") for name in environments}
    if len(shorts - {""}) < len(environments):
        whole["split"] = "none"
    _mend_tokens(whole, environments)
    whole.setdefault("externalSecrets", {}).setdefault("secretStoreRef", {})["name"] = "vault"
    web = whole.setdefault("web", {})
    if web.get("configRemoteRef"):
        web.pop("configSecret", None)
    if web.get("port", 10187) == web.get("healthPort", 10188):
        web["healthPort"] = 1 + web["port"] % 65535
    web["externalUrl"] = web.get("externalUrl") or "https://knock.example"
    if "httpRoute" in whole:
        whole["httpRoute"]["parentRefs"] = whole["httpRoute"].get("parentRefs") or [{"name": "gateway"}]
    if "serviceMonitor" in whole:
        whole.pop("podMonitor", None)
    for label in OWN_LABELS:
        whole.get("podLabels", {}).pop(label, None)
    whole.pop("extraObjects", None)  # templates and kinds of the user's own
    return whole


def _one_of(settings_: dict[str, Any], first: str, second: str) -> None:
    if first in settings_:
        settings_.pop(second, None)
    else:
        settings_.setdefault(second, "made-up")


def _mend_tokens(whole: dict[str, Any], environments: dict[str, Any]) -> None:
    registration, persistence = whole.setdefault("registration", {}), whole.setdefault("persistence", {})
    for token in registration.get("tokens", ()):
        _one_of(token, "remoteRef", "secretName")
        token["environments"] = [each for each in token.get("environments", ()) if each in environments]
        registration["acceptLossWithoutPersistence"] = True
    if whole.get("maintenance"):
        persistence["enabled"] = True


@pytest.mark.parametrize("line", [3, 4])
def test_what_the_schema_accepts_renders_and_is_valid(line: int) -> None:
    @many
    @given(RANDOM)
    def check(whole: dict[str, Any]) -> None:
        text, complaint = template(workable(whole), line)
        assert not complaint, complaint
        objects = [each for each in yaml.safe_load_all(text) if each]
        assert {each["kind"] for each in objects} & {"Deployment", "StatefulSet"}
        for each in objects:
            event(each["kind"])
            if each["kind"] in KINDS:
                assert lost(each) == []
            elif each["kind"] not in OTHERS:
                kubernetes_validate.validate(each, NEWEST, strict=True)

    check()


def test_what_does_not_go_together_is_refused_in_the_charts_own_words() -> None:
    @many
    @given(RANDOM)
    def check(whole: dict[str, Any]) -> None:
        whole.pop("extraObjects", None)
        _, complaint = template(whole)
        event("refused" if complaint else "rendered")
        assert not complaint or "execution error at (knock-exporter/templates/configmap.yaml" in complaint, complaint

    check()
