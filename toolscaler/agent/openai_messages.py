"""Between this library's messages and those of OpenAI's Chat Completions API."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolscaler.agent.planning import Plan
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import FINISH_TOOL, ToolCall, Trajectory, TrajectoryMessage
from toolscaler.errors import DataError

_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_GOOD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
#: Longest function name and longest description that the API takes, in characters.
MAX_NAME, MAX_DESCRIPTION = 64, 1024
#: Stands for a result that is missing: the API refuses a call without one.
_NO_RESULT = "[no result]"
_HASH_LENGTH = 8


def from_openai_messages(
    messages: Sequence[Mapping[str, Any]], names: Mapping[str, str] | None = None
) -> tuple[TrajectoryMessage, ...]:
    """Read messages of the Chat Completions API.

    Args:
        messages: ``system``, ``user``, ``assistant`` (with ``tool_calls``) and ``tool`` messages.
        names: Tool id -> function name (:func:`function_names`). A call of such a name is one of its tool; any other
            name is taken as a tool id.

    Raises:
        DataError: They are not of that form.
    """
    from toolscaler.data.dialogues.base import Reading
    from toolscaler.data.dialogues.messages import OpenAIMessagesReader
    from toolscaler.data.sources.opening import Record

    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise DataError(f"messages: expected a list of messages, got {type(messages).__name__}")
    trajectory = OpenAIMessagesReader().trajectory(Record({"messages": list(messages)}), Reading())
    tools = {name: tool for tool, name in (names or {}).items()}
    return tuple(
        replace(message, tool_calls=tuple(replace(call, tool=tools.get(call.tool, call.tool)) for call in calls))
        if (calls := message.tool_calls)
        else message
        for message in trajectory.messages
    )


def assistant_message(plan: Plan, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Give a plan as an assistant message; its calls need ids, which the results then name.

    A call of :data:`~toolscaler.data.FINISH_TOOL` is an answer in plain text.

    Args:
        plan: The plan.
        names: Tool id -> function name (:func:`function_names`); tools that are missing there get :func:`safe_name`.
    """
    names = names or {}
    if plan.kind != "calls":
        return {"role": "assistant", "content": plan.thought}
    if plan.calls[0].tool == FINISH_TOOL:
        return {"role": "assistant", "content": str(plan.calls[0].arguments.get("final_answer") or "")}
    return {
        "role": "assistant",
        "content": plan.thought or None,
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": names.get(call.tool) or safe_name(call.tool),
                    "arguments": json.dumps(dict(call.arguments), ensure_ascii=False),
                },
            }
            for call in plan.calls
        ],
    }


def to_openai_messages(
    messages: Sequence[TrajectoryMessage], names: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Write messages for the Chat Completions API.

    The API wants one result for each call, right behind it and under an id of its own. Ids that are empty or stand
    twice in the conversation are made anew, results are put in the order of their calls, and a missing one says so.
    Where the conversation has ended with :data:`~toolscaler.data.FINISH_TOOL`, its answer is the assistant's text.

    Args:
        messages: A conversation.
        names: Tool id -> function name (:func:`function_names`); tools that are missing there get :func:`safe_name`.

    Raises:
        DataError: The messages are no conversation in the order of :class:`~toolscaler.data.Trajectory`.
    """
    names = names or {}
    trajectory = Trajectory(tuple(messages))
    found: list[dict[str, Any]] = []
    taken: set[str] = set()
    for number, (message, pairs) in enumerate(zip(trajectory.messages, trajectory.results(), strict=True)):
        if message.role == "tool":
            continue  # written behind its call
        if not message.tool_calls:
            found.append({"role": message.role, "content": message.content})
        elif message.finishes:
            answer = message.tool_calls[0].arguments.get("final_answer")
            found.append({"role": "assistant", "content": str(answer or "") or message.content})
        else:
            ids = [_new_id(call.id, taken, f"call_{number}_{place}") for place, (call, _) in enumerate(pairs)]
            calls = [_call(call, call_id, names) for (call, _), call_id in zip(pairs, ids, strict=True)]
            found.append({"role": "assistant", "content": message.content or None, "tool_calls": calls})
            found += [
                {"role": "tool", "tool_call_id": call_id, "content": result_text(result)}
                for (_, result), call_id in zip(pairs, ids, strict=True)
            ]
    return found


def result_text(result: TrajectoryMessage | None) -> str:
    """Give a result as the text of a ``tool`` message."""
    if result is None:
        return _NO_RESULT
    return f"Error: {result.content}" if result.is_error else result.content


def _new_id(wanted: str, taken: set[str], otherwise: str) -> str:
    found, number = wanted or otherwise, 1
    while found in taken:
        found, number = f"{otherwise}_{number}", number + 1
    taken.add(found)
    return found


def _call(call: ToolCall, call_id: str, names: Mapping[str, str]) -> dict[str, Any]:
    name = names.get(call.tool) or safe_name(call.tool)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": call.arguments_json()}}


def function_names(tools: Iterable[str]) -> dict[str, str]:
    """Give each tool id a function name that the API takes; different for different tools.

    A name depends on the tool and on those whose names it resembles, not on their order: an id that is a good name
    stays as it is; the others get :func:`safe_name`, and where several would get the same, each of them has a piece of
    its id's hash behind it.

    Args:
        tools: Tool ids.

    Returns:
        Tool id -> name of at most 64 letters, digits, ``_`` and ``-`` that begins with a letter or ``_``.

    >>> function_names(["add", "math/add", "math.add"])
    {'add': 'add', 'math/add': 'math_add_bc986fc6', 'math.add': 'math_add_ecef409b'}
    """
    ids = list(dict.fromkeys(tools))
    kept = {tool for tool in ids if _GOOD_NAME.fullmatch(tool)}
    times = Counter(tool if tool in kept else safe_name(tool) for tool in ids)
    return {
        tool: tool if tool in kept else safe_name(tool) if times[safe_name(tool)] == 1 else _hashed_name(tool)
        for tool in ids
    }


def safe_name(tool: str) -> str:
    """Give a tool id as a function name; others may get the same."""
    name = _NAME.sub("_", tool).strip("_") or "tool"
    if not (name[0].isalpha() or name[0] == "_"):
        name = f"tool_{name}"
    return name[:MAX_NAME]


def _hashed_name(tool: str) -> str:
    digest = hashlib.sha256(tool.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    return f"{safe_name(tool)[: MAX_NAME - _HASH_LENGTH - 1]}_{digest}"


def function_schema(document: ToolDocument, name: str) -> dict[str, Any]:
    """Give a document as an entry of ``tools``: plain JSON data.

    A description over the API's limit is cut; notes of this library or of a server in the schema (``x-...``) are left
    out.
    """
    schema = document.to_dict()["parameters"]
    parameters = {key: value for key, value in schema.items() if not key.startswith("x-")}
    description = document.description
    if len(description) > MAX_DESCRIPTION:
        description = f"{description[: MAX_DESCRIPTION - 3]}..."
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}
