"""TREC files: round trips, pytrec_eval's own reader and numbers, and every damage with its line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolscaler.data import ToolQuery
from toolscaler.decoding import RetrievedTool
from toolscaler.errors import ConfigError, DataError, EvaluationError
from toolscaler.evaluation import (
    METRICS,
    read_trec_qrels,
    read_trec_run,
    run_rankings,
    trec_query_ids,
    write_trec_qrels,
    write_trec_run,
)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


def _ranking(*tools):
    return [RetrievedTool(name, -float(place)) for place, name in enumerate(tools)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, st.lists(names, min_size=1, max_size=4, unique=True), min_size=1, max_size=4))
def test_any_ids_come_back(tmp_path, labels):
    """Blanks, percent signs, line breaks of every alphabet: what goes out comes in."""
    ids = list(labels)
    write_trec_run(tmp_path / "run", [_ranking(*tools) for tools in labels.values()], ids, tag="my system")
    run = read_trec_run(tmp_path / "run")
    assert {query: [tool.name for tool in ranking] for query, ranking in run.items()} == labels
    assert list(run) == ids
    write_trec_qrels(tmp_path / "qrels", [ToolQuery("q", tuple(tools)) for tools in labels.values()], ids)
    assert read_trec_qrels(tmp_path / "qrels") == {query: tuple(tools) for query, tools in labels.items()}
    for line in (tmp_path / "run").read_text(encoding="utf-8").split("\n")[:-1]:
        assert len(line.split()) == 6


def test_the_files_by_hand(tmp_path):
    rankings = [[RetrievedTool("get weather", 0.5), RetrievedTool("b", 0.25), RetrievedTool("get weather", 0.1)], []]
    write_trec_run(tmp_path / "run", rankings, ["1", "2"], tag="a 100 % b")
    assert (tmp_path / "run").read_text() == (
        "1 Q0 get%20weather 1 2 a%20100%20%25%20b\n1 Q0 b 2 1 a%20100%20%25%20b\n"
    )
    write_trec_run(tmp_path / "run", rankings, ["1", "2"], scores="model")
    assert (tmp_path / "run").read_text() == "1 Q0 get%20weather 1 0.5 toolscaler\n1 Q0 b 2 0.25 toolscaler\n"
    assert read_trec_run(tmp_path / "run", escaped=False)["1"][0].name == "get%20weather"
    assert run_rankings(read_trec_run(tmp_path / "run"), ["2", "1"]) == [
        (),
        (RetrievedTool("get weather", 0.5), RetrievedTool("b", 0.25)),
    ]
    write_trec_qrels(tmp_path / "qrels", [ToolQuery("q", ("b", "a c"), id="x"), ToolQuery("r", ("b",), id="y")])
    assert (tmp_path / "qrels").read_text() == "x 0 b 1\nx 0 a%20c 1\ny 0 b 1\n"


def test_pytrec_eval_reads_them_and_finds_the_same_numbers(tmp_path):
    """Also where the model's scores are equal: their order is ours."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(3)
    catalogue = [f"tool {row}" for row in range(12)]
    queries, rankings = [], []
    for row in range(60):
        tools = rng.choice(catalogue, size=rng.integers(1, 5), replace=False)
        queries.append(ToolQuery(f"query {row}", tuple(tools.tolist()), id=f"id {row}"))
        found = rng.permutation(catalogue)[: rng.integers(1, 8)]
        rankings.append([RetrievedTool(name, -float(place // 3)) for place, name in enumerate(found.tolist())])
    ids = trec_query_ids(queries)
    write_trec_run(tmp_path / "run", rankings, ids)
    write_trec_qrels(tmp_path / "qrels", queries)
    with (tmp_path / "run").open() as run, (tmp_path / "qrels").open() as qrels:
        evaluator = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(qrels), {"ndcg_cut.5", "recall.5", "P.5"})
        oracle = evaluator.evaluate(pytrec_eval.parse_run(run))
    assert len(oracle) == 60
    for query, ranking in zip(queries, rankings, strict=True):
        expected = oracle[query.id.replace(" ", "%20")]
        for name, key in (("ndcg", "ndcg_cut_5"), ("recall", "recall_5"), ("precision", "P_5")):
            value = METRICS[name]([tool.name for tool in ranking], query.tools, 5)
            assert value == pytest.approx(expected[key], abs=1e-9)


def test_scores_that_readers_would_reorder_are_refused(tmp_path):
    for second in (0.5, 0.5 - 1e-12, 0.7, float("nan"), float("-inf")):
        rankings = [[RetrievedTool("a", 0.5), RetrievedTool("b", second)]]
        with pytest.raises(EvaluationError, match="scores='rank'"):
            write_trec_run(tmp_path / "run", rankings, ["1"], scores="model")
        write_trec_run(tmp_path / "run", rankings, ["1"])
        assert [tool.name for tool in read_trec_run(tmp_path / "run")["1"]] == ["a", "b"]


def test_order_is_that_of_scores_then_ranks_then_lines(tmp_path):
    path = tmp_path / "run"
    path.write_text("1 Q0 a 3 0.5 x\n1 Q0 b 1 0.9 x\n\n1 Q0 c 2 0.5 x\n2 Q0 d 0 1 x\n2 Q0 e 0 1 x\n")
    run = read_trec_run(path)
    assert [tool.name for tool in run["1"]] == ["b", "c", "a"]
    assert [tool.score for tool in run["1"]] == [0.9, 0.5, 0.5]
    assert [tool.name for tool in run["2"]] == ["d", "e"]


def test_relevance_is_made_binary(tmp_path):
    path = tmp_path / "qrels"
    path.write_text("1 0 a 2\n1 0 b 0\n1 0 c 1\n2 0 a 0\n3 0 a -1\n")
    assert read_trec_qrels(path) == {"1": ("a", "c"), "2": (), "3": ()}
    assert read_trec_qrels(path, min_relevance=2) == {"1": ("a",), "2": (), "3": ()}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("1 Q0 a 1 0.5 x\n1 Q0 b 2 0.4\n", 2, "expected 6 columns.*got 5"),
        ("1 Q0 a 1 0.5 x y\n", 1, "got 7"),
        ("1 Q0 a one 0.5 x\n", 1, "rank: expected a whole number, got 'one'"),
        ("1 Q0 a 1.0 0.5 x\n", 1, "rank"),
        ("1 Q0 a 1 high x\n", 1, "score"),
        ("1 Q0 a 1 nan x\n", 1, "score: expected a finite"),
        ("1 Q0 a 1 1_0 x\n", 1, "score"),
        ("1 Q0 a 1 0.5 x\n\n1 Q0 a 2 0.4 x\n", 3, "'a' comes twice for query '1', first in line 1"),
        ("1 Q0 a 2 0.5 x\n1 Q0 b 1 0.4 x\n", 2, "contradict"),
        ("1 Q0 a%FF 1 0.5 x\n", 1, "UTF-8"),
    ],
)
def test_damaged_runs_name_their_line(tmp_path, text, line, message):
    path = tmp_path / "run"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_trec_run(path)
    assert (caught.value.line, caught.value.path) == (line, str(path))


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"1 0 a\n", 1, "expected 4 columns"),
        (b"1 0 a 1\n1 0 b yes\n", 2, "relevance"),
        (b"1 0 a 1\n1 0 a 0\n", 2, "judged twice.*first in line 1"),
        (b"1 0 \xff 1\n", 1, "UTF-8"),
        (b"\n \n", None, "empty"),
    ],
)
def test_damaged_qrels_name_their_line(tmp_path, data, line, message):
    path = tmp_path / "qrels"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_trec_qrels(path)
    assert caught.value.line == line


def test_refusals(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(DataError, match="cannot be read"):
        read_trec_run(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_trec_qrels(tmp_path)
    for ids in (["1"], ["1", "1"], ["1", ""], "12"):
        with pytest.raises(EvaluationError, match="query_ids"):
            write_trec_run(path, [_ranking("a")] * 2, ids)
    with pytest.raises(EvaluationError, match="UTF-8"):
        write_trec_run(path, [_ranking("\ud800")], ["1"])
    with pytest.raises(ConfigError, match="scores"):
        write_trec_run(path, [_ranking("a")], ["1"], scores="log")
    with pytest.raises(EvaluationError, match="1 have no relevant tool"):
        write_trec_qrels(path, [ToolQuery("q")])
    with pytest.raises(EvaluationError, match="others such as"):
        run_rankings({"1": _ranking("a"), "9": _ranking("a")}, ["1", "2"])
    with pytest.raises(EvaluationError, match="expected queries"):
        run_rankings({}, ["1"])
    assert not path.exists()  # what fails leaves nothing


def test_ids_of_queries():
    assert trec_query_ids([ToolQuery("a", id="x"), ToolQuery("b", id="y")]) == ["x", "y"]
    assert trec_query_ids([ToolQuery("a", id="x"), ToolQuery("b", id="x")]) == ["q1", "q2"]
    assert trec_query_ids([ToolQuery("a", id="x"), ToolQuery("b")]) == ["q1", "q2"]


@pytest.mark.shared_data
def test_real_tools_and_queries_against_pytrec_eval(shared_data, tmp_path):
    """BM25 on ToolE: what pytrec_eval finds in our files is what the evaluator says."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    pytest.importorskip("bm25s")
    from toolscaler.data import load_bundle
    from toolscaler.evaluation import BM25Retriever, ToolRetrievalEvaluator

    bundle = load_bundle("toole", shared_data / "toole")
    queries = bundle.queries[::100]
    result = ToolRetrievalEvaluator(queries, (1, 5), num_resamples=100)(BM25Retriever(bundle.documents))
    ids = trec_query_ids(queries)
    write_trec_run(tmp_path / "run", result.rankings, ids)
    write_trec_qrels(tmp_path / "qrels", queries, ids)
    with (tmp_path / "run").open(encoding="utf-8") as run, (tmp_path / "qrels").open(encoding="utf-8") as qrels:
        evaluator = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(qrels), {"ndcg_cut.1,5", "recall.5"})
        oracle = evaluator.evaluate(pytrec_eval.parse_run(run))
    for metric, key in (("ndcg@1", "ndcg_cut_1"), ("ndcg@5", "ndcg_cut_5"), ("recall@5", "recall_5")):
        values = [oracle[name][key] if name in oracle else 0.0 for name in ids]
        np.testing.assert_allclose(result.per_query[metric], values, atol=1e-9)
    assert 0.1 < result.metrics["ndcg@5"].mean < 0.9
    # Read back, the rankings are the same.
    again = run_rankings(read_trec_run(tmp_path / "run"), ids)
    assert [[tool.name for tool in row] for row in again] == [[tool.name for tool in row] for row in result.rankings]
