"""Jointly optimal reassignment: colliding codes go in, the unique codes of least total error for these tools come out.

The colliding tools and the free code sequences near them form a bipartite graph; a minimum-cost assignment is found on
lists of the nearest free sequences. Afterwards the dual prices say which lists were too short to be sure of the
optimum; these are lengthened until none is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolscaler._optional import require
from toolscaler.codebook.checks import code_groups
from toolscaler.codebook.quantizers.base import Quantizer
from toolscaler.codebook.reassign import contested_tools, nearest_sequences, require_room
from toolscaler.errors import CodebookError

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

_FIRST_CANDIDATES = 16
_MOST_EDGES = 40_000_000
_CHUNK_ROWS = 256


@dataclass
class _Lists:
    """Edges: tool (place among the contested), code sequence, cost; and for each tool a bound of what is unlisted."""

    tool: NDArray[np.int64]
    codes: IntArray
    cost: NDArray[np.float64]
    bound: NDArray[np.float64]


def reassign_jointly(
    codes: IntArray,
    points: Sequence[FloatArray],
    quantizers: Sequence[Quantizer],
    occupied: IntArray,
    beam_width: int,
) -> IntArray:
    """Give the colliding tools the free sequences of least total squared error; the other tools keep theirs.

    Args:
        codes: int32 (N, P).
        points: V arrays float32 (N, Z), in the space of their quantiser.
        quantizers: The V quantisers.
        occupied: int32 (M, P), sequences that must not be given.
        beam_width: Least number of combinations listed per gist position. Lists are exact for L = 1 and where the width
            reaches the number of combinations; else the optimum is that of what beam search lists.

    Returns:
        int32 (N, P), unique and none of ``occupied``.

    Raises:
        CodebookError: There is no room, or so many tools are alike that the problem has over 40 million edges.
        MissingDependencyError: scipy is not installed.
    """
    sizes = [size for quantizer in quantizers for size in quantizer.sizes]
    require_room(len(codes), sizes, in_use=code_groups(occupied)[1])
    contested = contested_tools(codes, occupied)
    result = codes.copy()
    if not len(contested):
        return result
    settled = np.ones(len(codes), dtype=bool)
    settled[contested] = False
    taken = np.concatenate([occupied, codes[settled]])
    own_points = [part[contested] for part in points]
    groups, count = code_groups(codes[contested])
    wanted = np.maximum(_FIRST_CANDIDATES, 2 * np.bincount(groups, minlength=count)[groups])
    wanted = 1 << np.ceil(np.log2(wanted)).astype(np.int64)
    space = math.prod(sizes)
    lists = _list_free(np.arange(len(contested)), wanted, own_points, quantizers, taken, beam_width)
    while True:
        numbers, _ = code_groups(lists.codes)
        chosen = _match(lists, numbers, len(contested))
        short = np.ones(len(contested), dtype=bool)
        if chosen is not None:
            short = _price(lists, numbers, chosen) > lists.bound + 1e-6 * (1.0 + np.abs(lists.bound))
        grown = np.flatnonzero(short & np.isfinite(lists.bound))
        if chosen is not None and not len(grown):
            result[contested] = lists.codes[chosen]
            return result
        if not len(grown):
            raise CodebookError("expected a free code sequence for every tool, found none; use reassignment='greedy'")
        wanted[grown] = np.minimum(2 * wanted[grown], space)
        if wanted.sum() > _MOST_EDGES:
            raise CodebookError(
                f"joint reassignment of {len(contested)} colliding tools needs over {_MOST_EDGES} candidates: too many "
                "tools are alike; use reassignment='greedy'"
            )
        logger.debug("joint reassignment: %d of %d candidate lists lengthened", len(grown), len(contested))
        more = _list_free(grown, wanted[grown], own_points, quantizers, taken, beam_width)
        keep = ~np.isin(lists.tool, grown)
        bound = lists.bound.copy()
        bound[grown] = more.bound
        lists = _Lists(
            np.concatenate([lists.tool[keep], more.tool]),
            np.concatenate([lists.codes[keep], more.codes]),
            np.concatenate([lists.cost[keep], more.cost]),
            bound,
        )


def _list_free(
    tools: NDArray[np.intp],
    wanted: NDArray[np.int64],
    points: Sequence[FloatArray],
    quantizers: Sequence[Quantizer],
    taken: IntArray,
    beam_width: int,
) -> _Lists:
    """List the nearest free sequences of tools, at least ``wanted`` of each while the space has them."""
    spaces = [math.prod(quantizer.sizes) for quantizer in quantizers]
    found: list[tuple[NDArray, IntArray, NDArray]] = []
    bound = np.full(len(tools), np.inf)
    place_of = np.empty(int(tools.max()) + 1, dtype=np.int64)
    place_of[tools] = np.arange(len(tools))
    open_tools, need = tools, wanted
    width = beam_width
    while len(open_tools):
        short: list[NDArray] = []
        for limit in np.unique(need).tolist():
            members = open_tools[need == limit]
            # The chunk shrinks as lists grow, so that the product of the lists stays within a few megabytes.
            keep = 4 * limit * (width // beam_width)
            rows = max(1, min(_CHUNK_ROWS, (1 << 21) // (width * min(keep, width * width))))
            parts = [
                nearest_sequences(members[start : start + rows], points, quantizers, width, keep)
                for start in range(0, len(members), rows)
            ]
            codes = np.concatenate([part[1] for part in parts])
            costs = np.concatenate([part[0] for part in parts])
            edges = np.concatenate([part[2] for part in parts])
            free = _is_free(codes.reshape(-1, codes.shape[2]), taken).reshape(costs.shape)
            exhausted = all(width >= space for space in spaces) and costs.shape[1] >= math.prod(spaces)
            enough = (free.sum(axis=1) >= limit) | exhausted
            # Nothing lies beyond a list that holds all there is.
            done = exhausted & (free.sum(axis=1) <= limit)
            free &= np.cumsum(free, axis=1) <= limit
            # What lies beyond the last listed sequence, or beyond the end of a gist's own list, costs at least this.
            last = np.where(free, costs, -np.inf).max(axis=1)
            bound[place_of[members]] = np.where(done, np.inf, np.minimum(last, edges))
            row, column = np.nonzero(free & enough[:, None])
            found.append((members[row], codes[row, column], costs[row, column]))
            short.append(members[~enough])
        waiting = np.concatenate(short)
        need = wanted[place_of[waiting]]
        open_tools, width = waiting, 4 * width
    tool, codes, cost = (np.concatenate(part) for part in zip(*found, strict=True))
    return _Lists(tool.astype(np.int64), codes, cost.astype(np.float64), bound)


def _is_free(codes: IntArray, taken: IntArray) -> NDArray[np.bool_]:
    groups, count = code_groups(np.concatenate([taken, codes]))
    used = np.zeros(count, dtype=bool)
    used[groups[: len(taken)]] = True
    return ~used[groups[len(taken) :]]


def _match(lists: _Lists, numbers: NDArray[np.intp], count: int) -> NDArray[np.intp] | None:
    """Minimum-cost assignment: the edge of each tool, or ``None`` where the lists leave some tool without one."""
    sparse = require("scipy.sparse", extra="train", purpose="joint reassignment")
    graph = require("scipy.sparse.csgraph", extra="train", purpose="joint reassignment")
    order = np.lexsort((numbers, lists.tool))
    tool, number = lists.tool[order], numbers[order]
    # A shift of all costs of a tool changes no optimum; zeros would be no edges at all.
    least = np.full(count, np.inf)
    np.minimum.at(least, tool, lists.cost[order])
    spread = max(float((lists.cost[order] - least[tool]).max()), 1e-30)
    weights = (lists.cost[order] - least[tool]) / spread + 1.0
    matrix = sparse.csr_matrix((weights, (tool, number)), shape=(count, int(numbers.max()) + 1))
    if matrix.shape[1] < count or graph.maximum_bipartite_matching(matrix, "column").min() < 0:
        return None
    rows, columns = graph.min_weight_full_bipartite_matching(matrix)
    column_of = np.empty(count, dtype=np.int64)
    column_of[rows] = columns
    return order[np.flatnonzero(column_of[tool] == number)]


def _price(lists: _Lists, numbers: NDArray[np.intp], chosen: NDArray[np.intp]) -> NDArray[np.float64]:
    """What each tool would pay at most: a cost above which another sequence cannot improve the optimal assignment.

    These are the dual variables of the assignment: cost of the own sequence plus its scarcity price, found as shortest
    paths along exchanges (Bellman-Ford).
    """
    own_cost = lists.cost[chosen]
    own_number = numbers[chosen]
    price = np.zeros(int(numbers.max()) + 1)
    gain = lists.cost - own_cost[lists.tool]
    for _ in range(len(own_cost) + 1):
        updated = price.copy()
        np.minimum.at(updated, numbers, gain + price[own_number][lists.tool])
        if np.all(price - updated <= 1e-12 * (1.0 + np.abs(price))):
            break
        price = updated
    return own_cost - price[own_number]
