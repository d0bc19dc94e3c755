"""Semantic compression (section 4.1): tool documents go in, gist embeddings of shape (N, V, D) come out."""

from __future__ import annotations

from typing import Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> the module that defines it: torch and transformers are loaded only when asked for (PEP 562).
_PUBLIC: dict[str, str] = {
    "CompressionOutput": "toolscaler.compression.modeling",
    "GistCollator": "toolscaler.compression.collator",
    "GistConfig": "toolscaler.compression.configuration",
    "GistForToolCompression": "toolscaler.compression.modeling",
    "document_rows": "toolscaler.compression.collator",
    "encode_documents": "toolscaler.compression.export",
    "encode_shards": "toolscaler.compression.export",
    "load_embeddings": "toolscaler.compression.shards",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
