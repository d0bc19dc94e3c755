"""Queries with the sequence of calls that answers them: UltraTool plans, Seal-Tools and NESTFUL. No results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from toolscaler.data.dialogues.base import (
    DialogueReader,
    Reading,
    Turns,
    arguments_of,
    find_references,
    list_at,
    names_of,
    parse_json,
    scalar,
    tool_name,
)
from toolscaler.data.dialogues.calls import WrittenCall, parse_call, parse_literal
from toolscaler.data.dialogues.conversations import ASSISTANT_ROLES, USER_ROLES, said
from toolscaler.data.sources.base import expect_mapping, text_of
from toolscaler.data.sources.opening import Record
from toolscaler.data.trajectories import ToolCall, Trajectory
from toolscaler.errors import DataError

_SEAL_REFERENCE = re.compile(r"API_call_\d+")
_SEAL_TASK = re.compile(r'task_instruction = "(.*)"\s*Output:', re.DOTALL)
_NESTFUL_REFERENCE = re.compile(r"\$var_?\d+[^$]*\$")
_NO_TOOL = frozenset({"null", "none", "no tool required", "不需要工具"})
_RESULT = "var_result"


class UltraToolReader(DialogueReader):
    """Reads UltraTool plans: the question, then a call for each step that has one.

    The Thought of a call is the text of its step, after the texts of the steps without a tool before it. Metadata:
    ``domain``, ``candidate_tools``, ``references`` (arguments that are no literals, such as ``<order id>``: they stand
    for former results), ``repaired`` (quoted values that Python cannot read) and ``closing_steps`` (after the last
    call).
    """

    name = "ultratool"
    summary = "UltraTool questions with a plan"

    def is_row(self, row: Any) -> bool:
        """Say whether a row has a question and a plan of steps."""
        if not isinstance(row, Mapping) or "question" not in row or not isinstance(row.get("plan"), list | tuple):
            return False
        return all(isinstance(step, Mapping) and "tool" in step for step in row["plan"])

    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one plan."""
        row = expect_mapping(record.data)
        turns = Turns()
        turns.user(text_of(row, "question"))
        written: list[WrittenCall] = []
        for step in list_at(row, "plan"):
            step = expect_mapping(step)
            turns.say(text_of(step, "step"))
            tool = text_of(step, "tool")
            if tool.strip() and tool.strip().lower() not in _NO_TOOL:
                written.append(parse_call(tool))
                turns.call(ToolCall(written[-1].name, written[-1].arguments))
        metadata = {
            "domain": scalar(row.get("domain")),
            "candidate_tools": names_of(row.get("tools")),
            "references": list(dict.fromkeys(value for call in written for value in call.unquoted)),
            "repaired": sum(call.repaired for call in written) or None,
            "closing_steps": turns.leftover(),
        }
        return turns.build(scalar(row.get("id")), reading.split, metadata)


class SealToolsReader(DialogueReader):
    """Reads Seal-Tools in its three forms: rows with ``calling``, lists that end in the query, and conversations.

    Metadata: ``references`` (``API_call_0`` is the first value that a former call returns) and ``responses``, the names
    of the values that each call returns.
    """

    name = "seal-tools"
    summary = "Seal-Tools queries with calls"

    def is_row(self, row: Any) -> bool:
        """Say whether a row is in one of the three forms."""
        if isinstance(row, Mapping):
            if "query" in row and isinstance(row.get("calling"), list | tuple):
                return True
            return any(text.lstrip().startswith("[{'api'") for text in said(row, ASSISTANT_ROLES))
        if not isinstance(row, list | tuple) or len(row) < 2 or not isinstance(row[-1], str):
            return False
        return all(isinstance(call, Mapping) and "api" in call for call in _flat(row[:-1]))

    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one query."""
        id, query, items = _seal_row(record.data)
        turns = Turns()
        turns.user(query)
        calls, responses = [], []
        for item in items:
            item = expect_mapping(item)
            calls.append(ToolCall(tool_name(item.get("api")), arguments_of(item.get("parameters"))))
            responses.append(list(item.get("responses") or ()) if isinstance(item.get("responses"), list) else [])
            turns.call(calls[-1])
        metadata = {
            "references": find_references(calls, _SEAL_REFERENCE),
            "responses": responses if any(responses) else [],
        }
        return turns.build(id, reading.split, metadata)


def _flat(items: Any) -> Iterator[Any]:
    """Yield calls that stand alone or in a list."""
    for item in items:
        if isinstance(item, list | tuple):
            yield from item
        else:
            yield item


def _seal_row(row: Any) -> tuple[str, str, list[Any]]:
    if isinstance(row, list | tuple):
        if not row or not isinstance(row[-1], str):
            raise DataError("expected a list of calls that ends in the query")
        return "", row[-1], list(_flat(row[:-1]))
    row = expect_mapping(row)
    id = scalar(row.get("id"))
    if "conversations" not in row:
        return id, text_of(row, "query"), list_at(row, "calling")
    asked, answered = said(row, USER_ROLES), said(row, ASSISTANT_ROLES)
    match = _SEAL_TASK.search(asked[0]) if len(asked) == 1 else None
    if match is None or len(answered) != 1:
        raise DataError("expected one prompt with a task_instruction and one answer")
    try:
        calls = parse_literal(answered[0])
    except ValueError as error:
        raise DataError(f"expected a list of calls, got {answered[0]!r:.120}") from error
    if not isinstance(calls, list):
        raise DataError(f"expected a list of calls, got {answered[0]!r:.120}")
    return id, match.group(1), calls


class NestfulReader(DialogueReader):
    """Reads NESTFUL: nested calls, whose arguments refer to former results as ``$var1.field$``.

    A call's label (``var1``) becomes its id. Metadata: ``references``; ``result``, the arguments of the pseudo-call
    ``var_result``; ``gold_answer`` where the source has it.
    """

    name = "nestful"
    summary = "NESTFUL inputs with nested calls"

    def is_row(self, row: Any) -> bool:
        """Say whether a row has an input and labelled calls."""
        if not isinstance(row, Mapping) or not isinstance(row.get("input"), str):
            return False
        try:
            calls = _calls(row.get("output"))
        except DataError:
            return False
        return bool(calls) and all(isinstance(call, Mapping) and {"name", "arguments"} <= set(call) for call in calls)

    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one input."""
        row = expect_mapping(record.data)
        turns = Turns()
        turns.user(text_of(row, "input"))
        calls: list[ToolCall] = []
        result: Mapping[str, Any] = {}
        for item in _calls(row.get("output")):
            item = expect_mapping(item)
            arguments = arguments_of(item.get("arguments"))
            if item.get("name") == _RESULT:
                result = arguments
                continue
            label = scalar(item.get("label")).strip("$")
            calls.append(ToolCall(tool_name(item.get("name")), arguments, label))
            turns.call(calls[-1])
        metadata = {
            "references": find_references(calls, _NESTFUL_REFERENCE),
            "result": dict(result),
            "gold_answer": row.get("gold_answer"),
            "candidate_tools": names_of(row.get("tools")),
        }
        return turns.build(scalar(row.get("sample_id")) or scalar(row.get("id")), reading.split, metadata)


def _calls(value: Any) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_json(value, "calls")
    if not isinstance(value, list | tuple):
        raise DataError(f"expected a list of calls, got {type(value).__name__}")
    return list(value)
