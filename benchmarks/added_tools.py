"""Tools added after training: how well they are found, and what they cost the tools that were trained.

    python -m benchmarks.added_tools --data PATH --output runs/added_tools
    python -m benchmarks.added_tools --data PATH --output runs/added_tools --sentences PATH/all-MiniLM-L6-v2

A cell is a catalogue and a seed. A share of its tools (20 %) is drawn and held back with every query that names one of
them. A model is trained on the rest by the catalogue's recipe; then the held-back tools are added as
``toolscaler tools add`` does it, without training. Queries for added tools, and held-out queries for the others, are
asked of the model alone, of a dense and a lexical retriever, and of hybrids of draft and model. Half of the held-out
queries for the others set the temperature of the calibrated hybrids; every figure is from the other half. ``--adapt``
adds a copy of the model that was adapted lightly to the added tools by their documents alone.

``--recipe ultratool_scratch --set base.model=scratch`` with ``--sentences`` takes the encoder for the draft alone.

Everything is kept under ``--output``: call it again to go on after an interruption, and with more seeds to add cells.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from toolscaler._files import atomic_folder, write_json, write_text
from toolscaler.catalogue import ToolCatalogue
from toolscaler.catalogue.checking import CatalogueCheck, check_added_tools
from toolscaler.data import ToolDocument, ToolQuery, load_bundle, load_tool_queries
from toolscaler.decoding import GenerativeRetriever
from toolscaler.decoding.hybrid import HybridRetriever
from toolscaler.evaluation import bootstrap_intervals
from toolscaler.evaluation.baselines import BM25Retriever, EmbeddingRetriever
from toolscaler.pipeline import RunConfig, run_pipeline

logger = logging.getLogger(__name__)

#: Catalogue -> options of its bundle, its recipe with a base from scratch and its recipe with a small pretrained base.
CATALOGUES: dict[str, tuple[dict[str, Any], str, str]] = {
    "toole": ({}, "ultratool_scratch", "toole_minilm"),
    "ultratool": ({"language": "en"}, "ultratool_scratch", "toole_minilm"),
}
K = 5
MODEL = "model alone"
#: What ``HybridRetriever`` is made with; the last is calibrated on queries that no figure is taken from.
HYBRIDS: dict[str, dict[str, Any]] = {
    "verify": {"mode": "verify"},
    "fuse": {"mode": "fuse"},
    "calibrated": {"mode": "verify"},
}
#: Share of first places of known tools that the calibrated hybrids may lose on the queries they are calibrated with.
MAX_LOSS = 0.005


def split_tools(
    documents: Sequence[ToolDocument], queries: Sequence[ToolQuery], share: float, seed: int
) -> tuple[list[ToolDocument], list[ToolDocument], list[ToolQuery], list[ToolQuery]]:
    """Draw the tools to hold back.

    Returns:
        Documents to train on, documents held back, queries of which every label is trained on, and queries with at
        least one label that was held back.
    """
    names = sorted(document.id for document in documents)
    held = set(random.Random(seed).sample(names, max(1, round(share * len(names)))))
    old = [query for query in queries if query.tools and not held.intersection(query.tools)]
    new = [query for query in queries if held.intersection(query.tools)]
    return (
        [item for item in documents if item.id not in held],
        [item for item in documents if item.id in held],
        old,
        new,
    )


def make_run(cell: Path, name: str, seed: int, arguments: argparse.Namespace) -> tuple[Path, list[Any], list[Any]]:
    """Train on the old tools; give the run folder, the held-back documents, and the queries for these."""
    options, scratch, pretrained = CATALOGUES[name]
    bundle = load_bundle(name, Path(arguments.data) / name, **options)
    old, added, queries, fresh = split_tools(bundle.documents, bundle.queries, arguments.share, seed)
    if not (cell / "input" / "queries.jsonl").exists():
        with atomic_folder(cell / "input") as folder:
            _write_lines(folder / "tools.jsonl", [item.to_dict() for item in old])
            _write_lines(folder / "queries.jsonl", [{"query": q.text, "tools": list(q.tools)} for q in queries])
    overrides: dict[str, Any] = {
        "output_dir": str(cell / "run"),
        "seed": seed,
        "data.tools": str(cell / "input" / "tools.jsonl"),
        "data.queries": str(cell / "input" / "queries.jsonl"),
        "data.options": {},
        "data.max_test_queries": arguments.max_queries,
        "data.seed": seed,
    }
    if arguments.sentences is not None:
        overrides["base.model"] = arguments.sentences
    overrides.update((key, yaml.safe_load(value)) for key, value in (text.split("=", 1) for text in arguments.set))
    recipe = arguments.recipe or (scratch if arguments.sentences is None else pretrained)
    run = run_pipeline(RunConfig.from_file(recipe, overrides), until="retrieval")
    random.Random(seed).shuffle(fresh)
    return run, added, fresh[: arguments.max_queries]


def open_added(cell: Path, run: Path, added: Sequence[ToolDocument]) -> tuple[ToolCatalogue, float | None]:
    """Copy the trained model and add the held-back tools to the copy; give the seconds that adding took."""
    target = cell / "added"
    if not target.exists():
        with atomic_folder(target) as folder:
            shutil.copytree(run / "model", folder, dirs_exist_ok=True)
    catalogue = ToolCatalogue.open(target, compressor=run / "compression" / "model")
    missing = [item for item in added if item.id not in catalogue]
    if not missing:
        return catalogue, None
    begun = time.perf_counter()
    catalogue.add(missing, note="held back in training")
    return catalogue, time.perf_counter() - begun


def systems(
    catalogue: ToolCatalogue, run: Path, known: Sequence[ToolQuery], arguments: argparse.Namespace
) -> dict[str, Callable[[], Any]]:
    """Give what is compared, each made when it is asked for; ``known`` are the queries to calibrate with."""
    documents, unseen = catalogue.documents(), catalogue.untrained
    model = GenerativeRetriever.from_pretrained(catalogue.folder)
    dense = EmbeddingRetriever(documents, arguments.sentences or "lsa")
    lexical = BM25Retriever(documents)
    made: dict[str, Callable[[], Any]] = {MODEL: lambda: model, "dense": lambda: dense, "bm25": lambda: lexical}
    for draft, retriever in (("dense", dense), ("bm25", lexical)):
        for kind, more in HYBRIDS.items():
            hybrid = HybridRetriever(retriever, model, unseen=unseen, draft_k=20, union_k=10, **more)
            queries = known if kind == "calibrated" else ()
            made[f"hybrid, {draft}, {kind}"] = lambda h=hybrid, q=queries: calibrated(h, q)  # type: ignore[misc]
    if arguments.adapt:
        made["adapted"] = lambda: adapted(catalogue, run)
    return made


def calibrated(hybrid: HybridRetriever, queries: Sequence[ToolQuery]) -> HybridRetriever:
    """Set the temperature by these queries, where there are any."""
    if queries:
        found = hybrid.calibrate([q.text for q in queries], [q.tools for q in queries], max_loss=MAX_LOSS)
        logger.info("temperature %g from %d queries", found, len(queries))
    return hybrid


def adapted(catalogue: ToolCatalogue, run: Path) -> GenerativeRetriever:
    """Adapt a copy of the model to the documents of the added tools, with its training queries rehearsed."""
    folder = catalogue.folder.parent / "adapted"
    if not folder.exists():
        with atomic_folder(folder) as target:
            shutil.copytree(catalogue.folder, target, dirs_exist_ok=True)
    other = ToolCatalogue.open(folder)
    if other.untrained:
        other.adapt(list(load_tool_queries(run / "data" / "train.jsonl")), note="documents of added tools")
    return GenerativeRetriever.from_pretrained(other.folder)


def run_cell(name: str, seed: int, arguments: argparse.Namespace) -> None:
    """Make one cell, or what is left of it, and write it."""
    cell = Path(arguments.output) / f"{name}-{seed}"
    cell.mkdir(parents=True, exist_ok=True)
    path = cell / "cell.json"
    done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    wanted = [MODEL, "dense", "bm25", *(f"hybrid, {d}, {kind}" for d in ("dense", "bm25") for kind in HYBRIDS)]
    wanted += ["adapted"] if arguments.adapt else []
    if set(wanted) <= done.get("systems", {}).keys():
        return
    run, added, fresh = make_run(cell, name, seed, arguments)
    held_out = list(load_tool_queries(run / "data" / "test.jsonl"))
    random.Random(seed).shuffle(held_out)
    known, test = held_out[: len(held_out) // 2], held_out[len(held_out) // 2 :]
    catalogue, seconds = open_added(cell, run, added)
    done = {
        "catalogue": name,
        "seed": seed,
        "tools": len(catalogue),
        "added": len(added),
        "dense": "lsa" if arguments.sentences is None else "/".join(Path(arguments.sentences).parts[-2:]),
        "seconds_adding": seconds if seconds is not None else done.get("seconds_adding"),
        "systems": done.get("systems", {}),
    }
    for system, make in systems(catalogue, run, known, arguments).items():
        if system not in done["systems"]:
            found = check_added_tools(make(), catalogue.tool_ids, [item.id for item in added], fresh, test, k=K)
            done["systems"][system] = _values(found)
            write_json(path, done, indent=None)
            logger.info("%s, seed %d, %s: done", name, seed, system)


def _values(found: CatalogueCheck) -> dict[str, list[float]]:
    keys = ("added_recall", "added_first", "old_first_before", "old_first_after", "intruded")
    return {key: getattr(found, key).tolist() for key in keys}


def markdown(cells: Sequence[dict[str, Any]]) -> str:
    """Write the tables: one a catalogue, all seeds together."""
    parts = []
    for name in dict.fromkeys(cell["catalogue"] for cell in cells):
        own = [cell for cell in cells if cell["catalogue"] == name]
        first = own[0]
        parts += [
            f"### {name}: {first['added']} of {first['tools']} tools added after training, "
            f"{len(own)} {'seed' if len(own) == 1 else 'seeds'}, dense = {first['dense']}",
            "",
            f"| system | Recall@{K} of added tools | NDCG@1 of added tools | cold intrusion | NDCG@1 of old tools | "
            "points lost against the model before |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        before = np.concatenate([cell["systems"][MODEL]["old_first_before"] for cell in own])
        for system in first["systems"]:
            if not all(system in cell["systems"] for cell in own):
                continue
            column = {
                key: np.concatenate([cell["systems"][system][key] for cell in own]) for key in first["systems"][system]
            }
            values = [column[key] for key in ("added_recall", "added_first", "intruded", "old_first_after")]
            shown = [_shown(value) for value in (*values, before - column["old_first_after"])]
            parts.append(f"| {system} | {' | '.join(shown)} |")
        numbers = (len(before), sum(len(cell["systems"][MODEL]["added_recall"]) for cell in own))
        parts += ["", f"Per cent with 95 % bootstrap intervals; {numbers[0]} old and {numbers[1]} added queries.", ""]
    return "\n".join(parts)


def _shown(values: np.ndarray) -> str:
    if not len(values):
        return "–"
    low, high = bootstrap_intervals(values)
    return f"{100 * values.mean():.2f} [{100 * float(low):.2f}, {100 * float(high):.2f}]"


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def make_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder that holds the bundles' folders")
    parser.add_argument("--output", required=True, help="folder for cells and tables")
    parser.add_argument("--catalogues", nargs="+", choices=sorted(CATALOGUES), default=sorted(CATALOGUES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.2, help="share of the tools that is held back")
    parser.add_argument("--sentences", help="sentence encoder: the dense retriever, and the base of the model")
    parser.add_argument("--recipe", help="recipe to train with; default: the catalogue's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.add_argument("--max_queries", type=int, default=1500, help="queries of each kind at most")
    parser.add_argument("--adapt", action="store_true", help="adapt a copy of the model, too")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Make the cells and write the tables."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    output = Path(arguments.output)
    for name in arguments.catalogues:
        for seed in arguments.seeds:
            run_cell(name, seed, arguments)
            table = markdown(read_cells(output))
            write_text(output / "results.md", table)
    print(table)


def read_cells(output: Path) -> list[dict[str, Any]]:
    """Read every cell of a folder, those of earlier calls too."""
    cells = [json.loads(path.read_text()) for path in sorted(output.glob("*/cell.json"))]
    return [cell for cell in cells if MODEL in cell["systems"]]


if __name__ == "__main__":
    main()
