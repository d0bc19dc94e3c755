"""Allow only tokens that lead to a tool (paper section 4.3)."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LogitsProcessor

from toolscaler.decoding.trie import CodeTrie
from toolscaler.errors import DecodingError


class PrefixConstrainedLogitsProcessor(LogitsProcessor):
    """Set every score to -inf but those of tokens that continue a valid code sequence.

    It holds no state: each call reads the state of a row off its last ids, so reordered beams, several calls and
    several threads are fine. Scores that stay are not changed or renormalised.

    After a whole sequence only the end token is allowed. A row that is over (its last id is the end token or the
    padding) keeps the end token too. In a row whose state cannot occur everything is -inf but the end token, where
    there is one.

    Args:
        trie: Valid sequences.
        eos_token_id: End token; without it, rows that are complete have no allowed token.
        prompt_length: Number of columns of the prompt. Without it the state is the longest tail of a row that begins
            a sequence, which is exact as long as the prompt does not end in code tokens.

    Raises:
        DecodingError: The scores have fewer columns than the trie's largest token id.
    """

    supports_continuous_batching = False

    def __init__(self, trie: CodeTrie, eos_token_id: int | None = None, *, prompt_length: int | None = None) -> None:
        self.trie = trie
        self.eos_token_id = eos_token_id
        self.prompt_length = prompt_length
        self._largest = int(trie.sequences.max())

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Mask a step.

        Args:
            input_ids: (B, T) ids so far, prompt included.
            scores: (B, vocabulary) scores of the next token.

        Returns:
            (B, vocabulary) new tensor.
        """
        if self._largest >= scores.shape[1]:
            raise DecodingError(
                f"expected scores for at least {self._largest + 1} tokens, got {scores.shape[1]}; "
                "were the model's embeddings resized for the code tokens?"
            )
        nodes = self._states(input_ids.cpu().numpy())
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

    def _states(self, ids: np.ndarray) -> np.ndarray:
        if self.prompt_length is not None:
            return self.trie.walk(ids[:, self.prompt_length :])
        nodes = np.zeros(len(ids), dtype=np.int64)
        for depth in range(1, min(self.trie.max_length, ids.shape[1]) + 1):
            found = self.trie.walk(ids[:, ids.shape[1] - depth :])
            nodes = np.where(found >= 0, found, nodes)
        if self.eos_token_id is not None:
            nodes[ids[:, -1] == self.eos_token_id] = -1
        return nodes
