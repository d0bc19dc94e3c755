"""Fits of the quantisers that are tables: product k-means without residual, and FSQ as the last level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.kmeans import kmeans
from toolscaler.codebook.quantizers.base import TableQuantizer
from toolscaler.codebook.residual_kmeans import encode_residual, fit_residual_kmeans
from toolscaler.codebook.settings import check_options
from toolscaler.errors import CodebookError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

PRODUCT_OPTIONS: dict[str, Any] = {"split": "balanced"}
FSQ_OPTIONS: dict[str, Any] = {"levels": None}

# Steps of the grid that are tried, in standard deviations; the best uniform step for a Gaussian lies in this range for
# 2 (1.6) to 64 (0.1) values.
_GRID_STEPS = np.geomspace(0.05, 3.0, 60)
_MOST_FSQ_CODES = 65_536


def fit_residual(
    vectors: FloatArray,
    num_levels: int,
    num_centroids: int,
    *,
    seed: Sequence[int],
    options: Mapping[str, Any],
    **run: Any,
) -> tuple[TableQuantizer, IntArray]:
    """Residual k-means (paper section 4.1); it has no options of its own. The codes are the nearest ones."""
    check_options("residual_kmeans", options, {})
    tables, codes = fit_residual_kmeans(vectors, num_levels, num_centroids, seed=seed, **run)
    return TableQuantizer(list(tables)), codes


def fit_balanced(
    vectors: FloatArray,
    num_levels: int,
    num_centroids: int,
    *,
    seed: Sequence[int],
    options: Mapping[str, Any],
    **run: Any,
) -> tuple[TableQuantizer, IntArray]:
    """Residual k-means whose clusters hold at most 1.5 times the mean; the fitted codes keep the cap."""
    check_options("balanced_residual_kmeans", options, {})
    tables, codes = fit_residual_kmeans(vectors, num_levels, num_centroids, seed=seed, balanced=True, **run)
    return TableQuantizer(list(tables)), codes


def fit_product(
    vectors: FloatArray,
    num_levels: int,
    num_centroids: int,
    *,
    seed: Sequence[int],
    options: Mapping[str, Any],
    **run: Any,
) -> tuple[TableQuantizer, None]:
    """Product k-means: the R dimensions are split into L groups, each clustered on its own, without residuals.

    A code adds a vector that is zero outside its group, so the nearest codes level after level are the best ones.
    Option ``split``: ``balanced`` (default: the dimension of most variance goes to the group of least summed variance)
    or ``contiguous`` (groups of neighbouring dimensions).

    Raises:
        CodebookError: An unknown option, or fewer dimensions than levels.
    """
    split = check_options("product_kmeans", options, PRODUCT_OPTIONS)["split"]
    dims = vectors.shape[1]
    if split not in ("balanced", "contiguous"):
        raise CodebookError(f"expected split of balanced, contiguous, got {split!r}")
    if dims < num_levels:
        raise CodebookError(
            f"product_kmeans: expected at least {num_levels} reduced dimensions for {num_levels} levels, got {dims}"
        )
    tables = []
    for level, group in enumerate(_groups(vectors, num_levels, split)):
        found = kmeans(vectors[:, group], num_centroids, rng=np.random.default_rng([*seed, level]), **run)
        table = np.zeros((num_centroids, dims), dtype=np.float32)
        table[:, group] = found.centroids
        tables.append(table)
    return TableQuantizer(tables), None


def _groups(vectors: FloatArray, count: int, split: str) -> list[NDArray[np.intp]]:
    dims = vectors.shape[1]
    if split == "contiguous":
        return np.array_split(np.arange(dims), count)
    variance = vectors.var(axis=0, dtype=np.float64)
    groups: list[list[int]] = [[] for _ in range(count)]
    for dim in np.argsort(-variance, kind="stable").tolist():
        # An empty group comes first, so that every one gets a dimension even where the rest has no variance.
        target = min(groups, key=lambda group: (len(group) > 0, sum(variance[d] for d in group)))
        target.append(dim)
    return [np.array(sorted(group), dtype=np.intp) for group in groups]


def fit_fsq(
    vectors: FloatArray,
    num_levels: int,
    num_centroids: int,
    *,
    seed: Sequence[int],
    options: Mapping[str, Any],
    **run: Any,
) -> tuple[TableQuantizer, None]:
    """Residual k-means with a finite scalar quantiser as the last level (after Mentzer et al., 2023, untrained).

    The last residual is rotated to its principal axes, and the leading ones are rounded to a grid of equal steps; the
    code is the number of the grid cell. The grid needs no vectors near each of its points, so codes of rare tools do
    not collapse as k-means clusters do. Its step is the one of least squared error.

    Option ``levels``: values of each axis, such as ``[8, 8, 8]``; its product is the size of the last code. Default:
    powers of two given to the axis of most remaining variance while the product stays within K.

    Raises:
        CodebookError: An unknown option, or ``levels`` that do not fit.
    """
    levels = check_options("fsq", options, FSQ_OPTIONS)["levels"]
    residual = np.ascontiguousarray(vectors, dtype=np.float32)
    tables: list[FloatArray] = []
    if num_levels > 1:
        found, _ = fit_residual_kmeans(residual, num_levels - 1, num_centroids, seed=seed, **run)
        codes = encode_residual(residual, found)
        for level, table in enumerate(found):
            residual = residual - table[codes[:, level]]
        tables.extend(found)
    data = residual.astype(np.float64)
    mean = data.mean(axis=0)
    data -= mean
    variance, axes = np.linalg.eigh(data.T @ data / len(data))
    deviation, axes = np.sqrt(np.maximum(variance[::-1], 0.0)), axes[:, ::-1]
    counts = _grid_counts(deviation, num_centroids) if levels is None else _checked_counts(levels, len(deviation))
    axes = axes[:, : len(counts)]
    grid = [
        _best_step(data @ axis, width, count) * (np.arange(count) - (count - 1) / 2)
        for axis, width, count in zip(axes.T, deviation, counts, strict=False)
    ]
    cells = np.stack([part.ravel() for part in np.meshgrid(*grid, indexing="ij")], axis=1)
    tables.append((cells @ axes.T + mean).astype(np.float32))
    return TableQuantizer(tables), None


def _grid_counts(deviation: NDArray[np.float64], limit: int) -> list[int]:
    counts = np.ones(len(deviation), dtype=np.int64)
    while 2 * counts.prod() <= limit:
        counts[np.argmax(deviation / counts)] *= 2
    # Axes are in the order of their variance, so those with one value only are the last ones; one axis is kept.
    return counts[: max(int((counts > 1).sum()), 1)].tolist()


def _checked_counts(levels: Any, dims: int) -> list[int]:
    fits = isinstance(levels, list | tuple) and 0 < len(levels) <= dims
    if not fits or not all(isinstance(count, int) and count >= 1 for count in levels):
        raise CodebookError(f"fsq: expected levels as 1 to {dims} counts of at least 1, got {levels!r}")
    if math.prod(levels) > _MOST_FSQ_CODES:
        raise CodebookError(f"fsq: expected at most {_MOST_FSQ_CODES} codes, got {math.prod(levels)}")
    return list(levels)


def _best_step(values: NDArray[np.float64], deviation: float, count: int) -> float:
    """Step of the equally spaced, centred grid of least squared error on the values."""
    if count == 1 or deviation == 0:
        return float(deviation)
    edge = (count - 1) / 2
    errors = []
    for step in _GRID_STEPS * deviation:
        cell = np.clip(np.floor(values / step + edge + 0.5), 0, count - 1)
        errors.append(float(np.square(values - step * (cell - edge)).sum()))
    return float(_GRID_STEPS[int(np.argmin(errors))] * deviation)
