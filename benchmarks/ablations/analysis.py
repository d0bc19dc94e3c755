"""Cells in, numbers with intervals out: means, paired differences, rank correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

RESAMPLES = 2000


@lru_cache(maxsize=4)
def _weights(queries: int, seed: int) -> np.ndarray:
    """How often each query is drawn, over their number: float32 (RESAMPLES, queries), the same for every variant."""
    rng = np.random.default_rng(seed)
    table = np.empty((RESAMPLES, queries), dtype=np.float32)
    for row in table:
        row[:] = np.bincount(rng.integers(queries, size=queries), minlength=queries)
    return table / np.float32(queries)


def two_way_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean of (seeds, queries) values with a 95 % percentile interval; seeds and queries are both drawn anew.

    With one seed the interval is over queries alone. With a few it still understates what other seeds would give.
    """
    seeds, queries = values.shape
    by_seed = _weights(queries, seed) @ values.T.astype(np.float32)
    drawn = np.random.default_rng([seed, 1]).integers(seeds, size=by_seed.shape)
    means = np.take_along_axis(by_seed, drawn, axis=1).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, equal values with the mean of theirs."""
    below = (values[..., None, :] < values[..., :, None]).sum(axis=-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(axis=-1)
    return below + (equal + 1) / 2


def spearman(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis; NaN where one side does not vary."""
    first, second = ranks(one), ranks(two)
    first = first - first.mean(axis=-1, keepdims=True)
    second = second - second.mean(axis=-1, keepdims=True)
    bottom = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(bottom > 0, (first * second).sum(axis=-1) / bottom, np.nan)


def spearman_interval(figure: np.ndarray, outcome: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Spearman's correlation over codebooks with a 95 % interval; codebooks are drawn anew."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(figure), size=(RESAMPLES, len(figure)))
    found = spearman(figure[rows], outcome[rows])
    found = found[~np.isnan(found)]
    value = float(spearman(figure, outcome))
    if np.isnan(value) or not len(found):
        return float("nan"), float("nan"), float("nan")
    low, high = np.quantile(found, [0.025, 0.975])
    return value, float(low), float(high)


def by_variant(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Variant -> seed -> cell, in the order of the cells."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for cell in cells:
        found.setdefault(cell["variant"], {})[cell["seed"]] = cell
    return found


def summarise(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a variant: NDCG with interval, and its difference to the first variant on the same seeds and queries."""
    groups = by_variant(cells)
    reference = next(iter(groups.values()))
    rows = []
    for name, own in groups.items():
        row: dict[str, Any] = {"variant": name, "seeds": len(own), "code_sizes": next(iter(own.values()))["code_sizes"]}
        common = sorted(set(own) & set(reference))
        for metric in ("ndcg@1", "ndcg@5"):
            table = np.array([cell["per_query"][metric] for cell in own.values()])
            row[metric] = two_way_interval(table)
            row["queries"] = table.shape[1]
            if own is not reference and common:
                pairs = [
                    np.subtract(own[seed]["per_query"][metric], reference[seed]["per_query"][metric]) for seed in common
                ]
                row[f"{metric} difference"] = two_way_interval(np.array(pairs))
        row["loss"] = float(np.mean([cell["loss"] for cell in own.values()]))
        row["fit_seconds"] = float(np.mean([cell["fit_seconds"] for cell in own.values()]))
        rows.append(row)
    return rows


def _different(groups: dict[str, dict[int, Mapping[str, Any]]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Leave out variants that came to the same codes and the same results as an earlier one: they are one codebook."""
    kept: dict[str, dict[int, Mapping[str, Any]]] = {}
    for name, own in groups.items():
        same = (
            set(own) == set(other)
            and all(own[seed]["figures"] == other[seed]["figures"] for seed in own)
            and all(own[seed]["per_query"] == other[seed]["per_query"] for seed in own)
            for other in kept.values()
        )
        if not any(same):
            kept[name] = own
    return kept


def correlate(cells: Sequence[Mapping[str, Any]], without: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Rank correlation of every report figure with NDCG over variants (means over seeds), strongest first."""
    groups = _different({name: own for name, own in by_variant(cells).items() if name not in without})
    names = sorted(set.intersection(*(set(cell["figures"]) for own in groups.values() for cell in own.values())))

    def means(pick: Any) -> np.ndarray:
        return np.array([np.mean([pick(cell) for cell in own.values()]) for own in groups.values()])

    rows = []
    outcomes = {m: means(lambda cell, m=m: np.mean(cell["per_query"][m])) for m in ("ndcg@1", "ndcg@5")}
    for name in names:
        figure = means(lambda cell, name=name: cell["figures"][name])
        row = {"figure": name, "codebooks": len(groups)}
        row |= {metric: spearman_interval(figure, outcome) for metric, outcome in outcomes.items()}
        if not np.isnan(row["ndcg@1"][0]):
            rows.append(row)
    return sorted(rows, key=lambda row: -abs(row["ndcg@1"][0]))
