"""Masked scores on any device: torch operations of static shapes, no waiting for the device.

The shapes depend on the numbers of rows, columns and tries alone, never on values, so nothing goes back to the host and
``torch.compile`` gets one graph. The results are those of the numpy path, bit for bit.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch

from toolscaler.decoding.trie import CodeTrie
from toolscaler.decoding.trie_arrays import label_bits
from toolscaler.decoding.trie_build import KEY_BITS
from toolscaler.decoding.trie_rows import RowTries

_NO_KEY = torch.iinfo(torch.int64).max


class TorchTrie:
    """The arrays of a whole trie as tensors of one device.

    One more node than the trie has stands for rows that may only end: its one child is the end token.

    Attributes:
        first_child: int64 (nodes + 1,) first child of each node; of a leaf the extra node.
        last_child: int64 (nodes + 1,) last child likewise.
        tokens: int64 (nodes + 1,) token that leads to each node, the end token for the extra one.
        ends: bool (nodes + 1,) whether a sequence ends at a node.
        stopped: The number of the extra node.
        prefixes: int64 (nodes + 1,) sorted keys of whole prefixes, of node n at n, and a sentinel; ``None`` where they
            do not fit into a key, or a token may stand at several depths.
        edges: int64 (nodes,) sorted keys (parent, token) of node n + 1 at n, and a sentinel; ``None`` until needed.
        values: int64 (2P + 1, ids + 2) what each token adds to the key of a prefix, by the position it stands at.
        depths: int64 (2, ids + 2) depth a last token leads to; in the second row, before an end token, only whole
            sequences count.
    """

    def __init__(self, trie: CodeTrie, eos: int | None, device: torch.device) -> None:
        arrays = trie.arrays
        count = arrays.num_nodes
        self.device, self.stopped, self.length, self.ragged = device, count, arrays.length, bool(arrays.ragged)
        first, last = np.full(count + 1, count), np.full(count + 1, count)
        counts = np.diff(arrays.child_start)
        some = np.flatnonzero(counts)
        first[some] = arrays.child_start[:-1][some]
        last[some] = arrays.child_start[1:][some] - 1
        tokens = np.zeros(count + 1, dtype=np.int64)
        tokens[1:count] = trie.expand(np.arange(count))[1]
        tokens[count] = 0 if eos is None else eos
        ends = np.append(trie.is_end(np.arange(count)), False)
        self.first_child, self.last_child = self._tensor(first), self._tensor(last)
        self.tokens, self.ends = self._tensor(tokens), self._tensor(ends)
        self.max_branch = max(arrays.max_branch)
        self.branches = torch.arange(self.max_branch, device=device)
        self.stride = trie.largest_token + 2
        self.prefixes: torch.Tensor | None = None
        self.edges: torch.Tensor | None = None
        rows = RowTries(trie)
        bits = [label_bits(int(size)) for size in arrays.sizes]
        if rows.depth_starts is not None and not rows.ragged and _far(bits) * self.length < 1 << KEY_BITS:
            self._pack(rows, bits, tokens)
        else:
            self.add_edges(trie)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def add_edges(self, trie: CodeTrie) -> None:
        """Make the keys that :meth:`advance` needs, if there are none."""
        if self.edges is None:
            parents, tokens, _ = trie.expand(np.arange(trie.arrays.num_nodes))
            self.edges = self._tensor(np.append(parents * self.stride + tokens, _NO_KEY))

    def _pack(self, rows: RowTries, bits: list[int], tokens: np.ndarray) -> None:
        """Make one key for each node: its depth, then the labels of its tokens from the first position on."""
        arrays, length = rows.whole.arrays, self.length
        shifts = np.cumsum([0, *bits[:0:-1]])[::-1]  # of each position; the last has none
        tag = sum(bits)
        keys = np.zeros(arrays.num_nodes + 1, dtype=np.int64)
        parents = np.repeat(np.arange(len(arrays.child_start) - 1), np.diff(arrays.child_start))  # of node 1, 2, ...
        for depth in range(1, length + 1):
            level = slice(arrays.level_starts[depth], arrays.level_starts[depth + 1])
            labels = tokens[level] - arrays.bases[depth - 1]
            keys[level] = keys[parents[level.start - 1 : level.stop - 1]] + (labels << shifts[depth - 1]) + (1 << tag)
        keys[-1] = _NO_KEY
        self.prefixes = self._tensor(keys)
        self.low, high = rows.span
        self.top = high - self.low + 1
        values = np.zeros((2 * length + 1, self.top + 1), dtype=np.int64)
        depths = np.zeros((2, self.top + 1), dtype=np.int64)
        for place in range(length):
            ids = slice(arrays.bases[place] - self.low + 1, arrays.bases[place] - self.low + 1 + arrays.sizes[place])
            label = np.arange(arrays.sizes[place]) << shifts[place]
            for row, extra in ((place + 1, 0), (length + 1 + place, (place + 1) << tag)):
                if row == length:
                    continue
                values[row] = _far(bits)
                values[row, ids] = label + extra
            depths[0, ids] = place + 1
            if place == length - 1:
                depths[1, ids] = length
        self.values, self.depths = self._tensor(values), self._tensor(depths)
        # Which row of the values a token's column takes, less the depth: below 1 it does not count.
        self.offsets = self._tensor(np.append(np.arange(1 - length, 0), length))

    def tail_states(self, ids: torch.Tensor, eos: int | None, allowed: Allowed) -> torch.Tensor:
        """Give the node at the end of the longest tail that begins a sequence; int64 (B,).

        Rows without one are at the root, rows behind a whole sequence and the end token at the extra node.
        """
        window = ids[:, max(0, ids.shape[1] - self.length - 1) :]
        if self.prefixes is None:
            return self._longest_tails(window, eos, allowed)
        if window.shape[1] <= self.length:
            window = torch.nn.functional.pad(window, (self.length + 1 - window.shape[1], 0), value=-1)
        if eos is None:
            ids, last = self._local(window[:, 1:]), None
        else:
            closed = window[:, -1] == eos
            ids, last = self._local(torch.where(closed[:, None], window[:, :-1], window[:, 1:])), closed.long()
        depth = self.depths[0, ids[:, -1]] if last is None else self.depths[last, ids[:, -1]]
        place, hit = self._find((depth[:, None] + self.offsets).clamp(min=0), ids, allowed)
        return place * hit

    def output_states(self, output: torch.Tensor, allowed: Allowed) -> torch.Tensor:
        """Give the node that int64 (B, steps) generated ids lead to, the extra one where there is none."""
        rows, steps = output.shape
        nodes = torch.zeros(rows, dtype=torch.int64, device=self.device)
        if steps > self.length:
            return nodes + self.stopped
        if self.prefixes is not None and steps:
            place, hit = self._find(steps + self.offsets[self.length - steps :], self._local(output), allowed)
            return torch.where(hit, place, self.stopped)
        for step in range(steps):
            nodes = self.advance(nodes, output[:, step])
        return allowed.nodes(nodes)

    def _local(self, ids: torch.Tensor) -> torch.Tensor:
        return (ids - (self.low - 1)).clamp(0, self.top)

    def _find(self, places: torch.Tensor, ids: torch.Tensor, allowed: Allowed) -> tuple[torch.Tensor, torch.Tensor]:
        if self.prefixes is None:
            raise RuntimeError("this trie's prefixes are not packed")
        key = self.values[places, ids].sum(1)
        place = torch.searchsorted(self.prefixes, key)
        hit = self.prefixes[place] == key
        return place, hit if allowed.bits is None else hit & allowed.test(place)

    def advance(self, nodes: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Take one step from int64 nodes of any shape; the extra node where there is no such child."""
        if self.edges is None:
            raise RuntimeError("this trie has no edges yet")
        # Ids that no sequence has, far ones too, must not look like those of another parent.
        key = nodes * self.stride + tokens.clamp(-1, self.stride - 1)
        place = torch.searchsorted(self.edges, key)
        return torch.where(self.edges[place] == key, place + 1, self.stopped)

    def _longest_tails(self, window: torch.Tensor, eos: int | None, allowed: Allowed) -> torch.Tensor:
        """Walk from every column at once; ``nodes[:, c]`` is where the tail that begins at column c has come to."""
        rows, width = window.shape
        root = torch.zeros((rows, 1), dtype=torch.int64, device=self.device)
        if not width:
            return root[:, 0]
        nodes, before = root[:, :0], root[:, 0]
        for column in range(width):
            if column == width - 1:
                before = self._longest(nodes, allowed)
            nodes = self.advance(torch.cat([nodes, root], 1), window[:, column : column + 1])
        found = self._longest(nodes, allowed)
        if eos is None:
            return found
        return torch.where((window[:, -1] == eos) & allowed.ends(before), self.stopped, found)

    def _longest(self, nodes: torch.Tensor, allowed: Allowed) -> torch.Tensor:
        if not nodes.shape[1]:
            return torch.zeros(len(nodes), dtype=torch.int64, device=self.device)
        nodes = allowed.nodes(nodes)
        first = (nodes != self.stopped).long().argmax(1, keepdim=True)
        found = nodes.gather(1, first)[:, 0]
        return torch.where(found == self.stopped, 0, found)


def _far(bits: list[int]) -> int:
    """Give what a token adds to a packed key where no sequence has it: more than any key."""
    return 1 << (sum(bits) + label_bits(len(bits) + 1))


class Allowed:
    """What the lists of a batch's rows allow, on one device.

    Args:
        trie: The whole trie there.
        tables: ``None``, or bits uint8 (views, nodes / 8 + 1), the number of each node among the nodes where some
            sequences end and others go on, int64 (nodes + 1,), and which views have a tool there, bool.
        groups: int64 (B,) the view of each row, ``None``: view 0.
    """

    def __init__(
        self,
        trie: TorchTrie,
        tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
        groups: torch.Tensor | None,
    ) -> None:
        self.trie, self.groups = trie, groups
        self.bits = None if tables is None else tables[0]
        self._tables = tables

    def _group(self, like: torch.Tensor) -> torch.Tensor | int:
        if self.groups is None:
            return 0
        return self.groups if like.ndim == 1 else self.groups[:, None]

    def test(self, nodes: torch.Tensor) -> torch.Tensor:
        """Say whether each row's list allows its nodes, (B,) or (B, columns); the extra node always is."""
        if self.bits is None:
            return torch.ones_like(nodes, dtype=torch.bool)
        return ((self.bits[self._group(nodes), nodes >> 3] >> (nodes & 7)) & 1).bool()

    def nodes(self, nodes: torch.Tensor) -> torch.Tensor:
        """Put the extra node in place of nodes that are not allowed."""
        return nodes if self.bits is None else torch.where(self.test(nodes), nodes, self.trie.stopped)

    def ends(self, nodes: torch.Tensor) -> torch.Tensor:
        """Say whether an allowed sequence ends at int64 (B,) allowed nodes."""
        ends = self.trie.ends[nodes]
        return ends if self._tables is None else ends & self._tables[2][self._group(nodes), self._tables[1][nodes]]


def continuations(
    trie: TorchTrie, nodes: torch.Tensor, scores: torch.Tensor, eos: int | None, allowed: Allowed
) -> torch.Tensor:
    """Copy the scores of what may follow each row's node into a tensor of -inf.

    Args:
        trie: The trie.
        nodes: int64 (B,).
        scores: float (B, vocabulary).
        eos: End token; ``None``: rows that may only end keep nothing.
        allowed: What each row's list allows.
    """
    slots = torch.minimum(trie.first_child[nodes][:, None] + trie.branches, trie.last_child[nodes][:, None])
    tokens = trie.tokens[slots]
    if eos is None:
        stay = slots != trie.stopped
        if allowed.bits is not None:
            stay &= allowed.test(slots)
        return _scattered(scores, tokens, torch.where(stay, scores.gather(1, tokens), -torch.inf))
    if trie.ragged:
        # A node may end and go on: one column more holds the end token, or something that is there already.
        extra = torch.where(allowed.ends(nodes), trie.stopped, slots[:, 0])
        slots = torch.cat([slots, extra[:, None]], 1)
        tokens = trie.tokens[slots]
    values = scores.gather(1, tokens)
    if allowed.bits is not None:
        values = torch.where(allowed.test(slots), values, -torch.inf)
    return _scattered(scores, tokens, values)


def _scattered(scores: torch.Tensor, tokens: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.full_like(scores, -torch.inf).scatter_(1, tokens, values)


_tries: weakref.WeakKeyDictionary[CodeTrie, dict[tuple[str, int | None], TorchTrie]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def torch_trie(trie: CodeTrie, eos: int | None, device: torch.device) -> TorchTrie:
    """Give a whole trie's tensors on a device, made once as long as the trie lives."""
    with _lock:
        made = _tries.setdefault(trie, {})
        key = (str(device), eos)
        if key not in made:
            made[key] = TorchTrie(trie, eos, device)
        return made[key]


def allowed_tables(rows: RowTries, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """Bring what the rows' lists allow to a device; ``None`` where they allow everything."""
    if rows.bits is None:
        return None
    count = rows.whole.arrays.num_nodes
    bits = np.pad(rows.bits, ((0, 0), (0, 1)))
    bits[:, count >> 3] |= np.uint8(1 << (count & 7))  # the extra node
    inner, there = rows.inner_ends
    numbers = np.full(count + 1, len(inner), dtype=np.int64)
    numbers[inner] = np.arange(len(inner))
    there = np.pad(there, ((0, 0), (0, 1)), constant_values=True)
    return tuple(torch.from_numpy(array).to(device) for array in (bits, numbers, there))
