"""Residual quantisation of one gist position: reduced vectors go in, L codes a vector come out (paper section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.kmeans import kmeans, nearest_centroids

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

# `balanced=True` lets no cluster grow beyond this multiple of the mean size N / K.
BALANCE_SLACK = 1.5


def fit_residual_kmeans(
    vectors: FloatArray,
    num_levels: int,
    num_centroids: int,
    *,
    seed: int | Sequence[int] = 0,
    balanced: bool = False,
    max_iterations: int = 100,
    tolerance: float = 5e-5,
    num_restarts: int = 1,
) -> tuple[FloatArray, IntArray]:
    """Fit L centroid tables, each on what the levels before it left over.

    Args:
        vectors: float32 (N, R), one gist position after PCA.
        num_levels: L.
        num_centroids: K, at most N.
        seed: Seed; every level draws from a stream of its own.
        balanced: Cap each cluster at ``ceil(1.5 * N / K)`` vectors. The codes then are not always the nearest ones.
        max_iterations: See :func:`~toolscaler.codebook.kmeans.kmeans`.
        tolerance: See :func:`~toolscaler.codebook.kmeans.kmeans`.
        num_restarts: See :func:`~toolscaler.codebook.kmeans.kmeans`.

    Returns:
        Centroids float32 (L, K, R) and codes int32 (N, L). Without ``balanced`` the codes equal
        ``encode_residual(vectors, centroids)`` bit for bit.
    """
    entropy = [seed] if isinstance(seed, int) else list(seed)
    cap = math.ceil(BALANCE_SLACK * len(vectors) / num_centroids) if balanced else None
    residual = np.ascontiguousarray(vectors, dtype=np.float32)
    centroids = np.empty((num_levels, num_centroids, residual.shape[1]), dtype=np.float32)
    codes = np.empty((len(residual), num_levels), dtype=np.int32)
    for level in range(num_levels):
        result = kmeans(
            residual,
            num_centroids,
            rng=np.random.default_rng([*entropy, level]),
            max_iterations=max_iterations,
            tolerance=tolerance,
            num_restarts=num_restarts,
            max_cluster_size=cap,
        )
        centroids[level] = result.centroids
        codes[:, level] = result.labels
        residual = residual - result.centroids[result.labels]
    return centroids, codes


def encode_residual(vectors: FloatArray, centroids: FloatArray) -> IntArray:
    """Code vectors by the nearest centroid level after level (paper section 4.1 and Algorithm 1).

    Args:
        vectors: float32 (N, R).
        centroids: float32 (L, K, R).

    Returns:
        int32 (N, L).
    """
    residual = np.ascontiguousarray(vectors, dtype=np.float32)
    codes = np.empty((len(residual), len(centroids)), dtype=np.int32)
    for level, table in enumerate(centroids):
        codes[:, level] = nearest_centroids(residual, table)[0]
        residual = residual - table[codes[:, level]]
    return codes


def decode_residual(codes: IntArray, centroids: FloatArray) -> FloatArray:
    """Sum the centroids that the codes name.

    Args:
        codes: Integers (N, L).
        centroids: float32 (L, K, R).

    Returns:
        float32 (N, R).
    """
    total = np.zeros((len(codes), centroids.shape[2]), dtype=np.float32)
    for level, table in enumerate(centroids):
        total += table[codes[:, level]]
    return total


def residuals_by_level(vectors: FloatArray, codes: IntArray, centroids: FloatArray) -> list[FloatArray]:
    """Residuals along the levels, for the codes actually assigned.

    Args:
        vectors: float32 (N, R).
        codes: Integers (N, L); they need not be the nearest ones.
        centroids: float32 (L, K, R).

    Returns:
        L + 1 arrays float32 (N, R): entry l is what enters level l (entry 0 the vectors themselves), the last is what
        the last level leaves over.
    """
    residuals = [np.ascontiguousarray(vectors, dtype=np.float32)]
    for level, table in enumerate(centroids):
        residuals.append(residuals[-1] - table[codes[:, level]])
    return residuals
