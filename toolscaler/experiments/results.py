"""What finished jobs left: per-query values by place in the grid, and what each system cost with all before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolscaler._files import read_json
from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.jobs import Job, Plan, Row
from toolscaler.experiments.records import job_folder, read_record
from toolscaler.experiments.worker import OUTPUT


@dataclass(frozen=True, eq=False)
class RowResult:
    """The results of one row of the grid.

    Attributes:
        row: Its place.
        label: Name in tables: the system's, with the base's where a grid has several.
        record: The evaluate job's record.
        result: The job's ``result.json``.
        values: Test set -> metric -> float64 (n,), in the order of the queries.
        costs: Role of each job before it (``prepare``, ``train``, ...) -> its record.
    """

    row: Row
    label: str
    record: Mapping[str, Any]
    result: Mapping[str, Any]
    values: Mapping[str, Mapping[str, np.ndarray]]
    costs: Mapping[str, Mapping[str, Any]]


def read_results(config: ExperimentConfig, plan: Plan) -> list[RowResult]:
    """Read the results of all rows that are done, in the order of systems in the file."""
    root = Path(config.output_dir).absolute()
    by_mark = {job.fingerprint: job for job in plan.jobs}
    order = {name: place for place, name in enumerate(config.systems)}
    several = len({row.base for row in plan.rows if row.base is not None}) > 1
    found = []
    for row in sorted(plan.rows, key=lambda row: order[row.system]):
        record = read_record(root, row.job)
        if record is None:
            continue
        folder = job_folder(root, row.job) / OUTPUT
        costs = dict(_costs(root, row.job, by_mark))
        label = row_label(config, row.system, row.base if several else None)
        found.append(
            RowResult(
                row,
                label,
                record,
                read_json(folder / "result.json"),
                per_query_values(folder / "per_query.jsonl"),
                costs,
            )
        )
    return found


def row_label(config: ExperimentConfig, system: str, base: str | None) -> str:
    """Give a row's name: the system's label, with the base's where it is told."""
    name = config.systems[system].label or system
    return name if base is None else f"{name}, {config.bases[base].label or base}"


def per_query_values(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read a job's per-query file: test set -> metric -> float64 (n,)."""
    columns: dict[str, dict[str, list[float]]] = {}
    for entry in read_lines(path):
        metrics = columns.setdefault(entry["test"], {})
        for key, value in entry["metrics"].items():
            metrics.setdefault(key, []).append(value)
    return {test: {key: np.array(row) for key, row in metrics.items()} for test, metrics in columns.items()}


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON lines file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _costs(
    root: Path, job: Job, by_mark: Mapping[str, Job], above: str = ""
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for role, mark in job.needs.items():
        needed = by_mark.get(mark)
        record = None if needed is None else read_record(root, needed)
        if needed is not None and record is not None:
            yield f"{above}{role}", record
            yield from _costs(root, needed, by_mark, f"{above}{role}.")


def groups(results: Sequence[RowResult]) -> dict[tuple[str, float], list[RowResult]]:
    """Group results by setting and part of the catalogue: each group is a table of its own."""
    found: dict[tuple[str, float], list[RowResult]] = {}
    for result in results:
        found.setdefault((result.row.setting, result.row.share), []).append(result)
    return found


def columns_of(
    config: ExperimentConfig, results: Sequence[RowResult], metrics: Sequence[str]
) -> tuple[dict[str, dict[str, np.ndarray]], list[tuple[str, str, str]]]:
    """Lay out values for a comparison.

    Returns:
        Label -> column -> float64 (n,), or (runs, n) for several seeds; and for each column its metric, data set and
        test set. A column's name is ``METRIC TEST``, with the data set's name before the test set's where there are
        several data sets.
    """
    several = len(config.datasets) > 1
    tests = list(dict.fromkeys((r.row.dataset, test) for r in results for test in r.values))
    columns, values = [], dict[str, dict[str, list[np.ndarray]]]()
    for metric in metrics:
        for dataset, test in tests:
            columns.append((metric, dataset, test))
    for result in results:
        own = values.setdefault(result.label, {})
        for metric, dataset, test in columns:
            if dataset == result.row.dataset and metric in result.values.get(test, {}):
                own.setdefault(column_name(metric, dataset, test, several), []).append(result.values[test][metric])
    stacked = {
        label: {name: rows[0] if len(rows) == 1 else np.stack(rows) for name, rows in own.items()}
        for label, own in values.items()
    }
    return stacked, columns


def column_name(metric: str, dataset: str, test: str, several: bool) -> str:
    """Give the name of a column."""
    return f"{metric} {dataset} {test}" if several else f"{metric} {test}"


def cost_of(result: RowResult) -> dict[str, Any]:
    """Sum what a row cost: its own job and those before it, the data job apart.

    Returns:
        ``train_seconds`` and ``train_cpu_seconds`` (of all jobs before it), ``seconds_per_query``, ``peak_rss_bytes``,
        ``peak_cuda_bytes`` (the largest of all), ``steps``, ``examples``, ``tokens``, ``trainable_parameters`` and
        ``parameters`` where they are known.
    """
    before = {role: record for role, record in result.costs.items() if role.rpartition(".")[2] != "data"}
    unique = {record["fingerprint"]: record for record in before.values()}
    records = [*unique.values(), result.record]
    facts: dict[str, Any] = {}
    for record in records:
        facts.update({key: value for key, value in record["facts"].items() if not isinstance(value, Mapping)})
    kept = {
        name: facts[key]
        for name, key in (
            *(("steps", "retrieval_steps"), ("examples", "retrieval_examples"), ("tokens", "retrieval_tokens")),
            *(("trainable_parameters", "trainable_parameters"), ("parameters", "parameters")),
        )
        if key in facts
    }
    return {
        **kept,
        "train_seconds": round(sum(record["seconds"] for record in unique.values()), 1),
        "train_cpu_seconds": round(sum(record["cpu_seconds"] for record in unique.values()), 1),
        "seconds_per_query": result.record["facts"].get("seconds_per_query"),
        "peak_rss_bytes": max(record["peak_rss_bytes"] for record in records),
        "peak_cuda_bytes": max(record["peak_cuda_bytes"] for record in records),
    }
