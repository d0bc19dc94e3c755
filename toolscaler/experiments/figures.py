"""Results in, the paper's figures out: ablation bars (2), subtokens a tool (3), NDCG against catalogue size (4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolscaler._files import atomic_path
from toolscaler._optional import require
from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.results import RowResult

_COLOURS = ("#1f5fa8", "#c46a1b", "#3b8f4d", "#8a3ea8", "#a83e3e", "#5a5a5a", "#b0952a")
_DPI = 130


def draw_figures(
    config: ExperimentConfig, results: Sequence[RowResult], metrics: Sequence[str], folder: Path
) -> dict[str, str]:
    """Draw the figures that the grid asks for.

    Returns:
        File name -> title, of those for which there are results.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, str] = {}
    for name in dict.fromkeys(config.report.figures):
        draw, title = _FIGURES[name]
        if draw(results, metrics[0], folder / f"{name}.png"):
            drawn[f"{name}.png"] = title
    return drawn


def ablation_bars(results: Sequence[RowResult], metric: str, path: Path) -> bool:
    """Draw one group of bars a test set, one bar a system, with 95 % intervals over queries (paper Fig. 2)."""
    means = _means(results, metric, key=lambda r: r.label)
    tests = list(dict.fromkeys(test for own in means.values() for test in own))
    if not tests:
        return False
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(1.6 * len(tests) + 3, 3.4))
    width = 0.8 / len(means)
    for place, (label, own) in enumerate(means.items()):
        x = np.arange(len(tests)) + (place - (len(means) - 1) / 2) * width
        heights = np.array([own.get(test, (np.nan, np.nan, np.nan)) for test in tests]) * 100
        spread = np.abs(heights[:, 1:] - heights[:, :1]).T
        axes.bar(x, heights[:, 0], width, yerr=spread, capsize=2, label=label, color=_COLOURS[place % len(_COLOURS)])
    axes.set_xticks(np.arange(len(tests)), tests)
    axes.set_ylabel(f"{metric.upper()}, %")
    axes.legend(fontsize=7)
    _save(figure, path)
    return True


def subtoken_bars(results: Sequence[RowResult], metric: str, path: Path) -> bool:
    """Draw how many tools have how many subtokens, a line a system (paper Fig. 3)."""
    found = {
        r.label: r.record["facts"].get("subtokens") for r in results if r.row.share == max(x.row.share for x in results)
    }
    counts = {label: {int(k): int(v) for k, v in value.items()} for label, value in found.items() if value}
    if not counts:
        return False
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(6, 3.4))
    for place, (label, own) in enumerate(counts.items()):
        lengths, total = sorted(own), sum(own.values())
        shares = [100 * own[length] / total for length in lengths]
        mean = sum(length * own[length] for length in lengths) / total
        axes.plot(
            lengths, shares, "o-", markersize=4, label=f"{label} ({mean:.1f})", color=_COLOURS[place % len(_COLOURS)]
        )
    axes.set_xlabel("subtokens a tool (in brackets: mean)")
    axes.set_ylabel("tools, %")
    axes.legend(fontsize=7)
    _save(figure, path)
    return True


def share_lines(results: Sequence[RowResult], metric: str, path: Path) -> bool:
    """Draw a metric against the number of tools, a line a system, one picture a test set (paper Fig. 4)."""
    tests = list(dict.fromkeys(test for r in results for test in r.values))
    if not tests:
        return False
    pyplot = _pyplot()
    figure, grid = pyplot.subplots(1, len(tests), figsize=(4.2 * len(tests), 3.4), squeeze=False)
    labels = list(dict.fromkeys(r.label for r in results))
    for axes, test in zip(grid.ravel(), tests, strict=True):
        for place, label in enumerate(labels):
            own = [r for r in results if r.label == label and test in r.values]
            means = _means(own, metric, key=lambda r: _size(r, test))
            sizes = sorted(means)
            if sizes:
                values = 100 * np.array([means[size][test] for size in sizes])
                spread = np.abs(values[:, 1:] - values[:, :1]).T
                colour = _COLOURS[place % len(_COLOURS)]
                axes.errorbar(
                    sizes, values[:, 0], yerr=spread, fmt="o-", markersize=4, capsize=2, label=label, color=colour
                )
        axes.set_xscale("log")
        axes.set_xlabel(f"tools ({test})")
        axes.set_ylabel(f"{metric.upper()}, %")
    grid[0, 0].legend(fontsize=7)
    figure.tight_layout()
    _save(figure, path)
    return True


def _size(result: RowResult, test: str) -> int:
    return int(result.result["tests"][test]["catalogue_size"])


def _means(
    results: Sequence[RowResult], metric: str, key: Callable[[RowResult], Any]
) -> dict[Any, dict[str, tuple[float, float, float]]]:
    """Give group -> test set -> mean and interval over queries of the mean over seeds."""
    from toolscaler.evaluation.statistics import bootstrap_intervals

    gathered: dict[Any, dict[str, list[np.ndarray]]] = {}
    for result in results:
        for test, metrics in result.values.items():
            if metric in metrics:
                gathered.setdefault(key(result), {}).setdefault(test, []).append(metrics[metric])
    found: dict[Any, dict[str, tuple[float, float, float]]] = {}
    for group, own in gathered.items():
        for test, rows in own.items():
            same = [row for row in rows if len(row) == len(rows[0])]
            values = np.mean(np.stack(same), axis=0)
            low, high = bootstrap_intervals(values, num_resamples=1000)
            found.setdefault(group, {})[test] = (float(values.mean()), float(low), float(high))
    return found


_Draw = Callable[[Sequence[RowResult], str, Path], bool]
_FIGURES: Mapping[str, tuple[_Draw, str]] = {
    "ablation": (ablation_bars, "Systems on every test set"),
    "subtokens": (subtoken_bars, "Subtokens a tool"),
    "shares": (share_lines, "Against the number of tools"),
}


def _pyplot() -> Any:
    require("matplotlib", extra="eval", purpose="figures of an experiment").use("Agg")
    return require("matplotlib.pyplot", extra="eval", purpose="figures of an experiment")


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
    _pyplot().close(figure)
