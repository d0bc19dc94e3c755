"""Break-downs: each group is the evaluation of its queries alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from toolscaler.data import ToolDocument, ToolQuery
from toolscaler.decoding import RetrievedTool
from toolscaler.errors import EvaluationError
from toolscaler.evaluation import (
    ToolRetrievalEvaluator,
    break_down,
    group_by_category,
    group_by_number,
    group_by_seen,
    group_by_tag,
    standard_groups,
)

DOCUMENTS = [
    ToolDocument(name=name, id=name, category=category)
    for name, category in (("a", "Maths"), ("b", "Maths"), ("c", "Travel"), ("d", ""))
]
QUERIES = [
    ToolQuery("one", ("a",), split="test_x", metadata={"level": 1, "tags": ["short", "odd"]}),
    ToolQuery("two", ("a", "c"), split="test_y", metadata={"level": 2}),
    ToolQuery("three", ("d", "gone"), split="test_y", metadata={"tags": "odd"}),
    ToolQuery("four", ("b", "a", "c", "d", "e"), metadata={"level": 1}),
]


def test_groups_by_hand():
    assert group_by_category(QUERIES, DOCUMENTS) == [
        ("Maths",),
        ("Maths", "Travel"),
        ("(none)", "(not in the catalogue)"),
        ("Maths", "Travel", "(none)", "(not in the catalogue)"),
    ]
    assert group_by_seen(QUERIES, {"a", "b"}) == ["seen", "mixed", "unseen", "mixed"]
    assert group_by_number(QUERIES) == ["1", "2", "2", "4+"]
    assert group_by_tag(QUERIES, "level") == [("1",), ("2",), ("(none)",), ("1",)]
    assert group_by_tag(QUERIES, "tags") == [("short", "odd"), ("(none)",), ("odd",), ("(none)",)]
    assert group_by_tag(QUERIES, "split") == [("test_x",), ("test_y",), ("test_y",), ("(none)",)]


def test_what_the_facts_allow():
    assert list(standard_groups(QUERIES)) == ["tools"]
    groups = standard_groups(QUERIES, documents=DOCUMENTS, seen=["a"], tags=["level", "split"])
    assert list(groups) == ["tools", "category", "seen", "level", "split"]
    assert list(standard_groups(QUERIES, documents=[ToolDocument(name="a")])) == ["tools"]


def test_the_smallest_groups_are_merged():
    queries = [ToolQuery("q", ("t",), metadata={"k": list(keys)}) for keys in ("ab", "abc", "a", "d", "c", "e")]
    groups = standard_groups(queries, tags=["k"], max_groups=3)["k"]
    assert groups == [("a", "b"), ("a", "b", "(others)"), ("a",), ("(others)",), ("(others)",), ("(others)",)]


class Fixed:
    def retrieve(self, queries, top_k, *, tools=None):
        rng = np.random.default_rng(1)
        return [
            [RetrievedTool(name, -float(row)) for row, name in enumerate(rng.permutation(list("abcde")))]
            for _ in queries
        ]


def test_each_group_is_an_evaluation_of_its_own():
    queries = [ToolQuery(f"{query.text} {row}", query.tools) for row in range(6) for query in QUERIES]
    groups = standard_groups(queries, documents=DOCUMENTS, seen=["a", "b"])
    evaluator = ToolRetrievalEvaluator(queries, (1, 3), num_resamples=200, seed=2, groups=groups)
    result = evaluator(Fixed())
    assert list(result.breakdowns) == ["tools", "category", "seen"]
    assert {name: group.n for name, group in result.breakdowns["seen"].items()} == {"mixed": 12, "seen": 6, "unseen": 6}
    for kind, entries in groups.items():
        for name, group in result.breakdowns[kind].items():
            rows = [row for row, own in enumerate(entries) if own == name or (not isinstance(own, str) and name in own)]
            alone = ToolRetrievalEvaluator([queries[row] for row in rows], (1, 3), num_resamples=200, seed=2)
            expected = alone.score([result.rankings[row] for row in rows], name="alone")
            assert group.n == len(rows) == expected.n
            assert group.metrics == expected.metrics
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["breakdowns"]["seen"]["unseen"]["n"] == 6
    plain = ToolRetrievalEvaluator(queries, (1, 3), num_resamples=200, seed=2)(Fixed())
    assert plain.breakdowns == {}
    assert plain.metrics == result.metrics
    assert result.compare(plain).difference == 0.0


def test_scores_of_existing_rankings_are_those_of_the_retriever():
    evaluator = ToolRetrievalEvaluator(QUERIES, (1, 2), num_resamples=100)
    asked = evaluator(Fixed(), name="fixed")
    given = evaluator.score(Fixed().retrieve([query.text for query in QUERIES], 5), name="fixed")
    assert asked.to_dict() == given.to_dict()
    assert asked.rankings == given.rankings
    with pytest.raises(EvaluationError, match="each of 4 queries"):
        evaluator.score([[]], name="short")


def test_refusals():
    with pytest.raises(EvaluationError, match=r"'split' or one of.*'level', 'tags'.*'nothing'"):
        group_by_tag(QUERIES, "nothing")
    with pytest.raises(EvaluationError, match="text or number under 'x'"):
        group_by_tag([ToolQuery("q", metadata={"x": {"y": 1}})], "x")
    with pytest.raises(EvaluationError, match="the text 'abc'"):
        group_by_seen(QUERIES, "abc")
    with pytest.raises(EvaluationError, match="no relevant tool"):
        group_by_seen([ToolQuery("q")], ["a"])
    with pytest.raises(EvaluationError, match="rename"):
        standard_groups([ToolQuery("q", ("a",), metadata={"tools": 1})], tags=["tools"])
    with pytest.raises(EvaluationError, match="for each of 4 queries, got 1"):
        ToolRetrievalEvaluator(QUERIES, groups={"x": ["a"]})
    for values in ({}, {"hit": [1.0]}, {"hit": [[1.0, 1.0]]}):
        with pytest.raises(EvaluationError, match="one value for each of 2 queries"):
            break_down(values, ["a", "b"])
    with pytest.raises(EvaluationError, match="names of groups"):
        break_down({"hit": [1.0]}, [(3,)])
    assert break_down({"hit": [1.0, 0.0]}, [(), ()]) == {}
