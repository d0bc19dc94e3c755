"""Contract: an agent or a chat model answers tasks whose tools do not exist; one bad task fails alone."""

from __future__ import annotations

import pytest

from agent.servers import chat_server as script
from toolscaler.agent.chat_client import ChatEndpoint
from toolscaler.agent.chat_planner import ChatPlanner
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import ToolCall
from toolscaler.errors import ConfigError
from toolscaler.evaluation.tool_calling import (
    ToolCallTask,
    ToolCallTasks,
    agent_runner,
    chat_runner,
    evaluate_tool_calls,
    read_predictions,
    run_tool_call_tasks,
)

TEXT = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
ROUTE = {"type": "object", "properties": {"start": {"type": "string"}, "end": {"type": "string"}}}
PLACE = {"type": "object", "properties": {"id": {"type": "string"}}}
TASKS = ToolCallTasks(
    "trips",
    "nestful",
    [ToolDocument("find.place", parameters=TEXT, returns=PLACE), ToolDocument("route", parameters=ROUTE)],
    [
        ToolCallTask(
            "0",
            "From Oslo to Rome?",
            (
                ToolCall("find.place", {"name": "Oslo"}, "var1"),
                ToolCall("find.place", {"name": "Rome"}, "var2"),
                ToolCall("route", {"start": "$var1.id$", "end": "$var2.id$"}, "var3"),
            ),
        ),
        ToolCallTask("1", "Where is Bonn?", (ToolCall("find.place", {"name": "Bonn"}, "var1"),), tools=("find.place",)),
    ],
)


@pytest.fixture
def endpoint():
    """Give ``endpoint(*answers, model=None)`` -> (server, endpoint)."""
    opened = []

    def made(*answers, model=None):
        server = script.ChatServer(*answers, model=model)
        opened.append(server)
        client = ChatEndpoint(server.url, "tiny", api_key=lambda: script.KEY, max_retries=0, timeout=5.0)
        opened.append(client)
        return server, client

    yield made
    for item in reversed(opened):
        item.__exit__(None, None, None)


def test_an_agent_is_scored_on_calls_that_nobody_ran(endpoint):
    server, client = endpoint(
        script.calls(("find_place", {"name": "Rome"}), ("find_place", {"name": "Oslo"})),
        script.calls(("route", {"start": "$var2.id$", "end": "$var1.id$"})),
        script.text("About two days."),
        script.calls(("find_place", {"name": "Berlin"})),
        script.text("There."),
    )
    run = run_tool_call_tasks(TASKS, agent_runner(ChatPlanner(client)))
    assert run.errors == {}
    result = evaluate_tool_calls(run.predictions, TASKS, num_resamples=100)
    assert [record["values"]["unordered_match"] for record in result.per_task] == [1.0, 0.0]
    assert [record["values"]["exact_match"] for record in result.per_task] == [0.0, 0.0]
    assert result.metrics["dependency_f1_micro"].mean == 1.0
    read = [message["content"] for message in server.requests[1]["messages"] if message["role"] == "tool"]
    assert read == ['{"id": "$var1.id$"}', '{"id": "$var2.id$"}']
    offered = [[tool["function"]["name"] for tool in request["tools"]] for request in server.requests]
    assert "route" in offered[0]
    assert "route" not in offered[3]
    assert server.problems == []


def test_a_chat_model_is_asked_once(endpoint):
    server, client = endpoint(
        script.calls(("find_place", {"name": "Oslo"}), ("route", '{"start": ')),
        script.calls(("find_place", {"name": "Bonn"})),
    )
    run = run_tool_call_tasks(TASKS, chat_runner(client))
    assert [(call.tool, call.arguments) for call in run.predictions["0"].calls] == [("find.place", {"name": "Oslo"})]
    assert run.predictions["0"].invalid == 1
    result = evaluate_tool_calls(run.predictions, TASKS, num_resamples=100)
    assert [record["values"]["exact_match"] for record in result.per_task] == [0.0, 1.0]
    assert len(server.requests) == 2
    refused = run_tool_call_tasks(TASKS, chat_runner(client, max_tools=1), only=["0"])
    assert "max_tools" in refused.errors["0"]
    assert evaluate_tool_calls(refused.predictions, TASKS.tasks[:1], kind="nestful").counts["missing"] == 1


def test_system_messages_are_sent(endpoint):
    server, client = endpoint(model=lambda request: script.text("none"))
    task = ToolCallTask("0", "q", system="Be terse.", tools=("route",))
    tasks = ToolCallTasks("s", "sequence", TASKS.documents, [task])
    assert run_tool_call_tasks(tasks, chat_runner(client)).predictions["0"].calls == ()
    assert run_tool_call_tasks(tasks, agent_runner(ChatPlanner(client))).predictions["0"].calls == ()
    first, second = (request["messages"] for request in server.requests)
    assert [message["content"] for message in first] == ["Be terse.", "q"]
    assert second[-1]["content"] == "Be terse.\n\nq"


def test_a_run_goes_on_where_it_ended(tmp_path):
    asked = []

    def runner(task, offered):
        asked.append(task.id)
        if task.id == "1" and asked.count("1") == 1:
            raise ValueError("no luck")
        return list(task.calls)

    path = tmp_path / "calls.jsonl"
    first = run_tool_call_tasks(TASKS, runner, path=path)
    assert (list(first.predictions), first.errors) == (["0"], {"1": "ValueError: no luck"})
    second = run_tool_call_tasks(TASKS, runner, path=path)
    assert (asked, second.errors) == (["0", "1", "1"], {})
    assert evaluate_tool_calls(second.predictions, TASKS, num_resamples=100).metrics["exact_match"].mean == 1.0
    assert run_tool_call_tasks(TASKS, runner, path=path, only=["1"]).predictions.keys() == {"1"}
    path.unlink()

    def ended(task, offered):
        if task.id == "1":
            raise KeyboardInterrupt
        return []

    with pytest.raises(KeyboardInterrupt):
        run_tool_call_tasks(TASKS, ended, path=path)
    assert list(read_predictions(path)) == ["0"]
    with pytest.raises(ConfigError, match="only"):
        run_tool_call_tasks(TASKS, runner, only=["7"])
    with pytest.raises(ConfigError, match="save_every"):
        run_tool_call_tasks(TASKS, runner, save_every=0)
