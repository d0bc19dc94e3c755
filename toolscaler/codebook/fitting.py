"""Fit a codebook: gist embeddings (N, V, D) go in, projections, centroid tables and unique codes come out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.checks import check_embeddings, check_tool_ids, require_finite
from toolscaler.codebook.collisions import COLLISION_POLICIES, CollisionPolicy, resolve_collisions, suffix_size
from toolscaler.codebook.pca import fit_pca
from toolscaler.codebook.reassign import require_room
from toolscaler.codebook.residual_kmeans import fit_residual_kmeans
from toolscaler.codebook.sizing import shrink_for_catalogue
from toolscaler.errors import CodebookError

logger = logging.getLogger(__name__)


def fit_parts(
    embeddings: NDArray[np.floating],
    tool_ids: Sequence[str] | None,
    *,
    num_levels: int,
    num_centroids: int,
    reduced_dim: int,
    collisions: CollisionPolicy,
    balanced: bool,
    seed: int,
    max_iterations: int,
    num_restarts: int,
) -> dict[str, Any]:
    """Do the work of :meth:`toolscaler.codebook.Codebook.fit`, whose arguments and errors these are.

    Returns:
        The keyword arguments of the codebook.
    """
    if collisions not in COLLISION_POLICIES:
        raise CodebookError(f"expected collisions of {', '.join(COLLISION_POLICIES)}, got {collisions!r}")
    data = check_embeddings(embeddings)
    count, num_gists, hidden_size = data.shape
    if count == 0:
        raise CodebookError("expected at least one tool to fit a codebook on, got none")
    ids = tuple(map(str, range(count))) if tool_ids is None else tuple(tool_ids)
    check_tool_ids(ids, count)
    num_centroids, reduced_dim, num_levels = shrink_for_catalogue(
        count, num_centroids, reduced_dim, hidden_size, num_levels
    )
    if collisions == "reassign":
        require_room(count, num_centroids, num_gists * num_levels)
    projections, tables, codes = [], [], []
    reduced = np.empty((count, num_gists, reduced_dim), dtype=np.float32)
    for gist in range(num_gists):
        pca = fit_pca(data[:, gist], reduced_dim, rng=np.random.default_rng([seed, gist]))
        reduced[:, gist] = pca.transform(data[:, gist])
        require_finite(reduced[:, gist])
        centroids, assigned = fit_residual_kmeans(
            reduced[:, gist],
            num_levels,
            num_centroids,
            seed=[seed, gist],
            balanced=balanced,
            max_iterations=max_iterations,
            num_restarts=num_restarts,
        )
        projections.append(pca)
        tables.append(centroids)
        codes.append(assigned)
        logger.info("gist position %d of %d fitted", gist + 1, num_gists)
    stacked = np.stack(tables)
    resolution = resolve_collisions(np.concatenate(codes, axis=1), reduced, stacked, collisions)
    return {
        "pca_mean": np.stack([pca.mean for pca in projections]),
        "pca_components": np.stack([pca.components for pca in projections]),
        "pca_explained_variance": np.stack([pca.explained_variance for pca in projections]),
        "pca_explained_variance_ratio": np.stack([pca.explained_variance_ratio for pca in projections]),
        "centroids": stacked,
        "collisions": collisions,
        "codes": resolution.codes,
        "tool_ids": ids,
        "suffix_size": suffix_size(resolution.codes) if collisions == "suffix" else 0,
    }
