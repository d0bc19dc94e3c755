"""The report stage: what a run left in its folder, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolscaler._files import atomic_folder, read_json
from toolscaler._optional import require

if TYPE_CHECKING:
    from toolscaler.pipeline.stages import Run

_NAMED_CODES = 12
_GREY = "0.45"


def report_stage(run: Run) -> dict[str, Any]:
    """Draw losses, the map of tools and the metrics into ``plots/``.

    Args:
        run: A run whose evaluate stage is done.

    Returns:
        ``{"plots": [file names]}``.

    Raises:
        ArtifactError: A file of an earlier stage is missing or damaged.
        MissingDependencyError: matplotlib or scikit-learn is not installed.
    """
    with atomic_folder(run.folder / "plots") as folder:
        return {"plots": draw_run(run, folder)}


def draw_run(run: Run, folder: Path) -> list[str]:
    """Draw losses, the map of tools and the metrics of a run, or of one round of it, into a folder.

    Without a codebook (:class:`~toolscaler.pipeline.config.TokenizationSection`) there is no map.

    Returns:
        The file names.
    """
    from toolscaler.pipeline.tokenization import is_default, left_out

    histories = {
        title: read_json(run.folder / stage / "history.json")
        for title, stage in (("compression", "compression"), ("retrieval", "retrieval"))
        if title == "retrieval" or left_out(run.config, "compress") is None
    }
    metrics = read_json(run.folder / "evaluation" / "metrics.json")
    plot_losses(histories, folder / "loss.png")
    plot_metrics(metrics, folder / "metrics.png")
    if not is_default(run.config):
        return ["loss.png", "metrics.png"]
    codes = np.asarray(run.load_codebook().codes)
    plot_map(run.load_embeddings(), codes[:, 0], folder / "map.png")
    return ["loss.png", "map.png", "metrics.png"]


def plot_losses(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> None:
    """Draw the training and validation loss of each stage.

    Args:
        histories: Title -> log entries of a Hugging Face Trainer (``trainer.state.log_history``).
        path: PNG file.
    """
    figure = _figure(5.0 * len(histories), 3.6)
    for axes, (title, history) in zip(
        np.atleast_1d(figure.subplots(1, len(histories))), histories.items(), strict=True
    ):
        drawn = [
            _draw_loss(axes, history, "loss", "training", color="C0", linewidth=1.2),
            _draw_loss(axes, history, "eval_loss", "validation", color="C1", marker="o", markersize=4),
        ]
        axes.set(title=f"{title} stage", xlabel="epoch", ylabel="loss")
        if any(drawn):
            axes.set_ylim(bottom=0)
            axes.legend(frameon=False)
            axes.grid(alpha=0.3)
        else:
            axes.text(0.5, 0.5, "no loss was logged", ha="center", va="center", transform=axes.transAxes, color=_GREY)
    figure.savefig(path)


def _draw_loss(axes: Any, history: Sequence[Mapping[str, Any]], key: str, label: str, **style: Any) -> bool:
    points = [(entry["epoch"], entry[key]) for entry in history if key in entry and "epoch" in entry]
    if points:
        # One point makes no line; a marker keeps it visible.
        style = {"marker": "o", **style} if len(points) == 1 else style
        axes.plot(*zip(*points, strict=True), label=label, **style)
    return bool(points)


def plot_map(embeddings: np.ndarray, first_codes: np.ndarray, path: str | Path) -> None:
    """Draw all tools on the two main axes of their gist embeddings, coloured by their first code.

    Args:
        embeddings: float32 (N, V, D); a tool's point is the mean over V.
        first_codes: (N,) first code of each tool.
        path: PNG file.
    """
    flat, shares = _two_components(np.asarray(embeddings, dtype=np.float32).mean(axis=1))
    values, tools = np.unique(first_codes, return_counts=True)
    ranked = values[np.argsort(-tools, kind="stable")]
    named, rest = ranked[:_NAMED_CODES], ranked[_NAMED_CODES:]
    figure = _figure(8.4, 5.6)
    axes = figure.subplots()
    size = float(np.clip(6000.0 / len(flat), 4.0, 40.0))
    for code, colour in zip(rest, _colours(len(rest), saturation=0.35), strict=True):
        mask = first_codes == code
        axes.scatter(*flat[mask].T, s=size, color=colour, linewidths=0)
    for code, colour in zip(named, _colours(len(named), saturation=0.85), strict=True):
        mask = first_codes == code
        label = f"<a_{code}> ({mask.sum()} tools)" if mask.sum() > 1 else f"<a_{code}> (1 tool)"
        axes.scatter(*flat[mask].T, s=size, color=colour, linewidths=0, label=label)
    more = f"; {len(rest)} rarer ones are pale" if len(rest) else ""
    axes.set(
        title=f"{len(flat)} tools, coloured by first code ({len(values)} in use{more})",
        xlabel=f"principal component 1 ({shares[0]:.0%} of variance)",
        ylabel=f"principal component 2 ({shares[1]:.0%} of variance)",
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")
    axes.grid(alpha=0.2)
    figure.savefig(path)


def _two_components(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the two main components of (N, D) points, (N, 2), and their shares of the variance; zeros where none is."""
    flat, shares = np.zeros((len(points), 2)), np.zeros(2)
    if len(points) > 1 and np.ptp(points, axis=0).any():
        decomposition = require("sklearn.decomposition", extra="train", purpose="the map of tools")
        count = min(2, *points.shape)
        pca = decomposition.PCA(count, random_state=0)
        flat[:, :count] = pca.fit_transform(points)
        shares[:count] = pca.explained_variance_ratio_
    return flat, shares


def plot_metrics(metrics: Mapping[str, Any], path: str | Path) -> None:
    """Draw the main metrics of every system as bars with their intervals.

    Args:
        metrics: What the evaluate stage wrote to ``metrics.json``.
        path: PNG file.
    """
    results, depth = metrics["results"], max(metrics["ks"])
    names = [*(f"ndcg@{k}" for k in metrics["ks"]), f"recall@{depth}", f"completeness@{depth}"]
    figure = _figure(max(7.0, 1.5 * len(names)), 4.2)
    axes = figure.subplots()
    width = 0.8 / len(results)
    for row, result in enumerate(results):
        values = np.array([[result["metrics"][name][key] for key in ("mean", "low", "high")] for name in names])
        means, low, high = 100 * values.T
        places = np.arange(len(names)) + (row - (len(results) - 1) / 2) * width
        errors = np.maximum([means - low, high - means], 0.0)
        axes.bar(places, means, width, yerr=errors, capsize=2, label=result["name"], error_kw={"linewidth": 0.8})
        for place, mean, top in zip(places, means, high, strict=True):
            axes.text(place, top + 1.0, f"{mean:.0f}", ha="center", va="bottom", fontsize="x-small")
    share = f"{metrics['confidence']:.0%}".replace("%", " %")
    axes.set(
        ylabel=f"per cent, with {share} intervals",
        ylim=(0, 110),
        yticks=range(0, 101, 20),
        title=f"{metrics['n']} held-out queries, {metrics['catalogue_size']} tools, {metrics['num_beams']} beams",
    )
    axes.set_xticks(range(len(names)), names)
    axes.legend(frameon=False, ncols=min(4, len(results)), loc="upper center", bbox_to_anchor=(0.5, -0.08))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.savefig(path)


def _figure(width: float, height: float) -> Any:
    """Make a figure without pyplot: no global state, no display, always the Agg canvas."""
    figure = require("matplotlib.figure", extra="train", purpose="the plots of a run").Figure
    return figure(figsize=(width, height), layout="constrained", dpi=130)


def _colours(count: int, saturation: float) -> list[Any]:
    """Give colours as far apart as their number allows; dark and light take turns."""
    colours = require("matplotlib.colors", extra="train", purpose="the plots of a run")
    return [
        colours.hsv_to_rgb((i / max(count, 1), saturation, 0.9 if i % 2 or saturation < 0.5 else 0.6))
        for i in range(count)
    ]
