"""Lloyd's k-means in numpy: vectors go in, centroids and one label a vector come out.

Distances are computed in row blocks that stay in the processor's cache, so no (N, K) matrix is ever held; labels of
47,000 vectors against 512 centroids cost one small matrix product a block.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolscaler.errors import CodebookError

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

# 256 rows x 512 centroids x 4 bytes = 512 KiB: the block of distances lies in the second-level cache of common CPUs.
_BLOCK_ROWS = 256
# k-means++ sees at most this many vectors (or 16 a centroid): more of them change the result less than the seed does.
_SEEDING_ROWS = 4096
# Lloyd iterations see at most this many vectors (or 256 a centroid); the paper's 46,985 tools are below it.
_LLOYD_ROWS = 65_536


@dataclass(frozen=True)
class KMeansResult:
    """What :func:`kmeans` found.

    Attributes:
        centroids: float32 (K, R).
        labels: int32 (N,), the cluster of each vector.
        inertia: Sum of squared distances of the vectors to the centroid of their cluster.
        iterations: Lloyd iterations of the run that was kept.
    """

    centroids: FloatArray
    labels: IntArray
    inertia: float
    iterations: int


def nearest_centroids(vectors: FloatArray, centroids: FloatArray) -> tuple[IntArray, FloatArray]:
    """Find the nearest centroid (Euclidean) of each vector; among equals the lowest index wins.

    Args:
        vectors: float32 (N, R).
        centroids: float32 (K, R).

    Returns:
        Labels int32 (N,) and squared distances float32 (N,).
    """
    (rows, dim), count = vectors.shape, len(centroids)
    labels = np.empty(rows, dtype=np.intp)
    distances = np.empty(rows, dtype=np.float32)
    # |x - c|^2 - |x|^2 = [x, 1] . [-2c, |c|^2]: the norm of c rides along as one more column of the same product.
    table = np.empty((dim + 1, count), dtype=np.float32)
    np.multiply(centroids.T, -2.0, out=table[:dim])
    table[dim] = np.einsum("kr,kr->k", centroids, centroids)
    padded = np.ones((_BLOCK_ROWS, dim + 1), dtype=np.float32)
    scores = np.empty((_BLOCK_ROWS, count), dtype=np.float32)
    for start in range(0, rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, rows)
        block = vectors[start:stop]
        padded[: stop - start, :dim] = block
        # The whole padded block is multiplied even at the ragged end: a row's result does not depend on its place.
        np.matmul(padded, table, out=scores)
        part = scores[: stop - start]
        found = np.argmin(part, axis=1, out=labels[start:stop])
        norms = np.einsum("nr,nr->n", block, block)
        distances[start:stop] = np.take_along_axis(part, found[:, None], axis=1)[:, 0] + norms
    return labels.astype(np.int32), np.maximum(distances, 0.0, out=distances)


def capped_nearest_centroids(
    vectors: FloatArray, centroids: FloatArray, max_cluster_size: int
) -> tuple[IntArray, FloatArray]:
    """Assign each vector to a near centroid such that no cluster holds more than ``max_cluster_size`` vectors.

    In rounds, every vector without a cluster asks for its nearest open centroid; a centroid that is asked too often
    keeps the nearest vectors and closes. Each round closes a centroid or is the last, so at most K rounds are needed.

    Args:
        vectors: float32 (N, R).
        centroids: float32 (K, R).
        max_cluster_size: The cap; K times the cap must be at least N.

    Returns:
        Labels int32 (N,) and squared distances float32 (N,).

    Raises:
        CodebookError: The caps leave too little room for all vectors.
    """
    rows, count = len(vectors), len(centroids)
    if max_cluster_size * count < rows:
        raise CodebookError(
            f"expected room for {rows} vectors, got {count} clusters of at most {max_cluster_size}; raise the cap or K"
        )
    labels = np.full(rows, -1, dtype=np.int32)
    distances = np.zeros(rows, dtype=np.float32)
    room = np.full(count, max_cluster_size, dtype=np.int64)
    waiting = np.arange(rows)
    while len(waiting):
        open_ids = np.flatnonzero(room)
        wish, cost = nearest_centroids(vectors[waiting], centroids[open_ids])
        target = open_ids[wish]
        order = np.lexsort((waiting, cost, target))
        sorted_target = target[order]
        # Rank of each request within its centroid's queue, nearest first.
        rank = np.arange(len(order)) - np.searchsorted(sorted_target, sorted_target)
        taken = order[rank < room[sorted_target]]
        labels[waiting[taken]] = target[taken]
        distances[waiting[taken]] = cost[taken]
        room -= np.bincount(target[taken], minlength=count)
        waiting = np.delete(waiting, taken)
    return labels, distances


def kmeans_plus_plus(vectors: FloatArray, num_centroids: int, rng: np.random.Generator) -> FloatArray:
    """Choose starting centroids among the vectors by greedy k-means++ (Arthur and Vassilvitskii, 2007).

    Of a few candidates drawn with probability proportional to their squared distance to the centroids chosen so far,
    the one that lowers the total distance most is taken.

    Args:
        vectors: float32 (N, R), N at least K.
        num_centroids: K.
        rng: Source of randomness.

    Returns:
        float32 (K, R).
    """
    rows = len(vectors)
    trials = 2 + int(np.log(num_centroids))
    norms = np.einsum("nr,nr->n", vectors, vectors)
    chosen = np.empty(num_centroids, dtype=np.intp)
    chosen[0] = rng.integers(rows)

    def distances_to(ids: NDArray[np.intp]) -> FloatArray:
        table = vectors[ids] @ vectors.T
        table *= -2.0
        table += norms
        table += norms[ids, None]
        return np.maximum(table, 0.0, out=table)

    nearest = distances_to(chosen[:1])[0]
    nearest[chosen[0]] = 0.0
    for step in range(1, num_centroids):
        cumulative = np.cumsum(nearest, dtype=np.float64)
        draws = rng.random(trials)
        if cumulative[-1] <= 0.0:  # every vector is already a centroid: fewer distinct vectors than centroids
            candidates = (draws[:1] * rows).astype(np.intp)
        else:
            candidates = np.minimum(np.searchsorted(cumulative, draws * cumulative[-1], side="right"), rows - 1)
        table = np.minimum(distances_to(candidates), nearest)
        best = int(np.argmin(table.sum(axis=1, dtype=np.float64)))
        nearest = table[best]
        chosen[step] = candidates[best]
        nearest[chosen[step]] = 0.0
    return vectors[chosen].copy()


def _means(columns: NDArray[np.float64], labels: IntArray, count: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Mean vector and size of each cluster, from the vectors as float64 (R, N); empty clusters get zeros."""
    sizes = np.bincount(labels, minlength=count)
    sums = np.stack([np.bincount(labels, weights=column, minlength=count) for column in columns], axis=1)
    return (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32), sizes


def _reseed(centroids: FloatArray, sizes: NDArray[np.int64], vectors: FloatArray, distances: FloatArray) -> int:
    """Move the centroids of empty clusters to the vectors farthest from theirs; says how many were moved."""
    empty = np.flatnonzero(sizes == 0)
    if not len(empty):
        return 0
    farthest = np.argsort(-distances, kind="stable")[: len(empty)]
    farthest = farthest[distances[farthest] > 0]  # a vector that is its own centroid gains nothing by a second one
    centroids[empty[: len(farthest)]] = vectors[farthest]
    return len(farthest)


def _assign(vectors: FloatArray, centroids: FloatArray, max_cluster_size: int | None) -> tuple[IntArray, FloatArray]:
    if max_cluster_size is None:
        return nearest_centroids(vectors, centroids)
    return capped_nearest_centroids(vectors, centroids, max_cluster_size)


def _lloyd(
    vectors: FloatArray, centroids: FloatArray, *, max_iterations: int, tolerance: float, max_cluster_size: int | None
) -> KMeansResult:
    columns = np.ascontiguousarray(vectors.T, dtype=np.float64)
    count = len(centroids)

    labels, distances = _assign(vectors, centroids, max_cluster_size)
    inertia = float(distances.sum(dtype=np.float64))
    best = KMeansResult(centroids, labels, inertia, 0)
    for iteration in range(1, max_iterations + 1):
        updated, sizes = _means(columns, labels, count)
        updated[sizes == 0] = centroids[sizes == 0]
        moved = _reseed(updated, sizes, vectors, distances)
        centroids = updated
        labels, distances = _assign(vectors, centroids, max_cluster_size)
        previous, inertia = inertia, float(distances.sum(dtype=np.float64))
        if inertia < best.inertia:
            best = KMeansResult(centroids, labels, inertia, iteration)
        if moved == 0 and previous - inertia <= tolerance * previous:
            break
    return best


def kmeans(
    vectors: FloatArray,
    num_centroids: int,
    *,
    rng: np.random.Generator,
    max_iterations: int = 100,
    tolerance: float = 5e-5,
    num_restarts: int = 1,
    max_cluster_size: int | None = None,
) -> KMeansResult:
    """Cluster vectors by Lloyd's k-means with k-means++ seeding (paper section 4.1, equation of the codebook).

    Args:
        vectors: float32 (N, R).
        num_centroids: K, at most N.
        rng: Source of randomness; the same state gives the same result.
        max_iterations: Most Lloyd iterations of one run.
        tolerance: A run ends when an iteration lowers the inertia by less than this share.
        num_restarts: Independent runs; the one of least inertia is kept.
        max_cluster_size: Cap on the size of every cluster; ``None`` for plain k-means. With a cap the labels are not
            always the nearest centroids.

    More than 65,536 vectors (or 256 a centroid, if that is more) are clustered by a random sample of that size; then
    all of them get their labels.

    Returns:
        The centroids, labels and inertia. Clusters that run empty are seeded again at the vectors farthest from their
        centroids; only with fewer distinct vectors than centroids do some stay empty.

    Raises:
        CodebookError: More centroids than vectors, or a setting below 1.
    """
    if vectors.ndim != 2:
        raise CodebookError(f"expected vectors of shape (N, R), got {vectors.shape}")
    if not 1 <= num_centroids <= len(vectors):
        raise CodebookError(f"expected 1 to {len(vectors)} centroids for {len(vectors)} vectors, got {num_centroids}")
    if max_iterations < 1 or num_restarts < 1:
        raise CodebookError(f"expected at least 1 iteration and 1 run, got {max_iterations} and {num_restarts}")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    everything, cap = vectors, max_cluster_size
    if len(vectors) > (rows := max(_LLOYD_ROWS, 256 * num_centroids)):
        vectors = vectors[np.sort(rng.choice(len(vectors), size=rows, replace=False))]
        cap = None if cap is None else math.ceil(cap * rows / len(everything))
    best: KMeansResult | None = None
    for _ in range(num_restarts):
        limit = max(_SEEDING_ROWS, 16 * num_centroids)
        sample = vectors
        if len(vectors) > limit:
            sample = vectors[np.sort(rng.choice(len(vectors), size=limit, replace=False))]
        result = _lloyd(
            vectors,
            kmeans_plus_plus(sample, num_centroids, rng),
            max_iterations=max_iterations,
            tolerance=tolerance,
            max_cluster_size=cap,
        )
        if best is None or result.inertia < best.inertia:
            best = result
    if best is None:  # num_restarts >= 1 was checked; this satisfies the type checker
        raise CodebookError("no k-means run was made")
    if len(everything) > len(vectors):
        labels, distances = _assign(everything, best.centroids, max_cluster_size)
        best = KMeansResult(best.centroids, labels, float(distances.sum(dtype=np.float64)), best.iterations)
    logger.debug("k-means: %d centroids, inertia %.6g, %d iterations", num_centroids, best.inertia, best.iterations)
    return best
