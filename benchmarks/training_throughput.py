"""How fast each training stage is against a plain TRL or transformers Trainer on the same rows, at the same loss.

- ``retrieval``: ``retrieval_trainer`` against ``SFTTrainer`` with its defaults, and with its gradient checkpointing off
  (``plain_fast``); rows are short prompts, as long as the starter's queries, with four codes and an end token;
- ``trajectory``: ``trajectory_trainer`` against the same two on rows of a few hundred tokens, a quarter of which count;
- ``compress``: ``compression_trainer`` against a ``Trainer`` that encodes a document once for each target.

Each side starts from the same weights and sees the same rows in each step; the losses of all steps are compared, and
the run fails where they differ. Sides alternate, so that a busy machine is busy for all; figures are medians of steps,
in seconds on a GPU and in CPU seconds of one thread without one.

    python benchmarks/training_throughput.py --stage retrieval --json throughput.json
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback
from trl import SFTConfig, SFTTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import tiny
from toolscaler.compression import GistCollator, GistForToolCompression, document_rows
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.starter import load_starter_documents, load_starter_queries
from toolscaler.tokenization import ToolscalerTokenizer
from toolscaler.training import CompressionConfig, RetrievalConfig, TrajectoryConfig
from toolscaler.training.compression import compression_trainer
from toolscaler.training.retrieval import RetrievalCollator, RetrievalTrainer
from toolscaler.training.trajectory import trajectory_trainer

#: Name -> architecture and sizes. The first is for a CPU.
SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "15m": ("llama", {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6}),
    "qwen2.5-0.5b": (
        "qwen2",
        {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    ),
    "qwen2.5-1.5b": (
        "qwen2",
        {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    ),
}
TARGETS = {"retrieval": 1.5}
TOLERANCE = {False: 1e-4, True: 2e-2}


class Clock(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._start = _now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop it."""
        self.seconds.append(_now() - self._start)


def _now() -> float:
    """Give the wall clock with a GPU; without one the CPU seconds of this process, which others do not slow."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def make_tokenizer() -> ToolscalerTokenizer:
    codes = [[n % 8, n // 8 % 8, n % 7, n % 5] for n in range(64)]
    unique = sorted({tuple(row) for row in codes})
    return ToolscalerTokenizer.from_tokenizer(
        tiny.tiny_tokenizer(),
        codes=[list(row) for row in unique],
        tool_ids=[f"tool_{n}" for n in range(len(unique))],
        code_sizes=(8, 8, 8, 8),
    )


def make_model(args: argparse.Namespace, tokenizer: ToolscalerTokenizer) -> Any:
    kind, sizes = SHAPES[args.shape]
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=args.vocabulary,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return initialize_code_embeddings(model, tokenizer, init="random")


def retrieval_table(args: argparse.Namespace, tokenizer: ToolscalerTokenizer, count: int) -> Dataset:
    """Rows as long as the starter's queries: about four characters a token, of random tokens."""
    generator = np.random.default_rng(1)
    texts = load_starter_queries()
    ids, labels = [], []
    for number in generator.permutation(len(texts))[:count]:
        prompt = generator.integers(3, 259, max(4, len(texts[int(number)].text) // 4)).tolist()
        tool = tokenizer.tool_names[int(number) % len(tokenizer.tool_names)]
        codes = [*tokenizer.encode_tool(tool), tokenizer.eos_token_id]
        ids.append(prompt + codes)
        labels.append([-100] * len(prompt) + codes)
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def trajectory_table(count: int) -> Dataset:
    generator = np.random.default_rng(2)
    ids = [generator.integers(3, 259, int(size)).tolist() for size in generator.integers(150, 450, count)]
    labels = [[token if place % 80 >= 60 else -100 for place, token in enumerate(row)] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def settings(args: argparse.Namespace, folder: str, rows: int, accumulate: int) -> dict[str, Any]:
    """Settings that both sides share; all others are each side's defaults."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulate,
        "max_steps": args.steps,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": args.bf16,
        "use_cpu": not torch.cuda.is_available(),
        "seed": 3,
    }


def retrieval_sides(args: argparse.Namespace, folder: str) -> dict[str, Callable[[], Any]]:
    tokenizer = make_tokenizer()
    model, data = make_model(args, tokenizer), retrieval_table(args, tokenizer, 64 * args.steps)
    common = settings(args, folder, 16, 4)

    def ours() -> Any:
        config = RetrievalConfig(**common)
        config.dataset_kwargs, config.remove_unused_columns = {"skip_prepare_dataset": True}, False
        trainer = RetrievalTrainer(
            model=copy.deepcopy(model),
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            data_collator=RetrievalCollator(tokenizer.pad_token_id),
        )
        trainer.sorts_rows = config.sort_step_rows
        trainer.first_code_id, trainer.end_token_id = tokenizer.first_code_id, tokenizer.eos_token_id
        return trainer

    return {"ours": ours, **plain_sides(model, tokenizer, data, common)}


def trajectory_sides(args: argparse.Namespace, folder: str) -> dict[str, Callable[[], Any]]:
    tokenizer = make_tokenizer()
    model, data = make_model(args, tokenizer), trajectory_table(8 * args.steps)
    common = settings(args, folder, 1, 8)

    def ours() -> Any:
        return trajectory_trainer(copy.deepcopy(model), tokenizer, data, config=TrajectoryConfig(**common))

    return {"ours": ours, **plain_sides(model, tokenizer, data, common)}


def plain_sides(model: Any, tokenizer: Any, data: Dataset, common: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    def plain(**keys: Any) -> Any:
        config = SFTConfig(**common, **keys)
        return SFTTrainer(
            model=copy.deepcopy(model), args=config, train_dataset=data, processing_class=copy.deepcopy(tokenizer)
        )

    return {"plain": plain, "plain_fast": lambda: plain(gradient_checkpointing=False)}


class EachTarget(Trainer):
    """A Trainer that encodes a document once for each of its targets."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Give the loss of the slow way."""
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch, encode_once=False)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def compress_sides(args: argparse.Namespace, folder: str) -> dict[str, Callable[[], Any]]:
    tokenizer = make_tokenizer()
    base = make_model(args, tokenizer)
    documents = load_starter_documents()[: 12 * args.steps]
    common = settings(args, folder, 12, 1)
    keys = {"lora_dropout": 0.0, "validation_share": 0.0, "use_lora": False, "train_base": True}

    def ours() -> Any:
        model = GistForToolCompression.from_base_model(copy.deepcopy(base))
        return compression_trainer(model, tokenizer, documents, CompressionConfig(**common, **keys))

    def plain() -> Any:
        model = GistForToolCompression.from_base_model(copy.deepcopy(base))
        config = CompressionConfig(**common, **{**keys, "load_best_model_at_end": False, "eval_strategy": "no"})
        return EachTarget(
            model=model,
            args=config,
            train_dataset=document_rows(tokenizer, documents, model.config),
            data_collator=GistCollator.from_tokenizer(tokenizer),
        )

    return {"ours": ours, "plain": plain}


SIDES = {"retrieval": retrieval_sides, "trajectory": trajectory_sides, "compress": compress_sides}


def measure(args: argparse.Namespace, stage: str) -> dict[str, Any]:
    """Run every side ``rounds`` times, in turn; the first step of each run is not counted."""
    seconds: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides = SIDES[stage](args, folder)
        for _ in range(args.rounds):
            for name, make in sides.items():
                trainer, clock = make(), Clock()
                trainer.add_callback(clock)
                trainer.train()
                seconds.setdefault(name, []).extend(clock.seconds[1:])
                losses[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    steps = {name: statistics.median(values) for name, values in seconds.items()}
    same = {name: bool(np.allclose(found, losses["ours"], rtol=TOLERANCE[args.bf16])) for name, found in losses.items()}
    return {
        "stage": stage,
        "seconds_a_step": {name: round(value, 4) for name, value in steps.items()},
        "speedup": {name: round(value / steps["ours"], 3) for name, value in steps.items() if name != "ours"},
        "same_loss": same,
        "losses": losses,
        "counted_steps": len(seconds["ours"]),
    }


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stage", choices=[*SIDES, "all"], default="all")
    parser.add_argument("--shape", choices=list(SHAPES), default="15m")
    parser.add_argument("--vocabulary", type=int, default=8192, help="rows of the base's embedding")
    parser.add_argument("--steps", type=int, default=4, help="steps of a run, the first not counted")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.processor()} CPU"
    report: dict[str, Any] = {
        "machine": f"{device}, {os.cpu_count()} cores, {args.threads} threads",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
        "shape": args.shape,
        "bf16": args.bf16,
        "stages": [],
    }
    failed = False
    for stage in SIDES if args.stage == "all" else (args.stage,):
        found = measure(args, stage)
        report["stages"].append(found)
        failed |= not all(found["same_loss"].values())
        times = ", ".join(f"{name} {value:.3f} s" for name, value in found["seconds_a_step"].items())
        ratios = ", ".join(f"{value:.2f}x {name}" for name, value in found["speedup"].items())
        target = f" (target {TARGETS[stage]}x plain)" if stage in TARGETS else ""
        print(f"{stage}: {times}; {ratios}{target}; same loss: {all(found['same_loss'].values())}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
