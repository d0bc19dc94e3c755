"""ToolRL: the dialogue so far and the next step, marked with <think>, <tool_call>, <obs> and <response>."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from toolscaler.data.dialogues.base import DialogueReader, Reading, Turns, arguments_of, scalar, tool_name
from toolscaler.data.dialogues.glaive import divided
from toolscaler.data.sources.base import expect_mapping, text_of
from toolscaler.data.sources.opening import Record
from toolscaler.data.trajectories import ToolCall, Trajectory
from toolscaler.errors import DataError

_BLOCK = re.compile(r"<(user|think|tool_call|obs|response)>(.*?)</\1>", re.DOTALL)
_HEADING = re.compile(r"\A\s*\*\*[^*\n]*\*\*\s*")
_TOOL = re.compile(r"^\d+\. Name: (.+?)\s*$", re.MULTILINE)


class ToolRLReader(DialogueReader):
    """Reads ToolRL rows: ``instruction``, ``input`` and ``output``.

    The instruction lists tools and goes; their names are ``candidate_tools`` in the metadata. What is thought before an
    answer makes the answer a call of :data:`~toolscaler.data.FINISH_TOOL`, which can carry it.
    """

    name = "toolrl"
    summary = "ToolRL rows with <think>, <tool_call> and <response>"

    def is_row(self, row: Any) -> bool:
        """Say whether a row's input has a user turn and its output a step."""
        if not isinstance(row, Mapping) or not all(isinstance(row.get(key), str) for key in ("input", "output")):
            return False
        return "<user>" in row["input"] and _BLOCK.search(row["output"]) is not None

    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one row: the dialogue so far and the step that follows."""
        row = expect_mapping(record.data)
        turns = Turns()
        step = _Step(turns)
        for key in ("input", "output"):
            text, at = text_of(row, key), 0
            at = match.end() if key == "input" and (match := _HEADING.match(text)) else 0
            for block in _BLOCK.finditer(text, at):
                _expect_blank(text[at : block.start()])
                step.take(block.group(1), block.group(2).strip())
                at = block.end()
            _expect_blank(text[at:])
        step.close()
        metadata = {"candidate_tools": _TOOL.findall(text_of(row, "instruction"))}
        return turns.build(scalar(row.get("id")), reading.split, metadata)


class _Step:
    """A step of the assistant, block by block: its thought waits for what follows."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._thought = ""
        self._calls: list[ToolCall] = []

    def take(self, kind: str, text: str) -> None:
        """Take the next block."""
        if kind == "think":
            self.close()
            self._thought = text
        elif kind == "tool_call":
            self._calls = _calls(text)
            self._turns.say(self._thought)
            self._turns.call(*self._calls)
            self._thought = ""
        elif kind == "obs":
            for result, _ in divided(text, self._calls) if len(self._calls) > 1 else [(text, "")]:
                self._turns.result(result)
        elif kind == "response":
            self._turns.answer(text, self._thought)
            self._thought = ""
        else:
            self.close()
            self._turns.user(text)

    def close(self) -> None:
        """Add a thought that nothing followed."""
        self._turns.say(self._thought)
        self._thought = ""


def _expect_blank(text: str) -> None:
    if text.strip():
        raise DataError(f"expected <think>, <tool_call>, <obs>, <response> or <user>, got {text.strip()!r:.120}")


def _calls(text: str) -> list[ToolCall]:
    """Read calls ``{"name", "parameters"}`` that follow each other."""
    decoder = json.JSONDecoder()
    calls, at = [], 0
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise DataError(f"expected calls as JSON objects, got {text[at:]!r:.120}") from error
        item = expect_mapping(value)
        arguments = item["parameters"] if "parameters" in item else item.get("arguments")
        calls.append(ToolCall(tool_name(item.get("name")), arguments_of(arguments)))
        at += len(text[at:]) - len(text[at:].lstrip())
    return calls
