"""What a single value of the web configuration may be: plain YAML value in, ours out, or InvalidValue.

The messages show what was found only where it can be no secret.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.config.values import InvalidValue, check_path, quoted
from exporter.config.wording import suggestion
from exporter.keys import Secret
from exporter.web.tls import CIPHERS, CLIENT_AUTH, CURVES, TLS13_CIPHERS, VERSIONS, cipher_known

if TYPE_CHECKING:
    from collections.abc import Mapping

COST_LEAST = 4  # of a bcrypt hash
COST_MOST = 16  # about 5 s a check, and each more doubles that
# Only what can match: a salt of 16 bytes leaves four bits of its last sign unused.
_HASH = re.compile(r"\$2[aby]\$([0-3][0-9])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_MAKE_HASH = "make one with: htpasswd -nBC 10 '' | tr -d ':\\n'"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_UNVERIFIED = frozenset({"RequestClientCert", "RequireAnyClientCert", "RequireClientCert"})
HEADERS: Mapping[str, tuple[str, ...]] = {  # the toolkit's, with the values that it takes (empty: any)
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
_Taken = TypeVar("_Taken")


def take_any(value: Any) -> Any:
    """Take anything: it is looked at later."""
    return value


def take_mapping(value: Any) -> dict[str, Any]:
    """Take a mapping. Raises InvalidValue."""
    if not isinstance(value, dict):
        raise InvalidValue("expected a mapping of keys to values")
    return value


def take_list(value: Any) -> list[Any]:
    """Take a list. Raises InvalidValue."""
    if not isinstance(value, list):
        raise InvalidValue("expected a list")
    return value


def take_text(value: Any) -> str:
    """Take a text. Raises InvalidValue."""
    if value is None:
        raise InvalidValue("has no value (give one, or remove the line)")
    if not isinstance(value, str):
        raise InvalidValue("expected text" if isinstance(value, (dict, list)) else "expected text (put it in quotes)")
    return value


def take_san(value: Any) -> str:
    """Take a subject alternative name: of a host, an e-mail address, an IP address or a URI. Raises InvalidValue."""
    if not (text := take_text(value)):
        raise InvalidValue("is empty (give a name as it is in the certificate, or remove the line)")
    return text


def take_path(value: Any) -> str:
    """Take a path of a file; "" stands for none. Raises InvalidValue."""
    return check_path(text) if (text := take_text(value)) else ""


def take_secret(value: Any) -> Secret:
    """Take a text that nobody is to see. Raises InvalidValue."""
    return Secret(take_text(value))


def take_boolean(value: Any) -> bool:
    """Take true or false. Raises InvalidValue."""
    if not isinstance(value, bool):
        raise InvalidValue("expected true or false (without quotes)")
    return value


def take_http2(value: Any) -> bool:
    """Take false: HTTP/2 is not spoken here. Raises InvalidValue."""
    if take_boolean(value):
        raise InvalidValue("is not supported: this server speaks HTTP/1.1 (set it to false, or remove it)")
    return False


def _known(text: str, known: Mapping[str, _Taken]) -> _Taken:
    if text not in known:
        raise InvalidValue(f"{quoted(text)} is not known{suggestion(text, known)}")
    return known[text]


def take_version(value: Any) -> ssl.TLSVersion:
    """Take a version of TLS. Raises InvalidValue."""
    text = take_text(value)
    if text in {"TLS10", "TLS11"}:
        raise InvalidValue("TLS 1.0 and 1.1 are not supported: OpenSSL does them no more (expected TLS12 or TLS13)")
    return _known(text, VERSIONS)


def take_client_auth(value: Any) -> ssl.VerifyMode:
    """Take how clients are to prove who they are; "" stands for not at all. Raises InvalidValue."""
    text = take_text(value)
    if text in _UNVERIFIED:
        raise InvalidValue(
            f"{text} is not supported: Python does not ask for certificates that it cannot verify "
            "(expected RequireAndVerifyClientCert or VerifyClientCertIfGiven, with client_ca_file)"
        )
    return _known(text, CLIENT_AUTH) if text else ssl.CERT_NONE


def take_cipher(value: Any) -> str:
    """Take a cipher suite by Go's name; return OpenSSL's, "" for one of TLS 1.3. Raises InvalidValue."""
    text = take_text(value)
    if text in TLS13_CIPHERS:
        return ""
    if text not in CIPHERS:
        known = suggestion(text, [*CIPHERS, *sorted(TLS13_CIPHERS)])
        raise InvalidValue(f"{quoted(text)} is not known, or not secure{known}")
    if not cipher_known(CIPHERS[text]):
        raise InvalidValue(f"the OpenSSL of this Python does not do {text} (remove it)")
    return CIPHERS[text]


def take_curve(value: Any) -> str:
    """Take a curve by Go's name; return OpenSSL's. Raises InvalidValue."""
    return _known(take_text(value), CURVES)


def take_user(value: Any) -> bytes:
    """Take a bcrypt hash. Raises InvalidValue, without what was found: it may be a password."""
    match = _HASH.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidValue(f"is not a bcrypt hash ({_MAKE_HASH})")
    if not COST_LEAST <= int(match[1]) <= COST_MOST:
        raise InvalidValue(f"has a cost out of range (expected {COST_LEAST} to {COST_MOST}; {_MAKE_HASH})")
    return match[0].encode()


def take_header(name: str, value: Any) -> str:
    """Take the value of a header, "" where there is none. Raises InvalidValue."""
    text = str(value) if type(value) is int else take_text("" if value is None else value)
    if HEADERS[name] and text not in HEADERS[name]:
        raise InvalidValue(f"{quoted(text)} is not allowed (expected {' or '.join(HEADERS[name])})")
    line = re.sub("[\\r\\n]", " ", text).strip(" \t")  # as Go sends it
    if _CONTROL.search(line):
        raise InvalidValue("holds control characters (remove them)")
    return line
