"""Plots of the decoding benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.decoding.masks import FLOOR
from benchmarks.decoding.report import ORDER, Results, by_size, case_of, tools_text
from benchmarks.decoding.retrieval import REFERENCE


def plot(results: Results, folder: Path) -> None:
    """Draw what there is: shares and growth of the masks, retrieval end to end."""
    import matplotlib

    matplotlib.use("Agg")
    if "masks" in results:
        _plot_masks(results, folder / "masks.png")
    if "retrieval" in results:
        _plot_retrieval(results["retrieval"], folder / "retrieval.png")


def _plot_masks(results: Results, path: Path) -> None:
    from matplotlib import pyplot

    cases = by_size(results["masks"])
    names = [name for name in ORDER if name in next(iter(cases[0]["rows"].values())) and name != FLOOR]
    figure, (shares, growth) = pyplot.subplots(1, 2, figsize=(13, 4.2))
    case = case_of(results, "masks", 1_000_000) or cases[-1]
    height = 0.8 / len(case["rows"])
    for number, (rows, systems) in enumerate(case["rows"].items()):
        places = [place + height * number for place in range(len(names))]
        shares.barh(places, [systems[name]["share"] for name in names], height, label=f"{rows} rows")
    shares.set_yticks([place + height for place in range(len(names))], names)
    shares.axvline(1, color="black", linewidth=0.8)
    shares.set(xscale="log", xlabel=f"share of one full_like, {tools_text(case['tools'])} tools")
    shares.invert_yaxis()
    shares.legend()
    rows = list(cases[0]["rows"])[-1]
    tools = [case["tools"] for case in cases]
    for name in (FLOOR, *names):
        growth.plot(tools, [case["rows"][rows][name]["ms"] for case in cases], "o-", label=name)
    growth.set(xscale="log", yscale="log", xlabel="tools", ylabel=f"ms a step, {rows} rows")
    growth.legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left")
    _save(figure, path)


def _plot_retrieval(part: Results, path: Path) -> None:
    from matplotlib import pyplot

    cases = sorted(part.values(), key=lambda case: case["prompt_tokens"])
    figure, axes = pyplot.subplots(1, len(cases), figsize=(6.5 * len(cases), 5), sharey=True, squeeze=False)
    for axis, case in zip(axes[0], cases, strict=True):
        systems = case["systems"]
        milliseconds = [system["ms_per_query"] for system in systems.values()]
        axis.barh(list(systems), milliseconds, color=[_colour(name) for name in systems])
        axis.set(xlabel=f"CPU ms a query, {case['prompt_tokens']} prompt tokens")
    axes[0][0].invert_yaxis()
    _save(figure, path)


def _colour(name: str) -> str:
    if name == REFERENCE:
        return "tab:gray"
    return "tab:orange" if "toolscaler" in name else "tab:blue"


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    figure.clear()
