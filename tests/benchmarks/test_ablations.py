"""Contract: the ablations' numbers equal their definitions, equal settings share a cell, and reports are whole."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.ablations.__main__ import cell_file, chosen, main, make_parser
from benchmarks.ablations.analysis import correlate, spearman, spearman_interval, summarise, two_way_interval
from benchmarks.ablations.bench import (
    Bench,
    Budget,
    _as_wide_as_the_model,
    fit_codebook,
    report_figures,
    spread_vectors,
    training_rows,
)
from benchmarks.ablations.report import write_report
from benchmarks.ablations.variants import DEFAULT, EXPERIMENTS, Variant
from benchmarks.codebook_curve import markdown, slope, small_mixture, work, write_copies
from toolscaler.codebook import Codebook
from toolscaler.data.documents import ToolDocument
from toolscaler.embedding import initialize_code_embeddings

ALL = [(name, variant) for name, (_, variants) in EXPERIMENTS.items() for variant in variants]


def cell(variant, seed, values, **figures):
    return {
        "variant": variant,
        "seed": seed,
        "catalogue": "starter",
        "tools": 9,
        "budget": dataclasses.asdict(Budget()),
        "code_sizes": [4, 4, 3],
        "loss": 1.0,
        "fit_seconds": 0.1,
        "train_seconds": 2.0,
        "per_query": {"ndcg@1": list(values), "ndcg@5": [min(1.0, value + 0.25) for value in values]},
        "figures": figures,
    }


def test_rank_correlation_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, two = rng.integers(4, size=15).astype(float), rng.normal(size=15)
        assert spearman(one, two) == pytest.approx(stats.spearmanr(one, two).statistic)
    assert np.isnan(spearman(np.ones(5), np.arange(5.0)))
    value, low, high = spearman_interval(np.arange(12.0), np.arange(12.0) ** 2)
    assert (value, low, high) == pytest.approx((1, 1, 1))
    noise = rng.normal(size=(2, 20))
    value, low, high = spearman_interval(noise[0], noise[1])
    assert -1 <= low < value < high <= 1


def test_intervals_draw_queries_and_seeds():
    rng = np.random.default_rng(1)
    queries = rng.normal(size=400)
    mean, low, high = two_way_interval(queries[None])
    error = queries.std() / np.sqrt(400)
    assert mean == pytest.approx(queries.mean())
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.08)
    far = queries + np.array([[-3.0], [0.0], [3.0]])  # seeds that differ much widen the interval
    assert np.diff(two_way_interval(far)[1:])[0] > 10 * (high - low)
    assert two_way_interval(np.ones((2, 5))) == pytest.approx((1, 1, 1))


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    base = (rng.random((2, 300)) < 0.4).astype(float)
    better = np.minimum(base + (rng.random((2, 300)) < 0.05), 1)
    cells = [cell("default", s, base[s]) for s in (0, 1)] + [cell("other", s, better[s]) for s in (0, 1)]
    first, second = summarise(cells)
    assert "ndcg@1 difference" not in first
    mean, low, high = second["ndcg@1 difference"]
    assert mean == pytest.approx((better - base).mean())
    assert 0 < low < mean < high
    assert high - low < second["ndcg@1"][2] - second["ndcg@1"][1]  # pairs are surer than means
    alone = summarise([*cells[:2], cell("other", 7, better[0])])[1]
    assert "ndcg@1 difference" not in alone  # no seed in common


def test_the_figure_that_decides_is_found(tmp_path):
    rng = np.random.default_rng(0)
    cells = []
    for number in range(14):
        good = number / 14
        for seed in (0, 1):
            values = (rng.random(400) < 0.2 + 0.6 * good).astype(float)
            cells.append(cell(f"v{number}", seed, values, decides=good, against=-good, noise=rng.random(), same=3.0))
    rows = correlate(cells)
    assert {row["figure"] for row in rows[:2]} == {"decides", "against"}
    assert [row["figure"] for row in rows if row["figure"] == "same"] == []
    by_name = {row["figure"]: row["ndcg@1"] for row in rows}
    assert by_name["decides"][0] > 0.9
    assert by_name["against"][0] == pytest.approx(-by_name["decides"][0])
    assert by_name["noise"][1] < 0 < by_name["noise"][2]
    assert correlate(cells, frozenset({"v0", "v1"}))[0]["codebooks"] == 12
    twins = [{**other, "variant": "twin"} for other in cells if other["variant"] == "v3"]
    assert correlate([*cells, *twins])[0]["codebooks"] == 14  # the same codes twice are one codebook
    pytest.importorskip("matplotlib")
    text = write_report("Title", "codebooks", cells, frozenset({"v0"}), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "codebooks.md",
        "codebooks.csv",
        "codebooks.json",
        "codebooks.png",
        "codebooks_figures.png",
    }
    assert text == (tmp_path / "codebooks.md").read_text()
    assert "n = 400" in text
    assert len((tmp_path / "codebooks.csv").read_text().splitlines()) == 29
    assert len(json.loads((tmp_path / "codebooks.json").read_text())["variants"]) == 14


@pytest.mark.parametrize(("experiment", "variant"), ALL, ids=[f"{name}-{v.name}" for name, v in ALL])
def test_variants_name_settings_that_exist(experiment, variant):
    known = set(inspect.signature(Codebook.fit).parameters)
    assert set(variant.codebook) <= known - {"seed"}
    known = {*inspect.signature(initialize_code_embeddings).parameters, *inspect.signature(spread_vectors).parameters}
    assert set(variant.embedding) <= known
    first = Variant("original", start_from="base") if experiment == "backbone" else DEFAULT
    assert EXPERIMENTS[experiment][1][0] == first
    assert experiment == "codebooks" or not variant.control


def test_equal_settings_share_a_cell(tmp_path):
    for _, variants in EXPERIMENTS.values():
        files = [cell_file(tmp_path, variant, 0, Budget()) for variant in variants]
        assert len(set(files)) == len(files)
    twin = Variant("another name", control=True)
    assert cell_file(tmp_path, DEFAULT, 0, Budget()) == cell_file(tmp_path, twin, 0, Budget())
    others = [
        cell_file(tmp_path, DEFAULT, 1, Budget()),
        cell_file(tmp_path, DEFAULT, 0, Budget(steps=9)),
        cell_file(tmp_path, Variant("x", {"metric": "cosine"}), 0, Budget()),
    ]
    assert cell_file(tmp_path, DEFAULT, 0, Budget()) not in others
    assert len(set(others)) == 3
    assert [v.name for v in chosen("codebooks", ["fsq last level"])] == ["default", "fsq last level"]
    with pytest.raises(SystemExit, match="no variant 'nonsense'"):
        chosen("sizes", ["nonsense"])
    assert make_parser().parse_args(["sizes"]).seeds == [0, 1, 2]


def test_cells_that_are_there_are_reported_without_a_run(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for variant in chosen("readout", None)[:2]:
        path = cell_file(tmp_path / "starter", variant, 0, Budget())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(cell("some other name", 0, [0.0, 1.0, 1.0])))
    main(["readout", "--output", str(tmp_path), "--seeds", "0", "--report_only"])
    printed = capsys.readouterr()
    assert "mean of the last two" in printed.out
    assert "2 of 3 cells are done" in printed.err


class _StandIn(Bench):
    """A catalogue without a run folder."""

    def __init__(self, embeddings):
        self._values = embeddings
        documents = [
            ToolDocument(name=f"tool {k}", description="d", category=f"c{k % 4}") for k in range(len(embeddings))
        ]
        self.run = type("Run", (), {"documents": documents})()

    def embeddings(self, variant):
        return self._values


def test_rows_drawn_apart_lose_their_means_and_half_their_direction():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(12, 64)) + 5).astype(np.float32)
    sizes = (8, 4)
    np.testing.assert_array_equal(spread_vectors(vectors, sizes, False, 0.0, 0), vectors)
    centred = spread_vectors(vectors, sizes, True, 0.0, 0)
    for rows, old in ((slice(0, 8), vectors[:8]), (slice(8, 12), vectors[8:])):
        np.testing.assert_allclose(centred[rows], old - old.mean(axis=0), atol=1e-5)
    mixed, again = (spread_vectors(vectors, sizes, False, 0.5, seed) for seed in (0, 1))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (mixed * unit).sum(axis=1) / np.linalg.norm(mixed, axis=1)
    assert cosines.min() > 0.5  # sqrt(1/2), but for what two directions share by chance
    assert cosines.max() < 0.9
    assert not np.array_equal(mixed, again)


def test_shuffled_embeddings_give_codes_that_mean_less():
    embeddings = small_mixture()
    bench = _StandIn(embeddings)
    figures = {}
    for share in (0.0, 0.5, 1.0):
        codebook, true, _ = fit_codebook(bench, Variant("x", {"num_centroids": 16}, shuffle=share), 0)
        assert true is embeddings
        assert len(np.unique(codebook.codes, axis=0)) == len(embeddings)
        figures[share] = report_figures(codebook, true, bench.run.documents, 0)
    recall = [figures[share]["neighbour recall, first"] for share in (0.0, 0.5, 1.0)]
    assert recall[0] > recall[1] > recall[2]
    assert all(np.isfinite(list(found.values())).all() for found in figures.values())
    assert "purity category, first" in figures[0.0]


def test_vectors_of_any_width_fit_the_model():
    vectors = np.random.default_rng(0).normal(size=(30, 20)).astype("f4")
    wide, narrow = _as_wide_as_the_model(vectors, 24), _as_wide_as_the_model(vectors, 5)
    assert wide.shape == (30, 24)
    np.testing.assert_array_equal(wide[:, :20], vectors)
    assert narrow.shape == (30, 5)
    few = _as_wide_as_the_model(vectors[:3], 10)
    assert few.shape == (3, 10)


def test_the_curve(tmp_path):
    real = small_mixture()
    write_copies(real, 500, tmp_path / "one.npy", seed=3)
    write_copies(real, 500, tmp_path / "two.npy", seed=3)
    write_copies(real, 500, tmp_path / "fixed.npy", growing=False, seed=3)
    data = np.load(tmp_path / "one.npy")
    assert data.shape == (1500, 2, 128)
    np.testing.assert_array_equal(data, np.load(tmp_path / "two.npy"))
    # A copy lies nearer to some real tool than real tools lie to each other, and nearer still with fixed clusters.
    known, medians = real.reshape(200, -1), {}
    between = np.linalg.norm(known[:, None] - known, axis=2)
    for name in ("one", "fixed"):
        flat = np.load(tmp_path / f"{name}.npy")[:200].reshape(200, -1)
        medians[name] = np.median(np.linalg.norm(flat[:, None] - known, axis=2).min(axis=1))
    assert medians["fixed"] < medians["one"] < np.median(between[between > 0])
    (tmp_path / "codebook").mkdir()
    with pytest.warns(UserWarning, match="cannot fill"):
        row = work(tmp_path / "one.npy", tmp_path / "codebook")
    assert row["tools"] == 500
    assert row["left"] == 0
    assert {"fit", "encode", "statistics", "rows"} <= set(row["parts"])
    other = {**row, "tools": 5000, "parts": {name: {**p, "cpu": 100 * p["cpu"]} for name, p in row["parts"].items()}}
    assert slope([row, other], lambda row: row["parts"]["fit"]["cpu"]) == pytest.approx(2)
    assert "| 5,000 |" in markdown([row, other])


def test_rows_of_queries_with_several_tools():
    """Each way to write rows, on three texts: pairs, one drawn label, all labels in order; the text never changes."""
    texts = [{"prompt": text, "tools": list(tools)} for text, tools in (("p", "ab"), ("q", "c"), ("r", "ba"))]
    bench = SimpleNamespace(texts=(texts, []))
    pairs = [("p", "a"), ("p", "b"), ("q", "c"), ("r", "a"), ("r", "b")]
    rows = training_rows(bench, "one row each", 0, 5)
    assert sorted((row["prompt"], *row["tools"]) for row in rows) == pairs
    drawn = training_rows(bench, "one drawn", 0, 3)
    assert sorted(row["prompt"] for row in drawn) == ["p", "q", "r"]
    assert all((row["prompt"], *row["tools"]) in pairs for row in drawn)
    every = training_rows(bench, "all in order", 0, 6)
    assert sorted(map(str, every)) == sorted(map(str, texts + texts))
    assert training_rows(bench, "all in order", 1, 6) != every
