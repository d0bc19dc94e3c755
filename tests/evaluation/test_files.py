"""The folder of an evaluation, and the command that writes it: from TREC runs, and from a model."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from toolscaler.cli import main
from toolscaler.data import ToolDocument, ToolQuery
from toolscaler.decoding import RetrievedTool
from toolscaler.errors import EvaluationError
from toolscaler.evaluation import (
    ToolRetrievalEvaluator,
    breakdown_tables,
    calibrate_result,
    expected_calibration_error,
    holm_adjust,
    ndcg_at_k,
    read_trec_qrels,
    read_trec_run,
    risk_coverage,
    standard_groups,
    write_evaluation,
    write_trec_qrels,
    write_trec_run,
)
from toolscaler.evaluation.files import comparison_rows, run_name

TOOLS = [f"tool {name}" for name in "abcdefgh"]


def _queries(count=30):
    rng = np.random.default_rng(0)
    return [
        ToolQuery(f"query {row}", tuple(rng.choice(TOOLS, size=1 + row % 2, replace=False).tolist()), id=f"id {row}")
        for row in range(count)
    ]


def _rankings(queries, skill, seed):
    """Put a relevant tool first with probability ``skill``; scores are log-probabilities."""
    rng = np.random.default_rng(seed)
    rankings = []
    for query in queries:
        names = rng.permutation(TOOLS).tolist()
        if rng.random() < skill:
            names = [query.tools[0], *(name for name in names if name != query.tools[0])]
        scores = -np.sort(rng.exponential(size=len(names)))
        rankings.append(
            [RetrievedTool(name, float(score)) for name, score in zip(names, np.sort(scores)[::-1], strict=True)]
        )
    return rankings


@pytest.fixture(scope="module")
def evaluated():
    queries = _queries()
    groups = standard_groups(queries, seen=TOOLS[:4])
    evaluator = ToolRetrievalEvaluator(queries, (1, 3), num_resamples=200, groups=groups)
    results = [
        evaluator.score(_rankings(queries, skill, row), name=name)
        for row, (name, skill) in enumerate((("ours", 0.9), ("bm25 | plain", 0.2), ("dense", 0.5)))
    ]
    return queries, results


def test_every_file_holds_what_was_measured(evaluated, tmp_path):
    pytest.importorskip("matplotlib")
    queries, results = evaluated
    notes = {"catalogue": "8 tools"}
    written = write_evaluation(
        tmp_path / "out", results, queries, notes=notes, confidence="probability", trec=True, plots=True
    )
    assert {path.name for path in written} == {path.name for path in (tmp_path / "out").iterdir()}
    assert {path.name for path in written} == {
        *("metrics.json", "table.md", "per_query.jsonl", "comparison.csv", "calibration.json", "qrels.txt"),
        *("reliability.png", "risk_coverage.png", "ours.run", "bm25___plain.run", "dense.run"),
    }
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [entry["name"] for entry in metrics["results"]] == ["ours", "bm25 | plain", "dense"]
    raw = [row["p_value"] for row in metrics["comparisons"]]
    np.testing.assert_allclose([row["p_holm"] for row in metrics["comparisons"]], holm_adjust(raw))
    assert raw[0] == results[0].compare(results[1]).p_value
    right = results[0].per_query["hit@1"] == 1
    first = [np.exp(ranking[0].score) for ranking in results[0].rankings]
    found = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert found["reliability"]["expected_error"] == pytest.approx(expected_calibration_error(first, right))
    assert found["aurc"] == metrics["calibration"]["aurc"] == pytest.approx(risk_coverage(first, right).aurc)
    table = (tmp_path / "out" / "table.md").read_text()
    for part in (
        "**",
        "bm25 \\| plain",
        "catalogue: 8 tools",
        "| tools in training | n |",
        "expected calibration error",
    ):
        assert part in table
    # What was written can be measured again.
    labels = read_trec_qrels(tmp_path / "out" / "qrels.txt")
    assert labels == {query.id: query.tools for query in queries}
    run = read_trec_run(tmp_path / "out" / "ours.run")
    values = [ndcg_at_k([tool.name for tool in run[name]], tools, 3) for name, tools in labels.items()]
    np.testing.assert_allclose(values, results[0].per_query["ndcg@3"], atol=1e-12)
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["mean"]) == results[0].metrics["ndcg@1"].mean


def test_one_system_needs_no_comparison(evaluated, tmp_path):
    queries, results = evaluated
    names = {path.name for path in write_evaluation(tmp_path, results[:1], queries)}
    assert names == {"metrics.json", "table.md", "per_query.jsonl"}
    assert json.loads((tmp_path / "metrics.json").read_text())["comparisons"] == []
    lines = [json.loads(line) for line in (tmp_path / "per_query.jsonl").read_text().splitlines()]
    assert lines[3]["relevant"] == list(queries[3].tools)
    assert [tool["tool"] for tool in lines[3]["systems"]["ours"]] == [tool.name for tool in results[0].rankings[3]]


def test_tables_of_groups(evaluated):
    _, results = evaluated
    text = breakdown_tables(results[:2], "ndcg@1")
    assert len(text) == 2  # number of relevant tools, and seen tools
    lines = text[1].strip().splitlines()
    assert lines[0] == "| tools in training | n | ours, ndcg@1 | bm25 \\| plain, ndcg@1 |"
    group = results[0].breakdowns["seen"]["mixed"]
    value = group.metrics["ndcg@1"]
    assert lines[2].startswith(f"| mixed | {group.n} | {100 * value.mean:.2f} [{100 * value.low:.2f}, ")


def test_comparisons_without_others_and_names_of_files(evaluated):
    _, results = evaluated
    assert comparison_rows(results[0], [], ["ndcg@1"]) == []
    assert [run_name(name) for name in ("a/b c", "..", "é", "x-1.y")] == ["a_b_c", "system", "_", "x-1.y"]


def test_refusals(evaluated, tmp_path):
    queries, results = evaluated
    for call, message in (
        (lambda: write_evaluation(tmp_path, [], queries), "results of 30 queries"),
        (lambda: write_evaluation(tmp_path, results, queries[1:]), "results of 29 queries"),
        (lambda: write_evaluation(tmp_path, results, queries, plots=True), "plots"),
        (
            lambda: calibrate_result(ToolRetrievalEvaluator(queries, (3,)).score(results[0].rankings, name="x")),
            r"needs hit@1.*add 1 to ks",
        ),
    ):
        with pytest.raises(EvaluationError, match=message):
            call()
    assert not list(tmp_path.iterdir())


def test_the_command_measures_trec_runs(tmp_path, capsys, caplog):
    queries = _queries()
    ids = [query.id for query in queries]
    write_trec_qrels(tmp_path / "qrels.txt", queries)
    with (tmp_path / "qrels.txt").open("a") as file:
        file.write("bare 0 tool%20a 0\n")
    rankings = _rankings(queries, 0.8, 1)
    write_trec_run(tmp_path / "ours.run", [*rankings[:-1], [], rankings[0]], [*ids, "bare"])
    write_trec_run(tmp_path / "bm25.run", _rankings(queries, 0.1, 2), ids)
    words = ["evaluate", str(tmp_path / "ours.run"), "--qrels", str(tmp_path / "qrels.txt"), "--ks", "1", "5"]
    out = tmp_path / "out"
    assert main([*words, "--compare", str(tmp_path / "bm25.run"), "--output_dir", str(out), "--trec"]) == 0
    printed = json.loads(capsys.readouterr().out)
    expected = ToolRetrievalEvaluator(queries, (1, 5)).score([*rankings[:-1], []], name="ours")
    assert printed["metrics"] == expected.to_dict()["metrics"]
    assert "1 of 31 queries have no relevant tool" in caplog.text
    assert "1 of 30 queries are not in the run" in caplog.text
    metrics = json.loads((out / "metrics.json").read_text())
    assert [(row["system"], row["baseline"]) for row in metrics["comparisons"][:1]] == [("ours", "bm25")]
    assert read_trec_run(out / "bm25.run").keys() == set(ids)
    assert "calibration" not in metrics


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN"], "--queries, --qrels"),
        (["RUN", "--qrels", "QRELS", "--queries", "QRELS"], "--queries, --qrels"),
        (["somewhere", "--qrels", "QRELS"], "a model needs the queries' texts"),
        (["RUN", "--qrels", "QRELS", "--trec"], "--output_dir"),
        (["RUN", "--qrels", "QRELS", "--plots", "--output_dir", "out"], "no probabilities"),
        (["RUN", "--qrels", "QRELS", "--tags", "level"], "expected 'split'"),
        (["QRELS", "--qrels", "QRELS"], "expected 6 columns"),
    ],
)
def test_the_command_says_what_does_not_fit(tmp_path, capsys, words, message):
    queries = _queries(4)
    write_trec_qrels(tmp_path / "QRELS", queries)
    write_trec_run(tmp_path / "RUN", _rankings(queries, 1.0, 0), [query.id for query in queries])
    assert main(["evaluate", *(str(tmp_path / word) if word.isupper() else word for word in words)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_measures_a_run_folder(tmp_path, capsys, make_tiny_model, make_tiny_tokenizer):
    """Category and seen tools come from the run itself."""
    from toolscaler.tokenization import ToolscalerTokenizer

    pytest.importorskip("matplotlib")
    names = list("abcd")
    documents = [ToolDocument(name=name, id=name, category="xy"[row % 2]) for row, name in enumerate(names)]
    base = make_tiny_tokenizer()
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.int32)
    tokenizer = ToolscalerTokenizer.from_tokenizer(base, codes=codes, tool_ids=names, code_sizes=(2, 2))
    model = make_tiny_model("llama", base)
    model.resize_token_embeddings(tokenizer.required_vocab_size, mean_resizing=False)
    model.save_pretrained(tmp_path / "run" / "model")
    tokenizer.save_pretrained(tmp_path / "run" / "model")
    lines = {
        "run/model/tools.jsonl": [document.to_dict() for document in documents],
        "run/data/train.jsonl": [{"query": "first", "tools": ["a"]}, {"query": "second", "tools": ["b"]}],
        "test.jsonl": [{"query": f"use {name}", "tools": [name]} for name in names],
    }
    for name, rows in lines.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["evaluate", str(tmp_path / "run"), "--queries", str(tmp_path / "test.jsonl"), "--ks", "1", "2"]
    assert main([*words, "--output_dir", str(tmp_path / "out"), "--plots", "--num_beams", "4"]) == 0
    printed = json.loads(capsys.readouterr().out)
    groups = {
        kind: {name: group["n"] for name, group in found.items()} for kind, found in printed["breakdowns"].items()
    }
    assert groups == {"tools": {"1": 4}, "category": {"x": 2, "y": 2}, "seen": {"seen": 2, "unseen": 2}}
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["reliability"]["n"] == 4
    assert "catalogue: 4 tools; beams: 4" in (tmp_path / "out" / "table.md").read_text()
