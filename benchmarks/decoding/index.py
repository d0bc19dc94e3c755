"""The index of a catalogue: time to build and bytes a tool against peers; allow-lists, changes, saving and loading."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoding.catalogue import draw_codes, token_sequences, tool_names
from benchmarks.decoding.masks import FIRST_CODE
from benchmarks.decoding.peers import DictTrie, Static
from benchmarks.decoding.timing import median_seconds, resident_bytes, seconds_of
from toolscaler.decoding import CodeTrie
from toolscaler.decoding.trie_build import build_arrays

CHANGES = 500


def measure_build(count: int, static_path: Path | None, repeats: int) -> dict[str, Any]:
    """Build ours and the peers' from the same codes, in no order."""
    codes = draw_codes(count)
    sequences = token_sequences(codes, FIRST_CODE)
    arrays = build_arrays(sequences, ragged=False)
    names = tool_names(count)
    with_names = median_seconds(lambda: CodeTrie.from_token_sequences(sequences, names), 1 + repeats // 3)
    result: dict[str, Any] = {
        "tools": count,
        "toolscaler": {
            "build_s": median_seconds(lambda: build_arrays(sequences, ragged=False), repeats),
            "build_with_checks_and_names_s": with_names,
            "bytes_per_tool": arrays.nbytes / count,
        },
    }
    del arrays
    gc.collect()
    before = resident_bytes()
    seconds, trie = seconds_of(lambda: DictTrie(sequences))
    result["dict trie"] = {"build_s": seconds, "bytes_per_tool": (resident_bytes() - before) / count}
    del trie
    gc.collect()
    if static_path is not None:
        static = Static(static_path, codes, FIRST_CODE)
        result["STATIC"] = {
            "build_s": median_seconds(static.build, 1 + repeats // 3),
            "bytes_per_tool": static.nbytes / count,
        }
    return result


def measure_changes(count: int, repeats: int) -> dict[str, Any]:
    """Measure what a running service does with one catalogue."""
    drawn = token_sequences(draw_codes(count + CHANGES), FIRST_CODE)
    sequences, more = drawn[:count], drawn[count:]
    trie = CodeTrie.from_token_sequences(sequences, tool_names(count))
    rng = np.random.default_rng(2)
    masks = [rng.random(count) < share for share in np.resize([0.5, 0.1, 0.9], repeats + 1)]
    fresh = iter(masks)
    result: dict[str, Any] = {
        "tools": count,
        "subset_of_a_mask_ms": 1000 * median_seconds(lambda: trie.subset(mask=next(fresh)), repeats),
        "subset_again_ms": 1000 * median_seconds(lambda: trie.subset(mask=masks[-1]), repeats),
    }
    _check_subset(trie, sequences, masks[-1])
    leaving = [f"tool_{row}" for row in rng.choice(count, CHANGES, replace=False)]
    coming = [f"new_{row}" for row in range(CHANGES)]
    result["changes"] = 2 * CHANGES
    result["changes_s"] = median_seconds(lambda: trie.without_tools(leaving).with_tools(coming, more), 1 + repeats // 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trie.safetensors"
        result["save_s"] = median_seconds(lambda: trie.save(path), 1 + repeats // 3)
        result["file_bytes_per_tool"] = path.stat().st_size / count
        result["load_s"] = median_seconds(lambda: CodeTrie.load(path), 1 + repeats // 3)
        if not np.array_equal(CodeTrie.load(path).sequences, trie.sequences):
            raise SystemExit("a trie that was saved and loaded has other sequences")
    return result


def _check_subset(trie: CodeTrie, sequences: np.ndarray, mask: np.ndarray) -> None:
    """Walk to some tools: those outside the mask must be out of reach, those inside must not."""
    picked = np.arange(0, len(sequences), max(1, len(sequences) // 5000))
    nodes = trie.subset(mask=mask).walk(sequences[picked])
    if not np.array_equal(nodes >= 0, mask[picked]):
        raise SystemExit("a subset allows the wrong tools")
