"""Tool id and arguments in, result text out: executors run tools, and give every failure as a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> module; imported on first use, since most executors need packages of the `agent` extra (PEP 562).
_PUBLIC: dict[str, str] = {
    "CompositeExecutor": "toolscaler.agent.executors.composite",
    "Credentials": "toolscaler.agent.executors.http_client",
    "ExecutorLimits": "toolscaler.agent.executors.limits",
    "MCPExecutor": "toolscaler.agent.executors.mcp",
    "OpenAPIExecutor": "toolscaler.agent.executors.openapi",
    "PythonExecutor": "toolscaler.agent.executors.python",
    "RetryPolicy": "toolscaler.agent.executors.limits",
    "RecordingExecutor": "toolscaler.agent.executors.recording",
    "StableToolBenchExecutor": "toolscaler.agent.executors.stabletoolbench",
    "ToolExecutor": "toolscaler.agent.executors.base",
    "ToolResult": "toolscaler.agent.executors.base",
}

if TYPE_CHECKING:
    from toolscaler.agent.executors.base import ToolExecutor, ToolResult
    from toolscaler.agent.executors.composite import CompositeExecutor
    from toolscaler.agent.executors.http_client import Credentials
    from toolscaler.agent.executors.limits import ExecutorLimits, RetryPolicy
    from toolscaler.agent.executors.mcp import MCPExecutor
    from toolscaler.agent.executors.openapi import OpenAPIExecutor
    from toolscaler.agent.executors.python import PythonExecutor
    from toolscaler.agent.executors.recording import RecordingExecutor
    from toolscaler.agent.executors.stabletoolbench import StableToolBenchExecutor

__all__ = [
    "CompositeExecutor",
    "Credentials",
    "ExecutorLimits",
    "MCPExecutor",
    "OpenAPIExecutor",
    "PythonExecutor",
    "RecordingExecutor",
    "RetryPolicy",
    "StableToolBenchExecutor",
    "ToolExecutor",
    "ToolResult",
]


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
