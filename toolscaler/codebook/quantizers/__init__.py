"""Quantisers of one gist position behind one interface: reduced vectors go in, codes come out, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.quantizers.base import Quantizer, TableQuantizer, nearest_combinations
from toolscaler.codebook.quantizers.hierarchical import OPTIONS as HIERARCHICAL_OPTIONS
from toolscaler.codebook.quantizers.hierarchical import HierarchicalQuantizer, fit_hierarchical
from toolscaler.codebook.quantizers.rqvae import NETWORK, RQVAEQuantizer
from toolscaler.codebook.quantizers.rqvae_training import OPTIONS as RQVAE_OPTIONS
from toolscaler.codebook.quantizers.rqvae_training import fit_rqvae
from toolscaler.codebook.quantizers.tables import (
    FSQ_OPTIONS,
    PRODUCT_OPTIONS,
    fit_balanced,
    fit_fsq,
    fit_product,
    fit_residual,
)
from toolscaler.codebook.settings import check_options
from toolscaler.errors import CodebookError

__all__ = [
    "HierarchicalQuantizer",
    "Quantizer",
    "RQVAEQuantizer",
    "TableQuantizer",
    "centroid_stack",
    "check_quantizer_options",
    "fit_quantizer",
    "nearest_combinations",
    "quantizer_from_tensors",
]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


_FITS: dict[str, Callable[..., tuple[Quantizer, IntArray | None]]] = {
    "residual_kmeans": fit_residual,
    "balanced_residual_kmeans": fit_balanced,
    "product_kmeans": fit_product,
    "hierarchical_kmeans": fit_hierarchical,
    "fsq": fit_fsq,
    "rqvae": fit_rqvae,
}
_OPTIONS: dict[str, Mapping[str, Any]] = {
    "product_kmeans": PRODUCT_OPTIONS,
    "hierarchical_kmeans": HIERARCHICAL_OPTIONS,
    "fsq": FSQ_OPTIONS,
    "rqvae": RQVAE_OPTIONS,
}


def check_quantizer_options(kind: str, options: Mapping[str, Any]) -> None:
    """Check the names of a quantiser's options before anything is fitted; values are looked at by the fit.

    Raises:
        CodebookError: An unknown kind, or an option that it does not have.
    """
    if kind not in _FITS:
        raise CodebookError(f"expected quantizer of {', '.join(_FITS)}, got {kind!r}")
    check_options(kind, options, _OPTIONS.get(kind, {}))


def fit_quantizer(
    kind: str,
    vectors: FloatArray,
    num_levels: int,
    num_centroids: int,
    *,
    seed: Sequence[int],
    options: Mapping[str, Any],
    max_iterations: int = 100,
    num_restarts: int = 1,
) -> tuple[Quantizer, IntArray | None]:
    """Fit a quantiser of a kind on one gist position.

    Args:
        kind: A name of :data:`toolscaler.codebook.settings.QuantizerName`.
        vectors: float32 (N, R), after preprocessing.
        num_levels: L.
        num_centroids: K, at most N.
        seed: Numbers that seed every random choice.
        options: Options of the kind.
        max_iterations: Most Lloyd iterations of one k-means run.
        num_restarts: k-means runs; the best is kept.

    Returns:
        The quantiser, and the codes int32 (N, L) where the fit has them at hand.

    Raises:
        CodebookError: An unknown kind or option.
    """
    if kind not in _FITS:
        raise CodebookError(f"expected quantizer of {', '.join(_FITS)}, got {kind!r}")
    return _FITS[kind](
        vectors,
        num_levels,
        num_centroids,
        seed=seed,
        options=options,
        max_iterations=max_iterations,
        num_restarts=num_restarts,
    )


def centroid_stack(quantizer: Quantizer) -> FloatArray:
    """Give the centroid tables as one array float32 (L, K, Z); rows beyond a level's size are zero.

    For the tree of hierarchical k-means these are the averages of :meth:`Quantizer.level_vectors`.
    """
    tables = quantizer.tables if isinstance(quantizer, TableQuantizer) else quantizer.level_vectors()
    stack = np.zeros((len(tables), max(map(len, tables)), tables[0].shape[1]), dtype=np.float32)
    for level, table in enumerate(tables):
        stack[level, : len(table)] = table
    return stack


def quantizer_from_tensors(
    kind: str, centroids: FloatArray, sizes: Sequence[int], tensors: Mapping[str, NDArray]
) -> Quantizer:
    """Build a fitted quantiser again.

    Args:
        kind: Its name.
        centroids: float32 (L, K, Z), as :func:`centroid_stack` gives it.
        sizes: Codes of each level.
        tensors: What :meth:`Quantizer.tensors` gave.

    Raises:
        CodebookError: An array is missing, unexpected, or does not fit.
    """
    levels = range(len(sizes))
    wanted: dict[str, type[np.generic]] = {}
    if kind == "hierarchical_kmeans":
        wanted = {
            f"{name}_{level}": t for level in levels for name, t in (("offsets", np.float32), ("starts", np.int64))
        }
    elif kind == "rqvae":
        wanted = dict.fromkeys((*NETWORK, "scale", "history"), np.float32)
    found = {name: array.dtype.type for name, array in tensors.items()}
    if found != wanted:
        raise CodebookError(f"{kind}: expected arrays {sorted(wanted)} of their types, got {sorted(found)}")
    tables = [centroids[level, :size] for level, size in enumerate(sizes)]
    if kind == "hierarchical_kmeans":
        return HierarchicalQuantizer(
            [tensors[f"offsets_{level}"] for level in levels], [tensors[f"starts_{level}"] for level in levels], sizes
        )
    if kind == "rqvae":
        return RQVAEQuantizer(tables, tensors, tensors["scale"], tensors["history"])
    return TableQuantizer(tables)
