"""Contract: every kind of quantiser gives unique, reproducible codes by its own definition, and comes back whole."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.codebook import CatalogueSizeWarning, Codebook
from toolscaler.codebook.collisions import resolve_collisions
from toolscaler.codebook.kmeans import kmeans
from toolscaler.codebook.quantizers import TableQuantizer, fit_quantizer
from toolscaler.codebook.quantizers.base import keep_lowest, nearest_combinations
from toolscaler.errors import ArtifactError, CodebookError

KINDS = [
    "residual_kmeans",
    "balanced_residual_kmeans",
    "product_kmeans",
    "hierarchical_kmeans",
    "fsq",
    "rqvae",
]
OPTIONS = {"rqvae": {"steps": 60, "hidden_size": 16, "evaluate_every": 20}, "fsq": {"levels": [4, 3]}}
SMALL = {"num_centroids": 8, "reduced_dim": 4}
PREPROCESSING = [
    {},
    {"projection": "none"},
    {"whiten": True},
    {"normalize": True},
    {"metric": "cosine"},
    {"projection": "none", "whiten": True, "normalize": True, "metric": "cosine"},
]


def fit(embeddings, kind, **more):
    return Codebook.fit(embeddings, quantizer=kind, quantizer_options=OPTIONS.get(kind), **{**SMALL, **more})


def vectors(count=200, dim=4, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(9, dim))[rng.integers(9, size=count)] + 0.3 * rng.normal(size=(count, dim))).astype("f4")


def quantizer_of(kind, data, num_levels=2, centroids=6, **options):
    options = options or OPTIONS.get(kind, {})
    return fit_quantizer(kind, data, num_levels, centroids, seed=[0], options=options)[0]


@pytest.fixture(scope="module", params=KINDS)
def fitted(request, embeddings):
    return fit(embeddings, request.param)


def test_the_interface(fitted, embeddings, make_embeddings, tmp_path):
    assert len(np.unique(fitted.codes, axis=0)) == 150
    assert fitted.code_sizes == ((8, 12) * 2 if fitted.settings.quantizer == "fsq" else (8,) * 4)
    nearest = fitted.quantize(embeddings)
    np.testing.assert_array_equal(fitted.quantize(embeddings[40:43]), nearest[40:43])  # a row depends on itself only
    np.testing.assert_array_equal(fitted.quantize(embeddings[::-1]), nearest[::-1])
    lost = ((embeddings - fitted.reconstruct(nearest)) ** 2).sum()
    assert lost < 0.5 * ((embeddings - embeddings.mean(axis=0)) ** 2).sum()
    rows = fitted.level_embeddings(embeddings)
    assert [row.shape for row in rows] == [(size, 12) for size in fitted.code_sizes]
    assert all(np.isfinite(row).all() for row in rows)
    first = fitted.codes[:, 0]
    carried = int(first[0])
    np.testing.assert_allclose(rows[0][carried], embeddings[first == carried, 0].mean(axis=0), atol=1e-4)
    # Adding tools keeps all codes distinct, with the fitted codebook and with a loaded one.
    new = make_embeddings(40, seed=8, duplicates=5)
    codes = fitted.assign(new)
    assert len(np.unique(np.concatenate([fitted.codes, codes]), axis=0)) == 190
    fitted.save_pretrained(tmp_path)
    loaded = Codebook.from_pretrained(tmp_path)
    assert loaded == fitted
    assert loaded.settings == fitted.settings
    np.testing.assert_array_equal(loaded.assign(new), codes)
    bare = fitted.without_tools()
    assert bare.settings == fitted.settings
    np.testing.assert_array_equal(bare.quantize(new), fitted.quantize(new))


@pytest.mark.parametrize("kind", KINDS)
def test_refits_are_equal_and_seeds_matter(embeddings, kind, fitted):
    again = fit(embeddings, kind)
    assert (again == fitted) == (kind == fitted.settings.quantizer)
    if kind == fitted.settings.quantizer:
        assert fit(embeddings, kind, seed=5) != again


def test_saved_codebooks_of_every_kind_open_in_a_fresh_process_without_torch(embeddings, tmp_path):
    np.save(tmp_path / "e.npy", embeddings)
    wanted = {}
    for kind in KINDS:
        codebook = fit(embeddings, kind, encoding="beam", whiten=True, normalize=True)
        codebook.save_pretrained(tmp_path / kind)
        wanted[kind] = codebook.quantize(embeddings).tolist()
    code = (
        "import sys, json, numpy as np\nfrom toolscaler.codebook import Codebook\nE = np.load('e.npy')\n"
        "codes = {k: Codebook.from_pretrained(k).quantize(E).tolist() for k in sys.argv[1:]}\n"
        "print(json.dumps([codes, 'torch' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *KINDS], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert json.loads(done.stdout) == [wanted, False]


@pytest.mark.parametrize("steps", PREPROCESSING, ids=lambda steps: "-".join(steps) or "plain")
def test_preprocessing_by_hand(embeddings, steps, tmp_path):
    codebook = Codebook.fit(embeddings, **SMALL, **steps)
    for gist in range(2):
        data = embeddings[:, gist].astype(float)
        if steps.get("normalize"):
            norms = np.linalg.norm(data, axis=1, keepdims=True)
            data = data / norms * norms.mean()
        np.testing.assert_allclose(codebook.pca_mean[gist], data.mean(axis=0), atol=1e-4)
        centred = data - data.mean(axis=0)
        if steps.get("projection") != "none":
            basis = np.linalg.svd(centred, full_matrices=False)[2][:4]
            basis *= np.sign((basis * codebook.pca_components[gist]).sum(axis=1))[:, None]
            np.testing.assert_allclose(codebook.pca_components[gist], basis, atol=1e-3)
            centred = centred @ codebook.pca_components[gist].T.astype(float)
        if steps.get("whiten"):
            centred = centred / centred.std(axis=0)
        if steps.get("metric") == "cosine":
            norms = np.linalg.norm(centred, axis=1, keepdims=True)
            centred = centred / norms * norms.mean()
        np.testing.assert_allclose(codebook.reduce(embeddings)[:, gist], centred, atol=2e-3)
    assert codebook.reduced_dim == (12 if steps.get("projection") == "none" else 4)
    # With a centroid for every tool nothing is lost but lengths.
    with pytest.warns(CatalogueSizeWarning):
        exact = Codebook.fit(embeddings[:3], **steps)
    rebuilt = exact.reconstruct(exact.codes)
    if not steps.get("normalize") and steps.get("metric") != "cosine":
        np.testing.assert_allclose(rebuilt, embeddings[:3], atol=2e-3)
    codebook.save_pretrained(tmp_path)
    assert Codebook.from_pretrained(tmp_path) == codebook


def test_a_row_of_zeros_survives_every_length(embeddings):
    data = embeddings.copy()
    data[3] = 0.0
    for steps in PREPROCESSING:
        assert np.isfinite(Codebook.fit(data, **SMALL, **steps).reconstruct(np.zeros((1, 4), int))).all()


def every_code(sizes):
    return np.array(list(itertools.product(*map(range, sizes))), dtype=np.int32)


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_combinations_against_all_sequences(kind):
    data = vectors()
    quantizer = quantizer_of(kind, data, centroids=5)
    codes = every_code(quantizer.sizes)
    points = quantizer.to_points(data[:7])
    slow = np.stack([((points - quantizer.partial_points(code[None])[-1]) ** 2).sum(axis=1) for code in codes], axis=1)
    costs, found = quantizer.combinations(points, len(codes))
    np.testing.assert_allclose(costs, np.sort(slow, axis=1), atol=1e-3)
    for row in range(7):
        assert len({tuple(code) for code in found[row].tolist()}) == len(codes)
        np.testing.assert_allclose(
            quantizer.point_errors(np.repeat(points[row : row + 1], len(codes), 0), found[row]), costs[row], atol=1e-3
        )
    # Greedy codes: the nearest at the first level, then the nearest of what that leaves.
    greedy = quantizer.quantize(data[:7])
    for row, code in enumerate(greedy.tolist()):
        for level in range(2):
            tries = np.array([[*code[:level], k, *code[level + 1 :]] for k in range(quantizer.sizes[level])])
            ends = np.concatenate([quantizer.partial_points(t[None])[level + 1] for t in tries])
            errors = ((points[row] - ends) ** 2).sum(axis=1)
            assert errors[code[level]] <= errors.min() + 1e-4
    best = quantizer.quantize(data[:7], beam_width=len(codes))
    np.testing.assert_allclose(quantizer.point_errors(points, best), slow.min(axis=1), atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS[:-1]), st.integers(1, 3), st.integers(1, 20), st.integers(0, 99))
def test_beam_codes_are_never_worse_than_greedy_ones(kind, levels, width, seed):
    data = vectors(80, seed=seed)
    quantizer = quantizer_of(kind, data, num_levels=levels, **({"levels": [3, 2]} if kind == "fsq" else {}))
    greedy, beam = quantizer.quantize(data), quantizer.quantize(data, beam_width=width)
    points = quantizer.to_points(data)
    assert (quantizer.point_errors(points, beam) <= quantizer.point_errors(points, greedy)).all()
    np.testing.assert_array_equal(quantizer.quantize(data[9:11], beam_width=width), beam[9:11])


def test_beam_encoding_lowers_the_error_of_a_codebook_and_of_tools_added_later(make_embeddings):
    data, new = make_embeddings(400, seed=1), make_embeddings(100, seed=2)
    greedy, beam = (Codebook.fit(data, **SMALL, collisions="share", encoding=how) for how in ("greedy", "beam"))
    np.testing.assert_array_equal(greedy.centroids, beam.centroids)
    for tools in (data, new):
        errors = [((tools - book.reconstruct(book.quantize(tools))) ** 2).sum() for book in (greedy, beam)]
        assert errors[1] < errors[0]
    np.testing.assert_array_equal(beam.assign(data), beam.codes)


# ---------------------------------------------------------------- each kind by its own definition


def test_balanced_is_the_switch_of_before(embeddings):
    assert Codebook.fit(embeddings, **SMALL, balanced=True) == fit(embeddings, "balanced_residual_kmeans")
    shared = fit(embeddings, "balanced_residual_kmeans", collisions="share")
    assert np.bincount(shared.codes[:, 0]).max() <= np.ceil(1.5 * 150 / 8)
    with pytest.raises(CodebookError, match="balanced=True with residual_kmeans only"):
        Codebook.fit(embeddings, quantizer="fsq", balanced=True)


@pytest.mark.parametrize("split", ["balanced", "contiguous"])
def test_product_kmeans_clusters_groups_of_dimensions_apart(split):
    data = vectors(dim=5)
    quantizer = quantizer_of("product_kmeans", data, split=split)
    used = [np.flatnonzero(np.abs(table).sum(axis=0)) for table in quantizer.tables]
    assert sorted(np.concatenate(used).tolist()) == list(range(5))
    if split == "contiguous":
        assert [group.tolist() for group in used] == [[0, 1, 2], [3, 4]]
    codes = quantizer.quantize(data)
    for level, group in enumerate(used):
        part = data[:, group]
        distances = ((part[:, None] - quantizer.tables[level][None, :, group]) ** 2).sum(axis=2)
        np.testing.assert_array_equal(codes[:, level], distances.argmin(axis=1))
        alone = kmeans(part, 6, rng=np.random.default_rng([0, level]))
        np.testing.assert_allclose(quantizer.tables[level][:, group], alone.centroids)
    with pytest.raises(CodebookError, match="at least 3 reduced dimensions for 3 levels, got 2"):
        quantizer_of("product_kmeans", data[:, :2], num_levels=3)


def test_fsq_is_a_grid_of_equal_steps_on_orthogonal_axes():
    data = vectors()
    quantizer = quantizer_of("fsq", data, levels=[4, 3, 2])
    assert quantizer.sizes == (6, 24)
    grid = quantizer.tables[1].reshape(4, 3, 2, 4).astype(float)
    steps = [np.diff(grid, axis=axis) for axis in range(3)]
    for step in steps:
        np.testing.assert_allclose(step - step.reshape(-1, 4)[0], 0.0, atol=1e-6)
    axes = np.array([step.reshape(-1, 4)[0] for step in steps])
    np.testing.assert_allclose(axes @ axes.T - np.diag((axes**2).sum(axis=1)), 0.0, atol=1e-6)
    # Rounding on each axis is the nearest grid point.
    rest = data - quantizer.tables[0][quantizer.quantize(data)[:, 0]] - grid.mean(axis=(0, 1, 2))
    places = []
    for axis, count in zip(axes, (4, 3, 2), strict=True):
        place = rest @ axis / (axis @ axis) + (count - 1) / 2
        places.append(np.clip(np.floor(place + 0.5), 0, count - 1).astype(int))
    np.testing.assert_array_equal(quantizer.quantize(data)[:, 1], np.ravel_multi_index(places, (4, 3, 2)))


def test_fsq_default_grid_fits_in_k():
    for limit, size in ((1, 1), (5, 4), (8, 8), (100, 64)):
        assert fit_quantizer("fsq", vectors(), 1, limit, seed=[0], options={})[0].sizes == (size,)


def test_hierarchical_kmeans_is_a_tree():
    data = vectors(300)
    quantizer = quantizer_of("hierarchical_kmeans", data, num_levels=3, centroids=4, tools_per_leaf=10)
    codes = quantizer.quantize(data)
    first = kmeans(data, 4, rng=np.random.default_rng([0, 0, 0]))
    np.testing.assert_array_equal(codes[:, 0], first.labels)
    partials = quantizer.partial_points(codes)
    for k in range(4):
        members = np.flatnonzero(codes[:, 0] == k)
        np.testing.assert_allclose(
            partials[1][members], np.broadcast_to(first.centroids[k], (len(members), 4)), rtol=1e-6
        )
        count = min(4, -(-len(members) // 10))
        inner = kmeans(data[members] - first.centroids[k], count, rng=np.random.default_rng([0, 1, k]))
        np.testing.assert_array_equal(codes[members, 1], inner.labels)
    # Children differ from parent to parent; a code without a child stands for its parent.
    tensors = quantizer.tensors()
    children = np.diff(tensors["starts_1"])
    if children.min() < 4:
        parent = int(children.argmin())
        lone = quantizer.partial_points(np.array([[parent, 3, 2]]))
        np.testing.assert_array_equal(lone[3], lone[1])
    errors = [((data - part) ** 2).sum() for part in partials]
    assert errors == sorted(errors, reverse=True)


def test_rqvae_starts_at_residual_kmeans_and_improves():
    data = vectors(400)
    plain = quantizer_of("residual_kmeans", data)
    trained = quantizer_of("rqvae", data, steps=300, hidden_size=32, evaluate_every=20)
    error = ((data - plain.reconstruct(plain.quantize(data))) ** 2).sum() / (data**2).sum()
    history = trained.tensors()["history"]
    assert history[0] == pytest.approx(error, rel=0.05)
    assert history[-1] < 0.97 * history[0]
    reached = ((data - trained.reconstruct(trained.quantize(data))) ** 2).sum() / (data**2).sum()
    assert reached == pytest.approx(history.min(), rel=1e-3)  # the best state was kept, and numpy repeats torch
    again = quantizer_of("rqvae", data, steps=300, hidden_size=32, evaluate_every=20)
    for name, array in trained.tensors().items():
        np.testing.assert_array_equal(array, again.tensors()[name])


def test_rqvae_revives_dead_codes_and_leaves_torch_as_it_was():
    torch = pytest.importorskip("torch")
    from toolscaler.codebook.quantizers.rqvae_training import _Model

    generator = torch.Generator().manual_seed(0)
    tables = np.zeros((1, 4, 2), np.float32)
    tables[0, 2:] = 100.0
    model = _Model(tables, 2, 4, generator)
    batch = torch.randn(32, 2, generator=generator)
    _, latent, codes, _ = model.forward(batch)
    counts = [torch.bincount(codes[0], minlength=4)]
    assert counts[0].tolist() == [32, 0, 0, 0]
    assert model.revive(counts, latent.detach(), codes, generator) == 3
    assert all(any(torch.equal(row, point) for point in batch) for row in model.tables.detach()[0, 1:])
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    quantizer_of("rqvae", vectors(50), steps=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_rqvae_with_a_narrow_latent_space(embeddings):
    codebook = Codebook.fit(
        embeddings, quantizer="rqvae", quantizer_options={"steps": 40, "latent_dim": 2, "hidden_size": 8}, **SMALL
    )
    assert codebook.centroids.shape == (2, 2, 8, 2)
    assert codebook.reduced_dim == 4
    assert len(np.unique(codebook.codes, axis=0)) == 150
    assert codebook.reconstruct(codebook.codes).shape == (150, 2, 12)


# ---------------------------------------------------------------- refusals


def test_unknown_names_and_options_are_refused(embeddings):
    for settings_, message in (
        ({"quantizer": "pq"}, "expected quantizer of residual_kmeans"),
        ({"encoding": "best"}, "encoding of greedy, beam"),
        ({"reassignment": "all"}, "reassignment of greedy, joint"),
        ({"projection": "umap"}, "projection of pca, none"),
        ({"metric": "l1"}, "metric of l2, cosine"),
        ({"whiten": 1}, "whiten"),
        ({"beam_width": 0}, "beam width"),
        ({"quantizer_options": {"steps": 3}}, "quantizer_options of residual_kmeans: expected none, got 'steps'"),
        ({"quantizer": "rqvae", "quantizer_options": {"epochs": 3}}, "got 'epochs'"),
        ({"quantizer": "rqvae", "quantizer_options": {"steps": 0}}, "steps of at least 1"),
        ({"quantizer": "rqvae", "quantizer_options": {"learning_rate": -1.0}}, "learning_rate above 0"),
        ({"quantizer": "fsq", "quantizer_options": {"levels": [2] * 9}}, "levels as 1 to 4 counts"),
        ({"quantizer": "fsq", "quantizer_options": {"levels": [4096, 4096]}}, "at most 65536 codes"),
        ({"quantizer": "fsq", "quantizer_options": {"levels": []}}, "levels as 1 to 4"),
        ({"quantizer": "product_kmeans", "quantizer_options": {"split": "odd"}}, "split of balanced"),
        ({"quantizer": "hierarchical_kmeans", "quantizer_options": {"tools_per_leaf": 0}}, "tools_per_leaf"),
    ):
        with pytest.raises(CodebookError, match=message):
            Codebook.fit(embeddings, **SMALL, **settings_)


@pytest.mark.parametrize("kind", ["hierarchical_kmeans", "rqvae"])
def test_missing_arrays_are_refused(embeddings, kind):
    codebook = fit(embeddings, kind)
    tensors, config = codebook.to_tensors(), codebook.to_config()
    with pytest.raises(CodebookError, match="expected"):
        Codebook(
            **{name: array for name, array in tensors.items() if "." not in name},
            settings=codebook.settings,
            tool_ids=codebook.tool_ids,
        )
    damaged = {**tensors, "more": np.zeros(1, np.float32)}
    with pytest.raises(ArtifactError, match="checksum"):
        Codebook.from_tensors(damaged, config)
    with pytest.raises(ArtifactError, match="does not fit"):
        Codebook.from_tensors(tensors, {**config, "quantization": {"quantizer": "residual_kmeans"}})
    with pytest.raises(ArtifactError, match="does not fit"):
        Codebook.from_tensors(tensors, {**config, "quantization": {"flavour": 1}})


def test_paper_settings_are_written_as_before(codebook):
    assert codebook.to_config()["format_version"] == 1
    assert "quantization" not in codebook.to_config()
    assert set(codebook.to_tensors()) == {
        "pca_mean",
        "pca_components",
        "pca_explained_variance",
        "pca_explained_variance_ratio",
        "centroids",
        "codes",
    }


def test_tables_of_their_own_sizes():
    quantizer = TableQuantizer([np.eye(2, dtype=np.float32), np.zeros((5, 2), np.float32)])
    assert quantizer.sizes == (2, 5)
    assert quantizer.combinations(np.ones((3, 2), np.float32), 99)[1].shape == (3, 10, 2)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    count=st.integers(1, 700),
    width=st.integers(1, 9),
    values=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_keep_lowest_finds_what_a_sort_finds_whatever_the_way(rows, count, width, values, seed) -> None:
    """Few distinct values make many ties; long rows go by block minima, short ones by a partition."""
    scores = np.random.default_rng(seed).integers(values, size=(rows, count)).astype(np.float32)
    places, lowest = keep_lowest(scores, width)
    expected = np.argsort(scores, axis=1, kind="stable")[:, :width]
    np.testing.assert_array_equal(lowest, np.take_along_axis(scores, expected, axis=1))
    np.testing.assert_array_equal(np.take_along_axis(scores, places, axis=1), lowest)
    assert all(len(set(row)) == len(row) for row in places.tolist())


def test_a_claim_goes_on_when_its_first_list_is_used_up() -> None:
    """Hundreds of equal tools take the nearest sequences of a space that brute force can list whole."""
    rng = np.random.default_rng(3)
    tables = rng.normal(size=(2, 2, 6, 3)).astype(np.float32)
    point = rng.normal(size=(1, 2, 3)).astype(np.float32)
    reduced = np.repeat(point, 300, axis=0)
    codes = np.repeat(
        np.concatenate([nearest_combinations(point[:, i], tables[i], 1)[1][0] for i in (0, 1)], 1), 300, 0
    )
    found = resolve_collisions(codes, reduced, tables, beam_width=2).codes
    every = np.array(list(itertools.product(range(6), repeat=4)))
    named = [tables[i][0][every[:, 2 * i]] + tables[i][1][every[:, 2 * i + 1]] for i in (0, 1)]
    error = sum(((point[0, i] - named[i]) ** 2).sum(axis=1) for i in (0, 1))
    nearest = set(map(tuple, every[np.argsort(error)[:300]].tolist()))
    assert len(set(map(tuple, found.tolist())) & nearest) >= 280  # beam search over levels may miss a few
    assert len(set(map(tuple, found.tolist()))) == 300
