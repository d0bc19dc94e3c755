"""Contract: every number of the health report equals its definition, computed here the slow way."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest

from toolscaler.codebook import Codebook, codebook_statistics, plot_codebook_usage
from toolscaler.codebook.statistics import _nearest_neighbours, gini_coefficient, perplexity
from toolscaler.errors import CodebookError, MissingDependencyError


def test_usage_numbers_by_definition():
    counts = np.array([5, 0, 3, 3, 0, 9])
    pairs = sum(abs(int(a) - int(b)) for a in counts for b in counts)
    assert gini_coefficient(counts) == pytest.approx(pairs / (2 * len(counts) * counts.sum()))
    shares = [c / 20 for c in counts if c]
    assert perplexity(counts) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))
    assert gini_coefficient(np.full(7, 4)) == pytest.approx(0.0)
    assert perplexity(np.full(7, 4)) == pytest.approx(7.0)
    assert gini_coefficient(np.array([0, 0, 0, 8])) == pytest.approx(0.75)
    assert (gini_coefficient(np.zeros(3, int)), perplexity(np.zeros(3, int))) == (0.0, 0.0)


def test_report_against_slow_twins(codebook, embeddings):
    report = codebook_statistics(codebook, embeddings, num_neighbours=3)
    codes, nearest = codebook.codes, codebook.quantize(embeddings)
    assert report.num_tools == 150
    assert report.collisions.num_codes == len(np.unique(nearest, axis=0))
    assert report.collisions.duplicate == 3  # the three repeated rows
    assert report.collisions.harmful == 150 - report.collisions.num_codes - 3
    assert report.remaining_collisions.rate == 0.0
    assert report.moved == np.mean([a.tolist() != b.tolist() for a, b in zip(codes, nearest, strict=True)])
    reduced = codebook.reduce(embeddings).astype(float)
    left = before = 0.0
    for i in range(2):
        rest = reduced[:, i]
        total = (rest**2).sum()
        for level in range(2):
            rest = rest - codebook.centroids[i, level][codes[:, 2 * i + level]]
            assert report.level_errors[i][level] == pytest.approx((rest**2).sum() / total, rel=1e-4)
        left, before = left + (rest**2).sum(), before + total
    assert report.relative_error == pytest.approx(left / before, rel=1e-4)
    assert report.nearest_relative_error < report.relative_error
    variance = ((embeddings - embeddings.mean(axis=0)) ** 2).sum()
    lost = ((embeddings - codebook.reconstruct(codes)) ** 2).sum()
    assert report.full_relative_error == pytest.approx(lost / variance, rel=1e-3)
    for place in range(4):
        assert report.utilisation[place] == len(set(codes[:, place].tolist())) / 5
    # Neighbours, all pairs by brute force (150 tools are fewer than max_queries).
    flat = embeddings.reshape(150, -1).astype(float)
    agree = np.zeros(4)
    for tool in range(150):
        distances = ((flat - flat[tool]) ** 2).sum(axis=1)
        distances[tool] = np.inf
        for other in np.argsort(distances, kind="stable")[:3]:
            for length in range(1, 5):
                agree[length - 1] += (codes[tool, :length] == codes[other, :length]).all()
    np.testing.assert_allclose(report.neighbour_prefix_sharing, agree / 450, atol=2 / 450)
    assert report.neighbour_prefix_sharing[0] > report.random_prefix_sharing[0] + 0.1
    assert report.explained_variance == pytest.approx(codebook.pca_explained_variance_ratio.sum(axis=1).tolist())
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.to_dict()["collisions"]["rate"] == report.collisions.rate
    assert codebook_statistics(codebook, embeddings, num_neighbours=3) == report


@pytest.mark.parametrize("policy", ["suffix", "share"])
def test_other_policies(embeddings, policy):
    codebook = Codebook.fit(embeddings, num_centroids=5, reduced_dim=4, collisions=policy)
    report = codebook_statistics(codebook, embeddings)
    assert report.moved == 0.0
    assert report.relative_error == report.nearest_relative_error
    assert len(report.utilisation) == codebook.code_length
    assert (report.remaining_collisions == report.collisions) == (policy == "share")


@pytest.mark.filterwarnings("ignore::toolscaler.codebook.CatalogueSizeWarning")
def test_one_tool_and_equal_tools(make_embeddings):
    for data in (make_embeddings(1), np.ones((6, 2, 12), np.float32)):
        report = codebook_statistics(codebook := Codebook.fit(data), data)
        assert report.relative_error == pytest.approx(0.0, abs=1e-6)
        assert len(report.neighbour_prefix_sharing) == codebook.code_length
        json.dumps(report.to_dict(), allow_nan=False)


def test_mismatches_are_refused(codebook, embeddings):
    with pytest.raises(CodebookError, match="one row of codes per tool"):
        codebook_statistics(codebook, embeddings[:10])
    with pytest.raises(CodebookError, match="expected"):
        plot_codebook_usage(codebook, "x.png", codes=np.zeros((3, 2), int))


def test_the_picture_is_a_png_file(codebook, tmp_path):
    pytest.importorskip("matplotlib")
    path = plot_codebook_usage(codebook, tmp_path / "new" / "usage.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not list(tmp_path.glob("**/*.tmp"))


def test_without_matplotlib_the_extra_is_named(codebook, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"toolscaler\[eval\]"):
        plot_codebook_usage(codebook, tmp_path / "usage.png")


@pytest.mark.parametrize("wanted", [1, 4, 600])
def test_neighbours_are_the_nearest_and_ties_go_by_row(wanted):
    rng = np.random.default_rng(0)
    data = rng.integers(3, size=(700, 2, 2)).astype(np.float32)  # 81 different rows: nearly everything is a tie
    queries = np.sort(rng.choice(700, 32, replace=False))  # a power of two: their mean, and so all distances, are exact
    found = _nearest_neighbours(data, queries, wanted)
    flat = data.reshape(700, -1)
    for query, row in zip(queries, found, strict=True):
        distances = ((flat - flat[query]) ** 2).sum(axis=1)
        distances[query] = np.inf
        chosen = distances[row]
        assert query not in row
        assert chosen.tolist() == np.sort(distances)[:wanted].tolist()
        for value in np.unique(chosen):
            own = row[chosen == value]
            assert own.tolist() == np.flatnonzero(distances == value)[: len(own)].tolist()


def test_neighbours_of_many_tools_take_little_memory():
    data = np.random.default_rng(0).normal(size=(20_000, 1, 8)).astype(np.float32)
    tracemalloc.start()
    _nearest_neighbours(data, np.arange(512), 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000  # all distances would be 41 MB
