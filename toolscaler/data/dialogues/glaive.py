"""Glaive function-calling dialogues: as ShareGPT turns, as typed parts with reasoning, and as the original text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from toolscaler.data.dialogues.base import (
    DialogueReader,
    Reading,
    Turns,
    arguments_of,
    as_text,
    is_one_of,
    list_at,
    names_of,
    parse_json,
    pieces,
    scalar,
    tool_name,
)
from toolscaler.data.dialogues.conversations import ASSISTANT_ROLES, RESULT_ROLES, USER_ROLES, turns_of
from toolscaler.data.sources.base import expect_mapping, text_of
from toolscaler.data.sources.opening import Record
from toolscaler.data.trajectories import ToolCall, Trajectory
from toolscaler.errors import DataError

_CALL_ROLES = frozenset({"function_call", "tool_call"})
_SPEAKER = re.compile(r"^(USER|ASSISTANT|FUNCTION RESPONSE):[ \t]*", re.MULTILINE)
_MARK = "<functioncall>"
_END = "<|endoftext|>"
_QUOTED_ARGUMENTS = re.compile(r"""(\{\s*"name":\s*"[^"]*",\s*"arguments":\s*)'(.*)'(\s*\}\s*)""", re.DOTALL)
_FUNCTION = re.compile(r'^\{\s*"name":\s*"([^"]+)"', re.MULTILINE)


class GlaiveReader(DialogueReader):
    """Reads glaive dialogues in three forms.

    - ``conversations`` with turns ``function_call`` and ``observation``, and ``tools`` as JSON text;
    - ``messages`` whose content is a list of ``{"type", "value"}`` parts: text, reasoning, tool_call;
    - ``system`` and ``chat`` as one text each, with ``USER:``, ``ASSISTANT:`` and ``<functioncall>``.

    Reasoning is the Thought of a call; before an answer it makes the answer a call of
    :data:`~toolscaler.data.FINISH_TOOL`, which can carry it. One result text that lists the results of several calls is
    divided among them. ``candidate_tools`` in the metadata are the functions offered.
    """

    name = "glaive"
    summary = "glaive dialogues with function calls"

    def is_row(self, row: Any) -> bool:
        """Say whether a row is in one of the three forms."""
        if not isinstance(row, Mapping):
            return False
        if isinstance(row.get("chat"), str):
            return _SPEAKER.match(row["chat"].lstrip()) is not None
        if isinstance(row.get("conversations"), list | tuple):
            roles = [turn.get("from", turn.get("role")) for turn in row["conversations"] if isinstance(turn, Mapping)]
            wanted = _CALL_ROLES | USER_ROLES if "tools" in row else _CALL_ROLES
            return any(is_one_of(role, wanted) for role in roles)
        return isinstance(row.get("messages"), list | tuple) and any(map(_has_parts, row["messages"]))

    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one dialogue."""
        row = expect_mapping(record.data)
        turns = Turns()
        tools = names_of(row.get("tools"))
        if "chat" in row:
            tools = _FUNCTION.findall(text_of(row, "system").replace("functions - ", "\n")) or tools
            _read_chat(turns, text_of(row, "chat"))
        elif "conversations" in row:
            turns.system(text_of(row, "system"))
            _read_turns(turns, row)
        else:
            _read_parts(turns, list_at(row, "messages"))
        return turns.build(scalar(row.get("id")), reading.split, {"candidate_tools": tools})


def _calls_of(text: str) -> list[ToolCall]:
    """Read one call ``{"name", "arguments"}``, or a list of them, from JSON text."""
    value = parse_json(text, "a call")
    items = value if isinstance(value, list) else [value]
    calls = []
    for item in items:
        item = expect_mapping(item)
        calls.append(ToolCall(tool_name(item.get("name")), arguments_of(item.get("arguments"))))
    return calls


def _read_turns(turns: Turns, row: Mapping[str, Any]) -> None:
    calls: list[ToolCall] = []
    for role, text in turns_of(row):
        if role in USER_ROLES:
            turns.user(text)
        elif role in ASSISTANT_ROLES:
            turns.say(text)
        elif role in _CALL_ROLES:
            calls = _calls_of(text)
            turns.call(*calls)
        elif role in RESULT_ROLES:
            for part, _ in divided(text, calls):
                turns.result(part)
        elif role == "system":
            turns.system(text)
        else:
            raise DataError(f"expected a role of ShareGPT, got {role!r:.80}")


def divided(text: str, calls: list[ToolCall]) -> list[tuple[str, str]]:
    """Divide a text that lists one result for each of several calls.

    Returns:
        Text and call id (empty where the text has none) of each result; the whole text where it is no such list.
    """
    if len(calls) > 1:
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            items = None
        if isinstance(items, list) and len(items) == len(calls):
            return [_one_result(item, call) for item, call in zip(items, calls, strict=True)]
    return [(text, "")]


def _one_result(item: Any, call: ToolCall) -> tuple[str, str]:
    if isinstance(item, Mapping) and item.get("name") in (None, call.tool):
        for key in ("content", "results", "result"):
            if key in item:
                return as_text(item[key]), scalar(item.get("tool_call_id"))
    return as_text(item), ""


def _has_parts(message: Any) -> bool:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list | tuple) or not content:
        return False
    return all(isinstance(part, Mapping) and {"type", "value"} <= set(part) for part in content)


def _read_parts(turns: Turns, messages: list[Any]) -> None:
    calls: list[ToolCall] = []
    for message in messages:
        message = expect_mapping(message)
        parts: dict[str, list[str]] = {}
        for part in list_at(message, "content"):
            part = expect_mapping(part)
            parts.setdefault(text_of(part, "type"), []).append(text_of(part, "value"))
        unknown = sorted(set(parts) - {"text", "reasoning", "tool_call"})
        if unknown:
            raise DataError(f"expected parts text, reasoning or tool_call, got {unknown}")
        text, role = "\n".join(parts.get("text", ())), text_of(message, "role")
        if role == "system":
            turns.system(text)
        elif role in USER_ROLES:
            turns.user(text)
        elif role in RESULT_ROLES:
            for result, _ in divided(text, calls):
                turns.result(result)
        elif role in ASSISTANT_ROLES:
            thought = "\n".join(parts.get("reasoning", ()))
            calls = [call for value in parts.get("tool_call", ()) for call in _calls_of(value)]
            if calls:
                turns.say(thought)
                turns.say(text)
                turns.call(*calls)
            else:
                turns.answer(text, thought)
        else:
            raise DataError(f"expected the role system, user, assistant or tool, got {role!r:.80}")


def _read_chat(turns: Turns, text: str) -> None:
    for speaker, content in pieces(text, _SPEAKER):
        content = content.replace(_END, "").strip()
        if speaker == "USER":
            turns.user(content)
        elif speaker == "FUNCTION RESPONSE":
            turns.result(content)
        else:
            said, marked, call = content.partition(_MARK)
            turns.say(said)
            if marked:
                turns.call(_written_call(call))


def _written_call(text: str) -> ToolCall:
    """Read ``{"name": ..., "arguments": '{...}'}``, in which the arguments are quoted as Python does it."""
    match = _QUOTED_ARGUMENTS.fullmatch(text.strip())
    if match is None:
        return _calls_of(text)[0]
    name = expect_mapping(parse_json(f"{match.group(1)}{{}}{match.group(3)}", "a call")).get("name")
    return ToolCall(tool_name(name), arguments_of(match.group(2).replace("\\'", "'")))
