"""What the agent examples share: a trained model where there is one, else a tiny one with random weights.

A trained model that does not know a tool gets a code for it without any training (paper, appendix A): the compressor
of the same run folder reads the documentation, and the saved codebook turns what it gives into a code.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from toolscaler import ToolDocument, ToolscalerTokenizer, initialize_code_embeddings
from toolscaler.agent import AgentTrajectory, CodePlanner
from toolscaler.data import finish_document

#: Where `make quickstart` leaves its model.
DEFAULT = Path("runs/starter/agent_model")
#: Of the random weights.
SEED = 0


def make_parser(text: str, query: str) -> argparse.ArgumentParser:
    """Make the command line of an example."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("query", nargs="?", default=query)
    parser.add_argument(
        "--model", type=Path, help=f"folder of a trained agent model; default: {DEFAULT} if it is there"
    )
    return parser


def planner_for(documents: Sequence[ToolDocument], model: Path | None = None) -> CodePlanner:
    """Give a planner that has a code for each of the documents and for Finish."""
    if model is None and DEFAULT.is_dir():
        model = DEFAULT
    if model is None:
        print(f"No trained model at {DEFAULT} (make quickstart trains one) and no --model: this is a tiny model with")
        print("random weights. It picks tools and values at random, but its calls are valid and really run.\n")
        return random_planner(documents)
    planner = CodePlanner.from_pretrained(model)
    new = [document for document in documents if document.id not in planner.tokenizer.tool_index]
    if new:
        add_codes(planner.tokenizer, new, model.parent / "compression" / "model")
        print(f"{model} was not trained on {len(new)} of these tools; they got codes without training:")
        for document in new:
            print(f"  {planner.tokenizer.tool_code_text(document.id)}  {document.id}")
        print()
    return planner


def add_codes(tokenizer: ToolscalerTokenizer, documents: Sequence[ToolDocument], compressor: Path) -> None:
    """Give new tools codes with the compressor of the run that the tokenizer comes from."""
    from transformers import AutoTokenizer

    from toolscaler import GistForToolCompression, encode_documents

    if not compressor.is_dir():
        raise SystemExit(f"the model has no codes for {documents[0].id!r}, and there is no compressor at {compressor}")
    gists = GistForToolCompression.from_pretrained(compressor)
    embeddings = encode_documents(gists, AutoTokenizer.from_pretrained(compressor), documents, show_progress=False)
    tokenizer.add_tools(
        [document.id for document in documents],
        embeddings=embeddings,
        document_hashes=[document.content_hash for document in documents],
    )


def random_planner(documents: Sequence[ToolDocument]) -> CodePlanner:
    """Make a model of two small layers in a second; nothing is downloaded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    known = {document.id: document for document in (*documents, finish_document())}
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([document.to_text() for document in known.values()], trainer)
    base = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    size = max(2, round(len(known) ** 0.5) + 1)
    codes = [[number // size, number % size] for number in range(len(known))]
    tokenizer = ToolscalerTokenizer.from_tokenizer(base, codes=codes, tool_ids=known, code_sizes=(size, size))
    torch.set_num_threads(1)  # so small a model waits for its threads longer than it works
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=8192,
            pad_token_id=base.pad_token_id,
            bos_token_id=base.bos_token_id,
            eos_token_id=base.eos_token_id,
        )
    ).eval()
    initialize_code_embeddings(model, tokenizer, init="random")
    return CodePlanner(
        model, tokenizer, temperature=1.0, max_thought_tokens=8, max_argument_tokens=24, max_parallel_calls=1
    )


def show(run: AgentTrajectory) -> None:
    """Print a run, step by step."""
    print(f"query: {run.query}")
    for step in run.steps:
        if step.thought:
            print(f"  thought: {step.thought!r}")
        for call in step.calls:
            print(f"  call: {call.code} {call.tool} {dict(call.arguments)}")
            print(f"  {'error' if call.result.is_error else 'result'}: {call.result.content!r:.200}")
    print(f"{run.outcome}: {run.answer!r:.200} ({len(run.calls)} calls, {run.seconds:.1f} s)")
