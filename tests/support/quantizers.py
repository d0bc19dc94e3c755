"""One small codebook of every kind of quantiser, some with positions of unequal size; for tests of other rooms."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Name -> keywords of the fit, and the sizes of the positions before any suffix (V = 2, L = 2, K = 8).
KINDS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "residual": ({}, (8,) * 4),
    "balanced": ({"quantizer": "balanced_residual_kmeans"}, (8,) * 4),
    "product": ({"quantizer": "product_kmeans"}, (8,) * 4),
    "hierarchical": ({"quantizer": "hierarchical_kmeans"}, (8,) * 4),
    "fsq_larger": ({"quantizer": "fsq", "quantizer_options": {"levels": [4, 3]}}, (8, 12) * 2),
    "fsq_smaller": ({"quantizer": "fsq", "quantizer_options": {"levels": [3]}}, (8, 3) * 2),
    "fsq_suffix": ({"quantizer": "fsq", "quantizer_options": {"levels": [3]}, "collisions": "suffix"}, (8, 3) * 2),
    "fsq_share": ({"quantizer": "fsq", "quantizer_options": {"levels": [3]}, "collisions": "share"}, (8, 3) * 2),
    "rqvae": ({"quantizer": "rqvae", "quantizer_options": {"steps": 40, "hidden_size": 16}}, (8,) * 4),
    "three_levels": ({"quantizer": "fsq", "num_levels": 3, "quantizer_options": {"levels": [5]}}, (8, 8, 5) * 2),
}


def make_embeddings(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Float32 (count, 2, width) in clusters, the last two rows equal to the first two."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(7, 2, width))
    data = 2 + centres[rng.integers(7, size=count)] + rng.normal(size=(count, 2, width))
    data[-2:] = data[:2]
    return data.astype(np.float32)
