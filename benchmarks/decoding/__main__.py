"""Constrained decoding against its peers, in one command.

    python -m benchmarks.decoding --quick                      # seconds; prints tables, writes nothing
    python -m benchmarks.decoding --static CHECKOUT            # everything; about 20 minutes, 8 GB
    python -m benchmarks.decoding --only masks retrieval       # some parts; the others stay as they were

Parts: ``masks`` (a step's mask by rows and catalogue), ``build`` (index: time and bytes), ``changes`` (allow-lists,
changes, saving), ``retrieval`` (end to end, a random model of Qwen2.5-0.5B's shape), ``small`` (a model and catalogue
of the starter's size). What is compared runs in one process and takes turns; figures are medians of the thread's CPU
time with one torch thread. Every method's results are checked before it is timed. ``CHECKOUT`` is one of
youtube/static-constraint-decoding; without it that peer is left out. Writes ``decoding.json``, ``decoding.md`` and
plots into the folder given as ``--output``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.decoding import index, masks, plots, report, retrieval
from benchmarks.decoding.models import QWEN, STARTER, TINY
from benchmarks.decoding.timing import machine

PARTS = ("masks", "build", "changes", "small", "retrieval")
SIZES = [46_985, 1_000_000, 10_000_000]
ROWS = [5, 80, 640]
ROOT = Path(__file__).resolve().parents[2]


def work(args: argparse.Namespace, part: str, key: str) -> dict[str, Any]:
    """Measure one case of one part in this process."""
    torch.set_num_threads(args.threads)
    quick, device = args.quick, args.device
    if part == "masks":
        result = masks.measure(int(key), args.rows, args.static, quick, device)
    elif part == "build":
        result = index.measure_build(int(key), args.static, 1 if quick or int(key) > 5_000_000 else 9)
    elif part == "changes":
        result = index.measure_changes(int(key), 3 if quick else 15)
    else:
        shape = TINY if quick else QWEN if part == "retrieval" else STARTER
        equality = retrieval.check_equality(8 if quick else 100)
        rounds = 1 if quick else args.rounds if part == "retrieval" else 15
        result = retrieval.measure(shape, int(key), args.batch if part == "retrieval" else 16, rounds, device)
        result["equality"] = equality
    return result | {"machine": machine(device)}


def cases(args: argparse.Namespace, part: str) -> list[str]:
    if part in ("masks", "build"):
        return [str(size) for size in args.sizes]
    if part == "changes":
        return [str(2_000 if args.quick else 1_000_000)]
    if part == "retrieval":
        return [str(length) for length in args.prompts]
    return ["24"]


def run_apart(args: argparse.Namespace, part: str, key: str) -> dict[str, Any]:
    """Measure one case in a process of its own, which gives its memory back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        given = [sys.executable, "-m", "benchmarks.decoding", "--worker", part, key, "--result", str(path)]
        given += ["--threads", str(args.threads), "--device", args.device, "--batch", str(args.batch)]
        given += ["--rounds", str(args.rounds), "--rows", *map(str, args.rows)]
        given += ["--static", str(args.static)] if args.static else []
        subprocess.run(given, check=True, cwd=ROOT)
        return json.loads(path.read_text(encoding="utf-8"))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few repetitions, to see that all works")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--static", type=Path, help="checkout of youtube/static-constraint-decoding")
    parser.add_argument("--output", type=Path, help="folder to write to (default: docs/decoding, with --quick nowhere)")
    parser.add_argument("--sizes", type=int, nargs="+", help="tools of the catalogues")
    parser.add_argument("--rows", type=int, nargs="+", choices=list(masks.ROUNDS), help="rows of scores")
    parser.add_argument("--prompts", type=int, nargs="+", help="tokens of the prompts")
    parser.add_argument("--batch", type=int, default=8, help="queries a batch")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each system end to end")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="for masks and retrieval")
    parser.add_argument("--worker", nargs=2, metavar=("PART", "CASE"), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    args.static = args.static.resolve() if args.static else None
    args.sizes = args.sizes or ([2_000, 5_000] if args.quick else SIZES)
    args.prompts = args.prompts or ([16] if args.quick else [64, 256])
    args.rows = args.rows or ([5] if args.quick else ROWS)
    if args.worker:
        args.result.write_text(json.dumps(work(args, *args.worker)), encoding="utf-8")
        return 0
    output = args.output or (None if args.quick else ROOT / "docs" / "decoding")
    stored = output / "decoding.json" if output else None
    results: dict[str, Any] = {}
    if stored and stored.exists():
        results = json.loads(stored.read_text(encoding="utf-8"))
    for part in args.only:
        for key in cases(args, part):
            print(f"measuring {part} {key}", file=sys.stderr, flush=True)
            found = work(args, part, key) if args.quick else run_apart(args, part, key)
            results.setdefault(part, {})[key] = found
            if stored and output:
                output.mkdir(parents=True, exist_ok=True)
                stored.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = report.markdown(results)
    print(text)
    if output:
        (output / "decoding.md").write_text(text, encoding="utf-8")
        plots.plot(results, output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
