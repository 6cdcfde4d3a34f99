"""The changes that mutation testing makes: one at a time, each of which a test should notice."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Nothing runs by them, or nothing but a type checker and a person notice.
SKIPPED = {"annotation", "returns", "decorator_list", "type_comment", "type_params"}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a tree: its kind, where, and what makes it, in place."""

    kind: str
    node: ast.expr | ast.stmt
    statement: int  # the line on which its statement begins
    make: Callable[[], None]


def changes(tree: ast.AST, statement: int = 0) -> Iterator[Change]:
    """Return all changes of a tree, in the order of its nodes."""
    for field, value in ast.iter_fields(tree):
        if field in SKIPPED or (field == "keywords" and isinstance(tree, ast.ClassDef)):
            continue
        nodes = value if isinstance(value, list) else [value]
        for place, node in enumerate(nodes):
            if not isinstance(node, ast.AST) or _is_for_types(node):
                continue
            line = node.lineno if isinstance(node, ast.stmt) else statement
            if isinstance(node, ast.stmt) and _may_go(node):
                yield Change("statement", node, line, lambda nodes=nodes, place=place: _put(nodes, place))  # type: ignore[misc]
            if isinstance(node, ast.expr | ast.stmt):
                yield from (Change(kind, node, line, make) for kind, make in _changes_of(node))
            yield from changes(node, line)


def _put(nodes: list[ast.AST], place: int) -> None:
    nodes[place] = ast.Pass()


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _may_go(node: ast.stmt) -> bool:
    """Whether a statement that does not run leaves code that can; without a name, nearly nothing can."""
    if isinstance(node, ast.Assign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return isinstance(node, ast.AugAssign) or all(
            isinstance(each, ast.Attribute | ast.Subscript) for each in targets
        )
    calls = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    return calls or isinstance(node, ast.Raise | ast.Continue | ast.Break | ast.Delete)


def _changes_of(node: ast.expr | ast.stmt) -> Iterator[tuple[str, Callable[[], None]]]:
    match node:
        case ast.Compare():
            for place, op in enumerate(node.ops):
                yield "comparison", lambda place=place, op=op: node.ops.__setitem__(place, COMPARISONS[type(op)]())  # type: ignore[misc]
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "boolean", lambda: setattr(node, "op", other)
        case ast.BinOp() | ast.AugAssign() if type(node.op) in OPERATORS and not _is_text(node):
            operator = OPERATORS[type(node.op)]()
            yield "arithmetic", lambda: setattr(node, "op", operator)
        case ast.UnaryOp(op=ast.Not()):
            yield "not", lambda: setattr(node, "operand", ast.UnaryOp(ast.Not(), node.operand))
        case ast.If() | ast.While() | ast.IfExp() if isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
            yield "not", lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
        case ast.Constant(value=bool()):
            yield "constant", lambda: setattr(node, "value", not node.value)
        case ast.Constant(value=int() | float() as number):
            yield "constant", lambda: setattr(node, "value", number + 1)
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "return", lambda: setattr(node, "value", ast.Constant(None))


def _is_text(node: ast.BinOp | ast.AugAssign) -> bool:
    return any(isinstance(each, ast.JoinedStr) or isinstance(getattr(each, "value", 0), str) for each in ast.walk(node))
