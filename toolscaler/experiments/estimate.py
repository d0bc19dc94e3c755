"""How long will it take: jobs go in, seconds come out, reckoned from the records of finished, perhaps shorter ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from toolscaler._files import read_json
from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.jobs import Job, Plan
from toolscaler.experiments.records import read_failure, read_record
from toolscaler.experiments.worker import JOB_FILE, OUTPUT, RECORD_FILE


@dataclass(frozen=True)
class Estimate:
    """What is known of a job before it runs.

    Attributes:
        state: ``done``, ``failed`` (to be tried again) or ``open``.
        seconds: Wall time; ``None`` where no finished job is like it.
    """

    state: str
    seconds: float | None


@dataclass(frozen=True)
class _Known:
    job: Job
    record: Mapping[str, Any]


def estimate_jobs(config: ExperimentConfig, plan: Plan, known: Path | None = None) -> list[Estimate]:
    """Reckon each job's wall time.

    A training's time is its start-up plus its steps times the seconds a step of a finished training of the same base
    (and system and data set, where there is one); an evaluation's its start-up plus its queries times the seconds a
    query. So a run of the same grid with a few steps (``--set budget.steps=5`` into another folder) is enough.

    Args:
        config: The grid.
        plan: Its jobs.
        known: Folder of another experiment to take records from, beside the grid's own.

    Returns:
        One estimate a job, in order. A job that is done has the time it took.
    """
    root = Path(config.output_dir).absolute()
    records = [item for folder in (root, known) if folder is not None for item in _records(folder)]
    found = []
    for job in plan.jobs:
        record = read_record(root, job)
        if record is not None:
            found.append(Estimate("done", float(record["process_seconds"])))
            continue
        like = _alike(job, records)
        times = [seconds for item in like if (seconds := _scaled(root, job, item)) is not None]
        state = "failed" if read_failure(root, job) else "open"
        found.append(Estimate(state, median(times) if times else None))
    return found


def show_seconds(seconds: float | None) -> str:
    """Write a time: ``12 s``, ``3.4 min``, ``5.1 h``, or ``?``."""
    if seconds is None:
        return "?"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _records(folder: Path) -> Iterator[_Known]:
    for path in sorted((folder / "jobs").glob(f"*/{RECORD_FILE}")):
        job = Job(**read_json(path.parent / JOB_FILE, what="a job"))
        yield _Known(job, read_json(path, what="the record of a job"))


def _alike(job: Job, records: list[_Known]) -> list[_Known]:
    """Give the records that are most like a job: of the same labels, else of fewer and fewer of them."""
    parts = ("makes", "stage")  # of a preparation or a training
    same = [
        item
        for item in records
        if item.job.kind == job.kind and all(item.job.labels.get(part) == job.labels.get(part) for part in parts)
    ]
    # Never of another base: sizes differ by orders of magnitude.
    for keys in (("dataset", "system", "base"), ("system", "base"), ("dataset", "base"), ("base",)):
        wanted = {key: job.labels.get(key) for key in keys}
        if "system" not in keys and wanted["base"] is None:
            continue
        like = [item for item in same if all(item.job.labels.get(key) == value for key, value in wanted.items())]
        if like:
            return like
    return []


def _scaled(root: Path, job: Job, known: _Known) -> float | None:
    facts, total = known.record["facts"], float(known.record["process_seconds"])
    if job.kind == "evaluate":
        return _scaled_evaluation(root, job, facts, total)
    if job.kind == "train":
        steps = int(_trainer(job, "retrieval").get("max_steps") or job.spec.get("budget", {}).get("steps") or -1)
        done, seconds = facts.get("retrieval_steps"), facts.get("retrieval_train_seconds")
        if steps > 0 and done and seconds is not None:
            return total + (steps - done) * seconds / done
        return total if _trainer(job, "retrieval") == _trainer(known.job, "retrieval") else None
    if job.kind == "prepare" and _base(job) != _base(known.job):
        return None
    if job.kind == "prepare" and _trainer(job, "compression") != _trainer(known.job, "compression"):
        stage = facts["stages"].get("compress", {})
        wanted, done = _trainer(job, "compression").get("max_steps", -1), stage.get("steps")
        return total + (wanted - done) * stage["seconds"] / done if wanted > 0 and done else None
    return total


def _scaled_evaluation(root: Path, job: Job, facts: Mapping[str, Any], total: float) -> float:
    split = root / "jobs" / f"data-{job.needs['data'][:16]}" / OUTPUT / "split.json"
    if not split.exists():
        return total
    queries = sum(entry["n"] for entry in read_json(split)["tests"].values())
    return total + (queries - facts["queries"]) * float(facts["seconds_per_query"])


def _base(job: Job) -> Any:
    return job.spec["run"]["base"]


def _trainer(job: Job, section: str) -> dict[str, Any]:
    return dict(job.spec.get("run", {}).get(section, {}).get("trainer", {}))
