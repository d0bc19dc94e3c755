"""Model, tokenizer and query in, valid tools out: the code trie, the logits processor and the retriever."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC: dict[str, str] = {
    "CodeTrie": "toolscaler.decoding.trie",
    "GenerativeRetriever": "toolscaler.decoding.retriever",
    "PrefixConstrainedLogitsProcessor": "toolscaler.decoding.logits_process",
    "RetrievedTool": "toolscaler.decoding.retriever",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'toolscaler.decoding' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_PUBLIC))
