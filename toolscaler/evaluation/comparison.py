"""Several systems on the same queries in, one table out: means, intervals, differences, tests that know of each other.

A table of many numbers finds differences by chance. So the p-values of a table are adjusted together (Holm), and a
value is printed bold only where it is separable from every other system's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolscaler.errors import ConfigError, EvaluationError
from toolscaler.evaluation.comparison_table import ComparedValue, ComparisonTable, Mark
from toolscaler.evaluation.retrieval import EvaluationResult, headline_metrics
from toolscaler.evaluation.statistics import (
    RunDesign,
    check_settings,
    holm_adjust,
    paired_randomization_test,
    percentile_interval,
    resampled_means,
    run_values,
)


def compare_systems(
    results: Mapping[str, Any],
    baseline: str | None = None,
    *,
    metrics: Sequence[str] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    design: RunDesign = "crossed",
    confidence: float = 0.95,
    num_resamples: int = 2000,
    test_resamples: int | None = None,
    seed: int = 0,
) -> ComparisonTable:
    """Compare systems query by query, and mark the best only where a test says so.

    Steps:

    1. Means and percentile bootstrap intervals, of values and of differences to the baseline. All systems see the same
       draws of queries. With several runs a system, runs are drawn too
       (:func:`~toolscaler.evaluation.cluster_bootstrap_interval`).
    2. Each system against the baseline by the paired randomisation test over queries, on the mean of its runs for
       each query; Holm's method over all these tests of the table.
    3. In each column the system of the highest mean against every other, by the same test; Holm's method over all
       these tests of the table. If all of its column fall below ``1 - confidence`` it is ``best``; otherwise it and all
       that do not are ``tied``. With several runs a difference must besides have an interval without 0: the test takes
       the runs as given, the interval does not. Higher is better in every column.

    Args:
        results: System -> its values. Values are one of

            - metric -> numbers of shape (n,), or (runs, n) for several training runs. Within a metric query i of all
              systems is the same query; metrics may have different queries (``"ToolE ndcg@1"``), and a system may lack
              a metric (shown as "–");
            - an array of that shape alone: one metric, called ``value``;
            - an :class:`~toolscaler.evaluation.EvaluationResult`, or a list of them, one a run; their query hashes have
              to fit.
        baseline: Name of the system to compare all others with; default: none.
        metrics: Columns and their order; default: all that occur, or the headline metrics of evaluation results.
        facts: System -> column -> what to print beside its numbers, for example ``{"catalogue": 46984, "beams": 10,
            "seed": 0}``.
        design: ``crossed``: the runs of a system answered the same queries; ``nested``: each run has its own.
        confidence: Coverage of the intervals; the tests' level is what is missing to 1.
        num_resamples: Bootstrap resamples, at least 100.
        test_resamples: Sign patterns a test; default: 10,000, or what Holm's smallest step needs in a larger table.
        seed: Seed of the resampling.

    Returns:
        The table; :meth:`ComparisonTable.to_markdown` and :meth:`ComparisonTable.to_csv` write it.

    Raises:
        EvaluationError: There are no systems; arrays of one metric have different lengths or hold something else than
            finite numbers; evaluation results are of different queries; or a name is unknown.
        ConfigError: ``design`` is unknown.

    Example:
        >>> values = {"ours": {"hit@1": [1.0] * 20}, "bm25": {"hit@1": [1.0, 0.0] * 10}}
        >>> table = compare_systems(values, baseline="bm25", facts={"ours": {"beams": 10}})
        >>> cell = table.value("ours", "hit@1")
        >>> cell.difference, round(cell.p_holm, 5), cell.mark
        (0.5, 0.00195, 'best')
    """
    if not isinstance(results, Mapping) or not results:
        raise EvaluationError("results: expected at least one system by name, got none")
    if baseline is not None and baseline not in results:
        raise EvaluationError(f"baseline: expected one of {', '.join(results)}; got {baseline!r}")
    stray = sorted(set(facts or {}) - set(results))
    if stray:
        raise EvaluationError(f"facts: expected only names of systems, got {stray}")
    check_settings(confidence, num_resamples)
    table = _columns(results, metrics, design)
    # p is at least 1 / (patterns + 1), and Holm multiplies the smallest by the number of tests.
    patterns = test_resamples or max(10_000, math.ceil(2 * len(results) * len(table) / (1.0 - confidence)))
    settings = _Settings(design, confidence, num_resamples, patterns, seed)
    columns = {metric: _Column(systems, metric, baseline, settings) for metric, systems in table.items()}
    _adjust([test for column in columns.values() for test in column.against_baseline])
    _adjust([test for column in columns.values() for test in column.against_best])
    values = [
        columns[metric].value(system) for system in results for metric in columns if system in columns[metric].systems
    ]
    kept = {system: dict(known) for system, known in (facts or {}).items()}
    return ComparisonTable(
        tuple(results),
        tuple(columns),
        baseline,
        tuple(values),
        kept,
        confidence,
        design,
        num_resamples,
        patterns,
        seed,
    )


@dataclass(frozen=True)
class _Settings:
    design: RunDesign
    confidence: float
    num_resamples: int
    test_resamples: int
    seed: int


@dataclass
class _Test:
    """One system against another: the raw and, when the table is whole, the adjusted p-value."""

    system: str
    p_value: float
    p_holm: float = math.nan


class _Column:
    """All systems that were measured by one metric."""

    def __init__(
        self, systems: Mapping[str, list[np.ndarray]], metric: str, baseline: str | None, settings: _Settings
    ) -> None:
        self.systems, self.metric, self.settings = dict(systems), metric, settings
        try:
            drawn = resampled_means(
                list(systems.values()),
                design=settings.design,
                num_resamples=settings.num_resamples,
                seed=settings.seed,
            )
        except EvaluationError as error:
            raise EvaluationError(f"{metric}: {error}") from None
        self.drawn = dict(zip(systems, drawn.T, strict=True))
        self.means = {name: float(np.mean([run.mean() for run in runs])) for name, runs in systems.items()}
        self.baseline = baseline if baseline in systems else None
        self.best = max(systems, key=lambda name: self.means[name])
        known: dict[frozenset[str], float] = {}
        self.against_baseline = self._tests(self.baseline, known)
        self.against_best = self._tests(self.best, known)

    def value(self, system: str) -> ComparedValue:
        """Put one cell together; the tests have to be adjusted."""
        runs = self.systems[system]
        low, high = self._ends(self.drawn[system])
        counted = sum(map(len, runs)) if self.settings.design == "nested" else len(runs[0])
        against: dict[str, Any] = {}
        test = next((test for test in self.against_baseline if test.system == system), None)
        if test is not None and self.baseline is not None:
            ends = self._ends(self.drawn[system] - self.drawn[self.baseline])
            against = {
                "difference": self.means[system] - self.means[self.baseline],
                "difference_low": ends[0],
                "difference_high": ends[1],
                "p_value": test.p_value,
                "p_holm": test.p_holm,
            }
        mark = self._mark(system)
        return ComparedValue(
            system, self.metric, counted, len(runs), self.means[system], low, high, **against, mark=mark
        )

    def _mark(self, system: str) -> Mark:
        tied = [test.system for test in self.against_best if not self._separable(test)]
        if len(self.systems) < 2 or (system != self.best and system not in tied):
            return ""
        return "tied" if tied else "best"

    def _separable(self, test: _Test) -> bool:
        if test.p_holm >= 1.0 - self.settings.confidence:
            return False
        if max(len(self.systems[name]) for name in (self.best, test.system)) < 2:
            return True
        return self._ends(self.drawn[self.best] - self.drawn[test.system])[0] > 0.0

    def _tests(self, against: str | None, known: dict[frozenset[str], float]) -> list[_Test]:
        tests = []
        for name in self.systems:
            if against is None or name == against:
                continue
            pair = frozenset((name, against))
            if pair not in known:
                known[pair] = paired_randomization_test(
                    self._by_query(name),
                    self._by_query(against),
                    num_resamples=self.settings.test_resamples,
                    seed=self.settings.seed,
                )
            tests.append(_Test(name, known[pair]))
        return tests

    def _by_query(self, system: str) -> np.ndarray:
        """One value a query, so that their mean is the system's."""
        runs = self.systems[system]
        if self.settings.design == "crossed":
            return np.mean(runs, axis=0)
        total = sum(map(len, runs))
        return np.concatenate([run * (total / (len(run) * len(runs))) for run in runs])

    def _ends(self, means: np.ndarray) -> tuple[float, float]:
        low, high = percentile_interval(means, self.settings.confidence)
        return float(low), float(high)


def _adjust(tests: Sequence[_Test]) -> None:
    for test, adjusted in zip(tests, holm_adjust([test.p_value for test in tests]), strict=True):
        test.p_holm = float(adjusted)


def _columns(
    results: Mapping[str, Any], metrics: Sequence[str] | None, design: RunDesign
) -> dict[str, dict[str, list[np.ndarray]]]:
    """Give metric -> system -> one array a run."""
    if isinstance(metrics, str):
        raise ConfigError("metrics", metrics, "a list of metric names")
    named: dict[str, Mapping[str, Any]] = {}
    evaluated: dict[str, list[EvaluationResult]] = {}
    for system, given in results.items():
        group = [given] if isinstance(given, EvaluationResult) else given
        if isinstance(group, list) and group and all(isinstance(one, EvaluationResult) for one in group):
            evaluated[system] = group
            named[system] = _stacked(group)
        else:
            named[system] = given if isinstance(given, Mapping) else {"value": given}
    _check_queries(evaluated, design)
    present = dict.fromkeys(metric for values in named.values() for metric in values)
    wanted = list(present) if metrics is None else list(dict.fromkeys(metrics))
    if metrics is None and len(evaluated) == len(results):
        wanted = headline_metrics(next(iter(evaluated.values()))[0])
    unknown = [metric for metric in wanted if metric not in present]
    if unknown or not wanted:
        raise EvaluationError(f"metrics: expected some of {', '.join(present) or 'none'}; got {unknown or wanted}")
    table: dict[str, dict[str, list[np.ndarray]]] = {metric: {} for metric in wanted}
    for system, values in named.items():
        for metric in wanted:
            if metric in values:
                try:
                    table[metric][system] = run_values(values[metric], design)
                except EvaluationError as error:
                    raise EvaluationError(f"{system}, {metric}: {error}") from None
        if not any(metric in values for metric in wanted):
            raise EvaluationError(f"{system}: expected values of one of {', '.join(wanted)}, got none; leave it out")
    return table


def _stacked(runs: Sequence[EvaluationResult]) -> dict[str, list[np.ndarray]]:
    shared = [metric for metric in runs[0].per_query if all(metric in run.per_query for run in runs)]
    return {metric: [run.per_query[metric] for run in runs] for metric in shared}


def _check_queries(evaluated: Mapping[str, Sequence[EvaluationResult]], design: RunDesign) -> None:
    """Refuse results of other queries: equal lengths would let them pass.

    Raises:
        EvaluationError: Hashes or depths differ.
    """
    seen = {system: [(run.queries_sha256, run.depth) for run in runs] for system, runs in evaluated.items()}
    first = next(iter(seen.values()), [])
    for system, keys in seen.items():
        expected = first if design == "nested" else first[:1] * len(keys)
        if keys != expected:
            raise EvaluationError(
                f"{system!r} was measured on other queries or at another depth than {next(iter(seen))!r}; use one "
                "evaluator for all" + ("" if design == "nested" else ", or design='nested' for runs with their own")
            )
