"""How much faster a training step of the compressor is when each document is encoded once for all its targets.

Two ways of the same step (forward, backward, same loss): ``once`` runs pass 1 once a document, ``per target`` once for
each of its m targets. They alternate, so that a busy machine is busy for both; the ratio is that of the medians.

    python benchmarks/compression_step.py --json step.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from toolscaler.compression import GistForToolCompression

TARGET = 2.5


def make_model(hidden_size: int, layers: int, vocabulary: int) -> GistForToolCompression:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden_size // 32),
        num_key_value_heads=max(1, hidden_size // 64),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    return GistForToolCompression.from_base_model(LlamaForCausalLM(config)).train()


def make_batch(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Documents and targets whose lengths vary by a quarter around their means, padded as the collator pads."""
    generator = torch.Generator().manual_seed(1)

    def lengths(count: int, mean: int) -> torch.Tensor:
        return torch.randint(mean - mean // 4, mean + mean // 4 + 1, (count,), generator=generator)

    def tokens(*shape: int) -> torch.Tensor:
        return torch.randint(3, args.vocabulary, shape, generator=generator)

    documents = lengths(args.batch, args.content)
    input_ids = tokens(args.batch, int(documents.max()))
    columns = torch.arange(input_ids.shape[1])
    mask = (columns >= input_ids.shape[1] - documents[:, None]).long()
    sizes = lengths(args.batch * args.tasks, args.target).view(args.batch, args.tasks)
    labels = tokens(args.batch, args.tasks, int(sizes.max()))
    labels[torch.arange(labels.shape[2]) >= sizes[..., None]] = -100
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def step(model: GistForToolCompression, batch: dict[str, torch.Tensor], once: bool) -> tuple[float, float]:
    """Run one step; give its seconds and its loss."""
    model.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss = model(**batch, encode_once=once).loss
    loss.backward()
    value = loss.item()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, value


def measure(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(args.hidden, args.layers, args.vocabulary).to(device)
    batch = {name: tensor.to(device) for name, tensor in make_batch(args).items()}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    losses: dict[bool, float] = {}
    for repeat in range(args.warmup + args.repeats):
        for once in (True, False):
            taken, losses[once] = step(model, batch, once)
            if repeat >= args.warmup:
                seconds[once].append(taken)
    medians = {once: statistics.median(values) for once, values in seconds.items()}
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {
        "machine": f"{name}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "settings": {key: value for key, value in vars(args).items() if key != "json"},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "loss_difference": abs(losses[True] - losses[False]),
        "median_seconds": {"once": medians[True], "per_target": medians[False]},
        "all_seconds": {"once": seconds[True], "per_target": seconds[False]},
        "ratio": medians[False] / medians[True],
        "target": TARGET,
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="encode once against once per target")
    parser.add_argument("--batch", type=int, default=12, help="documents a step (paper: 12)")
    parser.add_argument("--tasks", type=int, default=4, help="targets a document (paper: 4)")
    parser.add_argument("--content", type=int, default=200, help="mean tokens of a document")
    parser.add_argument("--target", type=int, default=24, help="mean tokens of a target")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; more than the free cores only disturb")
    parser.add_argument("--json", type=Path, help="write the result there")
    return parser


def main() -> int:
    args = make_parser().parse_args()
    result = measure(args)
    medians = result["median_seconds"]
    print(f"{result['machine']}; {result['parameters']:,} parameters; {result['versions']}")
    print(f"loss differs by {result['loss_difference']:.1e}")
    print(f"once:       {1000 * medians['once']:8.1f} ms a step (median of {args.repeats})")
    print(f"per target: {1000 * medians['per_target']:8.1f} ms a step")
    print(f"ratio:      {result['ratio']:8.2f}  (target: at least {TARGET})")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if result["ratio"] >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
