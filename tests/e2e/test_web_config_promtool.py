"""The web configuration against promtool, of Prometheus 2.x and 3.x.

What promtool refuses is refused here as well, and what is refused beyond that stands in a list, with the reason.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import mistakes
import pytest
import trustme
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import tool

from exporter.errors import StartError
from exporter.web.web_config_watcher import WebConfigWatcher

if TYPE_CHECKING:
    from collections.abc import Collection

    from hypothesis.strategies import SearchStrategy

pytestmark = pytest.mark.e2e

MISTAKES = mistakes.of_table("web_configuration.yaml")
GOOD = Path(__file__).parents[1] / "web-configs"
LINES = (2, 3)
each_line = pytest.mark.parametrize("line", LINES)
HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"

# What promtool 2.x or 3.x accepts and we do not.
REFUSED_BEYOND = {
    "auth_request": "Python cannot ask for a certificate without verifying it",
    "auth_require": "the same",
    "auth_require_any": "the same",
    "auth_without_ca": "Go would take the system's public authorities, which lets in almost everybody",
    "ca_twice": "Go takes the file and ignores the text",
    "cert_twice": "the same",
    "curve_blank": "Go takes it for a curve of number 0",
    "curves_two": "Python can set one curve",
    "hash_2x": "the mark of hashes made by a faulty program; Go takes them for sound ones",
    "hash_cost_high": "a check would take longer than anybody waits",
    "hash_long": "no password matches it",
    "hash_salt": "the same",
    "hash_shortened": "the same",
    "hash_signs": "the same",
    "header_control": "such a header cannot be sent; Go sends it",
    "header_type": "text that looks like true or false wants quotes",
    "http2_letter": "YAML 1.1 as PyYAML reads it: n is text",
    "http2_true": "this server speaks HTTP/1.1",
    "key_twice": "Go takes the file and ignores the text",
    "rate_limit": "this server has limits of its own; promtool 3.5 knows it",
    "sans_without_clients": "Go lets everybody in then",
    "suite_blank": "Go takes it for a suite of number 0",
    "suite_no_forward_secrecy": "Go 1.22 and later count it among the insecure ones",
    "suites_need_13": "no handshake could succeed",
    "user_boolean": "a key that is not text: YAML readers differ in what it is",
    "user_colon": "no client can send such a user",
    "user_name_number": "a key that is not text: YAML readers differ in what it is",
    "version_alone": "Go ignores it and speaks plain HTTP",
    "version_old": "OpenSSL does no TLS 1.0 and 1.1",
    "versions_crossed": "no handshake could succeed",
    "yaml_tag": "Go ignores the tag",
    "yaml_two_documents": "Go ignores the second",
}
NOT_KNOWN = {"client_names": {2}, "client_names_blank": {2}}  # client_allowed_sans came later


def accepted_by(line: int, paths: Collection[Path]) -> set[Path]:
    """Return which of these files the promtool of a line accepts."""
    command = [tool("promtool", line), "check", "web-config", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    found = re.findall(r"^(\S+\.yaml) (SUCCESS|FAILED)", done.stderr, re.MULTILINE)
    assert {Path(path) for path, _ in found} == set(paths), done.stderr
    return {Path(path) for path, verdict in found if verdict == "SUCCESS"}


@pytest.fixture(scope="module")
def accepted(named_files: Path) -> dict[int, set[Path]]:
    """Return which files each line accepts."""
    paths = sorted(named_files.glob("*.yaml"))
    return {line: accepted_by(line, paths) for line in LINES}


@pytest.fixture(scope="module")
def named_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the files name."""
    made = tmp_path_factory.mktemp("web")
    authority = trustme.CA()
    server = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(made / "ca.pem")
    server.cert_chain_pems[0].write_to_path(made / "cert.pem")
    server.private_key_pem.write_to_path(made / "key.pem")
    authority.issue_cert("other").private_key_pem.write_to_path(made / "other.pem")
    for name, mistake in MISTAKES.items():
        (made / f"{name}.yaml").write_bytes(mistake.written)
    shutil.copytree(GOOD, made, dirs_exist_ok=True)
    return made


def we_accept(path: Path) -> bool:
    try:
        WebConfigWatcher(path)
    except StartError:
        return False
    return True


@each_line
@pytest.mark.parametrize("name", sorted(path.stem for path in GOOD.iterdir()))
def test_what_is_good_is_good_for_both(accepted: dict[int, set[Path]], named_files: Path, line: int, name: str) -> None:
    path = named_files / f"{name}.yaml"
    assert we_accept(path)
    assert (path in accepted[line]) is (line not in NOT_KNOWN.get(name, ()))


@each_line
@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_refused_beyond_promtool_has_its_reason(
    accepted: dict[int, set[Path]], named_files: Path, line: int, name: str
) -> None:
    path = named_files / f"{name}.yaml"
    assert not we_accept(path)
    if path in accepted[line]:
        assert name in REFUSED_BEYOND


def test_no_reason_is_left_without_its_file(accepted: dict[int, set[Path]], named_files: Path) -> None:
    assert {named_files / f"{name}.yaml" for name in REFUSED_BEYOND} <= set().union(*accepted.values())


def _sometimes(**keys: SearchStrategy[object]) -> SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries({}, optional=keys)


def _mostly(good: object, *others: object) -> SearchStrategy[object]:
    return st.sampled_from([*[good] * 3 * len(others), *others])


SUITES = _mostly(
    "TLS_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
)
# Whatever is accepted by both, or refused by both; what only we refuse is in REFUSED_BEYOND.
TLS = st.fixed_dictionaries(
    {
        "cert_file": _mostly("cert.pem", "", "key.pem", "gone.pem", None),
        "key_file": _mostly("key.pem", "", "other.pem", "cert.pem", None),
    },
    optional={
        "client_auth_type": _mostly("RequireAndVerifyClientCert", "NoClientCert", "Required", "", None),
        "client_ca_file": _mostly("ca.pem", "gone.pem", "", None),
        "min_version": _mostly("TLS12", "TLS13", "tls12", "", 12, None),
        "max_version": _mostly("TLS13", "TLS14", None),
        "cipher_suites": st.lists(SUITES, max_size=3) | st.none(),
        "curve_preferences": st.lists(_mostly("X25519", "CurveP256", "x25519"), max_size=1) | st.none(),
        "prefer_server_cipher_suites": st.sampled_from([False, True, False, "true", 1, None]),
    },
)
HEADERS = _sometimes(
    **{
        "X-Frame-Options": _mostly("deny", "sameorigin", "DENY", None, 0),
        "X-Content-Type-Options": _mostly("nosniff", "", "sniff"),
        "X-XSS-Protection": _mostly(0, "0", None, ["0"], ""),
        "Content-Security-Policy": _mostly("default-src 'self'", "a\nb\n", None, {}),
    }
)
HTTP = _sometimes(http2=st.sampled_from([False, False, False, "false", 0, None]), headers=HEADERS | st.none())
HASHES = _mostly(HASH, HASH.replace("2y", "2a"), HASH[:-2], "hunter2", "", None, HASH.replace("$10", "$03"))
USERS = st.dictionaries(st.sampled_from(["ann", "Ärztin", "", "a b", "$"]), HASHES, max_size=3)
CONFIGS = _sometimes(
    tls_server_config=TLS | TLS | TLS | st.none(),
    http_server_config=HTTP | HTTP | st.none(),
    basic_auth_users=USERS | USERS | st.none(),
)


def _beyond(config: dict[str, object]) -> bool:
    """Whether only we refuse it."""
    tls = config.get("tls_server_config")
    if not isinstance(tls, dict):
        return False
    given_keys = {key for key, value in tls.items() if value not in (None, "", [])}
    authorities = "client_ca_file" in given_keys
    return (
        given_keys != set() and not given_keys & {"cert_file", "key_file", "client_auth_type", "client_ca_file"}
    ) or (tls.get("client_auth_type") == "RequireAndVerifyClientCert" and not authorities)


@each_line
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(configs=st.lists(CONFIGS, min_size=6, max_size=6))  # one promtool judges them all
def test_any_file_is_judged_alike(named_files: Path, line: int, configs: list[dict[str, object]]) -> None:
    paths = {named_files / f"any-{number}.yaml": config for number, config in enumerate(configs)}
    for path, config in paths.items():
        path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    accepted = accepted_by(line, paths)
    for path, config in paths.items():
        ours = we_accept(path)
        assert ours == (path in accepted) or (path in accepted and _beyond(config)), config
