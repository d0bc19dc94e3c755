"""A trie in one safetensors file, mapped into memory when it is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from toolscaler._files import atomic_path
from toolscaler.decoding.tool_names import ToolNames
from toolscaler.decoding.trie_arrays import TrieArrays
from toolscaler.errors import ArtifactError

#: Version of the layout that this library writes and reads.
FORMAT_VERSION = 1

_DTYPES = {"U8": "u1", "U16": "<u2", "U32": "<u4", "I32": "<i4", "I64": "<i8"}
_OPTIONAL = ("order", "end_start", "end_count")


def save_trie(path: Path, arrays: TrieArrays, names: ToolNames) -> None:
    """Write a trie.

    Raises:
        ArtifactError: The file cannot be written.
    """
    encoded = [name.encode() for name in names.names]
    tensors = {
        "bases": arrays.bases,
        "sizes": arrays.sizes,
        "level_starts": arrays.level_starts,
        "child_start": arrays.child_start,
        "last_labels": arrays.last_labels,
        "name_ends": np.cumsum([len(name) for name in encoded], dtype=np.int64),
        "names": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        **{f"keys.{number}": keys for number, keys in enumerate(arrays.keys)},
        **{name: getattr(arrays, name) for name in _OPTIONAL if getattr(arrays, name) is not None},
    }
    metadata = {
        "format": "toolscaler.code_trie",
        "format_version": str(FORMAT_VERSION),
        "ragged": json.dumps(arrays.ragged),
        "anchors": json.dumps(list(arrays.anchors)),
        "num_tools": str(arrays.num_tools),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, temporary, metadata)
    except OSError as error:
        raise ArtifactError(f"cannot write the trie: {error}", path=path) from error


def load_trie(path: Path) -> tuple[TrieArrays, ToolNames]:
    """Open a trie; its arrays are read-only views of the file.

    Raises:
        ArtifactError: The file is missing, damaged, or of an unknown version.
    """
    try:
        tensors, metadata = _mapped(path)
    except OSError as error:
        raise ArtifactError(f"cannot read the trie: {error}", path=path) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"expected a safetensors file that holds a trie, it is damaged: {error}", path=path
        ) from error
    if metadata.get("format") != "toolscaler.code_trie":
        raise ArtifactError("expected a safetensors file that CodeTrie.save wrote, it is of another kind", path=path)
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise ArtifactError(
            f"expected trie format {FORMAT_VERSION}, got {metadata.get('format_version')}; save the trie again with "
            "this version of toolscaler",
            path=path,
        )
    try:
        arrays = TrieArrays(
            ragged=bool(json.loads(metadata["ragged"])),
            anchors=tuple(json.loads(metadata["anchors"])),
            num_tools=int(metadata["num_tools"]),
            keys=tuple(tensors[f"keys.{number}"] for number in range(len(tensors["bases"]) - 1)),
            bases=tensors["bases"],
            sizes=tensors["sizes"],
            level_starts=tensors["level_starts"],
            child_start=tensors["child_start"],
            last_labels=tensors["last_labels"],
            order=tensors.get("order"),
            end_start=tensors.get("end_start"),
            end_count=tensors.get("end_count"),
        )
        _check(arrays, tensors)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ArtifactError(f"expected the arrays of a trie, they do not fit together: {error}", path=path) from error
    text, ends = tensors["names"], tensors["name_ends"]
    return arrays, ToolNames(lambda: _names(text, ends))


def _mapped(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Map the tensors of a safetensors file: 8 bytes header length, header (JSON), data."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    length = int(data[:8].view("<u8")[0])
    if length > len(data) - 8:
        raise ValueError("its header is longer than the file")
    header: dict[str, Any] = json.loads(data[8 : 8 + length].tobytes())
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        first, stop = entry["data_offsets"]
        if not 0 <= first <= stop <= len(data) - 8 - length:
            raise ValueError(f"{name} lies outside the file")
        raw = data[8 + length + first : 8 + length + stop]
        tensors[name] = np.ndarray.view(raw, np.ndarray).view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def _check(arrays: TrieArrays, tensors: dict[str, np.ndarray]) -> None:
    """Refuse arrays whose sizes do not fit together."""
    starts, length = arrays.level_starts, arrays.length
    expected = {
        "sizes": length,
        "level_starts": length + 2,
        "child_start": int(starts[length]) + 1,
        "last_labels": int(starts[-1] - starts[length]),
        "name_ends": arrays.num_tools,
        "order": arrays.num_tools,
        "end_start": arrays.num_nodes,
        "end_count": arrays.num_nodes,
        **{f"keys.{depth - 1}": int(starts[depth + 1] - starts[depth]) + 1 for depth in range(1, length)},
    }
    for name, size in expected.items():
        if name in tensors and tensors[name].shape != (size,):
            raise ValueError(f"{name} has shape {tensors[name].shape}, not ({size},)")
    if len(arrays.anchors) != max(length, 1) or (np.diff(starts) < 0).any() or arrays.child_start[-1] != starts[-1]:
        raise ValueError("the numbers of nodes contradict each other")
    if len(tensors["names"]) != (int(tensors["name_ends"][-1]) if arrays.num_tools else 0):
        raise ValueError("the tool names are cut")


def _names(text: np.ndarray, ends: np.ndarray) -> tuple[str, ...]:
    whole, starts = text.tobytes(), [0, *ends[:-1].tolist()]
    return tuple(whole[first:stop].decode() for first, stop in zip(starts, ends.tolist(), strict=True))
