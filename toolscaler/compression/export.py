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
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm

from toolscaler._files import atomic_path, read_json, write_json
from toolscaler.compression.collator import document_text, encode_contents
from toolscaler.compression.persistence import weights_fingerprint
from toolscaler.data.documents import ToolDocument
from toolscaler.errors import ArtifactError, CompressionError

logger = logging.getLogger(__name__)

#: Index of an export folder.
INDEX_NAME = "embeddings.index.json"
#: Version of the layout of an export folder; it changes when old readers could not read new folders.
FORMAT_VERSION = 1

_DTYPES = {"float32": np.float32, "float16": np.float16}


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
    config = model.config
    if not len(documents):
        raise CompressionError("documents: expected at least one, got none")
    limit = config.max_content_length if max_length is None else max_length
    for key, value in (
        ("max_tokens_per_batch", max_tokens_per_batch),
        ("max_length", limit),
        ("shard_size", shard_size),
        ("readout_layers", readout_layers),
    ):
        if value < 1:
            raise CompressionError(f"{key}: got {value}, expected at least 1")
    if dtype not in _DTYPES:
        raise CompressionError(f"dtype: got {dtype!r}, expected one of {sorted(_DTYPES)}")
    ids = _unique_ids(documents)
    contents, truncated = encode_contents(tokenizer, documents, limit)
    if truncated:
        logger.warning("%d of %d documents were cut at %d tokens", truncated, len(contents), limit)
    order = np.argsort([-len(content) for content in contents], kind="stable")
    shards = [order[start : start + shard_size] for start in range(0, len(order), shard_size)]
    plan = _Plan(contents, shards, max_tokens_per_batch, config.num_gist_tokens, readout_layers)
    shape = (len(contents), config.num_gist_tokens, int(config.get_text_config().hidden_size))
    with _evaluating(model), tqdm(total=len(contents), desc="encode", unit="doc", disable=not show_progress) as bar:
        if output_dir is None:
            return _encode_in_memory(model, plan, shape, _DTYPES[dtype], bar)
        index = {
            "format_version": FORMAT_VERSION,
            "fingerprint": _fingerprint(model, contents, ids, dtype, shard_size, readout_layers),
            "shape": list(shape),
            "dtype": dtype,
            "truncated": truncated,
            "shards": [{"file": _shard_name(i, len(shards)), "documents": len(s)} for i, s in enumerate(shards)],
            "complete": False,
            "ids": ids,
            "document_hashes": [_document_hash(document) for document in documents],
        }
        _encode_to_folder(model, plan, index, Path(output_dir), bar)
    return load_embeddings(output_dir)[1]


def load_embeddings(folder: str | Path) -> tuple[list[str], np.ndarray]:
    """Read a folder that :func:`encode_documents` wrote.

    Args:
        folder: The folder.

    Returns:
        Ids of the documents, and E, ``(N, V, D)`` float32, both in the order of the documents that were encoded.

    Raises:
        ArtifactError: The folder is unfinished, damaged or of an unknown format version.
    """
    folder = Path(folder)
    index = read_json(folder / INDEX_NAME)
    if index.get("format_version") != FORMAT_VERSION:
        found = index.get("format_version")
        raise ArtifactError(f"expected format_version {FORMAT_VERSION}, got {found!r}", path=folder / INDEX_NAME)
    if not index["complete"]:
        raise ArtifactError("the encoding was interrupted; call encode_documents again to finish it", path=folder)
    embeddings = np.empty(index["shape"], dtype=np.float32)
    seen = np.zeros(len(embeddings), dtype=bool)
    for shard in index["shards"]:
        path = folder / shard["file"]
        found = _read_shard(path, index["fingerprint"])
        if found is None:
            raise ArtifactError("expected a shard of this export, found none", path=path)
        positions, values = found
        embeddings[positions] = values
        seen[positions] = True
    if not seen.all():
        raise ArtifactError(f"{int((~seen).sum())} documents are in no shard; encode again", path=folder)
    return list(index["ids"]), embeddings


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
    keys = {"readout_layers": readout_layers} if readout_layers > 1 else {}
    outputs = model.gist_outputs(tokens, present, **keys)
    values = outputs.float().cpu().numpy()
    if not np.isfinite(values).all():
        raise CompressionError("the model gave gist embeddings that are not finite; was its training stable?")
    return values


def _encode_in_memory(model: Any, plan: _Plan, shape: tuple[int, ...], dtype: Any, bar: Any) -> np.ndarray:
    embeddings = np.empty(shape, dtype=np.float32)
    for shard in range(len(plan.shards)):
        for positions in plan.batches(shard):
            # Through the storage dtype, so that the values are those that a folder would give.
            embeddings[positions] = _encode_batch(
                model, [plan.contents[i] for i in positions], plan.readout_layers
            ).astype(dtype)
            bar.update(len(positions))
    return embeddings


def _encode_to_folder(model: Any, plan: _Plan, index: dict[str, Any], folder: Path, bar: Any) -> None:
    """Write the shards that are not there yet, then mark the index complete."""
    path = folder / INDEX_NAME
    if path.exists():
        found = read_json(path)
        if found.get("format_version") != FORMAT_VERSION or found.get("fingerprint") != index["fingerprint"]:
            raise ArtifactError(
                "the folder holds embeddings of another model, other documents or other settings; "
                "choose another output_dir or delete this one",
                path=folder,
            )
        if found["complete"]:
            index = {**index, "complete": True}
            if found != index:  # what no shard depends on may have changed: the hash of a document, not its text
                write_json(path, index, indent=None)
            bar.update(len(index["ids"]))
            return
    else:
        write_json(path, index, indent=None)
    dtype = _DTYPES[index["dtype"]]
    for number, shard in enumerate(index["shards"]):
        positions = plan.shards[number]
        target = folder / shard["file"]
        if target.exists() and _read_shard(target, index["fingerprint"]) is not None:
            bar.update(len(positions))
            continue
        values = np.empty((len(positions), *index["shape"][1:]), dtype=dtype)
        start = 0
        for batch in plan.batches(number):
            texts = [plan.contents[i] for i in batch]
            values[start : start + len(batch)] = _encode_batch(model, texts, plan.readout_layers)
            start += len(batch)
            bar.update(len(batch))
        metadata = {"format": "np", "fingerprint": index["fingerprint"]}
        with atomic_path(target) as temporary:
            save_file({"embeddings": values, "positions": positions.astype(np.int64)}, temporary, metadata=metadata)
    write_json(path, {**index, "complete": True}, indent=None)


def _read_shard(path: Path, fingerprint: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Read (positions, values) of a shard; ``None`` where it is missing or of another export.

    Raises:
        ArtifactError: The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="numpy") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                return None
            return file.get_tensor("positions"), file.get_tensor("embeddings")
    except SafetensorError as error:
        raise ArtifactError(f"the shard is damaged ({error}); delete it and encode again", path=path) from error


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


def _shard_name(number: int, count: int) -> str:
    return f"embeddings-{number + 1:05d}-of-{count:05d}.safetensors"


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
