"""What decides the next step: the conversation so far in, a thought and calls out."""

from __future__ import annotations

import abc
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import FINISH_TOOL, TrajectoryMessage

#: What a plan asks for: calls; an answer in plain text; nothing, since no tool fits or every tool was tried; or it was
#: cut short by the budget, or because the conversation is longer than the model can read.
PlanKind = Literal["calls", "answer", "abstain", "budget", "context"]


#: Stands in a conversation for a call of :data:`~toolscaler.data.FINISH_TOOL` that said neither an answer nor that
#: there is none, and so ended nothing: its result is the error. Planners show it as the call that it was.
REFUSED_FINISH = f"{FINISH_TOOL}?"


@dataclass(frozen=True)
class PlannedCall:
    """One call that a planner proposes.

    Attributes:
        tool: Tool id.
        arguments: Arguments, a JSON object.
        score: Log-probability of the tool, where the planner has one.
        margin: Log-probability of the tool less that of the runner-up; ``None`` where there is no runner-up.
        code: Code sequence as text; empty for planners without codes.
        id: Identifier for the result.
        error_type: Why the call cannot run, one of :data:`~toolscaler.agent.executors.ERROR_TYPES`; empty where it can.
        error: The same in words, for the model.
    """

    tool: str
    arguments: Mapping[str, Any]
    score: float | None = None
    margin: float | None = None
    code: str = ""
    id: str = ""
    error_type: str = ""
    error: str = ""


@dataclass(frozen=True)
class Plan:
    """What a planner proposes for one step.

    Attributes:
        kind: What it asks for.
        thought: The Thought; for ``answer`` the answer itself.
        calls: The calls, in order; only for ``calls``.
        candidates: Tools that were considered, best first, with their log-probabilities.
        tokens: Tokens that were generated.
    """

    kind: PlanKind
    thought: str = ""
    calls: tuple[PlannedCall, ...] = ()
    candidates: tuple[tuple[str, float], ...] = ()
    tokens: int = 0


@dataclass(frozen=True)
class PlanRequest:
    """What a planner is asked.

    Attributes:
        messages: The conversation so far; a call in it may be one of :data:`REFUSED_FINISH`.
        tools: Ids of the tools that this run may call; nothing else may be proposed.
        documents: Document of each of these tools.
        exclude: Tools among them that were tried at this point and are not wanted again.
        max_tokens: Tokens that may be generated.
        deadline: Time of :func:`time.monotonic` at which to stop, or ``None``.
    """

    messages: tuple[TrajectoryMessage, ...]
    tools: Sequence[str]
    documents: Mapping[str, ToolDocument]
    exclude: frozenset[str] = field(default_factory=frozenset)
    max_tokens: int = 1024
    deadline: float | None = None


@dataclass(frozen=True)
class TextDelta:
    """A piece of text as it is generated.

    Attributes:
        part: ``thought``, ``action`` or ``arguments``.
        text: The piece.
    """

    part: Literal["thought", "action", "arguments"]
    text: str


class Planner(abc.ABC):
    """Proposes the next step of a conversation. One planner is shared by any number of threads."""

    @abc.abstractmethod
    def plan(self, request: PlanRequest) -> Generator[TextDelta, None, Plan]:
        """Propose a step.

        Yields:
            Text as it is generated.

        Returns:
            The plan. Its calls name tools of the request, none that is excluded.
        """
