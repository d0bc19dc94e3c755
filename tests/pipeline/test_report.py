"""The evaluate and report stages on a run folder made by hand: tiny model, twelve tools, two categories."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from toolscaler.data import ToolDocument, ToolQuery
from toolscaler.errors import ArtifactError, ConfigError, EvaluationError
from toolscaler.evaluation import ToolRetrievalEvaluator, ndcg_at_k
from toolscaler.pipeline.config import RunConfig
from toolscaler.pipeline.evaluation import evaluate_stage, example_queries, example_tools, make_baseline
from toolscaler.pipeline.plots import plot_losses, plot_map, plot_metrics, report_stage
from toolscaler.pipeline.stages import Run

NOUNS = ["length", "weight", "volume", "speed", "area", "force", "word", "line", "letter", "vowel", "title", "comma"]
PNG = b"\x89PNG\r\n\x1a\n"


def _documents():
    return [
        ToolDocument(
            name=f"{'convert' if row < 6 else 'count'}_{noun}",
            category="Units" if row < 6 else "Text",
            description=f"{'Convert a' if row < 6 else 'Count each'} {noun}.",
        )
        for row, noun in enumerate(NOUNS)
    ]


def _codes():
    """Units share first code 1 in fours and 3 in twos; the text tools are spread over 0, 2 and 4."""
    first = [1, 1, 1, 1, 3, 3, 0, 2, 4, 2, 0, 2]
    second = [3, 2, 1, 0, 0, 1, 0, 0, 0, 1, 1, 2]
    return np.array([first, second], dtype=np.int32).T


class HandMadeRun(Run):
    """Embeddings and codebook as earlier stages would have left them."""

    def load_embeddings(self):
        return np.random.default_rng(0).normal(size=(12, 2, 16)).astype(np.float32)

    def load_codebook(self):
        return SimpleNamespace(codes=_codes())


def _lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def make_run(tmp_path, make_tiny_model, make_tiny_tokenizer):
    from toolscaler.tokenization import ToolscalerTokenizer

    def make(**evaluation):
        documents = _documents()
        base = make_tiny_tokenizer()
        tokenizer = ToolscalerTokenizer.from_tokenizer(
            base, codes=_codes(), tool_ids=[document.id for document in documents], code_sizes=(5, 4)
        )
        model = make_tiny_model("llama", base)
        model.resize_token_embeddings(tokenizer.required_vocab_size, mean_resizing=False)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        rows = [
            {"query": f"how much {noun} is it", "tools": [documents[row].id], "id": str(row), "split": ""}
            for row, noun in enumerate(NOUNS)
        ]
        rows[3]["tools"].append(documents[0].id)
        _write_lines(tmp_path / "data" / "tools.jsonl", [document.to_dict() for document in documents])
        _write_lines(tmp_path / "data" / "test.jsonl", rows)
        history = [{"loss": 3.0 / (s + 1), "epoch": s / 4, "step": s} for s in range(1, 9)]
        history += [{"eval_loss": 2.0, "epoch": 1.0, "step": 4}, {"train_loss": 1.0, "epoch": 2.0, "step": 8}]
        for stage in ("compression", "retrieval"):
            (tmp_path / stage).mkdir(exist_ok=True)
            (tmp_path / stage / "history.json").write_text(json.dumps(history), encoding="utf-8")
        settings = {"ks": [1, 3], "num_beams": 12, "batch_size": 5, **evaluation}
        return HandMadeRun(RunConfig.from_dict({"output_dir": str(tmp_path), "evaluation": settings}), tmp_path)

    return make


def test_evaluate_then_report(make_run):
    run = make_run()
    summary = evaluate_stage(run)
    folder = run.folder / "evaluation"
    assert sorted(path.name for path in folder.iterdir()) == [
        "examples.json",
        "metrics.json",
        "per_query.jsonl",
        "table.md",
    ]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["n"], metrics["catalogue_size"], metrics["num_beams"], metrics["seed"]) == (12, 12, 12, 0)
    assert [result["name"] for result in metrics["results"]] == ["toolscaler", "bm25", "lsa"]
    assert {(row["baseline"], row["metric"]) for row in metrics["comparisons"]} == {
        (name, metric) for name in ("bm25", "lsa") for metric in ("ndcg@1", "ndcg@3", "recall@3", "completeness@3")
    }

    assert all(row["p_value"] <= row["p_holm"] <= 1.0 for row in metrics["comparisons"])

    # Every mean is recomputed from the rankings that were written down.
    lines = _lines(folder / "per_query.jsonl")
    assert [line["id"] for line in lines] == [str(row) for row in range(12)]
    assert lines[3]["relevant"] == ["convert_speed", "convert_length"]
    for result in metrics["results"]:
        for k in (1, 3):
            values = [
                ndcg_at_k([tool["tool"] for tool in line["systems"][result["name"]]], line["relevant"], k)
                for line in lines
            ]
            value = result["metrics"][f"ndcg@{k}"]
            assert value["mean"] == pytest.approx(np.mean(values), abs=1e-12)
            assert value["low"] <= value["mean"] <= value["high"]
        assert result["by_labels"]["multi"]["n"] == 1
        sizes = {kind: {name: g["n"] for name, g in found.items()} for kind, found in result["breakdowns"].items()}
        assert sizes == {"tools": {"1": 11, "2": 1}, "category": {"Text": 6, "Units": 6}}
        for line in lines:
            scores = [tool["score"] for tool in line["systems"][result["name"]]]
            assert len(scores) == 3 if result["name"] != "bm25" else 1 <= len(scores) <= 3
            assert scores == sorted(scores, reverse=True)
    means = {result["name"]: result["metrics"] for result in metrics["results"]}
    assert summary == {
        "ndcg@1": round(means["toolscaler"]["ndcg@1"]["mean"], 4),
        "ndcg@3": round(means["toolscaler"]["ndcg@3"]["mean"], 4),
        "completeness@3": round(means["toolscaler"]["completeness@3"]["mean"], 4),
        "bm25 ndcg@1": round(means["bm25"]["ndcg@1"]["mean"], 4),
        "lsa ndcg@1": round(means["lsa"]["ndcg@1"]["mean"], 4),
        "queries": 12,
    }
    assert summary["bm25 ndcg@1"] == 1.0  # each query holds exactly one tool's noun
    table = (folder / "table.md").read_text()
    for part in ("| toolscaler | 12 |", "| bm25 | 12 | 100.00", "12 tools", "beams: 12", "seed: 0", "several relevant"):
        assert part in table

    assert report_stage(run) == {"plots": ["loss.png", "map.png", "metrics.png"]}
    for name in ("loss.png", "map.png", "metrics.png"):
        assert (run.folder / "plots" / name).read_bytes().startswith(PNG)


def test_a_second_evaluation_writes_the_same_numbers(make_run):
    run = make_run(baselines=["lsa"])
    evaluate_stage(run)
    first = {path.name: path.read_bytes() for path in (run.folder / "evaluation").iterdir()}
    evaluate_stage(run)
    assert first == {path.name: path.read_bytes() for path in (run.folder / "evaluation").iterdir()}


def test_without_baselines_there_is_nothing_to_compare(make_run):
    run = make_run(baselines=[])
    assert set(evaluate_stage(run)) == {"ndcg@1", "ndcg@3", "completeness@3", "queries"}
    assert json.loads((run.folder / "evaluation" / "metrics.json").read_text())["comparisons"] == []
    assert "against" not in (run.folder / "evaluation" / "table.md").read_text()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("baselines", ["bm52"]),
        ("baselines", ["sentence-transformers:"]),
        ("baselines", ["bm25", "bm25"]),
        ("ks", []),
        ("ks", [0, 1]),
        ("num_beams", 0),
        ("batch_size", 0),
    ],
)
def test_bad_settings_are_named_before_anything_is_loaded(tmp_path, key, value):
    run = Run(RunConfig.from_dict({"output_dir": str(tmp_path), "evaluation": {key: value}}), tmp_path)
    with pytest.raises(ConfigError, match=f"evaluation.{key}"):
        evaluate_stage(run)
    assert not (tmp_path / "evaluation").exists()


def test_unlabelled_queries_leave_no_half_written_folder(make_run):
    run = make_run()
    path = run.folder / "data" / "test.jsonl"
    path.write_text(json.dumps({"query": "anything", "tools": [], "id": "", "split": ""}) + "\n")
    with pytest.raises(EvaluationError, match="no relevant tool"):
        evaluate_stage(run)
    assert not (run.folder / "evaluation").exists()


def test_report_names_the_missing_file(tmp_path):
    run = HandMadeRun(RunConfig(output_dir=str(tmp_path)), tmp_path)
    with pytest.raises(ArtifactError, match=r"history\.json"):
        report_stage(run)


def test_unknown_baseline():
    with pytest.raises(ConfigError, match="bm52"):
        make_baseline("bm52", _documents())


class _Index(dict):
    """Stands in for a tokenizer: codes by tool id."""

    @property
    def tool_index(self):
        return self

    def tool_code_text(self, name):
        return "".join(f"<{'abc'[place]}_{code}>" for place, code in enumerate(self[name]))


def test_example_tools_show_what_shares_a_first_code():
    documents = _documents()
    index = _Index({document.id: tuple(codes) for document, codes in zip(documents, _codes().tolist(), strict=True)})
    found = example_tools(documents, index)
    # Units: the four with first code 1. Text: the three with code 2, then the first of the two with code 0; by code.
    assert [tool["codes"] for tool in found] == [
        "<a_0><b_0>",
        "<a_2><b_0>",
        "<a_2><b_1>",
        "<a_2><b_2>",
        "<a_1><b_0>",
        "<a_1><b_1>",
        "<a_1><b_2>",
        "<a_1><b_3>",
    ]
    assert [tool["category"] for tool in found] == ["Text"] * 4 + ["Units"] * 4
    assert {tool["name"] for tool in found[4:]} == {f"convert_{noun}" for noun in NOUNS[:4]}


def test_example_tools_without_categories_and_of_a_single_tool():
    documents = [ToolDocument(name=f"t{row}") for row in range(10)]
    index = _Index({f"t{row}": (row // 5, row % 5) for row in range(10)})
    assert [tool["name"] for tool in example_tools(documents, index)] == [f"t{row}" for row in range(8)]
    assert example_tools(documents[:1], index) == [{"name": "t0", "category": "", "codes": "<a_0><b_0>"}]


def test_example_queries_are_evenly_spread():
    from toolscaler.decoding import RetrievedTool

    class Fixed:
        def retrieve(self, queries, top_k, *, tools=None):
            return [[RetrievedTool(text.split()[-1], 0.0)] if text != "q 7" else [] for text in queries]

    queries = [ToolQuery(f"q {row}", (str(row if row % 2 else row + 1),)) for row in range(20)]
    result = ToolRetrievalEvaluator(queries, num_resamples=100)(Fixed())
    found = example_queries(result, queries)
    assert [entry["query"] for entry in found] == [f"q {row}" for row in (0, 2, 5, 7, 10, 12, 15, 17)]
    assert [entry["hit"] for entry in found] == [False, False, True, False, False, False, True, True]
    assert found[3]["found"] is None
    few = ToolRetrievalEvaluator(queries[:3], num_resamples=100)(Fixed())
    assert [entry["query"] for entry in example_queries(few, queries[:3])] == ["q 0", "q 1", "q 2"]


def test_plots_of_odd_sizes(tmp_path):
    """One tool, one dimension, no logged loss, a single logged loss, more codes than the legend names."""
    rng = np.random.default_rng(1)
    plot_map(np.ones((1, 2, 4), np.float32), np.array([3]), tmp_path / "one.png")
    plot_map(rng.normal(size=(5, 1, 1)).astype(np.float32), np.arange(5), tmp_path / "line.png")
    plot_map(rng.normal(size=(90, 2, 8)).astype(np.float32), np.arange(90) % 40, tmp_path / "many.png")
    plot_losses({"a": [], "b": [{"loss": 1.0, "epoch": 1.0}]}, tmp_path / "loss.png")
    value = {"mean": 0.5, "low": 0.5, "high": 0.5}
    results = [{"name": "x", "metrics": dict.fromkeys(("ndcg@1", "recall@1", "completeness@1"), value)}]
    facts = {"n": 1, "catalogue_size": 1, "num_beams": 1, "ks": [1], "confidence": 0.95}
    plot_metrics({"results": results, **facts}, tmp_path / "metrics.png")
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(PNG)
