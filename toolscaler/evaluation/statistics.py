"""How sure a number is: values of single queries in, intervals and p-values out. Everything is seeded and vectorised.

The unit that is drawn anew is the query: intervals say what other queries of the same kind would give, not what
another training run would. Where a system was trained several times, :func:`cluster_bootstrap_interval` draws runs and
queries anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from toolscaler.errors import ConfigError, EvaluationError

#: How the queries of several runs belong together; see :func:`cluster_bootstrap_interval`.
RunDesign = Literal["crossed", "nested"]

#: Numbers held at a time while resampling (64 MB of float64).
_BLOCK = 1 << 23


@dataclass(frozen=True)
class MetricValue:
    """A mean over queries with its bootstrap interval.

    Attributes:
        mean: Mean over the queries.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    mean: float
    low: float
    high: float


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
    check_settings(confidence, num_resamples)
    flat = table.reshape(len(table), -1)
    low, high = percentile_interval(_drawn_means(flat, num_resamples, np.random.default_rng(seed)), confidence)
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
    check_settings(0.5, num_resamples)
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
    extreme = sum(
        int(np.count_nonzero(np.abs(sums) >= bound))
        for sums in _flipped_sums(np.abs(differences), num_resamples, np.random.default_rng(seed))
    )
    return (extreme + 1) / (num_resamples + 1)


def holm_adjust(p_values: Any) -> np.ndarray:
    """Adjust the p-values of a family of tests by Holm's step-down method.

    The i-th smallest of m values (i from 0) becomes the largest of ``(m - j) * p_j`` over all j up to i, at most 1.
    Rejecting what is below alpha then errs anywhere in the family with a probability of at most alpha, however the
    tests depend on each other.

    Args:
        p_values: (m,): raw p-values, in any order; m may be 0.

    Returns:
        float64 (m,): the adjusted values, in the order of the input.

    Raises:
        EvaluationError: A value is no probability, or the array has several dimensions.

    Example:
        >>> holm_adjust([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0.0) & (values <= 1.0)).all():
        raise EvaluationError(f"p_values: expected a list of numbers from 0 to 1, got {p_values!r:.80}")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return adjusted


def cluster_bootstrap_interval(
    values: Any,
    other: Any = None,
    *,
    design: RunDesign = "crossed",
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Percentile bootstrap interval of a mean, or of a difference of means, over training runs and queries.

    - ``crossed``: every run answered the same queries. A resample draws queries, the same for all runs and systems, and
      runs of each system; the two systems' runs are independent of each other, and may differ in number.
    - ``nested``: every run has queries of its own, for example a split drawn with its seed. A resample draws runs, and
      of each drawn run its queries; run s of one system and run s of the other saw the same queries and stay together.
      Each run weighs the same.

    With one run both are :func:`paired_bootstrap_interval`, or the interval of :func:`bootstrap_intervals`. Drawing
    from few runs knows little about runs: of S of them it sees (S - 1) / S of their variance, so that with three seeds
    the part of the interval that runs cause is about 18 % too short.

    Args:
        values: (runs, n), or (n,) for one run; nested runs may be a list of arrays of different lengths.
        other: The same of a second system; default: the interval is that of ``values`` alone.
        design: See above.
        confidence: See :func:`bootstrap_intervals`.
        num_resamples: See :func:`bootstrap_intervals`.
        seed: See :func:`bootstrap_intervals`.

    Returns:
        The mean (mean of the runs' means; of ``values`` minus ``other``, if there is another), and the lower and upper
        end of its interval.

    Raises:
        EvaluationError: Lengths do not fit, there are no queries, a value is not finite, or a setting is out of range.
        ConfigError: ``design`` is unknown.
    """
    systems = [run_values(values, design)] + ([] if other is None else [run_values(other, design)])
    check_settings(confidence, num_resamples)
    means = resampled_means(systems, design=design, num_resamples=num_resamples, seed=seed)
    points = [float(np.mean([run.mean() for run in runs])) for runs in systems]
    low, high = percentile_interval(means[:, 0] - means[:, 1] if len(systems) > 1 else means[:, 0], confidence)
    return points[0] - (points[1] if len(systems) > 1 else 0.0), float(low), float(high)


def run_values(values: Any, design: RunDesign = "crossed") -> list[np.ndarray]:
    """Bring the values of one system into one float64 array a run.

    Args:
        values: As in :func:`cluster_bootstrap_interval`.
        design: As in :func:`cluster_bootstrap_interval`.

    Returns:
        S arrays (n,); of different lengths at most if the runs are nested.

    Raises:
        EvaluationError: There are no queries, a value is not finite, or runs that should share queries do not.
        ConfigError: ``design`` is unknown.
    """
    if design not in get_args(RunDesign):
        raise ConfigError("design", design, f"one of {get_args(RunDesign)}")
    rows = list(values) if isinstance(values, Sequence | np.ndarray) and len(values) else []
    if not rows:
        raise EvaluationError(f"values: expected (queries,) or (runs, queries) numbers, got {values!r:.80}")
    runs = [_checked(values, "values")] if np.ndim(rows[0]) == 0 else [_checked(row, "values") for row in rows]
    if any(run.ndim != 1 for run in runs):
        raise EvaluationError("values: expected (queries,) or (runs, queries) numbers, got more dimensions")
    if design == "crossed" and len({len(run) for run in runs}) > 1:
        raise EvaluationError(
            f"values: crossed runs answer the same queries, got {[len(run) for run in runs]} of them; "
            "use design='nested' for runs with queries of their own"
        )
    return runs


def resampled_means(
    systems: Sequence[Sequence[np.ndarray]], *, design: RunDesign, num_resamples: int, seed: int
) -> np.ndarray:
    """Give each system's mean in each resample; all systems see the same draws of queries.

    Args:
        systems: K results of :func:`run_values`.
        design: As in :func:`cluster_bootstrap_interval`.
        num_resamples: R, how many.
        seed: Seed of the draws.

    Returns:
        float64 (R, K): columns can be subtracted from each other.

    Raises:
        EvaluationError: The systems have different queries; or nested systems have different runs.
    """
    shapes = {tuple(len(run) for run in (runs[:1] if design == "crossed" else runs)) for runs in systems}
    if len(shapes) != 1:
        raise EvaluationError(f"expected all systems to have answered the same queries; got {sorted(shapes)} of them")
    queries, chooser = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    if design == "crossed":
        ends = np.cumsum([len(runs) for runs in systems])
        single = _drawn_means(np.concatenate([np.stack(list(runs)) for runs in systems]).T, num_resamples, queries)
        parts = np.split(single, ends[:-1], axis=1)
        return np.stack([_drawn_runs(part, chooser).mean(axis=1) for part in parts], axis=1)
    count = len(systems[0])
    drawn = chooser.integers(0, count, size=(num_resamples, count)) if count > 1 else np.zeros((num_resamples, 1), int)
    means = np.zeros((num_resamples, len(systems)))
    for place in range(count):
        for run in range(count):
            rows = np.flatnonzero(drawn[:, place] == run)
            table = np.stack([runs[run] for runs in systems], axis=1)
            means[rows] += _drawn_means(table, len(rows), queries) / count
    return means


def percentile_interval(means: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut equal tails off resampled means (R, ...); gives the lower and upper ends, shape (...)."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return low, high


def _drawn_means(table: np.ndarray, num_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n of the n rows with replacement; gives (num_resamples, M) means of the columns."""
    n = len(table)
    means = np.empty((num_resamples, table.shape[1]))
    step = max(1, _BLOCK // n)
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + (np.arange(rows) * n)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means[start : start + rows] = times @ table / n
    return means


def _drawn_runs(means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw as many of a system's runs as there are, with replacement; (R, S) in and out."""
    return means if means.shape[1] == 1 else np.take_along_axis(means, rng.integers(0, means.shape[1], means.shape), 1)


def _flipped_sums(sizes: np.ndarray, num_resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Sum differences of the given sizes under random signs, block by block."""
    distinct, counts = np.unique(sizes, return_counts=True)
    few = 8 * len(distinct) < len(sizes)  # then drawing counts is cheaper than drawing a bit for each difference
    step = max(1, _BLOCK // (len(distinct) if few else len(sizes)))
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        if few:
            # Of c queries with the same difference, the number of plus signs is binomial.
            yield (2 * rng.binomial(counts, 0.5, size=(rows, len(counts))) - counts) @ distinct
        else:
            drawn = rng.integers(0, 2**64, size=(rows, -(-len(sizes) // 64)), dtype=np.uint64)
            plus = np.unpackbits(drawn.view(np.uint8), axis=1, count=len(sizes)).astype(np.float64)
            yield 2.0 * (plus @ sizes) - sizes.sum()


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


def check_settings(confidence: float, num_resamples: int) -> None:
    """Check what every resampling function is given.

    Raises:
        EvaluationError: A setting is out of range.
    """
    if not 0.0 < confidence < 1.0:
        raise EvaluationError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
    if num_resamples < 100:
        raise EvaluationError(f"num_resamples: expected at least 100, got {num_resamples!r}")
