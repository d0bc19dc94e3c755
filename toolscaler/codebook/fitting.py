"""Fit a codebook: gist embeddings (N, V, D) go in, projections, centroid tables and unique codes come out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.checks import check_embeddings, check_tool_ids, require_finite
from toolscaler.codebook.collisions import COLLISION_POLICIES, CollisionPolicy, resolve_collisions, suffix_size
from toolscaler.codebook.preprocessing import fit_preprocessing, preprocessing_tensors
from toolscaler.codebook.quantizers import centroid_stack, fit_quantizer
from toolscaler.codebook.reassign import require_room
from toolscaler.codebook.settings import QuantizerSettings
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
    settings: QuantizerSettings,
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
        count, num_centroids, reduced_dim if settings.projection == "pca" else 1, hidden_size, num_levels
    )
    if collisions == "reassign" and settings.quantizer != "fsq":  # whose last level has a size of its own
        require_room(count, (num_centroids,) * (num_gists * num_levels))
    width = reduced_dim if settings.projection == "pca" else hidden_size
    steps, projections, quantizers, codes = [], [], [], []
    reduced = np.empty((count, num_gists, width), dtype=np.float32)
    for gist in range(num_gists):
        rng = np.random.default_rng([seed, gist])
        step, pca, reduced[:, gist] = fit_preprocessing(data[:, gist], reduced_dim, settings, rng)
        require_finite(reduced[:, gist])
        quantizer, assigned = fit_quantizer(
            settings.quantizer,
            reduced[:, gist],
            num_levels,
            num_centroids,
            seed=[seed, gist],
            options=settings.options,
            max_iterations=max_iterations,
            num_restarts=num_restarts,
        )
        if assigned is None or settings.encoding == "beam":
            beam = settings.beam_width if settings.encoding == "beam" else None
            assigned = quantizer.quantize(reduced[:, gist], beam_width=beam)
        steps.append(step)
        projections.append(pca)
        quantizers.append(quantizer)
        codes.append(assigned)
        logger.info("gist position %d of %d fitted", gist + 1, num_gists)
    resolution = resolve_collisions(
        np.concatenate(codes, axis=1), reduced, quantizers, collisions, reassignment=settings.reassignment
    )
    return {
        "pca_mean": np.stack([pca.mean for pca in projections]),
        "pca_components": np.stack([pca.components for pca in projections]),
        "pca_explained_variance": np.stack([pca.explained_variance for pca in projections]),
        "pca_explained_variance_ratio": np.stack([pca.explained_variance_ratio for pca in projections]),
        "centroids": np.stack([centroid_stack(quantizer) for quantizer in quantizers]),
        "collisions": collisions,
        "codes": resolution.codes,
        "tool_ids": ids,
        "suffix_size": suffix_size(resolution.codes) if collisions == "suffix" else 0,
        "settings": settings,
        "level_sizes": quantizers[0].sizes,
        "extra_tensors": {
            **preprocessing_tensors(steps, settings),
            **{
                f"gist_{i}.{name}": array for i, part in enumerate(quantizers) for name, array in part.tensors().items()
            },
        },
    }
