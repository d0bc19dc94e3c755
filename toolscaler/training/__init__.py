"""Training recipes, one module a stage: a model and documents or queries go in, a ready Trainer comes out."""

from __future__ import annotations

from typing import Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> the module that defines it: a stage loads its trainer (trl, peft) only when asked for (PEP 562).
_PUBLIC: dict[str, str] = {
    "CompressionConfig": "toolscaler.training.compression",
    "PostGuidedConfig": "toolscaler.training.post_guided",
    "PostGuidedTrainer": "toolscaler.training.post_guided",
    "RetrievalConfig": "toolscaler.training.retrieval",
    "TrajectoryConfig": "toolscaler.training.trajectory",
    "TrajectoryRows": "toolscaler.training.trajectory_data",
    "compression_trainer": "toolscaler.training.compression",
    "guiding_rows": "toolscaler.training.post_guided_data",
    "post_guided_trainer": "toolscaler.training.post_guided",
    "retrieval_trainer": "toolscaler.training.retrieval",
    "first_step_rows": "toolscaler.training.trajectory_data",
    "trajectory_rows": "toolscaler.training.trajectory_data",
    "trajectory_trainer": "toolscaler.training.trajectory",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
