"""The trie of valid code sequences as flat arrays (paper section 4.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolscaler.errors import DecodingError, EmptyCatalogueError, UnknownToolError

if TYPE_CHECKING:
    from toolscaler.tokenization import ToolscalerTokenizer

#: State of a row that has left the trie.
DEAD = -1


class CodeTrie:
    """All token sequences that name a tool, walked in batches.

    Nodes are numbered breadth first; node 0 is the root. The edges are sorted by (parent, token), so the children of a
    node lie in one slice, and a step of many rows is one binary search over packed 64-bit keys.

    Make one with :meth:`from_tokenizer` or :meth:`from_token_sequences`. A trie never changes.

    Attributes:
        tool_ids: N tool ids; indices into it are called tool indices.
        sequences: int64 (N, length) token ids, padded with -1 on the right where lengths differ.
    """

    def __init__(self, sequences: np.ndarray, tool_ids: Sequence[str]) -> None:
        self.tool_ids = tuple(tool_ids)
        self.sequences = sequences
        self._rows = {name: row for row, name in enumerate(self.tool_ids)}
        if len(self._rows) != len(self.tool_ids):
            raise DecodingError("tool_ids: expected each id once, got some twice")
        if not len(sequences):
            raise EmptyCatalogueError("expected at least one tool to choose from, got none")
        self._stride = np.int64(sequences.max() + 1)
        self._build()

    @classmethod
    def from_tokenizer(cls, tokenizer: ToolscalerTokenizer) -> CodeTrie:
        """Make the trie of a tokenizer's whole catalogue.

        Raises:
            EmptyCatalogueError: The tokenizer knows no tool.
        """
        return cls(tokenizer.tool_token_ids(), tokenizer.tool_names)

    @classmethod
    def from_token_sequences(cls, sequences: Any, tool_ids: Sequence[str] | None = None) -> CodeTrie:
        """Make a trie of given token sequences.

        Args:
            sequences: Integers (N, length), or N sequences of any lengths above zero. Equal sequences name several
                tools; one sequence may begin another.
            tool_ids: N ids; default: the row numbers as text.

        Raises:
            DecodingError: A sequence is empty, an id is negative, or the lengths do not fit.
            EmptyCatalogueError: There is no sequence.
        """
        rows = [np.asarray(row, dtype=np.int64).reshape(-1) for row in sequences]
        if any(not len(row) or row.min() < 0 for row in rows):
            raise DecodingError("sequences: expected token ids >= 0, at least one for each tool")
        if tool_ids is None:
            tool_ids = [str(row) for row in range(len(rows))]
        if len(tool_ids) != len(rows):
            raise DecodingError(f"tool_ids: expected {len(rows)} ids, got {len(tool_ids)}")
        padded = np.full((len(rows), max(map(len, rows), default=0)), -1, dtype=np.int64)
        for index, row in enumerate(rows):
            padded[index, : len(row)] = row
        return cls(padded, tool_ids)

    def _build(self) -> None:
        count, length = self.sequences.shape
        node = np.zeros(count, dtype=np.int64)  # where each tool's prefix ends
        keys, self.num_nodes = [], 1
        for depth in range(length):
            tokens = self.sequences[:, depth]
            alive = tokens >= 0
            edge, inverse = np.unique(node[alive] * self._stride + tokens[alive], return_inverse=True)
            keys.append(edge)
            node[alive] = self.num_nodes + inverse
            self.num_nodes += len(edge)
        # Parents of deeper edges have larger numbers, so the concatenation is sorted and edge e leads to node e + 1.
        self._keys = np.concatenate(keys)
        self._tokens = self._keys % self._stride
        self._child_start = np.searchsorted(self._keys, np.arange(self.num_nodes + 1) * self._stride)
        order = np.argsort(node, kind="stable")
        self._leaf_tools = order
        self._leaf_start = np.searchsorted(node[order], np.arange(self.num_nodes + 1))

    def __len__(self) -> int:
        """Count the tools."""
        return len(self.tool_ids)

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence."""
        return self.sequences.shape[1]

    def advance(self, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Take one step in each row.

        Args:
            nodes: int (B,) present nodes; :data:`DEAD` stays dead.
            tokens: int (B,) token ids.

        Returns:
            int64 (B,) next nodes, :data:`DEAD` where the node has no such child.
        """
        nodes, tokens = np.asarray(nodes, dtype=np.int64), np.asarray(tokens, dtype=np.int64)
        valid = (nodes >= 0) & (tokens >= 0) & (tokens < self._stride)
        wanted = np.where(valid, nodes * self._stride + tokens, -1)
        place = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        return np.where(valid & (self._keys[place] == wanted), place + 1, DEAD)

    def walk(self, prefixes: np.ndarray) -> np.ndarray:
        """Walk from the root along each row.

        Args:
            prefixes: int (B, depth) token ids.

        Returns:
            int64 (B,) nodes, :data:`DEAD` for rows that are no prefix of a sequence.
        """
        prefixes = np.asarray(prefixes, dtype=np.int64)
        nodes = np.zeros(len(prefixes), dtype=np.int64)
        for depth in range(prefixes.shape[1]):
            nodes = self.advance(nodes, prefixes[:, depth])
        return nodes

    def children(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """List the children of each row's node.

        Args:
            nodes: int (B,) nodes; dead rows have no children.

        Returns:
            Row numbers and token ids, both int64 (E,), rows in order and tokens ascending in each.
        """
        nodes = np.asarray(nodes, dtype=np.int64)
        alive = nodes >= 0
        start = np.where(alive, self._child_start[nodes], 0)
        count = np.where(alive, self._child_start[nodes + 1], 0) - start
        rows = np.repeat(np.arange(len(nodes)), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        return rows, self._tokens[np.repeat(start, count) + within]

    def is_end(self, nodes: np.ndarray) -> np.ndarray:
        """Say for each node whether a tool's sequence ends there; bool (B,)."""
        nodes = np.asarray(nodes, dtype=np.int64)
        return (nodes >= 0) & (self._leaf_start[nodes + 1] > self._leaf_start[nodes])

    def tools_at(self, node: int) -> np.ndarray:
        """Give the indices of the tools whose sequence ends at a node; int64, several where codes are shared."""
        if node < 0:
            return np.empty(0, dtype=np.int64)
        return self._leaf_tools[self._leaf_start[node] : self._leaf_start[node + 1]]

    def subset(self, *, tools: Iterable[str] | None = None, mask: Any = None) -> CodeTrie:
        """Keep some tools; every other one has probability zero at every depth.

        Args:
            tools: Ids to keep; or
            mask: bool (N,), true for the tools to keep.

        Returns:
            A new trie over the kept tools, in this trie's order.

        Raises:
            UnknownToolError: An id is not in the trie; the nearest ids are suggested.
            EmptyCatalogueError: Nothing is kept.
            DecodingError: Not exactly one of the two is given, or the mask has another shape.
        """
        if (tools is None) == (mask is None):
            raise DecodingError("subset: expected either tools or mask, got both or neither")
        if tools is not None:
            if isinstance(tools, str):
                raise DecodingError(f"subset: expected a collection of tool ids, got the text {tools!r}")
            mask = np.zeros(len(self), dtype=bool)
            for name in tools:
                if name not in self._rows:
                    raise UnknownToolError(name, self.tool_ids)
                mask[self._rows[name]] = True
        kept = np.asarray(mask)
        if kept.shape != (len(self),) or kept.dtype != np.bool_:
            raise DecodingError(f"mask: expected bool ({len(self)},), got {kept.dtype} {kept.shape}")
        rows = np.flatnonzero(kept)
        return CodeTrie(self.sequences[rows], [self.tool_ids[row] for row in rows])

    def with_end_token(self, end_token_id: int) -> CodeTrie:
        """Give a trie with one more token behind each sequence, so that no sequence begins another.

        Raises:
            DecodingError: The end token is one of the code tokens, or is missing.
        """
        if end_token_id is None or end_token_id < 0 or (self.sequences == end_token_id).any():
            raise DecodingError(f"end_token_id: expected an id that no sequence uses, got {end_token_id}")
        lengths = (self.sequences >= 0).sum(1)
        longer = np.pad(self.sequences, ((0, 0), (0, 1)), constant_values=-1)
        longer[np.arange(len(longer)), lengths] = end_token_id
        return CodeTrie(longer, self.tool_ids)
