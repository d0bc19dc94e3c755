"""RQ-VAE: two small networks around residual quantisation, fitted by gradient descent (the paper's contrast)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.quantizers.base import TableQuantizer
from toolscaler.errors import CodebookError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

NETWORK = ("encoder_in", "encoder_bias", "encoder_out", "decoder_in", "decoder_bias", "decoder_out")
_BLOCK_ROWS = 256


class RQVAEQuantizer(TableQuantizer):
    """Residual quantisation between an encoder and a decoder, each ``x + relu(x A + a) B``.

    Networks are applied with numpy, so that a fitted codebook needs no torch. Vectors are divided by ``scale`` for the
    networks and multiplied again afterwards.

    Args:
        tables: L arrays float32 (K, Z), Z at most R: the codebooks in the latent space.
        network: The six arrays of :data:`NETWORK`: (R, H), (H,), (H, Z), (Z, H), (H,), (H, R).
        scale: float32 (1,), root mean square of the vectors of the fit.
        history: float32 (evaluations,), relative squared error on the fitted vectors in the course of training.
    """

    def __init__(
        self, tables: Sequence[FloatArray], network: Mapping[str, FloatArray], scale: FloatArray, history: FloatArray
    ) -> None:
        super().__init__(tables)
        self._network = {name: np.ascontiguousarray(network[name], dtype=np.float32) for name in NETWORK}
        self._scale, self._history = np.asarray(scale, dtype=np.float32), np.asarray(history, dtype=np.float32)
        latent, (reduced, hidden) = self.tables[0].shape[1], self._network["encoder_in"].shape
        wanted = ((reduced, hidden), (hidden,), (hidden, latent), (latent, hidden), (hidden,), (hidden, reduced))
        found = tuple(self._network[name].shape for name in NETWORK)
        if found != wanted or latent > reduced or self._scale.shape != (1,) or self._history.ndim != 1:
            raise CodebookError(f"expected RQ-VAE networks of shapes {wanted}, got {found}")

    def to_points(self, vectors: FloatArray) -> FloatArray:
        """Encode: float32 (N, R) -> (N, Z)."""
        return self._apply("encoder", vectors, self.tables[0].shape[1])

    def from_points(self, points: FloatArray) -> FloatArray:
        """Decode: float32 (N, Z) -> (N, R)."""
        return self._apply("decoder", points, self._network["decoder_out"].shape[1])

    def _apply(self, name: str, vectors: FloatArray, width: int) -> FloatArray:
        inner, bias, outer = (self._network[f"{name}_{part}"] for part in ("in", "bias", "out"))
        result = np.empty((len(vectors), width), dtype=np.float32)
        shared = min(width, inner.shape[0])
        for start in range(0, len(vectors), _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, len(vectors))
            # A full block always: a row's result must not depend on how many rows come with it.
            block = np.zeros((_BLOCK_ROWS, inner.shape[0]), dtype=np.float32)
            block[: stop - start] = vectors[start:stop] / self._scale
            out = np.maximum(block @ inner + bias, 0.0) @ outer
            out[:, :shared] += block[:, :shared]
            result[start:stop] = out[: stop - start] * self._scale
        return result

    def level_vectors(self) -> list[FloatArray]:
        """Give what each code adds to the decoded vector when the levels before it carry their mean centroid."""
        base = np.zeros((1, self.tables[0].shape[1]), dtype=np.float32)
        tables = []
        for level, table in enumerate(self.tables):
            decoded = self.from_points(base + table)
            tables.append(decoded if level == 0 else decoded - self.from_points(base))
            base = base + table.mean(axis=0, keepdims=True)
        return tables

    def tensors(self) -> dict[str, NDArray]:
        """Give the networks, ``scale`` and ``history``."""
        return {**self._network, "scale": self._scale, "history": self._history}
