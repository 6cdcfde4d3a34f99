"""Which web configuration is active, and when another one is."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from structlog.testing import capture_logs

from exporter.errors import StartError
from exporter.web.web_config import WebConfig
from exporter.web.web_config_watcher import WebConfigWatcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
TLS = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"
CLIENTS = """\
tls_server_config:
  cert_file: cert.pem
  key_file: key.pem
  client_ca_file: ca.pem
  client_auth_type: RequireAndVerifyClientCert
"""
USERS = f"basic_auth_users: {{ann: {HASH}}}\n"
CA = trustme.CA()
SERVER = CA.issue_cert("localhost")
CLIENT = CA.issue_cert("prometheus")
OLD = 1_000_000.0  # when the files were written, Unix seconds


class Scene:
    """A folder with a web configuration, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "web.yaml"
        self.wall = OLD + 60
        self.certify(SERVER)
        CA.cert_pem.write_to_path(folder / "ca.pem")

    def write(self, text: str | bytes, name: str = "web.yaml", at: float = OLD) -> None:
        path = self.path.with_name(name)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        os.utime(path, (at, at))

    def certify(self, made: trustme.LeafCert, at: float = OLD) -> None:
        self.write(b"".join(each.bytes() for each in made.cert_chain_pems), "cert.pem", at)
        self.write(made.private_key_pem.bytes(), "key.pem", at)

    def lock(self, text: str) -> WebConfigWatcher:
        self.write(text)
        return WebConfigWatcher(self.path, lambda: self.wall)

    def refusal(self, text: str) -> str:
        with pytest.raises(StartError) as caught:
            self.lock(text)
        return str(caught.value).replace(f"{self.path.parent}/", "")


@pytest.fixture
def web_folder(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def client(made: trustme.LeafCert | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    if made is not None:
        made.configure_cert(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def spoken(lock: WebConfigWatcher, context: ssl.SSLContext) -> tuple[str, str]:
    """Greet the server of a lock; return version and cipher suite."""
    assert lock.context is not None
    near, far = socket.socketpair()
    served = threading.Thread(target=_serve, args=(lock.context, far))
    served.start()
    try:
        with closing(context.wrap_socket(near, server_hostname="localhost")) as channel:
            channel.sendall(b"?")
            if channel.recv(1) != b"!":
                raise ssl.SSLError("refused")
            cipher = channel.cipher()
            return str(channel.version()), cipher[0] if cipher else ""
    finally:
        near.close()
        served.join(10)


def _serve(context: ssl.SSLContext, end: socket.socket) -> None:
    with closing(end):
        try:
            with closing(context.wrap_socket(end, server_side=True)) as channel:
                channel.recv(1)
                channel.sendall(b"!")
        except OSError:
            return


# At the start.


def test_without_a_file_it_is_open() -> None:
    lock = WebConfigWatcher(None)
    assert (lock.config, lock.context, lock.reload_if_changed()) == (WebConfig(), None, None)


def test_users_need_no_tls(web_folder: Scene) -> None:
    lock = web_folder.lock(USERS)
    assert (dict(lock.config.users), lock.context) == ({"ann": HASH.encode()}, None)


def test_tls_is_spoken_from_12_on(web_folder: Scene) -> None:
    lock = web_folder.lock(TLS)
    assert spoken(lock, client())[0] == "TLSv1.3"
    assert spoken(lock, client(version=ssl.TLSVersion.TLSv1_2))[0] == "TLSv1.2"


def test_versions_suites_and_curves_are_as_asked(web_folder: Scene) -> None:
    config = TLS.replace("}", ", min_version: TLS13}")
    with pytest.raises(OSError):  # noqa: PT011  whichever of its errors: no handshake
        spoken(web_folder.lock(config), client(version=ssl.TLSVersion.TLSv1_2))
    config = TLS.replace("}", ", max_version: TLS12, cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA]}")
    context = client()
    context.set_ciphers("DEFAULT")  # Python's own choice leaves this suite out
    assert spoken(web_folder.lock(config), context) == ("TLSv1.2", "ECDHE-ECDSA-AES256-SHA")
    for curve, other in (("X25519", "secp384r1"), ("CurveP384", "X25519")):
        lock = web_folder.lock(TLS.replace("}", f", curve_preferences: [{curve}]}}"))
        assert spoken(lock, client())[0] == "TLSv1.3"
        context = client()
        context.set_ecdh_curve(other)
        with pytest.raises(OSError):  # noqa: PT011
            spoken(lock, context)


def test_the_server_chooses_unless_told_otherwise(web_folder: Scene) -> None:
    suites = ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")
    asking = client(version=ssl.TLSVersion.TLSv1_2)
    asking.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384")
    config = TLS.replace("}", f", cipher_suites: [{', '.join(suites)}]}}")
    assert spoken(web_folder.lock(config), asking)[1] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    config = config.replace("cipher_suites", "prefer_server_cipher_suites: false, cipher_suites")
    assert spoken(web_folder.lock(config), asking)[1] == "ECDHE-ECDSA-AES128-GCM-SHA256"


def test_clients_are_verified(web_folder: Scene) -> None:
    lock = web_folder.lock(CLIENTS)
    spoken(lock, client(CLIENT))
    for stranger in (None, trustme.CA().issue_cert("prometheus")):
        with pytest.raises(OSError):  # noqa: PT011
            spoken(lock, client(stranger))
    lock = web_folder.lock(CLIENTS.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven"))
    spoken(lock, client(CLIENT))
    spoken(lock, client())
    with pytest.raises(OSError):  # noqa: PT011
        spoken(lock, client(trustme.CA().issue_cert("prometheus")))


def test_what_stands_in_the_file_is_trusted_by_any_issuer(web_folder: Scene) -> None:
    intermediate = CA.create_child_ca()
    web_folder.write(intermediate.cert_pem.bytes(), "ca.pem")
    lock = web_folder.lock(CLIENTS)
    spoken(lock, client(intermediate.issue_cert("prometheus")))
    with pytest.raises(OSError):  # noqa: PT011
        spoken(lock, client(CLIENT))


def test_certificate_and_key_may_stand_in_the_file(web_folder: Scene) -> None:
    def inline(key: str, pem: bytes) -> str:
        return f"  {key}: |\n" + "".join(f"    {line}\n" for line in pem.decode().splitlines())

    key = SERVER.private_key_pem.bytes()
    text = "tls_server_config:\n  client_auth_type: RequireAndVerifyClientCert\n" + inline(
        "client_ca", CA.cert_pem.bytes()
    )
    lock = web_folder.lock(text + inline("cert", SERVER.cert_chain_pems[0].bytes()) + inline("key", key))
    spoken(lock, client(CLIENT))


def _encrypted() -> bytes:
    key = load_pem_private_key(SERVER.private_key_pem.bytes(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2"))


BROKEN = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
NO_CERTIFICATES = "holds no certificates, or a broken one (expected PEM)"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cert.pem", b"", NO_CERTIFICATES),
        ("cert.pem", BROKEN, NO_CERTIFICATES),
        ("cert.pem", SERVER.private_key_pem.bytes(), NO_CERTIFICATES),
        ("cert.pem", SERVER.cert_chain_pems[0].bytes() + BROKEN, NO_CERTIFICATES),
        ("ca.pem", b"\xff\xfe", NO_CERTIFICATES),
        ("ca.pem", SERVER.private_key_pem.bytes(), NO_CERTIFICATES),
        ("key.pem", b"", "holds no private key that can be used (expected PEM)"),
        ("key.pem", b"hunter2", "holds no private key that can be used (expected PEM)"),
        ("key.pem", SERVER.cert_chain_pems[0].bytes(), "holds no private key that can be used (expected PEM)"),
        ("key.pem", _encrypted(), "is encrypted (give a key that needs no password)"),
        (
            "key.pem",
            CLIENT.private_key_pem.bytes(),
            "does not belong to the certificate (of tls_server_config.cert_file: cert.pem)",
        ),
        (
            "key.pem",
            CA.issue_cert("x", key_type=trustme.KeyType.RSA).private_key_pem.bytes(),
            "does not belong to the certificate (of tls_server_config.cert_file: cert.pem)",
        ),
    ],
)
def test_each_broken_file_is_named(web_folder: Scene, name: str, content: bytes, message: str) -> None:
    web_folder.write(content, name)
    key = {"ca.pem": "client_ca_file", "cert.pem": "cert_file", "key.pem": "key_file"}[name]
    assert web_folder.refusal(CLIENTS) == f"web.yaml: tls_server_config.{key}: {name}: {message}"


@pytest.mark.parametrize("name", ["cert.pem", "key.pem", "ca.pem"])
def test_each_missing_file_is_named(web_folder: Scene, name: str) -> None:
    web_folder.path.with_name(name).unlink()
    folder = "(relative paths start at the folder of the web configuration)"
    assert web_folder.refusal(CLIENTS).endswith(f"_file: {name}: No such file or directory {folder}")
    os.mkfifo(web_folder.path.with_name(name))
    assert web_folder.refusal(CLIENTS).endswith(f"_file: {name}: is not a regular file")


def test_an_address_in_place_of_a_file_is_shown_without_its_password(web_folder: Scene) -> None:
    refused = web_folder.refusal(CLIENTS.replace("key.pem", "https://me:hunter2@host/sk_live_0123"))
    assert "tls_server_config.key_file: https:/***@host/sk_*** No such file" in refused


def test_a_broken_configuration_is_told_whole(web_folder: Scene) -> None:
    assert web_folder.refusal("basic_auth_users: {a: hunter2, b: hunter2}").count("is not a bcrypt hash") == 2


# Later.


def test_nothing_new_changes_nothing(web_folder: Scene) -> None:
    lock = web_folder.lock(CLIENTS + USERS)
    before = (lock.config, lock.context)
    web_folder.write(f"# another comment\n{CLIENTS}{USERS}")
    with capture_logs() as logs:
        assert lock.reload_if_changed() is None
    assert logs == []
    assert lock.config is before[0]
    assert lock.context is before[1]


def test_a_new_certificate_is_shown_to_who_comes_next(web_folder: Scene) -> None:
    lock = web_folder.lock(TLS + USERS)
    before = lock.context
    other = trustme.CA()
    web_folder.certify(other.issue_cert("localhost"))
    with capture_logs() as logs:
        assert lock.reload_if_changed() is None
    assert lock.context is not before
    with pytest.raises(ssl.SSLError):
        spoken(lock, client())
    context = ssl.create_default_context()
    other.configure_trust(context)
    spoken(lock, context)
    event = {"event": "new web configuration active", "log_level": "info", "path": str(web_folder.path)}
    assert logs == [event | {"tls": True, "users": 1}]


def test_new_authorities_count_for_who_comes_next(web_folder: Scene) -> None:
    lock, other = web_folder.lock(CLIENTS), trustme.CA()
    web_folder.write(other.cert_pem.bytes(), "ca.pem")
    lock.reload_if_changed()
    spoken(lock, client(other.issue_cert("prometheus")))
    with pytest.raises(OSError):  # noqa: PT011
        spoken(lock, client(CLIENT))


def test_users_and_tls_come_and_go_without_a_restart(web_folder: Scene) -> None:
    lock = web_folder.lock("")
    for text in (TLS, TLS + USERS, USERS, ""):
        web_folder.write(text)
        assert lock.reload_if_changed() is None
        assert (lock.context is not None, bool(lock.config.users)) == (TLS in text, USERS in text)


BREAKS: list[Callable[[Scene], object]] = [
    lambda web_folder: web_folder.write("basic_auth_users: {ann: x}"),
    lambda web_folder: web_folder.write(TLS + "\t"),
    lambda web_folder: web_folder.path.unlink(),
    lambda web_folder: web_folder.write(b"", "key.pem"),
    lambda web_folder: web_folder.write(CLIENT.private_key_pem.bytes(), "key.pem"),
    lambda web_folder: web_folder.path.with_name("cert.pem").unlink(),
    lambda web_folder: shutil.rmtree(web_folder.path.parent),
]


@pytest.mark.parametrize("broken", BREAKS)
def test_what_is_broken_is_told_once_and_not_taken(web_folder: Scene, broken: Callable[[Scene], object]) -> None:
    lock = web_folder.lock(TLS + USERS)
    before = (lock.config, lock.context)
    broken(web_folder)
    with capture_logs() as logs:
        problem = lock.reload_if_changed()
        assert lock.reload_if_changed() == problem
    assert [each["event"] for each in logs] == ["web configuration not loaded, the old one stays active"]
    assert logs[0]["error"] == problem
    assert "web.yaml" in str(problem)
    assert (lock.config, lock.context) == before
    web_folder.path.parent.mkdir(exist_ok=True)
    web_folder.certify(SERVER)
    web_folder.write(TLS + USERS)
    with capture_logs() as logs:
        assert lock.reload_if_changed() is None
    assert [each["event"] for each in logs] == ["web configuration is good again"]
    assert (lock.config, lock.context) == before


def test_what_comes_after_the_file_that_names_it_is_taken_by_itself(web_folder: Scene) -> None:
    lock = web_folder.lock(USERS)
    web_folder.write(TLS.replace("cert.pem", "late.pem") + USERS)
    for _ in range(3):
        assert "late.pem: No such file" in str(lock.reload_if_changed())
    web_folder.path.with_name("cert.pem").rename(web_folder.path.with_name("late.pem"))
    assert lock.reload_if_changed() is None
    spoken(lock, client())


def test_another_problem_is_told_as_well(web_folder: Scene) -> None:
    lock = web_folder.lock(TLS)
    with capture_logs() as logs:
        for text in ("a: 1", "a: 1", "b: 1", "a: 1", TLS + USERS):
            web_folder.write(text)
            lock.reload_if_changed()
    assert [each["log_level"] for each in logs] == ["warning", "warning", "warning", "info"]


def test_half_a_file_does_not_unlock(web_folder: Scene) -> None:
    lock = web_folder.lock(TLS + USERS)
    web_folder.write(TLS, at=web_folder.wall - 0.5)  # the users are still to come
    assert lock.reload_if_changed() is None
    assert lock.config.users
    web_folder.write(TLS + USERS, at=web_folder.wall)
    lock.reload_if_changed()
    web_folder.write(TLS, at=web_folder.wall)
    lock.reload_if_changed()
    assert lock.config.users
    lock.reload_if_changed()  # nothing more has come: it is meant so
    assert not lock.config.users


def test_who_asks_for_a_reload_says_that_the_files_are_whole(web_folder: Scene) -> None:
    lock = web_folder.lock(TLS + USERS)
    web_folder.write(TLS, at=web_folder.wall - 0.5)
    assert lock.reload_if_changed() is None
    assert lock.config.users, "written just now: perhaps not to its end"
    assert lock.reload_if_changed(whole=True) is None
    assert not lock.config.users


def test_half_a_rotation_is_waited_for(web_folder: Scene) -> None:
    lock, other = web_folder.lock(TLS), CA.issue_cert("localhost")
    before = lock.context
    web_folder.write(other.cert_chain_pems[0].bytes(), "cert.pem", at=web_folder.wall)
    with capture_logs() as logs:
        assert lock.reload_if_changed() is None
        web_folder.certify(other, at=web_folder.wall)
        web_folder.wall += 2
        assert lock.reload_if_changed() is None
    assert [each["event"] for each in logs] == ["new web configuration active"]
    assert lock.context is not before
