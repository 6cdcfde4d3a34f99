"""The web configuration: the message for each mistake, and what the good ones mean."""

from __future__ import annotations

import ssl
import traceback
from pathlib import Path

import mistakes
import pytest

from exporter.errors import ConfigError
from exporter.web.tls import CIPHERS, PemSource, TlsSettings, cipher_known
from exporter.web.web_config import WebConfig, load

MISTAKES = mistakes.of_table("web_configuration.yaml")
GOOD = Path(__file__).parent / "web-configs"
CERT = PemSource("cert_file", file=GOOD / "cert.pem")
KEY = PemSource("key_file", file=GOOD / "key.pem")
CA = PemSource("client_ca_file", file=GOOD / "ca.pem")
HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"

EXPECTED = {
    "empty": WebConfig(),
    "comments": WebConfig(),
    "document_start": WebConfig(),
    "sections_without_values": WebConfig(),
    "merge_key": WebConfig(),
    "header_blank": WebConfig(headers=(("Content-Security-Policy", ""), ("X-XSS-Protection", ""))),
    "tls": WebConfig(TlsSettings(CERT, KEY)),
    "blank_values": WebConfig(TlsSettings(CERT, KEY)),
    "no_client_certificates": WebConfig(TlsSettings(CERT, KEY)),
    "client_certificates": WebConfig(TlsSettings(CERT, KEY, CA, ssl.CERT_REQUIRED)),
    "client_certificates_if_given": WebConfig(TlsSettings(CERT, KEY, CA, ssl.CERT_OPTIONAL)),
    "client_names": WebConfig(
        TlsSettings(CERT, KEY, CA, ssl.CERT_REQUIRED, client_allowed_sans=frozenset({"prometheus", "::1"}))
    ),
    "client_names_blank": WebConfig(TlsSettings(CERT, KEY)),
    "tls13_suites_alone": WebConfig(TlsSettings(CERT, KEY, min_version=ssl.TLSVersion.TLSv1_3)),
    "everything": WebConfig(
        TlsSettings(
            CERT,
            KEY,
            CA,
            ssl.CERT_REQUIRED,
            ciphers=(
                "ECDHE-RSA-AES128-GCM-SHA256",
                "ECDHE-ECDSA-AES128-GCM-SHA256",
                "ECDHE-ECDSA-CHACHA20-POLY1305",
                "ECDHE-RSA-AES256-SHA",
            ),
            server_preference=False,
            curve="X25519",
        ),
        {"prometheus": HASH.encode(), "Ärztin": HASH.replace("2y", "2b").encode()},
        (
            ("X-Frame-Options", "sameorigin"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-XSS-Protection", "0"),
            ("Strict-Transport-Security", "max-age=31536000"),
            ("Content-Security-Policy", "default-src 'self'; img-src 'self'"),
        ),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_has_its_message(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("web.yaml")
    path.write_bytes(MISTAKES[name].written)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == MISTAKES[name].shown(path)
    shown = "".join(traceback.format_exception(caught.value))
    for secret in ("hunter2", "8646352", HASH[7:20]):
        assert secret not in shown


@pytest.mark.parametrize("name", sorted(path.stem for path in GOOD.glob("*.yaml")))
def test_good_files_mean_what_they_say(name: str) -> None:
    assert load(GOOD / f"{name}.yaml") == EXPECTED[name]


def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(f"tls_server_config: {{cert: hunter1, key: hunter2}}\nbasic_auth_users: {{a: {HASH}}}\n")
    config = load(path)
    assert config.tls is not None
    assert config.tls.key.inline is not None
    assert config.tls.key.inline.reveal() == "hunter2"
    assert "hunter" not in repr(config)
    assert HASH not in repr(config)


def test_absolute_paths_stay(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text("tls_server_config: {cert_file: /pki/cert.pem, key_file: keys/key.pem}")
    config = load(path)
    assert config.tls is not None
    assert config.tls.files() == (Path("/pki/cert.pem"), tmp_path / "keys" / "key.pem")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"web\.yaml: cannot be read: No such file or directory$"):
        load(tmp_path / "web.yaml")


def test_every_suite_that_may_be_named_can_be_had() -> None:
    assert [name for name, openssl in CIPHERS.items() if not cipher_known(openssl)] == []
