"""Tells a knock-exporter which bulk operations this program starts with Knock's Python SDK.

    registrar = Registrar("http://127.0.0.1:10187", "production", "/run/secrets/knock-exporter-token", group="nightly")
    knock = Knock(http_client=DefaultHttpxClient(event_hooks={"response": [registrar.hook]}))

A hook of the SDK's HTTP client sees each response of Knock. A thread registers the operations, so the program never
waits for the exporter, and never fails because of it. Problems are logged.
Needs nothing but the SDK, which brings httpx.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

PAUSES = (0, 1, 2, 4, 8, 15)  # seconds before each attempt
MOST_WAITING = 1000
MOST_IN_REQUEST = 100
EXIT_SECONDS = 2  # how long the end of the program may wait for the last registrations

log = logging.getLogger("knock_registrar")


@contextlib.contextmanager
def _harmless(what: str) -> Iterator[None]:
    try:
        yield
    except Exception:  # whatever it is, it must not reach the program
        log.warning("%s could not be registered", what, exc_info=True)


def _given(**values: object) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


class Registrar:
    """Registers operations at the exporter at `url`, in `group` and its run `run` if they are given."""

    def __init__(
        self, url: str, environment: str, token_file: str | Path, *, group: str | None = None, run: str | None = None
    ) -> None:
        self._operations = f"{url}/api/v1/operations/{environment}"
        self._groups = f"{url}/api/v1/groups/{environment}"
        self._default = self._current = _given(group=group, run=run)  # sent with each operation
        self._token_file = Path(token_file)  # read for each request, so that tokens can be renewed
        self._waiting: queue.Queue[tuple[str, str, Any] | None] = queue.Queue(MOST_WAITING)
        self._ending = threading.Event()
        self._thread = threading.Thread()  # begins with the first operation, so after a fork
        self._starting = threading.Lock()
        atexit.register(self.close)

    def hook(self, response: httpx.Response) -> None:
        """Register what a response says was started; a response hook of httpx.Client."""
        if self._may_start_one(response):
            response.read()  # the SDK does the same next; what fails here fails there
            self._note(response)

    async def async_hook(self, response: httpx.Response) -> None:
        """Do the same for httpx.AsyncClient."""
        if self._may_start_one(response):
            await response.aread()
            self._note(response)

    @contextlib.contextmanager
    def run(
        self, group: str, operations: int | None = None, deadline: str | None = None, run: str | None = None
    ) -> Iterator[str]:
        """Open a run of the group. What is started inside belongs to it. Close it at the end, but not on an exception.

        A registrar has one run at a time, in all threads.
        """
        run = run or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        address = f"{self._groups}/{quote(group)}/runs/{quote(run)}"
        self._note_run(address, _given(operations=operations, deadline=deadline))
        self._current = {"group": group, "run": run}
        try:
            yield run
        finally:
            self._current = self._default
        self._note_run(address, {"closed": True})

    def close(self) -> None:
        """Wait up to two seconds for the last registrations; called at the end of the program, too."""
        self._ending.set()
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)  # wakes the thread
            self._thread.join(EXIT_SECONDS)

    @staticmethod
    def _may_start_one(response: httpx.Response) -> bool:
        request = response.request
        return response.is_success and request.method == "POST" and "/bulk/" in request.url.path

    def _note(self, response: httpx.Response) -> None:
        with _harmless("a bulk operation"):
            record = response.json()
            if "id" in record and "status" in record:
                known = {key: record.get(key) for key in ("id", "name", "status", "inserted_at")}
                self._send_later("POST", self._operations, known | self._current)

    def _note_run(self, address: str, document: dict[str, Any]) -> None:
        with _harmless("a run"):
            self._send_later("PUT", address, document)

    def _send_later(self, method: str, address: str, document: dict[str, Any]) -> None:
        self._waiting.put_nowait((method, address, document))
        with self._starting:
            if not self._thread.is_alive():
                self._thread = threading.Thread(target=self._send, name="knock-registrar", daemon=True)
                self._thread.start()

    def _send(self) -> None:
        with httpx.Client(timeout=10, trust_env=False) as exporter:
            while not (self._ending.is_set() and self._waiting.empty()):
                found = [self._waiting.get()]
                while len(found) < MOST_IN_REQUEST and not self._waiting.empty():
                    found.append(self._waiting.get())
                for (method, address), alike in itertools.groupby(filter(None, found), lambda each: each[:2]):
                    documents = [document for _, _, document in alike]
                    if method == "POST":
                        self._hand_over(exporter, method, address, documents)
                    else:
                        for each in documents:
                            self._hand_over(exporter, method, address, each)

    def _hand_over(self, exporter: httpx.Client, method: str, address: str, document: Any) -> None:
        problem = ""
        for pause in PAUSES:
            self._ending.wait(pause)
            try:
                headers = {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}
                answer = exporter.request(method, address, json=document, headers=headers)
                problem = f"HTTP {answer.status_code} {answer.text[:500]}"
                if answer.status_code == httpx.codes.OK and not answer.json().get("rejected"):
                    return
                if not answer.is_server_error and answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                    break
            except Exception as error:  # anything; its text may hold the token
                problem = type(error).__name__
        what = [record["id"] for record in document] if method == "POST" else address
        log.warning("not registered: %s: %s", what, problem)
