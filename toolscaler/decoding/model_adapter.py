"""Run a causal LM on prompts, then on trees of tokens behind them, each prompt's keys and values existing once."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from toolscaler.decoding.model_io import accepted_arguments

#: Logits that exist at once: 128 MiB in float32.
HEAD_ELEMENTS = 2**25

#: Logits that a core keeps at hand.
_CACHED_ELEMENTS = 2**17

#: Positions at most that one forward adds to a prompt; wider trees take several.
MAX_FEED = 1024


@dataclass(frozen=True)
class Capability:
    """What the self-check found a model to allow.

    Attributes:
        tree: Tokens behind a prompt may be a tree, under a mask of our own.
        by_type: The mask is a mapping, from the type of a layer to its mask.
        hidden: The output head applied to the last hidden states gives the logits.
        sliced: A slice of the head's rows gives a slice of the logits.
        reason: Why there is no tree.
    """

    tree: bool
    by_type: bool = False
    hidden: bool = False
    sliced: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the tokens that all prompts begin with.

    Attributes:
        ids: The tokens.
        layers: Keys and values of each layer, (1, heads, F, size).
    """

    ids: tuple[int, ...]
    layers: list[tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Context:
    """A batch of prompts that a model has read, and the tree tokens behind them.

    Attributes:
        cache: Keys and values of P + C columns.
        blocked: bool (Q, P), true for padding.
        columns: int64 (Q, P), position of each column of the prompt.
        lengths: int64 (Q,) tokens of each prompt.
        tree: int64 (Q, C), position of each tree column.
    """

    cache: Any
    blocked: torch.Tensor
    columns: torch.Tensor
    lengths: np.ndarray
    tree: np.ndarray

    def fork(self) -> Context:
        """Give a context that can grow apart from this one; no number is copied."""
        cache = copy.copy(self.cache)
        # A layer binds new tensors when it grows, so a shallow copy keeps the old ones.
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        return Context(cache, self.blocked, self.columns, self.lengths, self.tree)


class ModelAdapter:
    """Forwards of one model for the search.

    "States" are what a forward leaves for each position: hidden states where the head can be applied to chosen rows,
    else logits.

    Args:
        model: Causal LM, maybe inside a PEFT or ``torch.compile`` wrapper.
        capability: What it allows.
        padding: Any token id.
    """

    def __init__(self, model: Any, capability: Capability, padding: int = 0) -> None:
        self.model = model
        self.capability = capability
        self.padding = padding
        self.inner = unwrapped(model)
        self.device = model.device
        self.dtype = self.inner.get_input_embeddings().weight.dtype
        self.head = self.inner.get_output_embeddings()
        config = model.config.get_text_config()
        cap = getattr(config, "final_logit_softcapping", None)
        self._softcap = float(cap) if cap else None
        self._window = getattr(config, "sliding_window", None)
        self._accepted = accepted_arguments(model)

    # Forwards

    def prefill(self, prompts: list[list[int]], prefix: Prefix | None = None) -> tuple[Context, torch.Tensor]:
        """Read prompts once.

        Args:
            prompts: Q lists of token ids, each longer than the prefix and beginning with it.
            prefix: Keys and values to go on from.

        Returns:
            The context, and the states of the last token of each prompt, (Q, size).
        """
        skipped = len(prefix.ids) if prefix is not None else 0
        lengths = np.array([len(prompt) for prompt in prompts])
        width = int(lengths.max()) - skipped
        ids = np.full((len(prompts), width), self.padding, dtype=np.int64)
        real = np.arange(width) >= width - (lengths - skipped)[:, None]
        ids[real] = np.concatenate([np.asarray(prompt[skipped:], dtype=np.int64) for prompt in prompts])
        positions = (real.cumsum(1) - 1).clip(min=0) + skipped
        cache = _new_cache()
        mask: Any = self._put(real.astype(np.int64))
        columns, blocked = positions, ~real
        if prefix is not None:
            for number, (keys, values) in enumerate(prefix.layers):
                cache.update(
                    keys.expand(len(prompts), *keys.shape[1:]), values.expand(len(prompts), *values.shape[1:]), number
                )
            columns = np.concatenate([np.broadcast_to(np.arange(skipped), (len(prompts), skipped)), positions], 1)
            blocked = np.concatenate([np.zeros((len(prompts), skipped), dtype=bool), blocked], 1)
        known = Context(
            cache, self._put(blocked), self._put(columns), lengths, np.empty((len(prompts), 0), dtype=np.int64)
        )
        if prefix is not None:
            causal = np.arange(skipped + width) <= np.arange(skipped, skipped + width)[:, None]
            mask = self._mask(known, self._put(causal)[None].expand(len(prompts), -1, -1), positions, inside=True)
        return known, self._forward(self._put(ids), mask, self._put(positions), cache, last=True)[:, -1]

    def read_prefix(self, ids: tuple[int, ...]) -> Prefix:
        """Read what prompts begin with, to be used by many."""
        context, _ = self.prefill([list(ids)])
        return Prefix(ids, [(layer.keys, layer.values) for layer in context.cache.layers])

    def feed(self, context: Context, ids: np.ndarray, positions: np.ndarray, visible: np.ndarray) -> torch.Tensor:
        """Read tree tokens behind the prompts, and keep them in the context.

        Args:
            context: Prompts, and C tree columns so far.
            ids: int64 (Q, W) tokens; what fills a row up attends to itself only.
            positions: int64 (Q, W).
            visible: bool (Q, W, C + W): the tree columns that each token attends to, itself included.

        Returns:
            States, (Q, W, size).
        """
        before, width = context.tree.shape[1], ids.shape[1]
        parts = []
        for start in range(0, width, MAX_FEED):
            stop = min(start + MAX_FEED, width)
            context.tree = np.concatenate([context.tree, positions[:, start:stop]], 1)
            mask = self._mask(context, self._put(visible[:, start:stop, : before + stop]), positions[:, start:stop])
            given = self._put(ids[:, start:stop]), mask, self._put(positions[:, start:stop])
            parts.append(self._forward(*given, context.cache))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _forward(
        self, ids: torch.Tensor, mask: Any, positions: torch.Tensor, cache: Any, last: bool = False
    ) -> torch.Tensor:
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache}
        given |= {"use_cache": True, "return_dict": True}
        if "position_ids" in self._accepted:
            given["position_ids"] = positions
        if self.capability.hidden:
            return self.inner.base_model(**given).last_hidden_state
        if last and "logits_to_keep" in self._accepted:
            given["logits_to_keep"] = 1
        return self.model(**given).logits

    def _mask(self, context: Context, visible: torch.Tensor, positions: np.ndarray, inside: bool = False) -> Any:
        """Make the additive mask (Q, 1, W, columns); floats, which every attention that takes a mask adds.

        Args:
            context: What the tokens stand behind, their own columns included.
            visible: bool (Q, W, C): the tree columns each sees; ``inside``: (Q, W, P) of the prompt itself.
            positions: int64 (Q, W).
            inside: The tokens are part of the prompt.
        """
        lowest = torch.finfo(self.dtype).min
        width = positions.shape[1]
        seen = ~context.blocked[:, None]
        seen = visible & seen if inside else torch.cat([seen.expand(-1, width, -1), visible], 2)
        full = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device).masked_fill_(~seen, lowest)[:, None]
        near = full
        if self._window is not None and int(positions.max()) >= self._window:
            keys = context.columns if inside else torch.cat([context.columns, self._put(context.tree)], 1)
            far = self._put(positions)[:, :, None] - keys[:, None] >= self._window
            near = full.masked_fill(far[:, None], lowest)
        return {"full_attention": full, "sliding_attention": near} if self.capability.by_type else near

    def _put(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    # Scores

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Give logits (n, vocabulary) of states (n, size), in the head's dtype."""
        return self._capped(self.head(states)) if self.capability.hidden else states

    def part_of_logits(self, states: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Give float32 logits (n, stop - start) of a range of token ids."""
        if not self.capability.sliced:
            return self.logits(states)[:, start:stop].float()
        bias = getattr(self.head, "bias", None)
        weight = self.head.weight
        part = functional.linear(
            states.to(weight.device), weight[start:stop], None if bias is None else bias[start:stop]
        )
        return self._capped(part).float()

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap

    def full_log_probs(
        self, states: torch.Tensor, rows: np.ndarray, tokens: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give log-probabilities over the whole vocabulary.

        Args:
            states: (n, size).
            rows: int64 (E,), ascending.
            tokens: int64 (E,).

        Returns:
            float32 (E,), and the normalisers (n,): not finite where a row's logits are not.
        """
        chunk = max(1, HEAD_ELEMENTS // (1 if self.head is None else self.head.weight.shape[0]))
        values, totals = [], []
        for start in range(0, len(states), chunk):
            logits = self.logits(states[start : start + chunk])
            totals.append(_normalisers(logits))
            first, stop = np.searchsorted(rows, [start, start + chunk])
            at = self._index(rows[first:stop] - start, logits), self._index(tokens[first:stop], logits)
            values.append(logits[at].float() - totals[-1][at[0]])
        return torch.cat(values), torch.cat(totals)

    def group_log_probs(
        self, states: torch.Tensor, rows: np.ndarray, tokens: np.ndarray, group: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same over the codes of one position: token ids from ``group[0]`` to before ``group[1]``."""
        logits = self.part_of_logits(states, *group)
        totals = logits.logsumexp(-1)
        at = self._index(rows, logits), self._index(tokens - group[0], logits)
        return logits[at] - totals[at[0]], totals

    @staticmethod
    def _index(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)


def _normalisers(logits: torch.Tensor) -> torch.Tensor:
    """Give the logarithm of the sum of exponentials of each row, float32 (n,)."""
    if logits.device.type == "cpu":  # a few rows at a time stay in the processor's cache
        rows = max(1, _CACHED_ELEMENTS // logits.shape[1])
        return torch.cat([part.float().logsumexp(-1) for part in logits.split(rows)])
    return logits.float().logsumexp(-1)


def unwrapped(model: Any) -> Any:
    """Give the transformers model inside a ``torch.compile`` or PEFT wrapper; adapters stay inside its layers."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _new_cache() -> Any:
    """Make a cache that keeps every column.

    Without the model's config also sliding layers keep all of them, and the mask alone says what is near.
    """
    from transformers import DynamicCache

    return DynamicCache()
