"""Allow only tokens that lead to a tool (paper section 4.3)."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LogitsProcessor

from toolscaler.decoding.trie import DEAD, CodeTrie
from toolscaler.errors import ConfigError, DecodingError


class PrefixConstrainedLogitsProcessor(LogitsProcessor):
    """Set every score to -inf but those of tokens that continue a valid code sequence.

    For ``model.generate(..., logits_processor=[processor])``: greedy, sampling and beams. It holds no state: each call
    reads the state of a row off its last ids, so reordered beams, several calls and several threads are fine. Scores
    that stay are not changed or renormalised.

    What a row may continue with:

    - inside a sequence (at its start: the first codes): the tokens that go on with one of the tools;
    - after a whole sequence: the end token (and, where it begins a longer sequence, that one's next tokens);
    - after a whole sequence and the end token, or where no sequence fits (``prompt_length`` only): the end token.

    Without an end token the last two kinds of rows keep nothing: then ``max_new_tokens`` must be the trie's
    ``max_length``.

    With fewer tools than beams transformers fills its result with rows that name no tool, or one again: with
    ``output_scores`` these have a score below -1e8, and are to be dropped
    (:class:`~toolscaler.GenerativeRetriever` never gives any).

    Args:
        trie: Valid sequences.
        eos_token_id: End token, the one that the model's generation config stops at.
        prompt_length: Columns of the (padded) prompt, for a single use with this one width. Without it the state is
            the longest tail of a row that begins a sequence; that is exact wherever the last token of a prompt is no
            code token, as in what :meth:`~toolscaler.ToolscalerTokenizer.encode_retrieval_prompt` gives.

    Raises:
        DecodingError: The end token is one of the codes, or no single token id.
        ConfigError: ``prompt_length`` is no whole number from 0.
    """

    #: Continuous batching shows a processor the present token only, and no state can be read off that.
    supports_continuous_batching = False

    def __init__(self, trie: CodeTrie, eos_token_id: int | None = None, *, prompt_length: int | None = None) -> None:
        if not isinstance(trie, CodeTrie):
            raise DecodingError(
                f"trie: expected a CodeTrie, got {type(trie).__name__}; CodeTrie.from_tokenizer makes one"
            )
        if eos_token_id is not None:
            trie.check_end_token(eos_token_id)
        whole = isinstance(prompt_length, int) and not isinstance(prompt_length, bool) and prompt_length >= 0
        if prompt_length is not None and not whole:
            raise ConfigError("prompt_length", prompt_length, "a whole number from 0, or None")
        self.trie = trie
        self.eos_token_id = eos_token_id
        self.prompt_length = prompt_length
        self._needed = max(trie.largest_token, -1 if eos_token_id is None else int(eos_token_id)) + 1

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Mask a step.

        Args:
            input_ids: int64 (B, T) ids so far, prompt included.
            scores: float (B, vocabulary) scores of the next token: logits or log-probabilities.

        Returns:
            float (B, vocabulary), a new tensor of the same dtype.

        Raises:
            DecodingError: The scores have fewer columns than the largest token id needs, or the rows are shorter than
                ``prompt_length``.
        """
        if scores.shape[1] < self._needed:
            raise DecodingError(
                f"expected scores for at least {self._needed} tokens, got {scores.shape[1]}; the model has no rows for "
                "the code tokens: call toolscaler.initialize_code_embeddings(model, tokenizer, ...) first"
            )
        nodes = self._states(input_ids)
        rows, tokens = self.trie.children(nodes)
        index = torch.from_numpy(rows).to(scores.device), torch.from_numpy(tokens).to(scores.device)
        masked = torch.full_like(scores, -torch.inf)
        masked[index] = scores[index]
        if self.eos_token_id is not None:
            childless = np.ones(len(nodes), dtype=bool)
            childless[rows] = False
            over = torch.from_numpy(np.flatnonzero(childless | self.trie.is_end(nodes))).to(scores.device)
            masked[over, self.eos_token_id] = scores[over, self.eos_token_id]
        return masked

    def _states(self, input_ids: torch.Tensor) -> np.ndarray:
        """Give the node of each row; int64 (B,)."""
        if self.prompt_length is not None:
            if input_ids.shape[1] < self.prompt_length:
                raise DecodingError(f"prompt_length: expected at most {input_ids.shape[1]}, got {self.prompt_length}")
            return self.trie.walk(input_ids[:, self.prompt_length :].cpu().numpy())
        ids = input_ids[:, max(0, input_ids.shape[1] - self.trie.max_length - 1) :].cpu().numpy()
        nodes = self._longest_tails(ids)
        if self.eos_token_id is not None and ids.shape[1]:
            # An end token alone does not end a row: a prompt may close with one (some chat templates; bos = eos).
            ended = np.flatnonzero(ids[:, -1] == self.eos_token_id)
            nodes[ended[self.trie.is_end(self._longest_tails(ids[ended, :-1]))]] = DEAD
        return nodes

    def _longest_tails(self, ids: np.ndarray) -> np.ndarray:
        """Give the node at the end of the longest tail that begins a sequence, the root where none does; int64 (B,)."""
        width = ids.shape[1]
        nodes = np.zeros(len(ids), dtype=np.int64)
        for depth in range(1, min(self.trie.max_length, width) + 1):
            found = self.trie.walk(ids[:, width - depth :])
            nodes = np.where(found >= 0, found, nodes)
        return nodes
