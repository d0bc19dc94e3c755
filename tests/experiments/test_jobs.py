"""What a job's fingerprint is made of: all that its result depends on, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.jobs import Plan, plan_jobs
from toolscaler.experiments.runner import chosen

Grid = Callable[..., dict[str, Any]]
SYSTEMS: dict[str, Any] = {
    "bm25": {"kind": "bm25"},
    "toolscaler": {},
    "random rows": {"run": {"embedding": {"init": "random"}}},
    "both": {"kind": "hybrid", "parts": {"draft": "bm25", "model": "toolscaler"}},
}
BASES = {"small": {"run": {"base": {"scratch": {"hidden_size": 32}}}}, "large": {}}


def plan(grid: Grid, **changes: Any) -> Plan:
    return plan_jobs(ExperimentConfig.from_dict(grid(**{"systems": SYSTEMS, **changes})))


def marks(found: Plan, kind: str) -> set[str]:
    return {job.fingerprint for job in found.jobs if job.kind == kind}


def test_shared_work_is_one_job(grid: Grid) -> None:
    found = plan(grid, bases=BASES, seeds=[0, 1], settings=["multi_domain", "in_domain"])
    counts = {kind: len(marks(found, kind)) for kind in ("data", "prepare", "train", "evaluate")}
    # bm25 has neither base nor chance; the other three have 2 bases x 2 seeds; all have 2 settings.
    # A base made from scratch is a job, and its gists are another.
    assert counts == {"data": 1, "prepare": 2 * 4, "train": 8, "evaluate": 2 * (1 + 3 * 4)}
    assert len(found.rows) == counts["evaluate"]


def test_needed_jobs_come_first_and_seeds_one_after_the_other(grid: Grid) -> None:
    found = plan(grid, seeds=[3, 4])
    place = {job.fingerprint: number for number, job in enumerate(found.jobs)}
    assert all(place[mark] < place[job.fingerprint] for job in found.jobs for mark in job.needs.values())
    seeds = [job.labels["seed"] for job in found.jobs if "seed" in job.labels]
    assert seeds == sorted(seeds)


def test_a_hybrid_needs_the_training_of_its_part(grid: Grid) -> None:
    found = plan(grid)
    by_system = {row.system: row.job for row in found.rows}
    assert by_system["both"].needs["model.train"] == by_system["toolscaler"].needs["train"]


def test_what_changes_the_result_changes_the_fingerprint(grid: Grid) -> None:
    before = plan(grid)
    changed = {
        "data": plan(grid, run={}, datasets=_with_split(grid, seed=5)),
        "prepare": plan(grid, run={"compression": {"num_gist_tokens": 1}}),
        "train": plan(grid, budget={"steps": 7}),
        "evaluate": plan(grid, evaluation={"beams": 3}),
    }
    order = ["data", "prepare", "train", "evaluate"]
    for kind, after in changed.items():
        for other in order:
            same = marks(before, other) & marks(after, other)
            if order.index(other) < order.index(kind):
                assert same == marks(before, other), (kind, other)
    assert not marks(changed["data"], "evaluate") & marks(before, "evaluate")
    assert not marks(changed["train"], "train") & marks(before, "train")
    # Beams are nothing to a lexical system.
    kept = marks(changed["evaluate"], "evaluate") & marks(before, "evaluate")
    assert kept == {row.job.fingerprint for row in before.rows if row.system == "bm25"}


def _with_split(grid: Grid, **split: Any) -> dict[str, Any]:
    home = dict(grid()["datasets"]["home"])
    return {"home": {**home, "split": {**home["split"], **split}}}


def test_names_places_and_looks_change_nothing(grid: Grid, source: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(source, moved)
    before = plan(grid)
    after = plan(
        grid,
        name="other",
        data_root=str(moved),
        output_dir=str(tmp_path / "elsewhere"),
        systems={f"my {name}": {**value, **_renamed(value)} for name, value in SYSTEMS.items()},
        report={"title": "A title"},
        evaluation={"threads": 3},
    )
    assert {job.fingerprint for job in before.jobs} == {job.fingerprint for job in after.jobs}


def _renamed(value: dict[str, Any]) -> dict[str, Any]:
    return {"parts": {role: f"my {part}" for role, part in value["parts"].items()}} if "parts" in value else {}


def test_only_keeps_what_is_asked_and_what_that_needs(grid: Grid) -> None:
    found = plan(grid, seeds=[0, 1])
    kept = chosen(found, ["system=toolscaler", "seed=1"])
    assert [(row.system, row.seed) for row in kept.rows] == [("toolscaler", 1)]
    assert [job.kind for job in kept.jobs] == ["data", "prepare", "prepare", "train", "evaluate"]
    assert {row.system for row in chosen(found, ["bm25"]).rows} == {"bm25"}
