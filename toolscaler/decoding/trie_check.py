"""The arrays of a trie that came from a file go in; an error comes out unless every number in them is in its place."""

from __future__ import annotations

import numpy as np

from toolscaler.decoding.trie_arrays import TrieArrays
from toolscaler.decoding.trie_build import packed_keys

_TOKENS = 1 << 31


def check_arrays(arrays: TrieArrays) -> None:
    """Check a trie whose arrays have the right sizes; some passes over them, no loop over nodes.

    Raises:
        ValueError: Some array is not what :func:`~toolscaler.decoding.trie_build.build_arrays` could have made.
    """
    bases, sizes, starts = arrays.bases, arrays.sizes, arrays.level_starts
    # One label more than tokens where lengths differ: the end of a shorter sequence.
    if (bases < 0).any() or (sizes < 1).any() or (bases > _TOKENS).any() or (sizes > _TOKENS + 1).any():
        raise ValueError("bases or sizes are no token ids")
    if (bases + sizes - arrays.ragged > _TOKENS).any():
        raise ValueError("bases and sizes reach beyond the token ids")
    child_start = arrays.child_start
    counts = np.diff(child_start)
    firsts = np.asarray(starts[: arrays.length])
    if (child_start[firsts] != starts[1 : arrays.length + 1]).any() or child_start[-1] != starts[-1]:
        raise ValueError("the children of a depth do not begin where the depth below does")
    if (counts < (0 if arrays.ragged else 1)).any():
        raise ValueError("a node ends before it begins, or has no child")
    labels = [arrays.labels(depth, slice(0, starts[depth + 1] - starts[depth])) for depth in _depths(arrays)]
    for depth, found in zip(_depths(arrays), labels, strict=True):
        if (found >= sizes[depth - 1]).any() or (arrays.ragged and (found < 1).any()):
            raise ValueError(f"a label of depth {depth} is out of range")
        rising = np.diff(found.astype(np.int64)) > 0
        # The first child of the next node may have any label.
        edges = child_start[starts[depth - 1] + 1 : starts[depth]] - starts[depth]
        rising[edges[(edges > 0) & (edges <= len(rising))] - 1] = True
        if not rising.all():
            raise ValueError(f"the children of a node of depth {depth - 1} are not in order")
    keys, anchors = packed_keys(labels, child_start, starts, list(arrays.bits))
    if anchors != arrays.anchors or not all(map(_same, keys, arrays.keys)):
        raise ValueError("the keys of a depth are not those of its nodes")
    _check_tools(arrays)


def _depths(arrays: TrieArrays) -> range:
    return range(1, arrays.length + 1)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


def _check_tools(arrays: TrieArrays) -> None:
    """Check that each tool ends at exactly one node."""
    count = arrays.num_tools
    if arrays.order is not None and not _each_once(arrays.order, count):
        raise ValueError("order does not hold each tool once")
    if arrays.end_start is None or arrays.end_count is None:
        if arrays.ragged or count != arrays.num_nodes - arrays.level_starts[arrays.length]:
            raise ValueError("the number of tools is not that of the last depth's nodes")
        return
    start, size = arrays.end_start.astype(np.int64), arrays.end_count.astype(np.int64)
    if (start < 0).any() or (size < 0).any() or (start + size > count).any() or size.sum() != count:
        raise ValueError("the tools of a node are out of range")
    if not arrays.ragged and (size[arrays.level_starts[arrays.length] :] < 1).any():
        raise ValueError("a node of the last depth has no tool")
    ranks = np.repeat(start - (np.cumsum(size) - size), size) + np.arange(count)
    if not _each_once(ranks, count):
        raise ValueError("a tool ends at two nodes")


def _each_once(rows: np.ndarray, count: int) -> bool:
    if len(rows) != count or (count and (rows.min() < 0 or rows.max() >= count)):
        return False
    return bool((np.bincount(rows, minlength=count) == 1).all()) if count else True
