"""What Kubernetes does with the chart's objects, as far as the exporter sees it: volumes, pods, probes, `kubectl exec`.

Paths of a container become paths below a folder of its pod; ConfigMaps and Secrets are laid out as the kubelet does it
(all files of a version in a hidden folder, a link that is swapped), claims outlive their pods.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from charts import WORKLOADS
from programs import WEB, Exporter, Program, until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROGRAMS = {"knock-exporter": (sys.executable, "-m", "exporter"), "python3": (sys.executable,)}


def lay_out(folder: Path, files: Mapping[str, str]) -> None:
    """Put a ConfigMap's or Secret's files in place, at once, as the kubelet does it."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("..v*")))
    version = folder / f"..v{number}"
    version.mkdir()
    for name, text in files.items():
        (version / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..new").symlink_to(version.name)
    os.replace(folder / "..new", folder / "..data")  # noqa: PTH105 - a rename of the link, as the kubelet does it


@dataclass
class Pod:
    """A pod's one container; `mounts` leads from its paths to this machine's."""

    template: dict[str, Any]
    folder: Path
    mounts: dict[str, Path]
    program: Program = field(init=False)

    @property
    def exporter(self) -> Exporter:
        assert isinstance(self.program, Exporter), "the exporter does not run in it"
        return self.program

    def mapped(self, text: str) -> str:
        """Return a text with this machine's paths."""
        for path, place in self.mounts.items():
            text = text.replace(path, str(place))
        return text

    def environ(self) -> dict[str, str]:
        container = self.template["spec"]["containers"][0]
        return {each["name"]: self.mapped(each["value"]) for each in container.get("env", ())}

    def health(self, probe: str) -> int:
        """Ask as the kubelet does; returns the status."""
        asked = self.template["spec"]["containers"][0][probe]["httpGet"]
        assert asked["port"] == "health"
        (address,) = self.program.said(r'event="listening for probes" address=(\S+)')
        return WEB.get(f"http://{address}{asked['path']}", timeout=30).status_code

    def is_ready(self) -> bool:
        return self.health("startupProbe") == self.health("readinessProbe") == 200


class Cluster:
    """Runs what was applied last; `secrets` are its Secrets, name to files."""

    def __init__(self, folder: Path, secrets: dict[str, dict[str, str]]) -> None:
        self.folder = folder
        self.secrets = secrets
        self.pods: dict[str, Pod] = {}

    def apply(self, objects: list[dict[str, Any]]) -> None:
        """Start, end and change what is needed, and wait until every exporter is ready."""
        maps = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
        wanted = {f"{each['metadata']['name']}-0": each for each in objects if each["kind"] in WORKLOADS}
        for name, pod in list(self.pods.items()):
            if name not in wanted or wanted[name]["spec"]["template"] != pod.template:
                self.pods.pop(name).program.end()
        for name, workload in wanted.items():
            if name in self.pods:
                self._fill(self.pods[name], maps)
            else:
                self.pods[name] = self._start(name, workload, maps)
        for pod in self.pods.values():
            if isinstance(pod.program, Exporter):
                until(pod.is_ready, "ready")

    def rotate(self, secret: str, files: dict[str, str]) -> None:
        """Change a Secret."""
        self.secrets[secret] = files
        for pod in self.pods.values():
            self._fill(pod, {})

    def _start(self, name: str, workload: dict[str, Any], maps: Mapping[str, Any]) -> Pod:
        template = workload["spec"]["template"]
        container = template["spec"]["containers"][0]
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        claims = [each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", ())]
        mounts = {}
        for each in sorted(container["volumeMounts"], key=lambda each: len(each["mountPath"]), reverse=True):
            path = each["mountPath"]
            mounts[path] = self.folder / f"{each['name']}-{name}" if each["name"] in claims else folder / path[1:]
            mounts[path].mkdir(parents=True, exist_ok=True)
        pod = Pod(template, folder, mounts)
        self._fill(pod, maps)
        # Pods of one machine share their ports.
        args = [
            re.sub(r"(listen-address)=:\d+", r"\1=127.0.0.1:0", pod.mapped(each)) for each in container.get("args", ())
        ]
        if "command" in container:
            program, *rest = container["command"]
            pod.program = Program([*PROGRAMS[program], *rest], folder / "log")
        else:
            pod.program = Exporter(folder, args, pod.environ())
        return pod

    def _fill(self, pod: Pod, maps: Mapping[str, Any]) -> None:
        places = {each["name"]: each["mountPath"] for each in pod.template["spec"]["containers"][0]["volumeMounts"]}
        for volume in pod.template["spec"]["volumes"]:
            files = self.secrets.get(volume.get("secret", {}).get("secretName"))
            files = files or maps.get(volume.get("configMap", {}).get("name"))
            if files is not None:
                chosen = volume.get("secret", {}).get("items", [{"key": name, "path": name} for name in files])
                files = {each["path"]: files[each["key"]] for each in chosen}
                lay_out(pod.mounts[places[volume["name"]]], {name: pod.mapped(text) for name, text in files.items()})

    def execute(self, pod: str, command: list[str], sent: str = "") -> str:
        """Do `kubectl exec`; returns what it wrote."""
        program, *args = command
        done = subprocess.run(
            [*PROGRAMS[program], *args],
            input=sent,
            env={**os.environ, **self.pods[pod].environ()},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end(self) -> None:
        for pod in self.pods.values():
            pod.program.signal(signal.SIGTERM)
        for pod in self.pods.values():
            pod.program.end()
