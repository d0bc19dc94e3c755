"""Hierarchical k-means: every cluster is clustered again on its own, and a code sequence is a path in the tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.kmeans import kmeans, nearest_centroids
from toolscaler.codebook.quantizers.base import Quantizer, keep_lowest
from toolscaler.codebook.settings import check_options
from toolscaler.errors import CodebookError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

OPTIONS: dict[str, Any] = {"tools_per_leaf": 4}


class HierarchicalQuantizer(Quantizer):
    """A tree of centroids: code k of a level means another vector below every parent.

    A parent may have fewer children than the level has codes. A code without a child of its own stands for the parent
    itself (it adds nothing), so every code sequence is valid and may be given to a tool that must move.

    Args:
        offsets: L arrays float32 (nodes of level l, R): what a node adds to its parent.
        starts: L arrays int64 (nodes of level l - 1 + 1,), first child of each parent; level 0 has one parent.
        sizes: Codes of each level.
    """

    def __init__(
        self, offsets: Sequence[FloatArray], starts: Sequence[NDArray[np.int64]], sizes: Sequence[int]
    ) -> None:
        self._offsets, self._starts, self._sizes = tuple(offsets), tuple(starts), tuple(sizes)
        for level, (rows, first) in enumerate(zip(self._offsets, self._starts, strict=True)):
            parents = 1 if level == 0 else len(self._offsets[level - 1])
            counts = np.diff(first)
            fits = len(first) == parents + 1 and first[0] == 0 and first[-1] == len(rows) and len(rows) > 0
            if not fits or counts.min() < 0 or counts.max() > self._sizes[level]:
                raise CodebookError(f"level {level} of the tree: the children do not fit their parents")

    @property
    def sizes(self) -> tuple[int, ...]:
        """See the base class."""
        return self._sizes

    def _children(self, level: int, parents: NDArray[np.int64], codes: NDArray) -> NDArray[np.int64]:
        """Node of a code below each parent, -1 where there is none (or no parent)."""
        safe = np.maximum(parents, 0)
        first, stop = self._starts[level][safe], self._starts[level][safe + 1]
        return np.where((parents >= 0) & (codes < stop - first), first + codes, -1)

    def _offset(self, level: int, nodes: NDArray[np.int64]) -> FloatArray:
        return self._offsets[level][np.maximum(nodes, 0)] * (nodes >= 0)[..., None].astype(np.float32)

    def quantize_points(self, points: FloatArray) -> IntArray:
        """See the base class; a code of a missing child is never nearest unless the parent has no child at all."""
        residual = np.ascontiguousarray(points, dtype=np.float32)
        codes = np.zeros((len(residual), len(self._sizes)), dtype=np.int32)
        nodes = np.zeros(len(residual), dtype=np.int64)
        for level in range(len(self._sizes)):
            for parent in np.unique(nodes[nodes >= 0]):
                start, stop = self._starts[level][parent], self._starts[level][parent + 1]
                if stop > start:
                    members = np.flatnonzero(nodes == parent)
                    codes[members, level] = nearest_centroids(residual[members], self._offsets[level][start:stop])[0]
            nodes = self._children(level, nodes, codes[:, level])
            residual = residual - self._offset(level, nodes)
        return codes

    def combinations(self, points: FloatArray, width: int) -> tuple[FloatArray, IntArray]:
        """See the base class."""
        rows = len(points)
        residual = points[:, None, :]
        nodes = np.zeros((rows, 1), dtype=np.int64)
        found = np.zeros((rows, 1, 0), dtype=np.int32)
        costs = np.einsum("nbr,nbr->nb", residual, residual)
        for level, size in enumerate(self._sizes):
            scores = np.broadcast_to(costs[:, :, None], (*costs.shape, size)).copy()
            self._add_distances(level, nodes, residual, scores)
            best, costs = keep_lowest(scores.reshape(rows, -1), width)
            parent, code = np.divmod(best, size)
            found = np.concatenate(
                [np.take_along_axis(found, parent[:, :, None], axis=1), code[:, :, None].astype(np.int32)], axis=2
            )
            nodes = self._children(level, np.take_along_axis(nodes, parent, axis=1), code)
            residual = np.take_along_axis(residual, parent[:, :, None], axis=1) - self._offset(level, nodes)
        return costs, found

    def _add_distances(self, level: int, nodes: NDArray[np.int64], residual: FloatArray, scores: FloatArray) -> None:
        """Add |c|^2 - 2 r.c of every child to the scores (n, b, K); codes without a child keep their parent's."""
        for parent in np.unique(nodes[nodes >= 0]):
            start, stop = self._starts[level][parent], self._starts[level][parent + 1]
            if stop > start:
                table = self._offsets[level][start:stop]
                row, beam = np.nonzero(nodes == parent)
                part = residual[row, beam] @ (-2.0 * table.T) + np.einsum("kr,kr->k", table, table)
                scores[row, beam, : stop - start] += part

    def partial_points(self, codes: IntArray) -> list[FloatArray]:
        """See the base class."""
        parts = [np.zeros((len(codes), self._offsets[0].shape[1]), dtype=np.float32)]
        nodes = np.zeros(len(codes), dtype=np.int64)
        for level in range(len(self._sizes)):
            nodes = self._children(level, nodes, codes[:, level])
            parts.append(parts[-1] + self._offset(level, nodes))
        return parts

    def level_vectors(self) -> list[FloatArray]:
        """Give the offsets of each code averaged over the parents that have such a child (zeros where none has)."""
        tables = []
        for level, size in enumerate(self._sizes):
            counts = np.diff(self._starts[level])
            codes = np.arange(len(self._offsets[level])) - np.repeat(self._starts[level][:-1], counts)
            table = np.zeros((size, self._offsets[level].shape[1]), dtype=np.float64)
            np.add.at(table, codes, self._offsets[level])
            table /= np.maximum(np.bincount(codes, minlength=size), 1)[:, None]
            tables.append(table.astype(np.float32))
        return tables

    def tensors(self) -> dict[str, NDArray]:
        """Give ``offsets_l`` float32 and ``starts_l`` int64 of every level."""
        pairs = zip(self._offsets, self._starts, strict=True)
        return {
            name: array
            for level, (rows, first) in enumerate(pairs)
            for name, array in ((f"offsets_{level}", rows), (f"starts_{level}", first))
        }


def fit_hierarchical(
    vectors: FloatArray,
    num_levels: int,
    num_centroids: int,
    *,
    seed: Sequence[int],
    options: Mapping[str, Any],
    **run: Any,
) -> tuple[HierarchicalQuantizer, None]:
    """Fit a tree of k-means: float32 (N, R) -> quantiser of L levels of at most K children.

    Option ``tools_per_leaf`` (default 4): a cluster of n tools is split into at most n / tools_per_leaf children, so
    that the last code is more than the index of one tool.

    Raises:
        CodebookError: An unknown option or one out of range.
    """
    values = check_options("hierarchical_kmeans", options, OPTIONS)
    leaf = values["tools_per_leaf"]
    if not isinstance(leaf, int) or leaf < 1:
        raise CodebookError(f"expected tools_per_leaf of at least 1, got {leaf!r}")
    residual = np.array(vectors, dtype=np.float32)  # a copy: it is worked on in place
    nodes = np.zeros(len(residual), dtype=np.int64)
    offsets, starts = [], []
    parents = 1
    for level in range(num_levels):
        order = np.argsort(nodes, kind="stable")
        bounds = np.searchsorted(nodes[order], np.arange(parents + 1))
        tables, following = [], np.empty_like(nodes)
        first = np.zeros(parents + 1, dtype=np.int64)
        for parent in range(parents):
            members = order[bounds[parent] : bounds[parent + 1]]
            # The first level has the size that was asked for (and that the catalogue can fill) in any case.
            count = min(num_centroids, len(members) if level == 0 else -(-len(members) // leaf))
            if count:
                found = kmeans(residual[members], count, rng=np.random.default_rng([*seed, level, parent]), **run)
                tables.append(found.centroids)
                following[members] = first[parent] + found.labels
                residual[members] -= found.centroids[found.labels]
            first[parent + 1] = first[parent] + count
        offsets.append(np.concatenate(tables))
        starts.append(first)
        nodes, parents = following, int(first[-1])
    return HierarchicalQuantizer(offsets, starts, (num_centroids,) * num_levels), None
