"""Fit a codebook: ``toolscaler codebook``; measure the one of a run: ``toolscaler codebook report RUN``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml

from toolscaler._files import write_json
from toolscaler.codebook import Codebook, codebook_report, codebook_statistics, plot_codebook_usage
from toolscaler.codebook.collisions import COLLISION_POLICIES
from toolscaler.codebook.settings import EncodingName, MetricName, ProjectionName, QuantizerName, ReassignmentName
from toolscaler.compression import load_embeddings
from toolscaler.data import load_tool_documents
from toolscaler.errors import DataError

# What Codebook.fit does not take.
_OWN = ("embeddings", "output_dir", "documents")


def _option(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return key, yaml.safe_load(value)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser; but for ``embeddings``, ``output_dir`` and ``documents``, flags are keywords of the fit."""
    parser = argparse.ArgumentParser(
        prog="toolscaler codebook",
        description="Turn gist embeddings into codes. `toolscaler codebook report RUN` measures the codebook of a run.",
    )
    add = parser.add_argument
    add("--embeddings", required=True, help="folder made by `toolscaler encode`")
    add("--output_dir", required=True, help="folder for codebook, statistics and plot")
    add("--documents", help="tools in any format the library reads, to measure prefixes against their categories")
    add("--num_levels", type=int, default=2, help="residual levels a gist token (paper: 2)")
    add("--num_centroids", type=int, default=512, help="centroids a level (paper: 512)")
    add("--reduced_dim", type=int, default=32, help="dimensions after PCA (paper: 32)")
    add("--collisions", choices=COLLISION_POLICIES, default="reassign", help="how codes are kept apart")
    add("--balanced", action="store_true", help="cap the size of clusters")
    add("--seed", type=int, default=0)
    add("--max_iterations", type=int, default=100, help="most Lloyd iterations of a k-means run")
    add("--num_restarts", type=int, default=1, help="k-means runs a level; the best is kept")
    add("--quantizer", choices=get_args(QuantizerName), default="residual_kmeans", help="kind of quantiser")
    add("--quantizer_options", nargs="+", type=_option, metavar="KEY=VALUE", help="options of that kind, as YAML")
    add("--encoding", choices=get_args(EncodingName), default="greedy", help="search of the levels' codes")
    add("--beam_width", type=int, default=8, help="prefixes kept a level with --encoding beam")
    add("--reassignment", choices=get_args(ReassignmentName), default="greedy", help="search for free codes")
    add("--projection", choices=get_args(ProjectionName), default="pca")
    add("--whiten", action="store_true", help="divide reduced dimensions by their standard deviation")
    add("--normalize", action="store_true", help="bring embeddings to one length first")
    add("--metric", choices=get_args(MetricName), default="l2")
    return parser


def make_report_parser() -> argparse.ArgumentParser:
    """Make the parser of ``toolscaler codebook report``."""
    parser = argparse.ArgumentParser(
        prog="toolscaler codebook report", description="Measure the codebook of a run: JSON, a table and pictures."
    )
    parser.add_argument("run", help="run folder whose codebook stage is done")
    parser.add_argument("--output", help="folder for the report; default: codebook_report in the run folder")
    parser.add_argument("--reseed", action=argparse.BooleanOptionalAction, help="fit again with another seed")
    parser.add_argument("--plots", action=argparse.BooleanOptionalAction, default=True, help="draw the pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of the table")
    return parser


def _report(argv: Sequence[str]) -> None:
    arguments = make_report_parser().parse_args(argv)
    folder = Path(arguments.run) / "codebook_report" if arguments.output is None else Path(arguments.output)
    found = codebook_report(arguments.run, folder, reseed=arguments.reseed, plots=arguments.plots, seed=arguments.seed)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(f"{', '.join(found['files'])} -> {folder}")


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, save, and print the health statistics; or, with ``report`` as the first word, measure a run's codebook."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["report"]:
        _report(words[1:])
        return
    arguments = vars(make_parser().parse_args(words))
    own = {name: arguments.pop(name) for name in _OWN}
    ids, embeddings = load_embeddings(own["embeddings"])
    documents = None
    if own["documents"] is not None:
        by_id = {document.id: document for document in load_tool_documents(own["documents"])}
        missing = [name for name in ids if name not in by_id]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(ids)} embedded tools are not among the documents, for example {missing[0]!r}"
            )
        documents = [by_id[name] for name in ids]
    arguments["quantizer_options"] = dict(arguments["quantizer_options"] or [])
    codebook = Codebook.fit(embeddings, ids, **arguments)
    statistics = codebook_statistics(codebook, embeddings, documents=documents).to_dict()
    folder = Path(own["output_dir"])
    codebook.save_pretrained(folder)
    write_json(folder / "statistics.json", statistics)
    plot_codebook_usage(codebook, folder / "usage.png")
    print(json.dumps(statistics, indent=2))


if __name__ == "__main__":
    main()
