"""Pictures of a codebook report: tree of codes, map of tools, and the distance that each level preserves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolscaler.codebook.checks import code_groups
from toolscaler.codebook.codebook import Codebook
from toolscaler.codebook.pca import fit_pca
from toolscaler.codebook.plots import _figure, _save

_PAIRS = 4096
_MAP_ROWS = 5000


def preserved_distances(
    codebook: Codebook, embeddings: NDArray[np.floating], *, seed: int = 0, max_pairs: int = _PAIRS
) -> tuple[float, ...]:
    """Rank correlation (Spearman) of distances between tools in E and between what their first codes stand for.

    Args:
        codebook: The codebook with its tools.
        embeddings: float (N, V, D) of the same tools.
        seed: Seed of the draw of pairs.
        max_pairs: Pairs of different tools that are drawn.

    Returns:
        V·L numbers: entry p - 1 with the first p codes known (levels of a gist position in order; positions that have
        no code yet stand at their mean). 0 where all such distances are equal.
    """
    rows = len(codebook)
    if rows < 2:
        return (0.0,) * (codebook.num_gists * codebook.num_levels)
    rng = np.random.default_rng(seed)
    first = rng.integers(rows, size=max_pairs)
    second = (first + rng.integers(1, rows, size=max_pairs)) % rows
    difference = np.asarray(embeddings)[first].astype(np.float32) - np.asarray(embeddings)[second]
    truth = np.square(difference, dtype=np.float64).sum(axis=(1, 2))
    known = np.zeros(max_pairs)
    result = []
    for gist, quantizer in enumerate(codebook.quantizers):
        codes = codebook.gist_codes(codebook.codes, gist)
        pairs = zip(quantizer.partials(codes[first])[1:], quantizer.partials(codes[second])[1:], strict=True)
        added = known
        for one, two in pairs:
            added = known + np.square(codebook.expand(one - two, gist), dtype=np.float64).sum(axis=1)
            result.append(_spearman(truth, added))
        known = added
    return tuple(result)


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    ranks = np.stack([_ranks(first), _ranks(second)])
    if ranks.std(axis=1).min() == 0:
        return 0.0
    centred = (ranks - ranks.mean(axis=1, keepdims=True)) / ranks.std(axis=1, keepdims=True)
    return float((centred[0] * centred[1]).mean())


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks, equal values with the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place.reshape(-1)]


def plot_code_tree(codebook: Codebook, path: str | Path) -> Path:
    """Draw the prefix tree of the codes as an icicle: one row a position, one bar a prefix, as wide as its tools.

    Args:
        codebook: The codebook with its tools.
        path: PNG file to write.

    Returns:
        The path.

    Raises:
        MissingDependencyError: Matplotlib is not installed.
    """
    figure = _figure(9.0, 0.7 * codebook.code_length + 1.2)
    axes = figure.subplots()
    order = np.lexsort(codebook.codes.T[::-1])
    ordered = codebook.codes[order]
    for length in range(1, codebook.code_length + 1):
        groups, count = code_groups(np.ascontiguousarray(ordered[:, :length]))
        sizes = np.bincount(groups, minlength=count)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if count else np.zeros(0)
        colours = np.where(np.arange(count) % 2 == 0, "#4c72b0", "#a6bddb")
        axes.barh(np.full(count, length), sizes, left=starts, height=0.9, color=colours.tolist(), linewidth=0)
        axes.text(len(ordered) * 1.01, length, f"{count} prefixes", va="center", fontsize=8)
    axes.set_ylim(codebook.code_length + 0.6, 0.4)
    axes.set_yticks(range(1, codebook.code_length + 1))
    axes.set_xlim(0, max(len(ordered), 1) * 1.16)
    axes.set_xlabel("tools, in the order of their codes")
    axes.set_ylabel("prefix length")
    axes.set_title(f"Tree of {len(ordered)} code sequences")
    return _save(figure, path)


def plot_code_map(codebook: Codebook, embeddings: NDArray[np.floating], path: str | Path, *, seed: int = 0) -> Path:
    """Draw tools on the two main axes of their reduced embeddings, coloured by the first code.

    Args:
        codebook: The codebook with its tools.
        embeddings: float (N, V, D) of the same tools; at most 5,000 are drawn.
        path: PNG file to write.
        seed: Seed of the draw.

    Returns:
        The path.

    Raises:
        MissingDependencyError: Matplotlib is not installed.
    """
    rows = np.arange(len(codebook))
    if len(rows) > _MAP_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MAP_ROWS, replace=False))
    reduced = codebook.reduce(np.asarray(embeddings)[rows]).reshape(len(rows), -1)
    places = np.zeros((len(rows), 2), dtype=np.float32)
    axes_found = min(2, *reduced.shape)
    places[:, :axes_found] = fit_pca(reduced, axes_found).transform(reduced)
    figure = _figure(6.0, 5.0)
    axes = figure.subplots()
    # Neighbouring code numbers get far colours: the golden ratio spreads them over the circle of hues.
    hues = (codebook.codes[rows, 0] * 0.6180339887) % 1.0
    axes.scatter(places[:, 0], places[:, 1], c=hues, cmap="hsv", vmin=0, vmax=1, s=6, linewidths=0)
    axes.set_title(f"{len(rows)} tools by their first code")
    axes.set_xlabel("first principal axis")
    axes.set_ylabel("second principal axis")
    return _save(figure, path)


def plot_level_distances(preserved: Sequence[float], path: str | Path) -> Path:
    """Draw what :func:`preserved_distances` gave.

    Raises:
        MissingDependencyError: Matplotlib is not installed.
    """
    figure = _figure(4.6, 3.4)
    axes = figure.subplots()
    axes.plot(range(1, len(preserved) + 1), preserved, marker="o")
    axes.set_xticks(range(1, len(preserved) + 1))
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.set_xlabel("codes known")
    axes.set_ylabel("rank correlation with distances in E")
    axes.set_title("Distance preserved")
    return _save(figure, path)
