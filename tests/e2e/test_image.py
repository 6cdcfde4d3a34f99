"""The container image: built from the Dockerfile for real, and run as strictly as a cluster would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from charts import of_kind, rendered
from programs import KEY, WEB, do_without, until

from exporter import __version__
from exporter.simulator import Simulator, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from timing import InTime

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
STAND_IN = "localhost/knock-exporter-test/base"
IMAGE = f"localhost/knock-exporter-test/image:{os.getpid()}"
REVISION = "0123456789abcdef"
USER = "65532:65532"
CANARY = "sk_canary_never_in_an_image"
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".tools", ".*_cache", ".hypothesis", "__pycache__")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_SETTINGS = [Path("/etc/pip.conf"), Path("~/.config/pip/pip.conf").expanduser()]
PODMAN = ("--runtime=runc", "--cgroup-manager=cgroupfs")
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")
STRICT = (
    *("--network=host", "--pull=never", "--no-healthcheck", *LIMITS),
    *("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"),
)
MEBIBYTE = 1 << 20
LARGEST_OWN_MEBIBYTES = 60  # what the image may add to its base
END_SECONDS = 5.0


def ran(command: list[str], *, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
    )


def podman(*args: str) -> subprocess.CompletedProcess[str]:
    return ran(["podman", *PODMAN, *args])


def said(*args: str) -> str:
    """Return what podman answers, where it must not fail."""
    done = podman(*args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(*args: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the image strictly, to its end."""
    return podman("run", "--rm", *STRICT, *options, IMAGE, *args)


def python(program: str) -> str:
    done = run("-c", program, options=("--entrypoint=python3",))
    assert done.returncode == 0, done.stderr
    return done.stdout


def have_image(name: str) -> bool:
    return ran(["buildah", "inspect", "--type=image", name]).returncode == 0


@pytest.fixture(scope="session")
def base() -> str:
    """Return the image to build on: the Dockerfile's own where it was pulled, else the stand-in."""
    for program in ("buildah", "podman", "runc"):
        if shutil.which(program) is None:
            do_without(f"{program} is missing: run tests/e2e/get-image-tools, or put it on PATH")
    named = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert named is not None
    found = next(filter(have_image, (named[1], STAND_IN)), None)
    return found or do_without(f"no base image: run tests/e2e/get-image-tools, or podman pull {named[1]}")


@pytest.fixture(scope="session")
def image(base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Build the image, from a tree with keys lying about; returns what `podman image inspect` says of it."""
    context = tmp_path_factory.mktemp("build") / "tree"
    shutil.copytree(ROOT, context, ignore=LEFT_OUT)
    for place in ("knock.key", "config.yaml", ".env", "exporter/knock.key", "exporter/web/config.yaml"):
        (context / place).write_text(CANARY)
    # What this machine needs to reach a package index; none of it stays in the image.
    volumes = [f"--volume={AUTHORITIES}:{AUTHORITIES}:ro"] if AUTHORITIES.exists() else []
    volumes += [f"--volume={each}:/etc/pip.conf:ro" for each in PIP_SETTINGS if each.exists()][:1]
    done = ran(
        [
            *(
                "buildah",
                "build",
                "--isolation=chroot",
                "--format=docker",
                "--network=host",
                "--pull-never",
                "--no-cache",
            ),
            *(*volumes, f"--build-arg=BASE={base}", f"--build-arg=VERSION={__version__}"),
            *(f"--build-arg=REVISION={REVISION}", f"--tag={IMAGE}", str(context)),
        ],
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (about,) = json.loads(said("image", "inspect", IMAGE))
    yield about
    podman("image", "rm", "--force", IMAGE)


@dataclass
class Container:
    """The exporter in a container; `url` is where it serves."""

    name: str
    url: str

    def end(self) -> int:
        """Send SIGTERM; returns the exit code."""
        said("kill", "--signal=TERM", self.name)
        return int(said("wait", self.name))


@pytest.fixture(scope="session")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder for the container's user, as a Kubernetes volume would be: readable, not writable."""
    made = tmp_path_factory.mktemp("etc")
    made.chmod(0o755)
    return made


@pytest.fixture
def container(image: dict[str, Any], mounted: Path) -> Iterator[Container]:
    with Simulator(world=World(seed=1), rate_limits=False) as knock:
        made = knock.world.create("users.identify", rows=100, errors=3, queue_seconds=0.0, rows_per_second=1000.0)
        environment = {
            "name": "box",
            "api_key_file": "knock.key",
            "base_url": knock.url,
            "operations": [made],
            "polling": {"processing": "100ms", "queued": "100ms", "slowest": "200ms"},
        }
        (mounted / "config.yaml").write_text(yaml.safe_dump({"environments": [environment]}))
        (mounted / "knock.key").write_text(KEY)
        name = f"knock-exporter-test-{os.getpid()}"
        listen = "--env=KNOCK_EXPORTER_WEB_LISTEN_ADDRESS=127.0.0.1:0"
        mount = f"--volume={mounted}:/etc/knock-exporter:ro"
        said("run", "--detach", f"--name={name}", *STRICT, listen, mount, IMAGE)
        try:
            yield Container(name, f"http://{listening(name)}")
        finally:
            podman("rm", "--force", "--time=1", name)


def listening(name: str) -> str:
    """Wait until a container listens; returns where."""

    def look() -> str | None:
        logs = podman("logs", name)
        found = re.search(r"listening\"? address=(\S+)", logs.stdout + logs.stderr)
        return found and found[1]

    address: str = until(look, f"{name} listens", 20)
    until(lambda: WEB.get(f"http://{address}/-/ready", timeout=30).ok, f"{name} is ready")
    return address


# What is written on it.


def test_it_says_what_it_is(image: dict[str, Any]) -> None:
    settings = image["Config"]
    assert settings["User"] == USER
    assert settings["Entrypoint"] == ["knock-exporter"]
    assert settings.get("Cmd") is None
    assert settings["WorkingDir"] == "/etc/knock-exporter"
    assert list(settings["ExposedPorts"]) == ["10187/tcp"]
    assert "StopSignal" not in settings
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in settings["Labels"].items()}
    assert (
        labels
        | {
            "title": "knock-exporter",
            "description": "Prometheus exporter for Knock bulk operations",
            "licenses": "Apache-2.0",
            "version": __version__,
            "revision": REVISION,
        }
        == labels
    )


def test_its_size_is_what_it_needs(
    base: str, image: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    own = image["Size"] - int(said("image", "inspect", "--format={{.Size}}", base))
    whole = f"{image['Size'] / MEBIBYTE:.0f} MiB, of which {own / MEBIBYTE:.0f} MiB are not the base ({base})"
    record_property("image", whole)
    for layer in json.loads(said("history", "--format=json", IMAGE)):
        if layer["size"]:
            made_by = " ".join(layer["CreatedBy"].split())[:90]
            record_property("its layer", f"{layer['size'] / MEBIBYTE:.1f} MiB: {made_by}")
    assert own < LARGEST_OWN_MEBIBYTES * MEBIBYTE


def test_no_key_is_in_it(image: dict[str, Any], tmp_path: Path) -> None:
    told = json.dumps([image["Config"], image["History"], image["Healthcheck"]])
    assert not re.search(r"sk_|knock_api_key|token|password", told, re.IGNORECASE)
    said("save", "--format=docker-archive", f"--output={tmp_path / 'image.tar'}", IMAGE)
    with tarfile.open(tmp_path / "image.tar") as saved:
        # All that the Dockerfile adds is one layer, on top.
        added = _read(saved, json.loads(_read(saved, "manifest.json"))[0]["Layers"][-1])
    assert b"exporter/cli/__init__.py" in added
    assert CANARY.encode() not in added


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


# What is inside.


def test_it_is_nobody_with_no_rights_on_a_read_only_disk(image: dict[str, Any]) -> None:
    uid, gid, groups, capabilities = python(
        "import os, re; status = open('/proc/self/status').read();"
        "print(os.getuid(), os.getgid(), os.getgroups() or 0, *{*re.findall(r'Cap\\w+:\\s*(\\w+)', status)}, sep='|')"
    ).split("|")
    assert f"{uid}:{gid}" == USER
    assert groups.strip("[]") in {"0", gid}
    assert int(capabilities, 16) == 0
    failed = python(
        "import tempfile\ntry: print(tempfile.mkdtemp())\nexcept OSError as error: print(type(error).__name__)"
    )
    assert failed.strip() == "FileNotFoundError"


def test_no_installer_is_left(image: dict[str, Any]) -> None:
    found = python(
        "from importlib.util import find_spec; print([n for n in ('pip', 'setuptools', 'hatchling') if find_spec(n)])"
    )
    assert found.strip() == "[]"


def test_nothing_is_compiled_at_start(image: dict[str, Any]) -> None:
    stale = python(
        "import importlib.util as u, pathlib, sys\n"
        "for source in pathlib.Path(sys.prefix, 'lib').rglob('*.py'):\n"
        "    kept = pathlib.Path(u.cache_from_source(source))\n"
        "    if not kept.exists() or kept.read_bytes()[4:8] != bytes([1, 0, 0, 0]): print(source)"
    )
    assert stale == ""


# How it runs.


def test_it_serves_on_a_read_only_disk_and_ends_when_asked(
    container: Container, image: dict[str, Any], in_time: InTime
) -> None:
    def metrics() -> str:
        return WEB.get(f"{container.url}/metrics", timeout=30).text

    until(
        lambda: re.search(r"knock_bulk_operation_errors\{[^}]*} 3\.0", metrics()),
        "the operation is followed to its end",
    )
    assert re.search(rf'knock_exporter_build_info\{{[^}}]*revision="{REVISION}"', metrics())
    assert re.search(rf'knock_exporter_build_info\{{[^}}]*version="{re.escape(__version__)}"', metrics())
    assert "Traceback" not in said("logs", container.name)

    with in_time(END_SECONDS):
        assert container.end() == 0


def test_it_runs_exactly_as_the_chart_has_it_run(image: dict[str, Any], tmp_path: Path, in_time: InTime) -> None:
    with Simulator(world=World(seed=1), rate_limits=False) as knock:
        made = knock.world.create("users.identify", rows=10, queue_seconds=0.0, rows_per_second=1e6)
        production = {"apiKeySecret": "knock", "base_url": knock.url, "operations": [made]}
        values = tmp_path / "values.yaml"
        values.write_text(
            yaml.safe_dump({"environments": {"production": production}, "persistence": {"enabled": True}})
        )
        objects = rendered(4, "--values", str(values))
        (workload,), (config,) = of_kind(objects, "StatefulSet"), of_kind(objects, "ConfigMap")
        spec = workload["spec"]["template"]["spec"]
        contents = {"config": config["data"], "data": {}} | {
            each["name"]: {"api-key": KEY} for each in spec["volumes"] if "secret" in each
        }
        name = f"knock-exporter-test-chart-{os.getpid()}"
        container = spec["containers"][0]
        args = [re.sub(r"(listen-address)=:\d+", r"\1=127.0.0.1:0", each) for each in container["args"]]
        environ = [f"--env={each['name']}={each['value']}" for each in container["env"]]
        mounts = [_mounted(each, contents[each["name"]], spec, tmp_path) for each in container["volumeMounts"]]
        context = _context(spec["securityContext"], container["securityContext"])
        said(
            "run",
            "--detach",
            f"--name={name}",
            "--network=host",
            "--pull=never",
            *LIMITS,
            *context,
            *environ,
            *mounts,
            IMAGE,
            *args,
        )
        try:
            url = f"http://{listening(name)}"
            done = re.compile(r'knock_bulk_operations\{[^}]*status="completed"[^}]*} 1\.0')
            until(
                lambda: done.search(WEB.get(f"{url}/metrics", timeout=30).text), "the operation is followed to its end"
            )
            status = said("exec", name, "python3", "-c", "print(open('/proc/1/status').read())")
            confined = dict(line.split(":\t", 1) for line in status.strip().splitlines())
            assert (confined["NoNewPrivs"], confined["Seccomp"], int(confined["CapBnd"], 16)) == ("1", "2", 0)
            assert "production" in said("exec", name, "knock-exporter", "state", "check")
            with in_time(END_SECONDS):
                said("kill", "--signal=TERM", name)
                assert said("wait", name).strip() == "0"
        finally:
            podman("rm", "--force", "--time=1", name)


def _mounted(mount: dict[str, Any], files: dict[str, str], spec: dict[str, Any], mounted: Path) -> str:
    """Make a volume as the kubelet does, owned by root and the pod's fsGroup; returns podman's option."""
    group, writable = spec["securityContext"]["fsGroup"], not mount.get("readOnly", False)
    place = mounted / mount["name"]
    place.mkdir()
    place.chmod(0o2775 if writable else 0o2755)
    os.chown(place, 0, group)
    for name, text in files.items():
        (place / name).write_text(text)
        (place / name).chmod(0o440)
        os.chown(place / name, 0, group)
    return f"--volume={place}:{mount['mountPath']}{'' if writable else ':ro'}"


def _context(pod: dict[str, Any], container: dict[str, Any]) -> list[str]:
    """Say a security context in podman's words; what is not known here fails."""
    told = pod | container
    assert told.pop("runAsNonRoot") is True
    assert told.pop("fsGroupChangePolicy") == "OnRootMismatch"
    assert told.pop("seccompProfile") == {"type": "RuntimeDefault"}  # podman's own, too, where none is named
    options = [f"--user={told.pop('runAsUser')}:{told.pop('runAsGroup')}", f"--group-add={told.pop('fsGroup')}"]
    if told.pop("readOnlyRootFilesystem"):
        options += ["--read-only", "--read-only-tmpfs=false"]
    if not told.pop("allowPrivilegeEscalation"):
        options.append("--security-opt=no-new-privileges")
    options += [f"--cap-drop={each}" for each in told.pop("capabilities")["drop"]]
    assert told == {}
    return options


def test_its_health_check_tells_the_truth(container: Container, image: dict[str, Any]) -> None:
    how, *command = image["Healthcheck"]["Test"]
    assert how == "CMD"  # without a shell
    address = container.url.removeprefix("http://")
    closed = "127.0.0.1:9"  # the discard port: nobody listens

    def verdict(listen: str, *variables: str) -> int:
        environ = [f"--env={each}" for each in (f"KNOCK_EXPORTER_WEB_LISTEN_ADDRESS={listen}", *variables)]
        return podman("exec", *environ, container.name, *command).returncode

    port = address.rpartition(":")[2]
    assert verdict(address) == 0
    assert verdict(f":{port}") == 0
    assert verdict(f"{address} 127.0.0.1:9") == 0
    assert verdict(address, f"http_proxy=http://{closed}", f"HTTP_PROXY=http://{closed}") == 0
    assert verdict(closed) != 0


def test_it_tells_its_version(image: dict[str, Any]) -> None:
    assert run("--version").stdout == f"knock-exporter {__version__}\n"


def test_it_checks_configurations(image: dict[str, Any], mounted: Path) -> None:
    mount = f"--volume={mounted}:/tmp/configs:ro"
    (mounted / "good.yaml").write_text("environments: [{name: box, api_key_env: KNOCK_API_KEY}]\n")
    (mounted / "bad.yaml").write_text("environments: [{name: box, api_key_env: KNOCK_API_KEY, tmeout: 1s}]\n")
    key = f"--env=KNOCK_API_KEY={KEY}"
    good = run("check-config", "--print", "/tmp/configs/good.yaml", options=(mount, key))  # noqa: S108 - the same
    assert (good.returncode, good.stderr) == (0, "")
    assert yaml.safe_load(good.stdout)["environments"][0]["name"] == "box"
    assert KEY not in good.stdout
    bad = run("check-config", "/tmp/configs/bad.yaml", options=(mount, key))  # noqa: S108 - the same
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "tmeout" in bad.stderr


def test_the_demo_plays(image: dict[str, Any]) -> None:
    demo = run("demo", "--duration=2s", "--web.listen-address=127.0.0.1:0")
    assert demo.returncode == 0, demo.stderr
    assert "production / migration: wave 1" in demo.stdout
    assert demo.stderr == ""


# How it is written.


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=ROOT / ".tools/hadolint/bin")
    if hadolint is None:
        do_without("hadolint is missing: tests/e2e/get-image-tools gets it, or put it on PATH")
    done = ran([hadolint, str(ROOT / "Dockerfile")])
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
