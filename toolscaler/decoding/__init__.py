"""Model, tokenizer and query in, valid tools out: the code trie, the logits processor, the retrievers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> module; imported on first use, since the processor and the retriever bring torch along (PEP 562).
_PUBLIC: dict[str, str] = {
    "CodeTrie": "toolscaler.decoding.trie",
    "FusionRetriever": "toolscaler.decoding.fusion",
    "GenerativeRetriever": "toolscaler.decoding.retriever",
    "HybridRetriever": "toolscaler.decoding.hybrid",
    "PrefixConstrainedLogitsProcessor": "toolscaler.decoding.logits_process",
    "Ranking": "toolscaler.decoding.result",
    "RetrievedTool": "toolscaler.decoding.result",
    "Retriever": "toolscaler.decoding.result",
    "reciprocal_rank_fusion": "toolscaler.decoding.fusion",
}

if TYPE_CHECKING:
    from toolscaler.decoding.fusion import FusionRetriever, reciprocal_rank_fusion
    from toolscaler.decoding.hybrid import HybridRetriever
    from toolscaler.decoding.logits_process import PrefixConstrainedLogitsProcessor
    from toolscaler.decoding.result import Ranking, RetrievedTool, Retriever
    from toolscaler.decoding.retriever import GenerativeRetriever
    from toolscaler.decoding.trie import CodeTrie

__all__ = [
    "CodeTrie",
    "FusionRetriever",
    "GenerativeRetriever",
    "HybridRetriever",
    "PrefixConstrainedLogitsProcessor",
    "Ranking",
    "RetrievedTool",
    "Retriever",
    "reciprocal_rank_fusion",
]


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
