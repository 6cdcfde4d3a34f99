"""TLS as the web configuration asks for it: its settings, the PEM that they name, and the context made of both.

What is read and what is used are one content: the context is made of bytes that were read before, never of a file that
may be another one by then.
"""

from __future__ import annotations

import codecs
import os
import ssl
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import IO, TYPE_CHECKING, Any, NoReturn

from exporter import files
from exporter.errors import StartError
from exporter.files import PEM_BYTES_MOST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from exporter.keys import Secret

SECTION = "tls_server_config"
_FOLDER = "relative paths start at the folder of the web configuration"

VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
# Always on where TLS 1.3 is, in Go as in Python, whatever the list says.
TLS13_CIPHERS = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})
# Go's secure ones (crypto/tls, CipherSuites) by OpenSSL's names.
CIPHERS = {
    f"TLS_ECDHE_{signature}_WITH_{go}": f"ECDHE-{signature}-{openssl}"
    for signature in ("ECDSA", "RSA")
    for go, openssl in {
        "AES_128_CBC_SHA": "AES128-SHA",
        "AES_256_CBC_SHA": "AES256-SHA",
        "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
        "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
        "CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
    }.items()
}


@dataclass(frozen=True, slots=True)
class PemSource:
    """Where PEM comes from: `key` of the configuration, which names a file or holds the text itself."""

    key: str
    file: Path | None = None
    inline: Secret | None = None

    def __str__(self) -> str:
        where = f"{SECTION}.{self.key}"
        return where if self.file is None else f"{where}: {self.file}"

    def read(self) -> bytes:
        """Return the PEM as it stands now. Raises StartError."""
        if self.inline is not None:
            return self.inline.reveal().encode()
        try:
            return files.read(self.file or "", PEM_BYTES_MOST).removeprefix(codecs.BOM_UTF8)
        except OSError as error:
            hint = f" ({_FOLDER})" if isinstance(error, FileNotFoundError) else ""
            raise StartError(f"{self}: {error.strerror}{hint}") from None


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How to speak TLS.

    `ciphers` (for TLS 1.2, by OpenSSL's names) and `curve` leave the choice to OpenSSL where they are empty. A client
    certificate has one of `client_allowed_sans` among its subject alternative names; none: any will do.
    """

    cert: PemSource
    key: PemSource
    client_ca: PemSource | None = None
    verify: ssl.VerifyMode = ssl.CERT_NONE
    client_allowed_sans: frozenset[str] = frozenset()
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    max_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ciphers: tuple[str, ...] = ()
    server_preference: bool = True
    curve: str = ""

    def files(self) -> tuple[Path, ...]:
        """Return the files that are named."""
        sources = (self.cert, self.key, self.client_ca)
        return tuple(source.file for source in sources if source is not None and source.file is not None)


@dataclass(frozen=True, slots=True)
class Pems:
    """What the sources of some settings held at one time."""

    cert: bytes = field(repr=False)
    key: bytes = field(repr=False)
    client_ca: bytes | None = field(default=None, repr=False)


def read_pems(settings: TlsSettings) -> Pems:
    """Read what the settings name. Raises StartError for the first that cannot be read."""
    authorities = settings.client_ca.read() if settings.client_ca is not None else None
    return Pems(settings.cert.read(), settings.key.read(), authorities)


def cipher_known(name: str) -> bool:
    """Whether the OpenSSL of this Python does a cipher (by OpenSSL's name)."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(name)
    except ssl.SSLError:
        return False
    return True


class ServerContext(ssl.SSLContext):
    """A context that also knows which names of client certificates it lets in; none: any."""

    client_allowed_sans: frozenset[str] = frozenset()

    def allows(self, certificate: Mapping[str, Any]) -> bool:
        """Whether a verified certificate (of `getpeercert`; {}: none was given) has a name that is let in."""
        if not certificate or not self.client_allowed_sans:
            return True
        return any(_as_written(*each) in self.client_allowed_sans for each in certificate.get("subjectAltName", ()))


def _as_written(kind: str, name: str) -> str:
    """Return a name as Go writes it, which is how configurations have it: OpenSSL spells IPv6 addresses out."""
    try:
        return str(ip_address(name.strip())) if kind == "IP Address" else name
    except ValueError:
        return name


def make_context(settings: TlsSettings, pems: Pems) -> ServerContext:
    """Make the server's context. Raises StartError that names the key and file, and shows nothing of their content."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.client_allowed_sans = settings.client_allowed_sans
    context.minimum_version, context.maximum_version = settings.min_version, settings.max_version
    context.set_alpn_protocols(["http/1.1"])
    if settings.ciphers:
        context.set_ciphers(":".join(settings.ciphers))
    if settings.curve:
        context.set_ecdh_curve(settings.curve)
    if settings.server_preference:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_certificate(context, settings, pems)
    if settings.client_ca is not None and pems.client_ca is not None:
        _load_authorities(context, settings.client_ca, pems.client_ca)
        # As in Go: whatever stands there is trusted, be it issued by another authority.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_mode = settings.verify
    return context


class _Encrypted(Exception):
    """The key asks for a password."""


def _no_prompt() -> NoReturn:
    # Without it OpenSSL would ask on the terminal, and wait there.
    raise _Encrypted


def _load_certificate(context: ssl.SSLContext, settings: TlsSettings, pems: Pems) -> None:
    # First, and into a context that goes: the errors of loading do not tell whether certificate or key is at fault.
    _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings.cert, pems.cert)
    try:
        with _as_file(pems.cert) as cert, _as_file(pems.key) as key:
            context.load_cert_chain(cert, key, _no_prompt)
    except _Encrypted:
        raise StartError(f"{settings.key}: is encrypted (give a key that needs no password)") from None
    except ssl.SSLError as error:
        raise StartError(_described(error.reason or "", settings)) from None


def _described(reason: str, settings: TlsSettings) -> str:
    if reason.startswith(("EE_", "CA_")):  # too short a key, or signed by MD5 or SHA-1
        return f"{settings.cert}: is too weak for OpenSSL: {reason.lower().replace('_', ' ')} (get another one)"
    if reason in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}:
        return f"{settings.key}: does not belong to the certificate (of {settings.cert})"
    return f"{settings.key}: holds no private key that can be used (expected PEM)"


def _load_authorities(context: ssl.SSLContext, source: PemSource, content: bytes) -> None:
    try:
        context.load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise StartError(f"{source}: holds no certificates, or a broken one (expected PEM)") from None


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Give a content a name to open it by: Python loads certificates and keys from files only."""
    with _nameless() as file:
        file.write(content)
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"


def _nameless() -> IO[bytes]:
    in_memory = getattr(os, "memfd_create", None)  # Linux has it: no disk sees the key
    if in_memory is not None:
        return os.fdopen(in_memory("pem"), "w+b")
    return tempfile.TemporaryFile()  # no name leads to it, and it goes when it is closed
