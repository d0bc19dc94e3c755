"""Settings of an agent's loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from toolscaler.errors import ConfigError

Strategy = Literal["chain", "dfsdt"]
OnError = Literal["feedback", "retry", "next_best"]


@dataclass(frozen=True)
class AgentConfig:
    """How an agent works, and how much of it.

    Attributes:
        strategy: ``chain``: one step after the other. ``dfsdt``: where a branch gives up or comes to its last step, go
            back to the last step that has an untried tool (depth-first search, as ToolBench's DFSDT).
        max_steps: Steps of one branch, the closing one included.
        max_calls: Calls of the whole run, repeated ones included.
        max_tokens: Tokens generated in the whole run.
        max_seconds: Wall time of the whole run in seconds; ``None``: no limit.
        call_seconds: Time limit of one call in seconds; ``None``: the executor's own.
        on_error: After a call that failed. ``feedback``: the model reads the error and goes on (the paper). ``retry``:
            the same call again where the failure may pass (connection, time limit) and the executor says that it may be
            repeated (:meth:`~toolscaler.agent.ToolExecutor.idempotent`), then feedback. ``next_best``: take the step
            back and let the model choose among the other tools, then feedback.
        max_retries: How often ``retry`` and ``next_best`` try at one point.
        max_branches: Tools that ``dfsdt`` tries at one point.
        result_limit: Characters of a result that the model reads.

    Raises:
        ConfigError: A value is out of range.
    """

    strategy: Strategy = "chain"
    max_steps: int = 12
    max_calls: int = 24
    max_tokens: int = 4096
    max_seconds: float | None = 300.0
    call_seconds: float | None = None
    on_error: OnError = "feedback"
    max_retries: int = 1
    max_branches: int = 2
    result_limit: int = 4000

    def __post_init__(self) -> None:
        for key, kinds in (("strategy", Strategy), ("on_error", OnError)):
            if getattr(self, key) not in get_args(kinds):
                raise ConfigError(f"AgentConfig.{key}", getattr(self, key), f"one of {', '.join(get_args(kinds))}")
        for key in ("max_steps", "max_calls", "max_tokens", "max_retries", "max_branches", "result_limit"):
            value = getattr(self, key)
            least = 0 if key in ("max_retries", "max_calls") else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"AgentConfig.{key}", value, f"a whole number from {least}")
        for key in ("max_seconds", "call_seconds"):
            value = getattr(self, key)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and (not number or not value > 0):
                raise ConfigError(f"AgentConfig.{key}", value, "seconds above zero, or None")
