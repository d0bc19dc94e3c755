"""The embedded default: a catalogue of callable tools with the queries that people ask them and tasks to solve."""

from __future__ import annotations

from toolscaler.starter.queries import load_starter_queries
from toolscaler.starter.registry import PROVIDER, call_starter_tool, load_starter_documents, starter_function
from toolscaler.starter.tasks.build import StarterCall, StarterTask, run_starter_call
from toolscaler.starter.trajectories import load_starter_tasks, load_starter_trajectories, task_trajectory

__all__ = [
    "PROVIDER",
    "StarterCall",
    "StarterTask",
    "call_starter_tool",
    "load_starter_documents",
    "load_starter_queries",
    "load_starter_tasks",
    "load_starter_trajectories",
    "run_starter_call",
    "starter_function",
    "task_trajectory",
]
