"""Retrievers to compare with: tool documents in, ranked tools for queries out; most without any training on queries."""

from __future__ import annotations

from typing import Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> the module that defines it. Nothing is imported before it is asked for (PEP 562).
_PUBLIC: dict[str, str] = {
    "BM25Retriever": "toolscaler.evaluation.baselines.bm25",
    "CachedChat": "toolscaler.evaluation.baselines.chat_models",
    "ChatModel": "toolscaler.evaluation.baselines.chat_models",
    "ContentCache": "toolscaler.evaluation.baselines.cache",
    "EmbeddingEndpoint": "toolscaler.evaluation.baselines.endpoint",
    "EmbeddingRetriever": "toolscaler.evaluation.baselines.embedding",
    "FailedAnswer": "toolscaler.evaluation.baselines.chat_models",
    "IterFeedbackRetriever": "toolscaler.evaluation.baselines.iter_feedback",
    "LocalChatModel": "toolscaler.evaluation.baselines.chat_models",
    "LsaEncoder": "toolscaler.evaluation.baselines.embedding",
    "ReInvokeRetriever": "toolscaler.evaluation.baselines.re_invoke",
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
