"""Export gist embeddings: ``toolscaler encode``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from transformers import AutoTokenizer

from toolscaler.compression import GistForToolCompression, encode_documents
from toolscaler.data import load_tool_documents


def make_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(prog="toolscaler encode", description="Encode a catalogue into gist embeddings.")
    parser.add_argument("--model", required=True, help="folder of a trained compressor")
    parser.add_argument("--tools", required=True, help="tool source in any format the library reads")
    parser.add_argument("--format", help="reader of the tools; default: found from the content")
    parser.add_argument("--output_dir", required=True, help="folder for the shards; a killed export goes on there")
    parser.add_argument("--max_tokens_per_batch", type=int, default=8192, help="token budget of a batch")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Encode every tool; (N, V, D) float32 goes to ``output_dir`` in shards."""
    arguments = make_parser().parse_args(argv)
    values = encode_documents(
        GistForToolCompression.from_pretrained(arguments.model),
        AutoTokenizer.from_pretrained(arguments.model),
        load_tool_documents(arguments.tools, format=arguments.format),
        arguments.output_dir,
        max_tokens_per_batch=arguments.max_tokens_per_batch,
    )
    print(f"{values.shape[0]} tools x {values.shape[1]} gist tokens x {values.shape[2]} -> {arguments.output_dir}")


if __name__ == "__main__":
    main()
