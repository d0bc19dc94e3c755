"""Models whose prompts cannot be shared among beams: transformers' own beam search, and plain forwards for scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from toolscaler.decoding.logits_process import PrefixConstrainedLogitsProcessor
from toolscaler.decoding.model_adapter import HEAD_ELEMENTS
from toolscaler.decoding.model_io import accepted_arguments
from toolscaler.decoding.scoring import NOT_FINITE, Found, ScoreRule
from toolscaler.decoding.trie import CodeTrie
from toolscaler.errors import DecodingError
from toolscaler.prompt_attention import both_ways_mask, reads_both_ways

#: Tokens of a batch of plain forwards.
_BATCH_TOKENS = 4096

#: Scores of rows that transformers makes up where fewer sequences than beams are left.
_MADE_UP = -1e8


def search_by_generate(
    model: Any, prompts: list[list[int]], tries: Sequence[CodeTrie], beams: int, rule: ScoreRule, padding: int
) -> list[Found | DecodingError]:
    """Find sequences with ``model.generate``, and score them with plain forwards; arguments as of ``search``."""
    sequences: list[np.ndarray] = [np.empty((0, tries[0].max_length), dtype=np.int64)] * len(prompts)
    for trie in {id(trie): trie for trie in tries}.values():
        rows = [row for row, own in enumerate(tries) if own is trie]
        found = _generated(model, [prompts[row] for row in rows], trie, beams, rule, padding)
        for row, own in zip(rows, found, strict=True):
            sequences[row] = own
    scores, failures = plain_scores(model, prompts, sequences, rule)
    return [
        failures.get(row, DecodingError(NOT_FINITE))
        if row in failures or not len(sequences[row])  # numbers that are none lead nowhere
        else _found(trie, sequences[row], scores[row], beams)
        for row, trie in enumerate(tries)
    ]


def _found(trie: CodeTrie, sequences: np.ndarray, scores: np.ndarray, beams: int) -> Found:
    lengths = (sequences >= 0).sum(1)
    nodes = np.array(
        [trie.walk(row[None, :length])[0] for row, length in zip(sequences, lengths, strict=True)], dtype=np.int64
    )
    # What generate dropped is not known: only where there was room for everything is the best of it.
    return Found(scores, nodes, -np.inf if len(trie) <= beams else np.inf)


def _generated(
    model: Any, prompts: list[list[int]], trie: CodeTrie, beams: int, rule: ScoreRule, padding: int
) -> list[np.ndarray]:
    """Give the distinct sequences of each prompt, int64 (n, max_length), padded with -1."""
    if len(prompts) > 1:
        try:
            return _generate(model, prompts, trie, beams, rule, padding)
        except DecodingError:  # the numbers of one prompt must not lose the others
            parts = [_generated(model, [prompt], trie, beams, rule, padding) for prompt in prompts]
            return [part for (part,) in parts]
    try:
        return _generate(model, prompts, trie, beams, rule, padding)
    except DecodingError:
        return [np.empty((0, trie.max_length), dtype=np.int64)]


def _generate(
    model: Any, prompts: list[list[int]], trie: CodeTrie, beams: int, rule: ScoreRule, padding: int
) -> list[np.ndarray]:
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    padded = torch.full((len(prompts), width), padding, dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, prompt in enumerate(prompts):
        padded[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    end = rule.end_token
    width_of_search = max(beams, 2)  # one beam would be greedy search, which gives no scores
    settings = GenerationConfig(
        num_beams=width_of_search,
        num_return_sequences=width_of_search,
        max_new_tokens=trie.max_length + (end is not None),
        length_penalty=0.0,
        do_sample=False,
        early_stopping=False,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_length=0,
        eos_token_id=end,
        pad_token_id=padding,
        return_dict_in_generate=True,
        output_scores=True,
    )
    outputs = model.generate(
        input_ids=padded.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=settings,
        logits_processor=[PrefixConstrainedLogitsProcessor(trie, end, prompt_length=width)],
    )
    new = outputs.sequences[:, width:].cpu().numpy().reshape(len(prompts), width_of_search, -1)
    totals = outputs.sequences_scores.float().cpu().numpy().reshape(len(prompts), width_of_search)
    found = []
    for rows, values in zip(new, totals, strict=True):
        cut = [_cut(row, end) for row, value in zip(rows, values, strict=True) if not value < _MADE_UP]
        real = [ids for ids in dict.fromkeys(cut) if ids and trie.is_end(trie.walk(np.array([ids])))[0]]
        table = np.full((len(real), trie.max_length), -1, dtype=np.int64)
        for place, ids in enumerate(real):
            table[place, : len(ids)] = ids
        found.append(table[:beams])
    return found


def _cut(row: np.ndarray, end: int | None) -> tuple[int, ...]:
    ids = row.tolist()
    return tuple(ids[: ids.index(end)] if end in ids else ids)


@torch.no_grad()
def plain_scores(
    model: Any, prompts: list[list[int]], sequences: Sequence[np.ndarray], rule: ScoreRule
) -> tuple[Any, dict[int, DecodingError]]:
    """Score sequences by forwards over prompt and sequence, without a cache.

    Args:
        model: Causal LM.
        prompts: Q prompts.
        sequences: For each prompt int64 (S, length), -1 behind shorter ones.
        rule: What counts.

    Returns:
        For each prompt float64 (S,), as one array where all have as many; and the failures.
    """
    jobs = [
        (query, place, prompt, row[row >= 0].tolist())
        for query, (prompt, rows) in enumerate(zip(prompts, sequences, strict=True))
        for place, row in enumerate(rows)
    ]
    scores = [np.zeros(len(rows)) for rows in sequences]
    failures: dict[int, DecodingError] = {}
    vocabulary = model.get_output_embeddings().weight.shape[0]
    for batch in _batches(jobs, vocabulary):
        width = max(len(prompt) + len(codes) for _, _, prompt, codes in batch)
        # Padded on the right, where a causal model cannot look; any id serves.
        ids = torch.tensor(
            [[*prompt, *codes, *[0] * (width - len(prompt) - len(codes))] for _, _, prompt, codes in batch]
        )
        first = min(len(prompt) for _, _, prompt, _ in batch) - 1
        given: dict[str, Any] = (
            {"logits_to_keep": width - first} if "logits_to_keep" in accepted_arguments(model) else {}
        )
        if reads_both_ways(model):
            prompts_end = torch.tensor([len(prompt) for _, _, prompt, _ in batch])[:, None]
            given["attention_mask"] = both_ways_mask(
                model, torch.ones_like(ids, device=model.device), torch.arange(width) < prompts_end
            )
        logits = model(input_ids=ids.to(model.device), use_cache=False, return_dict=True, **given).logits
        first = width - logits.shape[1]
        for row, (query, place, prompt, codes) in enumerate(batch):
            start = len(prompt) - 1 - first
            total, sound = _total(logits[row, start : start + len(codes) + 1].float(), codes, rule)
            scores[query][place] = total
            if not sound:
                failures[query] = DecodingError(NOT_FINITE)
    alike = len({len(row) for row in scores}) == 1
    return (np.stack(scores) if alike else scores), failures


def _total(logits: torch.Tensor, codes: list[int], rule: ScoreRule) -> tuple[float, bool]:
    """Give a sequence's log-probability from logits (its tokens + 1, vocabulary), and whether all was finite."""
    if rule.full:
        tokens = torch.tensor([*codes, rule.end_token], device=logits.device)
        norms = logits.logsumexp(-1)
        values = logits.gather(1, tokens[:, None])[:, 0] - norms
    else:
        parts = [row[start:stop] for row, (start, stop) in zip(logits, rule.groups[: len(codes)], strict=False)]
        norms = torch.stack([part.logsumexp(-1) for part in parts])
        values = torch.stack([row[token] for row, token in zip(logits, codes, strict=False)]) - norms
    return float(values.double().clamp(max=0).sum()), bool(norms.isfinite().all())


def _batches(jobs: list[tuple[int, int, list[int], list[int]]], vocabulary: int) -> Iterator[list[Any]]:
    """Group jobs of like length, so that neither tokens nor logits grow beyond bounds."""
    limit = max(1, min(_BATCH_TOKENS, 4 * HEAD_ELEMENTS // vocabulary))
    batch: list[Any] = []
    for job in sorted(jobs, key=lambda job: len(job[2])):
        if batch and (len(batch) + 1) * (len(job[2]) + len(job[3])) > limit:
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch
