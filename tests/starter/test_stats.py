"""Statistics tools against hand arithmetic, numpy and scipy."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from toolscaler.starter.registry import load_starter_documents
from toolscaler.starter.tools.stats import (
    arithmetic_mean,
    binomial_probability,
    correlation_coefficient,
    find_outliers,
    histogram_counts,
    linear_trend,
    median_value,
    most_common_value,
    percentile_value,
    standard_deviation,
    weighted_average,
)

numbers = st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=2, max_size=30)


def test_the_category_has_eleven_documented_tools():
    documents = [d for d in load_starter_documents() if d.category == "Statistics"]
    assert len(documents) == 11
    for document in documents:
        assert all(schema.get("description") for schema in document.parameters["properties"].values())
        assert document.returns["description"]
        assert document.description.count(".") >= 2


@pytest.mark.parametrize(("values", "expected"), [([1, 2, 3, 4], 2.5), ([7], 7), ([-1.5, 1.5], 0), ([0.1] * 10, 0.1)])
def test_arithmetic_mean(values, expected):
    assert arithmetic_mean(values) == expected


@given(numbers)
def test_arithmetic_mean_like_numpy(values):
    assert arithmetic_mean(values) == pytest.approx(np.mean(values), abs=1e-6)


@pytest.mark.parametrize(("values", "expected"), [([3, 1, 2], 2), ([4, 1, 3, 2], 2.5), ([9], 9), ([1, 1, 1000], 1)])
def test_median_value(values, expected):
    assert median_value(values) == expected


def test_most_common_value():
    assert most_common_value(["red", "blue", "red"]) == {"values": ["red"], "count": 2}
    assert most_common_value([5, 3, 3, 5, 1]) == {"values": [5, 3], "count": 2}
    assert most_common_value(["only"]) == {"values": ["only"], "count": 1}


def test_standard_deviation():
    textbook = [2, 4, 4, 4, 5, 5, 7, 9]
    assert standard_deviation(textbook, "population") == {"standard_deviation": 2.0, "variance": 4.0}
    assert standard_deviation(textbook)["variance"] == pytest.approx(32 / 7)
    assert standard_deviation([3, 3, 3])["standard_deviation"] == 0
    assert standard_deviation([5], "population")["variance"] == 0


@given(numbers)
def test_standard_deviation_like_numpy(values):
    assert standard_deviation(values)["standard_deviation"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)


@pytest.mark.parametrize(("percent", "expected"), [(0, 15), (50, 35), (100, 50), (25, 20), (40, 29)])
def test_percentile_value(percent, expected):
    assert percentile_value([50, 15, 35, 20, 40], percent) == pytest.approx(expected)


@given(numbers, st.floats(0, 100))
def test_percentile_value_like_numpy(values, percent):
    assert percentile_value(values, percent) == pytest.approx(np.percentile(values, percent), abs=1e-6)


def test_correlation_coefficient():
    assert correlation_coefficient([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation_coefficient([1, 2, 3], [6, 4, 2]) == pytest.approx(-1)
    assert correlation_coefficient([1, 2, 3, 4], [1, -1, -1, 1]) == pytest.approx(0)
    assert correlation_coefficient([1, 2, 3, 4], [1, 8, 27, 64], "spearman") == pytest.approx(1)
    x, y = [1, 2, 2, 5, 9, 4], [3, 1, 4, 4, 8, 2]
    assert correlation_coefficient(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation_coefficient(x, y, "spearman") == pytest.approx(reference.spearmanr(x, y).statistic)


def test_linear_trend():
    fit = linear_trend([0, 1, 2, 3], [1, 3, 5, 7], predict_at=10)
    assert fit == pytest.approx({"slope": 2, "intercept": 1, "r_squared": 1, "prediction": 21})
    assert linear_trend([1, 2, 3], [4, 4, 4]) == {"slope": 0, "intercept": 4, "r_squared": None, "prediction": None}
    x, y = [1, 2, 4, 8], [3, 1, 7, 6]
    slope, intercept = np.polyfit(x, y, 1)
    assert (linear_trend(x, y)["slope"], linear_trend(x, y)["intercept"]) == pytest.approx((slope, intercept))
    assert linear_trend(x, y)["r_squared"] == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)


def test_weighted_average():
    assert weighted_average([90, 70], [3, 1]) == 85
    assert weighted_average([2, 4, 6], [1, 1, 1]) == 4
    assert weighted_average([2, 100], [0.5, 0]) == 2
    assert weighted_average([1, 2, 3], [20, 30, 50]) == pytest.approx(np.average([1, 2, 3], weights=[20, 30, 50]))


def test_find_outliers():
    # quartiles 2.25 and 4.75: the limits are 2.25 - 3.75 and 4.75 + 3.75
    assert find_outliers([1, 2, 3, 4, 5, 100]) == {"outliers": [100.0], "lower_limit": -1.5, "upper_limit": 8.5}
    assert find_outliers([1, 2, 3, 4])["outliers"] == []
    assert find_outliers([50, 10, 11, 12, 11, -40])["outliers"] == [50, -40]
    assert find_outliers([1, 2, 3, 4, 5, 9], fence_factor=3)["outliers"] == []


def test_histogram_counts():
    assert histogram_counts([0, 1, 2, 3, 4], 2) == [
        {"from": 0, "to": 2, "count": 2},
        {"from": 2, "to": 4, "count": 3},
    ]
    assert histogram_counts([7, 7], 1) == [{"from": 6.5, "to": 7.5, "count": 2}]
    assert len(histogram_counts([1, 2])) == 10


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=40), st.integers(1, 9))
def test_histogram_counts_every_number_once(values, bins):
    table = histogram_counts(values, bins)
    assert sum(row["count"] for row in table) == len(values)
    assert len(table) == bins
    for row in table[:-1]:
        assert row["count"] == sum(row["from"] <= value < row["to"] for value in values)


def test_binomial_probability():
    assert binomial_probability(5, 3, 0.5) == pytest.approx(10 / 32)
    assert binomial_probability(4, 1, 1 / 6, "at_least") == pytest.approx(671 / 1296)  # de Méré's bet
    assert binomial_probability(3, 3, 0.1, "at_most") == pytest.approx(1)
    assert binomial_probability(3, 0, 0.0) == 1
    assert binomial_probability(3, 2, 1.0) == 0
    assert binomial_probability(10_000, 5000, 0.5) == pytest.approx(reference.binom.pmf(5000, 10_000, 0.5))


@given(st.integers(0, 60), st.floats(0, 1))
def test_binomial_probability_adds_up(trials, chance):
    total = math.fsum(binomial_probability(trials, k, chance) for k in range(trials + 1))
    assert total == pytest.approx(1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: arithmetic_mean([]),
        lambda: arithmetic_mean(["3"]),
        lambda: arithmetic_mean([float("nan")]),
        lambda: arithmetic_mean("12"),
        lambda: median_value([]),
        lambda: median_value([True]),
        lambda: most_common_value([]),
        lambda: most_common_value([None]),
        lambda: standard_deviation([1]),
        lambda: standard_deviation([1, 2], "other"),
        lambda: percentile_value([1], 101),
        lambda: percentile_value([], 50),
        lambda: correlation_coefficient([1, 2], [1, 2, 3]),
        lambda: correlation_coefficient([1, 1], [1, 2]),
        lambda: correlation_coefficient([1, 2], [1, 2], "kendall"),
        lambda: linear_trend([1, 1], [2, 3]),
        lambda: linear_trend([1], [2]),
        lambda: weighted_average([1], [1, 2]),
        lambda: weighted_average([1], [0]),
        lambda: weighted_average([1, 2], [2, -1]),
        lambda: find_outliers([1, 2, 3]),
        lambda: find_outliers([1, 2, 3, 4], -1),
        lambda: histogram_counts([1], 0),
        lambda: histogram_counts([]),
        lambda: binomial_probability(3, 4, 0.5),
        lambda: binomial_probability(3, 2, 1.5),
        lambda: binomial_probability(3, 2, 0.5, "roughly"),
        lambda: binomial_probability(3.0, 2, 0.5),
    ],
)
def test_bad_values_are_refused(call):
    with pytest.raises(ValueError, match=r"expected|must|undefined|add up"):
        call()


def test_results_are_plain_json():
    results = [
        most_common_value(["a"]),
        linear_trend([1, 2], [3, 3]),
        find_outliers([1, 2, 3, 9]),
        histogram_counts([1]),
    ]
    assert json.loads(json.dumps(results)) == results
