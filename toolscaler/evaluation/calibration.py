"""Does a retriever know when it is right? Confidences and hits in, reliability tables and risk-coverage curves out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from toolscaler._files import atomic_path
from toolscaler._optional import require
from toolscaler.errors import ConfigError, EvaluationError

if TYPE_CHECKING:
    from toolscaler.decoding import RetrievedTool

#: What is taken from a ranking; see :func:`top_confidences`.
ConfidenceKind = Literal["probability", "share", "margin", "score"]
#: How confidences are put into bins; see :func:`reliability_table`.
BinKind = Literal["width", "mass"]

_DPI = 120
#: The normal distribution's 97.5 % quantile.
_Z = 1.959963984540054


@dataclass(frozen=True, eq=False)
class ReliabilityTable:
    """How often the first tool is right, by how sure the system is.

    Attributes:
        lowest: float64 (B,): smallest confidence in each bin; bins without queries are left out.
        highest: float64 (B,): largest one.
        counts: int64 (B,): number of queries.
        confidence: float64 (B,): mean confidence.
        accuracy: float64 (B,): share of right answers.
        low: float64 (B,): lower end of the accuracy's 95 % Wilson interval.
        high: float64 (B,): upper end.
        num_bins: Bins asked for.
        bins: ``width`` or ``mass``.
    """

    lowest: np.ndarray
    highest: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    num_bins: int
    bins: BinKind

    @property
    def n(self) -> int:
        """Number of queries."""
        return int(self.counts.sum())

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean over queries of their bin's distance of accuracy from confidence."""
        return float(np.abs(self.accuracy - self.confidence) @ self.counts / self.n)

    @property
    def largest_error(self) -> float:
        """Largest distance of a bin's accuracy from its confidence."""
        return float(np.abs(self.accuracy - self.confidence).max())

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain data."""
        columns = ("lowest", "highest", "counts", "confidence", "accuracy", "low", "high")
        rows = zip(*(getattr(self, name).tolist() for name in columns), strict=True)
        return {
            "n": self.n,
            "bins": self.bins,
            "num_bins": self.num_bins,
            "expected_error": self.expected_error,
            "largest_error": self.largest_error,
            "rows": [dict(zip(columns, row, strict=True)) for row in rows],
        }

    def to_markdown(self) -> str:
        """Write a row a bin, in per cent, and the errors below; ends with a line break."""
        lines = ["| confidence | queries | mean confidence | right |", "|---|---:|---:|---:|"]
        for row in self.to_dict()["rows"]:
            spans = f"{100 * row['lowest']:.1f} to {100 * row['highest']:.1f}"
            ends = f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
            shares = f"{100 * row['confidence']:.1f} | {100 * row['accuracy']:.1f} {ends}"
            lines.append(f"| {spans} | {row['counts']} | {shares} |")
        lines += [
            "",
            f"n = {self.n}; expected calibration error {100 * self.expected_error:.2f}, largest "
            f"{100 * self.largest_error:.2f} ({self.num_bins} bins of equal {self.bins}); intervals: 95 %, Wilson.",
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, eq=False)
class RiskCoverageCurve:
    """What answering only the surest queries would give.

    Attributes:
        thresholds: float64 (T,): the distinct scores, falling. Answer where the score is at least the threshold.
        coverage: float64 (T,): share of the queries that are then answered; the last is 1.
        risk: float64 (T,): share of wrong answers among them.
        n: Number of queries.
        aurc: Area under the curve: mean of the risk at the coverages 1/n, 2/n, ..., 1. Queries of equal score come in
            random order, so this is the expected value over all orders.
        best_aurc: The area if every right answer had a higher score than every wrong one.
    """

    thresholds: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray
    n: int
    aurc: float
    best_aurc: float

    @property
    def excess_aurc(self) -> float:
        """What the order of the scores loses: ``aurc`` minus ``best_aurc``; 0 for a system that knows when it errs."""
        return self.aurc - self.best_aurc

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain data; a threshold that is not finite as text."""
        return {
            "n": self.n,
            "aurc": self.aurc,
            "best_aurc": self.best_aurc,
            "excess_aurc": self.excess_aurc,
            "thresholds": [value if math.isfinite(value) else str(value) for value in self.thresholds.tolist()],
            "coverage": self.coverage.tolist(),
            "risk": self.risk.tolist(),
        }


def top_confidences(rankings: Sequence[Sequence[RetrievedTool]], kind: ConfidenceKind = "probability") -> np.ndarray:
    """Take from each ranking how sure the system is of its first tool.

    Args:
        rankings: One ranking a query, best first (``EvaluationResult.rankings``).
        kind: ``probability``: the first score's exponential, for scores that are log-probabilities (a generative
            retriever's); ``share``: the first tool's part of a softmax over the ranking's scores, which depends on its
            length; ``margin``: first score less the second, infinite without a second, as the agent's abstention uses
            it; ``score``: the first score.

    Returns:
        float64 (n,). An empty ranking has 0 of the first two kinds, minus infinity of the others.

    Raises:
        EvaluationError: A score is not a number, or no log-probability where one is needed.
        ConfigError: ``kind`` is unknown.
    """
    if kind not in get_args(ConfidenceKind):
        raise ConfigError("kind", kind, f"one of {get_args(ConfidenceKind)}")
    values = np.full(len(rankings), 0.0 if kind in ("probability", "share") else -math.inf)
    for row, ranking in enumerate(rankings):
        scores = np.array([tool.score for tool in ranking], dtype=np.float64)
        if np.isnan(scores).any():
            raise EvaluationError(f"ranking {row}: expected scores that are numbers, got NaN")
        if not len(scores):
            continue
        if kind == "probability":
            if scores[0] > 1e-6:
                raise EvaluationError(
                    f"ranking {row}: expected a log-probability, got the score {scores[0]:g}; use kind='share'"
                )
            values[row] = min(1.0, math.exp(scores[0]))
        elif kind == "share":
            values[row] = 1.0 / np.exp(np.minimum(scores - scores[0], 700.0)).sum()
        elif kind == "margin":
            values[row] = scores[0] - scores[1] if len(scores) > 1 else math.inf
        else:
            values[row] = scores[0]
    return values


def reliability_table(
    confidences: Any, correct: Any, *, num_bins: int = 10, bins: BinKind = "width"
) -> ReliabilityTable:
    """Put queries into bins by confidence and compare with how often they are right.

    - ``width``: bin b of B holds the confidences above b/B and up to (b + 1)/B, the first also 0 (Guo et al. 2017).
    - ``mass``: about as many queries in each bin: a query goes where the share of queries with a smaller confidence
      falls, so that equal confidences stay together.

    With few queries a bin the error is too large also for a perfectly calibrated system: compare systems only on the
    same queries and bins.

    Args:
        confidences: (n,): numbers from 0 to 1.
        correct: (n,): whether the answer is right.
        num_bins: B, at least 1.
        bins: See above.

    Raises:
        EvaluationError: Arrays are empty, of different lengths, or hold something else.
        ConfigError: ``num_bins`` or ``bins`` is not allowed.
    """
    values, right = _checked(confidences, correct)
    if not ((values >= 0.0) & (values <= 1.0)).all():
        raise EvaluationError(f"confidences: expected numbers from 0 to 1, got {values.min():g} to {values.max():g}")
    if isinstance(num_bins, bool) or not isinstance(num_bins, int) or num_bins < 1:
        raise ConfigError("num_bins", num_bins, "a whole number above zero")
    if bins not in get_args(BinKind):
        raise ConfigError("bins", bins, f"one of {get_args(BinKind)}")
    if bins == "width":
        places = np.searchsorted(np.arange(1, num_bins) / num_bins, values, side="left")
    else:
        below = np.searchsorted(np.sort(values), values, side="left")
        places = below * num_bins // len(values)
    rows = [np.flatnonzero(places == place) for place in np.unique(places)]
    counts = np.array([len(row) for row in rows])
    accuracy = np.array([right[row].mean() for row in rows])
    low, high = _wilson(accuracy, counts)
    return ReliabilityTable(
        np.array([values[row].min() for row in rows]),
        np.array([values[row].max() for row in rows]),
        counts,
        np.array([values[row].mean() for row in rows]),
        accuracy,
        low,
        high,
        num_bins,
        bins,
    )


def expected_calibration_error(confidences: Any, correct: Any, *, num_bins: int = 10, bins: BinKind = "width") -> float:
    """Give :attr:`ReliabilityTable.expected_error`; arguments and errors as :func:`reliability_table`.

    Example:
        >>> round(expected_calibration_error([0.9, 0.9, 0.3], [True, False, False]), 4)
        0.3667
    """
    return reliability_table(confidences, correct, num_bins=num_bins, bins=bins).expected_error


def risk_coverage(scores: Any, correct: Any) -> RiskCoverageCurve:
    """Answer only queries of the highest scores, and see how many answers are wrong.

    Queries with equal scores are answered together or not at all.

    Args:
        scores: (n,): how sure the system is, on any scale; plus and minus infinity are allowed.
        correct: (n,): whether the answer is right.

    Raises:
        EvaluationError: Arrays are empty, of different lengths, or hold something else.

    Example:
        >>> curve = risk_coverage([3.0, 2.0, 1.0], [True, True, False])
        >>> curve.risk.round(3).tolist(), round(curve.aurc, 3), curve.excess_aurc
        ([0.0, 0.0, 0.333], 0.111, 0.0)
    """
    values, right = _checked(scores, correct)
    n = len(values)
    thresholds, groups, counts = np.unique(-values, return_inverse=True, return_counts=True)
    wrong = np.bincount(groups, weights=~right, minlength=len(counts))
    answered, errors = np.cumsum(counts), np.cumsum(wrong)
    # Within a group of equal scores the expected number of errors grows evenly with every query that is answered.
    steps = np.arange(1, n + 1)
    expected = np.interp(steps, np.append(0, answered), np.append(0.0, errors))
    in_order = np.maximum(steps - right.sum(), 0)
    return RiskCoverageCurve(
        -thresholds,
        answered / n,
        errors / answered,
        n,
        float(np.mean(expected / steps)),
        float(np.mean(in_order / steps)),
    )


def plot_reliability(tables: Mapping[str, ReliabilityTable], path: str | Path, *, title: str | None = None) -> Path:
    """Draw accuracy against confidence, one line a system, with Wilson intervals and the diagonal.

    Args:
        tables: System -> its table.
        path: PNG file to write.
        title: Heading.

    Returns:
        The path.

    Raises:
        EvaluationError: There is no table.
        MissingDependencyError: Matplotlib is not installed (extras ``train`` and ``eval`` bring it).
    """
    figure, panel = _panel(tables, title, "confidence", "share of right answers")
    panel.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    for name, table in tables.items():
        ends = np.maximum([table.accuracy - table.low, table.high - table.accuracy], 0.0)
        label = f"{name}: error {100 * table.expected_error:.1f} %, n = {table.n}"
        panel.errorbar(table.confidence, table.accuracy, ends, marker="o", markersize=4, capsize=2, label=label)
    panel.set(xlim=(0, 1), ylim=(0, 1))
    return _save(figure, panel, path)


def plot_risk_coverage(curves: Mapping[str, RiskCoverageCurve], path: str | Path, *, title: str | None = None) -> Path:
    """Draw the share of wrong answers against the share of queries that are answered, one line a system.

    Args:
        curves: System -> its curve.
        path: PNG file to write.
        title: Heading.

    Returns:
        The path.

    Raises:
        EvaluationError: There is no curve.
        MissingDependencyError: Matplotlib is not installed (extras ``train`` and ``eval`` bring it).
    """
    figure, panel = _panel(curves, title, "coverage (share of queries answered)", "risk (share of wrong answers)")
    for name, curve in curves.items():
        label = f"{name}: AURC {curve.aurc:.3f}, n = {curve.n}"
        panel.plot(
            curve.coverage, curve.risk, marker="o" if len(curve.coverage) < 20 else "", markersize=4, label=label
        )
    panel.set(xlim=(0, 1.01), ylim=(0, None))
    return _save(figure, panel, path)


def _panel(drawn: Mapping[str, Any], title: str | None, across: str, up: str) -> tuple[Any, Any]:
    if not drawn:
        raise EvaluationError("expected at least one system to draw, got none")
    # No pyplot: a library must not touch its global state and window system.
    figure = require("matplotlib.figure", extra="eval", purpose="drawing calibration").Figure(
        figsize=(5.2, 4.2), layout="constrained"
    )
    require("matplotlib.backends.backend_agg", extra="eval", purpose="drawing calibration").FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.set(xlabel=across, ylabel=up)
    panel.grid(alpha=0.3)
    if title:
        panel.set_title(title)
    return figure, panel


def _save(figure: Any, panel: Any, path: str | Path) -> Path:
    panel.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)
    return Path(path)


def _wilson(share: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % score interval of a share of ``counts`` trials."""
    middle = share + _Z**2 / (2 * counts)
    reach = _Z * np.sqrt(share * (1 - share) / counts + _Z**2 / (4 * counts**2))
    scale = 1 + _Z**2 / counts
    return (middle - reach) / scale, (middle + reach) / scale


def _checked(values: Any, correct: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise EvaluationError(f"expected numbers, got {values!r:.80}") from None
    right = np.asarray(correct)
    if numbers.ndim != 1 or not len(numbers) or right.shape != numbers.shape:
        raise EvaluationError(
            f"expected as many numbers as truth values, at least one; got shapes {numbers.shape} and {right.shape}"
        )
    if np.isnan(numbers).any():
        raise EvaluationError(f"expected numbers, {int(np.isnan(numbers).sum())} of {len(numbers)} are NaN")
    if right.dtype != bool and not (right.dtype.kind in "iuf" and np.isin(right, [0, 1]).all()):
        raise EvaluationError(f"correct: expected truth values, got {right.dtype} values such as {right[0]!r}")
    return numbers, right.astype(bool)
