"""All stages into one run folder: a run config goes in, a trained model with its numbers comes out, resumable."""

from __future__ import annotations

from typing import Any

from toolscaler._lazy import lazy_attribute, lazy_names

_PUBLIC: dict[str, str] = {
    "RunConfig": "toolscaler.pipeline.config",
    "STAGES": "toolscaler.pipeline.runner",
    "recipe_names": "toolscaler.pipeline.config",
    "run_pipeline": "toolscaler.pipeline.runner",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
