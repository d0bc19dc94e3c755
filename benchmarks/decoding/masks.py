"""The mask of a decoding step: cost by rows and catalogue, against peers; and its operations on the torch path."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.decoding.catalogue import CODES, LENGTH, draw_codes, level_sizes, token_sequences, tool_names
from benchmarks.decoding.operations import count_operations
from benchmarks.decoding.peers import FORBIDDEN, DictTrie, Static, ToolGenStyle, transformers_processor
from benchmarks.decoding.timing import seconds_of
from toolscaler.decoding import CodeTrie, PrefixConstrainedLogitsProcessor

VOCABULARY = 130_304
FIRST_CODE = VOCABULARY - LENGTH * CODES
END = 2
PROMPT = 16
DRAWS = 6
NUM_BEAMS = 5

FLOOR = "torch.full_like(scores, -inf)"
FILL = "scores.fill_(-inf), in place"
TRANSFORMERS = "transformers, dict trie"
TOOLGEN = "ToolGen-style walk"
STATIC = "STATIC, state given"
FRESH = "toolscaler"
REUSED = "toolscaler, reuse_buffer"
TORCH = "toolscaler, torch path"

#: Rows -> timed searches of what is fast, and of what loops over rows in Python.
ROUNDS = {5: (61, 21), 80: (31, 9), 640: (11, 3)}
QUICK_ROUNDS = (3, 1)


@dataclass
class Step:
    """Input of a step, all rows at one depth.

    Attributes:
        depth: Codes written already.
        ids: int64 (rows, prompt + depth).
        states: STATIC's states of the rows.
    """

    depth: int
    ids: torch.Tensor
    states: torch.Tensor | None = None


Method = Callable[[Step, torch.Tensor], torch.Tensor]


def our_methods(trie: CodeTrie) -> dict[str, Method]:
    fresh = PrefixConstrainedLogitsProcessor(trie, END)
    reused = PrefixConstrainedLogitsProcessor(trie, END, reuse_buffer=True)

    by_torch = PrefixConstrainedLogitsProcessor(trie, END)
    by_torch._numpy = False  # the path of CUDA and of compiled models, on this device

    return {
        FRESH: lambda step, scores: fresh(step.ids, scores),
        REUSED: lambda step, scores: reused(step.ids, scores),
        TORCH: lambda step, scores: by_torch(step.ids, scores),
    }


def peer_methods(codes: np.ndarray, static: Static | None) -> dict[str, Method]:
    trie = DictTrie(token_sequences(codes, FIRST_CODE))
    theirs = transformers_processor(trie, PROMPT, END, NUM_BEAMS)
    walk = ToolGenStyle(trie, PROMPT, END)
    methods: dict[str, Method] = {
        TRANSFORMERS: lambda step, scores: theirs(step.ids, scores),
        TOOLGEN: lambda step, scores: walk(step.ids, scores),
    }
    if static is not None:
        methods[STATIC] = lambda step, scores: static.process(step.states, step.depth, scores)
    return methods


def draw_search(
    codes: np.ndarray, rows: int, rng: np.random.Generator, static: Static | None, device: str
) -> tuple[np.ndarray, list[Step]]:
    """Draw random tools, and the steps that a search would take to each."""
    chosen = rng.integers(len(codes), size=rows)
    prompt = rng.integers(3, FIRST_CODE, (rows, PROMPT))
    ids = torch.from_numpy(np.concatenate([prompt, token_sequences(codes[chosen], FIRST_CODE)], 1)).to(device)
    local = codes[chosen] + CODES * np.arange(LENGTH)
    steps = []
    for depth in range(LENGTH):
        states = static.states(local[:, :depth]).to(device) if static is not None and depth else None
        steps.append(Step(depth, ids[:, : PROMPT + depth].clone(), states))
    return chosen, steps


def check(
    codes: np.ndarray, methods: dict[str, Method], rows: int, static: Static | None, rng: np.random.Generator
) -> int:
    """Compare every method with a search through the whole list of sequences; give the number of masks compared."""
    sequences = token_sequences(codes, FIRST_CODE)
    scores = torch.randn(rows, VOCABULARY)
    chosen, steps = draw_search(codes, rows, rng, static, "cpu")
    for step in steps:
        expected = torch.full_like(scores, -torch.inf)
        for row, tool in enumerate(chosen):
            fits = np.ones(len(codes), dtype=bool)
            for place in range(step.depth):
                fits &= sequences[:, place] == sequences[tool, place]
            allowed = torch.from_numpy(np.unique(sequences[fits, step.depth]))
            expected[row, allowed] = scores[row, allowed]
        for name, method in methods.items():
            found = method(step, scores.clone())
            if name == TOOLGEN:
                found = found.masked_fill(found == FORBIDDEN, -torch.inf)
            if not torch.equal(found, expected):
                raise SystemExit(f"{name}: wrong mask at depth {step.depth} with {len(codes)} tools")
    return rows * len(steps) * len(methods)


def check_every_prefix(codes: np.ndarray, rows: int = 640) -> int:
    """Compare our masks with brute force at every prefix of the catalogue; give the number of masks compared.

    The vocabulary is a small one, so that tens of thousands of whole masks are quick to compare.
    """
    first, vocabulary = 8, 8 + LENGTH * CODES + 3
    sequences = token_sequences(codes, first)
    methods = our_methods(CodeTrie(sequences))
    scores, compared = torch.randn(rows, vocabulary), 0
    for depth in range(LENGTH):
        prefixes, which = np.unique(sequences[:, :depth], axis=0, return_inverse=True)
        allowed = np.zeros((len(prefixes), CODES), dtype=bool)
        allowed[which.reshape(-1), codes[:, depth]] = True
        for start in range(0, len(prefixes), rows):
            part = prefixes[start : start + rows]
            ids = torch.from_numpy(np.concatenate([np.full((len(part), 1), 3), part], 1))
            given = scores[: len(part)]
            expected = torch.full_like(given, -torch.inf)
            columns = slice(first + CODES * depth, first + CODES * (depth + 1))
            kept = torch.from_numpy(allowed[start : start + rows])
            expected[:, columns] = torch.where(kept, given[:, columns], -torch.inf)
            for name, method in methods.items():
                if not torch.equal(method(Step(depth, ids), given), expected):
                    raise SystemExit(
                        f"{name}: wrong mask among the prefixes {start} to {start + rows} of depth {depth}"
                    )
            compared += len(part) * len(methods)
    return compared


def time_methods(
    searches: list[list[Step]], methods: dict[str, Method], rounds: tuple[int, int], device: str
) -> dict[str, dict[str, Any]]:
    """Time all methods in turn, depth after depth; give for each the mean over depths of the median milliseconds.

    What a method gives is held until its next call has returned, as ``generate`` holds it.
    """
    fast, slow = rounds
    scores = torch.randn(searches[0][0].ids.shape[0], VOCABULARY, device=device)
    spoilt = scores.clone()  # for those that write into what they are given
    timed: dict[str, Method] = {
        FLOOR: lambda _, given: torch.full_like(given, -torch.inf),
        FILL: lambda _, given: given.fill_(-torch.inf),
        **methods,
    }
    taken: dict[str, list[list[float]]] = {name: [[] for _ in range(LENGTH)] for name in timed}
    names, held = list(timed), None
    for number in range(fast + 1):
        turn = number % len(names)
        for step in searches[number % len(searches)]:
            for name in names[turn:] + names[:turn]:
                if name in (TRANSFORMERS, TOOLGEN) and number > slow:
                    continue
                given = spoilt if name in (FILL, TOOLGEN) else scores
                seconds, result = seconds_of(partial(timed[name], step, given), device)
                taken[name][step.depth].append(seconds)
                if name == REUSED:
                    held = result
                del result
    del held
    # The first round of each is not counted.
    return {
        name: {
            "ms": 1000 * statistics.mean(statistics.median(values[1:]) for values in depths),
            "ms_by_depth": [1000 * statistics.median(values[1:]) for values in depths],
        }
        for name, depths in taken.items()
    }


def measure(count: int, rows: list[int], static_path: Path | None, quick: bool, device: str = "cpu") -> dict[str, Any]:
    """Measure one catalogue."""
    rng = np.random.default_rng(1)
    codes = draw_codes(count)
    sequences = token_sequences(codes, FIRST_CODE)
    static = Static(static_path, codes, FIRST_CODE).build() if static_path else None
    trie = CodeTrie.from_token_sequences(sequences, tool_names(count) if count < 5_000_000 else None)
    methods = {**peer_methods(codes, static), **our_methods(trie)}
    result: dict[str, Any] = {"tools": count, "nodes": level_sizes(codes), "rows": {}}
    result["masks_checked"] = check(codes, methods, NUM_BEAMS if count > 100_000 else 4 * NUM_BEAMS, static, rng)
    if count <= 100_000:
        result["masks_checked"] += check_every_prefix(codes)
    if static is not None and device != "cpu":
        static.to(device)
    for size in rows:
        searches = [draw_search(codes, size, rng, static, device)[1] for _ in range(DRAWS)]
        found = time_methods(searches, methods, QUICK_ROUNDS if quick else ROUNDS[size], device)
        for name, method in methods.items():
            found[name] |= count_operations(method, searches[0][-1], torch.randn(size, VOCABULARY, device=device))
        for values in found.values():
            values["share"] = values["ms"] / found[FLOOR]["ms"]
        result["rows"][str(size)] = found
    return result
