"""Names, certificates, proxies and the one deadline over all of it."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import certifi
import pytest
import trustme
from chaos import HANG_SECONDS, answering, hanging, http, serving
from cryptography import x509
from urllib3.exceptions import EmptyPoolError

from exporter.errors import KnockError, Reason, StartError
from exporter.keys import Secret
from exporter.knock.client import Client
from exporter.knock.deadline import Deadline, DeadlineSocket, NameTimeout, Resolver, ResponseTooLarge, connect
from exporter.knock.failures import failure
from exporter.knock.transport import Transport
from exporter.knock.trust import BUNDLES, trust, trust_for
from exporter.send_window import SendWindow

if TYPE_CHECKING:
    from pathlib import Path

    from chaos import Handler, Server
    from timing import InTime

ID = "b19d032a-fc3b-4a54-9f54-369484527201"
OK = http(f'{{"id":"{ID}","status":"queued"}}')
KEY = Secret("sk_test_0123456789abcdef")
LIMIT = 0.2


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def tls_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def ask(url: str, **options: Any) -> KnockError | None:
    options.setdefault("timeout", 20.0)
    client = Client(base_url=url, key=KEY, **options)
    try:
        client.fetch(ID)
    except KnockError as error:
        return error
    finally:
        client.close()
    return None


# Certificates


def test_a_certificate_of_the_given_authority_is_good(authority: trustme.CA, ca_file: Path) -> None:
    with serving(answering(OK, keep=True), tls_of(authority.issue_cert("localhost"))) as server:
        client = Client(base_url=server.url, key=KEY, ca_file=ca_file)
        assert [client.fetch(ID).id for _ in range(3)] == [ID] * 3
        client.close()
    assert server.connections == 1


def test_a_certificate_of_another_authority_is_refused(ca_file: Path) -> None:
    with serving(answering(OK), tls_of(trustme.CA().issue_cert("localhost"))) as server:
        error = ask(server.url, ca_file=ca_file)
    assert error is not None
    assert error.reason is Reason.TLS
    assert str(error).startswith("certificate verify failed: ")
    assert not server.requests


def test_the_systems_authorities_do_not_stand_beside_ca_file(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, ca_file: Path
) -> None:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(ca_file))
    with serving(answering(OK), tls_of(authority.issue_cert("localhost"))) as server:
        error = ask(server.url)
    assert str(error) == "certificate verify failed: unable to get local issuer certificate"


def test_a_wrong_host_name_is_refused(authority: trustme.CA, ca_file: Path) -> None:
    with serving(answering(OK), tls_of(authority.issue_cert("elsewhere.example"))) as server:
        error = ask(server.url, ca_file=ca_file)
    assert error is not None
    assert error.reason is Reason.TLS
    assert "Hostname mismatch" in str(error)


def test_an_expired_certificate_is_refused(authority: trustme.CA, ca_file: Path) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415  used here only

    old = authority.issue_cert("localhost", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    with serving(answering(OK), tls_of(old)) as server:
        error = ask(server.url, ca_file=ca_file)
    assert str(error) == "certificate verify failed: certificate has expired"


def test_old_tls_is_refused(authority: trustme.CA, ca_file: Path) -> None:
    # Most builds of OpenSSL refuse it by themselves, but not all.
    assert trust(ca_file).minimum_version == ssl.TLSVersion.TLSv1_2
    context = tls_of(authority.issue_cert("localhost"))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with serving(answering(OK), context) as server:
        error = ask(server.url, ca_file=ca_file)
    assert error is not None
    assert error.reason is Reason.TLS


def test_a_server_without_tls_is_a_tls_failure(ca_file: Path) -> None:
    def greet(_: Server) -> Handler:
        return lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with serving(greet) as server:
        error = ask(server.url.replace("http:", "https:"), ca_file=ca_file)
    assert error is not None
    assert (error.reason, str(error)[:11]) == (Reason.TLS, "TLS failed:")


def paths_of(folder: Path) -> ssl.DefaultVerifyPaths:
    names = {"openssl_cafile": str(folder / "cert.pem"), "openssl_capath": str(folder / "certs")}
    return ssl.get_default_verify_paths()._replace(**names)


def test_where_trust_comes_from(tmp_path: Path, ca_file: Path) -> None:
    everyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    everyone.load_verify_locations(cafile=certifi.where())
    (tmp_path / "certs").mkdir()
    assert trust(None, paths_of(tmp_path), BUNDLES[-1:]).cert_store_stats() == everyone.cert_store_stats()
    (tmp_path / "cert.pem").write_bytes(ca_file.read_bytes())
    assert trust(None, paths_of(tmp_path)).cert_store_stats()["x509"] == 1
    assert trust(ca_file).cert_store_stats()["x509"] == 1


def test_the_context_always_checks(ca_file: Path) -> None:
    context = trust(ca_file)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("addresses", "trusted"),
    [
        (("https://api.knock.app",), 1),
        (("HTTPS://api.knock.app", None), 1),
        (("http://knock.internal", "https://proxy:3128"), 1),
        (("http://knock.internal", "http://proxy:3128"), 0),
        (("http://knock.internal", None), 0),
    ],
)
def test_authorities_are_loaded_where_an_address_needs_them(
    ca_file: Path, addresses: tuple[str | None, ...], trusted: int
) -> None:
    context = trust_for(ca_file, *addresses)
    assert context.cert_store_stats()["x509"] == trusted
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_a_certificate_folder_of_the_system_counts_where_openssl_finds_something_in_it(
    tmp_path: Path, ca_file: Path
) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    (folder / "0.pem").write_bytes(ca_file.read_bytes())
    (folder / "00000000.0").write_text("no certificate")
    (folder / "00000001.0").symlink_to("nowhere")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(trustme.CA().cert_pem.bytes() + trustme.CA().cert_pem.bytes())
    assert trust(None, paths_of(tmp_path), (str(bundle),)).cert_store_stats()["x509"] == 2
    (folder / "00000002.0").symlink_to("0.pem")
    assert trust(None, paths_of(tmp_path), (str(bundle),)).cert_store_stats()["x509"] == 1  # OpenSSL reads the others


def hash_of(authority: trustme.CA) -> str:
    """Return the name that OpenSSL looks for an authority's certificate under."""
    subject = x509.load_pem_x509_certificate(authority.cert_pem.bytes()).subject
    canonical = x509.Name([x509.NameAttribute(each.oid, str(each.value).lower()) for each in subject]).public_bytes()
    digest = hashlib.sha1(canonical[2:]).digest()  # noqa: S324 - as OpenSSL does
    return f"{int.from_bytes(digest[:4], 'little'):08x}.0"


def test_all_authorities_of_a_certificate_folder_of_the_system_are_trusted(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    authorities = trustme.CA(), trustme.CA()
    for each in authorities:
        (tmp_path / "certs" / hash_of(each)).write_bytes(each.cert_pem.bytes())
    context = trust(None, paths_of(tmp_path), ())
    for each in authorities:
        with serving(answering(OK), tls_of(each.issue_cert("localhost"))) as server:
            transport = Transport(server.url, context=context, proxy=None, connections=1, lookup=socket.getaddrinfo)
            answer = transport.request(server.url, {}, Deadline(20))
            answer.close()
            transport.close()
        assert answer.status == 200


@pytest.mark.parametrize("file", ["cert.pem", "certs/ca-certificates.crt", "bundle.pem"])
def test_a_system_that_has_only_a_bundle_is_enough(
    authority: trustme.CA, ca_file: Path, tmp_path: Path, file: str
) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "empty.pem").touch()
    (tmp_path / file).write_bytes(ca_file.read_bytes())
    context = trust(
        None, paths_of(tmp_path), [str(tmp_path / each) for each in ("none.pem", "empty.pem", "bundle.pem")]
    )
    with serving(answering(OK), tls_of(authority.issue_cert("localhost"))) as server:
        transport = Transport(server.url, context=context, proxy=None, connections=1, lookup=socket.getaddrinfo)
        answer = transport.request(server.url, {}, Deadline(2))
        answer.close()
        transport.close()
    assert (answer.status, context.cert_store_stats()["x509"]) == (200, 1)


def test_no_authority_at_all_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="0 authorities could be loaded"):
        trust(None, paths_of(tmp_path), ())


# The deadline


def trickling(server: Server) -> Handler:
    """Answer, but far too slowly."""

    def handle(connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            connection.sendall(b"X: y\r\n")
            time.sleep(0.02)

    return handle


@pytest.mark.parametrize("bind", [hanging(), hanging(b"HTTP/1.1 200 OK\r\n"), hanging(http("x" * 9)[:-5]), trickling])
def test_the_deadline_holds_inside_tls(authority: trustme.CA, ca_file: Path, bind: Any, in_time: InTime) -> None:
    tls = tls_of(authority.issue_cert("localhost"))
    with serving(bind, tls) as server, in_time(LIMIT, at_least=LIMIT):
        error = ask(server.url, ca_file=ca_file, timeout=LIMIT)
    assert error is not None
    assert error.reason is Reason.TIMEOUT


def test_the_deadline_holds_for_a_handshake_that_never_comes(ca_file: Path, in_time: InTime) -> None:
    def mute(server: Server) -> Handler:
        return lambda _: server.over.wait(HANG_SECONDS)

    with serving(mute) as server, in_time(LIMIT, at_least=LIMIT):
        error = ask(server.url.replace("http:", "https:"), ca_file=ca_file, timeout=LIMIT)
    assert error is not None
    assert error.reason is Reason.TIMEOUT


def test_the_steps_share_one_deadline(authority: trustme.CA, ca_file: Path) -> None:
    """A slow name and a slow answer, each within the timeout but not together."""

    def slow_name(*args: Any, **kwargs: Any) -> Any:
        time.sleep(1.2)
        return socket.getaddrinfo(*args, **kwargs)

    def slow(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            server.request(connection)
            time.sleep(1.2)
            connection.sendall(OK)

        return handle

    with serving(slow, tls_of(authority.issue_cert("localhost"))) as server:
        assert ask(server.url, ca_file=ca_file, timeout=2) is None
        error = ask(server.url, ca_file=ca_file, timeout=2, lookup=slow_name)
    assert error is not None
    assert error.reason is Reason.TIMEOUT


def test_waiting_for_a_connection_is_part_of_it(in_time: InTime) -> None:
    with serving(hanging(b"HTTP/1.1 200 OK\r\n\r\n")) as server:
        transport = Transport(server.url, context=trust(None), proxy=None, connections=1, lookup=socket.getaddrinfo)
        held = transport.request(server.url, {}, Deadline(5))
        with in_time(LIMIT, at_least=LIMIT), pytest.raises(EmptyPoolError) as caught:
            transport.request(server.url, {}, Deadline(LIMIT))
        held.close()
        transport.close()
    error = failure(caught.value)
    assert (error.reason, str(error)) == (Reason.TIMEOUT, "no connection came free in time")


def test_a_socket_asks_its_deadline_before_each_step() -> None:
    ours, theirs = socket.socketpair()
    with DeadlineSocket(fileno=ours.detach()) as near, theirs:
        near.settimeout(Deadline(0.05).remaining())
        theirs.sendall(b"ab")
        near.sendall(b"c")
        assert near.send(b"d") == 1
        assert near.recv(1) == b"a"
        time.sleep(0.06)
        steps = (
            lambda: near.recv(1),
            lambda: near.recv_into(bytearray(1)),
            lambda: near.send(b"x"),
            lambda: near.sendall(b"x"),
        )
        for step in steps:
            with pytest.raises(TimeoutError):
                step()
        near.settimeout(0.5)
        assert near.gettimeout() == 0.5
        assert near.recv(1) == b"b"


def test_a_full_socket_does_not_hold_a_sender(in_time: InTime) -> None:
    ours, theirs = socket.socketpair()
    with DeadlineSocket(fileno=ours.detach()) as near, theirs:
        deadline = Deadline(2 * HANG_SECONDS)
        near.settimeout(deadline.remaining())
        deadline.until = time.monotonic() + LIMIT  # as if all before had taken the rest
        with pytest.raises(TimeoutError), in_time(LIMIT):
            near.sendall(b"x" * 2**24)


def test_bytes_are_counted() -> None:
    deadline = Deadline(1)
    deadline.allowance = 3
    ours, theirs = socket.socketpair()
    with DeadlineSocket(fileno=ours.detach()) as near, theirs:
        near.settimeout(deadline.remaining())
        theirs.sendall(b"abcd")
        near.recv(3)
        with pytest.raises(ResponseTooLarge):
            near.recv(1)


# Kept connections


RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER: closing resets


def forgetting(last: bytes = b"", *, after: int = 1, reset: bool = False) -> Any:
    """Make a handler that answers so many requests of a connection, and then ends it with these bytes."""

    def bind(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            for _ in range(after):
                server.request(connection)
                connection.sendall(OK)
            server.request(connection)
            connection.sendall(last)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

        return handle

    return bind


def outcomes(client: Client, count: int) -> list[str]:
    found = []
    for _ in range(count):
        try:
            found.append(client.fetch(ID).status.value)
        except KnockError as error:
            found.append(type(error).__name__)
    return found


@pytest.mark.parametrize(("seconds", "connections"), [(29, 1), (31, 3)])
def test_a_connection_that_idled_long_is_not_used_again(seconds: float, connections: int) -> None:
    now = [1000.0]
    with serving(answering(OK, keep=True)) as server:
        client = Client(base_url=server.url, key=KEY, timeout=2, monotonic=lambda: now[0])
        for _ in range(3):
            client.fetch(ID)
            now[0] += seconds
        client.close()
    assert server.connections == connections


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("secured", [False, True])
def test_a_kept_connection_that_ends_without_a_byte_is_not_a_failure(
    authority: trustme.CA, ca_file: Path, *, secured: bool, reset: bool
) -> None:
    with serving(forgetting(reset=reset), tls_of(authority.issue_cert("localhost")) if secured else None) as server:
        client = Client(base_url=server.url, key=KEY, ca_file=ca_file)
        assert outcomes(client, 4) == ["queued", "ConnectionLost", "queued", "ConnectionLost"]
        client.close()


def test_a_kept_tunnel_too_but_not_a_new_one(authority: trustme.CA, ca_file: Path) -> None:
    for after, expected in ((1, ["queued", "ConnectionLost", "queued"]), (0, ["Unreachable"] * 2)):
        tls = tls_of(authority.issue_cert("localhost"))
        with serving(forgetting(after=after), tls) as knock, serving(forwarding()) as proxy:
            client = Client(base_url=knock.url, key=KEY, ca_file=ca_file, proxy=Secret(proxy.url))
            assert outcomes(client, len(expected)) == expected
            client.close()


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        (forgetting(after=0), ["Unreachable"]),
        (forgetting(b"H"), ["queued", "BadResponse"]),
        (forgetting(b"H", reset=True), ["queued", "Unreachable"]),
        (forgetting(b"HTTP/1.1 103 Early Hints\r\n\r\n"), ["queued", "Unreachable"]),
    ],
)
def test_a_new_connection_or_one_that_began_to_answer_fails(bind: Any, expected: list[str]) -> None:
    with serving(bind) as server:
        client = Client(base_url=server.url, key=KEY)
        assert outcomes(client, len(expected)) == expected
        client.close()


def test_a_kept_connection_that_is_silent_fails() -> None:
    def falling_silent(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            server.request(connection)
            connection.sendall(OK)
            server.over.wait(HANG_SECONDS)

        return handle

    with serving(falling_silent) as server:
        client = Client(base_url=server.url, key=KEY, timeout=1)
        assert outcomes(client, 2) == ["queued", "Unreachable"]
        client.close()


def test_where_one_kept_connection_has_ended_the_older_ones_are_closed_too() -> None:
    together = threading.Barrier(4)

    def meeting(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            server.request(connection)
            if server.connections <= 4:
                together.wait(5)
            connection.sendall(OK)
            server.request(connection)

        return handle

    with serving(meeting) as server:
        client = Client(base_url=server.url, key=KEY, connections=4, timeout=5)
        threads = [threading.Thread(target=client.fetch, args=(ID,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes(client, 2) == ["ConnectionLost", "queued"]
        client.close()
    assert server.connections == 5


# Names and addresses


def loopback(port: int, host: str = "127.0.0.1") -> tuple[Any, ...]:
    return (socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port))


def test_a_name_that_does_not_resolve() -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    error = ask("http://nowhere.invalid", lookup=unknown)
    assert error is not None
    assert (error.reason, str(error)) == (Reason.CONNECT, "name did not resolve: Name or service not known")


def test_a_name_that_breaks_the_resolver() -> None:
    def breaks(*_: Any, **__: Any) -> Any:
        raise UnicodeError("label too long")

    error = ask("http://nowhere.invalid", lookup=breaks)
    assert error is not None
    assert (error.reason, str(error)) == (Reason.CONNECT, "name did not resolve")


def test_a_resolver_that_hangs_holds_nobody(in_time: InTime) -> None:
    end = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        end.wait(HANG_SECONDS)
        return []

    with in_time(LIMIT):
        error = ask("http://nowhere.invalid", timeout=LIMIT, lookup=hang)
    end.set()
    assert error is not None
    assert (error.reason, str(error)) == (Reason.TIMEOUT, "the name did not resolve in time")


def test_a_resolver_that_hangs_does_not_hold_the_exit() -> None:
    program = (
        "import time; from exporter.knock.deadline import Resolver\n"
        "try: Resolver(lambda *a, **k: time.sleep(1000)).find('host', 1, 0.05)\n"
        "except TimeoutError: print('ended')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout == "ended\n"


def test_one_lookup_serves_all_who_wait_and_stale_ones_are_dropped() -> None:
    asked: list[str] = []
    first, go = threading.Event(), threading.Event()

    def lookup(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        first.set()
        go.wait(5)
        return [loopback(port)]

    resolver = Resolver(lookup)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(resolver.find("a", 1, 5))) for _ in range(8)]
    threads[0].start()
    first.wait(5)
    for thread in threads[1:]:
        thread.start()
    with pytest.raises(NameTimeout):
        resolver.find("stale", 1, 0.05)
    go.set()
    for thread in threads:
        thread.join()
    assert resolver.find("b", 1, 5) == [loopback(1)]
    resolver.close()
    assert found == [[loopback(1)]] * 8
    assert asked == ["a", "b"]


def test_the_next_address_is_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    with serving(answering(OK)) as server:

        def both(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
            return [(9999, socket.SOCK_STREAM, 0, "", ("", 0)), loopback(dead), loopback(server.port)]

        assert ask(server.url, lookup=both) is None


def test_a_connection_has_the_options_that_urllib3_wants() -> None:
    with serving(answering(OK)) as server:
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        with connect([loopback(server.port)], Deadline(20).remaining(), options) as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_that_swallows_everything_gets_its_share_only() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]  # a full backlog drops SYNs
        for filler in fillers:
            filler.settimeout(0)
            filler.connect_ex(("127.0.0.1", port))
        try:
            with serving(answering(OK)) as server:
                addresses = [loopback(port), loopback(server.port)]
                assert ask(server.url, lookup=lambda *_, **__: addresses, timeout=4) is None
                error = ask(server.url, lookup=lambda *_, **__: addresses[:1], timeout=LIMIT)
        finally:
            for filler in fillers:
                filler.close()
    assert error is not None
    assert error.reason is Reason.TIMEOUT


def test_no_address_at_all() -> None:
    with pytest.raises(OSError, match="no address"):
        connect([], Deadline(1).remaining(), None)
    error = ask("http://nowhere.invalid", lookup=lambda *_, **__: [])
    assert error is not None
    assert (error.reason, str(error)) == (Reason.CONNECT, "no connection")


# Proxies


def forwarding(refusal: bytes = b"") -> Any:
    """Play a proxy: open the tunnel and pass bytes on, or answer with `refusal`."""

    def bind(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            head = server.request(connection)
            if refusal:
                connection.sendall(refusal)
                return
            port = int(head.split()[1].rpartition(b":")[2])
            with socket.create_connection(("127.0.0.1", port)) as onward:
                connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=pump, args=(onward, connection))
                back.start()
                pump(connection, onward)
                back.join(2)

        return handle

    return bind


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.mark.parametrize("secured", [False, True])
def test_a_tunnel_through_a_proxy(authority: trustme.CA, ca_file: Path, *, secured: bool) -> None:
    tls = tls_of(authority.issue_cert("localhost"))
    with serving(answering(OK), tls) as knock, serving(forwarding(), tls if secured else None) as proxy:
        address = proxy.url.replace("//", "//me:hunter2@")
        assert ask(knock.url, ca_file=ca_file, proxy=Secret(address)) is None
    assert proxy.requests[0].startswith(f"CONNECT localhost:{knock.port} HTTP/1.".encode())
    assert b"Proxy-Authorization: Basic bWU6aHVudGVyMg==" in proxy.requests[0]
    assert b"sk_test" not in proxy.requests[0]
    assert b"Proxy-Authorization" not in knock.requests[0]


class Slots(SendWindow):
    """A window that notes what servers had seen when a slot was taken: connections, requests."""

    def __init__(self, *servers: Server) -> None:
        super().__init__(50.0)
        self._servers = servers
        self.taken: list[list[tuple[int, int]]] = []

    def enter(self) -> float:
        waited = super().enter()
        self.taken.append([(each.connections, len(each.requests)) for each in self._servers])
        return waited


def test_a_slot_is_taken_next_to_the_send_and_not_for_what_comes_before(authority: trustme.CA, ca_file: Path) -> None:
    tls = tls_of(authority.issue_cert("localhost"))
    with serving(answering(OK), tls) as knock, serving(forwarding()) as proxy:
        client = Client(base_url=knock.url, key=KEY, ca_file=ca_file, proxy=Secret(proxy.url))
        slots = Slots(proxy, knock)
        client.fetch(ID, slots.slot())
        client.fetch(ID)
        client.close()
    assert slots.taken == [[(1, 1), (1, 0)]]  # the tunnel is open, and TLS


def test_without_tls_too_a_slot_is_taken_once_there_is_a_connection() -> None:
    order: list[str] = []

    class Window(SendWindow):
        def enter(self) -> float:
            order.append("slot")
            return super().enter()

    with serving(answering(OK)) as knock:

        def lookup(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
            order.append("name")
            return [loopback(knock.port)]

        client = Client(base_url=knock.url, key=KEY, lookup=lookup)
        client.fetch(ID, Window(50.0).slot())
        client.close()
    assert order == ["name", "slot"]


def test_waiting_for_a_slot_takes_no_time_of_the_exchange() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        time.sleep(0.01)

    deadline = Deadline(20.0, SendWindow(1.0, lambda: now[0], sleep).slot())
    ends = []
    for _ in range(2):
        with deadline.sending():
            ends.append(deadline.until)
    assert now == [1.0]
    assert ends[1] >= ends[0] + 0.01


def test_the_certificate_is_checked_behind_a_proxy_too(ca_file: Path) -> None:
    with (
        serving(answering(OK), tls_of(trustme.CA().issue_cert("localhost"))) as knock,
        serving(forwarding()) as proxy,
    ):
        error = ask(knock.url, ca_file=ca_file, proxy=Secret(proxy.url))
    assert error is not None
    assert error.reason is Reason.TLS


def test_a_proxys_own_certificate_is_checked(authority: trustme.CA, ca_file: Path) -> None:
    with serving(forwarding(), tls_of(trustme.CA().issue_cert("localhost"))) as proxy:
        error = ask("https://api.example", ca_file=ca_file, proxy=Secret(proxy.url))
    assert error is not None
    assert (error.reason, str(error)[:33]) == (Reason.TLS, "proxy: certificate verify failed:")


def test_plain_http_goes_whole_to_the_proxy() -> None:
    with serving(answering(OK)) as proxy:
        assert ask("http://api.example/base", proxy=Secret(proxy.url)) is None
    assert proxy.requests[0].startswith(f"GET http://api.example/base/v1/bulk_operations/{ID} HTTP/1.1".encode())


def test_a_proxy_that_refuses_or_hangs_or_is_not_there(in_time: InTime) -> None:
    with serving(forwarding(http("hunter2", 407))) as proxy:
        refused = ask("https://api.example", proxy=Secret(proxy.url.replace("//", "//me:hunter2@")))
    hung = []
    for bind in (hanging(b"HTTP/1.1 200"), trickling):
        with serving(bind) as proxy, in_time(LIMIT):
            hung.append(ask("https://api.example", proxy=Secret(proxy.url), timeout=LIMIT))
    absent = ask("https://api.example", proxy=Secret("http://127.0.0.1:1"))
    assert refused is not None
    assert absent is not None
    assert (refused.reason, str(refused)) == (Reason.CONNECT, "proxy: refused the tunnel with HTTP 407")
    assert [each.reason for each in hung if each is not None] == [Reason.TIMEOUT] * 2
    assert (absent.reason, str(absent)) == (Reason.CONNECT, "proxy: connection refused")


@pytest.fixture
def clean_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_proxies_of_the_environment_when_told_to(clean_proxies: pytest.MonkeyPatch) -> None:
    with serving(answering(OK)) as proxy, serving(answering(OK)) as knock:
        clean_proxies.setenv("http_proxy", proxy.url.removeprefix("http://"))
        assert ask(knock.url, proxy_from_environment=True) is None
        assert (len(proxy.requests), len(knock.requests)) == (1, 0)
        clean_proxies.setenv("no_proxy", "localhost")
        assert ask(knock.url, proxy_from_environment=True) is None
        assert (len(proxy.requests), len(knock.requests)) == (1, 1)


@pytest.mark.parametrize(
    ("password", "back", "name"),
    [
        ("p%40ss-word", b64encode(b"me:p@ss-word").decode(), "***"),
        ("p%40ss-word", "objects.p@ss-word.set", "objects.***.set"),
        ("", "t0ken-of-mine", "***"),
        ("identify", "users.identify", "users.identify"),  # a word tells nobody that it is the password
    ],
)
def test_what_a_proxy_sends_back_of_its_login_is_masked(password: str, back: str, name: str) -> None:
    with serving(answering(http(json.dumps({"id": ID, "status": "queued", "name": back})))) as proxy:
        login = f"me:{password}" if password else "t0ken-of-mine"
        address = Secret(proxy.url.replace("//", f"//{login}@"))
        client = Client(base_url="http://api.example", key=KEY, proxy=address)
        operation, document = client.fetch_record(ID)
        client.close()
    assert operation.name == document["name"] == name


def test_a_proxy_password_is_not_told() -> None:
    with pytest.raises(StartError) as caught:
        Client(base_url="https://api.example", key=KEY, proxy=Secret("socks5://me:hunter2@host"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("user", "sent"),
    [
        ("zo%C3%AB:pass%E2%82%ACword", "zoë:pass€word".encode()),
        ("zoë:pass€word", "zoë:pass€word".encode()),
        ("zo%EB:a%3Ab", b"zo\xeb:a:b"),  # as it is written, for a proxy that expects Latin-1
        ("token", b"token:"),
        (":hunter2", b":hunter2"),
    ],
)
@pytest.mark.parametrize("from_environment", [False, True])
def test_a_proxys_user_and_password_are_sent_as_utf_8(
    clean_proxies: pytest.MonkeyPatch, user: str, sent: bytes, *, from_environment: bool
) -> None:
    with serving(forwarding(http("", 407))) as tunnel, serving(answering(OK)) as plain:
        for proxy, url in ((tunnel, "https://api.example"), (plain, "http://api.example")):
            address = proxy.url.replace("//", f"//{user}@")
            clean_proxies.setenv("ALL_PROXY", address)
            ask(url, **{"proxy_from_environment": True} if from_environment else {"proxy": Secret(address)})
    for proxy in (tunnel, plain):
        assert b"Proxy-Authorization: Basic " + b64encode(sent) + b"\r\n" in proxy.requests[0]


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("address", ["socks5://me:hunter2@host:1080", "http://me:hunter2@[::1"])
def test_a_proxy_variable_that_cannot_be_used_is_named(
    clean_proxies: pytest.MonkeyPatch, name: str, address: str
) -> None:
    clean_proxies.setenv(name, address)
    clean_proxies.setenv("HTTP_PROXY", "socks5://me:hunter2@host:1080")
    with pytest.raises(StartError) as caught:
        Client(base_url="https://api.example", key=KEY, proxy_from_environment=True)
    assert str(caught.value) == f"{name}: not an http or https URL"
