"""Initial rows of the code tokens: embeddings and codes go in, one matrix for each code position comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.checks import check_codes, check_embeddings
from toolscaler.errors import CodebookError

if TYPE_CHECKING:
    from toolscaler.codebook.codebook import Codebook

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


def level_rows(
    codebook: Codebook, embeddings: NDArray[np.floating], codes: NDArray[np.integer] | None = None
) -> list[FloatArray]:
    """Do the work of :meth:`toolscaler.codebook.Codebook.level_embeddings`, which says what the rows are."""
    data = check_embeddings(embeddings, codebook.num_gists, codebook.hidden_size)
    assigned = codebook.codes if codes is None else check_codes(codes, codebook.code_sizes)
    if len(assigned) != len(data):
        raise CodebookError(f"expected one row of codes per tool, got {len(assigned)} codes and {len(data)} tools")
    reduced = codebook.reduce(data)
    rows: list[FloatArray] = []
    residual = reduced[:, 0]
    for gist, quantizer in enumerate(codebook.quantizers):
        gist_codes = codebook.gist_codes(assigned, gist)
        partials = quantizer.partials(gist_codes)
        for level, table in enumerate(quantizer.level_vectors()):
            fallback = codebook.expand(table, gist)
            means: NDArray[np.floating]
            if level == 0:
                fallback = fallback + codebook.pca_mean[gist]
                means, carried = _group_means(data[:, gist], gist_codes[:, 0], len(table))
            else:
                entering = reduced[:, gist] - partials[level]
                inner, carried = _group_means(entering, gist_codes[:, level], len(table))
                means = codebook.expand(inner, gist)
            rows.append(np.where(carried[:, None], means, fallback).astype(np.float32))
        residual = reduced[:, gist] - partials[-1]
    if codebook.collisions == "suffix":
        inner, _ = _group_means(residual, assigned[:, -1], codebook.suffix_size)
        rows.append(codebook.expand(inner, codebook.num_gists - 1).astype(np.float32))
    return rows


def _group_means(
    values: NDArray[np.floating], codes: IntArray, count: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean of the rows that carry each code, float64 (count, dim), else zeros; and which codes are carried."""
    means = np.zeros((count, values.shape[1]), dtype=np.float64)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(count + 1))
    for code in range(count):  # one code at a time: a gather of all rows would copy the embeddings whole
        members = order[bounds[code] : bounds[code + 1]]
        if len(members):
            means[code] = values[members].mean(axis=0, dtype=np.float64)
    return means, np.diff(bounds) > 0
