"""Allow only tokens that lead to a tool (paper section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from toolscaler.decoding import mask_cpu, torch_mask
from toolscaler.decoding.few_rows import MAX_ROWS, FewRows
from toolscaler.decoding.mask_buffer import BufferPool
from toolscaler.decoding.trie import CodeTrie
from toolscaler.decoding.trie_rows import RowTries
from toolscaler.decoding.trigger import Trigger
from toolscaler.errors import ConfigError, DecodingError, InvalidPrefixError

#: What to do with a row whose ids fit no sequence.
ON_INVALID = ("end", "raise")


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

    With a ``trigger`` the output is text with tool calls in it: free until the marker, then exactly one code sequence,
    then free again, several times if the model likes, each row in its own time. What decides is the text, however the
    tokenizer cuts it: a token that would complete the marker and go straight on with other text may not follow, so
    behind every marker in the output stands a tool. White space at the end of the marker is optional, and the only
    thing that may stand between. A prompt that ends with the marker, or inside a sequence, is gone on with; older
    markers and codes do not matter. The end token may follow anywhere in free text, and never where a code is due.

    Args:
        trie: Valid sequences, of the whole catalogue or of an allow-list (:meth:`CodeTrie.subset`); or a list of such
            views of one whole trie, one for each prompt of the batch, for callers who may use different tools. Rows
            that ``generate`` makes of one prompt (beams, returned sequences) all follow its list.
        eos_token_id: End token, the one that the model's generation config stops at.
        prompt_length: Columns of the (padded) prompt, for a single use with this one width. Without it the state is
            the longest tail of a row that begins a sequence; that is exact wherever the last token of a prompt is no
            code token, as in what :meth:`~toolscaler.ToolscalerTokenizer.encode_retrieval_prompt` gives.
        trigger: The marker, for example ``"Action:"``; ``None``: the whole output is one sequence.
        tokenizer: The model's fast tokenizer; for a trigger. The table that is made of its vocabulary is kept as long
            as the tokenizer lives.
        codes_in_text: Allow code tokens in free text; with a trigger, where codes are tokens of their own.
        reuse_buffer: On the CPU, write into a tensor of an earlier call instead of a new one, which makes a step
            cheaper than filling one. It is taken only when reference counts show that nobody holds that tensor, a view
            of it or its memory, and its version counter that nobody wrote into it; else, in inference mode and on other
            devices there is a new tensor as ever. What these counts cannot see is memory kept by its address alone, and
            writes that pass by the version counter (through ``tensor.data`` or ``tensor.numpy()``) by code that then
            lets go of the tensor; so it is off by default.
        on_invalid: What to do with a row whose ids fit no sequence: ``"end"``, it may only end (transformers fills
            beams with such rows); or ``"raise"``. Without ``prompt_length`` that is a row that ends with a token of the
            trie to which the tokens before it do not lead, and ``"end"`` takes it for the end of a prompt.

    Raises:
        DecodingError: The end token is one of the codes, or no single token id; ``trie`` is neither a trie nor a list
            of views of one trie; or the tokenizer cannot write the marker, or does not know the trie's tokens.
        ConfigError: ``prompt_length`` is no whole number from 0, another option has no such value, or options exclude
            each other: ``prompt_length``, ``reuse_buffer`` and ``on_invalid`` are for the whole output.
    """

    #: Continuous batching shows a processor the present token only, and no state can be read off that.
    supports_continuous_batching = False

    def __init__(
        self,
        trie: CodeTrie | Sequence[CodeTrie],
        eos_token_id: int | None = None,
        *,
        prompt_length: int | None = None,
        trigger: str | None = None,
        tokenizer: Any = None,
        codes_in_text: bool = False,
        reuse_buffer: bool = False,
        on_invalid: str = "end",
    ) -> None:
        self._rows = RowTries(trie)
        if eos_token_id is not None:
            self._rows.whole.check_end_token(eos_token_id)
        whole = isinstance(prompt_length, int) and not isinstance(prompt_length, bool) and prompt_length >= 0
        if prompt_length is not None and not whole:
            raise ConfigError("prompt_length", prompt_length, "a whole number from 0, or None")
        if on_invalid not in ON_INVALID:
            raise ConfigError("on_invalid", on_invalid, f"one of {', '.join(ON_INVALID)}")
        self.trie = trie
        self.eos_token_id = eos_token_id
        self.prompt_length = prompt_length
        self.on_invalid = on_invalid
        self._trigger: Trigger | None = None
        if trigger is not None:
            for key, value, usual in (
                ("prompt_length", prompt_length, None),
                ("reuse_buffer", reuse_buffer, False),
                ("on_invalid", on_invalid, "end"),
            ):
                if value != usual:
                    raise ConfigError(key, value, f"{usual!r} with a trigger")
            self._trigger = Trigger(self._rows, trigger, tokenizer, eos=eos_token_id, codes_in_text=codes_in_text)
        self._pool = BufferPool() if reuse_buffer else None
        self._needed = max(self._rows.whole.largest_token, -1 if eos_token_id is None else int(eos_token_id)) + 1
        self._first = self._first_tokens()
        self._few = FewRows(self._rows) if FewRows.serves(self._rows) else None
        self._numpy = True  # tests compare both ways on the CPU
        self._tables: dict[tuple[str, int | None], tuple[Any, ...]] = {}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Mask a step.

        Args:
            input_ids: int64 (B, T) ids so far, prompt included.
            scores: float (B, vocabulary) scores of the next token: logits or log-probabilities.

        Returns:
            float (B, vocabulary), of the same dtype; a new tensor unless ``reuse_buffer``.

        Raises:
            DecodingError: The arguments are no tensors of that form, or of different numbers of rows; the scores have
                fewer columns than the largest token id needs, the rows are shorter than
                ``prompt_length`` or no multiple of the number of tries, or (on the CPU; elsewhere it would have to wait
                for the device) an allowed token's score is NaN or +inf.
            InvalidPrefixError: A row's ids fit no sequence, with ``on_invalid="raise"``.
        """
        if not torch.compiler.is_compiling():
            _check_tensors(input_ids, scores)
        columns = scores.shape[1]
        if columns < self._needed:
            raise DecodingError(
                f"expected scores for at least {self._needed} tokens, got {columns}; the model has no rows for "
                "the code tokens: call toolscaler.initialize_code_embeddings(model, tokenizer, ...) first"
            )
        width = input_ids.shape[1]
        if self.prompt_length is not None and width < self.prompt_length:
            raise DecodingError(f"prompt_length: expected at most {width}, got {self.prompt_length}")
        if torch.compiler.is_compiling() or not self._numpy or not mask_cpu.served(scores):
            return self._on_device(input_ids, scores)
        ids = (input_ids if input_ids.is_cpu else input_ids.cpu()).numpy()
        if self._trigger is not None:
            return self._trigger.masked(scores, ids, self._rows.groups(len(ids)))
        return mask_cpu.masked(scores, self._kept(ids, columns), self._pool)

    def prepare(self, device: torch.device | str) -> PrefixConstrainedLogitsProcessor:
        """Bring the trie to a device now instead of in the first step there.

        Needed before a compiled function calls the processor; the tensors are shared by all processors of a trie.

        Returns:
            The processor.
        """
        device = torch.device(device)
        trie = torch_mask.torch_trie(self._rows.whole, self.eos_token_id, device)
        if self._trigger is not None:
            trie.add_edges(self._rows.whole)
        self._tables[device.type, device.index] = (
            trie,
            torch_mask.allowed_tables(self._rows, device),
            None if self._rows.view_of is None else torch.from_numpy(self._rows.view_of).to(device),
            None if self._trigger is None else self._trigger.tables(device),
        )
        return self

    def _on_device(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Mask a step with torch operations alone."""
        if self.on_invalid == "raise":
            if torch.compiler.is_compiling():
                raise DecodingError('on_invalid="raise" has to wait for the device: use "end" in a compiled function')
            ids = input_ids.cpu().numpy()
            self._states(ids, None, self._rows.groups(len(ids)))
        device = scores.device
        if (device.type, device.index) not in self._tables:
            if torch.compiler.is_compiling():
                raise DecodingError(f"expected the trie on {device}: call processor.prepare({str(device)!r}) first")
            self.prepare(device)
        trie, tables, view_of, texts = self._tables[device.type, device.index]
        groups = None
        if view_of is not None:
            if len(scores) % len(view_of):
                self._rows.groups(len(scores))  # says what is wrong
            groups = view_of[:, None].expand(-1, len(scores) // len(view_of)).reshape(-1)
        allowed = torch_mask.Allowed(trie, tables, groups)
        ids = input_ids.to(device)
        if self._trigger is not None:
            return self._trigger.masked_on_device(scores, ids, trie, allowed, texts)
        if self.prompt_length is None:
            nodes = trie.tail_states(ids, self.eos_token_id, allowed)
        else:
            nodes = trie.output_states(ids[:, self.prompt_length :], allowed)
        return torch_mask.continuations(trie, nodes, scores, self.eos_token_id, allowed)

    def _first_tokens(self) -> np.ndarray | tuple[int, int] | None:
        """Give what rows at the root may begin with, where it is the same for all: an array, or a range of ids."""
        if self._rows.view_of is not None:
            return None
        tokens = self._rows.children(np.zeros(1, dtype=np.int64), None)[1]
        return (int(tokens[0]), int(tokens[-1]) + 1) if tokens[-1] - tokens[0] == len(tokens) - 1 else tokens

    def _kept(self, ids: np.ndarray, columns: int) -> mask_cpu.Kept:
        """Say which scores stay."""
        depth = self._shared_depth(ids)
        if depth == 0 and self._first is not None:
            if isinstance(self._first, tuple):
                return self._first
            return (np.arange(0, len(ids) * columns, columns)[:, None] + self._first).ravel()
        rows = self._rows
        if self._few is not None and depth is not None and len(ids) <= MAX_ROWS and 0 < depth < rows.max_length:
            places = self._few.places(ids, depth, columns)
            if places is not None:
                return places
        groups = rows.groups(len(ids))
        nodes, inside = self._states(ids, depth, groups)
        own, tokens = rows.children(nodes, groups)
        flat = own * columns + tokens
        if inside or self.eos_token_id is None:
            return flat
        over = rows.is_end(nodes, groups)
        childless = np.ones(len(nodes), dtype=bool)
        childless[own] = False
        ending = np.flatnonzero(childless | over) * columns + self.eos_token_id
        return np.concatenate([flat, ending])

    def _shared_depth(self, ids: np.ndarray) -> int | None:
        """Give the depth of all rows where their last ids tell that it is the same one, ``None`` otherwise."""
        width = ids.shape[1]
        if self.prompt_length is not None:
            return width - self.prompt_length
        if not width or not len(ids):
            return 0
        if self._rows.depth_starts is None:
            return None
        last = ids[:, -1]
        depth = self._rows.depth_of(int(last[0]))
        if depth:
            return depth if depth <= width else None
        low, high = self._rows.span
        inside = (last >= low) & (last < high)
        if self.eos_token_id is not None:
            inside |= last == self.eos_token_id
        return None if inside.any() else 0

    def _states(self, ids: np.ndarray, depth: int | None, groups: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """Give the node of each row, int64 (B,), and whether it is known that no row may end there."""
        rows, eos = self._rows, self.eos_token_id
        fixed = not rows.ragged and depth is not None and depth < rows.max_length
        if self.prompt_length is not None:
            output = ids[:, self.prompt_length :]
            nodes = rows.walk(output, groups)
            if self.on_invalid == "raise":
                self._refuse(rows.unfit_outputs(output, nodes, groups, eos))
            return nodes, fixed and nodes.min(initial=0) >= 0
        if depth is not None:
            nodes = rows.walk(ids[:, ids.shape[1] - depth :], groups)
            if nodes.min(initial=0) >= 0:  # all fit, hence all are at this depth
                return nodes, fixed
        tail = ids[:, max(0, ids.shape[1] - rows.max_length - 1) :]
        nodes = rows.tail_states(tail, groups, eos)
        if self.on_invalid == "raise":
            self._refuse(rows.unfit_tails(tail, nodes))
        return nodes, False

    @staticmethod
    def _refuse(rows: np.ndarray) -> None:
        if len(rows):
            raise InvalidPrefixError(
                rows.tolist(),
                "expected ids that begin a sequence of the trie, got others; mask every step of a row, or use "
                'on_invalid="end"',
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None if self._pool is None else BufferPool(), "_tables": {}}


def _check_tensors(input_ids: Any, scores: Any) -> None:
    """Refuse what is no step of a generation."""
    if not (isinstance(input_ids, torch.Tensor) and isinstance(scores, torch.Tensor)):
        raise DecodingError(
            f"expected two tensors, input_ids and scores, got {type(input_ids).__name__} and {type(scores).__name__}"
        )
    whole = not (input_ids.is_floating_point() or input_ids.is_complex() or input_ids.dtype == torch.bool)
    if input_ids.dim() != 2 or not whole:
        raise DecodingError(
            f"input_ids: expected integers (B, T), got {input_ids.dtype} of shape {tuple(input_ids.shape)}"
        )
    if scores.dim() != 2 or not scores.is_floating_point() or len(scores) != len(input_ids):
        raise DecodingError(
            f"scores: expected floats ({len(input_ids)}, vocabulary), got {scores.dtype} of shape {tuple(scores.shape)}"
        )
    if scores.is_meta or input_ids.is_meta:
        raise DecodingError("expected tensors with numbers, got one on the meta device")
