"""The trie of valid code sequences as flat arrays (paper section 4.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolscaler.errors import DecodingError, EmptyCatalogueError, UnknownToolError
from toolscaler.tokenization.code_tokens import code_offsets

if TYPE_CHECKING:
    from toolscaler.tokenization import ToolIndex, ToolscalerTokenizer

#: State of a row that has left the trie.
DEAD = -1

#: What fills the end of a sequence that is shorter than others.
PADDING = -1


class CodeTrie:
    """All token sequences that name a tool, walked in batches.

    Nodes are numbered breadth first; node 0 is the root. The edges are sorted by (parent, token), so the children of a
    node lie in one slice, and a step of many rows is one binary search over packed 64-bit keys.

    Make one with :meth:`from_tokenizer` or :meth:`from_token_sequences`. A trie never changes; it may be pickled and
    used from several threads.

    Args:
        sequences: Integers (N, length): token ids, -1 as padding on the right.
        tool_ids: N different ids.

    Attributes:
        tool_ids: N tool ids; indices into it are called tool indices.
        sequences: int64 (N, longest) token ids, padded with -1 on the right where lengths differ; read-only.
        num_nodes: Number of nodes, root included.

    Raises:
        DecodingError: Sequences or ids are not of that form.
        EmptyCatalogueError: There is no sequence.
    """

    def __init__(self, sequences: Any, tool_ids: Sequence[str]) -> None:
        self.sequences = _checked_sequences(sequences)
        self.tool_ids = _checked_ids(tool_ids, len(self.sequences))
        self._rows = {name: row for row, name in enumerate(self.tool_ids)}
        if len(self._rows) != len(self.tool_ids):
            twice = next(name for row, name in enumerate(self.tool_ids) if self._rows[name] != row)
            raise DecodingError(f"tool_ids: expected each id once, got {twice!r} more than once")
        self._stride = int(self.sequences.max()) + 1
        self._build()

    @classmethod
    def from_tokenizer(cls, tokenizer: ToolscalerTokenizer) -> CodeTrie:
        """Make the trie of a tokenizer's whole catalogue.

        The trie is a snapshot: tools added or removed later need a new one.

        Raises:
            EmptyCatalogueError: The tokenizer knows no tool.
        """
        return cls.from_tool_index(tokenizer.tool_index, tokenizer.first_code_id)

    @classmethod
    def from_tool_index(cls, index: ToolIndex, first_code_id: int) -> CodeTrie:
        """Make the trie of one state of a catalogue, whatever another thread does to the tokenizer meanwhile.

        Args:
            index: Tools and codes.
            first_code_id: Token id of the first code token.

        Raises:
            EmptyCatalogueError: The index knows no tool.
        """
        return cls(index.codes + (first_code_id + code_offsets(index.code_sizes)), index.tool_ids)

    @classmethod
    def from_token_sequences(cls, sequences: Any, tool_ids: Sequence[str] | None = None) -> CodeTrie:
        """Make a trie of given token sequences.

        Args:
            sequences: Integers (N, length), array or tensor, padded with -1 on the right where lengths differ; or N
                sequences of any lengths above zero. Equal sequences name several tools; one sequence may begin another.
            tool_ids: N ids; default: the row numbers as text.

        Raises:
            DecodingError: A sequence is empty or holds anything but token ids, or the number of ids does not fit.
            EmptyCatalogueError: There is no sequence.
        """
        padded = _padded(sequences)
        return cls(padded, [str(row) for row in range(len(padded))] if tool_ids is None else tool_ids)

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
        self._leaf_tools = np.argsort(node, kind="stable")
        self._leaf_tools.flags.writeable = False  # tools_at gives views of it
        self._leaf_start = np.searchsorted(node[self._leaf_tools], np.arange(self.num_nodes + 1))

    def __len__(self) -> int:
        """Count the tools."""
        return len(self.tool_ids)

    def __repr__(self) -> str:
        return f"CodeTrie({len(self)} tools, {self.num_nodes} nodes, max_length={self.max_length})"

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
            prefixes: int (B, depth) token ids; depth zero gives the root.

        Returns:
            int64 (B,) nodes, :data:`DEAD` for rows that are no prefix of a sequence.

        Raises:
            DecodingError: ``prefixes`` has not two dimensions.
        """
        prefixes = np.asarray(prefixes, dtype=np.int64)
        if prefixes.ndim != 2:
            raise DecodingError(f"prefixes: expected token ids of shape (B, depth), got shape {prefixes.shape}")
        nodes = np.zeros(len(prefixes), dtype=np.int64)
        for depth in range(prefixes.shape[1]):
            nodes = self.advance(nodes, prefixes[:, depth])
        return nodes

    def children(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """List the children of each row's node.

        Args:
            nodes: int (B,) nodes of this trie; dead rows have no children.

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
        """Say for each node whether a tool's sequence ends there; bool (B,), false for dead rows."""
        nodes = np.asarray(nodes, dtype=np.int64)
        return (nodes >= 0) & (self._leaf_start[nodes + 1] > self._leaf_start[nodes])

    def tools_at(self, node: int) -> np.ndarray:
        """Give the indices of the tools whose sequence ends at a node.

        Returns:
            int64 (tools,), ascending and read-only: none, one, or several where codes are shared.
        """
        if node < 0:
            return self._leaf_tools[:0]
        return self._leaf_tools[self._leaf_start[node] : self._leaf_start[node + 1]]

    def subset(self, *, tools: Iterable[str] | None = None, mask: Any = None) -> CodeTrie:
        """Keep some tools; every other one has probability zero at every depth.

        Args:
            tools: Ids to keep, any iterable, in any order, repeats allowed; or
            mask: bool (N,), true for the tools to keep.

        Returns:
            A new trie over the kept tools, in this trie's order.

        Raises:
            UnknownToolError: An id is not in the trie; the nearest ids are suggested.
            EmptyCatalogueError: Nothing is kept.
            DecodingError: Not exactly one of the two is given, ``tools`` is no collection of ids, or the mask has
                another shape.
        """
        if (tools is None) == (mask is None):
            raise DecodingError("subset: expected either tools or mask, got both or neither")
        kept = self._mask_of(tools) if tools is not None else np.asarray(mask)
        if kept.shape != (len(self),) or kept.dtype != np.bool_:
            raise DecodingError(f"mask: expected bool ({len(self)},), got {kept.dtype} {kept.shape}")
        rows = np.flatnonzero(kept)
        if not len(rows):
            raise EmptyCatalogueError("subset: expected at least one tool to keep, got none")
        return CodeTrie(self.sequences[rows], [self.tool_ids[row] for row in rows])

    def _mask_of(self, tools: Iterable[str]) -> np.ndarray:
        if isinstance(tools, str) or not isinstance(tools, Iterable):
            raise DecodingError(f"tools: expected a collection of tool ids, got {tools!r:.80}; write [tool_id]")
        mask = np.zeros(len(self), dtype=bool)
        for name in tools:
            if not isinstance(name, str):
                raise DecodingError(f"tools: expected tool ids as text, got {type(name).__name__}")
            row = self._rows.get(name)
            if row is None:
                raise UnknownToolError(name, self.tool_ids)
            mask[row] = True
        return mask

    def with_end_token(self, end_token_id: int) -> CodeTrie:
        """Give a trie with one more token behind each sequence, so that no sequence begins another.

        Raises:
            DecodingError: The end token is missing, no token id, or one of the sequences' own.
        """
        self.check_end_token(end_token_id)
        lengths = (self.sequences >= 0).sum(1)
        longer = np.pad(self.sequences, ((0, 0), (0, 1)), constant_values=PADDING)
        longer[np.arange(len(longer)), lengths] = end_token_id
        return CodeTrie(longer, self.tool_ids)

    def check_end_token(self, end_token_id: Any) -> None:
        """Refuse an end token that could not be told from the sequences.

        Raises:
            DecodingError: It is missing, no single token id, or one of the sequences' own.
        """
        whole = isinstance(end_token_id, int | np.integer) and not isinstance(end_token_id, bool)
        if not whole or end_token_id < 0 or (self.sequences == end_token_id).any():
            raise DecodingError(
                f"end token: expected one token id that no tool's sequence uses, got {end_token_id!r}; give the "
                "tokenizer's eos_token_id (and set tokenizer.eos_token where it has none)"
            )


def _padded(sequences: Any) -> np.ndarray:
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


def _checked_sequences(sequences: Any) -> np.ndarray:
    """Copy token sequences into a read-only int64 array as wide as the longest of them."""
    array = np.asarray(sequences)
    if array.ndim and not len(array):
        raise EmptyCatalogueError("expected at least one tool to choose from, got none; add tools to the tokenizer")
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise DecodingError(f"sequences: expected whole numbers (N, length), got {array.dtype} of shape {array.shape}")
    present = array >= 0
    lengths = present.sum(1)
    right = present == (np.arange(array.shape[1]) < lengths[:, None])
    # Below 2**31, so that a node and a token fit into one 64-bit key.
    bad = (lengths == 0) | ~right.all(1) | ((array < PADDING) | (array >= 2**31)).any(1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DecodingError(
            f"sequences: row {row}: expected one or more token ids from 0 to 2**31 - 1, then -1 as padding, got "
            f"{array[row].tolist()}"
        )
    checked = array[:, : lengths.max()].astype(np.int64)  # a copy, also where nothing is to convert
    checked.flags.writeable = False
    return checked


def _checked_ids(tool_ids: Sequence[str], count: int) -> tuple[str, ...]:
    if isinstance(tool_ids, str) or not isinstance(tool_ids, Iterable):
        raise DecodingError(f"tool_ids: expected {count} ids, got {tool_ids!r:.80}")
    names = tuple(tool_ids)
    if len(names) != count:
        raise DecodingError(f"tool_ids: expected {count} ids, one for each sequence, got {len(names)}")
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise DecodingError(f"tool_ids: expected text, got {wrong!r:.80}")
    return names
