"""Query in, really run tool calls and an answer out: executors that run tools, and the policy over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> module; imported on first use (PEP 562). Sorted by name.
_PUBLIC: dict[str, str] = {
    "CompositeExecutor": "toolscaler.agent.executors.composite",
    "ToolExecutor": "toolscaler.agent.executors.base",
    "ToolResult": "toolscaler.agent.executors.base",
}

if TYPE_CHECKING:
    from toolscaler.agent.executors.base import ToolExecutor, ToolResult
    from toolscaler.agent.executors.composite import CompositeExecutor

__all__ = ["CompositeExecutor", "ToolExecutor", "ToolResult"]


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
