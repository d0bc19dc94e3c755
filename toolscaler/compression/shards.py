"""The folder of an export: an index, and shards of gist embeddings that any process may write, each on its own.

A shard appears under its name only when it is whole, and carries the checksum of its export. The index says which
shards there are to be, and whether all of them are there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from toolscaler._files import atomic_path, read_json, write_json
from toolscaler._tensors import open_tensors
from toolscaler.errors import ArtifactError

#: Index of an export folder.
INDEX_NAME = "embeddings.index.json"
#: Version of the layout of an export folder; it changes when old readers could not read new folders.
FORMAT_VERSION = 1
#: Storage types of shards: name -> numpy's type.
DTYPES = {"float32": np.float32, "float16": np.float16}

_HEADER_DTYPES = {"float32": "F32", "float16": "F16"}
_SHARD = re.compile(r"^embeddings-\d{5,}-of-\d{5,}\.safetensors$")
_WHAT = "a shard of gist embeddings"


def load_embeddings(folder: str | Path) -> tuple[list[str], np.ndarray]:
    """Read a folder that :func:`toolscaler.compression.encode_documents` wrote.

    Args:
        folder: The folder.

    Returns:
        Ids of the documents, and E, ``(N, V, D)`` float32, both in the order of the documents that were encoded.

    Raises:
        ArtifactError: The folder is unfinished, damaged or of an unknown format version.
    """
    folder = Path(folder)
    index = read_index(folder)
    if not index["complete"]:
        raise ArtifactError("the encoding was interrupted; encode again to finish it", path=folder)
    missing = [shard["file"] for shard in index["shards"] if not has_shard(folder, index, shard)]
    if missing:
        raise ArtifactError("expected a shard of this export, found none", path=folder / missing[0])
    embeddings = np.empty(index["shape"], dtype=np.float32)
    seen = np.zeros(len(embeddings), dtype=bool)
    for shard in index["shards"]:
        positions, values = _read_shard(folder, index, shard)
        embeddings[positions] = values
        seen[positions] = True
    if not seen.all():
        raise ArtifactError(f"{int((~seen).sum())} documents are in no shard; encode again", path=folder)
    return list(index["ids"]), embeddings


def read_index(folder: Path) -> dict[str, Any]:
    """Read and check the index of an export folder.

    Raises:
        ArtifactError: It is missing, damaged, or of an unknown format version.
    """
    path = folder / INDEX_NAME
    index = read_json(path, what="the index of gist embeddings")
    found = index.get("format_version") if isinstance(index, dict) else None
    if found != FORMAT_VERSION:
        raise ArtifactError(f"expected format_version {FORMAT_VERSION}, got {found!r:.80}", path=path)
    problem = _problem(index)
    if problem is not None:
        raise ArtifactError(f"the index is damaged: {problem}; encode again into another folder", path=path)
    return index


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Write the index; readers see the old one or the new one."""
    write_json(folder / INDEX_NAME, index, indent=None)


def shard_name(number: int, count: int) -> str:
    """Give the file name of shard ``number``, counted from 0, of ``count``."""
    return f"embeddings-{number + 1:05d}-of-{count:05d}.safetensors"


def write_shard(path: Path, positions: np.ndarray, values: np.ndarray, fingerprint: str) -> None:
    """Write a shard, whole or not at all.

    Args:
        path: The file.
        positions: Places of the documents in the input, (M,) int64.
        values: Their gist embeddings, (M, V, D), float32 or float16.
        fingerprint: Checksum of the export.
    """
    metadata = {"format": "np", "fingerprint": fingerprint}
    with atomic_path(path) as temporary:
        save_file({"embeddings": values, "positions": positions.astype(np.int64)}, temporary, metadata=metadata)


def has_shard(folder: Path, index: dict[str, Any], shard: dict[str, Any]) -> bool:
    """Say whether a whole shard of this export is there; its header is read, no tensor.

    Args:
        folder: The export folder.
        index: Its index.
        shard: An entry of ``index["shards"]``.

    Raises:
        ArtifactError: There is a file, and it is damaged.
    """
    path = folder / shard["file"]
    if not path.is_file():
        return False
    try:
        file = open_tensors(path, _WHAT)
        if file.metadata.get("fingerprint") != index["fingerprint"]:
            return False
        file.refuse_others({"embeddings", "positions"})
        file.expect("embeddings", (shard["documents"], *index["shape"][1:]), {_HEADER_DTYPES[index["dtype"]]})
        file.expect("positions", (shard["documents"],), {"I64"})
    except ArtifactError as error:
        raise ArtifactError(f"the shard is damaged ({error}); delete it and encode again", path=path) from error
    return True


def _read_shard(folder: Path, index: dict[str, Any], shard: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Read (positions, values) of a shard that is there."""
    path = folder / shard["file"]
    arrays = open_tensors(path, _WHAT).arrays(mapped=True)
    positions, count = arrays["positions"], index["shape"][0]
    if len(positions) and (positions.min() < 0 or positions.max() >= count):
        raise ArtifactError(f"expected positions from 0 to {count - 1}; delete the shard and encode again", path=path)
    return positions, arrays["embeddings"]


def _problem(index: dict[str, Any]) -> str | None:
    """Say what is wrong with an index, before anything is allocated by it."""
    shape, shards, ids = index.get("shape"), index.get("shards"), index.get("ids")
    if not (isinstance(shape, list) and len(shape) == 3 and all(_is_count(size) for size in shape)):
        return f"shape: expected three whole numbers, got {shape!r:.80}"
    if index.get("dtype") not in DTYPES:
        return f"dtype: expected one of {sorted(DTYPES)}, got {index.get('dtype')!r:.80}"
    if not isinstance(index.get("fingerprint"), str) or not isinstance(index.get("complete"), bool):
        return "fingerprint or complete is missing"
    if not (isinstance(ids, list) and len(ids) == shape[0] and all(isinstance(name, str) for name in ids)):
        return f"ids: expected {shape[0]} texts"
    if not isinstance(shards, list) or not all(_is_entry(entry) for entry in shards):
        return "shards: expected a list of file names with numbers of documents"
    if sum(entry["documents"] for entry in shards) != shape[0]:
        return f"shards: expected {shape[0]} documents in all"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("file"), str)
        and _SHARD.match(entry["file"]) is not None
        and _is_count(entry.get("documents"))
    )
