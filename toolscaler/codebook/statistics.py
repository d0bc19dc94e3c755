"""Health report of a codebook: embeddings and codes go in, numbers that foretell quality come out, no model needed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.checks import check_codes, check_embeddings
from toolscaler.codebook.codebook import Codebook
from toolscaler.codebook.collisions import CollisionCounts, count_collisions
from toolscaler.errors import CodebookError

IntArray = NDArray[np.int32]

_BLOCK_ROWS = 256


@dataclass(frozen=True)
class CodebookStatistics:
    """Numbers about a codebook and the tools that it codes. Tuples over positions follow ``code_sizes``.

    Attributes:
        num_tools: N.
        collisions: Collisions of the nearest-centroid codes, before any policy, harmful and duplicate apart.
        remaining_collisions: Collisions of the codes as assigned (0 unless the policy is ``share``).
        moved: Share of tools whose codes are not the nearest ones.
        explained_variance: Share of the embeddings' variance that PCA keeps, per gist position.
        level_errors: Per gist position and level, squared residual left after that level as a share of the squared
            length before level 0, for the codes as assigned.
        relative_error: The same after the last level, over all gist positions together.
        nearest_relative_error: ``relative_error`` of the nearest-centroid codes; the difference is the price of the
            collision policy.
        full_relative_error: Squared error of :meth:`Codebook.reconstruct` as a share of the variance of the embeddings,
            what PCA loses included.
        utilisation: Share of codes that some tool carries.
        perplexity: Exponential of the entropy of code usage: how many equally used codes would be as varied.
        gini: Gini coefficient of code usage: 0 all codes equally used, near 1 a few codes carry all tools.
        neighbour_prefix_sharing: Entry p - 1: share of nearest neighbours (in E) whose first p codes agree.
        random_prefix_sharing: The same for random pairs of tools.
        num_neighbours: Neighbours looked at per tool.
    """

    num_tools: int
    collisions: CollisionCounts
    remaining_collisions: CollisionCounts
    moved: float
    explained_variance: tuple[float, ...]
    level_errors: tuple[tuple[float, ...], ...]
    relative_error: float
    nearest_relative_error: float
    full_relative_error: float
    utilisation: tuple[float, ...]
    perplexity: tuple[float, ...]
    gini: tuple[float, ...]
    neighbour_prefix_sharing: tuple[float, ...]
    random_prefix_sharing: tuple[float, ...]
    num_neighbours: int

    def to_dict(self) -> dict[str, Any]:
        """Give nested dictionaries and lists that JSON can hold, with the two collision rates added."""
        result = dataclasses.asdict(self)
        for name in ("collisions", "remaining_collisions"):
            result[name]["rate"] = getattr(self, name).rate
        return result


def code_usage(codes: NDArray[np.integer], code_sizes: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Count the tools that carry each code: integers (N, P) -> P arrays int64 (code_sizes[p],)."""
    array = check_codes(codes, code_sizes)
    return [np.bincount(array[:, place], minlength=size) for place, size in enumerate(code_sizes)]


def gini_coefficient(counts: NDArray[np.integer]) -> float:
    """Gini coefficient of non-negative counts: half the mean absolute difference over the mean; 0 without any count."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    size, total = len(ordered), ordered.sum()
    if total == 0:
        return 0.0
    return float((2 * np.arange(1, size + 1) - size - 1) @ ordered / (size * total))


def perplexity(counts: NDArray[np.integer]) -> float:
    """Exponential of the entropy (natural logarithm) of the distribution that counts give; 0 without any count."""
    used = np.asarray(counts, dtype=np.float64)
    used = used[used > 0]
    if not len(used):
        return 0.0
    shares = used / used.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def codebook_statistics(
    codebook: Codebook,
    embeddings: NDArray[np.floating],
    codes: NDArray[np.integer] | None = None,
    *,
    num_neighbours: int = 10,
    max_queries: int = 512,
    seed: int = 0,
) -> CodebookStatistics:
    """Measure the health of a codebook on its tools (method of section 4.1; collisions are what the paper leaves open).

    Args:
        codebook: The codebook.
        embeddings: float (N, V, D), N at least 1.
        codes: Integers (N, code_length) of the same tools; the fitted codes if ``None``.
        num_neighbours: Nearest neighbours (Euclidean in V·D dimensions) looked at per tool.
        max_queries: Neighbours are searched for at most this many tools, drawn by ``seed``.
        seed: Seed of that draw.

    Returns:
        The statistics.

    Raises:
        CodebookError: Embeddings, codes and codebook do not fit together.
    """
    data = check_embeddings(embeddings, codebook.num_gists, codebook.hidden_size)
    assigned = codebook.codes if codes is None else check_codes(codes, codebook.code_sizes)
    if len(data) == 0 or len(assigned) != len(data):
        raise CodebookError(
            f"expected one row of codes per tool and at least one tool, got {len(assigned)} and {len(data)}"
        )
    content = codebook.num_gists * codebook.num_levels
    reduced = codebook.reduce(data)
    nearest = codebook.encode_reduced(reduced)
    squares = _level_squares(codebook, reduced, assigned)
    nearest_squares = _level_squares(codebook, reduced, nearest)
    lost, total = _full_error(codebook, data, assigned)
    usage = code_usage(assigned, codebook.code_sizes)
    neighbours, random_pairs = _prefix_sharing(data, assigned, num_neighbours, max_queries, np.random.default_rng(seed))
    return CodebookStatistics(
        num_tools=len(data),
        collisions=count_collisions(nearest, data),
        remaining_collisions=count_collisions(assigned, data),
        moved=float((nearest != assigned[:, :content]).any(axis=1).mean()),
        explained_variance=tuple(codebook.pca_explained_variance_ratio.sum(axis=1).tolist()),
        level_errors=tuple(tuple(_ratio(after, levels[0]) for after in levels[1:].tolist()) for levels in squares),
        relative_error=_ratio(squares[:, -1].sum(), squares[:, 0].sum()),
        nearest_relative_error=_ratio(nearest_squares[:, -1].sum(), squares[:, 0].sum()),
        full_relative_error=_ratio(lost, total),
        utilisation=tuple(float((counts > 0).mean()) for counts in usage),
        perplexity=tuple(map(perplexity, usage)),
        gini=tuple(map(gini_coefficient, usage)),
        neighbour_prefix_sharing=neighbours,
        random_prefix_sharing=random_pairs,
        num_neighbours=min(num_neighbours, len(data) - 1),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 0.0


def _level_squares(codebook: Codebook, reduced: NDArray[np.float32], codes: IntArray) -> NDArray[np.float64]:
    """Summed squared residuals (V, L + 1): what enters level 0, then what each level leaves."""
    squares = np.empty((codebook.num_gists, codebook.num_levels + 1))
    for gist, quantizer in enumerate(codebook.quantizers):
        parts = quantizer.partials(codebook.gist_codes(codes, gist))
        rests = (reduced[:, gist] - part for part in parts)
        squares[gist] = [np.einsum("nr,nr->", rest, rest, dtype=np.float64) for rest in rests]
    return squares


def _full_error(codebook: Codebook, data: NDArray[np.floating], codes: IntArray) -> tuple[float, float]:
    """Squared error of the reconstruction, and squared distance to the PCA mean, in all D dimensions."""
    lost = total = 0.0
    for start in range(0, len(data), _BLOCK_ROWS):
        block = np.asarray(data[start : start + _BLOCK_ROWS], dtype=np.float32)
        for part, goal in ((codebook.reconstruct(codes[start : start + _BLOCK_ROWS]), 0), (codebook.pca_mean, 1)):
            rest = (block - part).ravel()
            value = float(np.einsum("i,i->", rest, rest, dtype=np.float64))
            lost, total = (lost + value, total) if goal == 0 else (lost, total + value)
    return lost, total


def _prefix_sharing(
    data: NDArray[np.floating], codes: IntArray, num_neighbours: int, max_queries: int, rng: np.random.Generator
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rows = len(data)
    wanted = min(num_neighbours, rows - 1)
    if wanted < 1 or max_queries < 1:
        empty = (0.0,) * codes.shape[1]
        return empty, empty
    queries = np.sort(rng.choice(rows, size=min(max_queries, rows), replace=False))
    found = _nearest_neighbours(data, queries, wanted)
    # A random other tool: a shift by 1 .. N-1 never lands on the tool itself.
    others = (queries[:, None] + rng.integers(1, rows, size=found.shape)) % rows
    return _shared(codes, queries, found), _shared(codes, queries, others)


def _shared(codes: IntArray, queries: NDArray[np.intp], others: NDArray[np.intp]) -> tuple[float, ...]:
    agree = codes[queries][:, None, :] == codes[others]
    return tuple(np.logical_and.accumulate(agree, axis=2).mean(axis=(0, 1)).tolist())


def _nearest_neighbours(data: NDArray[np.floating], queries: NDArray[np.intp], wanted: int) -> NDArray[np.intp]:
    """Exact nearest other rows of the query rows, (Q, wanted), nearest first; equal distances by row number."""
    centre = np.asarray(data[queries], dtype=np.float32).mean(axis=0, dtype=np.float64).astype(np.float32)
    goal = (np.asarray(data[queries], dtype=np.float32) - centre).reshape(len(queries), -1)
    distances = np.empty((len(queries), len(data)), dtype=np.float32)
    for start in range(0, len(data), _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(data))
        block = (np.asarray(data[start:stop], dtype=np.float32) - centre).reshape(stop - start, -1)
        # The query's own norm is the same for all of its row and left out.
        distances[:, start:stop] = np.einsum("nd,nd->n", block, block) - 2.0 * (goal @ block.T)
    distances[np.arange(len(queries)), queries] = np.inf
    best = np.argpartition(distances, wanted - 1, axis=1)[:, :wanted]
    values = np.take_along_axis(distances, best, axis=1)
    return np.take_along_axis(best, np.lexsort((best, values), axis=1), axis=1)
