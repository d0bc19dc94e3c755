"""Retrievers to compare with: tool documents in, ranked tools for queries out, without any training on queries."""

from __future__ import annotations

import importlib
from typing import Any

# Public name -> the module that defines it. Nothing is imported before it is asked for (PEP 562).
_PUBLIC: dict[str, str] = {
    "BM25Retriever": "toolscaler.evaluation.baselines.bm25",
    "EmbeddingRetriever": "toolscaler.evaluation.baselines.embedding",
    "LsaEncoder": "toolscaler.evaluation.baselines.embedding",
    "document_text": "toolscaler.evaluation.baselines.catalogue",
    "search_words": "toolscaler.evaluation.baselines.catalogue",
    "split_words": "toolscaler.evaluation.baselines.catalogue",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'toolscaler.evaluation.baselines' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_PUBLIC))
