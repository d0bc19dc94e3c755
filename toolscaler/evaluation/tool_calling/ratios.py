"""Counts of single tasks in, the ratio of their sums and its bootstrap interval out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from toolscaler.errors import EvaluationError
from toolscaler.evaluation.retrieval import MetricValue
from toolscaler.evaluation.statistics import bootstrap_intervals

_BLOCK = 1 << 22


def mean_metric(values: Any, *, num_resamples: int, seed: int) -> MetricValue:
    """Give the mean of tasks' values with its 95 % percentile bootstrap interval; of one task the interval is NaN.

    Args:
        values: (n,) finite values.
        num_resamples: How many resamples.
        seed: Seed of the draws.
    """
    table = np.asarray(values, dtype=np.float64)
    if len(table) < 2:
        return MetricValue(float(table.mean()), math.nan, math.nan)
    low, high = bootstrap_intervals(table, num_resamples=num_resamples, seed=seed)
    return MetricValue(float(table.mean()), float(low), float(high))


def ratio_metric(above: Any, below: Any, *, num_resamples: int, seed: int) -> MetricValue:
    """Give the ratio of sums over tasks (a micro average) with its 95 % percentile bootstrap interval.

    Resamples draw whole tasks. One whose denominator is 0 says nothing and is left out.

    Args:
        above: (n,) numerators.
        below: (n,) denominators, not all 0.
        num_resamples: How many resamples.
        seed: Seed of the draws.

    Raises:
        EvaluationError: The lengths differ, or the denominators are all 0.
    """
    first, second = (np.asarray(values, dtype=np.float64) for values in (above, below))
    n = len(first)
    if first.shape != second.shape or not second.sum():
        raise EvaluationError("expected as many numerators as denominators, and one of these above 0")
    value = float(first.sum() / second.sum())
    if n < 2:
        return MetricValue(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    ratios = []
    step = max(1, _BLOCK // n)
    for start in range(0, num_resamples, step):
        drawn = rng.integers(0, n, size=(min(step, num_resamples - start), n))
        sums = first[drawn].sum(axis=1), second[drawn].sum(axis=1)
        ratios.append(sums[0][sums[1] > 0] / sums[1][sums[1] > 0])
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    return MetricValue(value, float(low), float(high))
