"""Write a comparison of systems: compared values in, Markdown and CSV out; made by :func:`compare_systems`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from toolscaler._files import write_text
from toolscaler.errors import EvaluationError
from toolscaler.evaluation.statistics import RunDesign

#: ``best``: separable from every other system; ``tied``: the best, or not separable from it.
Mark = Literal["best", "tied", ""]

_NONE = "–"


@dataclass(frozen=True)
class ComparedValue:
    """One system's value of one metric.

    Attributes:
        system: Name of the system.
        metric: Name of the metric.
        n: Number of queries; of all runs together where each run has its own.
        runs: Number of training runs.
        mean: Mean over runs and queries.
        low: Lower end of its interval.
        high: Upper end of it.
        difference: Mean of system minus baseline; ``None`` for the baseline, and where there is none.
        difference_low: Lower end of the difference's interval.
        difference_high: Upper end of it.
        p_value: Of the two-sided paired randomisation test against the baseline.
        p_holm: The same, adjusted over all comparisons with the baseline that the table holds.
        mark: ``best``, ``tied`` or nothing; see :func:`~toolscaler.evaluation.compare_systems`.
    """

    system: str
    metric: str
    n: int
    runs: int
    mean: float
    low: float
    high: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    mark: Mark = ""


@dataclass(frozen=True, eq=False)
class ComparisonTable:
    """What :func:`~toolscaler.evaluation.compare_systems` found.

    Attributes:
        systems: Names of the systems, in the order given.
        metrics: Names of the metrics, in the order given.
        baseline: The system that all others are compared with; ``None``: no such comparison.
        values: One a system and metric that was measured, systems outermost.
        facts: System -> what else is known of it (``catalogue``, ``beams``, ``seed``, ...).
        confidence: Coverage of the intervals; the tests' level is ``1 - confidence``.
        design: How queries and runs belong together.
        num_resamples: Bootstrap resamples.
        test_resamples: Sign patterns of each test.
        seed: Seed of the resampling.
    """

    systems: tuple[str, ...]
    metrics: tuple[str, ...]
    baseline: str | None
    values: tuple[ComparedValue, ...]
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    confidence: float = 0.95
    design: RunDesign = "crossed"
    num_resamples: int = 2000
    test_resamples: int = 10_000
    seed: int = 0

    def value(self, system: str, metric: str) -> ComparedValue | None:
        """Give one cell; ``None`` where the system was not measured by the metric.

        Raises:
            EvaluationError: The table has no such system or metric.
        """
        for what, name, known in (("system", system, self.systems), ("metric", metric, self.metrics)):
            if name not in known:
                raise EvaluationError(f"{what}: expected one of {', '.join(known)}; got {name!r}")
        return next((cell for cell in self.values if (cell.system, cell.metric) == (system, metric)), None)

    def to_markdown(self, *, scale: float = 100.0, digits: int = 2) -> str:
        """Write two Markdown tables and a line on how the numbers were made.

        The first has a row a system and a column a metric, mean and interval in each cell, with ``n``, the number of
        runs where there are several, and the facts. **Bold**: separable from every other system. †: the best and those
        not separable from it. The second, where there is a baseline, has the differences with interval, p and Holm's p.

        Args:
            scale: What means are multiplied by; 100 prints per cent.
            digits: Decimal places.
        """
        blocks = [self._means(scale, digits)]
        if any(cell.difference is not None for cell in self.values):
            blocks.append(self._differences(scale, digits))
        return "\n".join([*blocks, self._note()])

    def to_csv(self) -> str:
        """Write one row a system and metric, numbers unrounded and unscaled, empty where there is none."""
        names = list(self._fact_names())
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        columns = list(ComparedValue.__dataclass_fields__)
        writer.writerow([*columns, "baseline", *names])
        for cell in self.values:
            known = self.facts.get(cell.system, {})
            row = [*asdict(cell).values(), self.baseline, *(known.get(name) for name in names)]
            writer.writerow(["" if entry is None else entry for entry in row])
        return buffer.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain data."""
        own = {key: value for key, value in vars(self).items() if key not in ("values", "facts")}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}
        facts = {name: dict(known) for name, known in self.facts.items()}
        return {**plain, "facts": facts, "values": [asdict(cell) for cell in self.values]}

    def save(self, folder: str | Path, name: str = "comparison") -> list[Path]:
        """Write ``NAME.md`` and ``NAME.csv`` into a folder, each atomically; gives their paths."""
        paths = [Path(folder) / f"{name}.md", Path(folder) / f"{name}.csv"]
        for path, text in zip(paths, (self.to_markdown(), self.to_csv()), strict=True):
            write_text(path, text)
        return paths

    def _means(self, scale: float, digits: int) -> str:
        cells = {(cell.system, cell.metric): cell for cell in self.values}
        counts = {metric: {cell.n for cell in self.values if cell.metric == metric} for metric in self.metrics}
        same = len(set().union(*counts.values())) == 1
        several = any(cell.runs > 1 for cell in self.values)
        names = list(self._fact_names())
        heads = [
            metric if same else f"{metric} (n = {', '.join(map(str, sorted(counts[metric])))})"
            for metric in self.metrics
        ]
        rows = []
        for system in self.systems:
            mine = [cells[system, metric] for metric in self.metrics if (system, metric) in cells]
            known = self.facts.get(system, {})
            row = [system, *([mine[0].n] if same else []), *([_runs_text(mine)] if several else [])]
            row += [_shown(known.get(name)) for name in names]
            row += [_cell_text(cells.get((system, metric)), scale, digits) for metric in self.metrics]
            rows.append(row)
        head = ["system", *(["n"] if same else []), *(["runs"] if several else []), *names, *heads]
        return _markdown(head, rows)

    def _differences(self, scale: float, digits: int) -> str:
        rows = []
        for cell in self.values:
            if cell.difference is None or cell.p_value is None or cell.p_holm is None:
                continue
            ends = [f"{scale * (end or 0.0):+.{digits}f}" for end in (cell.difference_low, cell.difference_high)]
            text = f"{scale * cell.difference:+.{digits}f} [{', '.join(ends)}]"
            rows.append([cell.system, cell.metric, text, _p_text(cell.p_value), _p_text(cell.p_holm)])
        return _markdown(["system", "metric", f"difference to {self.baseline}", "p", "p (Holm)"], rows)

    def _note(self) -> str:
        several = any(cell.runs > 1 for cell in self.values)
        drawn = "queries" if not several else f"runs and queries ({self.design})"
        parts = [
            f"intervals: {100 * self.confidence:g} % percentile bootstrap over {drawn}, {self.num_resamples} draws"
        ]
        tests = sum(cell.p_value is not None for cell in self.values)
        if len(self.systems) > 1:
            over = " of the runs' means" if several and self.design == "crossed" else ""
            parts.append(f"p: two-sided paired randomisation test over queries{over}, {self.test_resamples} patterns")
            if tests:
                parts.append(f"Holm over the {tests} comparisons with {self.baseline}")
            parts.append(
                "bold: better than every other system (Holm over the table"
                + (", and the interval of the difference without 0)" if several else ")")
            )
            parts.append("†: the best, and those that cannot be told from it")
        if len(self.values) < len(self.systems) * len(self.metrics):
            parts.append(f"{_NONE}: not measured")
        return "; ".join([*parts, f"seed {self.seed}"]) + ".\n"

    def _fact_names(self) -> Iterable[str]:
        return dict.fromkeys(name for system in self.systems for name in self.facts.get(system, {}))


def _p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _runs_text(cells: Sequence[ComparedValue]) -> str:
    return ", ".join(str(count) for count in sorted({cell.runs for cell in cells}))


def _cell_text(cell: ComparedValue | None, scale: float, digits: int) -> str:
    if cell is None:
        return _NONE
    mean, low, high = (f"{scale * value:.{digits}f}" for value in (cell.mean, cell.low, cell.high))
    return f"{f'**{mean}**' if cell.mark == 'best' else mean} [{low}, {high}]{' †' if cell.mark == 'tied' else ''}"


def _shown(value: Any) -> str:
    return _NONE if value is None else str(value)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, *rows]
    texts = [[str(entry).replace("|", "\\|").replace("\n", " ") for entry in line] for line in lines]
    rule = f"|---|{'---:|' * (len(head) - 1)}"
    written = [f"| {' | '.join(line)} |" for line in texts]
    return "\n".join([written[0], rule, *written[1:]]) + "\n"
