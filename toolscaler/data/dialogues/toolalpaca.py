"""ToolAlpaca: APIs, each with instructions and either golden calls (evaluation) or whole dialogues (training)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from toolscaler.data.dialogues.base import (
    DialogueReader,
    Reading,
    Turns,
    arguments_of,
    as_text,
    find_references,
    list_at,
    tool_name,
)
from toolscaler.data.sources.base import expect_mapping, text_of
from toolscaler.data.sources.opening import Record, Source
from toolscaler.data.trajectories import ToolCall, Trajectory
from toolscaler.errors import DataError

# A reference stands without quotes, so that the golden arguments are no JSON: {"id": ${id from search}}.
_REFERENCE = re.compile(r"\$\{[^{}]*\}")
_BARE_REFERENCE = re.compile(r'(?<=[:\[,])\s*(\$\{[^{}"]*\})(?=\s*[,}\]])')
_STATUS = re.compile(r"\s*Status Code:\s*([45])\d\d")
_ACTION = re.compile(r"^[ \t]*(?:ASSISTANT )?Action:", re.MULTILINE)


class ToolAlpacaReader(DialogueReader):
    """Reads ToolAlpaca. A tool's id is ``API name/function``, since functions are unique only within an API.

    References such as ``${id from search}`` become text in the arguments; the metadata's ``references`` lists them.
    A result whose status code is 4xx or 5xx is an error. ``candidate_tools`` are the API's functions.
    """

    name = "toolalpaca"
    summary = "ToolAlpaca APIs with Instructions and Golden_Answers, or Instances"

    def is_row(self, row: Any) -> bool:
        """Say whether a row is an API with dialogues."""
        if not isinstance(row, Mapping):
            return False
        return "Instances" in row or ("Instructions" in row and "Golden_Answers" in row)

    def records(self, source: Source, reading: Reading) -> Iterator[Record]:
        """Yield one record an instruction."""
        for record in source.records():
            if record.error:
                yield record
                continue
            try:
                yield from _parts(record)
            except DataError as error:
                yield Record(None, record.line, record.pointer, error.message)

    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one instruction."""
        about = record.context or {}
        turns = Turns()
        read = _golden if "calls" in record.data else _instance
        calls = read(turns, record.data, str(about["api"]))
        metadata = {"candidate_tools": about["tools"], "references": find_references(calls, _REFERENCE)}
        return turns.build(str(about["id"]), reading.split, metadata)


def _parts(record: Record) -> Iterator[Record]:
    row = expect_mapping(record.data)
    api = text_of(row, "Name")
    functions = row.get("Function_Description")
    names = [name for name in functions if name != "components"] if isinstance(functions, Mapping) else []
    if "Instances" in row:
        key, items = "Instances", list_at(row, "Instances")
    else:
        key, answers = "Golden_Answers", list_at(row, "Golden_Answers")
        asked = list_at(row, "Instructions")
        if len(asked) != len(answers):
            raise DataError(f"{api}: expected as many Golden_Answers as Instructions, got {len(answers)}, {len(asked)}")
        items = [{"input": text, "calls": calls} for text, calls in zip(asked, answers, strict=True)]
    for number, item in enumerate(items):
        context = {"api": api, "id": f"{api}/{number}", "tools": [_tool_id(api, name) for name in names]}
        error = "" if isinstance(item, Mapping) else f"expected a JSON object, got {type(item).__name__}"
        yield Record(item, record.line, (*record.pointer, key, number), error, context)


def _tool_id(api: str, function: Any) -> str:
    name = tool_name(function)
    return f"{api}/{name}" if api else name


def _golden(turns: Turns, data: Mapping[str, Any], api: str) -> list[ToolCall]:
    turns.user(text_of(data, "input"))
    calls = []
    for item in list_at(data, "calls"):
        item = expect_mapping(item)
        calls.append(ToolCall(_tool_id(api, item.get("Action")), _arguments(item.get("Action_Input"))))
        turns.call(calls[-1])
    return calls


def _instance(turns: Turns, data: Mapping[str, Any], api: str) -> list[ToolCall]:
    """Read a training dialogue, whose steps are ``[[function, arguments, log], result]``."""
    turns.user(text_of(data, "input"))
    calls = []
    for step in data.get("intermediate_steps") or ():
        if not (isinstance(step, list | tuple) and len(step) == 2 and isinstance(step[0], list | tuple)):
            raise DataError(f"expected a step [[function, arguments, log], result], got {step!r:.120}")
        action, result = step
        if len(action) < 2:
            raise DataError(f"expected a function and its arguments, got {action!r:.120}")
        if len(action) > 2:
            turns.say(_thought(as_text(action[2])))
        calls.append(ToolCall(_tool_id(api, action[0]), _arguments(action[1])))
        turns.call(calls[-1])
        text = as_text(result)
        turns.result(text, is_error=_STATUS.match(text) is not None)
    turns.answer(text_of(data, "output"), text_of(data, "Final Thought"))
    return calls


def _thought(log: str) -> str:
    """Give the Thought of a log, which goes on with the action."""
    return _ACTION.split(log, maxsplit=1)[0].strip().removeprefix("ASSISTANT ").removeprefix("Thought:")


def _arguments(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        value = _BARE_REFERENCE.sub(r'"\1"', value)
    return arguments_of(value)
