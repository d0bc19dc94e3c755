"""How many tokens a strategy spends on a tool, and a picture of it (paper, figure 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolscaler._files import atomic_path
from toolscaler._optional import require
from toolscaler.errors import TokenizationError
from toolscaler.tokenization.strategies.base import TokenizedCatalogue
from toolscaler.tokenization.tokenizer import ToolscalerTokenizer

_DPI = 120


@dataclass(frozen=True)
class SubtokenLengths:
    """The distribution of the lengths of N sequences; the end token is not counted.

    Attributes:
        counts: Length -> number of tools, ascending, no zeros.
    """

    counts: Mapping[int, int]

    @property
    def tools(self) -> int:
        """Number of tools."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """Mean length."""
        return sum(length * count for length, count in self.counts.items()) / self.tools

    @property
    def deviation(self) -> float:
        """Standard deviation of the lengths (of the population)."""
        square = sum(count * (length - self.mean) ** 2 for length, count in self.counts.items())
        return float(np.sqrt(square / self.tools))

    def quantile(self, share: float) -> int:
        """Give the least length that at least this share of the tools does not exceed."""
        reached = 0
        for length, count in self.counts.items():
            reached += count
            if reached >= share * self.tools:
                return length
        return max(self.counts)

    def to_dict(self) -> dict[str, Any]:
        """Give plain data for a report."""
        return {
            "tools": self.tools,
            "mean": round(self.mean, 4),
            "deviation": round(self.deviation, 4),
            "min": min(self.counts),
            "median": self.quantile(0.5),
            "p95": self.quantile(0.95),
            "max": max(self.counts),
            "counts": {str(length): count for length, count in self.counts.items()},
        }


def subtoken_lengths(catalogue: TokenizedCatalogue | ToolscalerTokenizer) -> SubtokenLengths:
    """Count the tokens of every tool's sequence (paper, figure 3).

    Args:
        catalogue: What a strategy gave, or its tokenizer.

    Raises:
        TokenizationError: There is no tool.
    """
    tokenizer = catalogue.tokenizer if isinstance(catalogue, TokenizedCatalogue) else catalogue
    if not len(tokenizer.tool_index):
        raise TokenizationError("expected a tokenizer with tools, got one without any")
    lengths, counts = np.unique(tokenizer.tool_index.lengths, return_counts=True)
    return SubtokenLengths(dict(zip(lengths.tolist(), counts.tolist(), strict=True)))


def plot_subtoken_lengths(lengths: Mapping[str, SubtokenLengths], path: str | Path) -> Path:
    """Draw the share of tools of each length, one panel a strategy (paper, figure 3).

    Args:
        lengths: Name -> distribution.
        path: PNG file to write.

    Returns:
        The path.

    Raises:
        TokenizationError: There is nothing to draw.
        MissingDependencyError: Matplotlib is not installed (extras ``train`` and ``eval`` bring it).
    """
    if not lengths:
        raise TokenizationError("lengths: expected at least one distribution, got none")
    # Without pyplot, whose global state and window system a library must not touch.
    figure = require("matplotlib.figure", extra="eval", purpose="drawing subtoken lengths").Figure(
        figsize=(6.4, 0.6 + 1.3 * len(lengths)), layout="constrained"
    )
    require("matplotlib.backends.backend_agg", extra="eval", purpose="drawing subtoken lengths").FigureCanvasAgg(figure)
    panels = figure.subplots(len(lengths), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    for panel, (name, found) in zip(panels, lengths.items(), strict=True):
        shares = [count / found.tools for count in found.counts.values()]
        panel.bar(list(found.counts), shares, width=0.8)
        panel.set_title(f"{name}: mean {found.mean:.2f}, longest {max(found.counts)}", fontsize="small", loc="left")
        panel.set_ylim(0, 1)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    panels[-1].set_xlabel("tokens a tool, end token not counted")
    figure.supylabel("share of tools", fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)
    return Path(path)
