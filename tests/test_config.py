import ast
import json
import re
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import mistakes
import pytest
import trustme
import yaml
from config_schema import json_schema
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mistakes import Mistake
from pydantic import TypeAdapter, ValidationError

from exporter.config import (
    Config,
    EnvironmentSettings,
    ListedOperation,
    Polling,
    Storage,
    effective_yaml,
    load,
)
from exporter.config.kinds import LoadContext, adapter_of
from exporter.config.settings import (
    SECTIONS,
    GroupSettings,
    HttpSource,
    RegistrationSettings,
    SharedSettings,
    TokenSource,
)
from exporter.errors import ConfigError, StartError
from exporter.keys import InvalidKey, KeySource, Secret
from exporter.lookup import environment_for
from exporter.reloading import ConfigFile
from exporter.values import (
    InvalidValue,
    check_base_url,
    check_source_url,
    mask_proxy,
    parse_duration,
    show_duration,
)

ROOT = Path(__file__).parent.parent
KEY = "sk_test_0123456789abcdef"
ENVIRON = {"KNOCK_API_KEY": KEY}
FIRST = "123e4567-e89b-12d3-a456-426614174000"
SECOND = "b19d032a-fc3b-4a54-9f54-369484527201"

TOKEN = "0123456789abcdef"  # as short as a token may be


def names(section: type) -> list[str]:
    return [each.name for each in fields(section)]


Loader = Callable[[str], Config]
CONTEXT = LoadContext(Path(), ENVIRON)


@pytest.fixture
def read(tmp_path: Path) -> Loader:
    def read(text: str) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return load(path, ENVIRON)

    return read


def _one(more: str = "", top: str = "") -> str:
    lines = ["environments:", "  - name: production", "    api_key_env: KNOCK_API_KEY"]
    lines += [f"    {line}" for line in textwrap.dedent(more).splitlines()]
    return "\n".join([*lines, textwrap.dedent(top)])


def _complaint(read: Loader, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return "\n".join(str(problem) for problem in caught.value.problems)


HEAD = b"environments:\n  - name: production\n    api_key_env: KNOCK_API_KEY\n"
MISTAKES = mistakes.of_table("configuration.yaml") | {
    "int_too_long": Mistake(
        HEAD + b"rate_limit: " + b"9" * 5000 + b"\n",
        "line 4: rate_limit: is not what its tag says, or too long a number",
    ),
    "not_utf8": Mistake(b"\n" + HEAD + b"    branch: caf\xe9\n", "line 5: is not UTF-8 text (save it as UTF-8)"),
    "syntax_nested_too_deeply": Mistake(
        b"labels: " + b"[" * 5000 + b"\n", "line 1: is not valid YAML at column 71: nested too deeply"
    ),
    "utf16": Mistake(HEAD.decode().encode("utf-16"), "line 1: is not UTF-8 text (save it as UTF-8)"),
}
# What the table's configurations name.
NAMED = {
    "empty.key": "\n",
    "two_lines.key": "one\ntwo\n",
    "good.token": "fedcba9876543210\n",
    "short.token": "8646352fedcba98\n",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_has_its_message_and_no_secret_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, text in NAMED.items():
        (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    path = Path("config.yaml")
    path.write_bytes(MISTAKES[name].written)
    with pytest.raises(ConfigError) as caught:
        load(path, ENVIRON)
    assert str(caught.value) == MISTAKES[name].shown(path)
    shown = "".join(traceback.format_exception(caught.value))
    for secret in ("0123456789abcdef", "fedcba9876543210", "hunter2", "8646352"):
        assert secret not in shown


def test_no_error_of_pydantic_is_asked_for_what_it_found() -> None:
    for path in (ROOT / "exporter").rglob("*.py"):
        calls = [each for each in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(each, ast.Call)]
        for call in calls:
            if isinstance(call.func, ast.Attribute) and call.func.attr == "errors":
                assert "include_input=False" in ast.unparse(call), path
    with pytest.raises(ValidationError) as caught:
        adapter_of(Config).validate_python({"environments": [{"name": [KEY], "api_key": [KEY]}]}, context=CONTEXT)
    assert KEY not in f"{caught.value!s} {caught.value!r}"


def test_no_repr_and_no_dump_shows_a_key(read: Loader) -> None:
    config = read(
        _one(f"proxy: http://admin:{KEY}@proxy.example:3128").replace("api_key_env: KNOCK_API_KEY", f"api_key: {KEY}")
    )
    dumped = adapter_of(Config).dump_python(config)
    assert KEY not in f"{config!r} {config} {dumped} {adapter_of(Config).dump_json(config)!r}"
    assert TypeAdapter(Secret).dump_json(Secret(KEY)) == b'"***"'


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read: No such file or directory$"):
        load(tmp_path / "config.yaml", {})
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory$"):
        load(tmp_path, {})


def test_the_smallest_file_has_the_documented_defaults(read: Loader) -> None:
    assert read(_one()) == Config(
        environments=(
            EnvironmentSettings(
                name="production",
                api_key_env=KeySource(variable="KNOCK_API_KEY", knock=True),
                base_url="https://api.knock.app",
                rate_limit=20.0,
                max_in_flight=40,
                timeout=10.0,
                polling=Polling(5.0, 15.0, 60.0, 86400.0, 604800.0, 600.0),
                per_operation="all",
                per_operation_limit=1000,
                operations_files=(),
                operations_http=(),
                retention=86400.0,
            ),
        ),
        max_operations=50_000,
        registration=RegistrationSettings(()),
        storage=None,
    )


def test_environments_override_the_top_level_key_by_key(read: Loader) -> None:
    config = read("""
        rate_limit: 50
        timeout: 3s
        retention: 2d
        polling: {processing: 10s, slowest: 2m}
        per_operation: active
        environments:
          - {name: a, api_key: k, rate_limit: 1, polling: {queued: 20s}}
          - {name: b, api_key: k, timeout: 1m, per_operation: none, per_operation_limit: 0, max_in_flight: 256,
             retention: 1h}
    """)
    a, b = config.environments
    assert (a.rate_limit, a.max_in_flight, a.timeout, a.per_operation) == (1.0, 4, 3.0, "active")
    assert (a.retention, b.retention) == (172800.0, 3600.0)
    assert a.polling == Polling(processing=10.0, queued=20.0, slowest=120.0)
    assert (b.rate_limit, b.max_in_flight, b.timeout, b.per_operation) == (50.0, 256, 60.0, "none")
    assert b.polling == Polling(processing=10.0, slowest=120.0)


def test_polling_is_judged_by_what_is_active(read: Loader) -> None:
    own = "polling: {slowest: 3m}"
    assert read(_one(own, "polling: {queued: 2m}")).environments[0].polling.slowest == 180.0


@pytest.mark.parametrize(("rate", "expected"), [(0.1, 4), (2, 4), (7.5, 15), (20, 40), (200, 64)])
def test_flights_follow_the_rate(read: Loader, rate: float, expected: int) -> None:
    assert read(_one(f"rate_limit: {rate}")).environments[0].max_in_flight == expected


def test_operations_are_ids_or_mappings(read: Loader) -> None:
    config = read(f"""
        labels: [team, area]
        environments:
          - name: production
            api_key: {KEY}
            operations:
              - {FIRST.upper()}
              - id: {SECOND}
                group: 2024-01-31
                labels: {{team: Größe, area: "7"}}
                run: 2024-01-31T02:00:00Z
    """)
    assert config.labels == ("team", "area")
    assert config.environments[0].operations == (
        ListedOperation(FIRST),
        ListedOperation(
            SECOND, group="2024-01-31", labels=(("area", "7"), ("team", "Größe")), run="2024-01-31T02:00:00Z"
        ),
    )


def test_what_is_expected_of_groups(read: Loader) -> None:
    config = read(
        _one(
            """
            groups:
              - {name: nightly, every: 26h, deadline: 3h}
              - name: default
            """,
            "storage: {path: state.db}",
        )
    )
    assert config.environments[0].groups == (
        GroupSettings("nightly", every=26 * 3600.0, deadline=3 * 3600.0),
        GroupSettings("default"),
    )
    shown = yaml.safe_load(effective_yaml(config))["environments"][0]["groups"]
    assert shown == [{"name": "nightly", "every": "1d2h", "deadline": "3h"}, {"name": "default"}]


def test_groups_need_a_state_file_in_this_file_or_on_the_command_line(tmp_path: Path, read: Loader) -> None:
    text = _one("groups: [{name: nightly, every: 26h}]")
    assert "environments[0].groups: needs a state file" in _complaint(read, text)
    assert "environments[0].groups: needs a state file" in _complaint(read, _one("groups: [{name: other}]"))
    given = ConfigFile(tmp_path / "config.yaml", ENVIRON, storage=tmp_path / "state.db")
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert [each.name for each in given.load().environments[0].groups] == ["nightly"]
    assert environment_for(FIRST, tmp_path / "config.yaml", None, ENVIRON).name == "production"


def test_keys_come_from_one_source(tmp_path: Path) -> None:
    (tmp_path / "knock.key").write_text(f"{KEY}\n", encoding="utf-8")
    (tmp_path / "config.yaml").write_text(
        f"environments: [{{name: a, api_key_file: knock.key}}, {{name: b, api_key: {KEY}}}]", encoding="utf-8"
    )
    a, b = load(tmp_path / "config.yaml", {}).environments
    assert a.key == KeySource(file=tmp_path / "knock.key", knock=True)
    assert b.key == KeySource(inline=Secret(KEY), knock=True)


def test_merge_keys_and_aliases_are_resolved(read: Loader) -> None:
    config = read(f"""
        environments:
          - &first
            name: a
            api_key_env: KNOCK_API_KEY
            timeout: 3s
            operations: &ids [{FIRST}]
          - <<: *first
            name: b
            timeout: 4s
          - {{<<: [{{name: c}}, *first], operations: *ids}}
    """)
    assert [(one.name, one.timeout) for one in config.environments] == [("a", 3.0), ("b", 4.0), ("c", 3.0)]
    assert {one.operations for one in config.environments} == {(ListedOperation(FIRST),)}


def test_what_comes_by_a_merge_key_is_found_where_it_stands(read: Loader) -> None:
    complaint = _complaint(read, _one("<<: {timeout: 1, branch: main}\nrate_limit: x"))
    assert complaint.splitlines()[0].startswith("line 4: environments[0].timeout: a number needs its unit")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("https://api.knock.app/", "https://api.knock.app"),
        ("HTTPS://API.knock.app:8443//", "https://api.knock.app:8443"),
        ("https://gateway.example/knock/", "https://gateway.example/knock"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.8.9.10", "http://127.8.9.10"),
        ("http://[::1]:10188/", "http://[::1]:10188"),
    ],
)
def test_base_urls_are_brought_into_one_form(read: Loader, written: str, expected: str) -> None:
    assert read(_one(f"base_url: '{written}'")).environments[0].base_url == expected


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1", "http://localhost.example", "http://127.1", "http://[::2]", "http://0.0.0.0"]
)
def test_plain_http_leaves_this_machine_only_on_demand(read: Loader, url: str) -> None:
    assert "insecure_http: true" in _complaint(read, _one(f"base_url: '{url}'"))
    assert read(_one(f"base_url: '{url}'\ninsecure_http: true")).environments[0].base_url == url


@pytest.mark.parametrize(
    "url", ["https://a b", "https://a\\b", "https://a:0", "https://[::1%25eth0]", "https://é", "//a"]
)
def test_broken_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidValue):
        check_base_url(url)


@pytest.mark.parametrize("path", ["/v1", "//v1/", "/knock//V1/bulk_operations"])
def test_an_address_with_the_version_is_refused(path: str) -> None:
    with pytest.raises(InvalidValue, match=r"must end before /+[vV]1, which is added to it"):
        check_base_url(f"https://api.knock.app{path}")
    assert check_base_url("https://v1/v1beta") == "https://v1/v1beta"


@pytest.mark.parametrize("setting", ["api_key_file", "api_key_env"])
def test_a_key_in_place_of_where_it_is(read: Loader, setting: str) -> None:
    complaint = _complaint(read, f"environments: [{{name: production, {setting}: {KEY}}}]")
    assert complaint.endswith(
        "(looks like the key itself: put it into the file or variable that is named here, or use api_key)"
    )
    assert KEY not in complaint


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("1m30s", 90), ("1h", 3600), ("7d", 604800), ("500ms", 0.5), ("1w", 604800), ("1y2d", 31708800)],
)
def test_durations_are_those_of_prometheus(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(show_duration(seconds)) == seconds


@pytest.mark.parametrize(
    "value", ["", "0", "0s", "5", "5 s", "-5s", "1.5s", "5S", "s", "1s1m", "٣s", 5, 0.5, True, None, []]
)
def test_anything_else_is_not_a_duration(value: object) -> None:
    with pytest.raises(InvalidValue):
        parse_duration(value)


def test_a_proxy_is_kept_whole_and_shown_without_its_user(read: Loader) -> None:
    config = read(_one("proxy: http://admin:hunter2@proxy.example:3128"))
    assert config.environments[0].proxy == Secret("http://admin:hunter2@proxy.example:3128")
    assert "hunter2" not in repr(config) + effective_yaml(config)
    beyond_ascii = read(_one("proxy: http://zoë:pass€word@proxy.example:3128")).environments[0].proxy
    assert beyond_ascii == Secret("http://zo%C3%AB:pass%E2%82%ACword@proxy.example:3128")
    assert mask_proxy("https://proxy.example") == "https://proxy.example"


def test_a_ca_file_is_loaded_to_see_whether_it_can_be(tmp_path: Path, read: Loader) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    assert read(_one("ca_file: ca.pem")).environments[0].ca_file == tmp_path / "ca.pem"


def test_patterns_of_files_start_at_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a[b]*"
    folder.mkdir()
    (folder / "config.yaml").write_text(_one("operations_files: [ids/*.json, '../**/', /srv/*.yaml]"), encoding="utf-8")
    monkeypatch.chdir(folder)
    patterns = load(Path("config.yaml"), ENVIRON).environments[0].operations_files
    assert patterns == (f"{tmp_path}/a[[]b][*]/ids/*.json", f"{tmp_path}/a[[]b][*]/../**/", "/srv/*.yaml")


def test_addresses_of_lists(tmp_path: Path, read: Loader) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "list.token").write_text("x\n", encoding="utf-8")
    config = read(
        _one("""
            operations_http:
              - url: HTTP://Ids.Example/List?of=a/b?c
              - {url: 'https://ids.example', interval: 1s, bearer_token_file: list.token, ca_file: ca.pem}
        """)
    )
    assert config.environments[0].operations_http == (
        HttpSource("http://ids.example/List?of=a/b?c", 60.0, None, None),
        HttpSource("https://ids.example/", 1.0, KeySource(file=tmp_path / "list.token"), tmp_path / "ca.pem"),
    )


@pytest.mark.parametrize("more", ["https://ids.example/", "HTTPS://IDS.example"])
def test_an_address_stands_once_however_it_is_written(read: Loader, more: str) -> None:
    addresses = f"operations_http: [{{url: 'https://ids.example'}}, {{url: '{more}'}}]"
    assert "operations_http[1].url: the same address is listed twice" in _complaint(read, _one(addresses))


def test_a_bearer_token_leaves_this_machine_unprotected_only_on_demand(tmp_path: Path, read: Loader) -> None:
    (tmp_path / "list.token").write_text("x", encoding="utf-8")
    source = "operations_http: [{url: 'http://%s/', bearer_token_file: list.token}]"
    assert "insecure_http: true" in _complaint(read, _one(source % "10.0.0.1"))
    for allowed in (source % "localhost", source % "10.0.0.1" + "\ninsecure_http: true"):
        config = read(_one(allowed))
        assert read(effective_yaml(config)) == config


@pytest.mark.parametrize(
    "url", ["https://a/<b>", "https://a/?b=|", "https://a/?b=sk_test_1", "https://a b", "https://"]
)
def test_broken_addresses_of_lists_are_refused(url: str) -> None:
    with pytest.raises(InvalidValue):
        check_source_url(url)


def test_tokens_are_good_for_all_environments_or_for_some(tmp_path: Path, read: Loader) -> None:
    for name in "abc":
        (tmp_path / f"{name}.token").write_text(f"{TOKEN}\n", encoding="utf-8")
    config = read(
        _one(
            top="""
            registration:
              tokens:
                - token_file: a.token
                - {token_file: b.token, environments: [all]}
                - {token_file: c.token, environments: [production]}
            """
        )
    )
    tokens = config.registration.tokens
    assert tokens == (
        TokenSource(KeySource(file=tmp_path / "a.token", least=16)),
        TokenSource(KeySource(file=tmp_path / "b.token", least=16), ("all",)),
        TokenSource(KeySource(file=tmp_path / "c.token", least=16), ("production",)),
    )
    assert [each.scope for each in tokens] == [None, None, {"production"}]
    assert tokens[0].token_file.read({}) == Secret(TOKEN)
    (tmp_path / "a.token").write_text(TOKEN[1:], encoding="utf-8")
    with pytest.raises(InvalidKey, match=r"a\.token is too short for a token \(expected at least 16 ") as caught:
        tokens[0].token_file.read({})
    assert TOKEN[1:] not in str(caught.value)


def test_the_state_has_a_file_or_none(tmp_path: Path, read: Loader) -> None:
    assert read(_one(top="storage: {path: state.db}\nmax_operations: 1000000")) == replace(
        read(_one()), storage=Storage(tmp_path / "state.db"), max_operations=1_000_000
    )
    (tmp_path / "state.db").write_bytes(b"")
    assert read(_one(top="storage: {path: state.db}")).storage == Storage(tmp_path / "state.db")
    assert "state.db: is not a folder" in _complaint(read, _one(top="storage: {path: state.db/state.db}"))
    assert "File name too long" in _complaint(read, _one(top=f"storage: {{path: {'x' * 300}}}"))


def test_some_environments_may_be_taken_in_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.token").write_text(TOKEN, encoding="utf-8")
    path = tmp_path / "config.yaml"
    path.write_text(
        """
        registration: {tokens: [{token_file: a.token, environments: [staging, eu]}]}
        environments: [{name: production, api_key: k}, {name: staging, api_key: k}, {name: eu, api_key: k}]
        """,
        encoding="utf-8",
    )
    config = load(path, {})
    production, _, eu = config.environments
    assert load(path, {}, ["eu", "production", "eu"]) == replace(config, environments=(production, eu))
    assert load(path, {}, ["eu"]).registration == config.registration
    assert load(path, {}, ["production"]).registration.tokens == ()


def test_what_other_environments_need_need_not_be_there(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        """
        registration: {tokens: [{token_file: eu.token, environments: [eu]}]}
        environments:
          - {name: production, api_key: k}
          - name: eu
            api_key_file: eu.key
            ca_file: eu.pem
            operations_http: [{url: 'https://ids.example/', bearer_token_file: list.token, ca_file: list.pem}]
        """,
        encoding="utf-8",
    )
    assert [each.name for each in load(tmp_path / "config.yaml", {}, ["production"]).environments] == ["production"]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "config.yaml", {}, ["eu"])
    assert [path.name for path in caught.value.mended_by] == ["eu.token", "eu.key", "eu.pem", "list.token", "list.pem"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["eu", "prodution"],
            '"prodution" is not an environment of the configuration (did you mean "production"? it has: ',
        ),
        (["colour"], '"colour" is not an environment of the configuration (it has: production, eu)'),
        ([""], '"" is not an environment of the configuration (it has: '),
    ],
)
def test_environments_that_are_not_there_cannot_be_taken(tmp_path: Path, names: list[str], message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("environments: [{name: production, api_key: k}, {name: eu, api_key: k}]", encoding="utf-8")
    with pytest.raises(StartError) as caught:
        load(path, {}, names)
    assert str(caught.value).startswith(message)


def test_effective_settings_are_whole_and_masked(read: Loader) -> None:
    config = read(
        f"labels: [team]\nenvironments: [{{name: a, api_key: {KEY}, proxy: 'http://u:p@h:1', operations: [{FIRST}]}}]"
    )
    assert effective_yaml(config) == textwrap.dedent(f"""\
        environments:
        - name: a
          api_key: '***'
          base_url: https://api.knock.app
          insecure_http: false
          proxy: http://***@h:1
          proxy_from_environment: false
          rate_limit: 20.0
          max_in_flight: 40
          timeout: 10s
          polling:
            processing: 5s
            queued: 15s
            slowest: 1m
            not_found_after: 1d
            max_age: 7d
            key_check_interval: 10m
          retention: 1d
          per_operation: all
          per_operation_limit: 1000
          operations:
          - {FIRST}
          operations_files: []
          operations_http: []
          groups: []
        labels:
        - team
        max_operations: 50000
        registration:
          tokens: []
        """)


def test_insecure_http_is_shown_as_it_is_set(read: Loader) -> None:
    shown = yaml.safe_load(effective_yaml(read(_one("insecure_http: true"))))
    assert shown["environments"][0]["insecure_http"] is True


def test_effective_settings_mean_the_same_when_read_again(tmp_path: Path, read: Loader) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("list.token", "a.token", "b.token"):
        (tmp_path / name).write_text(TOKEN, encoding="utf-8")
    more = f"""
        base_url: http://10.0.0.1/knock
        insecure_http: true
        branch: 'on'
        retention: 90m
        operations: [{FIRST}, {{id: {SECOND}, group: 'no', labels: {{team: '7'}}, run: '1'}}]
        groups: [{{name: 'no', every: 26h, deadline: 90m}}, {{name: default}}]
        operations_files: ['*.json', '[0-9]/no', /srv/*.json]
        operations_http:
          - {{url: 'http://ids.example/?a=%20b', interval: 1500ms, bearer_token_file: list.token, ca_file: ca.pem}}
          - {{url: 'https://ids.example/on'}}
    """
    top = """
        labels: [team]
        timeout: 1m30s
        max_operations: 7
        storage: {path: state.db}
        registration: {tokens: [{token_file: a.token, environments: [production]}, {token_file: b.token}]}
    """
    config = read(_one(more, top))
    assert None not in (
        config.storage,
        config.registration.tokens[0].scope,
        config.environments[0].operations_http[0].ca_file,
    )
    again = read(effective_yaml(config))
    assert again == config
    assert hash(again) == hash(config)  # nothing in it can change


def test_the_example_shows_every_key_with_its_default(tmp_path: Path) -> None:
    text = (ROOT / "config.example.yaml").read_text(encoding="utf-8")
    (tmp_path / "knock.key").write_text(KEY, encoding="utf-8")
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    shown = EnvironmentSettings(
        "production",
        api_key_file=KeySource(file=tmp_path / "knock.key", knock=True),
        operations=(ListedOperation(FIRST), ListedOperation(SECOND, "nightly-sync", (("team", "growth"),))),
    )
    assert load(tmp_path / "config.yaml", {}) == Config((shown,), labels=("team",))
    keys = {key for sections in SECTIONS.values() for each in sections for key in names(each)}
    assert set(re.findall(r"^[\s#-]*(\w+):", text, re.MULTILINE)) == keys


def test_the_schema_is_up_to_date() -> None:
    committed = (ROOT / "docs" / "config.schema.json").read_text(encoding="utf-8")
    assert committed == json_schema(), "run `make schema`"


def test_the_schema_describes_every_key() -> None:
    schema = json.loads(json_schema())
    models = [schema, *schema["$defs"].values()]
    keys = {key: value for model in models for key, value in model["properties"].items()}
    assert all("description" in value for value in keys.values())
    assert schema["properties"]["timeout"]["default"] == "10s"
    assert "default" not in schema["$defs"]["EnvironmentSettings"]["properties"]["timeout"]


_KEYS = sorted({key for sections in SECTIONS.values() for each in sections for key in names(each)})
_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.binary(max_size=5)
    | st.sampled_from(
        [FIRST, "5s", "1h", "production", "all", KEY, "http://localhost", "KNOCK_API_KEY", "https://[", "~"]
    )
)
_documents: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=8), inner, max_size=6)
    ),
    max_leaves=20,
)
_environments = st.lists(
    st.dictionaries(st.sampled_from(names(EnvironmentSettings)), _documents, max_size=6), max_size=3
)
_nearly_right = st.fixed_dictionaries(
    {"environments": _environments},
    optional={key: _documents for key in (*names(SharedSettings), *names(Config)) if key != "environments"},
)


def _gives_config_or_complaint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "random.yaml"
    path.write_bytes(content)
    outcome = _outcome(path)
    if isinstance(outcome, Config):
        yaml.load(effective_yaml(outcome), Loader=yaml.CSafeLoader)
        return
    assert outcome.problems
    assert KEY not in str(outcome)
    assert all(problem.line is None or problem.line > 0 for problem in outcome.problems)


def _outcome(path: Path) -> Config | ConfigError:
    try:
        return load(path, ENVIRON)
    except ConfigError as error:
        return error


_random = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@_random
@given(document=_documents | _nearly_right)
@example(document={"environments": [{"name": "a", "api_key": KEY, "operations": [FIRST]}]})
def test_any_document_gives_settings_or_a_complaint(tmp_path: Path, document: Any) -> None:
    _gives_config_or_complaint(tmp_path, yaml.dump(document, Dumper=yaml.CSafeDumper, allow_unicode=True).encode())


@_random
@given(content=st.binary() | st.text(alphabet="ab:-?[]{},&*!|>'\"%@`#<~ \n\t01\u2028é").map(str.encode))
@example(content=b"&a [*a, *a]")
@example(content=b"&a {<<: *a}")
@example(content=b"{<<: [&a {<<: *a}, 5]}")
@example(content=b"? [a]\n: b")
@example(content=b"- " * 100_000)
@example(content=b"{a: " * 100_000)
def test_any_file_gives_settings_or_a_complaint(tmp_path: Path, content: bytes) -> None:
    _gives_config_or_complaint(tmp_path, content)
