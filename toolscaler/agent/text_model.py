"""A causal LM read token by token; a conversation that goes on is not read again."""

from __future__ import annotations

import threading
from typing import Any

import torch

from toolscaler.decoding.model_adapter import Prefix
from toolscaler.decoding.model_io import accepted_arguments
from toolscaler.decoding.self_check import capability_of

#: Conversations whose keys and values are remembered.
MAX_CONTEXTS = 4


class ReadText:
    """What a model has read of one conversation. For one thread at a time; made by :class:`TextModel`."""

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self.ids: list[int] = []
        self._cache: Any = None

    def read(self, ids: list[int]) -> torch.Tensor:
        """Read a text; what it shares with the text before is kept.

        Args:
            ids: All token ids, at least one.

        Returns:
            float32 (vocabulary,) logits of the next token.
        """
        known = len(self.ids)
        shared = known if ids[:known] == self.ids else common_length(self.ids, ids)
        shared = min(shared, len(ids) - 1)  # one token at least is read, for its logits
        if self._cache is not None and shared < len(self.ids):
            if shared:
                self._cache.crop(shared - len(self.ids))  # below zero: how many tokens go
            else:
                self.forget()
        logits, self._cache = self._model.forward(ids, shared if self._cache is not None else 0, self._cache)
        self.ids = list(ids)
        return logits

    def forget(self) -> None:
        """Forget everything."""
        self.ids, self._cache = [], None

    def prefix(self) -> Prefix | None:
        """Give keys and values of all tokens but the last, for a search behind them; ``None`` without a cache."""
        if self._cache is None or len(self.ids) < 2:
            return None
        last = len(self.ids) - 1
        layers = [(layer.keys[:, :, :last], layer.values[:, :, :last]) for layer in self._cache.layers]
        return Prefix(tuple(self.ids[:last]), layers)


class TextModel:
    """Gives next-token logits of growing texts; shared by any number of threads.

    Each conversation keeps keys and values of its own. The last few are remembered, so that its next step goes on
    where it was; a model whose cache cannot be cut (state-space models) reads the whole text each time.

    Args:
        model: Causal LM in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._accepted = accepted_arguments(model)
        # Whether a text is longer than some layer looks back -> whether the cache can be cut.
        self._keeps: dict[bool, bool] = {}
        self._idle: list[ReadText] = []
        self._weights: tuple[tuple[int, int], ...] = ()
        self._lock = threading.Lock()

    def take(self, ids: list[int]) -> ReadText:
        """Give the remembered conversation that shares most with a text, or a new one. Nobody else has it then.

        What was read with other weights, before a step of training, is forgotten.
        """
        weights = tuple((id(weight), weight._version) for weight in self.model.parameters())
        with self._lock:
            if weights != self._weights:
                self._weights = weights
                self._idle.clear()
            best = max(range(len(self._idle)), key=lambda place: common_length(self._idle[place].ids, ids), default=-1)
            if best >= 0 and common_length(self._idle[best].ids, ids) > 1:
                return self._idle.pop(best)
        return ReadText(self)

    def put_back(self, text: ReadText) -> None:
        """Remember a conversation for its next step."""
        with self._lock:
            self._idle.append(text)
            del self._idle[:-MAX_CONTEXTS]

    def _can_keep(self, columns: int) -> bool:
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        beyond = isinstance(window, int) and columns > window
        if beyond not in self._keeps:
            self._keeps[beyond] = capability_of(self.model, columns).tree
        return self._keeps[beyond]

    def forward(self, ids: list[int], read: int, cache: Any) -> tuple[torch.Tensor, Any]:
        """Read the tokens behind the first ``read`` ones.

        Returns:
            float32 (vocabulary,) logits behind the last token, and the cache; ``None`` where it cannot be cut.
        """
        from transformers import DynamicCache

        device = self.model.device
        with torch.no_grad():
            keeps = self._can_keep(len(ids))
            if keeps and cache is None:
                cache = DynamicCache()
            new = torch.tensor([ids[read:]], device=device)
            given: dict[str, Any] = {"input_ids": new, "return_dict": True, "use_cache": keeps}
            if keeps:
                given["past_key_values"] = cache
            if "attention_mask" in self._accepted:
                given["attention_mask"] = torch.ones(1, len(ids), dtype=torch.long, device=device)
            if "position_ids" in self._accepted:
                given["position_ids"] = torch.arange(read, len(ids), device=device)[None]
            if "logits_to_keep" in self._accepted:
                given["logits_to_keep"] = 1
            logits = self.model(**given).logits[0, -1].float()
        return logits, cache if keeps else None


def common_length(one: list[int], other: list[int]) -> int:
    """Count the tokens with which both begin."""
    for place, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            return place
    return min(len(one), len(other))
