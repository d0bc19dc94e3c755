"""Metrics of one query, against trec_eval, scikit-learn and arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.errors import EvaluationError
from toolscaler.evaluation import (
    METRICS,
    completeness_at_k,
    hit_at_k,
    mrr_at_k,
    ndcg_at_k,
    ndcg_toolgen_at_k,
    precision_at_k,
    recall_at_k,
)

KS = (1, 3, 5)
CATALOGUE = [f"t{row}" for row in range(14)]

ranked_lists = st.lists(st.sampled_from(CATALOGUE), max_size=10, unique=True)
label_sets = st.sets(st.sampled_from([*CATALOGUE, "gone", "missing"]), min_size=1, max_size=8)


def _random_cases(count=300):
    rng = np.random.default_rng(7)
    for _ in range(count):
        ranked = rng.permutation(CATALOGUE)[: rng.integers(1, 11)].tolist()
        relevant = set(rng.choice([*CATALOGUE, "gone"], size=rng.integers(1, 7), replace=False).tolist())
        yield ranked, relevant


def test_against_trec_eval():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    cases = list(_random_cases())
    qrels = {str(row): dict.fromkeys(relevant, 1) for row, (_, relevant) in enumerate(cases)}
    run = {
        str(row): {name: float(len(ranked) - place) for place, name in enumerate(ranked)}
        for row, (ranked, _) in enumerate(cases)
    }
    measures = {f"{key}.1,3,5" for key in ("ndcg_cut", "recall", "P", "success")} | {"recip_rank"}
    oracle = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    hits = 0
    for row, (ranked, relevant) in enumerate(cases):
        expected = oracle[str(row)]
        for k in KS:
            assert ndcg_at_k(ranked, relevant, k) == pytest.approx(expected[f"ndcg_cut_{k}"], abs=1e-9)
            assert recall_at_k(ranked, relevant, k) == pytest.approx(expected[f"recall_{k}"], abs=1e-9)
            assert precision_at_k(ranked, relevant, k) == pytest.approx(expected[f"P_{k}"], abs=1e-9)
            assert hit_at_k(ranked, relevant, k) == expected[f"success_{k}"]
        assert mrr_at_k(ranked, relevant, len(ranked)) == pytest.approx(expected["recip_rank"], abs=1e-9)
        hits += expected["recip_rank"] > 0
    assert 150 < hits < 300  # the cases hold hits and misses


def _released_ndcg(ranked, relevant, k):
    """What the released evaluators compute: labels that were not returned are no labels."""
    from sklearn.metrics import ndcg_score

    truth, scores = np.zeros(len(CATALOGUE)), np.zeros(len(CATALOGUE))
    for place, name in enumerate(ranked):
        column = CATALOGUE.index(name)
        scores[column] = len(ranked) - place
        truth[column] = name in relevant
    return ndcg_score([truth], [scores], k=k)


def test_toolgen_variant_against_the_released_computation():
    above = 0
    for ranked, relevant in _random_cases():
        for k in KS:
            value = ndcg_toolgen_at_k(ranked, relevant, k)
            assert value == pytest.approx(_released_ndcg(ranked, relevant, k), abs=1e-12)
            above += value > ndcg_at_k(ranked, relevant, k) + 1e-9
    assert above > 100  # the flaw is there to be seen


@pytest.mark.parametrize(
    ("ranked", "labels", "released", "correct"),
    [
        ("axyzw", "abc", (1.0, 1.0, 1.0), (1.0, 0.469, 0.469)),
        ("axyzw", "abcde", (1.0, 1.0, 1.0), (1.0, 0.469, 0.339)),
        ("abxyz", "abc", (1.0, 1.0, 1.0), (1.0, 0.765, 0.765)),
        ("vxyza", "abc", (0.0, 0.0, 0.387), (0.0, 0.0, 0.182)),
        ("vwxyz", "abc", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_the_flaw_in_numbers(ranked, labels, released, correct):
    for k, wrong, right in zip(KS, released, correct, strict=True):
        assert ndcg_toolgen_at_k(list(ranked), set(labels), k) == pytest.approx(wrong, abs=5e-4)
        assert ndcg_at_k(list(ranked), set(labels), k) == pytest.approx(right, abs=5e-4)


def test_by_hand():
    ranked, relevant = ["x", "a", "y", "b", "z"], ["a", "b", "c"]
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg_at_k(ranked, relevant, 5) == pytest.approx(gain / ideal, abs=1e-12)
    assert ndcg_at_k(ranked, relevant, 2) == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)), abs=1e-12)
    assert ndcg_toolgen_at_k(ranked, relevant, 5) == pytest.approx(gain / (1 + 1 / math.log2(3)), abs=1e-12)
    assert recall_at_k(ranked, relevant, 3) == pytest.approx(1 / 3)
    assert precision_at_k(ranked, relevant, 4) == 0.5
    assert completeness_at_k(ranked, relevant, 5) == 0.0
    assert completeness_at_k(ranked, ["a", "b"], 4) == 1.0
    assert completeness_at_k(ranked, ["a", "b"], 3) == 0.0
    assert (hit_at_k(ranked, relevant, 1), hit_at_k(ranked, relevant, 2)) == (0.0, 1.0)
    assert (mrr_at_k(ranked, relevant, 1), mrr_at_k(ranked, relevant, 5)) == (0.0, 0.5)


@settings(deadline=None)
@given(ranked_lists, label_sets, st.integers(1, 9))
def test_bounds_and_relations(ranked, relevant, k):
    value = {name: metric(ranked, relevant, k) for name, metric in METRICS.items()}
    assert all(0.0 <= number <= 1.0 + 1e-12 for number in value.values())
    assert value["ndcg_toolgen"] >= value["ndcg"] - 1e-12
    assert (value["hit"] == 1.0) == (value["recall"] > 0) == (value["precision"] > 0) == (value["mrr"] > 0)
    assert (value["completeness"] == 1.0) == (value["recall"] == 1.0)
    assert ndcg_at_k(ranked, relevant, 1) == ndcg_toolgen_at_k(ranked, relevant, 1) == hit_at_k(ranked, relevant, 1)
    if "gone" in relevant:  # nobody can return it, and it still counts
        assert value["completeness"] == 0.0
        assert value["recall"] < 1.0
    if relevant <= set(ranked):
        perfect = sorted(ranked, key=lambda name: name not in relevant)
        assert ndcg_at_k(perfect, relevant, k) == pytest.approx(1.0, abs=1e-12)


@settings(deadline=None)
@given(ranked_lists, label_sets, st.integers(1, 9), st.randoms(use_true_random=False))
def test_repeats_and_the_order_of_labels_change_nothing(ranked, relevant, k, random):
    labels = list(relevant)
    random.shuffle(labels)
    repeated = list(ranked)
    for name in ranked:
        first = repeated.index(name)
        repeated.insert(random.randint(first + 1, len(repeated)), name)
    for metric in METRICS.values():
        assert metric(repeated, labels + labels, k) == metric(ranked, relevant, k)


def test_a_repeat_is_dropped_before_the_cut():
    assert recall_at_k(["x", "x", "a"], {"a"}, 2) == 1.0
    assert recall_at_k(["a", "a", "b"], {"a", "b"}, 2) == 1.0


def test_equal_scores_keep_their_order():
    """The metrics see names only; whoever breaks ties decides, and trading places changes the number."""
    assert ndcg_at_k(["a", "b"], {"a"}, 1) == 1.0
    assert ndcg_at_k(["b", "a"], {"a"}, 1) == 0.0


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_refusals(metric):
    assert metric([], {"a"}, 3) == 0.0
    with pytest.raises(EvaluationError, match="without labels"):
        metric(["a"], set(), 3)
    with pytest.raises(EvaluationError, match="the text 'abc'"):
        metric("abc", {"a"}, 3)
    with pytest.raises(EvaluationError, match="the text 'abc'"):
        metric(["a"], "abc", 3)
    for k in (0, -1, 1.5, True):
        with pytest.raises(EvaluationError, match="k: expected"):
            metric(["a"], {"a"}, k)
