"""Codes for tools that come after training: gist embeddings and the codes in use go in, free codes come out."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toolscaler.catalogue.log import Codes
from toolscaler.errors import CatalogueError, CodebookError, CodeSpaceError

if TYPE_CHECKING:
    from toolscaler.codebook import Codebook
    from toolscaler.codebook.quantizers.base import Quantizer

IntArray = NDArray[np.int32]

# Combinations of a gist position that are looked at first, and at most: all of them up to this number.
_FIRST_WIDTH, _MAX_WIDTH = 64, 1 << 16


def new_codes(
    codebook: Codebook,
    embeddings: NDArray[np.floating],
    tool_ids: Sequence[str],
    present: NDArray[np.integer],
    retired: Collection[Codes] = (),
    *,
    keep_codes: int = 1,
) -> IntArray:
    """Give codes to new tools (paper, Algorithm 1): frozen projection and centroids, and no sequence twice.

    Under the policy ``reassign`` a tool whose nearest sequence is taken gets the free one of least added error. Where
    that begins with other codes, it gets the nearest free one that begins with its own first ``keep_codes`` codes: a
    first code that is far from the tool says something else than what the tool does.

    Args:
        codebook: The saved codebook.
        embeddings: float32 (n, V, D), gist outputs of the frozen compressor.
        tool_ids: The n ids, for errors.
        present: Integers (N, P), codes in use.
        retired: Codes that must not be given, though no tool has them.
        keep_codes: Leading codes that stay the nearest ones, 0 to V·L. 0 takes the nearest free sequence wherever it
            is. Only ``reassign`` looks at it.

    Returns:
        int32 (n, P).

    Raises:
        CodeSpaceError: There is no free sequence, at all or with the wanted beginning.
        CatalogueError: ``keep_codes`` is out of range.
        CodebookError: The embeddings do not fit the codebook.
    """
    content = codebook.num_gists * codebook.num_levels
    if isinstance(keep_codes, bool) or not isinstance(keep_codes, int) or not 0 <= keep_codes <= content:
        raise CatalogueError(f"keep_codes: expected a whole number from 0 to {content}, got {keep_codes!r}")
    occupied = _occupied(present, () if codebook.collisions == "share" else retired, codebook.code_length)
    natural = codebook.quantize(embeddings)
    if codebook.collisions == "reassign":
        room = math.prod(codebook.code_sizes) - len(occupied)
        if len(natural) > room:
            raise _full(codebook, tool_ids[0], natural[0], 0, occupied, retired)
    try:
        codes = codebook.assign(embeddings, existing_codes=occupied)
    except CodebookError as error:
        if codebook.collisions == "suffix" and "suffix vocabulary" in str(error):
            raise _full(codebook, tool_ids[0], natural[0], content, occupied, retired) from error
        raise
    if codebook.collisions == "reassign" and keep_codes:
        _bring_back(codebook, embeddings, tool_ids, natural, codes, occupied, retired, keep_codes)
    return codes


def moved_codes(
    codebook: Codebook,
    embeddings: NDArray[np.floating],
    tool_ids: Sequence[str],
    rows: Sequence[int],
    present: NDArray[np.integer],
    retired: Collection[Codes] = (),
    *,
    keep_codes: int = 1,
) -> IntArray:
    """Give codes to tools whose documents have changed; a tool keeps its sequence where that is still the best one.

    Args:
        codebook: The saved codebook.
        embeddings: float32 (n, V, D), gist outputs of the new documents.
        tool_ids: The n ids, for errors.
        rows: Their rows in ``present``.
        present: Integers (N, P), codes in use.
        retired: As in :func:`new_codes`.
        keep_codes: As in :func:`new_codes`.

    Returns:
        int32 (n, P).

    Raises:
        CodeSpaceError: As :func:`new_codes`.
    """
    old = np.asarray(present, dtype=np.int32)[list(rows)]
    content = codebook.num_gists * codebook.num_levels
    natural = codebook.quantize(embeddings)
    stay = (natural == old[:, :content]).all(axis=1)
    result = old.copy()
    moving = np.flatnonzero(~stay).tolist()
    if codebook.collisions != "reassign":
        if moving:
            names = [tool_ids[row] for row in moving]
            result[moving] = new_codes(codebook, embeddings[moving], names, present, retired)
        return result
    taken = set(map(tuple, present.tolist())) | set(retired)
    crowded = []
    for row in moving:
        code = tuple(natural[row].tolist())
        if code in taken:
            crowded.append(row)
        else:
            taken.add(code)
            result[row] = natural[row]
    for row in crowded:
        # One by one: its own old sequence is free for it, and for nobody else.
        others = taken - {tuple(old[row].tolist())}
        found = new_codes(
            codebook, embeddings[row : row + 1], [tool_ids[row]], np.array(sorted(others)), keep_codes=keep_codes
        )
        result[row] = found[0]
        taken.add(tuple(found[0].tolist()))
    return result


def _occupied(present: NDArray[np.integer], retired: Collection[Codes], length: int) -> IntArray:
    parts = [np.asarray(present, dtype=np.int32).reshape(-1, length)]
    if retired:
        parts.append(np.array(sorted(retired), dtype=np.int32))
    return np.concatenate(parts)


def _bring_back(
    codebook: Codebook,
    embeddings: NDArray[np.floating],
    tool_ids: Sequence[str],
    natural: IntArray,
    codes: IntArray,
    occupied: IntArray,
    retired: Collection[Codes],
    keep: int,
) -> None:
    """Move tools that were sent away from their first codes back below these, in place."""
    strayed = np.flatnonzero((codes[:, :keep] != natural[:, :keep]).any(axis=1)).tolist()
    if not strayed:
        return
    taken = set(map(tuple, occupied.tolist())) | set(map(tuple, codes.tolist()))
    reduced = codebook.reduce(embeddings[strayed])
    for place, row in enumerate(strayed):
        taken.discard(tuple(codes[row].tolist()))
        points = [part.to_points(reduced[place : place + 1, gist]) for gist, part in enumerate(codebook.quantizers)]
        prefix = tuple(natural[row, :keep].tolist())
        found = _nearest_free(codebook.quantizers, points, prefix, taken)
        if found is None:
            raise _full(codebook, tool_ids[row], natural[row], keep, occupied, retired)
        codes[row] = found
        taken.add(found)


def _nearest_free(
    quantizers: Sequence[Quantizer], points: Sequence[NDArray[np.float32]], prefix: Codes, taken: set[Codes]
) -> Codes | None:
    """Find the free sequence of least error that begins with ``prefix``; ``None`` where there is none."""
    spaces = [math.prod(quantizer.sizes) for quantizer in quantizers]
    width = _FIRST_WIDTH
    while True:
        lists = []
        start = 0
        for quantizer, point, space in zip(quantizers, points, spaces, strict=True):
            wanted = prefix[start : start + len(quantizer.sizes)]
            # A prefix leaves few of a beam: the gist that it begins in is listed wider.
            found = quantizer.combinations(point, min(space, width * 64 if wanted else width, _MAX_WIDTH))
            lists.append(_beginning_with(wanted, found[0][0], found[1][0]))
            start += len(quantizer.sizes)
        free = next((code for code in _products(lists) if code not in taken), None)
        if free is not None or width >= min(max(spaces), _MAX_WIDTH):
            return free
        width *= 8


def _beginning_with(wanted: Codes, costs: NDArray[np.float32], codes: IntArray) -> list[tuple[float, Codes]]:
    pairs = zip(costs.tolist(), map(tuple, codes.tolist()), strict=True)
    return [(cost, code) for cost, code in pairs if code[: len(wanted)] == wanted]


def _products(lists: Sequence[list[tuple[float, Codes]]]) -> Iterator[Codes]:
    """Yield combinations of one entry a list, cheapest first."""
    if not all(lists):
        return
    first = (0,) * len(lists)
    heap = [(sum(part[0][0] for part in lists), first)]
    seen = {first}
    while heap:
        _, places = heapq.heappop(heap)
        yield tuple(code for part, place in zip(lists, places, strict=True) for code in part[place][1])
        for gist, place in enumerate(places):
            more = (*places[:gist], place + 1, *places[gist + 1 :])
            if place + 1 < len(lists[gist]) and more not in seen:
                seen.add(more)
                cost = sum(part[at][0] for part, at in zip(lists, more, strict=True))
                heapq.heappush(heap, (cost, more))


def _full(
    codebook: Codebook, tool: str, natural: IntArray, keep: int, occupied: IntArray, retired: Collection[Codes]
) -> CodeSpaceError:
    """Say what is full round a tool, and what can be done."""
    sizes = codebook.code_sizes
    prefix = tuple(natural[:keep].tolist())
    used = int((occupied[:, :keep] == natural[:keep]).all(axis=1).sum())
    resting = sum(code[:keep] == prefix for code in retired)
    where = f"that begin with {list(prefix)}" if keep else "of the codebook"
    options = []
    if keep and codebook.collisions == "reassign":
        options.append(f"keep_codes={keep - 1} also takes codes that differ on an earlier level")
        options.append("keep_codes=0 takes the nearest free codes wherever they are (reassign)")
    if resting:
        options.append(f"reuse_retired=True gives retired codes again, {resting} of these")
    options.append("remove tools that nobody needs")
    options.append("fit a codebook with larger num_centroids or num_levels and train again (widen)")
    return CodeSpaceError(
        f"all {math.prod(sizes[keep:])} code sequences {where} are taken: {used - resting} by tools, {resting} retired",
        tool=tool,
        codes=natural.tolist(),
        options=options,
    )
