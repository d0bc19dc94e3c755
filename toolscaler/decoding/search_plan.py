"""The host's side of a search: which tree tokens to feed, who sees whom, which prefixes stay. Numpy only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from toolscaler.decoding.trie import CodeTrie


@dataclass(frozen=True)
class CostModel:
    """What a forward costs, in tokens: the base of the decision to jump.

    Attributes:
        forward: Tokens in the time that any forward takes, however few it is given: the weights are read once, layers
            are launched one after the other.
        jump: Tree tokens at most in one jump, all queries together.
    """

    forward: int
    jump: int


#: Measured on a 0.5B model in bfloat16 on one thread: a forward of one token takes as long as 25 more tokens, or 100
#: where the processor multiplies matrices in bfloat16.
CPU_COST = CostModel(forward=32, jump=1024)
#: Not measured. A small batch is bound by launches and by the reading of weights, which hundreds of tokens share.
CUDA_COST = CostModel(forward=512, jump=8192)


@dataclass(frozen=True)
class Level:
    """Nodes of one depth, of all queries, in order of the queries and then of the trie.

    Attributes:
        owner: int64 (n,) queries, ascending.
        token: int64 (n,) token ids.
        node: int64 (n,) nodes of the owner's trie.
        parent: int64 (n,) index into the level above.
    """

    owner: np.ndarray
    token: np.ndarray
    node: np.ndarray
    parent: np.ndarray

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, index: np.ndarray) -> Level:
        """Give some of the nodes."""
        return Level(self.owner[index], self.token[index], self.node[index], self.parent[index])


class Tries:
    """The trie of each query of a batch; views of one trie, or one for all.

    Args:
        tries: Q tries.
    """

    def __init__(self, tries: Sequence[CodeTrie]) -> None:
        self.of = list(tries)
        self._unique = list({id(trie): trie for trie in tries}.values())
        number = {id(trie): k for k, trie in enumerate(self._unique)}
        self._number = np.array([number[id(trie)] for trie in tries])
        self.max_length = max(trie.max_length for trie in tries)

    def root(self) -> Level:
        """Give level zero: the root for each query."""
        zeros = np.zeros(len(self.of), dtype=np.int64)
        return Level(np.arange(len(self.of)), zeros, zeros, zeros)

    def below(self, level: Level) -> Level:
        """Give all children of a level's nodes."""
        if len(self._unique) == 1:
            parent, token, node = self._unique[0].expand(level.node)
        else:
            parts = []
            for rows, trie in self._split(level):
                parent, token, node = trie.expand(level.node[rows])
                parts.append((rows[parent], token, node))
            parent, token, node = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.argsort(parent, kind="stable")
            parent, token, node = parent[order], token[order], node[order]
        return Level(level.owner[parent], token, node, parent)

    def ends(self, level: Level) -> np.ndarray:
        """Say which nodes end a sequence, bool (n,)."""
        if len(self._unique) == 1:
            return self._unique[0].is_end(level.node)
        ends = np.zeros(len(level), dtype=bool)
        for rows, trie in self._split(level):
            ends[rows] = trie.is_end(level.node[rows])
        return ends

    def _split(self, level: Level) -> Iterator[tuple[np.ndarray, CodeTrie]]:
        numbers = self._number[level.owner]
        for number, trie in enumerate(self._unique):
            rows = np.flatnonzero(numbers == number)
            if len(rows) or not number:  # the first one also stands for none
                yield rows, trie


def grow(tries: Tries, live: Level, beams: int, cost: CostModel, *, leaves: bool) -> list[Level]:
    """Choose what the next forward is given: the live prefixes, or all nodes below them too.

    Args:
        tries: The tries.
        live: Prefixes that stayed.
        beams: How many stay at each depth.
        cost: What forwards cost.
        leaves: Nodes without children are fed as well (for the end token).

    Returns:
        The live level, the one below it, and, where a jump pays, all further ones down to an empty level. All but the
        last are to be fed.
    """
    queries = len(tries.of)
    levels = [live, tries.below(live)]
    if not len(levels[1]):
        return levels
    counts = [_fed_count(levels[0], levels[1], queries, leaves)]
    fed, widest = int(counts[0].max()), counts[0]
    stepwise = fed
    while (
        len(levels[-1]) and queries * (fed - stepwise) <= cost.forward * tries.max_length and queries * fed <= cost.jump
    ):
        levels.append(tries.below(levels[-1]))
        counts.append(_fed_count(levels[-2], levels[-1], queries, leaves))
        widest = widest + counts[-1]
        fed = int(widest.max())
        stepwise += min(beams, int(counts[-1].max()))
    forwards = sum(bool(count.any()) for count in counts)
    pays = queries * (fed - stepwise) <= cost.forward * (forwards - 1) and queries * fed <= cost.jump
    return levels if pays and not len(levels[-1]) else levels[:2]


def _fed_count(level: Level, below: Level, queries: int, leaves: bool) -> np.ndarray:
    """Count the nodes of a level that are fed, for each query."""
    owner = level.owner if leaves else level.owner[np.unique(below.parent)]
    return np.bincount(owner, minlength=queries)


@dataclass(frozen=True)
class Feed:
    """Tree tokens of one forward.

    Attributes:
        ids: int64 (Q, W) tokens.
        positions: int64 (Q, W).
        visible: bool (Q, W, C + W).
        row: int64 (n,) place of each fed node in the flattened (Q, W), level by level.
        fed: For each level the indices of its fed nodes.
        seen: For each level bool (nodes, C + W): columns of a node and of those above it.
    """

    ids: np.ndarray
    positions: np.ndarray
    visible: np.ndarray
    row: np.ndarray
    fed: list[np.ndarray]
    seen: list[np.ndarray]


def plan_feed(
    levels: list[Level], seen: np.ndarray, lengths: np.ndarray, depth: int, *, leaves: bool, padding: int
) -> Feed:
    """Lay tree tokens out in columns.

    Args:
        levels: As :func:`grow` gives them: all but the last are fed.
        seen: bool (live, C): the columns above each live node.
        lengths: int64 (Q,) tokens of each prompt.
        depth: Depth of the live level.
        leaves: Nodes without children are fed as well.
        padding: Token id for what stays empty.
    """
    queries, before = len(lengths), seen.shape[1]
    fed = [np.arange(len(level)) if leaves else np.unique(below.parent) for level, below in itertools.pairwise(levels)]
    owner = np.concatenate([level.owner[index] for level, index in zip(levels, fed, strict=False)])
    rank = rank_within(owner, queries)
    width = int(rank.max()) + 1
    ids = np.full((queries, width), padding, dtype=np.int64)
    ids[owner, rank] = np.concatenate([level.token[index] for level, index in zip(levels, fed, strict=False)])
    positions = np.broadcast_to(lengths[:, None], (queries, width)).copy()
    positions[owner, rank] += np.repeat(np.arange(depth - 1, depth - 1 + len(fed)), [len(index) for index in fed])
    visible = np.zeros((queries, width, before + width), dtype=bool)
    visible[:, np.arange(width), before + np.arange(width)] = True  # what is empty sees itself, so that no row is
    start = 0
    columns: list[np.ndarray] = []
    for number, (level, index) in enumerate(zip(levels, fed, strict=False)):
        above = np.zeros((len(level), before + width), dtype=bool)
        if number:
            above[:] = columns[-1][level.parent]
        else:
            above[:, :before] = seen
        place = rank[start : start + len(index)]
        above[index, before + place] = True
        visible[level.owner[index], place] = above[index]
        columns.append(above)
        start += len(index)
    return Feed(ids, positions, visible, owner * width + rank, fed, columns)


def rank_within(owner: np.ndarray, queries: int) -> np.ndarray:
    """Number the entries of each owner from 0, in order; int64 (n,)."""
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=queries)
    rank = np.empty(len(owner), dtype=np.int64)
    rank[order] = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def keep_best(owner: np.ndarray, values: np.ndarray, beams: int, queries: int) -> np.ndarray:
    """Choose the ``beams`` largest values of each owner; of equal ones the first.

    Args:
        owner: int64 (n,), ascending.
        values: float64 (n,), no NaN.
        beams: How many.
        queries: Number of owners.

    Returns:
        bool (n,).
    """
    counts = np.bincount(owner, minlength=queries)
    widest = int(counts.max(initial=0))
    if widest <= beams:
        return np.ones(len(owner), dtype=bool)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((queries, widest), -np.inf)
    table[owner, within] = values
    bound = np.partition(table, widest - beams, axis=1)[:, widest - beams]
    above = values > bound[owner]
    equal = values == bound[owner]
    room = beams - np.bincount(owner[above], minlength=queries)
    first = np.zeros((queries, widest), dtype=bool)
    first[owner, within] = equal
    number = first.cumsum(1)[owner, within]  # of the equal ones
    return above | (equal & (number <= room[owner]))


def best_of_each(owner: np.ndarray, values: np.ndarray, queries: int) -> np.ndarray:
    """Give the largest value of each owner, -inf where it has none; float64 (Q,)."""
    best = np.full(queries, -np.inf)
    np.maximum.at(best, owner, values)
    return best


# Trees over given sequences, for scores of chosen tools


@dataclass(frozen=True)
class Chunk:
    """A part of the sequences as one tree.

    Attributes:
        levels: Level one and further, of one query: ``owner`` is zero; parents refer to the level before.
        rows: int64 (S,) which sequences.
        level: int64 (S,) number of the level each ends in, from 0.
        index: int64 (S,) its node there.
    """

    levels: list[Level]
    rows: np.ndarray
    level: np.ndarray
    index: np.ndarray


def chunks_of(sequences: np.ndarray, limit: int) -> Iterator[Chunk]:
    """Cut sequences into trees of at most ``limit`` nodes (one sequence at least).

    Args:
        sequences: int64 (S, length), -1 behind shorter ones.
        limit: Nodes a tree.
    """
    order = np.lexsort(sequences.T[::-1])
    ordered = sequences[order]
    lengths = (ordered >= 0).sum(1)
    same = np.zeros(ordered.shape, dtype=bool)
    same[1:] = np.logical_and.accumulate(ordered[1:] == ordered[:-1], axis=1)
    new = ~same & (ordered >= 0)  # a node that the sequence before does not have
    total = np.concatenate([[0], new.sum(1).cumsum()])
    start = 0
    while start < len(order):
        shared = lengths[start] - new[start].sum()  # the first sequence of a chunk brings its whole path
        stop = int(np.searchsorted(total, total[start] + max(0, limit - shared), side="right")) - 1
        stop = min(max(stop, start + 1), len(order))
        yield _chunk(ordered[start:stop], new[start:stop], lengths[start:stop], order[start:stop])
        start = stop


def _chunk(ordered: np.ndarray, new: np.ndarray, lengths: np.ndarray, rows: np.ndarray) -> Chunk:
    new = new.copy()
    new[0] = ordered[0] >= 0
    levels, node = [], np.zeros(len(rows), dtype=np.int64)
    index = np.zeros(len(rows), dtype=np.int64)
    for depth in range(int(lengths.max())):
        first = np.flatnonzero(new[:, depth])
        zeros = np.zeros(len(first), dtype=np.int64)
        levels.append(Level(zeros, ordered[first, depth], zeros, node[first]))
        node = new[:, depth].cumsum() - 1
        ending = lengths == depth + 1
        index[ending] = node[ending]
    return Chunk(levels, rows, lengths - 1, index)


def for_each_query(level: Level, queries: int, above: int) -> Level:
    """Repeat a level of one query for all of them; ``above``: nodes of the level before, of one query."""
    times = np.repeat(np.arange(queries), len(level))
    return replace(
        level,
        owner=times,
        token=np.tile(level.token, queries),
        node=np.tile(level.node, queries),
        parent=np.tile(level.parent, queries) + times * above,
    )
