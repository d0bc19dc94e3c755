"""Export gist embeddings: ``toolscaler encode``, in one process or several.

``--num_processes N`` starts N processes of its own; under ``accelerate launch`` (or torchrun) each process takes its
part too. They share nothing but the folder, so that one which is lost takes no other with it: its shards are missing,
and the same command writes them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from toolscaler.compression.shards import INDEX_NAME, has_shard, read_index
from toolscaler.errors import TrainingError


def make_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(prog="toolscaler encode", description="Encode a catalogue into gist embeddings.")
    parser.add_argument("--model", required=True, help="folder of a trained compressor")
    parser.add_argument("--tools", required=True, help="tool source in any format the library reads")
    parser.add_argument("--format", help="reader of the tools; default: found from the content")
    parser.add_argument("--output_dir", required=True, help="folder for the shards; a killed export goes on there")
    parser.add_argument("--max_tokens_per_batch", type=int, default=8192, help="token budget of a batch")
    parser.add_argument("--shard_size", type=int, default=4096, help="documents a shard; processes share whole shards")
    parser.add_argument(
        "--num_processes", type=int, default=1, help="processes to start; one a GPU where there are GPUs"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Encode every tool; (N, V, D) float32 goes to ``output_dir`` in shards."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = make_parser().parse_args(words)
    if arguments.num_processes < 1:
        raise TrainingError(f"--num_processes: got {arguments.num_processes}, expected at least 1")
    launched = "WORLD_SIZE" in os.environ
    if arguments.num_processes > 1 and not launched:
        _start_processes(words, arguments.num_processes)
    else:
        _encode(arguments, int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    if not launched or os.environ.get("RANK") == "0":
        _tell(Path(arguments.output_dir), launched)


def _encode(arguments: argparse.Namespace, rank: int, count: int) -> None:
    """Write this process's shards."""
    import torch
    from transformers import AutoTokenizer

    from toolscaler.compression import GistForToolCompression, encode_shards
    from toolscaler.data import load_tool_documents

    model = GistForToolCompression.from_pretrained(arguments.model)
    if torch.cuda.is_available():
        model.to(f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}")
    encode_shards(
        model,
        AutoTokenizer.from_pretrained(arguments.model),
        load_tool_documents(arguments.tools, format=arguments.format),
        arguments.output_dir,
        process_index=rank,
        num_processes=count,
        max_tokens_per_batch=arguments.max_tokens_per_batch,
        shard_size=arguments.shard_size,
        show_progress=rank == 0,
    )


def _start_processes(words: Sequence[str], count: int) -> None:
    """Run this script in ``count`` processes; all of them come to their end, whatever becomes of one."""
    threads = str(max(1, (os.cpu_count() or 1) // count))
    command = [sys.executable, "-m", "toolscaler.scripts.encode", *words]
    common = {"OMP_NUM_THREADS": threads, **os.environ, "WORLD_SIZE": str(count)}
    started = []
    for rank in map(str, range(count)):
        started.append(subprocess.Popen(command, env={**common, "RANK": rank, "LOCAL_RANK": rank}))  # noqa: S603
    status = [process.wait() for process in started]
    lost = [rank for rank, code in enumerate(status) if code]
    if lost:
        raise TrainingError(
            f"processes {lost} of {count} were lost (status {[status[rank] for rank in lost]}); what the others wrote "
            "stays, and the same command writes the rest"
        )


def _tell(folder: Path, launched: bool) -> None:
    """Print what is there; of launched processes the first to end need not be the last to write."""
    index = read_index(folder)
    there = sum(has_shard(folder, index, shard) for shard in index["shards"])
    count, gists, width = index["shape"]
    print(f"{count} tools x {gists} gist tokens x {width}: {there} of {len(index['shards'])} shards -> {folder}")
    if not launched and not index["complete"]:
        raise TrainingError(f"{folder / INDEX_NAME}: shards are missing; the same command writes them")


if __name__ == "__main__":
    main()
