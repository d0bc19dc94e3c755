"""Break-downs: values of single queries and the groups they belong to in, means with intervals for each group out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolscaler.errors import EvaluationError
from toolscaler.evaluation.statistics import MetricValue, bootstrap_intervals

if TYPE_CHECKING:
    from toolscaler.data.documents import ToolDocument
    from toolscaler.data.queries import ToolQuery

#: The groups of each query: one name, or several, or none.
Groups = Sequence[str | Collection[str]]

#: Group of queries that have no such property.
NO_GROUP = "(none)"
#: Group of labels that are no tools of the catalogue.
NOT_IN_CATALOGUE = "(not in the catalogue)"
#: Group that holds what is left of more groups than a table can show.
OTHERS = "(others)"

_MANY_TOOLS = 4


@dataclass(frozen=True)
class GroupMetrics:
    """One group of queries.

    Attributes:
        n: Number of queries; with few of them the intervals are too short.
        metrics: Metric name -> mean and bootstrap interval.
    """

    n: int
    metrics: Mapping[str, MetricValue]

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return {"n": self.n, "metrics": {key: vars(value).copy() for key, value in self.metrics.items()}}


def break_down(
    per_query: Mapping[str, Any],
    groups: Groups,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, GroupMetrics]:
    """Summarise each group of queries by itself.

    Args:
        per_query: Metric name -> (n,) values (``EvaluationResult.per_query``).
        groups: For each of the n queries its group, or several, in each of which it counts once, or none.
        confidence: Coverage of the intervals.
        num_resamples: Bootstrap resamples, at least 100.
        seed: Seed of the resampling.

    Returns:
        Group -> its metrics, sorted by name.

    Raises:
        EvaluationError: There is not one entry a query, a name is no text, or a value is not finite.
    """
    members = _members(groups)
    columns = {key: np.asarray(values, dtype=np.float64) for key, values in per_query.items()}
    wrong = {key: values.shape for key, values in columns.items() if values.shape != (len(groups),)}
    if wrong or not columns:
        raise EvaluationError(
            f"expected metrics with one value for each of {len(groups)} queries; got {wrong or 'none'}"
        )
    table = np.stack(list(columns.values()), axis=1)
    found = {}
    for name in sorted(members):
        part = table[members[name]]
        low, high = bootstrap_intervals(part, confidence=confidence, num_resamples=num_resamples, seed=seed)
        means = part.mean(axis=0)
        values = {key: MetricValue(float(means[i]), float(low[i]), float(high[i])) for i, key in enumerate(columns)}
        found[name] = GroupMetrics(len(part), values)
    return found


def group_by_category(queries: Sequence[ToolQuery], documents: Iterable[ToolDocument]) -> list[tuple[str, ...]]:
    """Group queries by the categories of their relevant tools; a query with tools of several counts in each.

    Args:
        queries: Labelled queries.
        documents: The catalogue.

    Returns:
        Categories of each query; :data:`NO_GROUP` for a tool without one, :data:`NOT_IN_CATALOGUE` for an unknown tool.
    """
    known = {document.id: document.category or NO_GROUP for document in documents}
    return [tuple(dict.fromkeys(known.get(tool, NOT_IN_CATALOGUE) for tool in query.tools)) for query in queries]


def group_by_seen(queries: Sequence[ToolQuery], seen: Collection[str]) -> list[str]:
    """Group queries by whether their relevant tools were in training: all ``seen``, all ``unseen``, or ``mixed``.

    Args:
        queries: Labelled queries.
        seen: Ids of the tools that occur in a training label.

    Raises:
        EvaluationError: ``seen`` is a text, or a query has no relevant tool.
    """
    if isinstance(seen, str):
        raise EvaluationError(f"seen: expected a collection of tool ids, got the text {seen!r}")
    known = set(seen)
    groups = []
    for row, query in enumerate(queries):
        if not query.tools:
            raise EvaluationError(f"query {row} has no relevant tool; leave such queries out")
        count = sum(tool in known for tool in query.tools)
        groups.append("seen" if count == len(query.tools) else "mixed" if count else "unseen")
    return groups


def group_by_number(queries: Sequence[ToolQuery]) -> list[str]:
    """Group queries by how many tools are relevant: ``0`` to ``3``, ``4+``."""
    sizes = [len(query.tools) for query in queries]
    return [str(size) if size < _MANY_TOOLS else f"{_MANY_TOOLS}+" for size in sizes]


def group_by_tag(queries: Sequence[ToolQuery], key: str) -> list[tuple[str, ...]]:
    """Group queries by a property that their source gives.

    Args:
        queries: Queries.
        key: A key of :attr:`~toolscaler.data.ToolQuery.metadata`, or ``split``. Its value is a text, number or truth
            value, or a list of them; a query without it is in :data:`NO_GROUP`.

    Raises:
        EvaluationError: No query has the key, or a value is something else.
    """
    found: list[tuple[str, ...]] = []
    for row, query in enumerate(queries):
        value = query.split if key == "split" else query.metadata.get(key)
        values = list(value) if isinstance(value, list | tuple) else [value]
        if not all(entry is None or isinstance(entry, str | int | float) for entry in values):
            raise EvaluationError(f"query {row}: expected a text or number under {key!r}, got {value!r:.80}")
        named = tuple(dict.fromkeys(str(entry) for entry in values if entry is not None and entry != ""))
        found.append(named or (NO_GROUP,))
    if all(names == (NO_GROUP,) for names in found):
        known = sorted({name for query in queries for name in query.metadata})
        raise EvaluationError(f"tag: expected 'split' or one of {known}, got {key!r}, which no query has")
    return found


def standard_groups(
    queries: Sequence[ToolQuery],
    *,
    documents: Iterable[ToolDocument] | None = None,
    seen: Collection[str] | None = None,
    tags: Sequence[str] = (),
    max_groups: int = 60,
) -> dict[str, Groups]:
    """Give the break-downs that the given facts allow, for :class:`~toolscaler.evaluation.ToolRetrievalEvaluator`.

    Args:
        queries: Labelled queries.
        documents: The catalogue; gives ``category``, unless no document has one.
        seen: Ids of the tools that training labels name; gives ``seen``.
        tags: Properties of queries; each gives a break-down of its name (:func:`group_by_tag`).
        max_groups: Where there are more groups than that, the smallest become :data:`OTHERS`.

    Returns:
        Kind (``tools``: how many are relevant; ``category``; ``seen``; tags) -> group or groups of each query.

    Raises:
        EvaluationError: A tag is unknown, or is called like another break-down.
    """
    kinds: dict[str, Groups] = {"tools": group_by_number(queries)}
    rows = list(documents) if documents is not None else []
    if any(document.category for document in rows):
        kinds["category"] = group_by_category(queries, rows)
    if seen is not None:
        kinds["seen"] = group_by_seen(queries, seen)
    for tag in dict.fromkeys(tags):
        if tag in kinds:
            raise EvaluationError(f"tags: {tag!r} is a break-down of its own; rename the queries' property")
        kinds[tag] = group_by_tag(queries, tag)
    return {kind: _fewer(groups, max_groups) for kind, groups in kinds.items()}


def _fewer(groups: Groups, limit: int) -> Groups:
    """Merge the smallest groups, where there are more than ``limit``; of equal sizes the first by name stay."""
    members = _members(groups)
    if len(members) <= limit:
        return groups
    sizes = Counter({name: len(rows) for name, rows in members.items()})
    kept = set(sorted(sizes, key=lambda name: (-sizes[name], name))[: limit - 1])
    return [tuple(dict.fromkeys(name if name in kept else OTHERS for name in _names(entry))) for entry in groups]


def _members(groups: Groups) -> dict[str, list[int]]:
    """Give the rows of each group."""
    members: dict[str, list[int]] = {}
    for row, entry in enumerate(groups):
        for name in dict.fromkeys(_names(entry)):
            if not isinstance(name, str):
                raise EvaluationError(f"groups: expected names of groups for query {row}, got {name!r:.80}")
            members.setdefault(name, []).append(row)
    return members


def _names(entry: str | Collection[str]) -> Collection[str]:
    return (entry,) if isinstance(entry, str) else entry
