"""Calibration and abstention: loops over bins and orders, hand arithmetic, and the agent's own threshold."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.agent.abstention import calibrate_abstention
from toolscaler.decoding import RetrievedTool
from toolscaler.errors import ConfigError, EvaluationError
from toolscaler.evaluation import (
    expected_calibration_error,
    plot_reliability,
    plot_risk_coverage,
    reliability_table,
    risk_coverage,
    top_confidences,
)

pairs = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.5, 0.75, 0.8, 1.0]), st.booleans()), min_size=1, max_size=12
)


def _bins_by_loop(values, count, kind):
    groups = {}
    for row, value in enumerate(values):
        if kind == "width":
            place = next(b for b in range(count) if value <= (b + 1) / count)
        else:
            place = count * sum(other < value for other in values) // len(values)
        groups.setdefault(place, []).append(row)
    return [groups[place] for place in sorted(groups)]


@settings(deadline=None)
@given(pairs, st.integers(1, 6), st.sampled_from(["width", "mass"]))
def test_bins_against_a_loop(rows, count, kind):
    values, right = zip(*rows, strict=True)
    table = reliability_table(values, right, num_bins=count, bins=kind)
    groups = _bins_by_loop(values, count, kind)
    assert table.counts.tolist() == [len(group) for group in groups]
    assert table.n == len(values)
    total = 0.0
    for place, group in enumerate(groups):
        confidence, accuracy = np.mean([values[row] for row in group]), np.mean([right[row] for row in group])
        assert table.confidence[place] == pytest.approx(confidence)
        assert table.accuracy[place] == pytest.approx(accuracy)
        assert (table.lowest[place], table.highest[place]) == (
            min(values[row] for row in group),
            max(values[row] for row in group),
        )
        assert table.low[place] - 1e-12 <= accuracy <= table.high[place] + 1e-12
        total += len(group) / len(values) * abs(confidence - accuracy)
    assert table.expected_error == pytest.approx(total, abs=1e-12)
    assert expected_calibration_error(values, right, num_bins=count, bins=kind) == table.expected_error
    assert table.largest_error >= table.expected_error - 1e-12


@settings(deadline=None)
@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_queries_means_nothing(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    for kind in ("width", "mass"):
        first, second = (reliability_table(*zip(*r, strict=True), num_bins=4, bins=kind) for r in (rows, shuffled))
        np.testing.assert_allclose(first.accuracy, second.accuracy)
    one, two = (risk_coverage(*zip(*r, strict=True)) for r in (rows, shuffled))
    np.testing.assert_allclose(one.risk, two.risk)
    assert one.aurc == pytest.approx(two.aurc)


def test_equal_mass_is_equal_and_ties_stay_together():
    values = np.random.default_rng(0).permutation(20) / 20
    assert reliability_table(values, values > 0.5, num_bins=5, bins="mass").counts.tolist() == [4] * 5
    tied = reliability_table([0.5] * 9 + [0.9], [True] * 10, num_bins=5, bins="mass")
    assert tied.counts.tolist() == [9, 1]


def test_calibrated_and_overconfident_systems():
    rng = np.random.default_rng(1)
    confidence = rng.random(20_000)
    right = rng.random(20_000) < confidence
    for kind in ("width", "mass"):
        assert expected_calibration_error(confidence, right, bins=kind) < 0.015
        assert expected_calibration_error(np.sqrt(confidence), right, bins=kind) == pytest.approx(
            np.mean(np.sqrt(confidence) - confidence), abs=0.01
        )
    assert expected_calibration_error(np.ones(4), [1, 0, 0, 1]) == 0.5


def test_wilson_interval_by_hand():
    """8 of 10 at 95 %: 0.490 to 0.943 (Wilson's score interval)."""
    table = reliability_table([0.75] * 10, [True] * 8 + [False] * 2, num_bins=1)
    assert (table.low[0], table.high[0]) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def _aurc_by_orders(values, right):
    """Mean over every order that the scores allow of the mean risk over all prefixes."""
    found = []
    for order in itertools.permutations(range(len(values))):
        if all(values[a] >= values[b] for a, b in itertools.pairwise(order)):
            wrong = np.cumsum([not right[row] for row in order])
            found.append(np.mean(wrong / np.arange(1, len(values) + 1)))
    return np.mean(found)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([-math.inf, 0.0, 1.0, 2.5, math.inf]), st.booleans()), min_size=1, max_size=6)
)
def test_area_against_every_order(rows):
    values, right = zip(*rows, strict=True)
    curve = risk_coverage(values, right)
    assert curve.aurc == pytest.approx(_aurc_by_orders(values, right), abs=1e-12)
    assert curve.best_aurc == pytest.approx(_aurc_by_orders([float(hit) for hit in right], right), abs=1e-12)
    assert curve.excess_aurc >= -1e-12
    for threshold, coverage, risk in zip(curve.thresholds, curve.coverage, curve.risk, strict=True):
        kept = [hit for value, hit in rows if value >= threshold]
        assert coverage == pytest.approx(len(kept) / len(rows))
        assert risk == pytest.approx(1 - np.mean(kept))
    assert list(curve.thresholds) == sorted(set(values), reverse=True)
    json.dumps(curve.to_dict(), allow_nan=False)


def test_the_curve_holds_the_agents_threshold():
    rng = np.random.default_rng(2)
    margins = rng.exponential(size=200).round(1)
    right = rng.random(200) < 1 - np.exp(-margins - 0.5)
    found = calibrate_abstention(margins, right, target_precision=0.9)
    curve = risk_coverage(margins, right)
    place = np.flatnonzero(curve.risk <= 0.1 + 1e-12)[-1]
    assert (curve.thresholds[place], curve.coverage[place]) == (found.threshold, found.coverage)
    assert 1 - curve.risk[place] == pytest.approx(found.precision)


def _ranking(*scores):
    return [RetrievedTool(f"t{row}", score) for row, score in enumerate(scores)]


def test_confidences_of_rankings():
    rankings = [_ranking(math.log(0.6), math.log(0.2)), _ranking(math.log(0.9)), []]
    assert top_confidences(rankings).tolist() == pytest.approx([0.6, 0.9, 0.0])
    assert top_confidences(rankings, "share").tolist() == pytest.approx([0.75, 1.0, 0.0])
    assert top_confidences(rankings, "margin").tolist() == pytest.approx([math.log(3), math.inf, -math.inf])
    assert top_confidences(rankings, "score").tolist() == pytest.approx([math.log(0.6), math.log(0.9), -math.inf])
    assert top_confidences([_ranking(1e-9)]).tolist() == [1.0]  # a log-probability up to rounding
    assert top_confidences([_ranking(5000.0, -5000.0)], "share").tolist() == [1.0]


def test_tables_and_plots(tmp_path):
    rng = np.random.default_rng(3)
    confidence = rng.random(60)
    right = rng.random(60) < confidence
    table = reliability_table(confidence, right, num_bins=5)
    data = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert [row["counts"] for row in data["rows"]] == table.counts.tolist()
    text = table.to_markdown()
    assert len(text.splitlines()) == 2 + len(table.counts) + 2
    assert f"n = 60; expected calibration error {100 * table.expected_error:.2f}" in text
    pytest.importorskip("matplotlib")
    curves = {"a": risk_coverage(confidence, right), "b": risk_coverage(right, right)}
    for path in (
        plot_reliability({"a": table}, tmp_path / "reliability.png", title="title"),
        plot_risk_coverage(curves, tmp_path / "risk.png"),
    ):
        assert path.read_bytes().startswith(b"\x89PNG")
    for plot in (plot_reliability, plot_risk_coverage):
        with pytest.raises(EvaluationError, match="at least one"):
            plot({}, tmp_path / "none.png")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: reliability_table([], []), EvaluationError, "at least one"),
        (lambda: reliability_table([0.5], [True, False]), EvaluationError, "shapes"),
        (lambda: reliability_table([1.5], [True]), EvaluationError, "from 0 to 1"),
        (lambda: reliability_table([-0.1], [True]), EvaluationError, "from 0 to 1"),
        (lambda: reliability_table([math.nan], [True]), EvaluationError, "NaN"),
        (lambda: reliability_table([0.5], [2]), EvaluationError, "truth values"),
        (lambda: reliability_table([0.5], ["yes"]), EvaluationError, "truth values"),
        (lambda: reliability_table(["a"], [True]), EvaluationError, "numbers"),
        (lambda: reliability_table([0.5], [True], num_bins=0), ConfigError, "num_bins"),
        (lambda: reliability_table([0.5], [True], bins="equal"), ConfigError, "bins"),
        (lambda: risk_coverage([math.nan], [True]), EvaluationError, "NaN"),
        (lambda: top_confidences([_ranking(2.0)]), EvaluationError, "log-probability.*kind='share'"),
        (lambda: top_confidences([_ranking(math.nan)], "score"), EvaluationError, "NaN"),
        (lambda: top_confidences([], "entropy"), ConfigError, "kind"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
