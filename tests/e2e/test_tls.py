"""TLS, client certificates and passwords from --web.config.file, against real Prometheus and under load."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import bcrypt
import pytest
import trustme
import yaml
from click.testing import CliRunner
from forkserver import forked_command
from programs import KEY, TOKEN, WEB, Program, Starter, tool, until

from exporter.cli import main
from exporter.simulator import Simulator, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from programs import Exporter

pytestmark = pytest.mark.e2e

LINES = (2, 3)
HOST = "127.0.0.1"
USER, PASSWORD, OTHER_PASSWORD, WRONG = "prometheus", "correct horse battery", "staple of the horse", "hunter2-hunter2"
TAKEN_SECONDS = 15.0  # 5 until a look, as much again for what was just written, and some for a busy machine
PAUSE_SECONDS = 0.02
KEPT, FRESH = 3, 3  # threads that scrape, on kept connections and on new ones
ROTATIONS = 5
HEALTH = ("/-/healthy", "/-/ready")
REGISTER = "/api/v1/operations/production"
OUTSIDE = "https://x.example/knock"
NOT_TAKEN = 'event="web configuration not loaded'


def basic(password: str, user: str = USER) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


# Certificates, and the files of the server.


@dataclass
class Party:
    """Authorities, and what each side has of them."""

    servers: trustme.CA = field(default_factory=trustme.CA)
    clients: trustme.CA = field(default_factory=trustme.CA)

    def server(self) -> dict[str, bytes]:
        """Make a new certificate and key of the server, by file name."""
        return pair(self.servers.issue_cert(HOST), "server")

    def context(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """Make the context of a client that trusts the server."""
        context = ssl.create_default_context(cadata=self.servers.cert_pem.bytes().decode())
        if certificate is not None:
            certificate.configure_cert(context)
        return context

    def client(self) -> trustme.LeafCert:
        return self.clients.issue_cert("prometheus")


def pair(made: trustme.LeafCert, name: str) -> dict[str, bytes]:
    chain = b"".join(each.bytes() for each in made.cert_chain_pems)
    return {f"{name}.crt": chain, f"{name}.key": made.private_key_pem.bytes()}


def serial(pem: bytes) -> int:
    from cryptography import x509  # noqa: PLC0415 - it takes a while

    return x509.load_pem_x509_certificate(pem).serial_number


class Place:
    """The web configuration and what it names; everything that was secret once is remembered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.path = folder / "web.yaml"
        self.secrets = {KEY, TOKEN, PASSWORD, OTHER_PASSWORD, WRONG, basic(PASSWORD), basic(OTHER_PASSWORD)}

    def put(self, files: dict[str, bytes], *, age: float = 0.0) -> None:
        """Put files in place, each whole and at once, as if they had been written so many seconds ago."""
        for name, content in files.items():
            fresh = self.folder / f"{name}.new"
            fresh.write_bytes(content)
            os.utime(fresh, (time.time() - age,) * 2)
            fresh.replace(self.folder / name)
            if name.endswith(".key"):
                self.secrets |= {line for line in content.decode().splitlines() if not line.startswith("-----")}

    def configure(self, users: dict[str, str], *, clients: bool, age: float = 0.0) -> None:
        """Write the web configuration; `users` maps names to passwords."""
        tls = {"cert_file": "server.crt", "key_file": "server.key"}
        if clients:
            tls |= {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "clients.crt"}
        hashes = {name: hashed(password) for name, password in users.items()}
        self.secrets |= set(hashes.values())
        whole = {"tls_server_config": tls, "basic_auth_users": hashes}
        self.put({"web.yaml": yaml.safe_dump(whole).encode()}, age=age)


# Asking.


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    text: str


class Caller:
    """Asks on one connection, which it keeps as long as the server does; a request is never sent twice."""

    def __init__(self, address: str, context: ssl.SSLContext | None, authorization: str | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.context = context
        self.connection = (
            http.client.HTTPSConnection(host, int(port), timeout=30, context=context)
            if context
            else http.client.HTTPConnection(host, int(port), timeout=30)
        )
        self._authorization = {"Authorization": authorization} if authorization else {}

    def __call__(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, self._authorization | named)
        answer = self.connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode())

    def tls(self) -> ssl.SSLSocket:
        """Return the socket of a connection that is made."""
        assert isinstance(self.connection.sock, ssl.SSLSocket)
        return self.connection.sock

    def close(self) -> None:
        self.connection.close()


class Scene:
    """A daemon with its files, its parties and those who ask it."""

    def __init__(self, folder: Path, knock_url: str, *flags: str, clients: bool, users: dict[str, str]) -> None:
        self.start = Starter(folder)
        self.start.use_token()
        self.party, self.place = Party(), Place(folder / "web")
        self.place.put(self.party.server() | {"clients.crt": self.party.clients.cert_pem.bytes()}, age=60)
        self.place.configure(users, clients=clients, age=60)
        self.clients = clients
        file = self.start.configure(knock_url)
        common = (f"--config.file={file}", f"--web.config.file={self.place.path}", f"--web.listen-address={HOST}:0")
        self.exporter: Exporter = self.start.run(*common, *flags)
        self.address = str(self.exporter.said(r"event=listening address=(\S+) tls=true")[0])
        self.context = self.party.context(self.party.client() if clients else None)
        until(lambda: self.ask("/-/ready").status == 200, "ready")

    def caller(self, password: str | None = PASSWORD, user: str = USER) -> Caller:
        return Caller(self.address, self.context, basic(password, user) if password is not None else None)

    def ask(
        self, path: str, method: str = "GET", body: str | None = None, password: str | None = PASSWORD, **headers: str
    ) -> Answer:
        """Ask once, on a connection of its own."""
        with closing(self.caller(password)) as ask:
            return ask(path, method, body, **headers)

    def health_address(self) -> str:
        return str(self.exporter.said(r'event="listening for probes" address=(\S+)')[0])

    def serial(self) -> int:
        """Return the serial number of the certificate that a new connection is shown."""
        with closing(self.caller()) as caller:
            caller.connection.connect()
            return serial(ssl.DER_cert_to_PEM_cert(caller.tls().getpeercert(binary_form=True) or b"").encode())

    def end(self) -> None:
        """End, and see that the log holds nothing that it must not."""
        self.start.end()
        log = self.exporter.output
        assert "Traceback" not in log
        assert "PRIVATE KEY" not in log
        assert [each for each in self.place.secrets if each in log] == []
        assert re.findall("level=(?:error|critical).*", log) == []


@contextmanager
def scene_of(folder: Path, *flags: str, clients: bool, users: dict[str, str] | None = None) -> Iterator[Scene]:
    with Simulator(world=World(seed=1), rate_limits=False) as knock:
        found = Scene(folder, knock.url, *flags, clients=clients, users=users or {USER: PASSWORD})
        try:
            yield found
        finally:
            found.end()


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Start one that asks for a certificate and a password, behind a proxy, with health on a port of its own."""
    flags = (f"--web.external-url={OUTSIDE}", f"--web.health-listen-address={HOST}:0", "--web.enable-lifecycle")
    with scene_of(tmp_path_factory.mktemp("mutual"), *flags, clients=True) as scene:
        yield scene


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Start one that asks for a password, but not of probes."""
    with scene_of(tmp_path_factory.mktemp("single"), "--web.health-without-password", clients=False) as scene:
        yield scene


# Prometheus.


def jobs(scene: Scene, folder: Path) -> list[dict[str, Any]]:
    """Make jobs by name: one that has everything, and others that lack something."""
    ours, stranger = scene.party.client(), Party().client()
    files = pair(ours, "good") | pair(stranger, "stranger")
    for name, content in (files | {"ca.crt": scene.party.servers.cert_pem.bytes()}).items():
        (folder / name).write_bytes(content)
    (folder / "password").write_text(PASSWORD)
    trusting = {"ca_file": str(folder / "ca.crt")}
    good, strange = (
        trusting | {"cert_file": str(folder / f"{name}.crt"), "key_file": str(folder / f"{name}.key")}
        for name in ("good", "stranger")
    )
    right = {"username": USER, "password_file": str(folder / "password")}
    parts: dict[str, dict[str, Any]] = {
        "good": {"tls_config": good, "basic_auth": right},
        "no certificate": {"tls_config": trusting, "basic_auth": right},
        "strange certificate": {"tls_config": strange, "basic_auth": right},
        "wrong password": {"tls_config": good, "basic_auth": {"username": USER, "password": WRONG}},
        "unknown user": {"tls_config": good, "basic_auth": {"username": "nobody", "password": PASSWORD}},
        "no password": {"tls_config": good},
        "server not trusted": {"tls_config": {"cert_file": good["cert_file"], "key_file": good["key_file"]}},
        "plain": {"scheme": "http"},
    }
    target: dict[str, Any] = {"static_configs": [{"targets": [scene.address]}]}
    return [{"job_name": name, "scheme": "https"} | target | part for name, part in parts.items()]


CLOSED = "EOF|connection reset by peer|broken pipe"
UNAUTHORIZED = "server returned HTTP status 401 Unauthorized"
LAST_ERRORS = {  # what Prometheus says of each
    "good": "",
    "no certificate": f"tls: certificate required|{CLOSED}",
    "strange certificate": f"tls: unknown certificate authority|{CLOSED}",
    "wrong password": UNAUTHORIZED,
    "unknown user": UNAUTHORIZED,
    "no password": UNAUTHORIZED,
    "server not trusted": "certificate signed by unknown authority",
    "plain": "server returned HTTP status 400 Bad Request",
}


@pytest.mark.parametrize("line", LINES)
def test_prometheus_scrapes_over_mutual_tls_with_a_password(mutual: Scene, tmp_path: Path, line: int) -> None:
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": jobs(mutual, tmp_path),
    }
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    flags = [f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address={HOST}:0"]
    prometheus = Program([tool("prometheus", line), *flags], tmp_path / "prometheus.log")
    try:
        url = "http://" + prometheus.said(r'msg="Listening on".* address=(127\.0\.0\.1:\d+)')[0]

        until(lambda: WEB.get(f"{url}/-/ready", timeout=30).ok, "ready", 20.0)

        def query(expression: str) -> dict[str, float]:
            found = WEB.get(f"{url}/api/v1/query", params={"query": expression}, timeout=30).json()["data"]["result"]
            return {each["metric"]["job"]: float(each["value"][1]) for each in found}

        up = {name: float(name == "good") for name in LAST_ERRORS}
        until(lambda: set(query("count_over_time(up[1m]) >= 3")) == set(up), "three scrapes of each", 20.0)
        assert query("min_over_time(up[1m])") == up
        assert query("max_over_time(up[1m])") == up
        assert query("knock_up") == {"good": 1.0}
        targets = WEB.get(f"{url}/api/v1/targets", timeout=30).json()["data"]["activeTargets"]
        for target in targets:
            expected = LAST_ERRORS[target["labels"]["job"]]
            assert re.search(f"({expected})$", target["lastError"]), target
            assert bool(target["lastError"]) == bool(expected), target
    finally:
        prometheus.end()


# Rotation.


class Load:
    """Threads that scrape all the time; each failure is kept, and none is tried again."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._over = threading.Event()
        self.scrapes: list[float] = []
        self.failures: list[str] = []
        self.contexts: dict[int, ssl.SSLContext | None] = {}  # of the last new connection of each thread

    @contextmanager
    def running(self) -> Iterator[Load]:
        with ThreadPoolExecutor(KEPT + FRESH) as threads:
            for number in range(KEPT + FRESH):
                threads.submit(*((self._kept,) if number < KEPT else (self._fresh, number)))
            try:
                yield self
            finally:
                self._over.set()

    def _kept(self) -> None:
        with closing(self._scene.caller()) as ask:
            while not self._over.wait(PAUSE_SECONDS):
                self._scrape(ask)

    def _fresh(self, number: int) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            with closing(self._scene.caller()) as ask:
                self.contexts[number] = ask.context
                self._scrape(ask)

    def _scrape(self, ask: Caller) -> None:
        began = time.monotonic()
        try:
            answer = ask("/metrics")
            fault = "" if answer.status == 200 and "knock_up" in answer.text else f"{answer.status} {answer.text[:200]}"
        except (OSError, http.client.HTTPException) as error:
            fault = repr(error)
        self.scrapes.append(time.monotonic() - began)
        if fault:
            self.failures.append(fault)


def reload(scene: Scene) -> None:
    """Have everything read at once, and wait until that is done."""
    before = scene.exporter.output.count('event="configuration reloaded"')
    scene.exporter.signal(signal.SIGHUP)
    scene.exporter.said('event="configuration reloaded"', before + 1)


def complaints(scene: Scene) -> list[str]:
    return [line for line in scene.exporter.output.splitlines() if NOT_TAKEN in line]


def rotated(scene: Scene, *, age: float = 0.0) -> None:
    """Give the server a new certificate, and wait until it is served."""
    fresh = scene.party.server()
    scene.place.put(fresh, age=age)
    if age:
        reload(scene)
    until(lambda: scene.serial() == serial(fresh["server.crt"]), "the new certificate", TAKEN_SECONDS)


def stays_active(scene: Scene, broken: dict[str, bytes], complaint: str) -> None:
    """Put something broken in place, and see that it is told once and changes nothing."""
    before, count = scene.serial(), len(complaints(scene))
    whole = {name: (scene.place.folder / name).read_bytes() for name in broken}
    scene.place.put(broken)
    for _ in range(3):
        reload(scene)
    assert [complaint in line for line in complaints(scene)[count:]] == [True], complaints(scene)
    assert scene.serial() == before
    assert scene.ask("/metrics").status == 200
    good_again = scene.exporter.output.count('event="web configuration is good again"')
    scene.place.put(whole)
    reload(scene)
    scene.exporter.said('event="web configuration is good again"', good_again + 1)


def test_certificates_rotate_under_load_without_a_failed_scrape(tmp_path: Path) -> None:
    users = {USER: PASSWORD, "ann": PASSWORD}
    with scene_of(tmp_path, clients=True, users=users) as scene, Load(scene).running() as load:
        until(lambda: len(load.scrapes) > 100, "load")
        rotated(scene)  # without a signal
        for _ in range(ROTATIONS):
            rotated(scene, age=60)
        rotate_clients(scene, load)
        server = scene.party.server()
        fresh_key, half = server["server.key"], server["server.crt"][: len(server["server.crt"]) // 2]
        stays_active(scene, {"server.key": fresh_key}, "does not belong to the certificate")
        stays_active(scene, {"server.crt": half}, "holds no certificates, or a broken one")
        stays_active(scene, {"clients.crt": b""}, "holds no certificates, or a broken one")
        stays_active(scene, {"web.yaml": b"basic_auth_users: [\n"}, "line 2")
        rotated(scene, age=60)
        change_password(scene)
        until(lambda: len(load.scrapes) > 300, "load")
    figures = f"{len(load.scrapes)} scrapes, the longest {max(load.scrapes):.3f} s"
    assert load.failures == [], figures


def rotate_clients(scene: Scene, load: Load) -> None:
    """Replace the clients' authority: both are trusted until the clients have changed over."""
    party, old_context = scene.party, scene.context
    old, party.clients = party.clients, trustme.CA()
    with closing(scene.caller()) as caller:
        assert caller("/metrics").status == 200
        session = caller.tls().session
    fresh = party.context(party.client())
    scene.place.put({"clients.crt": old.cert_pem.bytes() + party.clients.cert_pem.bytes()}, age=60)
    reload(scene)
    assert refusal(scene, old_context) == refusal(scene, fresh) == ""
    scene.context = fresh  # of new connections; kept ones stay on
    until(lambda: set(load.contexts.values()) == {fresh}, "all changed over")
    scene.place.put({"clients.crt": party.clients.cert_pem.bytes()}, age=60)
    reload(scene)
    assert refusal(scene, fresh) == ""
    assert refusal(scene, old_context)
    assert refusal(scene, old_context, session)


def refusal(scene: Scene, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> str:
    """Return how the server refuses a handshake: its alert, or what else ends it; empty if it lets in."""
    host, _, port = scene.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=HOST, session=session) as channel:
                channel.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
                return "" if channel.recv(12) == b"HTTP/1.1 401" else "closed"
        except ssl.SSLError as error:
            return str(error.reason)
        except OSError:
            return "closed"


def change_password(scene: Scene) -> None:
    """Change a password without a signal; the old one ends also where it was remembered."""
    with closing(scene.caller(PASSWORD, "ann")) as old, closing(scene.caller(OTHER_PASSWORD, "ann")) as new:
        assert (old("/metrics").status, new("/metrics").status) == (200, 401)
        scene.place.configure({USER: PASSWORD, "ann": OTHER_PASSWORD}, clients=True)
        until(lambda: new("/metrics").status == 200, "the new password", TAKEN_SECONDS)
        assert old("/metrics").status == 401


# Health.


def test_health_has_a_port_of_its_own_without_tls_and_nothing_else(mutual: Scene) -> None:
    with closing(Caller(mutual.health_address(), None)) as ask:
        for path in HEALTH:
            assert ask(path).status == 200
        for path in ("/metrics", "/", "/config", "/-/reload", REGISTER, "/api/v1/openapi.json", "/static/page.js"):
            assert ask(path).status == 404, path
        assert ask("/-/reload", "POST").status == 404


def test_health_asks_for_the_password_unless_it_is_exempt(mutual: Scene, single: Scene) -> None:
    for path in HEALTH:
        asked = mutual.ask(path, password=None)
        assert (asked.status, asked.headers["WWW-Authenticate"].split()[0]) == (401, "Basic")
        assert single.ask(path, password=None).status == 200
        assert single.ask(path, password=WRONG).status == 200  # a probe that sends something else still learns it


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/config", "/metrics", "/-/reload", "/api/v1/environments", "/api/v1/openapi.json", "/static/page.js"),
        *(
            "/-/healthy/",
            "//-/healthy",
            "/-/healthy/../../metrics",
            "/-/Healthy",
            "/metrics?/-/healthy",
            "/-/healthy;a",
        ),
        *("/metrics#/-/healthy", "http://x.example/metrics", "/-/healthy%2f..%2f..%2fmetrics", "/-/healthy%00"),
    ],
)
def test_nothing_else_goes_without_the_password(single: Scene, path: str) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "PUT"):
        assert single.ask(path, method, password=None).status == 401, method
    assert single.ask(path, password=WRONG).status == 401


# Registration.


def registering(url: str, folder: Path, *ids: str) -> list[str]:
    flags = ["--url", url, "--environment=production", f"--token-file={folder / 'register.token'}"]
    return [str(forked_command()), "register", *flags, *ids]


ONE, TWO, THREE = (f"123e4567-e89b-12d3-a456-42661417400{number}" for number in (1, 2, 3))


def test_registrations_have_their_token_in_place_of_the_password(mutual: Scene) -> None:
    bearer = f"Bearer {TOKEN}"
    json = {"Content_Type": "application/json"}
    for prefix in ("", "/knock"):
        path, body = prefix + REGISTER, f'["{ONE}"]'
        assert mutual.ask(path, "POST", body, None, Authorization=bearer, **json).status == 200
        assert mutual.ask(path, "POST", body, None, **json).status == 401
        assert mutual.ask(path, "POST", body, PASSWORD, **json).status == 401
        assert mutual.ask(path, password=None).status == 401
        assert mutual.ask(path, password=None, Authorization=bearer).status == 401
        assert mutual.ask(f"{path}/{ONE}", password=None, Authorization=bearer).status == 401
        assert ONE in mutual.ask(path).text
        assert mutual.ask(f"{path}/{ONE}", "DELETE", None, None, Authorization=bearer).status < 300


def test_register_trusts_a_private_authority(single: Scene, mutual: Scene, tmp_path: Path) -> None:
    authority = tmp_path / "ca.crt"
    authority.write_bytes(single.party.servers.cert_pem.bytes() + mutual.party.servers.cert_pem.bytes())
    environ = {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}

    def register(scene: Scene, more: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = registering(f"https://{scene.address}", scene.start.folder, TWO)
        return subprocess.run(command, env=environ | more, capture_output=True, text=True, check=False, timeout=90)

    done = register(single, {"SSL_CERT_FILE": str(authority)})
    assert (done.returncode, done.stdout) == (0, f"{TWO} pending\n"), done.stderr
    done = register(single, {})
    assert (done.returncode, done.stdout) == (1, "")
    assert "certificate" in done.stderr
    done = register(mutual, {"SSL_CERT_FILE": str(authority)})  # it has no certificate to show
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr


# Links.


def links(text: str) -> set[str]:
    return set(re.findall(r'(?:href|src|action)="(/[^"]*)"', text))


def test_links_begin_with_the_path_of_the_external_url(mutual: Scene) -> None:
    body = f'["{THREE}"]'
    more = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json"}
    assert mutual.ask(REGISTER, "POST", body, None, **more).status == 200
    until(lambda: THREE in mutual.ask("/").text, "on the page")
    found = set()
    for path in ("/", "/config", f"/operations/production/{THREE}", "/nowhere"):
        plain, prefixed = mutual.ask(path), mutual.ask("/knock" + path)
        assert plain.status == prefixed.status == (404 if path == "/nowhere" else 200)
        assert links(plain.text) == links(prefixed.text)
        found |= links(plain.text)
    assert f"/knock/operations/production/{THREE}" in found
    for link in found:
        assert link.startswith("/knock/"), link
        assert mutual.ask(link.replace("&amp;", "&")).status == 200, link
    assert mutual.ask("/knock").status == 200
    assert mutual.ask("/knockout").status == 404


# What does not get in.


def test_a_plain_request_to_the_tls_port_is_told_so(mutual: Scene) -> None:
    host, _, port = mutual.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as plain:
        plain.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        with plain.makefile("rb") as answer:
            told = answer.read()
    assert told.startswith(b"HTTP/1.0 400 ")
    assert told.endswith(b"Client sent an HTTP request to an HTTPS server.\n")


@pytest.mark.parametrize("version", ["TLSv1_1", "TLSv1_2"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_older_than_12_is_refused(single: Scene, version: str) -> None:
    context = single.party.context()
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # else this side refuses TLS 1.1
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    assert bool(refusal(single, context)) == (version == "TLSv1_1")


def test_pages_of_other_sites_reach_no_post(mutual: Scene) -> None:
    foreign = ({"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}, {"Origin": "https://evil.example"})
    own: tuple[dict[str, str], ...] = (
        {},
        {"Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
        {"Origin": f"https://{mutual.address}"},
    )
    for path in ("/-/reload", "/knock/-/reload"):
        for headers in (*foreign, {"Origin": "null"}):
            assert mutual.ask(path, "POST", **headers).status == 403, headers
        for headers in own:
            assert mutual.ask(path, "POST", **headers).status == 200, headers
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for headers in foreign:
        assert mutual.ask(REGISTER, "POST", f'["{ONE}"]', None, **bearer, **headers).status == 403
        assert mutual.ask(f"{REGISTER}/{THREE}", "DELETE", None, None, **bearer, **headers).status == 403


# The command.


def checked(path: Path) -> Result:
    return CliRunner().invoke(main, ["check-web-config", str(path)])


def test_check_web_config_is_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "exporter", "check-web-config", str(tmp_path / "gone.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert (done.returncode, done.stdout) == (1, "")
    assert "gone.yaml" in done.stderr


def test_check_web_config_tells_good_from_bad(tmp_path: Path) -> None:
    place = Place(tmp_path / "web")
    place.put(Party().server() | {"clients.crt": trustme.CA().cert_pem.bytes()})
    place.configure({USER: PASSWORD}, clients=True)
    done = checked(place.path)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{place.path} is good: TLS, 1 users, 0 headers.\n"

    place.put({"server.key": Party().server()["server.key"]})
    done = checked(place.path)
    assert (done.exit_code, done.stdout) == (1, "")
    told = "tls_server_config.key_file: {}: does not belong to the certificate"
    assert told.format(place.folder / "server.key") in done.stderr

    place.put({"web.yaml": f"basic_auth_users:\n  {USER}: {PASSWORD}\nhttp2: true\n".encode()})
    done = checked(place.path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"line 2: basic_auth_users.{USER}: is not a bcrypt hash" in done.stderr
    assert "line 3: http2: unknown key" in done.stderr
    assert [each for each in place.secrets if each in done.stderr] == []
