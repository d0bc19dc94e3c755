"""Contract: predictions in any form are read, scored as the definitions say, and a missing one is a failure."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from toolscaler.agent.chat_answers import ChatAnswer, ChatCall
from toolscaler.agent.executors.base import ToolResult
from toolscaler.agent.executors.recording import RecordingExecutor
from toolscaler.agent.records import AgentCall, AgentStep, AgentTrajectory
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import ToolCall, Trajectory, TrajectoryMessage
from toolscaler.errors import ConfigError, DataError, EvaluationError, UnknownToolError
from toolscaler.evaluation.tool_calling import (
    ToolCallTask,
    ToolCallTasks,
    evaluate_tool_calls,
    load_tool_call_tasks,
    read_prediction,
    read_predictions,
    tool_call_table,
    write_predictions,
)
from toolscaler.evaluation.tool_calling.loading import tasks_from_trajectories
from toolscaler.evaluation.tool_calling.ratios import mean_metric, ratio_metric
from toolscaler.evaluation.tool_calling.tasks import AcceptedCalls


def run_of(*steps, answer="done"):
    messages = (TrajectoryMessage("user", "q"), TrajectoryMessage("assistant", answer))
    return AgentTrajectory("q", answer, "answer", tuple(steps), Trajectory(messages))


def called(tool, arguments, error_type="", allowed=True, label=""):
    result = ToolResult("", bool(error_type), error_type, metadata={"label": label} if label else {})
    return AgentCall(tool, arguments, result, allowed=allowed, rule="" if allowed else "allow")


CALLS = [("a", {"x": 1}), ("b", {})]
FORMS = {
    "pairs": CALLS,
    "pairs with text": [("a", '{"x": 1}'), ("b", "")],
    "calls": [ToolCall("a", {"x": 1}), ToolCall("b")],
    "mappings": [{"name": "a", "arguments": {"x": 1}}, {"tool": "b"}],
    "seal": [{"api": "a", "parameters": {"x": 1}}, {"api": "b", "parameters": {}}],
    "openai": [{"id": "1", "type": "function", "function": {"name": n, "arguments": json.dumps(a)}} for n, a in CALLS],
    "text": '[{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": {}}]',
    "chat": ChatAnswer(calls=(ChatCall("a", '{"x": 1}'), ChatCall("b", ""))),
    "with finish": [*CALLS, ("Finish", {"return_type": "give_answer", "final_answer": ""})],
    "run": run_of(
        AgentStep("", (called("c", {}),), dropped=True),
        AgentStep("", (called("a", {"x": 1}), called("z", {}, allowed=False))),
        AgentStep("", (called("no", {}, "unknown_tool"), called("b", {}, "timeout"))),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_calls(form):
    read = read_prediction(FORMS[form])
    assert [(call.tool, call.arguments) for call in read.calls] == CALLS
    assert read.valid_json


@pytest.mark.parametrize(
    ("value", "calls", "invalid"),
    [
        ("", 0, 0),
        ("I would call a(x=1).", 0, 1),
        ("[1]", 0, 1),
        ('"a"', 0, 1),
        ([("a", '{"x": ')], 0, 1),
        ([("a", {}), ("", {}), ("b", "[1]")], 1, 2),
        ([{"name": "a", "arguments": '{"x": NaN}'}], 0, 1),
        (run_of(AgentStep("", (called("a", {}, "invalid_arguments"), called("a", {})))), 1, 1),
    ],
    ids=["empty", "prose", "number", "text", "cut", "mixed", "nan", "run"],
)
def test_what_cannot_be_read_is_counted(value, calls, invalid):
    read = read_prediction(value)
    assert (len(read.calls), read.invalid, read.valid_json) == (calls, invalid, not invalid)


def test_no_prediction_is_no_valid_prediction():
    assert read_prediction(None).missing
    assert not read_prediction(None).valid_json
    with pytest.raises(EvaluationError, match="got int"):
        read_prediction(3)


def task(id, calls, group="g", **more):
    return ToolCallTask(id, f"query {id}", tuple(ToolCall(*call) for call in calls), group=group, **more)


TASKS = [task("1", CALLS), task("2", [("a", {"x": 2})]), task("3", [], group="none"), task("4", [("b", {})])]
PREDICTED = {"1": CALLS, "2": [("a", {"x": 3}), ("b", {})], "3": [], "4": "b()"}


def test_scores_by_hand():
    result = evaluate_tool_calls(PREDICTED, TASKS, kind="sequence", name="hand")
    means = {key: value.mean for key, value in result.metrics.items()}
    # Tasks 1 and 3 are right; 2 calls the right tool with a wrong value, and one more; 4 is prose.
    assert means["exact_match"] == means["tool_order_match"] == 0.5
    assert means["tool_f1"] == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)
    assert means["call_f1"] == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert means["tool_f1_micro"] == pytest.approx(2 * 3 / (4 + 4))
    assert means["argument_f1_micro"] == pytest.approx(2 * 1 / (2 + 2))
    assert means["valid_json"] == 0.75
    assert result.valid_json_rate == pytest.approx(4 / 5)
    assert result.counts == {"missing": 0, "calls": 4, "reference_calls": 4, "invalid": 1}
    assert {group: score.n for group, score in result.by_group.items()} == {"g": 3, "none": 1}
    assert result.by_group["none"].means["exact_match"] == 1.0
    low, high = result.metrics["tool_f1"].low, result.metrics["tool_f1"].high
    assert low <= means["tool_f1"] <= high
    assert "dependency_f1_micro" not in means  # there are none
    json.dumps(result.to_dict(), allow_nan=False)
    assert "| all | 4 |" in result.table()


def test_a_missing_prediction_fails_even_where_nothing_is_wanted():
    result = evaluate_tool_calls({}, TASKS, kind="sequence")
    assert result.counts["missing"] == 4
    means = {key: value.mean for key, value in result.metrics.items()}
    assert all(value == 0.0 for value in means.values())


def test_order_of_predictions_and_kinds():
    listed = evaluate_tool_calls([PREDICTED[item.id] for item in TASKS], TASKS, kind="sequence")
    assert listed.metrics == evaluate_tool_calls(PREDICTED, TASKS, kind="sequence").metrics
    with pytest.raises(EvaluationError, match="one for each of 4"):
        evaluate_tool_calls([[]], TASKS, kind="sequence")
    with pytest.raises(EvaluationError, match="'9'"):
        evaluate_tool_calls({"9": []}, TASKS, kind="sequence")
    with pytest.raises(EvaluationError, match="each id once"):
        evaluate_tool_calls({}, [TASKS[0], TASKS[0]], kind="sequence")
    with pytest.raises(EvaluationError, match="at least one"):
        evaluate_tool_calls({}, [], kind="sequence")
    with pytest.raises(ConfigError, match="kind"):
        evaluate_tool_calls({}, TASKS)
    with pytest.raises(EvaluationError, match="accepts"):
        evaluate_tool_calls({}, TASKS, kind="bfcl")


def test_accepted_calls():
    functions = [{"name": "a", "parameters": {"properties": {"x": {"type": "integer"}}, "required": ["x"]}}]
    tasks = [
        task("1", [], "simple", accepted=AcceptedCalls(functions, [{"a": {"x": [1]}}]), names={"a#1": "a"}),
        task("2", [], "simple", accepted=AcceptedCalls(functions, [{"a": {"x": [2]}}])),
        task("3", [], "irrelevance", accepted=AcceptedCalls(functions, (), expected="none")),
        task("4", [], "irrelevance", accepted=AcceptedCalls(functions, (), expected="none")),
        task("5", [], "relevance", accepted=AcceptedCalls(functions, (), expected="some")),
        task("6", [], "irrelevance", accepted=AcceptedCalls(functions, (), expected="none")),
    ]
    calls = {"1": [("a#1", {"x": 1})], "2": [("a", {"x": 1})], "3": [], "4": [("a", {"x": 1})], "5": [("a", {})]}
    result = evaluate_tool_calls(calls, tasks, kind="bfcl")
    assert [record["values"]["ast_match"] for record in result.per_task] == [1, 0, 1, 0, 1, 0]
    assert [record["values"]["right_tools"] for record in result.per_task] == [1, 1, 1, 0, 1, 0]
    assert result.counts["failed: wrong_value"] == result.counts["failed: missing"] == 1
    assert result.by_group["irrelevance"].means["ast_match"] == pytest.approx(1 / 3)
    assert evaluate_tool_calls({"1": "a(x=1)"}, tasks[:1], kind="bfcl").counts["failed: invalid_json"] == 1


def test_comparison_and_table():
    right = evaluate_tool_calls({item.id: list(item.calls) for item in TASKS}, TASKS, kind="sequence", name="right")
    none = evaluate_tool_calls({}, TASKS, kind="sequence", name="none")
    compared = right.compare(none, "exact_match")
    assert (compared.difference, compared.p_value) == (1.0, 0.125)  # 2 of the 16 sign patterns of four tasks
    table = tool_call_table([right, none], "none")
    assert "| right | 4 | 100.00 [100.00, 100.00]" in table
    assert "0.1250" in table
    with pytest.raises(EvaluationError, match="other tasks"):
        right.compare(evaluate_tool_calls({}, TASKS[:2], kind="sequence"), "exact_match")
    with pytest.raises(EvaluationError, match="mean over tasks"):
        right.compare(none, "tool_f1_micro")
    with pytest.raises(EvaluationError, match="different systems"):
        tool_call_table([right, right])
    with pytest.raises(EvaluationError, match="nothing"):
        tool_call_table([right], "nothing")


def test_ratios_against_a_loop():
    above, below = np.array([2, 0, 4, 1, 0]), np.array([2, 3, 5, 4, 0])
    found = ratio_metric(above, below, num_resamples=400, seed=3)
    rng = np.random.default_rng(3)
    ratios = []
    for row in rng.integers(0, 5, size=(400, 5)):
        total = sum(below[index] for index in row)
        if total:
            ratios.append(sum(above[index] for index in row) / total)
    assert found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((np.quantile(ratios, 0.025), np.quantile(ratios, 0.975)))
    assert math.isnan(mean_metric([1.0], num_resamples=200, seed=0).low)
    with pytest.raises(EvaluationError, match="above 0"):
        ratio_metric([0], [0], num_resamples=200, seed=0)


def test_predictions_on_disk(tmp_path):
    path = tmp_path / "calls.jsonl"
    seal = [{"api": "a", "parameters": {"x": "\ud800"}, "responses": ["API_call_0"]}]
    write_predictions(path, {"1": CALLS, "2": None, "3": "prose", "4": seal})
    again = read_predictions(path)
    assert again == {
        key: read_prediction(value) for key, value in (("1", CALLS), ("2", None), ("3", "x y"), ("4", seal))
    }
    path.write_text(path.read_text() + '{"id": "1", "calls": []}\n')
    with pytest.raises(DataError, match="'1' twice"):
        read_predictions(path)
    for calls in ("1", '[{"tool": ""}]', '[{"tools": "a"}]', "[]"):
        path.write_text(f'{{"id": "1", "calls": {calls}, "invalid": "x"}}\n')
        with pytest.raises(DataError, match=r"calls\.jsonl:1"):
            read_predictions(path)
    path.write_text('{"calls": []}\n')
    with pytest.raises(DataError, match="'id'"):
        read_predictions(path)


def test_the_door_is_light_and_complete():
    import toolscaler.evaluation.tool_calling as room

    assert all(getattr(room, name) is not None for name in room.__all__)
    with pytest.raises(AttributeError, match="no_such"):
        _ = room.no_such
    code = (
        "import sys, toolscaler.evaluation.tool_calling; print(*sorted({'torch', 'numpy', 'mcp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_tasks_are_checked():
    tool = ToolDocument("a")
    with pytest.raises(UnknownToolError):
        ToolCallTasks("s", "sequence", [tool], [task("1", [], tools=("b",))])
    with pytest.raises(DataError, match="task id once"):
        ToolCallTasks("s", "sequence", [tool], [TASKS[0], TASKS[0]])
    with pytest.raises(DataError, match="kind"):
        ToolCallTasks("s", "other", [tool], [])
    with pytest.raises(EvaluationError, match="a query"):
        ToolCallTask("1", " ")
    tasks = ToolCallTasks("s", "sequence", [tool, ToolDocument("b")], [task("1", [], tools=("b",)), task("2", [])])
    assert [[item.id for item in tasks.offered(one)] for one in tasks.tasks] == [["b"], ["a", "b"]]
    with pytest.raises(DataError, match="'g'"):
        tasks.group("h")


def test_tasks_of_trajectories():
    messages = (TrajectoryMessage("user", "q"), TrajectoryMessage("assistant", "", (ToolCall("a", {"x": 1}),)))
    tasks = tasks_from_trajectories("own", [Trajectory(messages, "t1", "test")], [ToolDocument("a")])
    assert (tasks.tasks[0].id, tasks.tasks[0].group, tasks.tasks[0].calls) == ("t1", "test", messages[1].tool_calls)


def test_the_recorder_runs_nothing_and_names_results():
    returns = {"type": "object", "properties": {"id": {"type": "string"}}}
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    documents = [ToolDocument("a", parameters=schema, returns=returns), ToolDocument("b")]
    with RecordingExecutor(documents) as executor:
        assert executor.call("a", {"x": "wrong"}).content == '{"id": "$var1.id$"}'
        second = executor.call("b", {})
        assert (second.content, second.metadata["label"]) == ('{"result": "$var2$"}', "var2")
        assert executor.call("c", {}).error_type == "unknown_tool"
        assert [(call.tool, call.arguments) for call in executor.calls] == [("a", {"x": "wrong"}), ("b", {})]
        assert executor.clear() == (ToolCall("a", {"x": "wrong"}, "var1"), ToolCall("b", {}, "var2"))
        assert executor.recorded == ()
        assert not executor.idempotent("a")
    with RecordingExecutor(documents, lambda recorded: f"no. {recorded.number}", check=True) as executor:
        assert executor.call("a", {"x": "wrong"}).error_type == "invalid_arguments"
        assert executor.call("a", {"x": 1}).content == "no. 0"
        assert executor.call("b", {"x": float("nan")}).error_type == "invalid_arguments"
        assert len(executor.calls) == 1
    with RecordingExecutor(documents, lambda recorded: 1 / 0) as executor:
        assert executor.call("b", {}).error_type == "tool_error"
    with pytest.raises(DataError, match="'b' twice"):
        RecordingExecutor([documents[1], documents[1]])


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "options", "tasks", "calls"),
    [
        ("bfcl", {"categories": ["simple_java", "simple_javascript", "live_parallel", "live_relevance"]}, 182, 189),
        ("seal-tools", {"splits": ["test"]}, 350, 888),
        ("nestful", {}, 300, 800),
        ("ultratool", {}, 800, 1920),
        ("api-bank", {}, 584, 779),
    ],
    ids=["bfcl", "seal-tools", "nestful", "ultratool", "api-bank"],
)
def test_references_of_public_sets_are_right_answers(shared_data, name, options, tasks, calls):
    loaded = load_tool_call_tasks(name, shared_data / name, **options)
    assert len(loaded.tasks) == tasks
    assert sum(len(item.calls) for item in loaded.tasks) == calls
    ids = {document.id for document in loaded.documents}
    named = {name: id for item in loaded.tasks for id, name in item.names.items()}
    assert all(call.tool in ids or named[call.tool] in ids for item in loaded.tasks for call in item.calls)
    own = {item.id: [call.to_dict() for call in item.calls] for item in loaded.tasks if item.calls}
    asked = [item for item in loaded.tasks if item.calls]
    result = evaluate_tool_calls(own, asked, kind=loaded.kind, num_resamples=100)
    assert all(value.mean == 1.0 for value in result.metrics.values())
    assert ("dependency_f1_micro" in result.metrics) == (name in ("seal-tools", "nestful"))
    turned = evaluate_tool_calls(
        {key: value[::-1] for key, value in own.items()}, asked, kind=loaded.kind, num_resamples=100
    )
    key = "ast_match" if name == "bfcl" else "tool_f1"
    assert turned.metrics[key].mean == 1.0


def test_loading_refuses(tmp_path):
    with pytest.raises(ConfigError, match="name"):
        load_tool_call_tasks("toole", tmp_path)
    with pytest.raises(ConfigError, match="parts"):
        load_tool_call_tasks("nestful", tmp_path, split="test")
    with pytest.raises(ConfigError, match="levels"):
        load_tool_call_tasks("api-bank", tmp_path, levels=["level-9"])
    with pytest.raises(DataError, match="found none"):
        load_tool_call_tasks("nestful", tmp_path / "nowhere")
    for part in ("executable-data", "executable-spec"):
        file = tmp_path / "data" / "executable" / f"{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('[{"name": "a", "query_parameters": 5, "input": "q", "output": []}]')
    with pytest.raises(DataError, match="layout"):
        load_tool_call_tasks("nestful", tmp_path, parts="executable")
