"""What is known of a job: whether it is done, what it cost, and why it failed."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from toolscaler._files import read_json, write_json
from toolscaler.experiments.jobs import Job
from toolscaler.experiments.worker import FAILURE_FILE, JOB_FILE, OUTCOME_FILE, RECORD_FILE


def job_folder(root: Path, job: Job) -> Path:
    """Give a job's folder."""
    return root / "jobs" / job.name


def read_record(root: Path, job: Job) -> dict[str, Any] | None:
    """Give the record of a finished job; ``None`` where it is not finished."""
    path = job_folder(root, job) / RECORD_FILE
    if not path.exists():
        return None
    record = read_json(path, what="the record of a job")
    return record if record.get("fingerprint") == job.fingerprint else None


def read_failure(root: Path, job: Job) -> dict[str, Any] | None:
    """Give what is known of a job's last failure; ``None`` where there was none."""
    path = job_folder(root, job) / FAILURE_FILE
    return read_json(path, what="the failure of a job") if path.exists() else None


def begin(root: Path, job: Job, dataset: Mapping[str, Any] | None) -> Path:
    """Write what a job is into its folder; output that a killed run left stays, since jobs go on from it."""
    folder = job_folder(root, job)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (FAILURE_FILE, OUTCOME_FILE):
        (folder / name).unlink(missing_ok=True)
    write_json(folder / JOB_FILE, job.to_dict())
    if dataset is not None:
        write_json(folder / "dataset.json", dict(dataset))
    return folder


def finish(root: Path, job: Job, command: str, process_seconds: float, peak_rss_bytes: int) -> dict[str, Any]:
    """Record a job as done.

    Args:
        root: The experiment's folder.
        job: The job.
        command: The command line.
        process_seconds: From the start of its process to its end.
        peak_rss_bytes: Largest resident memory of its process and children, as sampled.

    Returns:
        The record.
    """
    from toolscaler.pipeline.manifest import environment

    folder = job_folder(root, job)
    outcome = read_json(folder / OUTCOME_FILE, what="the outcome of a job")
    versions = environment()
    versions.pop("command", None)
    record = {
        "fingerprint": job.fingerprint,
        "kind": job.kind,
        "labels": dict(job.labels),
        "needs": dict(job.needs),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command,
        "commit": commit(),
        "versions": versions,
        "seed": job.labels.get("seed"),
        **outcome,
        "process_seconds": process_seconds,
        # A short process may have ended between two samples.
        "peak_rss_bytes": max(peak_rss_bytes, outcome["peak_rss_bytes"]),
    }
    write_json(folder / RECORD_FILE, record)
    return record


def fail(root: Path, job: Job, error: str, traceback: str, **more: Any) -> None:
    """Record a job as failed."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry = {"labels": dict(job.labels), "kind": job.kind, "failed": when, "error": error, **more}
    write_json(job_folder(root, job) / FAILURE_FILE, {**entry, "traceback": traceback, "commit": commit()})


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Give the commit of the checkout that this package runs from, with ``+`` where files differ; else ``None``."""
    folder, git = Path(__file__).resolve().parents[2], shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return None

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603
                [git, *words], cwd=folder, capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = ask("rev-parse", "HEAD")
    changed = ask("status", "--porcelain", "--untracked-files=no", "--", "toolscaler")
    return None if head is None else f"{head}{'+' if changed else ''}"
