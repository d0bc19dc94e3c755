"""API-Bank: dialogues turn by turn, single steps of dialogues, and multi-step tasks."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from toolscaler.data.dialogues.base import (
    DialogueReader,
    Reading,
    Turns,
    arguments_of,
    as_text,
    is_one_of,
    list_at,
    pieces,
    scalar,
    tool_name,
)
from toolscaler.data.dialogues.calls import WrittenCall, parse_calls, parse_literal
from toolscaler.data.sources.base import expect_mapping, text_of
from toolscaler.data.sources.opening import Record, Source
from toolscaler.data.trajectories import ToolCall, Trajectory
from toolscaler.errors import DataError

_ROLES = frozenset({"User", "AI", "API"})
_TARGETS = ("expected_output", "output")
_ASKS = re.compile(r"^Generate (?:API Request|AI Response):\s*\Z", re.MULTILINE)
_TURN = re.compile(r"^(User|AI|API-Request): ?", re.MULTILINE)
_REQUEST = re.compile(r"\s*\[?(.*?\))\s*\]?\s*(?:->(.*))?", re.DOTALL)


class ApiBankReader(DialogueReader):
    """Reads API-Bank in its three forms.

    - A file of turns (``role`` User, AI or API) is one trajectory.
    - Steps (``input``, ``output`` or ``expected_output``): each row repeats the dialogue so far. Rows that a longer row
      of the same source repeats are left out and counted.
    - Tasks (``requirement``, ``apis``, ``response``).

    Metadata: ``repaired`` and ``unquoted`` say which arguments of steps were no literals.
    """

    name = "api-bank"
    summary = "API-Bank turns, steps or tasks"

    def is_row(self, row: Any) -> bool:
        """Say whether a row is a turn, a step or a task."""
        if not isinstance(row, Mapping):
            return False
        return _is_turn(row) or _is_step(row) or ("requirement" in row and "apis" in row)

    def records(self, source: Source, reading: Reading) -> Iterator[Record]:
        """Yield one record a dialogue: a file of turns is one."""
        if source.sample and all(map(_is_turn, source.sample)):
            yield _whole(source)
            return
        records = list(source.records())
        contexts = sorted(_context(record.data) for record in records if not record.error and _is_step(record.data))
        for record in records:
            if not record.error and _is_step(record.data) and _is_repeated(record.data, contexts):
                reading.left_out["steps that a longer row repeats"] += 1
            else:
                yield record

    def trajectory(self, record: Record, reading: Reading) -> Trajectory:
        """Make the trajectory of one dialogue."""
        turns = Turns()
        metadata: dict[str, Any] = {}
        if isinstance(record.data, list):
            id = str((record.context or {}).get("id", ""))
            _read_turns(turns, record.data)
        else:
            row = expect_mapping(record.data)
            id = "-".join(filter(None, (scalar(row.get(key)) for key in ("file", "sample_id", "id", "api_id"))))
            if _is_step(row):
                metadata = _read_step(turns, row)
            else:
                _read_task(turns, row)
        return turns.build(id, reading.split, metadata)


def _is_turn(row: Any) -> bool:
    return isinstance(row, Mapping) and is_one_of(row.get("role"), _ROLES) and ("text" in row or "api_name" in row)


def _is_step(row: Any) -> bool:
    if not isinstance(row, Mapping) or not isinstance(row.get("input"), str):
        return False
    return _target(row).startswith(("API-Request:", "AI:"))


def _target(row: Mapping[str, Any]) -> str:
    found = next((row[key] for key in _TARGETS if isinstance(row.get(key), str)), "")
    return found.strip()


def _whole(source: Source) -> Record:
    """Give a file of turns as one record."""
    turns = []
    for record in source.records():
        if record.error or not isinstance(record.data, Mapping):
            return Record(None, source.line_of(record), error=record.error or "expected a turn as JSON object")
        turns.append(record.data)
    return Record(turns, context={"id": source.path.name.split(".", 1)[0] if source.path is not None else ""})


def _context(row: Mapping[str, Any]) -> str:
    return _ASKS.sub("", row["input"]).removesuffix("\n")


def _is_repeated(row: Mapping[str, Any], contexts: list[str]) -> bool:
    """Say whether some row's dialogue so far goes on from this row's target; ``contexts`` are sorted."""
    text = f"{_context(row)}\n{_target(row)}"
    for start in (text, f"{text}\n", f"{text}->"):
        at = bisect.bisect_left(contexts, start)
        if at < len(contexts) and (contexts[at] == text or (start != text and contexts[at].startswith(start))):
            return True
    return False


def _read_turns(turns: Turns, rows: list[Any]) -> None:
    for number, row in enumerate(rows, 1):
        row = expect_mapping(row)
        if row.get("role") == "User":
            turns.user(text_of(row, "text"))
        elif row.get("role") == "AI":
            turns.say(text_of(row, "text"))
        elif row.get("role") == "API":
            turns.call(ToolCall(tool_name(row.get("api_name")), arguments_of(row.get("param_dict"))))
            _result(turns, row.get("result"))
        else:
            raise DataError(f"turn {number}: expected the role User, AI or API, got {row.get('role')!r:.80}")


def _result(turns: Turns, result: Any) -> None:
    """Add a result; of ``{"api_name", "input", "output", "exception"}`` the output, or the exception as an error."""
    if isinstance(result, Mapping) and "output" in result and "exception" in result:
        failed = result["exception"] is not None
        turns.result(as_text(result["exception"] if failed else result["output"]), is_error=failed)
    else:
        turns.result(as_text(result))


def _read_task(turns: Turns, row: Mapping[str, Any]) -> None:
    turns.user(text_of(row, "requirement"))
    for item in list_at(row, "apis"):
        item = expect_mapping(item)
        turns.call(ToolCall(tool_name(item.get("api_name")), arguments_of(item.get("input"))))
        _result(turns, item.get("output"))
    turns.answer(text_of(row, "response"))


def _read_step(turns: Turns, row: Mapping[str, Any]) -> dict[str, Any]:
    """Read the dialogue so far and the target; texts of several lines belong to the turn above them."""
    text = f"{_context(row)}\n{_target(row)}"
    written: list[WrittenCall] = []
    for speaker, content in pieces(text, _TURN):
        content = content.rstrip("\n")
        if speaker == "User":
            turns.user(content)
        elif speaker == "AI":
            turns.say(content)
        else:
            written += _request(turns, content)
    unquoted = [value for call in written for value in call.unquoted]
    return {"repaired": sum(call.repaired for call in written) or None, "unquoted": unquoted}


def _request(turns: Turns, content: str) -> list[WrittenCall]:
    """Read ``[Name(key=value)]->result``. Several results of several calls are written with commas between them."""
    match = _REQUEST.fullmatch(content)
    if match is None:
        raise DataError(f"expected API-Request: [Name(key=value)], got {content!r:.120}")
    calls = parse_calls(match.group(1))
    turns.call(*(ToolCall(call.name, call.arguments) for call in calls))
    if match.group(2) is None:
        return calls
    text = match.group(2).strip()
    try:
        value = parse_literal(text)
    except ValueError:
        value = text
    if len(calls) > 1 and isinstance(value, list) and len(value) == len(calls):
        for item in value:
            _result(turns, item)
    else:  # only the envelope is opened; any other result stays as the source writes it
        _result(turns, value if isinstance(value, Mapping) and "exception" in value else text)
    return calls
