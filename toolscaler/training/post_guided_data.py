"""Rows of the supervised stages and tool documents go in, batches for post-guided training come out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor

from toolscaler.compression.collator import CompressionRow, CompressionRows, GistCollator
from toolscaler.data.queries import ToolQuery
from toolscaler.data.rows import retrieval_rows
from toolscaler.errors import ConfigError, TrainingError
from toolscaler.training.trajectory_data import _FEATURES, IGNORE_INDEX, Truncation, trajectory_rows

if TYPE_CHECKING:
    from toolscaler.data.documents import ToolDocument
    from toolscaler.data.protocol import AgentProtocol
    from toolscaler.data.trajectories import Trajectory
    from toolscaler.tokenization import ToolscalerTokenizer

logger = logging.getLogger(__name__)

#: When labelled queries serve as trajectories of one step: where there are no trajectories, always, or never.
QueryUse = Literal["auto", "always", "never"]


def guiding_rows(
    tokenizer: ToolscalerTokenizer,
    documents: Sequence[ToolDocument],
    trajectories: Iterable[Trajectory] | None = None,
    queries: Sequence[ToolQuery] | None = None,
    *,
    use_queries: QueryUse = "auto",
    max_length: int | None = 6144,
    truncation: Truncation = "drop_turns",
    protocol: AgentProtocol | None = None,
) -> Dataset:
    """Make the rows of L_traj (paper section 4.2): those that theta_{t-1} was trained on, with the same codes.

    A query is a trajectory of one step: prompt, then the codes of one relevant tool. A catalogue without trajectories
    lives on these; the queries that several tools answer are its signal of which tools are used together.

    Args:
        tokenizer: The tokenizer of theta_{t-1}.
        documents: The catalogue.
        trajectories: Training trajectories.
        queries: Labelled training queries.
        use_queries: When ``queries`` are used (:data:`QueryUse`).
        max_length: Longest row, in tokens.
        truncation: What happens to longer trajectories. Prompts lose their first tokens.
        protocol: Text form of trajectories.

    Returns:
        ``input_ids`` and ``labels``, int32.

    Raises:
        TrainingError: There is nothing to make rows of.
        ConfigError: ``use_queries`` is none of the above.
        UnknownToolError: A tool has no codes or no document.
    """
    from toolscaler.training.retrieval import RetrievalConfig, tokenize_retrieval_rows

    if use_queries not in ("auto", "always", "never"):
        raise ConfigError("use_queries", use_queries, "auto, always or never")
    conversations = [] if trajectories is None else list(trajectories)
    parts = []
    if conversations:
        made = trajectory_rows(
            conversations, tokenizer, documents, max_length=max_length, truncation=truncation, protocol=protocol
        )
        parts.append(made.dataset)
    if queries and (use_queries == "always" or (use_queries == "auto" and not conversations)):
        code_text = {name: tokenizer.tool_code_text(name) for name in tokenizer.tool_names}
        settings = RetrievalConfig(output_dir="unused", max_length=max_length)
        rows = retrieval_rows(queries, code_text)
        if rows:
            parts.append(tokenize_retrieval_rows(tokenizer, rows, settings).cast(_FEATURES))
    if not parts:
        raise TrainingError(
            "post-guided training: expected trajectories, or labelled queries with use_queries='auto' or 'always', "
            "got none"
        )
    return concatenate_datasets(parts)


@dataclass(frozen=True)
class GuidedItem:
    """One item of an epoch: a document, and the rows of L_traj that go with it."""

    document: int
    rows: tuple[Mapping[str, Any], ...] = ()


class GuidedDataset(torch.utils.data.Dataset[GuidedItem]):
    """The training documents, each with a few rows of L_traj; an epoch is one pass over the documents.

    The rows are dealt out like cards: each comes once before any comes again, in an order that the seed decides. Item
    and epoch decide which rows an item gets, so that a resumed run and every process see the same.

    Args:
        documents: Numbers of the documents in the catalogue.
        rows: ``input_ids`` and ``labels``; none for validation.
        rows_per_document: Rows that go with a document.
        seed: Seed of the order.
    """

    def __init__(
        self, documents: Sequence[int], rows: Dataset | None = None, rows_per_document: int = 1, seed: int = 0
    ) -> None:
        self.documents, self.rows = list(documents), rows
        self.rows_per_document = rows_per_document if rows is not None else 0
        self.seed, self.epoch = seed, 0
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, item: int) -> GuidedItem:
        if self.rows is None or not self.rows_per_document:
            return GuidedItem(self.documents[item])
        first = (self.epoch * len(self) + item) * self.rows_per_document
        chosen = [self._row(first + place) for place in range(self.rows_per_document)]
        return GuidedItem(self.documents[item], tuple(self.rows[number] for number in chosen))

    def _row(self, place: int) -> int:
        """Give the row at a place of the endless deal."""
        deal, card = divmod(place, len(self.rows))  # type: ignore[arg-type]
        if deal not in self._orders:
            if len(self._orders) > 1:
                self._orders.pop(min(self._orders))
            self._orders[deal] = np.random.default_rng([self.seed, deal]).permutation(len(self.rows))  # type: ignore[arg-type]
        return int(self._orders[deal][card])


class GuidedCollator:
    """Make a batch: the documents once each, those of mentioned tools too, their targets, and the rows of L_traj.

    Args:
        documents: The catalogue's rows (:func:`toolscaler.compression.document_rows`), in the codebook's order.
        tokenizer: The tokenizer of theta_{t-1}: it says which ids are which tool.
        pad_token_id: Filler of documents.
        max_live_tools: At most so many tools a batch are compressed; the documents' own first, then mentioned ones in
            order. Mentions of the others are rows without gradient. ``None``: no limit.

    Raises:
        TrainingError: The catalogue and the tokenizer's tools differ.
    """

    def __init__(
        self,
        documents: CompressionRows,
        tokenizer: ToolscalerTokenizer,
        pad_token_id: int,
        max_live_tools: int | None = None,
    ) -> None:
        number = {row.id: place for place, row in enumerate(documents)}
        missing = sorted(set(number) ^ set(tokenizer.tool_names))
        if missing:
            raise TrainingError(
                f"documents: expected those of the tools that the tuned model has codes for, {len(missing)} differ, "
                f"for example {missing[0]!r}"
            )
        self.documents, self.max_live_tools = documents, max_live_tools
        self.gists = GistCollator(pad_token_id)
        self.pad_token_id = int(tokenizer.pad_token_id or 0)
        self.first_code_id, self.last_code_id = (
            tokenizer.first_code_id,
            tokenizer.first_code_id + tokenizer.code_sizes[0],
        )
        self.code_length = tokenizer.code_length
        # Several tools of one code sequence (policy "share"): the first of them stands for all.
        self._tool_of: dict[bytes, int] = {}
        for name, ids in zip(tokenizer.tool_names, tokenizer.tool_token_ids(), strict=True):
            self._tool_of.setdefault(ids.astype(np.int64).tobytes(), number[name])

    def mentions(self, input_ids: np.ndarray) -> list[tuple[int, int]]:
        """Find the tools in a row.

        Args:
            input_ids: int64 (S,).

        Returns:
            First column and catalogue number of each whole code sequence, in order.
        """
        found = []
        for start in np.flatnonzero((input_ids >= self.first_code_id) & (input_ids < self.last_code_id)).tolist():
            tool = self._tool_of.get(input_ids[start : start + self.code_length].tobytes())
            if tool is not None:
                found.append((start, tool))
        return found

    def __call__(self, items: Sequence[GuidedItem]) -> dict[str, Tensor]:
        """Collate.

        Returns:
            - ``input_ids``, ``attention_mask`` (M, S): the live tools' documents, those of the items first; ``labels``
              (T, W), ``task_ids``, ``document_index`` (T,): targets of the items' documents, flat, as
              :meth:`toolscaler.compression.GistForToolCompression.forward` takes them; ``live_tools`` (M,);
            - where items have rows: what :meth:`toolscaler.training.post_guided_guide.FrozenGuide.loss` takes.
        """
        counted = [item for item in items if item.document >= 0]
        if not counted:
            return self._nothing(items[0])
        items = counted
        rows = [row for item in items for row in item.rows]
        arrays = [np.asarray(row["input_ids"], dtype=np.int64) for row in rows]
        found = [self.mentions(array) for array in arrays]
        live = list(dict.fromkeys([item.document for item in items]))
        own = len(live)
        mentioned = dict.fromkeys(tool for mentions in found for _, tool in mentions)
        room = None if self.max_live_tools is None else max(self.max_live_tools - own, 0)
        live += [tool for tool in mentioned if tool not in set(live)][:room]
        batch = self._documents(live, own)
        if rows:
            batch |= self._rows(arrays, [np.asarray(row["labels"], dtype=np.int64) for row in rows])
            slots = {tool: slot for slot, tool in enumerate(live)}
            table = [
                (number, start, tool, slots.get(tool, -1))
                for number, mentions in enumerate(found)
                for start, tool in mentions
            ]
            columns = torch.tensor(table, dtype=torch.long).view(-1, 4).unbind(1)
            names = ("mention_row", "mention_start", "mention_tool", "mention_slot")
            batch |= {name: column.contiguous() for name, column in zip(names, columns, strict=True)}
        return batch

    def _nothing(self, item: GuidedItem) -> dict[str, Tensor]:
        """Give a batch of blank items: of the form that others have, and nothing in it counts."""
        batch = self._documents([0], 1)
        batch["labels"] = torch.full_like(batch["labels"], IGNORE_INDEX)
        batch["live_tools"] = torch.full_like(batch["live_tools"], -1)
        if item.rows:
            batch |= self._rows([np.zeros(1, dtype=np.int64)], [np.full(1, IGNORE_INDEX, dtype=np.int64)])
            names = ("mention_row", "mention_start", "mention_tool", "mention_slot")
            batch |= {name: torch.zeros(0, dtype=torch.long) for name in names}
        return batch

    def _documents(self, live: list[int], own: int) -> dict[str, Tensor]:
        """Give all live documents, with the targets of the first ``own`` of them."""
        given = [self.documents[tool] for tool in live]
        # A document without targets of this batch keeps one, which is thrown away with its place in the table.
        padded = self.gists([CompressionRow(row.id, row.input_ids, row.targets[:1], row.task_ids[:1]) for row in given])
        targets = self.gists(given[:own])
        labels, tasks = targets["labels"].flatten(0, 1), targets["task_ids"].flatten()
        index = torch.arange(own).repeat_interleave(targets["labels"].shape[1])
        kept = (labels != IGNORE_INDEX).any(1)
        return {
            "input_ids": padded["input_ids"],
            "attention_mask": padded["attention_mask"],
            "labels": labels[kept],
            "task_ids": tasks[kept],
            "document_index": index[kept],
            "live_tools": torch.tensor(live, dtype=torch.long),
        }

    def _rows(self, arrays: list[np.ndarray], labels: list[np.ndarray]) -> dict[str, Tensor]:
        width = max(map(len, arrays))
        ids = np.full((len(arrays), width), self.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        targets = np.full_like(ids, IGNORE_INDEX)
        for number, (array, label) in enumerate(zip(arrays, labels, strict=True)):
            ids[number, : len(array)], mask[number, : len(array)] = array, 1
            targets[number, : len(label)] = label
        named = {"trajectory_ids": ids, "trajectory_mask": mask, "trajectory_labels": targets}
        return {name: torch.from_numpy(array) for name, array in named.items()}
