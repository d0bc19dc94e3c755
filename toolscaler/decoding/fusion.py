"""Several rankings of one query in, one out: reciprocal-rank fusion, which needs ranks and no scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from toolscaler.decoding.result import Ranking, RetrievedTool, Retriever
from toolscaler.errors import ConfigError, DecodingError

#: The constant of reciprocal-rank fusion: how little the first ranks stand out.
DEFAULT_K = 60.0


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[RetrievedTool]],
    k: float = DEFAULT_K,
    *,
    weights: Sequence[float] | None = None,
    top_k: int | None = None,
) -> Ranking:
    """Fuse rankings of one query by ranks alone (Cormack, Clarke and Büttcher, SIGIR 2009).

    A tool's score is the sum over rankings of ``weight / (k + rank)``, with ranks from 1; a ranking without the tool
    adds nothing.

    Args:
        rankings: R rankings, best first. Of a tool that comes twice in one of them the first place counts.
        k: The larger, the less the first ranks stand out; at least 0.
        weights: R weights, at least 0 and not all 0; default: 1 each.
        top_k: Tools of the result at most; default: all.

    Returns:
        Best first; of equal scores the tool that comes first, reading the rankings one after another. A tool keeps the
        codes that the first ranking with codes gives it.

    Raises:
        ConfigError: A number is out of range, or there is not one weight a ranking.

    Example:
        >>> one, two = [RetrievedTool("a", 9.0), RetrievedTool("b", 8.0)], [RetrievedTool("b", 0.5)]
        >>> [(tool.name, round(tool.score, 4)) for tool in reciprocal_rank_fusion([one, two])]
        [('b', 0.0325), ('a', 0.0164)]
    """
    _check_number("k", k)
    if top_k is not None:
        check_count("top_k", top_k)
    shares = _checked_weights(weights, len(rankings))
    scores: dict[str, float] = {}
    codes: dict[str, tuple[int, ...]] = {}
    for ranking, weight in zip(rankings, shares, strict=True):
        unique = dict.fromkeys(tool.name for tool in ranking)
        for rank, name in enumerate(unique, start=1):
            scores[name] = scores.get(name, 0.0) + weight / (k + rank)
        for tool in ranking:
            if tool.codes:
                codes.setdefault(tool.name, tool.codes)
    order = sorted(scores, key=lambda name: -scores[name])[:top_k]  # stable: equal scores keep the order of reading
    return Ranking(RetrievedTool(name, scores[name], codes.get(name, ())) for name in order)


class FusionRetriever:
    """Ask several retrievers, and fuse what they rank (:func:`reciprocal_rank_fusion`).

    Args:
        retrievers: At least one.
        k: The constant of the fusion.
        weights: One a retriever; default: 1 each.
        depth: Tools that each retriever is asked for; more where more are asked of the fusion.

    Raises:
        ConfigError: There is no retriever, or something else than one, or a number is out of range.
    """

    def __init__(
        self,
        retrievers: Sequence[Retriever],
        *,
        k: float = DEFAULT_K,
        weights: Sequence[float] | None = None,
        depth: int = 100,
    ) -> None:
        self.retrievers = list(retrievers)
        if not self.retrievers or not all(isinstance(retriever, Retriever) for retriever in self.retrievers):
            raise ConfigError("retrievers", retrievers, "at least one object with retrieve(queries, top_k, *, tools)")
        _check_number("k", k)
        self.k, self.depth = float(k), check_count("depth", depth)
        self.weights = _checked_weights(weights, len(self.retrievers))

    def retrieve(
        self, queries: str | Sequence[str], top_k: int = 5, *, tools: Iterable[str] | None = None
    ) -> list[Ranking]:
        """Rank tools for each query.

        Args:
            queries: Q queries, or one as text.
            top_k: Tools a query at most.
            tools: Ids of the allowed tools; default: all that each retriever has.

        Returns:
            Q rankings, best first; scores are those of the fusion.

        Raises:
            ConfigError: ``top_k`` is below one.
            DecodingError: A query is no text, or a retriever does not give one ranking a query.
        """
        texts, allowed = query_texts(queries), allowed_ids(tools)
        depth = max(self.depth, check_count("top_k", top_k))
        columns = [ask(retriever, texts, depth, allowed) for retriever in self.retrievers]
        return [
            reciprocal_rank_fusion(row, self.k, weights=self.weights, top_k=top_k) for row in zip(*columns, strict=True)
        ]


def ask(retriever: Retriever, texts: list[str], top_k: int, tools: list[str] | None) -> list[Ranking]:
    """Ask a retriever, and check that one ranking a query came.

    Raises:
        DecodingError: It did not.
    """
    if not texts:
        return []
    found = list(retriever.retrieve(texts, top_k, tools=tools))
    if len(found) != len(texts):
        name = type(retriever).__name__
        raise DecodingError(f"expected one ranking for each of {len(texts)} queries, {name} gave {len(found)}")
    return found


def query_texts(queries: str | Sequence[str]) -> list[str]:
    """Give queries as a list.

    Raises:
        DecodingError: One is no text.
    """
    texts = [queries] if isinstance(queries, str) else list(queries)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DecodingError(f"query {row}: expected text, got {type(text).__name__}")
    return texts


def allowed_ids(tools: Any) -> list[str] | None:
    """Give allowed tools as a list, each once; ``None`` for all. Several retrievers read them.

    Raises:
        DecodingError: Something else than a collection of ids is given.
    """
    if tools is None:
        return None
    if isinstance(tools, str) or not isinstance(tools, Iterable):
        raise DecodingError(f"tools: expected a collection of tool ids, got {tools!r:.80}")
    return list(dict.fromkeys(tools))


def check_count(key: str, value: Any) -> int:
    """Give a whole number above zero.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(key, value, "a whole number above zero")
    return value


def _check_number(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(key, value, "a finite number of at least 0")


def _checked_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    values = list(weights)
    for place, weight in enumerate(values):
        _check_number(f"weights[{place}]", weight)
    if len(values) != count or (count and not any(values)):
        raise ConfigError("weights", values, f"one for each of {count} rankings, not all 0")
    return [float(weight) for weight in values]
