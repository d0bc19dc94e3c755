"""Training recipes, one module a stage: a model and documents or queries go in, a ready Trainer comes out."""

from __future__ import annotations

import importlib
from typing import Any

# Public name -> the module that defines it: a stage loads its trainer (trl, peft) only when asked for (PEP 562).
_PUBLIC: dict[str, str] = {
    "CompressionConfig": "toolscaler.training.compression",
    "RetrievalConfig": "toolscaler.training.retrieval",
    "compression_trainer": "toolscaler.training.compression",
    "retrieval_trainer": "toolscaler.training.retrieval",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'toolscaler.training' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_PUBLIC))
