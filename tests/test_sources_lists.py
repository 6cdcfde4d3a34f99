"""Lists of operations: what each form gives, and what is said of a broken one."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import check_cost, cpu_seconds

from exporter.config import ListedOperation
from exporter.sources.listing import MAX_BYTES, MAX_IDS, BrokenList
from exporter.sources.lists import Form, form_of, parse

if TYPE_CHECKING:
    from collections.abc import Callable

A = "123e4567-e89b-12d3-a456-426614174000"
B = "b19d032a-fc3b-4a54-9f54-369484527201"
NOT_A_UUID = "is not a valid UUID (expected e.g. 123e4567-e89b-12d3-a456-426614174000)"
LABELS = ("team", "area")


def read(text: str | bytes, form: Form = Form.TEXT) -> list[ListedOperation]:
    return list(parse(text.encode() if isinstance(text, str) else text, form, LABELS))


def problem(text: str | bytes, form: Form = Form.TEXT) -> str:
    with pytest.raises(BrokenList) as caught:
        read(text, form)
    assert caught.value.__cause__ is None
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/a/b.json", Form.JSON),
        ("/a/b.JSON", Form.JSON),
        ("/a/b.yaml", Form.YAML),
        ("/a/b.yml", Form.YAML),
        ("/a/b.txt", Form.TEXT),
        ("/a.json/b", Form.TEXT),
        ("/a/.json", Form.TEXT),
        ("/a/b.json~", Form.TEXT),
    ],
)
def test_the_name_tells_the_form(path: str, form: Form) -> None:
    assert form_of(path) is form


# Plain text


@pytest.mark.parametrize(
    "text",
    [
        f"{A}\n{B}\n",
        f"{A}\n{B}",
        f"{A}\r\n{B}\r\n",
        f"\ufeff{A}\n{B}",
        f"# ours\n\n  {A.upper()}\t# nightly\n#{B}\n{B} #\n\n",
        f"{A}\n{B}\n{A}\n",
    ],
)
def test_text(text: str) -> None:
    assert read(text) == [ListedOperation(A), ListedOperation(B)]


@pytest.mark.parametrize("text", ["# none", "\n # none\n", "#"])
def test_a_comment_is_an_empty_list(text: str) -> None:
    assert read(text) == []


UNDECLARED = "is not declared under the configuration's labels"
EMPTY = "is empty (to list nothing, write a comment such as # none)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", EMPTY),
        ("\n \r\n", EMPTY),
        ("\ufeff", EMPTY),
        (f"{A}\n{B[:-1]}", f'line 2: "{B[:-1]}" {NOT_A_UUID}'),
        (f"{A} {B}", f'line 1: "{A} {B[:23]}…" {NOT_A_UUID}'),
        (f"{A}#x", f'line 1: "{A}#x" {NOT_A_UUID}'),
        (f"{A}\nx\n\ny\nz\n", f'line 2: "x" {NOT_A_UUID}; 3 faults in all'),
        ("00000000-0000-0000-0000-000000000000", "line 1: is the nil UUID, which no operation has"),
        ("sk_live_0123456789", f'line 1: "sk_***" {NOT_A_UUID}'),
        (f"{A}\n\0\0\0", f'line 2: "���" {NOT_A_UUID}'),
        (f"{A}\n[]", "line 2: expected an id, got JSON (write the ids alone, one a line)"),
        (f"{A}\v{B}", f'line 1: "{A}�{B[:23]}…" {NOT_A_UUID}'),
        (f"{A}\n".encode() + b"\xff", "line 2: is not UTF-8 text (save it as UTF-8)"),
        (A.encode("utf-16"), "line 1: is not UTF-8 text (save it as UTF-8)"),
        (b"#" * (MAX_BYTES + 1), "is larger than 16 MiB (split it)"),
        (f"{A}\n" * (MAX_IDS + 1), "names more than 100000 ids (split it)"),
    ],
)
def test_broken_text(text: str | bytes, message: str) -> None:
    assert problem(text) == message


# Target groups


@pytest.mark.parametrize(
    ("text", "operations"),
    [
        ("[]", []),
        ("null", []),
        ('[{"targets": []}]', []),
        (json.dumps([{"targets": [A, B]}]), [ListedOperation(A), ListedOperation(B)]),
        (json.dumps([{"targets": [A], "labels": {}}, {"targets": [B]}]), [ListedOperation(A), ListedOperation(B)]),
        (
            json.dumps([{"targets": [A], "labels": {"__meta_x": 7, "__a": "b", "group": "g"}}]),
            [ListedOperation(A, "g")],
        ),
        (json.dumps([{"targets": [A]}, {"targets": [A.upper()]}]), [ListedOperation(A)]),
        (
            json.dumps([{"labels": {"team": "Größe", "group": "sync", "area": "7"}, "targets": [A]}, {"targets": [B]}]),
            [ListedOperation(A, "sync", (("area", "7"), ("team", "Größe"))), ListedOperation(B)],
        ),
        (
            json.dumps([{"labels": {"run": "2026-01-31", "group": "sync", "team": "x"}, "targets": [A, B]}]),
            [ListedOperation(each, "sync", (("team", "x"),), "2026-01-31") for each in (A, B)],
        ),
        (json.dumps([{"labels": {"run": "1"}, "targets": [A]}]), [ListedOperation(A, run="1")]),
    ],
)
def test_groups(text: str, operations: list[ListedOperation]) -> None:
    assert read(text, Form.JSON) == read(text, Form.YAML) == operations


def test_groups_as_people_write_them() -> None:
    text = f"""\
# nightly
- targets:
    - {A}
    - {B}  # the second
  labels: {{group: nightly-sync, team: growth}}
"""
    labels = (("team", "growth"),)
    assert read(text, Form.YAML) == [ListedOperation(each, "nightly-sync", labels) for each in (A, B)]


def test_groups_with_aliases() -> None:
    text = f"- {{targets: [{A}], labels: &l {{group: g}}}}\n- {{targets: [{B}], labels: *l}}\n"
    assert read(text, Form.YAML) == [ListedOperation(A, "g"), ListedOperation(B, "g")]


def test_null_stands_for_nothing_in_json_as_go_writes_it() -> None:
    assert read('[{"targets": null, "labels": null}]', Form.JSON) == []


EXAMPLE = '{"targets": ["123e4567-e89b-12d3-a456-426614174000"]}'
NOTHING = "is empty (to list nothing, write [])"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", NOTHING),
        ("# none\n", NOTHING),
        ("---\n", NOTHING),
        ("%YAML 1.1\n--- # x\n...\r\n", NOTHING),
        ("- targets:\n", "line 1: [0].targets: expected a list of ids, got nothing"),
        ("-\n", f"line 1: [0]: expected a mapping such as {EXAMPLE}, got nothing"),
        (f"- {A}\n", f"line 1: [0]: expected a mapping such as {EXAMPLE}, got text"),
        (f"{A}\n", f"expected a list such as [{EXAMPLE}], got text"),
        (f"targets: [{A}]\n", f"expected a list such as [{EXAMPLE}], got a mapping"),
        ("- labels: {}\n", "line 1: [0].targets: is missing (list the ids there; [] for none)"),
        (f"- targets: {A}\n", "line 1: [0].targets: expected a list of ids, got text"),
        (
            f"- target: [{A}]\n",
            'line 1: [0].target: unknown key (did you mean "targets"?); 2 faults in all',
        ),
        ("- targets: []\n  x: 1\n", "line 2: [0].x: unknown key (known: targets, labels)"),
        ("- targets: []\n  labels: [a]\n", "line 2: [0].labels: expected a mapping of labels to values, got a list"),
        ("- targets: []\n  labels:\n", "line 2: [0].labels: expected a mapping of labels to values, got nothing"),
        (
            f"- targets:\n  - {A}\n  - {B[:-1]}\n  - 12\n  - [x]\n",
            f'line 3: [0].targets[1]: "{B[:-1]}" {NOT_A_UUID}; 3 faults in all',
        ),
        ("- targets: [12]\n", "line 1: [0].targets[0]: expected an id, got a number (put it in quotes)"),
        ("- targets: [[]]\n", "line 1: [0].targets[0]: expected an id, got a list"),
        (
            "- targets: []\n  labels:\n    taem: x\n",
            'line 3: [0].labels.taem: is not declared under the configuration\'s labels (did you mean "team"?)',
        ),
        (
            '- targets: []\n  labels: {"sk_live_12345678 x": y}\n',
            f'line 2: [0].labels."sk_*** x": {UNDECLARED} (known: group, run, team, area)',
        ),
        (
            "- targets: []\n  labels: {group: yes}\n",
            "line 2: [0].labels.group: expected text, got true or false (put it in quotes)",
        ),
        (
            "- targets: []\n  labels: {group: sk_live_0123}\n",
            (
                "line 2: [0].labels.group: looks like an API key, which everybody could read here "
                "(renew the key if it is one)"
            ),
        ),
        (
            f"- targets: [{A}]\n- targets: [{A}]\n  labels: {{group: g}}\n",
            (
                f'line 2: [1].targets[0]: "{A}" is a duplicate, with another group, another run or other labels '
                "(first at line 1: [0].targets[0]): keep one"
            ),
        ),
        (
            f"- targets: [{A}]\n  labels: {{run: '1'}}\n- targets: [{A}]\n  labels: {{run: '2'}}\n",
            (
                f'line 3: [1].targets[0]: "{A}" is a duplicate, with another group, another run or other labels '
                "(first at line 1: [0].targets[0]): keep one"
            ),
        ),
        (
            "- targets: []\n  labels: {group: g, run: tonight's}\n",
            "line 2: [0].labels.run: is not a run id (expected 1 to 64 of A-Z, a-z, 0-9, . _ : and -)",
        ),
        (
            "- targets: []\n  labels: {run: 17}\n",
            "line 2: [0].labels.run: expected text, got a number (put it in quotes)",
        ),
        ("- targets: []\n  targets: []\n", "line 2: [0].targets: is a duplicate (first on line 1): keep one"),
        ("- &a {targets: [*a]}\n", "line 1: [0].targets[0]: an alias (*) must not stand inside of what it names"),
        (
            "- targets: [a\n",
            (
                "line 2: is not valid YAML at column 1: did not find expected ',' or ']' "
                "(while parsing a flow sequence that begins on line 1)"
            ),
        ),
        (
            "- a: !x y\n",
            "line 1: [0].a: tags are not supported (remove the ! and the word behind it, or put the text in quotes)",
        ),
        ("- targets: [" + "a," * 500_001 + "]", "line 1: is not valid YAML at column 12: too many values"),
    ],
)
def test_broken_yaml(text: str, message: str) -> None:
    assert problem(text, Form.YAML) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", NOTHING),
        (" \n", NOTHING),
        ("{}", f"expected a list such as [{EXAMPLE}], got a mapping"),
        ("[1]", f"[0]: expected a mapping such as {EXAMPLE}, got a number"),
        (f'[\n{{"targets": ["{A}",\n"x"]}}]', f'line 3: [0].targets[1]: "x" {NOT_A_UUID}'),
        ('[{"targets": ["x", "x"]}]', f'[0].targets[0]: "x" {NOT_A_UUID}; 2 faults in all'),
        ('[{"targets": [null]}]', "[0].targets[0]: expected an id, got nothing"),
        ('[{"targets": [1.5]}]', "[0].targets[0]: expected an id, got a number (put it in quotes)"),
        ('[{"targets": ["\\ud800"]}]', f'[0].targets[0]: "�" {NOT_A_UUID}'),
        (
            '[{"targets": [],\n"labels": {"grup": "x"}}]',
            'line 2: [0].labels.grup: is not declared under the configuration\'s labels (did you mean "group"?)',
        ),
        (
            '[{"targets": [], "labels": {"group": "\\ud800"}}]',
            "line 1: [0].labels.group: holds characters that cannot be shown (expected printable text)",
        ),
        ('[{"targets": [], "targets": []}]', 'the key "targets" is a duplicate in its object: keep one'),
        ("[\n{]", "line 2: is not valid JSON at column 2: Expecting property name enclosed in double quotes"),
        ("[NaN]", "is not valid JSON: holds a number that is not valid, or too long"),
        ("[" + "1" * 5000 + "]", "is not valid JSON: holds a number that is not valid, or too long"),
        ("[" * 100_000, "is not valid JSON: nested too deeply"),
        ("[" + "{}," * MAX_IDS + "{}]", "has more than 100000 groups (split it)"),
        ("[{" + '"a":1,' * 800_000 + '"b":1}]', "has more than 800000 keys (split it)"),
    ],
)
def test_broken_json(text: str, message: str) -> None:
    assert problem(text, Form.JSON) == message


@pytest.mark.parametrize("form", [Form.JSON, Form.YAML])
def test_long_names_are_shortened(form: Form) -> None:
    text = json.dumps([{"targets": [], "labels": {"x" * 1_000: "y"}}])
    assert problem(text, form).startswith(f'line 1: [0].labels."{"x" * 60}…": is not declared')


def test_the_examples_of_the_documentation_can_be_read() -> None:
    text = (Path(__file__).parent.parent / "docs/sources.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    forms = {"yaml": Form.YAML, "json": Form.JSON, "": Form.TEXT}
    found = {kind: read(block, forms[kind]) for kind, block in blocks if re.match(r"- t|\[|# ", block)}
    assert {kind: len(operations) for kind, operations in found.items()} == {"yaml": 3, "json": 1, "": 2}
    answer = next(block for _, block in blocks if block.startswith("HTTP/"))
    assert read(answer.partition("\n\n")[2], Form.JSON) == found["json"]


# What grows


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- &a\n  targets: &t [" + ",".join([A] * 4_000) + "]\n" + "- *a\n" * 4_000, "names more than 100000 ids"),
        (
            "- &a {" + ",".join(f"k{each}: 1" for each in range(2_000)) + "}\n" + "- {<<: *a}\n" * 2_000,
            "<< copies too much",
        ),
        ("- &a {x: y}\n- {<<: [" + "*a," * 200_000 + "]}\n", "<< copies too much"),
    ],
    ids=["targets", "merges", "sources of a merge"],
)
def test_aliases_do_not_blow_up(text: str, told: str) -> None:
    problems: list[str] = []
    assert cpu_seconds(lambda: problems.append(problem(text, Form.YAML))) < 5  # 20 where they do
    assert told in problems[0]


# Files that are cut off

IDS = st.lists(st.uuids().map(str), min_size=1, max_size=4, unique=True)


def prefixes(text: str) -> list[bytes]:
    content = text.rstrip().encode()
    return [content[:end] for end in range(len(content))]


def listed(content: bytes, form: Form) -> set[str] | None:
    try:
        return {each.id for each in parse(content, form, LABELS)}
    except BrokenList:
        return None


@settings(max_examples=25)  # each is cut off at every place
@given(IDS, st.sampled_from(["\n", "\r\n", " # ä\n", "\n\n"]))
def test_a_text_cut_off_is_broken_or_has_whole_ids_only(ids: list[str], end: str) -> None:
    for content in prefixes("".join(each + end for each in ids)):
        found = listed(content, Form.TEXT)
        assert found is None or (found and found <= set(ids))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [False, True])
@settings(max_examples=4)
@given(ids=IDS)
def test_json_cut_off_is_broken(ids: list[str], indent: int | None, *, ascii_only: bool) -> None:
    groups: list[dict[str, Any]] = [{"targets": ids}, {"targets": [], "labels": {"group": "Größe"}}]
    for content in prefixes(json.dumps(groups, indent=indent, ensure_ascii=ascii_only)):
        assert listed(content, Form.JSON) is None
        assert listed(content, Form.YAML) is None


@settings(max_examples=15)
@given(IDS)
def test_yaml_cut_off_is_broken_or_has_whole_ids_only(ids: list[str]) -> None:
    entries = "".join(f"    - {each}\n" for each in ids)
    for content in prefixes(f"---\n- labels:\n    group: sync\n  targets:\n{entries}"):
        found = listed(content, Form.YAML)
        assert found is None or (found and found <= set(ids))


@given(st.text() | st.binary(), st.sampled_from(Form))
def test_any_content_gives_a_list_or_a_complaint(content: str | bytes, form: Form) -> None:
    found = listed(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content, form)
    assert not found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(A),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["targets", "labels", "group", "team", "x"]), inner, max_size=3)
    ),
)


@given(JSON)
def test_any_json_gives_a_list_or_a_complaint(document: Any) -> None:
    text = json.dumps(document).encode()
    assert listed(text, Form.JSON) in (None, set(), {A})
    assert listed(text, Form.YAML) in (None, set(), {A})


# Speed


def in_text(ids: list[str]) -> str:
    return "\n".join(ids)


def in_yaml(ids: list[str]) -> str:
    return "- targets:\n" + "".join(f"  - {each}\n" for each in ids)


def in_json(ids: list[str]) -> str:
    return json.dumps([{"targets": [each], "labels": {"group": "x"}} for each in ids])


@pytest.mark.parametrize(
    ("form", "write"), [(Form.TEXT, in_text), (Form.YAML, in_yaml), (Form.JSON, in_json)], ids=["text", "yaml", "json"]
)
def test_ten_times_as_many_ids_cost_ten_times_as_much(form: Form, write: Callable[[list[str]], str]) -> None:
    def reading(count: int) -> Callable[[], object]:
        content = write([str(uuid.UUID(int=each)) for each in range(1, count + 1)]).encode()
        assert len(parse(content, form, LABELS)) == count
        return lambda: parse(content, form, LABELS)

    check_cost(reading(10_000), 30, reading(1_000))
