"""The figures of `make figures`, counted where they are known: in a package, objects and calls made for it."""

from __future__ import annotations

import gc
import socket
import sys
import uuid
from collections import Counter
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING

import figures
import live
import pytest
from source import Package, by_folder, circles, longest_chain, used_twice
from words import own_words, phrases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILES = {
    "__init__.py": "",
    "top.py": "from made.middle import Lane\n\n\nclass Other(Lane):\n    def ask(self):\n        import made.low\n",
    "middle.py": "from made import low\n\n\nclass Lane:\n    pass\n",
    "low.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from made.a.one import Lane\n",
    "a/__init__.py": "",
    "a/one.py": "from made.b.two import said\n\n\nclass Lane:\n    pass\n",
    "b/__init__.py": "from made.a import one\n",
    "b/two.py": "from made.b import three\n\n\ndef said():\n    return 'whoever: this is no UUID; there is no other'\n",
    "b/three.py": "from made.b import two\n\n\nasync def task():\n    '''Begin anew.'''\n",
}
RUNNING, WAITING, ENDED = (str(uuid.UUID(int=number << 99)) for number in (1, 2, 3))


@pytest.fixture
def made(tmp_path: Path) -> Package:
    for name, text in FILES.items():
        path = tmp_path / "made" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return Package(tmp_path / "made")


def test_sizes(made: Package) -> None:
    assert [each.today for each in figures.size_figures(made)] == [31, 9, 3, 3, 6]


def test_chains_circles_and_doubled_names(made: Package) -> None:
    at_run_time, graph = made.graph(type_checking=False), made.graph()
    assert longest_chain(at_run_time) == ["b", "a.one", "b.two", "b.three"]
    assert longest_chain(graph) == ["top", "middle", "low", "a.one", "b.two", "b.three"]
    assert circles(graph) == [["b.three", "b.two"]]
    assert circles(by_folder(graph)) == [["a", "b"]]
    assert used_twice(made) == {"Lane": ["a.one", "middle"]}
    assert [each.today for each in figures.import_figures(made)] == [4, 6, 1, 1, 1]


def test_a_chain_passes_a_circle_once() -> None:
    graph = {"start": ["x"], "x": ["y", "end"], "y": ["z"], "z": ["x", "end"], "end": []}
    assert longest_chain(graph) == ["start", "x", "y", "z", "end"]


def test_words_and_phrases(made: Package) -> None:
    words, found = own_words(made), phrases(made.folder)
    assert words == {"ask": ["top: ask"], "lane": ["a.one: Lane", "middle: Lane"], "said": ["b.two: said"]}
    assert {phrase: files for phrase, files in found.items() if files} == {
        "anew": {"b/three.py": 1},
        "whoever": {"b/two.py": 1},
        "is no X": {"b/two.py": 1},
    }
    assert [each.today for each in figures.word_figures(words, found)] == [3, 1, 0, 1, 0, 0, 0, 1, 0]


def test_tests(tmp_path: Path) -> None:
    (tmp_path / "testdata").mkdir()
    (tmp_path / "testdata" / "one.yaml").touch()
    text = "@pytest.fixture\ndef clone(): ...\ndef steps(): ...\ndef test_it():\n    def inner(): ...\n"
    (tmp_path / "test_it.py").write_text(text)
    assert [each.today for each in figures.suite_figures(tmp_path)] == [5, 1, 1]


class Book(SimpleNamespace):
    """Stands for a class of the exporter."""


Book.__module__ = "exporter.made"


@pytest.fixture
def _nothing_else() -> Iterator[None]:
    """Hide what tests before have left in this process."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_nothing_else")
def test_containers_that_hold_an_operation() -> None:
    waits = {uuid.UUID(ENDED)}
    book = Book(
        records={("production", RUNNING): 1, ("production", ENDED): 2},
        due=[(0.5, uuid.UUID(RUNNING).bytes)],
        lists={"files": {RUNNING}, "api": {WAITING}},
        shown=(Book(line=f'id="{RUNNING}"'), Book(line=f'id="{WAITING}"')),
        of_several=[Book(first=RUNNING, last=ENDED)],
        reply=lambda: waits,
        environments={"production": 1, "staging": 2},
        production={"production": 1},
    )
    objects = live.Objects([RUNNING, WAITING, ENDED])
    assert objects.holding(RUNNING) == Counter(["Book.due", "Book.lists[]", "Book.records", "Book.shown"])
    assert objects.holding(ENDED) == Counter(["Book.records", "Book.reply"])
    assert [each for each in objects.by_environment() if each.startswith("Book.")] == ["Book.environments"]
    assert book.shown


def in_module(name: str, function: Callable[..., object]) -> Callable[..., object]:
    """Return a function as if a module of the exporter had it."""
    return FunctionType(function.__code__, {"__name__": f"exporter.{name}"}, closure=function.__closure__)


def traced(tracer: live.Tracer, call: Callable[[], object]) -> None:
    sys.setprofile(tracer)
    try:
        call()
    finally:
        sys.setprofile(None)


def test_the_way_of_an_answer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"answer")
        read = in_module("net", lambda: ours.recv_into(bytearray(9)))
        write = in_module("store", lambda: None)
        tracer = live.Tracer()
        tracer.begin()
        traced(tracer, in_module("knock", lambda: [write(), read(), write(), write()]))
    assert {each.module: times for each, times in tracer.end().items()} == {"net": 1, "knock": 1, "store": 2}


def test_what_serves_the_port_is_not_part_of_the_way() -> None:
    write = in_module("store", lambda: None)
    tracer = live.Tracer()
    tracer.begin_now()
    traced(tracer, in_module("web.app", lambda: [write()]))
    assert not tracer.end()


def test_who_sees_the_time_out() -> None:
    keep = in_module("knock", lambda _seconds: None)
    connect = in_module("connect", lambda settings: keep(settings["knock"]["timeout"]))
    tracer, settings = live.Tracer(), {"knock": {"timeout": live.TIMEOUT}}
    traced(tracer, in_module("daemon", lambda: connect(settings)))
    assert tracer.see_timeout == {"knock", "connect"}


def test_what_most_looks_found_counts() -> None:
    whole = Counter({"knock": 2, "store": 0, "clock": 1})
    assert live.usual([whole, Counter({"knock": 1}), Counter({**whole, "late": 3})]) == whole


def test_what_was_found_in_exporters_is_counted() -> None:
    memory = figures.Live(way=["a", "b"], entered_again=["a"], timeout=[], running=[], ended=[], by_environment=[])
    store = figures.Live(
        way=["a", "b", "c"],
        entered_again=[],
        timeout=["config"],
        running=["Book.lists[]", "Book.lists[]", "Book.due"],
        ended=["Book.lists[]", "Book.left"],
        by_environment=["Book.one", "Book.other", "Daemon.one"],
    )
    assert [each.today for each in figures.live_figures(memory, store)] == [2, 1, 3, 0, 4, 3, 1]
