"""What a score counts, and the log-probabilities of a level of tree nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from toolscaler.decoding.model_adapter import ModelAdapter
from toolscaler.decoding.search_plan import Level, Tries

NOT_FINITE = (
    "expected finite scores, the model gives NaN or infinity for this query; its weights are damaged, or its numbers "
    "overflow: load it with dtype=torch.float32"
)


@dataclass(frozen=True)
class ScoreRule:
    """What a score counts.

    Attributes:
        end_token: The end token that closes a sequence; ``None``: sequences just end, and each code counts among the
            codes of its position.
        groups: First token id of each position's codes and the one behind the last.
    """

    end_token: int | None
    groups: tuple[tuple[int, int], ...]

    @property
    def full(self) -> bool:
        """Whether the whole vocabulary is the denominator."""
        return self.end_token is not None


@dataclass(frozen=True)
class Found:
    """What a search found for one query.

    Attributes:
        scores: float64 (n,) log-probabilities of sequences, in no order.
        nodes: int64 (n,) nodes where they end.
        bound: The best score of any prefix that was dropped: -inf where none was, inf where that is not known.
    """

    scores: np.ndarray
    nodes: np.ndarray
    bound: float


@dataclass(frozen=True)
class LevelScores:
    """Log-probabilities around the fed nodes of one forward.

    Attributes:
        edges: For each fed level float64 (nodes below,): log-probability of each node below it, given its parent.
        ends: For each fed level float64 (nodes,): log-probability of the end token; zero where no sequence ends, and
            everywhere where the end token does not count.
        bad: bool (Q,): queries whose numbers are not finite.
        extra: float64 (rows behind,): normalisers of the states behind those of the fed nodes.
    """

    edges: list[np.ndarray]
    ends: list[np.ndarray]
    bad: np.ndarray
    extra: np.ndarray


def score_levels(
    adapter: ModelAdapter,
    states: torch.Tensor,
    levels: list[Level],
    fed: list[np.ndarray],
    tries: Tries | None,
    rule: ScoreRule,
    depth: int,
    *,
    ends: list[np.ndarray] | None = None,
) -> LevelScores:
    """Score everything below fed nodes with one transfer to the host.

    Args:
        adapter: The model.
        states: (fed nodes + extra rows, size), level by level.
        levels: Levels; all but the last are fed.
        fed: For each of these the indices of its fed nodes.
        tries: Where sequences end; or give
        ends: for each fed level bool (nodes,).
        rule: What counts.
        depth: Depth of the first level.
    """
    if ends is None and rule.full and tries is not None:
        ends = [tries.ends(level) for level in levels[:-1]]
    if rule.full and ends is not None:
        values, totals, cuts = _full(adapter, states, levels, ends, rule)
    else:
        values, totals, cuts = _grouped(adapter, states, levels, fed, rule, depth)
    host = torch.cat([values, totals]).double().cpu().numpy()
    flat, normalisers = host[: len(values)], host[len(values) :]
    queries = int(levels[0].owner.max(initial=0)) + 1 if tries is None else len(tries.of)
    owner = np.concatenate([level.owner[index] for level, index in zip(levels, fed, strict=False)])
    bad = np.zeros(queries, dtype=bool)
    # +inf among the logits makes the normaliser +inf, NaN makes it NaN, and a row of -inf alone makes it -inf.
    bad[owner[~np.isfinite(normalisers[: len(owner)])]] = True
    # Rounding may lift a certain token a little above probability one.
    parts = np.split(np.minimum(np.where(np.isnan(flat), -np.inf, flat), 0.0), cuts)
    edges, closing = parts[: len(levels) - 1], [np.zeros(len(level)) for level in levels[:-1]]
    if rule.full and ends is not None:
        for level, (mask, part) in enumerate(zip(ends, parts[len(levels) - 1 :], strict=True)):
            closing[level][mask] = part
    return LevelScores(edges, closing, bad, normalisers[len(owner) :])


def _full(
    adapter: ModelAdapter, states: torch.Tensor, levels: list[Level], ends: list[np.ndarray], rule: ScoreRule
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    starts = np.cumsum([0, *(len(level) for level in levels[:-2])])
    rows = [start + below.parent for start, below in zip(starts, levels[1:], strict=True)]
    tokens = [below.token for below in levels[1:]]
    rows += [start + np.flatnonzero(mask) for start, mask in zip(starts, ends, strict=True)]
    tokens += [np.full(int(mask.sum()), rule.end_token) for mask in ends]
    row, token = np.concatenate(rows), np.concatenate(tokens)
    order = np.argsort(row, kind="stable")
    values, totals = adapter.full_log_probs(states, row[order], token[order])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    cuts = np.cumsum([len(part) for part in rows])[:-1]
    return values[torch.from_numpy(back).to(values.device)], totals.to(values.device), cuts


def _grouped(
    adapter: ModelAdapter, states: torch.Tensor, levels: list[Level], fed: list[np.ndarray], rule: ScoreRule, depth: int
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    values, totals, start = [], [], 0
    for number, (index, below) in enumerate(zip(fed, levels[1:], strict=True)):
        if not len(index):
            values.append(states.new_empty(0, dtype=torch.float32))
            continue
        rows = np.searchsorted(index, below.parent)
        part = states[start : start + len(index)]
        value, total = adapter.group_log_probs(part, rows, below.token, rule.groups[depth + number])
        values.append(value)
        totals.append(total)
        start += len(index)
    return torch.cat(values), torch.cat(totals), np.cumsum([len(value) for value in values])[:-1]
