"""Small embeddings with structure: categories, collections in them, tools in those."""

from __future__ import annotations

import numpy as np
import pytest

from toolscaler.codebook import Codebook


def _make_embeddings(count: int, gists: int = 2, hidden: int = 12, seed: int = 0, duplicates: int = 0) -> np.ndarray:
    """Hierarchical mixture, float32 (count, gists, hidden); the last ``duplicates`` rows repeat the first."""
    rng = np.random.default_rng(seed)
    categories = rng.normal(size=(4, gists, hidden))
    collections = rng.normal(size=(12, gists, hidden)) * 0.7
    group = rng.integers(12, size=count)
    data = 3.0 + categories[group % 4] + collections[group] + 0.3 * rng.normal(size=(count, gists, hidden))
    if duplicates:
        data[count - duplicates :] = data[:duplicates]
    return data.astype(np.float32)


@pytest.fixture(scope="session")
def make_embeddings():
    return _make_embeddings


@pytest.fixture(scope="session")
def embeddings() -> np.ndarray:
    return _make_embeddings(150, duplicates=3)


@pytest.fixture(scope="session")
def codebook(embeddings: np.ndarray) -> Codebook:
    """K 5 leaves collisions to resolve: 625 sequences for 150 clustered tools."""
    return Codebook.fit(
        embeddings, [f"tool {j}" for j in range(len(embeddings))], num_centroids=5, reduced_dim=4, num_levels=2
    )
