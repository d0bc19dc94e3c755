"""Top-k tools end to end: our engine against ``generate`` with a processor, one model, the same prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.decoding.models import END, QWEN, STARTER, TINY, Shape, draw_queries, make_model, make_tokenizer
from benchmarks.decoding.peers import DictTrie, ToolGenStyle
from benchmarks.decoding.timing import alternate
from toolscaler.decoding import CodeTrie, GenerativeRetriever, PrefixConstrainedLogitsProcessor

TOP_K = 5
Call = Callable[[list[str]], Any]

#: The system that the others are compared with.
REFERENCE = "generate, ToolGen-style walk, beams 5, batch 1"


class Generate:
    """``model.generate`` as a retriever: prompts of one length in, token ids and scores of the beams out."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.dict_trie = DictTrie(tokenizer.tool_token_ids())
        self.trie = CodeTrie.from_tokenizer(tokenizer)

    def __call__(
        self, queries: list[str], num_beams: int, *, ours: bool = False, with_scores: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor(
            [self.tokenizer.encode_retrieval_prompt(query) for query in queries], device=self.model.device
        )
        width = ids.shape[1]
        walk: Any = ToolGenStyle(self.dict_trie, width, END)
        if ours:
            walk = PrefixConstrainedLogitsProcessor(self.trie, END, reuse_buffer=True)
        found = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            logits_processor=[walk],
            num_beams=num_beams,
            num_return_sequences=TOP_K,
            max_new_tokens=self.trie.max_length + 1,
            length_penalty=0.0,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=with_scores,
            eos_token_id=END,
            pad_token_id=0,
        )
        return found.sequences[:, width:], found.sequences_scores


def check_equality(count: int) -> dict[str, Any]:
    """Compare rankings with those of ``generate`` on a small float32 model whose candidates are well apart."""
    tokenizer = make_tokenizer(TINY)
    model = make_model(TINY, tokenizer, spread=6.0)
    generate, retriever = Generate(model, tokenizer), GenerativeRetriever(model, tokenizer)
    queries = draw_queries(TINY, count, 24, seed=5)
    difference, ranks = 0.0, 0
    for batch in (1, 8):
        rankings = retriever.retrieve(queries, TOP_K, num_beams=TOP_K, batch_size=batch, scores="full")
        for start in range(0, count, batch):
            part = queries[start : start + batch]
            ids, scores = generate(part, TOP_K, with_scores=True)
            for place, query_scores in enumerate(scores.view(len(part), TOP_K).tolist()):
                for rank, tool in enumerate(rankings[start + place]):
                    row = ids[place * TOP_K + rank]
                    ranks += tool.name in tokenizer.decode_tool(row[: tokenizer.code_length].tolist())
                    difference = max(difference, abs(tool.score - query_scores[rank]))
    total = 2 * count * TOP_K
    if ranks != total or difference > 2e-5:
        raise SystemExit(f"rankings differ from generate's: {ranks} of {total} ranks, scores by {difference:.1e}")
    return {"queries": count, "batches": [1, 8], "equal_ranks": ranks, "ranks": total, "largest_difference": difference}


def systems(
    model: Any, tokenizer: Any, batch: int, beams: tuple[int, ...], wide_generate: bool
) -> dict[str, tuple[int, Call]]:
    """Name what is compared: name -> queries a call, and the call. The first of ``beams`` is the common width."""
    generate, retriever = Generate(model, tokenizer), GenerativeRetriever(model, tokenizer)
    width = beams[0]

    def ours(scores: Any, num_beams: int) -> Call:
        return lambda queries: retriever.retrieve(
            queries, TOP_K, num_beams=num_beams, batch_size=len(queries), scores=scores
        )

    made: dict[str, tuple[int, Call]] = {
        REFERENCE: (1, lambda queries: generate(queries, width)),
        f"generate, our processor, beams {width}, batch 1": (1, lambda queries: generate(queries, width, ours=True)),
        f"generate, ToolGen-style walk, beams {width}, batch {batch}": (
            batch,
            lambda queries: generate(queries, width),
        ),
    }
    if wide_generate:
        wide = beams[-1]
        made[f"generate, ToolGen-style walk, beams {wide}, batch 1"] = (1, lambda queries: generate(queries, wide))
    for scores in ("full", "group"):
        for num_beams in beams:
            for size in (1, batch):
                made[f"toolscaler, {scores}, beams {num_beams}, batch {size}"] = (size, ours(scores, num_beams))
    return made


def time_systems(
    shape: Shape, compared: dict[str, tuple[int, Call]], length: int, rounds: int, device: str
) -> dict[str, dict[str, float]]:
    """Time a call of each in turn; give milliseconds a query and how many times faster than the reference it is.

    Each has been called before: ours with such a prompt, for what it finds out about a model is found out once.
    What takes longest has a third of the rounds.
    """
    actions, counts = {}, {}
    for place, (name, (size, call)) in enumerate(compared.items()):
        call(draw_queries(shape, size, length if "toolscaler" in name and size == 1 else 8, seed=99_000 + place))

        # No query comes twice: what an engine remembers of prompts must not help it here.
        def action(number: int, seed: int = 100 * place, size: int = size, call: Call = call) -> Any:
            return call(draw_queries(shape, size, length, seed=seed + number))

        slow = ("generate" in name) + (size > 1) + ("beams 20" in name) > 1
        actions[name], counts[name] = action, max(1, rounds // 3) if slow else rounds
    seconds = alternate(actions, counts, device)
    each = {name: 1000 * value / compared[name][0] for name, value in seconds.items()}
    return {
        name: {"ms_per_query": value, "times_faster": each[REFERENCE] / value, "rounds": counts[name]}
        for name, value in each.items()
    }


def measure(shape: Shape, length: int, batch: int, rounds: int, device: str = "cpu") -> dict[str, Any]:
    """Measure one model on prompts of one length."""
    tokenizer = make_tokenizer(shape)
    model = make_model(shape, tokenizer, device)
    compared = systems(model, tokenizer, batch, (TOP_K, 20), wide_generate=shape is QWEN)
    floor = {
        "prompt only, batch 1": (1, _reader(model, tokenizer)),
        f"prompt only, batch {batch}": (batch, _reader(model, tokenizer)),
    }
    return {
        "model": shape.name,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "dtype": str(shape.dtype).removeprefix("torch."),
        "tools": shape.tools,
        "vocabulary": tokenizer.required_vocab_size,
        "top_k": TOP_K,
        "rounds": rounds,
        "prompt_tokens": length,
        "systems": time_systems(shape, {**compared, **floor}, length, rounds, device),
    }


def _reader(model: Any, tokenizer: Any) -> Call:
    """Give what reads prompts and does nothing more: no search can be faster."""

    @torch.no_grad()
    def read(queries: list[str]) -> Any:
        ids = torch.tensor([tokenizer.encode_retrieval_prompt(query) for query in queries], device=model.device)
        return model(ids, logits_to_keep=1, use_cache=True).logits

    return read


__all__ = ["QWEN", "STARTER", "check_equality", "measure"]
