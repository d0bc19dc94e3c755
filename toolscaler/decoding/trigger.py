"""Free text until a marker, then one code sequence, then free text again (the agent's Action)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from toolscaler.decoding.marker import MarkerTable, marker_table
from toolscaler.decoding.torch_mask import Allowed, TorchTrie
from toolscaler.decoding.trie_rows import RowTries
from toolscaler.errors import ConfigError, DecodingError
from toolscaler.tokenization import ToolscalerTokenizer

#: Node of a row in free text.
FREE = -1


class Trigger:
    """Reads off the last ids of a row whether it is in free text or in a sequence, and says what may follow.

    A row's text is parsed from the left. Where it ends with the marker's core, and perhaps with some of the white space
    that belongs to the marker, a sequence is due. Tokens that fit are followed down the trie, up to the end of a
    sequence; from there on the text is free and searched anew. A token that fits nothing (in a prompt) makes it free.

    The last ids are enough: those of the marker and of the longest sequence. Only where sequences have texts in which a
    marker may begin or stand (tools named by ordinary tokens), the whole row is read.

    Args:
        rows: The tries.
        marker: Text.
        tokenizer: The model's tokenizer, a fast one.
        eos: End token; never forbidden in free text.
        codes_in_text: Allow code tokens in free text.

    Attributes:
        table: The marker as an automaton.
        window: Columns that are looked at; ``None``: all.
        codes: int64 ids that are for sequences alone, none where sequences are made of ordinary tokens.

    Raises:
        ConfigError: The marker is no text, or the tokenizer is missing.
        DecodingError: The tokenizer cannot write the marker, or does not know the trie's tokens.
    """

    def __init__(self, rows: RowTries, marker: str, tokenizer: Any, *, eos: int | None, codes_in_text: bool) -> None:
        if tokenizer is None:
            raise ConfigError("tokenizer", None, "the model's tokenizer, for a trigger")
        self.rows = rows
        self.table: MarkerTable = marker_table(tokenizer, marker)
        if rows.whole.largest_token >= self.table.vocabulary:
            raise DecodingError(
                f"tokenizer: expected one that knows the trie's tokens, up to {rows.whole.largest_token}, got "
                f"{self.table.vocabulary} tokens"
            )
        self.eos = eos
        self.codes = np.empty(0, dtype=np.int64) if codes_in_text else _code_ids(rows, tokenizer)
        self.window = None if _hold_markers(rows, self.table) else self.table.length + rows.max_length
        self._banned = [self._banned_in(state) for state in range(self.table.core)]
        self._spaces = [self.table.spaces(state) for state in range(self.table.core, self.table.length + 1)]

    def _banned_in(self, state: int) -> np.ndarray:
        """Give the known tokens that may not follow in free text, codes apart, where the marker has come to a state."""
        banned = self.table.broken[state].copy()
        if state:
            banned |= self.table.silent  # inside a marker they would part its text, but for none who reads it
        banned[self.codes] = False
        if self.eos is not None and self.eos < len(banned):
            banned[self.eos] = False
        return np.flatnonzero(banned[:-1])

    def states(self, ids: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Give each row's state in the marker and its node in the trie.

        Args:
            ids: int64 (B, T) ids so far.
            groups: As :meth:`RowTries.groups` gives it.

        Returns:
            Both int64 (B,): the marker's state, and the node, :data:`FREE` in free text. A sequence is due at node 0.
        """
        if self.window is not None:
            ids = ids[:, max(0, ids.shape[1] - self.window) :]
        count, width = ids.shape
        tokens = np.minimum(ids.T, self.table.vocabulary)
        following = self.table.next
        passed = np.zeros((width + 1, count), dtype=np.uint8)  # states before the first column, behind it, ...
        for column in range(width):
            passed[column + 1] = following[passed[column], tokens[column]]
        state = passed[-1].astype(np.int64)
        nodes = np.full(count, FREE, dtype=np.int64)
        met = passed >= self.table.core
        rows = np.flatnonzero(met.any(0))
        if len(rows):
            first = int(met.any(1).argmax()) - 1  # no sequence is due before
            own = None if groups is None else groups[rows]
            begun = passed[first, rows].astype(np.int64)
            state[rows], nodes[rows] = self._parse(begun, ids[rows, first:], tokens[first:, rows], own)
        return state, nodes

    def _parse(
        self, state: np.ndarray, ids: np.ndarray, tokens: np.ndarray, groups: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Follow int64 (B, T) ids, as table columns (T, B), from free text in given states on."""
        rows, core = self.rows, self.table.core
        nodes = np.full(len(ids), FREE, dtype=np.int64)
        for column in range(ids.shape[1]):
            state = self.table.next[state, tokens[column]].astype(np.int64)
            due = np.where(state >= core, 0, FREE)
            if (nodes >= 0).any():
                moved = rows.advance(nodes, ids[:, column], groups)
                fits = moved >= 0
                ended = fits & rows.is_end(moved, groups)
                goes_on = fits & ~ended
                if rows.ragged and ended.any():
                    goes_on[rows.children(moved, groups)[0]] = True
                nodes = np.where(fits, np.where(goes_on, moved, FREE), due)
                state[ended] = 0  # what follows a sequence is searched anew
            else:
                nodes = due
        return state, nodes

    def masked(self, scores: torch.Tensor, ids: np.ndarray, groups: np.ndarray | None) -> torch.Tensor:
        """Mask a step on the CPU.

        Raises:
            DecodingError: A score that stays is NaN or +inf; the rows are named.
        """
        state, nodes = self.states(ids, groups)
        result = scores.clone(memory_format=torch.contiguous_format)
        walking = np.flatnonzero(nodes >= 0)
        free = nodes < 0
        if len(walking):
            free |= self.rows.is_end(nodes, groups)  # may go on or be over
            result[torch.from_numpy(np.flatnonzero(~free))] = -torch.inf
        self._ban(result, state, np.flatnonzero(free))
        if len(walking):
            index = tuple(map(torch.from_numpy, self._due(state, nodes, groups, scores.shape[1])))
            result[index] = scores[index]
        _check_finite(result)
        return result

    def _due(
        self, state: np.ndarray, nodes: np.ndarray, groups: np.ndarray | None, columns: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Give what may follow inside sequences and, in front of them, the marker's white space: rows and tokens."""
        own, tokens = self.rows.children(nodes, groups)
        due = np.flatnonzero(nodes == 0)
        for value in np.unique(state[due]).tolist():
            at, space = due[state[due] == value], self._spaces[value - self.table.core]
            space = space[space < columns]
            own = np.concatenate([own, np.repeat(at, len(space))])
            tokens = np.concatenate([tokens, np.tile(space, len(at))])
        return own, tokens

    def _ban(self, result: torch.Tensor, state: np.ndarray, free: np.ndarray) -> None:
        """Set what may not stand in free text to -inf."""
        columns = result.shape[1]
        if len(self.codes) and len(free):
            low, high = int(self.codes[0]), int(self.codes[-1]) + 1
            rows = torch.from_numpy(free)
            if high - low == len(self.codes):
                result[rows, low:high] = -torch.inf
            else:
                result[rows[:, None], torch.from_numpy(self.codes[self.codes < columns])] = -torch.inf
        for value in np.unique(state[free]).tolist():
            at = torch.from_numpy(free[state[free] == value])
            banned = self._banned[value]
            result[at[:, None], torch.from_numpy(banned[banned < columns])] = -torch.inf
            if value and columns > self.table.vocabulary:  # no text, as the silent tokens
                keep = self.eos is not None and self.eos >= self.table.vocabulary
                kept = result[at, self.eos].clone() if keep else None
                result[at, self.table.vocabulary :] = -torch.inf
                if kept is not None:
                    result[at, self.eos] = kept

    # The same with torch operations of static shapes.

    def tables(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Give, on a device, the automaton and what may follow each state: int64 and bool (P + 1 or P + 2, n + 1)."""
        core, length, count = self.table.core, self.table.length, self.table.vocabulary
        allowed = np.zeros((length + 2, count + 1), dtype=bool)  # the last row: inside a sequence, nothing but it
        for state in range(core):
            allowed[state] = True
            allowed[state, self.codes] = False
            allowed[state, self._banned[state]] = False
            allowed[state, count] = state == 0
        for state in range(core, length + 1):
            allowed[state, self._spaces[state - core]] = True
        following = torch.from_numpy(self.table.next.astype(np.int64)).to(device)
        return following, torch.from_numpy(allowed).to(device)

    def masked_on_device(
        self,
        scores: torch.Tensor,
        ids: torch.Tensor,
        trie: TorchTrie,
        allowed: Allowed,
        tables: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Mask a step on any device."""
        following, texts = tables
        state, nodes = self._states_on_device(ids, trie, allowed, following)
        ends = allowed.ends(nodes)
        inside = (nodes > 0) & (nodes != trie.stopped) & ~ends
        may = texts[torch.where(inside, texts.shape[0] - 1, state)]
        columns, count = scores.shape[1], self.table.vocabulary
        if columns > count:
            may = torch.cat([may[:, :count], may[:, count:].expand(-1, columns - count)], 1)
        may = may[:, :columns]
        if self.eos is not None and self.eos >= count:
            may = may.clone()
            may[:, self.eos] = ~inside & (state < self.table.core)
        result = torch.where(may, scores, -torch.inf)
        slots = torch.minimum(trie.first_child[nodes][:, None] + trie.branches, trie.last_child[nodes][:, None])
        tokens = trie.tokens[slots]
        good = (slots != trie.stopped) & allowed.test(slots)
        # A column that is no child writes back what is there; columns of one row never differ over one token.
        values = torch.where(good, scores.gather(1, tokens), result.gather(1, tokens))
        return result.scatter_(1, tokens, values)

    def _states_on_device(
        self, ids: torch.Tensor, trie: TorchTrie, allowed: Allowed, following: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.window is not None:
            ids = ids[:, max(0, ids.shape[1] - self.window) :]
        tokens = ids.clamp(max=self.table.vocabulary)
        state = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
        nodes = torch.full_like(state, trie.stopped)
        for column in range(ids.shape[1]):
            state = following[state, tokens[:, column]]
            moved = allowed.nodes(trie.advance(nodes, ids[:, column]))
            fits = moved != trie.stopped
            ended = fits & allowed.ends(moved)
            goes_on = fits & (~ended | self._goes_on(moved, trie, allowed))
            due = torch.where(state >= self.table.core, 0, trie.stopped)
            nodes = torch.where(fits, torch.where(goes_on, moved, trie.stopped), due)
            state = torch.where(ended, 0, state)
        return state, nodes

    def _goes_on(self, nodes: torch.Tensor, trie: TorchTrie, allowed: Allowed) -> torch.Tensor:
        if not trie.ragged:
            return torch.zeros_like(nodes, dtype=torch.bool)
        if allowed.bits is None:
            return trie.first_child[nodes] != trie.stopped
        slots = torch.minimum(trie.first_child[nodes][:, None] + trie.branches, trie.last_child[nodes][:, None])
        return ((slots != trie.stopped) & allowed.test(slots)).any(1)


def _check_finite(result: torch.Tensor) -> None:
    if result.numel() and not bool(result.detach().amax() < torch.inf):
        bad = torch.nonzero(~(result.amax(1) < torch.inf)).flatten().tolist()
        raise DecodingError(
            f"scores: expected no NaN and no +inf among the allowed tokens, got some in rows {bad}; the model "
            "overflowed: try float32 or bfloat16, and check its weights"
        )


def _code_ids(rows: RowTries, tokenizer: Any) -> np.ndarray:
    """Give the ids that only sequences use: code tokens, or else added tokens; none if the trie has ordinary ones."""
    low, high = rows.span
    if isinstance(tokenizer, ToolscalerTokenizer):
        first = tokenizer.first_code_id
        if first <= low and high <= first + tokenizer.num_code_tokens:
            return np.arange(first, first + tokenizer.num_code_tokens)
    used = np.unique(rows.whole.expand(np.arange(rows.whole.arrays.num_nodes))[1])
    added = np.array(sorted(tokenizer.get_added_vocab().values()), dtype=np.int64)
    return used if np.isin(used, added).all() else used[:0]


def _hold_markers(rows: RowTries, table: MarkerTable) -> bool:
    """Say whether a marker may begin or stand in the text of a sequence; then a part of a row is not enough."""
    arrays = rows.whole.arrays
    used = np.unique(rows.whole.expand(np.arange(arrays.num_nodes))[1])
    if not table.next[:, used].any():
        return False
    sequences = rows.whole.sequences
    for begin in range(table.core, table.length + 1):
        state = np.full(len(sequences), begin, dtype=np.int64)
        for column in sequences.T:
            there = column >= 0
            state = np.where(there, table.next[state, np.where(there, column, 0)], state)
            if (there & (state >= table.core)).any():
                return True
        if (state > 0).any():
            return True
    return False
