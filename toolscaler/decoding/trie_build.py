"""From token sequences to the flat arrays of a trie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolscaler.decoding.trie_arrays import PADDING, TrieArrays, label_bits
from toolscaler.errors import DecodingError, EmptyCatalogueError

#: Bits that a packed key may have: a signed 64-bit integer, with room for a sentinel.
KEY_BITS = 62


def padded_sequences(sequences: Any) -> np.ndarray:
    """Bring any form of token sequences into one array (N, longest), -1 behind the shorter ones."""
    if hasattr(sequences, "detach"):  # a tensor, maybe on another device
        sequences = sequences.detach().cpu().numpy()
    if isinstance(sequences, np.ndarray) and sequences.ndim == 2:
        return sequences
    if isinstance(sequences, str) or not isinstance(sequences, Iterable):
        raise DecodingError(f"sequences: expected token ids for each tool, got {sequences!r:.80}")
    rows = [np.asarray(row) for row in sequences]
    for number, row in enumerate(rows):
        if row.ndim != 1 or not len(row) or row.dtype.kind not in "iu":
            raise DecodingError(
                f"sequences: row {number}: expected one or more whole token ids, got {row.dtype} of shape {row.shape}"
            )
    padded = np.full((len(rows), max(map(len, rows), default=0)), PADDING, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


def checked_sequences(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """Check token sequences; give them as wide as the longest, and whether lengths differ."""
    if array.ndim and not len(array):
        raise EmptyCatalogueError("expected at least one tool to choose from, got none; add tools to the tokenizer")
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise DecodingError(f"sequences: expected whole numbers (N, length), got {array.dtype} of shape {array.shape}")
    # Below 2**31, so that node and label fit into one 64-bit key.
    if array.shape[1] and array.min() >= 0 and array.max() < 2**31:
        return array, False
    present = array >= 0
    lengths = present.sum(1)
    right = present == (np.arange(array.shape[1]) < lengths[:, None])
    bad = (lengths == 0) | ~right.all(1) | ((array < PADDING) | (array >= 2**31)).any(1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DecodingError(
            f"sequences: row {row}: expected one or more token ids from 0 to 2**31 - 1, then -1 as padding, got "
            f"{array[row].tolist()}"
        )
    return array[:, : lengths.max()], bool((lengths < lengths.max()).any())


def build_arrays(sequences: np.ndarray, *, ragged: bool) -> TrieArrays:
    """Make the arrays of a trie.

    Args:
        sequences: int (N, P) token ids below 2**31, padded on the right with -1 where ``ragged``; checked already.
        ragged: Whether a sequence is shorter than P.
    """
    # By columns over all rows: far faster than one strided column after another.
    bases = np.where(sequences < 0, np.iinfo(sequences.dtype).max, sequences).min(0) if ragged else sequences.min(0)
    bases = bases.astype(np.int64)
    sizes = sequences.max(0).astype(np.int64) - bases + (2 if ragged else 1)
    bits = [label_bits(int(size)) for size in sizes]
    columns = [_labels(sequences[:, place], int(bases[place]), ragged) for place in range(len(bits))]
    return _fold(_sorted_rows(columns, bits), bases, sizes, ragged)


def _labels(column: np.ndarray, base: int, ragged: bool) -> np.ndarray:
    if not ragged:
        return (column - base).astype(np.uint32)
    return np.where(column < 0, 0, column - (base - 1)).astype(np.uint32)


@dataclass(frozen=True)
class _Rows:
    """Sequences in order.

    Attributes:
        order: int32 (N,) rows; ``None``: they came in order.
        new: For each depth bool (N,): where a new prefix begins.
        bits: Bits of a label at each position.
        key: int64 (N,) packed labels, where they fit into one number.
        columns: The labels of each position, where they do not.
    """

    order: np.ndarray | None
    new: list[np.ndarray]
    bits: list[int]
    key: np.ndarray | None = None
    columns: tuple[np.ndarray, ...] = ()

    def labels(self, place: int, rows: Any = slice(None)) -> np.ndarray:
        """Give the labels at a position, of some rows or all."""
        if self.key is None:
            return self.columns[place][rows]
        part = self.key[rows] >> sum(self.bits[place + 1 :])
        return part & ((1 << self.bits[place]) - 1)


def _sorted_rows(columns: list[np.ndarray], bits: list[int]) -> _Rows:
    if sum(bits) > KEY_BITS:
        return _sorted_columns(columns, bits)
    count = len(columns[0])
    row_bits = max((count - 1).bit_length(), 1)
    key = columns[0].astype(np.int64)
    for column, width in zip(columns[1:], bits[1:], strict=True):
        key <<= width
        key |= column
    order: np.ndarray | None = None
    if (key[1:] < key[:-1]).any():
        if sum(bits) + row_bits <= KEY_BITS:
            # Sorting numbers that carry their row is several times faster than sorting rows by number.
            key <<= row_bits
            key |= np.arange(count)
            key.sort()
            order = (key & ((1 << row_bits) - 1)).astype(np.int32)
            key >>= row_bits
        else:
            order = np.argsort(key, kind="stable").astype(np.int32)
            key = key[order]
    difference = key[1:] ^ key[:-1]
    new, shift = [], sum(bits)
    for width in bits:
        shift -= width
        begins = np.ones(count, dtype=bool)
        np.greater_equal(difference, 1 << shift, out=begins[1:])
        new.append(begins)
    return _Rows(order, new, bits, key)


def _sorted_columns(columns: list[np.ndarray], bits: list[int]) -> _Rows:
    """Sort sequences that do not fit into one number."""
    order = np.lexsort(columns[::-1])  # stable: equal sequences stay in the order of their rows
    changed, new = np.zeros(len(order), dtype=bool), []
    changed[0] = True
    ordered = tuple(column[order] for column in columns)
    for column in ordered:
        changed[1:] |= column[1:] != column[:-1]
        new.append(changed.copy())
    return _Rows(order.astype(np.int32), new, bits, columns=ordered)


def _fold(rows: _Rows, bases: np.ndarray, sizes: np.ndarray, ragged: bool) -> TrieArrays:
    """Turn sorted rows into nodes."""
    new, count, length = rows.new, len(rows.new[0]), len(rows.new)
    if ragged:
        new = [begins & (rows.labels(place) > 0) for place, begins in enumerate(new)]
    firsts = [np.zeros(1, dtype=np.int64), *map(np.flatnonzero, new)]  # for each depth: the first row of each node
    level_starts = np.concatenate([[0], np.cumsum([len(first) for first in firsts])]).astype(np.int64)
    child_start = np.empty(level_starts[length] + 1, dtype=np.int32)
    for depth in range(length):
        start = _child_starts(new, firsts, depth, ragged)
        child_start[level_starts[depth] : level_starts[depth + 1]] = start + level_starts[depth + 1]
    child_start[-1] = level_starts[-1]
    labels = [rows.labels(place, first) for place, first in enumerate(firsts[1:])]
    keys, anchors = packed_keys(labels, child_start, level_starts, rows.bits)
    small = np.uint16 if int(sizes[-1]) <= 1 << 16 else np.uint32
    end_start = end_count = None
    if ragged or len(firsts[-1]) != count:
        end_start, end_count = _ends(rows, firsts, ragged)
    return TrieArrays(
        bases=bases,
        sizes=sizes,
        ragged=ragged,
        level_starts=level_starts,
        child_start=child_start,
        keys=keys,
        last_labels=labels[-1].astype(small),
        anchors=anchors,
        order=rows.order,
        end_start=end_start,
        end_count=end_count,
        num_tools=count,
    )


def _child_starts(new: list[np.ndarray], firsts: list[np.ndarray], depth: int, ragged: bool) -> np.ndarray:
    """Give for each node of a depth the number, within the next depth, of its first child."""
    if not depth:
        return np.zeros(1, dtype=np.int64)
    if not ragged:  # a node's first row is its first child's too
        return np.flatnonzero(new[depth - 1][firsts[depth + 1]])
    # Nodes of the next depth that begin before a node's first row are children of the nodes before it.
    return np.cumsum(new[depth], dtype=np.int32)[firsts[depth]] - new[depth][firsts[depth]]


def packed_keys(
    labels: list[np.ndarray], child_start: np.ndarray, level_starts: np.ndarray, bits: list[int]
) -> tuple[tuple[np.ndarray, ...], tuple[int, ...]]:
    """Pack the keys of the depths above the last, and say where each begins.

    Args:
        labels: For each depth from 1 to P, the last label of its nodes.
        child_start: As in :class:`~toolscaler.decoding.trie_arrays.TrieArrays`.
        level_starts: As there.
        bits: Bits of a label at each position.

    Returns:
        ``keys`` and ``anchors`` of the class.
    """
    keys: list[np.ndarray] = []
    anchors, anchor, width = [0], 0, 0
    above = np.zeros(1, dtype=np.int64)
    for depth in range(1, len(labels)):
        if width + bits[depth - 1] > KEY_BITS:  # too long: begin again behind the number of the node above
            anchor = depth - 1
            nodes_above = int(level_starts[depth] - level_starts[anchor])
            above, width = np.arange(nodes_above), label_bits(nodes_above)
        width += bits[depth - 1]
        children = np.diff(child_start[level_starts[depth - 1] : level_starts[depth] + 1])
        above = (np.repeat(above, children) << bits[depth - 1]) | labels[depth - 1]
        small = np.uint32 if width < 32 else np.int64
        keys.append(np.append(above, (1 << width) if width < 32 else np.iinfo(np.int64).max).astype(small))
        anchors.append(anchor)
    return tuple(keys), tuple(anchors)


def _ends(rows: _Rows, firsts: list[np.ndarray], ragged: bool) -> tuple[np.ndarray, np.ndarray]:
    """Say for each node where its tools begin among the sorted rows, and how many there are."""
    count, length = len(rows.new[0]), len(rows.new)
    lengths = np.full(count, length, dtype=np.int32)
    if ragged:
        lengths = sum(((rows.labels(place) > 0).astype(np.int32) for place in range(length)), np.zeros_like(lengths))
    starts, counts = [], []
    for depth, first in enumerate(firsts):
        ending = np.concatenate([[0], np.cumsum(lengths == depth)])
        last = np.append(first[1:], count)
        # Rows of one prefix come together, but those of another may lie between two nodes of a ragged trie.
        starts.append(first)
        counts.append(ending[last] - ending[first])
    # A shorter row sorts before its continuations, so the tools of a node are the first rows of its range; rows that
    # end above lie in front of the node's range only, and counting ends of exactly this depth leaves them out.
    return np.concatenate(starts).astype(np.int32), np.concatenate(counts).astype(np.int32)
