"""Where bytes from outside come in: each target takes them as the program does, and returns what is shown of them.

Which fields hold secrets is what docs/configuration.md and SECURITY.md say, and no more:

- what begins with `sk_`, wherever somebody put it, is in no message, no repr and no value that is shown. In a web
  configuration, where no API key belongs, headers and names of users are for everybody to read, whatever they are
- `api_key`, the content of key and token files, the variables of keys, user and password of `proxy`, a web
  configuration's `cert`, `key` and `client_ca` and what stands in place of a hash are shown nowhere, however they look
- user, password and query of an http or https URL are in no message, wherever the URL was put. Where a group or a label
  is asked for, such a URL is the group or label, which everybody may read
- what a server sends back of the key, token or proxy password that it was sent is masked in all that comes of it; of
  what it sends back of the query that it was asked with, no message shows anything
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, quote_from_bytes, unquote

import mistakes
import trustme
from inputs import ODD_JSON, ODD_YAML, Corpus, Given, Seed, edited
from markers import HALF, Marker, legible, marker
from registration_service import TOKEN, FakeService
from urllib3.exceptions import ProtocolError

from exporter import config
from exporter.cli.check_config import _warnings
from exporter.config.settings import HttpSource, Polling
from exporter.errors import ConfigError, KnockError, RateLimited, StartError
from exporter.keys import KeySource, Masking, Secret
from exporter.knock.client import MAX_RETRY_AFTER, Client, read_key
from exporter.knock.response import Response
from exporter.knock.transport import Transport
from exporter.knock.trust import trust
from exporter.metrics.exposition import operation_text
from exporter.operation import OperationKey
from exporter.simulator import replies
from exporter.sources.http import _parsed
from exporter.sources.listing import BrokenList
from exporter.sources.lists import Form, parse
from exporter.store.ages import Ages
from exporter.store.conversions import operation_document, read_operation
from exporter.store.documents import OperationDocument, decode, encode
from exporter.tokens import Token, Tokens
from exporter.tracking.memory import StoredOperation
from exporter.tracking.runs import Run, RunSums
from exporter.tracking.snapshot import GroupStatus
from exporter.tracking.transitions import Circumstances, Moment, newly_tracked, succeeded
from exporter.web.web_config_watcher import WebConfigWatcher

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from random import Random


ROOT = Path(__file__).parents[2]
ID, OTHER_ID = "123e4567-e89b-12d3-a456-426614174000", "b19d032a-fc3b-4a54-9f54-369484527201"


class Scope(Enum):
    """Where a secret must not be shown."""

    ANYWHERE = "wherever it was put"
    MESSAGES = "in messages, wherever it was put"
    PLACE = "nowhere, as long as it stands where it belongs"
    KEPT = "nowhere: no input has it"


class Hidden(NamedTuple):
    """A marked secret, and where it must not be shown."""

    marker: Marker
    scope: Scope = Scope.ANYWHERE

    def is_due(self, given: Given) -> bool:
        """Whether it is still a secret in this input; edits of its bytes may have made a word of it."""
        core = self.marker.core.encode()
        parts = core[:HALF], core[-HALF:], self.marker.secret.encode()
        counts = {given.content.count(part) for part in parts}
        if given.exact or self.scope is Scope.KEPT:
            return len(counts) == 1
        return len(counts) == 1 and counts != {0} and self.scope is not Scope.PLACE


@dataclass(frozen=True)
class Outcome:
    """What came of an input: `messages` for who sent it, or what is shown of the value that was made of it."""

    messages: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()


class Wrong(Exception):
    """An outcome that is none of those which are promised."""


def _told(error: Exception) -> Outcome:
    return Outcome((str(error), repr(error)))


class Target(ABC):
    """A place where bytes come in. `folder` is empty, and this target's own."""

    name: str
    hidden: tuple[Hidden, ...]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what it holds."""

    @abstractmethod
    def draw(self, rng: Random) -> Given:
        """Draw an input."""

    @abstractmethod
    def run(self, content: bytes) -> Outcome:
        """Take an input. Raises what the program would not have caught."""

    def leaks(self, given: Given, outcome: Outcome, events: Iterable[Any]) -> str:
        """Say which secrets are shown, and where; "" for none."""
        messages = legible("\0".join((*outcome.messages, *map(repr, events))).encode("utf-8", "surrogatepass"))
        shown = legible("\0".join(outcome.shown).encode("utf-8", "surrogatepass"))
        return "; ".join(
            f"{each.marker.secret} in {where}"
            for each in self.hidden
            for where, texts in (("messages", messages), ("values", shown))
            if (where == "messages" or each.scope is not Scope.MESSAGES)
            and each.marker.is_in(texts)
            and each.is_due(given)
        )


def _fenced(path: str, language: str) -> list[str]:
    """Return the examples of a document."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


# Answers of Knock.

ODD_KEY = marker("Tg7yNs5qBw0Zh9Lu")
PROXY_PASSWORD = marker("Bs9wHt4uFz1Yg6Xk", "p{}")
OTHER_KEY = marker("Hv5xUb2yGk9sWn4J", "sk_live_{}")

_RECORD: dict[str, Any] = {
    "__typename": "BulkOperation", "id": ID, "name": "users.identify", "status": "processing",
    "estimated_total_rows": 100,
    "processed_rows": 40, "success_count": 39, "error_count": 1, "error_items": [{"id": "a@b.example",
    "collection": "users"}],
    "progress_path": f"/v1/bulk_operations/{ID}", "inserted_at": "2027-01-15T06:00:00.123456Z",
    "updated_at": "2027-01-15T06:01:00Z", "started_at": "2027-01-15T06:00:10+01:00", "completed_at": None,
    "failed_at": None,
}  # fmt: skip
_RECORDS: tuple[dict[str, Any], ...] = (
    _RECORD,
    _RECORD | {"status": "queued", "started_at": None, "processed_rows": 0, "success_count": 0, "error_count": 0},
    _RECORD | {"status": "completed", "completed_at": "2027-01-15T06:03:00Z", "processed_rows": 100.0},
    _RECORD | {"status": "failed", "failed_at": "2027-01-15T06:03:60Z", "name": "objects.\u00e9\\set"},
    _RECORD | {"status": "paused", "error_items": [5, None, {"collection": 'a"b'}, {"collection": None}] * 9},
    {"id": ID.upper(), "status": "processing"},
)
_STATUSES = (
    (200,) * 20
    + (404,) * 4
    + (429,) * 3
    + (400, 401, 403, 422, 500, 502, 503, 204, 301, 304, 100, 101, 199, 299, 600, 999)
)
_ANSWER_HEADERS = (
    "Content-Type: application/json; charset=utf-8", "Content-Type: text/html", "X-Request-ID: F7xZk2-abc",
    "X-Request-ID: {}", "Date: Fri, 15 Jan 2027 06:00:00 GMT", "Date: {}", "Retry-After: 5",
    "Retry-After: Fri, 15 Jan 2027 06:00:30 GMT", "Retry-After: {}", "retry-after-ms: 1500", "retry-after-ms: {}",
    "Content-Encoding: gzip", "Content-Encoding: {}", "Transfer-Encoding: {}", "Content-Length: {}",
    "Connection: close", "Connection: {}", "Location: {}", "X-Odd: {}", "{}: x",
)  # fmt: skip
_HEADER_VALUES = (
    "", "0", "-1", "+5", "1_0", "\u0661".encode().decode("latin-1"), "5, 5", "5, 6", "9" * 400, "1e5", "0.5", "nan",
    "identity", "chunked, gzip", "chunked", "gzip", "keep-alive", "Fri, 99 Foo 99999 99:99:99 +9999",
    "Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359", "1 Jan 2027", "\xe9\xff", "\x00", "a" * 200,
    ODD_KEY.secret, OTHER_KEY.secret, PROXY_PASSWORD.secret, "\t", "Fri, 15 Jan 2027 06:00:00 -0000",
    "Thu, 01 Jan 1970 00:00:00 +999999999",
)  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(f"\\u{ord(each):04x}" for each in text)


def _written(*secrets: Marker) -> Iterator[str]:
    for each in secrets:
        text = each.secret.replace("/", "\\/")
        yield from (f'"{each.secret}"', f'"{_escaped(each.secret)}"', f'"a {text}.b"', f'{{"{each.secret}": "{text}"}}')


class _Socket:
    """What http.client reads from."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._content)


def _no_address(*_args: Any, **_kwargs: Any) -> list[tuple[Any, ...]]:
    return []


class _Wire(Transport):
    """A transport whose next answer is there already; exceptions are wrapped as urllib3 does."""

    content = b""

    def request(self, *_args: Any, **_kwargs: Any) -> Response:
        answer = Response(_Socket(self.content))  # type: ignore[arg-type]  # all of it that is used
        try:
            answer.begin()
        except (HTTPException, OSError) as error:
            raise ProtocolError("Connection aborted.", error) from error
        return answer


_UNFORESEEN = re.compile(r"malformed (?:answer|body) \((\w+)\)")
_NOW = Moment(1000.0, 1_800_000_000.0)
_CIRCUMSTANCES = Circumstances(_NOW, 0.5, Polling(), 0.0, trusted=True)


class Answers(Target):
    """What Knock answers: bytes of a socket, through the client, to the lines of `/metrics` and the state file."""

    name = "answers"
    hidden = (Hidden(ODD_KEY), Hidden(PROXY_PASSWORD), Hidden(OTHER_KEY))

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        authorities = folder / "ca.pem"
        trustme.CA().cert_pem.write_to_path(str(authorities))
        url, proxy = "http://knock.example", f"http://user:{PROXY_PASSWORD.secret}@proxy.example:3128"
        # A key that only its mask knows: what begins with sk_ is found by its looks, too.
        key = Secret(ODD_KEY.secret)
        self._client = Client(base_url=url, key=key, proxy=Secret(proxy), ca_file=authorities)
        context = trust(authorities)
        self._client._transport.close()
        self._wire = self._client._transport = _Wire(
            url, context=context, proxy=proxy, connections=1, lookup=_no_address
        )
        secrets = tuple(_written(ODD_KEY, PROXY_PASSWORD, OTHER_KEY))
        records = [Seed(json.dumps(each, ensure_ascii=False)) for each in _RECORDS]
        errors = [Seed(replies.error(status).body.decode()) for status in (400, 401, 403, 404, 422, 429, 500)]
        self._records = Corpus(records, ODD_JSON, tuple(_RECORD), secrets)
        self._errors = Corpus(errors, ODD_JSON, ("code", "message", "status", "type", "id"), secrets)

    def close(self) -> None:
        self._client.close()

    def draw(self, rng: Random) -> Given:
        status = rng.choice(_STATUSES)
        given = (self._records if (status == HTTPStatus.OK) is (rng.random() < 0.9) else self._errors).draw(rng)
        body = given.content
        lines = [f"HTTP/1.{rng.choice('1110')} {status} Words"]
        several = range(int(rng.random() ** 3 * 5))
        lines += [rng.choice(_ANSWER_HEADERS).format(rng.choice(_HEADER_VALUES)) for _ in several]
        framing = rng.random()
        if framing < 0.85:
            lines.append(f"Content-Length: {len(body)}")
        elif framing < 0.92:
            lines.append("Transfer-Encoding: chunked")
            half = len(body) // 2
            body = (
                b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in (body[:half], body[half:]) if each)
                + b"0\r\n\r\n"
            )
        content = "\r\n".join((*lines, "", "")).encode("latin-1") + body
        if given.exact or rng.random() < 0.8:
            return Given(content, given.exact)
        return Given(edited(content, rng), exact=False)

    def run(self, content: bytes) -> Outcome:
        self._wire.content = content
        probed = self._client.probe()
        if probed.clock_difference is not None and not math.isfinite(probed.clock_difference):
            raise Wrong("a difference of clocks that is not finite")
        messages: list[str] = []
        shown: list[str] = []
        try:
            operation = self._client.fetch(ID)
            shown += (repr(operation), *self._rendered(operation))
            shown.append(repr(self._client.fetch_record(ID)[0]))
        except KnockError as error:
            messages += self._checked(error)
        return Outcome((*messages, repr(probed)), tuple(shown))

    @staticmethod
    def _checked(error: KnockError) -> Iterator[str]:
        unforeseen = _UNFORESEEN.search(str(error))
        if unforeseen is not None and unforeseen[1] not in _OF_HTTP:
            raise Wrong(f"a {unforeseen[1]} that only the last resort caught")
        if (
            isinstance(error, RateLimited)
            and error.retry_after is not None
            and not 0 <= error.retry_after <= MAX_RETRY_AFTER
        ):
            raise Wrong(f"a wait of {error.retry_after} s")
        yield from (str(error), repr(error), repr(error.__dict__))

    @staticmethod
    def _rendered(operation: Any) -> Iterator[str]:
        key = OperationKey("production", ID)
        operation = replace(operation, status_word=None)  # which is not kept
        tracked = succeeded(newly_tracked(key, "default", (), _NOW, Polling()), operation, _CIRCUMSTANCES)
        yield operation_text(tracked).decode()
        ages = Ages(0.0)
        line = encode(operation_document(key, StoredOperation(tracked, ()), ages))
        document = decode(line)
        if not isinstance(document, OperationDocument) or read_operation(key, document, ages).tracked != tracked:
            raise Wrong("the state file does not hold what was read")
        yield line.decode()


_OF_HTTP = {
    "HTTPException",
    "BadStatusLine",
    "LineTooLong",
    "UnknownProtocol",
    "IncompleteRead",
    "TooManyInterimResponses",
}


# Configurations.

FILE_KEY = marker("Mw4bTz9cQn2Hy7Gs", "sk_test_{}")
INLINE_KEY = marker("Jr6kXd1mVb8Fp3Ce", "sk_live_{}")
ODD_INLINE_KEY = marker("Lo5iPe0xDm7Vr2Nj")
TOKEN_FILE = marker("Ue2vRj7nKx4Wd9Ma", "{}-registers")
LINK = marker("Kd3aQv6rJn8Eu5Cw", "https://user:{}@ids.example/")
QUERY_LINK = marker("Fn0jLy2eUk6Sh4Av", "https://ids.example/list?token={}")
_FILES = {
    "knock.key": f"{FILE_KEY.secret}\n",
    "odd.key": f"{ODD_KEY.secret}\n",
    "quoted.key": f'"{FILE_KEY.secret}"\n',
    "two.key": f"{FILE_KEY.secret}\n{ODD_KEY.secret}\n",
    "empty.key": "\n",
    "binary.key": "\udcff",
    "register.token": f"{TOKEN_FILE.secret}\n",
    "list.token": f"{TOKEN_FILE.secret}\n",
    "short.token": "Yc8hGf3zSp6Qk1T\n",
}
_ENVIRON = {"KNOCK_API_KEY": FILE_KEY.secret, "ODD_KEY": ODD_KEY.secret, "EMPTY": "", "QUOTED": f"'{FILE_KEY.secret}'"}
_GOOD_CONFIGURATIONS = (
    f"""\
environments:
  - name: production
    api_key: {INLINE_KEY.secret}
    proxy: http://user:{PROXY_PASSWORD.secret}@proxy.example:3128
    operations:
      - {ID}
      - {{id: {OTHER_ID}, group: nightly-sync, run: "2027-01-31", labels: {{team: growth}}}}
  - {{name: staging, api_key_file: knock.key, branch: a/b, rate_limit: 5, polling: {{slowest: 2m}}}}
labels: [team]
polling: {{processing: 5s, queued: 15s}}
""",
    f"""\
environments:
  - name: odd
    api_key: {ODD_INLINE_KEY.secret}
    proxy: "https://user:{PROXY_PASSWORD.secret}@proxy.example"
    operations_http:
      - {{url: "https://ids.example/operations?a=b", interval: 60s, bearer_token_file: list.token}}
    operations_files: ["ids/*.json", other.txt]
    groups:
      - name: nightly-sync
        every: 26h
        deadline: 3h
registration:
  tokens:
    - token_file: register.token
      environments: [odd]
    - {{token_file: list.token}}
storage: {{path: state.db}}
""",
    """\
shared: &shared
  timeout: 10s
environments:
  - <<: *shared
    name: production
    api_key_env: KNOCK_API_KEY
    base_url: http://127.0.0.1:9/v2
""",
    """\
rate_limit: 20
max_in_flight: 40
timeout: 10s
retention: 24h
per_operation: active
per_operation_limit: 100
max_operations: 50000
environments:
- api_key_file: odd.key
  name: a
  insecure_http: true
  base_url: http://knock.example
  ca_file: ca.pem
  operations: []
- {name: b, api_key_env: ODD_KEY, proxy_from_environment: true, per_operation: none}
""",
)
_KEYS = (
    "environments", "name", "api_key_file", "api_key_env", "api_key", "base_url", "insecure_http", "branch", "ca_file",
    "proxy", "proxy_from_environment", "operations", "operations_files", "operations_http", "groups", "id", "group",
    "run", "labels", "url", "interval", "bearer_token_file", "every", "deadline", "rate_limit", "max_in_flight",
    "timeout", "polling", "processing", "queued", "slowest", "retention", "per_operation", "per_operation_limit",
    "max_operations", "registration", "tokens", "token_file", "storage", "path", "<<", "", "'a b'", "'\u2028'", "null",
    "5",
)  # fmt: skip
_ODD_SETTINGS = (
    *ODD_YAML, "200", "0.1", "500", "256", "100ms", "5m", "7d", "100y", "101y", "0s", "5", *_FILES, "missing.key",
    "ca.pem", "knock.key/x", ".", "/", "/dev/zero", "/proc/self/mem", "/proc/kmsg", "'a\0b'", "KNOCK_API_KEY", "EMPTY",
    "QUOTED", "all", "none", "active", "http://localhost:9", "http://knock.example", "https://api.knock.app/v1",
    "socks5://user@proxy.example", "http://user:@proxy", "https://ids.example/a#b", "https://ids.example:0/",
    "[production, all]", "http://\u00e4.example", "file:///list", "http://[fe80::1%25eth0]/", "[default, other]",
    "[team, team]", "{team: a}", "ids/**/*",
)  # fmt: skip


def _misplaced(*secrets: Marker) -> tuple[str, ...]:
    forms = "{}", "'{}'", '"a {}"', "a/{}", "{{{}: a}}", "{{a: {}}}", "[{}, {}]", "- {}"
    return tuple(form.format(each.secret, each.secret) for each in secrets for form in forms)


def _fill(folder: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("exporter.example")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    for name, content in _FILES.items():
        (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))


def _rows(table: str) -> list[str]:
    return [each.written.decode("utf-8", "replace") for each in mistakes.of_table(table).values()]


def _seeds(good: Sequence[str], broken: Iterable[str], kept: Sequence[Marker]) -> list[Seed]:
    """Make seeds: two of three draws are of a good one."""
    rest = [Seed(each, tuple(marked.core for marked in kept)) for each in broken]
    begun = [Seed(each, tuple(marked.core for marked in kept)) for each in good]
    return rest + begun * max(1, 2 * len(rest) // len(begun))


class Configurations(Target):
    """The configuration file, as `run` and `check-config` load it, and as `check-config --print` shows it."""

    name = "configurations"
    hidden = (
        Hidden(FILE_KEY, Scope.KEPT), Hidden(ODD_KEY, Scope.KEPT), Hidden(TOKEN_FILE, Scope.KEPT), Hidden(INLINE_KEY),
        Hidden(OTHER_KEY),
        Hidden(ODD_INLINE_KEY, Scope.PLACE), Hidden(PROXY_PASSWORD, Scope.PLACE),
        Hidden(LINK, Scope.MESSAGES), Hidden(QUERY_LINK, Scope.MESSAGES),
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        _fill(folder)
        example = (ROOT / "config.example.yaml").read_text(encoding="utf-8")
        examples = [
            each
            for name in ("configuration", "sources", "groups", "scaling")
            for each in _fenced(f"docs/{name}.md", "yaml")
        ]
        seeds = _seeds(
            _GOOD_CONFIGURATIONS, [example, *examples, *_rows("configuration.yaml")], (ODD_INLINE_KEY, PROXY_PASSWORD)
        )
        secrets = _misplaced(OTHER_KEY, LINK, QUERY_LINK)
        self._corpus = Corpus(seeds, _ODD_SETTINGS, _KEYS, secrets, quote="")
        self._file = folder / "config.yaml"

    def draw(self, rng: Random) -> Given:
        return self._corpus.draw(rng)

    def run(self, content: bytes) -> Outcome:
        self._file.write_bytes(content)
        try:
            loaded = config.load(self._file, _ENVIRON)
            if len(loaded.environments) > 1:
                config.load(self._file, _ENVIRON, (loaded.environments[-1].name,), needs_storage=False)
        except (ConfigError, StartError) as error:
            return _told(error)
        keys = {each.name: read_key(each, _ENVIRON) for each in loaded.environments}
        warnings = tuple(_warnings(loaded, keys, self._file))
        return Outcome(warnings, (repr(loaded), config.effective_yaml(loaded, queries_masked=True), repr(keys)))


# Web configurations.

_SALTED = "$2y$10$"
HASH = marker("X0h1gDsPszWURQax", _SALTED + "{}Fh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG")
PASSWORD = marker("Wx1tZc7gMb5Od8Pi", "pass {} word")
PEM_KEY = marker("Cn8sEq2vYd6Ha0Jr")
_GOOD_WEB_CONFIGURATIONS = (
    f"basic_auth_users:\n  prometheus: {HASH.secret}\n  'a b': '{HASH.secret}'\n",
    f"""\
tls_server_config:
  cert_file: cert.pem
  key_file: key.pem
  client_ca_file: ca.pem
  client_auth_type: RequireAndVerifyClientCert
  client_allowed_sans: [prometheus, "::1"]
  min_version: TLS12
  max_version: TLS13
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
  curve_preferences: [X25519]
  prefer_server_cipher_suites: false
http_server_config:
  http2: false
  headers:
    X-Frame-Options: deny
    Strict-Transport-Security: max-age=5
basic_auth_users: {{prometheus: {HASH.secret}}}
""",
    f"""\
tls_server_config:
  cert: |
    -----BEGIN CERTIFICATE-----
    MIIB
    -----END CERTIFICATE-----
  key: "-----BEGIN PRIVATE KEY-----\\n{PEM_KEY.core}\\n-----END PRIVATE KEY-----"
""",
    f"tls_server_config: {{cert_file: cert.pem, key: '{PEM_KEY.core}'}}\n",
    f"basic_auth_users:\n  prometheus: '{PASSWORD.secret}'\n",
    f"basic_auth_users: {{'{HASH.secret}': prometheus}}\n",
    "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\nhttp_server_config: {headers: {}}\n",
)
_WEB_KEYS = (
    "tls_server_config", "http_server_config", "basic_auth_users", "rate_limit", "cert", "key", "client_ca",
    "cert_file", "key_file", "client_ca_file", "client_auth_type", "client_allowed_sans", "min_version", "max_version",
    "cipher_suites", "http2", "headers", "curve_preferences", "prefer_server_cipher_suites", "X-Frame-Options",
    "X-Content-Type-Options", "'a:b'", "<<", "''", "5",
)  # fmt: skip
_ODD_WEB_SETTINGS = (
    *ODD_YAML, "cert.pem", "key.pem", "ca.pem", "missing.pem", "/dev/zero", "/", "'a\0b'", "TLS10", "TLS12", "TLS13",
    "NoClientCert", "RequireAnyClientCert", "VerifyClientCertIfGiven", "[TLS_AES_128_GCM_SHA256]",
    "[CurveP256, X25519]", "[CurveP521]", "[X448]", "nosniff", "sameorigin", "'a\n b'", "'\u00e9'", f"{_SALTED}short",
    "[::1]", "TLS_RSA_WITH_RC4_128_SHA", "$2a$31$" + "a" * 53,
)  # fmt: skip


class WebConfigurations(Target):
    """The web configuration, as the port takes it, with the certificates that it names."""

    name = "web-configurations"
    hidden = (
        Hidden(HASH, Scope.PLACE), Hidden(PASSWORD, Scope.PLACE), Hidden(PEM_KEY, Scope.PLACE),
        Hidden(OTHER_KEY, Scope.MESSAGES), Hidden(LINK, Scope.MESSAGES), Hidden(FILE_KEY, Scope.KEPT),
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        _fill(folder)
        here = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests" / "web-configs").glob("*.yaml"))]
        seeds = _seeds(_GOOD_WEB_CONFIGURATIONS, [*here, *_rows("web_configuration.yaml")], (HASH, PASSWORD, PEM_KEY))
        self._corpus = Corpus(seeds, _ODD_WEB_SETTINGS, _WEB_KEYS, _misplaced(OTHER_KEY, LINK), quote="")
        self._file = folder / "web.yaml"

    def draw(self, rng: Random) -> Given:
        return self._corpus.draw(rng)

    def run(self, content: bytes) -> Outcome:
        self._file.write_bytes(content)
        try:
            watcher = WebConfigWatcher(self._file)
        except StartError as error:
            return _told(error)
        return Outcome(shown=(repr(watcher.config), repr(watcher)))


# Registrations.

_ODD_QUERY = (
    "", "a", "true", "false", "nightly-sync", "2027-01-31", "a/b", "\0", "\u2028", "a" * 129, "\ud800",
    OTHER_KEY.secret, LINK.secret, QUERY_LINK.secret, "growth", "\xff", "other", "default",
)  # fmt: skip
_QUERY_KEYS = ("group", "run", "again", "label.team", "label.tier", "label.", "label.x", "x", "")
_CONTENT_TYPES = (
    *("application/json",) * 8, *("text/plain",) * 4, "", "application/x-www-form-urlencoded",
    'text/plain; charset="utf-8"', "application/json; charset=latin-1", "multipart/form-data; boundary=a",
    "text/plain;" * 50, "\xe9", "a" * 300,
)  # fmt: skip
_RUN_BODIES = (
    "", "{}", '{"operations": 12}', '{"deadline": "3h"}', '{"deadline": "2027-01-15T06:00:00Z", "closed": true}',
    '{"operations": null, "deadline": null, "closed": null}',
)  # fmt: skip
_BORN = _RECORD | {"status": "queued", "started_at": None, "processed_rows": 0}
_ITEMS: tuple[Any, ...] = (
    ID, [ID, OTHER_ID], {"id": ID},
    [{"id": ID, "group": "nightly-sync", "run": "2027-01-31", "labels": {"team": "growth"}}],
    [{"id": ID, "again": True}, {"id": OTHER_ID, "again": False}], _BORN, [_BORN | {"group": "a"}, OTHER_ID],
)  # fmt: skip
_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([\x21-\x7e]+) HTTP/1\.1")
_HEADER_LINE = re.compile(rb"([a-z-]+): ?([\t\x20-\x7e\x80-\xff]*)")


class Registrations(Target):
    """Requests that register, drop and open runs: the whole application, but for the tracker behind it."""

    name = "registrations"
    hidden = (Hidden(OTHER_KEY), Hidden(LINK, Scope.MESSAGES), Hidden(QUERY_LINK, Scope.MESSAGES), Hidden(TOKEN_FILE))

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        tokens = Tokens((Token.of(Secret(TOKEN_FILE.secret), None), Token.of(Secret(TOKEN), frozenset({"staging"}))))
        run = Run("2027-01-31", 1_800_000_000.0)
        group = GroupStatus("production", "nightly-sync", True, 86400.0, 1_800_000_000.0, run, None, RunSums())  # noqa: FBT003
        self._service = FakeService(tokens=tokens, groups=(group,))
        self._app = self._service.app()
        self._loop = asyncio.new_event_loop()
        secrets = tuple(_written(OTHER_KEY, LINK, QUERY_LINK))
        self._json = Corpus(
            [Seed(json.dumps(each)) for each in _ITEMS],
            ODD_JSON,
            (*_RECORD, "group", "run", "labels", "again"),
            secrets,
        )
        self._runs = Corpus(
            [Seed(each) for each in _RUN_BODIES], ODD_JSON, ("operations", "deadline", "closed"), secrets
        )
        lists = [Seed(each) for each in _TEXT_LISTS]
        self._lines = Corpus(lists, _ODD_LINES, (), (OTHER_KEY.secret, LINK.secret, QUERY_LINK.secret))

    def close(self) -> None:
        self._loop.close()

    def draw(self, rng: Random) -> Given:
        kind = rng.random()
        environment = "production" if rng.random() < 0.9 else rng.choice(("staging", *_ODD_QUERY))
        path, query = f"/api/v1/operations/{_path(environment)}", ""
        if kind < 0.65:
            method, given = "POST", (self._json if kind < 0.45 else self._lines).draw(rng)
        elif kind < 0.9:
            method, given = "PUT", self._runs.draw(rng)
            group = "nightly-sync" if rng.random() < 0.7 else rng.choice(_ODD_QUERY)
            run = "2027-01-31" if rng.random() < 0.7 else rng.choice(_ODD_QUERY)
            path = f"/api/v1/groups/{_path(environment)}/{_path(group)}/runs/{_path(run)}"
        else:
            method, given = rng.choice(("DELETE", "PATCH", "POST")), self._lines.draw(rng)
            path += "/" + (ID if rng.random() < 0.3 else _path(rng.choice(_ODD_QUERY)))
        if rng.random() < 0.3:
            pairs = [(rng.choice(_QUERY_KEYS), rng.choice(_ODD_QUERY)) for _ in range(1 + int(rng.random() * 3))]
            query = "?" + "&".join(f"{_path(name)}={_path(value)}" for name, value in pairs)
            if rng.random() < 0.2:
                query = "?" + quote_from_bytes(edited(query[1:].encode(), rng), safe="=&%+;?/")[:4000]
        token = TOKEN_FILE.secret if rng.random() < 0.95 else rng.choice((TOKEN, "x", "", TOKEN_FILE.secret[:-1]))
        kind_of_body = (
            rng.choice(_CONTENT_TYPES)
            if rng.random() < 0.5
            else "application/json"
            if method == "PUT"
            else "text/plain"
        )
        lines = [
            f"{method} {path}{query} HTTP/1.1",
            "host: exporter",
            f"authorization: Bearer {token}",
            f"content-type: {kind_of_body}",
        ]
        if rng.random() < 0.05:
            lines.append(
                rng.choice(
                    (
                        "content-encoding: gzip",
                        "content-length: " + "9" * 30,
                        "origin: http://x",
                        "authorization: Basic a",
                    )
                )
            )
        return Given("\r\n".join((*lines, "", "")).encode("latin-1") + given.content, given.exact)

    def run(self, content: bytes) -> Outcome:
        head, _, body = content.partition(b"\r\n\r\n")
        first, *rest = head.split(b"\r\n")
        line, headers = _REQUEST_LINE.fullmatch(first), [_HEADER_LINE.fullmatch(each) for each in rest]
        if line is None or not all(headers):
            return Outcome(("no request that the server would take",))
        raw, _, query = line[2].partition(b"?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": line[1].decode(),
            "scheme": "http",
            "path": unquote(raw.decode("ascii")), "raw_path": raw, "query_string": query, "root_path": "", "state": {},
            "headers": [(each[1], each[2]) for each in headers if each], "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }  # fmt: skip
        self._service.now += 1
        self._service.delivered.clear()
        self._service.registration.clear()
        status, answer = self._loop.run_until_complete(self._answer(scope, body))
        if status not in _STATUSES_OF_OURS:
            raise Wrong(f"status {status}")
        if line[2].startswith(b"/api/"):
            json.loads(answer)
        if status == HTTPStatus.OK:
            return Outcome((answer.decode(),), (repr(self._service.delivered),))
        return Outcome((answer.decode(),))

    async def _answer(self, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
        sent: list[Any] = []
        pieces = [body[: len(body) // 2], body[len(body) // 2 :]]

        async def receive() -> dict[str, Any]:
            piece = pieces.pop(0) if pieces else b""
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        return sent[0]["status"], b"".join(each.get("body", b"") for each in sent)


_STATUSES_OF_OURS = {200, 400, 401, 403, 404, 405, 409, 413, 415, 422, 503}


def _path(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


# Lists of ids.

LIST_TOKEN = marker("Yc8hGf3zSp6Qk1Tb", "{}/lists+")
QUERY = marker("Vu4gOa7wTe1Mi9Bz")
_TEXT_LISTS = (
    f"{ID}\n", f"# one\n\n  {ID} # it\n{OTHER_ID}\n", f"\ufeff{ID}\r\n{OTHER_ID.upper()}\r\n", "# none\n",
    f"{ID}\n" * 50,
)  # fmt: skip
_ODD_LINES = (
    "", "#", f"{ID},{OTHER_ID}", f"[{ID}]", f'"{ID}"', "abc", "\0", "\u2028", "é", "0" * 70_000,
    "00000000-0000-0000-0000-000000000000", ID.replace("-", ""), f"{ID}#a", f"{ID} \t# a", "id,group", "\x85",
    f"{ID}\x0b", "{", "urn:uuid:" + ID, "1" * 5000,
)  # fmt: skip
_GROUPS: tuple[Any, ...] = (
    [], [{"targets": [ID]}],
    [{"targets": [ID, OTHER_ID], "labels": {"group": "nightly-sync", "run": "2027-01-31", "team": "growth"}}],
    [{"targets": [], "labels": {}}, {"targets": [ID.upper()], "labels": {"__meta_x": "y"}}],
    [{"targets": None, "labels": None}], None,
)  # fmt: skip
_YAML_GROUPS = (
    f"- targets: ['{ID}', '{OTHER_ID}']\n  labels: {{group: nightly-sync, team: growth}}\n",
    f"# ids\n- targets:\n  - {ID}\n- &a\n  targets: []\n- <<: *a\n  labels: {{run: a.b:c-d}}\n",
)


class IdFiles(Target):
    """Lists of ids, from files in each form and from a service; the first line of an input names the form."""

    name = "id-files"
    hidden = (
        Hidden(OTHER_KEY), Hidden(LINK, Scope.MESSAGES), Hidden(QUERY_LINK, Scope.MESSAGES), Hidden(LIST_TOKEN),
        Hidden(QUERY, Scope.MESSAGES),
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        misplaced, keys = (OTHER_KEY, LINK, QUERY_LINK), ("targets", "labels", "group", "run", "team", "__x", "")
        groups = [Seed(json.dumps(each)) for each in _GROUPS]
        yaml_groups = [Seed(each) for each in _YAML_GROUPS]
        self._corpora = {
            "text": Corpus(
                [Seed(each) for each in _TEXT_LISTS], _ODD_LINES, (), tuple(each.secret for each in misplaced)
            ),
            "YAML": Corpus(yaml_groups, (*ODD_YAML, f"['{ID}']"), keys, _misplaced(*misplaced), quote=""),
            "JSON": Corpus(groups, (*ODD_JSON, f'["{ID}"]'), keys, tuple(_written(*misplaced))),
            "http": Corpus(groups, (*ODD_JSON, f'["{ID}"]'), keys, tuple(_written(*misplaced, LIST_TOKEN, QUERY))),
        }
        url = f"https://ids.example/operations?token={QUERY.secret}&page=1"
        self._source = HttpSource(url, bearer_token_file=KeySource(inline=Secret(LIST_TOKEN.secret)))

    def draw(self, rng: Random) -> Given:
        form = rng.choice(("text", "YAML", "JSON", "http"))
        given = self._corpora[form].draw(rng)
        return Given(form.encode() + b"\n" + given.content, given.exact)

    def run(self, content: bytes) -> Outcome:
        form, _, body = content.partition(b"\n")
        try:
            if form == b"http":
                listed = _parsed(Masking(LIST_TOKEN.secret).json(bytearray(body)), self._source, ("team",))
            elif form in (b"text", b"YAML", b"JSON"):
                listed = parse(body, Form(form.decode()), ("team",))
            else:
                return Outcome(("no form",))
        except BrokenList as error:
            return _told(error)
        return Outcome(shown=(repr(listed),))


TARGETS: tuple[type[Target], ...] = (Answers, Configurations, Registrations, IdFiles, WebConfigurations)
