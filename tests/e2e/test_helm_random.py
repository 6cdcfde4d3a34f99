"""Whatever the schema of the values accepts renders, and what renders is as Kubernetes and the operator describe it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
from charts import CHART, KUBERNETES, configurations, documents, helm
from hypothesis import HealthCheck, Phase, event, given, settings
from operator_kinds import KINDS, lost
from schema_values import values

from exporter import config
from exporter.errors import ConfigError

pytestmark = pytest.mark.e2e

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
SCHEMA.pop("required")  # the defaults have all of it
SCHEMA["properties"]["environments"]["propertyNames"] = {"pattern": "^[a-z0-9_-]{1,63}$", "not": {"const": "all"}}
RANDOM = values(SCHEMA, SCHEMA["definitions"])
NEWEST = "1.37"
# How long durations may be, what goes together, where there is a host, and which files are there.
NOT_OF_SCHEMAS = re.compile(
    "is (out of range|too long|no duration) [(]expected |must (not be shorter|be more) than|keep one"
    "|is no URL|No such file|is no path of a file"
)
OTHERS = {"CiliumNetworkPolicy", "ExternalSecret", "GrafanaDashboard", "HTTPRoute"}
many = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),  # a smaller example of a failure would take Helm an hour
)


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
        if "@" in each.get("proxy", ""):
            each["proxy"] = "http://proxy:3128"
        if "proxy" in each:
            each.pop("proxy_from_environment", None)
        for listed in each.get("operations", ()):
            if isinstance(listed, dict):
                listed.pop("labels", None)
        if "base_url" in each:
            each["base_url"] = each["base_url"].replace("http:", "https:")
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
    path = "/knock" + urlsplit(web.get("externalUrl", "")).path.rstrip("/")
    web["externalUrl"] = f"https://knock.example{path}"
    for each in ("ingress", "httpRoute"):
        whole.setdefault(each, {})["path"] = path
    whole["httpRoute"]["parentRefs"] = whole["httpRoute"].get("parentRefs") or [{"name": "gateway"}]
    policy = whole.setdefault("networkPolicy", {})
    for each in ("fromPrometheus", "fromClients"):
        policy[each] = policy.get(each) or [{"podSelector": {}}]
    whole["extraEnv"] = [each for each in whole.get("extraEnv", ()) if each["name"] != "KNOCK_EXPORTER_STORAGE_PATH"]
    if "serviceMonitor" in whole:
        whole.pop("podMonitor", None)
    for each in ("serviceMonitor", "podMonitor"):
        if each in whole:
            whole[each]["scheme"] = "https"
    whole.pop("extraObjects", None)  # templates and kinds of the user's own
    return whole


def problems(file: Path) -> list[str]:
    """Return what the exporter refuses in a configuration, but for what no schema can tell."""
    try:
        config.load(file, {})
    except ConfigError as error:
        return [text for text in map(str, error.problems) if not NOT_OF_SCHEMAS.search(text)]
    return []


def _one_of(settings_: dict[str, Any], first: str, second: str) -> None:
    if first in settings_:
        settings_.pop(second, None)
    else:
        settings_.setdefault(second, "made-up")


def _mend_tokens(whole: dict[str, Any], environments: dict[str, Any]) -> None:
    registration, persistence = whole.setdefault("registration", {}), whole.setdefault("persistence", {})
    for number, token in enumerate(registration.get("tokens", ())):
        _one_of(token, "remoteRef", "secretName")
        if "secretName" in token:
            token["secretName"] = f"token-{number}"
        else:
            token["remoteRef"]["key"] = f"token-{number}"
        if "environments" in token:
            token["environments"] = [each for each in token["environments"] if each in environments] or ["all"]
        registration["acceptLossWithoutPersistence"] = True
    if whole.get("split") == "environment":
        persistence.pop("existingClaim", None)
    if whole.get("maintenance") or "existingClaim" in persistence:
        persistence["enabled"] = True


@pytest.mark.parametrize("line", [3, 4])
def test_what_the_schema_accepts_renders_and_is_valid(line: int) -> None:
    @many
    @given(RANDOM)
    def check(whole: dict[str, Any]) -> None:
        text, complaint = template(workable(whole), line)
        assert not complaint, complaint
        objects = documents(text)
        names = [(each["kind"], each["metadata"]["name"]) for each in objects]
        assert len(set(names)) == len(names)
        assert {each["kind"] for each in objects} & {"Deployment", "StatefulSet"}
        for each in objects:
            event(each["kind"])
            if each["kind"] in KINDS:
                assert lost(each) == []
            elif each["kind"] not in OTHERS:
                kubernetes_validate.validate(each, NEWEST, strict=True)
        with TemporaryDirectory() as folder:
            for file in configurations(objects, Path(folder)):
                assert problems(file) == []

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
