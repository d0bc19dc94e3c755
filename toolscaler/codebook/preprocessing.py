"""Before the quantiser: gist embeddings (N, D) of one position go in, reduced vectors (N, R) come out, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.pca import PCAProjection, fit_pca, project
from toolscaler.codebook.settings import QuantizerSettings

FloatArray = NDArray[np.float32]

_BLOCK_ROWS = 256
_TINY = 1e-12


@dataclass(frozen=True)
class Preprocessing:
    """The fitted steps of one gist position, in their order: length, projection, whitening, length.

    Attributes:
        mean: float32 (D,).
        components: float32 (R, D); no rows where there is no projection.
        input_norm: Length that embeddings are brought to, or ``None``.
        scale: float32 (R,), what each reduced dimension is divided by, or ``None``.
        point_norm: Length that reduced vectors are brought to (metric ``cosine``), or ``None``.
    """

    mean: FloatArray
    components: FloatArray
    input_norm: np.float32 | None = None
    scale: FloatArray | None = None
    point_norm: np.float32 | None = None

    def reduce(self, vectors: NDArray[np.floating]) -> FloatArray:
        """Give float32 (N, R) of float (N, D), block by block; a row's result depends on that row only."""
        reduced = self._project(vectors)
        if self.scale is not None:
            reduced /= self.scale
        return reduced if self.point_norm is None else _to_length(reduced, self.point_norm)

    def _project(self, vectors: NDArray[np.floating]) -> FloatArray:
        if self.input_norm is None and len(self.components):
            return project(vectors, self.mean, self.components)
        result = np.empty((len(vectors), len(self.components) or len(self.mean)), dtype=np.float32)
        for start in range(0, len(vectors), _BLOCK_ROWS):
            block = np.asarray(vectors[start : start + _BLOCK_ROWS], dtype=np.float32)
            if self.input_norm is not None:
                block = _to_length(block, self.input_norm)
            rows = slice(start, start + len(block))
            with np.errstate(invalid="ignore", over="ignore"):  # callers look at the result
                result[rows] = project(block, self.mean, self.components) if len(self.components) else block - self.mean
        return result

    def expand(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Take reduced vectors or differences of such (N, R) back to D dimensions, without the mean."""
        scaled = points if self.scale is None else points * self.scale
        return scaled @ self.components if len(self.components) else scaled


def _to_length(vectors: FloatArray, length: np.float32) -> FloatArray:
    """Rows of one length; a row of zeros stays."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    return (vectors * (length / np.maximum(norms, _TINY))[:, None]).astype(np.float32)


def _mean_length(vectors: NDArray[np.floating]) -> np.float32:
    total = 0.0
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = np.asarray(vectors[start : start + _BLOCK_ROWS], dtype=np.float64)
        total += float(np.sqrt(np.einsum("nd,nd->n", block, block)).sum())
    return np.float32(total / len(vectors))


class _Normalised:
    """Rows of an array brought to one length when they are read, so that the array is not copied whole."""

    def __init__(self, vectors: NDArray[np.floating], length: np.float32) -> None:
        self._vectors, self._length = vectors, length
        self.shape, self.ndim, self.dtype = vectors.shape, vectors.ndim, np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> FloatArray:
        return _to_length(np.asarray(self._vectors[rows], dtype=np.float32), self._length)

    def astype(self, dtype: type[np.generic]) -> NDArray:
        return self[:].astype(dtype)


def fit_preprocessing(
    vectors: NDArray[np.floating], reduced_dim: int, settings: QuantizerSettings, rng: np.random.Generator
) -> tuple[Preprocessing, PCAProjection, FloatArray]:
    """Fit the steps on one gist position.

    Args:
        vectors: float (N, D); not copied whole.
        reduced_dim: R; without a projection it is not looked at.
        settings: Which steps.
        rng: Source of randomness of the PCA.

    Returns:
        The steps; the projection with its variances (no components where there is none); and the reduced vectors
        float32 (N, R).

    Raises:
        CodebookError: Values that are NaN or infinite.
    """
    input_norm = _mean_length(vectors) if settings.normalize else None
    source = vectors if input_norm is None else _Normalised(vectors, input_norm)
    wide = cast("NDArray[np.floating]", source)
    pca = fit_pca(wide, reduced_dim, rng=rng) if settings.projection == "pca" else _centre_only(wide)
    steps = Preprocessing(pca.mean, pca.components, input_norm)
    reduced = steps.reduce(vectors)
    scale = None
    if settings.whiten:
        deviation = reduced.std(axis=0, dtype=np.float64)
        # A dimension without variance is left as it is: its values are rounding errors.
        floor = 1e-6 * max(float(deviation.max()), _TINY)
        scale = np.where(deviation > floor, deviation, 1.0).astype(np.float32)
        reduced = reduced / scale
    point_norm = _mean_length(reduced) if settings.metric == "cosine" else None
    if point_norm is not None:
        reduced = _to_length(reduced, point_norm)
    return Preprocessing(pca.mean, pca.components, input_norm, scale, point_norm), pca, reduced


def _centre_only(vectors: NDArray[np.floating]) -> PCAProjection:
    total = np.zeros(vectors.shape[1], dtype=np.float64)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        total += np.asarray(vectors[start : start + _BLOCK_ROWS], dtype=np.float64).sum(axis=0)
    mean = (total / len(vectors)).astype(np.float32)
    empty = np.zeros(0, dtype=np.float32)
    return PCAProjection(mean, np.zeros((0, vectors.shape[1]), dtype=np.float32), empty, empty)


def preprocessing_tensors(steps: list[Preprocessing], settings: QuantizerSettings) -> dict[str, FloatArray]:
    """Stack the optional arrays of all gist positions: ``input_norm`` (V,), ``scale`` (V, R), ``point_norm`` (V,)."""
    names = settings.preprocessing_tensors()
    return {name: np.stack([np.asarray(getattr(step, name), dtype=np.float32) for step in steps]) for name in names}


def preprocessing_from_tensors(
    mean: FloatArray, components: FloatArray, extra: Mapping[str, NDArray], gist: int
) -> Preprocessing:
    """Build the steps of one gist position again from the codebook's arrays."""
    values = {name: extra[name][gist] for name in ("input_norm", "scale", "point_norm") if name in extra}
    return Preprocessing(mean[gist], components[gist], **values)
