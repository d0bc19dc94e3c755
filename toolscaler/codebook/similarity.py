"""Similarity of tools from their codes alone, without a model (paper section 1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolscaler.errors import CodebookError


def hamming_distance(codes_a: NDArray[np.integer], codes_b: NDArray[np.integer] | None = None) -> NDArray[np.int64]:
    """Count the positions in which code sequences differ, for all pairs (paper section 1).

    Args:
        codes_a: Integers (A, P), or (P,) for one tool.
        codes_b: Integers (B, P), or (P,) for one tool; ``codes_a`` if ``None``.

    Returns:
        int64 (A, B); an input of one dimension drops its axis.

    Raises:
        CodebookError: The sequences have different lengths.

    Examples:
        >>> int(hamming_distance(np.array([90, 464, 192, 356]), np.array([90, 213, 192, 356])))
        1
    """
    a, b = _pair(codes_a, codes_b)
    distance = np.zeros((len(a), len(b)), dtype=np.int64)
    for position in range(a.shape[1]):  # one position at a time: no (A, B, P) array
        distance += a[:, position, None] != b[None, :, position]
    return _drop_axes(distance, codes_a, codes_b)


def prefix_similarity(
    codes_a: NDArray[np.integer], codes_b: NDArray[np.integer] | None = None, *, num_levels: int | None = None
) -> NDArray[np.float64]:
    """Weigh agreement by the prefix, for all pairs: a position counts only if all coarser ones of its gist agree.

    Args:
        codes_a: Integers (A, P), or (P,) for one tool.
        codes_b: Integers (B, P), or (P,) for one tool; ``codes_a`` if ``None``.
        num_levels: L. Codes of a gist position are a hierarchy of their own, so the common prefix is counted within
            each run of L positions and summed. ``None`` takes the whole sequence as one hierarchy, as the trie does.

    Returns:
        float64 (A, B) from 0 (no first code in common) to 1 (equal); an input of one dimension drops its axis.

    Raises:
        CodebookError: The sequences have different lengths, or ``num_levels`` is below 1.

    Examples:
        >>> float(prefix_similarity(np.array([1, 2, 3, 4]), np.array([1, 2, 9, 4])))
        0.5
        >>> float(prefix_similarity(np.array([1, 2, 3, 4]), np.array([9, 2, 3, 4]), num_levels=2))
        0.5
    """
    a, b = _pair(codes_a, codes_b)
    length = a.shape[1]
    levels = length if num_levels is None else num_levels
    if length and levels < 1:
        raise CodebookError(f"expected num_levels of at least 1, got {num_levels}")
    common = np.zeros((len(a), len(b)), dtype=np.int64)
    alive = np.ones(common.shape, dtype=bool)
    for position in range(length):
        if position % levels == 0:
            alive[:] = True
        alive &= a[:, position, None] == b[None, :, position]
        common += alive
    return _drop_axes(common / max(length, 1), codes_a, codes_b)


def _pair(
    codes_a: NDArray[np.integer], codes_b: NDArray[np.integer] | None
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    a = np.atleast_2d(np.asarray(codes_a))
    b = a if codes_b is None else np.atleast_2d(np.asarray(codes_b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise CodebookError(f"expected code sequences of one length, got shapes {a.shape} and {b.shape}")
    return a, b


def _drop_axes(table: NDArray, codes_a: NDArray[np.integer], codes_b: NDArray[np.integer] | None) -> NDArray:
    single_a = np.ndim(codes_a) == 1
    single_b = single_a if codes_b is None else np.ndim(codes_b) == 1
    return table[(0 if single_a else slice(None), 0 if single_b else slice(None))]
