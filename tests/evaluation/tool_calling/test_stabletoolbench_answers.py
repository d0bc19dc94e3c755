"""Contract: runs become ToolBench's answer files and come back; real answers convert as upstream converted them."""

from __future__ import annotations

import json

import pytest

from toolscaler.agent.records import AgentTrajectory
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import GIVE_UP, ToolCall, Trajectory, TrajectoryMessage
from toolscaler.errors import ConfigError, DataError, EvaluationError
from toolscaler.evaluation.tool_calling import (
    answer_record,
    convert_stabletoolbench_answer,
    read_stabletoolbench_answers,
    stabletoolbench_answer,
    write_converted_answers,
    write_stabletoolbench_answers,
)

ARTIST = ToolDocument(
    "Get Artist",
    "Finds an artist.",
    provider="The Clique!",
    parameters={
        "type": "object",
        "properties": {"id": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["id"],
    },
)
FIND = ToolDocument("find")
DOCUMENTS = [ARTIST, FIND]
METHODS = ["CoT@1", "DFS_woFilter_w2"]


def talk(query, *turns):
    """A conversation: text of the assistant, (thought, calls), or results after ``=``."""
    messages = [TrajectoryMessage("user", query)]
    for turn in turns:
        if isinstance(turn, tuple):
            messages.append(TrajectoryMessage("assistant", turn[0], turn[1:]))
        elif turn.startswith("="):
            messages.append(TrajectoryMessage("tool", turn[1:]))
        else:
            messages.append(TrajectoryMessage("assistant", turn))
    return Trajectory(tuple(messages))


RUNS = {
    "1": talk("who?", ("I look.", ToolCall(ARTIST.id, {"id": "ü"})), '={"a": 1}', "It is A."),
    "2": talk("q2", ("", ToolCall("find")), "=r", ("hm", ToolCall.finish("cannot", return_type=GIVE_UP))),
    "3": talk(
        "q3",
        ("", ToolCall("find", {"x": 1}), ToolCall(ARTIST.id, {"id": "1"})),
        "=r1",
        "=r2",
        ("", ToolCall.finish("B")),
    ),
    "4": None,
    "5": talk("q5", ("", ToolCall("find")), "=r"),
}
OUTCOMES = {"1": "answer", "2": "give_up", "3": "answer", "4": "open", "5": "open"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("converted", [False, True], ids=["raw", "converted"])
def test_runs_come_back(tmp_path, method, converted):
    if converted:
        path = tmp_path / "G1_instruction.json"
        write_converted_answers(path, RUNS, DOCUMENTS, queries={"4": "q4"}, method=method)
    else:
        path = tmp_path / "answers"
        files = write_stabletoolbench_answers(path, RUNS, DOCUMENTS, queries={"4": "q4"}, method=method)
        assert sorted(file.name for file in files) == [f"{number}_{method}.json" for number in "12345"]
    back = read_stabletoolbench_answers(path, DOCUMENTS)
    assert {id: run.outcome for id, run in back.items()} == OUTCOMES
    for id, run in RUNS.items():
        want = talk("q4") if run is None else run
        assert back[id].query == want.query
        assert back[id].tools == want.tools
        assert answer_record(back[id]) == answer_record(want)


@pytest.mark.parametrize("method", METHODS)
def test_the_form_of_a_won_answer(method):
    answer = stabletoolbench_answer(RUNS["1"], DOCUMENTS, offered=[ARTIST.id, "find"], method=method)
    about = answer["answer_generation"]
    assert (answer["win"], about["valid_data"], about["query"]) == (True, True, "who?")
    assert json.loads(about["final_answer"]) == {"return_type": "give_answer", "final_answer": "It is A."}
    name = "get_artist_for_the_clique"
    assert [function["name"] for function in about["function"]] == [name, "find", "Finish"]
    assert about["function"][0]["parameters"]["optional"] == ["n"]
    roles = [
        (message["role"], message.get("function_call", {}).get("name", "")) for message in about["train_messages"][0]
    ]
    called = [("assistant", ""), ("assistant", name), ("function", ""), ("assistant", "Finish")]
    assert roles == [("system", ""), ("user", ""), *called]
    assert ("tree" in answer, "trys" in answer) == ((False, True) if method == "CoT@1" else (True, False))
    converted = convert_stabletoolbench_answer(answer, method=method)
    steps, node = [], converted["answer"]["answer_details"][0]
    while node["next"]:
        (node,) = node["next"]
        steps.append((node["role"], node["message"]["name"] if node["role"] == "tool" else node["message"]))
    assert steps == [("user", ""), ("assistant", "I look."), ("tool", name), ("tool", "Finish")]
    assert node["message"]["response"] == ""
    assert converted["answer"]["total_steps"] == 5


def test_the_form_of_a_lost_answer():
    answer = stabletoolbench_answer(RUNS["2"], DOCUMENTS)
    assert (answer["win"], answer["answer_generation"]["final_answer"]) == (False, "")
    chain = answer["trys"][0]["chain"]
    assert [node["node_type"] for node in chain] == ["Action", "Action Input", "Thought", "Action", "Action Input"]
    assert json.loads(chain[-1]["description"])["return_type"] == "give_up_and_restart"
    assert [node.get("observation_code") for node in chain] == [None, 0, None, None, 4]
    spent = AgentTrajectory("q", "", "steps", (), RUNS["5"])
    assert not stabletoolbench_answer(spent, DOCUMENTS)["win"]
    late = AgentTrajectory("q", "", "tokens", (), RUNS["1"])  # text, but no answer
    assert not stabletoolbench_answer(late, DOCUMENTS)["win"]


def test_failed_calls_stay_failed(tmp_path):
    failed = Trajectory((*RUNS["5"].messages[:2], TrajectoryMessage("tool", "no such", is_error=True)))
    write_stabletoolbench_answers(tmp_path, {"1": failed}, DOCUMENTS)
    assert read_stabletoolbench_answers(tmp_path)["1"].messages[-1].is_error


def test_what_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="method"):
        stabletoolbench_answer(RUNS["1"], method="mine")
    with pytest.raises(ConfigError, match="method"):
        stabletoolbench_answer(RUNS["1"], method="CoT_DFS")
    with pytest.raises(DataError, match="document"):
        stabletoolbench_answer(RUNS["1"], DOCUMENTS, offered=["nothing"])
    with pytest.raises(EvaluationError, match="query id"):
        write_stabletoolbench_answers(tmp_path, {"a_b": RUNS["1"]})
    with pytest.raises(EvaluationError, match="'4'"):
        write_stabletoolbench_answers(tmp_path, {"4": None})
    with pytest.raises(DataError, match="raw answer"):
        convert_stabletoolbench_answer({"win": True})
    with pytest.raises(DataError, match="found none"):
        read_stabletoolbench_answers(tmp_path)
    (tmp_path / "1_CoT.json").write_text("[]")
    with pytest.raises(DataError, match="by their ids"):
        read_stabletoolbench_answers(tmp_path)
    (tmp_path / "1_CoT.json").write_text('{"1": {}}')
    with pytest.raises(DataError, match="answer '1'"):
        read_stabletoolbench_answers(tmp_path)


@pytest.mark.shared_data
@pytest.mark.parametrize(("system", "method"), [("virtual_chatgpt_cot", "CoT@1"), ("virtual_chatgpt_dfs", METHODS[1])])
def test_real_answers_convert_as_upstream_did(shared_data, system, method):
    folder = shared_data / "toolbench" / "stabletoolbench_data_example"
    published = folder / "model_predictions_converted" / system / "G1_instruction.json"
    converted = json.loads(published.read_text(encoding="utf-8"))
    files = sorted((folder / "answer" / system / "G1_instruction").glob("*.json"))
    assert len(files) == len(converted) == 3
    for file in files:
        raw = json.loads(file.read_text(encoding="utf-8"))
        assert convert_stabletoolbench_answer(raw, method=method) == converted[file.name.split("_")[0]]
    raw_runs, runs = read_stabletoolbench_answers(files[0].parent), read_stabletoolbench_answers(published)
    assert {id: answer_record(run) for id, run in raw_runs.items()} == {
        id: answer_record(run) for id, run in runs.items()
    }
    assert sorted(run.outcome for run in runs.values()) == (
        ["answer"] * 2 + ["open"] if "cot" in system else ["answer"] * 3
    )


@pytest.mark.shared_data
@pytest.mark.parametrize("method", METHODS)
def test_real_answers_survive_being_written_again(shared_data, tmp_path, method):
    source = shared_data / "toolbench" / "data_example" / "answer" / "G1_answer"
    runs = read_stabletoolbench_answers(source)
    write_stabletoolbench_answers(tmp_path, runs, method=method)
    again = read_stabletoolbench_answers(tmp_path)
    assert records(again) == records(runs)


def records(runs):
    return {id: answer_record(run) for id, run in runs.items()}
