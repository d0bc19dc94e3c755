"""Systems that a run of the pipeline trains: Toolscaler and the other tokenization strategies, one trainer for all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolscaler._files import read_json, write_json
from toolscaler.errors import ConfigError
from toolscaler.experiments.systems import JobContext, LoadedSystem, SystemKind, register_system
from toolscaler.pipeline.config import RunConfig

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
        "trajectories": str(trajectories) if trajectories.exists() else None,
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

    folder = run_pipeline(run_config(context, context.spec["run"]), until=until)
    return {"stages": _stage_facts(folder)}


def train(context: JobContext) -> dict[str, Any]:
    """Run the pipeline from the shared stages on, up to the stage that ``options.until`` means."""
    from toolscaler.pipeline.runner import run_pipeline

    config = run_config(context, context.spec["run"])
    adopt_stages(config, context.folder, context.needs["prepare"])
    model = model_of(config, str(context.options.get("stage", "last")))
    run_pipeline(config, until=model["until"])
    write_json(context.folder / _MODEL_FILE, model)
    return {**_training_facts(context.folder, model), "stages": _stage_facts(context.folder)}


def model_of(config: RunConfig, stage: str) -> dict[str, str]:
    """Say which stage ends the training, and which folder then holds the model.

    Args:
        config: The run file.
        stage: ``retrieval``, ``trajectory``, or ``last``: the trajectory stage where there are trajectories.

    Raises:
        ConfigError: The stage is unknown, or there are no trajectories.
    """
    if stage not in ("retrieval", "trajectory", "last"):
        raise ConfigError("options.stage", stage, "'retrieval', 'trajectory' or 'last'")
    has = config.data.trajectories is not None
    if stage == "trajectory" and not has:
        raise ConfigError("options.stage", stage, "a data set with trajectories")
    last = "trajectory" if stage == "trajectory" or (stage == "last" and has) else "retrieval"
    round_ = f"round-{config.rounds.count - 1}/" if config.rounds.count > 1 else ""
    return {"until": f"{round_}{last}", "folder": f"{round_}{'model' if last == 'retrieval' else 'agent_model'}"}


def adopt_stages(config: RunConfig, folder: Path, donor: Path) -> list[str]:
    """Take over the finished first stages of another run folder, where both would do the same.

    The folders are linked, not copied, where the system can; no later stage writes into them.

    Args:
        config: The run file of the new run.
        folder: Its folder.
        donor: The other run folder.

    Returns:
        The stages taken over; none where the new run has begun by itself.
    """
    from toolscaler.pipeline.runner import stage_fingerprints, stage_table

    target = folder / "manifest.json"
    if target.exists():
        return []
    marks, table = stage_fingerprints(config), stage_table(config)
    manifest = read_json(donor / "manifest.json", what="the manifest of the shared stages")
    taken: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, mark in marks.items():
        entry = manifest["stages"].get(name)
        if entry is None or entry["fingerprint"] != mark:
            break
        for child in table[name][2]:
            if (donor / child).exists():
                _link(donor / child, folder / child)
        taken[name] = entry
    if taken:
        write_json(target, {**manifest, "stages": taken})
    return list(taken)


def _link(source: Path, target: Path) -> None:
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
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


def subtoken_counts(retriever: Any) -> dict[str, int]:
    """Count the tools with each number of subtokens (paper Fig. 3): number as text -> tools."""
    counts: dict[int, int] = {}
    for length in (
        retriever.trie.sequence_lengths() if hasattr(retriever.trie, "sequence_lengths") else _lengths(retriever)
    ):
        counts[int(length)] = counts.get(int(length), 0) + 1
    return {str(length): counts[length] for length in sorted(counts)}


def _lengths(retriever: Any) -> list[int]:
    index = retriever.tokenizer.tool_index
    return [len(index[name]) for name in retriever.tokenizer.tool_names]


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


def _strategy_sections(name: str) -> Mapping[str, Any]:
    return {} if name == "toolscaler" else {"tokenization": {"strategy": name}}


#: Strategies -> whether they start from gist embeddings.
STRATEGIES: Mapping[str, bool] = {
    "toolscaler": True,
    "hierarchical": True,
    "atomic": False,
    "semantic": False,
    "numerical": False,
}

for _name, _gists in STRATEGIES.items():
    register_system(
        SystemKind(
            _name,
            load,
            train,
            uses_base=True,
            uses_seed=True,
            pipeline=True,
            gists=_gists,
            run=_strategy_sections(_name),
            options=("stage",),
        )
    )
