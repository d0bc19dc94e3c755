"""Tools and queries as rows: any tool source in, tool documents and labelled queries out."""

from __future__ import annotations

from typing import Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> the module that defines it. Nothing is imported before it is asked for (PEP 562).
_PUBLIC: dict[str, str] = {
    "BUNDLES": "toolscaler.data.bundles",
    "QuerySplits": "toolscaler.data.splits",
    "ReadReport": "toolscaler.data.sources.base",
    "RowProblem": "toolscaler.data.sources.base",
    "TASK_FIELDS": "toolscaler.data.documents",
    "ToolBundle": "toolscaler.data.bundles",
    "ToolDocument": "toolscaler.data.documents",
    "ToolDocumentList": "toolscaler.data.sources.base",
    "ToolParameter": "toolscaler.data.documents",
    "ToolQuery": "toolscaler.data.queries",
    "available_formats": "toolscaler.data.sources.registry",
    "document_prompts": "toolscaler.data.rows",
    "document_from_function": "toolscaler.data.sources.functions",
    "documents_from_dataset": "toolscaler.data.sources.loading",
    "documents_from_functions": "toolscaler.data.sources.functions",
    "LabelReport": "toolscaler.data.labels",
    "ToolQueryList": "toolscaler.data.query_files",
    "check_labels": "toolscaler.data.labels",
    "load_bundle": "toolscaler.data.bundles",
    "load_tool_documents": "toolscaler.data.sources.loading",
    "load_tool_queries": "toolscaler.data.query_files",
    "register_reader": "toolscaler.data.sources.registry",
    "retrieval_rows": "toolscaler.data.rows",
    "split_queries": "toolscaler.data.splits",
    "FINISH_TOOL": "toolscaler.data.trajectories",
    "GIVE_ANSWER": "toolscaler.data.trajectories",
    "GIVE_UP": "toolscaler.data.trajectories",
    "TRAJECTORY_FORMATS": "toolscaler.data.dialogues.loading",
    "DialogueReport": "toolscaler.data.dialogues.loading",
    "load_trajectories": "toolscaler.data.dialogues.loading",
    "AgentProtocol": "toolscaler.data.protocol",
    "trajectory_turns": "toolscaler.data.protocol",
    "ToolCall": "toolscaler.data.trajectories",
    "Trajectory": "toolscaler.data.trajectories",
    "TrajectoryList": "toolscaler.data.trajectory_lists",
    "TrajectoryMessage": "toolscaler.data.trajectories",
    "TrajectoryReport": "toolscaler.data.trajectory_lists",
    "finish_document": "toolscaler.data.trajectories",
    "read_trajectories": "toolscaler.data.trajectory_lists",
    "resolve_tools": "toolscaler.data.trajectory_lists",
    "save_trajectories": "toolscaler.data.trajectory_lists",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
