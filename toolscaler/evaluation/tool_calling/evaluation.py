"""Predictions and tasks in, tool-calling scores with intervals, break-downs and a table out."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from toolscaler.data.trajectories import ToolCall
from toolscaler.errors import ConfigError, EvaluationError
from toolscaler.evaluation.retrieval import MetricValue, PairedComparison
from toolscaler.evaluation.statistics import (
    bootstrap_intervals,
    paired_bootstrap_interval,
    paired_randomization_test,
)
from toolscaler.evaluation.tool_calling.ast_match import AstVerdict, ast_match
from toolscaler.evaluation.tool_calling.matching import Overlap, SequenceMatch, match_sequences
from toolscaler.evaluation.tool_calling.predictions import PredictedCalls, read_prediction
from toolscaler.evaluation.tool_calling.ratios import ratio_metric
from toolscaler.evaluation.tool_calling.tasks import TOOL_CALL_KINDS, ToolCallTask, ToolCallTasks

_OVERLAPS = ("tool", "argument", "call")
_FLAGS = ("exact_match", "unordered_match", "ordered_match", "partial_match", "tool_order_match")
_AST_METRICS = ("ast_match", "right_tools", "valid_json")
_HEADLINES = ("ast_match", "exact_match", "tool_f1", "argument_f1", "call_f1", "valid_json")


@dataclass(frozen=True)
class KindScore:
    """The tasks of one group.

    Attributes:
        n: Number of tasks.
        means: Metric -> mean over these tasks.
    """

    n: int
    means: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class ToolCallEvaluation:
    """How well a system's calls fit the references.

    A task without a prediction counts as failed in every metric.

    Attributes:
        name: Name of the system.
        kind: One of :data:`TOOL_CALL_KINDS`.
        n: Number of tasks.
        metrics: Metric -> mean over tasks, or ratio of sums over tasks (``..._micro``), with its interval.
        by_group: Group of tasks -> its means.
        counts: ``missing`` predictions, predicted ``calls``, ``reference_calls``, calls that are ``invalid`` JSON, and
            ``failed`` tasks of BFCL by reason (``wrong_type`` and so on).
        per_task: One record a task, in the order of the tasks.
        tasks_sha256: Hash (hex) of the tasks: results with equal hashes are comparable.
        seed: Seed of the bootstrap.
        num_resamples: Resamples of the bootstrap.
    """

    name: str
    kind: str
    n: int
    metrics: Mapping[str, MetricValue]
    by_group: Mapping[str, KindScore]
    counts: Mapping[str, int]
    per_task: tuple[Mapping[str, Any], ...] = field(repr=False)
    tasks_sha256: str = ""
    seed: int = 0
    num_resamples: int = 2000

    @property
    def valid_json_rate(self) -> float:
        """Share of predicted calls that are JSON of a call; 1 where there were none."""
        written = self.counts["calls"] + self.counts["invalid"]
        return self.counts["calls"] / written if written else 1.0

    def compare(
        self, other: ToolCallEvaluation, metric: str | None = None, *, num_resamples: int = 10_000
    ) -> PairedComparison:
        """Compare with another system on the same tasks.

        Args:
            other: The baseline's result.
            metric: A metric that is a mean over tasks; default: the first of the table.
            num_resamples: Sign patterns of the randomisation test.

        Raises:
            EvaluationError: The other result is of other tasks, or the metric is no mean over tasks.
        """
        key = headline_metrics(self)[0] if metric is None else metric
        if self.tasks_sha256 != other.tasks_sha256:
            raise EvaluationError(f"{self.name!r} and {other.name!r} were measured on other tasks")
        if any(key not in result.per_task[0]["values"] for result in (self, other)):
            known = ", ".join(self.per_task[0]["values"])
            raise EvaluationError(f"metric: expected a mean over tasks ({known}), got {key!r}")
        first, second = ([record["values"][key] for record in result.per_task] for result in (self, other))
        mean, low, high = paired_bootstrap_interval(first, second, seed=self.seed)
        p_value = paired_randomization_test(first, second, num_resamples=num_resamples, seed=self.seed)
        return PairedComparison(key, self.name, other.name, self.n, mean, low, high, p_value)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data, without the records of tasks; an interval that does not exist is null."""
        metrics = {
            key: {"mean": v.mean, "low": _finite(v.low), "high": _finite(v.high)} for key, v in self.metrics.items()
        }
        return {
            "name": self.name,
            "kind": self.kind,
            "n": self.n,
            "metrics": metrics,
            "by_group": {group: {"n": score.n, **score.means} for group, score in self.by_group.items()},
            "counts": dict(self.counts),
            "valid_json_rate": self.valid_json_rate,
            "tasks_sha256": self.tasks_sha256,
            "seed": self.seed,
            "num_resamples": self.num_resamples,
        }

    def table(self, metrics: Sequence[str] | None = None) -> str:
        """Write all groups and the whole as a Markdown table, means in per cent.

        Args:
            metrics: Columns; default: the most telling ones.
        """
        columns = [key for key in (metrics or headline_metrics(self)) if not key.endswith("_micro")]
        lines = [f"| group | n | {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) + 1)}"]
        for group, score in self.by_group.items():
            cells = [f"{100 * score.means[key]:.2f}" for key in columns]
            lines.append(f"| {group or '(none)'} | {score.n} | {' | '.join(cells)} |")
        whole = [_cell(self.metrics[key]) for key in columns]
        lines.append(f"| all | {self.n} | {' | '.join(whole)} |")
        return "\n".join(lines) + "\n"


def evaluate_tool_calls(
    predictions: Mapping[str, Any] | Sequence[Any],
    references: ToolCallTasks | Sequence[ToolCallTask],
    *,
    kind: str | None = None,
    name: str = "toolscaler",
    seed: int = 0,
    num_resamples: int = 2000,
) -> ToolCallEvaluation:
    """Compare predicted calls with the references of tool-calling tasks, without running anything and without a judge.

    Of BFCL (``kind="bfcl"``) the metrics are ``ast_match`` (:func:`ast_match`; where no function is relevant: no call;
    where one is and nobody says which: some call) and ``right_tools``. Of the other kinds they are precision, recall
    and F1 of the tools called (``tool_...``), of whole calls (``call_...``) and of arguments (``argument_...``), as
    means over tasks and, for F1, as ratios of sums (``..._micro``); ``dependency_f1_micro`` counts arguments that refer
    to former results; ``exact_match`` (same calls, same order), ``unordered_match`` (same calls), ``ordered_match``
    (reference calls in their order, others between them), ``partial_match`` (longest common subsequence as a share of
    the longer sequence) and ``tool_order_match`` (same tools in the same order). ``valid_json`` is the share of tasks
    whose prediction is there and readable.

    Args:
        predictions: Task id -> prediction, or predictions in the order of the tasks; each as in
            :func:`read_prediction`. A missing one is a failure.
        references: The tasks, each id once.
        kind: One of :data:`TOOL_CALL_KINDS`; default: that of the :class:`ToolCallTasks`.
        name: Name of the system.
        seed: Seed of the bootstrap.
        num_resamples: Resamples of the bootstrap.

    Raises:
        ConfigError: No kind, or an unknown one.
        EvaluationError: There are no tasks, an id occurs twice, a prediction belongs to no task or is of no known form,
            or a task of ``bfcl`` does not say what is accepted.
    """
    tasks, kind = _tasks_and_kind(references, kind)
    records = []
    for task, value in zip(tasks, _in_order(predictions, tasks), strict=True):
        prediction = read_prediction(value)
        scored = _scored_ast(prediction, task) if kind == "bfcl" else _scored_sequence(prediction, task, kind)
        records.append({**_common(prediction, task), **scored})
    failed = Counter(f"failed: {record['error_type']}" for record in records if record.get("error_type"))
    counts = {
        "missing": sum(record["missing"] for record in records),
        "calls": sum(record["calls"] for record in records),
        "reference_calls": sum(len(task.calls) for task in tasks),
        "invalid": sum(record["invalid"] for record in records),
        **dict(sorted(failed.items())),
    }
    return ToolCallEvaluation(
        name,
        kind,
        len(tasks),
        {**_means(records, seed, num_resamples), **_micro(records, seed, num_resamples)},
        _by_group(records),
        counts,
        tuple(records),
        tasks_sha256(tasks, kind),
        seed,
        num_resamples,
    )


def _tasks_and_kind(
    references: ToolCallTasks | Sequence[ToolCallTask], kind: str | None
) -> tuple[list[ToolCallTask], str]:
    if isinstance(references, ToolCallTasks):
        tasks, kind = list(references.tasks), kind or references.kind
    else:
        tasks = list(references)
    if kind not in TOOL_CALL_KINDS:
        raise ConfigError("kind", kind, f"one of {', '.join(TOOL_CALL_KINDS)}")
    if not tasks:
        raise EvaluationError("references: expected at least one task, got none")
    times = Counter(task.id for task in tasks)
    if len(times) < len(tasks):
        raise EvaluationError(
            f"references: expected each id once, got {[k for k, n in times.items() if n > 1][:5]} twice"
        )
    return tasks, kind


def _in_order(predictions: Mapping[str, Any] | Sequence[Any], tasks: Sequence[ToolCallTask]) -> list[Any]:
    if isinstance(predictions, Mapping):
        unknown = sorted(set(predictions) - {task.id for task in tasks})
        if unknown:
            raise EvaluationError(
                f"predictions: expected ids of tasks, got {len(unknown)} others, such as {unknown[:3]}"
            )
        return [predictions.get(task.id) for task in tasks]
    if len(predictions) != len(tasks):
        raise EvaluationError(f"predictions: expected one for each of {len(tasks)} tasks, got {len(predictions)}")
    return list(predictions)


def tasks_sha256(tasks: Sequence[ToolCallTask], kind: str) -> str:
    """Give a hash (hex) of what predictions are compared with: queries, reference calls, and the way of comparing."""
    digest = hashlib.sha256(kind.encode())
    for task in tasks:
        accepted = task.accepted
        row = [
            *(task.id, task.query, [call.to_dict() for call in task.calls]),
            None if accepted is None else [list(accepted.ground_truth), accepted.language, accepted.expected],
        ]
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def _common(prediction: PredictedCalls, task: ToolCallTask) -> dict[str, Any]:
    return {
        "id": task.id,
        "group": task.group,
        "missing": prediction.missing,
        "calls": len(prediction.calls),
        "invalid": prediction.invalid,
        "predicted": [[call.tool, call.arguments] for call in prediction.calls],
    }


def _scored_ast(prediction: PredictedCalls, task: ToolCallTask) -> dict[str, Any]:
    accepted = task.accepted
    if accepted is None:
        raise EvaluationError(f"task {task.id!r}: expected what BFCL accepts (ToolCallTask.accepted), got nothing")
    calls = [ToolCall(task.names.get(call.tool, call.tool), call.arguments) for call in prediction.calls]
    if prediction.missing:
        verdict = AstVerdict(False, "missing", "there is no prediction")
    elif prediction.invalid and accepted.expected != "none":
        verdict = AstVerdict(False, "invalid_json", f"{prediction.invalid} calls are no JSON")
    elif accepted.expected != "calls":
        wanted = accepted.expected == "some"
        verdict = AstVerdict(bool(calls) == wanted, "" if bool(calls) == wanted else "wrong_count")
    else:
        verdict = ast_match(calls, accepted.functions, accepted.ground_truth, language=accepted.language)
    wanted_tools = Counter(name for item in accepted.ground_truth for name in item)
    right = Counter(call.tool for call in calls) == wanted_tools if accepted.expected == "calls" else verdict.valid
    flags = (verdict.valid, right and not prediction.missing, prediction.valid_json)
    values = dict(zip(_AST_METRICS, map(float, flags), strict=True))
    return {"values": values, "sums": {}, "error_type": verdict.error_type, "error": verdict.error}


def _scored_sequence(prediction: PredictedCalls, task: ToolCallTask, kind: str) -> dict[str, Any]:
    match = match_sequences(prediction, task, kind)
    overlaps = dict(zip(_OVERLAPS, (match.tools, match.arguments, match.calls), strict=True))
    values: dict[str, float] = {}
    for what, overlap in overlaps.items():
        for measure in ("precision", "recall", "f1"):
            values[f"{what}_{measure}"] = 0.0 if prediction.missing else getattr(overlap, measure)
    # What cannot be read is a call too many, so no sequence with it is the same as the reference.
    spoiled = prediction.missing or prediction.invalid > 0
    values.update(dict.fromkeys(_FLAGS, 0.0) if spoiled else dict(zip(_FLAGS, _flags(match), strict=True)))
    values["valid_json"] = float(prediction.valid_json)
    sums = {what: _sums(overlap) for what, overlap in {**overlaps, "dependency": match.dependencies}.items()}
    return {"values": values, "sums": sums}


def _flags(match: SequenceMatch) -> tuple[float, ...]:
    found = (match.exact, match.unordered, match.ordered, match.partial, match.tools_in_order)
    return tuple(map(float, found))


def _sums(overlap: Overlap) -> tuple[int, int]:
    """Give numerator and denominator of F1."""
    return 2 * overlap.both, overlap.predicted + overlap.reference


def _means(records: Sequence[Mapping[str, Any]], seed: int, num_resamples: int) -> dict[str, MetricValue]:
    keys = list(records[0]["values"])
    table = np.array([[record["values"][key] for key in keys] for record in records])
    low = high = np.full(len(keys), math.nan)
    if len(table) > 1:
        low, high = bootstrap_intervals(table, num_resamples=num_resamples, seed=seed)
    means = table.mean(axis=0)
    return {key: MetricValue(float(means[i]), float(low[i]), float(high[i])) for i, key in enumerate(keys)}


def _micro(records: Sequence[Mapping[str, Any]], seed: int, num_resamples: int) -> dict[str, MetricValue]:
    found = {}
    for what in records[0]["sums"]:
        above, below = zip(*(record["sums"][what] for record in records), strict=True)
        if sum(below):
            found[f"{what}_f1_micro"] = ratio_metric(above, below, num_resamples=num_resamples, seed=seed)
    return found


def _by_group(records: Sequence[Mapping[str, Any]]) -> dict[str, KindScore]:
    groups: dict[str, list[Mapping[str, float]]] = {}
    for record in records:
        groups.setdefault(record["group"], []).append(record["values"])
    return {
        group: KindScore(len(rows), {key: float(np.mean([row[key] for row in rows])) for key in rows[0]})
        for group, rows in groups.items()
    }


def headline_metrics(result: ToolCallEvaluation) -> list[str]:
    """Give the metrics that a table shows by default."""
    return [key for key in _HEADLINES if key in result.metrics]


def tool_call_table(
    results: Sequence[ToolCallEvaluation], baseline: str | None = None, *, metrics: Sequence[str] | None = None
) -> str:
    """Write several systems as a Markdown table: per cent with 95 % intervals, n, and p against a named baseline.

    Args:
        results: Results on the same tasks.
        baseline: Name of the result to compare all others with, by the first metric; default: no comparison.
        metrics: Columns; default: the most telling ones.

    Raises:
        EvaluationError: There are no results, they are of different tasks, two have one name, none is the baseline, or
            a metric is unknown.
    """
    names = [result.name for result in results]
    if not results or len({result.tasks_sha256 for result in results}) > 1 or len(set(names)) < len(names):
        raise EvaluationError(f"results: expected different systems on the same tasks, got {names}")
    columns = list(metrics or headline_metrics(results[0]))
    unknown = [key for key in columns if key not in results[0].metrics]
    if unknown or (baseline is not None and baseline not in names):
        known = f"metrics of {', '.join(results[0].metrics)} and a baseline of {names}"
        raise EvaluationError(f"expected {known}; got {unknown or baseline!r}")
    reference = results[names.index(baseline)] if baseline is not None else None
    head = ["system", "n", *columns, *([f"p ({columns[0]} against {baseline})"] if reference else [])]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for result in results:
        cells = [result.name, str(result.n), *(_cell(result.metrics[key]) for key in columns)]
        if reference is not None:
            cells.append("–" if result is reference else f"{result.compare(reference, columns[0]).p_value:.4f}")
        lines.append(f"| {' | '.join(cells)} |")
    facts = f"95 % percentile bootstrap over tasks, {results[0].num_resamples} resamples; seed {results[0].seed}"
    return "\n".join([*lines, "", f"{facts}."]) + "\n"


def _cell(value: MetricValue) -> str:
    interval = f" [{100 * value.low:.2f}, {100 * value.high:.2f}]" if math.isfinite(value.low) else ""
    return f"{100 * value.mean:.2f}{interval}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
