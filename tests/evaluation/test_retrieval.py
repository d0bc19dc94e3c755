"""The evaluator and its results, with retrievers whose answers are known."""

from __future__ import annotations

import json
import logging
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from toolscaler.data import ToolQuery
from toolscaler.decoding import RetrievedTool
from toolscaler.errors import ConfigError, EvaluationError
from toolscaler.evaluation import (
    METRICS,
    Retriever,
    ToolRetrievalEvaluator,
    paired_bootstrap_interval,
    paired_randomization_test,
    results_table,
)

TOOLS = list("abcdefgh")


def _queries(count=24, seed=0):
    rng = np.random.default_rng(seed)
    return [
        ToolQuery(f"query {row}", tuple(rng.choice(TOOLS, size=1 + row % 3, replace=False).tolist()))
        for row in range(count)
    ]


class Shuffled:
    """Answers in a random order that its seed fixes; remembers what it was asked."""

    def __init__(self, seed=0, depth=None):
        self.seed, self.depth, self.calls = seed, depth, []

    def retrieve(self, queries, top_k, *, tools=None, **more):
        self.calls.append((list(queries), top_k, tools, more))
        rng = np.random.default_rng(self.seed)
        names = TOOLS if tools is None else list(tools)
        return [
            [
                RetrievedTool(name, -float(place))
                for place, name in enumerate(rng.permutation(names)[: self.depth or top_k])
            ]
            for _ in queries
        ]


class Perfect:
    def __init__(self, queries):
        self.answers = {query.text: query.tools for query in queries}

    def retrieve(self, queries, top_k, *, tools=None):
        return [[RetrievedTool(name, 0.0) for name in self.answers[text]][:top_k] for text in queries]


def test_values_are_the_metrics_of_the_rankings():
    queries = _queries()
    retriever = Shuffled()
    result = ToolRetrievalEvaluator(queries, (3, 1, 5, 3), num_resamples=200)(retriever)
    assert isinstance(retriever, Retriever)
    assert (result.name, result.n, result.depth) == ("Shuffled", 24, 5)
    assert list(result.metrics) == [f"{name}@{k}" for name in METRICS for k in (1, 3, 5)]
    answers = Shuffled().retrieve([query.text for query in queries], 5)
    for name, metric in METRICS.items():
        for k in (1, 3, 5):
            expected = [metric([t.name for t in r], set(q.tools), k) for r, q in zip(answers, queries, strict=True)]
            np.testing.assert_allclose(result.per_query[f"{name}@{k}"], expected, atol=1e-12)
            value = result.metrics[f"{name}@{k}"]
            assert value.mean == pytest.approx(np.mean(expected), abs=1e-12)
            assert value.low <= value.mean <= value.high


def test_the_retriever_is_asked_once_for_the_largest_cut_off():
    retriever = Shuffled()
    evaluator = ToolRetrievalEvaluator(_queries(4), (1, 2), num_resamples=100)
    result = evaluator(retriever, name="mine", tools=(name for name in "abcdefg"), num_beams=7, note=[1])
    assert retriever.calls == [
        (["query 0", "query 1", "query 2", "query 3"], 2, list("abcdefg"), {"num_beams": 7, "note": [1]})
    ]
    assert result.name == "mine"
    assert result.settings == {"num_beams": 7, "tools": 7}


def test_all_systems_are_cut_at_the_same_depth():
    """A retriever that gives more than was asked for gains nothing by it, not even in the ToolGen variant."""
    evaluator = ToolRetrievalEvaluator(_queries(), (1, 3), num_resamples=100)
    greedy, modest = evaluator(Shuffled(depth=8)), evaluator(Shuffled())
    assert all(len(ranking) == 3 for ranking in greedy.rankings)
    assert [[t.name for t in r] for r in greedy.rankings] == [[t.name for t in r] for r in modest.rankings]
    assert greedy.metrics == modest.metrics


def test_repeated_tools_are_dropped_before_the_cut():
    class Stutter:
        def retrieve(self, queries, top_k, *, tools=None):
            return [[RetrievedTool("x", 3.0), RetrievedTool("x", 2.0), RetrievedTool("a", 1.0)] for _ in queries]

    result = ToolRetrievalEvaluator([ToolQuery("q", ("a",))], (2,), num_resamples=100)(Stutter())
    assert result.rankings == ((RetrievedTool("x", 3.0), RetrievedTool("a", 1.0)),)
    assert result.metrics["recall@2"].mean == 1.0


def test_break_down_by_number_of_labels():
    queries = _queries()
    result = ToolRetrievalEvaluator(queries, num_resamples=200)(Shuffled())
    single = np.array([len(query.tools) == 1 for query in queries])
    assert result.counts == {"single": 8, "multi": 16}
    for kind, mask in (("single", single), ("multi", ~single)):
        for name, values in result.per_query.items():
            assert result.by_labels[kind][name].mean == pytest.approx(values[mask].mean(), abs=1e-12)
    alone = ToolRetrievalEvaluator([query for query in queries if len(query.tools) == 1], num_resamples=200)
    result = alone(Shuffled())
    assert (result.by_labels, result.counts) == ({}, {"single": 8, "multi": 0})


def test_comparison_is_the_paired_statistics_of_single_queries():
    queries = _queries(60)
    evaluator = ToolRetrievalEvaluator(queries, seed=3, num_resamples=500)
    good, bad = evaluator(Perfect(queries), name="good"), evaluator(Shuffled(), name="bad")
    found = good.compare(bad, "ndcg@3")
    one, two = good.per_query["ndcg@3"], bad.per_query["ndcg@3"]
    expected = paired_bootstrap_interval(one, two, num_resamples=500, seed=3)
    assert (found.difference, found.low, found.high) == expected
    assert found.p_value == paired_randomization_test(one, two, seed=3) < 0.001
    assert (found.system, found.baseline, found.metric, found.n) == ("good", "bad", "ndcg@3", 60)
    back = bad.compare(good, "ndcg@3")
    assert back.difference == pytest.approx(-found.difference)
    assert back.p_value == found.p_value
    assert good.compare(good).p_value == 1.0
    assert good.compare(good).difference == 0.0


def test_comparison_refuses_what_cannot_be_compared():
    queries = _queries()
    one = ToolRetrievalEvaluator(queries, num_resamples=100)(Shuffled())
    other_labels = [ToolQuery(query.text, ("h",)) for query in queries]
    for evaluator in (
        ToolRetrievalEvaluator(queries[1:], num_resamples=100),
        ToolRetrievalEvaluator(queries[::-1], num_resamples=100),
        ToolRetrievalEvaluator(other_labels, num_resamples=100),
        ToolRetrievalEvaluator(queries, (1, 3), num_resamples=100),
    ):
        with pytest.raises(EvaluationError, match="other queries or at another depth"):
            one.compare(evaluator(Shuffled()))
    with pytest.raises(EvaluationError, match=r"ndcg@1.*got 'ndcg@2'"):
        one.compare(one, "ndcg@2")


def test_the_order_of_a_querys_labels_means_nothing():
    one = ToolRetrievalEvaluator([ToolQuery("q", ("a", "b"))])
    assert one.queries_sha256 == ToolRetrievalEvaluator([ToolQuery("q", ("b", "a"))]).queries_sha256
    assert one.queries_sha256 != ToolRetrievalEvaluator([ToolQuery("q", ("a", "c"))]).queries_sha256


def test_results_are_seeded_frozen_and_plain():
    evaluator = ToolRetrievalEvaluator(_queries(), seed=4, num_resamples=300)
    first, second = evaluator(Shuffled()), evaluator(Shuffled())
    assert first.to_dict() == second.to_dict()
    data = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    assert data["metrics"]["ndcg@1"] == {
        "mean": first.metrics["ndcg@1"].mean,
        "low": first.metrics["ndcg@1"].low,
        "high": first.metrics["ndcg@1"].high,
    }
    assert data["by_labels"]["single"]["n"] == 8
    assert (data["n"], data["seed"], data["num_resamples"], data["confidence"]) == (24, 4, 300, 0.95)
    with pytest.raises(FrozenInstanceError):
        first.name = "other"
    other_seed = ToolRetrievalEvaluator(_queries(), seed=5, num_resamples=300)(Shuffled())
    assert other_seed.metrics["ndcg@5"].mean == first.metrics["ndcg@5"].mean
    assert other_seed.metrics["ndcg@5"] != first.metrics["ndcg@5"]


def test_labels_outside_the_allowed_tools_still_count(caplog):
    queries = [ToolQuery("q", ("a", "h")), ToolQuery("r", ("a",))]
    with caplog.at_level(logging.WARNING, logger="toolscaler"):
        result = ToolRetrievalEvaluator(queries, (3,), num_resamples=100)(Perfect(queries), tools=list("abc"))
    assert "1 of 2 queries have a label outside" in caplog.text
    assert result.settings["tools"] == 3

    class OnlyA:
        def retrieve(self, queries, top_k, *, tools=None):
            return [[RetrievedTool("a", 0.0)] for _ in queries]

    result = ToolRetrievalEvaluator(queries, (3,), num_resamples=100)(OnlyA(), tools=list("abc"))
    assert result.per_query["recall@3"].tolist() == [0.5, 1.0]


def test_refusals():
    with pytest.raises(EvaluationError, match="got none"):
        ToolRetrievalEvaluator([])
    with pytest.raises(EvaluationError, match=r"1 of 2 queries have no relevant tool.*number 1.*leave them out"):
        ToolRetrievalEvaluator([ToolQuery("q", ("a",)), ToolQuery("bare")])
    for ks in ((), (0,), (1, 2.5), (True,)):
        with pytest.raises(ConfigError, match="ks"):
            ToolRetrievalEvaluator(_queries(2), ks)

    class Short:
        def retrieve(self, queries, top_k, *, tools=None):
            return [[RetrievedTool("a", 0.0)]]

    class Names:
        def retrieve(self, queries, top_k, *, tools=None):
            return [["a", "b"] for _ in queries]

    evaluator = ToolRetrievalEvaluator(_queries(3), num_resamples=100)
    with pytest.raises(EvaluationError, match="each of 3 queries, the retriever gave 1"):
        evaluator(Short())
    with pytest.raises(EvaluationError, match="expected RetrievedTool objects"):
        evaluator(Names())


def test_empty_rankings_are_misses():
    class Silent:
        def retrieve(self, queries, top_k, *, tools=None):
            return [[] for _ in queries]

    result = ToolRetrievalEvaluator(_queries(3), num_resamples=100)(Silent())
    assert all(value.mean == value.low == value.high == 0.0 for value in result.metrics.values())


def test_table_names_everything():
    queries = _queries(60)
    evaluator = ToolRetrievalEvaluator(queries, (1, 3), num_resamples=200)
    good, bad = evaluator(Perfect(queries), name="good"), evaluator(Shuffled(), name="bad")
    lines = results_table([good, bad], "bad", notes={"catalogue": "8 tools"}).splitlines()
    assert lines[0] == "| system | n | ndcg@1 | ndcg@3 | recall@3 | completeness@3 | p (ndcg@1 against bad) |"
    assert lines[1] == "|---|---:|---:|---:|---:|---:|---:|"
    assert lines[2].startswith("| good | 60 | 100.00 [100.00, 100.00] |")
    assert lines[2].endswith("| < 0.001 |")
    value = bad.metrics["ndcg@1"]
    assert f"| {100 * value.mean:.2f} [{100 * value.low:.2f}, {100 * value.high:.2f}] |" in lines[3]
    assert lines[3].endswith("| – |")
    for part in ("95 %", "200 resamples", "paired randomisation", "8 tools", "seed: 0", "cut at: 3"):
        assert part in lines[5]
    plain = results_table([good, bad], metrics=["mrr@3"])
    assert plain.splitlines()[0] == "| system | n | mrr@3 |"
    assert "paired" not in plain
    other = ToolRetrievalEvaluator(queries[:9], (1, 3), num_resamples=200)(Shuffled(), name="other")
    for call in (
        lambda: results_table([]),
        lambda: results_table([good, other]),
        lambda: results_table([good, good]),
        lambda: results_table([good], "bad"),
        lambda: results_table([good], metrics=["map@3"]),
    ):
        with pytest.raises(EvaluationError, match="expected"):
            call()
