"""Experiments: a declarative grid goes in, jobs that never run twice and the paper's tables with intervals come out."""

from __future__ import annotations

from typing import Any

from toolscaler._lazy import lazy_attribute, lazy_names

_PUBLIC: dict[str, str] = {
    "ExperimentConfig": "toolscaler.experiments.config",
    "Job": "toolscaler.experiments.jobs",
    "JobContext": "toolscaler.experiments.systems",
    "LoadedSystem": "toolscaler.experiments.systems",
    "SystemKind": "toolscaler.experiments.systems",
    "plan_jobs": "toolscaler.experiments.jobs",
    "register_system": "toolscaler.experiments.systems",
    "run_experiment": "toolscaler.experiments.runner",
    "system_kinds": "toolscaler.experiments.systems",
    "write_report": "toolscaler.experiments.report",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
