"""Checks at the door of the codebook: arrays from outside go in, arrays of known shape and range come out."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from toolscaler.errors import CodebookError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


def check_embeddings(
    embeddings: NDArray[np.floating], num_gists: int | None = None, hidden_size: int | None = None
) -> NDArray[np.floating]:
    """Give embeddings as a float array (N, V, D) after a check of dtype and shape; memory is not copied.

    Raises:
        CodebookError: Another dtype or shape.
    """
    array = np.asarray(embeddings)
    wanted = f"(N, {num_gists or 'V'}, {hidden_size or 'D'})"
    fits = array.ndim == 3 and array.shape[1] == (num_gists or array.shape[1] or -1)
    fits = fits and array.shape[2] == (hidden_size or array.shape[2] or -1)
    if not fits or array.dtype.kind != "f":
        raise CodebookError(f"expected float32 embeddings of shape {wanted}, got {array.dtype} of shape {array.shape}")
    return array


def tensors_sha256(tensors: dict[str, NDArray]) -> str:
    """Checksum of named arrays: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def check_tool_ids(tool_ids: tuple[str, ...], count: int) -> None:
    """Check that there are ``count`` distinct names.

    Raises:
        CodebookError: Another number, a repeated name, or one that is no text.
    """
    if len(tool_ids) != count:
        raise CodebookError(f"expected one tool id per row, got {len(tool_ids)} ids and {count} rows")
    seen: set[str] = set()
    for name in tool_ids:
        if not isinstance(name, str):
            raise CodebookError(f"expected tool ids of type str, got {name!r}")
        if name in seen:
            raise CodebookError(f"expected distinct tool ids, got {name!r} twice")
        seen.add(name)


def require_finite(reduced: FloatArray) -> None:
    """Check that no row (first axis) holds NaN or infinity.

    Raises:
        CodebookError: One does; its number is named.
    """
    finite = np.isfinite(reduced).all(axis=tuple(range(1, reduced.ndim)))
    if not finite.all():
        raise CodebookError(
            f"expected finite embeddings, got NaN or infinity in row {int(np.argmin(finite))}; re-encode that tool"
        )


def check_codes(codes: NDArray[np.integer] | None, sizes: tuple[int, ...] | None, *, length: int = 0) -> IntArray:
    """Give codes as int32 (N, P) after a check of shape and range; ``None`` gives no rows.

    Args:
        codes: Integers (N, P) or ``None``.
        sizes: Vocabulary size of each position; ``None`` checks for negative values only.
        length: P where ``sizes`` is ``None``.

    Raises:
        CodebookError: Not integers, wrong number of columns, or a code out of range.
    """
    length = length if sizes is None else len(sizes)
    if codes is None:
        return np.zeros((0, length), dtype=np.int32)
    array = np.asarray(codes)
    if array.dtype.kind not in "iu" or array.ndim != 2 or array.shape[1] != length:
        raise CodebookError(f"expected integer codes of shape (N, {length}), got {array.dtype} of shape {array.shape}")
    low = array < 0
    bad = low if sizes is None else low | (array >= np.array(sizes))
    if bad.any():
        row, position = (int(part) for part in np.argwhere(bad)[0])
        limit = "" if sizes is None else f" to {sizes[position] - 1}"
        raise CodebookError(
            f"expected codes of 0{limit} at position {position}, got {array[row, position]} in row {row}"
        )
    return array.astype(np.int32)


def code_groups(codes: IntArray) -> tuple[NDArray[np.intp], int]:
    """Number the distinct code sequences.

    Args:
        codes: Integers (N, P).

    Returns:
        Group number of each row, (N,), and the count of groups. Equal rows have equal numbers.
    """
    if len(codes) == 0:
        return np.zeros(0, dtype=np.intp), 0
    order = np.lexsort(codes.T[::-1]) if codes.shape[1] else np.arange(len(codes))
    changes = (np.diff(codes[order], axis=0) != 0).any(axis=1)
    groups = np.empty(len(codes), dtype=np.intp)
    groups[order] = np.concatenate([[0], np.cumsum(changes)])
    return groups, int(groups.max()) + 1
