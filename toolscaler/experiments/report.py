"""Finished jobs go in; the paper's tables as Markdown and CSV, the tests behind them, costs and figures come out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler._files import write_json, write_text
from toolscaler.errors import EvaluationError
from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.jobs import Plan
from toolscaler.experiments.records import job_folder, read_failure, read_record
from toolscaler.experiments.results import RowResult, column_name, columns_of, cost_of, groups, read_results

if TYPE_CHECKING:
    from toolscaler.evaluation.comparison_table import ComparedValue, ComparisonTable

_SETTINGS = {
    "multi_domain": "Multi-domain",
    "in_domain": "In-domain",
    "given": "Given tools",
    "retrieval": "Retrieved tools",
}
_NONE = "–"


def write_report(config: ExperimentConfig, plan: Plan) -> Path:
    """Write the report of what is done so far.

    Files in ``reports/NAME``: ``report.md`` (tables in the paper's layout, tests, costs, jobs that are missing),
    ``table.csv`` (one line a system and column, unrounded), ``costs.csv``, ``jobs.csv``, ``experiment.json`` (the grid)
    and figures.

    Args:
        config: The grid.
        plan: Its jobs.

    Returns:
        The folder.

    Raises:
        EvaluationError: No evaluation is done.
    """
    results = read_results(config, plan)
    if not results:
        raise EvaluationError("expected at least one finished evaluation, found none; run the experiment first")
    folder = Path(config.output_dir).absolute() / "reports" / config.name
    metrics = table_metrics(config)
    text = [f"# {config.report.title or config.name}\n"]
    lines: list[list[Any]] = []
    for (setting, share), rows in groups(results).items():
        table = compare(config, rows, metrics)
        text += [_heading(config, setting, share), *layout(config, rows, table, metrics), "\n", table.to_markdown()]
        lines += csv_lines(setting, share, table)
    text += [_what(config, results, plan)]
    costs = cost_lines(results)
    text += ["\n## Cost\n\n", _costs_table(costs)]
    write_text(folder / "table.csv", _csv([_CSV_HEAD, *lines]))
    write_text(folder / "costs.csv", _csv([_COST_HEAD, *costs]))
    write_text(folder / "jobs.csv", _csv(job_lines(config, plan)))
    write_json(folder / "experiment.json", config.to_dict())
    if config.report.figures:
        from toolscaler.experiments.figures import draw_figures

        names = draw_figures(config, results, metrics, folder)
        text += ["\n## Figures\n\n", *(f"![{title}]({name})\n\n" for name, title in names.items())]
    write_text(folder / "report.md", "\n".join(part.strip("\n") + "\n" for part in text if part.strip()))
    return folder


def table_metrics(config: ExperimentConfig) -> list[str]:
    """Give the metrics that are columns."""
    if config.report.metrics:
        return list(config.report.metrics)
    if config.task == "tool_calling":
        return ["sopr", *(["sowr"] if config.calling.reference is not None else [])]
    return [f"ndcg@{k}" for k in sorted(set(config.evaluation.ks))]


def compare(config: ExperimentConfig, rows: Sequence[RowResult], metrics: Sequence[str]) -> ComparisonTable:
    """Compare the rows of one setting and part of the catalogue with the baseline; Holm over the whole table."""
    from toolscaler.evaluation.comparison import compare_systems

    values, columns = columns_of(config, rows, metrics)
    several = len(config.datasets) > 1
    names = [column_name(*column, several) for column in columns]
    facts: dict[str, dict[str, Any]] = {}
    for result in rows:
        beams = result.record["facts"].get("beams")
        sizes = sorted({entry["catalogue_size"] for entry in result.result["tests"].values()})
        own = facts.setdefault(result.label, {"catalogue": "/".join(map(str, sizes))})
        if beams is not None:
            own["beams"] = beams
        seeds = sorted({other.row.seed for other in rows if other.label == result.label and other.row.seed is not None})
        if seeds:
            own["seeds"] = ", ".join(map(str, seeds))
    order = {label: values[label] for label in dict.fromkeys(result.label for result in rows)}
    return compare_systems(
        order,
        baseline_label(config, rows),
        metrics=[name for name in names if any(name in own for own in order.values())],
        facts=facts,
        num_resamples=config.evaluation.resamples,
        seed=config.evaluation.seed,
    )


def baseline_label(config: ExperimentConfig, rows: Sequence[RowResult]) -> str:
    """Give the label of the row that others are compared with: the named system's first, else the first row."""
    wanted = config.report.baseline
    return next((result.label for result in rows if result.row.system == wanted), rows[0].label)


def layout(
    config: ExperimentConfig, rows: Sequence[RowResult], table: ComparisonTable, metrics: Sequence[str]
) -> list[str]:
    """Lay a comparison out as the paper does: systems as rows; metrics, and inside them test sets, as columns."""
    several = len(config.datasets) > 1
    tests = list(dict.fromkeys((r.row.dataset, test) for r in rows for test in r.values))
    blocks = _blocks(config, tests)
    parts = []
    for block in blocks:
        head = [
            f"{metric.upper()} {f'{dataset} ' if several else ''}{test}"
            for metric in metrics
            for dataset, test in block
        ]
        lines = [f"| | {' | '.join(head)} |", "|---|" + "---:|" * len(head)]
        for label in table.systems:
            cells = [
                _cell(table.value(label, name)) if name in table.metrics else _NONE
                for metric in metrics
                for name in (column_name(metric, dataset, test, several) for dataset, test in block)
            ]
            if any(cell != _NONE for cell in cells):
                lines.append(f"| {label} | {' | '.join(cells)} |")
        counts = {f"{test}": _count(rows, dataset, test) for dataset, test in block}
        parts.append("\n".join(lines) + "\n\nn: " + ", ".join(f"{test} {n}" for test, n in counts.items()) + ".\n")
    return parts


def _blocks(config: ExperimentConfig, tests: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Give the test sets of each table; those that no block names come last."""
    if not config.report.blocks:
        by_dataset: dict[str, list[tuple[str, str]]] = {}
        for dataset, test in tests:
            by_dataset.setdefault(dataset, []).append((dataset, test))
        return list(by_dataset.values())
    blocks = [[pair for name in block for pair in tests if pair[1] == name] for block in config.report.blocks]
    named = {pair for block in blocks for pair in block}
    return [block for block in [*blocks, [pair for pair in tests if pair not in named]] if block]


def _count(rows: Sequence[RowResult], dataset: str, test: str) -> int:
    return next(
        result.result["tests"][test]["n"]
        for result in rows
        if result.row.dataset == dataset and test in result.result["tests"]
    )


def _cell(value: ComparedValue | None) -> str:
    if value is None:
        return _NONE
    text = f"{100 * value.mean:.2f}"
    return f"**{text}**" if value.mark == "best" else f"{text}†" if value.mark == "tied" else text


def _heading(config: ExperimentConfig, setting: str, share: float) -> str:
    words = [_SETTINGS[setting], *([f"{100 * share:g} % of the tools"] if len(config.shares) > 1 else [])]
    return f"## {', '.join(words)}\n"


def _what(config: ExperimentConfig, results: Sequence[RowResult], plan: Plan) -> str:
    """Say what the numbers are of, and what is missing."""
    root = Path(config.output_dir).absolute()
    done = {result.row.job.fingerprint for result in results}
    missing = [row for row in plan.rows if row.job.fingerprint not in done]
    lines = ["## What was run\n"]
    budget = config.budget
    if budget.steps is not None:
        batch = "" if budget.batch is None else f" of {budget.batch} rows"
        lines.append(f"- Every trained system: {budget.steps} optimiser steps{batch} of the retrieval stage.")
    devices = sorted({str(result.record["device"]) for result in results})
    commits = sorted({str(result.record["commit"]) for result in results if result.record["commit"]})
    seeds = sorted({result.row.seed for result in results if result.row.seed is not None})
    lines.append(f"- Seeds: {', '.join(map(str, seeds)) or 'none'}; device: {', '.join(devices)}.")
    if commits:
        lines.append(f"- Commit: {', '.join(commits)}.")
    if config.task == "tool_calling":
        lines.append(_judged(results))
    else:
        cut, beams = max(config.evaluation.ks), config.evaluation.beams
        lines.append(f"- Rankings are cut at {cut}; generative systems: {beams} beams.")
    for dataset, facts in _splits(results).items():
        lines.append(f"- {dataset}: {facts}")
    if missing:
        lines.append(f"- **Not in these tables** ({len(missing)} of {len(plan.rows)} results):")
        for row in missing:
            failure = read_failure(root, row.job)
            lines.append(f"  - {row.job.title}{'' if failure is None else ': ' + str(failure['error'])}")
    return "\n".join(lines) + "\n"


def _judged(results: Sequence[RowResult]) -> str:
    """Name the judges and what they were asked, and count what they did not decide."""
    told = {
        f"{told['judge']} (prompts {str(told['prompt_sha256'])[:8]}, samples {told['samples']})"
        for result in results
        for entry in result.result["tests"].values()
        for told in (rate["judge"] for rate in entry["rates"].values())
    }
    return f"- Judge: {'; '.join(sorted(told))}. A missing answer is a failure; win rates count both orders, ties half."


def _splits(results: Sequence[RowResult]) -> dict[str, str]:
    found: dict[str, str] = {}
    for result in results:
        facts = next((record["facts"] for role, record in result.costs.items() if role == "data"), None)
        if facts is None:
            continue
        name = result.row.dataset if result.row.share == 1 else f"{result.row.dataset} at {100 * result.row.share:g} %"
        tests = ", ".join(f"{test} {entry['n']} ({entry['sha256'][:8]})" for test, entry in facts["tests"].items())
        found.setdefault(
            name,
            f"{facts['tools']} tools; {facts['train']} training and {facts['validation']} validation queries; test "
            f"queries (hash): {tests}.",
        )
    return found


_CSV_HEAD = [
    *("setting", "share", "system", "column", "n", "runs", "mean", "low", "high", "baseline", "difference"),
    *("difference_low", "difference_high", "p_value", "p_holm", "mark"),
]


def csv_lines(setting: str, share: float, table: ComparisonTable) -> list[list[Any]]:
    """Give a comparison as rows of ``table.csv``, unrounded."""
    return [
        [setting, share, v.system, v.metric, v.n, v.runs, v.mean, v.low, v.high, table.baseline, v.difference,
         v.difference_low, v.difference_high, v.p_value, v.p_holm, v.mark]
        for v in table.values
    ]  # fmt: skip


_COST_FIELDS = (
    *("steps", "examples", "tokens", "trainable_parameters", "parameters", "train_seconds", "train_cpu_seconds"),
    *("seconds_per_query", "peak_rss_bytes", "peak_cuda_bytes"),
)
_COST_HEAD = ["system", "dataset", "seed", "share", "setting", *_COST_FIELDS]


def cost_lines(results: Sequence[RowResult]) -> list[list[Any]]:
    """Give the rows of ``costs.csv``: what each result cost with all jobs before it."""
    lines = []
    for result in results:
        cost, row = cost_of(result), result.row
        lines.append(
            [result.label, row.dataset, row.seed, row.share, row.setting, *(cost.get(k) for k in _COST_FIELDS)]
        )
    return lines


def _costs_table(lines: Sequence[Sequence[Any]]) -> str:
    """Show costs, a row a system and data set, the mean over its other results."""
    grouped: dict[tuple[str, str], list[Sequence[Any]]] = {}
    for line in lines:
        grouped.setdefault((line[0], line[1]), []).append(line)
    text = [
        "| | data | steps | examples | tokens | trained parameters | train, s | train, CPU s | a query, ms "
        "| memory, MB | GPU, MB |",
        "|---|---|" + "---:|" * 9,
    ]
    for (label, dataset), rows in grouped.items():
        means: Mapping[str, float | None] = {
            key: _mean([row[_COST_HEAD.index(key)] for row in rows]) for key in _COST_FIELDS
        }
        cells = [
            _number(means["steps"]),
            _number(means["examples"]),
            _number(means["tokens"]),
            _number(means["trainable_parameters"]),
            _number(means["train_seconds"]),
            _number(means["train_cpu_seconds"]),
            _number(means["seconds_per_query"], 1000, 2),
            _number(means["peak_rss_bytes"], 1e-6),
            _number(means["peak_cuda_bytes"] or None, 1e-6),
        ]
        text.append(f"| {label} | {dataset} | {' | '.join(cells)} |")
    note = "Training counts every job before the evaluation, shared ones in full. Wall times are of this machine."
    return "\n".join(text) + f"\n\n{note}\n"


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None, scale: float = 1.0, digits: int = 0) -> str:
    return _NONE if value is None else f"{value * scale:,.{digits}f}"


def job_lines(config: ExperimentConfig, plan: Plan) -> list[list[Any]]:
    """Give the rows of ``jobs.csv``: every job, its folder and state, so that any number can be traced."""
    root = Path(config.output_dir).absolute()
    lines: list[list[Any]] = [["kind", *_LABELS, "folder", "state", "seconds", "peak_rss_bytes", "finished"]]
    for job in plan.jobs:
        record = read_record(root, job)
        state = "done" if record is not None else "failed" if read_failure(root, job) else "open"
        known = record or {}
        lines.append(
            [job.kind, *(job.labels.get(key, "") for key in _LABELS), str(job_folder(Path(), job)), state,
             known.get("seconds"), known.get("peak_rss_bytes"), known.get("finished")]
        )  # fmt: skip
    return lines


_LABELS = ("dataset", "system", "base", "seed", "share", "setting")


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for line in lines:
        writer.writerow(["" if cell is None else json.dumps(cell) if isinstance(cell, dict) else cell for cell in line])
    return text.getvalue()
