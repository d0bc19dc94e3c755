"""Documents go in, gist embeddings (N, V, D) come out: sorted by length, batched by tokens, streamed, resumable."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from toolscaler.compression.collator import document_text, encode_contents
from toolscaler.compression.persistence import weights_fingerprint
from toolscaler.compression.shards import (
    DTYPES,
    FORMAT_VERSION,
    INDEX_NAME,
    has_shard,
    load_embeddings,
    read_index,
    shard_name,
    write_index,
    write_shard,
)
from toolscaler.data.documents import ToolDocument
from toolscaler.errors import ArtifactError, CompressionError

logger = logging.getLogger(__name__)

__all__ = ["FORMAT_VERSION", "INDEX_NAME", "encode_documents", "encode_shards", "load_embeddings"]


@dataclass(frozen=True)
class _Plan:
    """What is to be encoded: token arrays, and the input positions of each shard, longest documents first."""

    contents: list[np.ndarray]
    shards: list[np.ndarray]
    max_tokens: int
    num_gists: int
    readout_layers: int = 1

    def batches(self, shard: int) -> Iterator[np.ndarray]:
        """Yield input positions, as many a batch as the token budget holds, padding and gists counted."""
        positions, start = self.shards[shard], 0
        while start < len(positions):
            # Sorted, so that the first is the longest of its batch.
            width = len(self.contents[positions[start]]) + self.num_gists
            size = max(1, self.max_tokens // width)
            yield positions[start : start + size]
            start += size


@torch.no_grad()
def encode_documents(
    model: Any,
    tokenizer: Any,
    documents: Sequence[ToolDocument | str],
    output_dir: str | Path | None = None,
    *,
    max_tokens_per_batch: int = 4096,
    max_length: int | None = None,
    dtype: str = "float32",
    show_progress: bool = True,
    shard_size: int = 4096,
    readout_layers: int = 1,
) -> np.ndarray:
    """Compress documents into gist embeddings (section 4.1, one run of pass 1 over every tool).

    With ``output_dir`` each shard is on disk before the next begins, and a run that was killed goes on from there: call
    it again with the same arguments. No more than one (N, V, D) array is held at a time, and one shard.

    Args:
        model: A :class:`~toolscaler.compression.GistForToolCompression`, or one inside a ``PeftModel``.
        tokenizer: The tokenizer it was trained with.
        documents: Documents, or their text. Ids must be unique; the id of a text is its position.
        output_dir: Folder for shards and index.
        max_tokens_per_batch: Tokens a batch may hold, padding included. A longer document is a batch of its own.
        max_length: Tokens kept of a document. Default: the model's ``max_content_length``.
        dtype: ``float32``, or ``float16`` to halve the shards.
        show_progress: Show a progress bar over documents.
        shard_size: Documents a shard.
        readout_layers: See :meth:`GistForToolCompression.gist_outputs`; 1 is the paper's.

    Returns:
        E, ``(N, V, D)`` float32, in the order of ``documents``.

    Raises:
        CompressionError: Documents or settings cannot be used.
        ArtifactError: ``output_dir`` holds embeddings of another model, other documents or other settings.
    """
    job = _Job.of(model, tokenizer, documents, max_tokens_per_batch, max_length, dtype, shard_size, readout_layers)
    with _evaluating(model), _bar(job, show_progress) as bar:
        if output_dir is None:
            return _encode_in_memory(model, job, bar)
        _encode_to_folder(model, job, job.index(model, documents), Path(output_dir), bar)
    return load_embeddings(output_dir)[1]


@torch.no_grad()
def encode_shards(
    model: Any,
    tokenizer: Any,
    documents: Sequence[ToolDocument | str],
    output_dir: str | Path,
    *,
    process_index: int,
    num_processes: int,
    max_tokens_per_batch: int = 4096,
    max_length: int | None = None,
    dtype: str = "float32",
    show_progress: bool = True,
    shard_size: int = 4096,
    readout_layers: int = 1,
) -> bool:
    """Do one process's part of :func:`encode_documents`; the processes need not know of each other.

    Process p writes the shards p, p + P, p + 2P, … of those that are missing, and whichever process finds the last one
    written marks the export as complete. There is nothing to wait for: a process that is lost leaves its shards
    unwritten, and all others whole. Another call, by any number of processes, writes what is missing.

    Args:
        model: See :func:`encode_documents`, as all other arguments. Documents and settings must be the same in all
            processes; ``shard_size`` decides how many can share the work.
        tokenizer: See there.
        documents: See there.
        output_dir: Folder that all processes write to.
        process_index: Number of this process, from 0.
        num_processes: How many there are.
        max_tokens_per_batch: See there.
        max_length: See there.
        dtype: See there.
        show_progress: See there.
        shard_size: See there.
        readout_layers: See there.

    Returns:
        Whether all shards are there now; then :func:`load_embeddings` reads them.

    Raises:
        CompressionError: Documents or settings cannot be used.
        ArtifactError: ``output_dir`` holds embeddings of another model, other documents or other settings.
    """
    if not 0 <= process_index < num_processes:
        raise CompressionError(f"process_index: got {process_index}, expected a number from 0 to {num_processes - 1}")
    job = _Job.of(model, tokenizer, documents, max_tokens_per_batch, max_length, dtype, shard_size, readout_layers)
    own = range(process_index, len(job.plan.shards), num_processes)
    with _evaluating(model), _bar(job, show_progress) as bar:
        return _encode_to_folder(model, job, job.index(model, documents), Path(output_dir), bar, own)


@dataclass(frozen=True)
class _Job:
    """An export: its plan, the documents' ids, how many were cut, shape (N, V, D) and storage type."""

    plan: _Plan
    ids: list[str]
    truncated: int
    shape: tuple[int, int, int]
    dtype: str
    shard_size: int

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Any,
        documents: Sequence[ToolDocument | str],
        max_tokens: int,
        max_length: int | None,
        dtype: str,
        shard_size: int,
        readout_layers: int,
    ) -> _Job:
        """Check settings and documents, tokenize, and deal the documents out."""
        config = model.config
        if not len(documents):
            raise CompressionError("documents: expected at least one, got none")
        limit = config.max_content_length if max_length is None else max_length
        for key, value in (
            ("max_tokens_per_batch", max_tokens),
            ("max_length", limit),
            ("shard_size", shard_size),
            ("readout_layers", readout_layers),
        ):
            if value < 1:
                raise CompressionError(f"{key}: got {value}, expected at least 1")
        if dtype not in DTYPES:
            raise CompressionError(f"dtype: got {dtype!r}, expected one of {sorted(DTYPES)}")
        ids = _unique_ids(documents)
        contents, truncated = encode_contents(tokenizer, documents, limit)
        if truncated:
            logger.warning("%d of %d documents were cut at %d tokens", truncated, len(contents), limit)
        order = np.argsort([-len(content) for content in contents], kind="stable")
        shards = [order[start : start + shard_size] for start in range(0, len(order), shard_size)]
        plan = _Plan(contents, shards, max_tokens, config.num_gist_tokens, readout_layers)
        shape = (len(contents), config.num_gist_tokens, int(config.get_text_config().hidden_size))
        return cls(plan, ids, truncated, shape, dtype, shard_size)

    def index(self, model: Any, documents: Sequence[ToolDocument | str]) -> dict[str, Any]:
        """Make the index of the folder."""
        plan, count = self.plan, len(self.plan.shards)
        fingerprint = _fingerprint(
            model, plan.contents, self.ids, self.dtype, self.shard_size, readout_layers=plan.readout_layers
        )
        return {
            "format_version": FORMAT_VERSION,
            "fingerprint": fingerprint,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "truncated": self.truncated,
            "shards": [{"file": shard_name(i, count), "documents": len(s)} for i, s in enumerate(plan.shards)],
            "complete": False,
            "ids": self.ids,
            "document_hashes": [_document_hash(document) for document in documents],
        }


def _bar(job: _Job, show: bool) -> Any:
    return tqdm(total=job.shape[0], desc="encode", unit="doc", disable=not show)


# ---- encoding ----


def _encode_batch(model: Any, contents: list[np.ndarray], readout_layers: int = 1) -> np.ndarray:
    """Run pass 1 over a batch of token arrays: (B, V, D) float32."""
    width = max(map(len, contents))
    input_ids = np.zeros((len(contents), width), dtype=np.int64)
    mask = np.zeros((len(contents), width), dtype=np.int64)
    for row, content in enumerate(contents):
        input_ids[row, width - len(content) :] = content
        mask[row, width - len(content) :] = 1
    device = model.get_input_embeddings().weight.device
    tokens, present = torch.from_numpy(input_ids).to(device), torch.from_numpy(mask).to(device)
    if readout_layers == 1:
        # Called as a whole: wrappers that keep weights in pieces bring them together in the call.
        outputs = model(input_ids=tokens, attention_mask=present).gist_outputs
    else:
        outputs = model.gist_outputs(tokens, present, readout_layers=readout_layers)
    values = outputs.float().cpu().numpy()
    if not np.isfinite(values).all():
        raise CompressionError("the model gave gist embeddings that are not finite; was its training stable?")
    return values


def _encode_in_memory(model: Any, job: _Job, bar: Any) -> np.ndarray:
    plan, embeddings = job.plan, np.empty(job.shape, dtype=np.float32)
    for shard in range(len(plan.shards)):
        for positions in plan.batches(shard):
            # Through the storage dtype, so that the values are those that a folder would give.
            embeddings[positions] = _encode_batch(
                model, [plan.contents[i] for i in positions], plan.readout_layers
            ).astype(DTYPES[job.dtype])
            bar.update(len(positions))
    return embeddings


def _encode_to_folder(
    model: Any, job: _Job, index: dict[str, Any], folder: Path, bar: Any, own: Sequence[int] | None = None
) -> bool:
    """Write those of the ``own`` shards (default: all) that are not there yet; say whether all shards are there.

    An index that is not marked complete may be written late by one process after another has marked it. The late one
    marks it again at its end, when no shard is missing then either.
    """
    if (folder / INDEX_NAME).exists():
        found = read_index(folder)
        if found["fingerprint"] != index["fingerprint"]:
            raise ArtifactError(
                "the folder holds embeddings of another model, other documents or other settings; "
                "choose another output_dir or delete this one",
                path=folder,
            )
        if found["complete"]:
            index = {**index, "complete": True}
            if found != index:  # what no shard depends on may have changed: the hash of a document, not its text
                write_index(folder, index)
            bar.update(len(index["ids"]))
            return True
    else:
        write_index(folder, index)
    plan = job.plan
    for number, shard in enumerate(index["shards"]):
        positions = plan.shards[number]
        if has_shard(folder, index, shard):
            bar.update(len(positions))
        elif own is None or number in own:
            values = np.empty((len(positions), *job.shape[1:]), dtype=DTYPES[job.dtype])
            start = 0
            for batch in plan.batches(number):
                texts = [plan.contents[i] for i in batch]
                values[start : start + len(batch)] = _encode_batch(model, texts, plan.readout_layers)
                start += len(batch)
                bar.update(len(batch))
            write_shard(folder / shard["file"], positions, values, index["fingerprint"])
    complete = all(has_shard(folder, index, shard) for shard in index["shards"])
    if complete:
        write_index(folder, {**index, "complete": True})
    return complete


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switch dropout off, and the mode back afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


# ---- names and checksums ----


def _unique_ids(documents: Sequence[ToolDocument | str]) -> list[str]:
    ids = [document.id if isinstance(document, ToolDocument) else str(i) for i, document in enumerate(documents)]
    if len(set(ids)) != len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise CompressionError(f"documents: the id {twice!r} comes more than once; ids must be unique")
    return ids


def _document_hash(document: ToolDocument | str) -> str:
    if isinstance(document, ToolDocument):
        return document.content_hash
    return hashlib.sha256(document_text(document).encode("utf-8", "surrogatepass")).hexdigest()


def _fingerprint(
    model: Any, contents: list[np.ndarray], ids: list[str], dtype: str, shard_size: int, readout_layers: int = 1
) -> str:
    """Checksum of everything that decides the shards: weights, tokens, ids, storage. The token budget does not."""
    digest = hashlib.sha256(weights_fingerprint(model, base_only=False).encode())
    settings = [FORMAT_VERSION, model.config.num_gist_tokens, dtype, shard_size, ids]
    settings += [readout_layers] if readout_layers > 1 else []  # folders from before this setting keep their checksum
    digest.update(json.dumps(settings).encode())
    for content in contents:
        digest.update(len(content).to_bytes(4, "little"))
        digest.update(content.astype("<i4").tobytes())
    return digest.hexdigest()[:32]
