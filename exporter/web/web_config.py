"""The web configuration (`--web.config.file`): TLS, users and headers, in the format of Prometheus' exporter-toolkit.

What its `promtool check web-config` refuses is refused here; so is, with the reason, what this server does not do.
Source: the exporter-toolkit's docs/web-configuration.md, and promtool 2.42 and 3.5 themselves.
"""
# Without `from __future__ import annotations`: pydantic reads these.

import re
import ssl
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, PlainValidator, ValidationError
from pydantic_core import PydanticKnownError

from exporter.config.kinds import Flag, Text, adapter_of, not_null
from exporter.config.problems import Wording, suggestion
from exporter.config.yaml_source import NoDocument, read_document
from exporter.errors import Found
from exporter.keys import Secret
from exporter.values import InvalidValue, check_path, quoted
from exporter.web import tls
from exporter.web.tls import SECTION, PemSource, TlsSettings

COST_LEAST = 4  # of a bcrypt hash
COST_MOST = 16  # about 5 s a check, and each more doubles that
HEADERS: Mapping[str, tuple[str, ...]] = {  # the toolkit's, with the values that it takes (empty: any)
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
_USERS, _HTTP = "basic_auth_users", "http_server_config"
# Only what can match: a salt of 16 bytes leaves four bits of its last sign unused.
_HASH = re.compile(r"\$2[aby]\$([0-3][0-9])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_MAKE_HASH = "make one with: htpasswd -nBC 10 '' | tr -d ':\\n'"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_UNVERIFIED = frozenset({"RequestClientCert", "RequireAnyClientCert", "RequireClientCert"})
_NEEDED = {"cert": "certificate", "key": "private key"}
_PEMS = (*_NEEDED, "client_ca")
_ONE_CURVE = "Python can set one curve only (keep one, or remove the key: all are offered then)"
_V12, _V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
_Taken = TypeVar("_Taken")


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What is asked of the port: `tls` (None: plain HTTP), `users` with their bcrypt hashes (none: open to all)."""

    tls: TlsSettings | None = None
    users: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    headers: tuple[tuple[str, str], ...] = ()


# Single values.


def _known(text: str, known: Mapping[str, _Taken]) -> _Taken:
    if text not in known:
        raise InvalidValue(suggestion(text, known, f"{quoted(text)} is not known"))
    return known[text]


def _never(wrong: Callable[[Any], object], message: str) -> AfterValidator:
    def checked(value: Any) -> Any:
        if wrong(value):
            raise InvalidValue(message)
        return value

    return AfterValidator(checked)


def _client_auth(text: str) -> ssl.VerifyMode:
    if text in _UNVERIFIED:
        raise InvalidValue(
            f"{text} is not supported: Python does not ask for certificates that it cannot verify "
            "(expected RequireAndVerifyClientCert or VerifyClientCertIfGiven, with client_ca_file)"
        )
    return _known(text, tls.CLIENT_AUTH) if text else ssl.CERT_NONE


def _version(text: str) -> ssl.TLSVersion:
    if text in {"TLS10", "TLS11"}:
        raise InvalidValue("TLS 1.0 and 1.1 are not supported (expected TLS12 or TLS13)")
    return _known(text, tls.VERSIONS)


def _cipher(text: str) -> str:
    """Take Go's name, return OpenSSL's: none for a suite of TLS 1.3."""
    if text in tls.TLS13_CIPHERS:
        return ""
    if text not in tls.CIPHERS:
        known = [*tls.CIPHERS, *sorted(tls.TLS13_CIPHERS)]
        raise InvalidValue(suggestion(text, known, f"{quoted(text)} is not known, or not secure"))
    if not tls.cipher_known(tls.CIPHERS[text]):
        raise InvalidValue(f"the OpenSSL of this Python does not do {text} (remove it)")
    return tls.CIPHERS[text]


def _header_name(text: str) -> str:
    if text not in HEADERS:
        raise InvalidValue(suggestion(text, HEADERS, "is not a header that can be set"))
    return text


def _header(written: tuple[str, Any]) -> str:
    name, value = written
    if name not in HEADERS:
        return ""  # which is told of the name
    text = "" if value is None else str(value) if type(value) is int else value
    if not isinstance(text, str):
        raise PydanticKnownError("string_type")
    if HEADERS[name] and text not in HEADERS[name]:
        raise InvalidValue(f"{quoted(text)} is not allowed (expected {' or '.join(HEADERS[name])})")
    line = re.sub("[\\r\\n]", " ", text).strip(" \t")  # as Go sends it
    if _CONTROL.search(line):
        raise InvalidValue("holds control characters (remove them)")
    return line


def _with_names(headers: Any) -> Any:
    return {name: (name, value) for name, value in headers.items()} if isinstance(headers, dict) else headers


def _hash(value: Any) -> bytes:
    """Take a bcrypt hash; no message shows what was found, which may be a password."""
    match = _HASH.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidValue(f"is not a bcrypt hash ({_MAKE_HASH})")
    if not COST_LEAST <= int(match[1]) <= COST_MOST:
        raise InvalidValue(f"has a cost out of range (expected {COST_LEAST} to {COST_MOST}; {_MAKE_HASH})")
    return match[0].encode()


# The sections.

_Pem = Annotated[Secret | None, not_null(Secret)]
_PemFile = Annotated[str, Text(lambda text: text and check_path(text))]
_Version = Annotated[ssl.TLSVersion, Text(_version)]
_NOT_EMPTY = _never(lambda text: not text, "is empty (give a name as it is in the certificate, or remove the line)")
_NOT_HTTP2 = _never(bool, "is not supported: this server speaks HTTP/1.1 (set it to false, or remove it)")
_NO_COLON = _never(lambda text: ":" in text, "a user's name cannot hold a colon: it ends the name (RFC 7617)")
_Headers = dict[Annotated[str, AfterValidator(_header_name)], Annotated[str, PlainValidator(_header)]]
_Users = dict[Annotated[str, _NO_COLON], Annotated[bytes, PlainValidator(_hash)]]


@dataclass(frozen=True, slots=True)
class _Tls:
    cert: _Pem = None
    key: _Pem = None
    client_ca: _Pem = None
    cert_file: _PemFile = ""
    key_file: _PemFile = ""
    client_ca_file: _PemFile = ""
    client_auth_type: Annotated[ssl.VerifyMode, Text(_client_auth)] = ssl.CERT_NONE
    client_allowed_sans: tuple[Annotated[str, Text(), _NOT_EMPTY], ...] = ()
    min_version: _Version = _V12
    max_version: _Version = _V13
    cipher_suites: tuple[Annotated[str, Text(_cipher)], ...] = ()
    prefer_server_cipher_suites: Flag = True
    curve_preferences: tuple[Annotated[str, Text(partial(_known, known=tls.CURVES))], ...] = ()


@dataclass(frozen=True, slots=True)
class _Http:
    http2: Annotated[Flag, _NOT_HTTP2] = False
    headers: Annotated[_Headers, BeforeValidator(_with_names)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Whole:
    tls_server_config: _Tls = _Tls()
    http_server_config: _Http = _Http()
    basic_auth_users: _Users = field(default_factory=dict, repr=False)


_WHOLE = adapter_of(_Whole)
_SECTIONS = {"": (_Whole,), SECTION: (_Tls,), _HTTP: (_Http,)}


def load(path: Path) -> WebConfig:
    """Read a web configuration; relative paths start at its folder, and what they name is not read.

    Raises ConfigError with all problems at once, in the order of the file.
    """
    try:
        document = read_document(path)
    except NoDocument:
        return WebConfig()  # comments at most: a configuration without anything, as in the toolkit
    written = {} if document.data is None else _written(document.data)
    section = written.get(SECTION) if isinstance(written, dict) else None
    tls_section = section.items() if isinstance(section, dict) else ()
    given = {key: value for key, value in tls_section if value not in (None, "", [])}
    whole, found = _Whole(), [Found((SECTION, *key), message) for key, message in _contradictions(given)]
    try:
        whole = _WHOLE.validate_python(written)
    except ValidationError as error:
        found = Wording(document.data, _SECTIONS, brief=True).found(error) + found
    found = [each for each in found if each.loc not in document.unusable] + document.found
    if found:
        raise document.error(str(path), [_unquoted(each) for each in found])
    settings = _settings(whole.tls_server_config, given.keys(), path.parent) if given else None
    return WebConfig(settings, whole.basic_auth_users, tuple(whole.http_server_config.headers.items()))


def _written(data: Any, section: str = "") -> Any:
    """Leave out keys without a value: they count as not written."""
    if not isinstance(data, dict):
        return data
    known = {each.name for each in fields(_SECTIONS[section][0])}
    kept = {key: value for key, value in data.items() if value is not None or key not in known}
    if section:
        return kept
    return {key: _written(value, key) if key in (SECTION, _HTTP) else value for key, value in kept.items()}


def _unquoted(found: Found) -> Found:
    """Do not show the name of a user that is the hash, where somebody wrote the two the wrong way round."""
    match found.loc:
        case (section, str(name)) if section == _USERS and name.startswith("$"):
            return found._replace(loc=(_USERS,))
        case ("rate_limit",):
            return found._replace(message="is not supported (remove it: this server has limits of its own)")
    return found


def _contradictions(given: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Find what concerns several keys of the section, or its whole."""
    for name in _PEMS:
        if {name, f"{name}_file"} <= given.keys():
            yield (name,), f"is set together with {name}_file (keep one)"
    for name, what in _NEEDED.items():
        if given and not given.keys() & {name, f"{name}_file"}:
            yield (), f"has no {what} (set {name}_file, or remove the section)"
    verify = tls.CLIENT_AUTH.get(str(given.get("client_auth_type", "NoClientCert")))
    authorities = given.keys() & {"client_ca", "client_ca_file"}
    if verify == ssl.CERT_NONE:
        for key in sorted(authorities | (given.keys() & {"client_allowed_sans"})):
            yield (key,), "nobody is asked for a certificate (set client_auth_type: RequireAndVerifyClientCert as well)"
    elif verify is not None and not authorities:
        yield ("client_auth_type",), "would let in whom any public authority knows (set client_ca_file as well)"
    suites, curves = given.get("cipher_suites"), given.get("curve_preferences")
    least, most = (tls.VERSIONS.get(str(given.get(key))) for key in ("min_version", "max_version"))
    only_13 = isinstance(suites, list) and all(isinstance(each, str) and each in tls.TLS13_CIPHERS for each in suites)
    if most is not None and most < (_V13 if only_13 else least or most):
        yield ("max_version",), "is lower than min_version, or than cipher_suites need (raise it, or remove it)"
    if isinstance(curves, list) and len(curves) > 1:
        yield ("curve_preferences",), _ONE_CURVE


def _settings(section: _Tls, given: Collection[str], folder: Path) -> TlsSettings:
    # Suites of TLS 1.3 alone leave nothing to speak TLS 1.2 with, in Go as here.
    least = _V13 if section.cipher_suites and not any(section.cipher_suites) else _V12
    return TlsSettings(
        cert=_pem(section, "cert", folder),
        key=_pem(section, "key", folder),
        client_ca=_pem(section, "client_ca", folder) if {"client_ca", "client_ca_file"}.intersection(given) else None,
        verify=section.client_auth_type,
        client_allowed_sans=frozenset(section.client_allowed_sans),
        min_version=max(least, section.min_version),
        max_version=section.max_version,
        ciphers=tuple(filter(None, section.cipher_suites)),
        server_preference=section.prefer_server_cipher_suites,
        curve="".join(section.curve_preferences),
    )


def _pem(section: _Tls, name: str, folder: Path) -> PemSource:
    if file := getattr(section, f"{name}_file"):
        return PemSource(f"{name}_file", file=folder / file)
    return PemSource(name, inline=getattr(section, name))
