"""Reads a package's source as it is written: its sizes, its names, and which module imports which."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    Graph = Mapping[str, Iterable[str]]

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Module:
    """One file; `name` is dotted, without the package's own name."""

    name: str
    text: str

    @property
    def lines(self) -> int:
        """How many lines it has, empty ones included."""
        return self.text.count("\n")

    @cached_property
    def tree(self) -> ast.Module:
        """What Python reads."""
        return ast.parse(self.text)

    def definitions(self) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
        """Return all classes, functions and methods."""
        nodes = _statements(self.tree, type_checking=True)
        return (node for node in nodes if isinstance(node, (ast.ClassDef, *FUNCTIONS)))


class Package:
    """The modules below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules = {
            name: Module(name, path.read_text(encoding="utf-8"))
            for path in sorted(folder.rglob("*.py"))
            if (name := ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"))
        }

    def imports(self, name: str, *, type_checking: bool = True) -> set[str]:
        """Return which modules of the package a module imports, with those for the type checker or without."""
        nodes = _statements(self.modules[name].tree, type_checking=type_checking)
        return {found for node in nodes for found in self._imported(node)} - {name}

    def graph(self, *, type_checking: bool = True) -> dict[str, set[str]]:
        """Return the imports of all modules."""
        return {name: self.imports(name, type_checking=type_checking) for name in self.modules}

    def _imported(self, node: ast.AST) -> Iterator[str]:
        """Return the modules that a statement imports: for `from package.a import b` a.b if there is one, else a."""
        names: Iterable[str] = ()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"line {node.lineno}: relative import")
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for each in names:
            root, _, inner = each.partition(".")
            if root == self.folder.name:
                found = inner if inner in self.modules else inner.rpartition(".")[0]
                if found in self.modules:
                    yield found


def _statements(tree: ast.AST, *, type_checking: bool) -> Iterator[ast.AST]:
    """Return the nodes of a tree but for expressions, those below `if TYPE_CHECKING` only if asked for."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):
            continue
        if not type_checking and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _statements(node, type_checking=type_checking)


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups in which each member reaches each other one, sorted."""
    reached = {name: _reached(graph, name) for name in graph}
    groups = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in graph}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def _reached(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = set(graph[waiting.pop()]) - found
        found |= fresh
        waiting += fresh
    return found


def longest_chain(graph: Graph) -> list[str]:
    """Return the longest chain of imports in which no module occurs twice."""
    circle = {name: frozenset(group) for group in circles(graph) for name in group}

    @cache
    def below(name: str, passed: frozenset[str]) -> tuple[str, ...]:
        """Return the longest chain from a module on; `passed` are those of its circle that are in the chain."""
        passed |= {name}
        chains = (
            below(other, passed if other in circle.get(name, ()) else frozenset())
            for other in sorted(graph[name])
            if other not in passed
        )
        return (name, *_longest(chains))

    return list(_longest(below(name, frozenset()) for name in sorted(graph)))


def _longest(chains: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return max(chains, key=len, default=())


def by_folder(graph: Graph) -> dict[str, set[str]]:
    """Return the imports between folders; a module at the top stands for itself."""
    found: dict[str, set[str]] = {}
    packages = {name.rpartition(".")[0] for name in graph}
    folder = {name: name if name in packages else name.rpartition(".")[0] or name for name in graph}
    for name, imported in graph.items():
        found.setdefault(folder[name], set()).update({folder[each] for each in imported} - {folder[name]})
    return found


def used_twice(package: Package) -> dict[str, list[str]]:
    """Return the class names that more than one class has, and where."""
    found: dict[str, list[str]] = {}
    for module in package.modules.values():
        for node in module.definitions():
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(module.name)
    return {name: places for name, places in sorted(found.items()) if len(places) > 1}
