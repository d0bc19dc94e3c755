"""The starter catalogue as an executor: the same texts as its trajectories show."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from toolscaler.agent.executors.base import ToolExecutor, ToolResult
from toolscaler.agent.executors.limits import ExecutorLimits
from toolscaler.agent.executors.python import PythonExecutor
from toolscaler.data.documents import ToolDocument
from toolscaler.starter import call_starter_tool, load_starter_documents

_ERROR_NAME = re.compile(r"^\w+(?:Error|Exception): ")


class StarterExecutor(ToolExecutor):
    """Runs the tools of the starter catalogue in its sandbox.

    Results are JSON, a refusal is the tool's own message: what :func:`toolscaler.starter.run_starter_call` gives.

    Args:
        tools: Ids of the tools to offer; default: all.
        limits: Time and sizes.

    Raises:
        UnknownToolError: There is no such tool.
    """

    def __init__(self, tools: Iterable[str] | None = None, *, limits: ExecutorLimits | None = None) -> None:
        documents = load_starter_documents()
        if tools is not None:
            from toolscaler.errors import UnknownToolError

            by_id = {document.id: document for document in documents}
            names = list(dict.fromkeys(tools))
            for name in names:
                if name not in by_id:
                    raise UnknownToolError(name, by_id)
            documents = [by_id[name] for name in names]
        functions = {document.id: functools.partial(_run, document.id) for document in documents}
        self._inner = PythonExecutor(functions, documents=documents, limits=limits)

    def documents(self) -> list[ToolDocument]:
        """Give the tools' documents."""
        return self._inner.documents()

    def call(self, tool: str, arguments: Mapping[str, Any], *, timeout: float | None = None) -> ToolResult:
        """Run a tool; see :meth:`ToolExecutor.call`."""
        result = self._inner.call(tool, arguments, timeout=timeout)
        if result.error_type == "tool_error":
            return replace(result, content=_ERROR_NAME.sub("", result.content))
        return result

    def time_limit(self, tool: str) -> float | None:
        """Give the time limit of a call."""
        return self._inner.time_limit(tool)

    def idempotent(self, tool: str) -> bool:
        """Say whether a call may be repeated without another effect."""
        return self._inner.idempotent(tool)

    def close(self) -> None:
        """End running calls."""
        self._inner.close()


def _run(tool: str, **arguments: Any) -> str:
    return json.dumps(call_starter_tool(tool, **arguments), ensure_ascii=False)
