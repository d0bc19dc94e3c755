"""What the trie and the schema cost for each generated token, against free decoding by the same model.

Run: python -m benchmarks.agent_overhead [--rounds 9] [--only scratch] [--output agent_overhead.json]

Same model, same prompt, same number of tokens, greedy; what is compared runs in turn, and ratios are taken round by
round. Times are CPU seconds of the one thread. Random weights: what a token costs does not depend on them. Two models:
one of the size that `toolscaler run --config starter` makes, and one with the width and vocabulary of Qwen2.5-0.5B but
2 of its 24 layers; the last column counts the others in.
Writes the figures as JSON, and as a Markdown table beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import string
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.decoding.timing import seconds_of
from toolscaler.agent.argument_processor import ArgumentLogitsProcessor
from toolscaler.agent.arguments import ArgumentGrammar
from toolscaler.agent.text_model import ReadText, TextModel
from toolscaler.decoding import CodeTrie, PrefixConstrainedLogitsProcessor
from toolscaler.tokenization import ToolscalerTokenizer

#: Arguments that cannot end before the tokens are counted: texts, numbers and a choice.
SCHEMA = {
    "type": "object",
    "properties": {
        "rows": {
            "type": "array",
            "minItems": 50,
            "items": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "minLength": 8, "maxLength": 24},
                    "days": {"type": "integer", "minimum": 1, "maximum": 1000},
                    "unit": {"enum": ["metric", "imperial"]},
                },
                "required": ["city", "days", "unit"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["rows"],
}
PROMPT_TOKENS = 64


@dataclass(frozen=True)
class Shape:
    """Size of a model and its catalogue; ``whole_layers`` is what the model that it stands for has."""

    name: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    whole_layers: int
    heads: int
    key_value_heads: int
    tools: int
    codes: int
    tokens: int


SHAPES = (
    Shape("scratch, 1.3 M", 4_096, 128, 384, 4, 4, 4, 4, 132, 12, 64),
    Shape("0.5B shape, 2 of 24 layers", 151_643, 896, 4_864, 2, 24, 14, 2, 47_000, 512, 24),
)


def make_tokenizer(shape: Shape) -> ToolscalerTokenizer:
    """Make a byte-level tokenizer of some size: every string of two, three and more letters is one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: row for row, token in enumerate(["<pad>", "</s>", *letters])}
    merges: list[tuple[str, str]] = []
    begun = list(string.ascii_lowercase)
    while len(vocabulary) < shape.vocabulary:
        room = shape.vocabulary - len(vocabulary)
        grown = list(itertools.islice(itertools.product(begun, string.ascii_lowercase), room))
        merges += grown
        begun = [first + second for first, second in grown]
        vocabulary.update({text: len(vocabulary) + row for row, text in enumerate(begun)})
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    base = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")
    drawn = np.random.default_rng(0).choice(shape.codes**4, shape.tools, replace=False)
    codes = np.stack([drawn // shape.codes**place % shape.codes for place in range(4)], 1)
    names = [f"tool_{number}" for number in range(shape.tools)]
    return ToolscalerTokenizer.from_tokenizer(base, codes=codes, tool_ids=names, code_sizes=(shape.codes,) * 4)


def make_model(shape: Shape, tokenizer: ToolscalerTokenizer) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.required_vocab_size,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).eval()


class Bench:
    """One model, and what is timed on it."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.tokenizer = shape, make_tokenizer(shape)
        self.model = make_model(shape, self.tokenizer)
        self.trie = CodeTrie.from_tokenizer(self.tokenizer)
        self.grammar = ArgumentGrammar(self.tokenizer, SCHEMA)
        self.text = TextModel(self.model)
        self.prompt = torch.randint(2, 200, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(1))
        self.free = torch.ones(self.tokenizer.required_vocab_size, dtype=torch.bool)

    def generate(self, count: int, *processors: Any) -> list[int]:
        """Let transformers generate so many tokens; nothing ends it before."""
        made = self.model.generate(
            self.prompt,
            attention_mask=torch.ones_like(self.prompt),
            logits_processor=list(processors),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return made[0, PROMPT_TOKENS:].tolist()

    def by_trie(self, count: int) -> list[int]:
        """Generate codes of the trie."""
        processor = PrefixConstrainedLogitsProcessor(
            self.trie, self.tokenizer.eos_token_id, prompt_length=PROMPT_TOKENS
        )
        return self.generate(count, processor)

    def by_schema(self, count: int) -> list[int]:
        """Generate arguments that fit the schema."""
        return self.generate(count, ArgumentLogitsProcessor(self.grammar, PROMPT_TOKENS))

    def agent(self, count: int, *, schema: bool) -> list[int]:
        """Generate as the agent does: token by token over its own cache."""
        text, matcher = ReadText(self.text), self.grammar.matcher()
        ids = self.prompt[0].tolist()
        for _ in range(count):
            allowed = torch.from_numpy(matcher.allowed()) if schema else self.free
            logits = text.read(ids)
            token = int(logits[: len(allowed)].masked_fill(~allowed, -torch.inf).argmax())
            if schema:
                matcher.accept(token)
            ids.append(token)
        return ids[PROMPT_TOKENS:]

    def layer_seconds(self) -> float:
        """Time one layer on one token, over the prompt's keys and values."""
        layer, rotary = self.model.model.layers[0], self.model.model.rotary_emb
        hidden, places = torch.randn(1, 1, self.shape.hidden), torch.tensor([[PROMPT_TOKENS]])
        with torch.no_grad():
            angles = rotary(hidden, places)
            run = partial(layer, hidden, position_embeddings=angles, position_ids=places)
            return statistics.median(seconds_of(run)[0] for _ in range(30))

    def pairs(self) -> dict[str, tuple[int, Callable[[int], list[int]], Callable[[int], list[int]]]]:
        """Give what is compared: name -> tokens, freely, under the constraint."""
        codes, tokens = self.tokenizer.code_length, self.shape.tokens
        return {
            "trie, `generate`": (codes, self.generate, self.by_trie),
            "schema, `generate`": (tokens, self.generate, self.by_schema),
            "schema, the agent": (tokens, partial(self.agent, schema=False), partial(self.agent, schema=True)),
        }

    def check(self) -> None:
        """See that what is timed does what it says."""
        codes = self.by_trie(self.tokenizer.code_length)
        if len(self.tokenizer.decode_tool(codes)) != 1:
            raise SystemExit(f"{codes} name no tool")
        for tokens in (self.by_schema(self.shape.tokens), self.agent(self.shape.tokens, schema=True)):
            matcher = self.grammar.matcher()
            for token in tokens:
                matcher.accept(token)
            if len(tokens) != self.shape.tokens or matcher.finished:
                raise SystemExit("the arguments ended before the tokens were counted")


def measure(shape: Shape, rounds: int) -> list[dict[str, Any]]:
    """Measure one model; what comes first changes from round to round."""
    bench = Bench(shape)
    bench.check()  # and everything is warm
    missing = (shape.whole_layers - shape.layers) * bench.layer_seconds()
    rows = []
    for name, (tokens, free, bound) in bench.pairs().items():
        free_times, bound_times = [], []
        for number in range(rounds):
            kinds = [(free, free_times), (bound, bound_times)]
            for action, times in kinds if number % 2 else kinds[::-1]:
                times.append(seconds_of(partial(action, tokens))[0] / tokens)
        ratios = [two / one for one, two in zip(free_times, bound_times, strict=True)]
        added = [two - one for one, two in zip(free_times, bound_times, strict=True)]
        rows.append(
            {
                "model": shape.name,
                "vocabulary": len(bench.tokenizer),
                "constraint": name,
                "tokens": tokens,
                "free_ms": 1e3 * statistics.median(free_times),
                "bound_ms": 1e3 * statistics.median(bound_times),
                "ratio": statistics.median(ratios),
                "ratio_quartiles": [float(value) for value in np.quantile(ratios, [0.25, 0.75])],
                "added_us": 1e6 * statistics.median(added),
                "whole_ratio": 1 + statistics.median(added) / (statistics.median(free_times) + missing),
                "rounds": rounds,
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """Give the figures as a table."""
    lines = [
        "| model | constraint | tokens | free, ms | constrained, ms | ratio [quartiles] | added, µs | whole model |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, high = row["ratio_quartiles"]
        times = [f"{row['free_ms']:.2f}", f"{row['bound_ms']:.2f}", f"{row['ratio']:.3f} [{low:.3f}, {high:.3f}]"]
        cells = [row["model"], row["constraint"], str(row["tokens"]), *times]
        lines.append(f"| {' | '.join(cells)} | {row['added_us']:.0f} | {row['whole_ratio']:.3f} |")
    return "\n".join([*lines, ""])


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Cost of the constraints for each generated token.")
    parser.add_argument("--rounds", type=int, default=9, help="rounds a comparison (default: 9)")
    parser.add_argument("--only", help="models whose name begins so")
    parser.add_argument("--output", type=Path, default=Path("agent_overhead.json"), help="where the figures go")
    return parser


def main() -> int:
    arguments = make_parser().parse_args()
    torch.set_num_threads(1)
    chosen = [shape for shape in SHAPES if shape.name.startswith(arguments.only or "")]
    if not chosen or arguments.rounds < 1:
        raise SystemExit(f"expected at least one round and a model out of {[shape.name for shape in SHAPES]}")
    rows: list[dict[str, Any]] = []
    for shape in chosen:
        rows += measure(shape, arguments.rounds)
        arguments.output.write_text(json.dumps(rows, indent=1))
    arguments.output.with_suffix(".md").write_text(markdown(rows))
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
