"""Figures beyond the health report: purity of prefixes, embedding hit rate, stability under noise and other seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.checks import code_groups
from toolscaler.codebook.codebook import Codebook
from toolscaler.errors import CodebookError

IntArray = NDArray[np.int32]


def prefix_purity(codes: NDArray[np.integer], labels: Sequence[str]) -> tuple[float, ...]:
    """Share of tools whose label is the commonest one among the tools of the same code prefix.

    Args:
        codes: Integers (N, P), N at least 1.
        labels: N labels, such as categories.

    Returns:
        One share for each prefix length 1 to P. Longer prefixes hold fewer tools and are purer by that alone: compare
        codebooks of equal sizes, or with :func:`prefix_purity` of shuffled labels.

    Raises:
        CodebookError: The lengths differ.
    """
    if len(labels) != len(codes) or len(codes) == 0:
        raise CodebookError(f"expected one label per tool and at least one tool, got {len(labels)} and {len(codes)}")
    numbers = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1].reshape(-1)
    result = []
    for length in range(1, codes.shape[1] + 1):
        groups, count = code_groups(np.asarray(codes[:, :length], dtype=np.int32))
        pairs, sizes = np.unique(groups * (int(numbers.max()) + 1) + numbers, return_counts=True)
        largest = np.zeros(count, dtype=np.int64)
        np.maximum.at(largest, pairs // (int(numbers.max()) + 1), sizes)
        result.append(float(largest.sum() / len(codes)))
    return tuple(result)


def prefix_perplexity(codes: NDArray[np.integer]) -> tuple[float, ...]:
    """Exponential of the entropy of prefixes of length 1 to P: how many equally used prefixes would be as varied."""
    result = []
    for length in range(1, codes.shape[1] + 1):
        groups, count = code_groups(np.asarray(codes[:, :length], dtype=np.int32))
        shares = np.bincount(groups, minlength=count) / max(len(codes), 1)
        result.append(float(np.exp(-(shares * np.log(shares)).sum())) if count else 0.0)
    return tuple(result)


def adjusted_rand_index(first: NDArray[np.integer], second: NDArray[np.integer]) -> float:
    """Agreement of two groupings of the same rows (Hubert and Arabie, 1985): 1 equal, about 0 by chance.

    Args:
        first: Group numbers (N,).
        second: Group numbers (N,).
    """
    rows = len(first)
    pairs = rows * (rows - 1) / 2

    def together(*columns: NDArray[np.integer]) -> float:
        groups, count = code_groups(np.stack(columns, axis=1).astype(np.int32))
        sizes = np.bincount(groups, minlength=count).astype(np.float64)
        return float((sizes * (sizes - 1) / 2).sum())

    both, one, two = together(first, second), together(first), together(second)
    expected = one * two / pairs if pairs else 0.0
    most = (one + two) / 2
    return 1.0 if most == expected else float((both - expected) / (most - expected))


def prefix_agreement(first: NDArray[np.integer], second: NDArray[np.integer]) -> tuple[float, ...]:
    """Adjusted Rand index of the groups that two code tables (N, P) make of their prefixes, for each prefix length.

    The names of codes do not matter, so codebooks of two seeds can be compared.

    Raises:
        CodebookError: The shapes differ.
    """
    if first.shape != second.shape:
        raise CodebookError(f"expected two code tables of one shape, got {first.shape} and {second.shape}")
    lengths = range(1, first.shape[1] + 1)
    groups = [[code_groups(np.asarray(t[:, :p], dtype=np.int32))[0] for t in (first, second)] for p in lengths]
    return tuple(adjusted_rand_index(one, two) for one, two in groups)


def perturbation_stability(
    codebook: Codebook, embeddings: NDArray[np.floating], noise: float, rng: np.random.Generator
) -> tuple[float, ...]:
    """Share of tools whose first p codes stay when their embeddings are disturbed, for each p up to V·L.

    Args:
        codebook: The codebook.
        embeddings: float (N, V, D).
        noise: Length of the disturbance (Gaussian, of equal variance in all dimensions) as a share of the root mean
            square distance of the embeddings to their mean.
        rng: Source of randomness.
    """
    data = np.asarray(embeddings, dtype=np.float32)
    deviation = np.sqrt(np.square(data - data.mean(axis=0), dtype=np.float64).mean())
    moved = data + rng.standard_normal(data.shape, dtype=np.float32) * np.float32(noise * deviation)
    agree = codebook.quantize(data) == codebook.quantize(moved)
    return tuple(np.logical_and.accumulate(agree, axis=1).mean(axis=0).tolist())


def reseeding_stability(
    codebook: Codebook, embeddings: NDArray[np.floating], codes: IntArray, seed: int
) -> tuple[float, ...]:
    """Fit the same kind of codebook with another seed: :func:`prefix_agreement` of its codes before any policy.

    Args:
        codebook: The codebook; its quantiser, sizes and preprocessing are used again.
        embeddings: float (N, V, D) of the tools.
        codes: int32 (N, V·L), the codes of the tools before any collision policy.
        seed: Seed of the second fit.
    """
    other = Codebook.fit(
        embeddings,
        num_levels=codebook.num_levels,
        num_centroids=codebook.level_sizes[0],
        reduced_dim=codebook.reduced_dim,
        collisions="share",
        seed=seed,
        quantizer=codebook.settings.quantizer,
        quantizer_options=codebook.settings.options,
        encoding=codebook.settings.encoding,
        beam_width=codebook.settings.beam_width,
        projection=codebook.settings.projection,
        whiten=codebook.settings.whiten,
        normalize=codebook.settings.normalize,
        metric=codebook.settings.metric,
    )
    return prefix_agreement(codes, other.quantize(embeddings))
