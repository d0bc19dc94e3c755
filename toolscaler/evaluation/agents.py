"""Tasks with reference solutions in, an agent's runs and the share that it solves out."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from toolscaler.data.trajectories import FINISH_TOOL
from toolscaler.errors import EvaluationError
from toolscaler.evaluation.retrieval import MetricValue
from toolscaler.evaluation.statistics import bootstrap_intervals

if TYPE_CHECKING:
    from toolscaler.agent.agent import ToolAgent
    from toolscaler.agent.records import AgentTrajectory


class AgentTask(Protocol):
    """A task that code can score, as :class:`toolscaler.starter.StarterTask` is."""

    @property
    def query(self) -> str:
        """What is asked."""

    @property
    def outcome(self) -> str:
        """``answer`` or ``give_up``."""

    @property
    def expected_tools(self) -> Sequence[str]:
        """Tools of the reference solution, in order."""

    def check(self, answer: str) -> bool:
        """Say whether an answer holds the reference value."""

    def solved_by(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
        """Say whether calls hold those of the reference solution, in order."""

    def workspace(self) -> AbstractContextManager[Any]:
        """Give the task what it needs while it is worked on."""


@dataclass(frozen=True)
class AgentEvaluation:
    """How an agent did.

    Attributes:
        name: Name of the agent.
        metrics: Metric -> mean with its interval over tasks: ``success`` (the answer holds the reference value, or the
            agent gave up where that is right), ``right_tools`` (the tools of the reference solution, in order, and no
            other), ``right_arguments`` (all reference calls, with their arguments, in order), ``finished``, ``steps``,
            ``tokens``, ``seconds``.
        calls: Calls of all runs, without Finish.
        illegal_calls: Calls that named no tool, or one that was not allowed.
        invalid_calls: Calls whose arguments were no JSON that fits the schema.
        by_kind: Kind of task -> number and share of success; tasks without a kind are not in it.
        per_task: One record a task.
    """

    name: str
    metrics: Mapping[str, MetricValue]
    calls: int
    illegal_calls: int
    invalid_calls: int
    by_kind: Mapping[str, tuple[int, float]]
    per_task: tuple[Mapping[str, Any], ...]

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.per_task)

    @property
    def valid_json(self) -> float:
        """Share of calls whose arguments fit their schema; 1 where there were no calls."""
        return 1.0 if not self.calls else 1.0 - self.invalid_calls / self.calls

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data, without the records of tasks."""
        return {
            "name": self.name,
            "n": self.n,
            "metrics": {key: {"mean": v.mean, "low": v.low, "high": v.high} for key, v in self.metrics.items()},
            "calls": self.calls,
            "illegal_calls": self.illegal_calls,
            "invalid_calls": self.invalid_calls,
            "valid_json": self.valid_json,
            "by_kind": {kind: {"n": n, "success": share} for kind, (n, share) in self.by_kind.items()},
        }


def evaluate_agent(
    agent: ToolAgent,
    tasks: Sequence[AgentTask],
    *,
    name: str = "toolscaler",
    run: Callable[[str], AgentTrajectory] | None = None,
    seed: int = 0,
    num_resamples: int = 2000,
    show_progress: bool = False,
) -> AgentEvaluation:
    """Let an agent work on tasks that code can score.

    A task at which the agent raises an error counts as failed; the error is in its record.

    Args:
        agent: The agent.
        tasks: The tasks.
        name: Name of the agent in tables.
        run: What answers a query; default: ``agent.run``.
        seed: Seed of the bootstrap.
        num_resamples: Resamples of the bootstrap.
        show_progress: Show a progress bar.

    Raises:
        EvaluationError: There are no tasks.
    """
    if not tasks:
        raise EvaluationError("expected at least one task, got none")
    answer = agent.run if run is None else run
    records: list[dict[str, Any]] = []
    for task in tqdm(tasks, desc=f"tasks: {name}", disable=not show_progress):
        context = task.workspace() if hasattr(task, "workspace") else contextlib.nullcontext()
        with context:
            try:
                records.append(_scored(task, answer(task.query)))
            except Exception as error:  # one bad task fails alone
                records.append(_failed(task, error))
    keys = ("success", "right_tools", "right_arguments", "finished", "steps", "tokens", "seconds")
    metrics = {}
    for key in keys:
        values = np.array([float(record[key]) for record in records])
        low, high = _interval(values, seed, num_resamples)
        metrics[key] = MetricValue(float(values.mean()), low, high)
    kinds: dict[str, list[float]] = {}
    for record in records:
        if record["kind"]:
            kinds.setdefault(record["kind"], []).append(float(record["success"]))
    return AgentEvaluation(
        name,
        metrics,
        calls=sum(record["calls"] for record in records),
        illegal_calls=sum(record["illegal_calls"] for record in records),
        invalid_calls=sum(record["invalid_calls"] for record in records),
        by_kind={kind: (len(values), float(np.mean(values))) for kind, values in sorted(kinds.items())},
        per_task=tuple(records),
    )


def _scored(task: AgentTask, done: AgentTrajectory) -> dict[str, Any]:
    calls = [call for call in done.calls if call.tool != FINISH_TOOL]
    ran = [(call.tool, call.arguments) for call in calls if call.allowed]
    right = done.outcome == task.outcome and (task.outcome != "answer" or task.check(done.answer))
    return {
        **_of(task),
        "answer": done.answer,
        "outcome": done.outcome,
        "success": bool(right),
        "right_tools": [tool for tool, _ in ran] == list(task.expected_tools),
        "right_arguments": bool(task.solved_by(ran)),
        "finished": done.finished,
        "steps": len(done.steps),
        "tokens": done.tokens,
        "seconds": done.seconds,
        "calls": len(calls),
        "illegal_calls": sum(
            call.rule == "allow" or call.result.error_type in ("unknown_tool", "refused") for call in calls
        ),
        "invalid_calls": sum(call.result.error_type in ("invalid_arguments", "invalid_schema") for call in calls),
        "ran": [[tool, dict(arguments)] for tool, arguments in ran],
        "error": "",
    }


def _failed(task: AgentTask, error: Exception) -> dict[str, Any]:
    zero = dict.fromkeys(("success", "right_tools", "right_arguments", "finished"), False)
    numbers = dict.fromkeys(("steps", "tokens", "seconds", "calls", "illegal_calls", "invalid_calls"), 0)
    text = f"{type(error).__name__}: {error}"
    return {**_of(task), **zero, **numbers, "answer": "", "outcome": "error", "ran": [], "error": text}


def _of(task: AgentTask) -> dict[str, Any]:
    return {
        "id": getattr(task, "id", ""),
        "kind": getattr(task, "kind", ""),
        "query": task.query,
        "expected_tools": list(task.expected_tools),
    }


def _interval(values: np.ndarray, seed: int, num_resamples: int) -> tuple[float, float]:
    if len(values) < 2:
        return math.nan, math.nan
    low, high = bootstrap_intervals(values[:, None], num_resamples=num_resamples, seed=seed)
    return float(np.ravel(low)[0]), float(np.ravel(high)[0])
