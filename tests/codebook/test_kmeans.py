"""Contract: labels name the nearest centroids, centroids are the means of their clusters, the seed decides all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from toolscaler.codebook.kmeans import capped_nearest_centroids, kmeans, kmeans_plus_plus, nearest_centroids
from toolscaler.codebook.residual_kmeans import (
    decode_residual,
    encode_residual,
    fit_residual_kmeans,
    residuals_by_level,
)
from toolscaler.errors import CodebookError


def full_table(vectors, centroids):
    return ((vectors[:, None].astype(np.float64) - centroids[None].astype(np.float64)) ** 2).sum(axis=2)


def blobs(count, dim, centres, seed, spread=0.2):
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(centres, dim)) * 3
    return (places[rng.integers(centres, size=count)] + spread * rng.normal(size=(count, dim))).astype(np.float32)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])  # around the block size
def test_nearest_equals_the_full_distance_table(count):
    rng = np.random.default_rng(count)
    vectors, centroids = rng.normal(size=(count, 7)).astype(np.float32), rng.normal(size=(33, 7)).astype(np.float32)
    labels, distances = nearest_centroids(vectors, centroids)
    table = full_table(vectors, centroids)
    np.testing.assert_array_equal(labels, table.argmin(axis=1))
    np.testing.assert_allclose(distances, table.min(axis=1), rtol=1e-4, atol=1e-5)


def test_a_row_is_labelled_alike_in_any_company():
    vectors = blobs(700, 32, 40, 0, spread=1.0)
    centroids = vectors[:64] + np.float32(0.01)
    together = nearest_centroids(vectors, centroids)
    alone = [nearest_centroids(vectors[j : j + 1], centroids) for j in range(0, 700, 13)]
    np.testing.assert_array_equal(together[0][::13], np.concatenate([part[0] for part in alone]))
    np.testing.assert_array_equal(together[1][::13], np.concatenate([part[1] for part in alone]))


def test_ties_go_to_the_lowest_index():
    labels, _ = nearest_centroids(np.zeros((3, 2), np.float32), np.array([[1, 0], [0, 1], [-1, 0]], np.float32))
    assert labels.tolist() == [0, 0, 0]


def test_centroids_are_means_and_inertia_is_what_it_says():
    vectors = blobs(500, 5, 8, 1)
    result = kmeans(vectors, 8, rng=np.random.default_rng(0), tolerance=0.0, max_iterations=200)
    for cluster in range(8):
        np.testing.assert_allclose(result.centroids[cluster], vectors[result.labels == cluster].mean(axis=0), atol=1e-5)
    table = full_table(vectors, result.centroids)
    np.testing.assert_array_equal(result.labels, table.argmin(axis=1))
    assert result.inertia == pytest.approx(table.min(axis=1).sum(), rel=1e-3)


def test_as_good_as_full_lloyd():
    vectors = blobs(3000, 8, 200, 2, spread=0.8)
    ours = np.mean([kmeans(vectors, 64, rng=np.random.default_rng(seed)).inertia for seed in range(3)])
    theirs = np.mean([KMeans(64, n_init=1, random_state=seed).fit(vectors).inertia_ for seed in range(3)])
    assert ours <= 1.01 * theirs


def test_optimum_of_a_tiny_problem_is_found():
    vectors = blobs(9, 2, 3, 5, spread=0.5)
    best = min(
        sum(
            ((vectors[np.array(labels) == k] - vectors[np.array(labels) == k].mean(axis=0)) ** 2).sum()
            for k in set(labels)
        )
        for labels in itertools.product(range(3), repeat=9)
    )
    result = kmeans(vectors, 3, rng=np.random.default_rng(0), num_restarts=20, tolerance=0.0)
    assert result.inertia == pytest.approx(best, rel=1e-4)


def test_restarts_never_hurt_and_the_seed_decides():
    vectors = blobs(400, 4, 30, 3, spread=0.7)
    one = kmeans(vectors, 20, rng=np.random.default_rng(7))
    same = kmeans(vectors, 20, rng=np.random.default_rng(7))
    np.testing.assert_array_equal(one.centroids, same.centroids)
    np.testing.assert_array_equal(one.labels, same.labels)
    assert kmeans(vectors, 20, rng=np.random.default_rng(7), num_restarts=4).inertia <= one.inertia
    other = kmeans(vectors, 20, rng=np.random.default_rng(8))
    assert not np.array_equal(one.centroids, other.centroids)


def test_dead_clusters_are_seeded_again(monkeypatch):
    # Premise: all starting centroids but one lie far from every vector, so all but one run empty at once.
    vectors = blobs(300, 3, 6, 4)
    far = np.full((6, 3), 1e4, np.float32) + np.arange(6, dtype=np.float32)[:, None]
    far[0] = vectors[0]
    assert set(nearest_centroids(vectors, far)[0]) == {0}
    monkeypatch.setattr("toolscaler.codebook.kmeans.kmeans_plus_plus", lambda *_: far)
    result = kmeans(vectors, 6, rng=np.random.default_rng(0))
    assert sorted(set(result.labels.tolist())) == list(range(6))


def test_fewer_distinct_vectors_than_centroids():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    result = kmeans(vectors, 7, rng=np.random.default_rng(0))
    assert result.inertia == pytest.approx(0.0, abs=1e-6)
    assert len(set(result.labels.tolist())) == 3
    assert np.isfinite(result.centroids).all()
    constant = kmeans(np.ones((4, 2), np.float32), 3, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(constant.centroids, np.ones((3, 2)))


def test_seeding_takes_vectors_and_prefers_distant_ones():
    vectors = np.concatenate([blobs(100, 2, 1, 0, spread=0.01), blobs(3, 2, 1, 1, spread=0.01) + 50])
    centroids = kmeans_plus_plus(vectors, 2, np.random.default_rng(0))
    assert all((vectors == centroid).all(axis=1).any() for centroid in centroids)
    assert (centroids.max(axis=1) > 25).sum() == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2), st.integers(0, 1000))
def test_caps_hold_and_the_matching_is_stable(count, clusters, slack, seed):
    rng = np.random.default_rng(seed)
    vectors, centroids = rng.normal(size=(count, 2)).astype(np.float32), rng.normal(size=(clusters, 2))
    centroids = centroids.astype(np.float32)
    cap = -(-count // clusters) + slack
    labels, _ = capped_nearest_centroids(vectors, centroids, cap)
    sizes = np.bincount(labels, minlength=clusters)
    assert sizes.max() <= cap
    assert sizes.sum() == count
    table = full_table(vectors, centroids)
    for row, label in enumerate(labels):  # a nearer centroid must be full
        for nearer in np.flatnonzero(table[row] < table[row, label] - 1e-5):
            assert sizes[nearer] == cap


def test_balanced_levels_are_capped():
    vectors = blobs(200, 3, 2, 0, spread=0.05)  # two tight blobs: plain k-means would be lopsided
    _, codes = fit_residual_kmeans(vectors, 2, 8, seed=0, balanced=True)
    for level in range(2):
        assert np.bincount(codes[:, level], minlength=8).max() <= 38  # ceil(1.5 * 200 / 8)


def test_residual_levels_by_hand():
    vectors = blobs(300, 6, 20, 6, spread=0.5)
    centroids, codes = fit_residual_kmeans(vectors, 3, 8, seed=[1, 2])
    np.testing.assert_array_equal(codes, encode_residual(vectors, centroids))
    residual = vectors.astype(np.float64)
    previous = (residual**2).sum()
    for level in range(3):
        np.testing.assert_allclose(residuals_by_level(vectors, codes, centroids)[level], residual, atol=1e-5)
        np.testing.assert_array_equal(codes[:, level], full_table(residual, centroids[level]).argmin(axis=1))
        residual = residual - centroids[level][codes[:, level]]
        assert (residual**2).sum() < previous
        previous = (residual**2).sum()
    np.testing.assert_allclose(vectors - decode_residual(codes, centroids), residual, atol=1e-5)


@pytest.mark.parametrize(
    ("vectors", "count", "options"),
    [
        (np.zeros((3, 2), np.float32), 4, {}),
        (np.zeros((3, 2), np.float32), 0, {}),
        (np.zeros(3, np.float32), 1, {}),
        (np.zeros((3, 2), np.float32), 2, {"max_iterations": 0}),
        (np.zeros((3, 2), np.float32), 2, {"num_restarts": 0}),
        (np.zeros((3, 2), np.float32), 2, {"max_cluster_size": 1}),
    ],
)
def test_bad_requests_are_refused(vectors, count, options):
    with pytest.raises(CodebookError, match="expected"):
        kmeans(vectors, count, rng=np.random.default_rng(0), **options)
