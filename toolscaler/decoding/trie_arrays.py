"""Flat arrays of a trie: packed keys to find a node, child ranges to list its children. No Python object a node."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

#: What fills the end of a sequence that is shorter than others.
PADDING = -1


@dataclass(frozen=True, eq=False)
class TrieArrays:
    """The nodes of a trie, breadth first, as arrays.

    P is the longest sequence, N the number of tools. Node 0 is the root; the nodes of depth d are the range
    ``level_starts[d]`` to ``level_starts[d + 1]``, in lexicographic order of their prefixes, so the children of a node,
    and all its descendants at any depth, are contiguous too. A *label* is a token id less ``bases[p]``, plus one where
    lengths differ (label 0 is then the end of a shorter sequence).

    Attributes:
        bases: int64 (P,) least token id at each position.
        sizes: int64 (P,) number of labels at each position.
        ragged: Whether lengths differ.
        level_starts: int64 (P + 2,) first node of each depth; the last entry is the number of nodes.
        child_start: int32 (nodes above the last depth + 1,): children of node n are ``child_start[n]`` to
            ``child_start[n + 1]``.
        keys: P - 1 arrays; ``keys[d - 1]``: the sorted keys of the nodes of depth d, with a sentinel behind them. A key
            packs the labels from depth ``anchors[d]`` on, behind the number of the node there.
        last_labels: uint16 or uint32 (nodes of the last depth,) labels.
        anchors: Where the key of each depth begins; 0 wherever the packed labels fit into 62 bits.
        order: int32 (N,) tool rows, sorted by sequence and then row; ``None`` where they are sorted already.
        end_start: int32 (nodes,) where the tools that end at a node begin in ``order``; ``None`` where each node of the
            last depth has exactly one tool and no other node has any.
        end_count: int32 (nodes,) how many end there; ``None`` likewise.
        num_tools: N.
    """

    bases: np.ndarray
    sizes: np.ndarray
    ragged: bool
    level_starts: np.ndarray
    child_start: np.ndarray
    keys: tuple[np.ndarray, ...]
    last_labels: np.ndarray
    anchors: tuple[int, ...]
    order: np.ndarray | None
    end_start: np.ndarray | None
    end_count: np.ndarray | None
    num_tools: int
    bits: tuple[int, ...] = field(init=False)
    max_branch: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", tuple(label_bits(int(size)) for size in self.sizes))
        widest = []
        for depth in range(self.length):
            start = self.child_start[self.level_starts[depth] : self.level_starts[depth + 1] + 1]
            widest.append(int(np.diff(start).max(initial=0)))
        object.__setattr__(self, "max_branch", tuple(widest))

    @property
    def length(self) -> int:
        """P, the tokens of the longest sequence."""
        return len(self.bases)

    @property
    def num_nodes(self) -> int:
        """Number of nodes, root included."""
        return int(self.level_starts[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        parts = [self.level_starts, self.child_start, *self.keys, self.last_labels, self.bases, self.sizes]
        parts += [array for array in (self.order, self.end_start, self.end_count) if array is not None]
        return sum(array.nbytes for array in parts)

    def labels(self, depth: int, nodes: np.ndarray | slice) -> np.ndarray:
        """Give the last label of nodes of one depth.

        Args:
            depth: From 1 to P.
            nodes: Numbers within the depth, or a slice of them.
        """
        if depth == self.length:
            return self.last_labels[nodes]
        keys = self.keys[depth - 1]
        return keys[nodes] & keys.dtype.type((1 << self.bits[depth - 1]) - 1)

    def token_base(self, depth: int) -> int:
        """Give what turns the last label of a node of a depth into its token."""
        return int(self.bases[depth - 1]) - self.ragged

    def ending(self, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Give the tools that end at nodes of one depth: their rows, and the number of each one's node there."""
        if self.end_start is None or self.end_count is None:
            ranks = np.arange(self.num_tools if depth == self.length else 0)
            nodes = ranks
        else:
            level = slice(self.level_starts[depth], self.level_starts[depth + 1])
            counts = self.end_count[level]
            nodes = np.repeat(np.arange(len(counts)), counts)
            within = np.arange(len(nodes)) - np.repeat(np.cumsum(counts) - counts, counts)
            ranks = self.end_start[level][nodes] + within
        return (ranks if self.order is None else self.order[ranks]), nodes

    def sequences(self) -> np.ndarray:
        """Give the token ids of all tools, int64 (N, P), -1 behind shorter ones."""
        table = np.full((self.num_tools, self.length), PADDING, dtype=np.int64)
        prefixes = np.empty((1, 0), dtype=np.int64)
        for depth in range(self.length + 1):
            first, stop = self.level_starts[depth], self.level_starts[depth + 1]
            if depth:
                above = self.level_starts[depth - 1]
                parents = np.repeat(np.arange(first - above), np.diff(self.child_start[above : first + 1]))
                tokens = self.labels(depth, slice(0, stop - first)).astype(np.int64) + self.token_base(depth)
                prefixes = np.column_stack([prefixes[parents], tokens])
            rows, nodes = self.ending(depth)
            table[rows, :depth] = prefixes[nodes]
        return table

    def fold_up(self, kept: np.ndarray) -> np.ndarray:
        """Say for each node whether an allowed tool lies below it.

        Args:
            kept: bool (N,), true for the allowed tools.

        Returns:
            uint8 (nodes / 8, rounded up): bit ``n % 8`` of byte ``n // 8`` belongs to node n.
        """
        allowed = np.zeros(self.num_nodes, dtype=bool)
        ranks = kept if self.order is None else kept[self.order]
        if self.end_start is None or self.end_count is None:
            allowed[self.level_starts[self.length] :] = ranks
        else:
            sums = np.concatenate([[0], np.cumsum(ranks, dtype=np.int32)])
            allowed[:] = sums[self.end_start + self.end_count] > sums[self.end_start]
        for depth in range(self.length - 1, -1, -1):
            first, stop = self.level_starts[depth], self.level_starts[depth + 1]
            total = np.concatenate([[0], np.cumsum(allowed[stop : self.level_starts[depth + 2]], dtype=np.int32)])
            edges = self.child_start[first : stop + 1] - stop
            allowed[first:stop] |= total[edges[1:]] > total[edges[:-1]]
        return np.packbits(allowed, bitorder="little")

    def find(self, tokens: np.ndarray) -> np.ndarray:
        """Find the nodes of whole prefixes.

        Args:
            tokens: int64 (B, d) token ids, 1 <= d <= P.

        Returns:
            int64 (B,) nodes, -1 where there is no such prefix.
        """
        depth = tokens.shape[1]
        labels = tokens - self.bases[:depth]
        if self.ragged:
            labels += 1
        # As unsigned numbers those below zero are too large as well: one comparison finds both.
        known = (labels.view(np.uint64) < self.sizes[:depth].view(np.uint64)).all(1)
        if self.ragged:
            known &= (labels > 0).all(1)
        if depth == self.length:
            parents = self._find_keys(labels[:, :-1], known) if depth > 1 else np.where(known, 0, -1)
            return self.find_child(depth - 1, parents, labels[:, -1])
        return self._find_keys(labels, known)

    def _find_keys(self, labels: np.ndarray, known: np.ndarray) -> np.ndarray:
        depth = labels.shape[1]
        anchor = self.anchors[depth]
        if anchor:
            above = self._find_keys(labels[:, :anchor], known)
            known = above >= 0
            key = np.where(known, above - self.level_starts[anchor], 0)
        else:
            key = labels[:, 0]
            anchor = 1
        for place in range(anchor, depth):
            key = (key << self.bits[place]) | labels[:, place]
        keys = self.keys[depth - 1]
        key = key.astype(keys.dtype)
        place = keys.searchsorted(key)
        # Unknown labels may give any key, even one above the sentinel.
        hit = keys.take(place, mode="clip") == key
        hit &= known
        return np.where(hit, place + self.level_starts[depth], -1)

    def find_child(self, depth: int, nodes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Find the child with a given label below each node of one depth, by bisection of its children.

        Args:
            depth: Depth of the nodes, below P.
            nodes: int64 (B,) nodes of that depth; -1 stays -1.
            labels: int64 (B,) labels.

        Returns:
            int64 (B,) children, -1 where there is none.
        """
        first = self.level_starts[depth + 1]
        alive = nodes >= 0
        safe = np.where(alive, nodes, self.level_starts[depth])
        low = self.child_start[safe] - first
        stop = self.child_start[safe + 1] - first
        high, last = stop, max(int(self.level_starts[depth + 2] - first) - 1, 0)
        for _ in range(self.max_branch[depth].bit_length()):
            middle = (low + high) >> 1
            open_ = low < high
            less = open_ & (self.labels(depth + 1, np.minimum(middle, last)) < labels)
            low = np.where(less, middle + 1, low)
            high = np.where(open_ & ~less, middle, high)
        found = alive & (low < stop)
        found &= self.labels(depth + 1, np.minimum(low, last)) == labels
        return np.where(found, low + first, -1)


def label_bits(size: int) -> int:
    """Give the bits that a label below ``size`` needs, at least one."""
    return max((size - 1).bit_length(), 1)
