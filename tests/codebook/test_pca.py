"""Contract: the projection spans the directions of most variance, whatever the method, and never depends on company."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from toolscaler.codebook.pca import fit_pca
from toolscaler.errors import CodebookError


def decaying(rows, dim, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    spectrum = 1.0 / np.arange(1, dim + 1)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return ((rng.normal(size=(rows, dim)) * spectrum) @ rotation + shift).astype(np.float32)


@pytest.mark.parametrize("method", ["exact", "randomized"])
@pytest.mark.parametrize("shape", [(300, 40), (40, 300), (5000, 60)])
def test_agrees_with_an_independent_implementation(method, shape):
    data = decaying(*shape, shift=20.0)  # a large mean, as hidden states have
    ours = fit_pca(data, 5, rng=np.random.default_rng(0), method=method)
    theirs = PCA(5, svd_solver="full").fit(data.astype(np.float64))
    np.testing.assert_allclose(ours.mean, theirs.mean_, atol=1e-4)
    np.testing.assert_allclose(ours.explained_variance_ratio, theirs.explained_variance_ratio_, rtol=2e-3)
    np.testing.assert_allclose(ours.explained_variance, theirs.explained_variance_, rtol=2e-3)
    # Same directions, up to the sign.
    np.testing.assert_allclose(np.abs((ours.components * theirs.components_).sum(axis=1)), 1.0, atol=2e-3)
    np.testing.assert_allclose(ours.components @ ours.components.T, np.eye(5), atol=1e-5)


def test_projection_is_plain_arithmetic_and_does_not_depend_on_company():
    data = decaying(600, 24)
    pca = fit_pca(data, 6)
    scores = pca.transform(data)
    np.testing.assert_allclose(scores, (data.astype(np.float64) - pca.mean) @ pca.components.T, atol=1e-5)
    for row in (0, 255, 256, 599):
        np.testing.assert_array_equal(pca.transform(data[row : row + 1])[0], scores[row])


def test_sign_does_not_depend_on_the_solver():
    data = decaying(400, 16)
    exact, randomized = (fit_pca(data, 3, method=method).components for method in ("exact", "randomized"))
    np.testing.assert_allclose(exact, randomized, atol=1e-3)
    assert (np.take_along_axis(exact, np.abs(exact).argmax(axis=1)[:, None], axis=1) > 0).all()


def test_views_memory_maps_and_other_float_types(tmp_path):
    data = decaying(300, 20)
    wide = np.stack([data, data + 1], axis=1)
    np.testing.assert_array_equal(fit_pca(wide[:, 0], 4).components, fit_pca(data, 4).components)
    mapped = np.memmap(tmp_path / "e.bin", dtype=np.float32, mode="w+", shape=data.shape)
    mapped[:] = data
    np.testing.assert_array_equal(fit_pca(mapped, 4).components, fit_pca(data, 4).components)
    np.testing.assert_allclose(fit_pca(data.astype(np.float64), 4).components, fit_pca(data, 4).components, atol=1e-4)
    assert fit_pca(data.astype(np.float16), 4).components.dtype == np.float32


@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_degenerate_inputs(method):
    constant = fit_pca(np.full((10, 6), 3.0, np.float32), 2, method=method)
    np.testing.assert_allclose(constant.transform(np.full((1, 6), 3.0, np.float32)), 0.0, atol=1e-6)
    assert np.isfinite(constant.components).all()
    assert constant.explained_variance_ratio.sum() == pytest.approx(0.0, abs=1e-6)
    line = np.outer(np.arange(50), np.array([3.0, 4.0, 0.0])).astype(np.float32)  # rank one
    pca = fit_pca(line, 2, method=method)
    np.testing.assert_allclose(pca.components[0], [0.6, 0.8, 0.0], atol=1e-4)
    assert pca.explained_variance_ratio[0] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("method", ["exact", "randomized"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 5500])
def test_a_bad_value_is_named(method, bad, row):
    data = decaying(6000, 8)
    data[row, 3] = bad
    with pytest.raises(CodebookError, match=f"row {row}"):
        fit_pca(data, 2, method=method)


def test_bad_requests_are_refused():
    data = decaying(10, 4)
    for vectors, dims in ((data, 0), (data, 5), (data[0], 1), (data.astype(np.int32), 1), (data[:2], 3)):
        with pytest.raises(CodebookError, match="expected"):
            fit_pca(vectors, dims)
