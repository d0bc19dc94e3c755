"""Which stages of the pipeline a trained system goes through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolscaler.errors import ConfigError


def last_stage(ends: str, trajectories: bool) -> str:
    """Say which stage ends a training: ``retrieval`` or ``trajectory``.

    Args:
        ends: One of these, or ``last``: the trajectory stage where there are trajectories.
        trajectories: Whether there are.

    Raises:
        ConfigError: It is something else, or there are no trajectories.
    """
    if ends not in ("retrieval", "trajectory", "last"):
        raise ConfigError("options.stage", ends, "'retrieval', 'trajectory' or 'last'")
    if ends == "trajectory" and not trajectories:
        raise ConfigError("options.stage", ends, "a data set with trajectories")
    return "trajectory" if ends != "retrieval" and trajectories else "retrieval"


def calls_tools(sections: Mapping[str, Any]) -> bool:
    """Say whether the strategy of a run file makes agents: each position of its sequences has tokens of its own."""
    told = sections["tokenization"]
    own = told["strategy"] == "numerical" and told["options"].get("tokens") == "own"
    return own or told["strategy"] in ("toolscaler", "atomic")
