"""Statistics tools: plain lists of numbers go in, summary figures come out."""

from __future__ import annotations

import bisect
import math
import statistics
from collections import Counter
from typing import Any, Literal

from toolscaler.starter.registry import starter_tool


def _finite(value: Any, name: str) -> float:
    """Give ``value`` as a float, or refuse it by name."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return float(value)


def _numbers(values: Any, name: str, at_least: int = 1) -> list[float]:
    """Give ``values`` as floats, or refuse a list that is too short or holds something else."""
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{name}: expected a list of numbers, got {values!r}")
    if len(values) < at_least:
        raise ValueError(f"{name}: expected at least {at_least} numbers, got {len(values)}")
    return [_finite(value, f"{name}[{index}]") for index, value in enumerate(values)]


def _paired(x: Any, y: Any) -> tuple[list[float], list[float]]:
    """Give two lists of the same length with at least two numbers each."""
    first, second = _numbers(x, "x_values", 2), _numbers(y, "y_values", 2)
    if len(first) != len(second):
        raise ValueError(f"x_values and y_values must have the same length, got {len(first)} and {len(second)}")
    return first, second


def _quantile(ordered: list[float], fraction: float) -> float:
    """Interpolate linearly between the two nearest ranks of a sorted list."""
    position = fraction * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@starter_tool("Statistics")
def arithmetic_mean(values: list[float]) -> float:
    """Compute the average (arithmetic mean) of a list of numbers.

    Every number counts the same: the sum is divided by how many numbers there are. Use it for a typical value such as
    the average score, temperature, price or time.

    Args:
        values: The numbers to average, in any unit, at least one.

    Returns:
        The mean, in the unit of the numbers.

    Raises:
        ValueError: The list is empty or holds something that is not a finite number.
    """
    return statistics.fmean(_numbers(values, "values"))


@starter_tool("Statistics")
def median_value(values: list[float]) -> float:
    """Find the median, the middle value of a list of numbers.

    Half of the numbers lie below the median and half above, so a few extreme values do not distort it. With an even
    count, the two middle numbers are averaged.

    Args:
        values: The numbers, in any order and unit, at least one.

    Returns:
        The median, in the unit of the numbers.

    Raises:
        ValueError: The list is empty or holds something that is not a finite number.
    """
    return statistics.median(_numbers(values, "values"))


@starter_tool("Statistics")
def most_common_value(items: list[str | float]) -> dict[str, Any]:
    """Find the mode: the value that occurs most often in a list, and how often it occurs.

    Works for numbers and for words, such as votes, answers, sizes or colours. If several values tie for first place,
    all of them are given.

    Args:
        items: The observed values, texts or numbers, at least one.

    Returns:
        ``values``, the most frequent values in order of first appearance, and ``count``, how often each occurs.

    Raises:
        ValueError: The list is empty or holds something that is neither text nor a finite number.
    """
    if not isinstance(items, (list, tuple)) or not items:
        raise ValueError(f"items: expected a list with at least one value, got {items!r}")
    for index, item in enumerate(items):
        if not isinstance(item, str):
            _finite(item, f"items[{index}]")
    counts = Counter(items)
    highest = max(counts.values())
    return {"values": [value for value, count in counts.items() if count == highest], "count": highest}


@starter_tool("Statistics")
def standard_deviation(values: list[float], kind: Literal["sample", "population"] = "sample") -> dict[str, float]:
    """Measure how widely numbers spread around their mean: standard deviation and variance.

    A small deviation means consistent numbers, a large one means that they scatter or fluctuate a lot. A sample divides
    by n - 1, a whole population by n.

    Args:
        values: The numbers, at least two for a sample and at least one for a population.
        kind: ``sample`` if the numbers are drawn from something larger, ``population`` if they are all there is.

    Returns:
        ``standard_deviation``, in the unit of the numbers, and ``variance``, its square.

    Raises:
        ValueError: Too few numbers, something that is not a finite number, or an unknown kind.
    """
    if kind not in ("sample", "population"):
        raise ValueError(f"kind: expected 'sample' or 'population', got {kind!r}")
    numbers = _numbers(values, "values", 2 if kind == "sample" else 1)
    variance = statistics.variance(numbers) if kind == "sample" else statistics.pvariance(numbers)
    return {"standard_deviation": math.sqrt(variance), "variance": variance}


@starter_tool("Statistics")
def percentile_value(values: list[float], percent: float) -> float:
    """Find the percentile of a list: the value below which a given share of the numbers lies.

    Use it for cut-offs such as the 95th percentile of response times, the top ten percent of scores, or a quartile.
    Between two ranks the value is interpolated linearly.

    Args:
        values: The numbers, in any order and unit, at least one.
        percent: Share of the numbers below the wanted value, from 0 to 100; 25 is the first quartile.

    Returns:
        The value at that percentile, in the unit of the numbers.

    Raises:
        ValueError: The list is empty, holds something else than numbers, or the percent is outside 0 to 100.
    """
    share = _finite(percent, "percent")
    if not 0 <= share <= 100:
        raise ValueError(f"percent: expected a number from 0 to 100, got {percent!r}")
    return _quantile(sorted(_numbers(values, "values")), share / 100)


def _ranks(numbers: list[float]) -> list[float]:
    """Give 1-based ranks; equal numbers share the mean of their ranks."""
    ordered = sorted(numbers)
    return [(bisect.bisect_left(ordered, x) + bisect.bisect_right(ordered, x) + 1) / 2 for x in numbers]


@starter_tool("Statistics")
def correlation_coefficient(
    x_values: list[float], y_values: list[float], method: Literal["pearson", "spearman"] = "pearson"
) -> float:
    """Measure how strongly two lists of paired numbers move together, from -1 to 1.

    Near 1 both rise together, near -1 one falls as the other rises, near 0 they are not related. Pearson looks for a
    straight-line relationship, Spearman compares ranks only.

    Args:
        x_values: First measurement of every pair, at least two numbers.
        y_values: Second measurement of every pair, in the same order and of the same length.
        method: ``pearson`` for linear association, ``spearman`` for rank correlation.

    Returns:
        The correlation coefficient between -1 and 1.

    Raises:
        ValueError: Different lengths, too few numbers, a list whose numbers are all equal, or an unknown method.
    """
    if method not in ("pearson", "spearman"):
        raise ValueError(f"method: expected 'pearson' or 'spearman', got {method!r}")
    x, y = _paired(x_values, y_values)
    if min(x) == max(x) or min(y) == max(y):
        raise ValueError("correlation is undefined where all the numbers of a list are equal")
    if method == "spearman":
        x, y = _ranks(x), _ranks(y)
    return max(-1.0, min(1.0, statistics.correlation(x, y)))


@starter_tool("Statistics")
def linear_trend(
    x_values: list[float], y_values: list[float], predict_at: float | None = None
) -> dict[str, float | None]:
    """Fit a straight line (least-squares linear regression) through points and optionally forecast a value.

    Gives the slope, that is how much y changes for each step of x, the intercept, and how well the line fits. With
    ``predict_at`` the line is extended to estimate y at another x, for example next month.

    Args:
        x_values: Horizontal coordinates, such as months or sizes, at least two numbers that are not all equal.
        y_values: Vertical coordinates, such as sales, in the same order and of the same length.
        predict_at: An x at which the line's y is wanted.

    Returns:
        ``slope``, ``intercept``, ``r_squared`` (0 to 1, null if every y is equal) and ``prediction`` (null if not
        asked).

    Raises:
        ValueError: Different lengths, too few numbers, or x values that are all equal.
    """
    x, y = _paired(x_values, y_values)
    if min(x) == max(x):
        raise ValueError("x_values: expected at least two different numbers to fit a line")
    slope, intercept = statistics.linear_regression(x, y)
    r_squared = None if min(y) == max(y) else statistics.correlation(x, y) ** 2
    prediction = None if predict_at is None else intercept + slope * _finite(predict_at, "predict_at")
    return {"slope": slope, "intercept": intercept, "r_squared": r_squared, "prediction": prediction}


@starter_tool("Statistics")
def weighted_average(values: list[float], weights: list[float]) -> float:
    """Compute an average in which some numbers count more than others.

    Each number is multiplied by its weight: for example grades by credit hours, exam parts by their share of the mark,
    or prices by quantity.

    Args:
        values: The numbers to average, at least one.
        weights: Weight of each number, in the same order, none negative and not all zero; they need not add up to 1.

    Returns:
        The weighted mean, in the unit of the numbers.

    Raises:
        ValueError: Different lengths, an empty list, a negative weight, or weights that add up to zero.
    """
    numbers, shares = _numbers(values, "values"), _numbers(weights, "weights")
    if len(numbers) != len(shares):
        raise ValueError(f"values and weights must have the same length, got {len(numbers)} and {len(shares)}")
    if min(shares) < 0:
        raise ValueError(f"weights: expected numbers of at least 0, got {min(shares)}")
    total = math.fsum(shares)
    if total == 0:
        raise ValueError("weights: they add up to zero")
    return math.fsum(number * share for number, share in zip(numbers, shares, strict=True)) / total


@starter_tool("Statistics")
def find_outliers(values: list[float], fence_factor: float = 1.5) -> dict[str, Any]:
    """Find outliers: numbers that lie suspiciously far from the rest of a list.

    Uses the interquartile-range rule of box plots: anything more than ``fence_factor`` times the range between the
    quartiles outside them is unusual. Helps to spot anomalies, typing errors and odd measurements.

    Args:
        values: The numbers to inspect, at least four.
        fence_factor: How many interquartile ranges beyond the quartiles count as normal; 1.5 is usual, 3 is strict.

    Returns:
        ``outliers``, the unusual numbers in their original order, and ``lower_limit`` and ``upper_limit``, the bounds
        of what is normal.

    Raises:
        ValueError: Fewer than four numbers, something that is not a finite number, or a negative factor.
    """
    numbers = _numbers(values, "values", 4)
    factor = _finite(fence_factor, "fence_factor")
    if factor < 0:
        raise ValueError(f"fence_factor: expected a number of at least 0, got {fence_factor!r}")
    ordered = sorted(numbers)
    first, third = _quantile(ordered, 0.25), _quantile(ordered, 0.75)
    reach = factor * (third - first)
    low, high = first - reach, third + reach
    unusual = [number for number in numbers if not low <= number <= high]
    return {"outliers": unusual, "lower_limit": low, "upper_limit": high}


@starter_tool("Statistics")
def histogram_counts(values: list[float], bins: int = 10) -> list[dict[str, float]]:
    """Sort numbers into equally wide ranges (bins) and count how many fall into each.

    This is the frequency distribution behind a histogram chart, for example how many ages lie between 20 and 30. The
    ranges reach from the smallest to the largest number; the last one includes its upper end.

    Args:
        values: The numbers to distribute, at least one.
        bins: How many ranges to make, at least 1.

    Returns:
        One record for each range, from low to high, with ``from``, ``to`` and ``count``.

    Raises:
        ValueError: An empty list, something that is not a finite number, or fewer than one bin.
    """
    numbers = _numbers(values, "values")
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise ValueError(f"bins: expected a whole number of at least 1, got {bins!r}")
    low, high = min(numbers), max(numbers)
    if low == high:  # a range without width: put half a unit on either side
        low, high = low - 0.5, high + 0.5
    edges = [low + (high - low) * index / bins for index in range(bins)] + [high]
    counts = [0] * bins
    for number in numbers:
        counts[min(max(bisect.bisect_right(edges, number) - 1, 0), bins - 1)] += 1
    return [{"from": edges[index], "to": edges[index + 1], "count": counts[index]} for index in range(bins)]


@starter_tool("Statistics")
def binomial_probability(
    trials: int, successes: int, chance: float, mode: Literal["exactly", "at_least", "at_most"] = "exactly"
) -> float:
    """Compute how likely a number of successes is in repeated independent attempts (binomial distribution).

    Answers questions of luck such as the odds of three heads in five coin flips, two sixes in ten dice rolls, or at
    least one defect in a batch.

    Args:
        trials: How many attempts are made, from 0 to 10000.
        successes: How many of them shall succeed, from 0 to ``trials``.
        chance: Probability that one attempt succeeds, from 0 to 1.
        mode: Whether the successes are counted ``exactly``, ``at_least`` or ``at_most``.

    Returns:
        The probability, from 0 to 1.

    Raises:
        ValueError: A count that is no whole number or out of range, a chance outside 0 to 1, or an unknown mode.
    """
    for name, count, most in (("trials", trials, 10_000), ("successes", successes, trials)):
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= most:
            raise ValueError(f"{name}: expected a whole number from 0 to {most}, got {count!r}")
    p = _finite(chance, "chance")
    if not 0 <= p <= 1:
        raise ValueError(f"chance: expected a number from 0 to 1, got {chance!r}")
    ranges = {"exactly": (successes, successes), "at_least": (successes, trials), "at_most": (0, successes)}
    if mode not in ranges:
        raise ValueError(f"mode: expected 'exactly', 'at_least' or 'at_most', got {mode!r}")
    if p in (0.0, 1.0):
        sure = 0 if p == 0 else trials
        return float(ranges[mode][0] <= sure <= ranges[mode][1])
    # logarithms, because the binomial coefficients outgrow a float
    log_p, log_q, log_all = math.log(p), math.log1p(-p), math.lgamma(trials + 1)
    terms = (
        math.exp(log_all - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * log_p + (trials - k) * log_q)
        for k in range(ranges[mode][0], ranges[mode][1] + 1)
    )
    return min(1.0, math.fsum(terms))
