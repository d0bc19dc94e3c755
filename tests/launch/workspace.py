"""What every launched stage needs, made on the spot: a tiny base, tools, queries, trajectories, a model with codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolscaler.codebook import Codebook
from toolscaler.data import (
    AgentProtocol,
    ToolCall,
    ToolDocument,
    Trajectory,
    TrajectoryMessage,
    finish_document,
    save_trajectories,
)
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.tokenization import ToolscalerTokenizer

M, C = TrajectoryMessage, ToolCall
VERBS = ["convert", "count", "fetch", "tell", "sort", "round", "open", "close", "find", "draw", "send", "read", "move"]
VERBS.append("join")
#: Of different lengths on purpose: batches are padded.
DOCUMENTS = [
    *(ToolDocument(f"{verb}_it", f"{verb} a thing for me{' and my friend' * (n % 5)}.", category="Units")
      for n, verb in enumerate(VERBS)),
    finish_document(),
]  # fmt: skip
IDS = [document.id for document in DOCUMENTS]


def _talk(*tools: str) -> Trajectory:
    messages = [M("user", f"please {' and '.join(tools)}")]
    for tool in tools:
        messages += [M("assistant", f"I take {tool}", (C(tool, {}),)), M("tool", "done")]
    return Trajectory((*messages, M("assistant", "", (C.finish("done"),))))


TRAJECTORIES = [_talk(*(IDS[(n * 3 + k) % 14] for k in range(1 + n % 3))) for n in range(12)]
QUERIES = [
    {"query": f"please {verb} {'all of ' * (n % 4)}my things, {adverb}", "tools": [f"{verb}_it"]}
    for n, (verb, adverb) in enumerate(
        (verb, adverb) for verb in VERBS[:12] for adverb in ("quickly", "and do not ask")
    )
]


@dataclass(frozen=True)
class Workspace:
    """A folder with ``base``, ``tuned``, ``tools.jsonl``, ``queries.jsonl`` and ``trajectories.jsonl``."""

    root: Path

    def inputs(self, verb: str) -> list[str]:
        """Give the flags that name a stage's inputs."""
        base, tuned = ("--model", str(self.root / "base")), ("--model", str(self.root / "tuned"))
        tools = ("--tools", str(self.root / "tools.jsonl"))
        trajectories = ("--train_trajectories", str(self.root / "trajectories.jsonl"))
        quiet = ("--lora_dropout", "0")
        return {
            "compress": [*base, *tools, *quiet, "--validation_share", "0"],
            "retrieval": [*tuned, "--train_queries", str(self.root / "queries.jsonl")],
            "trajectory": [*tuned, *trajectories, "--documents", tools[1], "--max_length", "700"],
            "refine": [*base, "--tuned", tuned[1], *tools, *trajectories, *quiet, "--max_length", "700"],
        }[verb]


def make_workspace(root: Path, tokenizer, base, tuned) -> Workspace:
    """Write the inputs of every stage; ``tuned`` gets code rows."""
    values = np.random.default_rng(7).normal(size=(len(IDS), 2, 32)).astype(np.float32)
    codebook = Codebook.fit(values, IDS, num_levels=2, num_centroids=4, reduced_dim=4, seed=0)
    with_codes = ToolscalerTokenizer.from_tokenizer(tokenizer, codebook)
    base.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    initialize_code_embeddings(tuned, with_codes, init="random", seed=5).save_pretrained(root / "tuned")
    with_codes.save_pretrained(root / "tuned")
    AgentProtocol("", finish_documentation=False).save(root / "tuned")
    (root / "tools.jsonl").write_text("".join(json.dumps(document.to_dict()) + "\n" for document in DOCUMENTS))
    (root / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUERIES))
    save_trajectories(root / "trajectories.jsonl", TRAJECTORIES)
    return Workspace(root)


def arguments(space: Workspace, verb: str, folder: Path, rows: int, *flags: str, accumulate: int = 1) -> list[str]:
    """Give the command line of a training stage. ``rows`` are those of a process and micro-batch."""
    return [
        *space.inputs(verb),
        *("--output_dir", str(folder), "--per_device_train_batch_size", str(rows)),
        *("--gradient_accumulation_steps", str(accumulate), "--logging_steps", "1", "--seed", "3"),
        *("--disable_tqdm", "true", "--lr_scheduler_type", "constant", "--warmup_steps", "0"),
        # Plain descent: Adam's first steps are signs of the gradient, which rounding turns where it is near zero.
        *("--optim", "sgd", "--learning_rate", "0.3"),
        *flags,
    ]


def run(command: list[str], timeout: float = 280) -> str:
    """Run ``python COMMAND``; give what it said, or raise with it."""
    tests = str(Path(__file__).resolve().parents[1])
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH", "")])),
    }
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:  # launched processes outlive their launcher
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise RuntimeError(f"status {process.returncode}: {output[-6000:]}")
    return output


def train(jobs: Mapping[str, list[str]], folder: Path, config: str | None, *options: str) -> dict[str, list[float]]:
    """Train stages, one launch for all of them.

    Args:
        jobs: Verb -> command line (:func:`arguments`).
        folder: Where the list of jobs is written.
        config: Name of an accelerate configuration; ``None``: one process, not launched.
        options: Options of the launch.

    Returns:
        Verb -> training losses, one a step.
    """
    file = folder / f"jobs-{config}.json"
    file.write_text(json.dumps([[f"toolscaler.scripts.{verb}", argv] for verb, argv in jobs.items()]))
    command = ["-m", "launch.stages", str(file)]
    if config is not None:
        command = ["-m", "launch.stages", "--launched", config, *options, str(file)]
    run(command)
    return {verb: losses(Path(argv[argv.index("--output_dir") + 1])) for verb, argv in jobs.items()}


def losses(folder: Path) -> list[float]:
    """Give the training losses that a stage wrote."""
    log = json.loads((folder / "losses.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in log if "loss" in entry]
