"""Documents to training batches: token ids of each document, and of the targets it is to be rebuilt into."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolscaler.compression.configuration import QUERY_TASK, GistConfig
from toolscaler.compression.functional import IGNORE_INDEX
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.errors import CompressionError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompressionRow:
    """One document, tokenized.

    Attributes:
        id: The document's id.
        input_ids: Tokens of the Content, ``(S,)`` int32.
        targets: Tokens of each target, the end token included unless the target was cut; int32.
        task_ids: Task of each target.
    """

    id: str
    input_ids: np.ndarray
    targets: tuple[np.ndarray, ...]
    task_ids: tuple[int, ...]


class CompressionRows(list[CompressionRow]):
    """Rows of a training or validation set, and what was cut to get them.

    Attributes:
        truncated_documents: Number of documents longer than ``max_content_length`` tokens.
        truncated_targets: Number of targets longer than ``max_target_length`` tokens.
        skipped_targets: Number of (document, task) pairs without text, which are left out.
    """

    truncated_documents: int = 0
    truncated_targets: int = 0
    skipped_targets: int = 0


def document_text(document: ToolDocument | str) -> str:
    """Give the Content text of a document (section 4.1).

    Raises:
        CompressionError: It is neither a document nor text, or it is empty.
    """
    if not isinstance(document, str | ToolDocument):
        raise CompressionError(f"documents: expected ToolDocument or str, got {type(document).__name__}")
    text = document if isinstance(document, str) else document.to_text()
    if not text.strip():
        raise CompressionError("documents: expected text, got an empty document")
    return text


def encode_contents(
    tokenizer: Any, documents: Sequence[ToolDocument | str], max_length: int
) -> tuple[list[np.ndarray], int]:
    """Tokenize documents, special tokens as the tokenizer adds them, cut at the end.

    Args:
        tokenizer: The base model's tokenizer.
        documents: Documents or their text.
        max_length: Tokens kept of each.

    Returns:
        One ``(S,)`` int32 array a document, and the number of documents that were cut.

    Raises:
        CompressionError: A document is empty, or comes out without tokens.
    """
    texts = [document_text(document) for document in documents]
    encoded = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"] if texts else []
    arrays = [np.asarray(ids, dtype=np.int32) for ids in encoded]
    for position, array in enumerate(arrays):
        if not len(array):
            raise CompressionError(f"documents[{position}]: the tokenizer made no tokens of {texts[position][:40]!r}")
    truncated = sum(len(array) > max_length for array in arrays)
    return [array[:max_length] for array in arrays], truncated


def end_token_id(tokenizer: Any) -> int:
    """Give the token that ends a target: the end token, or the separator where a tokenizer has none.

    Raises:
        CompressionError: The tokenizer has neither.
    """
    for name in ("eos_token_id", "sep_token_id"):
        value = getattr(tokenizer, name, None)
        if value is not None:
            return int(value)
    raise CompressionError("tokenizer: expected an eos_token or sep_token to end targets with, it has neither")


def query_texts(
    queries: Sequence[ToolQuery] | Mapping[str, Sequence[str]] | None,
    ids: Sequence[str],
    *,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Give the generation targets of each document: the text of queries that its tool answers.

    Args:
        queries: Labelled queries, or the texts of each tool id.
        ids: Document ids; queries of other tools are left out.
        limit: At most so many queries a document, chosen by ``seed``, whatever other documents there are.
        seed: Seed of that choice.

    Returns:
        Document id -> query texts, for the documents that have any.

    Raises:
        CompressionError: There are queries, but none is of a given document.
    """
    known: dict[str, list[str]] = {id_: [] for id_ in ids}
    if queries is None:
        return {}
    if isinstance(queries, Mapping):
        pairs = [(id_, text) for id_, texts in queries.items() for text in texts]
    else:
        pairs = [(id_, query.text) for query in queries for id_ in query.tools]
    for id_, text in pairs:
        if id_ in known and text.strip():
            known[id_].append(text)
    found = {id_: list(dict.fromkeys(texts)) for id_, texts in known.items() if texts}
    if pairs and not found:
        raise CompressionError(f"queries: none of their tools ({pairs[0][0]!r}, ...) is among the documents")
    if limit is not None:
        for id_, texts in found.items():
            if len(texts) > limit:
                key = hashlib.sha256(f"{seed}\n{id_}".encode("utf-8", "surrogatepass")).digest()
                found[id_] = random.Random(key).sample(texts, limit)
    return found


def document_rows(
    tokenizer: Any,
    documents: Sequence[ToolDocument],
    config: GistConfig,
    *,
    queries: Mapping[str, Sequence[str]] | None = None,
) -> CompressionRows:
    """Tokenize documents and their targets (section 4.1: fields to reconstruct, queries to generate).

    A task named like a document field has that field as its target; the task ``query`` has one target for each of the
    document's queries. Fields without text are left out.

    Args:
        tokenizer: The base model's tokenizer.
        documents: Documents; plain text has no fields.
        config: Task names and lengths.
        queries: Document id -> texts, for the task ``query``.

    Returns:
        One row a document, in order, with the counts of what was cut. Cut documents are logged.

    Raises:
        CompressionError: A task is neither a field nor ``query``, or a document is left with no target.
    """
    end = end_token_id(tokenizer)
    contents, truncated = encode_contents(tokenizer, documents, config.max_content_length)
    rows = CompressionRows()
    rows.truncated_documents = truncated
    texts: list[str] = []
    plan: list[list[int]] = []
    for document in documents:
        pairs = _targets(document, config.task_names, queries or {})
        kept = [(task, text) for task, text in pairs if text.strip()]
        rows.skipped_targets += len(pairs) - len(kept)
        if not kept:
            raise CompressionError(f"document {document.id!r}: none of the tasks {config.task_names} has a text")
        texts.extend(text for _, text in kept)
        plan.append([task for task, _ in kept])
    encoded = iter(tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"])
    for document, content, tasks in zip(documents, contents, plan, strict=True):
        targets = []
        for _ in tasks:
            ids = [*next(encoded), end]
            rows.truncated_targets += len(ids) > config.max_target_length
            targets.append(np.asarray(ids[: config.max_target_length], dtype=np.int32))
        rows.append(CompressionRow(document.id, content, tuple(targets), tuple(tasks)))
    if rows.truncated_documents or rows.truncated_targets:
        logger.warning(
            "%d of %d documents were cut at %d tokens, %d targets at %d tokens",
            *(rows.truncated_documents, len(rows), config.max_content_length),
            *(rows.truncated_targets, config.max_target_length),
        )
    return rows


def _targets(
    document: ToolDocument, task_names: Sequence[str], queries: Mapping[str, Sequence[str]]
) -> list[tuple[int, str]]:
    """Give (task, text) pairs of one document, in task order; absent text is the empty string."""
    if not isinstance(document, ToolDocument):
        raise CompressionError(f"documents: training needs ToolDocument, got {type(document).__name__}")
    fields = document.task_targets()
    pairs: list[tuple[int, str]] = []
    for task, name in enumerate(task_names):
        if name == QUERY_TASK:
            pairs.extend((task, text) for text in queries.get(document.id, ("",)))
        elif name in fields:
            pairs.append((task, fields[name]))
        else:
            raise CompressionError(f"task {name!r}: expected {QUERY_TASK!r} or one of {sorted(fields)}")
    return pairs


@dataclass(frozen=True)
class GistCollator:
    """Pad rows into one batch: each document once, with all its targets.

    Args:
        pad_token_id: Filler of ``input_ids``; masked, so any id will do.
    """

    pad_token_id: int = 0

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> GistCollator:
        """Take the padding token, or token 0 where a tokenizer has none."""
        return cls(pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)

    def __call__(self, rows: Sequence[CompressionRow]) -> dict[str, Tensor]:
        """Collate.

        Args:
            rows: B rows, each with up to M targets of up to T tokens, documents of up to S tokens.

        Returns:
            - ``input_ids`` ``(B, S)`` int64, padded on the left; ``attention_mask`` ``(B, S)``;
            - ``labels`` ``(B, M, T)`` int64, padded on the right with -100; where a row has fewer targets, all -100;
            - ``task_ids`` ``(B, M)`` int64, 0 where there is no target.

        Raises:
            CompressionError: There is no row.
        """
        if not rows:
            raise CompressionError("GistCollator: expected at least one row, got none")
        size = max(len(row.input_ids) for row in rows)
        most = max(len(row.targets) for row in rows)
        longest = max(len(target) for row in rows for target in row.targets)
        input_ids = np.full((len(rows), size), self.pad_token_id, dtype=np.int64)
        mask = np.zeros((len(rows), size), dtype=np.int64)
        labels = np.full((len(rows), most, longest), IGNORE_INDEX, dtype=np.int64)
        tasks = np.zeros((len(rows), most), dtype=np.int64)
        for i, row in enumerate(rows):
            input_ids[i, size - len(row.input_ids) :] = row.input_ids
            mask[i, size - len(row.input_ids) :] = 1
            tasks[i, : len(row.task_ids)] = row.task_ids
            for j, target in enumerate(row.targets):
                labels[i, j, : len(target)] = target
        batch = {"input_ids": input_ids, "attention_mask": mask, "labels": labels, "task_ids": tasks}
        return {name: torch.from_numpy(array) for name, array in batch.items()}
