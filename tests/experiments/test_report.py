"""Tables say what the per-query values say: bold is only what the tests tell apart, and what is missing is named."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolscaler.decoding.result import Ranking, RetrievedTool
from toolscaler.errors import EvaluationError
from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.jobs import plan_jobs
from toolscaler.experiments.report import write_report
from toolscaler.experiments.results import per_query_values
from toolscaler.experiments.runner import run_experiment
from toolscaler.experiments.systems import JobContext, LoadedSystem, SystemKind, registered
from toolscaler.experiments.worker import output_of

Grid = Callable[..., dict[str, Any]]


class Guesser:
    """Knows every answer, and forgets each ``wrong``-th query that it is asked."""

    def __init__(self, context: JobContext, wrong: int) -> None:
        tests = [query for name in context.data.test_names for query in context.data.test_set(name)]
        self.known = {query.text: query.tools for query in tests}
        self.order = {query.text: place + context.seed for place, query in enumerate(tests)}
        self.wrong = wrong

    def retrieve(self, queries: list[str], top_k: int, *, tools: Any = None) -> list[Ranking]:
        found = []
        for text in queries:
            right = not self.wrong or self.order[text] % self.wrong
            names = self.known[text][:top_k] if right else ()
            found.append(Ranking(RetrievedTool(name, 1.0 - place) for place, name in enumerate(names)))
        return found


def kind(name: str, wrong: int, chance: bool = False) -> SystemKind:
    return SystemKind(name, lambda context: LoadedSystem(Guesser(context, wrong)), uses_seed=chance)


@pytest.fixture
def guessers() -> Iterator[None]:
    with registered(kind("oracle", 0)), registered(kind("half", 2)), registered(kind("lucky", 3, chance=True)):
        yield


def config(grid: Grid, **changes: Any) -> ExperimentConfig:
    systems = {
        "half": {"kind": "half", "label": "Half right"},
        "oracle": {"kind": "oracle", "label": "Oracle"},
        "lucky": {"kind": "lucky", "label": "Two thirds"},
    }
    split = {"by": "both", "test_size": 0.4, "unseen_tools": 0.3, "validation_size": 0.0}
    home = {**grid()["datasets"]["home"], "split": split}
    return ExperimentConfig.from_dict(
        grid(**{"systems": systems, "datasets": {"home": home}, "seeds": [0, 1, 2], **changes})
    )


def rows_of(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["system"], row["column"]): row for row in csv.DictReader((folder / "table.csv").open())}


@pytest.mark.usefixtures("guessers")
def test_means_are_over_queries_and_seeds_and_the_best_is_bold(grid: Grid) -> None:
    made = config(
        grid, report={"metrics": ["ndcg@1", "recall@5"], "baseline": "half", "blocks": [["unseen"], ["seen"]]}
    )
    outcome = run_experiment(made, in_process=True)
    assert outcome.report is not None
    rows = rows_of(outcome.report)
    values: dict[str, list[np.ndarray]] = {}
    for row in outcome.plan.rows:
        path = Path(made.output_dir) / output_of("evaluate", row.job.fingerprint) / "per_query.jsonl"
        values.setdefault(row.system, []).append(per_query_values(path)["seen"]["ndcg@1"])
    assert {name: len(found) for name, found in values.items()} == {"half": 1, "oracle": 1, "lucky": 3}
    labels = {"half": "Half right", "oracle": "Oracle", "lucky": "Two thirds"}
    for name, found in values.items():
        row = rows[labels[name], "ndcg@1 seen"]
        assert float(row["mean"]) == pytest.approx(np.mean(np.stack(found)))
        assert int(row["n"]) == len(found[0])
    assert float(rows["Oracle", "ndcg@1 seen"]["mean"]) == 1.0
    assert float(rows["Oracle", "ndcg@1 seen"]["difference"]) == pytest.approx(1 - np.mean(values["half"][0]))
    text = (outcome.report / "report.md").read_text()
    assert "| Oracle | **100.00** |" in text
    assert "| Half right | **" not in text
    # Blocks come in the order asked for, each with its own n.
    assert text.index("| | NDCG@1 unseen | RECALL@5 unseen |") < text.index("| | NDCG@1 seen | RECALL@5 seen |")
    assert f"n: seen {len(values['half'][0])}." in text
    assert "0, 1, 2" in text  # the seeds


@pytest.mark.usefixtures("guessers")
def test_several_data_sets_stand_side_by_side(grid: Grid) -> None:
    home = {**grid()["datasets"]["home"], "split": {"by": "query", "test_size": 0.4}}
    other = {**home, "split": {"by": "query", "test_size": 0.3, "seed": 5}}
    outcome = run_experiment(
        config(grid, datasets={"home": home, "other": other}, seeds=[0], report={"figures": ["ablation", "shares"]}),
        in_process=True,
    )
    assert outcome.report is not None
    columns = {column for _, column in rows_of(outcome.report)}
    assert {"ndcg@1 home test", "ndcg@1 other test"} <= columns
    text = (outcome.report / "report.md").read_text()
    assert "| | NDCG@1 home test | NDCG@3 home test | NDCG@5 home test |" in text
    assert "| | NDCG@1 other test |" in text
    assert "![Systems on every test set](ablation.png)" in text
    assert (outcome.report / "shares.png").stat().st_size > 1000


@pytest.mark.usefixtures("guessers")
def test_what_is_missing_is_named_and_an_empty_report_refused(grid: Grid) -> None:
    made = config(grid)
    with pytest.raises(EvaluationError, match="run the experiment first"):
        write_report(made, plan_jobs(made))
    outcome = run_experiment(made, in_process=True, only=["system=oracle"])
    assert outcome.report is not None
    text = (outcome.report / "report.md").read_text()
    assert "**Not in these tables** (4 of 5 results)" in text
    assert "evaluate / home / lucky / seed 2" in text
    states = [row["state"] for row in csv.DictReader((outcome.report / "jobs.csv").open())]
    assert sorted(states) == ["done", "done", "open", "open", "open", "open"]
    assert json.loads((outcome.report / "experiment.json").read_text()) == made.to_dict()
