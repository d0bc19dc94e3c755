"""Measure retrievers: every one gets the same queries, is cut at the same depth, and is compared query by query."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from toolscaler.decoding.result import Retriever
from toolscaler.errors import ConfigError, EvaluationError
from toolscaler.evaluation.breakdown import GroupMetrics, Groups, break_down
from toolscaler.evaluation.metrics import METRICS
from toolscaler.evaluation.statistics import (
    MetricValue,
    bootstrap_intervals,
    paired_bootstrap_interval,
    paired_randomization_test,
)

if TYPE_CHECKING:
    from toolscaler.data.queries import ToolQuery
    from toolscaler.decoding import RetrievedTool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairedComparison:
    """Two systems on the same queries.

    Attributes:
        metric: Metric name, for example ``ndcg@1``.
        system: Name of the first system.
        baseline: Name of the second.
        n: Number of queries.
        difference: Mean of system minus baseline.
        low: Lower end of the difference's paired bootstrap interval.
        high: Upper end of it.
        p_value: Of the two-sided paired randomisation test.
    """

    metric: str
    system: str
    baseline: str
    n: int
    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What one system reached.

    Attributes:
        name: The system.
        n: Number of queries.
        metrics: Metric name (``ndcg@1``, ``recall@5``, ...) -> mean and interval.
        per_query: Metric name -> float64 (n,), in the order of the queries.
        rankings: One tuple of :class:`~toolscaler.decoding.RetrievedTool` a query, repeats dropped, cut at ``depth``.
        depth: How many tools of a ranking count: the largest cut-off.
        by_labels: ``single`` and ``multi`` -> metrics of the queries with one relevant tool, and with several. Empty
            unless both kinds exist.
        counts: ``single`` and ``multi`` -> number of such queries.
        queries_sha256: Hash of query texts and labels: results with equal hashes are comparable.
        seed: Seed of the resampling.
        num_resamples: Bootstrap resamples.
        confidence: Coverage of the intervals.
        settings: What the retriever was called with; ``tools``: how many were allowed, where not all.
        breakdowns: Kind (``category``, ``seen``, ...) -> group -> number of queries and metrics; see
            :func:`~toolscaler.evaluation.standard_groups`.
    """

    name: str
    n: int
    metrics: Mapping[str, MetricValue]
    per_query: Mapping[str, np.ndarray]
    rankings: tuple[tuple[RetrievedTool, ...], ...]
    depth: int
    by_labels: Mapping[str, Mapping[str, MetricValue]]
    counts: Mapping[str, int]
    queries_sha256: str
    seed: int = 0
    num_resamples: int = 2000
    confidence: float = 0.95
    settings: Mapping[str, Any] = field(default_factory=dict)
    breakdowns: Mapping[str, Mapping[str, GroupMetrics]] = field(default_factory=dict)

    def compare(
        self, other: EvaluationResult, metric: str = "ndcg@1", *, num_resamples: int = 10_000
    ) -> PairedComparison:
        """Compare with another system on the same queries.

        Args:
            other: The baseline's result.
            metric: Metric name.
            num_resamples: Sign patterns of the randomisation test.

        Raises:
            EvaluationError: The other result is of other queries or another depth, or one of them lacks the metric.
        """
        if (self.queries_sha256, self.depth) != (other.queries_sha256, other.depth):
            raise EvaluationError(
                f"{self.name!r} and {other.name!r} were measured on other queries or at another depth "
                f"({self.n} queries cut at {self.depth}, {other.n} cut at {other.depth}); use one evaluator for both"
            )
        for result in (self, other):
            if metric not in result.per_query:
                raise EvaluationError(f"metric: expected one of {', '.join(result.per_query)}; got {metric!r}")
        mine, theirs = self.per_query[metric], other.per_query[metric]
        difference, low, high = paired_bootstrap_interval(
            mine, theirs, confidence=self.confidence, num_resamples=self.num_resamples, seed=self.seed
        )
        p_value = paired_randomization_test(mine, theirs, num_resamples=num_resamples, seed=self.seed)
        return PairedComparison(metric, self.name, other.name, self.n, difference, low, high, p_value)

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the rankings and the single queries' values as plain data."""

        def plain(metrics: Mapping[str, MetricValue]) -> dict[str, dict[str, float]]:
            return {key: {"mean": v.mean, "low": v.low, "high": v.high} for key, v in metrics.items()}

        return {
            "name": self.name,
            "n": self.n,
            "depth": self.depth,
            "metrics": plain(self.metrics),
            "by_labels": {
                kind: {"n": self.counts[kind], "metrics": plain(metrics)} for kind, metrics in self.by_labels.items()
            },
            "breakdowns": {
                kind: {name: group.to_dict() for name, group in groups.items()}
                for kind, groups in self.breakdowns.items()
            },
            "queries_sha256": self.queries_sha256,
            "seed": self.seed,
            "num_resamples": self.num_resamples,
            "confidence": self.confidence,
            "settings": dict(self.settings),
        }


class ToolRetrievalEvaluator:
    """Measure any retriever on labelled queries (paper section 5.1).

    Args:
        queries: Labelled queries.
        ks: Cut-offs. Every system is asked for, and cut at, the largest of them.
        seed: Seed of bootstrap and tests.
        num_resamples: Bootstrap resamples.
        confidence: Coverage of the intervals.
        groups: Break-downs to make: kind -> the group or groups of each query
            (:func:`~toolscaler.evaluation.standard_groups`); default: none but that by one or several labels.

    Raises:
        EvaluationError: There are no queries, or some have no labels; or a break-down is of other queries.
        ConfigError: ``ks`` is empty or holds something else than whole numbers above zero.

    Example:
        >>> evaluator = ToolRetrievalEvaluator(queries)  # doctest: +SKIP
        >>> ours, bm25 = evaluator(retriever, name="toolscaler"), evaluator(BM25Retriever(documents), name="bm25")
        ... # doctest: +SKIP
        >>> ours.metrics["ndcg@1"].mean, ours.compare(bm25).p_value  # doctest: +SKIP
    """

    def __init__(
        self,
        queries: Sequence[ToolQuery],
        ks: Sequence[int] = (1, 3, 5),
        *,
        seed: int = 0,
        num_resamples: int = 2000,
        confidence: float = 0.95,
        groups: Mapping[str, Groups] | None = None,
    ) -> None:
        self.queries = list(queries)
        if not self.queries:
            raise EvaluationError("queries: expected labelled queries, got none")
        bare = [row for row, query in enumerate(self.queries) if not query.tools]
        if bare:
            raise EvaluationError(
                f"{len(bare)} of {len(self.queries)} queries have no relevant tool (the first is number {bare[0]}: "
                f"{self.queries[bare[0]].text!r:.80}); leave them out: [q for q in queries if q.tools]"
            )
        if not ks or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in ks):
            raise ConfigError("ks", list(ks), "whole numbers above zero, at least one")
        self.ks = tuple(sorted(set(ks)))
        self.seed, self.num_resamples, self.confidence = seed, num_resamples, confidence
        self.groups = dict(groups or {})
        for kind, entries in self.groups.items():
            if len(entries) != len(self.queries):
                raise EvaluationError(
                    f"groups: expected an entry of {kind!r} for each of {len(self.queries)} queries, got {len(entries)}"
                )

    @property
    def depth(self) -> int:
        """Tools of a ranking that count."""
        return self.ks[-1]

    @property
    def queries_sha256(self) -> str:
        """Hash (hex) over texts and labels; the order of a query's labels means nothing."""
        rows = [[query.text, sorted(query.tools)] for query in self.queries]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()

    def __call__(
        self,
        retriever: Retriever,
        *,
        name: str | None = None,
        tools: Iterable[str] | None = None,
        **retrieve_kwargs: Any,
    ) -> EvaluationResult:
        """Ask the retriever all queries and measure its rankings.

        Args:
            retriever: Any :class:`~toolscaler.decoding.Retriever`.
            name: Name of the system in results; default: the name of its class.
            tools: The allowed tools (the paper's in-domain setting); default: the whole catalogue. A label outside
                them stays a label, so nobody can reach 1 on its query; a warning counts these.
            **retrieve_kwargs: Passed on to ``retriever.retrieve``.

        Raises:
            EvaluationError: The retriever does not give one ranking of tools for each query.
        """
        allowed = list(tools) if isinstance(tools, Iterable) and not isinstance(tools, str) else tools
        settings = {key: value for key, value in retrieve_kwargs.items() if isinstance(value, str | int | float)}
        if isinstance(allowed, list):
            settings["tools"] = len(set(allowed))
            self._warn_unreachable(set(allowed))
        found = retriever.retrieve([query.text for query in self.queries], self.depth, tools=allowed, **retrieve_kwargs)
        return self.score(found, name=name or type(retriever).__name__, settings=settings)

    def score(
        self,
        rankings: Iterable[Iterable[RetrievedTool]],
        *,
        name: str,
        settings: Mapping[str, Any] | None = None,
    ) -> EvaluationResult:
        """Measure rankings that exist already, for example those of a TREC run (``run_rankings``).

        Args:
            rankings: One a query, in the order of the queries; cut at :attr:`depth`.
            name: Name of the system.
            settings: What they were made with, for the record.

        Raises:
            EvaluationError: There is not one ranking of tools for each query.
        """
        checked = _checked_rankings(rankings, len(self.queries), self.depth)
        names = [[tool.name for tool in ranking] for ranking in checked]
        per_query = {
            f"{key}@{k}": np.array([metric(row, q.tools, k) for row, q in zip(names, self.queries, strict=True)])
            for key, metric in METRICS.items()
            for k in self.ks
        }
        several = np.array([len(query.tools) > 1 for query in self.queries])
        kinds = {"single": ~several, "multi": several}
        both = several.any() and not several.all()
        drawing: dict[str, Any] = {
            "seed": self.seed,
            "num_resamples": self.num_resamples,
            "confidence": self.confidence,
        }
        return EvaluationResult(
            name=name,
            n=len(self.queries),
            metrics=self._summarise(per_query, np.ones_like(several)),
            per_query=per_query,
            rankings=checked,
            depth=self.depth,
            by_labels={kind: self._summarise(per_query, mask) for kind, mask in kinds.items()} if both else {},
            counts={kind: int(mask.sum()) for kind, mask in kinds.items()},
            queries_sha256=self.queries_sha256,
            settings=dict(settings or {}),
            breakdowns={kind: break_down(per_query, entries, **drawing) for kind, entries in self.groups.items()},
            **drawing,
        )

    def _summarise(self, per_query: Mapping[str, np.ndarray], mask: np.ndarray) -> dict[str, MetricValue]:
        table = np.stack([values[mask] for values in per_query.values()], axis=1)
        low, high = bootstrap_intervals(
            table, confidence=self.confidence, num_resamples=self.num_resamples, seed=self.seed
        )
        means = table.mean(axis=0)
        return {key: MetricValue(float(means[i]), float(low[i]), float(high[i])) for i, key in enumerate(per_query)}

    def _warn_unreachable(self, allowed: set[str]) -> None:
        outside = sum(1 for query in self.queries if not allowed.issuperset(query.tools))
        if outside:
            logger.warning("%d of %d queries have a label outside the allowed tools", outside, len(self.queries))


def results_table(
    results: Sequence[EvaluationResult],
    baseline: str | None = None,
    *,
    metrics: Sequence[str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> str:
    """Write results as a Markdown table: means in per cent with their intervals, n, and p against a named baseline.

    Args:
        results: Results of one evaluator.
        baseline: Name of the result to compare all others with; default: no comparison.
        metrics: Columns; default: NDCG at every cut-off, and recall and completeness at the largest. p-values are of
            the first.
        notes: What to print below beside n, interval and seed, for example catalogue size and beam width.

    Returns:
        Markdown text that ends with a line break.

    Raises:
        EvaluationError: There are no results, or they are of different queries, or two have one name; or no result has
            the baseline's name; or a metric is unknown.
    """
    if not results:
        raise EvaluationError("results: expected at least one, got none")
    if len({(result.queries_sha256, result.depth) for result in results}) > 1:
        raise EvaluationError("results: expected results of one evaluator, got other queries or another depth")
    columns = list(metrics or headline_metrics(results[0]))
    names = [result.name for result in results]
    if len(set(names)) < len(names):
        raise EvaluationError(f"results: expected different names, got {names}")
    if baseline is not None and baseline not in names:
        raise EvaluationError(f"baseline: expected one of {', '.join(names)}; got {baseline!r}")
    reference = results[names.index(baseline)] if baseline is not None else None
    head = ["system", "n", *columns] + ([f"p ({columns[0]} against {baseline})"] if reference else [])
    lines = [f"| {' | '.join(head)} |", f"|{'---|' + '---:|' * (len(head) - 1)}"]
    for result in results:
        cells = [result.name, str(result.n)]
        for column in columns:
            if column not in result.metrics:
                raise EvaluationError(f"metrics: expected some of {', '.join(result.metrics)}; got {column!r}")
            value = result.metrics[column]
            cells.append(f"{100 * value.mean:.2f} [{100 * value.low:.2f}, {100 * value.high:.2f}]")
        if reference is not None:
            cells.append("–" if result is reference else _p_text(result.compare(reference, columns[0]).p_value))
        lines.append(f"| {' | '.join(cells)} |")
    first = results[0]
    facts = {
        "intervals": f"{100 * first.confidence:g} % percentile bootstrap over queries, {first.num_resamples} resamples",
        **({"p": "two-sided paired randomisation test"} if reference else {}),
        **(notes or {}),
        "rankings cut at": first.depth,
        "seed": first.seed,
    }
    lines += ["", "; ".join(f"{key}: {value}" for key, value in facts.items()) + "."]
    return "\n".join(lines) + "\n"


def headline_metrics(result: EvaluationResult) -> list[str]:
    """Give the metrics that a table shows by default: NDCG at all cut-offs, recall and completeness at the largest."""
    ndcg = [key for key in result.metrics if key.startswith("ndcg@")]
    return [*ndcg, f"recall@{result.depth}", f"completeness@{result.depth}"]


def _p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _checked_rankings(found: Any, count: int, depth: int) -> tuple[tuple[RetrievedTool, ...], ...]:
    """Drop repeated tools and cut at the depth.

    Raises:
        EvaluationError: There is not one ranking a query, or a ranking holds something else than tools.
    """
    rankings = list(found)
    if len(rankings) != count:
        raise EvaluationError(f"expected one ranking for each of {count} queries, the retriever gave {len(rankings)}")
    checked = []
    for row, ranking in enumerate(rankings):
        unique: dict[str, Any] = {}
        for tool in ranking:
            if not isinstance(getattr(tool, "name", None), str):
                raise EvaluationError(f"ranking {row}: expected RetrievedTool objects, got {tool!r:.80}")
            unique.setdefault(tool.name, tool)
        checked.append(tuple(unique.values())[:depth])
    return tuple(checked)
