"""Contract: embeddings become unique codes and codes embeddings again, by the method's own arithmetic, for good."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.codebook import CatalogueSizeWarning, Codebook
from toolscaler.errors import CodebookError

SMALL = {"num_centroids": 5, "reduced_dim": 4}


def slow_codes(codebook, embeddings):
    """Method section 2, literally: project, nearest centroid, subtract, go on."""
    codes = np.empty((len(embeddings), codebook.num_gists * codebook.num_levels), int)
    for j, i in np.ndindex(len(embeddings), codebook.num_gists):
        rest = codebook.pca_components[i].astype(float) @ (embeddings[j, i].astype(float) - codebook.pca_mean[i])
        for level in range(codebook.num_levels):
            distances = [((rest - z) ** 2).sum() for z in codebook.centroids[i, level].astype(float)]
            codes[j, i * codebook.num_levels + level] = k = int(np.argmin(distances))
            rest = rest - codebook.centroids[i, level, k]
    return codes


def slow_reconstruction(codebook, codes):
    result = np.empty((len(codes), codebook.num_gists, codebook.hidden_size))
    for j, i in np.ndindex(len(codes), codebook.num_gists):
        point = np.zeros(codebook.reduced_dim)
        for level in range(codebook.num_levels):
            point += codebook.centroids[i, level, codes[j, i * codebook.num_levels + level]]
        result[j, i] = codebook.pca_mean[i] + point @ codebook.pca_components[i]
    return result


def test_sizes_are_the_ones_asked_for(codebook, embeddings):
    sizes = (codebook.num_gists, codebook.num_levels, codebook.num_centroids, codebook.reduced_dim)
    assert sizes == (2, 2, 5, 4)
    assert codebook.hidden_size == 12
    assert codebook.code_sizes == (5, 5, 5, 5)
    assert codebook.code_length == 4
    assert codebook.codes.shape == (150, 4)
    assert codebook.codes.dtype == np.int32
    assert codebook.tool_ids[:2] == ("tool 0", "tool 1")
    assert len(codebook) == 150
    assert "tools=150" in repr(codebook)


def test_quantize_and_reconstruct_by_hand(codebook, embeddings):
    np.testing.assert_array_equal(codebook.quantize(embeddings), slow_codes(codebook, embeddings))
    rebuilt = codebook.reconstruct(codebook.codes)
    np.testing.assert_allclose(rebuilt, slow_reconstruction(codebook, codebook.codes), atol=1e-4)
    assert rebuilt.dtype == np.float32


def test_unique_though_nearest_codes_collide(codebook, embeddings):
    nearest = codebook.quantize(embeddings)
    assert len(np.unique(nearest, axis=0)) < 150  # premise
    assert len(np.unique(codebook.codes, axis=0)) == 150
    shared = Codebook.fit(embeddings, **SMALL, collisions="share")
    np.testing.assert_array_equal(shared.codes, nearest)
    np.testing.assert_array_equal(shared.quantize(embeddings), shared.codes)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(0, 99),
    st.sampled_from(["reassign", "suffix", "share"]),
    st.booleans(),
)
def test_any_size_any_policy(make_embeddings, count, gists, levels, centroids, seed, policy, balanced):
    embeddings = make_embeddings(count, gists, 6, seed=seed, duplicates=count // 3)
    settings_ = {"num_levels": levels, "num_centroids": centroids, "reduced_dim": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CatalogueSizeWarning)
        space = centroids ** (gists * levels)
        if policy == "reassign" and space < count:
            with pytest.raises(CodebookError, match=f"at most {space} tools"):
                Codebook.fit(embeddings, **settings_, collisions=policy)
            return
        codebook = Codebook.fit(embeddings, **settings_, collisions=policy, balanced=balanced, seed=seed)
        again = Codebook.fit(embeddings.copy(), **settings_, collisions=policy, balanced=balanced, seed=seed)
    assert codebook == again
    assert hash(codebook) == hash(again)
    if policy != "share":
        assert len(np.unique(codebook.codes, axis=0)) == count
    assert codebook.code_length == gists * codebook.num_levels + (policy == "suffix")
    # The error of quantize and reconstruct, once through the objects and once directly.
    nearest = codebook.quantize(embeddings)
    direct = ((embeddings - slow_reconstruction(codebook, slow_codes(codebook, embeddings))) ** 2).sum()
    assert ((embeddings - codebook.reconstruct(nearest)) ** 2).sum() == pytest.approx(direct, rel=1e-3, abs=1e-3)
    rows = codebook.level_embeddings(embeddings)
    assert [row.shape for row in rows] == [(size, 6) for size in codebook.code_sizes]
    assert all(np.isfinite(row).all() and row.dtype == np.float32 for row in rows)


def test_seeds_and_order(embeddings):
    assert Codebook.fit(embeddings, **SMALL, seed=1) != Codebook.fit(embeddings, **SMALL, seed=2)
    codebook = Codebook.fit(embeddings, **SMALL)
    order = np.random.default_rng(0).permutation(len(embeddings))
    np.testing.assert_array_equal(codebook.quantize(embeddings[order]), codebook.quantize(embeddings)[order])
    np.testing.assert_array_equal(codebook.quantize(embeddings[7:8]), codebook.quantize(embeddings)[7:8])


def test_the_input_is_neither_changed_nor_kept(embeddings):
    data = embeddings.copy()
    data.setflags(write=False)
    codebook = Codebook.fit(data, **SMALL)
    codes = codebook.codes.copy()
    for array in (*codebook.to_tensors().values(), codebook.pca_mean):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(AttributeError):
        codebook.codes = codes
    np.testing.assert_array_equal(data, embeddings)


# ---------------------------------------------------------------- level embeddings


@pytest.mark.parametrize("policy", ["reassign", "suffix", "share"])
def test_level_embeddings_by_hand(embeddings, policy):
    codebook = Codebook.fit(embeddings, **SMALL, collisions=policy)
    codes, rows = codebook.codes, codebook.level_embeddings(embeddings)
    assert len(rows) == codebook.code_length
    for i in range(2):
        basis, mean = codebook.pca_components[i].astype(float), codebook.pca_mean[i].astype(float)
        reduced = (embeddings[:, i].astype(float) - mean) @ basis.T
        first, second = codes[:, 2 * i], codes[:, 2 * i + 1]
        entering = reduced - codebook.centroids[i, 0].astype(float)[first]
        for k in range(5):
            tools = np.flatnonzero(first == k)
            expected = embeddings[tools, i].mean(axis=0) if len(tools) else codebook.centroids[i, 0, k] @ basis + mean
            np.testing.assert_allclose(rows[2 * i][k], expected, atol=1e-4)
            tools = np.flatnonzero(second == k)
            point = entering[tools].mean(axis=0) if len(tools) else codebook.centroids[i, 1, k]
            np.testing.assert_allclose(rows[2 * i + 1][k], point @ basis, atol=1e-4)
    if policy == "suffix":
        left = entering - codebook.centroids[1, 1].astype(float)[second]  # of the last gist
        for number in range(codebook.code_sizes[-1]):
            tools = np.flatnonzero(codes[:, -1] == number)
            expected = left[tools].mean(axis=0) @ basis if len(tools) else np.zeros(12)
            np.testing.assert_allclose(rows[-1][number], expected, atol=1e-4)


def test_codes_that_nobody_carries_get_their_centroid(codebook, embeddings):
    codes = np.zeros((2, 4), np.int32)
    rows = codebook.level_embeddings(embeddings[:2], codes)
    np.testing.assert_allclose(rows[0][0], embeddings[:2, 0].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(
        rows[0][3], codebook.centroids[0, 0, 3] @ codebook.pca_components[0] + codebook.pca_mean[0], atol=1e-5
    )
    np.testing.assert_allclose(rows[3][4], codebook.centroids[1, 1, 4] @ codebook.pca_components[1], atol=1e-5)


def test_at_first_level_rows_of_a_lone_carrier_are_its_embedding(embeddings):
    with pytest.warns(CatalogueSizeWarning):
        codebook = Codebook.fit(embeddings[:2])
    rows = codebook.level_embeddings(embeddings[:2])
    np.testing.assert_array_equal(rows[0][codebook.codes[:, 0]], embeddings[:2, 0])


# ---------------------------------------------------------------- new tools


def test_new_tools_keep_out_of_the_way(make_embeddings, codebook):
    new = make_embeddings(60, seed=9)
    fitted = codebook.codes.copy()
    codes = codebook.assign(new, [f"new {j}" for j in range(60)])
    assert len(np.unique(np.concatenate([fitted, codes]), axis=0)) == 210
    np.testing.assert_array_equal(codebook.codes, fitted)
    nearest = codebook.quantize(new)
    free = [tuple(code) not in {tuple(row) for row in fitted.tolist()} for code in nearest.tolist()]
    alone = np.array([(nearest == code).all(axis=1).sum() == 1 for code in nearest])
    assert (free & alone).any()
    np.testing.assert_array_equal(codes[free & alone], nearest[free & alone])
    again = codebook.quantize(new, unique_against=fitted)
    np.testing.assert_array_equal(again, codes)


def test_a_copy_of_a_fitted_tool_lands_beside_it(codebook, embeddings):
    empty = codebook.without_tools()
    assert len(empty) == 0
    assert empty.codes.shape == (0, 4)
    np.testing.assert_array_equal(empty.assign(embeddings[:1]), codebook.quantize(embeddings[:1]))
    copy = codebook.assign(embeddings[:1])
    assert tuple(copy[0]) not in {tuple(row) for row in codebook.codes.tolist()}


def test_new_tools_under_the_other_policies(embeddings):
    suffix = Codebook.fit(embeddings, **SMALL, collisions="suffix")
    assert suffix.code_sizes[:-1] == (5, 5, 5, 5)
    codes = suffix.assign(embeddings[:5])
    assert len(np.unique(np.concatenate([suffix.codes, codes]), axis=0)) == 155
    crowd = np.repeat(embeddings[:1], suffix.code_sizes[-1] + 1, axis=0)
    with pytest.raises(CodebookError, match="suffix vocabulary"):
        suffix.assign(crowd)
    share = Codebook.fit(embeddings, **SMALL, collisions="share")
    np.testing.assert_array_equal(share.assign(embeddings[:5]), share.codes[:5])


def test_a_full_space_is_an_error_that_says_its_size(make_embeddings):
    embeddings = make_embeddings(16, 1, 6)
    codebook = Codebook.fit(embeddings, num_centroids=4, reduced_dim=3, num_levels=2)
    with pytest.raises(CodebookError, match=r"at most 16 tools \(4\^2"):
        codebook.assign(embeddings[:1])


def test_no_new_tools_is_fine(codebook):
    assert codebook.assign(np.zeros((0, 2, 12), np.float32), []).shape == (0, 4)
    assert codebook.quantize(np.zeros((0, 2, 12), np.float32)).shape == (0, 4)
    assert codebook.reconstruct(np.zeros((0, 4), int)).shape == (0, 2, 12)


# ---------------------------------------------------------------- small catalogues, real dtype zoo


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("policy", ["reassign", "suffix", "share"])
def test_the_paper_settings_shrink_to_a_handful_of_tools(make_embeddings, count, policy):
    embeddings = make_embeddings(count, hidden=40)
    with pytest.warns(CatalogueSizeWarning, match=f"catalogue of {count} tools"):
        codebook = Codebook.fit(embeddings, collisions=policy)
    if policy != "share":
        assert len(np.unique(codebook.codes, axis=0)) == count
    if count <= 3:  # every tool its own centroid: nothing is lost
        np.testing.assert_allclose(codebook.reconstruct(codebook.codes), embeddings, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_types_and_memory_maps(tmp_path, embeddings, dtype):
    path = tmp_path / "e.npy"
    np.save(path, embeddings.astype(dtype))
    mapped = np.load(path, mmap_mode="r")
    assert Codebook.fit(mapped, **SMALL) == Codebook.fit(embeddings.astype(dtype), **SMALL)


def test_torch_tensors_are_taken(embeddings):
    torch = pytest.importorskip("torch")
    assert Codebook.fit(torch.from_numpy(embeddings), **SMALL) == Codebook.fit(embeddings, **SMALL)


def test_pickles_and_stays_read_only(codebook):
    copy = pickle.loads(pickle.dumps(codebook))
    assert copy == codebook
    assert not copy.codes.flags.writeable


def test_import_is_light():
    code = "import sys, toolscaler.codebook; print([m for m in ('torch', 'sklearn', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_fitting_says_what_it_does(embeddings, caplog):
    with caplog.at_level(logging.INFO, logger="toolscaler.codebook"):
        Codebook.fit(embeddings, **SMALL)
    assert "moved to free codes" in caplog.text


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values_are_refused_by_row(codebook, embeddings, bad):
    data = embeddings.copy()
    data[17, 1, 3] = bad
    for call in (lambda: Codebook.fit(data, **SMALL), lambda: codebook.quantize(data), lambda: codebook.assign(data)):
        with pytest.raises(CodebookError, match="row 17"):
            call()


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((4, 12), np.float32),
        np.zeros((4, 2, 12), np.int64),
        np.zeros((4, 2, 12), np.complex64),
        np.zeros((0, 2, 12), np.float32),
        np.zeros((4, 0, 12), np.float32),
        np.zeros((4, 2, 0), np.float32),
    ],
)
def test_wrong_shapes_and_types_are_refused(data):
    with pytest.raises(CodebookError, match="expected"):
        Codebook.fit(data)


def test_foreign_embeddings_and_codes_are_refused(codebook, embeddings):
    with pytest.raises(CodebookError, match=r"\(N, 2, 12\)"):
        codebook.quantize(embeddings[:, :1])
    with pytest.raises(CodebookError, match=r"\(N, 2, 12\)"):
        codebook.reduce(embeddings[:, :, :5])
    with pytest.raises(CodebookError, match="0 to 4 at position 2"):
        codebook.reconstruct(np.array([[0, 0, 5, 0]]))
    with pytest.raises(CodebookError, match=r"shape \(N, 4\)"):
        codebook.reconstruct(np.array([[0, 0, 0]]))
    with pytest.raises(CodebookError, match="one row of codes per tool"):
        codebook.level_embeddings(embeddings[:3])


def test_tool_ids_are_checked(codebook, embeddings):
    with pytest.raises(CodebookError, match="'a' twice"):
        Codebook.fit(embeddings[:2], ["a", "a"])
    with pytest.raises(CodebookError, match="one tool id per row"):
        Codebook.fit(embeddings[:2], ["a"])
    with pytest.raises(CodebookError, match="of type str"):
        Codebook.fit(embeddings[:2], ["a", 3])
    with pytest.raises(CodebookError, match="'tool 3' which has codes"):
        codebook.assign(embeddings[:2], ["tool 3", "x"])
    codebook.assign(embeddings[3:4], ["tool 3"], existing_codes=np.delete(codebook.codes, 3, axis=0))


def test_settings_are_checked(embeddings):
    for settings_, message in (
        ({"collisions": "ignore"}, "reassign, suffix, share"),
        ({"num_levels": 0}, "num_levels"),
        ({"num_centroids": 0}, "num_centroids"),
        ({"reduced_dim": 0}, "reduced_dim"),
        ({"num_centroids": 3, "num_levels": 1}, r"at most 9 tools \(3\^2 code sequences\), got 150"),
    ):
        with pytest.raises(CodebookError, match=message):
            Codebook.fit(embeddings, **{**SMALL, **settings_})


def test_parts_that_do_not_fit_are_refused(codebook):
    parts = {name: array for name, array in codebook.to_tensors().items() if name != "codes"}
    for name, value in (
        ("pca_mean", np.zeros((2, 11))),
        ("pca_components", np.zeros((2, 4))),
        ("centroids", np.full_like(parts["centroids"], np.nan)),
    ):
        with pytest.raises(CodebookError, match=r"pca_|centroids"):
            Codebook(**{**parts, name: value})
    for extra in ({"collisions": "suffix"}, {"suffix_size": 3}, {"codes": [[0, 0, 0, 0]]}, {"collisions": "x"}):
        with pytest.raises(CodebookError, match="expected"):
            Codebook(**parts, **extra)
