"""Rankings of tools, and what gives them; in a module of its own, so that baselines without a model load no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


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


class Ranking(list[RetrievedTool]):
    """Tools of one query, best first.

    Args:
        tools: The tools.
        certified: See below.

    Attributes:
        certified: No other allowed tool has a better score (up to rounding): the last score is at least that of every
            prefix that the search dropped, and a prefix only loses as it grows. False says nothing.
    """

    def __init__(self, tools: Iterable[RetrievedTool] = (), *, certified: bool = False) -> None:
        super().__init__(tools)
        self.certified = certified


@runtime_checkable
class Retriever(Protocol):
    """Whatever ranks tools for queries: a generative retriever, a baseline, a hybrid of both, or your own."""

    def retrieve(self, queries: list[str], top_k: int, *, tools: Iterable[str] | None = None) -> list[Ranking]:
        """Rank tools for each query.

        Args:
            queries: Q queries.
            top_k: Tools a query at most.
            tools: Ids of the allowed tools; default: the whole catalogue.

        Returns:
            Q rankings, best first, of at most ``top_k`` tools each, none twice, all out of ``tools``.
        """
        ...
