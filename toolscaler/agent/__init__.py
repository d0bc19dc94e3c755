"""Query in, really run tool calls and an answer out: executors that run tools, and the policy over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> module; imported on first use (PEP 562). Sorted by name.
_PUBLIC: dict[str, str] = {
    "AuditLog": "toolscaler.agent.audit",
    "AuditRecord": "toolscaler.agent.audit",
    "CallLedger": "toolscaler.agent.call_limits",
    "CallLimits": "toolscaler.agent.call_limits",
    "CallerPolicies": "toolscaler.agent.policy",
    "CompositeExecutor": "toolscaler.agent.executors.composite",
    "Credentials": "toolscaler.agent.executors.http_client",
    "ExecutorLimits": "toolscaler.agent.executors.limits",
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
    "read_audit": "toolscaler.agent.audit",
}

if TYPE_CHECKING:
    from toolscaler.agent.audit import AuditLog, AuditRecord, read_audit
    from toolscaler.agent.call_limits import CallLedger, CallLimits
    from toolscaler.agent.executors.base import ToolExecutor, ToolResult
    from toolscaler.agent.executors.composite import CompositeExecutor
    from toolscaler.agent.executors.http_client import Credentials
    from toolscaler.agent.executors.limits import ExecutorLimits, RetryPolicy
    from toolscaler.agent.executors.openapi import OpenAPIExecutor
    from toolscaler.agent.executors.python import PythonExecutor
    from toolscaler.agent.executors.stabletoolbench import StableToolBenchExecutor
    from toolscaler.agent.policy import CallerPolicies, PendingCall, PolicySession, PolicyVerdict, ToolPolicy
    from toolscaler.agent.selection import ToolSelection

__all__ = [
    "AuditLog",
    "AuditRecord",
    "CallLedger",
    "CallLimits",
    "CallerPolicies",
    "CompositeExecutor",
    "Credentials",
    "ExecutorLimits",
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
    "read_audit",
]


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
