"""Masked scores on the CPU: numpy on the tensors' own memory."""

from __future__ import annotations

import numpy as np
import torch

from toolscaler.decoding.mask_buffer import ARRAY_FORMS, Buffer, BufferPool, as_array
from toolscaler.errors import DecodingError

#: What stays of the scores: columns from one to before another in all rows, or places in the flattened scores.
Kept = tuple[int, int] | np.ndarray


def served(scores: torch.Tensor) -> bool:
    """Say whether numpy can do it: CPU memory, a known dtype, and no gradient to follow."""
    return scores.is_cpu and scores.dtype in ARRAY_FORMS and not scores.requires_grad and type(scores) is torch.Tensor


def masked(scores: torch.Tensor, kept: Kept, pool: BufferPool | None) -> torch.Tensor:
    """Copy what is kept into a tensor of -inf.

    Args:
        scores: float (B, vocabulary), one that :func:`served` accepts.
        kept: What stays.
        pool: Where to take the result from; ``None``: a new tensor.

    Raises:
        DecodingError: A score that stays is NaN or +inf; the rows are named.
    """
    source = as_array(scores)
    if isinstance(kept, tuple):
        values = source[:, kept[0] : kept[1]]
    elif scores.is_contiguous():
        values = source.reshape(-1)[kept]
    else:
        values = source[np.divmod(kept, source.shape[1])]
    _check_finite(scores, values, kept)
    if pool is None or torch.is_inference_mode_enabled():
        result = torch.full(scores.shape, -torch.inf, dtype=scores.dtype, device="cpu")
        _write(as_array(result), values, kept)
        return result
    buffer = pool.take(scores)
    _write(buffer.array, values, kept)
    return _given(buffer, kept, pool)


def _given(buffer: Buffer, kept: Kept, pool: BufferPool) -> torch.Tensor:
    result = buffer.tensor  # held before others may see the buffer, so that they find it in use
    buffer.written = kept
    pool.give(buffer)
    return result


def _write(target: np.ndarray, values: np.ndarray, kept: Kept) -> None:
    if isinstance(kept, tuple):
        target[:, kept[0] : kept[1]] = values
    else:
        target.reshape(-1)[kept] = values


def _check_finite(scores: torch.Tensor, values: np.ndarray, kept: Kept) -> None:
    if not values.size:
        return
    if scores.dtype == torch.bfloat16:  # bits: sign, 8 of exponent, 7 of fraction
        values = (values.astype(np.int32) << 16).view(np.float32)
    if np.maximum.reduce(values, axis=None) < np.inf:  # false for NaN, which a maximum hands on
        return
    bad = ~(values < np.inf)
    rows = np.flatnonzero(bad.any(1)) if isinstance(kept, tuple) else np.unique(kept[bad] // scores.shape[1])
    raise DecodingError(
        f"scores: expected no NaN and no +inf among the allowed tokens, got some in rows {rows.tolist()}; the model "
        "overflowed: try float32 or bfloat16, and check its weights"
    )
