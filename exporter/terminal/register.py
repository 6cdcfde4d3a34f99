"""`knock-exporter register`: hands operations over to a running exporter, patiently while it restarts."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from exporter.errors import StartError
from exporter.registrations import LABEL_PREFIX, MAX_BODY_BYTES, MAX_IDS
from exporter.terminal.exporter_api import Connection, Retrying, bearer, objects, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from exporter.terminal.exporter_api import Attempt
    from exporter.terminal.standard_input import Item


@dataclass(frozen=True, slots=True)
class Target:
    """Where to register, and what is said of all operations."""

    url: str
    environment: str
    group: str | None = None
    labels: Sequence[tuple[str, str]] = ()
    again: bool = False
    run: str | None = None

    def address(self) -> str:
        """Return the URL to POST to."""
        pairs = [(LABEL_PREFIX + name, value) for name, value in dict(self.labels).items()]
        pairs += [("group", self.group)] if self.group else []
        pairs += [("run", self.run)] if self.run else []
        pairs += [("again", "true")] if self.again else []
        query = f"?{urlencode(pairs)}" if pairs else ""
        return f"{self.url}/api/v1/operations/{quote(self.environment, safe='')}{query}"


class Sender:
    """POSTs bodies to an exporter. Raises StartError for a token or certificates that cannot be read."""

    def __init__(self, target: Target, token_file: Path, environ: Mapping[str, str]) -> None:
        self._address = target.address()
        self._connection = Connection(target.url, bearer(token_file, environ), environ)

    def __call__(self, body: bytes) -> Attempt:
        """Send a body once."""
        return self._connection.send(self._address, "POST", body)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@dataclass(frozen=True, slots=True)
class RegistrarIO:
    """How a registrar reaches the world: `send` POSTs a body, `say` and `warn` write a line for people."""

    send: Callable[[bytes], Attempt]
    say: Callable[[str], None]
    warn: Callable[[str], None]
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic


class Registrar:
    """Sends items in requests that an exporter takes, and tells what became of each."""

    def __init__(self, url: str, outside: RegistrarIO) -> None:
        self._url, self._outside = url, outside
        self._patiently = Retrying(url, outside.warn, outside.sleep, outside.monotonic)
        self._rejected = 0
        self._durable = True

    def register(self, items: Sequence[Item]) -> bool:
        """Register all; return whether all were accepted. Raises StartError where it makes no sense to go on."""
        for batch in batches(items):
            self._report(batch, self._response([_encoded(each) for each in batch]))
        if not self._durable:
            self._outside.warn("not durable: what was registered is forgotten when the exporter restarts, unless its "
                               "configuration sets storage.path")  # fmt: skip
        return self._rejected == 0

    def _response(self, encoded: list[bytes]) -> Mapping[str, Any]:
        body = b"[" + b",".join(encoded) + b"]"
        attempt = self._patiently(lambda: self._outside.send(body))
        known = attempt.status in (HTTPStatus.OK, HTTPStatus.UNPROCESSABLE_ENTITY)
        if not known or not all(isinstance(attempt.document.get(each), list) for each in ("accepted", "rejected")):
            raise StartError(f"{self._url}: {attempt.problem}")
        return attempt.document

    def _report(self, batch: Sequence[Item], answer: Mapping[str, Any]) -> None:
        for each in objects(answer["accepted"]):
            self._outside.say(printable(f"{each.get('id')} {each.get('state')}"))
        for each in objects(answer["rejected"]):
            self._rejected += 1
            self._outside.warn(printable(f"{_name(each, batch)}: {each.get('reason')}"))
        if answer.get("durable") is False:
            self._durable = False


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield the items in lists that one request may hold."""
    batch: list[Item] = []
    size = 2
    for item in items:
        more = len(_encoded(item)) + 1
        if batch and (len(batch) == MAX_IDS or size + more > MAX_BODY_BYTES):
            yield batch
            batch, size = [], 2
        batch.append(item)
        size += more
    if batch:
        yield batch


def _encoded(item: Item) -> bytes:
    return json.dumps(item).encode()


def _name(rejected: dict[str, Any], batch: Sequence[Item]) -> str:
    if rejected.get("id"):
        return str(rejected["id"])
    number = rejected.get("item")
    known = isinstance(number, int) and 0 <= number < len(batch)
    return json.dumps(batch[number])[:100] if known and number is not None else "an item"
