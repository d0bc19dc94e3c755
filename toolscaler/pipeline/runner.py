"""Run the stages of a config in order, skipping what is done; a killed run goes on where it was."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from toolscaler.errors import ConfigError, TrainingError
from toolscaler.pipeline import stages
from toolscaler.pipeline.config import RunConfig
from toolscaler.pipeline.evaluation import evaluate_stage
from toolscaler.pipeline.manifest import Manifest, fingerprint
from toolscaler.pipeline.plots import report_stage
from toolscaler.pipeline.rounds import round_stages
from toolscaler.pipeline.stages import Run
from toolscaler.pipeline.tokenization import is_default
from toolscaler.pipeline.trajectories import agent_stage, trajectory_stage

logger = logging.getLogger(__name__)

Stage = Callable[[Run], dict[str, Any]]

# Stage -> what it does, which sections of the config it reads, and the folders that it fills.
_STAGES: dict[str, tuple[Stage, Sequence[str], Sequence[str]]] = {
    "data": (stages.data_stage, ("data",), ("data",)),
    "base": (stages.base_stage, ("base", "seed"), ("base",)),
    "compress": (stages.compress_stage, ("compression", "tokenization", "seed"), ("compression",)),
    "encode": (stages.encode_stage, (), ("embeddings",)),
    "codebook": (stages.codebook_stage, ("codebook", "tokenization"), ("codebook",)),
    "vocabulary": (stages.vocabulary_stage, ("embedding", "tokenization"), ("vocabulary",)),
    "retrieval": (stages.retrieval_stage, ("retrieval", "seed"), ("retrieval", "model")),
    "evaluate": (evaluate_stage, ("evaluation",), ("evaluation",)),
    "trajectory": (trajectory_stage, ("trajectory", "seed"), ("trajectory", "agent_model")),
    "agent": (agent_stage, ("agent",), ("agent",)),
    "report": (report_stage, (), ("plots",)),
}

#: Stage names of the first round, in order; later rounds follow with names such as ``round-1/compress``.
STAGES: tuple[str, ...] = tuple(_STAGES)


def stage_table(config: RunConfig) -> dict[str, tuple[Stage, Sequence[str], Sequence[str]]]:
    """Give the stages of a run in order: name -> work, sections of the config, folders."""
    return {**_STAGES, **round_stages(config.rounds.count)}


def run_pipeline(
    config: RunConfig,
    *,
    until: str | None = None,
    only: str | None = None,
    redo: str | None = None,
    on_stage: Callable[[str, str, dict[str, Any]], None] | None = None,
) -> Path:
    """Run all stages, or some of them.

    A stage that is done with the same settings is skipped. A stage that was interrupted goes on from its last
    checkpoint or shard. Results appear under their final name only when they are whole.

    Args:
        config: The settings; ``config.output_dir`` is the run folder.
        until: Stop after this stage.
        only: Run this stage alone; the ones before it must be done.
        redo: Forget this stage and every later one, with their files, and run them again.
        on_stage: Called with (stage, ``"start"`` | ``"done"`` | ``"skipped"``, summary).

    Returns:
        The run folder.

    Raises:
        ConfigError: A stage name is unknown, or a stage was done here with other settings.
        TrainingError: ``only`` names a stage whose predecessors are not done, or another process uses the folder.
    """
    stages.check_settings(config)
    names = tuple(stage_table(config))
    for key, value in (("until", until), ("only", only), ("redo", redo)):
        if value is not None and value not in names:
            raise ConfigError(key, value, f"one of {', '.join(names)}")
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _sweep(folder)
        return _run(config, folder, until, only, redo, on_stage or (lambda *_: None))


def _run(
    config: RunConfig,
    folder: Path,
    until: str | None,
    only: str | None,
    redo: str | None,
    on_stage: Callable[[str, str, dict[str, Any]], None],
) -> Path:
    manifest, run, table = Manifest(folder), Run(config, folder), stage_table(config)
    if redo is not None:
        _forget(manifest, folder, table, redo)
    marks = stage_fingerprints(config)
    done = {name: manifest.is_done(name, mark) for name, mark in marks.items()}  # refuses other settings early
    config.write(folder / "config.yaml")
    for name, (work, _, _) in table.items():
        if done[name]:
            on_stage(name, "skipped", manifest.summary(name))
        elif only is not None and only != name:
            raise TrainingError(f"stage {only!r} needs stage {name!r} first; run `toolscaler run --until {name}`")
        else:
            on_stage(name, "start", {})
            started = time.monotonic()
            summary = work(run)
            manifest.finish(name, marks[name], time.monotonic() - started, summary)
            on_stage(name, "done", summary)
        if name in (until, only):
            break
    return folder


def stage_fingerprints(config: RunConfig) -> dict[str, str]:
    """Give each stage's fingerprint: over the sections that it and the stages before it read.

    How many rounds there are is in none: a run may get one round more. The section ``tokenization`` is in none where it
    is the default, as in runs that were made before it existed.
    """
    settings, mark, marks = config.to_dict(), "", {}
    settings["rounds"].pop("count")
    if is_default(config):
        settings.pop("tokenization")
    for name, (_, sections, _) in stage_table(config).items():
        mark = fingerprint(mark, {section: settings[section] for section in sections if section in settings})
        marks[name] = mark
    return marks


def _forget(
    manifest: Manifest, folder: Path, table: dict[str, tuple[Stage, Sequence[str], Sequence[str]]], redo: str
) -> None:
    """Drop stages and their files; the records go first, so that a kill in between leaves no record without files."""
    order = list(table)
    # Rounds that an earlier run had and this one has not come after everything.
    names = order[order.index(redo) :] + [name for name in manifest.data["stages"] if name not in table]
    manifest.forget(names)
    for name in names:
        for child in table[name][2] if name in table else (name.partition("/")[0],):
            shutil.rmtree(folder / child, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Delete what a killed process left under temporary names; the lock says that nobody is writing them."""
    for pattern in (".*.tmp", ".*.old"):
        for leftover in [*folder.glob(pattern), *folder.glob(f"*/{pattern}"), *folder.glob(f"round-*/*/{pattern}")]:
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Refuse a second process in one run folder; the lock goes with the process, however it ends."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise TrainingError(f"another process is running in {folder}; wait for it or use another folder") from error
