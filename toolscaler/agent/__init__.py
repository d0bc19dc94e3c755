"""Query in, really run tool calls and an answer out: executors that run tools, and the policy over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> module; imported on first use (PEP 562). Sorted by name.
_PUBLIC: dict[str, str] = {
    "ArgumentError": "toolscaler.agent.argument_text",
    "ArgumentGrammar": "toolscaler.agent.arguments",
    "ArgumentGrammars": "toolscaler.agent.arguments",
    "ArgumentLimits": "toolscaler.agent.argument_schema",
    "ArgumentLogitsProcessor": "toolscaler.agent.argument_processor",
    "ArgumentMatcher": "toolscaler.agent.arguments",
    "AuditLog": "toolscaler.agent.audit",
    "AuditRecord": "toolscaler.agent.audit",
    "CallLedger": "toolscaler.agent.call_limits",
    "CallLimits": "toolscaler.agent.call_limits",
    "CallerPolicies": "toolscaler.agent.policy",
    "CompositeExecutor": "toolscaler.agent.executors.composite",
    "Credentials": "toolscaler.agent.executors.http_client",
    "ExecutorLimits": "toolscaler.agent.executors.limits",
    "MCPExecutor": "toolscaler.agent.executors.mcp",
    "OpenAPIExecutor": "toolscaler.agent.executors.openapi",
    "PendingCall": "toolscaler.agent.policy",
    "PolicySession": "toolscaler.agent.policy",
    "PolicyVerdict": "toolscaler.agent.policy",
    "PythonExecutor": "toolscaler.agent.executors.python",
    "RetryPolicy": "toolscaler.agent.executors.limits",
    "StableToolBenchExecutor": "toolscaler.agent.executors.stabletoolbench",
    "ToolExecutor": "toolscaler.agent.executors.base",
    "ToolPolicy": "toolscaler.agent.policy",
    "ToolResult": "toolscaler.agent.executors.base",
    "ToolSelection": "toolscaler.agent.selection",
    "parse_arguments": "toolscaler.agent.argument_text",
    "read_audit": "toolscaler.agent.audit",
}

if TYPE_CHECKING:
    from toolscaler.agent.argument_processor import ArgumentLogitsProcessor
    from toolscaler.agent.argument_schema import ArgumentLimits
    from toolscaler.agent.argument_text import ArgumentError, parse_arguments
    from toolscaler.agent.arguments import ArgumentGrammar, ArgumentGrammars, ArgumentMatcher
    from toolscaler.agent.audit import AuditLog, AuditRecord, read_audit
    from toolscaler.agent.call_limits import CallLedger, CallLimits
    from toolscaler.agent.executors.base import ToolExecutor, ToolResult
    from toolscaler.agent.executors.composite import CompositeExecutor
    from toolscaler.agent.executors.http_client import Credentials
    from toolscaler.agent.executors.limits import ExecutorLimits, RetryPolicy
    from toolscaler.agent.executors.mcp import MCPExecutor
    from toolscaler.agent.executors.openapi import OpenAPIExecutor
    from toolscaler.agent.executors.python import PythonExecutor
    from toolscaler.agent.executors.stabletoolbench import StableToolBenchExecutor
    from toolscaler.agent.policy import CallerPolicies, PendingCall, PolicySession, PolicyVerdict, ToolPolicy
    from toolscaler.agent.selection import ToolSelection

__all__ = [
    "ArgumentError",
    "ArgumentGrammar",
    "ArgumentGrammars",
    "ArgumentLimits",
    "ArgumentLogitsProcessor",
    "ArgumentMatcher",
    "AuditLog",
    "AuditRecord",
    "CallLedger",
    "CallLimits",
    "CallerPolicies",
    "CompositeExecutor",
    "Credentials",
    "ExecutorLimits",
    "MCPExecutor",
    "OpenAPIExecutor",
    "PendingCall",
    "PolicySession",
    "PolicyVerdict",
    "PythonExecutor",
    "RetryPolicy",
    "StableToolBenchExecutor",
    "ToolExecutor",
    "ToolPolicy",
    "ToolResult",
    "ToolSelection",
    "parse_arguments",
    "read_audit",
]


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
