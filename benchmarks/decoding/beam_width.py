"""How wide a beam a trained model needs: what each width misses of the exact ranking, and what it costs.

    python -m benchmarks.decoding.beam_width RUN [--beams 5 10 20 40] [--scores full] [--json widths.json]

RUN is a run folder: its trained model and its held-out queries are used. The exact top k comes from a search that
widens until it is certified. CPU milliseconds a query are those of this thread; the widths take turns, batch by batch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.decoding.timing import machine, seconds_of
from toolscaler.decoding import GenerativeRetriever
from toolscaler.evaluation.metrics import ndcg_at_k


def read_queries(path: Path, limit: int | None) -> tuple[list[str], list[list[str]]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:limit]
    return [row["query"] for row in rows], [row["tools"] for row in rows]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    retriever = GenerativeRetriever.from_pretrained(args.run / "model", device="cpu")
    texts, labels = read_queries(args.run / "data" / "test.jsonl", args.limit)
    beams = list(args.beams)
    found: dict[int, list[Any]] = {width: [] for width in beams}
    exact: list[Any] = []
    seconds = dict.fromkeys(beams, 0.0)
    options: dict[str, Any] = {"batch_size": args.batch, "scores": args.scores}
    retriever.retrieve(texts[: args.batch], args.top_k, num_beams=beams[0], **options)  # fills caches, not timed
    for number, start in enumerate(range(0, len(texts), args.batch)):
        part = texts[start : start + args.batch]
        turn = number % len(beams)
        for width in beams[turn:] + beams[:turn]:
            taken, rankings = seconds_of(partial(retriever.retrieve, part, args.top_k, num_beams=width, **options))
            seconds[width] += taken
            found[width] += rankings
        exact += retriever.retrieve(part, args.top_k, num_beams=max(beams), exact=True, **options)
    truth = [[tool.name for tool in ranking] for ranking in exact]
    widths = {}
    for width in beams:
        names = [[tool.name for tool in ranking] for ranking in found[width]]
        widths[str(width)] = {
            "overlap": statistics.mean(
                len(set(row) & set(best)) / len(best) for row, best in zip(names, truth, strict=True)
            ),
            "equal_rankings": statistics.mean(row == best for row, best in zip(names, truth, strict=True)),
            "certified": statistics.mean(ranking.certified for ranking in found[width]),
            "ndcg": _ndcg(names, labels, args.top_k),
            "ms_per_query": 1000 * seconds[width] / len(texts),
        }
    return {
        "tools": len(retriever.trie),
        "queries": len(texts),
        "top_k": args.top_k,
        "scores": args.scores,
        "batch": args.batch,
        "exact_ndcg": _ndcg(truth, labels, args.top_k),
        "widths": widths,
        "machine": machine(),
    }


def _ndcg(names: list[list[str]], labels: list[list[str]], top_k: int) -> float:
    return statistics.mean(ndcg_at_k(row, relevant, top_k) for row, relevant in zip(names, labels, strict=True))


def table(result: dict[str, Any]) -> str:
    k = result["top_k"]
    lines = [
        f"{result['queries']:,} queries, {result['tools']:,} tools, {result['scores']} scores, batches of "
        f"{result['batch']}; exact search: NDCG@{k} {100 * result['exact_ndcg']:.2f}\n",
        f"| beams | of the exact top {k} | rankings equal | certified | NDCG@{k} | CPU ms a query |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for width, row in result["widths"].items():
        shares = " | ".join(f"{100 * row[name]:.2f} %" for name in ("overlap", "equal_rankings", "certified"))
        lines.append(f"| {width} | {shares} | {100 * row['ndcg']:.2f} | {row['ms_per_query']:.2f} |")
    return "\n".join(lines) + "\n"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder with data/test.jsonl and model/")
    parser.add_argument("--beams", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--scores", choices=("full", "group"), default="full")
    parser.add_argument("--batch", type=int, default=16, help="queries a batch")
    parser.add_argument("--limit", type=int, help="use the first queries only")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--json", type=Path, help="write the result there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    result = measure(args)
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
