"""What the chart asks a cluster: the volumes of a StatefulSet that is there, which Kubernetes does not change."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from charts import CHART, LINES, SHORTEST, documents, each_line, helm, of_kind

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

RELEASE = {"name": "knock-exporter", "namespace": "default"}
STATEFUL_SET = {
    "apiVersion": "apps/v1",
    "kind": "StatefulSet",
    "metadata": {
        **RELEASE,
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {f"meta.helm.sh/release-{key}": value for key, value in RELEASE.items()},
    },
    "spec": {
        "volumeClaimTemplates": [
            {
                "metadata": {"name": "data"},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}},
                    "volumeMode": "Filesystem",
                },
            }
        ]
    },
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
    "/api/v1": _resources("v1", "ConfigMap", "Pod", "Service", "ServiceAccount"),
    "/apis/apps/v1": _resources("apps/v1", "Deployment", "StatefulSet"),
    "/apis/apps/v1/namespaces/default/statefulsets/knock-exporter": STATEFUL_SET,
}


class Api(BaseHTTPRequestHandler):
    """As much of a cluster as Helm asks for a StatefulSet."""

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


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """Return the arguments by which Helm finds the cluster."""
    nobody = tmp_path_factory.mktemp("kube") / "config"
    nobody.write_text("{apiVersion: v1, kind: Config}")
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as api:
        threading.Thread(target=api.serve_forever).start()
        yield (f"--kubeconfig={nobody}", f"--kube-apiserver=http://127.0.0.1:{api.server_port}", "--dry-run=server")
        api.shutdown()


def template(line: int, kube: tuple[str, ...], release: str, *args: str) -> subprocess.CompletedProcess[str]:
    lenient = ("--disable-openapi-validation",) if line > LINES[0] else ()
    whole = (*SHORTEST, "--set", "persistence.enabled=true", *args)
    return helm(line, "template", release, CHART, "--namespace=default", *kube, *lenient, *whole)


@each_line
def test_a_larger_volume_is_refused_with_what_to_do(line: int, kube: tuple[str, ...]) -> None:
    done = template(line, kube, "knock-exporter", "--set", "persistence.size=2Gi")
    assert "persistence.size: the volume of the StatefulSet knock-exporter has 1Gi" in done.stderr
    (patch,) = re.findall(r"kubectl --namespace default patch pvc data-knock-exporter-0 --patch '(.*?)';", done.stderr)
    assert json.loads(patch) == {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    assert "kubectl --namespace default delete statefulset knock-exporter --cascade=orphan" in done.stderr


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ("persistence.storageClass=fast", "persistence.storageClass: Kubernetes does not change it"),
        ("persistence.storageClass=-", "persistence.storageClass: Kubernetes does not change it"),
        ("persistence.accessModes={ReadWriteOncePod}", "persistence.accessModes: Kubernetes does not change it"),
        ("persistence.annotations.a=b", "persistence.annotations: Kubernetes does not change it"),
        ("persistence.existingClaim=mine", "persistence.existingClaim: Kubernetes does not change the volumes"),
    ],
)
def test_another_volume_is_refused(kube: tuple[str, ...], values: str, complaint: str) -> None:
    assert complaint in template(4, kube, "knock-exporter", "--set", values).stderr


@pytest.mark.parametrize(
    ("release", "values"),
    [
        ("knock-exporter", "persistence.size=1024Mi"),  # Kubernetes writes it as 1Gi
        ("other", "persistence.size=2Gi"),
        ("knock-exporter", "persistence.enabled=false"),
    ],
)
def test_what_kubernetes_takes_is_let_through(kube: tuple[str, ...], release: str, values: str) -> None:
    done = template(4, kube, release, "--set", values)
    assert done.returncode == 0, done.stderr
    assert of_kind(documents(done.stdout), "Deployment", "StatefulSet")


@each_line
def test_the_notes_say_what_helm_3_does_with_a_misspelt_field(line: int, kube: tuple[str, ...]) -> None:
    *at, _ = kube
    dry = (*at, "--dry-run=client", "--disable-openapi-validation")
    done = helm(line, "install", "other", CHART, "--namespace=default", *dry, *SHORTEST)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "port-forward service/other-knock-exporter 10187" in notes
    assert ('if it warned of an "unknown field"' in notes) is (line == LINES[0])
