"""The queries of one call: batches, searches, wider searches where they are needed, rankings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from toolscaler.decoding.engine import SearchEngine
from toolscaler.decoding.model_adapter import Prefix
from toolscaler.decoding.result import Ranking, RetrievedTool
from toolscaler.decoding.scoring import Found, ScoreRule
from toolscaler.decoding.trie import CodeTrie
from toolscaler.errors import DecodingError, RetrievalError

if TYPE_CHECKING:
    from toolscaler.tokenization import ToolIndex

#: By how much ``exact`` widens a search that was too narrow, and the width from which on all tools are scored instead.
_WIDENING = 4
_WIDEST = 1024

#: A score computed again, in another batch, may differ by less than this, even in bfloat16.
_ROUNDING = 0.5


class RetrievalRequest:
    """The queries of one call on their way to rankings.

    Args:
        engine: Searches the model.
        prompts: Q prompts.
        tries: A trie for each.
        rule: What counts.
        index: Codes of the tools.
        top_k: Tools a query.
        padding: Token id for what stays empty.
    """

    def __init__(
        self,
        engine: SearchEngine,
        prompts: list[list[int]],
        tries: list[CodeTrie],
        rule: ScoreRule,
        index: ToolIndex,
        top_k: int,
        padding: int,
    ) -> None:
        self.engine, self.prompts, self.tries, self.rule = engine, prompts, tries, rule
        self.index, self.top_k, self.padding = index, top_k, padding
        self.found: list[Ranking | None] = [None] * len(prompts)
        self.failures: dict[int, DecodingError] = {}
        self.prefix: Prefix | None = None

    def begin(self, lasting: bool) -> None:
        """Read what all prompts begin with."""
        self.prefix = self.engine.prefix_for(self.prompts, lasting=lasting)

    def search(
        self,
        queries: Iterable[int],
        beams: int,
        batch_size: int,
        max_batch_tokens: int,
        progress: Any = None,
        floors: np.ndarray | None = None,
    ) -> None:
        """Search for some of the queries, and keep what is found."""
        numbers = list(queries)
        tree = [min(beams, len(self.tries[row])) * self.tries[row].max_length for row in numbers]
        for places in batches_of([len(self.prompts[row]) for row in numbers], batch_size, max_batch_tokens, tree):
            rows = [numbers[place] for place in places]
            results = self.engine.search(
                [self.prompts[row] for row in rows],
                [self.tries[row] for row in rows],
                beams,
                self.rule,
                padding=self.padding,
                floors=None if floors is None else floors[rows],
                prefix=self.prefix,
            )
            for row, result in zip(rows, results, strict=True):
                self._keep(row, result)
            if progress is not None:
                progress.update(len(rows))

    def _keep(self, row: int, result: Found | DecodingError) -> None:
        if isinstance(result, DecodingError):
            self.failures[row] = result
        else:
            self.found[row] = _ranking(self.tries[row], self.index, result, self.top_k)

    def certify(self, beams: int, batch_size: int, max_batch_tokens: int) -> None:
        """Search again, wider each time, for what is not certified yet."""
        while open_rows := [row for row, found in enumerate(self.found) if found is not None and not found.certified]:
            beams *= _WIDENING
            whole = [row for row in open_rows if not self._widens(row, beams)]
            for row in whole:
                self._score_all(row)
            rest = [row for row in open_rows if row not in set(whole)]
            floors = np.array([self._floor(row, beams) for row in range(len(self.found))])
            self.search(rest, beams, batch_size, max_batch_tokens, floors=floors)

    def _widens(self, row: int, beams: int) -> bool:
        columns = len(self.prompts[row]) + beams * self.tries[row].max_length
        return beams <= _WIDEST and self.engine.shares_prompts(columns)

    def _floor(self, row: int, beams: int) -> float:
        """What ranks below the last of ``top_k`` known tools cannot matter, nor can what it grows into."""
        found = self.found[row]
        if found is None or len(found) < self.top_k or beams >= len(self.tries[row]):
            return -np.inf
        return found[-1].score - _ROUNDING

    def _score_all(self, row: int) -> None:
        trie = self.tries[row]
        sequences = np.unique(trie.sequences, axis=0)
        scores, failed = self.engine.score(
            [self.prompts[row]], sequences, self.rule, padding=self.padding, prefix=self.prefix
        )
        if failed:
            self.failures[row], self.found[row] = failed[0], None
            return
        nodes = np.empty(len(sequences), dtype=np.int64)
        lengths = (sequences >= 0).sum(1)
        for length in np.unique(lengths):
            rows = lengths == length
            nodes[rows] = trie.walk(sequences[rows, :length])
        self._keep(row, Found(scores[0], nodes, -np.inf))

    def rankings(self) -> list[Ranking]:
        """Give all rankings.

        Raises:
            RetrievalError: Some queries failed.
        """
        if self.failures:
            raise RetrievalError(self.failures, self.found)
        return [found for found in self.found if found is not None]


def _ranking(trie: CodeTrie, index: ToolIndex, result: Found, top_k: int) -> Ranking:
    """Turn final nodes into tools, best first; of equal scores the first of the catalogue comes first."""
    kept = np.arange(len(result.scores))
    if len(kept) > top_k:  # each node has a tool at least
        kept = np.flatnonzero(result.scores >= np.partition(result.scores, len(kept) - top_k)[len(kept) - top_k])
    found = sorted(
        (-score, tool)
        for score, node in zip(result.scores[kept].tolist(), result.nodes[kept].tolist(), strict=True)
        for tool in trie.tools_at(node).tolist()
    )
    names = [(trie.catalogue[tool], -score) for score, tool in found[:top_k]]
    complete = len(names) == len(trie) or (len(names) == top_k and names[-1][1] >= result.bound)
    certified = result.bound == -np.inf or complete
    return Ranking((RetrievedTool(name, score, index[name]) for name, score in names), certified=certified)


def batches_of(
    lengths: list[int], batch_size: int, max_batch_tokens: int, more: list[int] | None = None
) -> Iterator[list[int]]:
    """Group rows of like length: less padding. ``more``: tokens that each row needs besides."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batch: list[int] = []
    tokens = 0
    for row in order:
        tokens = max(tokens, more[row] if more is not None else 0)
        longest = lengths[batch[0]] if batch else lengths[row]
        if batch and (len(batch) == batch_size or (len(batch) + 1) * (longest + tokens) > max_batch_tokens):
            yield batch
            batch, tokens = [], more[row] if more is not None else 0
        batch.append(row)
    if batch:
        yield batch
