"""All stages into one run folder: a run config goes in, a trained model with its numbers comes out, resumable."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC: dict[str, str] = {
    "RunConfig": "toolscaler.pipeline.config",
    "STAGES": "toolscaler.pipeline.runner",
    "recipe_names": "toolscaler.pipeline.config",
    "run_pipeline": "toolscaler.pipeline.runner",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'toolscaler.pipeline' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_PUBLIC))
