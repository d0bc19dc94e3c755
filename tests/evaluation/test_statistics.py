"""Intervals and tests: against loops, enumeration, closed forms and their promised coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.errors import EvaluationError
from toolscaler.evaluation import bootstrap_intervals, paired_bootstrap_interval, paired_randomization_test
from toolscaler.evaluation import statistics as module


def test_interval_against_a_loop():
    """Same draws, one resample at a time."""
    values = np.random.default_rng(1).random((37, 3))
    low, high = bootstrap_intervals(values, num_resamples=400, seed=5)
    rng = np.random.default_rng(5)
    drawn = rng.integers(0, 37, size=(400, 37))
    means = np.array([[np.mean([values[row, column] for row in rows]) for column in range(3)] for rows in drawn])
    expected = np.percentile(means, [2.5, 97.5], axis=0)
    np.testing.assert_allclose([low, high], expected, atol=1e-12)


def test_blocks_change_nothing_but_memory(monkeypatch):
    values = np.random.default_rng(2).random(50)
    whole = bootstrap_intervals(values, num_resamples=300, seed=3)
    monkeypatch.setattr(module, "_BLOCK", 50 * 7)
    np.testing.assert_allclose(bootstrap_intervals(values, num_resamples=300, seed=3), whole, atol=1e-12)


def test_columns_and_single_metrics_agree():
    values = np.random.default_rng(2).random((50, 2))
    low, high = bootstrap_intervals(values, num_resamples=300, seed=3)
    for column in range(2):
        alone = bootstrap_intervals(values[:, column], num_resamples=300, seed=3)
        assert alone[0].shape == ()
        np.testing.assert_allclose(alone, [low[column], high[column]], atol=1e-12)


def test_interval_is_near_the_normal_one_and_follows_the_seed():
    values = np.random.default_rng(4).normal(size=2000)
    low, high = bootstrap_intervals(values, num_resamples=4000, seed=0)
    error = values.std() / np.sqrt(len(values))
    np.testing.assert_allclose([low, high], values.mean() + np.array([-1.96, 1.96]) * error, atol=0.12 * error)
    assert bootstrap_intervals(values, num_resamples=200, seed=1) == bootstrap_intervals(
        values, num_resamples=200, seed=1
    )
    assert bootstrap_intervals(values, num_resamples=200, seed=1) != bootstrap_intervals(
        values, num_resamples=200, seed=2
    )


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        low, high = bootstrap_intervals(rng.random(60) < 0.4, num_resamples=300, seed=seed)
        covered += low <= 0.4 <= high
    assert 0.90 <= covered / 300 <= 0.99


def test_wider_confidence_is_wider_and_constants_have_no_width():
    values = np.random.default_rng(0).random(40)
    low50, high50 = bootstrap_intervals(values, confidence=0.5, num_resamples=500)
    low99, high99 = bootstrap_intervals(values, confidence=0.99, num_resamples=500)
    assert low99 < low50 < values.mean() < high50 < high99
    assert bootstrap_intervals(np.full(9, 0.25), num_resamples=100) == (0.25, 0.25)


def test_paired_interval_sees_pairs():
    """Systems that go up and down together differ surely, though each alone is uncertain."""
    hard = np.random.default_rng(0).random(80)
    difference, low, high = paired_bootstrap_interval(hard + 0.01, hard, seed=2)
    assert difference == pytest.approx(0.01)
    assert low == pytest.approx(0.01)
    assert high == pytest.approx(0.01)
    mixed = np.random.default_rng(1).permutation(hard)
    difference, low, high = paired_bootstrap_interval(mixed, hard, seed=2)
    assert difference == pytest.approx(0.0, abs=1e-12)
    assert low < 0 < high


def _enumerated_p(first, second):
    differences = [a - b for a, b in zip(first, second, strict=True)]
    observed = abs(sum(differences))
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    extreme = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed - 1e-9 for signs in patterns
    ]
    return sum(extreme) / len(patterns)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1 / 3, 0.469, 0.5, 1.0])] * 2), min_size=1, max_size=9))
def test_small_samples_are_exact(pairs):
    """Queries without a difference change nothing, so the exact value is that of all sign patterns."""
    first, second = zip(*pairs, strict=True)
    assert paired_randomization_test(first, second) == pytest.approx(_enumerated_p(first, second), abs=1e-12)


def test_sampled_value_is_near_the_exact_one():
    """Hits and misses: the flips are a binomial test, whose tail is known."""
    from scipy.stats import binomtest

    first = np.array([1.0] * 30 + [0.0] * 14 + [1.0] * 50)
    second = np.array([0.0] * 30 + [1.0] * 14 + [1.0] * 50)
    expected = binomtest(30, 44).pvalue
    assert paired_randomization_test(first, second, num_resamples=50_000, seed=1) == pytest.approx(expected, abs=0.004)


def test_sampled_value_with_many_different_sizes_is_near_the_exact_one():
    rng = np.random.default_rng(3)
    first, second = rng.random(14) + 0.25, rng.random(14)
    exact = paired_randomization_test(first, second, num_resamples=2**14)
    assert exact == pytest.approx(_enumerated_p(first, second), abs=1e-12)
    assert paired_randomization_test(first, second, num_resamples=16_000) == pytest.approx(exact, abs=0.01)


def test_p_is_symmetric_never_zero_and_one_for_equals():
    rng = np.random.default_rng(5)
    first = rng.random(300)
    second = first + 0.2
    assert paired_randomization_test(first, second, num_resamples=999) == 1 / 1000
    assert paired_randomization_test(first, second) == paired_randomization_test(second, first)
    assert paired_randomization_test(first, first) == 1.0
    # 0.1 + 0.2 is not 0.3 in floating point, but it is no difference either.
    assert paired_randomization_test([0.1 + 0.2], [0.3]) == 1.0


def test_p_is_uniform_when_there_is_nothing_to_find():
    rng = np.random.default_rng(9)
    values = [
        paired_randomization_test(rng.random(40), rng.random(40), num_resamples=400, seed=seed) for seed in range(200)
    ]
    assert 0.01 <= np.mean(np.array(values) <= 0.05) <= 0.10
    assert 0.4 <= np.mean(values) <= 0.6


def test_blocks_of_the_test_change_nothing(monkeypatch):
    rng = np.random.default_rng(6)
    first, second = rng.random(40), rng.random(40) + 0.05
    whole = paired_randomization_test(first, second, num_resamples=5000)
    monkeypatch.setattr(module, "_BLOCK", 40 * 11)
    assert paired_randomization_test(first, second, num_resamples=5000) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_intervals([]), "shape"),
        (lambda: bootstrap_intervals(np.zeros((2, 2, 2))), "shape"),
        (lambda: bootstrap_intervals([0.0, np.nan]), "finite"),
        (lambda: bootstrap_intervals([0.0], confidence=1.0), "confidence"),
        (lambda: bootstrap_intervals([0.0], num_resamples=10), "num_resamples"),
        (lambda: paired_bootstrap_interval([0.0], [0.0, 1.0]), "same queries"),
        (lambda: paired_randomization_test([0.0], [0.0, 1.0]), "same queries"),
        (lambda: paired_randomization_test(np.zeros((2, 2)), np.zeros((2, 2))), "one value a query"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()
