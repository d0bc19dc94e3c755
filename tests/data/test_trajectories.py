"""Trajectories: what a conversation may be, its JSON form, and the match of its tools with a catalogue."""

from __future__ import annotations

import copy
import gzip
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.data import (
    FINISH_TOOL,
    GIVE_UP,
    ToolCall,
    ToolDocument,
    Trajectory,
    TrajectoryList,
    TrajectoryMessage,
    finish_document,
    read_trajectories,
    resolve_tools,
    save_trajectories,
)
from toolscaler.errors import ConfigError, DataError, UnknownToolError

M, C = TrajectoryMessage, ToolCall
USER = M("user", "How many feet are 2 m?")


def step(*calls: ToolCall, thought: str = "I convert.") -> TrajectoryMessage:
    return M("assistant", thought, calls)


def example() -> Trajectory:
    return Trajectory(
        (
            M("system", "Be brief."),
            USER,
            step(C("units/convert", {"value": 2}, "c1"), C("units/list", {}, "c2")),
            M("tool", "[m, ft]", tool_call_id="c2"),
            M("tool", "no unit", tool_call_id="c1", is_error=True),
            step(C("units/convert", {"value": 2, "to": "ft"})),
            M("tool", "6.56"),
            step(C.finish("6.56 ft"), thought=""),
        ),
        id="q1",
        split="train",
        metadata={"source": "hand"},
    )


def test_what_a_trajectory_says_of_itself() -> None:
    trajectory = example()
    assert trajectory.query == "How many feet are 2 m?"
    assert trajectory.tools == ("units/convert", "units/list", "units/convert")
    assert [call.tool for call in trajectory.calls] == [*trajectory.tools, FINISH_TOOL]
    assert trajectory.answer == "6.56 ft"
    assert trajectory.outcome == "answer"


@pytest.mark.parametrize(
    ("last", "outcome", "answer"),
    [
        (step(C.finish("no tool fits", return_type=GIVE_UP)), "give_up", "no tool fits"),
        (step(C(FINISH_TOOL, {"return_type": "give_up_and_restart"})), "give_up", ""),
        (step(C(FINISH_TOOL, {"return_type": "give_answer", "final_answer": None})), "answer", ""),
        (M("assistant", "Seven feet."), "answer", "Seven feet."),
        (step(C("a")), "open", ""),
        (M("user", "And in inches?"), "open", ""),
    ],
    ids=["give-up", "toolbench", "no-answer", "text", "call", "user"],
)
def test_outcomes(last, outcome, answer) -> None:
    trajectory = Trajectory((USER, last))
    assert (trajectory.outcome, trajectory.answer) == (outcome, answer)


def test_results_go_with_their_calls() -> None:
    pairs = example().results()
    assert [len(found) for found in pairs] == [0, 0, 2, 0, 0, 1, 0, 1]
    assert [(call.id, result.content) for call, result in pairs[2]] == [("c1", "no unit"), ("c2", "[m, ft]")]
    assert pairs[7][0][1] is None
    in_order = Trajectory((USER, step(C("a"), C("b"), C("c")), M("tool", "1"), M("tool", "2"))).results()[1]
    assert [result and result.content for _, result in in_order] == ["1", "2", None]


def test_plain_answers_become_finish() -> None:
    trajectory = Trajectory(
        (
            USER,
            M("assistant", "Let me see."),
            step(C("a")),
            M("tool", "x"),
            M("assistant", "Six."),
            USER,
            M("assistant", "Hi"),
        )
    )
    done = trajectory.with_finish()
    assert [message.finishes for message in done.messages] == [False, False, False, False, True, False, True]
    assert done.messages[4] == M("assistant", "", (C.finish("Six."),))
    assert done.messages[1].content == "Let me see."
    assert done.with_finish() == done


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ((), "expected a user message"),
        ((M("system", "x"),), "expected a user message"),
        ((M("assistant", "hi"), USER), "before the first assistant"),
        ((USER, M("system", "x")), "system messages before"),
        ((USER, M("tool", "x")), "after the assistant's call"),
        ((USER, M("assistant", "x"), M("tool", "y")), "calls no tool"),
        ((USER, step(C("a")), M("tool", "1"), M("tool", "2")), "at most one result"),
        ((USER, step(C("a", {}, "1")), M("tool", "1", tool_call_id="2")), "one of the open calls"),
        ((USER, step(C.finish("x")), M("tool", "ok")), "after Finish, got tool"),
        ((USER, step(C.finish("x")), M("assistant", "ok")), "after Finish, got assistant"),
        ((USER, step(C(FINISH_TOOL, {"return_type": "maybe"}))), "return_type"),
        ((USER, step(C(FINISH_TOOL, {}))), "return_type"),
        ((USER, step(C(FINISH_TOOL, {"return_type": "give_answer", "final_answer": 3}))), "as text"),
        (("hello",), "expected TrajectoryMessage"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_messages_in_an_impossible_order_are_refused(messages, message) -> None:
    with pytest.raises(DataError, match=message):
        Trajectory(messages)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: M("bot", "x"), "role"),
        (lambda: M("user", "  "), "got nothing"),
        (lambda: M("assistant"), "got neither"),
        (lambda: M("user", "x", (C("a"),)), "only the assistant"),
        (lambda: M("assistant", "x", is_error=True), "belong to results"),
        (lambda: M("user", "x", tool_call_id="1"), "belong to results"),
        (lambda: M("tool", None), "expected text"),
        (lambda: M("tool", "x", is_error=1), "true or false"),
        (lambda: M("assistant", "", ({"tool": "a"},)), "expected ToolCall"),
        (lambda: M("assistant", "", (C("a", {}, "1"), C("b", {}, "1"))), "different call ids"),
        (lambda: M("assistant", "", (C("a"), C.finish("x"))), "only call"),
        (lambda: C(" "), "got nothing"),
        (lambda: C("a", "{}"), "JSON object"),
        (lambda: C("a", {"x": float("nan")}), "plain JSON"),
        (lambda: C("a", {1: 2}), "text as key"),
        (lambda: C("a", {"x": {1, 2}}), "plain JSON"),
        (lambda: Trajectory((USER,), metadata=[1]), "JSON object"),
        (lambda: Trajectory((USER,), id=3), "expected text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_fields_are_refused(make, message) -> None:
    with pytest.raises(DataError, match=message):
        make()


def test_arguments_are_a_copy_and_nesting_has_an_end() -> None:
    given = {"items": [1]}
    call = C("a", given)
    given["items"].append(2)
    assert call.arguments == {"items": [1]}
    assert hash(call) == hash(C("a", {"items": [3]}))
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(DataError, match="nested too deeply"):
        C("a", {"x": deep})


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
word = st.text(min_size=1, max_size=8).filter(str.strip)
calls = st.builds(C, st.sampled_from(["a", "p/b"]), st.dictionaries(st.text(), json_values, max_size=3))
anything = st.text(st.characters(), max_size=20)  # halves of surrogate pairs among them


@st.composite
def trajectories(draw) -> Trajectory:
    messages = [M("system", draw(anything))] if draw(st.booleans()) else []
    messages.append(M("user", draw(word)))
    for _ in range(draw(st.integers(0, 3))):
        made = draw(st.lists(calls, min_size=1, max_size=3))
        messages.append(M("assistant", draw(anything), tuple(made)))
        for _ in range(draw(st.integers(0, len(made)))):
            messages.append(M("tool", draw(anything), is_error=draw(st.booleans())))
    if draw(st.booleans()):
        messages.append(step(C.finish(draw(anything))))
    return Trajectory(
        tuple(messages), draw(anything), draw(anything), draw(st.dictionaries(st.text(), json_values, max_size=2))
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(trajectories(), max_size=3))
def test_saved_trajectories_come_back_equal(tmp_path_factory, found) -> None:
    path = tmp_path_factory.mktemp("trajectories") / "saved.jsonl"
    save_trajectories(path, found)
    if found:
        back = read_trajectories(path)
        assert list(back) == found
        assert [item.metadata for item in back] == [item.metadata for item in found]
        assert back.report.read == len(found)
    for trajectory in found:
        assert Trajectory.from_dict(json.loads(json.dumps(trajectory.to_dict()))) == trajectory
        assert pickle.loads(pickle.dumps(trajectory)) == copy.deepcopy(trajectory) == trajectory


def test_a_bad_line_is_named_or_counted(tmp_path) -> None:
    path = tmp_path / "saved.jsonl"
    save_trajectories(path, [example(), example()])
    lines = path.read_text().splitlines()
    bad = ['{"messages": [{"role": "user", "content": "x"}, {"role": "boss"}]}', "{", '{"turns": []}']
    path.write_text("\n".join([lines[0], *bad, lines[1]]) + "\n")
    with pytest.raises(DataError, match=r"saved.jsonl:2: message 2: .*boss"):
        read_trajectories(path)
    found = read_trajectories(path, on_error="skip")
    assert list(found) == [example(), example()]
    assert (found.report.read, found.report.skipped) == (2, 3)
    assert [problem.line for problem in found.report.problems] == [2, 3, 4]
    with pytest.raises(ConfigError, match="on_error"):
        read_trajectories(path, on_error="ignore")
    with pytest.raises(DataError):
        read_trajectories(tmp_path / "nothing.jsonl")


def test_gzip_and_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "saved.jsonl"
    save_trajectories(path, [example()])
    (tmp_path / "saved.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_trajectories(tmp_path / "saved.jsonl.gz")) == [example()]

    def broken():
        yield example()
        raise RuntimeError

    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        save_trajectories(path, broken())
    assert path.read_bytes() == before


CATALOGUE = [
    ToolDocument("convert", provider="units"),
    ToolDocument("list", provider="units"),
    ToolDocument("same", provider="one"),
    ToolDocument("same", provider="two"),
    finish_document(),
]


def calling(*names: str) -> Trajectory:
    return Trajectory(
        (USER, *(step(C(name, {"x": 1}, "7")) for name in names), step(C.finish("x"))), id="-".join(names)
    )


def test_names_become_ids() -> None:
    found = resolve_tools([calling("convert", "units/list", "lister", "one/same")], CATALOGUE, {"lister": "units/list"})
    assert found[0].tools == ("units/convert", "units/list", "units/list", "one/same")
    assert found[0].calls[0] == C("units/convert", {"x": 1}, "7")
    assert found.report.unknown == {}
    by_ids = resolve_tools([calling("units/list")], [document.id for document in CATALOGUE])
    assert by_ids[0] == calling("units/list")


def test_unknown_tools_are_raised_reported_or_skipped() -> None:
    given = TrajectoryList([calling("convert"), calling("convrt", "nothing"), calling("same", "nothing")])
    with pytest.raises(UnknownToolError, match="convrt"):
        resolve_tools(given, CATALOGUE)
    kept = resolve_tools(given, CATALOGUE, on_unknown="report")
    assert kept[1:] == given[1:]
    assert kept[0].tools == ("units/convert",)
    assert kept.report.unknown == {"convrt": 1, "nothing": 2, "same": 1}
    assert kept.report.affected == 2
    assert kept.report.suggestions["convrt"][0] == "units/convert"
    left = resolve_tools(given, CATALOGUE, on_unknown="skip")
    assert [item.id for item in left] == ["convert"]
    assert (left.report.read, left.report.skipped, left.report.unknown) == (1, 2, kept.report.unknown)
    assert "'convrt', 'nothing'" in left.report.problems[0].message
    assert pickle.loads(pickle.dumps(left)).report == left.report


def test_bad_policies_and_aliases_are_refused() -> None:
    with pytest.raises(ConfigError, match="on_unknown"):
        resolve_tools([], CATALOGUE, on_unknown="drop")
    with pytest.raises(ConfigError, match=r"aliases\.x"):
        resolve_tools([], CATALOGUE, {"x": "nothing"})
