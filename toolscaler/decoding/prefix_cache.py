"""Keys and values of what all prompts begin with, for as long as the model is the same."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import torch

from toolscaler.decoding.model_adapter import ModelAdapter, Prefix, unwrapped

#: Tokens that a shared beginning must have to be read apart; on other devices than a CPU (not measured) a few hundred
#: tokens more in a forward cost less than to make sure that the model is still the same.
MIN_PREFIX = 16
MIN_PREFIX_ELSEWHERE = 256

#: Tokens that a shared beginning must save within a call to be worth a forward of its own.
MIN_SAVED = 128

#: Beginnings that are remembered, and the longest one, in tokens.
ENTRIES = 4
MAX_REMEMBERED = 2048

#: Elements of each parameter that a fingerprint holds.
_SAMPLES = 4


class PrefixCache:
    """Remember keys and values of shared beginnings, such as the head of a chat template.

    A beginning is read apart where the prompts of one call share enough of it, or where a call begins like the one
    before. An entry serves another call as long as every parameter is the same object with the same count of in-place
    changes, and a sample of its numbers and the embeddings of the beginning's own tokens are the same (some code writes
    to ``parameter.data``, which counts nothing). Adapters switch without a trace, so with them nothing lasts.

    Args:
        model: Causal LM.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._entries: OrderedDict[tuple[int, ...], tuple[Any, Prefix]] = OrderedDict()
        self._last: list[int] = []
        self._lock = threading.Lock()

    def worth(self, prompts: list[list[int]]) -> int:
        """Give how many first tokens of a call's prompts are worth being read apart; zero: none."""
        common = _usable(prompts)
        least = MIN_PREFIX if self._model.device.type == "cpu" else MIN_PREFIX_ELSEWHERE
        with self._lock:
            last, self._last = self._last, common
            known = max((len(ids) for ids in self._entries if list(ids) == common[: len(ids)]), default=0)
        if len(common) < least:
            return 0
        if (len(common) - known) * (len(prompts) - 1) >= MIN_SAVED:
            return len(common)
        again = len(common_prefix([common, last]))
        # A few tokens more than what is known, such as two queries' equal first word, are not worth a forward.
        return again if again >= known + least else known

    def get(self, adapter: ModelAdapter, prompts: list[list[int]], length: int, *, lasting: bool) -> Prefix:
        """Give keys and values of the first ``length`` tokens, which all prompts share.

        Args:
            adapter: The model.
            prompts: The prompts.
            length: What :meth:`worth` gave.
            lasting: Entries may come from another call, and may serve one.
        """
        ids = tuple(prompts[0][:length])
        adapters = hasattr(self._model, "peft_config") or getattr(self._model, "_hf_peft_config_loaded", False)
        if not lasting or adapters or length > MAX_REMEMBERED:
            return adapter.read_prefix(ids)
        mark = fingerprint(self._model, ids)
        with self._lock:
            entry = self._entries.get(ids)
            if entry is not None and _same(entry[0], mark):
                self._entries.move_to_end(ids)
                return entry[1]
        prefix = adapter.read_prefix(ids)
        with self._lock:
            self._entries[ids] = (mark, prefix)
            self._entries.move_to_end(ids)
            while len(self._entries) > ENTRIES:
                self._entries.popitem(last=False)
        return prefix


def _usable(prompts: list[list[int]]) -> list[int]:
    """Give what all prompts begin with; of each prompt one token at least is left to be read."""
    return common_prefix(prompts)[: min(map(len, prompts)) - 1]


def common_prefix(rows: list[list[int]]) -> list[int]:
    """Give the longest list that all rows begin with."""
    low, high = min(rows), max(rows)  # whatever these two share, all in between share
    for place, (one, other) in enumerate(zip(low, high, strict=False)):
        if one != other:
            return low[:place]
    return low[: min(len(low), len(high))]


def fingerprint(model: Any, ids: tuple[int, ...]) -> tuple[Any, ...]:
    """Give what changes when a model's numbers do: identities and counts of changes, and samples of the numbers."""
    marks: list[Any] = [torch.is_autocast_enabled(), torch.is_inference_mode_enabled()]
    samples = []
    for tensor in (*model.parameters(), *model.buffers()):
        version = None if tensor.is_inference() else tensor._version
        marks.append((id(tensor), version, tensor.data_ptr(), tensor.dtype, str(tensor.device)))
        if tensor.is_contiguous() and tensor.numel() and not tensor.is_meta:
            flat = tensor.detach().flatten()
            samples.append(flat[:: max(1, len(flat) // _SAMPLES)][: _SAMPLES + 1].float())
    weight = unwrapped(model).get_input_embeddings().weight.detach()
    samples.append(weight[torch.tensor(ids, device=weight.device)].float().flatten())
    return tuple(marks), torch.cat([sample.to(weight.device) for sample in samples])


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[0] == other[0] and torch.equal(one[1], other[1])
