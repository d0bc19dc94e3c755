"""Where each row of a batch stands in its trie, read off its last ids; numpy, no state kept between steps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from toolscaler.decoding.trie import DEAD, CodeTrie
from toolscaler.errors import DecodingError


class RowTries:
    """One trie for all rows, or one for each prompt of a batch.

    ``generate`` repeats each prompt for its beams and returned sequences, one behind the other: with C tries and B
    rows, row r belongs to trie ``r // (B // C)``. All tries are views of one whole trie, so nodes are found once for
    all rows, and one bit for each row and node says what its own list allows.

    Args:
        tries: A trie, or several that share a whole trie.

    Attributes:
        whole: The trie that all are views of.
        count: C; 1 for a single trie.
        bits: uint8 (different views, nodes / 8) stacked bits, or ``None`` where every node is allowed to all.
        view_of: int64 (C,) the row of ``bits`` of each trie; ``None`` for a single trie.
        inner_ends: Nodes where a sequence ends and others go on, int64 (M,), and which of the different views have a
            tool there, bool (views, M).
        depth_starts: Token ids at which another depth begins or ends, where each depth has ids of its own, else
            ``None``.

    Raises:
        DecodingError: ``tries`` is no trie and no sequence of tries of one whole trie.
    """

    def __init__(self, tries: CodeTrie | Sequence[CodeTrie]) -> None:
        given = [tries] if isinstance(tries, CodeTrie) else tries
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise DecodingError(
                f"trie: expected a CodeTrie or a list of them, got {type(given).__name__}; CodeTrie.from_tokenizer "
                "makes one"
            )
        for number, trie in enumerate(given):
            if not isinstance(trie, CodeTrie):
                raise DecodingError(f"trie {number}: expected a CodeTrie, got {type(trie).__name__}")
            if trie.whole is not given[0].whole:
                raise DecodingError(
                    f"trie {number}: expected a view of the same whole trie as trie 0; use its subset()"
                )
        self.whole = given[0].whole
        self.count = len(given)
        views = list({id(trie): trie for trie in given}.values())
        self._views = views
        self.bits = _stacked_bits(views, self.whole)
        self.view_of: np.ndarray | None = None
        if not isinstance(tries, CodeTrie):
            number_of = {id(trie): number for number, trie in enumerate(views)}
            self.view_of = np.array([number_of[id(trie)] for trie in given], dtype=np.int64)
        self.inner_ends = _inner_ends(views, self.whole)
        arrays = self.whole.arrays
        self.max_length = arrays.length
        self.ragged = bool(arrays.ragged)
        lows = arrays.bases.tolist()
        highs = (arrays.bases + arrays.sizes - arrays.ragged).tolist()
        order = sorted(range(len(lows)), key=lows.__getitem__)
        apart = all(highs[a] <= lows[b] for a, b in pairwise(order))
        self.depth_starts: list[int] | None = [edge for p in order for edge in (lows[p], highs[p])] if apart else None
        self._depths = [depth for p in order for depth in (0, p + 1)] + [0]
        self.span = min(lows), max(highs)

    def groups(self, rows: int) -> np.ndarray | None:
        """Give the row of ``bits`` of each of B rows, int64 (B,); ``None`` where all have the same.

        Raises:
            DecodingError: B is no multiple of the number of tries.
        """
        if self.view_of is None:
            return None
        if rows % self.count:
            raise DecodingError(f"trie: expected one for each prompt, got {self.count} tries for {rows} rows of scores")
        return np.repeat(self.view_of, rows // self.count)

    def depth_of(self, token: int) -> int:
        """Give the depth that a token leads to, 0 for one of no sequence; only where each depth has its own ids."""
        return self._depths[bisect_right(self.depth_starts or (), token)]

    def token_depths(self, tokens: np.ndarray) -> np.ndarray:
        """Do as :meth:`depth_of` for an array."""
        return np.asarray(self._depths)[np.searchsorted(self.depth_starts or (), tokens, side="right")]

    def allows(self, nodes: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        """Say whether each row's list allows its node; bool (B,), false for dead rows."""
        alive = nodes >= 0
        if self.bits is None:
            return alive
        byte = self.bits[0 if groups is None else groups, nodes >> 3]
        return alive & ((byte >> (nodes & 7).astype(np.uint8)) & 1).astype(bool)

    def walk(self, prefixes: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        """Walk from the root along int (B, depth) token ids; int64 (B,) nodes or ``DEAD``."""
        nodes = self.whole.walk(prefixes)
        return nodes if self.bits is None else np.where(self.allows(nodes, groups), nodes, DEAD)

    def advance(self, nodes: np.ndarray, tokens: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        """Take one step in each row; int64 (B,) nodes or ``DEAD``."""
        found = self.whole.advance(nodes, tokens)
        return found if self.bits is None else np.where(self.allows(found, groups), found, DEAD)

    def children(self, nodes: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """List what each row may go on with: row numbers and token ids, int64 (E,), rows in order."""
        rows, tokens, found = self.whole.expand(nodes)
        if self.bits is None:
            return rows, tokens
        kept = np.flatnonzero(self.allows(found, None if groups is None else groups[rows]))
        return rows[kept], tokens[kept]

    def is_end(self, nodes: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        """Say whether an allowed sequence ends at each row's node; bool (B,)."""
        ended = self.whole.is_end(nodes)
        if self.bits is None or not ended.any():
            return ended
        ended &= self.allows(nodes, groups)
        inner, allowed = self.inner_ends
        if len(inner):  # below an inner node others may be allowed that the node's own tools are not
            place = np.searchsorted(inner, nodes).clip(max=len(inner) - 1)
            ended &= (inner[place] != nodes) | allowed[0 if groups is None else groups, place]
        return ended

    def tail_states(self, ids: np.ndarray, groups: np.ndarray | None, eos: int | None) -> np.ndarray:
        """Give the node at the end of the longest tail that begins a sequence; int64 (B,).

        Rows without such a tail are at the root, rows behind a whole sequence and the end token are ``DEAD``.
        """
        nodes = self._longest_tails(ids, groups)
        if eos is not None and ids.shape[1]:
            # An end token alone does not end a row: a prompt may close with one (some chat templates; bos = eos).
            ended = np.flatnonzero(ids[:, -1] == eos)
            if len(ended):
                some = None if groups is None else groups[ended]
                before = self._longest_tails(ids[ended, :-1], some)
                nodes[ended[self.is_end(before, some)]] = DEAD
        return nodes

    def _longest_tails(self, ids: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        width = ids.shape[1]
        nodes = np.zeros(len(ids), dtype=np.int64)
        if not width:
            return nodes
        depths = None if self.depth_starts is None else self.token_depths(ids[:, -1])
        for depth in range(1, min(self.max_length, width) + 1):
            rows = np.arange(len(ids)) if depths is None else np.flatnonzero(depths == depth)
            if len(rows):
                found = self.walk(ids[rows, width - depth :], None if groups is None else groups[rows])
                nodes[rows] = np.where(found >= 0, found, nodes[rows])
        return nodes

    def unfit_tails(self, ids: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Give the rows that end with a token of the trie which the tokens before it do not lead to; int64."""
        if not ids.shape[1]:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero((nodes == 0) & self.uses(ids[:, -1]))

    def uses(self, tokens: np.ndarray) -> np.ndarray:
        """Say whether a sequence of the whole trie may hold each token, by the range of ids of each position."""
        if self.depth_starts is not None:
            return self.token_depths(tokens) > 0
        arrays = self.whole.arrays
        labels = tokens[:, None] - arrays.bases
        return ((labels >= 0) & (labels < arrays.sizes - int(arrays.ragged))).any(1)

    def unfit_outputs(
        self, output: np.ndarray, nodes: np.ndarray, groups: np.ndarray | None, eos: int | None
    ) -> np.ndarray:
        """Give the rows whose output is neither within a sequence nor a whole one, its end and padding; int64.

        Args:
            output: int64 (B, steps) generated ids.
            nodes: int64 (B,) the nodes they lead to.
            groups: As :meth:`groups` gives it.
            eos: End token.
        """
        dead = np.flatnonzero(nodes < 0)
        if eos is None or not len(dead):
            return dead
        ended = np.zeros(len(dead), dtype=bool)
        some = None if groups is None else groups[dead]
        at = output[dead] == eos
        first = np.where(at.any(1), at.argmax(1), -1)
        for length in range(1, min(self.max_length, output.shape[1] - 1) + 1):
            rows = np.flatnonzero(first == length)
            if len(rows):
                own = None if some is None else some[rows]
                ended[rows] = self.is_end(self.walk(output[dead[rows], :length], own), own)
        return dead[~ended]


def _stacked_bits(views: list[CodeTrie], whole: CodeTrie) -> np.ndarray | None:
    if all(view.node_bits is None for view in views):
        return None
    full = np.full((whole.arrays.num_nodes + 7) // 8, 255, dtype=np.uint8)
    if len(views) == 1:
        return views[0].node_bits[None]  # type: ignore[index]  # one view, no copy
    return np.stack([full if view.node_bits is None else view.node_bits for view in views])


def _inner_ends(views: list[CodeTrie], whole: CodeTrie) -> tuple[np.ndarray, np.ndarray]:
    """Give the nodes where a sequence ends and others go on, and which views have a tool there: (M,), (views, M)."""
    arrays = whole.arrays
    if not arrays.ragged or all(view.node_bits is None for view in views):
        return np.empty(0, dtype=np.int64), np.empty((len(views), 0), dtype=bool)
    above = np.arange(len(arrays.child_start) - 1)
    inner = above[(np.diff(arrays.child_start) > 0) & whole.is_end(above)]
    return inner, np.stack([view.is_end(inner) for view in views])
