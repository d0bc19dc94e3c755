"""Queries in, ranked tools with log-probabilities out: constrained beam search over the code trie (section 4.3)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from tqdm.auto import tqdm

from toolscaler.decoding.engine import SearchEngine
from toolscaler.decoding.model_io import check_model, load_model, longest_input
from toolscaler.decoding.request import RetrievalRequest, batches_of
from toolscaler.decoding.result import Ranking, RetrievedTool
from toolscaler.decoding.scoring import ScoreRule
from toolscaler.decoding.trie import CodeTrie
from toolscaler.errors import ConfigError, DecodingError, RetrievalError
from toolscaler.tokenization.code_tokens import code_offsets
from toolscaler.tokenization.prompts import shorten_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from toolscaler.tokenization import ToolIndex, ToolscalerTokenizer

__all__ = ["GenerativeRetriever", "Ranking", "RetrievedTool"]

logger = logging.getLogger(__name__)

Scores = Literal["full", "group"]
DEFAULT_NUM_BEAMS = 10
DEFAULT_BATCH_TOKENS = 16384


class GenerativeRetriever:
    """Let a model write the codes of the tools that answer a query.

    Args:
        model: Causal LM that was trained on the codes, on any device; a PEFT wrapper of one too. Its training mode is
            left as it is found.
        tokenizer: Its tokenizer. Tools added to or removed from it count from the next call on.

    Attributes:
        model: The model.
        tokenizer: The tokenizer.

    Raises:
        DecodingError: The model has no rows for the code tokens, or is no decoder-only model.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: ToolscalerTokenizer) -> None:
        check_model(model, tokenizer.required_vocab_size)
        self.model = model
        self.tokenizer = tokenizer
        self._trie: tuple[ToolIndex, CodeTrie] | None = None
        self._known: tuple[ToolIndex, CodeTrie] | None = None
        self._own_engine: SearchEngine | None = None

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, device: str | torch.device | None = None, **kwargs: Any
    ) -> GenerativeRetriever:
        """Load model and tokenizer from one folder or Hub repo.

        Args:
            name_or_path: Folder or repo id.
            device: Device to put the model on; default: CUDA where there is one, else the CPU, unless ``device_map``
                is given.
            **kwargs: More arguments of ``AutoModelForCausalLM.from_pretrained``; those that say where to find files
                (``revision``, ``token``, ``subfolder``, ...) are the tokenizer's too.

        Raises:
            ArtifactError: The folder has no tool index, or lacks weights that the model needs.
            DecodingError: Model and tokenizer do not belong together.
        """
        return cls(*load_model(name_or_path, device, kwargs))

    @property
    def trie(self) -> CodeTrie:
        """Trie of the tokenizer's present catalogue; built anew after the catalogue has changed.

        Raises:
            EmptyCatalogueError: The tokenizer knows no tool.
        """
        return self._whole_trie(self.tokenizer.tool_index)

    def retrieve(
        self,
        queries: str | Sequence[str],
        top_k: int = 5,
        *,
        tools: Iterable[str] | CodeTrie | Sequence[CodeTrie] | None = None,
        num_beams: int | None = None,
        batch_size: int = 16,
        max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
        scores: Scores = "full",
        exact: bool = False,
        show_progress: bool = False,
    ) -> list[Ranking]:
        """Rank tools for each query.

        Each prompt is read once; its beams are a tree of tokens behind it. A model whose cache or mask does not allow
        that (found out on random tokens at the first call) is searched by ``model.generate``, with a warning.

        A ranking does not depend on the other queries of a call (up to rounding). A query too long for the model loses
        its first tokens, after a start token, as in training; a warning counts these.

        Args:
            queries: Q queries, or one as text.
            top_k: Tools a query at most; fewer where fewer are allowed.
            tools: Ids of the allowed tools (any iterable), or a trie made by ``retriever.trie.subset``, which saves the
                time to make it, or a list of Q such tries, one for each query; default: the whole catalogue.
            num_beams: Beam width, never less than ``top_k``; default: 10. As many beams as allowed tools make it exact.
            batch_size: Queries a batch at most.
            max_batch_tokens: Tokens a batch at most, prompts with their padding and beams; one query at least.
            scores: ``full``: the sum of log-probabilities over the whole vocabulary, end token included, never divided
                by the length: what transformers' beam search gives with ``length_penalty=0``. It is the probability of
                the whole sequence, so sequences of several lengths, and one that begins another, compare as they are.
                ``group``: each code's log-probability among the codes of its position, no end token: faster, and the
                same ranking where the model is trained; for code tokens and one length only.
            exact: Search again, wider, for queries whose ranking is not certified, until all are.
            show_progress: Show a progress bar.

        Returns:
            Q rankings, best first, also for one query. Each tool is in the allowed set, and none comes twice. Tools
            that share codes have one score; of equal scores the tool that comes first in the catalogue comes first.
            ``ranking.certified`` says that the search has provably missed no better tool.

        Raises:
            UnknownToolError: An allowed tool does not exist.
            EmptyCatalogueError: No tool is allowed.
            ConfigError: A number is below one, or ``scores`` is unknown.
            TokenizationError: A query is no text.
            RetrievalError: The model gives numbers that are not finite for some queries; the others' rankings are in
                the error.
            DecodingError: ``tools`` is no collection of ids, not one trie a query, or a trie of other tools or codes
                than the tokenizer's; or there is no end token for ``full``, or no ``group`` (see ``scores``).
        """
        _check_numbers(top_k=top_k, num_beams=num_beams, batch_size=batch_size, max_batch_tokens=max_batch_tokens)
        index = self.tokenizer.tool_index  # one state of the catalogue for the whole call
        per_query = isinstance(tools, Sequence) and any(isinstance(trie, CodeTrie) for trie in tools)
        if per_query and not all(isinstance(trie, CodeTrie) for trie in tools):  # type: ignore[union-attr]
            raise DecodingError("tools: expected tool ids, or a trie for each query, got a list of both")
        tries = [self._search_trie(index, tool) for tool in (tools if per_query else [tools])]  # type: ignore[union-attr]
        rule = self._rule(index, tries[0], scores)
        prompts = self._prompts(queries, tries[0].max_length + rule.full)
        tries = _one_each(tries, len(prompts), per_query)
        beams = max(DEFAULT_NUM_BEAMS if num_beams is None else num_beams, top_k)
        request = RetrievalRequest(self._engine(), prompts, tries, rule, index, top_k, self._padding())
        with _evaluating(self.model) as lasting, _progress("retrieve", len(prompts), show_progress) as progress:
            request.begin(lasting)
            request.search(range(len(prompts)), beams, batch_size, max_batch_tokens, progress)
            if exact:
                request.certify(beams, batch_size, max_batch_tokens)
        return request.rankings()

    def score(
        self,
        queries: str | Sequence[str],
        tools: Iterable[str] | CodeTrie | None = None,
        *,
        batch_size: int = 16,
        max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
        scores: Scores = "full",
        show_progress: bool = False,
    ) -> np.ndarray:
        """Give the log-probabilities of given tools for each query, found or not.

        The cost grows with the number of tools; to find the best ones is what :meth:`retrieve` is for.

        Args:
            queries: Q queries, or one as text.
            tools: T tool ids, or a trie made by ``retriever.trie.subset``, in the order of the catalogue; default: the
                whole catalogue.
            batch_size: Queries a batch at most.
            max_batch_tokens: Tokens of prompts a batch at most; one query at least.
            scores: As in :meth:`retrieve`.
            show_progress: Show a progress bar.

        Returns:
            float64 (Q, T), columns in the order of ``tools``.

        Raises:
            UnknownToolError: A tool does not exist.
            EmptyCatalogueError: There is no tool.
            ConfigError: A number is below one, or ``scores`` is unknown.
            TokenizationError: A query is no text.
            RetrievalError: The model gives numbers that are not finite for some queries; ``results`` are the rows of
                the others.
            DecodingError: As in :meth:`retrieve`.
        """
        _check_numbers(batch_size=batch_size, max_batch_tokens=max_batch_tokens)
        index = self.tokenizer.tool_index
        names: Any = tools
        if isinstance(tools, Iterable) and not isinstance(tools, str | CodeTrie):
            names = list(tools)
        trie = self._search_trie(index, names)
        rule = self._rule(index, trie, scores)
        prompts = self._prompts(queries, trie.max_length + rule.full)
        sequences = trie.sequences
        if isinstance(names, list):  # in the caller's order, repeats too
            place = {name: row for row, name in enumerate(trie.tool_ids)}
            sequences = sequences[[place[name] for name in names]]
        found = np.zeros((len(prompts), len(sequences)))
        failures: dict[int, DecodingError] = {}
        engine, padding = self._engine(), self._padding()
        with _evaluating(self.model) as lasting, _progress("score", len(prompts), show_progress) as progress:
            prefix = engine.prefix_for(prompts, lasting=lasting)
            for rows in batches_of([len(prompt) for prompt in prompts], batch_size, max_batch_tokens):
                batch = [prompts[row] for row in rows]
                found[rows], failed = engine.score(batch, sequences, rule, padding=padding, prefix=prefix)
                failures.update({rows[row]: error for row, error in failed.items()})
                progress.update(len(rows))
        if failures:
            raise RetrievalError(failures, [None if row in failures else found[row] for row in range(len(prompts))])
        return found

    def _engine(self) -> SearchEngine:
        engine = self._own_engine
        if engine is None or engine.model is not self.model:
            engine = self._own_engine = SearchEngine(self.model)
        return engine

    def _padding(self) -> int:
        # Any id serves as padding, for nothing attends to it.
        return 0 if self.tokenizer.pad_token_id is None else int(self.tokenizer.pad_token_id)

    def _whole_trie(self, index: ToolIndex) -> CodeTrie:
        # Caches are tuples, read and written as a whole: another thread may change them between two lines.
        cached = self._trie
        if cached is None or cached[0] is not index:
            cached = self._trie = (index, CodeTrie.from_tokenizer(self.tokenizer, index))
        return cached[1]

    def _search_trie(self, index: ToolIndex, tools: Any) -> CodeTrie:
        trie = self._whole_trie(index)
        if isinstance(tools, CodeTrie):
            return self._checked_trie(index, tools)
        return trie if tools is None else trie.subset(tools=tools)

    def _checked_trie(self, index: ToolIndex, trie: CodeTrie) -> CodeTrie:
        """Refuse a trie that outlived a change of the catalogue: it could bring back a tool that was removed."""
        if trie.whole is self._whole_trie(index):
            return trie
        cached = self._known
        if cached is not None and cached[0] is index and cached[1] is trie:
            return trie
        rows = [index.row(name) for name in trie.tool_ids]
        if not np.array_equal(trie.sequences, self._whole_trie(index).sequences[rows]):
            raise DecodingError(
                "tools: expected a trie of the tokenizer's own code sequences, got one with other sequences; make it "
                "again from retriever.trie after each change of the catalogue"
            )
        self._known = (index, trie)
        return trie

    def _rule(self, index: ToolIndex, trie: CodeTrie, scores: Scores) -> ScoreRule:
        if scores not in get_args(Scores):
            raise ConfigError("scores", scores, f"one of {get_args(Scores)}")
        groups: tuple[tuple[int, int], ...] = ()
        if not self.tokenizer.base_tokens:
            starts = (self.tokenizer.first_code_id + code_offsets(index.code_sizes)).tolist()
            groups = tuple((start, start + size) for start, size in zip(starts, index.code_sizes, strict=True))
        if scores == "group":
            if index.ragged or self.tokenizer.base_tokens:
                raise DecodingError(
                    "scores='group': expected code tokens of their own and sequences of one length, got those of the "
                    f"strategy {self.tokenizer.strategy!r}; use scores='full'"
                )
            return ScoreRule(None, groups)
        trie.check_end_token(self.tokenizer.eos_token_id)
        return ScoreRule(self.tokenizer.eos_token_id, groups)

    def _prompts(self, queries: str | Sequence[str], following: int) -> list[list[int]]:
        """Encode queries; cut what leaves the model no room for the ``following`` tokens."""
        if not isinstance(queries, str) and (isinstance(queries, Mapping) or not isinstance(queries, Iterable)):
            raise DecodingError(f"queries: expected text or a list of texts, got {type(queries).__name__}")
        texts = [queries] if isinstance(queries, str) else list(queries)
        prompts = [self.tokenizer.encode_retrieval_prompt(text) for text in texts]
        room = longest_input(self.model, following)
        cut = 0
        for row, prompt in enumerate(prompts):
            if not prompt:
                raise DecodingError(
                    f"query {row}: expected a prompt of at least one token, got none for {texts[row]!r}"
                )
            if room is not None and len(prompt) > room:
                cut += 1
                prompts[row] = shorten_prompt(prompt, room, self.tokenizer.bos_token_id)
        if cut:
            logger.warning("%d of %d prompts were cut to the model's %d positions", cut, len(prompts), room)
        return prompts


def _one_each(tries: list[CodeTrie], queries: int, per_query: bool) -> list[CodeTrie]:
    if not per_query:
        return tries * queries
    if len(tries) != queries:
        raise DecodingError(f"tools: expected one trie for each of {queries} queries, got {len(tries)}")
    return tries


def _check_numbers(**numbers: int | None) -> None:
    for name, value in numbers.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and (not whole or value < 1):
            raise ConfigError(name, value, "a whole number above zero")


def _progress(what: str, total: int, shown: bool) -> tqdm:
    return tqdm(total=total, desc=what, disable=not shown)


@contextmanager
def _evaluating(model: Any) -> Iterator[bool]:
    """Turn off dropout and gradients; turn on again what was on, for a caller in the middle of training.

    Yields:
        Whether the model was in evaluation mode.
    """
    training = model.training
    model.eval()
    try:
        # Not inference_mode: buffers that a model makes now (rotary tables) may be part of a training step later.
        with torch.no_grad():
            yield not training
    finally:
        if training:
            model.train()
