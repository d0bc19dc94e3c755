"""Make codes unique: codes that several tools share go in, one code sequence for each tool comes out.

The paper leaves collisions open (section 4.1). Three policies: ``reassign`` moves tools to free code sequences of
little added error, ``suffix`` appends a code that counts the tools of a group, ``share`` keeps the collisions.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.checks import check_codes, code_groups
from toolscaler.codebook.joint import reassign_jointly
from toolscaler.codebook.quantizers.base import Quantizer, TableQuantizer
from toolscaler.codebook.reassign import DEFAULT_BEAM_WIDTH, Code, reassign
from toolscaler.codebook.settings import ReassignmentName
from toolscaler.errors import CodebookError

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

CollisionPolicy = Literal["reassign", "suffix", "share"]
COLLISION_POLICIES: tuple[str, ...] = get_args(CollisionPolicy)

# The suffix vocabulary leaves room for tools that are added later.
_SUFFIX_MINIMUM = 8
_SUFFIX_HEADROOM = 2


@dataclass(frozen=True)
class CollisionResolution:
    """What :func:`resolve_collisions` did.

    Attributes:
        codes: int32 (N, V·L), with policy ``suffix`` (N, V·L + 1).
        moved: bool (N,), tools whose first V·L codes changed.
        error_before: Sum over tools of the squared quantisation error (in PCA space) of the codes that came in.
        error_after: The same of the codes that came out.
    """

    codes: IntArray
    moved: NDArray[np.bool_]
    error_before: float
    error_after: float

    @property
    def added_error(self) -> float:
        """Rise of the total error as a share of ``error_before`` (0 where that is 0)."""
        return (self.error_after - self.error_before) / self.error_before if self.error_before > 0 else 0.0


@dataclass(frozen=True)
class CollisionCounts:
    """How many tools share their code sequence with another one.

    Attributes:
        num_tools: N.
        num_codes: Distinct code sequences.
        harmful: Tools too many whose embeddings differ: over all groups, distinct embeddings minus one.
        duplicate: Tools too many whose embedding equals another's of the group exactly, so that no quantiser can tell
            them apart.
    """

    num_tools: int
    num_codes: int
    harmful: int
    duplicate: int

    @property
    def rate(self) -> float:
        """Share of tools that would have to get another code: ``(harmful + duplicate) / num_tools``."""
        return (self.harmful + self.duplicate) / self.num_tools if self.num_tools else 0.0


def count_collisions(codes: IntArray, embeddings: NDArray[np.floating]) -> CollisionCounts:
    """Count collisions, exact-duplicate embeddings apart from harmful ones.

    Args:
        codes: Integers (N, P).
        embeddings: Floats (N, ...) of the same tools; rows that are equal in every value are duplicates.

    Returns:
        The counts.

    Raises:
        CodebookError: The lengths differ.
    """
    if len(codes) != len(embeddings):
        raise CodebookError(f"expected one row of codes per embedding, got {len(codes)} and {len(embeddings)}")
    groups, count = code_groups(codes)
    sizes = np.bincount(groups, minlength=count)
    colliding = np.flatnonzero(sizes[groups] > 1)
    distinct: set[tuple[int, bytes]] = set()
    for row in colliding:
        # Adding zero makes -0.0 and 0.0 the same bytes.
        content = (np.asarray(embeddings[row]) + 0.0).tobytes()
        distinct.add((int(groups[row]), hashlib.blake2b(content, digest_size=16).digest()))
    shared_groups = int((sizes > 1).sum())
    harmful = len(distinct) - shared_groups
    return CollisionCounts(len(codes), count, harmful, len(colliding) - len(distinct))


def squared_errors(
    codes: IntArray, reduced: FloatArray, centroids: FloatArray | Sequence[Quantizer]
) -> NDArray[np.float64]:
    """Squared quantisation error of each tool, in the space where its codes are chosen (PCA space but for RQ-VAE).

    Args:
        codes: Integers (N, V·L).
        reduced: float32 (N, V, R).
        centroids: float32 (V, L, K, R), or the V quantisers.

    Returns:
        float64 (N,).
    """
    quantizers = as_quantizers(centroids)
    points = [quantizer.to_points(reduced[:, gist]) for gist, quantizer in enumerate(quantizers)]
    return _point_errors(codes, points, quantizers)


def as_quantizers(centroids: FloatArray | Sequence[Quantizer]) -> tuple[Quantizer, ...]:
    """Give quantisers as they are, and an array of centroid tables (V, L, K, R) as V table quantisers."""
    if isinstance(centroids, np.ndarray):
        return tuple(TableQuantizer(list(tables)) for tables in centroids)
    return tuple(centroids)


def _point_errors(
    codes: IntArray, points: Sequence[FloatArray], quantizers: Sequence[Quantizer]
) -> NDArray[np.float64]:
    total = np.zeros(len(codes), dtype=np.float64)
    start = 0
    for part, quantizer in zip(points, quantizers, strict=True):
        stop = start + len(quantizer.sizes)
        total += quantizer.point_errors(part, codes[:, start:stop])
        start = stop
    return total


def _suffixes(codes: IntArray, occupied: IntArray) -> IntArray:
    """Append to each sequence the smallest number that no tool of the same sequence has, in the order of the rows."""
    used: dict[Code, set[int]] = {}
    for *code, number in occupied.tolist():
        used.setdefault(tuple(code), set()).add(number)
    lowest: dict[Code, int] = {}
    numbers = np.empty((len(codes), 1), dtype=np.int32)
    for row, code in enumerate(map(tuple, codes.tolist())):
        number = lowest.get(code, 0)
        while number in used.get(code, ()):
            number += 1
        numbers[row] = number
        lowest[code] = number + 1
    return np.concatenate([codes, numbers], axis=1)


def suffix_size(codes: IntArray) -> int:
    """Size of the suffix vocabulary: twice the largest group of equal sequences, at least 8, so that more tools fit in.

    Args:
        codes: int32 (N, V·L + 1) with the suffix as last column.
    """
    largest = int(codes[:, -1].max()) + 1 if len(codes) else 1
    return max(_SUFFIX_HEADROOM * largest, _SUFFIX_MINIMUM)


def resolve_collisions(
    codes: NDArray[np.integer],
    reduced: FloatArray,
    centroids: FloatArray | Sequence[Quantizer],
    policy: CollisionPolicy = "reassign",
    *,
    occupied: NDArray[np.integer] | None = None,
    beam_width: int = DEFAULT_BEAM_WIDTH,
    reassignment: ReassignmentName = "greedy",
) -> CollisionResolution:
    """Turn codes that may collide into codes under a collision policy.

    ``reassign`` leaves every tool alone whose sequence nobody else has. The others claim free sequences, searched over
    all V·L positions jointly: each gist position gives a beam-searched list of level combinations, and the lists are
    walked best-first by their summed squared error; lists grow whenever all their combinations are taken, so the
    search ends for every tool as long as the space has room. The tool whose second choice would cost most more than
    its first is served first, so that of the tools of a group the one that loses most by moving stays.
    ``reassignment="joint"`` gives the same tools the sequences of least total error (a minimum-cost assignment).

    Args:
        codes: Integers (N, V·L), position p = i·L + l.
        reduced: float32 (N, V, R), the embeddings after PCA.
        centroids: float32 (V, L, K, R), or the V quantisers.
        policy: ``reassign`` (unique, same length), ``suffix`` (unique, one more code that counts the tools of a group
            from 0) or ``share`` (codes stay as they are).
        occupied: Codes of other tools that must not be given again: (M, V·L), for ``suffix`` (M, V·L + 1). ``share``
            does not look at them.
        beam_width: Combinations per gist position that ``reassign`` looks at first; ``K**L`` makes the search exact.
        reassignment: ``greedy`` (one tool after the other) or ``joint`` (all together; needs scipy, which the extras
            ``train`` and ``eval`` bring).

    Returns:
        The codes, which tools moved, and the quantisation error before and after.

    Raises:
        CodebookError: Shapes or values do not fit, a name is unknown, or ``reassign`` has more tools than the space
            has sequences.
        MissingDependencyError: ``joint`` without scipy.
    """
    if policy not in COLLISION_POLICIES:
        raise CodebookError(f"expected a collision policy of {', '.join(COLLISION_POLICIES)}, got {policy!r}")
    if reassignment not in get_args(ReassignmentName):
        raise CodebookError(f"expected reassignment of {', '.join(get_args(ReassignmentName))}, got {reassignment!r}")
    quantizers = as_quantizers(centroids)
    sizes = tuple(size for quantizer in quantizers for size in quantizer.sizes)
    length = len(sizes)
    codes = check_codes(codes, sizes)
    dim = quantizers[0].reconstruct(np.zeros((1, len(quantizers[0].sizes)), dtype=np.int32)).shape[1]
    if reduced.shape != (len(codes), len(quantizers), dim):
        raise CodebookError(
            f"expected reduced embeddings of shape {(len(codes), len(quantizers), dim)}, got {reduced.shape}"
        )
    if beam_width < 1:
        raise CodebookError(f"expected a beam width of at least 1, got {beam_width}")
    points = [quantizer.to_points(reduced[:, gist]) for gist, quantizer in enumerate(quantizers)]
    before = _point_errors(codes, points, quantizers)
    result, after = codes, before
    if policy == "suffix":
        result = _suffixes(codes, check_codes(occupied, None, length=length + 1))
    elif policy == "reassign":
        search = reassign if reassignment == "greedy" else reassign_jointly
        result = search(codes, points, quantizers, check_codes(occupied, sizes), beam_width)
        after = _point_errors(result, points, quantizers)
    moved = (result[:, :length] != codes).any(axis=1)
    resolution = CollisionResolution(result, moved, float(before.sum()), float(after.sum()))
    if moved.any():
        logger.info("%d tools moved to free codes, error %+.3g %%", moved.sum(), 100 * resolution.added_error)
    return resolution
