"""Keys, tokens and passwords: marked ones through every fault, searched for in all that the exporter leaves behind."""

from __future__ import annotations

import itertools
import json
import re
import ssl
import time
from base64 import b64decode, b64encode
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import bcrypt
import pytest
import yaml
from chaos import Server, answering, http, serving
from click.testing import CliRunner
from markers import Marker, files_of, legible, marker
from programs import COMMAND, WEB, Exporter, until

from exporter.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import trustme
    from chaos import Handler

    Form = Callable[[str, str], bytes]  # of a secret and the id that was asked for

pytestmark = [pytest.mark.e2e, pytest.mark.command]

FILE_KEY = marker("Zq1fKv8wPd3Lx6Rt", "sk_test_{}")
NEXT_KEY = marker("Hv5xUb2yGk9sWn4J", "sk_live_{}")
VARIABLE_KEY = marker("Mw4bTz9cQn2Hy7Gs", "sk_test_{}")
INLINE_KEY = marker("Jr6kXd1mVb8Fp3Ce", "sk_test_{}")
ODD_KEY = marker("Tg7yNs5qBw0Zh9Lu")  # does not begin with sk_, of which the exporter only warns
TOKEN = marker("Ue2vRj7nKx4Wd9Ma", "{}-registers")
LIST_TOKEN = marker("Yc8hGf3zSp6Qk1Tb", "{}/lists+")
QUERY = marker("Lo5iPe0xDm7Vr2Nj")
PROXY_PASSWORD = marker("Bs9wHt4uFz1Yg6Xk", "p{}")
PASSWORD = marker("Kd3aQv6rJn8Eu5Cw", "pass {} word")
WRONG_TOKEN = marker("Wx1tZc7gMb5Od8Pi", "{}-wrong")
WRONG_PASSWORD = marker("Fn0jLy2eUk6Sh4Av", "{}-wrong")
API_KEYS = (FILE_KEY, NEXT_KEY, VARIABLE_KEY, INLINE_KEY, ODD_KEY)

LOGFMT = re.compile(r'(?:[a-z_]+=(?:"(?:[^"\\]|\\.)*"|[^" ]*) ?)+')
USER = "prometheus"
MOST_LISTS = 8  # which are much the same
HASH = bcrypt.hashpw(PASSWORD.secret.encode(), bcrypt.gensalt(4)).decode()
HASHES = (marker(HASH[-16:]), marker(HASH[7:23]))
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens
NO_NAME = "https://" + ".".join(["a" * 60] * 5)  # longer than names may be: it does not resolve, and nobody is asked


# Servers that send back what they were sent.


def sent(head: str) -> list[str]:
    """Return the secrets of a request: keys, tokens, passwords as they come and in plain, and what a query holds."""
    bearer = re.findall(r"(?mi)^authorization: bearer (.*?)\r?$", head)
    basic = re.findall(r"(?mi)^proxy-authorization: basic (.*?)\r?$", head)
    plain = [b64decode(each).decode().partition(":")[2] for each in basic]
    target = head.split(" ")[1] if " " in head else ""
    return [*bearer, *basic, *plain, *itertools.chain(*parse_qs(urlsplit(target).query).values())]


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(each):04x}" for each in text)


def record(operation_id: str, **fields: Any) -> str:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps(
        {
            "__typename": "BulkOperation",
            "id": operation_id,
            "name": "users.identify",
            "status": "processing",
            "estimated_total_rows": 10,
            "processed_rows": 1,
            "success_count": 1,
            "error_count": 0,
            "inserted_at": now,
            "updated_at": now,
        }
        | fields
    )


JSON = "Content-Type: application/json"
BOTH: tuple[Form, ...] = (
    lambda key, _: http(f'{{"code": "{key}", "type": "api_error", "message": "{key}"}}', 403, JSON),
    lambda key, _: http(f'{{"code": "{key}", "type": "{key}"}}', 500, f"X-Request-ID: {key}"),
    lambda key, _: http(key, 200, JSON, f"Set-Cookie: {key}", f"{key}: odd"),
    lambda key, _: http(key, 302, f"Location: http://{key}.invalid/{key}?{key}"),
    lambda key, _: f"HTTP/1.1 200 {key}\r\n{key}\r\nContent-Length: 3\r\n\r\n".encode(),
    lambda key, _: f"HTTP/1.1 {key}\r\n\r\n".encode(),
    lambda key, _: f"{key}\r\n\r\n".encode(),
    lambda key, _: http(f'{{"id": {key}', 200, JSON),
    lambda key, _: http(f'{{"{key}": "{key}"}}', 200, JSON, f"X-Request-ID: {key}"),
    lambda key, _: http(key, 200, JSON, f"Content-Encoding: {key}"),
    lambda key, _: http(key, 200, f"Content-Type: {key}", f"Transfer-Encoding: {key}"),
    lambda key, _: f"HTTP/1.1 200 OK\r\nX-Request-ID: {key}\r\nContent-Length: 99\r\n\r\n{key}".encode(),
    lambda key, _: f"HTTP/1.1 200 OK\r\nX-Request-ID: {key}\r\nContent-Length: {17 * 2**20}\r\n\r\n{key}".encode(),
    lambda key, _: f"HTTP/1.1 200 OK\r\nContent-Length: {key}\r\n\r\n{key}".encode(),
    lambda key, _: http("", 200, *(f"{key}-{number}: {key}" for number in range(150))),
)
OF_KNOCK: tuple[Form, ...] = (
    *BOTH,
    lambda key, _: http(json.dumps({"code": key, "type": key}), 404, f"X-Request-ID: {key}"),
    lambda key, _: http(json.dumps({"code": "a", "type": "b", "message": key}), 422),
    lambda key, _: http(json.dumps({"id": key, "status": key, "name": key})),
    lambda key, asked: http(record(asked, name=key)),
    lambda key, asked: http(record(asked, name=f"objects.{key}.set")),
    lambda key, asked: http(record(asked, name="NAME").replace("NAME", escaped(key))),
    lambda key, asked: http(record(asked, status=key)),
    lambda key, asked: http(record(asked, status=f"is {key}", completed_at="2026-11-01T00:00:00Z")),
    lambda key, asked: http(record(asked, processed_rows=key)),
    lambda key, asked: http(record(asked, inserted_at=key)),
    lambda key, asked: http(record(asked, error_items=[{"id": key, "collection": key}], error_count=1)),
)
LISTED = "0e1f2a3b-4c5d-4e6f-8a9b-0c1d2e3f"  # and four digits: those of the list


def listed(asked: str, labels: str) -> bytes:
    return http(f'[{{"targets": ["{LISTED}{asked}"], "labels": {labels}}}]', 200, JSON)


OF_BROKEN_LISTS: tuple[Form, ...] = (
    *BOTH,
    lambda key, _: http(key, 401, f"WWW-Authenticate: Bearer realm={key}"),
    lambda key, asked: listed(asked, f'{{"{key}": "x"}}'),
    lambda key, asked: listed(asked, f'{{"{escaped(key)}": "x"}}'),
    lambda key, asked: http(f'[{{"{key}": ["{LISTED}{asked}"]}}]', 200, JSON),
    lambda key, _: http(f'[{{"targets": ["{key}"]}}]', 200, JSON),
)
OF_LISTS: tuple[Form, ...] = (  # what names a group so may: a query often has one
    *OF_BROKEN_LISTS,
    lambda key, asked: listed(asked, f'{{"group": "{key}"}}'),
    lambda key, asked: listed(asked, f'{{"group": "{escaped(key)}"}}'),
    lambda key, asked: listed(asked, f'{{"team": "{key}"}}'),
    lambda key, asked: listed(asked, f'{{"run": "{key}"}}'),
)
LISTS = [(which, form) for which, forms in enumerate((OF_LISTS, OF_BROKEN_LISTS)) for form in range(len(forms))]


def echoing(forms: tuple[Form, ...]) -> Callable[[Server], Handler]:
    """Make a handler that sends a secret of each request back; the end of its path says which, and in which form."""

    def bind(server: Server) -> Handler:
        def handle(connection: Any) -> None:
            if head := server.request(connection).decode():
                path = urlsplit(head.split(" ")[1]).path
                number, secrets = int(path[-4:], 10), sent(head)
                secret, form = secrets[number // 100 % len(secrets)], forms[number % 100 % len(forms)]
                connection.sendall(form(secret, path.rpartition("/")[2]))

        return handle

    return bind


def always(form: Form) -> Callable[[Server], Handler]:
    return echoing((form,))


def ids(count: int, secrets: int = 1) -> list[str]:
    """Return an id for each form and each secret of a request."""
    return [f"123e4567-e89b-12d3-a456-42661417{which:02}{form:02}" for which in range(secrets) for form in range(count)]


REFUSED = always(lambda key, _: http(f'{{"code": "{key}", "type": "{key}"}}', 401, f"X-Request-ID: {key}"))
LIMITED = always(lambda key, _: http(key, 429, f"Retry-After: {key}", f"X-Request-ID: {key}"))
NO_TUNNEL = always(lambda key, _: f"HTTP/1.1 407 {key}\r\nX-{key}: {key}\r\nContent-Length: 99\r\n\r\n{key}".encode())


HIDDEN: tuple[Callable[[str], str], ...] = (
    str,
    repr,
    str.upper,
    escaped,
    lambda secret: secret[:10],
    lambda secret: secret[-10:],
    lambda secret: secret[::-1],
    lambda secret: secret.encode().hex(),
    lambda secret: "".join(f"%{ord(each):02X}" for each in secret),
    *(lambda secret, before=before: b64encode(f"{before}{secret}x".encode()).decode() for before in ("", "a", "me:")),
)


# The exporter with all of them, and those who ask it.


def basic(password: str, user: str = USER) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


@dataclass
class Scene:
    """Two lives of one exporter; `evidence` is all that was seen of it, by where that was."""

    folder: Path
    stack: ExitStack
    servers: dict[str, Server]
    evidence: dict[str, bytes] = field(default_factory=dict)
    texts: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    exporter: Exporter = field(init=False)
    url: str = ""

    def __post_init__(self) -> None:
        for name in ("secrets", "state", "tmp", "first", "second"):
            (self.folder / name).mkdir()
        for name, each in {
            "file.key": FILE_KEY,
            "register.token": TOKEN,
            "list.token": LIST_TOKEN,
            "password": PASSWORD,
            "wrong.token": WRONG_TOKEN,
            "wrong.password": WRONG_PASSWORD,
        }.items():
            self.write(name, each.secret)
        self.write("web.yaml", yaml.safe_dump({"basic_auth_users": {USER: HASH}}))
        self.write("config.yaml", self.configuration())

    def secret(self, name: str) -> Path:
        return self.folder / "secrets" / name

    def write(self, name: str, text: str) -> Path:
        """Write a file that may hold secrets."""
        path = self.secret(name)
        path.write_text(text)
        path.chmod(0o600)
        return path

    def configuration(self) -> str:
        """Write every kind of secret into a configuration, next to every kind of fault."""
        port = {name: server.port for name, server in self.servers.items()}
        proxy = f"http://me:{PROXY_PASSWORD.secret}@127.0.0.1"
        echo = f"http://127.0.0.1:{port['knock']}"
        key_file, inline = {"api_key_file": "file.key"}, {"api_key": INLINE_KEY.secret}
        one = {"operations": ids(1)}
        environments: dict[str, dict[str, Any]] = {
            "file": key_file | {"base_url": echo, "operations": ids(len(OF_KNOCK))},
            "odd": {"api_key": ODD_KEY.secret, "base_url": echo, "operations": ids(len(OF_KNOCK))},
            "variable": {
                "api_key_env": "MARKED_KEY",
                "base_url": NOWHERE,
                "proxy": f"{proxy}:{port['proxy']}",
                "operations": ids(len(OF_KNOCK), 3),
            },
            "tunnel": inline | one | {"base_url": "https://localhost:9", "proxy": f"{proxy}:{port['tunnel']}"},
            "secured": inline | one | {"base_url": f"https://localhost:{port['secured']}"},
            "refused": key_file | one | {"base_url": f"http://127.0.0.1:{port['refused']}"},
            "limited": key_file | one | {"base_url": f"http://127.0.0.1:{port['limited']}"},
            "down": inline
            | one
            | {
                "base_url": NOWHERE,
                "branch": "main",
                "timeout": "5s",
                "per_operation": "all",
                "proxy_from_environment": False,
                "operations_files": ["*.ids"],
                "groups": [{"name": "nightly", "every": "26h", "deadline": "3h"}],
                "polling": {"queued": "15s"},
            },
            "nameless": inline | one | {"base_url": NO_NAME, "proxy": f"{proxy}:9"},
            "unknown": inline | one | {"base_url": NO_NAME},
            "silent": inline | one | {"base_url": f"http://127.0.0.1:{port['silent']}"},
            "lists": key_file
            | {
                "base_url": echo,
                "operations_http": [
                    {
                        "url": f"http://127.0.0.1:{port['lists']}/{which:02}{form:02}?key={QUERY.secret}",
                        "bearer_token_file": "list.token",
                    }
                    for which, form in LISTS
                ],
            },
        }
        return yaml.safe_dump(
            {
                "environments": [{"name": name} | each for name, each in environments.items()],
                "rate_limit": 200,
                "labels": ["team"],
                "registration": {"tokens": [{"token_file": "register.token"}]},
                "storage": {"path": str(self.folder / "state" / "state.db")},
            },
            sort_keys=False,
        )

    @property
    def environ(self) -> dict[str, str]:
        return {"MARKED_KEY": VARIABLE_KEY.secret, "TMPDIR": str(self.folder / "tmp")}

    def begin(self, life: str, form: str) -> None:
        """Start the exporter, and wait until it answers."""
        args = [
            f"--config.file={self.secret('config.yaml')}",
            f"--web.config.file={self.secret('web.yaml')}",
            "--web.listen-address=127.0.0.1:0",
            "--web.enable-lifecycle",
            "--log.level=debug",
            f"--log.format={form}",
        ]
        self.exporter = Exporter(self.folder / life, args, self.environ, COMMAND)
        self.stack.callback(self.exporter.end)
        self.url = "http://" + self.exporter.said(r'address"?[=:] ?"?(127\.0\.0\.1:\d+)')[0]
        until(lambda: self.ask("GET", "/-/ready") == 200, "ready")

    def ask(self, method: str, path: str, *, kept: bool = True, **how: Any) -> int:
        """Send a request, with the password unless told otherwise; what is answered is evidence if `kept`."""
        headers = {"Authorization": basic(PASSWORD.secret)} | how.pop("headers", {})
        answer = WEB.request(method, self.url + path, headers=headers, timeout=30, allow_redirects=False, **how)
        if kept:
            content = f"{answer.status_code} {answer.headers}\n".encode() + answer.content
            self.evidence[f"{method} {path} {len(self.evidence)}"] = content
        return answer.status_code

    def polls(self) -> dict[str, float]:
        """Return how often each environment was polled."""
        self.ask("GET", "/metrics")
        text = self.evidence.popitem()[1].decode()
        found = re.findall(r'(?m)^knock_exporter_polls_total\{knock_environment="(\w+)".*\} (\S+)$', text)
        return {name: float(value) for name, value in found}

    def note_process(self) -> None:
        """Keep what everybody on the machine sees of the process, and its variables but the one that is a key."""
        process = Path(f"/proc/{self.exporter.process.pid}")
        self.evidence[f"cmdline {len(self.evidence)}"] = (process / "cmdline").read_bytes()
        variables = (process / "environ").read_bytes().split(b"\0")
        assert f"MARKED_KEY={VARIABLE_KEY.secret}".encode() in variables
        rest = [each for each in variables if not each.startswith(b"MARKED_KEY=")]
        self.evidence[f"environ {len(self.evidence)}"] = b"\0".join(rest)

    def command(self, *args: object, **environ: str) -> None:
        """Run a command in this process, whatever becomes of it."""
        done = CliRunner().invoke(main, [*map(str, args)], env=self.environ | environ)
        told = f"{done.output}\n{done.stderr}\n{done.exception!r}"
        self.evidence[f"{args[0]} {len(self.evidence)}"] = told.encode()


def look_everywhere(scene: Scene) -> None:
    """Ask for each page that is linked, each call that is described, and the metrics in both formats."""
    seen: set[str] = set()
    ahead = ["/", "/config", "/no/such", "/api/v1/openapi.json", "/api/v1/operations?limit=1000"]
    while ahead:
        path = ahead.pop()
        if path in seen or (path.startswith("/?") and sum(each.startswith("/?") for each in seen) >= MOST_LISTS):
            continue
        seen.add(path)
        scene.ask("GET", path)
        text = list(scene.evidence.values())[-1].decode()
        linked = re.findall(r'(?:href|src)="(/[^"]*)"', text) if "text/html" in text else []
        described = re.findall(r'"(/[^"{ ]*)":', text) if path.endswith("openapi.json") else []
        ahead += [each.replace("&amp;", "&") for each in (*linked, *described) if len(seen) + len(ahead) < 70]
    for accept in ("text/plain", "application/openmetrics-text"):
        scene.ask("GET", "/metrics", headers={"Accept": accept})


def tails(server: Server) -> set[tuple[str, str]]:
    """Return the ends of the paths that a server was asked for, each with the first secret of the request."""
    heads = [each.decode() for each in list(server.requests)]
    return {(urlsplit(head.split(" ")[1]).path[-4:], sent(head)[0]) for head in heads if sent(head)}


def all_met(scene: Scene) -> bool:
    """Whether each fault was met: each form sent to each environment, with each secret, and what has no server."""
    servers, polled = scene.servers, scene.polls()
    knock = {(f"{form:04}", each.secret) for form in range(len(OF_KNOCK)) for each in (FILE_KEY, ODD_KEY)}
    proxy = {(each[-4:], VARIABLE_KEY.secret) for each in ids(len(OF_KNOCK), 3)}
    lists = {(f"{which:02}{form:02}", LIST_TOKEN.secret) for which, form in LISTS}
    return (
        knock <= tails(servers["knock"])
        and proxy <= tails(servers["proxy"])
        and lists <= tails(servers["lists"])
        and all(servers[each].connections for each in ("tunnel", "secured", "refused", "limited", "silent"))
        and all(polled.get(each) for each in ("down", "nameless", "unknown", "secured", "tunnel"))
    )


def register(scene: Scene) -> None:
    """Send keys as ids, groups and labels, and tokens that are wrong or in the wrong place."""
    good, wrong = {"Authorization": f"Bearer {TOKEN.secret}"}, {"Authorization": f"Bearer {WRONG_TOKEN.secret}"}
    path = "/api/v1/operations/down"
    for number, key in enumerate(each.secret for each in (FILE_KEY, VARIABLE_KEY, INLINE_KEY)):
        new = f"{number}3456789-abcd-4cde-8f01-23456789abcd"
        for body in (
            [key, {"id": key}, {"id": new, key: key}],
            {"id": new, "group": key},
            {"id": new, "run": key},
            {"id": new, "labels": {"team": key}},
            {"id": new, "labels": {key: "x"}},
            json.loads(record(new, name=key, status="queued")),
        ):
            scene.ask("POST", path, json=body, headers=good)
        for text in (f'{{"id": {key}', f'"{key}', f"{new} {key}\n", key):
            scene.ask("POST", path, data=text, headers=good | {"Content-Type": "application/json"})
            scene.ask("POST", path, data=text, headers=good | {"Content-Type": "text/plain"})
        scene.ask("POST", f"{path}?group={key}", json=[new], headers=good)
        scene.ask("POST", f"{path}?{key}=x", json=[new], headers=good)
        scene.ask("POST", f"/api/v1/operations/{key}", json=[new], headers=good)
        scene.ask("DELETE", f"{path}/{key}", headers=good)
        scene.ask("PUT", f"/api/v1/groups/down/{key}/runs/{key}", json={key: key}, headers=good)
        scene.ask("GET", f"/api/v1/operations/{key}?id={key}&{key}={key}")
        scene.ask("GET", f"/?q={key}&group={key}&status={key}")
    for headers in (wrong, {"Authorization": TOKEN.secret}, {"Authorization": f"Basic {TOKEN.secret}"}):
        scene.ask("POST", path, json=[ids(1)[0]], headers=headers)
        scene.ask("GET", "/api/v1/operations", headers=headers)
    # What is sent back shows its sender what he sent: of these requests only the log counts.
    for each in (TOKEN, LIST_TOKEN, PASSWORD, WRONG_TOKEN, WRONG_PASSWORD, QUERY, ODD_KEY):
        scene.ask("GET", f"/{each.secret}?token={each.secret}", kept=False)
        scene.ask("POST", path, data=each.secret, headers=good, kept=False)
        scene.ask("DELETE", f"{path}/{each.secret}", headers=good, kept=False)
    for password in (WRONG_PASSWORD.secret, "", PASSWORD.secret[1:]):
        for user in (USER, PASSWORD.secret):
            scene.ask("GET", "/config", headers={"Authorization": basic(password, user)})


def spoil_keys(scene: Scene) -> None:
    """Spoil the files of secrets, and have the configuration loaded again each time."""
    for name, each in (("file.key", FILE_KEY), ("register.token", TOKEN), ("list.token", LIST_TOKEN)):
        path = scene.secret(name)
        whole = path.read_bytes()
        for content in (b"", b"%s\xff\x00", b"%s %s", b"'%s'", b"KEY=%s", b"${%s}", b"%s\x1b[2J", b"%s\n" * 200):
            path.write_bytes(content.replace(b"%s", each.secret.encode()))
            scene.ask("POST", "/-/reload")
        path.unlink()
        scene.ask("POST", "/-/reload")
        path.mkdir()
        scene.ask("POST", "/-/reload")
        path.rmdir()
        path.symlink_to(path)
        scene.ask("POST", "/-/reload")
        scene.ask("GET", "/config")
        path.unlink()
        path.write_bytes(whole)


LINE = re.compile(r"(?m)^([ -]*)(?:([a-z_]+):(?: |$))?(.*)$")  # indentation, key, value; without a key an item
SPOILT = ('"{}', "'{}", "*{}", "&{}", "!{} x", "{{{}", "[{}", "{}: {}", "\t{}", "@{}", "%{}", "{}\x07", "{} : {}: {}")


def mistakes(good: str) -> Iterator[str]:
    """Spoil each line that holds a secret in every way, and put each secret where every other value belongs."""
    lines: dict[str, re.Match[str]] = {}
    section = ""
    for line in LINE.finditer(good):
        section = section if line[3] else line[2]
        if line[3]:
            lines.setdefault(line[2] or f"item of {section}", line)
    key = next(each for each in LINE.finditer(good) if each[3] == INLINE_KEY.secret)
    for line in (key, lines["proxy"], lines["url"]):
        before, name, value = line.groups()
        assert name
        for spoilt in (*(f"{name}: {each.format(*[value] * 3)}" for each in SPOILT), f"{value}: x", f"{name} {value}"):
            yield good[: line.start()] + before + spoilt + good[line.end() :]
        for other in lines.values():
            yield good[: other.start(3)] + value + good[other.end(3) :]
    for name in ("token_file", "bearer_token_file"):
        yield good[: lines[name].start(3)] + TOKEN.secret + good[lines[name].end(3) :]


def configure_wrongly(scene: Scene) -> None:
    good = scene.secret("config.yaml").read_text()
    short = yaml.safe_load(good)
    for each in short["environments"]:
        each |= {name: each[name][:1] for name in ("operations", "operations_http") if name in each}
    for text in mistakes(yaml.safe_dump(short, sort_keys=False)):
        scene.command("check-config", scene.write("mistake.yaml", text), "--print")
    for text in itertools.islice(mistakes(good), 0, None, 12):
        scene.write("config.yaml", text)
        scene.ask("POST", "/-/reload")
        scene.ask("GET", "/config")
    scene.write("config.yaml", good)
    scene.command("check-config", scene.secret("config.yaml"), "--print", "--probe")


def run_commands(scene: Scene) -> None:
    """Run what people run, with the right secrets and with wrong ones."""
    config = f"--config.file={scene.secret('config.yaml')}"
    for operation_id in ids(len(OF_KNOCK)):
        scene.command("get", operation_id, config, "--environment=file", "--error-items", "-o", "json")
        scene.command("get", operation_id, config, "--environment=odd", "--error-items")
    for operation_id in ids(len(OF_KNOCK), 3)[len(OF_KNOCK) :]:
        scene.command("get", operation_id, config, "--environment=variable", "-o", "metrics")
    for name in ("tunnel", "secured", "refused", "limited", "down", "nameless", "unknown"):
        scene.command("get", ids(1)[0], config, f"--environment={name}")
    scene.command("get", ids(1)[0], KNOCK_API_KEY=VARIABLE_KEY.secret, KNOCK_BASE_URL=NOWHERE)
    scene.command("errors", *ids(len(OF_KNOCK)), config, "--environment=refused")
    scene.command("watch", ids(1)[0], config, "--environment=refused")
    gateway = f"--push-gateway=http://me:{PROXY_PASSWORD.secret}@127.0.0.1:9"
    scene.command("watch", ids(1)[0], f"--url={scene.url}", "--environment=refused", "--timeout=100ms", gateway)
    asked = [f"--url={scene.url}", f"--username={USER}"]
    for name in ("password", "wrong.password", "no.password"):
        scene.command("list", *asked, f"--password-file={scene.secret(name)}")
        scene.command("list", *asked, f"--password-file={scene.secret(name)}", "-o", "json")
        scene.command("group", "list", *asked, f"--password-file={scene.secret(name)}")
    for name in ("register.token", "wrong.token", "no.token"):
        to = f"--url={scene.url}", f"--token-file={scene.secret(name)}"
        scene.command("register", ids(1)[0], *to, "--environment=down")
        scene.command("forget", ids(1)[0], *to, "--environment=down")
    scene.command("check-web-config", scene.secret("web.yaml"))


def damage(path: Path) -> None:
    """Write over all but the first page of a state file."""
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Scene]:
    """Live through everything, twice."""
    handlers = {
        "knock": echoing(OF_KNOCK),
        "proxy": echoing(OF_KNOCK),
        "lists": echoing(OF_LISTS),
        "tunnel": NO_TUNNEL,
        "refused": REFUSED,
        "limited": LIMITED,
        "silent": answering(b""),
    }
    with ExitStack() as stack:
        servers = {name: stack.enter_context(serving(handler)) for name, handler in handlers.items()}
        servers["secured"] = stack.enter_context(serving(REFUSED, tls_of(authority)))
        scene = Scene(tmp_path_factory.mktemp("secrets"), stack, servers)
        live(scene)
        yield scene


def tls_of(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


def live(scene: Scene) -> None:
    scene.begin("first", "logfmt")
    state = scene.folder / "state" / "state.db"
    until(lambda: all_met(scene), "all faults were met")
    register(scene)
    look_everywhere(scene)
    spoil_keys(scene)
    scene.write("file.key", NEXT_KEY.secret)
    scene.ask("POST", "/-/reload")
    configure_wrongly(scene)
    look_everywhere(scene)
    scene.note_process()
    scene.exporter.kill()
    scene.command("state", "export", f"--storage.path={state}")
    scene.evidence["the export"] = scene.evidence.popitem()[1]
    scene.command("state", "check", f"--storage.path={state}")
    damage(state)
    scene.command("state", "check", f"--storage.path={state}")
    scene.begin("second", "json")
    until(lambda: any(key == NEXT_KEY.secret for _, key in tails(scene.servers["knock"])), "the next key is used")
    run_commands(scene)
    look_everywhere(scene)
    scene.note_process()
    scene.exporter.signal()
    assert scene.exporter.wait() == 0
    scene.evidence |= files_of(scene.folder, scene.folder / "secrets")
    scene.texts = {place: legible(content) for place, content in scene.evidence.items()}


# What they leave behind.

STATE = {"state/state.db", "the export"}  # which have the whole URLs of lists, so that these are known again


def shown_in(scene: Scene, *markers: Marker) -> set[str]:
    return {place for place, texts in scene.texts.items() if any(each.is_in(texts) for each in markers)}


def received(scene: Scene, name: str, form: str) -> bool:
    return any(form.encode() in request for request in scene.servers[name].requests)


@pytest.mark.parametrize("hide", HIDDEN)
def test_the_search_finds_a_secret_in_any_form(hide: Callable[[str], str]) -> None:
    assert PROXY_PASSWORD.is_in(legible(f"x {hide(PROXY_PASSWORD.secret)} y".encode()))
    assert not PROXY_PASSWORD.is_in(legible(f"x {hide(PASSWORD.secret)} y".encode()))


def test_all_that_is_left_was_searched(scene: Scene) -> None:
    places = {re.sub(r"-\d{8}T\d{6}Z| \d+$", "", each) for each in scene.texts}
    assert places >= {
        *("first/exporter.log", "second/exporter.log", "tmp", "cmdline", "environ", *STATE),
        *("state/state.db.corrupt", "state/state.db.corrupt-wal", "state/state.db.lock"),
        *("GET /", "GET /config", "GET /metrics", "GET /api/v1/openapi.json", "GET /api/v1/environments"),
        *("GET /api/v1/groups", "GET /no/such", "POST /-/reload", "POST /api/v1/operations/down"),
        *("get", "errors", "watch", "list", "group", "register", "forget", "check-config", "check-web-config"),
    }
    assert sum("/operations/" in each for each in places) > 20
    assert [each for each in places if each.startswith("tmp/")] == []
    assert b" level=debug " in scene.evidence["first/exporter.log"]
    assert b'"level": "debug"' in scene.evidence["second/exporter.log"]


def test_each_line_of_the_log_can_be_parsed(scene: Scene) -> None:
    logfmt, in_json = ((scene.folder / life / "exporter.log").read_text().splitlines() for life in ("first", "second"))
    assert min(len(logfmt), len(in_json)) > 100
    assert [line for line in logfmt if not LOGFMT.fullmatch(line)] == []
    assert all(json.loads(line).keys() >= {"ts", "level", "event"} for line in in_json)


def test_no_api_key_gets_out(scene: Scene) -> None:
    assert all(received(scene, "knock", each.secret) for each in (FILE_KEY, NEXT_KEY, ODD_KEY))
    assert received(scene, "proxy", VARIABLE_KEY.secret)
    assert shown_in(scene, FILE_KEY, NEXT_KEY, VARIABLE_KEY, INLINE_KEY, ODD_KEY) == set()


def test_no_registration_token_gets_out(scene: Scene) -> None:
    answered = [content.split()[0] for place, content in scene.evidence.items() if place.startswith("POST /api/")]
    assert {b"200", b"401"} <= set(answered)
    assert shown_in(scene, TOKEN, WRONG_TOKEN) == set()


def test_no_token_of_a_list_gets_out(scene: Scene) -> None:
    assert received(scene, "lists", f"Bearer {LIST_TOKEN.secret}")
    assert shown_in(scene, LIST_TOKEN) == set()


def test_no_query_of_a_list_gets_out_but_into_the_state(scene: Scene) -> None:
    assert received(scene, "lists", f"?key={QUERY.secret}")
    shown = shown_in(scene, QUERY)
    assert shown >= STATE
    assert {re.sub(r"\.corrupt-.*|-wal", "", each) for each in shown} == STATE


def test_no_password_of_a_proxy_gets_out(scene: Scene) -> None:
    login = b64encode(f"me:{PROXY_PASSWORD.secret}".encode()).decode()
    assert received(scene, "proxy", f"Proxy-Authorization: Basic {login}")
    assert received(scene, "tunnel", f"Proxy-Authorization: Basic {login}")
    assert shown_in(scene, PROXY_PASSWORD) == set()


def test_no_password_of_the_port_gets_out(scene: Scene) -> None:
    assert {scene.evidence[each].split()[0] for each in scene.evidence if each.startswith("GET /config")} == {
        b"200",
        b"401",
    }
    assert shown_in(scene, PASSWORD, WRONG_PASSWORD, *HASHES) == set()
