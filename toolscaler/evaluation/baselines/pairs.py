"""Labelled queries and documents in, rows for contrastive training out, and batches without false negatives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.decoding import Retriever
from toolscaler.errors import ConfigError, TrainingError, UnknownToolError

# Rows that are looked at for one batch at most, as a multiple of its size: conflicts must not make an epoch quadratic.
_LOOKED_AT = 64


@dataclass(frozen=True, eq=False)
class TrainingPairs:
    """Rows for contrastive training: one a query and relevant text.

    Attributes:
        anchors: P query texts.
        texts: U different document texts.
        positives: int64 (P,) rows of :attr:`texts`.
        negatives: int64 (P, n) rows of :attr:`texts`: hard negatives.
        labels: For each row every relevant text of its query, over all queries with the same words.
    """

    anchors: list[str]
    texts: list[str]
    positives: np.ndarray
    negatives: np.ndarray
    labels: list[frozenset[int]]

    def __len__(self) -> int:
        return len(self.anchors)

    def columns(self) -> dict[str, list[str]]:
        """Give the columns ``anchor``, ``positive``, ``negative_1``, ... of a data set."""
        rows = {"positive": self.positives}
        rows.update({f"negative_{place + 1}": column for place, column in enumerate(self.negatives.T)})
        return {"anchor": self.anchors, **{key: [self.texts[row] for row in column] for key, column in rows.items()}}


def training_pairs(
    documents: Sequence[ToolDocument], texts: Sequence[str], queries: Sequence[ToolQuery]
) -> TrainingPairs:
    """Pair each query with each of its relevant documents, without hard negatives.

    Documents with the same text count as one, and queries with the same words share their labels: otherwise a relevant
    text would serve as a negative.

    Args:
        documents: N tools.
        texts: What is encoded of each.
        queries: Labelled queries; those without a label are left out.

    Raises:
        UnknownToolError: A label is no document.
        TrainingError: No query has a label, or there are fewer than two different texts.
    """
    unique = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    text_of = {document.id: unique[text] for document, text in zip(documents, texts, strict=True)}
    labels: dict[str, set[int]] = {}
    pairs: dict[tuple[str, int], None] = {}
    for query in queries:
        for name in query.tools:
            if name not in text_of:
                raise UnknownToolError(name, text_of)
            labels.setdefault(query.text, set()).add(text_of[name])
            pairs[query.text, text_of[name]] = None
    if not pairs or len(unique) < 2:
        raise TrainingError(
            f"expected labelled queries and at least two different documents, got {len(pairs)} pairs and {len(unique)} "
            "texts"
        )
    anchors = [text for text, _ in pairs]
    shared = {text: frozenset(rows) for text, rows in labels.items()}
    positives = np.array([row for _, row in pairs], dtype=np.int64)
    negatives = np.zeros((len(anchors), 0), dtype=np.int64)
    return TrainingPairs(anchors, list(unique), positives, negatives, [shared[text] for text in anchors])


def with_hard_negatives(
    pairs: TrainingPairs, retriever: Retriever, count: int, *, depth: int = 30, seed: int = 0
) -> TrainingPairs:
    """Add texts that a retriever ranks high for a query although they are not relevant.

    Args:
        pairs: Rows without hard negatives.
        retriever: Ranks :attr:`TrainingPairs.texts`, whose ids are their row numbers as text.
        count: Hard negatives a row.
        depth: They are drawn from this many of the best texts that are not relevant. Where there are fewer than
            ``count``, random texts fill up.
        seed: Seed of the draw.

    Raises:
        ConfigError: ``depth`` is below ``count``.
        TrainingError: There are not enough texts that are not relevant.
    """
    if depth < count:
        raise ConfigError("negatives_depth", depth, f"at least the {count} hard negatives of a row")
    questions = list(dict.fromkeys(pairs.anchors))
    most = max(len(row) for row in pairs.labels)
    if len(pairs.texts) - most < count:
        raise TrainingError(f"expected {count} texts that are not relevant, one query leaves {len(pairs.texts) - most}")
    found = retriever.retrieve(questions, min(depth + most, len(pairs.texts)))
    ranked = {text: [int(tool.name) for tool in ranking] for text, ranking in zip(questions, found, strict=True)}
    rng = np.random.default_rng(seed)
    table = np.empty((len(pairs), count), dtype=np.int64)
    for place, (text, labels) in enumerate(zip(pairs.anchors, pairs.labels, strict=True)):
        pool = [row for row in ranked[text] if row not in labels][:depth]
        drawn = rng.choice(pool, size=min(count, len(pool)), replace=False).tolist() if pool else []
        while len(drawn) < count:
            row = int(rng.integers(len(pairs.texts)))
            if row not in labels and row not in drawn:
                drawn.append(row)
        table[place] = drawn
    return TrainingPairs(pairs.anchors, pairs.texts, pairs.positives, table, pairs.labels)


class ConflictFreeBatches:
    """Batches of rows in which no text that is relevant for a query stands as another row's text.

    With in-batch negatives, every text of a batch is a negative for every other query in it. So two rows are never in
    one batch when a text of one (positive or hard negative) is relevant for the other's query, which includes equal
    positives and equal queries.

    An epoch is shuffled by seed and number and has ``ceil(rows / size)`` batches, where size is the batch size or, if
    that is less, the number of texts. Rows of texts that are so frequent that they fit into no further batch wait for
    other epochs.

    Args:
        pairs: The rows.
        batch_size: Rows a batch at most.
        seed: Seed of the order.
    """

    def __init__(self, pairs: TrainingPairs, batch_size: int, seed: int = 0) -> None:
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.drop_last = False  # loaders of several processes ask
        self._labels = pairs.labels
        shown = np.column_stack([pairs.positives, pairs.negatives]).tolist()
        self._shown = [frozenset(row) for row in shown]
        self._length = math.ceil(len(pairs) / min(batch_size, len(set(pairs.positives.tolist()))))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; called by trainers before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self._labels)).tolist()
        order.reverse()  # rows are taken from the end
        for _ in range(self._length):
            if not order:
                return
            yield self._batch(order)

    def _batch(self, order: list[int]) -> list[int]:
        """Take a batch out of the rows that are left; those that do not fit now come first for the next one."""
        batch: list[int] = []
        waiting: list[int] = []
        labels: set[int] = set()
        shown: set[int] = set()
        looks = _LOOKED_AT * self.batch_size
        while order and len(batch) < self.batch_size and looks:
            row = order.pop()
            looks -= 1
            if labels.isdisjoint(self._shown[row]) and shown.isdisjoint(self._labels[row]):
                batch.append(row)
                labels |= self._labels[row]
                shown |= self._shown[row]
            else:
                waiting.append(row)
        order.extend(reversed(waiting))
        return batch
