"""The interface of a quantiser of one gist position, and the common kind: a code adds one vector of a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.kmeans import nearest_centroids

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

_CHUNK_ROWS = 256
_BLOCK = 64


class Quantizer(ABC):
    """Reduced vectors (N, R) of one gist position ↔ codes (N, L). Fitted and immutable.

    Distances are measured in the quantiser's own space of Z dimensions ("points"): for all kinds but the RQ-VAE that is
    the reduced space itself.
    """

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """Number of codes of each of the L levels."""

    @abstractmethod
    def quantize_points(self, points: FloatArray) -> IntArray:
        """Give the nearest code level after level: float32 (N, Z) -> int32 (N, L)."""

    @abstractmethod
    def combinations(self, points: FloatArray, width: int) -> tuple[FloatArray, IntArray]:
        """List good code combinations by beam search over the levels.

        Args:
            points: float32 (n, Z).
            width: Beam width; with the product of all sizes every combination is listed.

        Returns:
            Squared errors float32 (n, m), ascending, and codes int32 (n, m, L), m at most ``width``.
        """

    @abstractmethod
    def partial_points(self, codes: IntArray) -> list[FloatArray]:
        """Give L + 1 arrays float32 (N, Z): the point that the first l codes name, l = 0 (the origin) to L."""

    @abstractmethod
    def tensors(self) -> dict[str, NDArray]:
        """Give the arrays beside the centroid table that the quantiser consists of, by name."""

    def to_points(self, vectors: FloatArray) -> FloatArray:
        """Take reduced vectors (N, R) into the space in which they are quantised (N, Z); a row depends on itself."""
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def from_points(self, points: FloatArray) -> FloatArray:
        """Take points (N, Z) back to the reduced space (N, R)."""
        return points

    def quantize(self, vectors: FloatArray, *, beam_width: int | None = None) -> IntArray:
        """Code reduced vectors: float32 (N, R) -> int32 (N, L).

        Args:
            vectors: float32 (N, R). A row's codes depend on that row only.
            beam_width: ``None`` for nearest codes level after level (paper, Algorithm 1); else the levels are searched
                together, and a row takes the combination found where its error is below the greedy one's.
        """
        points = self.to_points(vectors)
        codes = self.quantize_points(points)
        if beam_width is None:
            return codes
        greedy = self.point_errors(points, codes)
        for start in range(0, len(points), _CHUNK_ROWS):
            stop = min(start + _CHUNK_ROWS, len(points))
            # Always a full block: BLAS rounds other shapes otherwise, and a row must not depend on its company.
            block = np.zeros((_CHUNK_ROWS, points.shape[1]), dtype=np.float32)
            block[: stop - start] = points[start:stop]
            found = self.combinations(block, beam_width)[1][: stop - start, 0]
            better = self.point_errors(points[start:stop], found) < greedy[start:stop]
            codes[start:stop][better] = found[better]
        return codes

    def partials(self, codes: IntArray) -> list[FloatArray]:
        """Give L + 1 arrays float32 (N, R): the reduced vector that the first l codes name; the first is zero."""
        first, *rest = self.partial_points(codes)
        zero = np.zeros_like(self.from_points(first[:0]), shape=(len(codes), self.from_points(first[:1]).shape[1]))
        return [zero, *(self.from_points(part) for part in rest)]

    def reconstruct(self, codes: IntArray) -> FloatArray:
        """Give the reduced vectors that codes name: int (N, L) -> float32 (N, R)."""
        return self.from_points(self.partial_points(codes)[-1])

    def point_errors(self, points: FloatArray, codes: IntArray) -> NDArray[np.float64]:
        """Squared quantisation error of each row, float64 (N,), in the space of the points."""
        rest = points - self.partial_points(codes)[-1]
        return np.einsum("nr,nr->n", rest, rest, dtype=np.float64)

    @abstractmethod
    def level_vectors(self) -> list[FloatArray]:
        """Give what each code of each level adds in the reduced space, float32 (size, R); a mean where it varies."""


class TableQuantizer(Quantizer):
    """A code adds the vector of its row: residual and balanced k-means, product k-means, FSQ.

    Args:
        tables: L arrays float32 (K_l, R).
    """

    def __init__(self, tables: Sequence[FloatArray]) -> None:
        self.tables = tuple(tables)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each table."""
        return tuple(map(len, self.tables))

    def quantize_points(self, points: FloatArray) -> IntArray:
        """See the base class."""
        residual = np.ascontiguousarray(points, dtype=np.float32)
        codes = np.empty((len(residual), len(self.tables)), dtype=np.int32)
        for level, table in enumerate(self.tables):
            codes[:, level] = nearest_centroids(residual, table)[0]
            residual = residual - table[codes[:, level]]
        return codes

    def combinations(self, points: FloatArray, width: int) -> tuple[FloatArray, IntArray]:
        """See the base class."""
        return nearest_combinations(points, self.tables, width)

    def partial_points(self, codes: IntArray) -> list[FloatArray]:
        """See the base class."""
        parts = [np.zeros((len(codes), self.tables[0].shape[1]), dtype=np.float32)]
        for level, table in enumerate(self.tables):
            parts.append(parts[-1] + table[codes[:, level]])
        return parts

    def level_vectors(self) -> list[FloatArray]:
        """See the base class."""
        return list(self.tables)

    def tensors(self) -> dict[str, NDArray]:
        """Give nothing: the tables are all there is."""
        return {}


def nearest_combinations(
    vectors: FloatArray, centroids: FloatArray | Sequence[FloatArray], width: int
) -> tuple[FloatArray, IntArray]:
    """List the combinations of one code per level whose centroids sum to nearly the vector (beam search over levels).

    Args:
        vectors: float32 (n, R).
        centroids: float32 (L, K, R), or L arrays (K_l, R).
        width: Beam width; with ``width`` of at least the product of all K_l every combination is listed.

    Returns:
        Squared errors float32 (n, m), ascending, and codes int32 (n, m, L) with ``m = min(width, ΠK_l)``.
    """
    rows = len(vectors)
    residual = vectors[:, None, :]
    combinations = np.zeros((rows, 1, 0), dtype=np.int32)
    costs = np.einsum("nbr,nbr->nb", residual, residual)
    for table in centroids:
        norms = np.einsum("kr,kr->k", table, table)
        scores = residual @ (-2.0 * table.T)
        scores += norms
        scores += costs[:, :, None]
        best, costs = keep_lowest(scores.reshape(rows, -1), width)
        parent, code = np.divmod(best, len(table))
        combinations = np.concatenate(
            [np.take_along_axis(combinations, parent[:, :, None], axis=1), code[:, :, None].astype(np.int32)], axis=2
        )
        residual = np.take_along_axis(residual, parent[:, :, None], axis=1) - table[code]
    return costs, combinations


def keep_lowest(scores: FloatArray, width: int) -> tuple[NDArray[np.intp], FloatArray]:
    """Places and values (at least 0) of the lowest scores of each row, ascending, equal ones by place."""
    rows, count = scores.shape
    keep = min(width, count)
    if 2 * _BLOCK * keep < count:
        # The lowest `keep` scores lie in the `keep` blocks of lowest minimum: a pass over minima spares the partition.
        blocks = count // _BLOCK
        minima = scores[:, : blocks * _BLOCK].reshape(rows, blocks, _BLOCK).min(axis=2)
        chosen = np.sort(np.argsort(minima, axis=1, kind="stable")[:, :keep], axis=1)
        places = (chosen[:, :, None] * _BLOCK + np.arange(_BLOCK)).reshape(rows, -1)
        rest = np.broadcast_to(np.arange(blocks * _BLOCK, count), (rows, count - blocks * _BLOCK))
        places = np.concatenate([places, rest], axis=1)
        best, values = keep_lowest(np.take_along_axis(scores, places, axis=1), keep)
        return np.take_along_axis(places, best, axis=1), values
    if keep < count:
        best = np.argpartition(scores, keep - 1, axis=1)[:, :keep]
    else:
        best = np.broadcast_to(np.arange(keep), (rows, keep))
    values = np.take_along_axis(scores, best, axis=1)
    order = np.lexsort((best, values), axis=1)  # ties go to the lower code, whatever the partition did
    best = np.take_along_axis(best, order, axis=1)
    return best, np.maximum(np.take_along_axis(values, order, axis=1), 0.0)
