"""Runs the exporter in this process and writes, as JSON, what can be told of it only while it runs.

figures.py starts it as `live.py URL RUNNING WAITING ENDED [STATE_FILE]` (ids of operations), in a folder of its own. It
uses the exporter as its users do, by configuration, port and signal, and names nothing of its inside but `web`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
import time
import types
import urllib.request
import uuid
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Found = TypeVar("Found")

ENVIRONMENTS = ("production", "staging")
TOKEN = "0123456789abcdef"  # noqa: S105 - good for this process alone
TIMEOUT, TIMEOUT_TEXT = 7.654, "7654ms"  # which nothing else is
ANSWERS = 3  # that are followed
WAIT_SECONDS = 20.0
LOOK_SECONDS = 0.01
IDLE_SECONDS = 1.1  # a step of each clock; less than from one answer to the next
MUTABLE = (dict, list, set, deque)
PLAIN = (str, bytes, bytearray, int, float, type(None), type, types.ModuleType, types.CodeType, types.FrameType)
DEPTH = 4  # from an element of a container to the id


class Function(NamedTuple):
    """A function of the exporter."""

    module: str = ""
    name: str = ""


class Tracer:
    """What Python calls at each call and return, in all threads.

    A window holds what was called in it, by thread: functions, how often each was called by another module.
    """

    def __init__(self) -> None:
        self.starting = True  # then it is noted which modules see the time-out
        self.see_timeout: set[str] = set()
        self.received = False  # an answer, since `begin_now`
        self._waits = False  # for an answer
        self._window: dict[int, Counter[Function]] | None = None

    def __call__(self, frame: types.FrameType, event: str, arg: Any) -> None:
        """Note what a frame does."""
        if event == "c_return":
            if (self._waits or self._window is not None) and arg.__name__ == "recv_into":
                self._receive([_function(each) for each in _stack(frame)])
            return
        if event not in ("call", "return") or not _is_exporter(frame):
            return
        function, caller = _function(frame), next(map(_function, _stack(frame.f_back)), Function())
        if self.starting and any(map(_holds_timeout, [*frame.f_locals.values(), arg])):
            passes_it = event == "call" or _holds_timeout(arg)
            self.see_timeout |= {function.module} | ({caller.module} - {""} if passes_it else set())
        if event == "call" and (window := self._window) is not None:
            window.setdefault(threading.get_ident(), Counter())[function] += caller.module != function.module

    def _receive(self, callers: list[Function]) -> None:
        self.received |= bool(callers)
        if self._waits and callers:
            self._waits, self._window = False, {threading.get_ident(): Counter(callers)}

    def begin(self) -> None:
        """Begin a window where a socket gives the next bytes to a caller in the exporter: an answer of Knock."""
        self._waits = True

    def begin_now(self) -> None:
        """Begin a window."""
        self.received, self._window = False, {}

    def end(self) -> Counter[Function]:
        """End a window and return what it holds, without the threads that serve the port."""
        threads, self._window, self._waits = (self._window or {}).values(), None, False
        found: Counter[Function] = Counter()
        for functions in threads:
            if not any(each.module.startswith("web.") for each in functions):
                found.update(functions)
        return found


def _is_exporter(frame: types.FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("exporter.")


def _function(frame: types.FrameType) -> Function:
    return Function(frame.f_globals["__name__"].partition(".")[2], frame.f_code.co_qualname)


def _stack(frame: types.FrameType | None) -> Iterator[types.FrameType]:
    """Return the exporter's frames, from this one upwards."""
    while frame is not None:
        if _is_exporter(frame):
            yield frame
        frame = frame.f_back


def _holds_timeout(value: object, depth: int = 1) -> bool:
    if isinstance(value, (float, str)):
        return value in (TIMEOUT, TIMEOUT_TEXT)
    if depth and type(value) in (tuple, list, dict):
        return any(_holds_timeout(each, depth - 1) for each in _elements(value))
    return False


class Objects:
    """All that the exporter's objects lead to, each with a path from one of its classes: `Tracker._environments`."""

    def __init__(self, operations: Iterable[str]) -> None:
        self._operations = {each: uuid.UUID(each) for each in operations}
        self._paths: dict[int, str] = {}
        self._found: list[object] = []
        ours = sorted((each for each in gc.get_objects() if _is_ours(each)), key=lambda each: type(each).__name__)
        waiting = deque((each, type(each).__name__) for each in ours)
        while waiting:
            found, path = waiting.popleft()
            if id(found) in self._paths or isinstance(found, PLAIN):
                continue
            self._paths[id(found)] = path
            self._found.append(found)
            waiting.extend((value, f"{type(found).__name__}.{name}") for name, value in _attributes(found))
            waiting.extend((each, f"{path}[]") for each in _elements(found))
            waiting.extend((each, path) for each in _inside(found))

    def holding(self, operation: str) -> Counter[str]:
        """Return the containers that hold something about an operation, and nothing about another in the same place."""
        return Counter(self._paths[id(each)] for each in self._found if self._holds(each, operation))

    def _holds(self, container: object, operation: str) -> bool:
        if isinstance(container, MUTABLE):
            return any(self._about(each) == {operation} for each in _elements(container))
        if type(container) in (tuple, frozenset):
            about = [self._about(each) for each in _elements(container)]
            return {operation} in about and any(len(each) == 1 and each != {operation} for each in about)
        return False

    def _about(self, value: object, depth: int = DEPTH) -> set[str]:
        """Return the operations that a value names, itself or in what it is made of."""
        if isinstance(value, (str, bytes, int, uuid.UUID)):
            return {each for each, known in self._operations.items() if _names(value, known)}
        if depth and (isinstance(value, tuple) or _is_ours(value)) and not isinstance(value, MUTABLE):
            parts = [*_elements(value), *(each for _, each in _attributes(value))]
            return set().union(*(self._about(each, depth - 1) for each in parts))
        return set()

    def by_environment(self) -> Counter[str]:
        """Return the dicts with the environments' names as keys, each once, by an attribute that holds it."""
        dicts = [each for each in self._found if isinstance(each, dict) and set(each) == set(ENVIRONMENTS)]
        return Counter({self._paths[id(each)] for each in dicts})


def _names(value: str | bytes | int | uuid.UUID, known: uuid.UUID) -> bool:
    if isinstance(value, str):
        return str(known) in value or known.hex in value
    if isinstance(value, bytes):
        return known.bytes in value or str(known).encode() in value
    return value in (known, known.int)


def _is_ours(value: object) -> bool:
    return str(type(value).__module__).startswith("exporter.") and not isinstance(value, type)


def _attributes(value: object) -> list[tuple[str, object]]:
    slots = [name for each in type(value).__mro__ for name in _names_of(each.__dict__.get("__slots__", ()))]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return [*(found | getattr(value, "__dict__", {})).items()] if _is_ours(value) else []


def _names_of(slots: str | Iterable[str]) -> Iterable[str]:
    return [slots] if isinstance(slots, str) else slots


def _elements(value: object) -> list[object]:
    if isinstance(value, dict):
        return [*dict.keys(value), *dict.values(value)]
    return list(value) if isinstance(value, (tuple, list, set, frozenset, deque)) else []


def _inside(value: object) -> list[object]:
    """Return what a function or an object that is not the exporter's leads to."""
    if isinstance(value, types.FunctionType):
        return [each.cell_contents for each in value.__closure__ or ()]
    if _is_ours(value) or isinstance(value, (*MUTABLE, tuple, frozenset)):
        return []
    return [each for each in gc.get_referents(value) if each is not vars(sys.modules["builtins"])]


def usual(found: Sequence[Counter[Found]]) -> Counter[Found]:
    """Return what most of the looks found, as often as it mostly was."""
    times = {each: sorted(look.get(each, -1) for look in found)[len(found) // 2] for each in set[Found]().union(*found)}
    return Counter({each: count for each, count in times.items() if count >= 0})


class Driver:
    """Uses the exporter as programs do, and looks at it where it stands still."""

    def __init__(self, tracer: Tracer, operations: list[str], port: int) -> None:
        self._tracer = tracer
        self._running, self._waiting, self._ended = operations
        self._url = f"http://127.0.0.1:{port}"

    def run(self) -> dict[str, list[str]]:
        """Return what was found."""
        self._until(lambda: self._get("/-/ready"))
        body = json.dumps([self._running, self._waiting, self._ended]).encode()
        self._get(f"/api/v1/operations/{ENVIRONMENTS[0]}", body)
        self._until(lambda: self._rows(self._running) and self._rows(self._ended))
        self._get("/config")
        self._tracer.starting = False
        ways: list[Counter[Function]] = []
        idle: set[Function] = set()
        looks: list[dict[str, Counter[str]]] = []
        while len(ways) < ANSWERS:
            ways += filter(None, [self._way()])  # empty: the answer came before it was waited for
            idle |= self._idle()
            looks.append(self._see())
        way: Counter[str] = Counter()
        for function, times in usual(ways).items():
            if function not in idle:
                way[function.module] += times
        return {
            "way": sorted(way),
            "entered_again": sorted(module for module, times in way.items() if times > 1),
            "timeout": sorted(self._tracer.see_timeout),
            **{name: sorted(usual([each[name] for each in looks]).elements()) for name in looks[0]},
        }

    def _see(self) -> dict[str, Counter[str]]:
        objects = Objects([self._running, self._waiting, self._ended])
        return {
            "running": objects.holding(self._running),
            "ended": objects.holding(self._ended),
            "by_environment": objects.by_environment(),
        }

    def _way(self) -> Counter[Function]:
        """Return what is called from when an answer comes in until it is shown."""
        rows = self._rows(self._running)
        self._tracer.begin()
        self._until(lambda: self._rows(self._running) != rows)
        return self._tracer.end()

    def _idle(self) -> set[Function]:
        """Return what is called while no answer comes in: steps of the clock; empty where one came."""
        self._tracer.begin_now()
        time.sleep(IDLE_SECONDS)
        return set(self._tracer.end()) if not self._tracer.received else set()

    def _rows(self, operation: str) -> str:
        lines = self._get("/metrics").splitlines()
        name = "knock_bulk_operation_rows_processed{"
        return next((each.split()[-1] for each in lines if each.startswith(name) and operation in each), "")

    def _get(self, path: str, body: bytes | None = None) -> str:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, body, headers)  # noqa: S310 - its own port
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:  # noqa: S310 - the same
            return str(answer.read(), "utf-8") or "empty"

    def _until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            try:
                if holds():
                    return
            except OSError:  # it does not listen yet, or is not ready
                pass
            time.sleep(LOOK_SECONDS)
        raise TimeoutError(f"nothing came within {WAIT_SECONDS:.0f} s")


def _configure(url: str, operations: list[str], state: list[str]) -> None:
    Path("knock.key").write_text("sk_test_figures", encoding="utf-8")
    Path("register.token").write_text(TOKEN, encoding="utf-8")
    Path("ids.json").write_text(json.dumps([{"targets": operations}]), encoding="utf-8")
    shared = {"api_key_file": "knock.key", "base_url": url}
    listed = {"operations": operations[:2], "operations_files": ["ids.json"]}
    config = {
        "environments": [{"name": ENVIRONMENTS[0]} | shared | listed, {"name": ENVIRONMENTS[1]} | shared],
        "timeout": TIMEOUT_TEXT,
        "polling": {"processing": "2s"},
        "registration": {"tokens": [{"token_file": "register.token"}]},
    } | ({"storage": {"path": state[0]}} if state else {})
    Path("config.yaml").write_text(json.dumps(config), encoding="utf-8")


def main() -> None:
    """Start the exporter in this thread, which is where signals come, and the driver in another."""
    url, *operations = sys.argv[1:5]
    _configure(url, operations, sys.argv[5:])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tracer = Tracer()

    def drive() -> None:
        sys.setprofile(None)
        try:
            print(json.dumps(Driver(tracer, operations, port).run()), flush=True)  # noqa: T201 - for figures.py
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=drive, daemon=True).start()
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    sys.argv[1:] = ["--config.file=config.yaml", f"--web.listen-address=127.0.0.1:{port}"]
    from exporter.__main__ import main as exporter  # noqa: PLC0415 - how it is imported is looked at, too

    exporter()


if __name__ == "__main__":
    main()
