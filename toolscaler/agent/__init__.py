"""Query in, really run tool calls and an answer out: executors that run tools, and the policy over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> module; imported on first use (PEP 562). Sorted by name.
_PUBLIC: dict[str, str] = {
    "AbstentionThreshold": "toolscaler.agent.abstention",
    "AgentCall": "toolscaler.agent.records",
    "AgentConfig": "toolscaler.agent.config",
    "AgentEvent": "toolscaler.agent.records",
    "AgentSession": "toolscaler.agent.agent",
    "AgentStep": "toolscaler.agent.records",
    "AgentTrajectory": "toolscaler.agent.records",
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
    "ChatAnswer": "toolscaler.agent.chat_answers",
    "ChatCall": "toolscaler.agent.chat_answers",
    "ChatEndpoint": "toolscaler.agent.chat_client",
    "ChatPlanner": "toolscaler.agent.chat_planner",
    "CodePlanner": "toolscaler.agent.code_planner",
    "CompositeExecutor": "toolscaler.agent.executors.composite",
    "Credentials": "toolscaler.agent.executors.http_client",
    "ExecutorLimits": "toolscaler.agent.executors.limits",
    "Grounding": "toolscaler.agent.grounding",
    "HeldOutMargins": "toolscaler.agent.abstention",
    "MCPExecutor": "toolscaler.agent.executors.mcp",
    "OpenAPIExecutor": "toolscaler.agent.executors.openapi",
    "PendingCall": "toolscaler.agent.policy",
    "Plan": "toolscaler.agent.planning",
    "PlanRequest": "toolscaler.agent.planning",
    "PlannedCall": "toolscaler.agent.planning",
    "Planner": "toolscaler.agent.planning",
    "PolicySession": "toolscaler.agent.policy",
    "PolicyVerdict": "toolscaler.agent.policy",
    "PythonExecutor": "toolscaler.agent.executors.python",
    "RetryPolicy": "toolscaler.agent.executors.limits",
    "RecordingExecutor": "toolscaler.agent.executors.recording",
    "StableToolBenchExecutor": "toolscaler.agent.executors.stabletoolbench",
    "TextDelta": "toolscaler.agent.planning",
    "ToolAgent": "toolscaler.agent.agent",
    "ToolExecutor": "toolscaler.agent.executors.base",
    "ToolPolicy": "toolscaler.agent.policy",
    "ToolRanker": "toolscaler.agent.chat_planner",
    "ToolResult": "toolscaler.agent.executors.base",
    "ToolSelection": "toolscaler.agent.selection",
    "calibrate_abstention": "toolscaler.agent.abstention",
    "calibrate_agent": "toolscaler.agent.abstention",
    "collect_margins": "toolscaler.agent.abstention",
    "from_openai_messages": "toolscaler.agent.openai_messages",
    "function_names": "toolscaler.agent.openai_messages",
    "function_schema": "toolscaler.agent.openai_messages",
    "parse_arguments": "toolscaler.agent.argument_text",
    "read_audit": "toolscaler.agent.audit",
    "to_openai_messages": "toolscaler.agent.openai_messages",
}

if TYPE_CHECKING:
    from toolscaler.agent.abstention import (
        AbstentionThreshold,
        HeldOutMargins,
        calibrate_abstention,
        calibrate_agent,
        collect_margins,
    )
    from toolscaler.agent.agent import AgentSession, ToolAgent
    from toolscaler.agent.argument_processor import ArgumentLogitsProcessor
    from toolscaler.agent.argument_schema import ArgumentLimits
    from toolscaler.agent.argument_text import ArgumentError, parse_arguments
    from toolscaler.agent.arguments import ArgumentGrammar, ArgumentGrammars, ArgumentMatcher
    from toolscaler.agent.audit import AuditLog, AuditRecord, read_audit
    from toolscaler.agent.call_limits import CallLedger, CallLimits
    from toolscaler.agent.chat_answers import ChatAnswer, ChatCall
    from toolscaler.agent.chat_client import ChatEndpoint
    from toolscaler.agent.chat_planner import ChatPlanner, ToolRanker
    from toolscaler.agent.code_planner import CodePlanner
    from toolscaler.agent.config import AgentConfig
    from toolscaler.agent.executors.base import ToolExecutor, ToolResult
    from toolscaler.agent.executors.composite import CompositeExecutor
    from toolscaler.agent.executors.http_client import Credentials
    from toolscaler.agent.executors.limits import ExecutorLimits, RetryPolicy
    from toolscaler.agent.executors.mcp import MCPExecutor
    from toolscaler.agent.executors.openapi import OpenAPIExecutor
    from toolscaler.agent.executors.python import PythonExecutor
    from toolscaler.agent.executors.recording import RecordingExecutor
    from toolscaler.agent.executors.stabletoolbench import StableToolBenchExecutor
    from toolscaler.agent.grounding import Grounding
    from toolscaler.agent.openai_messages import (
        from_openai_messages,
        function_names,
        function_schema,
        to_openai_messages,
    )
    from toolscaler.agent.planning import Plan, PlannedCall, Planner, PlanRequest, TextDelta
    from toolscaler.agent.policy import CallerPolicies, PendingCall, PolicySession, PolicyVerdict, ToolPolicy
    from toolscaler.agent.records import AgentCall, AgentEvent, AgentStep, AgentTrajectory
    from toolscaler.agent.selection import ToolSelection

__all__ = [
    "AbstentionThreshold",
    "AgentCall",
    "AgentConfig",
    "AgentEvent",
    "AgentSession",
    "AgentStep",
    "AgentTrajectory",
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
    "ChatAnswer",
    "ChatCall",
    "ChatEndpoint",
    "ChatPlanner",
    "CodePlanner",
    "CompositeExecutor",
    "Credentials",
    "ExecutorLimits",
    "Grounding",
    "HeldOutMargins",
    "MCPExecutor",
    "OpenAPIExecutor",
    "PendingCall",
    "Plan",
    "PlanRequest",
    "PlannedCall",
    "Planner",
    "PolicySession",
    "PolicyVerdict",
    "PythonExecutor",
    "RecordingExecutor",
    "RetryPolicy",
    "StableToolBenchExecutor",
    "TextDelta",
    "ToolAgent",
    "ToolExecutor",
    "ToolPolicy",
    "ToolRanker",
    "ToolResult",
    "ToolSelection",
    "calibrate_abstention",
    "calibrate_agent",
    "collect_margins",
    "from_openai_messages",
    "function_names",
    "function_schema",
    "parse_arguments",
    "read_audit",
    "to_openai_messages",
]


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
