"""Run the jobs of a grid: one after another, each in its own process, never again what is done, failures apart."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from toolscaler.errors import ConfigError
from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.jobs import Job, Plan, plan_jobs
from toolscaler.experiments.processes import JobProcess
from toolscaler.experiments.records import begin, fail, finish, job_folder, read_record
from toolscaler.experiments.worker import LOG_FILE, OUTCOME_FILE, execute

logger = logging.getLogger(__name__)

#: What became of a job in a call.
State = Literal["done before", "done", "failed", "blocked", "busy", "left"]
#: Told of what happens: a job, its state or ``"start"``, and its record where it is done.
OnJob = Callable[[Job, str, dict[str, Any]], None]

_LOG_TAIL = 8000
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Outcome:
    """What became of an experiment's jobs.

    Attributes:
        plan: The jobs.
        states: Fingerprint -> state. ``blocked``: a job that it needs failed; ``busy``: another process is at it;
            ``left``: not reached in ``max_hours``.
        report: The folder of the report; ``None`` where no evaluation is done yet.
    """

    plan: Plan
    states: dict[str, State] = field(default_factory=dict)
    report: Path | None = None

    def count(self, *states: State) -> int:
        """Count the jobs in any of these states."""
        return sum(state in states for state in self.states.values())

    @property
    def ok(self) -> bool:
        """Whether no job failed, and none was kept from running by one that failed."""
        return not self.count("failed", "blocked")


def run_experiment(
    config: ExperimentConfig,
    *,
    only: Sequence[str] = (),
    jobs: int = 1,
    max_hours: float | None = None,
    in_process: bool = False,
    report: bool = True,
    on_job: OnJob | None = None,
) -> Outcome:
    """Run what is not done of a grid, and write its tables.

    A job that fails is recorded with its traceback, what needs it is left out, and the others go on; the next call
    tries it again. A killed call loses no finished job, and a training goes on from its last checkpoint.

    Args:
        config: The grid.
        only: Conditions that a result must fulfil, each ``KEY=VALUE`` (``system=bm25``; keys are ``dataset``,
            ``system``, ``base``, ``seed``, ``share``, ``setting``) or a plain value of any of them; several values of
            one key are alternatives.
        jobs: Processes at a time; above 1, wall times are of a shared machine.
        max_hours: Start no job after so many hours.
        in_process: Run jobs in this process: no process's start-up, but peak memory is then that of all jobs, and a
            crash ends everything.
        report: Write tables and figures of what is done.
        on_job: Told of every job.

    Raises:
        ConfigError: The grid is not sound, ``only`` fits nothing, or ``jobs`` is below one.
        DataError: A file of the data is missing.
    """
    if jobs < 1 or (in_process and jobs > 1):
        raise ConfigError("jobs", jobs, "1 in one process" if in_process else "a whole number above zero")
    plan = chosen(plan_jobs(config), only)
    check_runs(plan)
    root = Path(config.output_dir).absolute()
    (root / "jobs").mkdir(parents=True, exist_ok=True)
    stop = float("inf") if max_hours is None else time.monotonic() + 3600 * max_hours
    queue = _Queue(config, plan, root, stop, on_job or (lambda *_: None))
    queue.run_here() if in_process else queue.run_processes(jobs)
    folder = None
    if report and any(queue.states.get(row.job.fingerprint) in ("done", "done before") for row in plan.rows):
        from toolscaler.experiments.report import write_report

        folder = write_report(config, plan_jobs(config) if only else plan)
    return Outcome(plan, queue.states, folder)


def chosen(plan: Plan, only: Sequence[str]) -> Plan:
    """Keep the results that fulfil all conditions, and the jobs that they need.

    Raises:
        ConfigError: None does.
    """
    if not only:
        return plan
    rows = list(plan.rows)
    conditions: dict[str, list[str]] = {}
    for text in only:
        key, separator, value = text.partition("=")
        conditions.setdefault(key if separator else "", []).append(value if separator else text)
    for key, wanted in conditions.items():
        if key and key not in ("dataset", "system", "base", "seed", "share", "setting"):
            raise ConfigError("only", key, "dataset, system, base, seed, share or setting")
        keys = (key,) if key else ("dataset", "system", "base", "seed", "share", "setting")
        rows = [row for row in rows if any(str(getattr(row, item)) in wanted for item in keys)]
    if not rows:
        raise ConfigError("only", list(only), "conditions that some result of the grid fulfils")
    by_mark, needed = {job.fingerprint: job for job in plan.jobs}, set[str]()

    def visit(mark: str) -> None:
        if mark not in needed:
            needed.add(mark)
            for other in by_mark[mark].needs.values():
                visit(other)

    for row in rows:
        visit(row.job.fingerprint)
    return Plan([job for job in plan.jobs if job.fingerprint in needed], rows)


def check_runs(plan: Plan) -> None:
    """Check the settings of all trainings, so that a slip is told at once and not hours later.

    Raises:
        ConfigError: A value is not allowed.
    """
    runs = [job for job in plan.jobs if job.kind == "train" and "run" in job.spec]
    if not runs:
        return
    from toolscaler.pipeline.config import RunConfig
    from toolscaler.pipeline.stages import check_settings

    for job in runs:
        check_settings(RunConfig.from_dict({key: job.spec["run"][key] for key in job.spec["run"]}))


class _Queue:
    """The jobs of one call, and what became of each."""

    def __init__(self, config: ExperimentConfig, plan: Plan, root: Path, stop: float, on_job: OnJob) -> None:
        self.config, self.root, self.stop, self.on_job = config, root, stop, on_job
        self.command = " ".join(sys.argv)
        self.states: dict[str, State] = {}
        self.waiting: list[Job] = []
        for job in plan.jobs:
            record = read_record(root, job)
            if record is None:
                self.waiting.append(job)
            else:
                self._settle(job, "done before", record)

    def run_here(self) -> None:
        """Run all jobs in this process."""
        while (job := self._next()) is not None:
            with self._held(job) as free:
                if not free:
                    continue
                self._begin(job)
                try:
                    with _working_in(self.root):
                        outcome = execute(Path("jobs") / job.name)
                except Exception as error:
                    self._failed(job, f"{type(error).__name__}: {error}", traceback.format_exc())
                    continue
                self._done(job, outcome["seconds"], 0)

    def run_processes(self, count: int) -> None:
        """Run jobs in processes of their own, ``count`` at a time."""
        running: dict[str, tuple[Job, JobProcess, contextlib.ExitStack]] = {}
        try:
            while True:
                while len(running) < count and (job := self._next(frozenset(running))) is not None:
                    stack = contextlib.ExitStack()
                    if stack.enter_context(self._held(job)):
                        self._begin(job)
                        process = JobProcess(self.root, job.name, self.config.evaluation.threads)
                        running[job.fingerprint] = (job, process, stack)
                    else:
                        stack.close()
                if not running:
                    return
                for mark, (job, process, stack) in list(running.items()):
                    if process.poll() is not None:
                        with stack:
                            self._ended(job, process)
                        del running[mark]
                time.sleep(_POLL_SECONDS)
        finally:
            for _, process, stack in running.values():
                process.end()
                stack.close()

    def _next(self, running: frozenset[str] = frozenset()) -> Job | None:
        """Take the next job whose needs are done; settle those that cannot run any more."""
        for job in list(self.waiting):
            needs = [self.states.get(mark) for mark in job.needs.values()]
            if any(state in ("failed", "blocked") for state in needs):
                self._settle(job, "blocked", {})
            elif any(state in ("busy", "left") for state in needs) or time.monotonic() > self.stop:
                self._settle(job, "left", {})
            elif all(state in ("done", "done before") for state in needs):
                self.waiting.remove(job)
                return job
        return None

    def _settle(self, job: Job, state: State, record: dict[str, Any]) -> None:
        self.states[job.fingerprint] = state
        if job in self.waiting:
            self.waiting.remove(job)
        self.on_job(job, state, record)

    @contextlib.contextmanager
    def _held(self, job: Job) -> Iterator[bool]:
        """Keep other processes away from a job; give ``False`` where one is at it, or has just done it."""
        folder = job_folder(self.root, job)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", timeout=0):
                record = read_record(self.root, job)
                if record is not None:
                    self._settle(job, "done before", record)
                yield record is None
        except Timeout:
            self._settle(job, "busy", {})
            yield False

    def _begin(self, job: Job) -> None:
        dataset = asdict(self.config.datasets[job.places["dataset"]]) if job.kind == "data" else None
        begin(self.root, job, dataset)
        self.on_job(job, "start", {})

    def _ended(self, job: Job, process: JobProcess) -> None:
        code = process.process.returncode
        if code == 0 and (job_folder(self.root, job) / OUTCOME_FILE).exists():
            self._done(job, round(process.seconds, 3), process.peak_rss_bytes)
            return
        log = (job_folder(self.root, job) / LOG_FILE).read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
        lines = log.strip().splitlines()
        error = lines[-1] if lines and code > 0 else f"ended by signal {-code}" if code < 0 else f"exit status {code}"
        self._failed(job, error, log)

    def _done(self, job: Job, seconds: float, peak_rss_bytes: int) -> None:
        self._settle(job, "done", finish(self.root, job, self.command, seconds, peak_rss_bytes))

    def _failed(self, job: Job, error: str, trace: str) -> None:
        fail(self.root, job, error, trace, command=self.command)
        logger.error("%s failed: %s", job.title, error)
        self._settle(job, "failed", {"error": error})


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
