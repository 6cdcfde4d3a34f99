"""Stands for an exporter: keeps what programs register or say of a run, and answers, or not, as it is told."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATIENCE = 20.0
RECIPES = Path(__file__).parents[2] / "docs" / "recipes"


def recipe(name: str) -> str:
    """Return a file of the recipes."""
    return (RECIPES / name).read_text(encoding="utf-8")


def usage(language: str) -> list[str]:
    """Return the code blocks in a language of the document that explains the recipes."""
    document = RECIPES.with_suffix(".md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Posted:
    """One registration, or what was said of a run, as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    items: list[dict[str, Any]]


class Recorder:
    """Listens on a loopback port. While `gate` is shut, requests are read and not answered."""

    def __init__(self) -> None:
        self.statuses: list[int] = []  # of the next answers; 200 after them
        self.gate = threading.Event()
        self.gate.set()
        self._posts: SimpleQueue[Posted] = SimpleQueue()
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def _take(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                items = document if isinstance(document, list) else [document]
                recorder._posts.put(Posted(self.command, self.path, dict(self.headers), items))
                recorder.gate.wait(PATIENCE)
                status = recorder.statuses.pop(0) if recorder.statuses else 200
                body = json.dumps({"accepted": [], "rejected": [], "durable": True}).encode()
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            do_POST = do_PUT = _take  # noqa: N815 - the base class's names

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def next(self) -> Posted:
        """Wait for the next registration."""
        return self._posts.get(timeout=PATIENCE)

    def next_items(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many operations were registered since the last look, in however many requests."""
        items: list[dict[str, Any]] = []
        while len(items) < count:
            items += self.next().items
        return items

    def nothing_more(self) -> bool:
        """Whether nothing has come in since the last look."""
        with contextlib.suppress(Empty):
            self._posts.get_nowait()
            return False
        return True

    @contextlib.contextmanager
    def running(self) -> Iterator[Recorder]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.gate.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()
