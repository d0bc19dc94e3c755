"""Allow only tokens that go on with valid arguments, one grammar a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LogitsProcessor

from toolscaler.agent.arguments import ArgumentGrammar, ArgumentMatcher
from toolscaler.errors import ConfigError, DecodingError

_Key = tuple[int, tuple[int, ...]]


@dataclass
class _State:
    """A row's matcher, and a bound on the tokens of the shortest way to whole arguments."""

    matcher: ArgumentMatcher
    closing: int
    way: list[int] | None = None  # where the shortest way is forced: what is left of it


class ArgumentLogitsProcessor(LogitsProcessor):
    """Set every score to -inf but those of tokens that go on with valid arguments (method, section 4, Action Input).

    For ``model.generate(..., logits_processor=[processor])``: greedy, sampling and beams. The state of a row is read
    off its generated tokens; matchers of the last step are kept only to save work, so reordered beams are fine. One
    processor serves one ``generate`` call at a time.

    Whole arguments are followed by an end token; read a row up to its first one (with beams transformers may fill a
    row up with more). A row that has left its grammar (a dead beam) keeps the end token only. Scores that stay are not
    changed or renormalised.

    Args:
        grammars: The grammar of every row, or one for each item of the batch.
        prompt_length: Columns of the (padded) prompt, behind which the arguments begin.
        max_tokens: Tokens that the arguments may have, end token included. When they run short the shortest way to
            whole arguments is forced, so that no budget cuts JSON off. ``None``: no such care.

    Raises:
        DecodingError: There is no grammar, one has no end token, or ``max_tokens`` is too small for any arguments.
        ConfigError: ``prompt_length`` or ``max_tokens`` is no whole number in range.
    """

    #: Continuous batching shows a processor the present token only, and no state can be read off that.
    supports_continuous_batching = False

    def __init__(
        self,
        grammars: ArgumentGrammar | Sequence[ArgumentGrammar],
        prompt_length: int,
        *,
        max_tokens: int | None = None,
    ) -> None:
        self.grammars = (grammars,) if isinstance(grammars, ArgumentGrammar) else tuple(grammars)
        if not self.grammars or not all(isinstance(grammar, ArgumentGrammar) for grammar in self.grammars):
            raise DecodingError("grammars: expected an ArgumentGrammar, or one for each item of the batch")
        if not all(grammar.end_token_ids for grammar in self.grammars):
            raise DecodingError("grammars: expected an end token; set tokenizer.eos_token or give end_token_ids")
        for key, value, least in (("prompt_length", prompt_length, 0), ("max_tokens", max_tokens, 1)):
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not whole and (key == "prompt_length" or value is not None):
                raise ConfigError(key, value, f"a whole number from {least}")
        self.prompt_length, self.max_tokens = prompt_length, max_tokens
        self._states: dict[_Key, _State | None] = {}
        for grammar in self.grammars:
            self._check_budget(grammar)

    def _check_budget(self, grammar: ArgumentGrammar) -> None:
        if self.max_tokens is None:
            return
        shortest = grammar.matcher().closing_tokens(self.max_tokens)
        if shortest is None or len(shortest) + 1 > self.max_tokens:
            raise DecodingError(
                f"max_tokens: arguments of {grammar.document.id!r} need more than {self.max_tokens} tokens; give more"
            )

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Mask a step.

        Args:
            input_ids: int64 (B, T) ids so far, prompt included; B is a multiple of the number of grammars.
            scores: float (B, vocabulary) scores of the next token; the model's head may be wider than the tokenizer.

        Returns:
            float (B, vocabulary), a new tensor of the same dtype.

        Raises:
            DecodingError: Rows and grammars do not fit together, or the head is too narrow for an end token.
        """
        rows, extra = divmod(len(input_ids), len(self.grammars))
        if extra or input_ids.shape[1] < self.prompt_length:
            raise DecodingError(
                f"expected rows for {len(self.grammars)} grammars of at least {self.prompt_length} tokens, got "
                f"{tuple(input_ids.shape)}"
            )
        keep = np.zeros(tuple(scores.shape), dtype=bool)
        states: dict[_Key, _State | None] = {}
        for row, taken in enumerate(input_ids[:, self.prompt_length :].tolist()):
            item = row // rows
            key = (item, tuple(taken))
            if key not in states:
                states[key] = self._advanced(item, key[1])
            allowed = self._allowed(item, states[key])
            width = min(len(allowed), keep.shape[1])
            keep[row, :width] = allowed[:width]
        if not keep.any(1).all():
            raise DecodingError(f"expected scores for every token of the tokenizer, got {scores.shape[1]} columns")
        self._states = states  # no more than the rows of one step
        return scores.masked_fill(~torch.from_numpy(keep).to(scores.device), -torch.inf)

    def _advanced(self, item: int, tokens: tuple[int, ...]) -> _State | None:
        """Give the state behind some tokens, ``None`` where they are off the grammar."""
        grammar = self.grammars[item]
        parent = self._states.get((item, tokens[:-1])) if tokens else None
        if parent is not None:
            state, missing = _State(parent.matcher.copy(), parent.closing + grammar.growth), tokens[-1:]
            if parent.way and parent.way[0] == tokens[-1]:
                state.way = parent.way[1:]
        elif tokens and (item, tokens[:-1]) in self._states:
            return None
        else:
            state, missing = _State(grammar.matcher(), self.max_tokens or 0), tokens
        try:
            for token in missing:
                state.matcher.accept(token)
        except DecodingError:
            # After the end transformers fills rows up with padding; nothing of that is read.
            return state if state.matcher.finished else None
        return state

    def _allowed(self, item: int, state: _State | None) -> np.ndarray:
        grammar = self.grammars[item]
        if state is None or state.matcher.finished or state.matcher.complete:
            return self._only(grammar, grammar.end_token_ids)
        if state.way is not None:
            return self._only(grammar, tuple(state.way[:1]) or grammar.end_token_ids)
        if self.max_tokens is not None:
            left = self.max_tokens - len(state.matcher.tokens)
            if state.closing + grammar.growth + 1 >= left:  # the bound on the way to the end does not rule it out
                way = state.matcher.closing_tokens(max(left, 1))
                if way is not None:
                    state.closing = len(way)
                    if len(way) + grammar.growth + 1 >= left:
                        state.way = way
                        return self._only(grammar, tuple(way[:1]) or grammar.end_token_ids)
        return state.matcher.allowed()

    @staticmethod
    def _only(grammar: ArgumentGrammar, tokens: tuple[int, ...]) -> np.ndarray:
        found = np.zeros(grammar.vocabulary.size, dtype=bool)
        found[list(tokens)] = True
        return found
