"""Results of systems on the same queries in; a folder with numbers, tables, rankings and pictures out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolscaler._files import write_json, write_text
from toolscaler.errors import EvaluationError
from toolscaler.evaluation.calibration import (
    ConfidenceKind,
    ReliabilityTable,
    RiskCoverageCurve,
    plot_reliability,
    plot_risk_coverage,
    reliability_table,
    risk_coverage,
    top_confidences,
)
from toolscaler.evaluation.comparison import compare_systems
from toolscaler.evaluation.retrieval import EvaluationResult, headline_metrics, results_table
from toolscaler.evaluation.statistics import holm_adjust
from toolscaler.evaluation.trec import trec_query_ids, write_trec_qrels, write_trec_run

if TYPE_CHECKING:
    from toolscaler.data.queries import ToolQuery

#: Headings of the break-downs that the library makes itself.
_TITLES = {"tools": "relevant tools", "category": "category of relevant tools", "seen": "tools in training"}


def write_evaluation(
    folder: str | Path,
    results: Sequence[EvaluationResult],
    queries: Sequence[ToolQuery],
    *,
    notes: Mapping[str, Any] | None = None,
    confidence: ConfidenceKind | None = None,
    trec: bool = False,
    plots: bool = False,
) -> list[Path]:
    """Write what was measured into a folder, each file atomically.

    Files: ``metrics.json`` (all results; the first compared with each other one), ``table.md`` (with break-downs),
    ``per_query.jsonl``, with several systems ``comparison.csv``; on request ``calibration.json`` and pictures of the
    first system, ``qrels.txt`` and ``NAME.run`` for each system.

    Args:
        folder: Made if it does not exist.
        results: Results of one evaluator; the first is the one that all others are compared with.
        queries: The evaluator's queries.
        notes: What to print below the table, for example catalogue size and beam width.
        confidence: How sure the first system is of its first tools (:func:`toolscaler.evaluation.top_confidences`);
            default: no calibration.
        trec: Write TREC files.
        plots: Draw the calibration.

    Returns:
        The files' paths.

    Raises:
        EvaluationError: Results and queries do not fit; or calibration is wanted without the metric ``hit@1``, or of
            confidences that are no probabilities; or pictures without calibration.
        MissingDependencyError: Matplotlib is needed and not installed.
    """
    root = Path(folder)
    if not results or any(result.n != len(queries) for result in results):
        raise EvaluationError(
            f"expected results of {len(queries)} queries, got {[result.n for result in results]} of them"
        )
    if plots and confidence is None:
        raise EvaluationError("plots: expected a kind of confidence to draw, got none")
    first, columns = results[0], headline_metrics(results[0])
    table, written = [results_table(results, first.name if len(results) > 1 else None, notes=notes)], []
    record: dict[str, Any] = {
        "n": first.n,
        "queries_sha256": first.queries_sha256,
        "results": [result.to_dict() for result in results],
        "comparisons": comparison_rows(first, results[1:], columns),
    }
    if len(results) > 1:
        compared = compare_systems({result.name: result for result in results}, first.name)
        table = [compared.to_markdown(), *([_notes_line(notes)] if notes else [])]
        written.append(_text(root / "comparison.csv", compared.to_csv()))
    table += breakdown_tables(results, columns[0])
    if confidence is not None:
        reliability, curve = calibrate_result(first, confidence)
        record["calibration"] = {"confidence": confidence, "reliability": reliability.to_dict(), "aurc": curve.aurc}
        table.append(f"\nCalibration of {first.name}, confidence: {confidence}.\n\n{reliability.to_markdown()}")
        write_json(root / "calibration.json", {**record["calibration"], "risk_coverage": curve.to_dict()})
        written.append(root / "calibration.json")
        if plots:
            written.append(plot_reliability({first.name: reliability}, root / "reliability.png"))
            written.append(plot_risk_coverage({first.name: curve}, root / "risk_coverage.png"))
    if trec:
        ids = trec_query_ids(queries)
        write_trec_qrels(root / "qrels.txt", queries, ids)
        written.append(root / "qrels.txt")
        for result in results:
            path = root / f"{run_name(result.name)}.run"
            write_trec_run(path, result.rankings, ids, tag=result.name)
            written.append(path)
    write_json(root / "metrics.json", record)
    written.append(_text(root / "table.md", "".join(table)))
    written.append(_text(root / "per_query.jsonl", "".join(query_lines(results, queries))))
    return [*written, root / "metrics.json"]


def comparison_rows(
    result: EvaluationResult, others: Sequence[EvaluationResult], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Compare one system with each other one by each metric.

    Returns:
        :class:`~toolscaler.evaluation.PairedComparison` as dictionaries, with ``p_holm``: the p-value adjusted over all
        of them (:func:`~toolscaler.evaluation.holm_adjust`).
    """
    found = [result.compare(other, metric) for other in others for metric in metrics]
    adjusted = holm_adjust([one.p_value for one in found]).tolist()
    return [{**asdict(one), "p_holm": value} for one, value in zip(found, adjusted, strict=True)]


def query_lines(results: Sequence[EvaluationResult], queries: Sequence[ToolQuery]) -> list[str]:
    """Give one JSON line a query: text, id, relevant tools, and each system's ranking with scores."""
    lines = []
    for row, query in enumerate(queries):
        systems = {
            result.name: [{"tool": tool.name, "score": round(tool.score, 6)} for tool in result.rankings[row]]
            for result in results
        }
        entry = {"query": query.text, "id": query.id, "relevant": list(query.tools), "systems": systems}
        lines.append(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
    return lines


def breakdown_tables(results: Sequence[EvaluationResult], metric: str) -> list[str]:
    """Write a Markdown table for each break-down: groups as rows, systems as columns, mean and interval in per cent.

    A break-down that all results share is written; one with a single group says nothing and is left out.

    Args:
        results: Results of one evaluator.
        metric: The metric shown.

    Returns:
        One text a break-down, which starts and ends with a line break.
    """
    texts = []
    for kind, groups in results[0].breakdowns.items():
        if len(groups) < 2 or any(kind not in result.breakdowns for result in results):
            continue
        head = [_TITLES.get(kind, kind), "n", *(f"{result.name}, {metric}" for result in results)]
        lines = [f"| {' | '.join(map(_safe, head))} |", f"|---|{'---:|' * (len(head) - 1)}"]
        for name, group in groups.items():
            values = [result.breakdowns[kind][name].metrics[metric] for result in results]
            cells = [f"{100 * one.mean:.2f} [{100 * one.low:.2f}, {100 * one.high:.2f}]" for one in values]
            lines.append(f"| {' | '.join([_safe(name), str(group.n), *cells])} |")
        texts.append("\n" + "\n".join(lines) + "\n")
    return texts


def calibrate_result(
    result: EvaluationResult, confidence: ConfidenceKind = "probability"
) -> tuple[ReliabilityTable, RiskCoverageCurve]:
    """Compare how sure a system is of each first tool with whether that tool is relevant.

    Args:
        result: A result that has the metric ``hit@1``.
        confidence: See :func:`toolscaler.evaluation.top_confidences`; ``probability`` or ``share``.

    Raises:
        EvaluationError: The metric is missing, or the scores give no such confidences.
    """
    if "hit@1" not in result.per_query:
        raise EvaluationError(
            f"calibration needs hit@1, {result.name!r} has {', '.join(result.per_query)}; add 1 to ks"
        )
    right = np.asarray(result.per_query["hit@1"]) == 1.0
    values = top_confidences(result.rankings, confidence)
    return reliability_table(values, right), risk_coverage(values, right)


def run_name(system: str) -> str:
    """Turn a system's name into a file's: letters, digits, dots, dashes and underscores stay."""
    name = "".join(mark if mark.isascii() and (mark.isalnum() or mark in "._-") else "_" for mark in system)
    return name.strip(".") or "system"


def _notes_line(notes: Mapping[str, Any]) -> str:
    return "\n" + "; ".join(f"{key}: {value}" for key, value in notes.items()) + ".\n"


def _text(path: Path, text: str) -> Path:
    write_text(path, text)
    return path


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
