"""Ranking metrics of one query: ranked tool ids and relevant tool ids in, a number between 0 and 1 out.

Rules that hold for all of them (paper section 5.1; relevance is binary):

- Rank is the order of the list. Scores are not looked at, so tools with equal scores keep the order they came in.
- A tool that occurs again in a ranking is dropped before the cut at ``k``: only its first place counts.
- A ranking shorter than ``k`` is a ranking whose remaining places are wrong.
- Every relevant tool counts, also one that the catalogue (or the allowed subset) does not hold: nobody can find it, and
  nobody's score may hide that.
- A query without relevant tools has no metric: :class:`~toolscaler.errors.EvaluationError`. Leave such queries out and
  say how many they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from toolscaler.errors import EvaluationError

Metric = Callable[[Sequence[str], Collection[str], int], float]


def ndcg_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Normalised discounted cumulative gain, the ideal ranking being made of *all* relevant tools.

    A relevant tool at rank r gains 1 / log2(r + 1); the sum over the first ``k`` ranks is divided by what the best
    possible ranking gains, with min(k, number of relevant tools) of them in front.

    Args:
        ranked: Tool ids, best first.
        relevant: Ids of all relevant tools.
        k: Cut-off, at least 1.

    Raises:
        EvaluationError: ``relevant`` is empty, ``k`` is below 1, or text stands where a list of ids belongs.

    Example:
        >>> round(ndcg_at_k(["a", "x", "y"], {"a", "b", "c"}, 3), 3)
        0.469
    """
    places, wanted = _places(ranked, relevant, k)
    return _gain(place for place in places if place < k) / _gain(range(min(k, wanted)))


def ndcg_toolgen_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """NDCG as the evaluators released with ToolGen and Toolscaler compute it. For comparison with their tables only.

    Their ideal ranking holds only the relevant tools that the system returned, anywhere in ``ranked``: a label that was
    missed costs nothing. At ``k = 1`` the value is that of :func:`ndcg_at_k`; beyond, it is never below it. It depends
    on how long ``ranked`` is; the published tables are made from five tools.

    Args:
        ranked: Tool ids, best first, all that the system returned.
        relevant: Ids of all relevant tools.
        k: Cut-off, at least 1.

    Returns:
        The value; 0 where no relevant tool was returned.

    Raises:
        EvaluationError: As :func:`ndcg_at_k`.

    Example:
        >>> ndcg_toolgen_at_k(["a", "x", "y"], {"a", "b", "c"}, 3)
        1.0
    """
    places, _ = _places(ranked, relevant, k)
    if not places:
        return 0.0
    return _gain(place for place in places if place < k) / _gain(range(min(k, len(places))))


def recall_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Share of the relevant tools that are among the first ``k``; arguments and errors as :func:`ndcg_at_k`."""
    places, wanted = _places(ranked, relevant, k)
    return sum(place < k for place in places) / wanted


def precision_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Share of the first ``k`` places that hold a relevant tool; arguments and errors as :func:`ndcg_at_k`.

    The divisor is ``k`` also where fewer tools were returned.
    """
    places, _ = _places(ranked, relevant, k)
    return sum(place < k for place in places) / k


def completeness_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """1 if every relevant tool is among the first ``k``, else 0; arguments and errors as :func:`ndcg_at_k`.

    A query with more than ``k`` relevant tools is 0 for every system.
    """
    places, wanted = _places(ranked, relevant, k)
    return float(sum(place < k for place in places) == wanted)


def hit_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """1 if at least one relevant tool is among the first ``k``, else 0; arguments and errors as :func:`ndcg_at_k`."""
    places, _ = _places(ranked, relevant, k)
    return float(bool(places) and places[0] < k)


def mrr_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """1 / rank of the first relevant tool, 0 if none is among the first ``k``; arguments as :func:`ndcg_at_k`."""
    places, _ = _places(ranked, relevant, k)
    return 1.0 / (places[0] + 1) if places and places[0] < k else 0.0


#: Metric name as it stands in results (``ndcg`` in ``ndcg@5``) -> function.
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "ndcg": ndcg_at_k,
        "ndcg_toolgen": ndcg_toolgen_at_k,
        "recall": recall_at_k,
        "precision": precision_at_k,
        "completeness": completeness_at_k,
        "hit": hit_at_k,
        "mrr": mrr_at_k,
    }
)


def _places(ranked: Sequence[str], relevant: Collection[str], k: int) -> tuple[list[int], int]:
    """Give the 0-based places of the relevant tools in the ranking without repeats, and how many tools are relevant."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise EvaluationError(f"k: expected a whole number above zero, got {k!r}")
    for what, value in (("ranked", ranked), ("relevant", relevant)):
        if isinstance(value, str):
            raise EvaluationError(f"{what}: expected a collection of tool ids, got the text {value!r}")
    wanted = set(relevant)
    if not wanted:
        raise EvaluationError("relevant: expected at least one tool id, got none; leave out queries without labels")
    return [place for place, name in enumerate(dict.fromkeys(ranked)) if name in wanted], len(wanted)


def _gain(places: Iterable[int]) -> float:
    """Sum the discounted gains of relevant tools at 0-based places."""
    return math.fsum(1.0 / math.log2(place + 2) for place in places)
