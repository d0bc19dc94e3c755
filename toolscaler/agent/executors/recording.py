"""Calls in, the same calls written down out: an executor that runs nothing, for data sets whose tools do not exist."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from toolscaler.agent.executors.base import ToolExecutor, ToolResult
from toolscaler.agent.executors.checking import ArgumentChecker, CheckFailed
from toolscaler.agent.executors.limits import ExecutorLimits
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import ToolCall
from toolscaler.errors import DataError


@dataclass(frozen=True)
class RecordedCall:
    """One call that was written down.

    Attributes:
        call: Tool and arguments; its id is the label of the result, ``var1`` for the first call.
        number: How many calls came before it.
        document: The tool's document.
    """

    call: ToolCall
    number: int
    document: ToolDocument


#: Gives the text that the model reads as the result of a recorded call.
Respond = Callable[[RecordedCall], str]


def variable_result(recorded: RecordedCall) -> str:
    """Give a result that names itself: ``$var1$``, and ``$var1.field$`` for each field that the tool returns.

    A model that builds on the result can then say so in the words of data sets such as NESTFUL.
    """
    label = recorded.call.id
    returns = recorded.document.returns or {}
    fields = returns.get("properties") if isinstance(returns, Mapping) else None
    if isinstance(fields, Mapping) and fields:
        return json.dumps({name: f"${label}.{name}$" for name in fields}, ensure_ascii=False)
    return json.dumps({"result": f"${label}$"})


class RecordingExecutor(ToolExecutor):
    """Writes calls down and runs none of them.

    Args:
        documents: The tools that can be called.
        respond: Gives the text of a call's result; default: :func:`variable_result`.
        check: Whether arguments must fit the tool's schema; a call that does not fit is a failure and is not recorded.
            Off by default: a wrong call is what an evaluation wants to see, not to prevent.

    Raises:
        DataError: Two documents have one id.
    """

    def __init__(
        self, documents: Iterable[ToolDocument], respond: Respond = variable_result, *, check: bool = False
    ) -> None:
        self._documents: dict[str, ToolDocument] = {}
        for document in documents:
            if document.id in self._documents:
                raise DataError(f"expected each tool id once, got {document.id!r} twice")
            self._documents[document.id] = document
        self._listed = list(self._documents.values())
        self._respond = respond
        limits = ExecutorLimits()
        self._checkers = {id: ArgumentChecker(item, limits) for id, item in self._documents.items()} if check else {}
        self._recorded: list[RecordedCall] = []
        self._lock = threading.Lock()

    def documents(self) -> list[ToolDocument]:
        """Give the documents of the tools."""
        return list(self._listed)

    @property
    def recorded(self) -> tuple[RecordedCall, ...]:
        """Every call so far, in order."""
        with self._lock:
            return tuple(self._recorded)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Tool and arguments of every call so far, in order."""
        return tuple(recorded.call for recorded in self.recorded)

    def clear(self) -> tuple[ToolCall, ...]:
        """Forget the calls so far, and give them; labels begin anew."""
        with self._lock:
            calls = tuple(recorded.call for recorded in self._recorded)
            self._recorded.clear()
        return calls

    def call(self, tool: str, arguments: Mapping[str, Any], *, timeout: float | None = None) -> ToolResult:
        """Write a call down; see :meth:`ToolExecutor.call`. The result's metadata has its ``label``."""
        document = self._documents.get(tool)
        if document is None:
            return ToolResult.failure("unknown_tool", f"there is no tool {tool!r}")
        if tool in self._checkers:
            try:
                self._checkers[tool].check(arguments)
            except CheckFailed as error:
                return ToolResult.failure(error.error_type, error.message)
        try:
            with self._lock:
                number = len(self._recorded)
                recorded = RecordedCall(ToolCall(tool, arguments, f"var{number + 1}"), number, document)
                self._recorded.append(recorded)
        except DataError as error:
            return ToolResult.failure("invalid_arguments", error.message)
        try:
            text = self._respond(recorded)
        except Exception as error:  # the caller's function: a failure is a result
            return ToolResult.failure("tool_error", f"the answer could not be made: {type(error).__name__}")
        return ToolResult(text, metadata={"label": recorded.call.id})

    def idempotent(self, tool: str) -> bool:
        """Say no: a repeated call would be recorded twice."""
        return False
