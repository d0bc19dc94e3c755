"""The door for dialogues: formats found, files and folders, bad rows, and names matched with a catalogue."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.data import ToolDocument
from toolscaler.data.dialogues import TRAJECTORY_FORMATS, DialogueReport, catalogue_aliases, load_trajectories
from toolscaler.data.dialogues.calls import parse_call, parse_calls, parse_literal
from toolscaler.errors import AmbiguousSourceError, ConfigError, DataError, UnknownToolError


def seal(*tools, query="Do it."):
    return {"id": "1", "query": query, "calling": [{"api": tool, "parameters": {}} for tool in tools]}


BAD = {"id": "2", "query": "Do it.", "calling": [{"parameters": {}}]}


def toolgen(token):
    texts = ["Do it.", token, "Please give the input. Here is the documentation: {}", "{}"]
    turns = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant") * 2, texts, strict=True)
    ]  # fmt: skip
    return {"conversations": turns}


def toolllama(name):
    return {
        "conversations": [
            {"from": "user", "value": "Do it."},
            {"from": "assistant", "value": f"Thought:\nAction: {name}\nAction Input: {{}}"},
        ]
    }


def write(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_formats_are_listed():
    assert list(TRAJECTORY_FORMATS) == sorted(TRAJECTORY_FORMATS)
    with pytest.raises(ConfigError, match=r"format: got 'seal'.*seal-tools"):
        load_trajectories([seal("a")], "seal")


def test_bad_row_raises_with_file_line_and_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, (seal("a"), BAD))), encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(f"{path}:2: expected the name of a tool, got None")):
        load_trajectories(path)
    with pytest.raises(DataError, match=r"rows\.json:1: row 2: expected the name of a tool"):
        load_trajectories(write(tmp_path / "rows.json", [seal("a"), BAD]))
    with pytest.raises(DataError, match="record 2: expected the name of a tool"):
        load_trajectories([seal("a"), BAD])


def test_bad_rows_are_skipped_counted_and_named(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(seal("a")), json.dumps(BAD), "{broken", json.dumps(seal("b"))]
    path.write_text("\n".join(lines), encoding="utf-8")
    found = load_trajectories(path, on_error="skip")
    assert [item.tools for item in found] == [("a",), ("b",)]
    assert (found.report.read, found.report.skipped) == (2, 2)
    assert [problem.line for problem in found.report.problems] == [2, 3]
    assert isinstance(found.report, DialogueReport)
    assert "2 read, 2 skipped" in caplog.text


def test_part_of_a_row_is_named(tmp_path):
    row = {
        "Name": "Zoo",
        "Instructions": ["a", "b"],
        "Golden_Answers": [[], [{"Action": "find", "Action_Input": "{"}]],
    }
    with pytest.raises(DataError, match=r"row 1 \(Golden_Answers/1\): expected arguments as JSON, got '\{'"):
        load_trajectories(write(tmp_path / "zoo.json", [row]))
    found = load_trajectories([row], on_error="skip")
    assert (len(found), found.report.skipped) == (1, 1)


@pytest.mark.parametrize("source", [[], 3, b"x", None], ids=["nothing", "number", "bytes", "none"])
def test_no_rows(source):
    with pytest.raises(DataError, match="expected"):
        load_trajectories(source)


def test_unknown_rows_name_the_formats():
    with pytest.raises(DataError, match=r"no format of dialogues fits, got keys \['a'\].*nestful \(NESTFUL"):
        load_trajectories([{"a": 1}])


def test_two_formats_that_fit_are_an_error():
    row = {**seal("a"), "question": "Do it.", "plan": [{"step": "1", "tool": "a()"}]}
    with pytest.raises(AmbiguousSourceError, match="seal-tools, ultratool"):
        load_trajectories([row])
    assert load_trajectories([row], "ultratool")[0].tools == ("a",)


def test_folder_is_read_in_name_order_and_a_bad_file_is_a_problem(tmp_path):
    write(tmp_path / "b.json", [seal("b")])
    write(tmp_path / "a.json", [toolgen("<<x&&y>>")])
    (tmp_path / "c.jsonl").write_text("", encoding="utf-8")
    (tmp_path / "d.json").write_text("{broken", encoding="utf-8")
    (tmp_path / "e.json").write_bytes(b"\x1f\x8bdamaged")
    (tmp_path / "notes.txt").write_text("not read", encoding="utf-8")
    (tmp_path / "f.json.gz").write_bytes(gzip.compress(json.dumps([seal("f")]).encode()))
    found = load_trajectories(tmp_path, on_error="skip", split="dev")
    assert [item.tools for item in found] == [("x/y",), ("b",), ("f",)]
    assert {item.split for item in found} == {"dev"}
    assert found.report.formats == {"toolgen": 1, "seal-tools": 2}
    assert [problem.path.name for problem in found.report.problems] == ["c.jsonl", "d.json", "e.json"]
    with pytest.raises(DataError, match=r"c\.jsonl: expected at least one row"):
        load_trajectories(tmp_path)


def test_deep_nesting_is_a_bad_row():
    deep = []
    for _ in range(600):
        deep = [deep]
    row = {"input": "Do it.", "output": [{"name": "a", "arguments": {}}], "gold_answer": deep}
    found = load_trajectories([row, {**row, "gold_answer": 1}], on_error="skip")
    assert (len(found), found.report.skipped) == (1, 1)
    assert "too deep a nesting" in str(found.report.problems[0])


def test_one_row_may_stand_alone():
    assert load_trajectories(seal("a"))[0].tools == ("a",)


@pytest.mark.parametrize(
    ("key", "value"), [("branches", "won"), ("on_unknown", "drop"), ("on_error", "ignore")], ids=lambda value: value
)
def test_bad_options(key, value):
    with pytest.raises(ConfigError, match=f"{key}: got '{value}'"):
        load_trajectories([seal("a")], **{key: value})


def test_aliases_need_a_catalogue():
    with pytest.raises(ConfigError, match="aliases"):
        load_trajectories([seal("a")], aliases={"a": "b"})


CATALOGUE = [
    ToolDocument("Add / plus", provider="My Sums"),
    ToolDocument("1st", provider="My Sums"),
    ToolDocument("Twice", provider="one"),
    ToolDocument("twice", provider="One"),
    ToolDocument("alone"),
]


def test_standardised_names_become_ids():
    rows = [
        toolllama(name)
        for name in ("add_plus_for_my_sums", "get_1st_for_my_sums", "1st_for_my_sums", "alone", "Finish")
    ]
    rows[-1]["conversations"][-1]["value"] = 'Action: Finish\nAction Input: {"return_type": "give_up_and_restart"}'
    found = load_trajectories(rows, catalogue=CATALOGUE, on_unknown="raise")
    assert [item.tools for item in found] == [
        ("My Sums/Add / plus",),
        ("My Sums/1st",),
        ("My Sums/1st",),
        ("alone",),
        (),
    ]
    assert found.report.unknown == {}
    bare = load_trajectories(rows, catalogue=[document.id for document in CATALOGUE], on_unknown="raise")
    assert [item.tools for item in bare] == [item.tools for item in found]


def test_tokens_in_another_spelling_become_ids():
    found = load_trajectories([toolgen("<<my_sums&&add_plus>>"), toolgen("<<My Sums&&1st>>")], catalogue=CATALOGUE)
    assert [item.tools for item in found] == [("My Sums/Add / plus",), ("My Sums/1st",)]


def test_long_names_count_by_their_last_64_characters():
    document = ToolDocument("a" * 70, provider="b")
    name = f"{'a' * 70}_for_b"[-64:]
    assert load_trajectories([toolllama(name)], catalogue=[document])[0].tools == (document.id,)


def test_ambiguous_and_unknown_names_are_reported_and_not_guessed():
    rows = [toolllama("twice_for_one"), toolllama("twice_for_one"), toolllama("nothing_for_one"), seal("alone")]
    found = load_trajectories(rows[:3], catalogue=CATALOGUE)
    assert [item.tools for item in found] == [("twice_for_one",)] * 2 + [("nothing_for_one",)]
    assert found.report.unknown == {"twice_for_one": 2, "nothing_for_one": 1}
    assert found.report.ambiguous == {"twice_for_one": ("one/Twice", "One/twice")}
    assert found.report.affected == 3
    with pytest.raises(UnknownToolError, match="twice_for_one"):
        load_trajectories(rows[:3], catalogue=CATALOGUE, on_unknown="raise")
    skipped = load_trajectories(rows[:3], catalogue=CATALOGUE, on_unknown="skip")
    assert (len(skipped), skipped.report.skipped, skipped.report.affected) == (0, 3, 3)


def test_aliases_of_the_caller_come_first():
    found = load_trajectories([toolllama("twice_for_one")], catalogue=CATALOGUE, aliases={"twice_for_one": "One/twice"})
    assert found[0].tools == ("One/twice",)
    assert found.report.ambiguous == {}


def test_catalogue_aliases_leave_ids_alone():
    matches = catalogue_aliases(["alone", "My Sums/1st", "get_1st_for_my_sums", "other"], CATALOGUE)
    assert matches.aliases == {"get_1st_for_my_sums": "My Sums/1st"}
    assert matches.ambiguous == {}


def test_a_dataset_is_a_source():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"input": "Do it.", "output": json.dumps([{"name": "a", "arguments": {}}])}])
    assert load_trajectories(rows)[0].tools == ("a",)


@pytest.mark.parametrize(
    ("text", "arguments", "unquoted", "repaired"),
    [
        ("f()", {}, (), 0),
        (" f.g-h ( a = 1 , b = 'x, y=2' ) ", {"a": 1, "b": "x, y=2"}, (), 0),
        ("f(a='it's, b=3', c=\"d\")", {"a": "it's, b=3", "c": "d"}, (), 1),
        ("f(a=['x'], b={'k': false, 'n': [null, -1.5]})", {"a": ["x"], "b": {"k": False, "n": [None, -1.5]}}, (), 0),
        ("f(a=<the id>, b=New York)", {"a": "<the id>", "b": "New York"}, ("<the id>", "New York"), 0),
        ("f(a='['x', 'y']')", {"a": "['x', 'y']"}, (), 1),
        ("f(a='one\ntwo')", {"a": "one\ntwo"}, (), 1),
        ("f(a='D:\\Docs')", {"a": "D:\\Docs"}, (), 0),
        ("f(a=012, b=1e999)", {"a": "012", "b": "1e999"}, ("012", "1e999"), 0),
        ("f(städte='Köln')", {"städte": "Köln"}, (), 0),
    ],
    ids=range(10),
)  # fmt: skip
def test_written_calls(text, arguments, unquoted, repaired):
    call = parse_call(text)
    assert (call.arguments, call.unquoted, call.repaired) == (arguments, unquoted, repaired)


@pytest.mark.parametrize(
    "text", ["f", "f(", "(a=1)", "f(1, a=2)", "f('x')", "f(a=1, a=2)", "f(a=1) then"], ids=range(7)
)
def test_what_is_no_call(text):
    with pytest.raises(DataError, match="expected"):
        parse_call(text)


def test_several_written_calls():
    calls = parse_calls("f(a='g(1), h(2)'), g(), f(b=(1, 2))")
    assert [(call.name, call.arguments) for call in calls] == [
        ("f", {"a": "g(1), h(2)"}),
        ("g", {}),
        ("f", {"b": [1, 2]}),
    ]


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,5}", fullmatch=True), LITERALS, max_size=4))
def test_python_s_own_spelling_is_read_exactly(arguments):
    text = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    call = parse_call(f"tool({text})")
    assert (call.arguments, call.unquoted, call.repaired) == (arguments, (), 0)


@pytest.mark.parametrize(
    "text", ["print(1)", "a.b", "{1: 2}", "b'x'", "1j", "[x for x in y]", "...", "-'a'", "(" * 500]
)
def test_only_plain_data_is_a_literal(text):
    with pytest.raises(ValueError, match="literal"):
        parse_literal(text)
