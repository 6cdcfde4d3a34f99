"""Whom TLS connections trust: the system's authorities, or those of a file."""

from __future__ import annotations

import errno
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import certifi

from exporter import files
from exporter.knock.deadline import DeadlineSSLSocket

if TYPE_CHECKING:
    from collections.abc import Iterable

# Where systems keep all their authorities in one file: Debian, Fedora and RHEL, SUSE, Alpine. Certifi's are the last.
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    certifi.where(),
)

_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")  # the only names that OpenSSL looks for in a folder


def trust(
    ca_file: Path | None, paths: ssl.DefaultVerifyPaths | None = None, bundles: Iterable[str] = BUNDLES
) -> ssl.SSLContext:
    """Make the one TLS context: TLS 1.2 at least, certificate and host name always checked.

    `ca_file` replaces the system's authorities: those at OpenSSL's built-in `paths`, else the first of `bundles` that
    can be loaded. Raises OSError or ValueError where none can. Not `ssl.create_default_context`: it obeys
    SSLKEYLOGFILE, and OpenSSL's own defaults obey SSL_CERT_FILE.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = DeadlineSSLSocket
    if ca_file is not None:
        context.load_verify_locations(cadata=files.pem(ca_file))
    else:
        _trust_system(context, paths or ssl.get_default_verify_paths(), bundles)
    return context


def trust_for(ca_file: Path | None, *addresses: str | None) -> ssl.SSLContext:
    """Make the context for connections to these addresses.

    Where none is https it is never used, and trusts nobody: to load all authorities takes a while.
    """
    if any(each is not None and each.lower().startswith("https:") for each in addresses):
        return trust(ca_file)
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _trust_system(context: ssl.SSLContext, paths: ssl.DefaultVerifyPaths, bundles: Iterable[str]) -> None:
    found = _loads(context, paths.openssl_cafile)
    folder = Path(paths.openssl_capath)
    hashed = (each for each in folder.glob("*") if _HASHED.fullmatch(each.name))
    if any(_loads(context, each) for each in hashed):
        context.load_verify_locations(capath=folder)  # OpenSSL reads the others when it needs them
        return
    others = (str(folder / "ca-certificates.crt"), *bundles)
    if not found and not any(_loads(context, each) for each in others):
        raise OSError(errno.ENOENT, "0 authorities could be loaded, from the system or from certifi")


def _loads(context: ssl.SSLContext, file: str | Path) -> bool:
    try:
        context.load_verify_locations(cadata=files.pem(file))
    except (OSError, ValueError):
        return False
    return True
