"""How sure a number is: values of single queries in, intervals and p-values out. Everything is seeded and vectorised.

The unit that is drawn anew is the query: intervals say what other queries of the same kind would give, not what
another training run would.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from toolscaler.errors import EvaluationError

#: Numbers held at a time while resampling (64 MB of float64).
_BLOCK = 1 << 23


def bootstrap_intervals(
    values: Any, *, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap intervals of means over queries.

    Each resample draws n queries with replacement; all columns see the same draws.

    Args:
        values: (n,) or (n, M): the values of M metrics for n queries.
        confidence: Coverage, between 0 and 1.
        num_resamples: How many resamples, at least 100; from 1,000 on the ends of a 95 % interval are steady.
        seed: Seed of the draws.

    Returns:
        The lower and upper ends, float64, shape () or (M,).

    Raises:
        EvaluationError: There are no queries, a value is not finite, or a setting is out of range.
    """
    table = _checked(values, "values")
    _check_settings(confidence, num_resamples)
    flat = table.reshape(len(table), -1)
    n = len(flat)
    rng = np.random.default_rng(seed)
    means = np.empty((num_resamples, flat.shape[1]))
    step = max(1, _BLOCK // n)
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + (np.arange(rows) * n)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means[start : start + rows] = times @ flat / n
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return low.reshape(table.shape[1:]), high.reshape(table.shape[1:])


def paired_bootstrap_interval(
    first: Any, second: Any, *, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Percentile bootstrap interval of the mean difference of two systems on the same queries.

    Args:
        first: (n,) values of one system.
        second: (n,) values of the other, for the same queries in the same order.
        confidence: See :func:`bootstrap_intervals`.
        num_resamples: See :func:`bootstrap_intervals`.
        seed: See :func:`bootstrap_intervals`.

    Returns:
        Mean of ``first - second``, and the lower and upper end of its interval.

    Raises:
        EvaluationError: The lengths differ, or as :func:`bootstrap_intervals`.
    """
    differences = _differences(first, second)
    low, high = bootstrap_intervals(differences, confidence=confidence, num_resamples=num_resamples, seed=seed)
    return float(differences.mean()), float(low), float(high)


def paired_randomization_test(first: Any, second: Any, *, num_resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided paired randomisation test (Fisher's sign flips) of the mean difference of two systems.

    Under the null hypothesis the names of the two systems mean nothing, so the sign of each query's difference is a
    coin toss. Where all sign patterns of the queries that differ are no more than ``num_resamples``, each is looked at
    and the p-value is exact; otherwise patterns are drawn, and the observed one is counted among them, so that p is
    never below ``1 / (num_resamples + 1)``.

    Args:
        first: (n,) values of one system.
        second: (n,) values of the other, for the same queries in the same order.
        num_resamples: How many sign patterns to look at, at least 100.
        seed: Seed of the draws.

    Returns:
        The p-value; 1.0 where the systems agree on every query.

    Raises:
        EvaluationError: The lengths differ, there are no queries, or a value is not finite.
    """
    differences = _differences(first, second)
    _check_settings(0.5, num_resamples)
    # Rounding makes differences that are equal but for floating-point noise equal; 12 digits are beyond any metric.
    differences = np.round(differences, 12)
    differences = differences[differences != 0.0]
    if not len(differences):
        return 1.0
    # A pattern counts as extreme up to rounding: sums of the same numbers in another order differ in the last digits.
    bound = abs(differences.sum()) - 1e-9 * np.abs(differences).sum()
    if len(differences) < 60 and 2 ** len(differences) <= num_resamples:
        bits = (np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences))) & 1
        return float(np.mean(np.abs((1 - 2 * bits) @ np.abs(differences)) >= bound))
    # Of c queries with the same difference, the number of plus signs is binomial: few draws do for many queries.
    sizes, counts = np.unique(np.abs(differences), return_counts=True)
    rng = np.random.default_rng(seed)
    extreme = 0
    step = max(1, _BLOCK // len(sizes))
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        sums = (2 * rng.binomial(counts, 0.5, size=(rows, len(counts))) - counts) @ sizes
        extreme += int(np.count_nonzero(np.abs(sums) >= bound))
    return (extreme + 1) / (num_resamples + 1)


def _differences(first: Any, second: Any) -> np.ndarray:
    one, two = _checked(first, "first"), _checked(second, "second")
    if one.shape != two.shape or one.ndim != 1:
        raise EvaluationError(
            f"expected one value a query of both systems, for the same queries; got shapes {one.shape} and {two.shape}"
        )
    return one - two


def _checked(values: Any, what: str) -> np.ndarray:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim not in (1, 2) or not table.size:
        raise EvaluationError(f"{what}: expected (queries,) or (queries, metrics) numbers, got shape {table.shape}")
    if not np.isfinite(table).all():
        raise EvaluationError(f"{what}: expected finite numbers, got {int((~np.isfinite(table)).sum())} that are not")
    return table


def _check_settings(confidence: float, num_resamples: int) -> None:
    if not 0.0 < confidence < 1.0:
        raise EvaluationError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
    if num_resamples < 100:
        raise EvaluationError(f"num_resamples: expected at least 100, got {num_resamples!r}")
