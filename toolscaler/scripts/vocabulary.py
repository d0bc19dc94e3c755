"""Add codes to tokenizer and model: ``toolscaler vocabulary``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from transformers import AutoModelForCausalLM, AutoTokenizer

from toolscaler._files import atomic_folder
from toolscaler.codebook import Codebook
from toolscaler.compression import load_embeddings
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.tokenization import ToolscalerTokenizer


def make_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(prog="toolscaler vocabulary", description="Give a base model the code tokens.")
    parser.add_argument("--model", required=True, help="base causal LM: Hub id or folder")
    parser.add_argument("--codebook", required=True, help="folder made by `toolscaler codebook`")
    parser.add_argument("--embeddings", required=True, help="folder made by `toolscaler encode`")
    parser.add_argument("--output_dir", required=True, help="folder for model and tokenizer")
    parser.add_argument("--scale", choices=["match", "none"], default="match")
    parser.add_argument("--init", choices=["reframe", "random"], default="reframe")
    parser.add_argument(
        "--retrieval_template", help="prompt with {query}; default: chat template or query + line break"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Resize, write the code rows, and save model and tokenizer."""
    arguments = make_parser().parse_args(argv)
    codebook = Codebook.from_pretrained(arguments.codebook)
    ids, embeddings = load_embeddings(arguments.embeddings)
    model = AutoModelForCausalLM.from_pretrained(arguments.model)
    tokenizer = ToolscalerTokenizer.from_tokenizer(
        AutoTokenizer.from_pretrained(arguments.model), codebook, retrieval_template=arguments.retrieval_template
    )
    row_of = {name: row for row, name in enumerate(ids)}
    ordered = embeddings[[row_of[name] for name in tokenizer.tool_names]]
    initialize_code_embeddings(
        model, tokenizer, ordered, scale=arguments.scale, init=arguments.init, seed=arguments.seed
    )
    with atomic_folder(arguments.output_dir) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    print(f"{tokenizer.num_code_tokens} code tokens for {len(ids)} tools -> {arguments.output_dir}")


if __name__ == "__main__":
    main()
