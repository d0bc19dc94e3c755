"""Ablations of codebooks, first rows, sizes, collisions, read-out, sources, backbone and rows, one command each.

    python -m benchmarks.ablations codebooks --output runs/ablations
    python -m benchmarks.ablations embedding --catalogue toole --data ../toole --seeds 0 1 2
    python -m benchmarks.ablations all --quick                  # seconds a cell; shows that everything runs
    python -m benchmarks.ablations codebooks --report_only      # tables and pictures of the cells that are done

A cell is one codebook, one equal-budget retrieval training, and NDCG on held-out queries. The base is the recipe
``starter``'s, made from scratch, or with ``--base minilm`` a pretrained one of 22 M parameters, as in ``toole_minilm``.
The base, the compressor and the gist embeddings are made once a catalogue (and once a number of gist tokens) by the
pipeline's own stages. A finished cell is a JSON file named by its settings: a command that was stopped goes on, and
ablations share cells. Seeds come one after the other, so that a stopped comparison is an even one. Writes ``NAME.md``,
``NAME.csv``, ``NAME.json`` and plots into the output folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks.ablations.bench import BASES, CATALOGUES, Bench, Budget, run_cell
from benchmarks.ablations.report import write_report
from benchmarks.ablations.variants import EXPERIMENTS, SENTENCES, Variant
from toolscaler._files import read_json, write_json

QUICK = Budget(steps=4, queries=20, beams=5)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=[*EXPERIMENTS, "all"])
    parser.add_argument("--catalogue", choices=list(CATALOGUES), help="default: the name of --data, else starter")
    parser.add_argument("--base", choices=list(BASES), default="scratch", help="minilm: the weights of --sentences")
    parser.add_argument("--data", type=Path, help="folder of the bundle's files")
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"), help="a folder of each catalogue inside")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=Budget.steps, help="optimiser steps a cell")
    parser.add_argument("--queries", type=int, default=Budget.queries, help="held-out queries at most")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="these variants and the first")
    parser.add_argument("--minutes", type=float, help="start no cell after so many minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sentences", default=SENTENCES, help="sentence-transformers model: a name or folder")
    parser.add_argument("--quick", action="store_true", help="a few steps and queries, one seed")
    parser.add_argument("--report_only", action="store_true", help="run nothing")
    return parser


def chosen(name: str, only: Sequence[str] | None) -> list[Variant]:
    variants = EXPERIMENTS[name][1]
    unknown = sorted(set(only or ()) - {variant.name for variant in variants})
    if unknown:
        raise SystemExit(f"{name}: no variant {unknown[0]!r}; there are: {', '.join(v.name for v in variants)}")
    return [variant for place, variant in enumerate(variants) if not only or place == 0 or variant.name in only]


def cell_file(folder: Path, variant: Variant, seed: int, budget: Budget) -> Path:
    return folder / "cells" / f"{variant.key({'seed': seed, **dataclasses.asdict(budget)})}.json"


def run(args: argparse.Namespace, name: str, bench: Bench, folder: Path, budget: Budget, stop: float) -> None:
    """Run the cells of an ablation that are not there yet, then write its report."""
    variants = chosen(name, args.only)
    wanted = [(seed, variant) for seed in args.seeds for variant in variants]
    for seed, variant in tqdm(wanted, desc=name, unit="cell", disable=args.report_only):
        path = cell_file(folder, variant, seed, budget)
        if args.report_only or path.exists() or time.monotonic() > stop:
            continue
        cell = run_cell(bench, variant, seed, budget)
        write_json(path, cell, indent=None)
        mean = sum(cell["per_query"]["ndcg@1"]) / len(cell["per_query"]["ndcg@1"])
        tqdm.write(f"{name}: {variant.name}, seed {seed}: NDCG@1 {100 * mean:.2f}, {cell['train_seconds']:.0f} s")
    # A cell may have been made for another ablation under another name.
    cells: list[dict[str, Any]] = []
    for seed, variant in wanted:
        path = cell_file(folder, variant, seed, budget)
        if path.exists():
            cells.append({**read_json(path), "variant": variant.name})
    if cells:
        order = {variant.name: place for place, variant in enumerate(variants)}
        cells.sort(key=lambda cell: (order[cell["variant"]], cell["seed"]))
        controls = frozenset(variant.name for variant in variants if variant.control)
        print(write_report(EXPERIMENTS[name][0], name, cells, controls, folder))
    if len(cells) < len(wanted):
        print(f"{name}: {len(cells)} of {len(wanted)} cells are done", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    catalogue = args.catalogue or (args.data.name if args.data is not None else "starter")
    if catalogue not in CATALOGUES:
        raise SystemExit(f"--catalogue: expected one of {', '.join(CATALOGUES)}, got {catalogue!r}")
    budget = QUICK if args.quick else Budget(steps=args.steps, queries=args.queries)
    args.seeds = args.seeds[:1] if args.quick else args.seeds
    folder = args.output / (catalogue if args.base == "scratch" else f"{catalogue}-{args.base}")
    bench = Bench(catalogue, args.data, folder / "runs", args.sentences, args.base)
    stop = float("inf") if args.minutes is None else time.monotonic() + 60 * args.minutes
    for name in EXPERIMENTS if args.experiment == "all" else [args.experiment]:
        run(args, name, bench, folder, budget, stop)


if __name__ == "__main__":
    main()
