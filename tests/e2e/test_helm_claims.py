"""What the chart asks a cluster: how claims that are there may be mounted."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from charts import CHART, LINES, SHORTEST, documents, each_line, helm, of_kind

if TYPE_CHECKING:
    from pathlib import Path

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
    "spec": {"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]},
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
    "/apis/apps/v1": _resources("apps/v1", "StatefulSet"),
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
