"""A trie in one safetensors file, mapped into memory when it is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from toolscaler._files import atomic_path
from toolscaler._tensors import open_tensors
from toolscaler.decoding.tool_names import ToolNames
from toolscaler.decoding.trie_arrays import TrieArrays
from toolscaler.decoding.trie_check import check_arrays
from toolscaler.errors import ArtifactError

#: Version of the layout that this library writes and reads.
FORMAT_VERSION = 1

_OPTIONAL = ("order", "end_start", "end_count")
_FIELDS = ("bases", "sizes", "level_starts", "child_start", "last_labels", *_OPTIONAL)
# Arrays of every trie, and their types; keys are numbered.
_ARRAYS = {
    "bases": ("I64",),
    "sizes": ("I64",),
    "level_starts": ("I64",),
    "child_start": ("I32",),
    "last_labels": ("U16", "U32"),
    "name_ends": ("I64",),
    "names": ("U8",),
    **dict.fromkeys(_OPTIONAL, ("I32",)),
}


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

    Every number in it is checked: a label, node or tool out of range would otherwise show in the middle of a search.

    Raises:
        ArtifactError: The file is missing, damaged, or of an unknown version.
    """
    if not path.exists():
        raise ArtifactError("cannot read the trie: expected a file, found nothing", path=path)
    file = open_tensors(path, "a trie")
    metadata = file.metadata
    if metadata.get("format") != "toolscaler.code_trie":
        raise ArtifactError("expected a safetensors file that CodeTrie.save wrote, it is of another kind", path=path)
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise ArtifactError(
            f"expected trie format {FORMAT_VERSION}, got {metadata.get('format_version', 'none'):.80}; save the "
            "trie again with this version of toolscaler",
            path=path,
        )
    for name, dtypes in _ARRAYS.items():
        if name in file.tensors:
            file.expect(name, (None,), dtypes)
    length = file.tensors["bases"].shape[0] if "bases" in file.tensors else 1
    keys = [f"keys.{number}" for number in range(min(length, len(file.tensors)) - 1)]
    file.refuse_others([*(name for name in _ARRAYS if name not in _OPTIONAL), *keys], _OPTIONAL)
    for name in keys:
        file.expect(name, (None,), ("U32", "I64"))
    try:
        tensors = file.arrays(mapped=True)
        _check_sizes(tensors, length, _count(metadata["num_tools"]))
        fields: dict[str, Any] = {name: tensors.get(name) for name in _FIELDS}
        arrays = TrieArrays(
            ragged=_truth(metadata["ragged"]),
            anchors=_anchors(metadata["anchors"], length),
            num_tools=_count(metadata["num_tools"]),
            keys=tuple(tensors[name] for name in keys),
            **fields,
        )
        check_arrays(arrays)
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"expected the arrays of a trie, they do not fit together: {error}", path=path) from error
    text, ends = tensors["names"], tensors["name_ends"]
    return arrays, ToolNames(lambda: _names(path, text, ends))


def _check_sizes(tensors: dict[str, np.ndarray], length: int, num_tools: int) -> None:
    """Refuse arrays whose sizes do not fit together, before any of them is used as an index of another."""
    starts = tensors["level_starts"]
    if length < 1 or len(starts) != length + 2 or starts[0] != 0 or starts[1] != 1 or (np.diff(starts) < 1).any():
        raise ValueError("level_starts are no starts of levels")
    nodes = int(starts[-1])
    expected = {
        "sizes": length,
        "child_start": int(starts[length]) + 1,
        "last_labels": nodes - int(starts[length]),
        "name_ends": num_tools,
        "order": num_tools,
        "end_start": nodes,
        "end_count": nodes,
        **{f"keys.{depth - 1}": int(starts[depth + 1] - starts[depth]) + 1 for depth in range(1, length)},
    }
    for name, size in expected.items():
        if name in tensors and len(tensors[name]) != size:
            raise ValueError(f"{name} has {len(tensors[name])} entries, not {size}")
    if ("end_start" in tensors) != ("end_count" in tensors):
        raise ValueError("end_start and end_count come together")
    ends, size = tensors["name_ends"], len(tensors["names"])
    if (np.diff(ends) < 0).any() or (ends[0] < 0 or ends[-1] != size if num_tools else size):
        raise ValueError("the tool names are cut")


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"expected true or false, got {text!r:.40}")
    return text == "true"


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 10:
        raise ValueError(f"expected a number of tools, got {text!r:.40}")
    return int(text)


def _anchors(text: str, length: int) -> tuple[int, ...]:
    anchors = json.loads(text)
    if not isinstance(anchors, list) or len(anchors) != max(length, 1):
        raise ValueError(f"expected an anchor for each of {length} depths")
    if not all(type(anchor) is int and 0 <= anchor <= depth for depth, anchor in enumerate(anchors)):
        raise ValueError("an anchor lies below its depth")
    return tuple(anchors)


def _names(path: Path, text: np.ndarray, ends: np.ndarray) -> tuple[str, ...]:
    whole, starts = text.tobytes(), [0, *ends[:-1].tolist()]
    try:
        names = tuple(whole[first:stop].decode() for first, stop in zip(starts, ends.tolist(), strict=True))
    except UnicodeDecodeError as error:
        raise ArtifactError(f"expected tool ids in UTF-8, they are damaged: {error}", path=path) from error
    if len(set(names)) != len(names):
        raise ArtifactError("expected each tool id once, the file is damaged", path=path)
    return names
