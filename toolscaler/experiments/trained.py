"""Systems that a run of the pipeline trains: Toolscaler and the other tokenization strategies, one trainer for all."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler._files import read_json, write_json
from toolscaler.experiments.systems import JobContext, LoadedSystem, SystemKind, register_system
from toolscaler.pipeline.config import RunConfig

if TYPE_CHECKING:
    from toolscaler.agent.executors.base import ToolExecutor
    from toolscaler.agent.planning import Planner

# What a train job leaves for the evaluate jobs beside the run folder's own files.
_MODEL_FILE = "model_folder.json"


def run_config(context: JobContext, sections: Mapping[str, Any]) -> RunConfig:
    """Give the run file of a job: its sections, its data, and where its base lies.

    Paths are relative to the experiment's folder, in which jobs run, so that the folder may be moved.
    """
    data_folder = context.data.folder
    trajectories = data_folder / "trajectories.jsonl"
    data = {
        "tools": str(data_folder / "tools.jsonl"),
        "queries": str(data_folder / "stages.jsonl"),
        "split": "given",
        "trajectories": str(trajectories) if context.spec["trajectories"] else None,
    }
    base = {**sections.get("base", {}), "model": context.places["base"]}
    plain = {key: value for key, value in sections.items() if key in ("seed",) or isinstance(value, Mapping)}
    # The stages' own evaluation is not a result of the experiment: it never sees a test set.
    evaluation = {"baselines": [], "ks": [1], "num_beams": 1}
    return RunConfig.from_dict(
        {**plain, "output_dir": str(context.folder), "data": data, "base": base, "evaluation": evaluation}
    )


def prepare(context: JobContext, until: str) -> dict[str, Any]:
    """Run the stages that several systems share.

    Args:
        context: The job; its ``spec`` has ``run``.
        until: The last shared stage.

    Returns:
        Facts for the record.
    """
    from toolscaler.pipeline.runner import run_pipeline

    config = run_config(context, context.spec["run"])
    if "base.prepare" in context.needs:
        adopt_run(config, context.folder, context.needs["base.prepare"])
    folder = run_pipeline(config, until=until)
    return {"stages": _stage_facts(folder)}


def train(context: JobContext) -> dict[str, Any]:
    """Run the pipeline from what earlier jobs made, up to the stage that ``options.stage`` names."""
    from toolscaler.pipeline.runner import run_pipeline

    config, stage = run_config(context, context.spec["run"]), str(context.options["stage"])
    if stage == "trajectory":
        adopt_run(config, context.folder, context.needs["before.train"])
    else:
        run_pipeline(config, until="data")
        adopt_stages(config, context.folder, context.needs["prepare"])
    model = model_of(config, stage)
    run_pipeline(config, until=model["until"])
    write_json(context.folder / _MODEL_FILE, model)
    facts = {**_training_facts(context.folder, model), **_trainable(config, context.folder, model["folder"])}
    return {**facts, "stages": _stage_facts(context.folder)}


def _trainable(config: RunConfig, folder: Path, model: str) -> dict[str, int]:
    """Count what the retrieval stage trained: every weight, or its last adapter where there is one."""
    if not config.retrieval.trainer.get("use_lora", False):
        return {"trainable_parameters": count_parameters(folder / model)}
    checkpoints = folder / Path(model).parent / "retrieval" / "checkpoints"
    found = sorted(checkpoints.glob("checkpoint-*/adapter_model.safetensors"))
    return {"trainable_parameters": count_parameters(found[-1].parent)} if found else {}


def count_parameters(folder: Path) -> int:
    """Count the numbers in a folder's safetensors files, from their headers; tied weights count once."""
    from safetensors import safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def model_of(config: RunConfig, stage: str) -> dict[str, str]:
    """Say at which stage of the run a training ends, and which folder then holds the model.

    Args:
        config: The run file.
        stage: ``retrieval`` or ``trajectory``.
    """
    round_ = f"round-{config.rounds.count - 1}/" if config.rounds.count > 1 else ""
    return {"until": f"{round_}{stage}", "folder": f"{round_}{'model' if stage == 'retrieval' else 'agent_model'}"}


def adopt_run(config: RunConfig, folder: Path, donor: Path) -> list[str]:
    """Take over all stages of another run of the same settings that are done, as :func:`adopt_stages` does.

    Returns:
        The stages taken over; none where the new run has begun by itself.
    """
    from toolscaler.pipeline.runner import stage_fingerprints, stage_table

    place = folder / "manifest.json"
    if place.exists():
        return []
    manifest = read_json(donor / "manifest.json", what="the manifest of a run")
    marks, table = stage_fingerprints(config), stage_table(config)
    taken: dict[str, Any] = {}
    for name, mark in marks.items():
        entry = manifest["stages"].get(name)
        if entry is None or entry["fingerprint"] != mark:
            break
        for child in table[name][2]:
            if (donor / child).exists():
                _link(donor / child, folder / child)
        taken[name] = entry
    if taken:
        write_json(place, {**manifest, "stages": taken})
    return list(taken)


def adopt_stages(config: RunConfig, folder: Path, donor: Path) -> list[str]:
    """Take over base, compressor and gist embeddings of another run folder, where both would make the same ones.

    What a stage made is the same where the catalogue, the sections that it reads, and for a base made from scratch the
    texts are the same. The folders are linked, not copied, where the system can; no later stage writes into them.

    Args:
        config: The run file of the new run; its data stage is done.
        folder: Its folder.
        donor: The other run folder.

    Returns:
        The stages taken over; none where the new run has gone on by itself.
    """
    from toolscaler.pipeline.runner import stage_fingerprints, stage_table

    place = folder / "manifest.json"
    own, other = (read_json(path / "manifest.json", what="the manifest of a run") for path in (folder, donor))
    if list(own["stages"]) != ["data"]:
        return []
    given = RunConfig.from_file(donor / "config.yaml")
    marks, table = stage_fingerprints(config), stage_table(config)
    taken: list[str] = []
    for name, sections in _SHARED_STAGES.items():
        same = all(getattr(config, section) == getattr(given, section) for section in sections)
        if name not in other["stages"] or not same or not _same_inputs(config, given, folder, donor):
            break
        for child in table[name][2]:
            if (donor / child).exists():
                _link(donor / child, folder / child)
        own["stages"][name] = {**other["stages"][name], "fingerprint": marks[name]}
        taken.append(name)
    if taken:
        write_json(place, own)
    return taken


#: Stages that runs may share -> sections that they read.
_SHARED_STAGES: Mapping[str, tuple[str, ...]] = {"base": ("base", "seed"), "compress": ("compression",), "encode": ()}


def _same_inputs(config: RunConfig, given: RunConfig, folder: Path, donor: Path) -> bool:
    if config.base.model == "scratch" and config.data.trajectories != given.data.trajectories:
        return False
    names = ("tools.jsonl", "train.jsonl")
    return all((folder / "data" / name).read_bytes() == (donor / "data" / name).read_bytes() for name in names)


def _link(source: Path, target: Path) -> None:
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(os.path.relpath(source.absolute(), target.parent.absolute()), target_is_directory=True)
    except OSError:  # no links here
        shutil.copytree(source, target)


def load(context: JobContext) -> LoadedSystem:
    """Load what the train job left."""
    from toolscaler.decoding import GenerativeRetriever

    run = context.needs["train"]
    place = read_json(run / _MODEL_FILE, what="the place of the trained model")
    retriever = GenerativeRetriever.from_pretrained(str(run / str(place["folder"])))
    wanted = {"beams": "num_beams", "batch_size": "batch_size", "scores": "scores"}
    options = {wanted[key]: value for key, value in context.evaluation.items() if key in wanted}
    facts = {
        "beams": context.evaluation.get("beams"),
        "parameters": retriever.model.num_parameters(),
        "subtokens": subtoken_counts(retriever),
    }
    return LoadedSystem(retriever, options, facts)


def planner(context: JobContext, setting: str, executor: ToolExecutor) -> Planner:
    """Make the planner of a trained agent; which tools it may call is the agent's allow-list, in every setting."""
    from toolscaler.agent.code_planner import CodePlanner

    run = context.needs["train"]
    place = read_json(run / _MODEL_FILE, what="the place of the trained model")
    return CodePlanner.from_pretrained(str(run / str(place["folder"])))


def subtoken_counts(retriever: Any) -> dict[str, int]:
    """Count the tools with each number of subtokens (paper Fig. 3): number as text -> tools."""
    from toolscaler.tokenization.strategies import subtoken_lengths

    return {str(length): count for length, count in subtoken_lengths(retriever.tokenizer).counts.items()}


def _stage_facts(folder: Path) -> dict[str, Any]:
    stages = read_json(folder / "manifest.json", what="a run manifest")["stages"]
    return {name: {"seconds": entry["seconds"], **entry["summary"]} for name, entry in stages.items()}


def _training_facts(folder: Path, model: Mapping[str, str]) -> dict[str, Any]:
    """Say what the supervised stages saw, from their logs."""
    facts: dict[str, Any] = {}
    place = folder / Path(model["folder"]).parent
    for stage in ("retrieval", "trajectory"):
        path = place / stage / "history.json"
        if not path.exists():
            continue
        history = read_json(path, what="a training history")
        last = {key: value for entry in history for key, value in entry.items()}
        seconds, per_second = last.get("train_runtime"), last.get("train_samples_per_second")
        found = {
            "steps": max((entry.get("step", 0) for entry in history), default=0),
            "tokens": last.get("num_tokens", last.get("num_input_tokens_seen")),
            "train_seconds": seconds,
            "examples": None if seconds is None or per_second is None else round(seconds * per_second),
        }
        facts |= {f"{stage}_{key}": value for key, value in found.items() if value is not None}
    return facts


def _strategy_sections(name: str, gists: bool) -> Mapping[str, Any]:
    # Without a compressor there is no base that it has trained.
    start = {} if gists else {"embedding": {"start_from": "base"}}
    return {"tokenization": {"strategy": name}, **start}


# Strategy, whether it starts from gist embeddings, and whether it makes agents.
_STRATEGIES: Sequence[tuple[str, bool, bool]] = (
    ("toolscaler", True, True),
    ("hierarchical", True, False),
    ("atomic", False, True),
    ("semantic", False, False),
    ("numerical", False, True),
)

for _name, _gists, _agents in _STRATEGIES:
    register_system(
        SystemKind(
            _name,
            load,
            train,
            uses_base=True,
            uses_seed=True,
            pipeline=True,
            gists=_gists,
            run=_strategy_sections(_name, _gists),
            options=("stage",),
            planner=planner if _agents else None,
        )
    )
