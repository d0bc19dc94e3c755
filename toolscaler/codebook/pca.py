"""Principal component analysis in row blocks: wide float vectors go in, mean and components come out.

Large inputs are never copied whole: every pass centres one block of rows in a buffer of a few megabytes. Small inputs
are decomposed exactly; large ones by a randomised Nystrom approximation of the covariance, warmed up on a sample of the
rows, which reads the input twice.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from toolscaler.errors import CodebookError

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
Float64Array = NDArray[np.float64]

_BLOCK_ROWS = 256
# Below this count of multiply-adds a full singular value decomposition takes well under a second.
_EXACT_WORK = 3e8
_OVERSAMPLING = 16
_SAMPLE_ROWS = 4096
_SAMPLE_ITERATIONS = 4


@dataclass(frozen=True)
class PCAProjection:
    """A fitted projection to R dimensions.

    Attributes:
        mean: float32 (D,).
        components: float32 (R, D), orthonormal rows, the one of most variance first. In each row the entry of largest
            magnitude is positive, so that the sign does not depend on the solver.
        explained_variance: float32 (R,), variance along each component.
        explained_variance_ratio: float32 (R,), the same as shares of the total variance (zeros if there is none).
    """

    mean: FloatArray
    components: FloatArray
    explained_variance: FloatArray
    explained_variance_ratio: FloatArray

    def transform(self, vectors: NDArray[np.floating]) -> FloatArray:
        """Project (N, D) to float32 (N, R), block by block."""
        return project(vectors, self.mean, self.components)


def project(vectors: NDArray[np.floating], mean: FloatArray, components: FloatArray) -> FloatArray:
    """Give ``(vectors - mean) @ components.T`` as float32 without a copy of the whole input.

    Args:
        vectors: Any float dtype (N, D); may be a strided view or a memory map.
        mean: float32 (D,).
        components: float32 (R, D).

    Returns:
        float32 (N, R).
    """
    result = np.empty((len(vectors), len(components)), dtype=np.float32)
    buffer = np.zeros((_BLOCK_ROWS, len(mean)), dtype=np.float32)
    part = np.empty((_BLOCK_ROWS, len(components)), dtype=np.float32)
    matrix = np.ascontiguousarray(components.T)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(vectors))
        with np.errstate(invalid="ignore", over="ignore"):  # callers look at the result
            np.subtract(vectors[start:stop], mean, out=buffer[: stop - start], casting="same_kind")
        # Always the full block: BLAS picks other kernels for other shapes, and a tool's code must not depend on how
        # many tools are projected with it.
        with np.errstate(invalid="ignore", over="ignore"):
            np.matmul(buffer, matrix, out=part)
        result[start:stop] = part[: stop - start]
    return result


def fit_pca(
    vectors: NDArray[np.floating],
    reduced_dim: int,
    *,
    rng: np.random.Generator | None = None,
    method: Literal["auto", "exact", "randomized"] = "auto",
) -> PCAProjection:
    """Fit a projection to the directions of most variance (paper section 4.1, e -> e-hat).

    Args:
        vectors: Any float dtype (N, D); may be a strided view or a memory map.
        reduced_dim: R, at most min(N, D).
        rng: Source of randomness of the randomised method; seed 0 if ``None``.
        method: ``exact`` (singular value decomposition in float64), ``randomized``, or ``auto`` by size.

    Returns:
        The projection.

    Raises:
        CodebookError: Wrong shape, R out of range, or values that are NaN or infinite.
    """
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise CodebookError(f"expected float vectors of shape (N, D), got {vectors.dtype} of shape {vectors.shape}")
    rows, dim = vectors.shape
    if not 1 <= reduced_dim <= min(rows, dim):
        raise CodebookError(f"expected 1 <= reduced_dim <= min(N, D) = {min(rows, dim)}, got {reduced_dim}")
    if method == "auto":
        method = "exact" if rows * dim * min(rows, dim) <= _EXACT_WORK else "randomized"
    if method == "exact":
        mean, basis, variance, total = _exact(vectors, reduced_dim)
    else:
        generator = np.random.default_rng(0) if rng is None else rng
        mean, basis, variance, total = _randomized(vectors, reduced_dim, generator)
    peaks = np.argmax(np.abs(basis), axis=1)
    basis *= np.where(basis[np.arange(reduced_dim), peaks] < 0, -1.0, 1.0)[:, None]
    ratio = variance / total if total > 0 else np.zeros_like(variance)
    return PCAProjection(*(np.ascontiguousarray(part, dtype=np.float32) for part in (mean, basis, variance, ratio)))


def _exact(vectors: NDArray[np.floating], reduced_dim: int) -> tuple[Float64Array, Float64Array, Float64Array, float]:
    data = vectors.astype(np.float64)
    _require_finite(data, np.arange(len(data)))
    mean = data.mean(axis=0)
    data -= mean
    _, singular, basis = np.linalg.svd(data, full_matrices=False)
    variance = singular**2 / max(len(data) - 1, 1)
    return mean, basis[:reduced_dim].copy(), variance[:reduced_dim], float(variance.sum())


def _require_finite(block: NDArray[np.floating], rows: NDArray[np.intp]) -> None:
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        row = int(rows[np.argmin(finite)])
        raise CodebookError(f"expected finite embeddings, got NaN or infinity in row {row}; re-encode that tool")


def _orthonormal(matrix: Float64Array) -> FloatArray:
    return np.linalg.qr(matrix)[0].astype(np.float32)


def _covariance_pass(
    vectors: NDArray[np.floating], shift: FloatArray, basis: FloatArray
) -> tuple[Float64Array, Float64Array, float]:
    """One reading of the input X: ``(X-s)^T (X-s) Q``, the column sums of X-s, and the sum of squares of X-s."""
    product = np.zeros(basis.shape, dtype=np.float64)
    sums = np.zeros(len(shift), dtype=np.float64)
    squares = 0.0
    buffer = np.empty((_BLOCK_ROWS, len(shift)), dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(vectors))
        with np.errstate(invalid="ignore", over="ignore"):
            block = np.subtract(vectors[start:stop], shift, out=buffer[: stop - start], casting="same_kind")
            column_sums = block.sum(axis=0)
        if not np.isfinite(column_sums).all():
            _require_finite(block, np.arange(start, stop))
        product += block.T @ (block @ basis)
        sums += column_sums
        squares += float(np.einsum("nd,nd->n", block, block).sum(dtype=np.float64))
    return product, sums, squares


def _randomized(
    vectors: NDArray[np.floating], reduced_dim: int, rng: np.random.Generator
) -> tuple[Float64Array, Float64Array, Float64Array, float]:
    """Nystrom approximation of the scatter matrix (Tropp et al., 2017) after power iterations on a sample.

    1. Power iterations on at most 4,096 rows give a basis Q close to the leading subspace.
    2. One pass over all rows gives the exact mean and one power iteration: Q <- orth((X-m)^T (X-m) Q).
    3. A second pass gives Z = S Q with S = (X-m)^T (X-m); then S is approximated by Z (Q^T Z)^-1 Z^T, whose
       eigenvectors are the components. No further pass for a Rayleigh quotient is needed.
    """
    rows, dim = vectors.shape
    width = min(reduced_dim + _OVERSAMPLING, rows, dim)
    chosen = np.arange(rows)
    if rows > _SAMPLE_ROWS:
        chosen = np.sort(rng.choice(rows, size=_SAMPLE_ROWS, replace=False))
    sample = vectors[chosen].astype(np.float32)
    _require_finite(sample, chosen)
    shift = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    sample -= shift
    basis = rng.standard_normal((dim, width)).astype(np.float32)
    for _ in range(_SAMPLE_ITERATIONS):
        basis = _orthonormal((sample.T @ (sample @ basis)).astype(np.float64))
    del sample

    product, sums, _ = _covariance_pass(vectors, shift, basis)
    offset = sums / rows  # the exact mean minus the sample's
    mean = (shift + offset).astype(np.float32)
    product -= rows * np.outer(offset, offset @ basis)
    basis = _orthonormal(product)
    product, _, squares = _covariance_pass(vectors, mean, basis)

    # A tiny multiple of the identity keeps the small system positive definite when the input has less than full rank.
    nudge = np.finfo(np.float32).eps * np.linalg.norm(product) + np.finfo(np.float32).tiny
    shifted = product + nudge * basis
    core = basis.T.astype(np.float64) @ shifted
    values, rotation = np.linalg.eigh((core + core.T) / 2)
    root = shifted @ (rotation / np.sqrt(np.maximum(values, nudge)))
    left, singular, _ = np.linalg.svd(root, full_matrices=False)
    scatter = np.maximum(singular**2 - nudge, 0.0)[:reduced_dim]
    divisor = max(rows - 1, 1)
    return mean.astype(np.float64), left.T[:reduced_dim].copy(), scatter / divisor, squares / divisor
