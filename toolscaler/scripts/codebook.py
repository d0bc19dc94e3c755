"""Fit a codebook: ``toolscaler codebook``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from toolscaler._files import write_json
from toolscaler.codebook import Codebook, codebook_statistics, plot_codebook_usage
from toolscaler.compression import load_embeddings


def make_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(prog="toolscaler codebook", description="Turn gist embeddings into codes.")
    parser.add_argument("--embeddings", required=True, help="folder made by `toolscaler encode`")
    parser.add_argument("--output_dir", required=True, help="folder for codebook, statistics and plot")
    parser.add_argument("--num_levels", type=int, default=2, help="residual levels a gist token (paper: 2)")
    parser.add_argument("--num_centroids", type=int, default=512, help="centroids a level (paper: 512)")
    parser.add_argument("--reduced_dim", type=int, default=32, help="dimensions after PCA (paper: 32)")
    parser.add_argument("--collisions", choices=["reassign", "suffix", "share"], default="reassign")
    parser.add_argument("--balanced", action="store_true", help="cap the size of clusters")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, save, and print the health statistics."""
    arguments = make_parser().parse_args(argv)
    ids, embeddings = load_embeddings(arguments.embeddings)
    codebook = Codebook.fit(
        embeddings,
        ids,
        num_levels=arguments.num_levels,
        num_centroids=arguments.num_centroids,
        reduced_dim=arguments.reduced_dim,
        collisions=arguments.collisions,
        balanced=arguments.balanced,
        seed=arguments.seed,
    )
    statistics = codebook_statistics(codebook, embeddings).to_dict()
    folder = Path(arguments.output_dir)
    codebook.save_pretrained(folder)
    write_json(folder / "statistics.json", statistics)
    plot_codebook_usage(codebook, folder / "usage.png")
    print(json.dumps(statistics, indent=2))


if __name__ == "__main__":
    main()
