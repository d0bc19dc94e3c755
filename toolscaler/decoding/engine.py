"""Beam search for short codes: each prompt is read once, its beams are a tree behind it (paper section 4.3)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from toolscaler.decoding.fallback import plain_scores, search_by_generate
from toolscaler.decoding.model_adapter import Context, ModelAdapter, Prefix
from toolscaler.decoding.prefix_cache import PrefixCache
from toolscaler.decoding.scoring import NOT_FINITE, Found, LevelScores, ScoreRule, score_levels
from toolscaler.decoding.search_plan import (
    CPU_COST,
    CUDA_COST,
    Chunk,
    Level,
    Tries,
    best_of_each,
    chunks_of,
    for_each_query,
    grow,
    keep_best,
    plan_feed,
)
from toolscaler.decoding.self_check import capability_of
from toolscaler.decoding.trie import CodeTrie
from toolscaler.errors import DecodingError
from toolscaler.prompt_attention import reads_both_ways

#: Tree tokens that one forward of scoring takes, all queries together; each query has at least 32 of them.
SCORE_TOKENS = 2048

#: First tokens whose logits are read before anything is normalised; a wider range costs as much as the whole head.
_SLICE_LIMIT = 16384


class SearchEngine:
    """Searches of one model. All calls expect evaluation mode and no gradients.

    Args:
        model: Causal LM.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._prefixes = PrefixCache(model)

    def shares_prompts(self, columns: int) -> bool:
        """Say whether beams can share a prompt, where both take that many columns."""
        return capability_of(self.model, columns).tree

    def prefix_for(self, prompts: list[list[int]], *, lasting: bool) -> Prefix | None:
        """Read what all prompts of a call begin with, or remember it; ``None`` where that does not pay.

        Args:
            prompts: All prompts of a call.
            lasting: It may be remembered from call to call.
        """
        if reads_both_ways(self.model):  # there the first tokens have seen the last
            return None
        length = self._prefixes.worth(prompts) if prompts else 0
        if not length:
            return None
        capability = capability_of(self.model, max(map(len, prompts)))
        if not capability.tree:
            return None
        return self._prefixes.get(ModelAdapter(self.model, capability), prompts, length, lasting=lasting)

    def search(
        self,
        prompts: list[list[int]],
        tries: Sequence[CodeTrie],
        beams: int,
        rule: ScoreRule,
        *,
        padding: int = 0,
        floors: np.ndarray | None = None,
        prefix: Prefix | None = None,
    ) -> list[Found | DecodingError]:
        """Search one batch.

        At each depth the ``beams`` best prefixes of a query stay. A sequence that ends there competes with them (where
        the end token counts), as in transformers' beam search; ties go to what comes first in the trie.

        Args:
            prompts: Q prompts.
            tries: A trie for each.
            beams: Beam width.
            rule: What counts.
            padding: Token id for what stays empty.
            floors: float64 (Q,): prefixes below are dropped.
            prefix: What :meth:`prefix_for` gave for the call.

        Returns:
            Q findings; an error for a query whose numbers are not finite.
        """
        columns = max(map(len, prompts)) + beams * tries[0].max_length
        with_tree = capability_of(self.model, columns)
        if not with_tree.tree:
            return search_by_generate(self.model, prompts, tries, beams, rule, padding)
        adapter = ModelAdapter(self.model, with_tree, padding)
        context, states = adapter.prefill(prompts, prefix)
        return _Search(adapter, context, Tries(tries), beams, rule, floors).run(states)

    def score(
        self,
        prompts: list[list[int]],
        sequences: np.ndarray,
        rule: ScoreRule,
        *,
        padding: int = 0,
        prefix: Prefix | None = None,
    ) -> tuple[np.ndarray, dict[int, DecodingError]]:
        """Score given sequences, all of them for each prompt.

        Args:
            prompts: Q prompts.
            sequences: int64 (S, length), -1 behind shorter ones.
            rule: What counts.
            padding: Token id for what stays empty.
            prefix: What :meth:`prefix_for` gave for the call.

        Returns:
            float64 (Q, S), and the queries whose numbers are not finite.
        """
        limit = max(32, SCORE_TOKENS // len(prompts))
        capability = capability_of(self.model, max(map(len, prompts)) + limit)
        if not capability.tree:
            return plain_scores(self.model, prompts, [sequences] * len(prompts), rule)
        adapter = ModelAdapter(self.model, capability, padding)
        context, states = adapter.prefill(prompts, prefix)
        scores = np.zeros((len(prompts), len(sequences)))
        bad = np.zeros(len(prompts), dtype=bool)
        for chunk in chunks_of(sequences, limit):
            totals, failed = _score_chunk(adapter, context.fork(), states, chunk, rule)
            scores[:, chunk.rows] = totals
            bad |= failed
        return scores, {int(row): DecodingError(NOT_FINITE) for row in np.flatnonzero(bad)}


def _score_chunk(
    adapter: ModelAdapter, context: Context, root: torch.Tensor, chunk: Chunk, rule: ScoreRule
) -> tuple[np.ndarray, np.ndarray]:
    """Score the sequences of one chunk; float64 (Q, S), and which queries failed."""
    alone, queries = chunk.levels, len(context.lengths)
    zeros = np.zeros(queries, dtype=np.int64)
    sizes = [1, *map(len, alone)]
    levels = [Level(np.arange(queries), zeros, zeros, zeros)]
    levels += [for_each_query(level, queries, above) for level, above in zip(alone, sizes, strict=False)]
    nothing = zeros[:0]
    levels.append(Level(nothing, nothing, nothing, nothing))
    ends = [np.zeros(len(level), dtype=bool) for level in levels[:-1]]
    offsets = np.arange(queries)[:, None]
    for number, size in enumerate(sizes[1:]):
        at = chunk.index[chunk.level == number]
        ends[number + 1][(offsets * size + at).ravel()] = True
    fed = [np.arange(queries)]
    states = root
    if rule.full or len(alone) > 1:
        feed = plan_feed(
            levels[1:],
            np.zeros((len(levels[1]), 0), dtype=bool),
            context.lengths,
            1,
            leaves=rule.full,
            padding=adapter.padding,
        )
        behind = adapter.feed(context, feed.ids, feed.positions, feed.visible).flatten(0, 1)
        states = torch.cat([root, behind[torch.from_numpy(feed.row).to(behind.device)]])
        fed += feed.fed
    else:
        levels, ends = levels[:2], ends[:1]
    while not len(fed[-1]):  # leaves that need no feeding
        fed.pop()
    levels, ends = levels[: len(fed) + 1], ends[: len(fed)]
    found = score_levels(adapter, states, levels, fed, None, rule, 0, ends=ends)
    totals = [np.zeros(queries)]
    for level, edges in zip(levels[1:], found.edges, strict=True):
        totals.append(totals[-1][level.parent] + edges)
    scores = np.empty((queries, len(chunk.rows)))
    for number, size in enumerate(sizes[1:]):
        here = chunk.level == number
        at = offsets * size + chunk.index[here]
        closing = found.ends[number + 1][at] if rule.full else 0.0
        scores[:, here] = totals[number + 1][at] + closing
    return scores, found.bad


class _Search:
    """One batch on its way."""

    def __init__(
        self,
        adapter: ModelAdapter,
        context: Context,
        tries: Tries,
        beams: int,
        rule: ScoreRule,
        floors: np.ndarray | None,
    ) -> None:
        self.adapter, self.context, self.tries, self.beams, self.rule = adapter, context, tries, beams, rule
        self.queries = len(context.lengths)
        self.floors = floors
        self.bound = np.full(self.queries, -np.inf)
        self.bad = np.zeros(self.queries, dtype=bool)
        self.ended: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # owner, total, node
        self.cost = CPU_COST if adapter.device.type == "cpu" else CUDA_COST

    def run(self, states: torch.Tensor) -> list[Found | DecodingError]:
        live, totals, waiting = self._first_step(states)
        seen = np.zeros((len(live), 0), dtype=bool)
        depth = 1
        while len(live):
            levels = grow(self.tries, live, self.beams, self.cost, leaves=self.rule.full)
            if not self.rule.full and not len(levels[1]):
                break
            feed = plan_feed(
                levels, seen, self.context.lengths, depth, leaves=self.rule.full, padding=self.adapter.padding
            )
            states = self.adapter.feed(self.context, feed.ids, feed.positions, feed.visible).flatten(0, 1)
            states = states[torch.from_numpy(feed.row).to(states.device)]
            if waiting is not None:
                states = torch.cat([states, waiting])
            scores = score_levels(self.adapter, states, levels, feed.fed, self.tries, self.rule, depth)
            if waiting is not None:
                totals = self._normalise_first_step(live, totals, scores)
                waiting = None
            kept, totals = self._replay(levels, totals, scores)
            seen = feed.seen[-1][levels[-1].parent[kept]]
            live = levels[-1].take(kept)
            depth += len(levels) - 1
        return self._findings()

    def _first_step(self, states: torch.Tensor) -> tuple[Level, np.ndarray, torch.Tensor | None]:
        """Choose the first tokens.

        All candidates of a query have one parent here, so their order needs no normaliser: the whole head waits for the
        next forward's states, and its weights are read once for both.
        """
        root = self.tries.root()
        levels = [root, self.tries.below(root)]
        first, stop = int(levels[1].token.min()), int(levels[1].token.max()) + 1
        if self.rule.full and self.adapter.capability.sliced and stop - first <= _SLICE_LIMIT:
            part = self.adapter.part_of_logits(states, first, stop)
            at = torch.from_numpy(levels[1].owner), torch.from_numpy(levels[1].token - first)
            values = part[at[0].to(part.device), at[1].to(part.device)].double().cpu().numpy()
            self.bad[levels[1].owner[np.isnan(values) | (values == np.inf)]] = True
            none = [np.zeros(len(root))]
            scores = LevelScores([values], none, self.bad.copy(), values[:0])
            kept, totals = self._replay(levels, np.zeros(self.queries), scores)
            return levels[1].take(kept), totals, states
        scores = score_levels(self.adapter, states, levels, [np.arange(self.queries)], self.tries, self.rule, 0)
        kept, totals = self._replay(levels, np.zeros(self.queries), scores)
        return levels[1].take(kept), totals, None

    def _normalise_first_step(self, live: Level, totals: np.ndarray, scores: LevelScores) -> np.ndarray:
        usable = np.isfinite(scores.extra)
        scores.bad[~usable] = True
        self.bound = np.minimum(self.bound - np.where(usable, scores.extra, 0.0), 0.0)
        return np.minimum(totals - np.where(usable, scores.extra, 0.0)[live.owner], 0.0)

    def _replay(self, levels: list[Level], totals: np.ndarray, scores: LevelScores) -> tuple[np.ndarray, np.ndarray]:
        """Prune level by level what one forward scored.

        Args:
            levels: The live level, and those below it.
            totals: float64 (live,).
            scores: Of each fed level.

        Returns:
            Indices into the last level, and their totals.
        """
        self.bad |= scores.bad
        chosen = np.flatnonzero(~self.bad[levels[0].owner])
        totals = totals[chosen]
        for number, (level, below) in enumerate(itertools.pairwise(levels)):
            place = np.full(len(level), -1)
            place[chosen] = np.arange(len(chosen))
            parent = place[below.parent]
            candidates = np.flatnonzero(parent >= 0)
            values = totals[parent[candidates]] + scores.edges[number][candidates]
            owner = below.owner[candidates]
            kept = keep_best(owner, values, self.beams, self.queries)
            if self.floors is not None:
                kept &= values >= self.floors[owner]
            if self.rule.full:
                self._close(level.take(chosen), totals + scores.ends[number][chosen], owner, values)
            self._drop(owner[~kept], values[~kept])
            chosen, totals = candidates[kept], values[kept]
            if not self.rule.full:
                ends = self.tries.ends(below.take(chosen))
                self._end(below.take(chosen[ends]), totals[ends])
        return chosen, totals

    def _close(self, level: Level, totals: np.ndarray, owner: np.ndarray, values: np.ndarray) -> None:
        """Let sequences that end compete with the prefixes that go on."""
        ends = np.flatnonzero(self.tries.ends(level))
        if not len(ends):
            return
        level, totals = level.take(ends), totals[ends]
        everyone = np.concatenate([owner, level.owner])
        order = np.argsort(everyone, kind="stable")
        best = np.empty(len(order), dtype=bool)
        best[order] = keep_best(everyone[order], np.concatenate([values, totals])[order], self.beams, self.queries)
        accepted = best[len(owner) :]
        self._drop(level.owner[~accepted], totals[~accepted])
        self._end(level.take(np.flatnonzero(accepted)), totals[accepted])

    def _end(self, level: Level, totals: np.ndarray) -> None:
        if len(level):
            self.ended.append((level.owner, totals, level.node))

    def _drop(self, owner: np.ndarray, totals: np.ndarray) -> None:
        if len(owner):
            self.bound = np.maximum(self.bound, best_of_each(owner, totals, self.queries))

    def _findings(self) -> list[Found | DecodingError]:
        nothing = np.empty(0, dtype=np.int64)
        columns = zip(*self.ended, strict=True) if self.ended else (nothing, nothing.astype(float), nothing)
        owner, totals, nodes = (np.concatenate(column) if self.ended else column for column in columns)
        order = np.argsort(owner, kind="stable")
        cuts = np.searchsorted(owner[order], np.arange(1, self.queries))
        return [
            DecodingError(NOT_FINITE) if self.bad[query] else Found(score, node, float(self.bound[query]))
            for query, (score, node) in enumerate(
                zip(np.split(totals[order], cuts), np.split(nodes[order], cuts), strict=True)
            )
        ]
