"""Contract: messages of the Chat Completions API, both ways, in the order and with the names that the API wants."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.servers.chat_server import problem_of
from toolscaler.agent.openai_messages import (
    MAX_DESCRIPTION,
    assistant_message,
    from_openai_messages,
    function_names,
    function_schema,
    result_text,
    to_openai_messages,
)
from toolscaler.agent.planning import Plan, PlannedCall
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import ToolCall, TrajectoryMessage, finish_document
from toolscaler.errors import DataError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


@given(st.lists(st.text(max_size=90) | st.sampled_from(["a/b", "a.b", "a_b", "a b", "A_b", "a_b_", "7z", "-x"])))
def test_names_are_good_and_different_and_do_not_depend_on_the_order(ids):
    names = function_names(ids)
    assert set(names) == set(ids)
    assert all(NAME.fullmatch(name) for name in names.values())
    assert len(set(names.values())) == len(names)
    assert function_names(reversed(ids)) == names
    for tool in ids:  # a good name stays
        if NAME.fullmatch(tool):
            assert names[tool] == tool


def test_names_of_unlike_tools_do_not_change_with_others():
    assert function_names(["math/add", "Finish"]) == {"math/add": "math_add", "Finish": "Finish"}
    both = function_names(["math/add", "math_add", "x"])
    assert both["math_add"] == "math_add"
    assert both["math/add"].startswith("math_add_")
    assert len(function_names(["a" * 70 + str(number) for number in range(5)])) == 5


def test_a_schema_is_plain_json_within_the_limits():
    document = ToolDocument(
        "find",
        "d" * 3000,
        parameters={
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"enum": ["x", 1]}}},
            "x-annotations": {"readOnlyHint": True},
        },
    )
    entry = json.loads(json.dumps(function_schema(document, "find")))
    assert entry["type"] == "function"
    assert entry["function"]["parameters"] == {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"enum": ["x", 1]}}},
    }
    assert len(entry["function"]["description"]) == MAX_DESCRIPTION
    assert function_schema(finish_document(), "Finish")["function"]["description"] == finish_document().description


def checked(messages: list[dict]) -> list[dict]:
    """The rules of the protocol, as the test server knows them."""
    assert problem_of({"model": "x", "messages": messages}) == ""
    return messages


def test_a_whole_conversation():
    messages = (
        TrajectoryMessage("system", "Be brief."),
        TrajectoryMessage("user", "Two sums."),
        TrajectoryMessage(
            "assistant",
            "Both at once.",
            (ToolCall("math/add", {"a": 1, "b": "ü"}, "c1"), ToolCall("sub", {}, "c2"), ToolCall("sub", {}, "c3")),
        ),
        TrajectoryMessage("tool", "second", (), "c2"),
        TrajectoryMessage("tool", "first", (), "c1", is_error=True),
        TrajectoryMessage("assistant", "I know.", (ToolCall.finish("3"),)),
        TrajectoryMessage("user", "Again."),
        TrajectoryMessage("assistant", "", (ToolCall("sub", {}, "c1"), ToolCall("sub", {}))),
        TrajectoryMessage("tool", "third"),
        TrajectoryMessage("tool", "fourth"),
        TrajectoryMessage("assistant", "Done."),
    )
    made = checked(to_openai_messages(messages, {"math/add": "math_add"}))
    calls = made[2]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["math_add", "sub", "sub"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"a": 1, "b": "ü"}
    # Results behind their calls, in their order; the one that is missing says so.
    assert [(m["role"], m["tool_call_id"], m["content"]) for m in made[3:6]] == [
        ("tool", "c1", "Error: first"),
        ("tool", "c2", "second"),
        ("tool", "c3", "[no result]"),
    ]
    assert made[6] == {"role": "assistant", "content": "3"}
    again = [call["id"] for call in made[8]["tool_calls"]]
    assert len({"c1", "c2", "c3", *again}) == 5  # an id names one call of the conversation
    assert [m["content"] for m in made[9:11]] == ["third", "fourth"]
    assert made[-1] == {"role": "assistant", "content": "Done."}
    assert result_text(None) == "[no result]"


def test_there_and_back():
    rows = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {
            "role": "assistant",
            "content": "Adding.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "2"},
    ]
    assert to_openai_messages(from_openai_messages(rows)) == rows


def test_messages_in_no_order():
    with pytest.raises(DataError):
        to_openai_messages([TrajectoryMessage("assistant", "x")])
    for wrong in (3, "hello", [{"role": "robot", "content": "x"}]):
        with pytest.raises(DataError):
            from_openai_messages(wrong)


def test_plans_as_messages():
    call = PlannedCall("add", {"a": 1}, id="c1")
    assert assistant_message(Plan("calls", "", (call,))) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
    }
    finish = PlannedCall("Finish", {"return_type": "give_answer", "final_answer": "2"})
    assert assistant_message(Plan("calls", "x", (finish,))) == {"role": "assistant", "content": "2"}
    assert assistant_message(Plan("abstain", "None fits.")) == {"role": "assistant", "content": "None fits."}
