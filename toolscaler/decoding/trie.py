"""The trie of valid code sequences as flat arrays, whole or restricted to an allow-list (paper section 4.3)."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolscaler.decoding.tool_names import ToolNames
from toolscaler.decoding.trie_arrays import PADDING, TrieArrays
from toolscaler.decoding.trie_build import build_arrays, checked_sequences, padded_sequences
from toolscaler.errors import DecodingError, EmptyCatalogueError
from toolscaler.tokenization.code_tokens import code_offsets

if TYPE_CHECKING:
    from toolscaler.tokenization import ToolIndex, ToolscalerTokenizer

#: State of a row that has left the trie.
DEAD = -1

#: Allow-lists that a trie remembers.
SUBSET_CACHE_SIZE = 64


class CodeTrie:
    """All token sequences that name a tool, walked in batches.

    Nodes are numbered breadth first; node 0 is the root. The children of a node are a range of nodes, in order of their
    tokens. To find a node is one binary search over packed keys, whatever its depth.

    Make one with :meth:`from_tokenizer` or :meth:`from_token_sequences`. A trie never changes:
    :meth:`with_tools`, :meth:`without_tools` and :meth:`subset` make new ones, so whoever holds a trie holds a
    snapshot. It may be pickled and used from several threads.

    A *subset* is a view: it shares the arrays and the node numbers of the whole trie, and adds one bit a node, set
    where an allowed tool lies below. All methods of a view know the allowed tools only.

    Args:
        sequences: Integers (N, length): token ids, -1 as padding on the right.
        tool_ids: N different ids; default: the row numbers as text.

    Attributes:
        arrays: The nodes.
        whole: The trie that this one is a view of, or itself.
        node_bits: uint8 (nodes / 8, rounded up), bit ``n % 8`` of byte ``n // 8`` set where node n is allowed; ``None``
            where all are.

    Raises:
        DecodingError: Sequences or ids are not of that form.
        EmptyCatalogueError: There is no sequence.
    """

    def __init__(self, sequences: Any, tool_ids: Iterable[str] | None = None) -> None:
        checked, ragged = checked_sequences(padded_sequences(sequences))
        self._start(build_arrays(checked, ragged=ragged), ToolNames.checked(tool_ids, len(checked)))

    def _start(self, arrays: TrieArrays, names: ToolNames) -> None:
        self.arrays = arrays
        self.whole = self
        self.node_bits: np.ndarray | None = None
        self._names = names
        self._mask: np.ndarray | None = None  # bool over the catalogue; None: all
        self._views: OrderedDict[bytes, CodeTrie] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def _of(cls, arrays: TrieArrays, names: ToolNames) -> CodeTrie:
        trie = cls.__new__(cls)
        trie._start(arrays, names)
        return trie

    @classmethod
    def from_tokenizer(cls, tokenizer: ToolscalerTokenizer, index: ToolIndex | None = None) -> CodeTrie:
        """Make the trie of a tokenizer's whole catalogue.

        The trie is a snapshot: tools added or removed later need a new one.

        Args:
            tokenizer: The tokenizer.
            index: A state of its catalogue that ``tokenizer.tool_index`` gave, whatever another thread does to the
                tokenizer meanwhile; default: the present one.

        Raises:
            EmptyCatalogueError: The tokenizer knows no tool.
        """
        index = tokenizer.tool_index if index is None else index
        checked, ragged = checked_sequences(tokenizer.tool_token_ids(index))
        return cls._of(build_arrays(checked, ragged=ragged), ToolNames(index.tool_ids))

    @classmethod
    def from_tool_index(cls, index: ToolIndex, first_code_id: int) -> CodeTrie:
        """Make the trie of one state of a catalogue, whatever another thread does to the tokenizer meanwhile.

        Args:
            index: Tools and codes.
            first_code_id: Token id of the first code token.

        Raises:
            EmptyCatalogueError: The index knows no tool.
        """
        tokens = index.codes + (first_code_id + code_offsets(index.code_sizes))
        checked, ragged = checked_sequences(np.where(index.codes < 0, PADDING, tokens) if index.ragged else tokens)
        return cls._of(build_arrays(checked, ragged=ragged), ToolNames(index.tool_ids))

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
        return cls(sequences, tool_ids)

    @classmethod
    def load(cls, path: str | Path) -> CodeTrie:
        """Open a trie that :meth:`save` wrote; its arrays stay on disk and are mapped into memory.

        Raises:
            ArtifactError: The file is missing, damaged, or of an unknown version.
        """
        from toolscaler.decoding.trie_files import load_trie

        return cls._of(*load_trie(Path(path)))

    def save(self, path: str | Path) -> None:
        """Write the trie into one safetensors file, whole or not at all. A view is saved as the trie of its own tools.

        Raises:
            ArtifactError: The file cannot be written.
        """
        from toolscaler.decoding.trie_files import save_trie

        trie = self if self._mask is None else CodeTrie(self.sequences, self.tool_ids)
        save_trie(Path(path), trie.arrays, trie._names)

    def __len__(self) -> int:
        """Count the (allowed) tools."""
        return self.arrays.num_tools if self._mask is None else int(np.count_nonzero(self._mask))

    def __repr__(self) -> str:
        of = "" if self._mask is None else f" of {self.arrays.num_tools}"
        return f"CodeTrie({len(self)}{of} tools, {self.num_nodes} nodes, max_length={self.max_length})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Without caches and look-up tables: a pickle does not depend on what was asked before.
        return _restore, (self.arrays, self._names, self._mask)

    @property
    def catalogue(self) -> tuple[str, ...]:
        """The ids that tool rows refer to: N, also for a view."""
        return self._names.names

    @cached_property
    def tool_ids(self) -> tuple[str, ...]:
        """The (allowed) tool ids, in catalogue order."""
        if self._mask is None:
            return self._names.names
        return tuple(compress(self._names.names, self._mask.tolist()))

    @cached_property
    def num_nodes(self) -> int:
        """Number of (allowed) nodes, root included."""
        if self.node_bits is None:
            return self.arrays.num_nodes
        return int(np.unpackbits(self.node_bits).sum(dtype=np.int64))

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence of the whole trie."""
        return self.arrays.length

    @property
    def level_starts(self) -> np.ndarray:
        """First node of each depth, int64 (max_length + 2,)."""
        return self.arrays.level_starts

    @cached_property
    def largest_token(self) -> int:
        """The largest token id of any sequence of the whole trie."""
        arrays = self.arrays
        return int((arrays.bases + arrays.sizes).max()) - (2 if arrays.ragged else 1)

    @cached_property
    def sequences(self) -> np.ndarray:
        """Token ids of the (allowed) tools, int64 (tools, max_length), -1 behind shorter ones; read-only."""
        table = self.arrays.sequences()
        if self._mask is not None:
            table = table[self._mask]
        table.flags.writeable = False
        return table

    def depths(self, nodes: np.ndarray) -> np.ndarray:
        """Give the depth of each node, int64 (B,); -1 for dead rows."""
        return np.searchsorted(self.arrays.level_starts, self._nodes(nodes), side="right") - 1

    def shared_depth(self, nodes: np.ndarray) -> int | None:
        """Give the depth of all nodes, where they have one depth and none is dead; else ``None``."""
        if not len(nodes):
            return None
        low, starts = int(nodes.min()), self.arrays.level_starts
        depth = int(starts.searchsorted(low, side="right")) - 1
        return depth if low >= 0 and int(nodes.max()) < starts[depth + 1] else None

    def allows(self, nodes: np.ndarray) -> np.ndarray:
        """Say for each node whether an allowed tool lies below it; bool (B,), false for dead rows."""
        return self._allows(self._nodes(nodes))

    def _nodes(self, nodes: Any) -> np.ndarray:
        """Check nodes; int64 (B,)."""
        nodes = _integers(nodes, "nodes", 1)
        if len(nodes) and int(nodes.max()) >= self.arrays.num_nodes:
            raise DecodingError(
                f"nodes: expected numbers below {self.arrays.num_nodes}, got {int(nodes.max())}; a node belongs to the "
                "trie that gave it"
            )
        return nodes

    def _allows(self, nodes: np.ndarray) -> np.ndarray:
        alive = nodes >= 0
        if self.node_bits is None:
            return alive
        return alive & ((self.node_bits[nodes >> 3] >> (nodes & 7).astype(np.uint8)) & 1).astype(bool)

    def walk(self, prefixes: np.ndarray) -> np.ndarray:
        """Walk from the root along each row.

        Args:
            prefixes: int (B, depth) token ids; depth zero gives the root.

        Returns:
            int64 (B,) nodes, :data:`DEAD` for rows that are no prefix of an allowed sequence.

        Raises:
            DecodingError: ``prefixes`` are no integers of two dimensions.
        """
        prefixes = _integers(prefixes, "prefixes", 2)
        count, depth = prefixes.shape
        if not depth:
            return np.zeros(count, dtype=np.int64)
        if depth > self.arrays.length:
            return np.full(count, DEAD, dtype=np.int64)
        nodes = self.arrays.find(prefixes)
        return nodes if self.node_bits is None else np.where(self._allows(nodes), nodes, DEAD)

    def advance(self, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Take one step in each row.

        Args:
            nodes: int (B,) present nodes; :data:`DEAD` stays dead.
            tokens: int (B,) token ids.

        Returns:
            int64 (B,) next nodes, :data:`DEAD` where the node has no such (allowed) child.
        """
        nodes, tokens = self._nodes(nodes), _integers(tokens, "tokens", 1)
        if len(nodes) != len(tokens):
            raise DecodingError(f"tokens: expected one for each of {len(nodes)} nodes, got {len(tokens)}")
        found = np.full(len(nodes), DEAD, dtype=np.int64)
        for depth, rows in self._by_depth(nodes):
            labels = tokens[rows] - self.arrays.token_base(depth + 1)
            # Label 0 of a ragged trie is the end of a sequence, no token.
            known = (labels >= int(self.arrays.ragged)) & (labels < self.arrays.sizes[depth])
            below = self.arrays.find_child(depth, np.where(known, nodes[rows], DEAD), np.where(known, labels, 0))
            found[rows] = below
        return found if self.node_bits is None else np.where(self._allows(found), found, DEAD)

    def expand(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """List the children of each row's node.

        Args:
            nodes: int (B,) nodes of this trie; dead rows have no children.

        Returns:
            Row numbers, token ids and child nodes, all int64 (E,), rows in order and tokens ascending in each.
        """
        nodes = self._nodes(nodes)
        shared = self.shared_depth(nodes)
        if shared is not None:
            return self._expand_level(shared, nodes if shared < self.arrays.length else nodes[:0])
        parts = [(rows, *self._expand_level(depth, nodes[rows])) for depth, rows in self._by_depth(nodes)]
        if not parts:
            nothing = np.empty(0, dtype=np.int64)
            return nothing, nothing, nothing
        owner = np.concatenate([rows[at] for rows, at, _, _ in parts])
        order = np.argsort(owner, kind="stable")
        tokens = np.concatenate([tokens for _, _, tokens, _ in parts])[order]
        return owner[order], tokens, np.concatenate([children for _, _, _, children in parts])[order]

    def children(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """List the children of each row's node: row numbers and token ids, as :meth:`expand` gives them."""
        rows, tokens, _ = self.expand(nodes)
        return rows, tokens

    def _by_depth(self, nodes: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
        """Yield each depth that has children, with the rows that are there."""
        depths = self.depths(nodes)
        for depth in range(self.arrays.length):
            rows = np.flatnonzero(depths == depth)
            if len(rows):
                yield depth, rows

    def _expand_level(self, depth: int, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """List the children of nodes of one depth, dead rows not among them: row numbers, tokens, nodes."""
        if not len(nodes):
            nothing = np.empty(0, dtype=np.int64)
            return nothing, nothing, nothing
        start = self.arrays.child_start[nodes]
        counts = self.arrays.child_start[nodes + 1] - start
        ends = counts.cumsum(dtype=np.int64)
        rows = np.arange(len(nodes)).repeat(counts)
        children = np.arange(ends[-1]) + (start - (ends - counts)).repeat(counts)
        if self.node_bits is not None:
            kept = np.flatnonzero(self._allows(children))
            rows, children = rows[kept], children[kept]
        numbers = children - self.arrays.level_starts[depth + 1]
        return (
            rows,
            self.arrays.labels(depth + 1, numbers).astype(np.int64) + self.arrays.token_base(depth + 1),
            children,
        )

    def is_end(self, nodes: np.ndarray) -> np.ndarray:
        """Say for each node whether an (allowed) tool's sequence ends there; bool (B,), false for dead rows."""
        nodes = self._nodes(nodes)
        arrays = self.arrays
        if arrays.end_count is None or arrays.end_start is None:
            return (nodes >= arrays.level_starts[arrays.length]) & self._allows(nodes)
        if self._mask is None:
            return (nodes >= 0) & (arrays.end_count[nodes] > 0)
        first = arrays.end_start[nodes]
        return (nodes >= 0) & (self._allowed_before[first + arrays.end_count[nodes]] > self._allowed_before[first])

    @cached_property
    def _allowed_before(self) -> np.ndarray:
        """Number of allowed tools among the first ones in the order of the sequences, int32 (N + 1,)."""
        mask = self._mask if self._mask is not None else np.ones(self.arrays.num_tools, dtype=bool)
        ordered = mask if self.arrays.order is None else mask[self.arrays.order]
        return np.concatenate([[0], np.cumsum(ordered, dtype=np.int32)])

    def tools_at(self, node: int) -> np.ndarray:
        """Give the (allowed) tools whose sequence ends at a node.

        Returns:
            int64 (tools,) rows of :attr:`catalogue`, ascending: none, one, or several where codes are shared.
        """
        arrays = self.arrays
        whole = isinstance(node, int | np.integer) and not isinstance(node, bool)
        if not whole or node >= arrays.num_nodes:
            raise DecodingError(f"node: expected a number below {arrays.num_nodes}, got {node!r:.80}")
        if node < 0:
            return np.empty(0, dtype=np.int64)
        if arrays.end_start is None or arrays.end_count is None:
            last = int(arrays.level_starts[arrays.length])
            found = np.arange(node - last, node - last + 1) if node >= last else np.empty(0, dtype=np.int64)
        else:
            found = np.arange(arrays.end_start[node], arrays.end_start[node] + arrays.end_count[node], dtype=np.int64)
        if arrays.order is not None:
            found = arrays.order[found].astype(np.int64)
        return found if self._mask is None else found[self._mask[found]]

    def row_of(self, tool_id: str) -> int:
        """Give the row of an (allowed) tool in :attr:`catalogue`.

        Raises:
            UnknownToolError: There is no such tool; the nearest ids are suggested.
        """
        if not isinstance(tool_id, str):
            raise DecodingError(f"tool_id: expected text, got {type(tool_id).__name__}")
        row = self._names.row(tool_id, None if self._mask is None else self.tool_ids)
        if self._mask is not None and not self._mask[row]:
            raise self._names.unknown(tool_id, self.tool_ids)
        return row

    def subset(
        self,
        *,
        tools: Iterable[str] | None = None,
        mask: Any = None,
        predicate: Callable[[str], bool] | None = None,
        without: Iterable[str] | None = None,
    ) -> CodeTrie:
        """Keep some tools; every other one has probability zero at every depth.

        Equal allow-lists give the same object, as long as it is among the last 64 that the whole trie was asked for.

        Args:
            tools: Ids to keep, any iterable, in any order, repeats allowed; or
            mask: bool (len(self),), true for the tools to keep; or
            predicate: Called with each id, true for those to keep.
            without: Ids to leave out, alone or besides one of the others.

        Returns:
            A view of the whole trie.

        Raises:
            UnknownToolError: An id, kept or left out, is not in the trie; the nearest ids are suggested.
            EmptyCatalogueError: Nothing is kept.
            DecodingError: None or several of ``tools``, ``mask`` and ``predicate`` are given, ``tools`` is no
                collection of ids, or the mask has another shape.
        """
        given = sum(value is not None for value in (tools, mask, predicate))
        if given > 1 or (not given and without is None):
            raise DecodingError("subset: expected one of tools, mask and predicate, or without; got none or several")
        kept = self._kept(tools, mask, predicate)
        if without is not None:
            kept[self._rows_of(without, "without")] = False
        if not kept.any():
            raise EmptyCatalogueError("subset: expected at least one tool to keep, got none")
        return self.whole._view(kept)

    def _kept(self, tools: Iterable[str] | None, mask: Any, predicate: Callable[[str], bool] | None) -> np.ndarray:
        """Turn one form of an allow-list into bool over the catalogue."""
        present = np.ones(self.arrays.num_tools, dtype=bool) if self._mask is None else self._mask.copy()
        if tools is not None:
            kept = np.zeros(self.arrays.num_tools, dtype=bool)
            kept[self._rows_of(tools, "tools")] = True
            return kept
        if predicate is not None:
            mask = np.fromiter((bool(predicate(name)) for name in self.tool_ids), dtype=bool, count=len(self))
        if mask is not None:
            mask = mask.detach().cpu().numpy() if hasattr(mask, "detach") else np.asarray(mask)
            if mask.shape != (len(self),) or mask.dtype != np.bool_:
                raise DecodingError(f"mask: expected bool ({len(self)},), got {mask.dtype} {mask.shape}")
            present[np.flatnonzero(present) if self._mask is not None else slice(None)] = mask
        return present

    def _rows_of(self, tools: Iterable[str], what: str) -> list[int]:
        if isinstance(tools, str) or not isinstance(tools, Iterable):
            raise DecodingError(f"{what}: expected a collection of tool ids, got {tools!r:.80}; write [tool_id]")
        rows = []
        for name in tools:
            if not isinstance(name, str):
                raise DecodingError(f"{what}: expected tool ids as text, got {type(name).__name__}")
            rows.append(self.row_of(name))
        return rows

    def _view(self, kept: np.ndarray) -> CodeTrie:
        """Give the view of this whole trie for an allow-list, made once for each content."""
        if kept.all():
            return self
        key = hashlib.blake2b(np.packbits(kept).tobytes(), digest_size=16).digest()
        with self._lock:
            if key in self._views:
                self._views.move_to_end(key)
                return self._views[key]
        view = _restricted(self, kept)
        with self._lock:
            view = self._views.setdefault(key, view)
            self._views.move_to_end(key)
            while len(self._views) > SUBSET_CACHE_SIZE:
                self._views.popitem(last=False)
        return view

    def with_tools(self, tool_ids: Iterable[str], sequences: Any) -> CodeTrie:
        """Make a trie that has more tools, behind the present ones. This one does not change.

        Args:
            tool_ids: M new ids.
            sequences: Token ids (M, length), in any form that :meth:`from_token_sequences` takes.

        Raises:
            DecodingError: An id is there already or comes twice, or the sequences are not of that form.
        """
        added, _ = checked_sequences(padded_sequences(sequences))
        names = ToolNames.checked(tool_ids, len(added))
        present = self._names if self._mask is None else ToolNames(self.tool_ids)
        known = next((name for name in names.names if name in present.rows), None)
        if known is not None:
            raise DecodingError(f"tool_ids: expected ids that are not in the trie, got {known!r}; remove it first")
        width = max(self.max_length, added.shape[1])
        both = [_widened(self.sequences, width), _widened(added.astype(np.int64), width)]
        return self._rebuilt(np.concatenate(both), present.followed_by(names))

    @classmethod
    def _rebuilt(cls, sequences: np.ndarray, names: ToolNames) -> CodeTrie:
        """Make a trie of sequences and ids that are known to be good."""
        checked, ragged = checked_sequences(sequences)
        return cls._of(build_arrays(checked, ragged=ragged), names)

    def without_tools(self, tool_ids: Iterable[str]) -> CodeTrie:
        """Make a trie that lacks some tools. This one does not change.

        Raises:
            UnknownToolError: An id is not in the trie; nothing is removed then.
            EmptyCatalogueError: No tool is left.
        """
        kept = self._kept(None, None, None)
        kept[self._rows_of(tool_ids, "tool_ids")] = False
        if not kept.any():
            raise EmptyCatalogueError("without_tools: expected to leave at least one tool, got none")
        of_mine = kept if self._mask is None else kept[self._mask]
        return self._rebuilt(self.sequences[of_mine], ToolNames(tuple(compress(self.tool_ids, of_mine.tolist()))))

    def check_end_token(self, end_token_id: Any) -> None:
        """Refuse an end token that could not be told from the sequences.

        Raises:
            DecodingError: It is missing, no single token id, or one of the sequences' own.
        """
        whole = isinstance(end_token_id, int | np.integer) and not isinstance(end_token_id, bool)
        if not whole or end_token_id < 0 or self._uses(int(end_token_id)):
            raise DecodingError(
                f"end token: expected one token id that no tool's sequence uses, got {end_token_id!r}; give the "
                "tokenizer's eos_token_id (and set tokenizer.eos_token where it has none)"
            )

    def _uses(self, token: int) -> bool:
        """Say whether a token is in any sequence of the whole trie."""
        for depth in range(1, self.max_length + 1):
            label = token - self.arrays.token_base(depth)
            if int(self.arrays.ragged) <= label < self.arrays.sizes[depth - 1]:
                count = int(self.level_starts[depth + 1] - self.level_starts[depth])
                if (self.arrays.labels(depth, slice(0, count)) == label).any():
                    return True
        return False


def _integers(values: Any, what: str, dimensions: int) -> np.ndarray:
    """Give whole numbers as an int64 array.

    Raises:
        DecodingError: They are no whole numbers of so many dimensions.
    """
    if isinstance(values, np.ndarray) and values.dtype == np.int64 and values.ndim == dimensions:
        return values
    try:
        array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DecodingError(f"{what}: expected whole numbers, got {values!r:.80}: {error}") from error
    empty = array.size == 0 and array.dtype.kind == "f"  # an empty list
    if array.ndim != dimensions or not (empty or array.dtype.kind in "iu") or (array.size and array.max() >= 2**63):
        shape = "(B,)" if dimensions == 1 else "(B, depth)"
        raise DecodingError(f"{what}: expected whole numbers {shape}, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _restricted(whole: CodeTrie, kept: np.ndarray) -> CodeTrie:
    view = CodeTrie._of(whole.arrays, whole._names)
    view.whole = whole
    view._mask = kept
    view.node_bits = whole.arrays.fold_up(kept)
    view._mask.flags.writeable = view.node_bits.flags.writeable = False
    return view


def _restore(arrays: TrieArrays, names: ToolNames, mask: np.ndarray | None) -> CodeTrie:
    trie = CodeTrie._of(arrays, names)
    return trie if mask is None else trie._view(mask)


def _widened(sequences: np.ndarray, width: int) -> np.ndarray:
    return np.pad(sequences, ((0, 0), (0, width - sequences.shape[1])), constant_values=PADDING)
