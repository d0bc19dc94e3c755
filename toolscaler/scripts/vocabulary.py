"""Give every tool its tokens, and the model their rows: ``toolscaler vocabulary``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from toolscaler._files import atomic_folder
from toolscaler.codebook import Codebook
from toolscaler.compression import load_embeddings
from toolscaler.data import load_tool_documents
from toolscaler.embedding import initialize_code_embeddings, initialize_first_rows
from toolscaler.errors import ConfigError
from toolscaler.tokenization import ToolscalerTokenizer
from toolscaler.tokenization.strategies import STRATEGIES, make_strategy


def make_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(prog="toolscaler vocabulary", description="Give a base model the code tokens.")
    parser.add_argument("--model", required=True, help="base causal LM: Hub id or folder")
    parser.add_argument("--strategy", choices=list(STRATEGIES), default="toolscaler", help="how a tool becomes tokens")
    parser.add_argument("--options", type=json.loads, default={}, help="options of another strategy, as JSON")
    parser.add_argument("--tools", help="tool source; for every strategy but toolscaler")
    parser.add_argument("--codebook", help="folder made by `toolscaler codebook`; for toolscaler")
    parser.add_argument("--embeddings", help="folder made by `toolscaler encode`; for toolscaler and hierarchical")
    parser.add_argument("--output_dir", required=True, help="folder for model and tokenizer")
    parser.add_argument("--scale", choices=["match", "none"], default="match")
    parser.add_argument("--init", choices=["reframe", "random"], default="reframe")
    parser.add_argument(
        "--retrieval_template", help="prompt with {query}; default: chat template or query + line break"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Resize, write the rows, and save model and tokenizer."""
    arguments = make_parser().parse_args(argv)
    toolscaler = arguments.strategy == "toolscaler"
    needed = ("codebook", "embeddings") if toolscaler else ("tools",)
    if STRATEGIES[arguments.strategy].needs_embeddings:
        needed = (*needed, "embeddings")
    for name in needed:
        if getattr(arguments, name) is None:
            raise ConfigError(f"--{name}", None, f"a folder or file: the strategy {arguments.strategy!r} needs it")
    model = AutoModelForCausalLM.from_pretrained(arguments.model)
    base = AutoTokenizer.from_pretrained(arguments.model)
    tokenizer = (_with_codebook if toolscaler else _with_strategy)(arguments, model, base)
    with atomic_folder(arguments.output_dir) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    print(f"{tokenizer.num_code_tokens} code tokens for {len(tokenizer.tool_index)} tools -> {arguments.output_dir}")


def _with_codebook(arguments: argparse.Namespace, model: Any, base: Any) -> ToolscalerTokenizer:
    codebook = Codebook.from_pretrained(arguments.codebook)
    tokenizer = ToolscalerTokenizer.from_tokenizer(base, codebook, retrieval_template=arguments.retrieval_template)
    initialize_code_embeddings(
        model,
        tokenizer,
        _embeddings_of(arguments.embeddings, tokenizer.tool_names),
        scale=arguments.scale,
        init=arguments.init,
        seed=arguments.seed,
    )
    return tokenizer


def _with_strategy(arguments: argparse.Namespace, model: Any, base: Any) -> ToolscalerTokenizer:
    documents = list(load_tool_documents(arguments.tools))
    strategy = make_strategy(arguments.strategy, arguments.options)
    embeddings = None
    if strategy.needs_embeddings:
        embeddings = _embeddings_of(arguments.embeddings, [document.id for document in documents])
    catalogue = strategy.tokenize(documents, base, embeddings, retrieval_template=arguments.retrieval_template)
    initialize_first_rows(model, catalogue, embeddings, scale=arguments.scale, seed=arguments.seed)
    return catalogue.tokenizer


def _embeddings_of(folder: str, names: Sequence[str]) -> Any:
    """Load gist embeddings (N, V, D) in the order of ``names``."""
    ids, embeddings = load_embeddings(folder)
    row_of = {name: row for row, name in enumerate(ids)}
    missing = [name for name in names if name not in row_of]
    if missing:
        raise ConfigError("--embeddings", folder, f"embeddings of every tool; {len(missing)} lack, as {missing[0]!r}")
    return embeddings[[row_of[name] for name in names]]


if __name__ == "__main__":
    main()
