"""Pictures of a codebook: codes or embeddings go in, a PNG file comes out. Matplotlib is imported when one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolscaler._files import atomic_path
from toolscaler._optional import require
from toolscaler.codebook.checks import check_codes
from toolscaler.codebook.codebook import Codebook
from toolscaler.codebook.statistics import code_usage, gini_coefficient, perplexity

_DPI = 120


def _figure(width: float, height: float) -> Any:
    """Make a figure without pyplot, whose global state and window system a library must not touch."""
    figure = require("matplotlib.figure", extra="eval", purpose="drawing a codebook").Figure(
        figsize=(width, height), layout="constrained"
    )
    require("matplotlib.backends.backend_agg", extra="eval", purpose="drawing a codebook").FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)
    return Path(path)


def plot_codebook_usage(
    codebook: Codebook, path: str | Path, codes: NDArray[np.integer] | None = None, *, title: str | None = None
) -> Path:
    """Draw how many tools carry each code, one panel a position, codes sorted by usage.

    Args:
        codebook: The codebook.
        path: PNG file to write.
        codes: Integers (N, code_length); the fitted codes if ``None``.
        title: Heading of the picture.

    Returns:
        The path.

    Raises:
        CodebookError: The codes do not fit the codebook.
        MissingDependencyError: Matplotlib is not installed (extras ``train`` and ``eval`` bring it).
    """
    assigned = codebook.codes if codes is None else check_codes(codes, codebook.code_sizes)
    usage = code_usage(assigned, codebook.code_sizes)
    figure = _figure(3.2 * len(usage), 3.0)
    panels = figure.subplots(1, len(usage), squeeze=False, sharey=True)[0]
    for place, (panel, counts) in enumerate(zip(panels, usage, strict=True)):
        gist, level = divmod(place, codebook.num_levels)
        name = "suffix" if gist >= codebook.num_gists else f"gist {gist + 1}, level {level + 1}"
        panel.fill_between(np.arange(len(counts) + 1), np.append(np.sort(counts)[::-1], 0), step="post")
        panel.axhline(len(assigned) / len(counts), linestyle="--", linewidth=1, color="black")
        panel.set_title(
            f"{name}\nperplexity {perplexity(counts):.0f} of {len(counts)}, Gini {gini_coefficient(counts):.2f}"
        )
        panel.set_xlabel("code, by rank")
    panels[0].set_ylabel("tools that carry it")
    figure.suptitle(title or f"Code usage of {len(assigned)} tools (dashed: the mean)")
    return _save(figure, path)
