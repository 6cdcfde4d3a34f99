"""The web configuration (`--web.config.file`): TLS, users and headers, in the format of Prometheus' exporter-toolkit.

What its `promtool check web-config` refuses is refused here; so is, with the reason, what this server does not do.
Source: the exporter-toolkit's docs/web-configuration.md, and promtool 2.42 and 3.5 themselves.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.config import plain
from exporter.config.values import InvalidValue
from exporter.config.wording import suggestion
from exporter.config.yaml_source import Found, NoDocument, read_document
from exporter.web import web_values as values
from exporter.web.tls import SECTION, PemSource, TlsSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from exporter.config.yaml_source import Loc

    Takers = Mapping[str, Callable[[Any], Any]]

_USERS, _HTTP = "basic_auth_users", "http_server_config"
_UNSUPPORTED = {
    "rate_limit": "is not supported (remove it: this server has limits of its own)",
}
_Taken = TypeVar("_Taken")


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What is asked of the port: `tls` (None: plain HTTP), `users` with their bcrypt hashes (none: open to all)."""

    tls: TlsSettings | None = None
    users: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    headers: tuple[tuple[str, str], ...] = ()


def load(path: Path) -> WebConfig:
    """Read a web configuration; relative paths start at its folder, and what they name is not read.

    Raises ConfigError with all problems at once, in the order of the file.
    """
    try:
        document = read_document(path)
    except NoDocument:
        return WebConfig()  # comments at most: a configuration without anything, as in the toolkit
    reading = _ConfigReader()
    config = _config(reading, document.data, path.parent)
    found = [one for one in reading.found if one.loc not in document.unusable] + document.found
    if found:
        raise document.error(str(path), found)
    return config


def _unknown(key: str, takers: Takers) -> str:
    return "unknown key" + suggestion(key, takers)


class _ConfigReader:
    """Takes plain values apart and notes what is wrong with them. A key without a value counts as not written."""

    def __init__(self) -> None:
        self.found: list[Found] = []

    def note(self, loc: Loc, message: str | Callable[[], str]) -> None:
        self.found.append(Found(loc, message))

    def take(self, loc: Loc, value: Any, taker: Callable[[Any], _Taken]) -> _Taken | None:
        """Take a single value; None where it is not good."""
        try:
            return taker(value)
        except InvalidValue as error:
            self.note(loc, str(error))
            return None

    def mapping(self, loc: Loc, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        return self.take(loc, value, values.take_mapping) or {}

    def level(self, loc: Loc, value: Any, takers: Takers) -> dict[str, Any]:
        """Take a mapping by its keys; return what is written and good."""
        taken = {}
        for key, each in self.mapping(loc, value).items():
            if key not in takers:
                self.note((*loc, key), _UNSUPPORTED.get(key) or partial(_unknown, key, takers))
            elif each is not None:
                taken[key] = self.take((*loc, key), each, takers[key])
        return {key: each for key, each in taken.items() if each is not None}

    def items(self, loc: Loc, found: list[Any], taker: Callable[[Any], _Taken]) -> list[_Taken]:
        """Take the items of a list; return the good ones."""
        taken = [self.take((*loc, index), value, taker) for index, value in enumerate(found)]
        return [each for each in taken if each is not None]


# The sections.

_TLS: Takers = {
    "cert": values.take_secret,
    "key": values.take_secret,
    "client_ca": values.take_secret,
    "cert_file": values.take_path,
    "key_file": values.take_path,
    "client_ca_file": values.take_path,
    "client_auth_type": values.take_client_auth,
    "client_allowed_sans": values.take_list,
    "min_version": values.take_version,
    "max_version": values.take_version,
    "cipher_suites": values.take_list,
    "prefer_server_cipher_suites": values.take_boolean,
    "curve_preferences": values.take_list,
}


def _config(reading: _ConfigReader, data: Any, folder: Path) -> WebConfig:
    top = reading.level((), data, dict.fromkeys((SECTION, _HTTP, _USERS), values.take_any))
    tls = _tls(reading, top.get(SECTION), folder)
    return WebConfig(tls, _users(reading, top.get(_USERS)), _headers(reading, top.get(_HTTP)))


def _users(reading: _ConfigReader, value: Any) -> dict[str, bytes]:
    users = {}
    for name, each in reading.mapping((_USERS,), value).items():
        if ":" in name:
            reading.note((_USERS, name), "a user's name cannot hold a colon: it ends the name (RFC 7617)")
        # The path shows the key, which is the hash where somebody wrote the two the wrong way round.
        loc = (_USERS,) if name.startswith("$") else (_USERS, name)
        users[name] = reading.take(loc, each, values.take_user)
    return {name: each for name, each in users.items() if each is not None}


def _headers(reading: _ConfigReader, value: Any) -> tuple[tuple[str, str], ...]:
    taken = reading.level((_HTTP,), value, {"http2": values.take_http2, "headers": values.take_any})
    headers, loc = [], (_HTTP, "headers")
    for name, each in reading.mapping(loc, taken.get("headers")).items():
        if name not in values.HEADERS:
            reading.note((*loc, name), "is not a header that can be set" + suggestion(name, values.HEADERS))
        elif (line := reading.take((*loc, name), each, partial(values.take_header, name))) is not None:
            headers.append((name, line))
    return tuple(headers)


def _tls(reading: _ConfigReader, value: Any, folder: Path) -> TlsSettings | None:
    loc, before = (SECTION,), len(reading.found)
    taken = reading.level(loc, value, _TLS)
    given = {key for key, each in plain.mapping(value).items() if each not in (None, "", [])}
    ciphers = reading.items((*loc, "cipher_suites"), taken.get("cipher_suites", []), values.take_cipher)
    sans = reading.items((*loc, "client_allowed_sans"), taken.get("client_allowed_sans", []), values.take_san)
    curves = reading.items((*loc, "curve_preferences"), taken.get("curve_preferences", []), values.take_curve)
    # Suites of TLS 1.3 alone leave nothing to speak TLS 1.2 with, in Go as here.
    least = ssl.TLSVersion.TLSv1_3 if ciphers and not any(ciphers) else ssl.TLSVersion.TLSv1_2
    taken["min_version"] = max(least, taken.get("min_version", least))
    for key, message in _contradictions(given, taken):
        reading.note((*loc, key) if key else loc, message)
    if not given or len(reading.found) > before:
        return None
    return TlsSettings(
        cert=_pem("cert", taken, folder),
        key=_pem("key", taken, folder),
        client_ca=_pem("client_ca", taken, folder) if given & {"client_ca", "client_ca_file"} else None,
        verify=taken.get("client_auth_type", ssl.CERT_NONE),
        client_allowed_sans=frozenset(sans),
        min_version=taken["min_version"],
        max_version=taken.get("max_version", ssl.TLSVersion.TLSv1_3),
        ciphers=tuple(filter(None, ciphers)),
        server_preference=taken.get("prefer_server_cipher_suites", True),
        curve="".join(curves),
    )


def _contradictions(given: set[str], taken: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Find what concerns several keys; "" stands for the section."""
    for name in ("cert", "key", "client_ca"):
        if {name, f"{name}_file"} <= given:
            yield name, f"is set together with {name}_file (keep one)"
    for name, what in (("cert", "certificate"), ("key", "private key")):
        if given and not given & {name, f"{name}_file"}:
            yield "", f"has no {what} (set {name}_file, or remove the section)"
    yield from _client_contradictions(given, taken)
    if taken["min_version"] > taken.get("max_version", ssl.TLSVersion.TLSv1_3):
        yield "max_version", "is lower than min_version, or than cipher_suites need (raise it, or remove it)"
    if len(taken.get("curve_preferences", [])) > 1:
        yield "curve_preferences", "Python can set one curve only (keep one, or remove the key: all are offered then)"


def _client_contradictions(given: set[str], taken: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "client_auth_type" in given and "client_auth_type" not in taken:
        return  # it is not known what was meant
    verify, authorities = taken.get("client_auth_type", ssl.CERT_NONE), given & {"client_ca", "client_ca_file"}
    if verify == ssl.CERT_NONE:
        for key in sorted(authorities | (given & {"client_allowed_sans"})):
            yield key, "nobody is asked for a certificate (set client_auth_type: RequireAndVerifyClientCert as well)"
    elif not authorities:
        yield "client_auth_type", "would let in whom any public authority knows (set client_ca_file as well)"


def _pem(name: str, taken: dict[str, Any], folder: Path) -> PemSource:
    if taken.get(f"{name}_file"):
        return PemSource(f"{name}_file", file=folder / taken[f"{name}_file"])
    return PemSource(name, inline=taken[name])
