"""Run a declarative grid of systems on data sets: ``toolscaler experiment FILE.yaml``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.jobs import Job, Plan


def _override(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return key, yaml.safe_load(value)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog="toolscaler experiment",
        description="Run what is not done of a grid, each job in its own process, and write its tables. "
        "Exit status 1: some job failed; the others were run.",
    )
    add = parser.add_argument
    add("file", help="YAML file of the grid")
    add("--data_root", help="folder of the data")
    add("--output_dir", help="folder of jobs and reports; grids that share one share jobs")
    add("--set", action="append", type=_override, metavar="KEY=VALUE", help="change one key of the grid")
    add(
        "--only", nargs="+", default=[], metavar="KEY=VALUE", help="only these results, as system=bm25 or dataset=toole"
    )
    add("--jobs", type=int, default=1, help="processes at a time (default: 1, so that wall times are true)")
    add("--max_hours", type=float, help="start no job after so many hours")
    add("--dry_run", action="store_true", help="print the jobs and an estimate, run nothing")
    add("--estimate_from", metavar="FOLDER", help="with --dry_run: a folder of finished, shorter jobs to reckon from")
    add("--report_only", action="store_true", help="write the tables of what is done, run nothing")
    add("--in_process", action="store_true", help="run jobs in this process: quicker to start, peak memory not apart")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the grid; exits with status 1 where a job failed."""
    arguments = make_parser().parse_args(argv)
    overrides = dict(arguments.set or [])
    for key in ("data_root", "output_dir"):
        if getattr(arguments, key) is not None:
            overrides[key] = getattr(arguments, key)
    config = ExperimentConfig.from_file(arguments.file, overrides)
    if arguments.dry_run:
        _dry_run(config, arguments)
    elif arguments.report_only:
        from toolscaler.experiments.jobs import plan_jobs
        from toolscaler.experiments.report import write_report

        _show(write_report(config, plan_jobs(config)))
    else:
        _run(config, arguments)


def _dry_run(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    from toolscaler.experiments.estimate import estimate_jobs, show_seconds
    from toolscaler.experiments.jobs import plan_jobs
    from toolscaler.experiments.runner import check_runs, chosen

    plan: Plan = chosen(plan_jobs(config), arguments.only)
    check_runs(plan)
    known = Path(arguments.estimate_from) if arguments.estimate_from else None
    estimates = estimate_jobs(config, plan, known)
    for job, estimate in zip(plan.jobs, estimates, strict=True):
        print(f"{estimate.state:<8} {show_seconds(estimate.seconds):>9}  {job.title}")
    left = [estimate for estimate in estimates if estimate.state != "done"]
    unknown = sum(estimate.seconds is None for estimate in left)
    total = sum(estimate.seconds or 0.0 for estimate in left)
    print(
        f"\n{len(plan.jobs)} jobs for {len(plan.rows)} results; {len(left)} to run, "
        f"about {show_seconds(total)}{f', and {unknown} of unknown length' if unknown else ''}"
    )


def _run(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    from toolscaler.experiments.estimate import show_seconds
    from toolscaler.experiments.runner import run_experiment

    # Leaving in the ordinary way ends the job that is running, and with it all its processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def tell(job: Job, state: str, record: dict[str, Any]) -> None:
        if state == "start":
            print(f"== {job.title}", flush=True)
        elif state == "done":
            print(f"   done in {show_seconds(record['seconds'])}", flush=True)
        elif state != "done before":
            print(f"   {state}: {job.title} {record.get('error', '')}".rstrip(), flush=True)

    outcome = run_experiment(
        config,
        only=arguments.only,
        jobs=arguments.jobs,
        max_hours=arguments.max_hours,
        in_process=arguments.in_process,
        on_job=tell,
    )
    if outcome.report is not None:
        _show(outcome.report)
    words = [
        f"{outcome.count(state)} {state}" for state in ("done", "done before", "failed", "blocked", "busy", "left")
    ]
    print(f"\njobs: {', '.join(word for word in words if not word.startswith('0 '))}")
    if not outcome.ok:
        print(f"tracebacks: {Path(config.output_dir) / 'jobs'}/*/failure.json", file=sys.stderr)
        raise SystemExit(1)


def _show(folder: Path) -> None:
    text = (folder / "report.md").read_text(encoding="utf-8")
    print(text.partition("## What was run")[0])
    print(f"report: {folder / 'report.md'}")


if __name__ == "__main__":
    main()
