"""What each stage needs, and which accelerate configuration fits: ``toolscaler plan``.

Only the model's configuration is read. The formulas stand in :mod:`toolscaler.training.memory`.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolscaler.errors import ConfigError
from toolscaler.training.memory import ModelSizes, Workload, fitting, model_sizes

# Tokens of a target of stage 1, and targets a document: the fields of ToolDocument.
_TARGET_TOKENS, _TARGETS = 64, 4
# Share of a trajectory's tokens that are the assistant's.
_ASSISTANT_SHARE = 0.25
_LORA_RANK, _DOCUMENTS_AT_ONCE, _CHECKPOINTS = 32, 12, 2


def make_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog="toolscaler plan", description="Estimate what each stage needs, and choose an accelerate configuration."
    )
    parser.add_argument("--model", required=True, help="base causal LM: folder or Hub id; its configuration is read")
    parser.add_argument("--tools", required=True, help="how many tools, or a tool source to count")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs; 0: a CPU in float32")
    parser.add_argument("--memory", type=float, default=80.0, help="GB of a GPU (or of the machine, without GPUs)")
    parser.add_argument("--use_lora", action="store_true", help="adapters in retrieval and trajectory training")
    parser.add_argument("--query_tokens", type=int, default=64, help="tokens of a query with its codes")
    parser.add_argument("--document_tokens", type=int, default=512, help="tokens of a document")
    parser.add_argument("--row_tokens", type=int, default=1024, help="tokens of a trajectory in post-guided training")
    parser.add_argument("--max_length", type=int, default=6144, help="tokens of the longest trajectory")
    parser.add_argument("--num_gist_tokens", type=int, default=2, help="V")
    parser.add_argument("--num_levels", type=int, default=2, help="L")
    parser.add_argument("--num_centroids", type=int, default=512, help="K")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the plan."""
    arguments = make_parser().parse_args(argv)
    plan = make_plan(arguments)
    print(json.dumps(plan, indent=2) if arguments.json else _table(plan, arguments))


def make_plan(arguments: argparse.Namespace) -> dict[str, Any]:
    """Estimate every stage.

    Args:
        arguments: Of :func:`make_parser`.

    Returns:
        ``model`` (sizes), ``disk`` and ``main_memory`` (what is written or made -> bytes), and ``stages``: for each
        ``config`` (``None`` where nothing fits), ``gradient_checkpointing``, ``need`` in bytes a process under both,
        and ``needs`` under every configuration.

    Raises:
        ConfigError: A number is not allowed, or the model has no configuration.
    """
    for name in ("query_tokens", "document_tokens", "row_tokens", "max_length", "num_gist_tokens", "num_levels"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name}", getattr(arguments, name), "at least 1")
    if arguments.gpus < 0 or arguments.memory <= 0:
        raise ConfigError("--gpus/--memory", (arguments.gpus, arguments.memory), "0 or more, and more than 0")
    tools = _count_tools(arguments.tools)
    base = model_sizes(arguments.model)
    code_rows = _code_rows(arguments, tools, base.hidden)
    tuned = base.with_rows(code_rows)
    stages = {}
    for name, (sizes, work) in _workloads(arguments, base, tuned, code_rows).items():
        # Encoding shares shards out, not weights: each process has the whole compressor.
        gpus = min(1, arguments.gpus) if name == "encode" else arguments.gpus
        config, work, needs = fitting(sizes, work, gpus, int(arguments.memory * 1e9))
        chosen = needs[config] if config else list(needs.values())[-1]
        stages[name] = {
            "config": config,
            "gradient_checkpointing": work.checkpointing,
            "need": chosen.to_dict(),
            "needs": {key: found.to_dict() for key, found in needs.items()},
        }
    embeddings = tools * arguments.num_gist_tokens * base.hidden * 4
    trained = _lora(tuned, code_rows) if arguments.use_lora else tuned.parameters
    return {
        "tools": tools,
        "code_rows": code_rows,
        "model": {"parameters": base.parameters, "with_codes": tuned.parameters, "hidden": base.hidden},
        "stages": stages,
        "disk": {
            "compressor": 4 * base.parameters,
            "embeddings": embeddings,
            "vocabulary": 4 * tuned.parameters,
            "retrieval": _CHECKPOINTS * (4 * tuned.parameters + 8 * trained) + 4 * tuned.parameters,
            "trajectory": _CHECKPOINTS * (4 * tuned.parameters + 8 * trained) + 4 * tuned.parameters,
        },
        # The codebook is fitted in main memory: the embeddings, and a reduced copy of one gist position at a time.
        "main_memory": {"codebook": 2 * embeddings, "vocabulary": 2 * 4 * tuned.parameters},
    }


def _workloads(
    arguments: argparse.Namespace, base: ModelSizes, tuned: ModelSizes, code_rows: int
) -> dict[str, tuple[ModelSizes, Workload]]:
    """Give each stage's model and work, with the defaults of its settings."""
    bf16 = arguments.gpus > 0
    code_length = arguments.num_gist_tokens * arguments.num_levels
    adapter = _LORA_RANK * base.linear_widths + (arguments.num_gist_tokens + _TARGETS) * base.hidden
    targets = _TARGETS * _TARGET_TOKENS
    compress = Workload(
        _DOCUMENTS_AT_ONCE,
        arguments.document_tokens + targets,
        targets,
        trained=adapter,
        checkpointing=False,
        bf16=bf16,
    )
    trained = _lora(tuned, code_rows) if arguments.use_lora else None
    # The guide's activations are kept too: its gradient goes to the rows at its input.
    guide = _DOCUMENTS_AT_ONCE * arguments.row_tokens
    return {
        "compress": (base, compress),
        "encode": (base, Workload(1, max(8192, arguments.document_tokens), 0, bf16=False, gradients=False)),
        "refine": (
            base,
            replace(compress, tokens=compress.tokens + guide // _DOCUMENTS_AT_ONCE, frozen_copies=tuned.parameters),
        ),
        "retrieval": (tuned, Workload(16, arguments.query_tokens, code_length + 1, trained=trained, bf16=bf16)),
        "trajectory": (
            tuned,
            Workload(
                1,
                arguments.max_length,
                int(_ASSISTANT_SHARE * arguments.max_length),
                trained=trained,
                checkpointing=True,
                bf16=bf16,
            ),
        ),
    }


def _lora(sizes: ModelSizes, code_rows: int) -> int:
    """Count the trained weights of an adapter with code rows."""
    return _LORA_RANK * sizes.linear_widths + code_rows * sizes.hidden * (1 if sizes.tied else 2)


def _count_tools(source: str) -> int:
    if source.isdecimal():
        if int(source) < 1:
            raise ConfigError("--tools", source, "at least one tool")
        return int(source)
    from toolscaler.data import load_tool_documents

    return len(load_tool_documents(source))


def _code_rows(arguments: argparse.Namespace, tools: int, hidden: int) -> int:
    """Count the code tokens: V·L·K, of what a catalogue of this size can fill."""
    from toolscaler.codebook import CatalogueSizeWarning, shrink_for_catalogue

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CatalogueSizeWarning)
        centroids, _, levels = shrink_for_catalogue(tools, arguments.num_centroids, 32, hidden, arguments.num_levels)
    return arguments.num_gist_tokens * levels * centroids


def _table(plan: Mapping[str, Any], arguments: argparse.Namespace) -> str:
    """Give the plan as text."""
    place = f"{arguments.gpus} GPU of {arguments.memory:g} GB" if arguments.gpus else f"a CPU, {arguments.memory:g} GB"
    model = plan["model"]
    lines = [
        f"{arguments.model}: {model['parameters']:,} weights, {model['with_codes']:,} with {plan['code_rows']:,} code "
        f"rows; {plan['tools']:,} tools; {place}",
        "",
        "GB a process  weights  gradients  optimizer  activations    total  configuration",
    ]
    for name, stage in plan["stages"].items():
        found = {key: value / 1e9 for key, value in stage["need"].items()}
        config = stage["config"] or "none fits: take shorter rows, fewer at once, --use_lora or more GPUs"
        if stage["config"] and stage["gradient_checkpointing"]:
            config += ", gradient_checkpointing"
        if found["main_memory"]:
            config += f" (and {found['main_memory']:.1f} GB of main memory a process)"
        lines.append(
            f"{name:<12}  {found['weights']:>7.2f}  {found['gradients']:>9.2f}  {found['optimizer']:>9.2f}  "
            f"{found['activations']:>11.2f}  {found['total']:>7.2f}  {config}"
        )
    disk = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in plan["disk"].items())
    memory = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in plan["main_memory"].items())
    return "\n".join([*lines, "", f"disk, GB: {disk}", f"main memory, GB: {memory}"])


if __name__ == "__main__":
    main()
