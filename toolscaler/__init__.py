"""Tool calling at catalogue scale: every tool is a short semantic code that a language model generates."""

from __future__ import annotations

from typing import Any

from toolscaler._lazy import lazy_attribute, lazy_names
from toolscaler._version import __version__

# Public name -> the module that defines it. Nothing is imported before it is asked for (PEP 562).
_PUBLIC: dict[str, str] = {
    "AgentConfig": "toolscaler.agent",
    "AgentProtocol": "toolscaler.data",
    "Artifact": "toolscaler.hub",
    "AuditLog": "toolscaler.agent",
    "BM25Retriever": "toolscaler.evaluation.baselines",
    "ChatPlanner": "toolscaler.agent",
    "CodePlanner": "toolscaler.agent",
    "CodeTrie": "toolscaler.decoding",
    "Codebook": "toolscaler.codebook",
    "CompressionConfig": "toolscaler.training.compression",
    "EmbeddingRetriever": "toolscaler.evaluation.baselines",
    "GenerativeRetriever": "toolscaler.decoding",
    "GistConfig": "toolscaler.compression",
    "GistForToolCompression": "toolscaler.compression",
    "HybridRetriever": "toolscaler.decoding",
    "MCPExecutor": "toolscaler.agent",
    "OpenAPIExecutor": "toolscaler.agent",
    "PrefixConstrainedLogitsProcessor": "toolscaler.decoding",
    "PythonExecutor": "toolscaler.agent",
    "Ranking": "toolscaler.decoding",
    "RetrievalConfig": "toolscaler.training.retrieval",
    "RetrievedTool": "toolscaler.decoding",
    "RunConfig": "toolscaler.pipeline",
    "ToolAgent": "toolscaler.agent",
    "ToolCall": "toolscaler.data",
    "ToolCatalogue": "toolscaler.catalogue",
    "ToolDocument": "toolscaler.data",
    "ToolExecutor": "toolscaler.agent",
    "ToolParameter": "toolscaler.data",
    "ToolPolicy": "toolscaler.agent",
    "ToolQuery": "toolscaler.data",
    "ToolRetrievalEvaluator": "toolscaler.evaluation",
    "ToolscalerError": "toolscaler.errors",
    "ToolscalerTokenizer": "toolscaler.tokenization",
    "Trajectory": "toolscaler.data",
    "TrajectoryConfig": "toolscaler.training",
    "TrajectoryMessage": "toolscaler.data",
    "codebook_statistics": "toolscaler.codebook",
    "compression_trainer": "toolscaler.training.compression",
    "encode_documents": "toolscaler.compression",
    "evaluate_agent": "toolscaler.evaluation",
    "initialize_code_embeddings": "toolscaler.embedding",
    "load_bundle": "toolscaler.data",
    "load_tool_documents": "toolscaler.data",
    "load_tool_queries": "toolscaler.data",
    "load_trajectories": "toolscaler.data",
    "ndcg_at_k": "toolscaler.evaluation",
    "push_to_hub": "toolscaler.hub",
    "resolve_collisions": "toolscaler.codebook",
    "retrieval_trainer": "toolscaler.training.retrieval",
    "run_pipeline": "toolscaler.pipeline",
    "trajectory_trainer": "toolscaler.training",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
