"""Jobs in processes of their own: done once, failures apart, numbers that can be made again from what is on disk."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolscaler.cli import main
from toolscaler.errors import ConfigError
from toolscaler.evaluation.baselines import BM25Retriever
from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.datasets import DatasetFolder
from toolscaler.experiments.jobs import plan_jobs
from toolscaler.experiments.records import read_failure, read_record
from toolscaler.experiments.runner import run_experiment
from toolscaler.experiments.systems import SystemKind, registered
from toolscaler.experiments.worker import output_of

Grid = Callable[..., dict[str, Any]]


def ndcg(found: list[str], relevant: list[str], k: int) -> float:
    """From the definition: gains of 1 at log2(rank + 1), over the best that all labels could give."""
    gain = sum(1 / math.log2(rank + 1) for rank, name in enumerate(found[:k], 1) if name in relevant)
    return gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(relevant)) + 1))


def test_numbers_can_be_made_again_from_the_per_query_file(config: ExperimentConfig) -> None:
    outcome = run_experiment(config, in_process=True)
    assert outcome.ok
    assert outcome.report is not None
    root = Path(config.output_dir)
    job = next(row.job for row in outcome.plan.rows if row.system == "bm25")
    folder = root / output_of("evaluate", job.fingerprint)
    lines = [json.loads(line) for line in (folder / "per_query.jsonl").open()]
    data = DatasetFolder(root / output_of("data", job.needs["data"]))
    retriever = BM25Retriever(data.documents)
    result = json.loads((folder / "result.json").read_text())
    for test in ("seen", "unseen"):
        rows = [line for line in lines if line["test"] == test]
        assert [row["query"] for row in rows] == [query.text for query in data.test_set(test)]
        again = retriever.retrieve([row["query"] for row in rows], 5)
        assert [[tool.name for tool in ranking] for ranking in again] == [
            [name for name, _ in row["found"]] for row in rows
        ]
        for k in (1, 3, 5):
            values = [ndcg([name for name, _ in row["found"]], row["relevant"], k) for row in rows]
            assert values == pytest.approx([row["metrics"][f"ndcg@{k}"] for row in rows])
            assert np.mean(values) == pytest.approx(result["tests"][test]["metrics"][f"ndcg@{k}"]["mean"])
    report = (outcome.report / "report.md").read_text()
    mean = 100 * result["tests"]["seen"]["metrics"]["ndcg@1"]["mean"]
    assert f"{mean:.2f}" in report
    assert "BM25, b = 0" in report


def test_in_domain_allows_the_domain_alone(grid: Grid) -> None:
    config = ExperimentConfig.from_dict(grid(settings=["multi_domain", "in_domain"]))
    outcome = run_experiment(config, in_process=True)
    root = Path(config.output_dir)
    for row in outcome.plan.rows:
        result = json.loads((root / output_of("evaluate", row.job.fingerprint) / "result.json").read_text())
        size = {entry["catalogue_size"] for entry in result["tests"].values()}
        assert size == {24}, row  # every tool of this catalogue is a label
    report = (Path(outcome.report or "") / "report.md").read_text()
    assert "## Multi-domain" in report
    assert "## In-domain" in report


@pytest.mark.slow
def test_a_job_is_a_process_with_a_record_and_is_done_once(config: ExperimentConfig) -> None:
    seen: list[tuple[str, str]] = []
    outcome = run_experiment(config, jobs=2, on_job=lambda job, state, _: seen.append((job.title, state)))
    assert outcome.count("done") == len(outcome.plan.jobs) == 3
    root = Path(config.output_dir).absolute()
    for job in outcome.plan.jobs:
        record = read_record(root, job)
        assert record is not None
        assert record["peak_rss_bytes"] > 10_000_000  # a Python process with numpy
        assert record["process_seconds"] >= record["seconds"]
        assert {"commit", "versions", "device", "threads", "command", "facts"} <= set(record)
    before = {path: path.stat().st_mtime_ns for path in root.glob("jobs/*/record.json")}
    again = run_experiment(config)
    assert again.count("done before") == 3
    assert before == {path: path.stat().st_mtime_ns for path in root.glob("jobs/*/record.json")}


OWN_KINDS = """
import os
from toolscaler.experiments import SystemKind, register_system
from toolscaler.experiments.baselines import _bm25

def broken(context):
    raise RuntimeError("this system cannot be loaded")

def crash(context):
    os._exit(3)

def killed(context):
    os.kill(os.getpid(), 9)

for name, load in (("broken", broken), ("crash", crash), ("killed", killed)):
    register_system(SystemKind(name, load))
"""


@pytest.mark.slow
def test_failures_are_recorded_and_the_others_go_on(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "own_kinds_of_systems.py").write_text(OWN_KINDS)
    monkeypatch.setenv("TOOLSCALER_SYSTEMS", "own_kinds_of_systems")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    kinds = ("broken", "crash", "killed", "bm25")
    plain = grid(systems={name: {"kind": name} for name in kinds})
    file = tmp_path / "grid.yaml"
    file.write_text(json.dumps(plain))
    try:
        with pytest.raises(SystemExit) as ended:
            main(["experiment", str(file)])
        assert ended.value.code == 1
        plan = plan_jobs(ExperimentConfig.from_file(file))
    finally:
        from toolscaler.experiments import systems

        for name in kinds[:3]:
            systems._KINDS.pop(name, None)
        sys.modules.pop("own_kinds_of_systems", None)
    jobs = {row.system: row.job for row in plan.rows}
    root = Path(plain["output_dir"])
    assert read_record(root, jobs["bm25"]) is not None
    told = {name: read_failure(root, jobs[name]) for name in kinds}
    assert told["bm25"] is None
    assert "this system cannot be loaded" in told["broken"]["error"]  # type: ignore[index]
    assert "Traceback" in told["broken"]["traceback"]  # type: ignore[index]
    assert told["crash"]["error"] == "exit status 3"  # type: ignore[index]
    assert told["killed"]["error"] == "ended by signal 9"  # type: ignore[index]
    report = (root / "reports" / "small" / "report.md").read_text()
    assert "this system cannot be loaded" in report
    assert "3 failed" in capsys.readouterr().out


def test_a_failed_job_blocks_what_needs_it_and_is_tried_again(grid: Grid) -> None:
    broken = True

    def train(context: Any) -> dict[str, Any]:
        if broken:
            raise RuntimeError("no luck")
        (context.folder).mkdir(parents=True, exist_ok=True)
        return {"retrieval_steps": 1}

    def load(context: Any) -> Any:
        from toolscaler.experiments.systems import LoadedSystem

        return LoadedSystem(BM25Retriever(context.data.documents))

    with registered(SystemKind("moody", load, train, uses_base=True, uses_seed=True)):
        systems = {"moody": {"kind": "moody"}, "bm25": {"kind": "bm25"}}
        config = ExperimentConfig.from_dict(grid(systems=systems, bases={"any": {"model": "any-name"}}))
        first = run_experiment(config, in_process=True)
        assert (first.count("failed"), first.count("blocked"), first.count("done")) == (1, 1, 2)
        broken = False
        second = run_experiment(config, in_process=True)
        assert (second.count("done"), second.count("done before"), second.ok) == (2, 2, True)


def test_no_time_left_leaves_jobs_and_says_so(config: ExperimentConfig) -> None:
    outcome = run_experiment(config, in_process=True, max_hours=0.0)
    assert outcome.count("left") == len(outcome.plan.jobs)
    assert outcome.report is None
    with pytest.raises(ConfigError, match="jobs"):
        run_experiment(config, jobs=0)


def test_a_dry_run_prints_jobs_and_runs_none(grid: Grid, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "grid.yaml"
    plain = grid()
    file.write_text(json.dumps(plain))
    assert main(["experiment", str(file), "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "evaluate / home / bm25" in printed
    assert "3 jobs for 2 results; 3 to run" in printed
    assert "unknown length" in printed
    assert not Path(plain["output_dir"]).exists()
    assert main(["experiment", str(file), "--in_process"]) == 0
    capsys.readouterr()
    assert main(["experiment", str(file), "--dry_run"]) == 0
    assert "0 to run" in capsys.readouterr().out
    other = ["--set", "evaluation.seed=9", "--dry_run"]
    assert main(["experiment", str(file), *other]) == 0
    assert "unknown length" not in capsys.readouterr().out  # reckoned from the finished ones


SLOW_KIND = """
import os, pathlib, time
from toolscaler.experiments import SystemKind, register_system
from toolscaler.experiments.baselines import _bm25

def slow(context):
    sign = pathlib.Path(os.environ["SIGN"])
    sign.write_text(str(os.getpid()))
    while not sign.with_suffix(".go").exists():
        time.sleep(0.02)
    return _bm25(context)

register_system(SystemKind("slow", slow))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_a_job_ends_with_the_command_and_is_done_by_the_next_one(
    grid: Grid, tmp_path: Path, how: signal.Signals
) -> None:
    (tmp_path / "slow_kinds_of_systems.py").write_text(SLOW_KIND)
    file, sign = tmp_path / "grid.yaml", tmp_path / "sign"
    plain = grid(systems={"slow": {"kind": "slow"}})
    file.write_text(json.dumps(plain))
    own = {"TOOLSCALER_SYSTEMS": "slow_kinds_of_systems", "PYTHONPATH": str(tmp_path), "SIGN": str(sign)}
    environment = {**os.environ, **own}
    command = [sys.executable, "-m", "toolscaler.cli", "experiment", str(file)]
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        child = int(_when(lambda: sign.exists() and sign.read_text()))
    finally:
        running.send_signal(how)
        running.wait()
    _when(lambda: not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes())
    assert not list(Path(plain["output_dir"]).glob("jobs/evaluate-*/record.json"))
    sign.with_suffix(".go").touch()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert "1 done, 1 done before" in done.stdout


def _when(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to pass in time")
