"""The container images: built from the Dockerfile for real, and run as strictly as a cluster would."""

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
MINIMAL, DEBIAN = ROOTS = ("minimal", "debian")  # what the exporter stands on
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
# With a name server of its own, which knows one address.
ASKS_THE_SYSTEM = """
import socket, threading, time
from exporter.knock.trust import trust

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))

def answer():
    asked, who = server.recvfrom(512)
    question = asked[12 : asked.index(0, 12) + 5]
    record = bytes.fromhex("c00c 0001 0001 00000001 0004") + bytes([192, 0, 2, 7])
    server.sendto(asked[:2] + bytes.fromhex("8180 0001 0001 0000 0000") + question + record, who)

threading.Thread(target=answer).start()
print(socket.getaddrinfo("knock.example", 443, socket.AF_INET)[0][4][0])
print(time.localtime().tm_gmtoff)
print(trust(None, bundles=()).cert_store_stats()["x509_ca"])
"""
LARGEST_OWN_MEBIBYTES = {DEBIAN: 60, MINIMAL: 90}  # what an image may add to its base
END_SECONDS = 5.0


def ran(command: list[str], *, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
    )


def podman(*args: str) -> subprocess.CompletedProcess[str]:
    return ran(["podman", *PODMAN, *args])


def told(*command: str, timeout: float = 60.0) -> str:
    """Return what a program answers, where it must not fail."""
    done = ran([*command], timeout=timeout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def said(*args: str) -> str:
    return told("podman", *PODMAN, *args)


@dataclass(frozen=True)
class Image:
    """An image, and what `podman image inspect` says of it."""

    root: str
    name: str
    about: dict[str, Any]

    def run(
        self, *args: str, options: tuple[str, ...] = (), strict: tuple[str, ...] = STRICT
    ) -> subprocess.CompletedProcess[str]:
        """Run it strictly, to its end."""
        return podman("run", "--rm", *strict, *options, self.name, *args)

    def python(self, program: str, options: tuple[str, ...] = (), strict: tuple[str, ...] = STRICT) -> str:
        """Run a program in it; returns what it prints."""
        done = self.run("-c", program, options=("--entrypoint=python3", *options), strict=strict)
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
def images(base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Image]]:
    """Build the images, from a tree with keys lying about."""
    context = tmp_path_factory.mktemp("build") / "tree"
    shutil.copytree(ROOT, context, ignore=LEFT_OUT)
    for place in ("knock.key", "config.yaml", ".env", "exporter/knock.key", "exporter/web/config.yaml"):
        (context / place).write_text(CANARY)
    # What this machine needs to reach a package index; none of it stays in the image.
    volumes = [f"--volume={AUTHORITIES}:{AUTHORITIES}:ro"] if AUTHORITIES.exists() else []
    volumes += [f"--volume={each}:/etc/pip.conf:ro" for each in PIP_SETTINGS if each.exists()][:1]
    # The first image is built without a cache, the second from the layers of the first, as far as they are the same.
    # The base has a label of this run, so that no layer is one that another run may remove at any time.
    own = f"localhost/knock-exporter-test/own-base:{os.getpid()}"
    mark = f"knock-exporter-test={os.getpid()}"
    built: dict[str, Image] = {}
    try:
        container = told("buildah", "from", "--pull-never", base)
        told("buildah", "config", "--add-history", f"--label={mark}", container)
        told("buildah", "commit", "--rm", container, own)
        for root in ROOTS:
            name = f"localhost/knock-exporter-test/{root}:{os.getpid()}"
            told(
                *("buildah", "build", "--isolation=chroot", "--format=docker", "--network=host", "--pull-never"),
                *(
                    "--layers",
                    *([] if built else ["--no-cache"]),
                    *volumes,
                    f"--build-arg=BASE={own}",
                    f"--build-arg=ROOT={root}",
                ),
                *(f"--build-arg=VERSION={__version__}", f"--build-arg=REVISION={REVISION}", f"--tag={name}"),
                str(context),
                timeout=600,
            )
            (about,) = json.loads(said("image", "inspect", name))
            built[root] = Image(root, name, about)
        yield built
    finally:
        podman("image", "rm", "--force", own, *(each.name for each in built.values()))
        said("image", "prune", "--force", f"--filter=label={mark}")


@pytest.fixture(params=ROOTS, scope="session")
def image(request: pytest.FixtureRequest, images: dict[str, Image]) -> Image:
    """One of the images; with `minimal_only` that one."""
    return images[request.param]


# What is the same in both is shown on the one that has less to stand on.
minimal_only = pytest.mark.parametrize("image", [MINIMAL], indirect=True)


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
def container(image: Image, mounted: Path) -> Iterator[Container]:
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
        said("run", "--detach", f"--name={name}", *STRICT, listen, mount, image.name)
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


def test_it_says_what_it_is(image: Image) -> None:
    settings = image.about["Config"]
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


def test_its_size_is_what_it_needs(base: str, image: Image, record_property: Callable[[str, object], None]) -> None:
    below = 0 if image.root == MINIMAL else int(said("image", "inspect", "--format={{.Size}}", base))
    own = image.about["Size"] - below
    whole = f"{image.about['Size'] / MEBIBYTE:.0f} MiB, of which {own / MEBIBYTE:.0f} MiB are not the base ({base})"
    record_property(image.root, whole)
    for layer in json.loads(said("history", "--format=json", image.name)):
        if layer["size"]:
            made_by = " ".join(layer["CreatedBy"].split())[:90]
            record_property("its layer", f"{layer['size'] / MEBIBYTE:.1f} MiB: {made_by}")
    assert own < LARGEST_OWN_MEBIBYTES[image.root] * MEBIBYTE


def test_no_key_is_in_it(base: str, image: Image, tmp_path: Path) -> None:
    told = json.dumps([image.about["Config"], image.about["History"], image.about["Healthcheck"]])
    assert not re.search(r"sk_|knock_api_key|token|password", told, re.IGNORECASE)
    said("save", "--format=docker-archive", f"--output={tmp_path / 'image.tar'}", image.name)
    (about,) = json.loads(said("image", "inspect", base))
    below = len(about["RootFS"]["Layers"]) if image.root == DEBIAN else 0
    with tarfile.open(tmp_path / "image.tar") as saved:
        layers = json.loads(_read(saved, "manifest.json"))[0]["Layers"][below:]
        added = b"".join(_read(saved, each) for each in layers)
    assert b"exporter/cli/__init__.py" in added
    assert CANARY.encode() not in added


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


# What is inside.


def test_it_is_nobody_with_no_rights_on_a_read_only_disk(image: Image) -> None:
    uid, gid, groups, capabilities = image.python(
        "import os, re; status = open('/proc/self/status').read();"
        "print(os.getuid(), os.getgid(), os.getgroups() or 0, *{*re.findall(r'Cap\\w+:\\s*(\\w+)', status)}, sep='|')"
    ).split("|")
    assert f"{uid}:{gid}" == USER
    assert groups.strip("[]") in {"0", gid}
    assert int(capabilities, 16) == 0
    failed = image.python(
        "import tempfile\ntry: print(tempfile.mkdtemp())\nexcept OSError as error: print(type(error).__name__)"
    )
    assert failed.strip() == "FileNotFoundError"


def test_no_installer_is_left(image: Image) -> None:
    found = image.python(
        "from importlib.util import find_spec; print([n for n in ('pip', 'setuptools', 'hatchling') if find_spec(n)])"
    )
    assert found.strip() == "[]"


@minimal_only
def test_nothing_is_compiled_at_start(image: Image) -> None:
    stale = image.python(
        "import importlib.util as u, itertools, pathlib, sys, sysconfig\n"
        "folders = pathlib.Path(sys.prefix, 'lib'), pathlib.Path(sysconfig.get_path('stdlib'))\n"
        "for source in itertools.chain.from_iterable(each.rglob('*.py') for each in folders):\n"
        "    kept = pathlib.Path(u.cache_from_source(source))\n"
        "    if not kept.exists() or kept.read_bytes()[4:8] != bytes([1, 0, 0, 0]): print(source)"
    )
    assert stale == ""


@minimal_only
def test_the_only_program_is_python(image: Image) -> None:
    found = json.loads(
        image.python(
            "import json, os, stat\n"
            "files = [os.path.join(at, each) for at, folders, names in os.walk('/') for each in names\n"
            "    if not at.startswith(('/proc', '/sys', '/dev', '/opt/knock-exporter'))]\n"
            "modes = {each: os.lstat(each).st_mode for each in files}\n"
            "modes = {each: mode for each, mode in modes.items() if stat.S_ISREG(mode)}\n"
            "print(json.dumps({\n"
            "    'programs': [each for each, mode in modes.items() if mode & 0o111],\n"
            "    'with rights': [each for each, mode in modes.items() if mode & 0o6000],\n"
            "    'packages': os.listdir('/var/lib/dpkg/status.d'),\n"
            "    'here': [each for each in ('/bin', '/sbin', '/usr/sbin') if os.path.exists(each)],\n"
            "}))"
        )
    )
    assert found["with rights"] == []
    assert found["here"] == []
    programs = {Path(each).name for each in found["programs"] if ".so" not in each and not each.endswith(".py")}
    assert len(programs) == 1, programs
    assert re.fullmatch(r"python3\.\d+", programs.pop())
    # What scanners know an image by.
    assert {"base-files", "libc6", "tzdata"} < {*found["packages"]}
    assert not {"bash", "dash", "coreutils", "dpkg", "apt"} & {*found["packages"]}


@minimal_only
def test_names_time_zones_and_authorities_are_those_of_the_system(image: Image, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    alone = (*(each for each in STRICT if each != "--network=host"), "--network=none")
    options = (
        *("--sysctl=net.ipv4.ip_unprivileged_port_start=53", "--env=TZ=Asia/Kathmandu"),
        f"--volume={tmp_path / 'resolv.conf'}:/etc/resolv.conf:ro",
    )
    name, shift, trusted = image.python(ASKS_THE_SYSTEM, options, alone).split()
    assert name == "192.0.2.7"
    assert shift == "20700"  # 5:45 h
    assert int(trusted) > 100


# How it runs.


def test_it_serves_on_a_read_only_disk_and_ends_when_asked(container: Container, image: Image, in_time: InTime) -> None:
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


@minimal_only
def test_it_runs_exactly_as_the_chart_has_it_run(image: Image, tmp_path: Path, in_time: InTime) -> None:
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
            image.name,
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
            assert made in said("exec", name, "knock-exporter", "state", "export")
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


@minimal_only
def test_its_health_check_tells_the_truth(container: Container, image: Image) -> None:
    how, *command = image.about["Healthcheck"]["Test"]
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


@minimal_only
def test_it_tells_its_version(image: Image) -> None:
    assert image.run("--version").stdout == f"knock-exporter {__version__}\n"


@minimal_only
def test_it_checks_configurations(image: Image, mounted: Path) -> None:
    mount = f"--volume={mounted}:/tmp/configs:ro"
    (mounted / "good.yaml").write_text("environments: [{name: box, api_key_env: KNOCK_API_KEY}]\n")
    (mounted / "bad.yaml").write_text("environments: [{name: box, api_key_env: KNOCK_API_KEY, tmeout: 1s}]\n")
    key = f"--env=KNOCK_API_KEY={KEY}"
    good = image.run("check-config", "--print", "/tmp/configs/good.yaml", options=(mount, key))  # noqa: S108 - the same
    assert (good.returncode, good.stderr) == (0, "")
    assert yaml.safe_load(good.stdout)["environments"][0]["name"] == "box"
    assert KEY not in good.stdout
    bad = image.run("check-config", "/tmp/configs/bad.yaml", options=(mount, key))  # noqa: S108 - the same
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "tmeout" in bad.stderr


@minimal_only
def test_the_demo_plays(image: Image) -> None:
    demo = image.run("demo", "--duration=2s", "--web.listen-address=127.0.0.1:0")
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
