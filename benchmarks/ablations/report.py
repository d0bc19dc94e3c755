"""Tables, CSV and pictures of an ablation."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablations.analysis import by_variant, correlate, summarise
from toolscaler._files import atomic_path, write_json, write_text

Cells = Sequence[Mapping[str, Any]]
TOP_FIGURES = 6


def _percent(value: tuple[float, float, float] | None, sign: str = "") -> str:
    if value is None:
        return "–"
    mean, low, high = (100 * part for part in value)
    return f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def _plain(value: tuple[float, float, float]) -> str:
    return f"{value[0]:+.2f} [{value[1]:+.2f}, {value[2]:+.2f}]"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table whose first column is text."""
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _sizes(sizes: Sequence[int]) -> str:
    return f"{sizes[0]} x {len(sizes)}" if len(set(sizes)) == 1 else ", ".join(map(str, sizes))


def variants_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["variant", "codes", "seeds", "NDCG@1", "difference", "NDCG@5", "difference", "loss"]
    return markdown(
        header,
        [
            [
                row["variant"],
                _sizes(row["code_sizes"]),
                str(row["seeds"]),
                _percent(row["ndcg@1"]),
                _percent(row.get("ndcg@1 difference"), "+"),
                _percent(row["ndcg@5"]),
                _percent(row.get("ndcg@5 difference"), "+"),
                f"{row['loss']:.2f}",
            ]
            for row in rows
        ],
    )


def figures_table(everything: Sequence[Mapping[str, Any]], usable: Sequence[Mapping[str, Any]]) -> str:
    own = {row["figure"]: row for row in usable}
    counts = everything[0]["codebooks"], usable[0]["codebooks"] if usable else 0
    header = ["figure", f"NDCG@1, all {counts[0]}", "NDCG@5", f"NDCG@1, without controls ({counts[1]})", "NDCG@5"]
    body = []
    for row in everything:
        other = own.get(row["figure"])
        cells = [_plain(other["ndcg@1"]), _plain(other["ndcg@5"])] if other else ["–", "–"]
        body.append([row["figure"], _plain(row["ndcg@1"]), _plain(row["ndcg@5"]), *cells])
    return markdown(header, body)


def cells_csv(cells: Cells) -> str:
    """One line a cell with every figure."""
    names = sorted({name for cell in cells for name in cell["figures"]})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "seed", "ndcg@1", "ndcg@5", "loss", "train_seconds", *names])
    for cell in cells:
        means = [f"{np.mean(cell['per_query'][metric]):.6f}" for metric in ("ndcg@1", "ndcg@5")]
        own = [f"{cell['figures'][name]:.6g}" if name in cell["figures"] else "" for name in names]
        writer.writerow(
            [cell["variant"], cell["seed"], *means, f"{cell['loss']:.4f}", f"{cell['train_seconds']:.1f}", *own]
        )
    return text.getvalue()


def write_report(title: str, name: str, cells: Cells, controls: frozenset[str], folder: Path) -> str:
    """Write ``NAME.md``, ``NAME.csv``, ``NAME.json`` and pictures of finished cells; give the Markdown."""
    rows = summarise(cells)
    first = cells[0]
    budget = first["budget"]
    text = [
        f"## {title}\n\n",
        f"Catalogue {first['catalogue']}, {first['tools']} tools; {budget['steps']} steps of {budget['batch']} rows a "
        f"cell; n = {rows[0]['queries']} held-out queries, {budget['beams']} beams; {len(cells)} cells. NDCG in per "
        "cent with 95 % bootstrap intervals over queries and seeds; differences to the first row are paired.\n\n",
        variants_table(rows),
    ]
    result: dict[str, Any] = {"title": title, "variants": rows}
    if name == "codebooks" and len(rows) > 3:
        everything, usable = correlate(cells), correlate(cells, controls)
        text += [
            "\nRank correlation of report figures with NDCG over codebooks:\n\n",
            figures_table(everything, usable),
        ]
        result |= {"correlations": everything, "correlations_without_controls": usable}
        _plot_figures([row["figure"] for row in usable[:TOP_FIGURES]], cells, controls, folder / f"{name}_figures.png")
    _plot_variants(rows, folder / f"{name}.png")
    write_text(folder / f"{name}.csv", cells_csv(cells))
    write_text(folder / f"{name}.md", "".join(text))
    write_json(folder / f"{name}.json", result)
    return "".join(text)


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _plot_variants(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(6.5, 0.32 * len(rows) + 1.2))
    places = np.arange(len(rows))[::-1]
    for metric, colour in (("ndcg@1", "#1f5fa8"), ("ndcg@5", "#c46a1b")):
        values = 100 * np.array([row[metric] for row in rows])
        spread = np.abs(values[:, 1:] - values[:, :1]).T
        axes.errorbar(values[:, 0], places, xerr=spread, fmt="o", markersize=4, color=colour, label=metric.upper())
        axes.axvline(values[0, 0], color=colour, linewidth=0.7, linestyle=":")
    axes.set_yticks(places, [row["variant"] for row in rows])
    axes.set_xlabel("per cent, 95 % interval; dotted: the first row")
    axes.legend(fontsize=8)
    _save(figure, path)
    pyplot.close(figure)


def _plot_figures(names: Sequence[str], cells: Cells, controls: frozenset[str], path: Path) -> None:
    if not names:
        return
    pyplot = _pyplot()
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure, grid = pyplot.subplots(lines, columns, figsize=(4 * columns, 3.2 * lines), squeeze=False)
    groups = by_variant(cells)
    for axes, name in zip(grid.ravel(), names, strict=False):
        for variant, own in groups.items():
            x = np.mean([cell["figures"][name] for cell in own.values()])
            y = 100 * np.mean([np.mean(cell["per_query"]["ndcg@1"]) for cell in own.values()])
            axes.plot(x, y, "x" if variant in controls else "o", color="#999999" if variant in controls else "#1f5fa8")
            axes.annotate(variant, (x, y), fontsize=5, xytext=(2, 2), textcoords="offset points")
        axes.set_xlabel(name, fontsize=8)
        axes.set_ylabel("NDCG@1", fontsize=8)
    for axes in grid.ravel()[len(names) :]:
        axes.remove()
    figure.tight_layout()
    _save(figure, path)
    pyplot.close(figure)
