"""Tool-calling tasks and something that answers them in, the calls that it wants to make out; nothing is run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from toolscaler.agent.chat_client import ChatEndpoint
from toolscaler.agent.config import AgentConfig
from toolscaler.agent.executors.recording import RecordingExecutor, Respond, variable_result
from toolscaler.agent.openai_messages import function_names, function_schema
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import ToolCall
from toolscaler.errors import ConfigError
from toolscaler.evaluation.tool_calling.predictions import (
    PredictedCalls,
    read_prediction,
    read_predictions,
    write_predictions,
)
from toolscaler.evaluation.tool_calling.tasks import ToolCallTask, ToolCallTasks

if TYPE_CHECKING:
    from toolscaler.agent.planning import Planner

logger = logging.getLogger(__name__)

#: Answers a task whose tools are these; gives what :func:`read_prediction` takes.
Runner = Callable[[ToolCallTask, list[ToolDocument]], Any]


@dataclass(frozen=True)
class ToolCallRun:
    """What a system did on tasks.

    Attributes:
        predictions: Task id -> calls, for :func:`evaluate_tool_calls`; a failed task is missing.
        errors: Task id -> why it failed.
    """

    predictions: Mapping[str, PredictedCalls]
    errors: Mapping[str, str] = field(default_factory=dict)


def run_tool_call_tasks(
    tasks: ToolCallTasks,
    runner: Runner,
    *,
    only: Iterable[str] | None = None,
    path: str | Path | None = None,
    save_every: int = 20,
    show_progress: bool = False,
) -> ToolCallRun:
    """Let a system answer tasks. A task that fails fails alone.

    Args:
        tasks: The tasks.
        runner: What answers one: :func:`agent_runner`, :func:`chat_runner`, or any function of a task and its tools.
        only: Ids of the tasks to answer; default: all.
        path: JSON lines file of the predictions (:func:`write_predictions`). What it has already is not asked for
            again; failed tasks are not in it.
        save_every: Write the file after so many tasks, and at the end, however it ends.
        show_progress: Show a progress bar.

    Raises:
        ConfigError: ``only`` names no task, or ``save_every`` is out of range.
        DataError: The file is no file of predictions.
    """
    ids = [task.id for task in tasks.tasks]
    chosen = ids if only is None else list(only)
    unknown = sorted(set(chosen) - set(ids))
    if unknown:
        raise ConfigError("only", unknown[:5], "ids of tasks")
    if not isinstance(save_every, int) or isinstance(save_every, bool) or save_every < 1:
        raise ConfigError("save_every", save_every, "a whole number above zero")
    found = read_predictions(path) if path is not None and Path(path).exists() else {}
    wanted = set(chosen)
    errors: dict[str, str] = {}
    todo = [task for task in tasks.tasks if task.id in wanted and task.id not in found]
    saved = len(found)
    try:
        for task in tqdm(todo, desc=f"tasks: {tasks.name}", disable=not show_progress):
            try:
                found[task.id] = read_prediction(runner(task, tasks.offered(task)))
            except Exception as error:  # one bad task fails alone
                logger.warning("task %s failed: %s", task.id, error)
                errors[task.id] = f"{type(error).__name__}: {error}"
            if path is not None and len(found) - saved >= save_every:
                write_predictions(path, found)
                saved = len(found)
    finally:  # also where a user ends it
        if path is not None and len(found) > saved:
            write_predictions(path, found)
    return ToolCallRun({id: calls for id, calls in found.items() if id in wanted}, errors)


def agent_runner(
    planner: Planner,
    *,
    config: AgentConfig | None = None,
    respond: Respond = variable_result,
    documents: Iterable[ToolDocument] | None = None,
) -> Runner:
    """Give a runner that lets a :class:`~toolscaler.agent.ToolAgent` plan, with an executor that only records.

    Args:
        planner: A :class:`~toolscaler.agent.CodePlanner`, a :class:`~toolscaler.agent.ChatPlanner` or any other.
        config: Budgets of a run.
        respond: Gives the results that the planner reads; none is real.
        documents: The tools that the agent may choose from; default: those that each task offers.
    """
    from toolscaler.agent.agent import ToolAgent

    catalogue = None if documents is None else list(documents)

    def run(task: ToolCallTask, offered: list[ToolDocument]) -> Any:
        with RecordingExecutor(offered if catalogue is None else catalogue, respond) as executor:
            return ToolAgent(planner, executor, config=config).run(_query(task))

    return run


def chat_runner(endpoint: ChatEndpoint, *, max_tools: int = 128, max_tokens: int = 1024) -> Runner:
    """Give a runner that asks a chat endpoint once, with a task's tools as functions, and takes the calls it makes.

    Args:
        endpoint: The endpoint.
        max_tools: Functions that the endpoint takes; a task with more tools fails, it is not cut.
        max_tokens: Tokens of an answer at most.
    """

    def run(task: ToolCallTask, offered: list[ToolDocument]) -> Any:
        if len(offered) > max_tools:
            raise ConfigError("max_tools", max_tools, f"at least the {len(offered)} tools of the task, or a retriever")
        names = function_names(document.id for document in offered)
        tools = [function_schema(document, names[document.id]) for document in offered]
        messages = [{"role": "system", "content": task.system}] if task.system else []
        messages.append({"role": "user", "content": task.query})
        answer = endpoint.complete(messages, tools=tools, max_tokens=max_tokens)
        read = read_prediction(answer)
        ids = {name: id for id, name in names.items()}
        calls = tuple(ToolCall(ids.get(call.tool, call.tool), call.arguments, call.id) for call in read.calls)
        return PredictedCalls(calls, read.invalid)

    return run


def _query(task: ToolCallTask) -> str:
    """Give a task's text for a planner that has a system message of its own."""
    return f"{task.system}\n\n{task.query}" if task.system else task.query
