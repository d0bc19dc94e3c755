"""Health report of a codebook: embeddings and codes go in, numbers that foretell quality come out, no model needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.checks import check_codes, check_embeddings
from toolscaler.codebook.codebook import Codebook
from toolscaler.codebook.collisions import CollisionCounts, count_collisions
from toolscaler.codebook.quality import perturbation_stability, prefix_perplexity, prefix_purity, reseeding_stability
from toolscaler.errors import CodebookError

IntArray = NDArray[np.int32]

_BLOCK_ROWS = 256
_PERTURBED_ROWS = 4096


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
        prefix_perplexity: Entry p - 1: perplexity of the prefixes of length p of the codes as assigned.
        effective_codes: Perplexity of whole sequences before any collision policy: how many tools the quantiser alone
            would tell apart if its sequences were used equally; at most N.
        hit_rate: Share of tools whose nearest neighbour (in E) is among the ``num_neighbours`` nearest when every tool
            is replaced by what its codes stand for (:meth:`Codebook.reconstruct`).
        perturbation: Length of the disturbance of ``perturbation_stability``.
        perturbation_stability: Entry p - 1: share of tools whose first p codes, before any policy, stay under noise.
        reseeding_stability: Entry p - 1: adjusted Rand index of prefixes of length p against a fit with another seed;
            empty where that was not asked for.
        prefix_purity: By the name of a labelling (``category``, ``provider``): entry p - 1 is the share of tools whose
            label is the commonest among the tools of their prefix of length p.
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
    prefix_perplexity: tuple[float, ...] = ()
    effective_codes: float = 0.0
    hit_rate: float = 0.0
    perturbation: float = 0.0
    perturbation_stability: tuple[float, ...] = ()
    reseeding_stability: tuple[float, ...] = ()
    prefix_purity: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def neighbour_recall(self) -> tuple[float, ...]:
        """Share of true nearest neighbours that share a prefix of length 1 to P: ``neighbour_prefix_sharing``."""
        return self.neighbour_prefix_sharing

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
    documents: Sequence[Any] | None = None,
    perturbation: float = 0.05,
    reseed: bool = False,
) -> CodebookStatistics:
    """Measure the health of a codebook on its tools (method of section 4.1; collisions are what the paper leaves open).

    Args:
        codebook: The codebook.
        embeddings: float (N, V, D), N at least 1.
        codes: Integers (N, code_length) of the same tools; the fitted codes if ``None``.
        num_neighbours: Nearest neighbours (Euclidean in V·D dimensions) looked at per tool.
        max_queries: Neighbours are searched for at most this many tools, drawn by ``seed``.
        seed: Seed of that draw, of the noise and (plus one) of the second fit.
        documents: Documents of the same tools, in their order, with the attributes or keys ``category`` and
            ``provider``; needed for ``prefix_purity``.
        perturbation: Length of the disturbance, as a share of the root mean square distance to the mean embedding.
        reseed: Fit a second codebook with another seed; it takes about as long as the first fit.

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
    rng = np.random.default_rng(seed)
    queries, found = _query_neighbours(data, num_neighbours, max_queries, rng)
    neighbours, random_pairs = _prefix_sharing(len(data), assigned, queries, found, rng)
    sample = data if len(data) <= _PERTURBED_ROWS else data[np.sort(rng.choice(len(data), _PERTURBED_ROWS, False))]
    purity = _purity(assigned, documents)
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
        prefix_perplexity=prefix_perplexity(assigned),
        effective_codes=prefix_perplexity(nearest)[-1],
        hit_rate=_hit_rate(codebook, assigned, queries, found),
        perturbation=perturbation,
        perturbation_stability=perturbation_stability(codebook, sample, perturbation, rng),
        reseeding_stability=reseeding_stability(codebook, data, nearest, seed + 1) if reseed else (),
        prefix_purity=purity,
    )


def _purity(codes: IntArray, documents: Sequence[Any] | None) -> dict[str, tuple[float, ...]]:
    if documents is None:
        return {}

    def label(document: Any, name: str) -> str:
        value = document.get(name, "") if isinstance(document, Mapping) else getattr(document, name, "")
        return str(value or "")

    result = {}
    for name in ("category", "provider"):
        labels = [label(document, name) for document in documents]
        if any(labels):
            result[name] = prefix_purity(codes, labels)
    return result


def _hit_rate(codebook: Codebook, codes: IntArray, queries: NDArray[np.intp], found: NDArray[np.intp]) -> float:
    if not found.size:
        return 0.0
    near = _nearest_neighbours(_Rebuilt(codebook, codes), queries, found.shape[1])
    return float((near == found[:, :1]).any(axis=1).mean())


class _Rebuilt:
    """Reconstructions of tools, made when rows are read: all of them at once would be as large as the embeddings."""

    def __init__(self, codebook: Codebook, codes: IntArray) -> None:
        self._codebook, self._codes = codebook, codes

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> NDArray[np.float32]:
        return self._codebook.reconstruct(self._codes[rows])


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


def _query_neighbours(
    data: NDArray[np.floating], num_neighbours: int, max_queries: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw query tools (Q,) and find their nearest neighbours (Q, n); no columns where there is nothing to find."""
    rows = len(data)
    wanted = min(num_neighbours, rows - 1)
    if wanted < 1 or max_queries < 1:
        return np.zeros(0, dtype=np.intp), np.zeros((0, 0), dtype=np.intp)
    queries = np.sort(rng.choice(rows, size=min(max_queries, rows), replace=False))
    return queries, _nearest_neighbours(data, queries, wanted)


def _prefix_sharing(
    rows: int, codes: IntArray, queries: NDArray[np.intp], found: NDArray[np.intp], rng: np.random.Generator
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not found.size:
        empty = (0.0,) * codes.shape[1]
        return empty, empty
    # A random other tool: a shift by 1 .. N-1 never lands on the tool itself.
    others = (queries[:, None] + rng.integers(1, rows, size=found.shape)) % rows
    return _shared(codes, queries, found), _shared(codes, queries, others)


def _shared(codes: IntArray, queries: NDArray[np.intp], others: NDArray[np.intp]) -> tuple[float, ...]:
    agree = codes[queries][:, None, :] == codes[others]
    return tuple(np.logical_and.accumulate(agree, axis=2).mean(axis=(0, 1)).tolist())


def _nearest_neighbours(
    data: NDArray[np.floating] | _Rebuilt, queries: NDArray[np.intp], wanted: int
) -> NDArray[np.intp]:
    """Exact nearest other rows of the query rows, (Q, wanted), nearest first; equal distances by row number."""
    centre = np.asarray(data[queries], dtype=np.float32).mean(axis=0, dtype=np.float64).astype(np.float32)
    goal = (np.asarray(data[queries], dtype=np.float32) - centre).reshape(len(queries), -1)
    nearest = np.full((len(queries), wanted), np.inf, dtype=np.float32)
    found = np.zeros((len(queries), wanted), dtype=np.intp)
    for start in range(0, len(data), _BLOCK_ROWS):
        block = (np.asarray(data[start : start + _BLOCK_ROWS], dtype=np.float32) - centre).reshape(-1, goal.shape[1])
        # The query's own norm is the same for all of its row and left out.
        distances = np.einsum("nd,nd->n", block, block) - 2.0 * (goal @ block.T)
        own = np.flatnonzero((queries >= start) & (queries < start + len(block)))
        distances[own, queries[own] - start] = np.inf
        # Only these blocks and the best so far are in memory: all distances would take Q times N numbers.
        _keep_nearest(nearest, found, distances, start)
    return found


def _keep_nearest(
    nearest: NDArray[np.float32], found: NDArray[np.intp], distances: NDArray[np.float32], start: int
) -> None:
    """Take the rows of a block, which begins at row ``start``, in among the nearest so far; both stay sorted."""
    # A later row at the same distance comes behind the ones that are there.
    better = distances < nearest[:, -1:]
    for query in np.flatnonzero(better.any(axis=1)):
        rows = np.flatnonzero(better[query])
        values = np.concatenate([nearest[query], distances[query, rows]])
        order = np.argsort(values, kind="stable")[: nearest.shape[1]]
        nearest[query], found[query] = values[order], np.concatenate([found[query], rows + start])[order]
