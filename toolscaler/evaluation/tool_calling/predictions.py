"""What a system said it would call, in any of several forms, in; plain calls, and how many were unreadable, out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolscaler._files import atomic_path
from toolscaler.agent.chat_answers import ChatAnswer
from toolscaler.agent.records import AgentTrajectory
from toolscaler.data.sources.opening import Source
from toolscaler.data.trajectories import FINISH_TOOL, ToolCall, Trajectory
from toolscaler.errors import DataError, EvaluationError

_NAMES = ("name", "tool", "api", "api_name", "function")
_ARGUMENTS = ("arguments", "parameters", "param_dict", "args")
_LABELS = ("label", "id")
# NESTFUL ends its sequences with a pseudo-call that names the result.
_NO_TOOLS = frozenset({FINISH_TOOL, "var_result"})
#: Why a call of an agent's run was not run: its arguments were no JSON object that fits the schema.
_UNFIT = frozenset({"invalid_arguments", "invalid_schema"})


@dataclass(frozen=True)
class PredictedCalls:
    """The calls that a system predicted for one task.

    Attributes:
        calls: The calls that could be read, in order, without :data:`~toolscaler.data.FINISH_TOOL`. A call's id is the
            label under which later arguments may refer to its result; may be empty.
        invalid: Number of calls, or of whole texts, that are no JSON of a call.
        missing: Whether there is no prediction at all.
        outputs: For each call, the names under which its results may be referred to, where the prediction says so.
    """

    calls: tuple[ToolCall, ...] = ()
    invalid: int = 0
    missing: bool = False
    outputs: tuple[tuple[str, ...], ...] = ()

    @property
    def valid_json(self) -> bool:
        """Whether there is a prediction and all of it could be read."""
        return not self.missing and not self.invalid


def read_prediction(value: Any) -> PredictedCalls:
    """Read one prediction.

    Args:
        value: One of

            - an :class:`~toolscaler.agent.AgentTrajectory`: the calls that ran, without steps that were taken back;
              calls whose arguments did not fit count as invalid;
            - a :class:`~toolscaler.data.Trajectory`: its calls;
            - a :class:`~toolscaler.agent.ChatAnswer`: its calls;
            - a list of calls, each a :class:`~toolscaler.data.ToolCall`, a pair (name, arguments) or a mapping with a
              name (``name``, ``tool``, ``api`` or OpenAI's ``function``) and arguments (``arguments`` or
              ``parameters``); arguments may be JSON text;
            - text: JSON of such a list, or of one call;
            - ``None``: no prediction.

    Raises:
        EvaluationError: The value is none of these. What a model wrote never raises: it counts as invalid.
    """
    if value is None:
        return PredictedCalls(missing=True)
    if isinstance(value, PredictedCalls):
        return value
    if isinstance(value, AgentTrajectory):
        return _from_run(value)
    if isinstance(value, Trajectory):
        return PredictedCalls(tuple(call for call in value.calls if call.tool not in _NO_TOOLS))
    if isinstance(value, ChatAnswer):
        return _from_items([(call.name, call.arguments) for call in value.calls])
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, Mapping):
        return _from_items([value])
    if isinstance(value, Sequence):
        return _from_items(value)
    raise EvaluationError(f"expected a run of an agent, calls, text or None as prediction, got {type(value).__name__}")


def _from_run(run: AgentTrajectory) -> PredictedCalls:
    kept, invalid = [], 0
    for step in run.steps:
        for call in () if step.dropped else step.calls:
            if call.tool in _NO_TOOLS or not call.allowed:
                continue
            if call.result.error_type in _UNFIT:
                invalid += 1
            elif call.result.error_type != "unknown_tool":
                kept.append(ToolCall(call.tool, call.arguments, str(call.result.metadata.get("label", ""))))
    return PredictedCalls(tuple(kept), invalid)


def _from_text(text: str) -> PredictedCalls:
    if not text.strip():
        return PredictedCalls()
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return PredictedCalls(invalid=1)
    items = [data] if isinstance(data, Mapping) else data
    return _from_items(items) if isinstance(items, list) else PredictedCalls(invalid=1)


def _from_items(items: Sequence[Any]) -> PredictedCalls:
    calls: list[ToolCall] = []
    outputs: list[tuple[str, ...]] = []
    invalid = 0
    for item in items:
        try:
            call = _call(item)
        except (DataError, ValueError, TypeError, RecursionError):
            invalid += 1
            continue
        if call.tool in _NO_TOOLS:
            continue
        calls.append(call)
        named = item.get("responses") if isinstance(item, Mapping) else None
        outputs.append(tuple(map(str, named)) if isinstance(named, list) else ())
    return PredictedCalls(tuple(calls), invalid, outputs=tuple(outputs) if any(outputs) else ())


def _call(item: Any) -> ToolCall:
    """Read one call.

    Raises:
        DataError: It is none.
        ValueError: Its arguments are no JSON.
    """
    if isinstance(item, ToolCall):
        return item
    if isinstance(item, Mapping):
        inner = item.get("function")
        item = {**item, **inner} if isinstance(inner, Mapping) else item
        name = next((item[key] for key in _NAMES if isinstance(item.get(key), str)), "")
        arguments: Any = next((item[key] for key in _ARGUMENTS if item.get(key) is not None), {})
        label = next((item[key] for key in _LABELS if isinstance(item.get(key), str)), "")
        return ToolCall(name, _arguments(arguments), label.strip("$"))
    if isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2:
        return ToolCall(item[0], _arguments(item[1]))
    raise DataError(f"expected a call, got {type(item).__name__}")


def _arguments(value: Any) -> Any:
    if isinstance(value, str):
        value = json.loads(value) if value.strip() else {}
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DataError(f"expected arguments as an object, got {type(value).__name__}")
    return value


def write_predictions(path: str | Path, predictions: Mapping[str, Any]) -> None:
    """Write predictions as JSON lines (``id``, ``calls``, ``invalid``), atomically.

    Args:
        path: The file.
        predictions: Task id -> what :func:`read_prediction` takes; ``None`` is written as no calls and ``missing``.

    Raises:
        EvaluationError: A prediction is of no known form.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for id, value in predictions.items():
            read = read_prediction(value)
            row: dict[str, Any] = {"id": id, "calls": [call.to_dict() for call in read.calls], "invalid": read.invalid}
            if read.missing:
                row["missing"] = True
            if read.outputs:
                row["outputs"] = [list(names) for names in read.outputs]
            file.write(json.dumps(row) + "\n")


def read_predictions(path: str | Path) -> dict[str, PredictedCalls]:
    """Read what :func:`write_predictions` wrote: task id -> calls.

    Raises:
        DataError: There is no such file, a line is no such row, or an id occurs twice; with file and line.
    """
    source = Source.open(path)
    found: dict[str, PredictedCalls] = {}
    for record in source.records():
        line = source.line_of(record)
        row = record.data
        if record.error or not isinstance(row, Mapping) or not isinstance(row.get("id"), str):
            raise DataError(record.error or "expected an object with 'id' and 'calls'", path=path, line=line)
        if row["id"] in found:
            raise DataError(f"expected each task once, got {row['id']!r} twice", path=path, line=line)
        try:
            calls = tuple(ToolCall.from_dict(item) for item in row.get("calls", ()))
            outputs = tuple(tuple(map(str, names)) for names in row.get("outputs", ()))
            found[row["id"]] = PredictedCalls(calls, int(row.get("invalid", 0)), bool(row.get("missing")), outputs)
        except (DataError, TypeError, ValueError) as error:
            message = (
                error.message if isinstance(error, DataError) else f"expected a prediction, got other data ({error})"
            )
            raise DataError(message, path=path, line=line) from error
    return found
