"""What others do, written anew: a trie of dictionaries walked row by row; and STATIC's own code, from a checkout."""

from __future__ import annotations

import gc
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor
from transformers import PrefixConstrainedLogitsProcessor as TransformersProcessor

#: Score of a forbidden token in ToolGen.
FORBIDDEN = -1e10


class DictTrie:
    """A dictionary a node, token -> node: the form that ToolGen and callbacks for transformers use."""

    def __init__(self, sequences: np.ndarray) -> None:
        self.root: dict[int, Any] = {}
        gc.disable()  # in favour of the peer: millions of dictionaries would be visited again and again
        try:
            for start in range(0, len(sequences), 65_536):
                for row in sequences[start : start + 65_536].tolist():
                    node = self.root
                    for token in row:
                        below = node.get(token)
                        if below is None:
                            below = node[token] = {}
                        node = below
        finally:
            gc.enable()

    def allowed(self, prefix: list[int]) -> list[int]:
        """List the tokens that may follow a prefix."""
        node = self.root
        for token in prefix:
            node = node[token]
        return list(node)


class ToolGenStyle(LogitsProcessor):
    """The walk of ToolGen's processor: for each row in Python, in place, -1e10 for what is forbidden."""

    def __init__(self, trie: DictTrie, prompt_length: int, end_token: int) -> None:
        self.trie, self.prompt_length, self.end_token = trie, prompt_length, end_token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Mask a step."""
        for row, prefix in enumerate(input_ids[:, self.prompt_length :].tolist()):
            index = torch.tensor(self.trie.allowed(prefix) or [self.end_token], device=scores.device)
            kept = scores[row, index]
            scores[row] = FORBIDDEN
            scores[row, index] = kept
        return scores


def transformers_processor(trie: DictTrie, prompt_length: int, end_token: int, num_beams: int) -> Any:
    """Give transformers' own processor with the usual callback."""

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        return trie.allowed(ids[prompt_length:].tolist()) or [end_token]

    return TransformersProcessor(allowed, num_beams)


class Static:
    """STATIC (youtube/static-constraint-decoding, PyTorch), as it would have to be called inside ``generate``.

    It works on code-local ids and keeps its own state; both are given to it for nothing here. What it finds is written
    into a full-vocabulary tensor of -inf, which a logits processor must return.

    Args:
        checkout: Folder of the repository.
        codes: int64 (N, 4).
        first_code_id: Token id of code 0.
    """

    def __init__(self, checkout: Path, codes: np.ndarray, first_code_id: int) -> None:
        self.build_module = _module(checkout / "static_decoding" / "csr_utils.py")
        self.decode_module = _module(checkout / "static_decoding" / "decoding_pt.py")
        self.size, self.first = 512 * codes.shape[1], first_code_id
        local = codes + 512 * np.arange(codes.shape[1])
        self.codes = local[np.lexsort(local.T[::-1])]
        self.arrays: tuple[Any, ...] = ()

    def build(self) -> Static:
        """Build its index; the sorting that it asks for is not part of it."""
        self.arrays = self.build_module.build_static_index(self.codes, vocab_size=self.size, dense_lookup_layers=2)
        csr, starts, self.branches, first, dense_mask, dense_states = self.arrays
        self.csr, self.starts = torch.from_numpy(csr), torch.from_numpy(starts)
        self.first_mask, self.dense_mask = torch.from_numpy(first), torch.from_numpy(dense_mask)
        self.dense_states = dense_states
        return self

    def to(self, device: str) -> None:
        """Move what a step reads."""
        for name in ("csr", "starts", "first_mask", "dense_mask"):
            setattr(self, name, getattr(self, name).to(device))

    @property
    def nbytes(self) -> int:
        """Bytes of the index."""
        return sum(array.nbytes for array in self.arrays if isinstance(array, np.ndarray))

    def states(self, prefixes: np.ndarray) -> torch.Tensor:
        """Find its states of code-local prefixes (B, depth), depth above zero."""
        if prefixes.shape[1] == 1:
            return torch.from_numpy(prefixes[:, 0] + 1)
        states = self.dense_states[prefixes[:, 0], prefixes[:, 1]].astype(np.int64)
        csr, starts = self.arrays[0], self.arrays[1]
        for place in range(2, prefixes.shape[1]):
            for row, state in enumerate(states):
                edges = csr[starts[state] : starts[state + 1]]
                states[row] = edges[edges[:, 0] == prefixes[row, place], 1][0]
        return torch.from_numpy(states)

    def process(self, states: torch.Tensor | None, depth: int, scores: torch.Tensor) -> torch.Tensor:
        """Mask a step at one depth; ``states``: those of the rows, ``None`` at the root."""
        part = scores[:, self.first : self.first + self.size]
        masked = torch.full_like(scores, -torch.inf)
        if depth == 0 or states is None:
            masked[:, self.first : self.first + self.size] = torch.where(self.first_mask, part, -torch.inf)
            return masked
        if depth == 1:
            allowed = self.dense_mask[states - 1]
            masked[:, self.first : self.first + self.size] = torch.where(allowed, part, -torch.inf)
            return masked
        values, tokens, _ = self.decode_module.generate_and_apply_logprobs_mask(
            part, states, self.csr, self.starts, int(self.branches[depth]), self.size, scores.device
        )
        # Slots without a child hold -inf and a token of another state: they go to a column that is forbidden anyway.
        places = torch.where(values.isneginf(), 0, tokens.long() + self.first)
        return masked.scatter_(1, places, values)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"static_{path.stem}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"--static: expected a checkout of static-constraint-decoding, found no {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
