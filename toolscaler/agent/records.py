"""What an agent did: steps, calls, results and how it ended, as records and as events while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from toolscaler.agent.executors.base import ToolResult
from toolscaler.data.trajectories import Trajectory

#: How a run ends. ``answer``: with :data:`~toolscaler.data.FINISH_TOOL` or plain text; ``give_up``: the model says that
#: it cannot; ``no_tool``: no tool is likely enough; ``steps``, ``calls``, ``tokens``, ``seconds``: a budget is spent;
#: ``context``: the conversation is longer than the model can read; ``dead_end``: every tool was tried at every open
#: point; ``error``: the planner's endpoint failed, and the run stands in the ``trajectory`` of the
#: :class:`~toolscaler.errors.EndpointError`.
AgentOutcome = Literal[
    "answer", "give_up", "no_tool", "steps", "calls", "tokens", "seconds", "context", "dead_end", "error"
]

#: Kinds of events, in the order in which they may come within a step.
EventKind = Literal[
    "thought", "action", "arguments", "call", "result", "refused", "retry", "backtrack", "answer", "finished"
]


@dataclass(frozen=True)
class AgentCall:
    """One call and what came of it.

    Attributes:
        tool: Tool id.
        arguments: Arguments.
        result: What the tool gave; for a refused call the refusal.
        score: Log-probability of the tool's code sequence, where there is one.
        margin: The same less that of the runner-up; ``None`` without a runner-up.
        code: Code sequence as text.
        allowed: Whether the policy let it run.
        rule: The rule that refused it.
        tries: How often the call was made; above 1 where it was repeated after a failure that may pass. Each of them
            counts to the budget of calls. What an executor tries again by itself is one call.
    """

    tool: str
    arguments: Mapping[str, Any]
    result: ToolResult
    score: float | None = None
    margin: float | None = None
    code: str = ""
    allowed: bool = True
    rule: str = ""
    tries: int = 1


@dataclass(frozen=True)
class AgentStep:
    """One step of the assistant.

    Attributes:
        thought: The Thought.
        calls: Its calls, in order.
        candidates: Tools that were considered, best first, with their log-probabilities.
        tokens: Tokens generated.
        seconds: Wall time, calls included.
        branch: Number of the branch that the step belongs to; 0 without backtracking.
        dropped: Whether the step was taken back, for another tool or another branch.
    """

    thought: str
    calls: tuple[AgentCall, ...] = ()
    candidates: tuple[tuple[str, float], ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    branch: int = 0
    dropped: bool = False


@dataclass(frozen=True)
class AgentTrajectory:
    """A whole run.

    Attributes:
        query: What was asked.
        answer: The final answer, or the reason that the model gave; empty where there is none.
        outcome: How it ended.
        steps: Every step that was taken, dropped ones too, in order of time.
        trajectory: The conversation that led to the end, in the form that training and metrics read.
        caller: For whom it ran.
        run_id: Name of the run, as in the audit log.
        tokens: Tokens generated.
        seconds: Wall time.
    """

    query: str
    answer: str
    outcome: AgentOutcome
    steps: tuple[AgentStep, ...]
    trajectory: Trajectory
    caller: str = ""
    run_id: str = ""
    tokens: int = 0
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether the model itself ended the run, by an answer or by giving up."""
        return self.outcome in ("answer", "give_up")

    @property
    def calls(self) -> tuple[AgentCall, ...]:
        """Every call, in order of time, refused and taken-back ones too."""
        return tuple(call for step in self.steps for call in step.calls)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data, one line of an agent's log."""
        return {
            "query": self.query,
            "answer": self.answer,
            "outcome": self.outcome,
            "caller": self.caller,
            "run_id": self.run_id,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "steps": [_step_dict(step) for step in self.steps],
            "trajectory": self.trajectory.to_dict(),
        }


@dataclass(frozen=True)
class AgentEvent:
    """Something that happened just now, for a user interface.

    Attributes:
        kind: What happened. ``thought``, ``action`` and ``arguments`` carry a piece of text as it is generated.
        text: Text, in the words of the kind: a piece of text, a result, a reason, the answer.
        call: For ``call``, ``result`` and ``refused``: the call; before it ran its result is empty.
        trajectory: For ``finished``: the whole run. It is the last event.
    """

    kind: EventKind
    text: str = ""
    call: AgentCall | None = None
    trajectory: AgentTrajectory | None = field(default=None, repr=False)


def _step_dict(step: AgentStep) -> dict[str, Any]:
    return {
        "thought": step.thought,
        "calls": [
            {
                "tool": call.tool,
                "arguments": dict(call.arguments),
                "code": call.code,
                "score": call.score,
                "margin": call.margin,
                "allowed": call.allowed,
                "rule": call.rule,
                "tries": call.tries,
                "result": call.result.content,
                "is_error": call.result.is_error,
                "error_type": call.result.error_type,
                "seconds": call.result.seconds,
            }
            for call in step.calls
        ],
        "candidates": [list(pair) for pair in step.candidates],
        "tokens": step.tokens,
        "seconds": step.seconds,
        "branch": step.branch,
        "dropped": step.dropped,
    }
