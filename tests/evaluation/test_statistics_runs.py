"""Several runs and several tests: against loops, closed forms, and what each design promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.errors import ConfigError, EvaluationError
from toolscaler.evaluation import (
    bootstrap_intervals,
    cluster_bootstrap_interval,
    holm_adjust,
    paired_bootstrap_interval,
    paired_randomization_test,
)
from toolscaler.evaluation.statistics import resampled_means, run_values


def _holm_by_steps(p_values, alpha):
    """Holm's method as he wrote it: reject from the smallest on, stop at the first that is too large."""
    rejected = set()
    for step, row in enumerate(sorted(range(len(p_values)), key=lambda row: p_values[row])):
        if p_values[row] > alpha / (len(p_values) - step):
            break
        rejected.add(row)
    return rejected


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 1000).map(lambda number: number / 1000), max_size=12), st.sampled_from([0.01, 0.05, 0.2])
)
def test_adjusted_values_reject_what_the_steps_reject(p_values, alpha):
    adjusted = holm_adjust(p_values)
    assert adjusted.shape == (len(p_values),)
    assert (adjusted >= np.asarray(p_values)).all()
    assert (adjusted <= 1.0).all()
    # The sequential rule compares p with alpha / m, the adjusted value m * p with alpha: equal up to rounding.
    margins = [abs(value - alpha) for value in adjusted]
    if not margins or min(margins) > 1e-9:
        assert set(np.flatnonzero(adjusted <= alpha)) == _holm_by_steps(p_values, alpha)


def test_holm_by_hand():
    np.testing.assert_allclose(holm_adjust([0.01, 0.02, 0.03, 0.005]), [0.03, 0.04, 0.04, 0.02])
    np.testing.assert_allclose(holm_adjust([0.4, 0.9]), [0.8, 0.9])
    np.testing.assert_allclose(holm_adjust([0.7, 0.6]), [1.0, 1.0])
    for bad in ([1.2], [-0.1], [np.nan], [[0.1]]):
        with pytest.raises(EvaluationError, match="p_values"):
            holm_adjust(bad)


def test_holm_keeps_its_level_where_raw_values_do_not():
    rng = np.random.default_rng(0)
    tests = rng.random((2000, 10))
    assert np.mean((tests <= 0.05).any(axis=1)) > 0.3
    assert np.mean([(holm_adjust(row) <= 0.05).any() for row in tests]) <= 0.065


@pytest.mark.parametrize("design", ["crossed", "nested"])
def test_one_run_is_the_plain_bootstrap(design):
    rng = np.random.default_rng(3)
    first, second = rng.random(40), rng.random(40)
    for values in (first, first[None]):
        mean, low, high = cluster_bootstrap_interval(values, design=design, num_resamples=300, seed=4)
        np.testing.assert_allclose((low, high), bootstrap_intervals(first, num_resamples=300, seed=4), atol=1e-12)
        assert mean == pytest.approx(first.mean())
    found = cluster_bootstrap_interval(first, second, design=design, num_resamples=300, seed=4)
    np.testing.assert_allclose(found, paired_bootstrap_interval(first, second, num_resamples=300, seed=4), atol=1e-12)


def test_crossed_draws_against_a_loop():
    """Queries drawn once a resample for all, runs once a resample for each system."""
    rng = np.random.default_rng(5)
    systems = [run_values(rng.random((3, 11))), run_values(rng.random(11)), run_values(rng.random((2, 11)))]
    means = resampled_means(systems, design="crossed", num_resamples=50, seed=8)
    queries = np.random.default_rng(8).integers(0, 11, size=(50, 11))
    chooser = np.random.default_rng([8, 1])
    for column, runs in enumerate(systems):
        count = len(runs)
        drawn = chooser.integers(0, count, size=(50, count)) if count > 1 else np.zeros((50, 1), int)
        for row in range(50):
            values = [runs[run][query] for run in drawn[row] for query in queries[row]]
            assert means[row, column] == pytest.approx(np.mean(values), abs=1e-12)


def test_nested_draws_have_the_variance_of_the_two_stages():
    """Var = between runs / S + within runs / (S n), both as in the sample."""
    rng = np.random.default_rng(6)
    runs = [rng.random(30) + shift for shift in (0.0, 0.4, 0.1)]
    means = resampled_means([runs], design="nested", num_resamples=20_000, seed=1)[:, 0]
    expected = np.var([run.mean() for run in runs]) / 3 + np.mean([run.var() / 30 for run in runs]) / 3
    assert means.var() == pytest.approx(expected, rel=0.05)
    assert means.mean() == pytest.approx(np.mean(runs), abs=0.01)


def test_crossed_knows_that_runs_share_queries():
    """Runs that agree on every query hold no more information than one of them; runs with own queries do."""
    values = np.random.default_rng(7).random(200)
    runs = np.tile(values, (5, 1))
    one = bootstrap_intervals(values, seed=2)
    crossed, nested = (cluster_bootstrap_interval(runs, design=design, seed=2)[1:] for design in ("crossed", "nested"))
    np.testing.assert_allclose(crossed, one, atol=1e-12)
    assert (nested[1] - nested[0]) == pytest.approx((one[1] - one[0]) / np.sqrt(5), rel=0.1)


def test_differing_runs_widen_the_interval():
    rng = np.random.default_rng(8)
    values = rng.random(400)
    steady, shaky = np.tile(values, (4, 1)), values + np.array([[-0.2], [0.0], [0.1], [0.1]])
    _, low, high = cluster_bootstrap_interval(steady, seed=1)
    _, wider_low, wider_high = cluster_bootstrap_interval(shaky, seed=1)
    assert wider_low < low - 0.02
    assert wider_high > high + 0.02
    # Nested runs of both systems stay together, so what a run adds to both cancels.
    difference, low, high = cluster_bootstrap_interval(shaky + 0.05, shaky, design="nested", seed=1)
    assert (difference, low, high) == pytest.approx((0.05, 0.05, 0.05))
    # Crossed runs are each system's own, so it does not.
    _, low, high = cluster_bootstrap_interval(shaky + 0.05, shaky, seed=1)
    assert low < 0 < high


def test_nested_runs_of_different_lengths_weigh_the_same():
    mean, low, high = cluster_bootstrap_interval([[1.0] * 30, [0.0] * 10], design="nested", num_resamples=500)
    assert (mean, low, high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize("count", [30, 31, 200])
def test_signs_as_bits_and_as_counts_agree(count):
    """Differences that are all distinct take the way of bits; the value is that of the way of counts."""
    rng = np.random.default_rng(count)
    sizes = rng.random(count) + 0.2
    signs = np.where(rng.random(count) < 0.62, 1.0, -1.0)
    bits = paired_randomization_test(signs * sizes, np.zeros(count), num_resamples=20_000, seed=1)
    drawn = np.where(rng.random((20_000, count)) < 0.5, 1.0, -1.0) @ sizes
    assert bits == pytest.approx(np.mean(np.abs(drawn) >= abs(signs @ sizes)), abs=0.02)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cluster_bootstrap_interval([[1.0, 0.0], [1.0]]), EvaluationError, "nested"),
        (lambda: cluster_bootstrap_interval([]), EvaluationError, "expected"),
        (lambda: cluster_bootstrap_interval(3.0), EvaluationError, "expected"),
        (lambda: cluster_bootstrap_interval(np.zeros((2, 2, 2))), EvaluationError, "dimensions"),
        (lambda: cluster_bootstrap_interval([0.0, np.nan]), EvaluationError, "finite"),
        (lambda: cluster_bootstrap_interval([0.0], [0.0, 1.0]), EvaluationError, "same queries"),
        (lambda: cluster_bootstrap_interval([0.0], design="mixed"), ConfigError, "design"),
        (lambda: cluster_bootstrap_interval([0.0], confidence=2.0), EvaluationError, "confidence"),
        (
            lambda: cluster_bootstrap_interval([[0.0], [1.0]], [[0.0]], design="nested"),
            EvaluationError,
            "same queries",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_crossed_covers_where_nested_would_not():
    """Five runs on the same 100 queries: taking them for 500 queries makes intervals that miss too often."""
    rng = np.random.default_rng(0)
    covered = {"crossed": 0, "nested": 0}
    for seed in range(200):
        values = 0.4 * rng.normal(size=(1, 100)) + 0.03 * rng.normal(size=(5, 1)) + 0.3 * rng.normal(size=(5, 100))
        for design in covered:
            _, low, high = cluster_bootstrap_interval(values, design=design, num_resamples=200, seed=seed)
            covered[design] += low <= 0.0 <= high
    assert covered["crossed"] >= 180
    assert covered["nested"] <= 170
