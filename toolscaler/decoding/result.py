"""One tool of a ranking; in a module of its own, so that baselines without a language model load no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RetrievedTool:
    """One tool of a ranking.

    Attributes:
        name: Tool id.
        score: Log-probability of the tool's code sequence (generative retrieval), or a baseline's own score. Higher is
            better.
        codes: The tool's codes, (code_length,); empty for retrievers that have none.
    """

    name: str
    score: float
    codes: tuple[int, ...] = ()
