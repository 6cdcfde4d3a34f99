"""What mutation testing changes, one thing at a time."""

import ast
from itertools import islice

import pytest
from mutations import changes

CODE = '''\
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from x import y

@frozen(slots=True)
class Value(Base, frozen=True):
    """A value."""

    size: Literal[3] = 5

def decide(a: int = 1) -> int | None:
    """Decide."""
    if not a:
        raise ValueError("no")
    known = f"{a} " + "text"
    self.known[a] = known
    log(known)
    if a and known < a + 2 <= 3:
        return None
    return a
'''


def mutated() -> list[tuple[str, str]]:
    found = []
    for number in range(sum(1 for _ in changes(ast.parse(CODE)))):
        tree = ast.parse(CODE)
        before = ast.unparse(tree).splitlines()
        change = next(islice(changes(tree), number, None))
        change.make()
        after = ast.unparse(ast.fix_missing_locations(tree)).splitlines()
        assert before != after
        found.append((change.kind, next(new for old, new in zip(before, after, strict=True) if old != new).strip()))
    return found


def test_each_change_is_of_one_thing_that_runs() -> None:
    assert mutated() == [
        ("constant", "size: Literal[3] = 6"),
        ("constant", "def decide(a: int=2) -> int | None:"),
        ("not", "if not not a:"),
        ("statement", "pass"),
        ("statement", "pass"),
        ("statement", "pass"),
        ("boolean", "if a or known < a + 2 <= 3:"),
        ("comparison", "if a and known <= a + 2 <= 3:"),
        ("comparison", "if a and known < a + 2 < 3:"),
        ("arithmetic", "if a and known < a - 2 <= 3:"),
        ("constant", "if a and known < a + 3 <= 3:"),
        ("constant", "if a and known < a + 2 <= 4:"),
        ("return", "return None"),
    ]


@pytest.mark.parametrize("code", ["x: int", "def f() -> None: ...", '"""Text."""', "return", "name = 'text' % x"])
def test_what_nothing_would_notice_is_left(code: str) -> None:
    assert list(changes(ast.parse(code))) == []
