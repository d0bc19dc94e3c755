"""Between this library's messages and those of OpenAI's Chat Completions API."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from toolscaler.agent.planning import Plan
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import FINISH_TOOL, TrajectoryMessage
from toolscaler.errors import DataError

_NAME = re.compile(r"[^A-Za-z0-9_-]+")
#: Longest function name that the API takes.
MAX_NAME = 64


def from_openai_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[TrajectoryMessage, ...]:
    """Read messages of the Chat Completions API.

    Args:
        messages: ``system``, ``user``, ``assistant`` (with ``tool_calls``) and ``tool`` messages.

    Raises:
        DataError: They are not of that form.
    """
    from toolscaler.data.dialogues.base import Reading
    from toolscaler.data.dialogues.messages import OpenAIMessagesReader
    from toolscaler.data.sources.opening import Record

    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise DataError(f"messages: expected a list of messages, got {type(messages).__name__}")
    trajectory = OpenAIMessagesReader().trajectory(Record({"messages": list(messages)}), Reading())
    return trajectory.messages


def assistant_message(plan: Plan) -> dict[str, Any]:
    """Give a plan as an assistant message; its calls need ids, which the results then name.

    A call of :data:`~toolscaler.data.FINISH_TOOL` is an answer in plain text.
    """
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
                "function": {"name": call.tool, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)},
            }
            for call in plan.calls
        ],
    }


def to_openai_messages(messages: Sequence[TrajectoryMessage], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Write messages for the Chat Completions API.

    Args:
        messages: Messages; calls have ids.
        names: Tool id -> function name (:func:`function_names`).
    """
    found: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "tool":
            content = f"Error: {message.content}" if message.is_error else message.content
            found.append({"role": "tool", "tool_call_id": message.tool_call_id, "content": content})
        elif not message.tool_calls:
            found.append({"role": message.role, "content": message.content})
        elif message.finishes:
            answer = str(message.tool_calls[0].arguments.get("final_answer") or "")
            found.append({"role": "assistant", "content": answer or message.content})
        else:
            calls = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": names.get(call.tool, safe_name(call.tool)),
                        "arguments": call.arguments_json(),
                    },
                }
                for call in message.tool_calls
            ]
            found.append({"role": "assistant", "content": message.content or None, "tool_calls": calls})
    return found


def function_names(tools: Sequence[str]) -> dict[str, str]:
    """Give each tool id a function name that the API takes; different for different tools.

    Args:
        tools: Tool ids.

    Returns:
        Tool id -> name of at most 64 letters, digits, ``_`` and ``-``.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for tool in tools:
        name, number = safe_name(tool), 2
        while name in taken:
            tail = f"_{number}"
            name, number = safe_name(tool)[: MAX_NAME - len(tail)] + tail, number + 1
        names[tool] = name
        taken.add(name)
    return names


def safe_name(tool: str) -> str:
    """Give a tool id as a function name; others may get the same."""
    return _NAME.sub("_", tool).strip("_")[:MAX_NAME] or "tool"


def function_schema(document: ToolDocument, name: str) -> dict[str, Any]:
    """Give a document as an entry of ``tools``."""
    return {
        "type": "function",
        "function": {"name": name, "description": document.description, "parameters": dict(document.parameters)},
    }
