"""Contract: the figures beyond the health report equal their definitions; a run folder gives a whole report."""

from __future__ import annotations

import collections
import itertools
import json
import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from toolscaler.codebook import Codebook, codebook_report, codebook_statistics
from toolscaler.codebook.quality import adjusted_rand_index, prefix_agreement, prefix_perplexity, prefix_purity
from toolscaler.codebook.report_plots import preserved_distances
from toolscaler.compression import load_embeddings
from toolscaler.compression.export import FORMAT_VERSION
from toolscaler.errors import ArtifactError, CodebookError


@pytest.fixture
def run_folder(tmp_path, codebook, embeddings):
    codebook.save_pretrained(tmp_path / "codebook")
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "data").mkdir()
    order = np.random.default_rng(0).permutation(150)
    for number, part in enumerate(np.array_split(order, 2)):
        values = {"embeddings": embeddings[part], "positions": part.astype(np.int64)}
        save_file(
            values,
            tmp_path / "embeddings" / f"embeddings-0000{number}-of-00002.safetensors",
            metadata={"fingerprint": "x"},
        )
    index = {
        "ids": list(codebook.tool_ids),
        "shape": [150, 2, 12],
        "dtype": "float32",
        "shards": [{"file": f"embeddings-0000{n}-of-00002.safetensors", "documents": 75} for n in range(2)],
        "complete": True,
        "fingerprint": "x",
        "format_version": FORMAT_VERSION,
    }
    (tmp_path / "embeddings" / "embeddings.index.json").write_text(json.dumps(index))
    rows = [{"name": name, "category": f"c{j % 3}", "provider": ""} for j, name in enumerate(codebook.tool_ids)]
    (tmp_path / "data" / "tools.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_purity_and_perplexity_by_hand():
    codes = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 0]])
    assert prefix_purity(codes, ["a", "a", "b", "b", "b"]) == (4 / 5, 4 / 5)
    assert prefix_purity(codes, ["a"] * 5) == (1.0, 1.0)
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    assert prefix_perplexity(codes)[0] == pytest.approx(math.exp(entropy))
    assert prefix_perplexity(np.arange(7)[:, None]) == pytest.approx((7.0,))
    with pytest.raises(CodebookError, match="one label per tool"):
        prefix_purity(codes, ["a"])


def test_adjusted_rand_index_against_all_pairs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, two = rng.integers(3, size=12), rng.integers(4, size=12)
        counts = collections.Counter(
            (one[i] == one[j], two[i] == two[j]) for i, j in itertools.combinations(range(12), 2)
        )
        a, b, c, d = (counts[key] for key in itertools.product((True, False), repeat=2))
        bottom = (a + b) * (b + d) + (a + c) * (c + d)
        assert adjusted_rand_index(one, two) == pytest.approx(2 * (a * d - b * c) / bottom)
    assert adjusted_rand_index(one, (one + 1) % 3) == 1.0  # names do not matter
    assert adjusted_rand_index(np.zeros(1, int), np.zeros(1, int)) == 1.0
    codes = rng.integers(3, size=(30, 3))
    assert prefix_agreement(codes, codes) == (1.0, 1.0, 1.0)
    with pytest.raises(CodebookError, match="one shape"):
        prefix_agreement(codes, codes[:, :2])


def test_statistics_against_slow_twins(codebook, embeddings):
    documents = [{"category": f"c{j % 3}", "provider": ""} for j in range(150)]
    report = codebook_statistics(codebook, embeddings, num_neighbours=4, documents=documents, reseed=True)
    assert set(report.prefix_purity) == {"category"}  # nobody has a provider
    groups = collections.defaultdict(collections.Counter)
    for tool, code in enumerate(codebook.codes.tolist()):
        groups[tuple(code[:2])][tool % 3] += 1
    best = sum(max(counter.values()) for counter in groups.values())
    assert report.prefix_purity["category"][1] == pytest.approx(best / 150)
    assert report.prefix_purity["category"][-1] == 1.0  # every sequence is one tool's
    assert report.prefix_perplexity[-1] == pytest.approx(150)
    nearest = collections.Counter(map(tuple, codebook.quantize(embeddings).tolist()))
    entropy = -sum(n / 150 * math.log(n / 150) for n in nearest.values())
    assert report.effective_codes == pytest.approx(math.exp(entropy))
    flat, rebuilt = embeddings.reshape(150, -1).astype(float), codebook.reconstruct(codebook.codes).reshape(150, -1)
    hits = 0
    for tool in range(150):
        order = []
        for table in (flat, rebuilt.astype(float)):
            distances = ((table - table[tool]) ** 2).sum(axis=1)
            distances[tool] = np.inf
            order.append(np.argsort(distances, kind="stable"))
        hits += order[0][0] in order[1][:4]
    assert report.hit_rate == pytest.approx(hits / 150, abs=2 / 150)
    assert report.neighbour_recall == report.neighbour_prefix_sharing
    assert len(report.perturbation_stability) == len(report.reseeding_stability) == 4
    assert all(np.diff(report.perturbation_stability) <= 0)
    still = codebook_statistics(codebook, embeddings, perturbation=0.0)
    assert still.perturbation_stability == (1.0,) * 4
    assert still.reseeding_stability == ()
    loud = codebook_statistics(codebook, embeddings, perturbation=1.0)
    assert loud.perturbation_stability[0] < report.perturbation_stability[0]
    json.dumps(report.to_dict(), allow_nan=False)


def test_reseeding_finds_clusters_that_are_there(make_embeddings):
    rng = np.random.default_rng(0)
    corners = rng.normal(size=(8, 1, 6)) * 10
    data = (corners[rng.integers(8, size=200)] + 0.1 * rng.normal(size=(200, 1, 6))).astype(np.float32)
    settings = {"num_levels": 2, "num_centroids": 8, "reduced_dim": 6, "collisions": "share"}
    codebook = Codebook.fit(data, **settings, num_restarts=3)
    report = codebook_statistics(codebook, data, reseed=True)
    assert report.reseeding_stability[0] > report.reseeding_stability[1]
    assert report.reseeding_stability[0] > 0.8


def test_distances_are_preserved_better_with_every_code(codebook, embeddings):
    found = preserved_distances(codebook, embeddings)
    assert len(found) == 4
    assert 0.2 < found[0] < found[-1] <= 1.0
    scipy_stats = pytest.importorskip("scipy.stats")
    from toolscaler.codebook.report_plots import _spearman

    rng = np.random.default_rng(1)
    one, two = rng.integers(5, size=50).astype(float), rng.normal(size=50)
    assert _spearman(one, two) == pytest.approx(scipy_stats.spearmanr(one, two).statistic)
    assert _spearman(one, np.ones(50)) == 0.0


def test_the_report_of_a_run(run_folder, codebook, embeddings):
    pytest.importorskip("matplotlib")
    # The folder is one that the encode stage would write: its own reader takes it.
    np.testing.assert_array_equal(load_embeddings(run_folder / "embeddings")[1], embeddings)
    result = codebook_report(run_folder)
    target = run_folder / "codebook_report"
    assert sorted(path.name for path in target.iterdir()) == sorted(result["files"])
    assert json.loads((target / "report.json").read_text()) == result
    for name in ("usage", "tree", "map", "distances"):
        assert (target / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table = (target / "report.md").read_text()
    assert "| purity against category |" in table
    assert all(line.count("|") == 6 for line in table.splitlines()[-10:])
    expected = codebook_statistics(codebook, embeddings)
    assert result["gini"] == list(expected.gini)
    assert result["neighbour_prefix_sharing"] == list(expected.neighbour_prefix_sharing)
    assert len(result["reseeding_stability"]) == 4
    elsewhere = codebook_report(run_folder, run_folder / "other", plots=False, reseed=False)
    assert sorted(path.name for path in (run_folder / "other").iterdir()) == ["report.json", "report.md"]
    assert elsewhere["reseeding_stability"] == []


@pytest.mark.parametrize("policy", ["suffix", "share"])
def test_reports_of_other_policies_and_kinds(run_folder, embeddings, codebook, policy):
    other = Codebook.fit(
        embeddings,
        codebook.tool_ids,
        num_centroids=5,
        reduced_dim=4,
        collisions=policy,
        quantizer="hierarchical_kmeans",
    )
    other.save_pretrained(run_folder / "codebook")
    (run_folder / "data" / "tools.jsonl").unlink()
    result = codebook_report(run_folder)
    assert result["settings"]["quantizer"] == "hierarchical_kmeans"
    assert result["prefix_purity"] == {}


def test_runs_that_are_not_whole_are_refused(run_folder, codebook):
    with pytest.raises(ArtifactError):
        codebook_report(run_folder / "nowhere")
    tools = run_folder / "data" / "tools.jsonl"
    text = tools.read_text()
    for damaged, message in (("{}\n", "expected 150 tools"), ("{", "one JSON object a line")):
        tools.write_text(damaged)
        with pytest.raises(ArtifactError, match=message):
            codebook_report(run_folder, plots=False)
    tools.write_text(text)
    index = run_folder / "embeddings" / "embeddings.index.json"
    values = json.loads(index.read_text())
    for change, message in (
        ({"shards": values["shards"][:1]}, "in no shard"),
        ({"ids": values["ids"][::-1]}, "another catalogue"),
        ({"shape": [3, 2, 12]}, "whole shards"),
        ({"shards": [{"file": "x"}]}, "whole shards"),
    ):
        index.write_text(json.dumps({**values, **change}))
        with pytest.raises(ArtifactError, match=message):
            codebook_report(run_folder, plots=False)
