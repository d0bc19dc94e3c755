"""The text of a step, written out, and what happens to text that looks like it."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.data import (
    AgentProtocol,
    ToolCall,
    ToolDocument,
    Trajectory,
    TrajectoryMessage,
    finish_document,
    trajectory_turns,
)
from toolscaler.data.protocol import (
    PROTOCOL_FILE,
    clean_thought,
    documentation_text,
    documents_by_id,
    mark_foreign,
    ordered_arguments,
)
from toolscaler.errors import ArtifactError, ConfigError, DataError, UnknownToolError

M, C = TrajectoryMessage, ToolCall
CONVERT = ToolDocument(
    "convert",
    "Convert a length. </documentation>",
    provider="units",
    code="convert(2)",
    parameters={
        "type": "object",
        "properties": {
            "value": {"type": "number", "description": "how much"},
            "to": {"type": "string", "enum": ["ft", "m"], "default": "ft"},
            "rows": {"type": "array", "items": {"type": "integer"}, "description": "which"},
        },
        "required": ["value"],
    },
)
DOCUMENTS = documents_by_id([CONVERT, finish_document()])
CODES = {"units/convert": "<a_1><b_2>", "Finish": "<a_0><b_0>"}


def said(trajectory: Trajectory, protocol: AgentProtocol | None = None, **options) -> list[tuple[str, str]]:
    turns = trajectory_turns(trajectory, DOCUMENTS, CODES, protocol or AgentProtocol(system_prompt=""), **options)
    return [(turn.role, turn.text) for turn in turns]


DOCUMENTATION = (
    "<documentation>\nname: convert\nprovider: units\ndescription: Convert a length. < /documentation>\n"
    "parameter value (number): how much\n"
    'parameter to (string, optional, one of ["ft", "m"], default "ft")\n'
    'parameter rows (array, optional, schema {"type": "array", "items": {"type": "integer"}}): which\n'
    "</documentation>"
)
FINISH = f"<documentation>\n{documentation_text(finish_document())}\n</documentation>"


def test_one_step_and_an_answer() -> None:
    trajectory = Trajectory(
        (
            M("system", "You have these tools: ..."),
            M("user", "2 m in </result> feet?"),
            M("assistant", " I convert. \n", (C("units/convert", {"x": 1, "to": "ft", "value": 2}),)),
            M("tool", "6.56 <result>"),
            M("assistant", "6.56 ft"),
        )
    )
    expected = [
        ("user", "2 m in < /result> feet?"),
        ("assistant", "Thought: I convert.\nAction:<a_1><b_2>"),
        ("tool", DOCUMENTATION),
        ("assistant", 'Action Input:{"value": 2, "to": "ft", "x": 1}'),
        ("tool", "<result>\n6.56 < result>\n</result>"),
        ("assistant", "Action:<a_0><b_0>"),
        ("tool", FINISH),
        ("assistant", 'Action Input:{"return_type": "give_answer", "final_answer": "6.56 ft"}'),
    ]
    assert said(trajectory) == expected
    assert said(trajectory, AgentProtocol("Help.")) == [("system", "Help."), *expected]
    assert said(trajectory, AgentProtocol(None)) == [("system", "You have these tools: ..."), *expected]
    short = said(trajectory, AgentProtocol("", finish_documentation=False))
    assert short == [*expected[:5], ("assistant", "\n".join([expected[5][1], expected[7][1]]))]
    bare = said(trajectory, AgentProtocol("", documentation=False))
    assert bare == [expected[0], ("assistant", "\n".join([expected[1][1], expected[3][1]])), expected[4], short[-1]]


def test_several_calls_errors_and_results_that_are_missing() -> None:
    trajectory = Trajectory(
        (
            M("user", "q"),
            M("assistant", "First."),
            M("assistant", "Then.", (C("units/convert", {"value": 1}), C("units/convert", {"value": 2}))),
            M("tool", "no unit", is_error=True),
            M("user", "and?"),
            M("assistant", "", (C("units/convert", {"value": 3}),)),
            M("tool", "123456789"),
        )
    )
    turns = said(trajectory, without_documentation=1, result_limit=6)
    assert turns == [
        ("user", "q"),
        ("assistant", "Thought: First.\nThen.\nAction:<a_1><b_2>"),
        ("tool", "<documentation>\n...\n</documentation>"),
        ("assistant", 'Action Input:{"value": 1}\nAction:<a_1><b_2>'),
        ("tool", DOCUMENTATION),
        ("assistant", 'Action Input:{"value": 2}'),
        ("tool", "<error>\nno uni...\n</error>\n<result>\n...\n</result>"),
        ("user", "and?"),
        ("assistant", "Action:<a_1><b_2>"),
        ("tool", DOCUMENTATION),
        ("assistant", 'Action Input:{"value": 3}'),
        ("tool", "<result>\n123456...\n</result>"),
    ]


def test_only_the_assistants_pieces_are_trained() -> None:
    trajectory = Trajectory(
        (M("user", "q"), M("assistant", "t", (C("units/convert"), C("units/convert"))), M("tool", "x", is_error=True))
    )
    for train_failed in (True, False):
        turns = trajectory_turns(trajectory, DOCUMENTS, CODES, train_failed_calls=train_failed)
        for turn in turns:
            for segment in turn.segments:
                failed = turn is turns[4] and segment.text in ("Action Input:", "{}")
                assert segment.trained == (turn.role == "assistant" and (train_failed or not failed))
        assert [s.tool for turn in turns for s in turn.segments if s.kind == "codes"] == ["units/convert"] * 2


@given(st.text(st.sampled_from("<>/ \n\tresultdocumentationerrorRESULT"), max_size=40) | st.text())
def test_no_foreign_text_holds_a_tag(text) -> None:
    import re

    marked = mark_foreign(f"{text}</result>< / DOCUMENTATION >{text}")
    assert not re.search(r"</?(result|error|documentation)>", marked, re.IGNORECASE)
    assert marked.replace(" ", "") == f"{text}</result></DOCUMENTATION>{text}".replace(" ", "")
    assert mark_foreign("a < b </table>") == "a < b </table>"


@given(st.text(st.sampled_from("Action: Input\n")))
def test_no_thought_holds_the_action_mark(text) -> None:
    assert "Action:" not in clean_thought(f"{text}Action:{text}")


def test_arguments_follow_the_schema() -> None:
    inner = {"type": "object", "properties": {"y": {}, "x": {}}}
    schema = {"properties": {"b": inner, "a": {"type": "array", "items": inner}}}
    given = {"z": 1, "a": [{"x": 1, "y": 2}, 3], "b": {"q": 0, "x": 1, "y": 2}}
    ordered = ordered_arguments(given, schema)
    assert ordered == given
    assert json.dumps(ordered) == '{"b": {"y": 2, "x": 1, "q": 0}, "a": [{"y": 2, "x": 1}, 3], "z": 1}'
    assert ordered_arguments(given, True) == given


def test_unknown_tools_are_named() -> None:
    trajectory = Trajectory((M("user", "q"), M("assistant", "", (C("units/convrt"),))))
    with pytest.raises(UnknownToolError, match="units/convert"):
        said(trajectory)
    answer = Trajectory((M("user", "q"), M("assistant", "yes")))
    with pytest.raises(UnknownToolError, match=r"finish_document\(\)"):
        trajectory_turns(answer, {"units/convert": CONVERT}, CODES)
    with pytest.raises(UnknownToolError, match=r"finish_document\(\)"):
        trajectory_turns(answer, DOCUMENTS, {})


def test_two_documents_with_one_id_are_refused() -> None:
    with pytest.raises(DataError, match="units/convert"):
        documents_by_id([CONVERT, ToolDocument("convert", provider="units")])
    assert documents_by_id([CONVERT, CONVERT]) == {"units/convert": CONVERT}


def test_a_protocol_is_saved_with_its_model(tmp_path) -> None:
    protocol = AgentProtocol("Hé.", False, {"enable_thinking": False})
    protocol.save(tmp_path)
    assert AgentProtocol.load(tmp_path) == protocol
    for text in ('{"system_prompt": 3}', '{"prompt": ""}', "[]", "{"):
        (tmp_path / PROTOCOL_FILE).write_text(text)
        with pytest.raises(ArtifactError):
            AgentProtocol.load(tmp_path)
    with pytest.raises(ArtifactError):
        AgentProtocol.load(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="finish_documentation"):
        AgentProtocol(finish_documentation="no")
    with pytest.raises(ConfigError, match=r"protocol\.documentation"):
        AgentProtocol(documentation=None)


def test_marks_in_wide_letters_lose_their_meaning_too():
    """Tokenizers that fold compatibility forms would turn them into marks."""
    for text in ("＜／ｒｅｓｕｌｔ＞", "a ﹤/error﹥ b", "<／documentation>"):
        marked = mark_foreign(text)
        assert unicodedata.normalize("NFKC", marked) == marked
        assert marked.startswith(("< /", "a < /"))
    for harmless in ("＜ｂ＞ 5 ㎏ ½", "x < y", "ＲＥＳＵＬＴ"):
        assert mark_foreign(harmless) == harmless
