"""A run of an agent in, what a judge gets to see of it out: the calls with their results, and the final answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from toolscaler.agent.records import AgentTrajectory
from toolscaler.data.trajectories import FINISH_TOOL, Trajectory
from toolscaler.errors import EvaluationError


@dataclass(frozen=True)
class AnswerStep:
    """One call of a run.

    Attributes:
        tool: Tool id.
        arguments: Arguments as JSON text.
        result: What the tool gave; empty where nothing is known.
    """

    tool: str
    arguments: str
    result: str = ""


@dataclass(frozen=True)
class AnswerRecord:
    """What one system did about a query.

    Attributes:
        answer: The final answer; empty where there is none.
        steps: The calls that led to it, in order.
        gave_up: Whether the system said itself that it cannot.
    """

    answer: str
    steps: tuple[AnswerStep, ...] = ()
    gave_up: bool = False

    @property
    def answers(self) -> bool:
        """Whether there is an answer that could be right: some text, and no giving up."""
        return bool(self.answer.strip()) and not self.gave_up


def answer_record(value: Any) -> AnswerRecord | None:
    """Read what a system did.

    Args:
        value: An :class:`AnswerRecord`, an :class:`~toolscaler.agent.AgentTrajectory`, a
            :class:`~toolscaler.data.Trajectory`, the final answer as text, or ``None`` for a missing prediction.

    Raises:
        EvaluationError: It is none of these.
    """
    if value is None or isinstance(value, AnswerRecord):
        return value
    if isinstance(value, str):
        return AnswerRecord(value)
    if isinstance(value, AgentTrajectory):
        answer = value.answer if value.outcome in ("answer", "give_up") else ""
        return AnswerRecord(answer, _steps(value.trajectory), value.outcome == "give_up")
    if isinstance(value, Trajectory):
        return AnswerRecord(value.answer, _steps(value), value.outcome == "give_up")
    raise EvaluationError(f"expected a run, a trajectory, text or None as prediction, got {type(value).__name__}")


def _steps(trajectory: Trajectory) -> tuple[AnswerStep, ...]:
    return tuple(
        AnswerStep(call.tool, json.dumps(call.arguments, ensure_ascii=False), "" if result is None else result.content)
        for pairs in trajectory.results()
        for call, result in pairs
        if call.tool != FINISH_TOOL
    )
