"""Compressed answers: one gzip member, made of a part that is kept and one that is fresh."""

from __future__ import annotations

import runpy
import sys
import zlib
from typing import Any

import pytest

from exporter.metrics import compression

PIECES = [b"knock_up 1\n" * 1000, b"", b"a" * 300_000, b"last\n"]


@pytest.fixture(params=["isal", "zlib"])
def made_with(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give the functions of the module as they are with isal, and where it cannot be had."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    return runpy.run_path(compression.__file__)


def test_one_member_holds_all_of_it(made_with: dict[str, Any]) -> None:
    begin, end, join = (made_with[name] for name in ("begin", "end", "join"))
    kept = begin(PIECES)
    for fresh in (b"", b"# EOF\n", b"knock_up 0\n" * 50_000):
        reader = zlib.decompressobj(31)  # 16 and 15: gzip, by Python's own zlib
        assert reader.decompress(b"".join(join(kept, end(fresh)))) == b"".join(PIECES) + fresh
        assert reader.eof
        assert reader.unused_data == b""


def test_text_like_ours_becomes_much_smaller(made_with: dict[str, Any]) -> None:
    lines = [f'knock_bulk_operation_up{{operation_id="{place * 7919:032x}"}} 1\n'.encode() for place in range(5000)]
    assert sum(map(len, made_with["begin"](lines).pieces)) * 8 < sum(map(len, lines))
