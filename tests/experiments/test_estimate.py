"""What a grid will take, reckoned from records of shorter jobs of the same kind and base, and from no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolscaler._files import write_json
from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.estimate import estimate_jobs, show_seconds
from toolscaler.experiments.jobs import Job, plan_jobs
from toolscaler.experiments.records import begin

Grid = Callable[..., dict[str, Any]]


def finished(root: Path, job: Job, seconds: float, **facts: Any) -> None:
    """Write a job's folder as if it had run."""
    folder = begin(root, job, None)
    record = {"fingerprint": job.fingerprint, "process_seconds": seconds, "facts": facts}
    write_json(folder / "record.json", record)


def config(grid: Grid, output: Path, steps: int, **changes: Any) -> ExperimentConfig:
    systems = {"toolscaler": {}, "atomic": {"kind": "atomic"}}
    bases = {"small": {}, "large": {"model": "some/model"}}
    more = {"systems": systems, "bases": bases, "budget": {"steps": steps, "batch": 8}, "output_dir": str(output)}
    return ExperimentConfig.from_dict(grid(**{**more, **changes}))


def test_a_training_takes_its_start_and_its_steps(grid: Grid, tmp_path: Path) -> None:
    short = config(grid, tmp_path / "short", 10)
    for job in plan_jobs(short).jobs:
        if job.kind == "train" and job.labels["base"] == "small" and job.labels["system"] == "toolscaler":
            # 30 s, of which 10 steps took 20 s: 2 s a step and 10 s for the rest.
            finished(tmp_path / "short", job, 30.0, retrieval_steps=10, retrieval_train_seconds=20.0)
    long = config(grid, tmp_path / "long", 100)
    plan = plan_jobs(long)
    found = {
        (job.labels.get("system"), job.labels.get("base")): estimate.seconds
        for job, estimate in zip(plan.jobs, estimate_jobs(long, plan, tmp_path / "short"), strict=True)
        if job.kind == "train"
    }
    assert found["toolscaler", "small"] == pytest.approx(10 + 100 * 2)
    assert found["atomic", "small"] == pytest.approx(10 + 100 * 2)  # the next best that is known
    assert found["toolscaler", "large"] is None  # another base says nothing


def test_a_finished_job_takes_what_it_took(grid: Grid, tmp_path: Path) -> None:
    made = config(grid, tmp_path / "out", 10)
    plan = plan_jobs(made)
    finished(tmp_path / "out", plan.jobs[0], 7.0)
    first, *others = estimate_jobs(made, plan)
    assert (first.state, first.seconds) == ("done", 7.0)
    assert {other.state for other in others} == {"open"}


def test_times_are_readable() -> None:
    assert [show_seconds(value) for value in (None, 0.4, 119, 600, 7200)] == ["?", "0 s", "119 s", "10.0 min", "2.0 h"]
