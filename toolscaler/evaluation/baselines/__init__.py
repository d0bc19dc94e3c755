"""Retrievers to compare with: tool documents in, ranked tools for queries out; most without any training on queries."""

from __future__ import annotations

from typing import Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> the module that defines it. Nothing is imported before it is asked for (PEP 562).
_PUBLIC: dict[str, str] = {
    "BM25Retriever": "toolscaler.evaluation.baselines.bm25",
    "ContentCache": "toolscaler.evaluation.baselines.cache",
    "EmbeddingEndpoint": "toolscaler.evaluation.baselines.endpoint",
    "EmbeddingRetriever": "toolscaler.evaluation.baselines.embedding",
    "LsaEncoder": "toolscaler.evaluation.baselines.embedding",
    "ToolRetrieverConfig": "toolscaler.evaluation.baselines.tool_retriever",
    "document_text": "toolscaler.evaluation.baselines.catalogue",
    "load_tool_retriever": "toolscaler.evaluation.baselines.tool_retriever",
    "search_words": "toolscaler.evaluation.baselines.catalogue",
    "split_words": "toolscaler.evaluation.baselines.catalogue",
    "train_tool_retriever": "toolscaler.evaluation.baselines.tool_retriever",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
