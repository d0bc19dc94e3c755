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

from toolscaler.decoding.model_io import accepted_arguments, check_model, load_model, longest_input
from toolscaler.decoding.result import RetrievedTool
from toolscaler.decoding.trie import CodeTrie
from toolscaler.errors import ConfigError, DecodingError
from toolscaler.tokenization.prompts import shorten_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from toolscaler.tokenization import ToolIndex, ToolscalerTokenizer

__all__ = ["GenerativeRetriever", "RetrievedTool"]

logger = logging.getLogger(__name__)

Scores = Literal["full", "group"]
DEFAULT_NUM_BEAMS = 10


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
        self._ended: tuple[CodeTrie, int | None, CodeTrie] | None = None
        self._known: tuple[ToolIndex, CodeTrie] | None = None
        self._accepted = accepted_arguments(model)

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
        tools: Iterable[str] | CodeTrie | None = None,
        num_beams: int | None = None,
        batch_size: int = 16,
        scores: Scores = "full",
        show_progress: bool = False,
    ) -> list[list[RetrievedTool]]:
        """Rank tools for each query.

        A ranking does not depend on the other queries of a call (up to rounding). A query too long for the model loses
        its first tokens, after a start token, as in training; a warning counts these.

        Args:
            queries: Q queries, or one as text.
            top_k: Tools a query at most; fewer where fewer are allowed.
            tools: Ids of the allowed tools (any iterable), or a trie made by ``retriever.trie.subset``, which saves the
                time to make it; default: the whole catalogue.
            num_beams: Beam width, never less than ``top_k``; default: 10. As many beams as allowed tools make it exact.
            batch_size: Queries a batch.
            scores: ``full``: the sum of log-probabilities over the whole vocabulary, end token included: what
                transformers' beam search gives with ``length_penalty=0``. ``group``: each code's log-probability among
                the codes of its position, no end token.
            show_progress: Show a progress bar.

        Returns:
            Q rankings, best first, also for one query. Each tool is in the allowed set, and none comes twice. Tools
            that share codes have one score; of equal scores the tool that comes first in the catalogue comes first.

        Raises:
            UnknownToolError: An allowed tool does not exist.
            EmptyCatalogueError: No tool is allowed.
            ConfigError: A number is below one, or ``scores`` is unknown.
            TokenizationError: A query is no text.
            DecodingError: ``tools`` is no collection of ids, or a trie of other tools or codes than the tokenizer's;
                there is no end token for ``full``; or the model gives numbers that are not finite.
        """
        _check_numbers(top_k=top_k, num_beams=num_beams, batch_size=batch_size)
        if scores not in get_args(Scores):
            raise ConfigError("scores", scores, f"one of {get_args(Scores)}")
        index = self.tokenizer.tool_index  # one state of the catalogue for the whole call
        trie = self._search_trie(index, tools, scores)
        prompts = self._prompts(queries, trie.max_length)
        order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))  # alike lengths together: less padding
        results: list[list[RetrievedTool]] = [[] for _ in prompts]
        beams = max(DEFAULT_NUM_BEAMS if num_beams is None else num_beams, top_k)
        with _evaluating(self.model), tqdm(total=len(prompts), desc="retrieve", disable=not show_progress) as progress:
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                found = self._search([prompts[row] for row in rows], trie, beams, scores)
                for row, ended in zip(rows, found, strict=True):
                    results[row] = _ranking(trie, index, ended, top_k)
                progress.update(len(rows))
        return results

    def _whole_trie(self, index: ToolIndex) -> CodeTrie:
        # Caches are tuples, read and written as a whole: another thread may change them between two lines.
        cached = self._trie
        if cached is None or cached[0] is not index:
            cached = self._trie = (index, CodeTrie.from_tool_index(index, self.tokenizer.first_code_id))
        return cached[1]

    def _search_trie(self, index: ToolIndex, tools: Iterable[str] | CodeTrie | None, scores: Scores) -> CodeTrie:
        """Give the trie to search: with the end token behind each sequence where scores count it."""
        end = self.tokenizer.eos_token_id
        trie = self._whole_trie(index)
        if isinstance(tools, CodeTrie):
            trie = self._checked_trie(index, tools)
        elif tools is not None:
            trie = trie.subset(tools=tools)
        if scores == "group":
            return trie
        cached = self._ended
        if cached is None or cached[0] is not trie or cached[1] != end:
            cached = self._ended = (trie, end, trie.with_end_token(end))
        return cached[2]

    def _checked_trie(self, index: ToolIndex, trie: CodeTrie) -> CodeTrie:
        """Refuse a trie that outlived a change of the catalogue: it could bring back a tool that was removed."""
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

    def _search(
        self, prompts: list[list[int]], trie: CodeTrie, beams: int, scores: Scores
    ) -> list[list[tuple[float, int]]]:
        """Search one batch; give (score, node where a sequence ends) pairs for each prompt, in no order.

        Every live beam is one row, whichever prompt it belongs to. The prompts are run once, and the cache is copied
        only where beams fork.
        """
        ids, mask = self._padded(prompts)
        cache: Any = None
        owner = np.arange(len(prompts))
        nodes, totals = np.zeros(len(prompts), dtype=np.int64), np.zeros(len(prompts))
        ended: list[list[tuple[float, int]]] = [[] for _ in prompts]
        rows, tokens = trie.children(nodes)
        for depth in range(trie.max_length):
            logits, cache = self._forward(ids, mask, cache)
            totals = totals[rows] + self._log_probs(logits, rows, tokens, scores, depth)
            kept = _best_of_each(owner[rows], totals, beams)
            rows, tokens, totals = rows[kept], tokens[kept], totals[kept]
            owner, nodes = owner[rows], trie.advance(nodes[rows], tokens)
            for row in np.flatnonzero(trie.is_end(nodes)):
                ended[owner[row]].append((float(totals[row]), int(nodes[row])))
            live = np.unique(trie.children(nodes)[0])
            if not len(live):
                break
            source = torch.from_numpy(rows[live]).to(mask.device)
            cache.reorder_cache(source)
            mask = torch.cat([mask[source], mask.new_ones(len(live), 1)], 1)
            ids = torch.from_numpy(tokens[live, None]).to(mask.device)
            owner, nodes, totals = owner[live], nodes[live], totals[live]
            rows, tokens = trie.children(nodes)
        return ended

    def _padded(self, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give ids and mask, both int64 (B, longest), padded on the left."""
        width = max(map(len, prompts))
        padding = self.tokenizer.pad_token_id
        # Any id serves as padding, for nothing attends to it.
        ids = torch.full((len(prompts), width), 0 if padding is None else padding, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return ids.to(self.model.device), mask.to(self.model.device)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """Run the model on new columns; give the logits of the last one, (rows, vocabulary), and the cache."""
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": True, "return_dict": True}
        if cache is not None:
            given["past_key_values"] = cache
        if "position_ids" in self._accepted:
            given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in self._accepted:
            given["logits_to_keep"] = 1
        outputs = self.model(**given)
        cache = getattr(outputs, "past_key_values", None)
        if not hasattr(cache, "reorder_cache"):
            raise DecodingError(
                f"expected a model that gives a key-value cache, got {type(cache).__name__} from "
                f"{type(self.model).__name__}; use model.generate with PrefixConstrainedLogitsProcessor for this one"
            )
        return outputs.logits[:, -1], cache

    def _log_probs(
        self, logits: torch.Tensor, rows: np.ndarray, tokens: np.ndarray, scores: Scores, depth: int
    ) -> np.ndarray:
        """Give the log-probability of each candidate (row, token), float64 (E,), from logits (rows, vocabulary)."""
        if scores == "group":
            sizes = self.tokenizer.code_sizes
            start = self.tokenizer.first_code_id + sum(sizes[:depth])
            logits, tokens = logits[:, start : start + sizes[depth]], tokens - start
        index = torch.from_numpy(rows).to(logits.device), torch.from_numpy(tokens).to(logits.device)
        values = logits.float().log_softmax(-1)[index].double().cpu().numpy()
        if np.isnan(values).any():
            raise DecodingError(
                "expected finite scores, the model gives NaN; its weights are damaged, or its numbers overflow: "
                "load it with dtype=torch.float32"
            )
        return values


def _best_of_each(owner: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Give the indices of the ``count`` largest values of each owner, owners in order, best and then first first."""
    order = np.lexsort((-values, owner))
    grouped = owner[order]
    first = np.searchsorted(grouped, grouped)
    return order[np.arange(len(order)) - first < count]


def _ranking(trie: CodeTrie, index: ToolIndex, ended: list[tuple[float, int]], top_k: int) -> list[RetrievedTool]:
    """Turn final nodes into tools, best first; of equal scores the tool that comes first in the trie comes first."""
    found = sorted((-score, int(tool)) for score, node in ended for tool in trie.tools_at(node))
    names = [(trie.catalogue[tool], -score) for score, tool in found[:top_k]]
    return [RetrievedTool(name, score, index[name]) for name, score in names]


def _check_numbers(**numbers: int | None) -> None:
    for name, value in numbers.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and (not whole or value < 1):
            raise ConfigError(name, value, "a whole number above zero")


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Turn off dropout and gradients; turn on again what was on, for a caller in the middle of training."""
    training = model.training
    model.eval()
    try:
        # Not inference_mode: buffers that a model makes now (rotary tables) may be part of a training step later.
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()
