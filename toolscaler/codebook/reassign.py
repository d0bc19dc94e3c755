"""Search for free code sequences: colliding codes go in, unique ones of little added quantisation error come out."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.checks import code_groups
from toolscaler.codebook.quantizers.base import Quantizer, nearest_combinations
from toolscaler.errors import CodebookError

__all__ = ["DEFAULT_BEAM_WIDTH", "Code", "contested_tools", "nearest_combinations", "reassign", "require_room"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
Code = tuple[int, ...]

# Measured on 47,000 tools of which 18 % collide: width 8 adds 0.950 % error, 16 adds 0.946 % in 1.6 times the time, 64
# adds 0.943 % in 6 times the time; the optimal assignment of the colliding tools would add 0.903 %.
DEFAULT_BEAM_WIDTH = 8
_CHUNK_ROWS = 256


class _Candidates:
    """Code sequences of one tool, cheapest first: the best-first product of one sorted list per gist position."""

    def __init__(
        self, vector: list[FloatArray], quantizers: Sequence[Quantizer], first: list[tuple[FloatArray, IntArray]]
    ) -> None:
        self._vector, self._quantizers = vector, quantizers
        self._lists = first
        self._walk = self._best_first()

    def _best_first(self) -> Iterator[tuple[float, Code]]:
        costs = [part[0].tolist() for part in self._lists]
        codes = [part[1].tolist() for part in self._lists]
        gists = len(costs)
        # (cost, index per gist, first gist whose index may still grow): each product is reached on one path only.
        heap: list[tuple[float, Code, int]] = [(sum(part[0] for part in costs), (0,) * gists, 0)]
        while heap:
            cost, index, pivot = heapq.heappop(heap)
            yield cost, tuple(code for gist, place in enumerate(index) for code in codes[gist][place])
            for gist in range(pivot, gists):
                place = index[gist] + 1
                if place < len(costs[gist]):
                    grown = cost + costs[gist][place] - costs[gist][place - 1]
                    heapq.heappush(heap, (grown, (*index[:gist], place, *index[gist + 1 :]), gist))

    def next_free(self, taken: set[Code], known: list[Code]) -> tuple[float, Code] | None:
        """Walk on to the next sequence neither taken nor known; ``None`` when the whole space is."""
        while True:
            for cost, code in self._walk:
                if code not in taken and code not in known:
                    return cost, code
            if not self._widen():
                return None

    def _widen(self) -> bool:
        """Start anew with lists four times as long; the taken sequences at their head are simply passed over."""
        spaces = [math.prod(quantizer.sizes) for quantizer in self._quantizers]
        if all(len(part[0]) >= space for part, space in zip(self._lists, spaces, strict=True)):
            return False
        width = 4 * max(len(part[0]) for part in self._lists)
        self._lists = [
            (cost[0], code[0])
            for cost, code in (
                quantizer.combinations(point, width)
                for quantizer, point in zip(self._quantizers, self._vector, strict=True)
            )
        ]
        self._walk = self._best_first()
        return True


class _Claim:
    """Tools of one and the same reduced embedding with their best and second-best free code sequence."""

    def __init__(self, tool: int, candidates: _Candidates) -> None:
        self.tools = [tool]
        self._candidates = candidates
        self._free: list[tuple[float, Code]] = []

    def is_current(self, taken: set[Code]) -> bool:
        return all(code not in taken for _, code in self._free)

    def refresh(self, taken: set[Code]) -> float:
        """Drop what has been taken and give the regret: what the second-best sequence costs more than the best."""
        self._free = [entry for entry in self._free if entry[1] not in taken]
        while len(self._free) < 2:
            found = self._candidates.next_free(taken, [code for _, code in self._free])
            if found is None:
                break
            self._free.append(found)
        return self._free[1][0] - self._free[0][0] if len(self._free) > 1 else float("inf")

    def take_best(self) -> tuple[int, Code]:
        """Give the next tool of the claim and the code sequence that it gets."""
        return self.tools.pop(), self._free[0][1]


def contested_tools(codes: IntArray, occupied: IntArray) -> NDArray[np.intp]:
    """Rows of ``codes`` (N, P) whose sequence another row or ``occupied`` (M, P) has, ascending."""
    groups, count = code_groups(np.concatenate([codes, occupied]))
    sizes = np.bincount(groups, minlength=count)
    return np.flatnonzero(sizes[groups[: len(codes)]] > 1)


def _claims(
    contested: NDArray[np.intp], points: Sequence[FloatArray], quantizers: Sequence[Quantizer], beam_width: int
) -> list[_Claim]:
    by_vector: dict[bytes, _Claim] = {}
    for start in range(0, len(contested), _CHUNK_ROWS):
        rows = contested[start : start + _CHUNK_ROWS]
        lists = [
            quantizer.combinations(part[rows], beam_width) for quantizer, part in zip(quantizers, points, strict=True)
        ]
        for place, row in enumerate(rows.tolist()):
            claim = by_vector.get(key := b"".join(part[row].tobytes() for part in points))
            if claim is None:
                first = [(costs[place], codes[place]) for costs, codes in lists]
                vector = [part[row : row + 1] for part in points]
                by_vector[key] = _Claim(row, _Candidates(vector, quantizers, first))
            else:
                claim.tools.insert(0, row)
    return list(by_vector.values())


def reassign(
    codes: IntArray,
    points: Sequence[FloatArray],
    quantizers: Sequence[Quantizer],
    occupied: IntArray,
    beam_width: int,
) -> IntArray:
    """Give the colliding tools free sequences, the tool with the largest regret first (Vogel's approximation).

    Args:
        codes: int32 (N, P).
        points: V arrays float32 (N, Z), in the space of their quantiser.
        quantizers: The V quantisers.
        occupied: int32 (M, P), sequences that must not be given.
        beam_width: Combinations per gist position to look at first.

    Returns:
        int32 (N, P), unique and none of ``occupied``.
    """
    foreign = set(map(tuple, occupied.tolist()))
    require_room(len(codes), [size for quantizer in quantizers for size in quantizer.sizes], in_use=len(foreign))
    contested = contested_tools(codes, occupied)
    result = codes.copy()
    settled = np.ones(len(codes), dtype=bool)
    settled[contested] = False
    taken = foreign | set(map(tuple, codes[settled].tolist()))
    claims = _claims(contested, points, quantizers, beam_width)
    heap = [(-claim.refresh(taken), claim.tools[-1], place) for place, claim in enumerate(claims)]
    heapq.heapify(heap)
    while heap:
        _, _, place = heapq.heappop(heap)
        claim = claims[place]
        if claim.is_current(taken):
            tool, code = claim.take_best()
            taken.add(code)
            result[tool] = code
        if claim.tools:
            heapq.heappush(heap, (-claim.refresh(taken), claim.tools[-1], place))
    return result


def require_room(num_tools: int, sizes: Sequence[int], *, in_use: int = 0) -> None:
    """Check that the code space can name every tool on its own.

    Args:
        num_tools: Tools that need a sequence.
        sizes: Codes of each position.
        in_use: Sequences that other tools have.

    Raises:
        CodebookError: There are more tools than sequences; the message says how many sequences there are.
    """
    space = math.prod(sizes)
    if num_tools + in_use > space:
        formula = f"{sizes[0]}^{len(sizes)}" if len(set(sizes)) == 1 else "·".join(map(str, sizes))
        raise CodebookError(
            f"expected at most {space} tools ({formula} code sequences), got {num_tools} tools "
            f"beside {in_use} sequences in use; fit with a larger K or L, or with collisions='suffix' or 'share'"
        )
